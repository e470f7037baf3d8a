"""Known groups above the classes (genus, family, order), put to use in training."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from hiercli.losses import metric

_TEMPERATURE = 0.01
_MARGIN = 0.05
_SLOPE = 100.0
"""Of the bound on the number of images ranked too early, as published for cosines."""


class GroupProxies(nn.Module):
    """Proxy-Anchor once more for each level, with a proxy for each of its groups.

    The same points serve all levels, as in Yang et al., "Hierarchical Proxy-based Loss for Deep
    Metric Learning" (WACV 2022).

    Examples:
        >>> import torch
        >>> loss = GroupProxies([3, 2], embedding_dim=4)
        >>> points = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
        >>> groups = torch.tensor([[0, 0], [0, 0], [1, 0], [1, 0], [2, 1], [-1, 1]])
        >>> loss(points, groups).shape
        torch.Size([])

    Args:
        counts: groups of each level.
        embedding_dim: D.
    """

    def __init__(self, counts: Sequence[int], embedding_dim: int) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            metric.create(
                "proxy-anchor", num_classes=max(1, count), embedding_dim=embedding_dim, c=1.0
            )
            for count in counts
        )

    def forward(self, points: Tensor, groups: Tensor) -> Tensor:
        """The mean over the levels.

        Args:
            points: (B, D), of which directions count.
            groups: (B, L) int64, the group at each level; -1 where it is not known.

        Returns:
            Scalar, at least 0.
        """
        total = points.sum() * 0.0
        for level, loss in enumerate(self.levels):
            known = groups[:, level] >= 0
            if known.any():
                total = total + loss(points[known], groups[known, level])
        return total / max(1, len(self.levels))


def ranking_loss(points: Tensor, labels: Tensor, groups: Tensor) -> Tensor:
    """One minus a smooth lower bound of the hierarchical average precision of a batch.

    Each image ranks all others by cosine; those that share more levels with it should come first.
    Time and memory grow with the cube of the batch.
    After Ramzi et al., "Hierarchical Average Precision Training for Pertinent Image Retrieval"
    (ECCV 2022), equations 2 to 6 with alpha 1. Here only the ranks move: what an image has earned
    by its rank is held, so that a relative is never drawn past a closer one.

    Examples:
        >>> import torch
        >>> points = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.5, 0.5], [0.0, 1.0]])
        >>> groups = torch.tensor([[0], [0], [0], [1]])
        >>> ranking_loss(points, torch.tensor([0, 0, 1, 2]), groups).item() < 0.05
        True
        >>> ranking_loss(points[[0, 3, 1, 2]], torch.tensor([0, 0, 1, 2]), groups).item() > 0.5
        True

    Args:
        points: (B, D), of which directions count.
        labels: (B,) int64 class ids.
        groups: (B, L) int64, the group at each level, fine to coarse; -1 where it is not known.

    Returns:
        Scalar, 0 to 1; 0 without relatives.
    """
    unit = functional.normalize(points.float(), dim=1)
    cosine = unit @ unit.T
    level = shared_levels(labels, groups)
    others = ~torch.eye(len(points), dtype=torch.bool, device=points.device)
    level = level.where(others, torch.zeros_like(level))
    greatest = groups.shape[1] + 1
    counts = (level[:, :, None] == torch.arange(1, greatest + 1, device=level.device)).sum(dim=1)
    worth = level / greatest / counts.gather(1, (level - 1).clamp(min=0)).clamp(min=1)
    ahead = cosine[:, None, :] - cosine[:, :, None]  # [q, k, j]: how far j is before k
    first = others[:, None, :] & ~torch.eye(len(points), dtype=torch.bool, device=points.device)
    passed = (ahead.detach() >= 0) & first
    earned = worth + (passed * torch.minimum(worth[:, None, :], worth[:, :, None])).sum(dim=2)
    lower = (level[:, None, :] < level[:, :, None]) & first
    rank = 1 + (passed & ~lower).sum(dim=2) + (_too_early(ahead) * lower).sum(dim=2)
    precision = (earned / rank * (level > 0)).sum(dim=1) / worth.sum(dim=1).clamp(min=1e-12)
    asks = worth.sum(dim=1) > 0
    return ((1 - precision) * asks).sum() / asks.sum().clamp(min=1)


def shared_levels(labels: Tensor, groups: Tensor) -> Tensor:
    """How many levels every two images share, (B, B) int64: one more than L for one class.

    Examples:
        >>> import torch
        >>> groups = torch.tensor([[0, 0], [0, 0], [1, 0], [-1, 1]])
        >>> shared_levels(torch.tensor([0, 1, 2, 3]), groups)[0].tolist()
        [3, 2, 1, 0]
    """
    count = groups.shape[1]
    shared = (labels[:, None] == labels[None, :]).long() * (count + 1)
    for place in range(count):
        own = groups[:, place]
        same = (own[:, None] == own[None, :]) & (own >= 0)[:, None]
        shared = torch.maximum(shared, same.long() * (count - place))
    return shared


def _too_early(ahead: Tensor) -> Tensor:
    """A bound on "one image stands before another", with a gradient that does not vanish.

    Ramzi et al., "Robust and Decomposable Average Precision for Image Retrieval" (NeurIPS 2021),
    equation 4.
    """
    smooth = torch.sigmoid(ahead / _TEMPERATURE)
    within = smooth + 0.5
    at_margin = torch.sigmoid(torch.tensor(_MARGIN / _TEMPERATURE)).item() + 0.5
    beyond = _SLOPE * (ahead - _MARGIN) + at_margin
    return torch.where(ahead <= 0, smooth, torch.where(ahead <= _MARGIN, within, beyond))
