"""Agreement with a taxonomy, against cases worked by hand."""

from pathlib import Path

import numpy as np
import pytest
from scipy.cluster.hierarchy import average, cophenet
from scipy.spatial.distance import squareform

from hiercli import Collection
from hiercli.errors import DataError
from hiercli.evaluation.taxonomy import (
    class_distances,
    dendrogram_purity,
    joined_at,
    judge,
    judge_points,
    lca_heights,
    one_each,
    triplet_accuracy,
)
from hiercli.geometry import poincare
from hiercli.labels import Record

LINEAGES = [("a", "x"), ("a", "x"), ("b", "x"), ("c", "y"), ("c", "y")]
HEIGHTS = np.array(
    [[0, 1, 2, 3, 3], [1, 0, 2, 3, 3], [2, 2, 0, 3, 3], [3, 3, 3, 0, 1], [3, 3, 3, 1, 0]]
)


def test_kinship_counts_the_levels_up_to_the_common_ancestor() -> None:
    assert np.array_equal(lca_heights(LINEAGES), HEIGHTS)


def test_distances_that_are_the_taxonomy_score_one() -> None:
    scores = judge(HEIGHTS.astype(float), LINEAGES, ("genus", "family"))
    assert scores.to_dict() == {
        "linkage_purity@genus": 1.0, "linkage_purity@family": 1.0, "linkage_correlation": 1.0,
        "triplet_accuracy": 1.0,
    }  # fmt: skip


@pytest.mark.parametrize("c", [0.5, None])
def test_distances_of_classes_are_those_of_their_midpoints(c: float | None) -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(60, 4)) / 4
    names = ["a", "b", "c"]
    labels = [names[number] for number in rng.integers(0, 3, 60)]
    middles = []
    for name in names:
        own = points[[label == name for label in labels]]
        middle = own.mean(axis=0) if c is None else poincare.midpoint(own, c)
        middles.append(middle / np.linalg.norm(middle))
    expected = 1 - np.array(middles) @ np.array(middles).T
    assert class_distances(points, labels, names, c) == pytest.approx(expected, abs=1e-11)
    few = class_distances(points, labels, names[:2], c)
    assert few == pytest.approx(expected[:2, :2], abs=1e-11)


def test_purity_by_hand() -> None:
    """Leaves 0, 1, 2, 3 join as ((0 1) 2) 3 with groups p q p q.

    The pair of p, 0 and 2, meets under {0, 1, 2}, of which p has two thirds; the pair of q meets
    at the root, of which q has a half.
    """
    tree = average(np.array([1.0, 2, 3, 2, 3, 3]))
    assert dendrogram_purity(
        tree[:, :2].astype(int), one_each(["p", "q", "p", "q"])
    ) == pytest.approx((2 / 3 + 1 / 2) / 2)


def test_purity_of_a_node_with_three_branches_and_of_leaves_with_several_items() -> None:
    """Leaf 0 holds p p q, leaves 1 and 2 a p and a q; all three are joined at once.

    One pair of p meets in leaf 0 (two thirds p); two pairs of p and one of q meet at the root,
    which is three fifths p and two fifths q.
    """
    counts = np.array([[2, 1], [1, 0], [0, 1]])
    expected = (1 * 2 / 3 + 2 * 3 / 5 + 1 * 2 / 5) / 4
    assert dendrogram_purity([[0, 1, 2]], counts) == pytest.approx(expected)


def test_heights_of_joins_are_scipys() -> None:
    flat = np.random.default_rng(0).random(45)
    tree = average(flat)
    met = joined_at(tree[:, :2].astype(int), tree[:, 2], 10)
    assert np.array_equal(squareform(met), cophenet(tree))
    assert np.array_equal(joined_at([[0, 2, 1], [4, 3]], np.array([1.0, 2]), 4)[2], [1, 1, 0, 2])


def test_triplet_accuracy_by_loops() -> None:
    distances = np.random.default_rng(0).random((5, 5))
    right = [
        distances[i, j] < distances[i, k]
        for i in range(5) for j in range(5) for k in range(5)
        if len({i, j, k}) == 3 and HEIGHTS[i, j] < HEIGHTS[i, k]
    ]  # fmt: skip
    assert 0 < np.mean(right) < 1
    assert triplet_accuracy(distances, HEIGHTS) == pytest.approx(np.mean(right))


def test_levels_on_which_no_two_classes_agree_have_no_purity() -> None:
    lineages = [("a", "x"), ("b", "x"), ("c", "y")]
    scores = judge(lca_heights(lineages).astype(float), lineages, ("genus", "family"))
    assert list(scores.purity) == ["family"]


def test_a_taxonomy_without_relatives_is_refused() -> None:
    with pytest.raises(DataError, match="relates differently"):
        judge(np.ones((3, 3)), [("a",), ("b",), ("c",)], ("genus",))


def records(lineages: list[tuple[str, ...]]) -> list[Record]:
    return [Record(Path("x"), str(place), line) for place, line in enumerate(lineages)]


def images(points: np.ndarray, own: list[Record]) -> Collection:
    return Collection.of_records(points, own, ("genus", "family"), c=0.1)


def test_classes_that_the_taxonomy_does_not_know_are_left_out() -> None:
    rng = np.random.default_rng(0)
    points = rng.standard_normal((7, 3)) * 0.3
    gaps = [*LINEAGES, (), ("", "x")]
    whole = judge_points(images(points[:5], records(LINEAGES)))
    assert judge_points(images(points, records(gaps))) == whole
    with pytest.raises(DataError, match="does not contain these classes"):
        judge_points(images(points, records([()] * 7)))


def test_classes_are_near_in_direction_however_far_out_they_lie() -> None:
    """The third class is the nearest to the second by geodesic, and the least of its kin."""
    angles, radii = np.array([0.0, 0.1, 0.6, 3.0]), np.array([2.9, 0.5, 0.5, 2.9])
    points = np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii[:, None]
    lineages = [("a", "x"), ("a", "x"), ("b", "x"), ("c", "y")]
    assert judge_points(images(points, records(lineages))).triplet_accuracy == 1


def test_points_that_coincide_correlate_with_nothing() -> None:
    several = [record for record in records(LINEAGES) for _ in range(3)][:13]
    scores = judge_points(images(np.full((13, 3), 0.1), several))
    assert scores.correlation == 0
    scores = judge_points(images(np.full((5, 3), 0.1), records(LINEAGES)))
    assert scores.correlation == 0
    assert scores.triplet_accuracy == 0
