"""DeepFashion In-Shop Clothes Retrieval: separate query and gallery, no index shared by both."""

from pathlib import Path

from hiercli.data.records import Dataset, Record, read_table, require
from hiercli.errors import DataError

FOLDER = "In-shop_Clothes_Retrieval_Benchmark"
FILES = ("Eval/list_eval_partition.txt", "Img/img")


def load(root: Path) -> Dataset:
    """Read ``root/In-shop_Clothes_Retrieval_Benchmark``.

    Raises:
        DataError: files are missing.
    """
    folder = root / FOLDER
    require(folder, FILES, "inshop")
    sides: dict[str, list[Record]] = {"train": [], "query": [], "gallery": []}
    for path, item, status in read_table(folder / FILES[0], 3, skip=2):
        if status not in sides:
            raise DataError(
                f"{folder / FILES[0]}: expected train, query or gallery, found {status[:40]!r}"
            )
        # img/WOMEN/Dresses/id_00000002/...: the folders above the item are its taxonomy.
        groups = tuple(reversed(path.split("/")[1:3]))
        sides[status].append(Record(folder / "Img" / path, item, groups))
    return Dataset(
        "inshop",
        tuple(sides["train"]),
        tuple(sides["query"]),
        tuple(sides["gallery"]),
        recall_at=(1, 10, 20, 30),
        level_names=("category", "section"),
    )
