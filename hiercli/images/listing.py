"""Listing: which picture files some files and folders hold, in natural order."""

import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from hiercli.errors import InputError
from hiercli.files import read_text
from hiercli.images.kinds import FIRST_BYTES, IMAGE_LIKE, NAMES, is_text
from hiercli.images.kinds import of as kind_of
from hiercli.wording import counted

if TYPE_CHECKING:
    from pathspec import PathSpec

IGNORE_FILE = ".hierignore"
"""Name of a file of patterns, as of ``.gitignore``, for the folder it lies in and all below."""
_SYSTEM = frozenset({
    "__macosx", "@eadir", "#recycle", "@recycle", "$recycle.bin", "system volume information",
    "lost+found", "thumbs.db", "ehthumbs.db", "zbthumbnail.info", "desktop.ini", "@synoresource",
    "#snapshot", "@recently-snapshot",
})  # fmt: skip
"""What computers and storage put between images, in lower case."""
_ENTRIES = ("file or folder", "files and folders")


_SHOWN = 3
"""Suffixes of other kinds that are named."""


@dataclass
class Passed:
    """What a search of folders passed over on purpose.

    Attributes:
        hidden: files and folders that are hidden, or that computers and storage put there.
        excluded: files and folders that a pattern names.
        others: files that are no images, by suffix.
    """

    hidden: int = 0
    excluded: list[Path] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        """One line; empty where nothing was passed over."""
        parts = []
        if self.hidden:
            parts.append(counted(self.hidden, *(f"hidden or system {name}" for name in _ENTRIES)))
        if self.excluded:
            parts.append(self.excluded_in_words())
        if count := self.others.total():
            parts.append(f"{counted(count, 'file')} of other kinds ({self.common()})")
        return "passed over " + ", ".join(parts) if parts else ""

    def excluded_in_words(self) -> str:
        """How many a pattern names."""
        return counted(len(self.excluded), *(f"excluded {name}" for name in _ENTRIES))

    def common(self) -> str:
        """The commonest suffixes of files of other kinds."""
        order = sorted(self.others.items(), key=lambda one: (-one[1], one[0]))
        some = [f"{count} {suffix or 'without a suffix'}" for suffix, count in order[:_SHOWN]]
        return ", ".join([*some, "..."] if len(self.others) > _SHOWN else some)


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
    passed: Passed | None = None,
) -> list[Path]:
    """All pictures under the given files and folders, see `find_under`."""
    return [path for path, _ in find_under(paths, skipped, passed=passed)]


def find_under(
    paths: Sequence[Path | str],
    skipped: Skipped | None = None,
    *,
    absent: bool = False,
    linked: list[Path] | None = None,
    exclude: Sequence[str] = (),
    passed: Passed | None = None,
) -> list[tuple[Path, Path | None]]:
    """All pictures under the given files and folders, each folder in natural path order.

    A file that is named outright is taken whatever its name; folders are walked with hidden
    entries left out and links to folders followed once. In a folder an image is known by its
    suffix, or else by its first bytes; kinds that cannot be decoded are among them.

    Args:
        paths: files and folders.
        skipped: told of each folder that cannot be read; without it such a folder raises.
        absent: paths may be missing, and there may be no pictures.
        linked: takes the folders that were reached by a link.
        exclude: patterns as of ``.gitignore``, relative to each given folder. A folder may hold
            more of them in a file `IGNORE_FILE`.
        passed: takes what is passed over on purpose.

    Returns:
        pairs of a picture and the given folder that it was found under; ``None`` for a file.

    Raises:
        InputError: a path is missing, nothing that looks like a picture was found, a folder
            cannot be read and nobody is there to be told, or a pattern is malformed.
    """
    closed: list[str] = []

    def pass_over(folder: Path, reason: str) -> None:
        if skipped is None:
            raise InputError(f"{reason}. Change its permissions, or move it away")
        closed.append(reason)
        skipped(folder, reason)

    found: dict[bytes, tuple[Path, Path | None]] = {}
    passed = Passed() if passed is None else passed
    place = Places()
    for path in map(Path, paths):
        if path.is_dir():
            walk = _Walk(path, exclude, pass_over, [] if linked is None else linked, passed)
            for picture in walk.pictures():
                found.setdefault(place(picture), (picture, path))
        elif path.exists():
            found.setdefault(place(path), (path, None))
        elif not absent:
            raise InputError(f"expected an image or a folder of images, but {path} is missing")
    if not found and not absent:
        where = ", ".join(map(str, paths))
        raise InputError(
            f"expected images in {where} or its subfolders ({NAMES}), found none"
            + f". Other files: {passed.common()}" * bool(passed.others)
            + f". {passed.excluded_in_words()} left out" * bool(passed.excluded)
            + "".join(f"; {reason}" for reason in closed[:1])
        )
    return list(found.values())


