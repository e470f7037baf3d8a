"""A table of images: CSV, TSV or Parquet with path, label, levels and optionally a split."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from hiercli import labels
from hiercli.data.folder import split_classes
from hiercli.data.records import Dataset
from hiercli.data.taxonomy import MOST_COLUMNS, Row, usable_levels
from hiercli.errors import DataError
from hiercli.files import open_regular, read_text
from hiercli.images import Places
from hiercli.labels import VALIDATION, Record
from hiercli.wording import counted

SUFFIXES = (".csv", ".tsv", ".parquet")
PATH_COLUMNS = ("path", "image", "file", "filename")
LABEL_COLUMNS = ("label", "class")
_SPLITS = ("train", "test", "query", "gallery", "validation")


@dataclass(frozen=True)
class Table:
    """The rows of a manifest.

    Attributes:
        records: one for each row that says something new; relative paths count from its folder.
        has_splits: whether the table has a column of splits; else those of records are empty.
        level_names: names of the levels of each record, fine to coarse.
        notes: what people should know of how it was read, each a sentence.
    """

    records: list[Record]
    has_splits: bool
    level_names: tuple[str, ...]
    notes: list[str]

    def first_of_each(self, notes: list[str]) -> list[Record]:
        """A record for each image, the first of those that put it in several splits.

        Args:
            notes: takes a sentence on such images.
        """
        if not self.has_splits:
            return self.records
        place = Places()
        first: dict[bytes, Record] = {}
        for record in self.records:
            first.setdefault(place(record.path), record)
        if again := len(self.records) - len(first):
            notes.append(
                f"{counted(again, 'row')} of the table ignored, which put an image in another split"
            )
        return list(first.values())


def read(file: Path, *, to_train: bool = False) -> Table:
    """Read a manifest.

    Columns, in capitals or small letters: ``path`` (or ``image``, ``file``, ``filename``);
    ``label`` (or ``class``), without which the label is the name of the image's folder; ``split``
    with train, test, query, gallery or validation (also val, valid, dev). Every further column of
    texts in which a class has one value is a level, fine to coarse.

    Where the label is empty, the image has none.

    Args:
        file: the table.
        to_train: refuse one without a column of labels, and rows that have neither a label nor a
            group at some level.

    Raises:
        DataError: columns are missing or stand twice, a path is empty, a cell is no text, a split
            has another name, or rows contradict each other.
        InputError: the file is no regular file, or not in UTF-8.
    """
    columns, others = _columns(file)
    spelled = {name.lower(): name for name in reversed(columns)}
    path_column, label_column, split_column = (
        next((spelled[name] for name in names if name in spelled), None)
        for names in (PATH_COLUMNS, LABEL_COLUMNS, ("split",))
    )
    if path_column is None or (label_column is None and to_train):
        hint = ". Separate the columns with commas" if any(";" in name for name in columns) else ""
        raise DataError(
            f"{file}: expected the columns path and label, found {', '.join(columns)[:200]}{hint}"
        )
    paths = labels.require_all(columns[path_column], "path", file)
    bad = [row for row, path in enumerate(paths, 1) if "\0" in path]
    if bad:
        raise DataError(f"{file}: the path in row {bad[0]} contains a zero byte. Correct it")
    if not paths:
        raise DataError(f"{file}: expected rows of path and label, found none")
    images = [file.parent / path for path in paths]
    levels = [name for name in columns if name not in (path_column, label_column, split_column)]
    if label_column is None:
        names = [labels.own_folder(image) for image in images]
        others.append(
            f"{file} has no column label, so the folder names of the images are the labels"
        )
    else:
        names = [name or "" for name in columns[label_column]]
        if to_train and not levels:
            labels.require_all(columns[label_column], "label", file)
    splits = None if split_column is None else _splits(columns[split_column], file)
    rows = [
        Row(number, labels.as_label(label), tuple(labels.as_label(cell or "") for cell in line))
        for number, (label, *line) in enumerate(
            zip(names, *(columns[level] for level in levels), strict=True), 1
        )
    ]
    kept, notes = usable_levels(levels, [row for row in rows if row.label], file)
    listed = _Listed(file)
    records = []
    for place, (row, image) in enumerate(zip(rows, images, strict=True)):
        split = splits[place] if splits else ""
        record = Record(image, row.label, tuple(row.line[level] for level in kept), split)
        if to_train and not (record.label or any(record.levels)):
            raise DataError(
                f"{file}: row {row.number} has neither a label nor a group. Fill in one, or delete "
                "the row"
            )
        if listed.is_new(record, row.number):
            records.append(record)
    if listed.repeated:
        notes.append(
            f"{file}: {counted(len(listed.repeated), 'row')} ignored, which repeat an image: row "
            f"{listed.repeated[0][1]} repeats row {listed.repeated[0][0]}"
        )
    level_names = tuple(levels[level] for level in kept)
    return Table(records, splits is not None, level_names, [*others, *notes])


def load(file: Path, *, test_share: float | None = None, seed: int = 0) -> Dataset:
    """Read a manifest as a data set; without a column ``split`` its classes are parted by the seed.

    Args:
        file: see `read`.
        test_share: share of the classes to test on, half where left out; 0: none. Not for a table
            with a column ``split``.
        seed: which ones.

    Raises:
        DataError: as `read`; also query rows without gallery rows, or too few classes.
        InputError: as `read`.
    """
    table = read(file, to_train=True)
    sides: dict[str, list[Record]] = {name: [] for name in _SPLITS}
    coarse, others = [], 0
    for record in table.records:
        split = record.split or "train"
        if record.label:
            sides[split].append(record)
        elif split == "train":
            coarse.append(record)
        else:
            others += 1
    train, notes = tuple(sides["train"]), list(table.notes)
    if others:
        notes.append(
            f"{file}: {counted(others, 'image')} without a label ignored, as their split is not "
            "train"
        )
    if not table.has_splits:
        train, test = split_classes(train, test_share, seed, file)
        return Dataset(
            str(file),
            train,
            test,
            level_names=table.level_names,
            notes=tuple(notes),
            coarse=tuple(coarse),
        )
    if test_share is not None:
        raise DataError(
            f"expected data without a split, but {file} has a column split. Omit the test share"
        )
    if bool(sides["query"]) != bool(sides["gallery"]):
        raise DataError(
            f"{file}: expected rows with the splits query and gallery, or test; found only one of "
            "query and gallery"
        )
    return Dataset(
        str(file),
        train,
        tuple(sides["query"] or sides["test"]),
        tuple(sides["gallery"]) or None,
        level_names=table.level_names,
        validation=tuple(sides["validation"]),
        notes=tuple(notes),
        coarse=tuple(coarse),
    )


def _splits(column: list[str | None], file: Path) -> list[str]:
    """The split of each row, in the names of `_SPLITS`."""
    found = []
    for number, value in enumerate(column, 1):
        split = (value or "").strip().lower()
        split = "validation" if split in VALIDATION else split
        if split not in _SPLITS:
            raise DataError(
                f"{file}: expected a split of {', '.join(_SPLITS)} in row {number}, found {value!r}"
            )
        found.append(split)
    return found


@dataclass(frozen=True)
class _Place:
    row: int
    label: str
    split: str


class _Listed:
    """The pictures that stand in a manifest, each under one label and on one side.

    Attributes:
        repeated: pairs of rows that say the same.
    """

    def __init__(self, file: Path) -> None:
        self._file, self._place = file, Places()
        self._known: dict[bytes, list[_Place]] = {}
        self.repeated: list[tuple[int, int]] = []

    def is_new(self, record: Record, row: int) -> bool:
        """Whether a row says what none before it did.

        Raises:
            DataError: it contradicts one before it.
        """
        before = self._known.setdefault(self._place(record.path), [])
        for other in before:
            if other.label != record.label:
                first, second = (label or "none" for label in (other.label, record.label))
                raise DataError(
                    f"{self._file}: {record.path} has two labels, {first} in row {other.row} and "
                    f"{second} in row {row}. Keep the correct row"
                )
            if {other.split, record.split} == {"query", "gallery"}:
                raise DataError(
                    f"{self._file}: {record.path} is a query and in the gallery (rows {other.row} "
                    f"and {row}), so it would find itself. Use the split test for such images: "
                    "each of them then searches all others"
                )
            if other.split == record.split:
                self.repeated.append((other.row, row))
                return False
        before.append(_Place(row, record.label, record.split))
        return True


def _columns(file: Path) -> tuple[dict[str, list[str | None]], list[str]]:
    """Texts by column, and a sentence for each column that holds no texts and so is no level.

    Raises:
        DataError: it is no such table, or two columns have one name.
    """
    import pyarrow as pa
    from pyarrow import csv, parquet

    kind = file.suffix.lower()
    try:
        if kind == ".parquet":
            with open_regular(file) as content:
                labels.require_rows(content, file)
                table = parquet.read_table(content)
        else:
            # Labels such as 001 are names: nothing is guessed to be a number.
            whole = read_text(file)
            mark = "\t" if kind == ".tsv" else ","
            # Before Arrow sees them: it takes much memory for each column.
            _require_few(whole.partition("\n")[0].count(mark) + 1, file)
            text = whole.encode()
            parted = csv.ParseOptions(delimiter=mark)
            names = csv.open_csv(pa.BufferReader(text), parse_options=parted).schema.names
            _require_different(names, file)
            as_text = csv.ConvertOptions(
                column_types={name: pa.string() for name in names}, strings_can_be_null=False
            )
            table = csv.read_csv(
                pa.BufferReader(text), parse_options=parted, convert_options=as_text
            )
        _require_different(table.column_names, file)
        found, notes = {}, []
        own = (*PATH_COLUMNS, *LABEL_COLUMNS, "split")
        for name, column in zip(table.column_names, table.columns, strict=True):
            if name.lower() in own or labels.is_text(column):
                found[name] = labels.from_column(column, name, file)
            else:
                notes.append(
                    f"{file}: the column {name} contains {column.type}, not text. It is not used "
                    "as a level"
                )
        return found, notes
    except (pa.ArrowException, OSError, MemoryError, UnicodeDecodeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise DataError(f"{file} cannot be read as {kind[1:]}: {reason}") from error


def _require_few(count: int, file: Path) -> None:
    if count > MOST_COLUMNS:
        raise DataError(
            f"{file}: expected at most {MOST_COLUMNS} columns, found {count:,}. Keep path, label, "
            "split and the levels"
        )


def _require_different(names: list[str], file: Path) -> None:
    _require_few(len(names), file)
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise DataError(
            f"{file}: expected columns with different names, but {', '.join(twice)[:200]} appears "
            "twice. Keep one"
        )
