"""HIER written down as the paper states it: autograd through Gumbel-softmax, anchor by anchor.

Slow and large on purpose: it is the oracle that tests hold `hiercli.losses.hier` to, and the
other side of its benchmark.
"""

import torch
from torch import Tensor
from torch.nn.functional import gumbel_softmax

from hiercli.geometry import poincare
from hiercli.losses.triplets import reciprocal_neighbours


def literal_hier(
    points: Tensor, labels: Tensor, proxies: Tensor, *, c: float, temperature: float,
    margin: float, num_neighbours: int, triplets_per_anchor: int, every: int = 1,
) -> Tensor:  # fmt: skip
    """The sum of the photographs' term and the proxies' own; see `hiercli.losses.HierLoss`.

    With ``every`` above 1 only each so-manieth anchor counts: for measuring what is too large.
    """
    same_class = labels[:, None] == labels[None, :]
    settings = (temperature, margin, num_neighbours, triplets_per_anchor, every)
    similarity = torch.exp(-poincare.pairwise_dist(points, points, c)).detach() + same_class
    between = poincare.pairwise_dist(proxies, proxies, c)
    # A proxy is not its own ancestor.
    return _term(similarity, poincare.pairwise_dist(points, proxies, c), *settings) + _term(
        torch.exp(-between).detach(), between, *settings, own_ancestors=False
    )


def _term(
    similarity: Tensor, distances: Tensor, temperature: float, margin: float,
    num_neighbours: int, triplets_per_anchor: int, every: int, own_ancestors: bool = True,
) -> Tensor:  # fmt: skip
    related = reciprocal_neighbours(similarity, num_neighbours)
    unrelated = ~related & ~torch.eye(len(related), dtype=torch.bool)
    losses = []
    for anchor in range(0, len(related), every):
        friends, strangers = (row[anchor].nonzero().squeeze(1) for row in (related, unrelated))
        if not len(friends) or not len(strangers):
            continue
        j = friends[torch.randint(len(friends), (triplets_per_anchor,))]
        k = strangers[torch.randint(len(strangers), (triplets_per_anchor,))]
        reach_i = distances[anchor].expand(triplets_per_anchor, -1)
        reach_j, reach_k = distances[j], distances[k]
        reach_ij = torch.maximum(reach_i, reach_j)
        logits = [-reach_ij / temperature, -torch.maximum(reach_ij, reach_k) / temperature]
        if not own_ancestors:
            members = torch.stack([torch.full_like(j, anchor), j, k], dim=1)
            logits = [each.scatter(1, members, float("-inf")) for each in logits]
        pair, triple = (gumbel_softmax(each, hard=True) for each in logits)
        hinge = torch.zeros(triplets_per_anchor)
        for reach, sign in ((reach_i, 1), (reach_j, 1), (reach_k, -1)):
            apart = (reach * pair).sum(dim=1) - (reach * triple).sum(dim=1)
            hinge = hinge + torch.relu(sign * apart + margin)
        differ = pair.argmax(dim=1) != triple.argmax(dim=1)
        losses.append(hinge * differ)
    return torch.cat(losses).mean()
