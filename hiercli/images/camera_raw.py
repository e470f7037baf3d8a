"""Camera RAW: the preview that the camera made, or else what LibRaw develops.

A preview looks as the photographer saw it, and takes a tenth of the time. It is used where it is
large enough for what it is wanted for.
"""

import contextlib
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import ExifTags, Image

from hiercli.images import kinds, tiff
from hiercli.images.limits import BUDGET

_DNG_VERSION = 50706
"""Tag of a TIFF that is a DNG."""
_TURNS = {
    3: Image.Transpose.ROTATE_180, 5: Image.Transpose.ROTATE_90, 6: Image.Transpose.ROTATE_270,
}  # fmt: skip
"""What makes a picture upright, by LibRaw's ``flip``."""


def is_dng(content: bytes) -> bool:
    """Whether a TIFF file is camera RAW (DNG)."""
    try:
        return _DNG_VERSION in tiff.tags_of(content)
    except Exception:  # of nearly every kind: who decodes it says so
        return False


def probe(content: bytes) -> None:
    """Check that LibRaw knows the camera; pixels are not looked at.

    Raises:
        UnsupportedError: it does not, or the file is damaged.
    """
    with _opened(content):
        pass


@contextlib.contextmanager
def _opened(content: bytes) -> Iterator[Any]:
    """A file in LibRaw, whose errors are said in our words."""
    import rawpy

    try:
        with rawpy.imread(io.BytesIO(content)) as raw:
            yield raw
    except rawpy.LibRawError as error:
        raise kinds.UnsupportedError(
            "a camera RAW image that is damaged, or of a camera that LibRaw does not know. Copy it "
            "again, or convert it to JPEG"
        ) from error


def decode(content: bytes, shortest_side: int | None) -> Image.Image:
    """An RGB picture, upright.

    Args:
        content: of the file.
        shortest_side: pixels at which the short side will be used; ``None``: all there are.

    Raises:
        DecompressionBombError: it has more pixels.
        UnsupportedError: it is damaged, or of a camera that LibRaw does not know.
    """
    from hiercli.images import decoding

    with _opened(content) as raw:
        width, height = raw.sizes.width, raw.sizes.height
        decoding.require_pixels((width, height), kinds.RAW)
        preview = _preview(raw, shortest_side, min(width, height))
        if preview is not None:
            return preview
        with BUDGET.taking(width * height * kinds.RAW.bytes_per_pixel):
            half = shortest_side is not None and min(width, height) >= 2 * shortest_side
            pixels = raw.postprocess(use_camera_wb=True, half_size=half, output_bps=8)
            return _picture(pixels)


def _picture(pixels: np.ndarray) -> Image.Image:
    """RGB of (H, W, 3), or of (H, W, 1) or (H, W) as a camera without colours gives."""
    flat = pixels[:, :, 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
    return Image.fromarray(flat).convert("RGB")


def _preview(raw: Any, shortest_side: int | None, side: int) -> Image.Image | None:
    """The embedded one, unless it is smaller than needed."""
    import rawpy

    from hiercli.images import decoding

    try:
        found = raw.extract_thumb()
    except rawpy.LibRawError:  # there is none, or of a kind that it does not know
        return None
    wanted = side if shortest_side is None else min(side, shortest_side)
    if found.format == rawpy.ThumbFormat.BITMAP:
        bitmap = _picture(found.data)
        turn = _TURNS.get(raw.sizes.flip)
        bitmap = bitmap if turn is None else bitmap.transpose(turn)
        return bitmap if min(bitmap.size) >= 0.9 * wanted else None
    kind = kinds.of(found.data)
    if kind is None or not kind.formats:
        return None
    with Image.open(io.BytesIO(found.data), formats=kind.formats) as opened:
        # Borders are cut off by some cameras.
        if min(opened.size) < 0.9 * wanted:
            return None
        says_up = ExifTags.Base.Orientation in opened.getexif()
    picture = decoding.decoded(found.data, kind, shortest_side)
    turn = None if says_up else _TURNS.get(raw.sizes.flip)
    return picture if turn is None else picture.transpose(turn)
