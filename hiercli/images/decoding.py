"""Decoding: from a picture file, a Pillow image or an array to upright RGB.

Orientation (EXIF) is applied, transparency is laid on white, 16-bit greys are scaled to 8 bits,
CMYK and palettes become RGB, and of an animation the first frame counts.
"""

import io
import os
import re
import stat
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from hiercli.errors import ImageError, InputError
from hiercli.files import open_regular
from hiercli.images import png

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM")
"""What is decoded, as Pillow names it (its JPEG reads MPO too). Left to choose by itself, Pillow
runs Ghostscript on a PostScript file of any name, and takes gigabytes for some of a kilobyte."""

_OTHER_KINDS = (
    (re.compile(rb"%!PS|\xc5\xd0\xd3\xc6|%PDF-"), "a PostScript or PDF document"),
    (re.compile(rb"\xff\x4f\xff\x51|\x00\x00\x00\x0cjP  "), "a JPEG 2000 image"),
    (re.compile(rb"\xff\x0a|\x00\x00\x00\x0cJXL "), "a JPEG XL image"),
    (re.compile(rb".{4}ftyp(avif|avis)", re.DOTALL), "an AVIF image"),
    (re.compile(rb".{4}ftyp(hei[cfxms]|hev[cx]|mif1|msf1)", re.DOTALL), "a HEIC image"),
    (re.compile(rb".{4}ftyp", re.DOTALL), "a video"),
    (re.compile(rb"\x93NUMPY"), "a NumPy array"),
    (re.compile(rb"PK\x03\x04"), "a zip archive (an .npz of arrays, a document)"),
    (re.compile(rb"\x1f\x8b|BZh|\xfd7zXZ"), "a compressed file"),
    (re.compile(rb"8BPS"), "a Photoshop image"),
    (re.compile(rb"\x00\x00[\x01\x02]\x00"), "an icon"),
    (re.compile(rb"\s*<(\?xml|svg|!doctype|html)", re.IGNORECASE), "an SVG, XML or HTML text"),
    (re.compile(rb"PAR1"), "a Parquet table"),
    (re.compile(rb"SQLite format 3"), "a SQLite database"),
)
"""What people give by mistake, by its first bytes."""

MAX_PIXELS = 160_000_000
"""Pixels of the largest picture that is decoded: more than any camera takes in one shot. Within
this, decoding any kind stays below 2 GB."""
MAX_BYTES = 2**30
"""Of the largest file that is read: `MAX_PIXELS` of three bytes fit in half of it."""
_MAX_PIXELS_OF = {"WEBP": 100_000_000}
"""Of kinds whose decoder holds several copies."""
_STRIP_PIXELS = 2**22
"""Pixels that are converted at once: whole copies of a large picture would take gigabytes."""

_DRAFT_FACTOR = 1.5
"""A JPEG is decoded at a reduced size only while that stays this many times the size needed."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes a picture upright, by its EXIF orientation."""

# A large photograph is not an attack; `MAX_PIXELS` is.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
# Malformed EXIF, an odd palette: what costs a picture nothing is not worth a word on stderr.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


def read(
    path: Path | str, shortest_side: int | None = None, content: bytes | None = None
) -> Image.Image:
    """Decode a picture, upright and in RGB.

    Args:
        path: the file.
        shortest_side: pixels that the short side will be used at; a JPEG much larger than that
            is decoded at a half, quarter or eighth. ``None`` decodes in full.
        content: the file's bytes, where they were read already.

    Returns:
        a loaded RGB picture.

    Raises:
        ImageError: missing, not a picture, damaged, or too large to be a photograph.
    """
    try:
        if content is None:
            content = _bytes_of(path)
        try:
            return _decode(content, shortest_side)
        except (OSError, ValueError, SyntaxError):
            # A damaged comment or profile is no reason to give up what browsers show.
            pixels = png.only_pixels(content)
            if pixels is None:
                raise
            return _decode(pixels, shortest_side)
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(
            f"{path}: the image has more pixels than the limit of {MAX_PIXELS:,} "
            f"({_MAX_PIXELS_OF['WEBP']:,} for WebP). Scale it down"
        ) from error
    except UnidentifiedImageError as error:
        raise ImageError(f"{path}: {_kind_of(content or b'')}") from error
    except MemoryError as error:
        raise ImageError(f"{path}: too large for the memory at hand. Scale it down") from error
    except Exception as error:
        # Pillow's decoders answer damage with errors of nearly every kind, struct.error included.
        raise ImageError(f"{path}: the image is damaged ({error})") from error


