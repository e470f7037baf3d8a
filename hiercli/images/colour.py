"""From what a decoder gives to 8-bit RGB: depth, transparency and colours as the file says them.

Deep greys are scaled by what the file says of its numbers, never by the brightest pixel. What is
transparent lies on white. Colours of a profile (Adobe RGB, Display P3, CMYK) become those of sRGB.
"""

import contextlib
import functools
import io
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from hiercli.images.kinds import UnsupportedError

_STRIP_PIXELS = 2**22
"""Pixels that are converted at once: whole copies of a large picture would take gigabytes."""
_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339
"""TIFF tags."""
_SIGNED, _FLOAT = 2, 3
_GAMMA = 1 / 2.2
"""Exponent by which sRGB is encoded, about."""
_ALIKE = 0.02
"""Difference of exponents that nobody sees."""

Convert = Callable[[Image.Image], Image.Image]


def to_rgb(picture: Image.Image, depth: int = 8) -> Image.Image:
    """8-bit RGB of any mode, with the EXIF block kept.

    Args:
        picture: loaded.
        depth: bits of a sample in the file, where that is a PNG: its transparent colour is
            written in them.

    Raises:
        UnsupportedError: its numbers have no scale that is known.
    """
    steps = [_grey_of(picture)] if _is_deep(picture) else [_with_alpha(picture, depth)]
    managed = _managed(picture)
    if picture.mode == "LAB":
        steps += [_lab(picture)]
    else:
        steps += [managed] if managed else [_plain_rgb, *_gamma(picture)]
    if picture.mode == "RGB" and not picture.has_transparency_data and steps == [None, _plain_rgb]:
        return picture
    steps = [step for step in [*steps, _on_white] if step]

    def convert(strip: Image.Image) -> Image.Image:
        for step in steps:
            strip = step(strip)  # type: ignore[misc]
        return strip

    converted = _in_strips(picture, convert)
    if "exif" in picture.info:
        converted.info.setdefault("exif", picture.info["exif"])
    return converted


