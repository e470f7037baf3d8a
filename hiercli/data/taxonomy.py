"""Taxonomy tables: a class to its genus, family, order, or whatever its levels are called."""

import csv
from pathlib import Path

from hiercli.errors import DataError


def read_taxonomy(
    file: Path, *, first_column: bool = False
) -> tuple[tuple[str, ...], dict[str, tuple[str, ...]]]:
    """Read a CSV with a ``class_name`` column and one column a level, fine to coarse.

    The columns ``class_id``, ``species`` and ``split`` say nothing above the class and are
    passed over.

    Args:
        file: the table.
        first_column: without a column ``class_name`` the first one names the classes.

    Returns:
        (names of the levels, levels of each class); both empty where there is no such file.

    Raises:
        DataError: no column names the classes, or a row is too short.
    """
    if not file.exists():
        return (), {}
    with open(file, newline="", encoding="utf-8-sig") as text:
        rows = csv.DictReader(text)
        columns = rows.fieldnames or []
        key = columns[0] if first_column and columns else "class_name"
        key = "class_name" if "class_name" in columns else key
        if key not in columns:
            raise DataError(f"{file}: expected a column class_name, found {', '.join(columns)}")
        if len(set(columns)) < len(columns):
            raise DataError(f"{file}: expected columns with different names: {', '.join(columns)}")
        passed_over = ("class_id", key, "species", "split")
        levels = tuple(name for name in columns if name not in passed_over)
        table: dict[str, tuple[str, ...]] = {}
        for row in rows:
            if any(row[name] is None for name in columns):
                raise DataError(f"{file}: line {rows.line_num} has fewer columns than its header")
            table[row[key]] = tuple(row[name] for name in levels)
    return levels, table