class _Walk:
    """One folder, searched for images."""

    def __init__(
        self,
        root: Path,
        exclude: Sequence[str],
        skipped: Skipped,
        linked: list[Path],
        passed: Passed,
    ) -> None:
        self.root, self.skipped, self.linked, self.passed = root, skipped, linked, passed
        self._ignored: dict[str, list[tuple[str, PathSpec]]] = {}
        """By folder, the patterns that hold in it, with the folder that they are relative to."""
        self._given = [(str(root), _patterns(exclude, "--exclude"))] if exclude else []

    def pictures(self) -> list[Path]:
        pictures: list[Path] = []
        seen: set[tuple[int, int]] = set()
        walked = os.walk(self.root, onerror=self._closed, followlinks=True)
        for parent, folders, files in walked:
            here = os.stat(parent)
            if (here.st_dev, here.st_ino) in seen:  # links can form a circle
                folders.clear()
                continue
            seen.add((here.st_dev, here.st_ino))
            if os.path.islink(parent):
                self.linked.append(Path(parent))
            patterns = self._patterns_in(parent, IGNORE_FILE in files)
            folders[:] = [name for name in folders if self._wanted(parent, name, "/", patterns)]
            # A folder that can be reached by two names goes by its own.
            folders.sort(key=lambda name: (os.path.islink(os.path.join(parent, name)), name))
            for name in files:
                if not self._wanted(parent, name, "", patterns):
                    continue
                suffix = os.path.splitext(name)[1].lower()
                if suffix in IMAGE_LIKE or _looks_like_one(os.path.join(parent, name)):
                    pictures.append(Path(parent, name))
                else:
                    self.passed.others[suffix] += 1
        return sorted(pictures, key=lambda path: [natural_key(part) for part in path.parts])

    def _closed(self, error: OSError) -> None:
        name = os.fsdecode(error.filename)
        self.skipped(Path(name), f"{name}: the folder cannot be read ({error.strerror})")

    def _patterns_in(self, folder: str, has_own: bool) -> list[tuple[str, "PathSpec"]]:
        above = self._ignored.get(os.path.dirname(folder), self._given)
        own = []
        if has_own:
            file = os.path.join(folder, IGNORE_FILE)
            own = [(folder, _patterns(read_text(Path(file)).splitlines(), file))]
        self._ignored[folder] = above + own
        return above + own

    def _wanted(
        self, folder: str, name: str, slash: str, patterns: list[tuple[str, "PathSpec"]]
    ) -> bool:
        if name.startswith(".") or name.lower() in _SYSTEM:
            self.passed.hidden += name != IGNORE_FILE
            return False
        path = os.path.join(folder, name) + slash
        if any(spec.match_file(os.path.relpath(path, base) + slash) for base, spec in patterns):
            self.passed.excluded.append(Path(folder, name))
            return False
        return True


def _patterns(lines: Sequence[str], source: str) -> "PathSpec":
    """Patterns as of ``.gitignore``.

    Raises:
        InputError: one is malformed.
    """
    from pathspec import GitIgnoreSpec

    try:
        return GitIgnoreSpec.from_lines(lines)
    except ValueError as error:
        raise InputError(
            f"{source}: a pattern is malformed ({error}). Write it as in a .gitignore file"
        ) from error


def _looks_like_one(path: str) -> bool:
    """Whether a file whose name says nothing begins as an image does, and not as a text.

    A link that leads nowhere may be one, or a folder of them: whoever reads it says that it is
    missing.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return False
        with open(path, "rb") as file:
            start = file.read(FIRST_BYTES)
            return kind_of(start) is not None and not is_text(start)
    except OSError:
        return os.path.islink(path) and not os.path.exists(path)


def natural_key(text: str) -> list[tuple[int, int, str, str]]:
    """Sort key under which ``img2`` comes before ``img10``; total, so ids never depend on luck."""
    pieces = re.split(r"([0-9]+)", text)
    # Length, then digits: so numbers compare, and a name may hold more digits than an int takes.
    return [
        (0, len(piece.lstrip("0")), piece.lstrip("0"), piece) if index % 2 else (1, 0, piece, "")
        for index, piece in enumerate(pieces)
        if piece
    ]
