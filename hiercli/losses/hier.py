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

_CELLS_AT_A_TIME = {"cpu": 1 << 17}
_CELLS_ELSEWHERE = 1 << 24
"""Cells of a (T, P) array that exist at one moment: on a CPU half a MB, so that they stay in its
cache; on a GPU enough that starting the kernels costs little."""
_POOL = 1 << 19
"""Gumbel variates drawn for each of the two ancestors; see `_GumbelPool`."""


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
    counted: Tensor | None = None,
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
        counted: (T,) bool, which triplets there are; all where left out.
        generator: source of the noise that is drawn, on the device of ``distances``.
        own_ancestors: with rows and columns the same proxies, false keeps i, j and k themselves
            out of both draws; then P must be at least 4.

    Returns:
        Scalar, at least 0. With no triplets it is 0 and has a gradient (of zeros).
    """
    if anchor.numel() == 0:
        return distances.sum() * 0.0
    if counted is None:
        counted = torch.ones_like(anchor, dtype=torch.bool)
    loss: Tensor = _LcaTripletLoss.apply(  # type: ignore[no-untyped-call]
        distances,
        Triplets(anchor, positive, negative, counted),
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
        num_triplets, num_proxies = triplets.anchor.numel(), table.shape[1]
        gradient = torch.zeros_like(table)
        total = table.new_zeros(())
        pools = [
            _GumbelPool(table, num_triplets, generator) if given is None else given
            for given in noise
        ]
        cells = _CELLS_AT_A_TIME.get(table.device.type, _CELLS_ELSEWHERE)
        step = max(1, cells // num_proxies)
        for start in range(0, num_triplets, step):
            chunk = Triplets(*(values[start : start + step] for values in triplets))
            drawn = [pool[start : start + step] for pool in pools]
            total += _accumulate(
                table, gradient, chunk, temperature, margin, drawn[0], drawn[1], own_ancestors
            )
        num_counted = triplets.counted.sum().clamp(min=1)
        ctx.save_for_backward(gradient.div_(num_counted))
        return total / num_counted

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * grad_outputs[0], None, None, None, None, None, None


class _GumbelPool:
    """Standard Gumbel noise for T rows of P, read from one pool of fresh variates.

    Row t is the P variates from a random place on. Each row is exactly as if drawn alone, so the
    loss and its gradient keep their expectation; rows whose windows overlap share variates, mostly
    for different proxies, which only adds a little variance. Drawing T x P of them anew takes
    longer than everything else in the loss together.
    """

    def __init__(self, like: Tensor, num_rows: int, generator: torch.Generator | None) -> None:
        num_proxies = like.shape[1]
        size = max(_POOL, 16 * num_proxies)
        uniform = torch.rand(size, device=like.device, dtype=like.dtype, generator=generator)
        # A uniform of 0 becomes -inf, which is the right limit: that proxy is not drawn.
        pool = uniform.log_().neg_().log_().neg_()
        self._windows = pool.unfold(0, num_proxies, 1)
        self._starts = torch.randint(
            size - num_proxies + 1, (num_rows,), device=like.device, generator=generator
        )

    def __getitem__(self, rows: slice) -> Tensor:
        return self._windows.index_select(0, self._starts[rows])


def _accumulate(
    table: Tensor,
    gradient: Tensor,
    chunk: Triplets,
    temperature: float,
    margin: float,
    noise_ij: Tensor,
    noise_ijk: Tensor,
    own_ancestors: bool,
) -> Tensor:
    """Add one chunk's gradient into ``gradient`` (N, P) and return its summed loss."""
    rows: tuple[Tensor, ...] = chunk[:3]
    reach_i, reach_j, reach_k = (table.index_select(0, index) for index in rows)
    reach_ij = torch.maximum(reach_i, reach_j)
    logits_ij = torch.add(noise_ij, reach_ij, alpha=-1 / temperature)
    logits_ijk = torch.add(noise_ijk, torch.maximum(reach_ij, reach_k), alpha=-1 / temperature)
    if not own_ancestors:
        members = torch.stack(rows, dim=1)
        logits_ij.scatter_(1, members, float("-inf"))
        logits_ijk.scatter_(1, members, float("-inf"))
    lca_ij, lca_ijk = logits_ij.argmax(1, keepdim=True), logits_ijk.argmax(1, keepdim=True)
    # How much nearer each member is to the pair's ancestor than to the triple's.
    nearer_i, nearer_j, nearer_k = (
        (reach.gather(1, lca_ijk) - reach.gather(1, lca_ij)).squeeze(1)
        for reach in (reach_i, reach_j, reach_k)
    )
    hinges = torch.stack((margin - nearer_i, margin - nearer_j, margin + nearer_k)).clamp_(min=0)
    hinges *= (lca_ij != lca_ijk).squeeze(1) & chunk.counted
    total = hinges.sum()

    arrays = [reach_i, reach_j, reach_k, reach_ij, logits_ij, logits_ijk, lca_ij, lca_ijk]
    if table.device.type == "cpu":
        # Only these rows have a gradient. Elsewhere, to count them would mean to wait for them.
        active = hinges.any(dim=0).nonzero().squeeze(1)
        rows = tuple(index[active] for index in rows)
        hinges = hinges[:, active]
        arrays = [values.index_select(0, active) for values in arrays]
    reach_i, reach_j, reach_k, reach_ij, logits_ij, logits_ijk, lca_ij, lca_ijk = arrays
    pull_i, pull_j, pull_k = (hinges > 0).to(table.dtype).unsqueeze(2)
    # d loss / d (one-hot draw) of the pair; the triple's is its negative.
    slope = (pull_i * reach_i).addcmul_(pull_j, reach_j).addcmul_(pull_k, reach_k, value=-1)
    through_ij = _straight_through(logits_ij, slope, -1 / temperature)
    through_ijk = _straight_through(logits_ijk, slope, 1 / temperature)
    # Whose distance the maximum is, receives what goes through it.
    third_is_far = reach_k > reach_ij
    to_k = through_ijk * third_is_far
    through_pair = through_ij.add_(through_ijk).sub_(to_k)
    to_i = through_pair * (reach_i >= reach_j)
    to_j = through_pair.sub_(to_i)
    # And at the two ancestors themselves, each member its own pull.
    for index, to, pull in zip(rows, (to_i, to_j, to_k), (pull_i, pull_j, -pull_k), strict=True):
        to.scatter_add_(1, lca_ij, pull).scatter_add_(1, lca_ijk, -pull)
        gradient.index_add_(0, index, to)
    return total


