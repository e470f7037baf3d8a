"""Kinds of FAISS index over lifted points: flat is exact, the others answer sooner from a part.

flat: every point is compared with the query.
sq8: likewise, with coordinates of a byte each. How far products may be off by that is known, and
    so many more candidates are put in order by their stored points: the answer is exact too.
hnsw: a graph of neighbours is walked (Malkov and Yashunin, "Efficient and Robust Approximate
    Nearest Neighbor Search Using Hierarchical Navigable Small World Graphs", 2018). It is built
    by Euclidean distance between ball coordinates, since a graph built by the product would link
    stored points with the sign of a query missing, and then given the lifted points to search.
ivf: points lie in lists around centroids, points of one radius on the hyperboloid, and the lists
    nearest to the query are searched.

Each is a plain FAISS file that answers `geometry.lorentz.as_query`'s queries by inner product. How
far a search goes is set when the index is built, by asking it for neighbours that are known, and is
part of the file.
"""

# FAISS's own stubs lack much of what is used here.
# mypy: disable-error-code="attr-defined,union-attr,arg-type"

from collections.abc import Callable, Iterable, Iterator

import faiss
import numpy as np

from hiercli import neighbours
from hiercli.errors import InputError
from hiercli.geometry import lorentz
from hiercli.index import contents, lists
from hiercli.index.searcher import Searcher

INDEX_TYPES = ("auto", "flat", "sq8", "hnsw", "ivf")
_EXACT = ("flat", "sq8")
LARGE = 200_000
"""Points from which on ``auto`` is not exact: one query of a flat index takes some 10 ms then."""

_LINKS = 32
_EF_CONSTRUCTION = 80
_MOST_REMOVED = 0.2
"""Share of rows that no longer count, beyond which a graph is built anew."""
ENOUGH = 0.99
"""Recall of the 10 nearest that an index should have."""
GOAL = 0.995
"""What it is tuned for, on a sample."""
_FEW = 8192
"""Points compared in lists in about the time that a graph of a million takes (0.4 ms, 128 numbers a
point)."""
_SAMPLE = 256
_AT_ONCE = 16
"""Coordinates of a byte that FAISS compares in one step."""

Progress = Callable[[int, int], None]


def require_index_type(index_type: str) -> None:
    """Check that there is such a kind.

    Raises:
        InputError: there is none.
    """
    if index_type not in INDEX_TYPES:
        raise InputError(f"expected an index type of {', '.join(INDEX_TYPES)}, got {index_type!r}")


def choices(index_type: str, count: int) -> tuple[str, ...]:
    """The kinds among which `choose` chooses, for so many points.

    ``auto`` is exact up to `LARGE`. Beyond, it takes lists, which are smaller than a graph and
    built sooner (`tests/bench_index.py`). Where they would have to compare more than `_FEW` points,
    since there are no groups among them or very many points, it takes a graph, unless that misses
    too much: HNSW misses neighbours in dense clusters.
    """
    if index_type != "auto":
        return (index_type,)
    return ("flat",) if count < LARGE else ("ivf", "hnsw")


def choose(
    index_types: tuple[str, ...],
    blocks: lists.Blocks,
    count: int,
    dim: int,
    c: float,
    progress: Progress | None = None,
) -> tuple[faiss.Index, float]:
    """An index of the first of some kinds that finds `ENOUGH` and, if lists, compares few points.

    Where none does, of the kind that finds most.

    Args:
        index_types: as of `choices`.
        blocks, count, dim, c, progress: see `build`.

    Returns:
        the index, tuned, and its recall, see `tune`.
    """
    made = []
    for index_type in index_types:
        index = build(index_type, blocks, count, dim, c, progress)
        recall = tune(index, c)
        made.append((index, recall))
        if recall >= ENOUGH and compared(index) <= _FEW:
            return made[-1]
    return max(made, key=lambda pair: pair[1])


