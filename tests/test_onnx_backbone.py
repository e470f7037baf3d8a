"""The backbone by ONNX Runtime: what torch gives, with the weights of the moment."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_interpolating import train
from torch import nn

from hiercli.labels import Record
from hiercli.nn import backbone
from hiercli.training import onnx_backbone
from hiercli.training.embedding import TorchEncoder

CPU = torch.device("cpu")


def network(name: str = "test_efficientnet") -> nn.Module:
    return backbone.create(name, weights="none", image_size=32).eval()


def test_it_follows_the_weights() -> None:
    own = network()
    state = torch.get_rng_state()
    traced = onnx_backbone.of(own, 32, CPU)
    assert torch.equal(torch.get_rng_state(), state), "a resumed run draws the same numbers"
    assert traced is not None
    pixels = torch.randn(5, 3, 32, 32).to(memory_format=torch.channels_last)
    with torch.no_grad():
        before = own(pixels)
        torch.testing.assert_close(traced(pixels), before, rtol=1e-4, atol=1e-5)
        for value in (*own.parameters(), *own.buffers()):
            if value.is_floating_point():
                value.mul_(1.5)
        assert (own(pixels) - before).abs().max() > 0.1
        traced.put(own)
        after = own(pixels)
        assert (traced(pixels) - after).abs().max() < 1e-4 * after.abs().max()


def test_torch_embeds_where_it_must(monkeypatch: pytest.MonkeyPatch) -> None:
    assert onnx_backbone.of(network("test_vit"), 32, CPU) is None, "nothing to fold"
    assert onnx_backbone.of(network(), 32, torch.device("cuda")) is None

    class Unlike(onnx_backbone.OnnxBackbone):
        def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
            return super().__call__(pixels) * 1.01

    with monkeypatch.context() as patch:
        patch.setattr(onnx_backbone, "OnnxBackbone", Unlike)
        assert onnx_backbone.of(network(), 32, CPU) is None
    monkeypatch.setattr(torch.onnx, "export", lambda *_, **__: 1 / 0)
    assert onnx_backbone.of(network(), 32, CPU) is None


def test_a_run_scores_the_same(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So do classes and start, which come from features; torch draws no number more or less."""
    plain = train(photos, tmp_path / "torch")
    called = []
    put = onnx_backbone.OnnxBackbone.put

    def counted(*given: Any) -> None:
        called.append(1)
        put(*given)

    monkeypatch.setattr(onnx_backbone, "FEWEST_IMAGES", 1)
    monkeypatch.setattr(onnx_backbone.OnnxBackbone, "put", counted)
    found = train(photos, tmp_path / "onnx")
    assert len(called) > 5
    assert found.test == pytest.approx(plain.test, abs=1e-3)
    runs = [torch.load(run.out / "best.pt", weights_only=True) for run in (plain, found)]
    np.testing.assert_allclose(runs[0]["class_points"], runs[1]["class_points"], atol=1e-4)


def test_so_does_what_is_evaluated(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = [Record(path, path.parent.name) for path in sorted(photos.rglob("*.jpg"))]
    encoder = TorchEncoder.from_backbone("test_efficientnet", weights="none", image_size=32)
    by_torch = encoder.embed_records(records)
    monkeypatch.setattr(onnx_backbone, "FEWEST_IMAGES", len(records))
    by_onnx = encoder.embed_records(records)
    assert "_traced" in vars(encoder)
    np.testing.assert_allclose(by_onnx.points, by_torch.points, atol=1e-4)
    assert not np.array_equal(by_onnx.points, by_torch.points)
