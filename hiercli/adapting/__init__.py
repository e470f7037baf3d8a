"""Encoders adapted to images without labels: the head, its file, and the index of the images."""

from hiercli.adapting.head import FEWEST, Head
from hiercli.adapting.index import Adapted, adapt

__all__ = ["FEWEST", "Adapted", "Head", "adapt"]
