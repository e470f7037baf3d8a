"""Which images of a catalogue meet conditions on label, path and levels."""

import fnmatch
from collections.abc import Iterator, Sequence

import numpy as np

from hiercli.errors import InputError
from hiercli.index.catalogue import Catalogue
from hiercli.index.locations import join
from hiercli.index.schema import groups_of, readable
from hiercli.labels import as_label

Conditions = Sequence[tuple[str, str]]


def meeting(catalogue: Catalogue, conditions: Conditions) -> np.ndarray:
    """Ids (M,) of the images that meet all conditions, in order.

    Args:
        catalogue: of the images.
        conditions: pairs of ``label``, ``path`` or the name of a level, and a text, or a pattern in
            which ``*``, ``?`` and ``[...]`` stand for characters, as in a shell; a star also stands
            for slashes.

    Raises:
        InputError: there is no such level.
        FileFormatError: a class or a folder is damaged.
    """
    known = ("label", "path", *catalogue.level_names)
    for name, _ in conditions:
        if name not in known:
            raise InputError(
                f"{catalogue.index} has no level {name!r}. Conditions can be on {', '.join(known)}"
            )
    wanted = [(name, as_label(pattern)) for name, pattern in conditions]
    with catalogue.damage():
        return np.array(sorted(_ids(catalogue, wanted)), np.int64)


def _ids(catalogue: Catalogue, wanted: Conditions) -> Iterator[int]:
    of_path = [pattern for name, pattern in wanted if name == "path"]
    of_class = [pair for pair in wanted if pair[0] != "path"]
    columns = "id, folder, name" if of_path else "id"
    every = [""]
    if of_class:
        every = [
            f"WHERE class = {number}"
            for number, (label, levels) in catalogue.classes().items()
            if _meets({**groups_of(levels), "label": as_label(label)}, of_class)
        ]
    folders = catalogue.folders() if of_path else {}
    for some in every:
        for number, *place in catalogue.database.execute(f"SELECT {columns} FROM images {some}"):
            path = as_label(readable(join(folders[place[0]], place[1]))) if place else ""
            if all(_matches(path, pattern) for pattern in of_path):
                yield number


def _meets(texts: dict[str, str], conditions: Conditions) -> bool:
    return all(_matches(texts.get(name, ""), pattern) for name, pattern in conditions)


def _matches(text: str, pattern: str) -> bool:
    return text == pattern or fnmatch.fnmatchcase(text, pattern)
