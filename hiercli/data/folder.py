"""Any folder of class folders: the user's own photographs."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hiercli import labels
from hiercli.data.listing import split_folders
from hiercli.data.records import Dataset, class_names
from hiercli.errors import DataError, InputError
from hiercli.images import SUFFIXES, find
from hiercli.labels import VALIDATION, Record

USUAL_TEST_SHARE = 0.5
"""Of the classes, as the benchmarks have it."""


def load(
    folder: Path, *, test_share: float | None = None, seed: int = 0, nested: bool = False
) -> Dataset:
    """Read ``folder/CLASS/**/image``, or ``folder/train/CLASS`` and ``folder/test/CLASS``.

    Beside ``train`` may lie ``val`` (or ``valid``, ``validation``, ``dev``), to choose by.

    Without a split of its own, a share of the classes is set aside for the test by the seed, as
    the benchmarks do: search is judged on classes that training never saw. Images that lie where
    they have no class, and folders that cannot be read, are left out and named in ``problems``.

    Args:
        folder: the class folders.
        test_share: share of the classes to test on, half where left out; 0: none. Not for a folder
            that is parted.
        seed: which ones.
        nested: the innermost folders are the classes, the folders above them their levels.

    Raises:
        DataError: fewer than two classes on either side.
    """
    parted = split_folders(folder)
    problems: list[str] = []
    if parted and test_share is not None:
        raise DataError(f"expected data without a split, but {folder} has one. Omit the test share")
    if not parted:
        records, level_names = _records([folder], folder, nested, problems)
        try:
            train, test = split_classes(records, test_share, seed, folder)
        except DataError as error:  # a class may be missing for one of the problems
            raise DataError("; ".join([str(error), *problems[:1]])) from error
        return Dataset(str(folder), train, test, level_names=level_names, problems=tuple(problems))
    chosen_by = [name for name in parted if name in VALIDATION]
    if len(chosen_by) > 1:
        raise DataError(
            f"expected one validation folder in {folder}, found {', '.join(chosen_by)}. Keep one "
            "of them"
        )
    records, level_names = _records([folder / name for name in parted], folder, nested, problems)
    sides: dict[str, list[Record]] = {name: [] for name in parted}
    for record in records:
        sides[record.path.relative_to(folder).parts[0]].append(record)
    for name, side in sides.items():
        if not side:
            raise DataError(
                f"expected images in {folder / name}, found none. Add images, or move the folder "
                "away"
            )
    _name_others(folder, problems, tuple(parted))
    return Dataset(
        str(folder),
        tuple(sides["train"]),
        tuple(sides.get("test", ())),
        level_names=level_names,
        problems=tuple(problems),
        validation=tuple(sides[chosen_by[0]]) if chosen_by else (),
    )


def _records(
    parts: Sequence[Path], root: Path, nested: bool, problems: list[str]
) -> tuple[tuple[Record, ...], tuple[str, ...]]:
    """The images in class folders and names of their levels; what is passed over is a problem.

    Args:
        parts: folders of class folders: the root itself, or the folders that part it.
        root: the folder that was given.
    """
    images = [
        (path, part)
        for part in parts
        for path in find([part], lambda _, reason: problems.append(reason))
    ]
    inside = [path for path, part in images if path.parent != part]
    if not inside:
        raise DataError(
            f"expected one folder per class in {root}, found only images without class folders. "
            "Move the images of each class into a folder named after the class"
            + "".join(f"; {reason}" for reason in problems[:1])
        )
    problems += [
        f"{path}: it lies beside the class folders, so it has no label. Move it into a class folder"
        for path, part in images
        if path.parent == part
    ]
    is_parted = parts[0] != root
    if nested:
        records, level_names = labels.nested(inside, root, [is_parted] * len(inside))
        return tuple(records), level_names
    return tuple(Record(path, labels.under(path, root, is_parted)) for path in inside), ()


def _name_others(folder: Path, problems: list[str], splits: tuple[str, ...]) -> None:
    """Add to ``problems`` what lies beside train and test and so belongs to neither."""
    for entry in sorted(folder.iterdir()):
        shown = not entry.name.startswith(".") and entry.name not in splits
        if shown and (entry.is_dir() or entry.suffix.lower() in SUFFIXES):
            with contextlib.suppress(InputError):  # a folder without pictures is no loss
                find([entry], lambda _, reason: problems.append(reason))
                problems.append(
                    f"{entry}: it lies beside {' and '.join(splits)}, so it belongs to no split. "
                    "Move it into one of them"
                )


def split_classes(
    records: tuple[Record, ...], test_share: float | None, seed: int, source: Path
) -> tuple[tuple[Record, ...], tuple[Record, ...]]:
    """Part the classes of ``records`` into (train, test) by the seed; a share of 0: no test."""
    names = class_names(records)
    test_share = USUAL_TEST_SHARE if test_share is None else test_share
    if not test_share:
        return records, ()
    if len(names) < 4:
        raise DataError(
            f"expected at least 4 classes in {source} (2 for training, 2 for the test), found "
            f"{len(names)}: {', '.join(names)}. Add classes"
        )
    num_test = min(max(2, round(test_share * len(names))), len(names) - 2)
    chosen = np.random.default_rng(seed).permutation(len(names))[:num_test]
    test = {names[index] for index in chosen}
    return (
        tuple(record for record in records if record.label not in test),
        tuple(record for record in records if record.label in test),
    )