def prepared(picture: Image.Image) -> Image.Image:
    """A Pillow image as `read` gives one of its file: upright and in RGB.

    Raises:
        ImageError: it is damaged, empty or too large.
    """
    try:
        if not picture.width * picture.height or picture.width * picture.height > MAX_PIXELS:
            raise ImageError(f"expected an image of 1 to {MAX_PIXELS:,} pixels, got {picture.size}")
        picture.load()
        return _upright(_to_rgb(picture))
    except ImageError:
        raise
    except Exception as error:  # as with files, of nearly every kind
        raise ImageError(f"the image is damaged ({error})") from error


def from_array(pixels: np.ndarray) -> Image.Image:
    """Pixels as a Pillow image.

    Args:
        pixels: uint8 (H, W, 3), (H, W, 4) or (H, W).

    Raises:
        InputError: of another type or shape.
    """
    shape = pixels.shape
    if pixels.dtype != np.uint8 or not (
        len(shape) == 2 or (len(shape) == 3 and shape[2] in (3, 4))
    ):
        raise InputError(
            f"expected an image as uint8 (H, W, 3), (H, W, 4) or (H, W), got {pixels.dtype} {shape}"
        )
    if not pixels.size:
        raise InputError(f"expected an image with pixels, got one of shape {shape}")
    return Image.fromarray(np.ascontiguousarray(pixels))


def _decode(content: bytes, shortest_side: int | None) -> Image.Image:
    with Image.open(io.BytesIO(content), formats=FORMATS) as picture:
        most = _MAX_PIXELS_OF.get(picture.format or "", MAX_PIXELS)
        if picture.width * picture.height > most:
            raise Image.DecompressionBombError
        if shortest_side is not None:
            scale = _DRAFT_FACTOR * shortest_side / min(picture.size)
            wanted = (round(picture.width * scale), round(picture.height * scale))
            picture.draft("RGB", wanted)
        picture.load()
        return _upright(_to_rgb(picture))


