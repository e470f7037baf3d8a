"""Each kind of hyperbolic index beside the Euclidean FAISS index of the same kind and parameter.

`make bench` runs it. Both hold the same points of the ball, in 128 dimensions, and each is judged
by its own truth: float64 hyperbolic distance, float64 Euclidean distance. Queries go in one batch
through one thread, the two in turn; a ratio is the median of the rounds. Index sizes may be named:

    python tests/bench_index.py 100000
"""

import statistics
import sys
import time
from collections.abc import Callable, Iterator

import faiss
import numpy as np

from hiercli import neighbours
from hiercli.geometry import poincare
from hiercli.index import contents, kinds, lists
from hiercli.index.searcher import Searcher

DIM = 128
GROUPS = 1000
QUERIES = 500
ROUNDS = 5
SIZES = (100_000, 1_000_000)
BALLS = ((0.1, 2.3), (1.0, 4.0))
"""Curvature magnitude and largest radius in tangent space; the first alone at the larger size."""
STEP = neighbours.AT_ONCE


def main() -> None:
    """Print a block a size and curvature."""
    for count in map(int, sys.argv[1:]) if sys.argv[1:] else SIZES:
        for c, radius in BALLS if count < SIZES[-1] else BALLS[:1]:
            compare(count, c, radius)


def group_numbers(count: int, seed: int) -> np.ndarray:
    """(count,) group of each point of a cloud in groups."""
    return np.random.default_rng((seed, 1)).integers(0, GROUPS, count)


def cloud(
    count: int, c: float, radius: float, seed: int, dim: int = DIM, *, grouped: bool = True
) -> np.ndarray:
    """(count, dim) float32 points at half of the radius or more; in a thousand groups, or none."""
    groups = np.random.default_rng(0).normal(size=(GROUPS, dim)).astype(np.float32)
    numbers = group_numbers(count, seed)
    rng = np.random.default_rng(seed)
    points = np.empty((count, dim), np.float32)
    for first in range(0, count, STEP):
        size = min(STEP, count - first)
        direction = rng.normal(size=(size, dim)).astype(np.float32)
        if grouped:
            direction = groups[numbers[first : first + size]] + 0.3 * direction
        direction *= rng.uniform(radius / 2, radius, (size, 1)) / np.linalg.norm(
            direction, axis=1, keepdims=True
        )
        points[first : first + size] = poincare.expmap0(direction.astype(np.float64), c)
    return points


