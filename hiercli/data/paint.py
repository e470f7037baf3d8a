"""Colours as float RGB arrays (3,) in [0, 255], and what Pillow draws with in place of arrays."""

import colorsys

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def rgb(hue: float, saturation: float, value: float) -> Array:
    """HSV (degrees, [0, 1], [0, 1]; clipped into range) as RGB (3,) in [0, 255]."""
    channels = colorsys.hsv_to_rgb(
        hue % 360.0 / 360.0, min(max(saturation, 0.0), 1.0), min(max(value, 0.0), 1.0)
    )
    return 255.0 * np.array(channels)


def mix(first: Array, second: Array, share: float | Array) -> Array:
    """``first`` with ``share`` in [0, 1] of ``second``."""
    return np.asarray(first + (second - first) * share)


def ink(colour: Array) -> tuple[int, int, int]:
    """A colour as Pillow takes it, clipped into range."""
    red, green, blue = colour.tolist()
    return _byte(red), _byte(green), _byte(blue)


def _byte(level: float) -> int:
    return int(min(max(level, 0.0), 255.0))


def flat(points: Array) -> list[float]:
    """Points (N, 2) as the flat list that Pillow draws fastest."""
    numbers: list[float] = points.ravel().tolist()
    return numbers
