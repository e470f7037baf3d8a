"""Training losses: HIER, which is ours, and the metric losses of pytorch-metric-learning."""
