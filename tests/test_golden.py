"""Golden vectors: an exported encoder checks itself, and a wrong one is caught."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import Hier

from hiercli.encoder.golden import golden_path


@pytest.fixture
def own(exported: Path, tmp_path: Path) -> Path:
    """A copy of the exported encoder with its golden vectors, to be spoiled."""
    model = tmp_path / "own.onnx"
    shutil.copy(exported, model)
    shutil.copy(golden_path(exported), golden_path(model))
    return model


def rewrite(file: Path, **changed: np.ndarray) -> None:
    with np.load(file) as arrays:
        content = dict(arrays) | changed
    np.savez_compressed(file, **content)  # type: ignore[arg-type]


def test_an_export_verifies_itself(own: Path, inside: Hier) -> None:
    done = inside("verify", own, "--json")
    assert done.returncode == 0, done.stderr.decode()
    found = json.loads(done.stdout)
    assert (found["passed"], found["pictures"], found["tensor_difference"]) == (True, 5, 0)
    assert found["whole_difference"] < 1e-4
    with np.load(golden_path(own)) as arrays:
        assert arrays["tensors"].shape == (5, 3, 32, 32)
        # Each picture is another, and none is flat: a port that mixes them up is caught.
        assert np.abs(np.diff(arrays["points"], axis=0)).max(axis=1).min() > 1e-3
        assert arrays["tensors"].std(axis=(1, 2, 3)).min() > 0.1
    assert b"largest difference" in inside("verify", own).stdout


def test_the_general_encoder_verifies_itself(inside: Hier) -> None:
    model = Path(__file__).parents[1] / "models" / "general.onnx"
    assert inside("verify", model, "--device", "cpu").returncode == 0


def test_what_differs_is_caught(own: Path, inside: Hier) -> None:
    with np.load(golden_path(own)) as arrays:
        points, tensors = arrays["points"], arrays["tensors"]
    rewrite(golden_path(own), points=points[::-1])
    done = inside("verify", own, "--json")
    assert (done.returncode, json.loads(done.stdout)["passed"]) == (2, False)
    # As if this machine did not turn pictures upright.
    rewrite(golden_path(own), points=points, tensors=np.rot90(tensors, axes=(2, 3)))
    done = inside("verify", own)
    assert done.returncode == 2
    assert b"differ from those at export" in done.stderr


def test_golden_vectors_that_cannot_be_used(own: Path, inside: Hier) -> None:
    file = golden_path(own)
    whole = file.read_bytes()
    with np.load(file) as arrays:
        about = json.loads(arrays["about"].tobytes())
    about["digest"] = "0" * 64
    rewrite(file, about=np.frombuffer(json.dumps(about).encode(), np.uint8))
    done = inside("verify", own)
    assert (done.returncode, b"does not belong to" in done.stderr) == (4, True)
    for content in (whole[:2000], b"hello", b""):
        file.write_bytes(content)
        done = inside("verify", own)
        assert (done.returncode, b"NumPy archive" in done.stderr) == (2, True)
    file.unlink()
    done = inside("verify", own)
    assert (done.returncode, b"missing" in done.stderr) == (2, True)


def test_an_encoder_whose_weights_changed_is_caught(own: Path, inside: Hier) -> None:
    model = onnx.load(str(own))
    for weights in model.graph.initializer:
        values = onnx.numpy_helper.to_array(weights)
        if values.dtype == np.float32 and values.ndim == 2:
            changed = onnx.numpy_helper.from_array(values[:, ::-1].copy(), weights.name)
            weights.CopyFrom(changed)
    onnx.save(model, str(own))
    assert inside("verify", own).returncode == 2


@pytest.mark.skipif(os.path.exists("/dev/nvidia0"), reason="there is a GPU")
def test_without_a_gpu_it_says_so_and_goes_on(
    exported: Path, photos: Path, inside: Hier, tmp_path: Path
) -> None:
    words = ("embed", photos / "kind0", "--model", exported, "-o", tmp_path / "v.npy")
    done = inside(*words, "--device", "cuda", "--threads", "1", "--batch", "4")
    assert done.returncode == 0
    assert done.stderr.count(b"running on the CPU") == 1
    assert b"running on" not in inside(*words).stderr
    assert inside(*words, "--device", "toaster").returncode == 2
