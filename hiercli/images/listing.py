"""Listing: which picture files some files and folders hold, in natural order."""

import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from hiercli.errors import InputError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"})
"""File names that a folder is searched for."""


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
            raise InputError(f"{reason}. Change its permissions, or move it away")
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
            raise InputError(f"expected an image or a folder of images, but {path} is missing")
    if not found and not absent:
        where = ", ".join(map(str, paths))
        suffixes = " ".join(sorted(SUFFIXES))
        seen = ", ".join(f"{count} {suffix or 'without a suffix'}" for suffix, count in
                         others.most_common(3))  # fmt: skip
        raise InputError(
            f"expected images in {where} or its subfolders, found none. Image files end in "
            f"{suffixes}"
            + (f". Other files: {seen}" if others else "")
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
