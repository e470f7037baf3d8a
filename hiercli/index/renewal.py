"""When the FAISS file of an index is made anew, and of what type."""

import contextlib
from pathlib import Path

import faiss
import numpy as np

from hiercli.errors import HierError
from hiercli.index import contents, generation, kinds
from hiercli.index.catalogue import Catalogue
from hiercli.index.tables import Tables

_LEAST_DELTA, _MOST_DELTA = 500, 10_000
"""Images that a FAISS file may lack or have too many: a 20th of all, within these."""
_MORE = 1.2
"""Growth from which on it is tried again whether another type serves better."""


def renewed(
    index: Path,
    known: Catalogue | None,
    told: dict[str, str],
    tables: Tables,
    force: bool,
    progress: kinds.Progress | None,
) -> dict[str, str]:
    """Lay a new FAISS file ready where the one that is there lacks too much.

    Args:
        index: FAISS file.
        known: the catalogue as it was; ``None`` before there is one.
        told: the facts of the new one.
        tables: of the new one.
        force: make a new FAISS file in any case.
        progress: called with (done, total) points.

    Returns:
        what is to be said of the new FAISS file; nothing where the old one stays.
    """
    added, removed = tables.delta()
    count, c, dim = int(told["count"]), float(told["c"]), int(told["embedding_dim"])
    choices = _choices(told, count)
    old: faiss.Index | None = None
    if known is not None and not force:
        few = max(_LEAST_DELTA, min(_MOST_DELTA, count // 20))
        is_near = len(added) + len(removed) <= few
        with generation.opened(index, known.generation, known.faiss_bytes) as file:
            if file is not None and is_near and known.facts["index_type"] == told["index_type"]:
                return {}
            if file is not None and choices != ("flat",):
                with contextlib.suppress(HierError):
                    old = generation.whole(file)
    made, recall = None, 0.0
    if old is not None and contents.index_type_of(old) in choices:
        _, points = tables.points(added)
        made = kinds.update(old, np.array(removed, np.int64), (np.array(added), points), c)
        recall = 0.0 if made is None else kinds.tune(made, c)
    if made is None or (recall < kinds.ENOUGH and len(choices) > 1):
        made, recall = kinds.choose(choices, tables.blocks, count, dim, c, progress)
    number, size = generation.write(index, made)
    tables.clear_delta()
    made_type = contents.index_type_of(made)
    settled = len(choices) == 1 and told.get("made_type") == made_type
    return {
        "generation": number,
        "faiss_bytes": str(size),
        "placed": str(count),
        "recall": repr(recall),
        "farthest": repr(contents.farthest(made)),
        "made_type": made_type,
        "made_count": told["made_count"] if settled else str(count),
    }


def _choices(told: dict[str, str], count: int) -> tuple[str, ...]:
    """The types to choose from; what was chosen stays until there is much more to index."""
    choices = kinds.choices(told["index_type"], count) if count else ("flat",)
    if told.get("made_type") in choices and count < _MORE * int(told["made_count"]):
        return (told["made_type"],)
    return choices
