"""Decoding: from a picture file, a Pillow image or an array to upright RGB.

Orientation (EXIF) is applied, transparency is laid on white, deep greys are scaled to 8 bits,
colours of a profile become those of sRGB, and of an animation the first frame counts (of a JPEG XL
the last: its decoder gives no other). What a file is, its first bytes tell.
"""

import contextlib
import io
import os
import stat
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from hiercli.errors import ImageError, InputError
from hiercli.files import open_regular
from hiercli.images import camera_raw, colour, jpeg, jpeg_2000, kinds, pfm, png, tiff
from hiercli.images.limits import BUDGET, LIMITS

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
    content = read_bytes(path)[0] if content is None else content
    kind = kinds.of(content, _suffix(path))
    with _told_of(path, kind, content):
        try:
            return _decode(content, kind, shortest_side)
        except (OSError, ValueError, SyntaxError):
            # A damaged comment or profile is no reason to give up what browsers show.
            pixels = png.only_pixels(content)
            if pixels is None:
                raise
            return _decode(pixels, kind, shortest_side)


@contextlib.contextmanager
def _told_of(path: Path | str, kind: kinds.Kind | None, content: bytes) -> Iterator[None]:
    """What goes wrong with a file, as an `ImageError` that names it."""
    try:
        yield
    except Image.DecompressionBombError as error:
        most = round((kind.share if kind else 1) * LIMITS.pixels)
        raise ImageError(
            f"{path}: the image has more pixels than the limit of {most:,}. Scale it down, or "
            "raise the limit with `hier embed --max-pixels`"
        ) from error
    except UnidentifiedImageError as error:
        reason = _why_unknown(kind, content)
        raise ImageError(f"{path}: {reason}") from error
    except kinds.UnsupportedError as error:
        raise ImageError(f"{path}: {error}") from error
    except MemoryError as error:
        raise ImageError(f"{path}: too large for the memory at hand. Scale it down") from error
    except Exception as error:
        # Decoders answer damage with errors of nearly every kind, struct.error included.
        line = _first_line(error)
        if kind is kinds.JPEG_XL:  # its decoder speaks of how it was built
            raise ImageError(f"{path}: {kind.name}, but damaged") from error
        if line.lower().startswith("unsupported"):
            reason = f"this kind of image is not supported ({line}). Convert it to PNG or JPEG"
            raise ImageError(f"{path}: {reason}") from error
        raise ImageError(f"{path}: the image is damaged ({line})") from error


def _why_unknown(kind: kinds.Kind | None, content: bytes) -> str:
    """Why Pillow does not know a file, in words."""
    if kind is kinds.TIFF and not tiff.is_damaged(content):
        kind_of = f"this kind of TIFF is not supported{tiff.compression_in_words(content)}"
        return f"{kind_of}. Save it as 8-bit RGB, or as PNG or JPEG"
    if kind is kinds.JPEG and (process := jpeg.unusual_process(content)):
        return f"{process}, which is not supported. Convert it to PNG or an ordinary JPEG"
    return f"{kind.name}, but damaged" if kind else kinds.what_else(content)


def _first_line(error: Exception) -> str:
    said = error.args[0] if error.args else ""
    text = said.decode("ascii", "replace") if isinstance(said, bytes) else str(error)
    if text.startswith("image file is truncated"):
        return "the file is cut short"
    lines = text.strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:200]


def _suffix(path: Path | str) -> str:
    return os.path.splitext(os.fspath(path))[1].lower()


def prepared(picture: Image.Image) -> Image.Image:
    """A Pillow image as `read` gives one of its file: upright and in RGB.

    Raises:
        ImageError: it is damaged, empty or too large.
    """
    try:
        if not 0 < picture.width * picture.height <= LIMITS.pixels:
            raise ImageError(
                f"expected an image of 1 to {LIMITS.pixels:,} pixels, got {picture.size}"
            )
        picture.load()
        return _upright(colour.to_rgb(picture))
    except ImageError:
        raise
    except kinds.UnsupportedError as error:
        raise ImageError(str(error)) from error
    except Exception as error:  # as with files, of nearly every kind
        raise ImageError(f"the image is damaged ({_first_line(error)})") from error


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


