"""The HIER regulariser: hierarchical proxies learned as lowest common ancestors of photographs.

"HIER: Metric Learning Beyond Class Labels via Hierarchical Regularization", CVPR 2023,
arXiv 2212.14258, equations 6 to 10. Symbols of the paper: rho is a hierarchical proxy, tau the
``temperature``, delta the ``margin``, K ``num_neighbours``.
"""

from typing import Any

import torch
from torch import Tensor, nn

from hiercli.geometry import poincare
from hiercli.losses.triplets import Triplets, mine
from hiercli.nn.to_poincare import ToPoincare

_TRIPLETS_AT_A_TIME = 2048
"""Rows of a (T, P) array that exist at one moment; a few MB, so they stay in the cache."""


def lca_triplet_loss(
    distances: Tensor,
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    *,
    temperature: float,
    margin: float,
    noise_ij: Tensor | None = None,
    noise_ijk: Tensor | None = None,
    generator: torch.Generator | None = None,
    own_ancestors: bool = True,
) -> Tensor:
    """Mean hinge that puts the LCA of (i, j) nearer to both, and farther from k, than that of all.

    The LCA of a set is drawn from softmax(-max over the set of its distance to p, / temperature)
    by Gumbel noise; the forward pass takes the drawn proxy, the backward pass the softmax
    (straight-through). A triplet whose two draws agree contributes 0 but stays in the mean.

    Args:
        distances: (N, P) float, points to proxies.
        anchor, positive, negative: (T,) int64 rows of ``distances``: i, j, k.
        temperature: tau, > 0.
        margin: delta, at least 0, in the units of ``distances``.
        noise_ij, noise_ijk: (T, P) standard Gumbel noise to replay; drawn where left out.
        generator: source of the noise that is drawn, on the device of ``distances``.
        own_ancestors: with rows and columns the same proxies, false keeps i, j and k themselves
            out of both draws; then P must be at least 4.

    Returns:
        Scalar, at least 0. With no triplets it is 0 and has a gradient (of zeros).
    """
    if anchor.numel() == 0:
        return distances.sum() * 0.0
    loss: Tensor = _LcaTripletLoss.apply(  # type: ignore[no-untyped-call]
        distances,
        Triplets(anchor, positive, negative),
        temperature,
        margin,
        (noise_ij, noise_ijk),
        generator,
        own_ancestors,
    )
    return loss


class _LcaTripletLoss(torch.autograd.Function):
    """The loss and its gradient in one sweep over chunks of triplets.

    The gradient with respect to the distances is (N, P), whereas autograd would keep several
    (T, P) arrays alive, T being a hundred times N; and a triplet inside the margin needs no
    softmax at all.
    """

    @staticmethod
    def forward(
        ctx: Any,
        distances: Tensor,
        triplets: Triplets,
        temperature: float,
        margin: float,
        noise: tuple[Tensor | None, Tensor | None],
        generator: torch.Generator | None,
        own_ancestors: bool,
    ) -> Tensor:
        table = distances.detach()
        gradient = torch.zeros_like(table)
        total = table.new_zeros(())
        num_triplets = triplets.anchor.numel()
        for start in range(0, num_triplets, _TRIPLETS_AT_A_TIME):
            rows = slice(start, start + _TRIPLETS_AT_A_TIME)
            chunk = Triplets(*(index[rows] for index in triplets))
            drawn = [_gumbel(table, chunk, given, rows, generator) for given in noise]
            if not own_ancestors:
                for gumbel in drawn:
                    gumbel.scatter_(1, torch.stack(chunk, dim=1), float("-inf"))
            total += _accumulate(table, gradient, chunk, temperature, margin, drawn[0], drawn[1])
        ctx.save_for_backward(gradient.div_(num_triplets))
        return total / num_triplets

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * grad_outputs[0], None, None, None, None, None, None


def _gumbel(
    table: Tensor,
    chunk: Triplets,
    given: Tensor | None,
    rows: slice,
    generator: torch.Generator | None,
) -> Tensor:
    if given is not None:
        return given[rows].clone()
    shape = (chunk.anchor.numel(), table.shape[1])
    return table.new_empty(shape).exponential_(generator=generator).log_().neg_()


