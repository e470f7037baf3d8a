"""Pooling that timm does not have."""

import torch
from timm.layers import SelectAdaptivePool2d
from torch import Tensor, nn

from hiercli.errors import InputError


class GeM(nn.Module):
    """Generalised mean over places, (B, F, H, W) -> (B, F, 1, 1): few strong places count more.

    Radenovic, Tolias and Chum, "Fine-tuning CNN Image Retrieval with No Human Annotation" (2018),
    equation 3, with a power that is not learned. Negative inputs count as zero.

    Args:
        power: 1 is the average, infinity the maximum.
    """

    def __init__(self, power: float = 2.0) -> None:
        super().__init__()
        # Among the weights, so that the fingerprint tells it from an average.
        self.register_buffer("power", torch.tensor(power))

    def forward(self, x: Tensor) -> Tensor:
        """(B, F, H, W) -> (B, F, 1, 1)."""
        power = self.get_buffer("power")
        x = x.clamp(min=1e-6)
        largest = x.amax(dim=(2, 3), keepdim=True)  # taken out, or half precision would overflow
        mean: Tensor = (x / largest).pow(power).mean(dim=(2, 3), keepdim=True)
        return largest * mean.pow(1 / power)


def pool_by_gem(model: nn.Module, name: str) -> None:
    """Put `GeM` in the place of a model's average pooling.

    Raises:
        InputError: it has none.
    """
    pool = average_pool(model)
    if pool is None:
        raise InputError(
            f"pooling gem replaces the average pooling of a convolutional network, and {name} has "
            "no average pooling. Choose another pooling or backbone"
        )
    pool.add_module("pool", GeM())


def average_pool(model: nn.Module) -> SelectAdaptivePool2d | None:
    """The one layer that averages over places, where a model has it."""
    pools = [module for module in model.modules() if isinstance(module, SelectAdaptivePool2d)]
    one = pools[0] if len(pools) == 1 else None
    return one if one is not None and isinstance(one.pool, nn.AdaptiveAvgPool2d) else None
