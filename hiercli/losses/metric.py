"""Metric losses by name, all from pytorch-metric-learning; HIER is added to any of them."""

from collections.abc import Callable

import torch
from pytorch_metric_learning import losses, miners
from pytorch_metric_learning.distances import BaseDistance
from torch import Tensor, nn

from hiercli.errors import InputError
from hiercli.geometry import poincare


class HyperbolicDistance(BaseDistance):  # type: ignore[misc]
    """Geodesic distance of the Poincare ball, for any loss of pytorch-metric-learning."""

    def __init__(self, c: float) -> None:
        super().__init__(normalize_embeddings=False)
        self.c = c

    def compute_mat(self, query_emb: Tensor, ref_emb: Tensor) -> Tensor:
        """(N, D), (M, D) -> (N, M)."""
        distances: Tensor = poincare.pairwise_dist(query_emb, ref_emb, self.c)
        return distances

    def pairwise_distance(self, query_emb: Tensor, ref_emb: Tensor) -> Tensor:
        """(N, D), (N, D) -> (N,)."""
        distances: Tensor = poincare.dist(query_emb, ref_emb, self.c)
        return distances


class ViewPairs(nn.Module):
    """Hyperbolic SupCon of Hyp-ViT (CVPR 2022), equation 6: NT-Xent over every pair of views.

    The first, second, ... photograph of each class in the batch are its views. Each ordered pair
    of views contributes one cross-entropy; the sum is divided by the squared number of views.

    Args:
        c: curvature magnitude.
        temperature: of the cross-entropy.
    """

    def __init__(self, c: float, temperature: float = 0.2) -> None:
        super().__init__()
        self.cross_entropy = losses.NTXentLoss(temperature, distance=HyperbolicDistance(c))

    def forward(self, points: Tensor, labels: Tensor) -> Tensor:
        """(B, D) points of the ball and (B,) class ids to a scalar."""
        order = torch.argsort(labels, stable=True)
        points, labels = points[order], labels[order]
        position = torch.arange(len(labels), device=labels.device)
        view = position - torch.searchsorted(labels, labels)
        num_views = int(view.max()) + 1
        total = points.sum() * 0.0
        for first in range(num_views):
            for second in range(first + 1, num_views):
                # A class has a second view only if it has a first, so the two sides line up.
                has_both = torch.isin(labels, labels[view == second])
                pair = has_both & ((view == first) | (view == second))
                total = total + 2 * self.cross_entropy(points[pair], labels[pair])
        return total / num_views**2


class Mined(nn.Module):
    """A loss together with the miner that chooses its pairs."""

    def __init__(self, loss: nn.Module, miner: nn.Module) -> None:
        super().__init__()
        self.loss = loss
        self.miner = miner

    def forward(self, points: Tensor, labels: Tensor) -> Tensor:
        """(B, D) points and (B,) class ids to a scalar."""
        value: Tensor = self.loss(points, labels, self.miner(points, labels))
        return value


_BUILDERS: dict[str, Callable[[int, int, float], nn.Module]] = {
    "proxy-anchor": lambda classes, dim, c: losses.ProxyAnchorLoss(
        classes, dim, margin=0.1, alpha=32
    ),
    "multi-similarity": lambda classes, dim, c: Mined(
        losses.MultiSimilarityLoss(alpha=2, beta=50, base=0.5),
        miners.MultiSimilarityMiner(epsilon=0.1),
    ),
    "soft-triple": lambda classes, dim, c: losses.SoftTripleLoss(classes, dim),
    "proxy-nca": lambda classes, dim, c: losses.ProxyNCALoss(classes, dim, softmax_scale=9),
    "supcon": lambda classes, dim, c: ViewPairs(c),
    "triplet": lambda classes, dim, c: Mined(
        losses.TripletMarginLoss(margin=0.15), miners.BatchHardMiner()
    ),
}

NAMES = tuple(_BUILDERS)


def create(name: str, *, num_classes: int, embedding_dim: int, c: float) -> nn.Module:
    """A metric loss, called with (B, D) points of the ball and (B,) class ids, giving a scalar.

    All but ``supcon`` look at directions or at L2-normalised points; in the ball a direction is
    the same before and after the exponential map.

    Args:
        name: one of `NAMES`.
        num_classes: training classes, for losses with proxies of their own.
        embedding_dim: D.
        c: curvature magnitude, for ``supcon``.

    Raises:
        InputError: another name.
    """
    if name not in _BUILDERS:
        raise InputError(f"expected a loss of {', '.join(NAMES)}, got {name!r}")
    return _BUILDERS[name](num_classes, embedding_dim, c)


@torch.no_grad()
def place_class_proxies(loss: nn.Module, means: Tensor) -> None:
    """Start the class proxies at the classes' means, with the length that they have now.

    From random places a short training spends its first epochs on moving proxies to where the
    classes are already. Only ``proxy-anchor`` and ``proxy-nca`` have one proxy a class; the other
    losses are left as they are.

    Args:
        loss: from `create`.
        means: (C, D), one a class in the order of class ids; only their directions count.
    """
    proxies = getattr(loss, "proxies", None)
    if isinstance(proxies, Tensor):
        length = proxies.norm(dim=1).mean()
        proxies.copy_(nn.functional.normalize(means.to(proxies), dim=1) * length)
