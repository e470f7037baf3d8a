"""Scans of several pages in one TIFF file: the first is what is decoded, and that is said."""

import struct
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from hiercli.files import open_regular
from hiercli.wording import counted

_SUFFIXES = (".tif", ".tiff")
_LOOKED_AT = 4
"""Directories of a file: small pictures of the first page may stand before the second one."""
_REDUCED = 1
"""Bit of tag 254 of a smaller picture of another page."""


def note(paths: Iterable[Path]) -> str:
    """A sentence on files of several pages; empty where there are none."""
    several = [
        path for path in paths if path.suffix.lower() in _SUFFIXES and has_several_pages(path)
    ]
    if not several:
        return ""
    names = ", ".join(path.name for path in several[:3]) + ", ..." * (len(several) > 3)
    return (
        f"{counted(len(several), 'TIFF file has', 'TIFF files have')} several pages, of which only "
        f"the first is used ({names}). To search all pages, save each as a file of its own"
    )


def has_several_pages(path: Path) -> bool:
    """Whether a TIFF file holds more than one page; of one that cannot be read, no."""
    try:
        with open_regular(path) as file:
            start = file.read(16)
            order = "<" if start.startswith(b"II") else ">"
            is_big = b"\x2b" in start[2:4]
            (first,) = struct.unpack_from(
                order + ("Q" if is_big else "I"), start, 8 if is_big else 4
            )
            file.seek(first)
            size = 8 if is_big else 2
            (entries,) = struct.unpack(order + ("Q" if is_big else "H"), file.read(size))
            file.seek(first + size + entries * (20 if is_big else 12))
            if not any(file.read(8 if is_big else 4)):
                return False
        with Image.open(path, formats=("TIFF",)) as picture:
            for number in range(1, _LOOKED_AT):
                picture.seek(number)
                if not int(picture.tag_v2.get(254, 0)) & _REDUCED:  # type: ignore[attr-defined]
                    return True
    except Exception:  # of nearly every kind; decoding says what is wrong
        return False
    return False
