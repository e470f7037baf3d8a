"""TIFF images of deep numbers: 9 to 64 bits a sample, whole or float, in any layout.

Pillow refuses most of these layouts, and mixes up the bytes or the colours of some. So the numbers
are read here. Pillow only unpacks them: it is shown an 8-bit grey image whose rows are the bytes of
the rows.

TIFF 6.0 (1992); Adobe Photoshop TIFF Technical Note 3 (2005) for floats.
"""

import functools
import io
import itertools
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2, TiffImageFile

from hiercli.files import open_regular
from hiercli.images import colour
from hiercli.images.kinds import UnsupportedError
from hiercli.images.limits import BUDGET, LIMITS

_KIND, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER = (
    254,
    256,
    257,
    258,
    259,
    262,
    266,
)
_STRIP_OFFSETS, _ORIENTATION, _SAMPLES, _ROWS_PER_STRIP, _STRIP_COUNTS = 273, 274, 277, 278, 279
_PLANAR, _PREDICTOR, _TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS = 284, 317, 322, 323, 324
_TILE_COUNTS, _EXTRA_SAMPLES, _SAMPLE_FORMAT, _ICC_PROFILE = 325, 338, 339, 34675
"""Tags."""
_WHOLE, _SIGNED, _FLOAT = 1, 2, 3
"""Sample formats."""
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _CMYK = 0, 1, 2, 5
"""Photometric interpretations, and those of which numbers are colours as they stand."""
_PILLOW_MISSES = b"MM\0+"
"""Start of a BigTIFF with the highest byte first."""
_COLOURS = {_WHITE_IS_ZERO: 1, _BLACK_IS_ZERO: 1, _RGB: 3, _CMYK: 4}
_GENERAL = frozenset({1, 5, 8, 32773, 32946, 34925, 50000})
"""Compressions of bytes: none, LZW, deflate (two numbers), PackBits, LZMA, Zstandard."""
_PREDICTED = frozenset({5, 8, 32946, 34925, 50000})
"""Those that may hold differences."""
_FOREIGN = {
    22610: "JPEG XR", 34934: "JPEG XR", 33003: "JPEG 2000", 33004: "JPEG 2000", 33005: "JPEG 2000",
    34712: "JPEG 2000", 34887: "LERC", 34927: "WebP", 50001: "WebP", 34933: "PNG",
    50002: "JPEG XL", 52546: "JPEG XL",
}  # fmt: skip
"""Compressions that are images of their own."""
_MOST_SAMPLES = 64
"""Of a pixel, and one more."""
_REDUCED, _MASK = 1, 4
"""Bits of a kind."""
_LOOKED_AT = 64
"""Directories of a file in which another page is looked for."""
_PREMULTIPLIED, _ALPHA = 1, 2
"""Kinds of extra samples that are transparency."""
_BLOCK = 2**24
"""Bytes that are unpacked at once, where strips and tiles are not larger."""
_LARGEST_PART = 2
"""Bytes of the largest strip or row of tiles, for each of `Limits.pixels`."""


def directories(file: BinaryIO) -> Iterator[ImageFileDirectory_v2]:
    """The tags of each image of a TIFF or BigTIFF file; one that leads back to itself ends there.

    Raises:
        Exception: of nearly every kind; they cannot be read.
    """
    head = file.read(16)
    start = head if b"\x2b" in head[2:4] else head[:8]
    if start.startswith(_PILLOW_MISSES):  # it takes the 0 for the version
        start = b"II+\0" + start[4:]
    place = ImageFileDirectory_v2(start, head[:2]).next
    seen: set[int] = set()
    while place and place not in seen:
        seen.add(place)
        tags = ImageFileDirectory_v2(start, head[:2])
        file.seek(place)
        tags.load(file)
        yield tags
        place = tags.next


def tags_of(content: bytes) -> ImageFileDirectory_v2:
    """The tags of the first image of a TIFF or BigTIFF file.

    Raises:
        Exception: of nearly every kind; they cannot be read.
    """
    with io.BytesIO(content) as file:
        return next(directories(file))