def compare(count: int, c: float, radius: float) -> None:
    """Print a line a kind."""
    points, queries = cloud(count, c, radius, 1), cloud(QUERIES, c, radius, 2)
    print(f"{count:,} points, {DIM} dimensions, c {c:g}, tangent radius up to {radius:g}:")
    near = truth(queries, points, lambda q, x: poincare.pairwise_dist(q, x, c))
    plain_near = truth(
        queries, points, lambda q, x: (x**2).sum(1) + (q**2).sum(1)[:, None] - 2 * q @ x.T
    )
    asked = neighbours.as_queries(queries, c)
    ids = np.arange(count)

    def blocks() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for first in range(0, count, STEP):
            yield (
                ids[first : first + STEP],
                points[first : first + STEP],
            )

    # A byte a coordinate is compared ten times slower than floats: minutes at the larger size.
    for kind in kinds.INDEX_TYPES[1:] if count < SIZES[-1] else ("flat", "hnsw", "ivf"):
        started = time.perf_counter()
        index = kinds.build(kind, blocks, count, DIM, c)
        built = time.perf_counter() - started
        kinds.tune(index, c)
        tuned = time.perf_counter() - started - built
        compared = f", {kinds.compared(index):,.0f} points compared" if kind == "ivf" else ""
        parameter = kinds.search_parameter(index)
        started = time.perf_counter()
        plain = euclidean(kind, points, parameter)
        plain_built = time.perf_counter() - started
        cores = faiss.omp_get_max_threads()
        faiss.omp_set_num_threads(1)
        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(ROUNDS):
            for which, these, took in ((index, asked, times[0]), (plain, queries, times[1])):
                started = time.perf_counter()
                which.search(these, 10)
                took.append(time.perf_counter() - started)
        ratio = statistics.median(theirs / ours for ours, theirs in zip(*times, strict=True))
        found, plain_found = index.search(asked, 10)[1], plain.search(queries, 10)[1]
        fetched = Searcher(index, c, contents.farthest(index)).fetch(queries, 10)
        whole = ordered(fetched, queries, points, c)
        faiss.omp_set_num_threads(cores)
        size = len(faiss.serialize_index(index)) / count
        print(
            f"  {kind}{'' if parameter is None else f' (parameter {parameter})'}: recall@10 "
            f"{share(found, near):.4f}, {share(whole, near):.4f} with "
            f"{np.mean([len(ids) for ids in fetched]):.0f} candidates in float64 order; "
            f"{QUERIES / statistics.median(times[0]):,.0f} queries/s; built in {built:.1f} s, "
            f"tuned in {tuned:.1f} s, {size:.0f} bytes a point{compared}"
        )
        print(
            f"    Euclidean: recall@10 {share(plain_found, plain_near):.4f} of its own truth, "
            f"{share(plain_found, near):.4f} of the hyperbolic one; "
            f"{QUERIES / statistics.median(times[1]):,.0f} queries/s, built in {plain_built:.1f} "
            f"s; ratio of queries/s {ratio:.2f}",
            flush=True,
        )
        del index, plain


def euclidean(kind: str, points: np.ndarray, parameter: int | None) -> faiss.Index:
    """FAISS's own index of a kind, with as many links, lists and the same parameter as ours."""
    plain: faiss.Index
    dim = points.shape[1]
    if kind == "flat":
        plain = faiss.IndexFlatL2(dim)
    elif kind == "sq8":
        plain = faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_8bit)
        plain.train(points)
    elif kind == "hnsw":
        plain = faiss.IndexHNSWFlat(dim, kinds._LINKS)
        plain.hnsw.efConstruction, plain.hnsw.efSearch = kinds._EF_CONSTRUCTION, parameter
    else:
        num_lists = lists.count_for(len(points))
        plain = faiss.IndexIVFFlat(faiss.IndexFlatL2(dim), dim, num_lists)
        plain.cp.niter, plain.nprobe = lists.ROUNDS_OF_K_MEANS, parameter
        plain.cp.max_points_per_centroid = lists.TRAINING_POINTS
        plain.train(points)
    plain.add(points)
    return plain


def ordered(
    fetched: list[np.ndarray], queries: np.ndarray, points: np.ndarray, c: float
) -> np.ndarray:
    """(Q, 10) what a search answers: candidates put in order by float64 distance."""
    found = [
        neighbours.order(query, points[ids], ids, c, 10)[1]
        for query, ids in zip(queries, fetched, strict=True)
    ]
    return np.stack(found)


def truth(
    queries: np.ndarray,
    points: np.ndarray,
    distance: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> np.ndarray:
    """(Q, 10) positions of the nearest in float64."""
    near = np.empty((len(queries), 0))
    where = np.empty((len(queries), 0), np.int64)
    for first in range(0, len(points), STEP):
        some = points[first : first + STEP].astype(np.float64)
        far = distance(queries.astype(np.float64), some)
        best = np.argpartition(far, 10, axis=1)[:, :10]
        near = np.concatenate([near, np.take_along_axis(far, best, 1)], axis=1)
        where = np.concatenate([where, best + first], axis=1)
    return np.take_along_axis(where, np.argsort(near, axis=1)[:, :10], 1)


def share(found: np.ndarray, right: np.ndarray) -> float:
    """Mean share of the right ones that were found."""
    pairs = zip(found, right, strict=True)
    return float(np.mean([np.isin(mine, true).mean() for mine, true in pairs]))


if __name__ == "__main__":
    main()
