"""Scans of several pages in one TIFF file: the first is what is decoded, and that is said."""

from collections.abc import Iterable
from pathlib import Path

from hiercli.images import tiff
from hiercli.images.kinds import SUFFIXES, TIFF
from hiercli.wording import counted

_NAMED = 3


def note(paths: Iterable[Path]) -> str:
    """A sentence on TIFF files of several pages; empty where there are none."""
    several = [path for path in paths if _may_be_one(path) and tiff.has_several_pages(path)]
    if not several:
        return ""
    names = ", ".join(path.name for path in several[:_NAMED]) + ", ..." * (len(several) > _NAMED)
    return (
        f"{counted(len(several), 'TIFF file has', 'TIFF files have')} several pages, of which only "
        f"the first is used ({names}). To search all pages, save each as a file of its own"
    )


def _may_be_one(path: Path) -> bool:
    """Whether a file is worth a look: its name says TIFF, or nothing."""
    suffix = path.suffix.lower()
    return suffix in TIFF.suffixes or suffix not in SUFFIXES