def build(
    index_type: str,
    blocks: lists.Blocks,
    count: int,
    dim: int,
    c: float,
    progress: Progress | None = None,
) -> faiss.Index:
    """An index of points of the ball.

    Args:
        index_type: one of `INDEX_TYPES` but auto.
        blocks: the points.
        count: how many they are.
        dim: of the ball.
        c: curvature magnitude.
        progress: called with (done, total) points.
    """
    blocks_with_progress = _with_progress(blocks(), count, progress)
    if index_type == "hnsw":
        graph = faiss.IndexHNSWFlat(dim + 1, _LINKS, faiss.METRIC_INNER_PRODUCT)
        index = faiss.IndexIDMap(graph)  # while it is empty: FAISS takes no other
        return _numbered(index, _grow(graph, blocks_with_progress, c))
    if index_type == "ivf":
        made = lists.empty(blocks, count, dim, c)
        for ids, points in blocks_with_progress:
            lists.add(made, ids, points, c)
        return made
    flat = faiss.IndexIDMap(_bytes_index(blocks, dim, c) if index_type == "sq8" else
                            faiss.IndexFlatIP(dim + 1))  # fmt: skip
    for ids, points in blocks_with_progress:
        flat.add_with_ids(neighbours.lift(points, c), ids)
    return flat


def update(
    index: faiss.Index,
    removed: np.ndarray,
    added: tuple[np.ndarray, np.ndarray],
    c: float,
) -> faiss.Index | None:
    """A graph or lists with some points removed and others added.

    A graph keeps what was removed as a stepping stone, under the id -1.

    Args:
        index: as `build` made it; it may be changed.
        removed: ids; those that it does not hold do no harm.
        added: ids (N,) and points (N, D) of the ball.

    Returns:
        the index, or ``None`` where it should rather be built anew.
    """
    inner = contents.inner(index)
    ids, points = added
    before = len(contents.living(index)) - np.isin(contents.living(index), removed).sum()
    if len(ids) > before or contents.index_type_of(index) in _EXACT:
        return None
    if isinstance(inner, faiss.IndexIVF):
        inner.remove_ids(faiss.IDSelectorBatch(np.ascontiguousarray(removed, np.int64)))
        if lists.count_for(before + len(ids)) > 2 * inner.nlist:
            return None
        if len(ids):
            lists.add(inner, ids, points, c)
        return index
    numbers = faiss.vector_to_array(index.id_map)
    numbers[np.isin(numbers, removed)] = -1
    if (numbers < 0).mean() > _MOST_REMOVED:
        return None
    if len(ids):  # without any there is no knowing how wide they would be
        numbers = np.concatenate([numbers, _grow(inner, [added], c)])
    return _numbered(index, numbers)


def tune(index: faiss.Index, c: float) -> float:
    """Set how far a search of a graph or of lists goes; an exact index stays as it is.

    Returns:
        recall of the 10 nearest on a sample of the index's own points; 1 where it is exact.
    """
    inner = contents.inner(index)
    if contents.index_type_of(index) in _EXACT:
        return 1.0
    ids, points = contents.rows(index)
    k = min(10, len(ids) - 1)
    if k < 1:
        return 1.0
    sample = np.random.default_rng(0).permutation(len(ids))[:_SAMPLE]
    place = np.argsort(ids)
    searcher = Searcher(index, c, contents.farthest(index))
    balls = lorentz.to_poincare(points[sample].astype(np.float64), c)

    def found(exact: bool) -> list[set[int]]:
        nearest = []
        for row, candidates in enumerate(searcher.fetch(balls, k + 1, exact=exact)):
            others = candidates[candidates != ids[sample[row]]]
            where = place[np.searchsorted(ids, others, sorter=place)]
            others_at = lorentz.to_poincare(points[where].astype(np.float64), c)
            _, best = neighbours.order(balls[row], others_at, others, c, k)
            nearest.append(set(best.tolist()))
        return nearest

    truth = found(exact=True)
    most = inner.nlist if isinstance(inner, faiss.IndexIVF) else 1024
    parameter, recall = (1 if isinstance(inner, faiss.IndexIVF) else 32), 0.0
    while True:
        _set_search_parameter(inner, parameter)
        hits = sum(len(mine & right) for mine, right in zip(found(exact=False), truth, strict=True))
        recall = hits / (k * len(truth))
        if recall >= GOAL or parameter >= most:
            return recall
        parameter = min(2 * parameter, most)


