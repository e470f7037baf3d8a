"""A taxonomy that people bring, as CSV or Newick, for classes that they have."""

from collections.abc import Sequence
from pathlib import Path

from hiercli.data.taxonomy import Taxonomy, read_taxonomy
from hiercli.errors import DataError, InputError
from hiercli.files import read_text
from hiercli.hierarchy import newick
from hiercli.hierarchy.compare import leaf_key
from hiercli.hierarchy.node import Node, lines

NEWICK = (".nwk", ".newick", ".tree", ".tre")
_MOST_LEVELS = 100


def read(file: Path, class_names: Sequence[str]) -> Taxonomy:
    """Groups of some classes, fine to coarse.

    Args:
        file: a CSV whose first column (or ``class_name``) names the classes and each further one a
            level, fine to coarse; or a Newick tree with the classes as leaves, whose levels are
            counted from the root.
        class_names: the classes that are asked about. Blanks and underscores are the same.

    Returns:
        the taxonomy of those classes that the file knows.

    Raises:
        InputError: the file is missing, or not text in UTF-8.
        DataError: it knows none of the classes, has no level above them, or contradicts itself.
        FileFormatError: it is not Newick.
    """
    if not file.is_file():
        raise InputError(f"expected a taxonomy as CSV or Newick, but {file} is missing")
    if file.suffix.lower() in NEWICK:
        taxonomy = _by_depth(newick.read(read_text(file), str(file)), file)
    else:
        taxonomy = read_taxonomy(file, first_column=True)
    if not taxonomy.levels:
        raise DataError(
            f"{file}: expected at least one level above the classes. A CSV needs one column per "
            "level, fine to coarse. A tree needs inner nodes"
        )
    lines = taxonomy.lines or {}
    known = {leaf_key(name): line for name, line in lines.items() if all(line)}
    found = {name: known[leaf_key(name)] for name in class_names if leaf_key(name) in known}
    if not found:
        raise DataError(
            f"{file} contains none of the classes of the data set. It has "
            f"{', '.join(list(lines)[:3])}; the data set has {', '.join(list(class_names)[:3])}"
        )
    return Taxonomy(taxonomy.levels, found, taxonomy.notes)


def _by_depth(root: Node, file: Path) -> Taxonomy:
    """Ancestors of each leaf at each depth below the root; a leaf is its own where it ends."""
    depth = {id(root): 0}
    for node in root.walk():
        depth |= {id(child): depth[id(node)] + 1 for child in node.children}
    deepest = max(depth.values()) - 1
    if deepest > _MOST_LEVELS:
        raise DataError(
            f"expected a taxonomy of at most {_MOST_LEVELS} levels, but {file} has {deepest}. "
            "Remove some inner nodes"
        )
    lines_of = {}
    for line in lines(root).values():
        name = line[-1].name
        above = [node.id for node in line[1:-1]]
        lines_of[name] = tuple((above + [f"{name} (class)"] * (deepest - len(above)))[::-1])
    return Taxonomy(tuple(f"depth {level}" for level in range(deepest, 0, -1)), lines_of)
