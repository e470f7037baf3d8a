"""Exact hyperbolic search and the retrieval metrics, against brute force."""

import itertools

import numpy as np
import pytest

from hiercli import neighbours
from hiercli.errors import DataError
from hiercli.evaluation import retrieval
from hiercli.geometry import poincare


def ball(count: int, seed: int, c: float = 0.1, dim: int = 12) -> np.ndarray:
    rng = np.random.default_rng(seed)
    tangent = rng.normal(size=(count, dim))
    tangent *= rng.uniform(0.05, 2.3, (count, 1)) / np.linalg.norm(tangent, axis=1, keepdims=True)
    return poincare.expmap0(tangent, c).astype(np.float32)


@pytest.mark.parametrize("c", [0.1, 1.0])
def test_search_is_the_float64_order_even_among_near_duplicates(c: float) -> None:
    gallery = ball(1500, 0, c)
    rng = np.random.default_rng(1)
    gallery[:40] = gallery[40] + rng.normal(size=(40, 12)).astype(np.float32) * 1e-4
    queries = np.concatenate([ball(190, 2, c), gallery[:10]])
    distances, found = neighbours.nearest(queries, gallery, 10, c)
    truth = poincare.pairwise_dist(queries.astype(np.float64), gallery.astype(np.float64), c)
    exact = np.stack(
        [poincare.dist(q[None].astype(np.float64), gallery.astype(np.float64), c) for q in queries]
    )
    order = np.lexsort((np.broadcast_to(np.arange(1500), exact.shape), exact), axis=1)[:, :10]
    assert np.array_equal(found, order)
    assert np.allclose(distances, np.take_along_axis(truth, order, 1), atol=1e-6)
    euclidean = np.argsort(((queries[:, None] - gallery[None]) ** 2).sum(-1), axis=1)[:, :10]
    assert not np.array_equal(euclidean, order)


@pytest.mark.parametrize("c", [0.1, 1.0])
def test_a_crowd_of_near_duplicates_hides_nothing(c: float) -> None:
    rng = np.random.default_rng(1)
    gallery = ball(1, 0, c) + rng.normal(size=(300, 12)).astype(np.float32) * 1e-4
    _, found = neighbours.nearest(gallery, gallery, 10, c)
    wide = gallery.astype(np.float64)
    exact = np.stack([poincare.dist(point[None], wide, c) for point in wide])
    order = np.lexsort((np.broadcast_to(np.arange(300), exact.shape), exact), axis=1)[:, :10]
    assert np.array_equal(found, order)


def test_points_that_are_not_finite_are_refused() -> None:
    points = ball(4, 0)
    points[0] = np.nan
    with pytest.raises(DataError, match="finite"):
        retrieval.score(points, list("aabb"), c=0.1)


def test_cosine_ranks_by_direction() -> None:
    gallery = np.array([[1, 0], [10, 1], [0, 5]], np.float32)
    distances, found = neighbours.nearest(np.array([[2, 0.1]], np.float32), gallery, 3, None)
    assert found.tolist() == [[0, 1, 2]] or found.tolist() == [[1, 0, 2]]
    assert np.all(np.diff(distances[0]) >= 0)


def brute_force(
    points: np.ndarray, labels: list[str], c: float, ks: tuple[int, ...]
) -> dict[str, float]:
    recall, map_at_r, r_precision, asked = dict.fromkeys(ks, 0.0), 0.0, 0.0, 0
    wide = points.astype(np.float64)
    for i, label in enumerate(labels):
        others = [j for j in range(len(labels)) if j != i]
        d = {j: float(poincare.dist(wide[i], wide[j], c)) for j in others}
        ranked = sorted(others, key=lambda j, d=d: (d[j], j))
        right = [labels[j] == label for j in ranked]
        total = sum(right)
        if not total:
            continue
        asked += 1
        for k in ks:
            recall[k] += any(right[:k])
        r_precision += sum(right[:total]) / total
        map_at_r += sum(sum(right[: r + 1]) / (r + 1) for r in range(total) if right[r]) / total
    scores = {f"recall@{k}": 100 * v / asked for k, v in recall.items()}
    return scores | {
        "map@r": 100 * map_at_r / asked,
        "r_precision": 100 * r_precision / asked,
        "num_queries": asked,
    }


def test_metrics_agree_with_brute_force(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval, "_QUERIES_AT_A_TIME", 7)
    points = ball(60, 4)
    points[1] = points[0]  # an identical twin counts, the query itself does not
    labels = [str(n % 9) for n in range(59)] + ["alone"]
    scores = retrieval.score(points, labels, c=0.1, recall_at=(1, 2, 4))
    expected = brute_force(points, labels, 0.1, (1, 2, 4))
    assert scores.unanswerable == 1
    for name, value in expected.items():
        assert scores.to_dict()[name] == pytest.approx(value, abs=1e-3), name
    assert sum(count for count, _, _ in scores.per_class.values()) == 59


def test_a_separate_gallery_masks_nothing() -> None:
    points = ball(10, 5)
    scores = retrieval.score(points[:5], list("abcde"), points, list("abcdeabcde"), c=0.1)
    assert scores.recall_at[1] == 100
    assert (scores.num_queries, scores.num_gallery) == (5, 10)


def test_nothing_to_find_is_an_error() -> None:
    with pytest.raises(DataError, match="two images"):
        retrieval.score(ball(3, 0), list("abc"), c=0.1)


def test_no_more_than_the_gallery_is_asked_for() -> None:
    _, found = neighbours.nearest(ball(2, 0), ball(3, 1), 10, 0.1)
    assert found.shape == (2, 3)
    assert all(sorted(row) == [0, 1, 2] for row in found.tolist())
    assert len(list(itertools.chain(*found))) == 6
