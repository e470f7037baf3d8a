"""Places of hierarchical proxies from a tree that is grown over the images themselves."""

from collections.abc import Sequence

import numpy as np

from hiercli.geometry import poincare

_NUM_PROXIES = 256
_MOST_LEAVES = 4096
"""Leaves of the largest tree that is grown: average linkage needs their square."""
_MOST_PHOTOS = 200
"""Photographs of one class whose own tree is grown."""


def means_of(tangent: np.ndarray, codes: np.ndarray, count: int) -> np.ndarray:
    """The mean of each of so many groups; of one without images, that of all."""
    members = [tangent[codes == code] for code in range(count)]
    return np.stack([(own if len(own) else tangent).mean(axis=0) for own in members])


def grow_proxies(
    tangent: np.ndarray, labels: np.ndarray, num_proxies: int, groups: np.ndarray | None = None
) -> np.ndarray:
    """First places of hierarchical proxies: the nodes of a tree grown over the training classes.

    The mean of many tangent vectors that disagree is short, so a node high in the tree lies near
    the origin and one that holds a single class far out: depth is there from the first step.

    Args:
        tangent: (N, D) tangent vectors of the training photographs.
        labels: (N,) class ids.
        num_proxies: P.
        groups: (N, L) known groups above the classes, fine to coarse; -1 where one is not known.

    Returns:
        (P, D): known groups, coarse ones first, then the highest joins of the classes, then the
        classes themselves, then the highest joins of photographs within classes; if even these do
        not suffice, they come again.
    """
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    means = np.stack([tangent[own].mean(axis=0) for own in members])
    if len(members) > _MOST_LEAVES:
        evenly = np.linspace(0, len(members) - 1, _MOST_LEAVES).astype(int)
        means, members = means[evenly], [members[place] for place in evenly]
    joins, _ = _joins(means)
    places = [joins[::-1], means]
    if groups is not None:
        known = [own for own in groups.T[::-1] if own.max() >= 0]
        places = [means_of(tangent, own, int(own.max()) + 1) for own in known] + places
    if sum(map(len, places)) < num_proxies:
        within = [_joins(tangent[own[:_MOST_PHOTOS]]) for own in members]
        # The last join of a class is the class itself, which has its place already.
        nodes = np.concatenate([nodes[:-1] for nodes, _ in within])
        heights = np.concatenate([heights[:-1] for _, heights in within])
        places.append(nodes[np.argsort(-heights, kind="stable")])
    return np.resize(np.concatenate(places), (num_proxies, tangent.shape[1]))


def proxies_of_images(points: np.ndarray, labels: Sequence[str] | None, c: float) -> np.ndarray:
    """Proxies for images whose encoder has none: the nodes of a tree grown over the images.

    Args:
        points: (N, D) in the ball.
        labels: N class names; without two different ones each image stands for itself.
        c: curvature magnitude.

    Returns:
        (P, D) float32 in the ball.
    """
    _, codes = np.unique(np.asarray(labels or [""] * len(points)), return_inverse=True)
    if codes.max(initial=0) == 0:
        codes = np.arange(len(points))
    tangent = np.asarray(poincare.logmap0(points.astype(np.float64), c))
    places = grow_proxies(tangent, codes, _NUM_PROXIES)
    return np.asarray(poincare.expmap0(places, c), np.float32)


def _joins(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean of the members of each join, lowest join first, and its height: (M-1, D), (M-1,)."""
    if len(vectors) < 2:
        return np.empty((0, vectors.shape[1]), vectors.dtype), np.empty(0)
    from scipy.cluster.hierarchy import linkage

    # A mean that vanishes has no direction; any will do.
    vectors = np.where(np.any(vectors, axis=1, keepdims=True), vectors, vectors.dtype.type(1e-12))
    tree = linkage(vectors.astype(np.float64), "average", "cosine")
    sums, sizes = list(vectors), [1] * len(vectors)
    for first, second in tree[:, :2].astype(int):
        sums.append(sums[first] + sums[second])
        sizes.append(sizes[first] + sizes[second])
    count = len(vectors)
    means = np.stack(sums[count:]) / np.array(sizes[count:])[:, None]
    return means.astype(vectors.dtype), tree[:, 2]
