"""Faults put into a collection are found, and little else; what people decide is applied."""

import csv
import io
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import Hier, fails, tree_of
from PIL import Image, ImageOps
from scipy.ndimage import gaussian_filter

from hiercli import Collection
from hiercli.data.corrections import Corrections
from hiercli.errors import DataError, ImageError, InputError, MismatchError
from hiercli.geometry import poincare
from hiercli.images import thumbnail
from hiercli.labels import Record
from hiercli.review import duplicates, planting, review
from hiercli.review import images as looks
from hiercli.review.finding import KINDS, Finding
from hiercli.review.labels import doubts
from hiercli.review.neighbourhood import COMPARED, nearest_of_all
from hiercli.review.review import Review

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


def look(labels: list[str], least: float = 0.4) -> list[Finding]:
    points, _, paths, proxies = collection()
    root = tree_of(points, None, labels, proxies, C)
    return doubts(images(points, labels, paths), root, least=least)


def test_a_sound_collection_gives_no_rise_to_doubt() -> None:
    assert look(collection()[1]) == []


def test_photos_under_a_wrong_label() -> None:
    labels = collection()[1]
    labels[5], labels[50] = "kind7", "kind0"
    found = look(labels)
    assert {(one.kind, one.path, one.label, one.proposal) for one in found} == {
        ("relabel", "5.jpg", "kind7", "kind0"), ("relabel", "50.jpg", "kind0", "kind4"),
    }  # fmt: skip
    assert all("nearest images have the label" in one.reason and one.branch for one in found)
    assert found[0].confidence >= found[1].confidence > 0.5


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
    assert set(found[0].branch.split(" and ")) == {"kind2", "kind2 again"}


def test_the_surest_of_each_kind_come_first_and_the_rest_on_request() -> None:
    found = look(collection()[1], least=0.0)
    order = list(KINDS)
    assert [order.index(one.kind) for one in found] == sorted(order.index(x.kind) for x in found)
    for kind in ("relabel", "split"):
        sure = [one.confidence for one in found if one.kind == kind]
        assert sure == sorted(sure, reverse=True)
    assert sum(one.kind == "split" for one in found) > 0


def test_one_class_has_nothing_to_be_compared_with() -> None:
    points, labels, paths, proxies = collection()
    root = tree_of(points, None, labels, proxies, C)
    with pytest.raises(DataError, match="two classes"):
        doubts(images(points, ["one"] * 120, paths), root)


def test_a_small_class_is_sound_if_its_own_are_nearest() -> None:
    points, labels, paths, proxies = collection()
    some = [*range(48), 60, 61, 62]
    own = [labels[place] for place in some]
    root = tree_of(points[some], None, own, proxies, C)
    assert doubts(images(points[some], own, [paths[place] for place in some]), root) == []


def test_photos_that_are_all_the_same(recwarn: pytest.WarningsRecorder) -> None:
    points, labels, paths, proxies = collection()
    points[:12] = points[0]
    root = tree_of(points, None, labels, proxies, C)
    assert doubts(images(points, labels, paths), root) == []
    assert not recwarn.list


def test_few_photos() -> None:
    points, labels, paths, proxies = collection()
    some = [0, 1, 12, 13]
    own = [labels[place] for place in some]
    root = tree_of(points[some], None, own, proxies, C)
    assert doubts(images(points[some], own, [paths[place] for place in some]), root) == []


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

    def look_at(labels: list[str]) -> list[Finding]:
        root = tree_of(near, None, labels, near[::7], C)
        return doubts(images(near, labels, paths), root)

    found = look_at(labels)
    assert not [one for one in found if one.kind == "split"]
    # Two classes under one label lie farther apart than these halves.
    labels = ["kind0" if label == "kind1" else label for label in labels]
    found = look_at(labels)
    assert [one.label for one in found if one.kind == "split"] == ["kind0"]
    assert all(0 < one.confidence < 1 for one in found)


