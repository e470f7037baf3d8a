"""Stanford Online Products with its own split: 11,318 products train, 11,316 test."""

from pathlib import Path

from hiercli.data.records import Dataset, Record, read_table, require

FOLDER = "Stanford_Online_Products"
FILES = ("Ebay_train.txt", "Ebay_test.txt")


def load(root: Path) -> Dataset:
    """Read ``root/Stanford_Online_Products``; the twelve super-classes become a taxonomy level.

    Raises:
        DataError: files are missing.
    """
    folder = root / FOLDER
    require(folder, FILES, "sop")

    def side(file: str) -> tuple[Record, ...]:
        rows = read_table(folder / file, 4, header=True)
        return tuple(
            Record(folder / path, product, (path.split("_final")[0],))
            for _, product, _, path in rows
        )

    return Dataset(
        "sop",
        side("Ebay_train.txt"),
        side("Ebay_test.txt"),
        recall_at=(1, 10, 100, 1000),
        level_names=("category",),
    )
