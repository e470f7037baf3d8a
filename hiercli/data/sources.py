"""Where each benchmark comes from: addresses, checksums, terms of use, what it must hold.

Sizes are in bytes. An entry here is all that `hiercli.data.download` knows of a data set.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Archive:
    """One file to fetch.

    Attributes:
        url: where the owners of the data set offer it (http or https).
        filename: its name in the downloads folder.
        checksum: ``md5:...`` or ``sha256:...`` of the whole file; ``None`` where none is known.
        size: exact length in bytes; ``None`` where it is not known for certain.
        unpack: ``True`` for an archive, ``False`` for a file that is taken as it is.
        into: folder under the data root that receives what comes out; no two archives of a
            source unpack into the same one.
    """

    url: str
    filename: str
    checksum: str | None
    size: int | None
    unpack: bool = True
    into: str = "."


@dataclass(frozen=True)
class Source:
    """Where a data set comes from and what it must hold once it is there.

    Attributes:
        name: short name, as given to ``--data``.
        homepage: page on which the owners describe and offer it.
        terms: terms of use and citation, in plain words, shown before anything is fetched.
        archives: the files to fetch; empty where the owners offer no direct link.
        folder: resulting folder under the data root.
        required: patterns (as for `Path.glob`), each of which must match something in it.
        num_pictures: least number of JPEG files in it; 0 leaves them uncounted.
    """

    name: str
    homepage: str
    terms: str
    archives: tuple[Archive, ...]
    folder: str
    required: tuple[str, ...] = ()
    num_pictures: int = 0


# Checksums: CUB and SOP as recorded by TensorFlow Datasets, Cars by earlier releases of
# pytorch-metric-learning. No second source confirms the lengths of the Cars files: none asserted.
_CUB = Source(
    name="cub",
    homepage="https://www.vision.caltech.edu/datasets/cub_200_2011/",
    terms=(
        "CUB-200-2011 (Caltech-UCSD Birds): for non-commercial research and education. The "
        "photographs come from Flickr and stay with their photographers. Read "
        "https://www.vision.caltech.edu/datasets/cub_200_2011/ before any other use. Cite: Wah, "
        "Branson, Welinder, Perona, Belongie, The Caltech-UCSD Birds-200-2011 Dataset, "
        "California Institute of Technology, CNS-TR-2011-001, 2011."
    ),
    archives=(
        Archive(
            url="https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",
            filename="CUB_200_2011.tgz",
            checksum="sha256:0c685df5597a8b24909f6a7c9db6d11e008733779a671760afef78feb49bf081",
            size=1_150_585_339,
        ),
    ),
    folder="CUB_200_2011",
    required=(
        "images",
        "images.txt",
        "image_class_labels.txt",
        "train_test_split.txt",
        "classes.txt",
    ),
    num_pictures=11_788,
)
_CARS = Source(
    name="cars",
    homepage="https://ai.stanford.edu/~jkrause/cars/car_dataset.html",
    terms=(
        "Cars196 (Stanford Cars): published for research; no licence for other use is known. The "
        "photographs come from the web and stay with their owners. The published address has been "
        "reported out of service since 2023. Cite: Krause, Stark, Deng, Fei-Fei, 3D Object "
        "Representations for Fine-Grained Categorization, 3dRR-13, 2013."
    ),
    archives=(
        Archive(
            url="https://ai.stanford.edu/~jkrause/car196/car_ims.tgz",
            filename="car_ims.tgz",
            checksum="md5:d5c8f0aa497503f355e17dc7886c3f14",
            size=None,
            into="cars196",
        ),
        Archive(
            url="https://ai.stanford.edu/~jkrause/car196/cars_annos.mat",
            filename="cars_annos.mat",
            checksum="md5:b407c6086d669747186bd1d764ff9dbc",
            size=None,
            unpack=False,
            into="cars196",
        ),
    ),
    folder="cars196",
    required=("car_ims", "cars_annos.mat"),
    num_pictures=16_185,
)
_SOP = Source(
    name="sop",
    homepage="https://cvgl.stanford.edu/projects/lifted_struct/",
    terms=(
        "Stanford Online Products: published for research; read the LICENSE file inside the "
        "archive before any other use. The photographs come from eBay listings and stay with "
        "their owners. Cite: Oh Song, Xiang, Jegelka, Savarese, Deep Metric Learning via Lifted "
        "Structured Feature Embedding, CVPR 2016."
    ),
    archives=(
        Archive(
            url="https://drive.usercontent.google.com/download"
            "?id=1TclrpQOF_ullUP99wk_gjGN8pKvtErG8&export=download&authuser=0&confirm=t",
            filename="Stanford_Online_Products.zip",
            checksum="sha256:b04fa78210e69fab050ce73939550e1cd0f96890bdd98ec9fee732c3b756ef48",
            size=3_083_860_082,
        ),
    ),
    folder="Stanford_Online_Products",
    required=("Ebay_train.txt", "Ebay_test.txt", "*_final"),
    num_pictures=120_053,
)
_INSHOP = Source(
    name="inshop",
    homepage="https://mmlab.ie.cuhk.edu.hk/projects/DeepFashion/InShopRetrieval.html",
    terms=(
        "DeepFashion In-shop Clothes Retrieval: non-commercial research and education only, under "
        "the agreement on its page; the owners hand it out by a link on that page. Cite: Liu, Luo, "
        "Qiu, Wang, Tang, DeepFashion: Powering Robust Clothes Recognition and Retrieval with Rich "
        "Annotations, CVPR 2016."
    ),
    archives=(),
    folder="In-shop_Clothes_Retrieval_Benchmark",
    required=("Eval/list_eval_partition.txt", "Img/img"),
)
SOURCES: Mapping[str, Source] = MappingProxyType(
    {source.name: source for source in (_CUB, _CARS, _SOP, _INSHOP)}
)
