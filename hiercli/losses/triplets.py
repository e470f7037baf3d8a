"""Which triplets HIER looks at: relatives from reciprocal neighbours, strangers from the rest."""

from typing import NamedTuple

import torch
from torch import Tensor


class Triplets(NamedTuple):
    """Indices into one set of points, each (T,) int64."""

    anchor: Tensor
    positive: Tensor
    negative: Tensor


def reciprocal_neighbours(similarity: Tensor, num_neighbours: int) -> Tensor:
    """Which pairs are among each other's most similar ``num_neighbours``; never with itself.

    Args:
        similarity: (N, N), higher is closer. The diagonal is ignored.
        num_neighbours: K of the paper, cut to half of the others, so that strangers remain.

    Returns:
        (N, N) bool, symmetric, false on the diagonal.
    """
    num_points = similarity.shape[0]
    self_pairs = torch.eye(num_points, dtype=torch.bool, device=similarity.device)
    others = similarity.masked_fill(self_pairs, float("-inf"))
    nearest = others.topk(min(num_neighbours, (num_points - 1) // 2), dim=1).indices
    near = torch.zeros_like(self_pairs).scatter_(1, nearest, True)
    return near & near.T & ~self_pairs


def mine(
    similarity: Tensor,
    *,
    num_neighbours: int,
    triplets_per_anchor: int,
    generator: torch.Generator | None = None,
) -> Triplets:
    """Draw triplets as in HIER (arXiv 2212.14258), section 3.2, with its faults mended.

    For each anchor, positives come from its reciprocal neighbours and negatives from everything
    that is not one; an anchor is never its own positive or negative. Anchors that lack either
    yield nothing.

    Args:
        similarity: (N, N), higher is closer; same-class pairs already raised by the caller.
        num_neighbours: neighbours looked at for reciprocity.
        triplets_per_anchor: draws for each anchor, with replacement.
        generator: source of randomness, on the device of ``similarity``.

    Returns:
        `Triplets` of T = (usable anchors) x ``triplets_per_anchor``; T is 0 below N = 4.
    """
    empty = torch.empty(0, dtype=torch.int64, device=similarity.device)
    if similarity.shape[0] < 4:
        return Triplets(empty, empty, empty)
    related = reciprocal_neighbours(similarity.detach(), num_neighbours)
    unrelated = ~related
    unrelated.fill_diagonal_(False)
    usable = (related.any(dim=1) & unrelated.any(dim=1)).nonzero().squeeze(1)
    if usable.numel() == 0:
        return Triplets(empty, empty, empty)

    def draw(allowed: Tensor) -> Tensor:
        chosen = torch.multinomial(
            allowed[usable].float(), triplets_per_anchor, replacement=True, generator=generator
        )
        return chosen.reshape(-1)

    return Triplets(usable.repeat_interleave(triplets_per_anchor), draw(related), draw(unrelated))