def _straight_through(logits: Tensor, slope: Tensor, scale: float) -> Tensor:
    """Gradient through the softmax of ``logits`` to the reach under it, (A, P)."""
    weight = logits.softmax(dim=1)
    weighted = weight * slope
    mean = weighted.sum(dim=1, keepdim=True)
    return weighted.addcmul_(weight, mean, value=-1).mul_(scale)


class HierLoss(nn.Module):
    """HIER with its hierarchical proxies, to be added to any metric loss.

    Examples:
        >>> import torch
        >>> loss = HierLoss(embedding_dim=16, num_proxies=32, num_neighbours=4)
        >>> to_poincare = ToPoincare(c=0.1, clip_radius=2.3)
        >>> tangent = torch.randn(12, 16, requires_grad=True)
        >>> value = loss(to_poincare(tangent), torch.arange(12) // 3)
        >>> value.backward()
        >>> bool(value > 0), bool(tangent.grad.isfinite().all())
        (True, True)

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
        self_neighbours: count a point among its own neighbours and negatives, as the published
            code does (see `mine`).
        own_ancestors: let a proxy be its own ancestor, as the published code does.
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
        self_neighbours: bool = False,
        own_ancestors: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.c = c
        self.temperature = temperature
        self.margin = margin
        self.num_neighbours = num_neighbours
        self.triplets_per_anchor = triplets_per_anchor
        self.self_neighbours = self_neighbours
        self.own_ancestors = own_ancestors
        directions = torch.randn(num_proxies, embedding_dim, generator=generator)
        self.proxies = nn.Parameter(directions / embedding_dim**0.5 * initial_radius)
        self.to_poincare = ToPoincare(c, clip_radius)

    def proxy_points(self) -> Tensor:
        """The proxies as points of the ball, (P, D)."""
        points: Tensor = self.to_poincare(self.proxies)
        return points

    # Inside a step that torch.compile has taken over this runs as it is: what it draws comes from
    # a generator, which the compiler cannot follow.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
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
        similarity = self._similarity(points, labels)
        between = poincare.pairwise_dist(proxies, proxies, self.c)
        photographs = poincare.pairwise_dist(points, proxies, self.c)
        return self._term(similarity, photographs, generator) + self._term(
            torch.exp(-between.detach()), between, generator, own_ancestors=self.own_ancestors
        )

    @torch.no_grad()
    def nearest_ancestors(
        self, points: Tensor, labels: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """The lowest common ancestors of mined pairs and of their triples, without noise.

        Args:
            points, labels, generator: as for the loss.

        Returns:
            Two (T,) int64 of proxies.
        """
        triplets = self._mine(self._similarity(points, labels), generator)
        reach = poincare.pairwise_dist(points, self.proxy_points(), self.c)
        i, j, k = (reach[index[triplets.counted]] for index in triplets[:3])
        pair = torch.maximum(i, j)
        return pair.argmin(dim=1), torch.maximum(pair, k).argmin(dim=1)

    @torch.no_grad()
    def _similarity(self, points: Tensor, labels: Tensor) -> Tensor:
        same_class = labels[:, None] == labels[None, :]
        return torch.exp(-poincare.pairwise_dist(points, points, self.c)) + same_class

    def _mine(self, similarity: Tensor, generator: torch.Generator | None) -> Triplets:
        return mine(
            similarity,
            num_neighbours=self.num_neighbours,
            triplets_per_anchor=self.triplets_per_anchor,
            generator=generator,
            self_neighbours=self.self_neighbours,
        )

    def _term(
        self,
        similarity: Tensor,
        distances: Tensor,
        generator: torch.Generator | None,
        own_ancestors: bool = True,
    ) -> Tensor:
        anchor, positive, negative, counted = self._mine(similarity, generator)
        return lca_triplet_loss(
            distances,
            anchor,
            positive,
            negative,
            counted=counted,
            temperature=self.temperature,
            margin=self.margin,
            generator=generator,
            own_ancestors=own_ancestors,
        )
