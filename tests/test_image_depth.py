"""Depth of images: unclear ones lie nearer the origin, and people are told."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY, Hier
from PIL import Image
from test_interpolating import SMALL

from hiercli.collection import Collection
from hiercli.data.records import Dataset, Record
from hiercli.errors import DataError, InputError
from hiercli.evaluation import specificity
from hiercli.geometry import poincare
from hiercli.hierarchy import depth
from hiercli.hierarchy.calibrating import calibrate
from hiercli.hierarchy.labelled import Labelled
from hiercli.hierarchy.verdict import Calibration, Verdict
from hiercli.images import degrading
from hiercli.index.index import Index
from hiercli.training import recipe, trainer
from hiercli.training.embedding import TorchEncoder
from hiercli.training.reporter import Silence


def scene() -> Image.Image:
    rng = np.random.default_rng(0)
    pixels = rng.integers(100, 255, (6, 8, 3)).astype(np.uint8)
    return Image.fromarray(pixels).resize((64, 48), Image.Resampling.NEAREST)


@pytest.mark.parametrize("kind", degrading.DEGRADATIONS)
def test_images_become_worse_by_degrees(kind: str) -> None:
    whole = np.asarray(scene(), float)
    lost = []
    for strength in (0.0, 0.3, 0.6, 1.0):
        worse = degrading.degraded(scene(), kind, strength, np.random.default_rng(1))
        assert worse.size == (64, 48)
        assert worse.mode == "RGB"
        lost.append(np.abs(np.asarray(worse, float) - whole).mean())
    assert lost[0] == 0
    assert lost[0] < lost[1] < lost[2] and lost[3] > 5


def test_shuffled_tiles_are_the_same_tiles() -> None:
    worse = degrading.degraded(scene(), degrading.SHUFFLED, 1.0, np.random.default_rng(1))
    assert worse.size == (48, 48)
    parts = []
    for picture in (scene().crop((0, 0, 48, 48)), worse):
        pixels = np.asarray(picture)
        parts.append(
            sorted(
                pixels[y : y + 12, x : x + 12].tobytes()
                for y in range(0, 48, 12)
                for x in range(0, 48, 12)
            )
        )
    assert parts[0] == parts[1]


def test_what_cannot_be_read_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"nothing")
    scene().save(tmp_path / "good.png")
    out = tmp_path / "out"
    out.mkdir()
    files = [tmp_path / "bad.jpg", tmp_path / "good.png"]
    found = degrading.write(files, ["blur"] * 2, [1.0] * 2, out, 24, np.random.default_rng(0))
    assert found[0] is None
    assert found[1] is not None
    assert Image.open(found[1]).size == (32, 24)


def test_training_places_unclear_images_further_in(photos: Path, tmp_path: Path) -> None:
    records = tuple(Record(path, path.parent.name) for path in sorted(photos.rglob("*.jpg")))
    dataset = Dataset("x", records[:36], records[36:])
    settings = recipe.load("fast", {**SMALL, "image_depth": True, "epochs": 1})
    result = trainer.train(settings, dataset, tmp_path / "run", Silence())
    encoder = TorchEncoder.from_checkpoint(result.out / "best.pt")
    kinds = [degrading.DEGRADATIONS[number % 5] for number in range(len(records))]
    out = tmp_path / "worse"
    out.mkdir()
    written = degrading.write(
        [record.path for record in records], kinds, [0.9] * len(records), out, 48,
        np.random.default_rng(5),
    )  # fmt: skip
    radii = []
    for files in ([record.path for record in records], written):
        points = encoder.embed_records([Record(Path(str(file)), "x") for file in files]).points
        radii.append(depth.radius_of(points.astype(np.float64), 0.1))
    assert specificity.auroc(*radii) > 0.65, "a random network of a few weights"
    spread = radii[0].std() / radii[0].mean()
    assert spread < 0.1, "lengths stay close to each other"
    again = trainer.train(settings, dataset, tmp_path / "again", Silence())
    assert (again.out / "test.json").read_text() == (result.out / "test.json").read_text()


def test_depth_needs_a_length_of_its_own() -> None:
    with pytest.raises(InputError, match="--learned-radius or --no-image-depth"):
        recipe.load("fast", {"learned_radius": False})


class Lengths:
    """An encoder whose points lie the farther out, the brighter an image is."""

    def embed_records(self, records: list[Record], *_: object, **__: object) -> Collection:
        points = []
        for record in records:
            bright = np.asarray(Image.open(record.path).convert("L"), float).mean() / 255
            points.append([0.5 + bright, 0.0])
        paths = [str(record.path) for record in records]
        return Collection(points=poincare.expmap0(np.array(points), 0.1), paths=paths, c=0.1)


def test_scores_of_depth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(specificity, "_SIDE", 32)
    rng = np.random.default_rng(0)
    for number in range(30):
        pixels = rng.integers(0, 256, (32, 32, 3)) * (0.5 + number / 60)
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"{number:02}.png")
    records = [Record(path, "x") for path in sorted(tmp_path.glob("*.png"))]
    queries = Lengths().embed_records(records)
    right = np.arange(28) >= 10  # the darkest ones are wrong
    found = specificity.judge(Lengths(), queries, right, np.arange(28), records[:5])
    assert found.wrong_hits == 1
    assert found.degradation["dark"] > 0.9
    assert found.foreign is not None
    assert found.foreign > 0.85
    kinds = {f"spearman@{kind}" for kind in degrading.DEGRADATIONS}
    assert set(found.to_dict()) == {"wrong_hits_auroc", "foreign_auroc"} | kinds
    with pytest.raises(DataError, match="all right"):
        specificity.judge(Lengths(), queries, np.ones(28, bool), np.arange(28))
    same = Collection(points=queries.points[[0] * 30], paths=queries.paths, c=0.1)
    with pytest.raises(DataError, match="equally far"):
        specificity.judge(Lengths(), same, right, np.arange(28))


def test_an_index_says_how_clear_a_query_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    direction = np.repeat(rng.normal(size=(4, 6)), 25, axis=0) + 0.3 * rng.normal(size=(100, 6))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    points = poincare.expmap0(direction * np.linspace(1, 2, 100)[:, None], 0.1)
    labels = [f"kind{number // 25}" for number in range(100)]
    some = Collection(points=points, labels=labels, c=0.1)
    known = calibrate(dataclasses.replace(Labelled.of(some), image_depth=True))
    assert len(known.radii) == depth.NUM_RADII
    assert Calibration.from_dict(json.loads(json.dumps(known.to_dict()))) == known
    for damage in ([1.0], [float("nan")] * depth.NUM_RADII, "x" * depth.NUM_RADII):
        with pytest.raises(ValueError):
            Calibration.from_dict(known.to_dict() | {"radii": damage})
    assert calibrate(Labelled.of(some)).radii == (), "radii need not mean anything"
    Index.build(tmp_path / "idx.faiss", some).close()
    with Index(tmp_path / "idx.faiss") as made:
        assert made.identify(points[90]).specificity is None
    monkeypatch.setattr(Calibration, "from_dict", lambda _: known)
    with Index(tmp_path / "idx.faiss") as made:
        clear, unclear = made.identify(np.stack([points[90], 0.4 * points[10]]))
    assert clear.specificity == pytest.approx(0.9, abs=0.02)
    assert unclear.specificity == 0
    assert str(unclear).endswith(", an unclear or unusual image")
    assert "unclear" not in str(Verdict("a", "class", 0.95, False, [("a", "class", 0.95)], 0.5))


def test_on_the_command_line(
    photos: Path, tmp_path: Path, inside: Hier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(specificity, "_SIDE", 32)
    monkeypatch.setattr(specificity, "_DEGRADED", 8)
    run, model, strange = tmp_path / "run", tmp_path / "deep.onnx", tmp_path / "strange"
    shutil.copytree(photos / "kind0", strange)
    whole = (strange / "photo0.jpg").read_bytes()
    (strange / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    words = ["train", "--data", photos, "--out", run, *TINY, "--image-depth", "--no-untrained"]
    assert inside(*words).returncode == 0
    done = inside("export", "--checkpoint", run / "best.pt", "-o", model, "--data", photos)
    assert done.returncode == 0
    done = inside("eval", "--model", model, "--data", photos, "--specificity", "--json")
    assert done.returncode == 0, done.stderr.decode()
    found = json.loads(done.stdout)
    assert "specificity" in found or b"depth cannot be scored" in done.stderr
    done = inside("eval", "--model", model, "--data", photos, "--specificity", "--foreign", strange)
    assert done.returncode == 3, "what is passed over is named"
    assert "cut.jpg" in done.stderr.decode()
    index, query = tmp_path / "idx.faiss", sorted(photos.rglob("*.jpg"))[0]
    assert inside("embed", photos, "--model", model, "--index", index).returncode == 0
    done = inside("search", query, "--index", index, "--json")
    assert 0 <= json.loads(done.stdout)["verdict"]["specificity"] <= 1
    done = inside("eval", "--model", model, "--data", photos, "--foreign", photos)
    assert done.returncode == 2
    assert "--foreign belongs to --specificity" in done.stderr.decode()
