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
from scipy.cluster.hierarchy import linkage
from torch import Tensor

from hiercli.errors import DataError
from hiercli.geometry import poincare
from hiercli.labels import Record
from hiercli.losses.metric import place_class_proxies
from hiercli.nn.embedder import Embedder
from hiercli.training.judging import Judge
from hiercli.training.objective import Objective
from hiercli.training.recipe import Recipe

_MOST_LEAVES = 4096
"""Leaves of the largest tree that is grown: average linkage needs their square."""
_MOST_PHOTOS = 200
"""Photographs of one class whose own tree is grown."""


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
        means = _means(tangent, labels[kept], count)
        place_class_proxies(objective.metric, torch.from_numpy(means))
        for loss, own in zip(objective.levels.levels, groups.T, strict=False):
            if own.max() >= 0:
                means = _means(tangent, own[kept], int(own.max()) + 1)
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


def _means(tangent: np.ndarray, codes: np.ndarray, count: int) -> np.ndarray:
    """The mean of each of so many groups; of one without images, that of all."""
    members = [tangent[codes == code] for code in range(count)]
    return np.stack([(own if len(own) else tangent).mean(axis=0) for own in members])


def grow_proxies(
    tangent: np.ndarray, labels: np.ndarray, num_proxies: int, groups: np.ndarray | None = None
) -> np.ndarray:
    """First places of hierarchical proxies: the nodes of a tree grown over the training classes.

    The mean of many tangent vectors that disagree is short, so a node high in the tree lies near
    the origin and one that holds a single class far out: depth is there from the first step.

    Args:
        tangent: (N, D) tangent vectors of the training photographs.
        labels: (N,) class ids.
        num_proxies: P.
        groups: (N, L) known groups above the classes, fine to coarse; -1 where one is not known.

    Returns:
        (P, D): known groups, coarse ones first, then the highest joins of the classes, then the
        classes themselves, then the highest joins of photographs within classes; if even these do
        not suffice, they come again.
    """
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    means = np.stack([tangent[own].mean(axis=0) for own in members])
    if len(members) > _MOST_LEAVES:
        evenly = np.linspace(0, len(members) - 1, _MOST_LEAVES).astype(int)
        means, members = means[evenly], [members[place] for place in evenly]
    joins, _ = _joins(means)
    places = [joins[::-1], means]
    if groups is not None:
        known = [own for own in groups.T[::-1] if own.max() >= 0]
        places = [_means(tangent, own, int(own.max()) + 1) for own in known] + places
    if sum(map(len, places)) < num_proxies:
        within = [_joins(tangent[own[:_MOST_PHOTOS]]) for own in members]
        # The last join of a class is the class itself, which has its place already.
        nodes = np.concatenate([nodes[:-1] for nodes, _ in within])
        heights = np.concatenate([heights[:-1] for _, heights in within])
        places.append(nodes[np.argsort(-heights, kind="stable")])
    return np.resize(np.concatenate(places), (num_proxies, tangent.shape[1]))


def _joins(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean of the members of each join, lowest join first, and its height: (M-1, D), (M-1,)."""
    if len(vectors) < 2:
        return np.empty((0, vectors.shape[1]), vectors.dtype), np.empty(0)
    # A mean that vanishes has no direction; any will do.
    vectors = np.where(np.any(vectors, axis=1, keepdims=True), vectors, vectors.dtype.type(1e-12))
    tree = linkage(vectors.astype(np.float64), "average", "cosine")
    sums, sizes = list(vectors), [1] * len(vectors)
    for first, second in tree[:, :2].astype(int):
        sums.append(sums[first] + sums[second])
        sizes.append(sizes[first] + sizes[second])
    count = len(vectors)
    means = np.stack(sums[count:]) / np.array(sizes[count:])[:, None]
    return means.astype(vectors.dtype), tree[:, 2]
