"""Where a run starts: what the backbone already knows of the training photographs, put to use.

One pass over them before the first step gives features. From these come the head's first weights
(their principal directions), the first places of the class proxies (their classes' means) and of
the hierarchical ones (the nodes of the tree of the training classes), and the relations between
classes that `relational_loss` holds on to.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from hiercli.errors import DataError
from hiercli.geometry import poincare
from hiercli.hierarchy.proxies import grow_proxies, means_of
from hiercli.labels import Record
from hiercli.losses.metric import place_class_proxies
from hiercli.nn.embedder import Embedder
from hiercli.training.judging import Judge
from hiercli.training.objective import Objective
from hiercli.training.recipe import Recipe


@torch.no_grad()
def start_from_known(
    recipe: Recipe,
    embedder: Embedder,
    objective: Objective,
    judge: Judge,
    training: Sequence[Record],
    labels: np.ndarray,
    groups: np.ndarray,
) -> Tensor | None:
    """Set head and proxies by what the backbone knows, as the recipe asks.

    Args:
        recipe: all settings.
        embedder: with its pretrained backbone.
        objective: with its proxies, hierarchical and of classes.
        judge: it embeds the photographs.
        training: the N photographs to learn from.
        labels: (N,) their class ids, negative for those without a class.
        groups: (N, L) their groups at known levels above the classes, -1 where one is not known.

    Returns:
        (N, F) centred features for the relational term; ``None`` without it. They come anew, the
        same, in a resumed run.

    Raises:
        DataError: a class none of whose photographs can be read.
    """
    grown = recipe.hierarchy.hier_weight > 0 and recipe.hierarchy.proxy_init == "tree"
    placed = recipe.loss.class_proxy_init == "mean"
    head = recipe.model.head_init == "pca" or recipe.model.initial_radius
    if not (recipe.loss.relation_weight or head or grown or placed):
        return None
    small = replace(judge.preprocessing, size=recipe.data.train_size)
    features, kept = judge.embed(embedder, training, small, "features")
    count = int(labels.max()) + 1
    if len(np.unique(labels[kept][labels[kept] >= 0])) < count:
        raise DataError(
            f"some of the {count} training classes have no readable image: "
            + "; ".join(judge.problems[:3])
        )
    on_device = torch.from_numpy(features).to(judge.device)
    start_head(
        embedder,
        on_device,
        init=recipe.model.head_init,
        whitening=recipe.model.head_whitening,
        radius=recipe.model.initial_radius,
    )
    tangent = poincare.clip(embedder.tangent(on_device), recipe.model.clip_radius).cpu().numpy()
    of_class = labels[kept] >= 0
    if grown:
        told = groups[kept][of_class] if recipe.loss.level_weight else None
        places = grow_proxies(
            tangent[of_class], labels[kept][of_class], recipe.hierarchy.num_proxies, told
        )
        objective.hier.proxies.copy_(torch.from_numpy(places))
    if placed:
        means = means_of(tangent, labels[kept], count)
        place_class_proxies(objective.metric, torch.from_numpy(means))
        for loss, own in zip(objective.levels.levels, groups.T, strict=False):
            if own.max() >= 0:
                means = means_of(tangent, own[kept], int(own.max()) + 1)
                place_class_proxies(loss, torch.from_numpy(means))
    if not recipe.loss.relation_weight:
        return None
    centred = features - features.mean(axis=0)
    known = np.zeros((len(training), features.shape[1]), np.float32)
    for label in range(count):
        # Another photograph of its class stands in for a damaged one.
        known[labels == label] = centred[labels[kept] == label].mean(axis=0)
    known[kept] = centred
    return torch.from_numpy(known)


@torch.no_grad()
def start_head(
    embedder: Embedder, features: Tensor, *, init: str, whitening: float = 0.0, radius: float
) -> None:
    """Set the head's first weights.

    Args:
        embedder: its head is changed in place.
        features: (N, F) of the training photographs.
        init: ``pca`` projects centred, normalised features on their principal directions, which
            loses the least of what sets photographs apart; ``orthogonal`` leaves the head's random
            directions, as published.
        whitening: 0 to 1, with ``pca``: the spread of the photographs along each direction is
            raised to one minus this power. In full it is the whitening of Jegou & Chum (ECCV
            2012), who found that directions in which everything varies drown fine differences.
        radius: mean length of the photographs' tangent vectors; 0 leaves the head's own scale,
            which is near sqrt(D).
    """
    normal = embedder.norm(features.float())
    if init == "pca":
        centre = normal.mean(dim=0)
        spread = (normal - centre).double()
        variances, directions = torch.linalg.eigh(spread.T @ spread)
        # Directions without photographs are no reason to divide by nothing.
        scales = variances.clamp(min=1e-3 * float(variances[-1]) + 1e-30) ** (-whitening / 2)
        if embedder.embedding_dim < normal.shape[1]:
            kept = slice(-embedder.embedding_dim, None)
            weight = (directions[:, kept] * _unit_scale(scales[kept])).flip(1).T
        else:  # every direction is kept anyway
            whole = directions * _unit_scale(scales) @ directions.T
            weight = embedder.head.weight.double() @ whole
        embedder.head.weight.copy_(weight)
        embedder.head.bias.copy_(-embedder.head.weight @ centre)
    if radius and embedder.radius is not None:
        assert embedder.to_poincare.clip_radius is not None
        share = radius / embedder.to_poincare.clip_radius
        embedder.radius.bias.fill_(math.log(share / (1 - share)))
    elif radius:
        scale = radius / embedder.head(normal).norm(dim=1).mean()
        embedder.head.weight.mul_(scale)
        embedder.head.bias.mul_(scale)


def _unit_scale(scales: Tensor) -> Tensor:
    """The same proportions with a mean square of 1, which keeps the size of the head's weights."""
    return scales / scales.square().mean().sqrt()
