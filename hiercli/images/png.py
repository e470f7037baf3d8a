"""A PNG file without all that is no pixel: comments, profiles, what other programs left in it.

https://www.w3.org/TR/png-3/, section 5.3: a file is a signature and chunks of length, type, content
and checksum.
"""

import struct

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PIXELS = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf"})
"""Chunks that say what is seen: size, palette, transparency, pixels, and which way is up."""


def only_pixels(content: bytes) -> bytes | None:
    """The file with only those chunks that pixels are made of; ``None`` where it is no PNG.

    A file that is cut short gives what there is of it.
    """
    if not content.startswith(_SIGNATURE):
        return None
    kept = [_SIGNATURE]
    at = len(_SIGNATURE)
    while at + 8 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, at)
        end = at + length + 12
        if kind in _PIXELS:
            kept.append(content[at:end])
        if kind == b"IEND":
            break
        at = end
    return b"".join(kept)
