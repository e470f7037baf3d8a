"""What Pillow does not see in a JPEG 2000 file: its colour profile, and white of more than 8 bits.

ISO/IEC 15444-1, annexes A (codestream) and I (boxes).
"""

import io
from collections.abc import Iterator

import numpy as np
from PIL import Image

_CODESTREAM = b"\xff\x4f\xff\x51"
_COD, _QCD, _QCC, _SIZ, _START_OF_TILE = 0x52, 0x5C, 0x5D, 0x51, 0x90
_MOST_SEGMENTS = 20_000
"""Of a header: QCC and others for each of 16,384 components."""
_REVERSIBLE, _DERIVED, _EXPOUNDED = 1, 1, 2
_LARGEST_EXPONENT = 31
_RESTRICTED, _ANY = 2, 3
"""Methods of a colr box that hold an ICC profile."""


def profile_of(content: bytes) -> bytes | None:
    """The ICC profile of a file with boxes; ``None`` where it has none."""
    for kind, begin, end in _boxes(content, 0, len(content)):
        if kind == b"jp2h":
            for inner, at, last in _boxes(content, begin, end):
                if inner == b"colr" and last > at and content[at] in (_RESTRICTED, _ANY):
                    return content[at + 3 : last]
    return None


def _boxes(content: bytes, begin: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """(kind, begin, end) of the content of each box, up to the codestream."""
    for _ in range(_MOST_SEGMENTS):
        if begin + 8 > end or content.startswith(_CODESTREAM, begin):
            return
        length, kind, head = (
            int.from_bytes(content[begin : begin + 4], "big"),
            content[begin + 4 : begin + 8],
            8,
        )
        if length == 1:
            length, head = int.from_bytes(content[begin + 8 : begin + 16], "big"), 16
        last = min(end, begin + length) if length else end
        if last < begin + head or kind == b"jp2c":
            return
        yield kind, begin + head, last
        begin = last


def mend_white(picture: Image.Image, content: bytes) -> None:
    """Make white what Pillow made black.

    It rounds deep numbers to 8 bits, and the brightest ones become 256, of which a byte holds 0.
    So the file is decoded once more at half its brightness: what is bright there is white.

    Args:
        picture: loaded, of the file.
        content: of the file.
    """
    if picture.mode not in ("RGB", "RGBA", "LA") or not _is_deep(content):
        return
    pixels = np.asarray(picture)
    black = pixels == 0
    darker = _darker(content) if black.any() else None
    if darker is None:
        return
    with Image.open(io.BytesIO(darker), formats=("JPEG2000",)) as second:
        second.load()
        bright = np.asarray(second) >= 128
    if bright.shape == pixels.shape:
        whole = np.where(black & bright, 255, pixels).astype(np.uint8)
        picture.paste(Image.fromarray(whole, picture.mode))


def _segments(content: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, begin, end) of what each segment of the main header holds."""
    at = content.find(_CODESTREAM) + 2
    for _ in range(_MOST_SEGMENTS):
        if at < 2 or at + 4 > len(content) or content[at] != 0xFF:
            return
        marker, length = content[at + 1], int.from_bytes(content[at + 2 : at + 4], "big")
        if marker == _START_OF_TILE or length < 2 or at + 2 + length > len(content):
            return
        yield marker, at + 4, at + 2 + length
        at += 2 + length


def _depths(begin: int, end: int) -> range:
    """Where SIZ says how deep each component is."""
    return range(begin + 36, end, 3)


def _is_deep(content: bytes) -> bool:
    return any(
        (content[at] & 0x7F) >= 8
        for marker, begin, end in _segments(content)
        if marker == _SIZ
        for at in _depths(begin, end)
    )


def _darker(content: bytes) -> bytes | None:
    """The file with half the contrast around grey; ``None`` where its header does not allow it.

    Whole-number wavelets keep their numbers, so these are said to have a bit more. Others are
    scaled by the steps of quantization, so these are said to be half as large.
    """
    changed = bytearray(content)
    segments = list(_segments(content))
    codings = [content[begin + 9] for marker, begin, end in segments
               if marker == _COD and end >= begin + 10]  # fmt: skip
    if not codings:
        return None
    is_reversible = codings[0] == _REVERSIBLE
    for marker, begin, end in segments:
        if is_reversible and marker == _SIZ:
            for at in _depths(begin, end):
                changed[at] += 1
        if not is_reversible and marker in (_QCD, _QCC):
            style = begin + (marker == _QCC)
            kind, guard_bits = content[style] & 31, content[style] >> 5
            if kind not in (_DERIVED, _EXPOUNDED) or not guard_bits:
                return None
            changed[style] = kind | (guard_bits - 1) << 5
            for at in range(style + 1, end - 1, 2):
                if content[at] >> 3 == _LARGEST_EXPONENT:
                    return None
                changed[at] += 1 << 3
    return bytes(changed)
