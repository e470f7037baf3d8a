"""What each part of a run learns with, and how fast in which epoch."""

import math

import torch
from torch import nn

from hiercli.nn.embedder import Embedder
from hiercli.training.objective import Objective
from hiercli.training.recipe import Recipe


def optimizer(
    recipe: Recipe, embedder: Embedder, objective: Objective, batch_size: int
) -> torch.optim.AdamW:
    """AdamW with a group of parameters for each learning rate, scaled to the ``batch_size``."""
    base = recipe.optimiser.lr * batch_size / 180
    factors = {
        "backbone": (embedder.backbone, 1.0),
        "head": (embedder.head, recipe.optimiser.head_lr_factor),
        "radius": (embedder.radius or nn.Module(), recipe.optimiser.radius_lr_factor),
        "proxies": (objective.hier, recipe.optimiser.proxy_lr_factor),
        "class_proxies": (objective.metric, recipe.optimiser.class_proxy_lr_factor),
    }
    groups = []
    for name, (module, factor) in factors.items():
        parameters = [weight for weight in module.parameters() if weight.requires_grad]
        if parameters:
            groups.append(
                {"name": name, "params": parameters, "weight_decay": recipe.optimiser.weight_decay}
                | {"base_lr": base * factor, "lr": base * factor}
            )
    return torch.optim.AdamW(groups, eps=recipe.optimiser.adam_eps)


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
