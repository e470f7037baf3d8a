"""The order of hits corrected by what is near them: neighbours that agree on being neighbours.

After Zhong et al., "Re-ranking Person Re-identification with k-reciprocal Encoding" (CVPR 2017),
in hyperbolic distance and among the candidates of one query alone, so that it costs no search.
"""

import numpy as np

from hiercli.geometry import poincare

CANDIDATES = 200
"""Hits of a query among which the order is corrected, if not more are wanted."""
_NEAR = 20
"""Neighbours that may be reciprocal (k1 of the paper)."""
_EXPANDED = 6
"""Neighbours whose sets are averaged (k2 of the paper)."""
_SHARE_OF_DISTANCE = 0.3
"""Weight of the distance itself beside that of the sets (lambda of the paper)."""
_STEEPNESS = 3.0
"""Of the weights of neighbours: they fall to exp(-3) at the mean distance of the last one."""


def rerank(query: np.ndarray, candidates: np.ndarray, c: float | None) -> np.ndarray:
    """Positions of the candidates in their new order.

    Examples:
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> own, others = 0.2 + 0.05 * rng.normal(size=(2, 20, 8))
        >>> others[:, 0] -= 0.4
        >>> order = rerank(own[0], np.concatenate([others, own[1:]]), 0.1)
        >>> sorted(order[:19].tolist()) == list(range(20, 39))
        True

    Args:
        query: (D,) point.
        candidates: (N, D) points, the nearest ones of a larger number.
        c: curvature magnitude, or ``None`` to compare by cosine.

    Returns:
        (N,) int64; equals keep the order of their distances.
    """
    if len(candidates) < 2:
        return np.arange(len(candidates))
    far = _distances(np.concatenate([query[None], candidates]).astype(np.float64), c)
    np.fill_diagonal(far, -1.0)  # each is its own nearest, whatever copies there are
    order = np.argsort(far, axis=1, kind="stable")
    np.fill_diagonal(far, 0.0)
    rank = np.empty(far.shape, np.int64)
    np.put_along_axis(rank, order, np.arange(len(far))[None], axis=1)
    mutual = _mutual(rank, _NEAR)
    halves = _mutual(rank, round(_NEAR / 2))
    # A neighbour whose own near set is mostly shared brings that in.
    shared = mutual.astype(np.float32) @ halves.T
    brought = mutual & (3 * shared > 2 * halves.sum(axis=1))
    members = mutual | (brought.astype(np.float32) @ halves > 0)
    last = far[np.arange(len(far)), order[:, min(_NEAR, len(far) - 1)]].mean()
    weights = members * np.exp(-_STEEPNESS * far / max(last, 1e-12))
    weights /= weights.sum(axis=1, keepdims=True)
    weights = (rank < _EXPANDED) @ weights / min(_EXPANDED, len(far))
    common = np.minimum(weights[0], weights).sum(axis=1)
    jaccard = 1 - common / (2 - common)
    own = far[0] / max(far[0].max(), 1e-12)
    mixed = (1 - _SHARE_OF_DISTANCE) * jaccard + _SHARE_OF_DISTANCE * own
    return np.lexsort((far[0, 1:], mixed[1:].round(12)))


def _distances(points: np.ndarray, c: float | None) -> np.ndarray:
    if c is not None:
        far: np.ndarray = poincare.pairwise_dist(points, points, c)
        return far
    unit = points / np.linalg.norm(points, axis=1, keepdims=True).clip(1e-12)
    return 1 - unit @ unit.T


def _mutual(rank: np.ndarray, count: int) -> np.ndarray:
    """Pairs each of which is among the ``count`` nearest of the other, and each with itself."""
    near = rank <= count
    mutual: np.ndarray = near & near.T
    return mutual
