"""Faults put into a labelled collection are found, and little else."""

import numpy as np
import pytest
from conftest import tree_of

from hiercli import Collection
from hiercli.errors import DataError
from hiercli.geometry import poincare
from hiercli.hierarchy.suggest import KINDS, Suggestion, suggest

C = 0.1


def images(points: np.ndarray, labels: list[str], paths: list[str]) -> Collection:
    return Collection(points=points, labels=labels, paths=paths, c=C)


def collection() -> tuple[np.ndarray, list[str], list[str], np.ndarray]:
    """Ten classes of twelve photos, and some proxies."""
    rng = np.random.default_rng(0)
    middles = rng.normal(size=(10, 16))
    tangent = np.repeat(middles, 12, axis=0) + 0.25 * rng.normal(size=(120, 16))
    tangent *= 1.8 / np.linalg.norm(tangent, axis=1, keepdims=True)
    points = poincare.expmap0(tangent, C).astype(np.float32)
    labels = [f"kind{n}" for n in range(10) for _ in range(12)]
    proxies = poincare.expmap0(0.2 * middles, C)
    return points, labels, [f"{n}.jpg" for n in range(120)], proxies


def look(labels: list[str], least: float = 0.4) -> list[Suggestion]:
    points, _, paths, proxies = collection()
    root = tree_of(points, None, labels, proxies, C)
    return suggest(images(points, labels, paths), root, least=least)


def test_a_sound_collection_gives_no_rise_to_doubt() -> None:
    assert look(collection()[1]) == []


def test_photos_under_a_wrong_label() -> None:
    labels = collection()[1]
    labels[5], labels[50] = "kind7", "kind0"
    found = look(labels)
    assert {(one.kind, one.path, one.label, one.proposal) for one in found} == {
        ("relabel", "5.jpg", "kind7", "kind0"), ("relabel", "50.jpg", "kind0", "kind4"),
    }  # fmt: skip
    assert all("nearest photos have the label" in one.reason and one.branch for one in found)
    assert found[0].confidence >= found[1].confidence > 0.8


def test_two_classes_under_one_label() -> None:
    labels = ["kind3" if label == "kind8" else label for label in collection()[1]]
    (found,) = look(labels)
    assert (found.kind, found.label, found.proposal) == ("split", "kind3", "12 and 12")
    assert found.path in {f"{n}.jpg" for n in (*range(36, 48), *range(96, 108))}


def test_one_class_under_two_labels() -> None:
    labels = collection()[1]
    labels[24:36:2] = ["kind2 again"] * 6
    found = [one for one in look(labels) if one.kind == "merge"]
    assert [(one.label, one.proposal) for one in found] == [("kind2", "kind2 again")]
    assert set(found[0].branch.split(", ")) == {"kind2", "kind2 again"}


def test_the_surest_of_each_kind_come_first_and_the_rest_on_request() -> None:
    found = look(collection()[1], least=0.0)
    assert [KINDS.index(one.kind) for one in found] == sorted(KINDS.index(x.kind) for x in found)
    for kind in ("relabel", "split"):
        sure = [one.confidence for one in found if one.kind == kind]
        assert sure == sorted(sure, reverse=True)
    assert sum(one.kind == "split" for one in found) == 10


def test_one_class_has_nothing_to_be_compared_with() -> None:
    points, labels, paths, proxies = collection()
    root = tree_of(points, None, labels, proxies, C)
    with pytest.raises(DataError, match="two classes"):
        suggest(images(points, ["one"] * 120, paths), root)


def test_a_small_class_is_sound_if_its_own_are_nearest() -> None:
    points, labels, paths, proxies = collection()
    some = [*range(48), 60, 61, 62]
    own = [labels[place] for place in some]
    root = tree_of(points[some], None, own, proxies, C)
    assert suggest(images(points[some], own, [paths[place] for place in some]), root) == []


def test_photos_that_are_all_the_same(recwarn: pytest.WarningsRecorder) -> None:
    points, labels, paths, proxies = collection()
    points[:12] = points[0]
    root = tree_of(points, None, labels, proxies, C)
    assert suggest(images(points, labels, paths), root) == []
    assert not recwarn.list


def test_few_photos() -> None:
    points, labels, paths, proxies = collection()
    some = [0, 1, 12, 13]
    own = [labels[place] for place in some]
    root = tree_of(points[some], None, own, proxies, C)
    assert suggest(images(points[some], own, [paths[place] for place in some]), root) == []


def test_training_does_not_make_every_class_look_like_two() -> None:
    """Classes that are all as clearly parted, as training parts them: none stands out."""
    rng = np.random.default_rng(0)
    points, labels = [], []
    for label in range(12):
        centre = rng.normal(size=8)
        centre /= np.linalg.norm(centre)
        across = rng.normal(size=8)
        across /= np.linalg.norm(across)
        for number in range(20):
            side = 0.25 if number % 2 else -0.25
            points.append(centre + side * across + 0.05 * rng.normal(size=8))
            labels.append(f"kind{label}")
    tangent = np.array(points)
    ball = poincare.expmap0(1.2 * tangent / np.linalg.norm(tangent, axis=1, keepdims=True), C)
    near = ball.astype(np.float32)
    paths = [f"{number}.jpg" for number in range(len(near))]

    def look_at(labels: list[str]) -> list[Suggestion]:
        root = tree_of(near, None, labels, near[::7], C)
        return suggest(images(near, labels, paths), root)

    found = look_at(labels)
    assert not [one for one in found if one.kind == "split"]
    # Two classes under one label lie farther apart than these halves.
    labels = ["kind0" if label == "kind1" else label for label in labels]
    found = look_at(labels)
    assert [one.label for one in found if one.kind == "split"] == ["kind0"]
    assert all(0 < one.confidence < 1 for one in found)
