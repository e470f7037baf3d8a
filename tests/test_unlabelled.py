"""Images without a label: they are searched, placed and reviewed, and are never a class."""

import csv
import io
import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import Hier, fails, paint
from test_index import Colours
from test_stores import rows, target  # noqa: F401  (a fixture)

from hiercli import Collection, Index, Tree
from hiercli.data.listing import gather
from hiercli.errors import DataError, InputError
from hiercli.evaluation.evaluate import evaluate_points
from hiercli.geometry import poincare
from hiercli.index import store as stores
from hiercli.index import update, verdicts, words
from hiercli.index.address import Target
from hiercli.review.duplicates import Pairs
from hiercli.review.images import copies


@pytest.fixture
def table(photos: Path, tmp_path: Path) -> Path:
    """All photos; the last two of each class have no label, one of them a genus."""
    lines = ["path,label,genus"]
    for photo in sorted(photos.rglob("*.jpg")):
        kind, number = int(photo.parent.name[4:]), int(photo.stem[5:])
        label = f"C{kind}" if number < 4 else ""
        genus = f"G{kind // 2}" if number < 5 else ""
        lines.append(f"{photo},{label},{genus}")
    (tmp_path / "table.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "table.csv"


def test_empty_cells_of_a_table_reach_review_tree_and_search(
    table: Path, exported: Path, inside: Hier, tmp_path: Path
) -> None:
    index, points = tmp_path / "idx.faiss", tmp_path / "v.parquet"
    done = inside("embed", table, "--model", exported, "--index", index, "-o", points)
    assert done.returncode == 0, done.stderr.decode()
    assert b"8 classes, 1 level above them (genus), from a table; 16 images without" in done.stderr
    for source in (("--index", index), ("--points", points)):
        done = inside("review", *source, "--kind", "label", "--label-next", "5")
        assert done.returncode == 0, done.stderr.decode()
        found = list(csv.DictReader(io.StringIO(done.stdout.decode())))
        assert len(found) == 5
        assert all(Path(one["path"]).stem in ("photo4", "photo5") for one in found)
        assert all(one["label"] == "" and one["proposal"].startswith("C") for one in found)
    facts = json.loads(inside("index", "stats", index, "--json").stdout)
    assert (facts["pictures"], facts["labels"], facts["unlabelled"]) == (48, 8, 16)
    assert "" not in facts["largest_labels"]
    done = inside("hierarchy", "--index", index, "--format", "json")
    assert b"16 images without a label left out of the tree" in done.stderr
    tree = json.loads(done.stdout)
    assert tree["size"] == 32
    photo = next(row["path"] for row in csv.DictReader(io.StringIO(table.read_text())))
    done = inside("search", photo, "--index", index, "--where", "label=", "-k", "48", "--json")
    hits = json.loads(done.stdout)["results"]
    assert len(hits) == 16 and {hit["label"] for hit in hits} == {""}
    done = inside("search", photo, "--index", index, "--branches", "--json")
    assert done.returncode == 0, done.stderr.decode()
    # What a person decides gives them labels.
    review = tmp_path / "review.csv"
    done = inside("review", "--index", index, "--kind", "label", "--label-next", "1")
    text = done.stdout.decode().splitlines()
    review.write_text(text[0] + "\n" + text[1].removesuffix(",") + "accept,\n")
    done = inside("embed", table, "--model", exported, "--index", index, "--labels", review)
    assert b"1 relabelled" in done.stderr
    facts = json.loads(inside("index", "stats", index, "--json").stdout)
    assert facts["unlabelled"] == 15


def test_a_folder_without_labels_beside_labelled_ones(
    album: Path,
    tmp_path: Path,
    target: Target,  # noqa: F811
) -> None:
    inbox = album / "inbox"
    for number in range(100, 103):
        paint(inbox / "deep" / f"{number}.png", number)
    paint(tmp_path / "other" / "9.png", 900)
    given = [album, tmp_path / "other"]
    lost = [inbox, tmp_path / "other"]
    done = update.update(target, given, Colours(), unlabelled=lost)
    assert done.total == 44
    found = {label for label, _ in rows(target).values()}
    assert found == {"", "kind0", "kind1", "kind2", "kind3"}
    assert sum(not label for label, _ in rows(target).values()) == 4
    names = [record.path.name for record in done.listing.records]
    assert names[:3] == ["100.png", "101.png", "102.png"], "in natural order"
    with closing(stores.searching(target)) as images:
        (hits,) = images.search(np.zeros((1, 12), np.float32), 50, where=[("label", "")])
        assert len(hits) == 4
        (hits,) = images.search(np.zeros((1, 12), np.float32), 50, where=[("label", "?*")])
        assert len(hits) == 40
    assert stores.stats(target)["unlabelled"] == 4
    assert update.update(target, given, Colours(), unlabelled=lost).unchanged == 44
    # Given again without it, their folders name them.
    assert update.update(target, given, Colours()).relabelled == 4


def test_a_table_labels_some_images_of_an_unlabelled_folder(album: Path, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("path,label,genus\nalbum/kind1/photo1.png,wren,W\n")
    found = gather([album, tmp_path / "t.csv"], unlabelled=[album])
    assert [record.label for record in found.records].count("wren") == 1
    assert {record.label for record in found.records} == {"", "wren"}
    assert found.summary() == (
        "1 class, 1 level above them (genus), from folders and a table; 39 images without a label"
    )


def test_unlabelled_folders_that_are_not_among_those_given(
    album: Path, exported: Path, inside: Hier, tmp_path: Path
) -> None:
    words_ = ("embed", album / "kind0", "--model", exported, "-o", tmp_path / "v.npy")
    fails(inside(*words_, "--unlabelled", album / "kind1"), 2, "kind1 is in none of these folders")
    fails(inside(*words_, "--unlabelled", album / "kindd"), 2, "kindd is missing")
    assert inside(*words_, "--unlabelled", album / "kind0").returncode == 0
    assert Collection.read(tmp_path / "v.npy").labels == [""] * 10
    assert Collection.read(tmp_path / "v.npy").classes == []


def test_training_still_needs_labels_or_groups(table: Path, tmp_path: Path) -> None:
    from hiercli.data import manifest

    with pytest.raises(DataError, match="row 6 has neither a label nor a group"):
        manifest.read(table, to_train=True)
    (tmp_path / "t.csv").write_text("path,label\na.png,x\na.png,\n")
    with pytest.raises(DataError, match="two labels, x in row 1 and none in row 2"):
        manifest.read(tmp_path / "t.csv")


def half_labelled(per_class: int = 24) -> Collection:
    """Six classes in two genera; of each the labels of two thirds are missing."""
    rng = np.random.default_rng(0)
    middles = np.repeat(rng.normal(size=(6, 12)), per_class, axis=0)
    points = poincare.expmap0(middles * 0.4 + 0.02 * rng.normal(size=middles.shape), 0.1)
    labels = [f"kind{n // per_class}" if n % 3 == 0 else "" for n in range(6 * per_class)]
    genera = [(f"G{n // per_class // 3}",) for n in range(6 * per_class)]
    return Collection(
        points=points.astype(np.float32), labels=labels, levels=genera, level_names=("genus",),
        c=0.1, paths=[f"/p/{n}.jpg" for n in range(6 * per_class)], fingerprint="f",
        proxies=poincare.expmap0(0.2 * rng.normal(size=(9, 12)), 0.1).astype(np.float32),
    )  # fmt: skip


def test_no_class_has_an_empty_name() -> None:
    images = half_labelled()
    assert images.classes == [f"kind{n}" for n in range(6)] and "" not in images.lineages
    assert len(images.labelled) == 48
    tree = Tree.of_collection(images)
    assert sorted(leaf.name for leaf in tree.root.leaves) == images.classes
    assert tree.root.size == 48 and "96 images without a label" in tree.notes[0]
    by_proxy = Tree.of_collection(images, by_proxy=True)
    assert by_proxy.root.size == 144 and not by_proxy.notes
    assert by_proxy.root.purity == pytest.approx(1 / 6)
    assert all(node.name for node in by_proxy.root.walk())
    shown = evaluate_points(images)
    assert shown.retrieval.recall_at[1] == 100.0 and shown.retrieval.num_queries == 48
    assert "96 images without a label ignored" in shown.notes
    with pytest.raises(InputError, match="expected labels"):
        evaluate_points(Collection(points=images.points, labels=[""] * 144, c=0.1))


def test_groups_of_unlabelled_images_alone_have_no_purity() -> None:
    images = half_labelled()
    labels = list(images.labels or ())
    labels[72:] = [""] * 72
    part = Collection(images.points, images.paths, labels, c=0.1, proxies=images.proxies)
    tree = Tree.of_collection(part, by_proxy=True)
    empty = [leaf for leaf in tree.root.leaves if leaf.purity is None]
    assert empty and all(leaf.name.startswith("group ") for leaf in empty)


def test_verdicts_are_given_by_the_images_with_a_label(target: Target) -> None:  # noqa: F811
    images = half_labelled(90)  # of the 20 nearest of an image only a few have one
    name = target if isinstance(target, Path) else f"milvus:{target.uri}"
    with Index.build(name, images) as index:
        known = verdicts.calibration_of(index.reader)
        assert known.kinds.num_classes == 6
        points = images.points[::7]
        truth = [f"kind{n // 90}" for n in range(0, 540, 7)]
        found = index.identify(points)
        assert [one.kinds[0][0] for one in found] == truth
        alone = Index.build(f"{name}x" if isinstance(target, Path) else name, images.labelled,
                            rebuild=True)  # fmt: skip
        with alone:
            told = list(verdicts.verdicts(alone.reader, known, points, 0.9))
        assert [one.name for one in told] == [one.name for one in found]
        assert [one.probability for one in told] == pytest.approx(
            [one.probability for one in found], abs=1e-5
        )


def test_words_mean_images_with_a_label_where_there_are_some(tmp_path: Path) -> None:
    images = half_labelled()
    labels = list(images.labels or ())
    labels[72:] = [""] * 72
    images = replace(images, labels=labels, level_names=("genus",),
                     levels=[("Rosa",) if n < 72 else ("Iris",) for n in range(144)])  # fmt: skip
    with Index.build(tmp_path / "i.faiss", images) as index:
        assert words.understand("rosa", index.reader).points.shape[0] == 3
        alone = words.understand("iris", index.reader)
        assert alone.names == ("Iris",) and alone.points.shape[0] == 1


def test_of_copies_the_labelled_one_is_kept() -> None:
    one = np.array([0]), np.array([1]), np.array([0.99]), np.array([1.0]), np.array([False])
    for labels, kept in ((["", "wren"], "b"), (["jay", ""], "a"), (["", ""], "a")):
        (found,) = copies(Pairs(*one), ["a", "b"], labels, ["", ""])
        assert found.of == kept and "differ" not in found.reason
