"""What a data set is to the rest of the house: records, splits and the benchmark's own K."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from hiercli.errors import DataError, ImageError
from hiercli.files import read_text
from hiercli.images import natural_key, read
from hiercli.labels import Record
from hiercli.wording import counted


@dataclass(frozen=True)
class Dataset:
    """A retrieval data set under its protocol: train on some classes, be judged on others.

    Attributes:
        name: short name, as given to ``--data``.
        train: photographs to learn from.
        query: photographs to search for, of classes that ``train`` does not hold (benchmarks),
            or whatever the user's split says.
        gallery: photographs to search in. ``None`` means that the queries search each other and
            a photograph never counts as its own answer.
        recall_at: the K of Recall@K that this benchmark reports.
        level_names: names of the levels of each record, fine to coarse.
        tree: Newick text of the true tree, where it is known (the generated flora).
        problems: what lies in the data set's folder and was left out, each with the reason.
        validation: photographs to choose by, where the user set some aside; else training holds out
            some of its classes.
        notes: what people should know of how the data set was read, each a sentence.
        coarse: further photographs to learn from, without a label, of which only groups are known.
    """

    name: str
    train: tuple[Record, ...]
    query: tuple[Record, ...]
    gallery: tuple[Record, ...] | None = None
    recall_at: tuple[int, ...] = (1, 2, 4, 8)
    level_names: tuple[str, ...] = ()
    tree: str | None = field(default=None, repr=False)
    problems: tuple[str, ...] = ()
    validation: tuple[Record, ...] = ()
    notes: tuple[str, ...] = ()
    coarse: tuple[Record, ...] = ()

    @property
    def train_classes(self) -> list[str]:
        """Names of the training classes, sorted in natural order."""
        return class_names(self.train)


def class_names(records: Sequence[Record]) -> list[str]:
    """Distinct labels of ``records`` in natural order: the order of class ids everywhere."""
    return sorted({record.label for record in records}, key=natural_key)


def class_ids(records: Sequence[Record], names: Sequence[str]) -> np.ndarray:
    """Class id (position in ``names``) of each record, int64 (N,)."""
    position = {name: index for index, name in enumerate(names)}
    return np.array([position[record.label] for record in records], dtype=np.int64)


def group_ids(records: Sequence[Record], num_levels: int) -> tuple[np.ndarray, list[int]]:
    """The group of each record at each level above the classes.

    A group is its name and all that is above it, see `labels`.

    Returns:
        int64 (N, L), -1 where a level is not known; and how many groups each level has.

    Examples:
        >>> coats = Record(Path("1.jpg"), "parka", ("coats", "women"))
        >>> others = Record(Path("2.jpg"), "brogue", ("", "men"))
        >>> ids, counts = group_ids([coats, others], 2)
        >>> ids.tolist(), counts
        ([[0, 0], [-1, 1]], [1, 2])
    """
    ids = np.full((len(records), num_levels), -1, np.int64)
    counts = []
    for level in range(num_levels):
        numbers: dict[tuple[str, ...], int] = {}
        for row, record in enumerate(records):
            if len(record.levels) == num_levels and record.levels[level]:
                ids[row, level] = numbers.setdefault(record.levels[level:], len(numbers))
        counts.append(len(numbers))
    return ids, counts


def split_validation(
    records: Sequence[Record], share: float, seed: int
) -> tuple[tuple[Record, ...], tuple[Record, ...]]:
    """Hold out whole classes for validation, so that choices never look at the test classes.

    Args:
        records: the training photographs.
        share: share of the classes to hold out, in [0, 1). Zero holds out none.
        seed: which classes; the same seed always holds out the same ones.

    Returns:
        (training, validation). At least two classes stay on each side, each validation class
        with two photographs or more, since a photograph needs another of its kind to be found.

    Raises:
        DataError: there are too few classes to hold any out.
    """
    if share == 0:
        return tuple(records), ()
    names = class_names(records)
    counts: dict[str, int] = {}
    for record in records:
        counts[record.label] = counts.get(record.label, 0) + 1
    candidates = [name for name in names if counts[name] >= 2]
    num_held_out = max(2, round(share * len(names)))
    if len(candidates) < num_held_out or len(names) - num_held_out < 2:
        raise DataError(
            "expected at least 4 classes, 2 of them with two images or more, to hold some out for "
            f"validation; found {counted(len(names), 'class', 'classes')}. Add classes, or "
            "train on all classes with --validation-share 0"
        )
    order = np.random.default_rng(seed).permutation(len(candidates))[:num_held_out]
    held_out = {candidates[index] for index in order}
    return (
        tuple(record for record in records if record.label not in held_out),
        tuple(record for record in records if record.label in held_out),
    )


def require_answers(dataset: Dataset) -> None:
    """Check that the test part, where there is one, can be scored, before work goes into it.

    One query with an answer is enough. Pictures are decoded until two are found that make one.

    Raises:
        DataError: no query has another readable picture of its class to be found.
    """
    if not dataset.query:
        return
    problems: list[str] = []

    def readable(records: Sequence[Record], wanted: int) -> bool:
        for record in records:
            try:
                read(record.path)
            except ImageError as error:
                problems.append(str(error))
            else:
                wanted -= 1
            if wanted == 0:
                return True
        return False

    queries, gallery = _by_class(dataset.query), _by_class(dataset.gallery or ())
    for name, own in queries.items():
        if dataset.gallery is None:
            answered = len(own) > 1 and readable(own, 2)
        else:
            answered = name in gallery and readable(own, 1) and readable(gallery[name], 1)
        if answered:
            return
    pictures = len(dataset.query) + len(dataset.gallery or ())
    raise DataError(
        f"expected a test class of {dataset.name} with two readable images (a query and a hit), "
        f"found none in {pictures} images of {len(queries)} classes"
        + (f", {len(problems)} of them unreadable ({problems[0]})" if problems else "")
        + ". Add images to the test classes. To train without a test, use a table with the "
        "split train in every row"
    )


def _by_class(records: Sequence[Record]) -> dict[str, list[Record]]:
    members: dict[str, list[Record]] = {}
    for record in records:
        members.setdefault(record.label, []).append(record)
    return members


def require(folder: Path, files: Sequence[str], name: str) -> None:
    """Check that a benchmark is where it should be.

    Args:
        folder: of the benchmark.
        files: paths in it.
        name: what `hier data get` calls it.

    Raises:
        DataError: it names every file that is missing.
    """
    missing = [name for name in files if not (folder / name).exists()]
    if missing:
        raise DataError(
            f"expected {', '.join(files)} in {folder}; missing: {', '.join(missing)}. Name the "
            "folder of the data sets with --data-root or HIER_DATA, or download this one with "
            f"`hier data get {name}`"
        )


def read_table(
    file: Path, num_columns: int, *, header: bool = False, skip: int = 0
) -> list[list[str]]:
    """Rows of a list file with columns parted by white space.

    Raises:
        DataError: a row of another width, named by its line number.
    """
    rows = []
    lines = read_text(file).splitlines()
    for number, line in enumerate(lines[skip + header :], start=1 + skip + header):
        columns = line.split(maxsplit=num_columns - 1)
        if not columns:
            continue
        if len(columns) != num_columns:
            raise DataError(f"{file}: expected {num_columns} columns in line {number}: {line!r}")
        rows.append(columns)
    return rows