def _in_strips(picture: Image.Image, convert: Convert) -> Image.Image:
    """What ``convert`` makes of a picture, from top to bottom, so that no copy of it is whole."""
    height = max(1, _STRIP_PIXELS // picture.width)
    if height >= picture.height:
        return convert(picture)
    whole = Image.new("RGB", picture.size)
    for top in range(0, picture.height, height):
        strip = picture.crop((0, top, picture.width, min(top + height, picture.height)))
        strip.info = picture.info  # where transparency may be said
        whole.paste(convert(strip), (0, top))
    return whole


# -- deep greys ------------------------------------------------------------------------------------


def _is_deep(picture: Image.Image) -> bool:
    return picture.mode.startswith(("I", "F"))


def _grey_of(picture: Image.Image) -> Convert:
    """A deep grey picture's way to 8 bits, ``L`` or ``LA``: all its strips are scaled alike."""
    bits, sample_format, white_is_zero = _numbers(picture)
    if sample_format == _FLOAT:
        require_unit_range(np.asarray(picture.resize((256, 256), Image.Resampling.NEAREST)))
    key = picture.info.get("transparency")

    def convert(strip: Image.Image) -> Image.Image:
        numbers = np.asarray(strip)
        if bits == 32 and sample_format not in (_SIGNED, _FLOAT):
            numbers = numbers.view(np.uint32)  # Pillow knows none without a sign
        share = shares(numbers, bits, sample_format)
        grey = (255 * (1 - share if white_is_zero else share)).astype(np.uint8)
        if not isinstance(key, int):
            return Image.fromarray(grey)
        alpha = np.where(numbers == key, 0, 255).astype(np.uint8)
        return Image.merge("LA", [Image.fromarray(grey), Image.fromarray(alpha)])

    return convert


def _numbers(picture: Image.Image) -> tuple[int, int, bool]:
    """Bits of a sample, its TIFF sample format, and whether 0 is white."""
    tags: Any = getattr(picture, "tag_v2", None)
    if tags is not None:
        bits = _first(tags.get(_BITS), 16)
        if not 8 <= bits <= 64:
            raise ValueError(f"{bits} bits a sample")
        sample_format = _first(tags.get(_SAMPLE_FORMAT), 1)
        return bits, sample_format, _first(tags.get(_PHOTOMETRIC), 1) == 0
    if picture.mode.startswith("F"):
        return 32, _FLOAT, False
    if picture.mode == "I" and picture.format is None:
        raise UnsupportedError(
            "expected an image of 8 or 16 bits, got one of Pillow's mode I, which says nothing of "
            "its scale. Make it L or I;16"
        )
    # Other files than TIFF have 16 bits, whatever Pillow holds them in.
    return 16, 1, False


def _first(value: Any, default: int) -> int:
    found = value[0] if isinstance(value, tuple) and value else value
    return found if isinstance(found, int) else default


def shares(numbers: np.ndarray, bits: int, sample_format: int) -> np.ndarray:
    """Shares of white, 0 to 1 as float32, of numbers by TIFF's sample format."""
    full = 1.0 if sample_format == _FLOAT else 2.0 ** (bits - (sample_format == _SIGNED)) - 1
    with np.errstate(all="ignore"):  # floats of 64 bits beyond those of 32 are white
        share = np.nan_to_num(numbers.astype(np.float32) / np.float32(full), posinf=1, neginf=0)
    return share.clip(0, 1)


def require_unit_range(few: np.ndarray) -> None:
    """Floats are a share of white: 0 to 1. Single brighter points, as of the sun, are white.

    Args:
        few: some of the numbers.

    Raises:
        UnsupportedError: most are larger.
    """
    finite = few[np.isfinite(few)]
    if len(finite) and np.median(finite) > 1:
        raise UnsupportedError(
            f"expected float pixels of 0 to 1, found a median of {np.median(finite):.4g}. Scale "
            "them to 0 to 1, or save 8 or 16 bits"
        )


# -- transparency ----------------------------------------------------------------------------------


def _with_alpha(picture: Image.Image, depth: int) -> Convert | None:
    """From a colour that is transparent to an alpha channel; ``None`` where there is neither."""
    key = picture.info.get("transparency")
    if picture.mode in ("P", "PA", "LA", "La", "RGBa"):
        return lambda strip: strip.convert("RGBA" if strip.has_transparency_data else "RGB")
    if picture.mode == "L" and isinstance(key, int) and depth < 8:
        key = key * 255 // (2**depth - 1)
    if picture.mode == "RGB" and isinstance(key, tuple) and depth == 16:
        key = tuple(value >> 8 for value in key)
    if picture.mode not in ("1", "L", "RGB") or not isinstance(key, int | tuple):
        return None

    def convert(strip: Image.Image) -> Image.Image:
        pixels = np.asarray(strip.convert("L") if strip.mode == "1" else strip)
        same = (pixels == key) if pixels.ndim == 2 else (pixels == key).all(axis=2)
        found = strip.convert("RGB")
        found.putalpha(Image.fromarray(np.where(same, 0, 255).astype(np.uint8)))
        return found

    return convert


def _on_white(strip: Image.Image) -> Image.Image:
    if strip.mode == "RGB":
        return strip
    opaque = Image.new("RGBA", strip.size, "white")
    return Image.alpha_composite(opaque, strip.convert("RGBA")).convert("RGB")


# -- colours ---------------------------------------------------------------------------------------


def _plain_rgb(strip: Image.Image) -> Image.Image:
    if strip.mode in ("RGB", "RGBA"):
        return strip
    return strip.convert("RGBA" if strip.mode == "LA" else "RGB")


def _gamma(picture: Image.Image) -> list[Convert]:
    """What undoes an encoding other than that of sRGB, where a PNG names one."""
    gamma = picture.info.get("gamma")
    if "srgb" in picture.info or not isinstance(gamma, float) or not 0.01 < gamma < 100:
        return []
    if abs(gamma - _GAMMA) < _ALIKE:
        return []
    curve = [round(255 * (value / 255) ** (_GAMMA / gamma)) for value in range(256)]

    def convert(strip: Image.Image) -> Image.Image:
        own = list(range(256))
        return strip.point(curve * 3 + (own if strip.mode == "RGBA" else []))

    return [convert]


def _managed(picture: Image.Image) -> Convert | None:
    """To sRGB by the colour profile of a picture; ``None`` without one, or where it is broken."""
    profile = picture.info.get("icc_profile")
    if not isinstance(profile, bytes) or not profile:
        return None
    space = _space(profile)
    modes = {"RGB": ("RGB", "RGBA"), "GRAY": ("L",), "CMYK": ("CMYK",)}.get(space, ())

    def convert(strip: Image.Image) -> Image.Image:
        if strip.mode == "LA" and "L" in modes:
            grey, alpha = strip.split()
            found = transformed(grey)
            found.putalpha(alpha)
            return found
        if strip.mode in ("1", "P", "LA", "PA", "YCbCr", "RGBX"):
            strip = _plain_rgb(strip)
        return transformed(strip) if strip.mode in modes else _plain_rgb(strip)

    def transformed(strip: Image.Image) -> Image.Image:
        transform = _transform(profile, strip.mode)
        if transform is None:
            return _plain_rgb(strip)
        with contextlib.suppress(Exception):  # damage that shows only now
            found = transform.apply(strip)
            return found
        return _plain_rgb(strip)

    return convert if modes else None


@functools.lru_cache(maxsize=64)
def _space(profile: bytes) -> str:
    """The colour space of a profile that is not sRGB: RGB, GRAY, CMYK; empty for all others."""
    from PIL import ImageCms

    try:
        found = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "srgb" in (ImageCms.getProfileDescription(found) or "").lower():
            return ""
        return str(found.profile.xcolor_space).strip()
    except Exception:  # of nearly every kind
        return ""


@functools.lru_cache(maxsize=64)
def _transform(profile: bytes, mode: str) -> Any:
    from PIL import ImageCms

    try:
        return ImageCms.buildTransform(
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            ImageCms.createProfile("sRGB"),
            mode,
            "RGBA" if mode == "RGBA" else "RGB",
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except Exception:  # of nearly every kind
        return None


# -- CIE L*a*b* ------------------------------------------------------------------------------------

_WHITE_POINT = 318
"""TIFF tag: chromaticity (x, y) of the white that L*a*b* is relative to."""
_D50, _D65 = (0.3457, 0.3585), (0.3127, 0.3290)
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367],
                      [0.0389, -0.0685, 1.0296]])  # fmt: skip
