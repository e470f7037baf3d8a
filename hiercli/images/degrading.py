"""Images made worse on purpose, to learn and to test what is a clear image."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from hiercli.errors import ImageError
from hiercli.images.decoding import read

DEGRADATIONS = ("blur", "dark", "occlusion", "crop", "noise")
SHUFFLED = "shuffled"
"""Not worse but senseless: the tiles of an image in another order."""
_TILES = 4
_GREY = (124, 116, 104)


def degraded(
    picture: Image.Image, kind: str, strength: float, rng: np.random.Generator
) -> Image.Image:
    """A worse copy of a picture.

    Examples:
        >>> white = Image.new("RGB", (64, 48), "white")
        >>> dark = degraded(white, "dark", 1.0, np.random.default_rng(0))
        >>> dark.size, dark.getpixel((0, 0))[0] < 20
        ((64, 48), True)

    Args:
        picture: RGB.
        kind: one of `DEGRADATIONS`, or `SHUFFLED`.
        strength: 0 (as it is) to 1 (hardly to be recognised).
        rng: source of places and noise.
    """
    width, height = picture.size
    if kind == "blur":
        return picture.filter(ImageFilter.GaussianBlur(0.036 * strength * min(width, height)))
    if kind == "dark":
        return ImageEnhance.Brightness(picture).enhance(1 - 0.95 * strength)
    if kind == "occlusion":
        share = np.sqrt(0.9 * strength)
        left, top, own_width, own_height = _box(width, height, share, rng)
        worse = picture.copy()
        worse.paste(_GREY, (left, top, left + own_width, top + own_height))
        return worse
    if kind == "crop":
        left, top, own_width, own_height = _box(width, height, 1 - 0.85 * strength, rng)
        box = (left, top, left + own_width, top + own_height)
        return picture.resize(picture.size, Image.Resampling.BICUBIC, box=box)
    if kind == "noise":
        pixels = np.asarray(picture, np.float32)
        noisy = pixels + rng.normal(0, 120 * strength, pixels.shape)
        return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
    return _shuffled(picture, rng)


def _box(
    width: int, height: int, share: float, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """Left, top, width and height of a box somewhere, with a share of both sides."""
    own = round(share * width), round(share * height)
    left = int(rng.integers(0, width - own[0] + 1))
    return left, int(rng.integers(0, height - own[1] + 1)), *own


def _shuffled(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    side = min(picture.size) // _TILES
    places = [(side * column, side * row) for row in range(_TILES) for column in range(_TILES)]
    worse = Image.new("RGB", (_TILES * side, _TILES * side))
    for place, source in zip(places, rng.permutation(len(places)), strict=True):
        left, top = places[source]
        worse.paste(picture.crop((left, top, left + side, top + side)), place)
    return worse


def write(
    images: Sequence[Path],
    kinds: Sequence[str],
    strengths: Sequence[float],
    folder: Path,
    shortest_side: int,
    rng: np.random.Generator,
) -> list[Path | None]:
    """Write worse copies into a folder.

    Args:
        images: N files.
        kinds, strengths: of each, see `degraded`.
        folder: that is there.
        shortest_side: of the copies, in pixels.
        rng: source of places and noise.

    Returns:
        N files; ``None`` for an image that cannot be read.
    """
    written: list[Path | None] = []
    for number, (path, kind, strength) in enumerate(zip(images, kinds, strengths, strict=True)):
        try:
            picture = read(path, shortest_side)
        except ImageError:
            written.append(None)
            continue
        scale = shortest_side / min(picture.size)
        sides = [max(1, round(scale * side)) for side in picture.size]
        small = picture.resize((sides[0], sides[1]), Image.Resampling.BICUBIC)
        written.append(folder / f"{number}.png")
        degraded(small, kind, float(strength), rng).save(folder / f"{number}.png", compress_level=1)
    return written