def _kind_of(content: bytes) -> str:
    """Why bytes are no picture that can be read, in words."""
    if not content:
        return "expected an image, found an empty file"
    if content[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "this kind of TIFF is not supported. Save it as 8-bit RGB, or as PNG or JPEG"
    for start, kind in _OTHER_KINDS:
        if start.match(content):
            return f"expected {READABLE}, found {kind}. Convert it to an image"
    if content[:2] in (b"\xff\xfe", b"\xfe\xff") or _TEXT.fullmatch(content[:4096]):
        return f"expected {READABLE}, found text or a table"
    return f"expected {READABLE}, found {len(content)} bytes of an unknown format"


_TEXT = re.compile(rb"[\t\n\f\r\x20-\x7e\x80-\xff]+")
READABLE = "a JPEG, PNG, WebP, GIF, TIFF, BMP or PPM image"


State = tuple[int, int, int]
"""Size of a file, when its content was changed and when anything about it was (ns)."""


def state_of(found: os.stat_result) -> State:
    """By which a file is known to be the one that was read, as long as it is the same."""
    most = 2**63 - 1  # what a database holds
    times = (max(-most, min(most, time)) for time in (found.st_mtime_ns, found.st_ctime_ns))
    return (found.st_size, *times)  # type: ignore[return-value]


def read_bytes(path: Path | str) -> tuple[bytes, State]:
    """A file's bytes, and its state then.

    Raises:
        ImageError: missing, no file, too large, or not to be read.
    """
    try:
        _require_file(path)
        with open_regular(path) as file:
            before = os.fstat(file.fileno())
            if before.st_size > MAX_BYTES:
                raise ImageError(
                    f"{path}: {before.st_size:,} bytes, more than the {MAX_BYTES:,} that an image "
                    "may have. Scale it down or move it away"
                )
            content = file.read(MAX_BYTES + 1)
            after = os.fstat(file.fileno())
        stood_still = state_of(before) == state_of(after) and len(content) == after.st_size
        # A file that was written to meanwhile is given no time: it is looked at again next time.
        return content, state_of(after) if stood_still else (len(content), 0, 0)
    except ImageError:
        raise
    except (InputError, OSError) as error:
        cause = error.__cause__ if isinstance(error, InputError) else error
        if isinstance(cause, FileNotFoundError):
            raise ImageError(f"{path}: no such file") from error
        if isinstance(cause, PermissionError):
            raise ImageError(f"{path}: permission denied") from error
        raise ImageError(f"{path}: the file cannot be read ({cause or error})") from error
    except MemoryError as error:
        raise ImageError(f"{path}: too large for the memory at hand. Scale it down") from error


def _bytes_of(path: Path | str) -> bytes:
    return read_bytes(path)[0]


def _require_file(path: Path | str) -> None:
    # Opening a pipe would wait for a writer that may never come.
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ImageError(f"{path}: expected an image file, found a device, a pipe or a folder")


def probe(path: Path | str) -> None:
    """Check that a picture can be opened, without decoding it: a millisecond or less.

    Raises:
        ImageError: missing, empty, or not a picture. Damage behind the header goes unnoticed.
    """
    try:
        _require_file(path)
        with Image.open(path, formats=FORMATS):
            pass
    except Exception:  # of nearly every kind; reading it says what it is, or that it can be read
        read(path)


def _to_rgb(picture: Image.Image) -> Image.Image:
    """RGB of any mode, keeping the EXIF block that `_upright` reads."""
    if picture.mode == "RGB" and not picture.has_transparency_data:
        return picture
    if picture.mode.startswith(("I", "F")):
        converted = _in_strips(picture, _eight_bits(picture))
    elif picture.has_transparency_data:
        converted = _in_strips(picture, _on_white)
    else:
        converted = picture.convert("RGB")
    if "exif" in picture.info:
        converted.info.setdefault("exif", picture.info["exif"])
    return converted


def _in_strips(picture: Image.Image, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
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


def _eight_bits(picture: Image.Image) -> Callable[[Image.Image], Image.Image]:
    """A deep grey picture's way to 8 bits: all its strips are scaled alike."""
    _, brightest = cast(tuple[float, float], picture.getextrema())
    # 16-bit files fill 0..65535; a float picture by habit 0..1, an integer one 0..255.
    full = 65535.0 if brightest > 255 else 255.0 if brightest > 1 else 1.0

    def convert(strip: Image.Image) -> Image.Image:
        depth = np.nan_to_num(np.asarray(strip, dtype=np.float32))
        grey = (depth.clip(0, full) / full * 255).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")

    return convert


def _on_white(strip: Image.Image) -> Image.Image:
    opaque = Image.new("RGBA", strip.size, "white")
    return Image.alpha_composite(opaque, strip.convert("RGBA")).convert("RGB")


def _upright(picture: Image.Image) -> Image.Image:
    """Turned as its EXIF block says, or as it lies where that block is malformed."""
    try:
        orientation = picture.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # of nearly every kind, as with damaged pixels
        return picture
    turn = _TURNS.get(orientation)
    return picture if turn is None else picture.transpose(turn)
