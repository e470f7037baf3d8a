"""Training losses: HIER, which is ours, and the metric losses of pytorch-metric-learning."""

from hiercli.losses.hier import HierLoss

__all__ = ["HierLoss"]
