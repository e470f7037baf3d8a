"""Exact nearest neighbours in the ball by maximum inner product, put in order in float64.

A point lifted to the hyperboloid has its neighbours at the largest inner product with the query
whose time coordinate is negated (`geometry.lorentz`), so FAISS's flat inner-product index is an
exact hyperbolic one. float32 cannot order near-duplicates; a few more candidates than asked for
are fetched and ordered by their float64 distance.
"""

import faiss
import numpy as np

from hiercli.errors import MismatchError
from hiercli.geometry import lorentz, poincare

_SPARE = 32
"""Candidates fetched beyond k, among which float64 finds the true order."""


def lift(points: np.ndarray, c: float) -> np.ndarray:
    """Points of the ball (N, D) as float32 rows of an index, (N, D+1), lifted in float64."""
    lifted = lorentz.from_poincare(points.astype(np.float64), c)
    return np.ascontiguousarray(lifted, dtype=np.float32)


def as_queries(points: np.ndarray, c: float) -> np.ndarray:
    """Points of the ball (N, D) as float32 queries against lifted rows, (N, D+1)."""
    return lorentz.as_query(lift(points, c))


def build(points: np.ndarray, c: float) -> faiss.IndexFlatIP:
    """A flat FAISS index over the lifted points, (N, D)."""
    index = faiss.IndexFlatIP(points.shape[1] + 1)
    index.add(lift(points, c))
    return index


def order(
    query: np.ndarray, candidates: np.ndarray, ids: np.ndarray, c: float, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest of some candidates of one query, by float64 distance, ties by id.

    Args:
        query: (D,) point of the ball.
        candidates: (M, D) points of the ball.
        ids: (M,) their ids.

    Returns:
        (distances float64, ids int64), each (min(k, M),), nearest first.
    """
    distances = poincare.dist(query[None].astype(np.float64), candidates.astype(np.float64), c)
    nearest = np.lexsort((ids, distances))[:k]
    return distances[nearest], ids[nearest]


def fetch(index: faiss.Index, queries: np.ndarray, c: float, k: int) -> np.ndarray:
    """Candidate ids of each query, (Q, min(k + spare, N)), not yet in exact order.

    Raises:
        MismatchError: the queries have another dimension than the index.
    """
    if queries.shape[1] + 1 != index.d:
        raise MismatchError(
            f"the index holds points of {index.d - 1} dimensions, the encoder gives "
            f"{queries.shape[1]}: search with the encoder that the index was built with"
        )
    _, ids = index.search(as_queries(queries, c), min(k + _SPARE, index.ntotal))
    return np.asarray(ids)


def nearest(
    queries: np.ndarray, gallery: np.ndarray, k: int, c: float | None
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest gallery points of each query, exactly.

    Args:
        queries: (Q, D).
        gallery: (N, D).
        k: neighbours, cut to N.
        c: curvature magnitude of the ball, or ``None`` to compare by cosine.

    Returns:
        (distances float64 (Q, k), positions int64 (Q, k)), nearest first. A cosine distance is
        1 - cosine.
    """
    k = min(k, len(gallery))
    wide = min(k + _SPARE, len(gallery))
    if c is None:
        rows, asked = _unit(gallery), _unit(queries)
    else:
        rows, asked = lift(gallery, c), as_queries(queries, c)
    _, ids = faiss.knn(asked, rows, wide, metric=faiss.METRIC_INNER_PRODUCT)
    found = np.empty((len(queries), k), np.int64)
    distances = np.empty((len(queries), k), np.float64)
    for row, candidates in enumerate(ids):
        if c is None:
            cosine = (
                _unit(gallery[candidates], np.float64)
                @ _unit(queries[row : row + 1], np.float64)[0]
            )
            best = np.lexsort((candidates, -cosine))[:k]
            distances[row], found[row] = 1 - cosine[best], candidates[best]
        else:
            distances[row], found[row] = order(queries[row], gallery[candidates], candidates, c, k)
    return distances, found


def _unit(x: np.ndarray, dtype: type = np.float32) -> np.ndarray:
    wide = x.astype(np.float64)
    length = np.linalg.norm(wide, axis=1, keepdims=True)
    return np.ascontiguousarray(wide / np.maximum(length, 1e-12), dtype=dtype)
