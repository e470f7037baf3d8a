"""Exact nearest neighbours in the ball by maximum inner product, put in order in float64.

A point lifted to the hyperboloid has its neighbours at the largest inner product with the query
whose time coordinate is negated (`geometry.lorentz`), so FAISS's flat inner-product index is an
exact hyperbolic one. float32 cannot order near-duplicates; as many more
candidates as its rounding calls for are fetched and ordered by their float64 distance.
"""

from collections.abc import Callable

import faiss
import numpy as np

from hiercli.geometry import lorentz, poincare

AT_ONCE = 65_536
"""Points that are lifted together: float64 copies of all would take twice the memory."""

SPARE = 32
"""Candidates fetched beyond k at first, among which float64 finds the true order."""

_ROUNDING = 2.0**-20
"""A float32 product q.x is off by less than this share of |q||x|: 16 times its half digit."""


def lift(points: np.ndarray, c: float) -> np.ndarray:
    """Points of the ball (N, D) as float32 rows of an index, (N, D+1), lifted in float64."""
    lifted = lorentz.from_poincare(points.astype(np.float64), c)
    return np.ascontiguousarray(lifted, dtype=np.float32)


def as_queries(points: np.ndarray, c: float) -> np.ndarray:
    """Points of the ball (N, D) as float32 queries against lifted rows, (N, D+1)."""
    return lorentz.as_query(lift(points, c))


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


def rounding(lifted_queries: np.ndarray, farthest: float) -> np.ndarray:
    """How far float32 products of queries (Q, D+1) with lifted rows may be off, (Q,).

    Args:
        lifted_queries: as of `as_queries`.
        farthest: largest time coordinate among the rows.
    """
    # Half of |q||x| each is the time coordinates' share, and the rest no more.
    bound: np.ndarray = 2 * _ROUNDING * np.abs(lifted_queries[:, 0]) * farthest
    return bound


Search = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]
"""(queries, width) -> (float32 products, ids), each (Q, width), largest product first.

A row that does not count has the id -1; where there are no more, the product is -inf. No row that
is left out has a larger product than the last."""


def candidates(
    search: Search,
    lifted_queries: np.ndarray,
    error_bound: np.ndarray,
    k: int,
    total: int,
    spare: int = SPARE,
) -> list[np.ndarray]:
    """Ids of each query that are sure to hold its k nearest, in no exact order.

    More are fetched until the last product lies below the k-th by more than both can be wrong, so
    that a crowd of near-duplicates, however large, cannot hide a true neighbour. Of what was
    fetched only that is kept which could be among the k nearest.

    Args:
        search: the float32 product search.
        lifted_queries: (Q, D+1) lifted queries.
        error_bound: (Q,) how far each query's products may be off, see `rounding`.
        k: neighbours wanted, at most ``total``.
        total: points searched.
        spare: candidates beyond k that are fetched at first.
    """
    found: list[np.ndarray] = [np.empty(0, np.int64)] * len(lifted_queries)
    pending = np.arange(len(lifted_queries))
    width = min(k + spare, total)
    while pending.size:
        products, ids = search(lifted_queries[pending], width)
        counts = ids >= 0
        ranks = counts.cumsum(axis=1)
        enough = ranks[:, -1] >= k
        # The place of the k-th that counts; the first where there are not so many.
        place = (ranks >= k).argmax(axis=1)
        least = np.take_along_axis(products, place[:, None], axis=1)[:, 0]
        least = np.where(enough, least - 2 * error_bound[pending], -np.inf)
        sure = (products[:, -1] < least) | (width == total)
        counts &= products >= least[:, None]
        for row in np.flatnonzero(sure):
            found[pending[row]] = ids[row][counts[row]]
        pending = pending[~sure]
        width = min(4 * width, total)
    return found


def nearest(
    queries: np.ndarray, gallery: np.ndarray, k: int, c: float | None
) -> tuple[np.ndarray, np.ndarray]:
    """`Gallery.nearest` for those who ask but once.

    Args:
        queries: (Q, D).
        gallery, c: see `Gallery`.
        k: neighbours, cut to N.
    """
    return Gallery(gallery, c).nearest(queries, k)


class Gallery:
    """Points made ready to be searched exactly, as often as one likes.

    Args:
        points: (N, D).
        c: curvature magnitude of the ball, or ``None`` to compare by cosine.
    """

    def __init__(self, points: np.ndarray, c: float | None) -> None:
        self._points, self._c = points, c
        self._rows = _unit(points) if c is None else lift(points, c)
        self._farthest = float(self._rows[:, 0].max()) if len(points) else 1.0

    def nearest(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest points of each query, exactly.

        Args:
            queries: (Q, D).
            k: neighbours, cut to N.

        Returns:
            (distances float64 (Q, k), positions int64 (Q, k)), nearest first. A cosine distance is
            1 - cosine.
        """
        c, total = self._c, len(self._points)
        k = min(k, total)
        if c is None:
            lifted_queries = _unit(queries)
            error_bound = np.full(len(lifted_queries), _ROUNDING)
        else:
            lifted_queries = as_queries(queries, c)
            error_bound = rounding(lifted_queries, self._farthest)
        found = np.empty((len(queries), k), np.int64)
        distances = np.empty((len(queries), k), np.float64)
        for row, ids in enumerate(candidates(self._search, lifted_queries, error_bound, k, total)):
            if c is None:
                query = _unit(queries[row : row + 1], np.float64)[0]
                far = 1 - _unit(self._points[ids], np.float64) @ query
                best = np.lexsort((ids, far))[:k]
                distances[row], found[row] = far[best], ids[best]
            else:
                distances[row], found[row] = order(queries[row], self._points[ids], ids, c, k)
        return distances, found

    def _search(self, lifted_queries: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
        products, ids = faiss.knn(
            lifted_queries, self._rows, width, metric=faiss.METRIC_INNER_PRODUCT
        )
        return products, ids


def _unit(x: np.ndarray, dtype: type = np.float32) -> np.ndarray:
    wide = x.astype(np.float64)
    length = np.linalg.norm(wide, axis=1, keepdims=True)
    return np.ascontiguousarray(wide / np.maximum(length, 1e-12), dtype=dtype)
