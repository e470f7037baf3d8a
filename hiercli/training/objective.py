"""What a run minimises, and what is watched while it does."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hiercli.losses import metric
from hiercli.losses.hier import HierLoss
from hiercli.losses.levels import GroupProxies, ranking_loss
from hiercli.losses.relations import relational_loss
from hiercli.training.recipe import Recipe


class Objective(nn.Module):
    """A metric loss, HIER beside it, known levels, and the pretrained relations worth keeping.

    Attributes:
        metric: the loss that the recipe names.
        hier: HIER with its hierarchical proxies.
        levels: proxies of the groups at known levels; none where the recipe does not ask for them.

    Args:
        recipe: all settings.
        num_classes: training classes.
        group_counts: groups at each known level above the classes, fine to coarse.
    """

    def __init__(self, recipe: Recipe, num_classes: int, group_counts: Sequence[int] = ()) -> None:
        super().__init__()
        self.recipe = recipe
        self.metric = metric.create(
            recipe.loss.loss,
            num_classes=num_classes,
            embedding_dim=recipe.model.embedding_dim,
            c=recipe.model.c,
        )
        self.hier = HierLoss(
            recipe.model.embedding_dim,
            recipe.hierarchy.num_proxies,
            c=recipe.model.c,
            clip_radius=recipe.model.clip_radius,
            temperature=recipe.hierarchy.temperature,
            margin=recipe.hierarchy.margin,
            num_neighbours=recipe.hierarchy.num_neighbours,
            triplets_per_anchor=recipe.hierarchy.triplets_per_anchor,
            self_neighbours=recipe.hierarchy.self_neighbours,
            own_ancestors=recipe.hierarchy.own_ancestors,
        )
        self.hier.proxies.requires_grad_(not recipe.hierarchy.freeze_proxies)
        by_proxies = recipe.loss.level_weight and recipe.loss.level_loss == "proxies"
        self.levels = GroupProxies(group_counts if by_proxies else (), recipe.model.embedding_dim)

    def forward(
        self,
        points: Tensor,
        labels: Tensor,
        known: Tensor | None,
        generator: torch.Generator,
        dtype: torch.dtype = torch.float32,
        groups: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch and its parts by name, all scalars.

        Args:
            points: (B, D) in the ball.
            labels: (B,) class ids; an image without a class has a negative number of its own.
            known: (B, F) centred features before training; ``None`` without relational term.
            generator: source of HIER's draws.
            dtype: arithmetic of the backbone, and with ``half_precision_loss`` of the metric loss;
                all others compute in float32.
            groups: (B, L) known groups at each level, -1 where one is not known.
        """
        own = labels >= 0
        halved = self.recipe.loss.half_precision_loss and dtype != torch.float32
        with torch.autocast(points.device.type, dtype, enabled=halved):
            metric_loss = (
                self.metric(points[own], labels[own]).float() if own.any() else 0 * points.sum()
            )
        parts = {self.recipe.loss.loss: metric_loss}
        loss = parts[self.recipe.loss.loss]
        if self.recipe.hierarchy.hier_weight:
            parts["hier"] = self.hier(points, labels, generator)
            loss = loss + self.recipe.hierarchy.hier_weight * parts["hier"]
        if self.recipe.loss.level_weight and groups is not None and groups.shape[1]:
            if self.recipe.loss.level_loss == "proxies":
                parts["levels"] = self.levels(points, groups)
            else:
                parts["levels"] = ranking_loss(points, labels, groups)
            loss = loss + self.recipe.loss.level_weight * parts["levels"]
        if known is not None:
            parts["relations"] = relational_loss(
                points[own],
                labels[own],
                known[own],
                temperature=self.recipe.loss.relation_temperature,
            )
            loss = loss + self.recipe.loss.relation_weight * parts["relations"]
        return loss, {name: part.detach() for name, part in parts.items()}


@torch.no_grad()
def watch(
    hier: HierLoss,
    batches: list[tuple[Tensor, Tensor]],
    generator: torch.Generator,
    with_proxies: bool = True,
) -> dict[str, float]:
    """How the space is being used, from the last batches of an epoch.

    Args:
        hier: with its proxies.
        batches: pairs of points (B, D) and labels (B,).
        generator: source of triplets.
        with_proxies: whether there is anything to say about proxies.

    Returns:
        ``photo_radius`` and its standard deviation ``photo_radius_spread``: distance from the
        origin in the ball's coordinates, so below 1/sqrt(c); ``effective_rank`` of the points: exp
        of the entropy of their variance over principal directions (Roy & Vetterli, 2007), between
        1 and D. With proxies also ``proxy_radius`` and its spread; ``dead_proxies``: share of the
        proxies that were nobody's ancestor, left out where there were too few triplets to tell;
        ``lca_deeper``: among triplets whose two ancestors differ, the share in which that of the
        pair lies farther from the origin than that of the triple (0.5: depth means nothing), left
        out where none differ.
    """
    if not batches:  # resumed where an epoch ends
        return {}
    points = torch.cat([batch for batch, _ in batches])
    radius = points.norm(dim=1)
    variance = torch.linalg.svdvals((points - points.mean(dim=0)).double()).square()
    share = (variance / variance.sum().clamp(min=1e-30)).clamp(min=1e-30)
    signs = {
        "photo_radius": radius.mean().item(),
        "photo_radius_spread": radius.std().item(),
        "effective_rank": float(torch.exp(-(share * share.log()).sum())),
    }
    if not with_proxies:
        return signs
    proxies = hier.proxy_points()
    depth = proxies.norm(dim=1)
    used = torch.zeros(len(proxies), dtype=torch.bool, device=points.device)
    deeper, differing, num_triplets = 0, 0, 0
    for batch, labels in batches:
        pair, triple = hier.nearest_ancestors(batch, labels, generator)
        used[pair] = True
        used[triple] = True
        differ = pair != triple
        deeper += int((depth[pair] > depth[triple])[differ].sum())
        differing += int(differ.sum())
        num_triplets += len(pair)
    signs |= {"proxy_radius": depth.mean().item(), "proxy_radius_spread": depth.std().item()}
    if num_triplets > 4 * len(proxies):
        signs["dead_proxies"] = 1 - used.float().mean().item()
    if differing:
        signs["lca_deeper"] = deeper / differing
    return signs


def collapse(signs: dict[str, float], recipe: Recipe) -> str:
    """A warning with a remedy where the space is hardly used any more; else an empty text."""
    limit = math.tanh(recipe.model.c**0.5 * recipe.model.clip_radius) / recipe.model.c**0.5
    if signs["effective_rank"] < 2:
        return (
            "the points are collapsing onto a line (effective rank "
            f"{signs['effective_rank']:.1f}). Lower --lr or --hier-weight, or raise "
            "--relation-weight"
        )
    if signs["photo_radius"] < 0.01 * limit:
        return (
            f"the images are collapsing onto the origin (mean norm {signs['photo_radius']:.3f} of "
            f"{limit:.2f}). Lower --hier-weight, or raise --initial-radius"
        )
    if signs.get("dead_proxies", 0.0) > 0.95:
        return (
            f"{signs['dead_proxies']:.0%} of the hierarchical proxies are never an LCA. Lower "
            "--proxy-lr-factor or --num-proxies, or use --proxy-init tree"
        )
    return ""
