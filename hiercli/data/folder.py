"""Any folder of class folders: the user's own photographs."""

import contextlib
from pathlib import Path

import numpy as np

from hiercli.data.records import Dataset, Record, class_names
from hiercli.errors import DataError, InputError
from hiercli.images import SUFFIXES, find
from hiercli.labels import as_label

VALIDATION = ("val", "valid", "validation", "dev")
"""What people call the part that they choose by."""


def load(folder: Path, *, test_share: float = 0.5, seed: int = 0) -> Dataset:
    """Read ``folder/CLASS/**/picture``, or ``folder/train/CLASS`` and ``folder/test/CLASS``.

    Beside ``train`` may lie ``val`` (or ``valid``, ``validation``, ``dev``), to choose by.

    Without a split of its own, a share of the classes is set aside for the test by the seed, as
    the benchmarks do: search is judged on classes that training never saw. Pictures that lie where
    they have no class, and folders that cannot be read, are left out and named in ``problems``.

    Args:
        folder: the class folders.
        test_share: share of the classes to test on.
        seed: which ones.

    Raises:
        DataError: fewer than two classes on either side.
    """
    sides = {name: folder / name for name in ("train", "test", *VALIDATION)}
    there = {name: side for name, side in sides.items() if side.is_dir()}
    problems: list[str] = []
    validation: tuple[Record, ...] = ()
    if "train" in there and len(there) > 1:
        parts = {name: _records(side, problems) for name, side in there.items()}
        train, test = parts["train"], parts.get("test", ())
        chosen_by = [part for name, part in parts.items() if name in VALIDATION]
        if len(chosen_by) > 1:
            raise DataError(
                f"expected one validation part in {folder}, found "
                f"{', '.join(name for name in parts if name in VALIDATION)}: keep one of them"
            )
        validation = chosen_by[0] if chosen_by else ()
        _name_others(folder, problems, tuple(there))
    else:
        records = _records(folder, problems)
        try:
            train, test = split_classes(records, test_share, seed, folder)
        except DataError as error:  # a class may be missing for one of the problems
            raise DataError("; ".join([str(error), *problems[:1]])) from error
    return Dataset(str(folder), train, test, problems=tuple(problems), validation=validation)


def _records(folder: Path, problems: list[str]) -> tuple[Record, ...]:
    """The pictures in class folders; what is passed over is added to ``problems``."""
    pictures = find([folder], lambda _, reason: problems.append(reason))
    inside = [path for path in pictures if path.parent != folder]
    if not inside:
        raise DataError(
            f"expected one folder a class in {folder}, found pictures only beside each other: "
            "move the pictures of each class into a folder named after it"
            + "".join(f"; {reason}" for reason in problems[:1])
        )
    problems += [
        f"{path}: lies beside the class folders, so it has no class: move it into one"
        for path in pictures
        if path.parent == folder
    ]
    return tuple(Record(path, as_label(path.relative_to(folder).parts[0])) for path in inside)


def _name_others(folder: Path, problems: list[str], splits: tuple[str, ...]) -> None:
    """Add to ``problems`` what lies beside train and test and so belongs to neither."""
    for entry in sorted(folder.iterdir()):
        shown = not entry.name.startswith(".") and entry.name not in splits
        if shown and (entry.is_dir() or entry.suffix.lower() in SUFFIXES):
            with contextlib.suppress(InputError):  # a folder without pictures is no loss
                find([entry], lambda _, reason: problems.append(reason))
                problems.append(
                    f"{entry}: lies beside {' and '.join(splits)}, so it is in none of them: move "
                    "it into one"
                )


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