def _decode(content: bytes, kind: kinds.Kind | None, shortest_side: int | None) -> Image.Image:
    if kind is None:
        raise UnidentifiedImageError
    if kind is kinds.TIFF and camera_raw.is_dng(content):
        kind = kinds.RAW
    if not kind.is_readable():
        raise kinds.UnsupportedError(
            f"expected {kinds.readable()}, found {kind.name}. To read it, run: "
            "pip install 'hiercli[formats]'"
        )
    if kind is kinds.RAW:
        return camera_raw.decode(content, shortest_side)
    return decoded(content, kind, shortest_side)


def decoded(content: bytes, kind: kinds.Kind, shortest_side: int | None) -> Image.Image:
    """What Pillow makes of a file of a kind, upright and in RGB; see `read`."""
    if kind.size_of is not None:
        require_pixels(kind.size_of(content), kind)
    if kind is kinds.PPM and pfm.is_pfm(content):
        require_pixels(pfm.size_of(content), kind)
        return pfm.decode(content)
    if kind is kinds.TIFF:
        if tiff.compression_in_words(content):
            raise UnidentifiedImageError
        layout = tiff.layout_of(content)
        if layout is not None:
            require_pixels((layout.width, layout.height), kind)
            return _upright(colour.to_rgb(tiff.decode(content, layout)))
    with Image.open(io.BytesIO(content), formats=kind.formats) as picture:
        require_pixels(picture.size, kind)
        if shortest_side is not None:
            scale = _DRAFT_FACTOR * shortest_side / min(picture.size)
            wanted = (round(picture.width * scale), round(picture.height * scale))
            picture.draft("RGB", wanted)
        with BUDGET.taking(picture.width * picture.height * kind.bytes_per_pixel):
            drawn = picture.tile[0].extents if kind is kinds.GIF and picture.tile else None
            picture.load()
            if kind is kinds.JPEG_2000:
                jpeg_2000.mend_white(picture, content)
                picture.info["icc_profile"] = jpeg_2000.profile_of(content)
            depth = content[24] if kind is kinds.PNG else 8
            shown = _upright(colour.to_rgb(picture, depth))
            return shown if drawn is None else _bordered(shown, drawn)


def _bordered(picture: Image.Image, drawn: tuple[int, int, int, int]) -> Image.Image:
    """White around the part that a frame draws: the rest of its canvas is transparent."""
    if drawn == (0, 0, *picture.size):
        return picture
    whole = Image.new("RGB", picture.size, "white")
    whole.paste(picture.crop(drawn), drawn[:2])
    return whole


def require_pixels(size: tuple[int, int], kind: kinds.Kind) -> None:
    """Check that a picture of a (width, height) is not too large.

    Raises:
        DecompressionBombError: it is.
    """
    if size[0] * size[1] > kind.share * LIMITS.pixels:
        raise Image.DecompressionBombError


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
            if before.st_size > LIMITS.bytes:
                raise ImageError(
                    f"{path}: {before.st_size:,} bytes, more than the {LIMITS.bytes:,} that an "
                    "image may have. Scale it down, or move it away"
                )
            content = file.read(before.st_size + 1)  # as much as is asked for is set aside
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
        with open_regular(path) as file:
            kind = kinds.of(file.read(kinds.FIRST_BYTES), _suffix(path))
        if kind is None or not kind.is_readable():
            raise UnidentifiedImageError
        if kind is kinds.RAW:
            camera_raw.probe(read_bytes(path)[0])
            return
        with Image.open(path, formats=kind.formats):
            pass
    except Exception:  # of nearly every kind; reading it says what it is, or that it can be read
        read(path)


def size_of(path: Path | str) -> tuple[int, int]:
    """Width and height of a picture in pixels as its file says, without decoding it.

    Raises:
        ImageError: missing, or no picture whose header is easily read.
    """
    try:
        _require_file(path)
        with open_regular(path) as file:
            kind = kinds.of(file.read(kinds.FIRST_BYTES), _suffix(path))
        if kind is None or not kind.is_readable() or kind is kinds.RAW:
            raise UnidentifiedImageError
        with Image.open(path, formats=kind.formats) as picture:
            return picture.size
    except Exception as error:  # of nearly every kind
        raise ImageError(f"{path}: the size of the image is not known") from error


def _upright(picture: Image.Image) -> Image.Image:
    """Turned as its EXIF block says, or as it lies where that block is malformed."""
    try:
        orientation = picture.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # of nearly every kind, as with damaged pixels
        return picture
    turn = _TURNS.get(orientation)
    return picture if turn is None else picture.transpose(turn)
