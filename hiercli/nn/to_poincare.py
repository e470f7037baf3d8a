"""From Euclidean outputs of a head to points of the Poincare ball."""

from typing import Any

import torch
from torch import Tensor, nn

from hiercli.geometry import poincare


class _RiemannianGradient(torch.autograd.Function):
    """Identity whose gradient is rescaled by the inverse metric, (1 - c|x|^2)^2 / 4.

    The curvature travels through the context, so that two layers of different curvature in one
    program cannot disturb each other.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, c: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.c = c
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        inverse_metric = poincare.conformal_factor(x, ctx.c) ** -2
        return grad_outputs[0] * inverse_metric, None


class ToPoincare(nn.Module):
    """Clip tangent vectors at the origin and map them into the ball: (..., D) -> (..., D).

    Examples:
        >>> import torch
        >>> points = ToPoincare(c=1.0, clip_radius=2.3)(torch.tensor([[3.0, 4.0], [0.1, 0.0]]))
        >>> bool((points.norm(dim=1) < 1).all())
        True

    HIER (arXiv 2212.14258), section 3.1, after Hyp-ViT (Ermolov et al., CVPR 2022), section 3.

    Args:
        c: curvature magnitude, > 0.
        clip_radius: longest tangent vector kept, > 0; ``None`` keeps all.
        riemannian: rescale the gradient by the inverse metric, as Riemannian descent asks.
    """

    def __init__(self, c: float, clip_radius: float | None, riemannian: bool = True) -> None:
        super().__init__()
        self.c = c
        self.clip_radius = clip_radius
        self.riemannian = riemannian

    def forward(self, tangent: Tensor) -> Tensor:
        if self.clip_radius is not None:
            tangent = poincare.clip(tangent, self.clip_radius)
        points: Tensor = poincare.expmap0(tangent, self.c)
        if self.riemannian and torch.is_grad_enabled():
            points = _RiemannianGradient.apply(points, self.c)  # type: ignore[no-untyped-call]
        return points

    def extra_repr(self) -> str:
        return f"c={self.c}, clip_radius={self.clip_radius}, riemannian={self.riemannian}"
