"""Smaller variants of an encoder: what they cost, and that nobody takes one for the other."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import Hier

from hiercli.encoder import golden
from hiercli.encoder.encoder import Encoder


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_a_variant_comes_with_its_report(
    precision: str, exported: Path, photos: Path, index: Path, inside: Hier, tmp_path: Path
) -> None:
    target = tmp_path / "small.onnx"
    words = ("export", "--model", exported, "-o", target, f"--{precision}", "--data", photos)
    done = inside(*words, "--json", "--largest-loss", "100")
    assert done.returncode == 0, done.stderr.decode()
    report = json.loads(done.stdout)
    assert report[f"bytes_{precision}"] == pytest.approx(target.stat().st_size, rel=0.02)
    assert report[f"bytes_{precision}"] < 0.7 * report["bytes_fp32"]
    assert 0.5 <= report["overlap@10"] <= 1
    assert 0 <= report[f"recall@1_{precision}"] <= 100
    assert report[f"images/s_{precision}"] > 0
    small, whole = Encoder(target), Encoder(exported)
    assert small.metadata.precision == precision
    assert small.metadata.proof["overlap@10"] == report["overlap@10"]
    size = whole.metadata.preprocessing.size
    pixels = np.random.default_rng(0).standard_normal((2, 3, size, size)).astype(np.float32)
    difference = np.abs(small.run(pixels) - whole.run(pixels)).max()
    assert 0 < difference < 0.5
    assert golden.replay(small, golden.golden_path(target)).passed
    # The head keeps its digits.
    kinds = {i.name: i.data_type for i in onnx.load(target).graph.initializer}
    assert kinds["head/embedder.head.weight"] == onnx.TensorProto.FLOAT
    wanted = onnx.TensorProto.INT8 if precision == "int8" else onnx.TensorProto.FLOAT16
    assert sum(kind == wanted for kind in kinds.values()) > 10
    # Its points are not the other's.
    (picture, *_) = sorted(photos.rglob("*.jpg"))
    done = inside("search", picture, "--index", index, "--model", target)
    assert done.returncode == 4
    assert small.metadata.fingerprint.encode() in done.stderr
    again = inside("export", "--model", target, "-o", tmp_path / "x.onnx", *words[-3:])
    assert again.returncode == 2
    assert f"is {precision}".encode() in again.stderr


def test_a_variant_that_loses_too_much_is_not_written(
    exported: Path, photos: Path, inside: Hier, tmp_path: Path
) -> None:
    done = inside(
        "export", "--model", exported, "-o", tmp_path / "small.onnx", "--int8", "--data", photos,
        "--largest-loss", "-101",
    )  # fmt: skip
    assert done.returncode == 2
    assert b"points of Recall@1" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), b"one of --checkpoint, --model and --backbone"),
        (("--model", "MODEL"), b"already exported"),
        (("--model", "MODEL", "--int8", "--fp16", "--data", "x"), b"one of --int8 and --fp16"),
        (("--model", "MODEL", "--int8"), b"need --data"),
        (("--model", "MODEL", "--int8", "--data", "PHOTOS", "-o", "MODEL"), b"MODEL"),
    ],
)
def test_what_does_not_go_together(
    words: tuple[str, ...], expected: bytes, exported: Path, photos: Path, inside: Hier,
    tmp_path: Path,
) -> None:  # fmt: skip
    names = {"MODEL": str(exported), "PHOTOS": str(photos)}
    before = exported.read_bytes()
    given = [names.get(word, word) for word in words]
    done = inside("export", "-o", tmp_path / "x.onnx", *given)
    assert done.returncode == 2
    assert expected.replace(b"MODEL", exported.name.encode()) in done.stderr
    assert exported.read_bytes() == before
    assert not list(tmp_path.iterdir())


def test_straight_from_a_checkpoint(
    trained: Path, photos: Path, inside: Hier, tmp_path: Path
) -> None:
    done = inside(
        "export", "--checkpoint", trained / "best.pt", "-o", tmp_path / "half.onnx", "--fp16",
        "--data", photos, "--largest-loss", "100",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    assert Encoder(tmp_path / "half.onnx").metadata.precision == "fp16"
    assert {file.name for file in tmp_path.iterdir()} == {"half.onnx", "half.golden.npz"}
