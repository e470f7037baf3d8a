"""What each part of a run learns with, and how fast in which epoch."""

import itertools
import math
from collections.abc import Iterable

import torch
from torch import nn

from hiercli.nn import backbone as backbones
from hiercli.nn.embedder import Embedder
from hiercli.training.objective import Objective
from hiercli.training.recipe import Recipe


def optimizer(
    recipe: Recipe, embedder: Embedder, objective: Objective, batch_size: int
) -> torch.optim.AdamW:
    """AdamW with a group of parameters for each learning rate, scaled to the ``batch_size``.

    With ``layer_decay`` d the layer of a backbone that has n layers above it learns at d^n of the
    rate (Clark et al., "ELECTRA", ICLR 2020, section 3.1); with ``freeze_share`` the first ones
    do not learn at all.

    Raises:
        InputError: the backbone has no such layers.
    """
    settings = recipe.optimiser
    base = settings.lr * batch_size / 180
    factors: list[tuple[str, Iterable[nn.Parameter], float]] = [
        ("head", embedder.head.parameters(), settings.head_lr_factor),
        ("radius", (embedder.radius or nn.Module()).parameters(), settings.radius_lr_factor),
        ("proxies", objective.hier.parameters(), settings.proxy_lr_factor),
        ("class_proxies", objective.metric.parameters(), settings.class_proxy_lr_factor),
        ("level_proxies", objective.levels.parameters(), settings.class_proxy_lr_factor),
    ]
    if settings.layer_decay < 1:
        layers = backbones.layers(embedder.backbone)[::-1]
        decayed = [("backbone", own, settings.layer_decay**n) for n, own in enumerate(layers)]
        factors = [*decayed, *factors]
    else:
        factors = [("backbone", embedder.backbone.parameters(), 1.0), *factors]
    groups = []
    for name, weights, factor in factors:
        parameters = [weight for weight in weights if weight.requires_grad]
        if parameters:
            groups.append(
                {"name": name, "params": parameters, "weight_decay": settings.weight_decay}
                | {"base_lr": base * factor, "lr": base * factor}
            )
    return torch.optim.AdamW(groups, eps=settings.adam_eps)


def freeze(recipe: Recipe, embedder: Embedder) -> None:
    """Let the first layers of the backbone learn nothing, as the recipe asks.

    Random weights know nothing that is worth keeping: of these all learn.

    Raises:
        InputError: timm does not say what its layers are.
    """
    share = recipe.optimiser.freeze_share
    if share and recipe.model.weights != "none":
        layers = backbones.layers(embedder.backbone)
        for weight in itertools.chain(*layers[: int(share * len(layers))]):
            weight.requires_grad_(False)


def set_learning_rates(optimizer: torch.optim.Optimizer, recipe: Recipe, epoch: int) -> None:
    """Set each group's learning rate for an epoch, counted from 0; a held backbone has none."""
    warmup = recipe.optimiser.warmup_epochs
    factor = 1.0
    if recipe.optimiser.schedule == "step":
        factor = recipe.optimiser.lr_decay ** (epoch // recipe.optimiser.lr_step)
    elif recipe.optimiser.schedule == "cosine":
        span = max(1, recipe.run.epochs - warmup)
        factor = 0.5 * (1 + math.cos(math.pi * max(0, epoch - warmup) / span))
    for group in optimizer.param_groups:
        held = group["name"] == "backbone" and epoch < warmup
        group["lr"] = 0.0 if held else group["base_lr"] * factor