def has_several_pages(path: Path) -> bool:
    """Whether a file holds more than one page; of one that cannot be read, no.

    Smaller pictures of a page, and masks of what is transparent in it, are none.
    """
    try:
        with open_regular(path) as file:
            kinds_of_page = (
                _first(tags, _KIND, 0) for tags in itertools.islice(directories(file), _LOOKED_AT)
            )
            pages = (not kind & (_REDUCED | _MASK) for kind in kinds_of_page)
            return next(pages) + any(pages) > 1
    except Exception:  # of nearly every kind; decoding says what is wrong
        return False


def layout_of(content: bytes) -> "Layout | None":
    """Where deep numbers lie in a file; ``None`` where it is left to Pillow."""
    try:
        depths = range(8 if content.startswith(_PILLOW_MISSES) else 9, 17)
        return Layout.of(tags_of(content), depths)
    except Exception:  # of nearly every kind; Pillow says what is wrong
        return None


def decode(content: bytes, layout: "Layout") -> Image.Image:
    """The first image of a file with deep numbers.

    Args:
        content: of the file.
        layout: of it.

    Returns:
        8 bits a sample, of mode L, RGB, RGBA, RGBa or CMYK, with profile and orientation as Pillow
        keeps them.

    Raises:
        ValueError: it is damaged.
        UnsupportedError: its numbers have no scale that is known, or take too much memory.
    """
    with BUDGET.taking(layout.width * layout.height * layout.channels + 4 * layout.group_bytes):
        picture = _picture(content, layout)
    tags = tags_of(content)
    profile = tags.get(_ICC_PROFILE)
    if isinstance(profile, bytes):
        picture.info["icc_profile"] = profile
    orientation = _first(tags, _ORIENTATION, 1)
    if 1 <= orientation <= 8:
        exif = Image.Exif()
        exif[_ORIENTATION] = orientation
        picture.info["exif"] = exif.tobytes()
    return picture


def is_damaged(content: bytes) -> bool:
    """Whether a file does not say how large its image is, as one that is cut short."""
    try:
        tags = tags_of(content)
    except Exception:  # of nearly every kind
        return True
    return not {_WIDTH, _HEIGHT} <= set(tags)


def compression_in_words(content: bytes) -> str:
    """`` (its pixels are JPEG XL)`` where no decoder of that is at hand, else empty."""
    try:
        name = _FOREIGN.get(_first(tags_of(content), _COMPRESSION, 1))
    except Exception:  # of nearly every kind; Pillow says what is wrong
        return ""
    return f" (its pixels are {name})" if name else ""


def _numbers(tags: ImageFileDirectory_v2, tag: int) -> tuple[int, ...]:
    value: Any = tags.get(tag, ())
    values = value if isinstance(value, tuple) else (value,)
    return tuple(int(one) for one in values)


def _first(tags: ImageFileDirectory_v2, tag: int, default: int) -> int:
    return (*_numbers(tags, tag), default)[0]


