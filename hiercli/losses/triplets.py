"""Which triplets HIER looks at: relatives from reciprocal neighbours, strangers from the rest."""

from typing import NamedTuple

import torch
from torch import Tensor


class Triplets(NamedTuple):
    """Indices into one set of points, each (T,) int64, and which of them count, (T,) bool.

    An anchor that has no triplet to offer fills its places with indices that mean nothing and do
    not count: so T depends on shapes alone, and no device has to be waited for.
    """

    anchor: Tensor
    positive: Tensor
    negative: Tensor
    counted: Tensor


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
    self_neighbours: bool = False,
) -> Triplets:
    """Draw triplets as in HIER (arXiv 2212.14258), section 3.2, with its faults mended.

    For each anchor, positives come from its reciprocal neighbours and negatives from everything
    that is not one; an anchor is never its own positive or negative. Anchors that lack either
    count for nothing.

    Args:
        similarity: (N, N), higher is closer; same-class pairs already raised by the caller.
        num_neighbours: neighbours looked at for reciprocity.
        triplets_per_anchor: draws for each anchor, with replacement.
        generator: source of randomness, on the device of ``similarity``.
        self_neighbours: as the published code does, count a point as one of its own neighbours,
            so that an anchor may be its own negative and one with a single reciprocal neighbour
            is passed over.

    Returns:
        `Triplets` of T = N x ``triplets_per_anchor``, ordered by anchor; none below N = 4.
    """
    num_points = similarity.shape[0]
    if num_points < 4:
        empty = torch.empty(0, dtype=torch.int64, device=similarity.device)
        return Triplets(empty, empty, empty, empty.bool())
    if self_neighbours:
        num_neighbours -= 1  # its neighbours of a point begin with the point itself
    related = reciprocal_neighbours(similarity.detach(), num_neighbours)
    unrelated = ~related
    if not self_neighbours:
        unrelated.fill_diagonal_(False)
    least = 2 if self_neighbours else 1
    usable = (related.sum(dim=1) >= least) & unrelated.any(dim=1)
    anchor = torch.arange(num_points, device=similarity.device)
    return Triplets(
        anchor.repeat_interleave(triplets_per_anchor),
        _draw(related, triplets_per_anchor, generator),
        _draw(unrelated, triplets_per_anchor, generator),
        usable.repeat_interleave(triplets_per_anchor),
    )


def _draw(allowed: Tensor, times: int, generator: torch.Generator | None) -> Tensor:
    """``times`` columns a row of (N, N) bool, uniform among the true ones: (N x times,) int64.

    In a row with none, a column that means nothing. Unlike `torch.multinomial` it needs neither
    a check on the host nor a float for each cell.
    """
    up_to = allowed.cumsum(dim=1)
    uniform = torch.rand(len(allowed), times, device=allowed.device, generator=generator)
    # The product can round up to the count itself; the n-th true cell is where the sum reaches n.
    rank = torch.minimum((uniform * up_to[:, -1:]).long() + 1, up_to[:, -1:])
    return torch.searchsorted(up_to, rank).reshape(-1)