def compared(index: faiss.Index) -> float:
    """Points that a search of lists compares, on average for their own points; 0 without lists."""
    inner = contents.inner(index)
    if not isinstance(inner, faiss.IndexIVF):
        return 0.0
    sizes = np.array([inner.invlists.list_size(number) for number in range(inner.nlist)])
    quantizer = faiss.downcast_index(inner.quantizer)
    centroids = contents.stored(quantizer)
    _, visited = quantizer.search(lorentz.as_query(centroids), inner.nprobe)
    return float(np.average(sizes[visited].sum(axis=1), weights=sizes))


def search_parameter(index: faiss.Index) -> int | None:
    """How far a search goes: nodes held in view of a graph, lists visited; ``None`` for flat."""
    inner = contents.inner(index)
    if isinstance(inner, faiss.IndexIVF):
        return int(inner.nprobe)
    return int(inner.hnsw.efSearch) if isinstance(inner, faiss.IndexHNSW) else None


def _set_search_parameter(inner: faiss.Index, parameter: int) -> None:
    if isinstance(inner, faiss.IndexIVF):
        inner.nprobe = parameter
    else:
        inner.hnsw.efSearch = parameter


def _with_progress(
    blocks: Iterable[tuple[np.ndarray, np.ndarray]], count: int, progress: Progress | None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    done = 0
    for ids, points in blocks:
        yield ids, points
        done += len(ids)
        if progress:
            progress(done, count)


def _numbered(index: faiss.IndexIDMap, ids: np.ndarray) -> faiss.IndexIDMap:
    faiss.copy_array_to_vector(np.ascontiguousarray(ids, np.int64), index.id_map)
    index.ntotal = index.index.ntotal
    return index


def _grow(
    graph: faiss.IndexHNSWFlat, blocks: Iterable[tuple[np.ndarray, np.ndarray]], c: float
) -> np.ndarray:
    """Add points of the ball to a graph of lifted ones; their ids."""
    added = [np.empty(0, np.int64)]
    links = faiss.IndexHNSWFlat(graph.d - 1, _LINKS, faiss.METRIC_L2)
    points = contents.stored(faiss.downcast_index(graph.storage))
    for first in range(0, len(points), neighbours.AT_ONCE):
        some = lorentz.to_poincare(points[first : first + neighbours.AT_ONCE].astype(np.float64), c)
        links.storage.add(np.ascontiguousarray(some, np.float32))
    links.hnsw, links.ntotal = graph.hnsw, graph.ntotal
    links.hnsw.is_similarity, links.hnsw.efConstruction = False, _EF_CONSTRUCTION
    for ids, some in blocks:
        links.add(np.ascontiguousarray(some, np.float32))
        graph.storage.add(neighbours.lift(some, c))
        added.append(ids)
    ef_search = graph.hnsw.efSearch
    graph.hnsw, graph.ntotal = links.hnsw, links.ntotal
    # Copied with the links, where they are another's.
    graph.hnsw.is_similarity, graph.hnsw.efSearch = True, ef_search
    return np.concatenate(added)


def _bytes_index(blocks: lists.Blocks, dim: int, c: float) -> faiss.IndexPreTransform:
    """An empty index of a byte a coordinate, over the span that the points take.

    Rows are widened by zeros: FAISS compares so many at once, and others one by one, ten times
    slower.
    """
    low, high = np.full(dim + 1, np.inf, np.float32), np.full(dim + 1, -np.inf, np.float32)
    for ids, points in blocks():
        if len(ids):
            lifted = neighbours.lift(points, c)
            low, high = np.minimum(low, lifted.min(0)), np.maximum(high, lifted.max(0))
    spans = np.where(high > low, high - low, 1).astype(np.float32)
    wide = -(-(dim + 1) // _AT_ONCE) * _AT_ONCE
    if 4 * wide * (dim + 1) > contents.MOST_WIDENED:  # of 4,096 dimensions or more
        wide = dim + 1
    index = faiss.IndexScalarQuantizer(
        wide, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
    )
    trained = np.zeros((2, wide), np.float32)
    trained[0, : dim + 1], trained[1, : dim + 1] = np.where(np.isfinite(low), low, 0), spans
    faiss.copy_array_to_vector(trained.ravel(), index.sq.trained)
    index.is_trained = True
    return faiss.IndexPreTransform(faiss.RemapDimensionsTransform(dim + 1, wide, False), index)