@dataclass(frozen=True)
class Layout:
    """Where the numbers lie, and what they are.

    Attributes:
        width, height: pixels.
        bits, sample_format: of each sample.
        samples: of a pixel.
        photometric: what they mean.
        extra: what the first of those beyond the colours means; 0: nothing that is known.
        is_planar: each sample lies in a plane of its own.
        predictor: 1 none, 2 differences of numbers, 3 differences of bytes of floats.
        tile_width: in pixels; ``None`` for strips.
        part_height: of a strip or tile, in pixels.
        offsets, counts: of strips or tiles, in bytes.
        compression: as the tag says.
        big_endian: the bytes of numbers.
    """

    width: int
    height: int
    bits: int
    sample_format: int
    samples: int
    photometric: int
    extra: int
    is_planar: bool
    predictor: int
    tile_width: int | None
    part_height: int
    offsets: tuple[int, ...]
    counts: tuple[int, ...]
    compression: int
    big_endian: bool

    @classmethod
    def of(cls, tags: ImageFileDirectory_v2, depths: range) -> Self | None:
        """What tags say; ``None`` where the file is left to Pillow.

        Args:
            tags: of a file.
            depths: bits of whole numbers, of up to 16.
        """
        bits, formats = set(_numbers(tags, _BITS)), set(_numbers(tags, _SAMPLE_FORMAT)) or {_WHOLE}
        if len(bits) != 1 or len(formats) != 1:
            return None
        is_tiled = _TILE_OFFSETS in tags
        height = _first(tags, _HEIGHT, 0)
        compression = _first(tags, _COMPRESSION, 1)
        photometric = _first(tags, _PHOTOMETRIC, -1)
        rows = _first(tags, _TILE_HEIGHT if is_tiled else _ROWS_PER_STRIP, height)
        found = cls(
            width=_first(tags, _WIDTH, 0),
            height=height,
            bits=bits.pop(),
            sample_format=formats.pop(),
            samples=_first(tags, _SAMPLES, 1),
            photometric=photometric,
            extra=_first(tags, _EXTRA_SAMPLES, 0) if photometric != _CMYK else 0,
            is_planar=_first(tags, _PLANAR, 1) == 2,
            predictor=_first(tags, _PREDICTOR, 1) if compression in _PREDICTED else 1,
            tile_width=_first(tags, _TILE_WIDTH, 0) if is_tiled else None,
            part_height=rows if is_tiled else min(rows, height),
            offsets=_numbers(tags, _TILE_OFFSETS if is_tiled else _STRIP_OFFSETS),
            counts=_numbers(tags, _TILE_COUNTS if is_tiled else _STRIP_COUNTS),
            compression=compression,
            big_endian=tags.prefix == b"MM",
        )
        is_ours = found._is_known(depths) and (8 in depths or not found._is_scan())
        return found if is_ours and _first(tags, _FILL_ORDER, 1) == 1 else None

    def _is_scan(self) -> bool:
        """Whether Pillow knows the layout well: it takes half of the time."""
        is_common = (self.bits, self.sample_format, self.samples) == (16, _WHOLE, 3)
        return is_common and self.photometric == _RGB and not self.is_planar

    def _is_known(self, depths: range) -> bool:
        is_float = self.sample_format == _FLOAT
        return (
            min(self.width, self.height, self.part_height) > 0
            and self.sample_format in (_WHOLE, _SIGNED, _FLOAT)
            and self.bits in ((16, 32, 64) if is_float else (*depths, 32, 64))
            and _COLOURS.get(self.photometric, _MOST_SAMPLES) <= self.samples < _MOST_SAMPLES
            and self.compression in _GENERAL
            and self.predictor in ((1, 2, 3) if is_float else (1, 2))
            and (self.predictor == 1 or self.bits % 8 == 0)
            and (self.tile_width is None or self._are_tiles_whole(self.tile_width))
        )

    def _are_tiles_whole(self, width: int) -> bool:
        """Whether the rows of tiles end with a byte, and tiles are not larger than needed."""
        ends = width > 0 and width * self.together * self.bits % 8 == 0
        return ends and width < self.width + 1024 and self.part_height < self.height + 1024

    @property
    def together(self) -> int:
        """Samples of a pixel that lie side by side."""
        return 1 if self.is_planar else self.samples

    @property
    def channels(self) -> int:
        """Samples of a pixel that are colours or transparency."""
        colours = _COLOURS[self.photometric]
        return colours + (self.extra in (_PREMULTIPLIED, _ALPHA) and self.samples > colours)

    @property
    def row_bytes(self) -> int:
        """Of a row of a plane, up to the end of its last tile."""
        return -(-self.wide * self.together * self.bits // 8)

    @property
    def wide(self) -> int:
        """Pixels of a row, up to the end of its last tile."""
        return self.width if self.tile_width is None else self.across * self.tile_width

    @property
    def across(self) -> int:
        """Strips or tiles beside each other."""
        return 1 if self.tile_width is None else -(-self.width // self.tile_width)

    @property
    def down(self) -> int:
        """Strips or tiles below each other."""
        return -(-self.height // self.part_height)

    @property
    def group(self) -> int:
        """Strips, or rows of tiles, that are unpacked at once."""
        return max(1, _BLOCK // (self.row_bytes * self.part_height))

    @property
    def group_bytes(self) -> int:
        """That unpacking takes at once."""
        planes = self.channels if self.is_planar else 1
        return planes * self.row_bytes * min(self.height, self.group * self.part_height)


# -- bytes -----------------------------------------------------------------------------------------


def _rows(content: bytes, layout: Layout, plane: int, first: int) -> np.ndarray:
    """Unpacked bytes (rows, row_bytes) of a plane, of the group that begins with a strip or tile.

    Raises:
        ValueError: there are fewer strips or tiles than needed, or they are damaged.
    """
    last = min(first + layout.group, layout.down)
    height = min(layout.height, last * layout.part_height) - first * layout.part_height
    begin = plane * layout.down * layout.across
    own = slice(begin + first * layout.across, begin + last * layout.across)
    offsets, counts = layout.offsets[own], layout.counts[own]
    if len(offsets) != (last - first) * layout.across:
        raise ValueError("there are fewer strips or tiles than the image has")
    if layout.compression == 1 and layout.tile_width is None:
        return _uncompressed(content, layout, offsets, height)
    if len(counts) != len(offsets):
        raise ValueError("strips or tiles have no length")
    parts = [content[at : at + size] for at, size in zip(offsets, counts, strict=True)]
    if any(len(part) < size for part, size in zip(parts, counts, strict=True)):
        raise ValueError("the file is cut short")
    with TiffImageFile(io.BytesIO(_as_bytes(layout, height, parts))) as picture:
        picture.load()
        rows = np.asarray(picture)
    if rows.shape != (height, layout.row_bytes):
        raise ValueError("the rows have another length than the tags say")
    return rows


def _uncompressed(
    content: bytes, layout: Layout, offsets: tuple[int, ...], height: int
) -> np.ndarray:
    """Rows of strips that lie open."""
    found = []
    for at in offsets:
        rows = min(layout.part_height, height)
        height -= rows
        if at + rows * layout.row_bytes > len(content):
            raise ValueError("the file is cut short")
        strip = np.frombuffer(content, np.uint8, rows * layout.row_bytes, at)
        found.append(strip.reshape(rows, layout.row_bytes))
    return found[0] if len(found) == 1 else np.concatenate(found)


def _as_bytes(layout: Layout, height: int, parts: list[bytes]) -> bytes:
    """A TIFF of 8-bit greys whose rows are the bytes of some rows."""
    offsets, at = [], 8
    for part in parts:
        offsets.append(at)
        at += len(part)
    directory = {
        _WIDTH: [layout.row_bytes], _HEIGHT: [height], _BITS: [8], _SAMPLES: [1],
        _COMPRESSION: [layout.compression], _PHOTOMETRIC: [_BLACK_IS_ZERO],
    }  # fmt: skip
    sizes = [len(part) for part in parts]
    if layout.tile_width is None:
        directory |= {
            _ROWS_PER_STRIP: [layout.part_height], _STRIP_OFFSETS: offsets, _STRIP_COUNTS: sizes,
        }  # fmt: skip
    else:
        directory |= {
            _TILE_WIDTH: [layout.tile_width * layout.together * layout.bits // 8],
            _TILE_HEIGHT: [layout.part_height], _TILE_OFFSETS: offsets, _TILE_COUNTS: sizes,
        }  # fmt: skip
    start = at + at % 2
    behind = start + 2 + 12 * len(directory) + 4
    entries, more = [], []
    for tag, values in sorted(directory.items()):
        packed = struct.pack(f"<{len(values)}I", *values)
        place = packed
        if len(values) > 1:
            place = struct.pack("<I", behind)
            more.append(packed)
            behind += len(packed)
        entries.append(struct.pack("<HHI", tag, 4, len(values)) + place)
    head = b"II*\0" + struct.pack("<I", start)
    count = b"\0" * (at % 2) + struct.pack("<H", len(directory))
    return b"".join([head, *parts, count, *entries, b"\0\0\0\0", *more])


# -- numbers ---------------------------------------------------------------------------------------


def _samples(rows: np.ndarray, layout: Layout) -> np.ndarray:
    """Numbers (rows, wide, samples side by side) of some unpacked rows."""
    shape = (len(rows), layout.wide, layout.together)
    count = layout.wide * layout.together
    if layout.bits % 8:
        numbers: np.ndarray = np.zeros((len(rows), count), np.uint16)
        spread = np.unpackbits(rows, axis=1, count=count * layout.bits)
        for bit in range(layout.bits):
            numbers = numbers << 1 | spread[:, bit :: layout.bits]
        if layout.sample_format == _SIGNED:
            low = 16 - layout.bits
            return ((numbers << low).view(np.int16) >> low).reshape(shape)
        return numbers.reshape(shape)
    size = layout.bits // 8
    kind = {_WHOLE: "u", _SIGNED: "i", _FLOAT: "f"}[layout.sample_format]
    order = ">" if layout.big_endian else "<"
    if layout.predictor == 3:
        return np.concatenate(
            [_joined_floats(block, layout) for block in _tile_columns(rows, layout, size)], axis=1
        )
    if layout.predictor == 2:
        sums = [
            np.cumsum(
                np.ascontiguousarray(block).view(f"{order}u{size}")
                .reshape(len(rows), -1, layout.together).astype(f"u{size}"),
                axis=1, dtype=f"u{size}",
            )
            for block in _tile_columns(rows, layout, size)
        ]  # fmt: skip
        return (sums[0] if len(sums) == 1 else np.concatenate(sums, axis=1)).view(f"{kind}{size}")
    numbers = np.ascontiguousarray(rows).view(f"{order}{kind}{size}")
    return numbers.astype(f"{kind}{size}", copy=False).reshape(shape)


def _tile_columns(rows: np.ndarray, layout: Layout, size: int) -> Iterator[np.ndarray]:
    """Rows, cut where tiles meet: a predictor begins anew there."""
    step = (layout.tile_width or layout.width) * layout.together * size
    for left in range(0, layout.row_bytes, step):
        yield rows[:, left : left + step]


def _joined_floats(block: np.ndarray, layout: Layout) -> np.ndarray:
    """Floats whose first bytes come first, then their second ones, each as differences."""
    size, together = layout.bits // 8, layout.together
    sums = np.cumsum(block.reshape(len(block), -1, together), axis=1, dtype=np.uint8)
    planes = sums.reshape(len(block), size, -1)
    joined = np.ascontiguousarray(planes.transpose(0, 2, 1)).view(f">f{size}")
    return joined.reshape(len(block), -1, together).astype(f"f{size}")


def _picture(content: bytes, layout: Layout) -> Image.Image:
    """The numbers as 8 bits a sample."""
    is_open = layout.compression == 1 and layout.tile_width is None
    if not is_open and layout.group_bytes > _LARGEST_PART * LIMITS.pixels:
        raise UnsupportedError(
            f"a TIFF image of which {layout.group_bytes:,} bytes must be unpacked at once. Save it "
            "with smaller strips or tiles"
        )
    channels, pixels = layout.channels, []
    few: list[np.ndarray] = []
    for first in range(0, layout.down, layout.group):
        wanted = range(channels if layout.is_planar else 1)
        planes = [_rows(content, layout, plane, first) for plane in wanted]
        height = max(1, _BLOCK // (4 * layout.row_bytes))
        for top in range(0, len(planes[0]), height):
            parts = [_samples(rows[top : top + height], layout) for rows in planes]
            numbers = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)
            numbers = numbers[:, : layout.width, :channels]
            if layout.sample_format == _FLOAT:
                colours = _COLOURS[layout.photometric]
                few.append(numbers[::16, :: max(1, layout.width // 256), :colours])
            pixels.append(_eight_bits(numbers, layout))
    if few:
        colour.require_unit_range(np.concatenate([part.ravel() for part in few]))
    whole = pixels[0] if len(pixels) == 1 else np.concatenate(pixels)
    if channels == 1:
        return Image.fromarray(whole[:, :, 0])
    if channels == 2:
        whole = np.ascontiguousarray(whole[:, :, [0, 0, 0, 1]])
    mode = "CMYK" if layout.photometric == _CMYK else "RGB" if channels == 3 else "RGBA"
    mode = "RGBa" if mode == "RGBA" and layout.extra == _PREMULTIPLIED else mode
    return Image.frombuffer(mode, (layout.width, layout.height), whole, "raw", mode, 0, 1)


def _eight_bits(numbers: np.ndarray, layout: Layout) -> np.ndarray:
    white_is_zero = layout.photometric == _WHITE_IS_ZERO
    if numbers.dtype == np.uint16 and (numbers.shape[2] == 1 or not white_is_zero):
        return np.take(_table(layout.bits, white_is_zero), numbers)
    shares = colour.shares(numbers, layout.bits, layout.sample_format)
    if white_is_zero:
        shares[:, :, 0] = 1 - shares[:, :, 0]
    return (255 * shares).astype(np.uint8)


@functools.lru_cache(maxsize=16)
def _table(bits: int, white_is_zero: bool) -> np.ndarray:
    """8 bits for each whole number of up to 16: three times as fast as to divide."""
    shares = colour.shares(np.arange(2**16), bits, _WHOLE)
    return (255 * (1 - shares if white_is_zero else shares)).astype(np.uint8)
