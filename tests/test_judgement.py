"""Rankings that know kinship, and every score beside its controls."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import normalized_mutual_info_score

from hiercli.errors import DataError, FileFormatError, InputError
from hiercli.evaluation import judgement, lineages, relevance
from hiercli.evaluation.taxonomy import lca_heights
from hiercli.geometry import poincare

C = 0.1
LINES = [("a", "x"), ("a", "x"), ("b", "x"), ("c", "y"), ("c", "y")]


def naive(levels: list[int], greatest: int, ks: list[int]) -> list[float]:
    """HP at each k, H-AP, ASI, NDCG of one ranking, word for word from the papers."""
    ideal = sorted(levels, reverse=True)
    scores = [sum(levels[:k]) / sum(ideal[:k]) for k in ks]
    count = {level: levels.count(level) for level in set(levels)}

    def rel(level: int) -> float:
        return level / greatest / count[level]

    earned = [
        sum(min(rel(levels[j]), rel(levels[k])) for j in range(k + 1)) / (k + 1)
        for k in range(len(levels)) if levels[k] > 0
    ]  # fmt: skip
    scores.append(sum(earned) / sum(rel(level) for level in levels))
    relatives = sum(level > 0 for level in levels)
    shares = []
    for n in range(1, relatives + 1):
        left = list(ideal[:n])
        for level in levels[:n]:
            if level in left:
                left.remove(level)
        shares.append((n - len(left)) / n)
    scores.append(float(np.mean(shares)))
    gains = [sum((2**level - 1) / np.log2(place + 2) for place, level in enumerate(ranked))
             for ranked in (levels, ideal)]  # fmt: skip
    return [*scores, gains[0] / gains[1]]


def test_scores_are_the_papers() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        found = rng.integers(0, 4, (1, 12))
        got = relevance._rankings(found.astype(np.int8), 3, [1, 5])[0]
        assert got == pytest.approx(naive(found[0].tolist(), 3, [1, 5]))
        assert 0 < got[-1] < 1


def test_by_hand() -> None:
    """Ranking: kin of level 1, own class (2), stranger, kin. Best: 2 1 1 0.

    The relevance of the class is 1, that of each of the two kin 1/4.
    """
    got = relevance._rankings(np.array([[1, 2, 0, 1]], np.int8), 2, [1])[0]
    hap = (0.25 / 1 + (0.25 + 1) / 2 + (0.25 + 0.25 + 0.25) / 4) / 1.5
    asi = (0 / 1 + 2 / 2 + 2 / 3) / 3
    ndcg = (1 + 3 / np.log2(3) + 1 / np.log2(5)) / (3 + 1 / np.log2(3) + 1 / 2)
    assert got == pytest.approx([0.5, hap, asi, ndcg])


def collection(noise: float, seed: int = 0) -> tuple[np.ndarray, list[str]]:
    """Photos of eight classes in four genera of two families, as a binary tree in space."""
    rng = np.random.default_rng(seed)
    middles = np.array([
        [2.0 * (n // 4), 1.2 * (n // 2 % 2), 0.7 * (n % 2), 0, 0, 0] for n in range(8)
    ]) - [1.0, 0.6, 0.35, 0, 0, 0]  # fmt: skip
    tangent = np.repeat(middles, 9, axis=0) + noise * rng.normal(size=(72, 6))
    tangent *= 1.8 / np.linalg.norm(tangent, axis=1, keepdims=True)
    points = poincare.expmap0(tangent, C).astype(np.float32)
    return points, [f"kind{n}" for n in range(8) for _ in range(9)]


def taxonomy_of_eight() -> dict[str, tuple[str, str]]:
    return {f"kind{n}": (f"genus{n // 2}", f"family{n // 4}") for n in range(8)}


def test_a_ranking_by_kinship_itself_is_perfect() -> None:
    points, labels = collection(0.01)
    codes = np.array([int(label[4:]) for label in labels])
    heights = lca_heights(list(taxonomy_of_eight().values()))
    scores = relevance.score(points, codes, heights, c=C).to_dict()
    assert scores == {name: pytest.approx(1) for name in ("hp@1", "hp@10", "h-ap", "asi", "ndcg")}


def test_neighbours_are_the_hyperbolic_ones_and_never_oneself() -> None:
    points, labels = collection(1.0)
    codes = np.array([int(label[4:]) for label in labels])
    heights = lca_heights(list(taxonomy_of_eight().values()))
    got = relevance.score(points, codes, heights, c=C, precision_at=(1, 10))
    far = poincare.pairwise_dist(points.astype(float), points.astype(float), C)
    rows, severe = [], []
    for place, row in enumerate(far):
        order = [j for j in np.argsort(row, kind="stable") if j != place]
        levels = [3 - int(heights[codes[place], codes[j]]) for j in order]
        rows.append(naive(levels, 3, [1, 10]))
        severe += [3 - levels[0]] * (levels[0] < 3)
    expected = np.mean(rows, axis=0)
    assert list(got.to_dict().values()) == pytest.approx([*expected, np.mean(severe)])
    assert 0 < len(severe) < len(points)


def test_more_queries_than_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relevance, "MOST_QUERIES", 10)
    points, labels = collection(0.01)
    codes = np.array([int(label[4:]) for label in labels])
    scores = relevance.score(points, codes, lca_heights(list(taxonomy_of_eight().values())), c=C)
    assert scores.num_queries == 10
    assert scores.ndcg == pytest.approx(1)


def test_nothing_to_find() -> None:
    heights = lca_heights([("a",), ("b",), ("c",)])
    with pytest.raises(DataError, match="related images"):
        relevance.score(np.eye(3, dtype=np.float32) * 0.5, np.arange(3), heights, c=C)


def proxies_of_eight() -> np.ndarray:
    """Where genera, families and the root lie: nearer the origin the more abstract."""
    points, labels = collection(0.0)
    wide = poincare.logmap0(points.astype(np.float64), C)
    codes = np.array([int(label[4:]) for label in labels])
    places = [0.8 * wide[codes // 2 == genus].mean(axis=0) for genus in range(4)]
    places += [0.4 * wide[codes // 4 == family].mean(axis=0) for family in range(2)]
    return poincare.expmap0(np.stack([*places, 0.01 * places[0]]), C)


def test_a_real_hierarchy_stands_out_from_its_controls() -> None:
    points, labels = collection(0.15)
    found = judgement.judge(
        points, labels, taxonomy_of_eight(), ("genus", "family"), c=C, proxies=proxies_of_eight()
    ).columns
    encoder, random = found["encoder"], found["random proxies"]
    permuted, linkage = found["permuted taxonomy"], found["average linkage"]
    assert list(found) == list(judgement.COLUMNS)
    for name in ("purity@genus", "purity@family", "lca_correlation", "triplet_accuracy"):
        assert encoder[name] == pytest.approx(1, abs=0.02)
        assert permuted[name] < 0.75
    assert linkage["purity@genus"] == 1
    assert encoder["ancestor_depth"] > 0.9 > random["ancestor_depth"] + 0.2
    assert encoder["proxies_purity@family"] == 1 > random["proxies_purity@family"]
    assert encoder["proxies_correlation"] > 0.9 > random["proxies_correlation"]
    assert "purity@genus" not in random
    assert encoder["nmi"] > random["nmi"]
    assert encoder["photo_purity"] > random["photo_purity"]
    for name in ("hp@10", "h-ap", "asi", "ndcg"):
        assert encoder[name] > permuted[name]
        assert name not in random


def test_judged_twice_is_judged_the_same() -> None:
    points, labels = collection(0.5)
    twice = [
        judgement.judge(points, labels, taxonomy_of_eight(), ("genus", "family"), c=C,
                        proxies=proxies_of_eight(), seed=3)
        for _ in range(2)
    ]  # fmt: skip
    assert twice[0] == twice[1]


def test_without_proxies_or_without_a_taxonomy() -> None:
    points, labels = collection(0.2)
    plain = judgement.judge(points, labels, taxonomy_of_eight(), ("genus", "family"), c=None)
    assert list(plain.columns) == ["encoder", "average linkage", "permuted taxonomy"]
    assert "nmi" not in plain.names
    alone = judgement.judge(points, labels, {}, (), c=C, proxies=proxies_of_eight())
    assert list(alone.columns) == ["encoder", "random proxies", "average linkage"]
    assert alone.names == ["nmi", "photo_purity", "delta_hyperbolicity"]
    few = [label in ("kind0", "kind1") for label in labels]
    two = [label for label, is_in in zip(labels, few, strict=True) if is_in]
    assert judgement.judge(points[few], two, {}, (), c=C).num_classes == 2


def test_classes_without_a_place_in_the_taxonomy_are_left_out() -> None:
    points, labels = collection(0.2)
    known = taxonomy_of_eight()
    del known["kind7"]
    found = judgement.judge(points, labels, known, ("genus", "family"), c=C)
    assert (found.num_classes, found.num_photos, found.unknown) == (7, 63, ("kind7",))
    with pytest.raises(DataError, match="at least three classes"):
        judgement.judge(points, labels, {"kind0": ("a",), "kind1": ("a",)}, ("g",), c=C)


def test_mutual_information_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    classes, groups = rng.integers(0, 5, 200), rng.integers(0, 7, 200)
    groups[:80] = classes[:80]
    counts = np.zeros((7, 5))
    np.add.at(counts, (groups, classes), 1)
    expected = normalized_mutual_info_score(classes, groups)
    assert judgement._mutual_information(counts) == pytest.approx(expected)
    assert expected > 0.05


def test_delta_of_points_on_a_line_is_none_and_of_a_square_is_all() -> None:
    """Four corners of a square of side s in flat space: delta is (sqrt 2 - 1) s, the diameter
    sqrt 2 s; by geodesics near the origin space is flat, on a line through it a tree."""
    line = np.array([[t, 0.0] for t in (-0.4, -0.1, 0.2, 0.5)])
    square = 1e-4 * np.array([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])
    judged = [
        judgement._Judged(points, ["a"], np.zeros(4, int), C).delta(np.random.default_rng(0))
        for points in (line, square)
    ]
    assert judged[0] == pytest.approx(0, abs=1e-9)
    assert judged[1] == pytest.approx(2 * (2**0.5 - 1) / 2**0.5, rel=1e-3)


# -- taxonomies that people bring ---------------------------------------------------------------


def test_a_table_and_a_tree_say_the_same(tmp_path: Path) -> None:
    table, tree = tmp_path / "t.csv", tmp_path / "t.nwk"
    table.write_text("bird,genus,family\nred kite,a,x\nblack_kite,a,x\nowl,b,x\nwren,c,y\n")
    tree.write_text("((('red kite',black_kite),(owl)),(wren));")
    names = ["red kite", "black_kite", "owl", "wren"]
    by_table, by_depth = lineages.read(table, names), lineages.read(tree, names)
    assert (by_table.levels, by_table.of("owl")) == (("genus", "family"), ("b", "x"))
    assert by_depth.levels == ("depth 2", "depth 1")
    heights = [lca_heights([found.of(name) for name in names]) for found in (by_table, by_depth)]
    assert np.array_equal(*heights)
    known = lineages.read(table, ["owl", "black kite", "dodo"])
    assert set(known.lines or ()) == {"owl", "black kite"}


@pytest.mark.parametrize(
    ("name", "text", "kind", "words"),
    [
        ("t.csv", "bird,genus\ndodo,a\n", DataError, "contains none of the classes"),
        ("t.csv", "bird\nowl\n", DataError, "one level above"),
        ("t.csv", "bird,genus\nowl\n", DataError, "expected 2 columns"),
        ("t.nwk", "(owl,wren);", DataError, "one level above"),
        ("t.nwk", "owl,wren", FileFormatError, "not a valid Newick tree"),
        ("t.nwk", "(\udce9,wren);", InputError, "UTF-8"),
        ("t.csv", "bird,genus\n\udce9,a\n", InputError, "UTF-8"),
    ],
)
def test_taxonomies_that_cannot_be_used(
    name: str, text: str, kind: type, words: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(text, errors="surrogateescape")
    with pytest.raises(kind, match=words):
        lineages.read(tmp_path / name, ["owl", "wren"])
    with pytest.raises(InputError, match="missing"):
        lineages.read(tmp_path / "none.csv", ["owl"])
