"""The nearest images of every image of a collection, at a cost that grows with their number."""

# FAISS's own stubs lack much of what is used here.
# mypy: disable-error-code="attr-defined,arg-type,no-untyped-call,call-arg"

from collections.abc import Callable

import numpy as np

from hiercli import neighbours
from hiercli.index import lists

COMPARED = 20_000
"""Images of which every one is compared with every other; of more, those in the nearest lists."""
_LISTS = 8
_AT_ONCE = 4096


def nearest_of_all(
    points: np.ndarray,
    k: int,
    c: float,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest others of each point.

    Args:
        points: (N, D) in the ball, N at least 2.
        k: neighbours, cut to N - 1.
        c: curvature magnitude.
        progress: called with (done, total) points.

    Returns:
        (distances float64 (N, k), positions int64 (N, k)), nearest first. Of more than 20,000
        points a few neighbours may be missed, and others stand in their place.
    """
    total = len(points)
    k = min(k, total - 1)
    gallery = neighbours.Gallery(points, c) if total <= COMPARED else None
    index = None if gallery is not None else _listed(points, c)
    gaps = 1 - c * np.square(points, dtype=np.float64).sum(axis=1)
    distances, found = np.empty((total, k)), np.empty((total, k), np.int64)
    for first in range(0, total, _AT_ONCE):
        rows = np.arange(first, min(total, first + _AT_ONCE))
        if gallery is not None:
            far, near = gallery.nearest(points[rows], k + 1)
        else:
            far, near = _among_lists(index, points, gaps, rows, k + 1, c)
        is_other = near != rows[:, None]
        # Copies of one point may fill all places: then the last goes in the image's own stead.
        is_other[is_other.all(axis=1), -1] = False
        distances[rows], found[rows] = (
            table[is_other].reshape(len(rows), k) for table in (far, near)
        )
        if progress:
            progress(int(rows[-1]) + 1, total)
    return distances, found


def _listed(points: np.ndarray, c: float) -> "lists.faiss.IndexIVFFlat":
    numbers = np.arange(len(points))

    def blocks() -> list[tuple[np.ndarray, np.ndarray]]:
        step = neighbours.AT_ONCE
        return [(numbers[at : at + step], points[at : at + step])
                for at in range(0, len(points), step)]  # fmt: skip

    index = lists.empty(blocks, len(points), points.shape[1], c)
    for ids, some in blocks():
        lists.add(index, ids, some, c)
    index.nprobe = _LISTS
    return index


def _among_lists(
    index: "lists.faiss.IndexIVFFlat",
    points: np.ndarray,
    gaps: np.ndarray,
    rows: np.ndarray,
    k: int,
    c: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Distances and positions of the nearest in the nearest lists.

    Distances are those of `poincare.dist` to six digits: differences of float32 numbers lose
    nothing where points are close, and what is left is computed in float64.

    Args:
        index: of all points.
        points: (N, D) of the ball.
        gaps: (N,) 1 - c|x|^2 of each, float64.
        rows: positions of those whose neighbours are asked for.
        k: neighbours.
        c: curvature magnitude.
    """
    _, near = index.search(neighbours.as_queries(points[rows], c), k)
    near = np.where(near < 0, rows[:, None], near)  # the lists held fewer
    between = points[near] - points[rows][:, None]
    squared = np.einsum("rkd,rkd->rk", between, between).astype(np.float64)
    ratio = c * squared / (gaps[near] * gaps[rows][:, None])
    far = 2 / np.sqrt(c) * np.arcsinh(np.sqrt(ratio))
    order = np.argsort(far, axis=1, kind="stable")
    return np.take_along_axis(far, order, 1), np.take_along_axis(near, order, 1)
