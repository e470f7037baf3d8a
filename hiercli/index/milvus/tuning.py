"""Which index Milvus keeps of the points, and how far a search of it goes, by size.

Up to `kinds.LARGE` points Milvus compares every point (FLAT). Beyond, or where people ask for ivf,
it keeps lists (IVF_FLAT) and a search visits so many of them as find `kinds.ENOUGH` of the nearest
on a sample. A search of all lists compares every point, so answers can be exact there too.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from hiercli import neighbours
from hiercli.errors import InputError
from hiercli.index import kinds, lists
from hiercli.index.milvus import collections

INDEX_TYPES = ("auto", "flat", "ivf")
UNTUNED = {
    "made_type": "flat", "made_count": "0", "num_lists": "0", "nprobe": "0", "recall": "1",
    "tuning": "",
}  # fmt: skip
_SAMPLE = 64
_NEAREST = 10
_CANDIDATES = 100
"""By Euclidean distance, among which the nearest by hyperbolic distance are looked for."""


def require_index_type(index_type: str) -> None:
    """Check that Milvus can have such an index.

    Raises:
        InputError: it cannot.
    """
    if index_type not in INDEX_TYPES:
        raise InputError(
            f"expected an index type of {', '.join(INDEX_TYPES)} in Milvus, got {index_type!r}"
        )


def wanted_type(index_type: str, count: int) -> str:
    """flat or ivf, for so many points."""
    return kinds.choices(index_type, count)[0]


def search_params(num_lists: int, nprobe: int, *, exact: bool) -> dict[str, Any]:
    """What Milvus is told of a search."""
    if not num_lists:
        return {}
    return {"params": {"nprobe": num_lists if exact else nprobe}}


def tune(client: Any, name: str) -> None:
    """Make the index of a collection anew where its number of points asks for it, and say so.

    Milvus answers no searches while it does, since it lets go of the collection. A killed one is
    noticed by ``tuning`` among the properties; until it is done again, searches visit all lists.
    """
    facts = collections.properties(client, name)
    count = collections.count(client, name)
    index_type = wanted_type(facts.get("index_type", "auto"), count) if count else "flat"
    made_type, made_count = facts.get("made_type", "flat"), int(facts.get("made_count", 0))
    is_right = index_type == made_type and (index_type == "flat" or count <= 2 * made_count)
    if is_right and not facts.get("tuning"):
        return
    num_lists = lists.count_for(count) if index_type == "ivf" else 0
    every = max(num_lists, int(facts.get("num_lists", 0)))
    collections.tell(
        client, name,
        {"tuning": "1", "num_lists": str(every), "nprobe": str(every), "recall": "1"},
    )  # fmt: skip
    params = client.prepare_index_params()
    if num_lists:
        setting = {"nlist": num_lists}
        # A server reads the setting itself, milvus-lite only what is under "params".
        params.add_index(
            "point", index_type="IVF_FLAT", metric_type="L2", params=setting | {"params": setting}
        )
    else:
        params.add_index("point", index_type="FLAT", metric_type="L2")
    client.flush(name)
    client.release_collection(name)
    client.drop_index(name, "point")
    client.create_index(name, params)
    client.load_collection(name)
    nprobe, recall = _nprobe(client, name, float(facts["c"]), num_lists) if num_lists else (0, 1.0)
    told = {
        "made_type": index_type, "made_count": str(count), "num_lists": str(num_lists),
        "nprobe": str(nprobe), "recall": repr(recall), "tuning": "",
    }  # fmt: skip
    collections.tell(client, name, told)


def _nprobe(client: Any, name: str, c: float, num_lists: int) -> tuple[int, float]:
    """How many lists find enough of the nearest of some of its own points, and the recall."""
    sample = client.query(name, filter="id >= 0", output_fields=["point"], limit=_SAMPLE)
    truth = _nearest(client, name, sample, c, num_lists)
    nprobe = 1
    while True:
        found = _nearest(client, name, sample, c, nprobe)
        recall = float(
            np.mean([len(mine & right) / max(1, len(right))
                     for mine, right in zip(found, truth, strict=True)])
        )  # fmt: skip
        if recall >= kinds.GOAL or nprobe == num_lists:
            return nprobe, recall
        nprobe = min(2 * nprobe, num_lists)


def _nearest(
    client: Any, name: str, sample: Sequence[Any], c: float, nprobe: int
) -> list[set[int]]:
    """Ids of the nearest others of each row by hyperbolic distance, among the lists visited."""
    queries = np.array([row["point"] for row in sample], np.float32)
    answers: Sequence[Any] = client.search(
        name, data=queries.tolist(), limit=_CANDIDATES, output_fields=["point"],
        anns_field="point", search_params={"params": {"nprobe": nprobe}},
    )  # fmt: skip
    found = []
    for own, query, rows in zip(sample, queries, answers, strict=True):
        others = [row for row in rows if row["id"] != own["id"]]
        points = np.array([row["entity"]["point"] for row in others], np.float32)
        points = points.reshape(len(others), len(query))
        ids = np.array([row["id"] for row in others], np.int64)
        _, best = neighbours.order(query, points, ids, c, min(_NEAREST, len(ids)))
        found.append(set(best.tolist()))
    return found
