"""Caltech-UCSD Birds 200-2011 in its official layout; class ids 1-100 train, 101-200 test."""

from pathlib import Path

from hiercli.data.records import Dataset, Record, read_table, require
from hiercli.data.taxonomy import read_taxonomy
from hiercli.errors import DataError

FOLDER = "CUB_200_2011"
FILES = ("images.txt", "image_class_labels.txt", "classes.txt", "images")
LAST_TRAIN_CLASS = 100


def load(root: Path) -> Dataset:
    """Read ``root/CUB_200_2011``; a ``taxonomy.csv`` beside the lists is used where present.

    Raises:
        DataError: files are missing.
    """
    folder = root / FOLDER
    require(folder, FILES, "cub")
    names = dict(read_table(folder / "classes.txt", 2))
    classes = dict(read_table(folder / "image_class_labels.txt", 2))
    taxonomy = read_taxonomy(folder / "taxonomy.csv")
    train: list[Record] = []
    test: list[Record] = []
    try:
        for image_id, file in read_table(folder / "images.txt", 2):
            label = names[classes[image_id]]
            side = train if int(classes[image_id]) <= LAST_TRAIN_CLASS else test
            side.append(Record(folder / "images" / file, label, taxonomy.of(label)))
    except (KeyError, ValueError) as error:
        raise DataError(
            f"the lists in {folder} do not agree (no class for {str(error)[:80]}): fetch it again "
            "with `hier data get cub`"
        ) from error
    return Dataset(
        "cub", tuple(train), tuple(test), level_names=taxonomy.levels, notes=taxonomy.notes
    )
