"""Any folder of class folders: the user's own photographs."""

from pathlib import Path

import numpy as np

from hiercli.data.records import Dataset, Record, class_names
from hiercli.errors import DataError
from hiercli.images import find

_SPLITS = ("train", "test")


def load(folder: Path, *, test_share: float = 0.5, seed: int = 0) -> Dataset:
    """Read ``folder/CLASS/**/picture``, or ``folder/train/CLASS`` and ``folder/test/CLASS``.

    Without a split of its own, a share of the classes is set aside for the test by the seed, as
    the benchmarks do: search is judged on classes that training never saw.

    Args:
        folder: the class folders.
        test_share: share of the classes to test on.
        seed: which ones.

    Raises:
        DataError: fewer than two classes on either side.
    """
    sides = {name: folder / name for name in _SPLITS}
    if all(side.is_dir() for side in sides.values()):
        train, test = (_records(sides[name]) for name in _SPLITS)
    else:
        train, test = split_classes(_records(folder), test_share, seed, folder)
    return Dataset(str(folder), train, test)


def _records(folder: Path) -> tuple[Record, ...]:
    inside = [path for path in find([folder]) if path.parent != folder]
    if not inside:
        raise DataError(
            f"expected one folder a class in {folder}, found pictures only beside each other: "
            "move the pictures of each class into a folder named after it"
        )
    return tuple(Record(path, path.relative_to(folder).parts[0]) for path in inside)


def split_classes(
    records: tuple[Record, ...], test_share: float, seed: int, source: Path
) -> tuple[tuple[Record, ...], tuple[Record, ...]]:
    """Part the classes of ``records`` into (train, test) by the seed."""
    names = class_names(records)
    if len(names) < 4:
        raise DataError(
            f"expected at least 4 classes in {source}, 2 to learn from and 2 to be tested on, "
            f"found {len(names)}: {', '.join(names)}. Add classes"
        )
    num_test = min(max(2, round(test_share * len(names))), len(names) - 2)
    chosen = np.random.default_rng(seed).permutation(len(names))[:num_test]
    test = {names[index] for index in chosen}
    return (
        tuple(record for record in records if record.label not in test),
        tuple(record for record in records if record.label in test),
    )
