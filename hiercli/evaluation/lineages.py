"""A taxonomy that people bring, as CSV or Newick, for classes that they have."""

import csv
from collections.abc import Sequence
from pathlib import Path

from hiercli.data.taxonomy import read_taxonomy
from hiercli.errors import DataError, InputError
from hiercli.hierarchy import newick
from hiercli.hierarchy.compare import leaf_key
from hiercli.hierarchy.tree import Node, lines

NEWICK = (".nwk", ".newick", ".tree", ".tre")


def read(file: Path, class_names: Sequence[str]) -> tuple[tuple[str, ...], dict[str, list[str]]]:
    """Groups of classes, fine to coarse.

    Args:
        file: a CSV whose first column (or ``class_name``) names the classes and each further one a
            level, fine to coarse; or a Newick tree with the classes as leaves, whose levels are
            counted from the root.
        class_names: the classes that are asked about. Blanks and underscores are the same.

    Returns:
        (names of the levels, groups of each class that the file knows).

    Raises:
        InputError: the file is missing.
        DataError: it knows none of the classes, or has no level above them.
        FileFormatError: it is not Newick.
    """
    if not file.is_file():
        raise InputError(f"expected a taxonomy as CSV or Newick, but {file} is missing")
    table: dict[str, list[str]]
    try:
        if file.suffix.lower() in NEWICK:
            levels, table = _by_depth(newick.read(file.read_text("utf-8-sig"), str(file)))
        else:
            try:
                levels, rows = read_taxonomy(file, first_column=True)
            except csv.Error as error:
                raise DataError(f"{file} is not a CSV that can be read ({error})") from error
            table = {name: list(line) for name, line in rows.items()}
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is neither a CSV nor a Newick tree in UTF-8 ({error})") from error
    if not levels:
        raise DataError(
            f"{file}: expected a level above the classes: a CSV needs a column for each, fine to "
            "coarse, a tree inner nodes"
        )
    known = {leaf_key(name): line for name, line in table.items() if all(line)}
    found = {name: known[leaf_key(name)] for name in class_names if leaf_key(name) in known}
    if not found:
        raise DataError(
            f"{file} knows none of these classes: it has {', '.join(list(table)[:3])}, the data "
            f"set {', '.join(list(class_names)[:3])}"
        )
    return levels, found


def _by_depth(root: Node) -> tuple[tuple[str, ...], dict[str, list[str]]]:
    """Ancestors of each leaf at each depth below the root; a leaf is its own where it ends."""
    above = {line[-1].name: [node.id for node in line[1:-1]] for line in lines(root).values()}
    deepest = max(len(line) for line in above.values())
    padded = {name: (line + [f"{name} itself"] * (deepest - len(line)))[::-1]
              for name, line in above.items()}  # fmt: skip
    return tuple(f"depth {depth}" for depth in range(deepest, 0, -1)), padded
