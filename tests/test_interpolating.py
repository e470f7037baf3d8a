"""Weights between start and end; layers that are frozen or learn more slowly."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from test_training import a_run

from hiercli.data.records import Dataset, Record
from hiercli.geometry import poincare
from hiercli.nn import backbone
from hiercli.nn.embedder import Embedder
from hiercli.training import checkpoint, recipe, schedule, trainer
from hiercli.training.concluding import Result
from hiercli.training.interpolating import SHARES, Weights
from hiercli.training.judging import Judge
from hiercli.training.reporter import Silence

SMALL: dict[str, Any] = {
    "backbone": "test_efficientnet", "weights": "none", "train_size": 32, "eval_size": 32,
    "batch_size": 8, "workers": 0, "epochs": 2, "warmup_epochs": 0, "validation_share": 0.25,
    "num_proxies": 12, "embedding_dim": 16, "freeze_batch_norm": True, "precision": "fp32",
    "image_depth": False,
}  # fmt: skip


def train(photos: Path, out: Path, resume: bool = False, **changes: Any) -> Result:
    records = tuple(Record(path, path.parent.name) for path in sorted(photos.rglob("*.jpg")))
    settings = recipe.load("fast", {**SMALL, "interpolate": True, **changes})
    dataset = Dataset("x", records[:30], records[30:])
    return trainer.train(settings, dataset, out, Silence(), resume=resume)


def test_half_of_the_way() -> None:
    start = Weights(
        {"w": torch.zeros(2), "n": torch.tensor(3)}, poincare.expmap0(torch.zeros(1, 2), 0.1)
    )
    end = Weights(
        {"w": torch.ones(2), "n": torch.tensor(9)}, poincare.expmap0(torch.ones(1, 2), 0.1)
    )
    half = start.towards(end, 0.5, 0.1)
    assert half.model["w"].tolist() == [0.5, 0.5]
    assert half.model["n"] == 9, "a whole number has no half"
    torch.testing.assert_close(half.proxies, poincare.expmap0(torch.full((1, 2), 0.5), 0.1))
    assert start.towards(end, 0, 0.1).model["w"].tolist() == [0, 0]
    assert start.towards(end, 1, 0.1) is end


def test_the_best_share_on_held_out_classes_is_kept(photos: Path, tmp_path: Path) -> None:
    ends = train(photos, tmp_path / "end", interpolate=False)
    starts = train(photos, tmp_path / "start", interpolate=False, epochs=0)
    mixed = train(photos, tmp_path / "mixed")
    rows = json.loads((tmp_path / "mixed" / "interpolation.json").read_text())
    assert [row["share"] for row in rows] == sorted(SHARES, reverse=True)
    best = max(rows, key=lambda row: (row["validation_map@r"], row["share"]))
    assert mixed.interpolation == best["share"]
    start, end, found = (checkpoint.load(run.out / "best.pt") for run in (starts, ends, mixed))
    assert (end.interpolation, found.interpolation) == (1, best["share"])
    for name, value in found.embedder.state_dict().items():
        first, last = (one.embedder.state_dict()[name] for one in (start, end))
        wanted = first.lerp(last, best["share"]) if value.is_floating_point() else last
        torch.testing.assert_close(value, wanted)
    # A run that has ended is not mixed once more.
    before = (tmp_path / "mixed" / "best.pt").read_bytes()
    again = train(photos, tmp_path / "mixed", resume=True)
    assert again.interpolation == mixed.interpolation
    assert (tmp_path / "mixed" / "best.pt").read_bytes() == before


def test_a_training_that_does_not_help_goes_back_to_the_start(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = checkpoint.load(train(photos, tmp_path / "start", epochs=0).out / "best.pt").embedder

    def validate(judge: Judge, embedder: Embedder, held_out: object) -> dict[str, float]:
        """The nearer to the start the better."""
        moved = (embedder.head.weight - start.head.weight).norm().item()
        return {"validation_recall@1": 0.0, "validation_map@r": 100 - moved}

    monkeypatch.setattr(Judge, "validate", validate)
    ruined = train(photos, tmp_path / "run")
    assert ruined.interpolation == 0
    kept = checkpoint.load(tmp_path / "run" / "best.pt").embedder
    assert torch.equal(kept.head.weight, start.head.weight)
    assert "back to the start" in ruined.chosen_by


def test_frozen_layers_stay_and_the_others_move(photos: Path, tmp_path: Path) -> None:
    words = {"backbone": backbone.DEFAULT, "weights": "auto", "freeze_batch_norm": False}
    run = a_run(photos, tmp_path, freeze_share=0.5, **words)
    run._set_training_mode()
    layers = backbone.layers(run.embedder.backbone)
    before = [[weight.detach().clone() for weight in layer] for layer in layers]
    means = {k: v.clone() for k, v in run.embedder.backbone.state_dict().items() if "running" in k}
    run._one_step(torch.randn(8, 3, 32, 32), list(range(8)))
    moved = [
        not all(torch.equal(a, b) for a, b in zip(old, layer, strict=True))
        for old, layer in zip(before, layers, strict=True)
    ]
    assert moved == [False] * 4 + [True] * 4
    after = run.embedder.backbone.state_dict()
    assert torch.equal(means["bn1.running_mean"], after["bn1.running_mean"])
    assert any(not torch.equal(means[name], after[name]) for name in means)


def test_random_weights_are_not_frozen(photos: Path, tmp_path: Path) -> None:
    run = a_run(photos, tmp_path, freeze_share=0.5)
    assert all(weight.requires_grad for weight in run.embedder.backbone.parameters())


def test_lower_layers_learn_more_slowly(photos: Path, tmp_path: Path) -> None:
    run = a_run(photos, tmp_path, layer_decay=0.5, lr=1.0, batch_size=8, freeze_share=0.0)
    schedule.set_learning_rates(run.optimizer, run.recipe, 0)
    rates = {
        weight: group["lr"] for group in run.optimizer.param_groups for weight in group["params"]
    }
    layers = backbone.layers(run.embedder.backbone)
    found = [rates[layer[0]] for layer in layers]
    assert found == [pytest.approx(8 / 180 * 0.5**n) for n in range(len(layers))][::-1]
    assert rates[run.embedder.head.weight] == pytest.approx(
        8 / 180 * run.recipe.optimiser.head_lr_factor
    )
    assert sum(len(group["params"]) for group in run.optimizer.param_groups) == len(rates)
