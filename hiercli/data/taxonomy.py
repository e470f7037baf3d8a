"""Taxonomies: which groups a class belongs to, and whether what a table says can be one."""

import csv
import io
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hiercli.errors import DataError
from hiercli.files import read_text
from hiercli.labels import as_label

MOST_COLUMNS = 200
"""Of a table; a taxonomy has a handful."""
_SHOWN = 3
"""Groups with two parents that are named."""


@dataclass(frozen=True)
class Row:
    """What one row of a table says.

    Attributes:
        number: of the row, from 1.
        label: the class.
        line: its groups, one a level, fine to coarse; empty texts where they are not known.
    """

    number: int
    label: str
    line: tuple[str, ...]


def usable_levels(
    levels: Sequence[str], rows: Sequence[Row], source: Path
) -> tuple[list[int], list[str]]:
    """Which columns are levels of a taxonomy, and what people should know of them.

    A column in which one class has two values (a season, a photographer) is no level. Two groups of
    one name under different parents are two groups, and are named: it may be a mistake.

    Args:
        levels: names of the columns, as they stand in the table.
        rows: of the table.
        source: the file, for messages.

    Returns:
        (positions of the levels, sentences).

    Raises:
        DataError: the levels are given from coarse to fine.
    """
    kept, notes = [], []
    for place, level in enumerate(levels):
        clash = _clash(rows, place)
        if clash is None:
            kept.append(place)
            continue
        first, second = clash
        notes.append(
            f"{source}: the column {level} is not used as a level, because it differs within a "
            f"class: class {first.label} has {first.line[place]} in row {first.number} and "
            f"{second.line[place]} in row {second.number}"
        )
    shared = [_two_parents(rows, *pair) for pair in itertools.pairwise(kept)]
    reverse = [_two_parents(rows, *pair) for pair in itertools.pairwise(kept[::-1])]
    if any(shared) and not any(reverse):
        raise DataError(
            f"expected the levels of {source} from fine to coarse, but "
            f"{', '.join(levels[place] for place in kept)} go from coarse to fine. Reverse the "
            "order of the columns"
        )
    for place, found in zip(kept, shared, strict=False):
        for first, second, above in found[:_SHOWN]:
            notes.append(
                f"{source}: {levels[place]} {first.line[place]} has two parents, "
                f"{first.line[above]} (row {first.number}) and {second.line[above]} (row "
                f"{second.number}). They count as two groups. If {levels[place]} is not a level, "
                "remove the column"
            )
    return kept, notes


def _clash(rows: Sequence[Row], place: int) -> tuple[Row, Row] | None:
    """Two rows that put one class into two groups."""
    first: dict[str, Row] = {}
    for row in rows:
        known = first.setdefault(row.label, row)
        if known.line[place] != row.line[place]:
            return known, row
    return None


def _two_parents(rows: Sequence[Row], place: int, above: int) -> list[tuple[Row, Row, int]]:
    """For each group that lies in two groups of the level above two rows that say so."""
    first: dict[str, Row] = {}
    found: dict[str, tuple[Row, Row, int]] = {}
    for row in rows:
        group, parent = row.line[place], row.line[above]
        if group and parent:
            known = first.setdefault(group, row)
            if known.line[above] != parent:
                found.setdefault(group, (known, row, above))
    return list(found.values())


@dataclass(frozen=True)
class Taxonomy:
    """Groups of classes.

    Attributes:
        levels: their names, fine to coarse.
        lines: the groups of each class, one a level.
        notes: what people should know of the table, each a sentence.
    """

    levels: tuple[str, ...] = ()
    lines: dict[str, tuple[str, ...]] | None = None
    notes: tuple[str, ...] = ()

    def of(self, label: str) -> tuple[str, ...]:
        """Groups of a class; none where the table does not know it."""
        return (self.lines or {}).get(label, ())


def read_taxonomy(file: Path, *, first_column: bool = False) -> Taxonomy:
    """Read a CSV with a ``class_name`` column and one column a level, fine to coarse.

    The columns ``class_id``, ``species`` and ``split`` say nothing above the class and are
    passed over.

    Args:
        file: the table.
        first_column: without a column ``class_name`` the first one names the classes.

    Returns:
        the taxonomy; empty where there is no such file.

    Raises:
        DataError: no column names the classes, a row is too short or too long, or one class stands
            in two groups.
        InputError: the file is not text in UTF-8.
    """
    if not file.exists():
        return Taxonomy()
    table = csv.reader(io.StringIO(read_text(file), newline=""))
    try:
        columns = next(table, [])
        cells = [(table.line_num, row) for row in table if row]
    except csv.Error as error:
        raise DataError(f"{file} cannot be read as CSV ({error})") from error
    if len(columns) > MOST_COLUMNS:
        raise DataError(f"{file}: expected at most {MOST_COLUMNS} columns, found {len(columns):,}")
    key = columns[0] if first_column and columns else "class_name"
    key = "class_name" if "class_name" in columns else key
    if key not in columns:
        raise DataError(f"{file}: expected a column class_name, found {', '.join(columns)[:200]}")
    if len(set(columns)) < len(columns):
        raise DataError(
            f"{file}: expected columns with different names: {', '.join(columns)[:200]}"
        )
    for number, row in cells:
        if len(row) != len(columns):
            raise DataError(
                f"{file}: expected {len(columns)} columns in line {number}, found {len(row)}"
            )
    named = [columns.index(name) for name in columns if name not in _NO_LEVELS and name != key]
    rows = [
        Row(number, as_label(row[columns.index(key)]),
            tuple(as_label(row[place]) for place in named))
        for number, row in cells
    ]  # fmt: skip
    known: dict[str, Row] = {}
    for one in rows:
        other = known.setdefault(one.label, one)
        if other.line != one.line:
            raise DataError(
                f"{file}: class {one.label} has different groups in line {other.number} and line "
                f"{one.number}. Keep one of the lines"
            )
    levels = [columns[place] for place in named]
    kept, notes = usable_levels(levels, rows, file)
    return Taxonomy(
        tuple(levels[place] for place in kept),
        {label: tuple(row.line[place] for place in kept) for label, row in known.items()},
        tuple(notes),
    )


_NO_LEVELS = ("class_id", "species", "split")
