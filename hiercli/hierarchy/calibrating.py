"""How far the verdicts of an index can be trusted, learned from its own images.

Some of them are looked for among the others, once as they are and once with their whole class left
out, as if it were not known yet. That gives verdicts of which it is known whether they are right.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from hiercli import neighbours
from hiercli.errors import DataError
from hiercli.hierarchy import depth
from hiercli.hierarchy.kinds import Kinds
from hiercli.hierarchy.labelled import Labelled
from hiercli.hierarchy.verdict import FEATURES, NEIGHBOURS, SAME, Calibration, sigmoid

LEAST = 10
"""Images from which something can be learned."""
_MOST_ASKED = 1000
_ROWS = 4096
"""Images that are compared at a time."""
_CANDIDATES = 2 * NEIGHBOURS
_LEAST_SPREAD = 0.05
"""Of distances to the nearest image, over their mean: a few say little of how they vary."""
_UNKNOWN = 0.2
"""How much an image whose class was left out counts beside one whose class is known."""
_FAR = 0.95
"""Share of the images of unknown classes that count as something like what is known."""
_RIDGE = 1e-3

Near = tuple[np.ndarray, np.ndarray]
"""Distances of the nearest images, nearest first, and the numbers of their classes."""


def calibrate(images: Labelled, progress: Callable[[int, int], None] | None = None) -> Calibration:
    """Learn from images, at most 1,000 of which are looked for among all.

    Examples:
        >>> import numpy as np
        >>> from hiercli.collection import Collection
        >>> rng = np.random.default_rng(0)
        >>> middles = rng.normal(size=(8, 1, 16)) * 0.2
        >>> points = (middles + 0.02 * rng.normal(size=(8, 12, 16))).reshape(96, 16)
        >>> labels = [f"kind{number // 12}" for number in range(96)]
        >>> known = calibrate(Labelled.of(Collection(points=points, labels=labels, c=0.1)))
        >>> known.verdict(np.full(20, 0.2), ["kind3"] * 20).name
        'kind3'
        >>> known.verdict(np.full(20, 9.0), ["kind3"] * 20).is_foreign
        True

    Args:
        images: without c, distances are those of directions.
        progress: called with (done, total) images compared.

    Raises:
        DataError: fewer than two classes, or fewer than `LEAST` images to learn from.
    """
    codes = images.codes
    if len(images.classes) < 2:
        raise DataError("expected images of two classes or more, with labels")
    counts = np.bincount(codes)
    if (several := int(counts[counts > 1].sum())) < LEAST:
        raise DataError(
            f"expected at least {LEAST} images of classes with two images or more, found {several}"
        )
    kinds = Kinds.of(images)
    asked = np.unique(np.linspace(0, len(codes) - 1, min(_MOST_ASKED, len(codes))).astype(int))
    own, others = _neighbours(images, asked, progress)
    known = [near for near, at in zip(own, asked, strict=True) if counts[codes[at]] > 1]
    nearest = np.array([near[0][0] for near in known if len(near[0])])
    gaps = [near[0][-1] - near[0][0] for near in known if len(near[0])]
    if not len(nearest):
        raise DataError("expected images that differ, found copies of each other")
    scale = max(float(np.median(gaps)) / 2, 1e-6)
    middle = float(nearest.mean())
    spread = max(float(nearest.std()), _LEAST_SPREAD * middle, 1e-6)
    strange = np.array([near[0][0] for near in others if len(near[0])])
    farthest = max(float(np.quantile(strange, _FAR)), float(np.quantile(nearest, 0.99)))
    draft = Calibration(kinds, scale, middle, spread, (0.0,) * FEATURES, farthest)
    weights = _weights(draft, codes[asked], ((own, 1.0), (others, _UNKNOWN)))
    return dataclasses.replace(draft, weights=weights, radii=_radii(images, asked))


def _radii(images: Labelled, asked: np.ndarray) -> tuple[float, ...]:
    """Of some images, see `Calibration`."""
    if images.c is None or not images.image_depth:
        return ()
    return tuple(depth.radii(images.points(asked), images.c))


def _weights(
    draft: Calibration, codes: np.ndarray, regimes: Sequence[tuple[list[Near], float]]
) -> tuple[float, ...]:
    """Weights of the logistic model.

    Args:
        draft: without them.
        codes: (Q,) class of each image that was looked for.
        regimes: the neighbours of each, and how much they count.
    """
    rows, right, weight = [], [], []
    for found, share in regimes:
        for near, code in zip(found, codes.tolist(), strict=True):
            if len(near[0]):
                chain, evidence = draft.evidence(*near)
                true = set(draft.kinds.chain(code))
                rows.append(evidence)
                right += [kind in true for kind in chain]
                weight += [share] * len(chain)
    return _fit(np.concatenate(rows), np.array(right, float), np.array(weight))


def _fit(rows: np.ndarray, right: np.ndarray, weight: np.ndarray) -> tuple[float, ...]:
    """Weights of a logistic model, kept small where the images leave them open."""
    from scipy.optimize import minimize

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        score = rows @ weights
        value = (weight * (np.logaddexp(0, score) - right * score)).sum() / weight.sum()
        slope = rows.T @ (weight * (sigmoid(score) - right)) / weight.sum()
        return value + _RIDGE * (weights @ weights) / 2, slope + _RIDGE * weights

    found = minimize(loss, np.zeros(rows.shape[1]), jac=True, method="L-BFGS-B").x
    return tuple(float(weight) for weight in found)


def _neighbours(
    images: Labelled, asked: np.ndarray, progress: Callable[[int, int], None] | None
) -> tuple[list[Near], list[Near]]:
    """Distances and classes of the nearest images of some, as if these were not in the index.

    An image that is left out leaves its class one vote fewer than it would have; so that this is no
    handicap, each other class does without one image too. Copies count as the image itself.

    Returns:
        of all other images; of those of other classes.
    """
    codes = images.codes
    queries = _lifted(images.points(asked), images.c, is_query=True)
    spare = np.zeros(len(codes), bool)
    order = np.random.default_rng(0).permutation(len(codes))
    spare[order[np.unique(codes[order], return_index=True)[1]]] = True
    spare &= np.bincount(codes)[codes] > 1
    best = _Candidates(len(asked)), _Candidates(len(asked))
    start = 0
    for points in images.blocks():
        for some in np.split(points, range(_ROWS, len(points), _ROWS)):
            block = np.arange(start, start + len(some))
            products = queries @ _lifted(some, images.c).T
            same = codes[asked, None] == codes[block]
            left_out = (asked[:, None] == block) | (spare[block] & ~same)
            for hidden, found in zip((left_out, same), best, strict=True):
                found.add(np.where(hidden, -np.inf, products), block)
            start += len(some)
            if progress:
                progress(start, len(codes))
    return best[0].nearest(images, asked), best[1].nearest(images, asked)


def _lifted(points: np.ndarray, c: float | None, *, is_query: bool = False) -> np.ndarray:
    """Rows whose products with those of queries are the larger, the nearer they are."""
    if c is None:
        unit: np.ndarray = points / np.linalg.norm(points, axis=1, keepdims=True).clip(1e-12)
        return unit
    return neighbours.as_queries(points, c) if is_query else neighbours.lift(points, c)


class _Candidates:
    """The images with the largest products so far, which distances in float64 put in order.

    Args:
        count: queries.
    """

    def __init__(self, count: int) -> None:
        self._products = np.full((count, _CANDIDATES), -np.inf, np.float32)
        self._positions = np.full((count, _CANDIDATES), -1)

    def add(self, products: np.ndarray, positions: np.ndarray) -> None:
        """Take the best of further images into account.

        Args:
            products: (Q, M), -inf for those that do not count.
            positions: (M,) of the images.
        """
        least = self._products.min(axis=1)
        some = np.flatnonzero((products > least[:, None]).any(axis=0))
        merged = np.concatenate([self._products, products[:, some]], axis=1)
        at = np.concatenate(
            [self._positions, np.broadcast_to(positions[some], (len(merged), len(some)))], axis=1
        )
        near = np.argpartition(-merged, _CANDIDATES - 1, axis=1)[:, :_CANDIDATES]
        self._products = np.take_along_axis(merged, near, axis=1)
        self._positions = np.take_along_axis(at, near, axis=1)

    def nearest(self, images: Labelled, asked: np.ndarray) -> list[Near]:
        """Distances and classes of the nearest images of each that was asked for (Q,)."""
        self._positions[np.isneginf(self._products)] = -1
        needed = np.union1d(self._positions[self._positions >= 0], asked)
        points = images.points(needed)
        result = []
        for at, near in zip(np.searchsorted(needed, asked), self._positions, strict=True):
            near = near[near >= 0]
            candidates = points[np.searchsorted(needed, near)]
            if images.c is None:
                ways = _lifted(np.stack([points[at], *candidates]).astype(np.float64), None)
                far = 1 - ways[1:] @ ways[0]
                order = np.argsort(far, kind="stable")
                far, near = far[order], near[order]
            else:
                far, near = neighbours.order(points[at], candidates, near, images.c, len(near))
            told = far > SAME
            result.append((far[told][:NEIGHBOURS], images.codes[near[told][:NEIGHBOURS]]))
        return result