def _accumulate(
    table: Tensor,
    gradient: Tensor,
    chunk: Triplets,
    temperature: float,
    margin: float,
    noise_ij: Tensor,
    noise_ijk: Tensor,
) -> Tensor:
    """Add one chunk's gradient into ``gradient`` (N, P) and return its summed loss."""
    reach_i, reach_j, reach_k = (table[index] for index in chunk)
    reach_ij = torch.maximum(reach_i, reach_j)
    reach_ijk = torch.maximum(reach_ij, reach_k)
    logits_ij = noise_ij - reach_ij / temperature
    logits_ijk = noise_ijk - reach_ijk / temperature
    lca_ij, lca_ijk = logits_ij.argmax(1, keepdim=True), logits_ijk.argmax(1, keepdim=True)
    # How much nearer each member is to the pair's ancestor than to the triple's.
    nearer_i, nearer_j, nearer_k = (
        (reach.gather(1, lca_ijk) - reach.gather(1, lca_ij)).squeeze(1)
        for reach in (reach_i, reach_j, reach_k)
    )
    hinges = torch.stack((margin - nearer_i, margin - nearer_j, margin + nearer_k))
    hinges = hinges.clamp(min=0) * (lca_ij != lca_ijk).squeeze(1)
    active = hinges.any(dim=0).nonzero().squeeze(1)

    pull_i, pull_j, pull_k = (hinges[:, active] > 0).to(table.dtype).unsqueeze(2)
    rows_i, rows_j, rows_k = (index[active] for index in chunk)
    reach_i, reach_j, reach_k = reach_i[active], reach_j[active], reach_k[active]
    # d loss / d (one-hot draw) of the pair; the triple's is its negative.
    slope = pull_i * reach_i + pull_j * reach_j - pull_k * reach_k
    first_is_far = reach_i >= reach_j
    through_ij = _straight_through(logits_ij[active], slope, temperature)
    through_ijk = _straight_through(logits_ijk[active], -slope, temperature)
    third_is_far = reach_k > reach_ij[active]
    through_pair = through_ij + through_ijk * ~third_is_far
    to_ij = torch.zeros_like(slope).scatter_(1, lca_ij[active], 1.0)
    # One proxy cannot be both draws here, so the two one-hot rows never meet in a cell.
    toward = to_ij.scatter_(1, lca_ijk[active], -1.0)
    gradient.index_add_(0, rows_i, pull_i * toward + through_pair * first_is_far)
    gradient.index_add_(0, rows_j, pull_j * toward + through_pair * ~first_is_far)
    gradient.index_add_(0, rows_k, through_ijk * third_is_far - pull_k * toward)
    return hinges.sum()


def _straight_through(logits: Tensor, slope: Tensor, temperature: float) -> Tensor:
    """Gradient through the softmax of ``logits`` to the reach under it, (A, P)."""
    weight = logits.softmax(dim=1)
    centred = slope - (weight * slope).sum(dim=1, keepdim=True)
    return weight * centred / -temperature


class HierLoss(nn.Module):
    """HIER with its hierarchical proxies, to be added to any metric loss.

    Attributes:
        proxies: (P, D) parameter, tangent vectors at the origin; `proxy_points` are in the ball.

    Args:
        embedding_dim: D.
        num_proxies: P.
        c: curvature magnitude, that of the points.
        clip_radius: clip radius of the proxies, that of the points; ``None`` does not clip.
        temperature: tau of the LCA draw.
        margin: delta of the hinge.
        num_neighbours: K for reciprocity.
        triplets_per_anchor: draws for each photograph and for each proxy.
        initial_radius: typical tangent length of a new proxy.
        generator: source of the proxies' first positions.
    """

    def __init__(
        self,
        embedding_dim: int,
        num_proxies: int = 512,
        *,
        c: float = 0.1,
        clip_radius: float | None = 2.3,
        temperature: float = 0.1,
        margin: float = 0.1,
        num_neighbours: int = 20,
        triplets_per_anchor: int = 50,
        initial_radius: float = 2.07,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.c = c
        self.temperature = temperature
        self.margin = margin
        self.num_neighbours = num_neighbours
        self.triplets_per_anchor = triplets_per_anchor
        directions = torch.randn(num_proxies, embedding_dim, generator=generator)
        self.proxies = nn.Parameter(directions / embedding_dim**0.5 * initial_radius)
        self.to_poincare = ToPoincare(c, clip_radius)

    def proxy_points(self) -> Tensor:
        """The proxies as points of the ball, (P, D)."""
        points: Tensor = self.to_poincare(self.proxies)
        return points

    def forward(
        self, points: Tensor, labels: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """HIER of a batch: the photographs' triplets, plus the proxies' own, one level up.

        Args:
            points: (B, D) in the ball.
            labels: (B,) int64; a pair of one class always counts as more similar.
            generator: source of triplets and draws, on the device of ``points``.

        Returns:
            Scalar, at least 0.
        """
        proxies = self.proxy_points()
        with torch.no_grad():
            same_class = labels[:, None] == labels[None, :]
            similarity = torch.exp(-poincare.pairwise_dist(points, points, self.c)) + same_class
        between = poincare.pairwise_dist(proxies, proxies, self.c)
        photographs = poincare.pairwise_dist(points, proxies, self.c)
        return self._term(similarity, photographs, generator) + self._term(
            torch.exp(-between.detach()), between, generator, own_ancestors=False
        )

    def _term(
        self,
        similarity: Tensor,
        distances: Tensor,
        generator: torch.Generator | None,
        own_ancestors: bool = True,
    ) -> Tensor:
        triplets = mine(
            similarity,
            num_neighbours=self.num_neighbours,
            triplets_per_anchor=self.triplets_per_anchor,
            generator=generator,
        )
        return lca_triplet_loss(
            distances,
            *triplets,
            temperature=self.temperature,
            margin=self.margin,
            generator=generator,
            own_ancestors=own_ancestors,
        )
