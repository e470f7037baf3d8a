"""PFM images of colours: floats, the lowest row first. Pillow knows those of greys alone.

https://netpbm.sourceforge.net/doc/pfm.html
"""

import re

import numpy as np
from PIL import Image

from hiercli.images import colour

_HEAD = re.compile(rb"PF\s+([0-9]{1,9})\s+([0-9]{1,9})\s+(-?)[0-9.eE+-]{1,40}\s")
_ROWS = 256
"""That are converted at once."""
_BITS, _FLOAT = 32, 3


def is_pfm(content: bytes) -> bool:
    """Whether a file is a PFM image of colours."""
    return _HEAD.match(content) is not None


def size_of(content: bytes) -> tuple[int, int]:
    """(width, height) in pixels.

    Examples:
        >>> size_of(b"PF 20 10 -1.0 ")
        (20, 10)
    """
    found = _HEAD.match(content)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def decode(content: bytes) -> Image.Image:
    """The image, in RGB.

    Raises:
        ValueError: it is cut short, or has no pixels.
        UnsupportedError: its numbers have no scale that is known.
    """
    found = _HEAD.match(content)
    width, height = size_of(content)
    if found is None or not width * height:
        raise ValueError("the image has no pixels")
    if len(content) < found.end() + 12 * width * height:
        raise ValueError("the file is cut short")
    order = "<" if found[3] else ">"
    numbers = np.frombuffer(content, f"{order}f4", 3 * width * height, found.end())
    numbers = numbers.reshape(height, width, 3)[::-1]
    colour.require_unit_range(numbers[:: max(1, height // 256), :: max(1, width // 256)])
    pixels = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, _ROWS):
        shares = colour.shares(numbers[top : top + _ROWS], _BITS, _FLOAT)
        pixels[top : top + _ROWS] = (255 * shares).astype(np.uint8)
    return Image.fromarray(pixels)
