"""The one path from a picture file to a network's input, in training, evaluation and serving.

Pillow decodes and resizes, NumPy normalises; nothing here knows which framework comes next.
Orientation (EXIF) is applied, transparency is laid on white, 16-bit greys are scaled to 8 bits,
CMYK and palettes become RGB, and of an animation the first frame counts.
"""

import io
import os
import re
import stat
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from hiercli import png
from hiercli.bounds import MAX_SIZE, MIN_CROP_SHARE
from hiercli.errors import ImageError, InputError
from hiercli.files import open_regular

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

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"})
"""File names that a folder is searched for."""

_FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

MAX_PIXELS = 160_000_000
"""Pixels of the largest picture that is decoded: more than any camera takes in one shot. Within
this, decoding any kind stays below 2 GB."""
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


@dataclass(frozen=True)
class Preprocessing:
    """How a decoded picture becomes a network's input at evaluation time.

    Attributes:
        size: side of the square crop in pixels.
        crop_share: share of the short side that the crop covers, in (0, 1]. 0.875 is the usual
            "resize to 256, crop 224".
        mean, std: of each RGB channel, on a scale of 0 to 1.
        interpolation: ``bilinear``, ``bicubic`` or ``lanczos``.
    """

    size: int
    crop_share: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"

    def __post_init__(self) -> None:
        if not 1 <= self.size <= MAX_SIZE or not MIN_CROP_SHARE <= self.crop_share <= 1:
            raise InputError(
                f"expected a size of 1 to {MAX_SIZE} and a crop_share of {MIN_CROP_SHARE} to 1, "
                f"got {self.size} and {self.crop_share}"
            )
        if not all(abs(value) < 1e3 for value in (*self.mean, *self.std)) or min(self.std) < 1e-4:
            raise InputError(f"expected a mean and a std above 0, got {self.mean}, {self.std}")
        if self.interpolation not in _FILTERS:
            raise InputError(
                f"expected an interpolation of {', '.join(_FILTERS)}, got {self.interpolation!r}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON and for the fingerprint."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Preprocessing":
        """The inverse of `to_dict`."""
        return cls(
            size=int(values["size"]),
            crop_share=float(values["crop_share"]),
            mean=_three(values["mean"]),
            std=_three(values["std"]),
            interpolation=str(values["interpolation"]),
        )

    def __call__(self, picture: Image.Image) -> np.ndarray:
        """Centre crop, resize and normalise an RGB picture: float32 (3, size, size)."""
        return self.normalise(self.crop(picture, centre_box(picture, self.crop_share)))

    def crop(self, picture: Image.Image, box: tuple[float, float, float, float]) -> np.ndarray:
        """Resample ``box`` (left, top, right, bottom, in pixels) to uint8 (size, size, 3)."""
        side = (self.size, self.size)
        return np.asarray(picture.resize(side, _FILTERS[self.interpolation], box=box))

    def normalise(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 (H, W, 3) to float32 (3, H, W) of zero mean and unit spread per channel."""
        planes = np.ascontiguousarray(pixels.transpose(2, 0, 1))
        middle = np.float32(255) * np.asarray(self.mean, np.float32)[:, None, None]
        scaled = np.subtract(planes, middle, dtype=np.float32)
        scaled /= np.float32(255) * np.asarray(self.std, np.float32)[:, None, None]
        return scaled

    @property
    def shortest_side(self) -> int:
        """Length of the short side, in pixels, at which the crop needs no enlarging."""
        return round(self.size / self.crop_share)


def _three(values: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = values
    return float(red), float(green), float(blue)


def centre_box(picture: Image.Image, share: float) -> tuple[float, float, float, float]:
    """The centred square whose side is ``share`` of the picture's short side."""
    width, height = picture.size
    side = share * min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


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
            f"{path}: the picture claims more pixels than the limit of {MAX_PIXELS:,} "
            f"({_MAX_PIXELS_OF['WEBP']:,} for WebP), which keeps a hostile file from filling the "
            "memory. Scale it down"
        ) from error
    except UnidentifiedImageError as error:
        raise ImageError(f"{path}: {_kind_of(content or b'')}") from error
    except MemoryError as error:
        raise ImageError(f"{path}: too large for the memory at hand. Scale it down") from error
    except Exception as error:
        # Pillow's decoders answer damage with errors of nearly every kind, struct.error included.
        raise ImageError(f"{path}: the picture is damaged ({error})") from error


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
        return "expected a picture, found an empty file"
    if content[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "a TIFF of a kind that cannot be read: save it as 8-bit RGB, or as PNG or JPEG"
    for start, kind in _OTHER_KINDS:
        if start.match(content):
            return f"expected {READABLE}, found {kind}: give images, or convert it"
    if content[:2] in (b"\xff\xfe", b"\xfe\xff") or _TEXT.fullmatch(content[:4096]):
        return f"expected {READABLE}, found a text or a table: give images, or folders of them"
    return f"expected {READABLE}, found {len(content)} bytes of something else"


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
        ImageError: missing, no file, or not to be read.
    """
    try:
        _require_file(path)
        with open_regular(path) as file:
            before = os.fstat(file.fileno())
            content = file.read()
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
            raise ImageError(f"{path}: reading it is not permitted") from error
        raise ImageError(f"{path}: it cannot be read ({cause or error})") from error
    except MemoryError as error:
        raise ImageError(f"{path}: too large for the memory at hand. Scale it down") from error


def _bytes_of(path: Path | str) -> bytes:
    return read_bytes(path)[0]


def _require_file(path: Path | str) -> None:
    # Opening a pipe would wait for a writer that may never come.
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ImageError(f"{path}: expected a picture file, found something that is not a file")


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


class Places:
    """Where a file lies, whatever way it was reached: its folder without links, and its name.

    What it has found out about folders it remembers: keep it no longer than one piece of work.
    """

    def __init__(self) -> None:
        self._folders: dict[str, str] = {}

    def __call__(self, path: Path | str) -> bytes:
        text = os.fspath(path)
        parent, name = os.path.split(text)
        if name in ("", ".", ".."):  # a folder, and not under its own name
            return os.fsencode(self._real(text))
        return os.fsencode(os.path.join(self._real(parent), name))

    def _real(self, folder: str) -> str:
        if folder not in self._folders:
            real = os.path.realpath(folder or ".")
            # Two slashes at the front are kept by POSIX and mean one.
            self._folders[folder] = "/" + real.lstrip("/") if real.startswith("//") else real
        return self._folders[folder]


Skipped = Callable[[Path, str], None]
"""Told of something that was passed over, and why."""


def find(
    paths: Sequence[Path | str],
    skipped: Skipped | None = None,
    *,
    absent: bool = False,
    linked: list[Path] | None = None,
) -> list[Path]:
    """All pictures under the given files and folders, see `find_under`."""
    return [path for path, _ in find_under(paths, skipped, absent=absent, linked=linked)]


def find_under(
    paths: Sequence[Path | str],
    skipped: Skipped | None = None,
    *,
    absent: bool = False,
    linked: list[Path] | None = None,
) -> list[tuple[Path, Path | None]]:
    """All pictures under the given files and folders, each folder in natural path order.

    A file that is named outright is taken whatever its suffix; folders are walked with hidden
    entries left out and links to folders followed once.

    Args:
        paths: files and folders.
        skipped: told of each folder that cannot be read; without it such a folder raises.
        absent: paths may be missing, and there may be no pictures.
        linked: takes the folders that were reached by a link.

    Returns:
        pairs of a picture and the given folder that it was found under; ``None`` for a file.

    Raises:
        InputError: a path is missing, nothing that looks like a picture was found, or a folder
            cannot be read and nobody is there to be told.
    """
    closed: list[str] = []

    def pass_over(folder: Path, reason: str) -> None:
        if skipped is None:
            raise InputError(f"{reason}. Permit reading it, or move it away")
        closed.append(reason)
        skipped(folder, reason)

    found: dict[bytes, tuple[Path, Path | None]] = {}
    others: Counter[str] = Counter()
    place = Places()
    for path in map(Path, paths):
        if path.is_dir():
            for picture in _walk(path, pass_over, [] if linked is None else linked, others):
                found.setdefault(place(picture), (picture, path))
        elif path.exists():
            found.setdefault(place(path), (path, None))
        elif not absent:
            raise InputError(f"expected a picture or a folder of pictures, but {path} is missing")
    if not found and not absent:
        where = ", ".join(map(str, paths))
        suffixes = " ".join(sorted(SUFFIXES))
        seen = ", ".join(f"{count} {suffix or 'without a suffix'}" for suffix, count in
                         others.most_common(3))  # fmt: skip
        raise InputError(
            f"no pictures in {where}: looked, also in subfolders, for {suffixes}"
            + (f"; found other files: {seen}" if others else "")
            + "".join(f"; {reason}" for reason in closed[:1])
        )
    return list(found.values())


def _walk(folder: Path, skipped: Skipped, linked: list[Path], others: Counter[str]) -> list[Path]:
    def closed(error: OSError) -> None:
        name = os.fsdecode(error.filename)
        skipped(Path(name), f"{name}: the folder cannot be read ({error.strerror})")

    pictures: list[Path] = []
    seen: set[tuple[int, int]] = set()
    for parent, folders, files in os.walk(folder, onerror=closed, followlinks=True):
        here = os.stat(parent)
        if (here.st_dev, here.st_ino) in seen:  # links can form a circle
            folders.clear()
            continue
        seen.add((here.st_dev, here.st_ino))
        if os.path.islink(parent):
            linked.append(Path(parent))
        folders[:] = [name for name in folders if not name.startswith(".")]
        # A folder that can be reached by two names goes by its own.
        folders.sort(key=lambda name: (os.path.islink(os.path.join(parent, name)), name))
        for name in files:
            suffix = os.path.splitext(name)[1].lower()
            if name.startswith("."):
                continue
            if suffix in SUFFIXES:
                pictures.append(Path(parent, name))
            else:
                others[suffix] += 1
    return sorted(pictures, key=lambda path: [natural_key(part) for part in path.parts])


def natural_key(text: str) -> list[tuple[int, int, str, str]]:
    """Sort key under which ``img2`` comes before ``img10``; total, so ids never depend on luck."""
    pieces = re.split(r"([0-9]+)", text)
    # Length, then digits: so numbers compare, and a name may hold more digits than an int takes.
    return [
        (0, len(piece.lstrip("0")), piece.lstrip("0"), piece) if index % 2 else (1, 0, piece, "")
        for index, piece in enumerate(pieces)
        if piece
    ]
