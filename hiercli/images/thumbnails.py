"""Small pictures that an index keeps, so that pages show images where their files are not."""

import io
from pathlib import Path
from typing import Protocol

from PIL import Image


class Picture(Protocol):
    """What gives pictures, as `images.read` does."""

    def __call__(
        self, path: Path | str, shortest_side: int | None = None, content: bytes | None = None
    ) -> Image.Image:
        """A picture, upright and in RGB.

        Raises:
            ImageError: it cannot be read.
        """


SIDE = 96
"""Pixels of the short side."""
_LONGEST = 2 * SIDE
_QUALITY = 60
_EFFORT = 0
"""Of WebP's search for a smaller file: more of it takes longer than decoding the image."""


def thumbnail(picture: Image.Image) -> bytes:
    """A small WebP of an RGB picture, about 2 kB.

    Examples:
        >>> small = Image.open(io.BytesIO(thumbnail(Image.new("RGB", (640, 480)))))
        >>> small.size
        (128, 96)
    """
    scale = min(1.0, SIDE / min(picture.size), _LONGEST / max(picture.size))
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    small = picture.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=_QUALITY, method=_EFFORT)
    return buffer.getvalue()
