"""Hyperbolic space in its two working models, for NumPy arrays and torch tensors alike."""
