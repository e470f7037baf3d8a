"""An encoder adapted to images without labels: what is learnt, the graph, and the index."""

import json
import shutil
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import Hier, fails, paint, searched
from PIL import Image

from hiercli import Encoder, Index
from hiercli.adapting import FEWEST, Head, adapt
from hiercli.adapting import head as head_module
from hiercli.encoder import encoder as encoder_module
from hiercli.encoder import golden, onnx_file
from hiercli.encoder.features import FeatureEncoder
from hiercli.errors import FileFormatError, InputError, MismatchError
from hiercli.geometry import poincare
from hiercli.index.schema import facts_checksum
from hiercli.neighbours import nearest

C = 0.1


def noisy(classes: int = 20, each: int = 12, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features in which a few loud directions say nothing of the class."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), each)
    quiet = rng.normal(size=(classes, 40))[labels] + 0.8 * rng.normal(size=(len(labels), 40))
    loud = 4.0 * rng.normal(size=(len(labels), 8))
    turned = np.linalg.qr(rng.normal(size=(48, 48)))[0]
    return (np.column_stack([quiet, loud]) @ turned).astype(np.float32), labels


def right_first_hits(points: np.ndarray, labels: np.ndarray, c: float | None) -> float:
    _, found = nearest(points, points, 2, c)
    other = np.where(found[:, 0] == np.arange(len(points)), found[:, 1], found[:, 0])
    return float((labels[other] == labels).mean())


def test_what_differs_between_neighbours_counts_less() -> None:
    features, labels = noisy()
    head = Head.learn(features, 24, C)
    points = head.points(features)
    assert points.shape == (240, 24) and points.dtype == np.float32
    assert right_first_hits(points, labels, C) > right_first_hits(features, labels, None) + 0.05
    depths = poincare.dist(points.astype(np.float64), np.zeros_like(points, np.float64), C)
    assert np.ptp(depths) < 1e-4


def test_neighbours_are_looked_for_again_under_the_new_head(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    features, labels = noisy(each=20, seed=3)
    shares = []
    for rounds in (1, 3):
        monkeypatch.setattr(head_module, "_ROUNDS", rounds)
        points = Head.learn(features, 24, C).points(features)
        shares.append(right_first_hits(points, labels, C))
    assert shares[1] > shares[0]
    # Neighbours by points that know the classes need no second round.
    monkeypatch.setattr(head_module, "_ROUNDS", 1)
    told = Head.learn(features, 24, C, points=np.eye(20)[labels] + 1e-3 * features[:, :20])
    assert right_first_hits(told.points(features), labels, C) > shares[0]


def test_a_head_of_classes_counts_collections_alike() -> None:
    every, kinds = noisy(classes=60)
    known, more = kinds < 20, (kinds >= 20) & (kinds < 30)
    features, labels, others, names = every[known], kinds[known], every[more], kinds[more]
    head = Head.of_classes([(features, labels), (others, names)], 24, C)
    fresh, classes = every[kinds >= 30], kinds[kinds >= 30]
    before = right_first_hits(fresh, classes, None)
    assert right_first_hits(head.points(fresh), classes, C) > before + 0.05
    many = Head.of_classes(
        [(np.tile(features, (9, 1)), np.tile(labels, 9)), (others, names)], 24, C
    )
    np.testing.assert_allclose(
        np.abs(many.weight @ head.weight.T),
        np.abs(head.weight @ head.weight.T),
        rtol=1e-3,
        atol=1e-4,
    )


def test_collections_without_a_difference_are_refused() -> None:
    features, labels = noisy()
    for wrong in ([], [(features, np.arange(240))], [(features, labels[:-1])], [(features[:0], [])],
                  [(np.repeat(features[:1], 9, axis=0), [0] * 9)]):  # fmt: skip
        with pytest.raises(InputError, match="expected"):
            Head.of_classes(wrong, 24, C)
    with pytest.raises(InputError, match="expected 240 points"):
        Head.learn(features, 24, C, points=features[:-1])


def test_few_or_equal_images_are_refused() -> None:
    features, _ = noisy()
    with pytest.raises(InputError, match=f"at least {FEWEST}"):
        Head.learn(features[: FEWEST - 1], 8, C)
    with pytest.raises(InputError, match="do not differ"):
        Head.learn(np.repeat(features[:1], 100, axis=0), 8, C)
    # Fewer images than dimensions are no harm.
    points = Head.learn(features[:FEWEST], 48, C).points(features)
    assert np.isfinite(points).all()


@pytest.fixture
def album_index(exported: Path, inside: Hier, tmp_path: Path) -> Path:
    """Eighty images of ten kinds."""
    album = tmp_path / "many"
    for number in range(80):
        file = album / f"kind{number % 10}" / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        paint(file, number)
    index = tmp_path / "idx.faiss"
    assert inside("embed", album, "--model", exported, "--index", index).returncode == 0
    return index


def test_an_index_and_its_encoder_go_on_together(
    album_index: Path, exported: Path, inside: Hier, tmp_path: Path
) -> None:
    target = tmp_path / "mine.onnx"
    with Index(album_index) as index:
        before = index.collection()
        ids = [hit.path for hit in index.search(before.points[0], k=None)]
    done = inside("adapt", "--index", album_index, "-o", target, "--json")
    assert done.returncode == 0, done.stderr.decode()
    told = json.loads(done.stdout)
    assert (told["images"], told["skipped"], told["rebased"]) == (80, 0, True)
    assert {"recall@1", "map@r"} == set(told["before"]) == set(told["after"])
    made = Encoder(target)
    assert made.fingerprint == told["fingerprint"] != Encoder(exported).fingerprint
    assert golden.replay(made, golden.golden_path(target)).passed
    assert inside("verify", target).returncode == 0
    with Index(album_index) as index:
        assert index.fingerprint == made.fingerprint
        after = index.collection()
        assert after.paths == before.paths and after.labels == before.labels
        assert sorted(ids) == sorted(hit.path for hit in index.search(after.points[0], k=None))
        again = made.embed([Path(path) for path in after.paths or ()])
        np.testing.assert_allclose(again.points, after.points, atol=1e-4)
        first = [hits[0].path for hits in searched(album_index, again.points, 1)]
        assert first == after.paths
        assert after.proxies is not None and len(after.proxies)
    assert inside("index", "verify", album_index).returncode == 0
    # Nothing is embedded again, thumbnails are kept, and updates go on with the new encoder.
    folder = tmp_path / "many"
    update = inside("embed", folder, "--model", target, "--index", album_index)
    assert b"0 images embedded" in update.stderr and b"80 unchanged" in update.stderr
    assert inside("embed", folder, "--model", exported, "--index", album_index).returncode == 4
    shutil.rmtree(folder)
    page = tmp_path / "found.html"
    np.save(tmp_path / "q.npy", after.points[:1])
    words = ("search", tmp_path / "q.npy", "--index", album_index, "--html", page)
    assert inside(*words).returncode == 0
    assert page.read_text().count("data:image/jpeg") == 10


def test_copies_count_once(album_index: Path, exported: Path, inside: Hier, tmp_path: Path) -> None:
    assert inside("adapt", "--index", album_index, "-o", tmp_path / "once.onnx").returncode == 0
    album, few = tmp_path / "many", tmp_path / "few"
    few.mkdir()
    files = sorted(album.rglob("*.png"))
    for number, file in enumerate(files):
        for copy in range(5):
            shutil.copy(file, file.with_name(f"{file.stem} copy {copy}.png"))
            shutil.copy(files[number % (FEWEST - 1)], few / f"{number} {copy}.png")
    copied = tmp_path / "copied.faiss"
    assert inside("embed", album, "--model", exported, "--index", copied).returncode == 0
    assert inside("adapt", "--index", copied, "-o", tmp_path / "copied.onnx").returncode == 0
    once, often = (Encoder(tmp_path / f"{name}.onnx") for name in ("once", "copied"))
    np.testing.assert_allclose(
        np.abs(once.embed(files).points), np.abs(often.embed(files).points), atol=1e-4
    )
    assert (
        inside("embed", few, "--model", exported, "--index", tmp_path / "few.faiss").returncode == 0
    )
    refused = inside("adapt", "--index", tmp_path / "few.faiss", "-o", tmp_path / "few.onnx")
    fails(refused, 2)
    assert f"at least {FEWEST} different images" in refused.stderr.decode().replace("\n", " ")


def test_the_graph_computes_what_the_head_does(album_index: Path, tmp_path: Path) -> None:
    done = adapt(album_index, tmp_path / "a.onnx", dim=5, rebase=False)
    assert not done.rebased and done.encoder.embedding_dim == 5
    with Index(album_index) as index:
        assert index.fingerprint != done.encoder.fingerprint
        paths = index.collection().paths or []
        features = FeatureEncoder(index.encoder.path)
    pixels = features.metadata.preprocessing(Image.open(paths[3]).convert("RGB"))[None]
    assert features.run(pixels).ndim == 2
    points = done.encoder.run(pixels)
    length = np.linalg.norm(poincare.logmap0(points.astype(np.float64), done.encoder.c))
    assert length == pytest.approx(2.0, abs=1e-3)


def test_classes_of_the_encoder_move_along(
    album_index: Path, exported: Path, tmp_path: Path
) -> None:
    done = adapt(album_index, tmp_path / "a.onnx")
    old, new = Encoder(exported).metadata, done.encoder.metadata
    assert new.class_names == old.class_names and len(new.class_points) == len(old.class_points)
    assert new.class_points.shape[1] == new.embedding_dim
    with pytest.raises(InputError, match="adapted already"):
        adapt(album_index, tmp_path / "b.onnx")


def test_images_that_are_gone_or_changed_are_named(
    album_index: Path, inside: Hier, tmp_path: Path
) -> None:
    target, album = tmp_path / "mine.onnx", tmp_path / "many"
    (album / "kind0" / "0.png").unlink()
    paint(album / "kind1" / "1.png", 999)
    with Index(album_index) as index:
        before = index.fingerprint
    done = inside("adapt", "--index", album_index, "-o", target)
    assert done.returncode == 3
    text = done.stderr.decode()
    assert "0.png" in text and "1.png: has changed" in text and "stays as it is" in text
    assert target.is_file()
    with Index(album_index) as index:
        assert index.fingerprint == before
    shutil.rmtree(album)
    fails(inside("adapt", "--index", album_index, "-o", tmp_path / "n.onnx"), 2, "none of the 80")
    assert not (tmp_path / "n.onnx").exists()


def test_what_cannot_be_adapted(
    index: Path, album_index: Path, exported: Path, inside: Hier, tmp_path: Path
) -> None:
    fails(inside("adapt", "--index", index, "-o", tmp_path / "x.onnx"), 2, "at least 60")
    fails(inside("adapt", "--index", album_index, "-o", tmp_path / "x.pt"), 2, ".onnx")
    fails(inside("adapt", "--index", "milvus:x.db", "-o", tmp_path / "x.onnx"), 2, "Milvus")
    missing = tmp_path / "no.faiss"
    fails(inside("adapt", "--index", missing, "-o", tmp_path / "x.onnx"), 2, "no.faiss")
    wide = ("--embedding-dim", "4096")
    fails(inside("adapt", "--index", album_index, "-o", tmp_path / "x.onnx", *wide), 2, "at most")
    general = Encoder().path
    fails(inside("adapt", "--index", album_index, "-o", tmp_path / "x.onnx", "--model", general), 4)
    fails(inside("adapt", "--index", album_index, "-o", exported), 2, "would overwrite")
    with pytest.raises(MismatchError):
        adapt(album_index, tmp_path / "x.onnx", general)
    assert not list(tmp_path.glob("x.*"))


def test_updates_use_the_encoder_of_the_index(
    album_index: Path, exported: Path, inside: Hier, tmp_path: Path
) -> None:
    """That of --model, then the adapted one: where it was written, and moved beside the index."""
    folder, words = tmp_path / "many", ("embed", tmp_path / "many", "--index", album_index)
    assert b"80 unchanged" in inside(*words).stderr
    target = tmp_path / "made" / "mine.onnx"
    target.parent.mkdir()
    assert inside("adapt", "--index", album_index, "-o", target).returncode == 0
    paint(folder / "kind1" / "new.png", 500)
    done = inside(*words)
    assert done.returncode == 0, done.stderr.decode()
    assert b"1 image embedded" in done.stderr and str(target).encode() in done.stderr
    moved = target.rename(tmp_path / "renamed.onnx")
    paint(folder / "kind1" / "newer.png", 501)
    done = inside(*words)
    assert b"1 added" in done.stderr and str(moved).encode() in done.stderr
    with Index(album_index) as index:
        paint(folder / "kind1" / "newest.png", 502)
        assert index.update([folder]).added == 1
        assert index.encoder.path == moved
    moved.rename(folder / "mine.onnx")
    fails(inside(*words), 2, "is no longer at", "--model")
    assert inside(*words, "--model", folder / "mine.onnx").returncode == 0
    # Built again it is one of the general encoder, which is found wherever hier is installed.
    assert inside(*words, "--rebuild").returncode == 0
    with Index(album_index) as index:
        assert index.fingerprint == Encoder().fingerprint
    with closing(sqlite3.connect(f"{album_index}.sqlite")) as opened:
        facts = dict(opened.execute("SELECT name, value FROM facts"))
        facts["model"] = json.dumps("/elsewhere/general.onnx")
        facts["checksum"] = facts_checksum(facts)
        opened.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", facts.items())
        opened.commit()
    done = inside(*words)
    assert b"83 unchanged" in done.stderr, done.stderr.decode()
    assert inside("search", folder / "kind1" / "new.png", "--index", album_index).returncode == 0


def test_only_the_backbone_is_opened(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[list[str]] = []
    open_session = encoder_module.open_session

    def noted(content: bytes, providers: Sequence[str], threads: int) -> Any:
        session = open_session(content, providers, threads)
        opened.append([one.name for one in session.get_outputs()])
        return session

    monkeypatch.setattr(encoder_module, "open_session", noted)
    features = FeatureEncoder(exported)
    assert opened == [[features.parts.features]]
    pixels = np.zeros((1, 3, 32, 32), np.float32)
    narrow = features.on_one_core()
    assert opened == [[features.parts.features]] * 2
    np.testing.assert_allclose(narrow.run(pixels), features.run(pixels), rtol=1e-4, atol=1e-5)
    assert narrow.metadata == features.metadata


def test_an_encoder_without_a_head_of_ours(exported: Path, tmp_path: Path) -> None:
    model = onnx.load(str(exported))
    for node in model.graph.node:
        if node.op_type == "LayerNormalization":
            node.op_type = "Identity"
            del node.input[1:], node.attribute[:]
    metadata = Encoder(exported).metadata
    onnx_file.write(model, metadata, tmp_path / "bare.onnx")
    assert Encoder(tmp_path / "bare.onnx").embedding_dim == 16
    with pytest.raises(FileFormatError, match=r"the head of .*bare.onnx"):
        FeatureEncoder(tmp_path / "bare.onnx")