_XYZ_TO_SRGB = np.array([[3.2404542, -1.5371385, -0.4985314], [-0.9692660, 1.8760108, 0.0415560],
                         [0.0556434, -0.2040259, 1.0572252]])  # fmt: skip
"""Linear, under D65."""


def _lab(picture: Image.Image) -> Convert:
    """From 8-bit L*a*b* to sRGB; relative to D50 where the file names no white."""
    white = _xyz(_white_point(picture))
    cones, wanted = _BRADFORD @ white, _BRADFORD @ _xyz(_D65)
    adapted = np.linalg.inv(_BRADFORD) @ np.diag(wanted / cones) @ _BRADFORD
    matrix = (_XYZ_TO_SRGB @ adapted @ np.diag(white)).T.astype(np.float32)

    def convert(strip: Image.Image) -> Image.Image:
        pixels = np.asarray(strip)
        lightness = (pixels[:, :, 0] * np.float32(100 / 255) + 16) / 116
        signed = pixels[:, :, 1:].view(np.int8).astype(np.float32)
        a, b = signed[:, :, 0] / 500, signed[:, :, 1] / 200
        roots = np.stack([lightness + a, lightness, lightness - b], axis=2)
        linear = np.where(roots > 6 / 29, roots**3, (roots - 4 / 29) * np.float32(108 / 841))
        shares = (linear @ matrix).clip(0, 1)
        curved = np.where(
            shares <= 0.0031308, 12.92 * shares, 1.055 * shares ** np.float32(1 / 2.4) - 0.055
        )
        return Image.fromarray(np.rint(255 * curved).astype(np.uint8))

    return convert


def _xyz(chromaticity: tuple[float, float]) -> np.ndarray:
    x, y = chromaticity
    return np.array([x / y, 1, (1 - x - y) / y])


def _white_point(picture: Image.Image) -> tuple[float, float]:
    tags: Any = getattr(picture, "tag_v2", {})
    try:
        x, y = map(float, tags[_WHITE_POINT])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return _D50
    return (x, y) if 0.2 < x < 0.5 and 0.2 < y < 0.5 else _D50
