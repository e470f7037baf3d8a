"""A taxonomy that people bring, as CSV or Newick, for classes that they have."""

from collections.abc import Sequence
from pathlib import Path

from hiercli.data.taxonomy import read_taxonomy
from hiercli.errors import DataError, InputError
from hiercli.hierarchy import newick
from hiercli.hierarchy.compare import leaf_key
from hiercli.hierarchy.tree import Node

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
    if file.suffix in NEWICK:
        levels, table = _by_depth(newick.read(file.read_text("utf-8"), str(file)))
    else:
        try:
            levels, read_rows = read_taxonomy(file, first_column=True)
        except UnicodeDecodeError as error:
            raise DataError(f"{file} is neither a CSV in UTF-8 nor Newick ({error})") from error
        table = {name: list(line) for name, line in read_rows.items()}
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
    lines: dict[str, list[str]] = {}
    above: dict[int, list[str]] = {id(root): []}
    for node in root.walk():
        line = above.pop(id(node))
        if not node.children:
            lines[node.name] = line
        below = line if node is root else [*line, node.id]
        above |= {id(child): below for child in node.children}
    deepest = max(len(line) for line in lines.values())
    padded = {name: (line + [f"{name} itself"] * (deepest - len(line)))[::-1]
              for name, line in lines.items()}  # fmt: skip
    return tuple(f"depth {depth}" for depth in range(deepest, 0, -1)), padded
