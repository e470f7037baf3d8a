"""Networks: timm backbones, the head that maps their features into the ball, the two joined."""

from hiercli.nn.to_poincare import ToPoincare

__all__ = ["ToPoincare"]
