"""Verdicts: what a query is, how sure that is, and when nothing is like it."""

import dataclasses
import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from conftest import Hier, paint
from test_index import Colours

from hiercli.collection import Collection
from hiercli.errors import DataError, FileFormatError, InputError
from hiercli.evaluation import abstention
from hiercli.geometry import poincare
from hiercli.hierarchy import calibrating
from hiercli.hierarchy.calibrating import calibrate
from hiercli.hierarchy.kinds import Kinds
from hiercli.hierarchy.labelled import Labelled
from hiercli.hierarchy.verdict import NEIGHBOURS, Calibration, Verdict
from hiercli.index import update, verdicts
from hiercli.index.index import Index
from hiercli.index.locations import catalogue_path
from hiercli.index.schema import facts_checksum

LINES = {
    "wren": ("Troglodytes", "birds"),
    "jay": ("Garrulus", "birds"),
    "oak": ("Quercus", "trees"),
    "holm": ("Quercus", "trees"),
}


def images(labels: list[str], levels: bool = True) -> Collection:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(len(labels), 4)) / 10
    return Collection(
        points=points, labels=labels, c=0.1, level_names=("genus", "group") if levels else (),
        levels=[LINES[label] for label in labels] if levels else None,
    )  # fmt: skip


def world(seed: int, spread: float = 0.15, per_class: int = 16) -> Collection:
    """Three groups of five classes: classes of a group are near each other, and hard to tell."""
    rng = np.random.default_rng(seed)
    middles = np.random.default_rng(7)
    points, labels, levels = [], [], []
    for group in range(3):
        centre = middles.normal(size=16)
        for number in range(5):
            own = centre + 0.2 * middles.normal(size=16)
            for _ in range(per_class):
                points.append(own + spread * rng.normal(size=16))
                labels.append(f"kind{group}{number}")
                levels.append((f"group{group}",))
    tangent = np.array(points) / 8
    return Collection(points=poincare.expmap0(tangent, 0.1), labels=labels, levels=levels, c=0.1)


def judged(known: Calibration, index: Collection, queries: Collection) -> list[Verdict]:
    far = poincare.pairwise_dist(
        queries.points.astype(np.float64), index.points.astype(np.float64), 0.1
    )
    order = np.argsort(far, axis=1)[:, : NEIGHBOURS + 1]
    labels = index.labels or ()
    return [
        known.verdict(far[row, near], [labels[place] for place in near])
        for row, near in enumerate(order)
    ]


def test_kinds_are_classes_and_the_groups_above_them() -> None:
    kinds = Kinds.of(Labelled.of(images(["wren", "jay", "oak", "holm", "wren"])))
    named = [[kinds.names[kind] for kind in kinds.chain(leaf)] for leaf in range(4)]
    assert named == [["holm", "Quercus", "trees"], ["jay", "Garrulus", "birds"],
                     ["oak", "Quercus", "trees"], ["wren", "Troglodytes", "birds"]]  # fmt: skip
    assert kinds.size(kinds.names.index("birds")) == 2
    grown = Kinds.of(Labelled.of(images(["wren", "jay", "oak", "holm"], levels=False)))
    assert grown.num_classes == 4
    assert len(grown.names) == 4 + 2, "the join of all says nothing"


def test_a_group_that_lacks_is_passed_over() -> None:
    lines = [("a1", "f"), ("", "f"), ("", "")]
    some = Collection(
        points=np.eye(3) / 10, labels=["x", "y", "z"], levels=lines, level_names=("genus", "family")
    )
    kinds = Kinds.of(Labelled.of(some))
    named = [[kinds.names[kind] for kind in kinds.chain(leaf)] for leaf in range(3)]
    assert named == [["x", "a1", "f"], ["y", "f"], ["z"]]


