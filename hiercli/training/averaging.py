"""A running average of weights (EMA), for evaluation."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


def averaged(module: nn.Module, decay: float) -> AveragedModel:
    """A copy of a module, for `update_parameters` to draw towards it by ``1 - decay`` a step.

    PyTorch's own average of this kind also averages whole numbers, which cuts off a part of each
    index that a network keeps in a buffer; here they are copied.

    Args:
        module: with its starting weights, from which the average begins.
        decay: share that the average keeps, 0 to 1.
    """

    @torch.no_grad()
    def draw(kept: Sequence[Tensor], live: Sequence[Tensor], _: Any) -> None:
        for old, new in zip(kept, live, strict=True):
            if old.is_floating_point():
                old.lerp_(new, 1 - decay)
            else:
                old.copy_(new)

    copy = AveragedModel(module, multi_avg_fn=draw, use_buffers=True)
    copy.update_parameters(module)  # the first one copies
    return copy
