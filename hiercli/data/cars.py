"""Stanford Cars (Cars-196) in its official layout; class ids 1-98 train, 99-196 test."""

import io
from pathlib import Path

from hiercli.data.records import Dataset, Record, require
from hiercli.errors import DataError
from hiercli.files import open_regular

FOLDER = "cars196"
FILES = ("cars_annos.mat", "car_ims")
LAST_TRAIN_CLASS = 98
_LARGEST_FILE = 2**26
"""Bytes of the annotations; the official ones take 4 million."""


def load(root: Path) -> Dataset:
    """Read ``root/cars196``; annotated photographs that are not there are left out.

    Raises:
        DataError: files are missing or the annotations are not the official ones.
    """
    from scipy.io import loadmat

    folder = root / FOLDER
    require(folder, FILES, "cars")
    with open_regular(folder / "cars_annos.mat") as file:
        content = file.read(_LARGEST_FILE)  # cut short, a larger one is damaged
    try:
        annotations = loadmat(io.BytesIO(content), squeeze_me=True)
        names = [str(name) for name in annotations["class_names"]]
        rows = annotations["annotations"]
        listed = [(str(row["relative_im_path"]), int(row["class"])) for row in rows]
        if not all(1 <= number <= len(names) for _, number in listed):
            raise ValueError("classes without a name")
    except Exception as error:  # SciPy answers damage with errors of nearly every kind
        raise DataError(
            f"{folder / 'cars_annos.mat'} is not the annotation file of Stanford Cars ("
            f"{str(error)[:200]}): "
            "fetch it again with `hier data get cars`"
        ) from error
    present = {entry.name for entry in (folder / "car_ims").iterdir()}
    train: list[Record] = []
    test: list[Record] = []
    for relative, class_id in listed:
        if Path(relative).name in present:
            side = train if class_id <= LAST_TRAIN_CLASS else test
            side.append(Record(folder / relative, names[class_id - 1]))
    return Dataset("cars", tuple(train), tuple(test))
