"""How far from the origin points and proxies lie, and what proxies say of classes by themselves."""

from collections.abc import Sequence

import numpy as np

from hiercli.geometry import poincare

NUM_RADII = 21
_STEPS = np.linspace(0, 1, NUM_RADII)
_VARIED = 0.005
"""Spread of radii, as a share of their mean, below which all lie on one sphere."""
_NEARER = 0.95
"""Proxies carry depth if half of them lie within this share of the middle radius of the points."""
_INWARD = 0.98
"""Share of a proxy's radius within which its parent must lie, in the tree of proxies alone."""


def carries_depth(points: np.ndarray, proxies: np.ndarray, c: float) -> bool:
    """Whether radii say how abstract something is: proxies lie further in, and radii differ.

    Args:
        points: (N, D) of photos or classes.
        proxies: (P, D).
    """
    radius = radius_of(points.astype(np.float64), c)
    inner = radius_of(proxies.astype(np.float64), c)
    varied = radius.std() > _VARIED * radius.mean()
    return bool(varied and np.median(inner) < _NEARER * np.median(radius))


def radii(points: np.ndarray, c: float) -> np.ndarray:
    """Distances from the origin below which 0, 5, ..., 100 % of some points (N, D) lie, (21,)."""
    quantiles: np.ndarray = np.quantile(radius_of(points.astype(np.float64), c), _STEPS)
    return quantiles


def specificity(point: np.ndarray, others: np.ndarray, c: float) -> float:
    """Share of other images that lie nearer to the origin, 0 to 1.

    Examples:
        >>> line = np.linspace(0.1, 0.9, 9)[:, None] * np.array([[1.0, 0.0]])
        >>> specificity(np.array([0.0, 0.5]), radii(line, 1.0), 1.0)
        0.5

    Args:
        point: (D,).
        others: (21,) of the other images, see `radii`.
        c: curvature magnitude.
    """
    own = radius_of(point.astype(np.float64), c)
    return round(float(np.interp(own, others, _STEPS)), 4)


def radius_of(points: np.ndarray, c: float) -> np.ndarray:
    """Hyperbolic distance of points (..., D) of the ball from its origin, (...)."""
    length: np.ndarray = 2 * np.linalg.norm(poincare.logmap0(points, c), axis=-1)
    return length


def nearest_proxy(points: np.ndarray, proxies: np.ndarray, c: float) -> np.ndarray:
    """Position of the proxy that is nearest to each point, (N,)."""
    from hiercli.neighbours import nearest  # trees of classes do without FAISS

    _, found = nearest(points.astype(np.float32), proxies.astype(np.float32), 1, c)
    which: np.ndarray = found[:, 0]
    return which


def ancestor_radius(middles: np.ndarray, proxies: np.ndarray, c: float) -> np.ndarray:
    """How far from the origin the common ancestor of every two classes lies, (C, C).

    The ancestor is the proxy with the smallest largest distance to the two (HIER, equation 6,
    without noise), whatever the tree.

    Args:
        middles: (C, D) of classes, see `class_middles`.
        proxies: (P, D).
    """
    inner = proxies.astype(np.float64)
    reach, depth = poincare.pairwise_dist(middles, inner, c), radius_of(inner, c)
    return np.stack([depth[np.maximum(row, reach).argmin(axis=1)] for row in reach])


def proxy_joins(
    middles: np.ndarray, proxies: np.ndarray, c: float
) -> tuple[list[list[int]], np.ndarray]:
    """The tree that proxies make by themselves, with no clustering of classes.

    A class hangs on its nearest proxy, a proxy on the nearest of those that lie nearer the origin
    than itself (by `_INWARD`), the innermost is the root. What holds nothing, or one branch only,
    is no join.

    Args:
        middles: (C, D) of classes, see `class_middles`.
        proxies: (P, D).

    Returns:
        (members, heights) as of `tree.joins`; a height is how much nearer the origin a proxy lies
        than the outermost one.
    """
    inner = proxies.astype(np.float64)
    depth = radius_of(inner, c)
    apart = poincare.pairwise_dist(inner, inner, c)
    apart[depth[None] > _INWARD * depth[:, None]] = np.inf
    outermost_first = np.argsort(-depth, kind="stable")
    root = outermost_first[-1]
    above = np.where(np.isfinite(apart).any(axis=1), apart.argmin(axis=1), root)
    below: list[list[int]] = [[] for _ in inner]
    for number, proxy in enumerate(poincare.pairwise_dist(middles, inner, c).argmin(axis=1)):
        below[proxy].append(number)
    members: list[list[int]] = []
    heights: list[float] = []
    for proxy in outermost_first:
        held = below[proxy]
        if len(held) > 1:
            members.append(held)
            heights.append(float(depth.max() - depth[proxy]))
            held = [len(middles) + len(members) - 1]
        if proxy != root:
            below[above[proxy]] += held
    return members, np.array(heights)


def class_middles(
    points: np.ndarray, labels: Sequence[str], names: Sequence[str], c: float
) -> np.ndarray:
    """Midpoints of classes, (C, D), all as far from the origin as the photos are on average.

    Args:
        points: (N, D) photos.
        labels: N class names.
        names: C of them.
    """
    codes, wide = np.asarray(labels), points.astype(np.float64)
    middles = np.stack([poincare.midpoint(wide[codes == name], c) for name in names])
    return at_one_radius(middles, float(radius_of(wide, c).mean()), c)


def at_one_radius(middles: np.ndarray, radius: float, c: float) -> np.ndarray:
    """Midpoints moved to one hyperbolic distance from the origin.

    Their own tells how widely their photos are spread, not how deep they lie.
    """
    direction = middles / np.linalg.norm(middles, axis=1, keepdims=True).clip(1e-12)
    placed: np.ndarray = poincare.expmap0(direction * (radius / 2), c)
    return placed