# -- how sure a finding is ------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.005, 0.02, 0.1])
def test_confidence_is_a_probability(share: float) -> None:
    """Of items that are doubted with 0.6 to 0.9, about so many are faulty."""
    rng = np.random.default_rng(0)
    total = 20_000
    is_faulty = rng.random(total) < share
    scores = np.where(is_faulty, rng.normal(3, 1, total), rng.normal(0, 1, total))
    sure = planting.confidence(scores, rng.normal(3, 1, 5000))
    assert 0.6 * share < sure.mean() < 2 * share
    some = (sure > 0.5) & (sure < 0.95)
    assert -0.1 < sure[some].mean() - is_faulty[some].mean() < 0.25  # estimated from above
    order = np.argsort(scores)
    assert (np.diff(sure[order]) >= 0).all()


def test_nothing_is_known_without_planted_faults() -> None:
    assert planting.confidence(np.arange(50.0), np.array([60.0] * 5)).tolist() == [0] * 50
    assert planting.confidence(np.empty(0), np.arange(50.0)).shape == (0,)
    same = planting.confidence(np.ones(50), np.ones(50))
    assert np.isfinite(same).all() and (same <= 0.99).all()


def test_faults_that_nobody_made_are_not_found() -> None:
    rng = np.random.default_rng(1)
    sure = planting.confidence(rng.normal(0, 1, 2000), rng.normal(9, 1, 2000))
    assert sure.max() < 0.1


# -- copies ---------------------------------------------------------------------------------------


def scenes(count: int, seed: int = 0) -> list[Image.Image]:
    """Pictures of blobs, each another."""
    rng = np.random.default_rng(seed)
    fields = gaussian_filter(rng.normal(size=(count, 120, 160, 3)), (0, 9, 9, 0))
    scaled = (fields - fields.min((1, 2, 3), keepdims=True)) / np.ptp(
        fields, (1, 2, 3), keepdims=True
    )
    return [Image.fromarray((255 * own).astype(np.uint8)) for own in scaled]


