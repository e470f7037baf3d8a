"""Weights between those of the start and those of the end, chosen on held-out classes.

Training on some classes makes an encoder forget part of what it knew of all others. Between the
weights before and after lie encoders that know both (Wortsman et al., "Robust Fine-Tuning of
Zero-Shot Models", CVPR 2022).
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from hiercli.files import write_text
from hiercli.geometry import poincare
from hiercli.losses.hier import HierLoss
from hiercli.nn.embedder import Embedder
from hiercli.training.checkpoint import Trained
from hiercli.training.run_folder import read_metrics

if TYPE_CHECKING:
    from hiercli.training.trainer import Run

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Of the way from the start to the end, that are tried."""


@dataclasses.dataclass(frozen=True)
class Weights:
    """An encoder's weights and its proxies, on the CPU.

    Attributes:
        model: tensors by name, as of `Embedder.state_dict`.
        proxies: (P, D) points of the ball.
    """

    model: Mapping[str, Tensor]
    proxies: Tensor

    @classmethod
    def of(cls, embedder: Embedder, proxies: Tensor) -> Self:
        """A copy of what an encoder holds, and of its proxies (P, D)."""
        state = embedder.state_dict()
        model = {name: value.detach().cpu().clone() for name, value in state.items()}
        return cls(model, proxies.detach().cpu().clone())

    def towards(self, end: "Weights", share: float, c: float) -> "Weights":
        """A share of the way to other weights: 0 are these, 1 the others.

        Proxies move in the tangent space at the origin; whole numbers are those of the end.

        Args:
            end: of the same network.
            share: 0 to 1.
            c: curvature magnitude of the ball of the proxies.
        """
        if share == 1:
            return end
        model = {
            name: value.lerp(end.model[name], share) if value.is_floating_point()
            else end.model[name]
            for name, value in self.model.items()
        }  # fmt: skip
        tangents = [poincare.logmap0(weights.proxies, c) for weights in (self, end)]
        return Weights(model, poincare.expmap0(tangents[0].lerp(tangents[1], share), c))


def start_of(embedder: Embedder, hier: HierLoss) -> Weights:
    """The weights before the first step."""
    with torch.no_grad():
        return Weights.of(embedder, hier.proxy_points())


def choose(run: "Run", start: Weights, held: Trained) -> tuple[Trained, float]:
    """The encoder on the way from the start to the best epoch that scores best on held-out classes.

    All scores are written to ``interpolation.json`` in the run's folder.

    Args:
        run: with held-out classes.
        start: its weights before the first step.
        held: its best epoch.

    Returns:
        the encoder, and its share of the way, the larger one of equals.
    """
    end = Weights.of(held.embedder, held.proxies)
    rows = []
    best, chosen = -1.0, 1.0
    for share in SHARES[::-1]:
        scores = _scores_of_best(run) if share == 1 else {}
        if not scores:
            mixed = start.towards(end, share, run.recipe.model.c)
            held.embedder.load_state_dict(mixed.model)
            scores = run.judge.validate(held.embedder, run.validation)
        rows.append({"share": share, **scores})
        if scores["validation_map@r"] > best:
            best, chosen = scores["validation_map@r"], share
    if run.world.is_main:
        write_text(run.out / "interpolation.json", json.dumps(rows, indent=2) + "\n")
    mixed = start.towards(end, chosen, run.recipe.model.c)
    held.embedder.load_state_dict(mixed.model)
    return dataclasses.replace(held, proxies=mixed.proxies), chosen


def _scores_of_best(run: "Run") -> dict[str, float]:
    """What the best epoch gave on held-out classes; empty where that is not written any more."""
    rows = read_metrics(run.out / "metrics.jsonl") if run.world.is_main else []
    best = next((row for row in rows if row["epoch"] == run.best_epoch), {})
    scores = {name: value for name, value in best.items() if name.startswith("validation_")}
    return run.world.same(scores if "validation_map@r" in scores else {})
