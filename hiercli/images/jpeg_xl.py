"""How large a JPEG XL image says it is: its decoder decodes before anybody can ask.

ISO/IEC 18181-1, SizeHeader; ISO/IEC 18181-2, boxes.
"""

_CODESTREAM = b"\xff\x0a"
_RATIOS = {1: (1, 1), 2: (12, 10), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}
_WIDTHS = (9, 13, 18, 30)


class _Bits:
    """Bits of bytes, the lowest of each byte first."""

    def __init__(self, content: bytes) -> None:
        self._left = int.from_bytes(content, "little")

    def take(self, count: int) -> int:
        found = self._left & ((1 << count) - 1)
        self._left >>= count
        return found


def size_of(content: bytes) -> tuple[int, int]:
    """(width, height) in pixels of a file; (0, 0) where it does not say so where it should.

    Examples:
        >>> size_of(bytes.fromhex("ff0a7f00"))  # small, 256 high, as wide
        (256, 256)
    """
    bits = _Bits(_codestream(content)[2:18])
    is_small = bits.take(1)

    def side() -> int:
        if is_small:
            return 8 * (bits.take(5) + 1)
        return bits.take(_WIDTHS[bits.take(2)]) + 1

    height = side()
    ratio = bits.take(3)
    if not ratio:
        return side(), height
    across, down = _RATIOS[ratio]
    return height * across // down, height


def _codestream(content: bytes) -> bytes:
    """The first bytes of the coded image, with or without boxes around it."""
    at = 0
    while not content.startswith(_CODESTREAM, at):
        if at + 16 > len(content):
            return b""
        length, kind = int.from_bytes(content[at : at + 4], "big"), content[at + 4 : at + 8]
        head = 8
        if length == 1:
            length, head = int.from_bytes(content[at + 8 : at + 16], "big"), 16
        if kind in (b"jxlc", b"jxlp"):
            at += head + (4 if kind == b"jxlp" else 0)
            return content[at : at + 32] if content.startswith(_CODESTREAM, at) else b""
        if length < head:  # to the end of the file
            return b""
        at += length
    return content[at : at + 32]
