"""Hits in an order corrected by their neighbours: the paper by sets, and what people get of it."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import Hier

from hiercli import neighbours, reranking
from hiercli.collection import Collection
from hiercli.evaluation.retrieval import score
from hiercli.geometry import poincare
from hiercli.index.index import Index
from hiercli.reranking import rerank


def by_sets(query: np.ndarray, candidates: np.ndarray, c: float) -> np.ndarray:
    """As Zhong et al. describe it, one set after the other."""
    points = np.concatenate([query[None], candidates]).astype(np.float64)
    count = len(points)
    far = np.array([[poincare.dist(a, b, c) for b in points] for a in points])
    lists = []
    for one in range(count):
        others = [place for place in np.argsort(far[one], kind="stable") if place != one]
        lists.append([one, *others])

    def reciprocal(one: int, k: int) -> set[int]:
        return {place for place in lists[one][: k + 1] if one in lists[place][: k + 1]}

    weights = np.zeros((count, count))
    last = np.mean([far[one, lists[one][min(20, count - 1)]] for one in range(count)])
    for one in range(count):
        members = set(reciprocal(one, 20))
        for place in reciprocal(one, 20):
            half = reciprocal(place, 10)
            if len(reciprocal(one, 20) & half) > 2 / 3 * len(half):
                members |= half
        for place in members:
            weights[one, place] = np.exp(-3 * far[one, place] / last)
        weights[one] /= weights[one].sum()
    weights = np.stack([weights[own[:6]].mean(axis=0) for own in lists])
    mixed = []
    for place in range(1, count):
        least = np.minimum(weights[0], weights[place]).sum()
        most = np.maximum(weights[0], weights[place]).sum()
        mixed.append(0.7 * (1 - least / most) + 0.3 * far[0, place] / far[0].max())
    return np.lexsort((far[0, 1:], np.round(mixed, 12)))


@pytest.mark.parametrize("seed", range(4))
def test_it_is_what_the_paper_does(seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = np.concatenate([rng.normal(size=(20, 6)) + 2 * rng.normal(size=6) for _ in range(3)])
    points = poincare.expmap0(points / 4, 0.5)
    found = rerank(points[0], points[1:], 0.5)
    assert found.tolist() == by_sets(points[0], points[1:], 0.5).tolist()
    assert sorted(found.tolist()) == list(range(59))


def test_few_candidates_keep_their_order() -> None:
    query = np.array([0.1, 0.0])
    for count in range(4):
        some = np.array([[0.1 + 0.1 * place, 0.0] for place in range(count)]).reshape(count, 2)
        assert rerank(query, some, 1.0).tolist() == list(range(count))
        assert rerank(query, some, None).tolist() == list(range(count))


def test_a_copy_of_the_query_stays_first() -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(40, 8)) / 10
    points[1] = points[0]
    assert rerank(points[0], points[1:], 0.1)[0] == 0


def chains(seed: int) -> tuple[np.ndarray, list[str]]:
    """Two arcs that come near each other: the nearest are of one's own, the far ones are not."""
    rng = np.random.default_rng(seed)
    angle = rng.uniform(0, np.pi, 60)
    first = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    second = np.stack([1 - np.cos(angle), 0.45 - np.sin(angle)], axis=1)
    points = np.concatenate([first, second]) + 0.05 * rng.normal(size=(120, 2))
    return poincare.expmap0(points / 4, 0.1), ["one"] * 60 + ["other"] * 60


def test_precision_rises_where_classes_are_chains() -> None:
    points, labels = chains(0)
    plain = score(points, labels, c=0.1)
    better = score(points, labels, c=0.1, reranked=True)
    assert better.map_at_r > plain.map_at_r + 2
    assert better.recall_at[1] > plain.recall_at[1] - 1


def test_an_index_answers_in_the_same_order(tmp_path: Path) -> None:
    points, labels = chains(1)
    queries = points[::20]
    with Index.build(tmp_path / "idx.faiss", Collection(points=points, labels=labels, c=0.1)) as at:
        found = at.search(queries, k=7, rerank=True)
        every = at.search(queries, k=None, rerank=True)
        plain = at.search(queries, k=None)
    for query, hits, whole, before in zip(queries, found, every, plain, strict=True):
        assert [hit.rank for hit in hits] == list(range(1, 8))
        assert [hit.path for hit in whole[:7]] == [hit.path for hit in hits]
        assert len(whole) == len(points)
        beyond = reranking.CANDIDATES
        assert [hit.path for hit in whole[beyond:]] == [hit.path for hit in before[beyond:]]
        _, near = neighbours.nearest(query[None].astype(np.float32), points, beyond, 0.1)
        order = near[0][rerank(query, points.astype(np.float32)[near[0]], 0.1)]
        assert [hit.path for hit in hits] == [f"point {place + 1}" for place in order[:7]]


def test_on_the_command_line(index: Path, photos: Path, exported: Path, inside: Hier) -> None:
    query = sorted(photos.rglob("*.jpg"))[0]
    done = inside("search", query, "--index", index, "-k", 3, "--rerank", "--json")
    assert done.returncode == 0
    found = json.loads(done.stdout)
    assert [hit["rank"] for hit in found["results"]] == [1, 2, 3]
    assert found["results"][0]["distance"] == pytest.approx(0, abs=1e-3), "the query itself"
    done = inside("search", query, "--index", index, "--rerank", "--level", 1)
    assert done.returncode == 2
    assert "--level and --rerank cannot be combined" in done.stderr.decode()
    done = inside("eval", "--model", exported, "--data", photos, "--rerank", "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["reranked"] is True