@pytest.mark.parametrize("levels", [True, False])
def test_probabilities_are_those_that_come_true(levels: bool) -> None:
    """Expected calibration error below 0.05, on queries that nothing was learned from."""
    index, queries = world(1, 0.5), world(2, 0.5, per_class=40)
    if not levels:
        index = Collection(points=index.points, labels=index.labels, c=index.c)
    known = calibrate(Labelled.of(index))
    sure, right = [], []
    for verdict, label in zip(judged(known, index, queries), queries.labels or (), strict=True):
        leaf = known.kinds.names.index(label)
        true = {known.kinds.names[kind] for kind in known.kinds.chain(leaf)}
        for name, _, probability in verdict.kinds:
            sure.append(probability)
            right.append(name in true)
    bins = np.minimum(np.array(sure) * 10, 9).astype(int)
    parts = [(bins == number) for number in range(10)]
    error = sum(
        part.mean() * abs(np.array(sure)[part].mean() - np.array(right)[part].mean())
        for part in parts
        if part.any()
    )
    assert 0.4 < np.mean(right) < 0.95
    assert error < 0.05


@pytest.mark.parametrize("c", [0.1, None])
def test_a_calibration_does_not_hang_on_how_many_points_are_read_at_once(
    c: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = world(1, 0.4, per_class=30)
    whole = Labelled.of(Collection(points=index.points, labels=index.labels, c=c))
    expected = calibrate(whole)
    monkeypatch.setattr(calibrating, "_ROWS", 7)
    parts = dataclasses.replace(whole, blocks=lambda: iter(np.split(index.points, [5, 90, 400])))
    found = calibrate(parts)
    assert found.kinds == expected.kinds
    np.testing.assert_allclose(found.weights, expected.weights, rtol=1e-6)
    assert found.farthest == pytest.approx(expected.farthest)


def test_an_index_learns_what_its_points_say(tmp_path: Path) -> None:
    """Read from the tables block by block, with images without labels among them."""
    some = world(1, 0.4)
    expected = calibrate(Labelled.of(some))
    labels = [name for label in some.labels or () for name in (label, "")]
    points = np.repeat(some.points, 2, axis=0)
    points[1::2] = -points[1::2]
    levels = [line for line in some.levels or () for _ in range(2)]
    both = Collection(points=points, labels=labels, levels=levels, c=0.1)
    with Index.build(tmp_path / "idx.faiss", both) as made:
        found = made.reader.calibration
    assert found is not None
    assert found.kinds == expected.kinds
    np.testing.assert_allclose(found.weights, expected.weights, rtol=1e-6)


def test_the_group_is_named_where_the_class_is_not_sure() -> None:
    index, queries = world(1, 0.4), world(2, 0.4)
    found = judged(calibrate(Labelled.of(index)), index, queries)
    named = [verdict for verdict in found if verdict.level == "level1"]
    assert len(named) > len(found) / 2
    truth = [label[4] for label in queries.labels or ()]
    right = [
        verdict.name == f"group{group}"
        for verdict, group in zip(found, truth, strict=True)
        if verdict.level == "level1"
    ]
    assert np.mean(right) > 0.9
    assert "class not sure" in str(named[0])


def test_what_is_far_from_everything_is_foreign() -> None:
    index = world(1)
    known = calibrate(Labelled.of(index))
    far = Collection(points=-index.points[:20], c=0.1)
    assert all(verdict.is_foreign for verdict in judged(known, index, far))
    near = judged(known, index, world(2))
    assert np.mean([verdict.is_foreign for verdict in near]) < 0.05
    unlabelled = known.verdict(np.full(20, 0.1), [""] * 20)
    assert (unlabelled.is_foreign, unlabelled.kinds) == (False, [])
    # The nearest image with a class decides, not one of which nobody says what it is.
    far_off = np.array([0.01, *[50.0] * 19])
    assert known.verdict(far_off, ["", *["kind00"] * 19]).is_foreign
    assert str(judged(known, index, far)[0]) == "nothing like this in the index"


def test_higher_groups_are_never_less_sure() -> None:
    for verdict in judged(calibrate(Labelled.of(world(1))), world(1), world(3)):
        sure = [probability for _, _, probability in verdict.kinds]
        assert sure == sorted(sure)


def test_it_comes_back_as_it_was_written() -> None:
    known = calibrate(Labelled.of(world(1)))
    assert Calibration.from_dict(json.loads(json.dumps(known.to_dict()))) == known


@pytest.mark.parametrize(
    "change",
    [
        {"weights": [1.0]}, {"scale": 0.0}, {"scale": float("nan")}, {"middle": "x"},
        {"kinds": {"names": ["a"], "levels": ["class"], "parents": [0], "num_classes": 1}},
        {"kinds": {"names": ["a", "b"], "levels": ["", ""], "parents": [1, 0], "num_classes": 1}},
        {"kinds": {"names": ["a"], "levels": [], "parents": [-1], "num_classes": 1}}, {"kinds": 3},
    ],
)  # fmt: skip
def test_what_a_file_says_of_it_is_not_believed(change: dict[str, object]) -> None:
    told = calibrate(Labelled.of(world(1))).to_dict() | change
    with pytest.raises(FileFormatError, match="index compact"):
        verdicts.read(json.dumps(told), "idx.faiss")


def test_too_little_to_learn_from() -> None:
    with pytest.raises(DataError, match="two classes"):
        calibrate(Labelled.of(images(["wren", "wren"])))
    with pytest.raises(DataError, match="at least 10 images of classes with two"):
        calibrate(Labelled.of(images(["wren", "jay", *["oak"] * 9])))


def test_an_index_keeps_it_and_learns_anew_when_it_has_grown(
    album: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verdicts, "_FEW", 0)
    index = tmp_path / "idx.faiss"
    update.update(index, [album], Colours())
    with Index(index) as opened:
        before = opened.reader.calibration
        assert before is not None
        assert before.kinds.names[: before.kinds.num_classes] == [f"kind{n}" for n in range(4)]
    paint(tmp_path / "more" / "new" / "1.png", 900)
    update.update(index, [tmp_path / "more"], Colours())
    with Index(index) as opened:
        assert opened.reader.calibration == before, "one image more costs no new calibration"
        # A class that is new stands for itself.
        point = np.frombuffer(opened.reader.rows([("label", "new")])[0].point, "<f4")
        verdict = opened.identify(point * 0.999, 0.5)
        assert ("new", "class") in [kind[:2] for kind in verdict.kinds]
    for number in range(9):
        paint(tmp_path / "more" / "new" / f"{number}.png", 901 + number)
    update.update(index, [tmp_path / "more"], Colours())
    with Index(index) as opened:
        after = opened.reader.calibration
        assert after is not None
        assert "new" in after.kinds.leaves
    (album / "kind0").rename(album / "renamed")
    update.update(index, [album], Colours())
    with Index(index) as opened:
        assert "renamed" in opened.reader.calibration.kinds.leaves
        assert "kind0" not in opened.reader.calibration.kinds.leaves


def test_what_is_gone_is_not_named(album: Path, tmp_path: Path) -> None:
    index = tmp_path / "idx.faiss"
    update.update(index, [album], Colours())
    shutil.rmtree(album / "kind0")
    update.update(index, [album], Colours())
    with Index(index) as opened:
        assert opened.reader.calibration is not None
        assert "kind0" not in opened.reader.calibration.kinds.leaves
    for number in (1, 2):
        shutil.rmtree(album / f"kind{number}")
    update.update(index, [album], Colours())
    with Index(index) as opened:
        assert opened.reader.calibration is None, "one class has nothing to be told from"


def test_one_image_of_a_new_class_counts_in_a_small_index(album: Path, tmp_path: Path) -> None:
    index = tmp_path / "idx.faiss"
    update.update(index, [album], Colours())
    paint(tmp_path / "more" / "new" / "1.png", 900)
    update.update(index, [tmp_path / "more"], Colours())
    with Index(index) as opened:
        assert "new" in opened.reader.calibration.kinds.leaves


def test_an_index_learns_when_it_gets_a_second_class(album: Path, tmp_path: Path) -> None:
    index = tmp_path / "idx.faiss"
    update.update(index, [album / "kind0"], Colours())
    with Index(index) as opened:
        assert opened.reader.calibration is None
    update.update(index, [album / "kind1"], Colours())
    with Index(index) as opened:
        assert opened.reader.calibration is not None


def test_without_classes_there_is_none(tmp_path: Path) -> None:
    points = world(1).points
    made = Index.build(tmp_path / "idx.faiss", Collection(points=points, c=0.1))
    with made:
        assert made.reader.calibration is None
        with pytest.raises(InputError, match=r"verdicts are not possible.*labels"):
            made.identify(points[0])


def test_from_python_and_from_the_command_line(tmp_path: Path, inside: Hier) -> None:
    index = world(1, 0.4)
    with Index.build(tmp_path / "idx.faiss", index) as made:
        points = world(2, 0.4).points
        several = made.identify(points[:3])
        one = made.identify(points[0])
        assert one == several[0]
        with pytest.raises(InputError, match="between 0 and 1"):
            made.identify(points, 1.0)
    np.save(tmp_path / "q.npy", points[:3])
    words = ["search", tmp_path / "q.npy", "--index", tmp_path / "idx.faiss"]
    for more in ([], ["-k", "3"], ["-k", "30"], ["--where", "label=kind0*"], ["--unique"]):
        lines = inside(*words, "--json", *more).stdout.splitlines()
        told = [json.loads(line) for line in lines]
        assert [one["verdict"] for one in told] == [
            json.loads(json.dumps(verdict.to_dict())) for verdict in several
        ]
        assert len(told[0]["results"]) == int(more[1]) if "-k" in more else 10
    assert "verdict" not in json.loads(
        inside(*words, "--json", "--no-verdict").stdout.splitlines()[0]
    )
    assert str(several[0]).encode() in inside(*words).stdout
    assert b"verdict" not in inside(*words, "--csv").stdout
    unsure = json.loads(inside(*words, "--json", "--confidence", "0.999").stdout.splitlines()[0])
    assert unsure["verdict"]["name"] in ("", "group0")
    assert inside(*words, "--confidence", "2").returncode == 2


def test_scores_of_verdicts() -> None:
    images = world(4, 0.4, per_class=40)
    found = abstention.judge(images)
    assert found.num_queries == 300
    assert found.num_unknown == 4 * 20, "a quarter of the classes"
    assert found.calibration_error < 0.08
    assert found.precision > 0.85
    assert 0 < found.named_class < found.named <= 1
    assert found.curve[-1][0] == found.curve_by_distance[-1][0] == 1
    assert found.coverage >= found.coverage_by_distance
    assert found == abstention.judge(images), "the seed decides"
    # Without levels nothing is known of a class that is not there, so none is left out.
    flat = Collection(points=images.points, labels=images.labels, c=images.c)
    assert abstention.judge(flat).num_unknown == 0


def test_coverage_is_the_most_that_can_be_answered() -> None:
    right = np.array([True] * 9 + [False] + [True] * 5 + [False] * 5)
    curve = abstention._curve(right, np.arange(20))
    assert abstention._coverage(curve) == 0.75  # 14 of 15 right; 14 of 16 are less than 90 %
    assert curve[-1] == (1, 0.3)


def test_verdicts_are_scored_on_the_command_line(tmp_path: Path, inside: Hier) -> None:
    images = world(4, 0.4)
    images.write(tmp_path / "v.parquet")
    done = inside("eval", "--points", tmp_path / "v.parquet", "--abstain", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["abstention"] == abstention.judge(images).to_dict()
    shown = inside("eval", "--points", tmp_path / "v.parquet", "--abstain").stdout.decode()
    assert "calibration_error" in shown
    assert "of classes that the index does not have" in shown
    assert "abstention" not in json.loads(
        inside("eval", "--points", tmp_path / "v.parquet", "--json").stdout
    )


def judged_right(index: Collection, queries: Collection) -> tuple[float, float]:
    """Mean probability of the first class of each query, and how often it is right."""
    found = judged(calibrate(Labelled.of(index)), index, queries)
    first = [
        (verdict.kinds[0], label)
        for verdict, label in zip(found, queries.labels or (), strict=True)
        if verdict.kinds
    ]
    right = [kind[0] == label for kind, label in first]
    return float(np.mean([kind[2] for kind, _ in first])), float(np.mean(right))


@pytest.mark.parametrize("per_class", [2, 3, 4, 16])
def test_small_classes_are_as_sure_as_they_are_right(per_class: int) -> None:
    """An image that is looked for leaves its class one vote short: so must all others be."""
    sure, right = judged_right(world(1, 0.3, per_class), world(2, 0.3, 20))
    assert abs(sure - right) < 0.2
    assert right > 0.4


def test_copies_in_an_index_teach_nothing() -> None:
    index, queries = world(1, 0.4), world(2, 0.4)
    twice = index[np.repeat(np.arange(len(index)), 2)]
    sure, right = judged_right(twice, queries)
    assert abs(sure - right) < 0.15


def test_an_image_of_the_index_has_no_vote_on_itself() -> None:
    index = world(1, 0.4)
    wrong = list(index.labels or ())
    wrong[:5] = ["kind24"] * 5
    index = Collection(points=index.points, labels=wrong, levels=index.levels, c=0.1)
    for verdict in judged(calibrate(Labelled.of(index)), index, index[:5]):
        assert verdict.name != "kind24"


def test_a_level_called_class_is_no_class() -> None:
    index, queries = world(1, 0.4), world(2, 0.4)
    index = Collection(points=index.points, labels=index.labels, levels=index.levels, c=0.1,
                       level_names=("class",))  # fmt: skip
    found = judged(calibrate(Labelled.of(index)), index, queries)
    assert any("class not sure" in str(verdict) for verdict in found)


def test_changed_groups_are_learned(album: Path, tmp_path: Path) -> None:
    index, table = tmp_path / "idx.faiss", tmp_path / "labels.csv"
    for genus in ("Old", "New"):
        rows = [
            f"{path},{path.parent.name},{genus}{path.parent.name[-1]}"
            for path in sorted(album.rglob("*.png"))
        ]
        table.write_text("\n".join(["path,label,genus", *rows]) + "\n")
        update.update(index, [table], Colours())
        with Index(index) as opened:
            assert opened.reader.calibration is not None
            assert f"{genus}1" in opened.reader.calibration.kinds.names


def test_a_damaged_calibration_costs_no_hits(album: Path, tmp_path: Path, inside: Hier) -> None:
    index, query = tmp_path / "idx.faiss", tmp_path / "q.npy"
    update.update(index, [album], Colours())
    np.save(query, np.zeros((1, 12), np.float32))
    with closing(sqlite3.connect(catalogue_path(index))) as opened:
        facts = dict(opened.execute("SELECT name, value FROM facts"))
        facts["calibration"] = "3"
        facts["checksum"] = facts_checksum(facts)
        opened.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", facts.items())
        opened.commit()
    done = inside("search", query, "--index", index, "--json")
    assert done.returncode == 0
    assert len(json.loads(done.stdout)["results"]) == 10
    assert b"no verdicts" in done.stderr
    assert inside("search", query, "--index", index, "--verdict").returncode == 2
    paint(tmp_path / "more" / "kind0" / "1.png", 900)
    update.update(index, [tmp_path / "more"], Colours())  # learned anew
    assert "verdict" in json.loads(inside("search", query, "--index", index, "--json").stdout)