def jpeg(picture: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return Image.open(io.BytesIO(buffer.getvalue())).convert("RGB")


EDITS = {
    "re-encoded": lambda one: jpeg(one, 20),
    "resized": lambda one: one.resize((57, 43)),
    "mirrored": ImageOps.mirror,
    "lighter": lambda one: one.point(lambda value: min(255, int(value * 1.1 + 10))),
    "grey": lambda one: one.convert("L").convert("RGB"),
    "crop of 90 % a side": lambda one: one.crop((10, 5, 154, 113)),
    "crop of 70 % a side": lambda one: one.crop((40, 20, 152, 104)),
    "square crop": lambda one: one.crop((30, 0, 150, 120)),
    "mirrored crop": lambda one: ImageOps.mirror(one.crop((16, 12, 152, 114))),
}


@pytest.mark.parametrize("edit", EDITS)
def test_copies_are_found_whatever_was_done_to_them(edit: str) -> None:
    originals = scenes(40)
    copies = [EDITS[edit](one) for one in originals]
    greys, aspects = duplicates.gathered([duplicates.small_grey(x) for x in originals + copies])
    rng = np.random.default_rng(2)
    near = rng.integers(0, 80, (80, 5))
    near[:40, 0] = np.arange(40, 80)  # the embedding proposes each, among others
    pairs = duplicates.near_duplicates(near, greys, aspects)
    found = {(int(a), int(b)) for a, b in zip(pairs.first, pairs.second, strict=True)}
    right = {(place, place + 40) for place in range(40)}
    assert len(found & right) >= 38, edit
    assert len(found - right) <= 1, edit
    mirrored = [row for row, first in enumerate(pairs.first) if pairs.second[row] == first + 40]
    assert np.mean(pairs.mirrored[mirrored]) == pytest.approx(float("mirrored" in edit), abs=0.1)
    groups = pairs.groups(80)
    assert all(len(group) >= 2 for group in groups) and len(groups) >= 36


@pytest.mark.parametrize(("height", "width"), [(16, 16), (12, 14), (5, 9), (16, 10)])
def test_correlations_are_those_of_naive_loops(height: int, width: int) -> None:
    rng = np.random.default_rng(height)
    pictures = gaussian_filter(rng.uniform(0, 255, (4, 16, 16)), (0, 1, 1)).astype(np.float32)
    parts = gaussian_filter(rng.uniform(0, 255, (5, height, width)), (0, 1, 1)).astype(np.float32)
    at = np.array([0, 3, 3, 1, 0])
    found = duplicates._Pages(pictures).correlation(at, parts)
    for is_mirrored in (0, 1):
        for row, place in enumerate(at):
            part = parts[row, :, ::-1] if is_mirrored else parts[row]
            windows = [pictures[place, y : y + height, x : x + width]
                       for y in range(17 - height) for x in range(17 - width)]  # fmt: skip
            best = max(np.corrcoef(one.ravel(), part.ravel())[0, 1] for one in windows)
            assert found[is_mirrored][row] == pytest.approx(best, abs=1e-4)


def test_stored_pictures_are_decoded_in_grey_and_small() -> None:
    for picture in scenes(5):
        large = picture.resize((640, 480))
        grey, aspect, side = duplicates.stored_grey(thumbnail(large))
        whole, own_aspect = duplicates.small_grey(large)
        assert aspect == own_aspect and side == 96
        assert np.abs(grey.astype(int) - whole).max() <= 12
    for damaged in (b"", b"\xff\xd8\xff no more", thumbnail(large)[:300]):
        with pytest.raises(ImageError, match="damaged"):
            duplicates.stored_grey(damaged)


def test_flat_pictures_are_no_copies() -> None:
    flat = [Image.new("RGB", (60, 60), (n, n, n)) for n in range(0, 250, 10)]
    greys, aspects = duplicates.gathered([*map(duplicates.small_grey, flat), None])
    every = np.array([[b for b in range(26) if b != a] for a in range(26)])
    assert not len(duplicates.near_duplicates(every, greys, aspects).first)


def test_neighbours_in_lists_are_nearly_those_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    middles = np.repeat(rng.normal(size=(60, 8)), 50, axis=0)
    tangent = middles + 0.3 * rng.normal(size=(3000, 8))
    points = poincare.expmap0(tangent, C).astype(np.float32)
    far, near = nearest_of_all(points, 5, C)
    assert near.shape == (3000, 5) and not (near == np.arange(3000)[:, None]).any()
    assert COMPARED > 3000
    monkeypatch.setattr("hiercli.review.neighbourhood.COMPARED", 100)
    far_in_lists, in_lists = nearest_of_all(points, 5, C)
    assert not (in_lists == np.arange(3000)[:, None]).any()
    assert (in_lists[:, 0] == near[:, 0]).mean() > 0.95
    np.testing.assert_allclose(far_in_lists[in_lists == near], far[in_lists == near], atol=1e-6)


def test_points_that_are_all_one_have_neighbours() -> None:
    far, near = nearest_of_all(np.full((30, 4), 0.1, np.float32), 5, C)
    assert near.shape == (30, 5) and (far == 0).all()


# -- a whole collection ---------------------------------------------------------------------------


@pytest.fixture
def faulty(photos: Path, tmp_path: Path) -> Path:
    """A folder with a copy, a mirrored one in another split, a small and a damaged file."""
    album = tmp_path / "album"
    for split, kinds in (("train", range(4)), ("test", range(4, 8))):
        for kind in kinds:
            shutil.copytree(photos / f"kind{kind}", album / split / f"kind{kind}")
    pictures = scenes(2, seed=5)
    first = album / "train" / "kind0"
    pictures[0].save(first / "scene.png")
    pictures[0].resize((80, 60)).save(first / "smaller.png")
    ImageOps.mirror(pictures[0]).save(album / "test" / "kind4" / "again.png")
    pictures[1].resize((40, 30)).save(first / "speck.png")
    (first / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    return album


@pytest.fixture
def faulty_index(faulty: Path, exported: Path, inside: Hier, tmp_path: Path) -> Path:
    index = tmp_path / "faulty.faiss"
    assert inside("embed", faulty, "--model", exported, "--index", index).returncode == 3
    return index


def names_by_kind(text: str) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for row in csv.DictReader(io.StringIO(text)):
        found.setdefault(row["kind"], set()).add(Path(row["path"]).name)
    return found


def test_a_review_of_an_index(
    faulty: Path, faulty_index: Path, inside: Hier, tmp_path: Path
) -> None:
    folder = tmp_path / "review"
    done = inside("review", "--index", faulty_index, "-o", folder)
    assert done.returncode == 0, done.stderr.decode()
    text = (folder / "review.csv").read_text()
    found = names_by_kind(text)
    assert "smaller.png" in found["duplicate"]
    assert "scene.png" not in found["duplicate"] | found["leak"]
    assert "again.png" not in found["duplicate"]
    assert "again.png" in found["leak"]
    assert found["unreadable"] == {"broken.jpg"}
    assert "speck.png" in found["tiny"] and "scene.png" not in found["tiny"]
    lines = (folder / "review.jsonl").read_text().splitlines()
    assert [json.loads(line)["kind"] for line in lines] == [
        row["kind"] for row in csv.DictReader(io.StringIO(text))
    ]
    page = (folder / "review.html").read_text()
    assert "https://" not in page and "again.png" in page
    # To stdout, of some kinds, and from points alone.
    done = inside("review", "--index", faulty_index, "--kind", "leak", "--kind", "tiny")
    assert set(names_by_kind(done.stdout.decode())) == {"leak", "tiny"}
    # Images that are gone are seen by the small pictures that the index keeps.
    shutil.rmtree(faulty)
    again = inside("review", "--index", faulty_index, "-o", folder)
    assert again.returncode == 0, again.stderr.decode()
    gone = names_by_kind((folder / "review.csv").read_text())
    assert "smaller.png" in gone["duplicate"] and "again.png" in gone["leak"]
    assert gone["tiny"] == found["tiny"]


def test_a_review_of_an_index_alone_opens_no_image(
    faulty: Path, faulty_index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = ["duplicate", "leak", "tiny", "unreadable", "outlier"]
    with_files = Review.of_images(faulty_index, kinds=kinds)
    opened: list[object] = []
    for module, name in ((review, "read"), (review, "size_of"), (looks, "size_of")):
        monkeypatch.setattr(module, name, lambda path, *_: opened.append(path))
    alone = Review.of_images(faulty_index, kinds=kinds, read_files=False)
    assert opened == []
    monkeypatch.undo()
    assert alone.counts() == with_files.counts()
    assert {one.path for one in alone.findings} == {one.path for one in with_files.findings}
    names = ("scene.png", "smaller.png", "again.png", "speck.png")
    assert not any(name in one.reason for one in alone.findings for name in names)
    assert any(name in one.reason for one in with_files.findings for name in names)
    shutil.rmtree(faulty)
    assert Review.of_images(faulty_index, kinds=kinds, read_files=False).findings == alone.findings


def test_images_without_a_small_picture_are_told(
    faulty: Path, exported: Path, inside: Hier, tmp_path: Path
) -> None:
    index = tmp_path / "bare.faiss"
    assert inside("embed", faulty, "--model", exported, "--index", index,
                  "--no-thumbnails").returncode == 3  # fmt: skip
    found = Review.of_images(index, kinds=["duplicate", "tiny"], read_files=False)
    assert found.findings == [] and "no copies of 52 images were looked for" in found.notes[0]
    assert Review.of_images(index, kinds=["duplicate"]).findings


def test_splits_are_those_of_the_table(
    faulty: Path, exported: Path, inside: Hier, tmp_path: Path
) -> None:
    """Whatever the folders are called, and of points as of an index."""
    for name, folder in (("a", "train"), ("b", "test")):
        (faulty / folder).rename(faulty / name)
    (faulty / "a" / "kind0" / "broken.jpg").unlink()
    files = [*faulty.rglob("*.jpg"), *faulty.rglob("*.png")]
    table = tmp_path / "t.csv"
    for splits, kind in ((("train", "query"), "leak"), (("train", "train"), "duplicate")):
        lines = [f"{file},{file.parent.name},{splits['/b/' in str(file)]}" for file in files]
        table.write_text("\n".join(["path,label,split", *lines]))
        index, points = tmp_path / "s.faiss", tmp_path / "s.parquet"
        inside("embed", table, "--model", exported, "--index", index, "-o", points)
        for source in (("--index", index), ("--points", points)):
            done = inside("review", *source, "--kind", "leak", "--kind", "duplicate")
            assert done.returncode == 0, done.stderr.decode()
            assert "again.png" in names_by_kind(done.stdout.decode())[kind]
        if kind == "leak":
            assert b"in query, a mirrored copy of" in done.stdout
            assert b"which is kept in train" in done.stdout


def test_an_image_in_two_splits_is_kept_once(
    faulty: Path, exported: Path, inside: Hier, tmp_path: Path
) -> None:
    image = next(faulty.rglob("*.jpg"))
    table = tmp_path / "t.csv"
    table.write_text(f"path,label,split\n{image},a,train\n{image},a,test\n")
    done = inside("embed", table, "--model", exported, "--index", tmp_path / "i.faiss")
    assert done.returncode == 0 and b"1 row of the table ignored" in done.stderr
    assert b"1 image embedded" in done.stderr


def test_decisions_made_by_hand_are_not_written_over(
    faulty_index: Path, inside: Hier, tmp_path: Path
) -> None:
    words = ("review", "--index", faulty_index, "--kind", "tiny", "-o", tmp_path / "r")
    assert inside(*words).returncode == inside(*words).returncode == 0
    file = tmp_path / "r" / "review.csv"
    file.write_text(accepted(file.read_text()))
    held = file.read_text()
    fails(inside(*words), 2, "review.csv has decisions", "Rename")
    assert file.read_text() == held


def test_a_review_is_written_from_python(faulty: Path, faulty_index: Path, tmp_path: Path) -> None:
    """As the command does it; images that are gone are shown by small pictures of the index."""
    shutil.rmtree(faulty)
    found = Review.of_images(faulty_index, kinds=["tiny", "duplicate"])
    assert found.index == faulty_index and not found.notes
    assert found.write(tmp_path / "a" / "b", title="Mine") == []
    assert {file.name for file in (tmp_path / "a" / "b").iterdir()} == {
        "review.html", "review.csv", "review.jsonl",
    }  # fmt: skip
    page = (tmp_path / "a" / "b" / "review.html").read_text()
    assert "data:image/jpeg" in page and "<title>Mine" in page
    table = tmp_path / "a" / "b" / "review.csv"
    table.write_text(accepted(table.read_text()))
    with pytest.raises(InputError, match="has decisions"):
        found.write(tmp_path / "a" / "b")
    with pytest.raises(InputError, match="name a folder"):
        found.write(table)
    one = replace(found.collection, labels=["one"] * len(found.collection))
    assert "fewer than two labels" in Review.of_collection(one, kinds=["split"]).notes[0]


def test_a_review_needs_a_source_and_known_kinds(
    faulty_index: Path, inside: Hier, tmp_path: Path
) -> None:
    fails(inside("review"), 2, "--index", "--points")
    fails(inside("review", "--index", faulty_index, "--kind", "ugly"), 2, "ugly", "duplicate")
    file = tmp_path / "file"
    file.write_text("")
    fails(inside("review", "--index", faulty_index, "-o", file), 2, "folder")
    fails(inside("review", "--index", "milvus:x.db"), 2, "Milvus")


def test_what_to_label_next() -> None:
    """Doubtful images come first, and not two of one place."""
    rng = np.random.default_rng(0)
    middles = np.array([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]])
    sure = np.repeat(middles[:2], 10, axis=0) + 0.05 * rng.normal(size=(20, 3))
    between = (middles[0] + middles[1]) / 2 + 0.02 * rng.normal(size=(6, 3))
    inside_one = middles[0] + 0.02 * rng.normal(size=(6, 3))
    points = poincare.expmap0(np.concatenate([sure, between, inside_one]), C).astype(np.float32)
    labels = ["a"] * 10 + ["b"] * 10 + [""] * 12
    paths = [f"{n}.jpg" for n in range(32)]
    found = Review.of_collection(
        images(points, labels, paths), kinds=["label"], label_next=3
    ).findings
    assert [one.kind for one in found] == ["label"] * 3
    assert 20 <= int(Path(found[0].path).stem) < 26
    assert len({one.path for one in found}) == 3
    assert not Review.of_collection(images(points, ["a"] * 32, paths), kinds=["label"]).findings


# -- decisions ------------------------------------------------------------------------------------


def review_of(file: Path, *rows: tuple[str, ...]) -> Path:
    columns = ("kind", "path", "label", "proposal", "of", "confidence", "branch", "shared",
               "reason", "decision", "new_label")  # fmt: skip
    with file.open("w", newline="") as text:
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        for kind, path, label, proposal, decision, new in rows:
            writer.writerow({"kind": kind, "path": path, "label": label, "proposal": proposal,
                             "decision": decision, "new_label": new})  # fmt: skip
    return file


def test_decisions_change_labels_and_leave_images_out(
    photos: Path, exported: Path, inside: Hier, tmp_path: Path
) -> None:
    album, index = tmp_path / "album", tmp_path / "idx.faiss"
    shutil.copytree(photos, album)
    words = ("embed", album, "--model", exported, "--index", index)
    assert inside(*words).returncode == 0
    names = [f"kind0/photo{number}" for number in range(3)] + ["kind1/photo0", "kind1/photo1"]
    at = {name: str(album / f"{name}.jpg") for name in names}
    review = review_of(
        tmp_path / "review.csv",
        ("relabel", at["kind0/photo0"], "kind0", "kind2", "accept", ""),
        ("relabel", at["kind0/photo1"], "kind0", "kind2", "reject", ""),
        ("relabel", at["kind0/photo2"], "kind0", "kind2", "relabel", "a new kind"),
        ("duplicate", at["kind1/photo0"], "kind1", "", "accept", ""),
        ("outlier", at["kind1/photo1"], "kind1", "", "exclude", ""),
        ("merge", at["kind1/photo1"], "kind6", "kind7", "accept", ""),
        ("split", at["kind1/photo1"], "kind5", "3 and 3", "accept", ""),
    )
    done = inside(*words, "--labels", review)
    assert done.returncode == 0, done.stderr.decode()
    assert b"9 relabelled" not in done.stderr and b"2 removed" in done.stderr
    found = inside("search", at["kind0/photo1"], "--index", index, "-k", "48", "--json")
    labels = {Path(hit["path"]).relative_to(album).as_posix(): hit["label"]
              for hit in json.loads(found.stdout)["results"]}  # fmt: skip
    assert len(labels) == 46
    assert labels["kind0/photo0.jpg"] == "kind2" and labels["kind0/photo1.jpg"] == "kind0"
    assert labels["kind0/photo2.jpg"] == "a new kind"
    assert "kind6" not in labels.values() and labels["kind6/photo0.jpg"] == "kind7"
    # The same without an index, and by a plain table.
    table = tmp_path / "labels.csv"
    table.write_text("path,label\nalbum/kind0/photo0.jpg,mine\n")
    assert inside("embed", album, "--model", exported, "-o", tmp_path / "v.parquet",
                  "--labels", table).returncode == 0  # fmt: skip
    read = Collection.read(tmp_path / "v.parquet")
    assert read.labels is not None and read.labels.count("mine") == 1


def test_decisions_on_other_images_are_refused(
    photos: Path, exported: Path, inside: Hier, tmp_path: Path
) -> None:
    words = ("embed", photos / "kind0", "--model", exported, "-o", tmp_path / "v.npy", "--labels")
    other = review_of(tmp_path / "r.csv", ("blurred", "/elsewhere/x.jpg", "", "", "accept", ""))
    fails(inside(*words, other), 4, "/elsewhere/x.jpg", "None of the 1 decision")
    some = review_of(
        tmp_path / "r.csv",
        ("blurred", "/elsewhere/x.jpg", "", "", "accept", ""),
        ("blurred", str(photos / "kind0" / "photo0.jpg"), "", "", "accept", ""),
    )
    done = inside(*words, some)
    assert done.returncode == 3 and b"/elsewhere/x.jpg" in done.stderr
    wrong = review_of(tmp_path / "r.csv", ("blurred", "x.jpg", "", "", "perhaps", ""))
    fails(inside(*words, wrong), 2, "line 2", "perhaps", "accept")
    wrong = review_of(tmp_path / "r.csv", ("relabel", "x.jpg", "a", "b", "relabel", " "))
    fails(inside(*words, wrong), 2, "line 2", "new_label")
    wrong.write_text("name,label\nx,y\n")
    fails(inside(*words, wrong), 2, "path")
    wrong.write_text("path,label\nx\n")
    fails(inside(*words, wrong), 2, "line 2")
    wrong.write_text("")
    fails(inside(*words, wrong), 2, "path")


def test_a_known_label_brings_its_levels(tmp_path: Path) -> None:
    records = [Record(tmp_path / "a.jpg", "wren", ("Troglodytidae",)),
               Record(tmp_path / "b.jpg", "jay", ("Corvidae",))]  # fmt: skip
    table = tmp_path / "t.csv"
    table.write_text("path,label\na.jpg,jay\n")
    kept, left_out, lost = Corrections.read(table).applied(records, ("family",))
    assert [(one.label, one.levels) for one in kept] == [("jay", ("Corvidae",))] * 2
    assert not left_out and not lost
    table.write_text("path,label\na.jpg,owl\n")
    kept, _, _ = Corrections.read(table).applied(records, ("family",))
    assert (kept[0].label, kept[0].levels) == ("owl", ("",))
    table.write_text("path,label\nc.jpg,owl\n")
    with pytest.raises(MismatchError, match="None of the 1 decision"):
        Corrections.read(table).applied(records, ("family",))


def test_a_collection_without_curvature_is_refused() -> None:
    with pytest.raises(InputError, match="curvature"):
        Review.of_collection(Collection(points=np.zeros((3, 2), np.float32)))


def accepted(text: str) -> str:
    """A review with every proposal accepted."""
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(row | {"decision": "accept"} for row in rows)
    return out.getvalue()


def test_to_accept_everything_keeps_one_of_each_group_of_copies(
    exported: Path, inside: Hier, tmp_path: Path
) -> None:
    album = tmp_path / "s"
    for number, picture in enumerate(scenes(10, seed=3)):
        for split, size in (("train", (160, 120)), ("test", (80, 60))):
            folder = album / split / f"kind{number % 5}"
            folder.mkdir(parents=True, exist_ok=True)
            picture.resize(size).save(folder / f"{split}{number}.png")
        picture.save(album / "test" / f"kind{number % 5}" / f"third{number}.jpg")
    index, review = tmp_path / "s.faiss", tmp_path / "r.csv"
    words = ("embed", album, "--model", exported, "--index", index)
    assert inside(*words).returncode == 0
    done = inside("review", "--index", index, "--kind", "leak", "--kind", "duplicate")
    review.write_text(accepted(done.stdout.decode()))
    done = inside(*words, "--labels", review)
    assert done.returncode == 0 and b"20 removed" in done.stderr, done.stderr.decode()
    done = inside("review", "--index", index, "--kind", "duplicate", "--kind", "leak")
    assert not done.stdout.decode().splitlines()[1:]


ODD = ["a\nb.png", "a,b.png", 'a"b.png', "a\\nb.png", "é🐦.png", b"\xff\xfe.png"]


@pytest.mark.parametrize("name", ODD)
def test_a_review_names_every_file_exactly(
    name: str | bytes, exported: Path, inside: Hier, tmp_path: Path
) -> None:
    album = tmp_path / "odd\r\nfolder"
    album.mkdir()
    for number, picture in enumerate(scenes(4)):
        picture.save(album / f"{number}.png")
    bad = Path(os.fsdecode(os.path.join(os.fsencode(album), os.fsencode(name))))
    scenes(1)[0].resize((40, 30)).save(bad)
    index, review = tmp_path / "odd.faiss", tmp_path / "r.csv"
    words = ("embed", album, "--model", exported, "--index", index)
    assert inside(*words).returncode == 0
    done = inside("review", "--index", index, "--kind", "duplicate")
    text = accepted(done.stdout.decode("utf-8", "surrogateescape"))
    review.write_bytes(text.encode("utf-8", "surrogateescape"))
    done = inside(*words, "--labels", review)
    assert done.returncode == 0 and b"1 removed" in done.stderr, done.stderr.decode()
    folder = tmp_path / "page"
    assert inside("review", "--index", index, "-o", folder).returncode == 0
    (folder / "review.html").read_text("utf-8")


def test_merges_follow_each_other_and_contradictions_are_refused(tmp_path: Path) -> None:
    records = [Record(tmp_path / f"{label}.jpg", label) for label in "abcd"]
    chain = [("merge", "x.jpg", "a", "b", "accept", ""), ("merge", "x.jpg", "b", "c", "accept", "")]
    table = tmp_path / "r.csv"
    kept, _, lost = Corrections.read(review_of(table, *chain)).applied(records, ())
    assert [one.label for one in kept] == ["c", "c", "c", "d"] and not lost
    new = ("merge", "x.jpg", "a", "b", "accept", "both")
    kept, _, _ = Corrections.read(review_of(table, new)).applied(records, ())
    assert [one.label for one in kept] == ["both", "b", "c", "d"]
    back = ("merge", "x.jpg", "c", "a", "accept", "")
    with pytest.raises(DataError, match="become each other"):
        Corrections.read(review_of(table, *chain, back)).applied(records, ())
    other = ("merge", "x.jpg", "a", "d", "accept", "")
    with pytest.raises(DataError, match="both b and d"):
        Corrections.read(review_of(table, *chain, other))
    unknown = ("merge", "x.jpg", "zebra", "a", "accept", "")
    _, _, lost = Corrections.read(review_of(table, *chain, unknown)).applied(records, ())
    assert len(lost) == 1 and "zebra" in lost[0]
    with pytest.raises(MismatchError, match="zebra"):
        Corrections.read(review_of(table, unknown)).applied(records, ())


@pytest.mark.parametrize("rows", ["a.jpg,\n", ",wren\n", "a.jpg,  \n", "a.jpg,x\na.jpg,y\n"])
def test_tables_of_labels_say_one_thing_of_each_image(rows: str, tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("path,label\n" + rows)
    with pytest.raises(DataError, match="line"):
        Corrections.read(table)
    table.write_text("path;label\r\na.jpg;wren\r\n")  # as some spreadsheets save it
    assert list(Corrections.read(table).labels.values()) == ["wren"]


def test_names_of_no_image_leave_no_trace_in_the_index(
    photos: Path, exported: Path, inside: Hier, tmp_path: Path
) -> None:
    index, table = tmp_path / "idx.faiss", tmp_path / "t.csv"
    table.write_text(f"path,label\nghost.jpg,wren\n{photos}/kind0/photo0.jpg,wren\n")
    words = ("embed", photos / "kind0", "--model", exported, "--index", index)
    done = inside(*words, "--labels", table)
    assert done.returncode == 3 and b"ghost.jpg" in done.stderr
    done = inside("review", "--index", index, "--kind", "unreadable")
    assert not done.stdout.decode().splitlines()[1:]


def test_a_review_of_points_names_whole_paths(
    photos: Path, exported: Path, inside: Hier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(photos, tmp_path / "album")
    monkeypatch.chdir(tmp_path)
    assert inside("embed", "album", "--model", exported, "-o", "v.parquet").returncode == 0
    Path("album/kind0/photo0.jpg").unlink()
    done = inside("review", "--points", "v.parquet", "--kind", "unreadable")
    (row,) = csv.DictReader(io.StringIO(done.stdout.decode()))
    assert row["path"] == str(tmp_path / "album" / "kind0" / "photo0.jpg")
    assert row["reason"] == "the file is missing"


def test_scores_that_tell_nothing_accuse_nobody() -> None:
    """Where sound items score as planted faults do, none is listed."""
    rng = np.random.default_rng(0)
    for count in (12, 100, 3000):
        sure = planting.confidence(rng.normal(size=count), rng.normal(size=count))
        assert sure.max() < 0.45, count
