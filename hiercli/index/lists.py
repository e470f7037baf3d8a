"""Lists around centroids, in which an index of type ivf keeps its points; see `kinds`."""

# FAISS's own stubs lack much of what is used here.
# mypy: disable-error-code="attr-defined,arg-type"

from collections.abc import Callable, Iterable

import faiss
import numpy as np

from hiercli import neighbours
from hiercli.geometry import lorentz

Blocks = Callable[[], Iterable[tuple[np.ndarray, np.ndarray]]]
"""Gives ids (N,) and points of the ball (N, D) in blocks, each time it is called."""
ROUNDS_OF_K_MEANS = 10
TRAINING_POINTS = 64
"""For each centroid."""


def count_for(count: int) -> int:
    """How many lists an index of so many points has."""
    return max(1, min(int(2 * count**0.5), count // 39))


def empty(blocks: Blocks, count: int, dim: int, c: float) -> faiss.IndexIVFFlat:
    """An index of empty lists around centroids of some points, see `kinds.build`."""
    num_lists = count_for(count)
    wanted = min(count, TRAINING_POINTS * num_lists)
    generator = np.random.default_rng(0)
    chosen = np.zeros(count, bool)
    chosen[generator.permutation(count)[:wanted]] = True
    sample, at = [], 0
    for ids, points in blocks():
        sample.append(neighbours.lift(points[chosen[at : at + len(ids)]], c))
        at += len(ids)
    centroids = _centroids(np.concatenate(sample), num_lists)
    quantizer = faiss.IndexFlatIP(dim + 1)
    quantizer.add(centroids)
    lists = faiss.IndexIVFFlat(quantizer, dim + 1, num_lists, faiss.METRIC_INNER_PRODUCT)
    quantizer.this.disown()
    lists.own_fields = True
    lists.is_trained = True
    return lists


def _centroids(points: np.ndarray, k: int) -> np.ndarray:
    """Centroids (k, D+1) of lifted points (N, D+1): spherical k-means, all at one radius.

    To the outer ones, distance is mostly a matter of direction. In a k-means by hyperbolic distance
    a few inner centroids are nearest to everybody, and their lists hold most points: of the 100,000
    points of `tests/bench_index.py` a search compared 1,658 at c 0.1 and 17,145 at c 1, radius 4,
    where it compares 194 now and finds as much.
    """
    direction = points[:, 1:] / np.linalg.norm(points[:, 1:], axis=1, keepdims=True).clip(1e-12)
    means = faiss.Kmeans(
        direction.shape[1], k, niter=ROUNDS_OF_K_MEANS, spherical=True, seed=0,
        min_points_per_centroid=1, max_points_per_centroid=TRAINING_POINTS,
    )  # fmt: skip
    means.train(direction)
    directions: np.ndarray = means.centroids  # type: ignore[assignment]
    return np.insert(directions, 0, np.float32(2**0.5), axis=1)


def add(lists: faiss.IndexIVFFlat, ids: np.ndarray, points: np.ndarray, c: float) -> None:
    """Put points of the ball (N, D) into the lists of their nearest centroids, under ids (N,)."""
    if not len(ids):
        return
    lifted = neighbours.lift(points, c)
    quantizer = faiss.downcast_index(lists.quantizer)
    # The sign goes to the point's side: to FAISS it would be a stored point, not a query.
    _, nearest = quantizer.search(np.ascontiguousarray(lorentz.as_query(lifted)), 1)
    numbers = np.ascontiguousarray(ids, np.int64)
    nearest = np.ascontiguousarray(nearest[:, 0], np.int64)
    lists.add_core(
        len(ids), faiss.swig_ptr(lifted), faiss.swig_ptr(numbers), faiss.swig_ptr(nearest)
    )
