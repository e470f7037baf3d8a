"""From the word after ``--data`` to a data set: a benchmark, the demo, a folder or a manifest."""

import dataclasses
import itertools
import os
from collections.abc import Callable
from pathlib import Path

from hiercli.data import cars, cub, folder, inshop, manifest, sop
from hiercli.data.records import Dataset
from hiercli.errors import DataError, InputError
from hiercli.images import Places

BENCHMARKS = {"cub": cub, "cars": cars, "sop": sop, "inshop": inshop}
NAMES = ("demo", *BENCHMARKS)


def default_root() -> Path:
    """Where benchmarks live: ``HIER_DATA``, or ``data`` in the current folder."""
    return Path(os.environ.get("HIER_DATA") or "data")


def load(
    name: str,
    root: Path | None = None,
    *,
    seed: int = 0,
    test_share: float | None = None,
    nested: bool = False,
    to_train: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Dataset:
    """The data set called ``name``.

    Examples:
        >>> dataset = load("photos/")
        >>> len(dataset.train_classes), len({record.label for record in dataset.query})
        (4, 4)

    Args:
        name: one of `NAMES`, a folder of class folders, or a manifest (``.csv``, ``.tsv``,
            ``.parquet``).
        root: where benchmarks live; `default_root` where left out.
        seed: splits the classes of a folder or manifest that has no split.
        test_share: share of these classes to test on, half where left out; 0: none, all are
            learned from. Only for data without a split of its own.
        nested: read folders in folders as levels, see `labels`. Only for folders.
        to_train: whether it must have something to learn from.
        progress: called with (done, total) while the demo is generated.

    Raises:
        DataError: it is none of these, or not complete.
        InputError: ``test_share`` or ``nested`` does not go with it.
    """
    path = Path(name)
    is_folder = name not in NAMES and path.is_dir()
    if nested and not is_folder:
        raise InputError(f"expected a folder of images with nested folders, got {name}")
    if test_share is not None and name in NAMES:
        raise InputError(f"expected data without a split, but {name} has one. Omit the test share")
    root = default_root() if root is None else root
    if name == "demo":
        from hiercli.data import demo

        return _checked(demo.load(root, progress), to_train)
    if name in BENCHMARKS:
        return _checked(BENCHMARKS[name].load(root), to_train)
    if is_folder:
        return _checked(
            folder.load(path, test_share=test_share, seed=seed, nested=nested), to_train
        )
    if path.is_file() and path.suffix.lower() in manifest.SUFFIXES:
        return _checked(manifest.load(path, test_share=test_share, seed=seed), to_train)
    raise DataError(
        f"expected {', '.join(NAMES)}, a folder of class folders, or a table of images (.csv, "
        f".tsv, .parquet); got {name!r}"
    )


def _checked(dataset: Dataset, to_train: bool) -> Dataset:
    classes = dataset.train_classes
    if to_train and len(classes) < 2:
        raise DataError(
            f"expected at least 2 training classes in {dataset.name}, found {len(classes)}: "
            f"{', '.join(classes) or 'none'}. Add a class"
        )
    parts = (
        dataset.train, dataset.coarse, dataset.validation, dataset.query, dataset.gallery or ()
    )  # fmt: skip
    for record in itertools.chain(*parts):
        if "\0" in str(record.path):
            raise DataError(
                f"the files of {dataset.name} are damaged: a path in them contains a zero byte "
                f"({str(record.path)!r:.200}). Fetch the data set again"
            )
    return dataclasses.replace(dataset, notes=(*dataset.notes, *_overlaps(dataset)))


def _overlaps(dataset: Dataset) -> list[str]:
    """A sentence for each part to be judged by that shares files with what is learned from."""
    place = Places()
    learned = {place(record.path) for record in (*dataset.train, *dataset.coarse)}
    notes = []
    for name, part in (
        ("test", (*dataset.query, *(dataset.gallery or ()))),
        ("validation", dataset.validation),
    ):
        shared = [record.path for record in part if place(record.path) in learned]
        if shared:
            notes.append(
                f"{len(shared)} of the {len(part)} {name} images are also training images, so "
                f"their scores do not measure unseen images: {shared[0]}"
            )
    return notes
