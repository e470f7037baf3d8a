"""Where the files of an index lie, and its images, whose folders are written relative to it."""

import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from hiercli.errors import InputError
from hiercli.files import open_regular

_FAISS = re.compile(rb"I[xHws]..", re.DOTALL)
"""First bytes of a file of FAISS."""


class Locations:
    """Folders as a catalogue writes them, and as the file system knows them.

    A folder below the parent of the index's own folder is written relative to that folder; with a
    root, one below the root relative to the root. Every other is written as it is.

    Examples:
        >>> where = Locations(Path("/data/birds"))
        >>> where.written(b"/data/photos/wren"), where.written(b"/srv/scans")
        (b'./../photos/wren', b'/srv/scans')
        >>> Locations(Path("/mnt/birds")).actual(b"./../photos/wren")
        b'/mnt/photos/wren'

    Args:
        home: the folder of the index.
        root: what paths are relative to instead.
    """

    def __init__(self, home: Path, root: Path | None = None) -> None:
        self.base = os.fsencode(os.path.realpath(root or home))
        parent = os.path.dirname(self.base)
        # At the root of a file system all are neighbours: that says nothing.
        near = self.base if root is not None or parent == os.path.dirname(parent) else parent
        self._near = near.rstrip(b"/") + b"/"

    def written(self, folder: bytes) -> bytes:
        """A folder of the file system as the catalogue writes it."""
        if not (folder + b"/").startswith(self._near) or not self._near.strip(b"/"):
            return folder
        relative = os.path.relpath(folder, self.base)
        return b"." if relative == b"." else b"./" + relative

    def actual(self, written: bytes) -> bytes:
        """A folder of the catalogue as the file system knows it."""
        if written == b"." or written.startswith(b"./"):
            return os.path.normpath(os.path.join(self.base, written))
        return written


def require_root(root: Path | None) -> None:
    """Check that a root that was given is there.

    Raises:
        InputError: it is no folder.
    """
    if root is not None and not root.is_dir():
        raise InputError(
            f"expected --root to be a folder, but {root} is not a folder or is missing"
        )


def located(
    home: Path, before: str, stored: str, root: Path | None,
    sample: Callable[[], Iterable[tuple[bytes, bytes]]],
) -> Locations:  # fmt: skip
    """Where relative paths start: of the places that can be meant, where most images are.

    Args:
        home: the folder of the index.
        before: where that was when it was written.
        stored: the root that it was given then; empty without one.
        root: a root that is given now.
        sample: gives folders, as written, and names of some images.
    """
    places = [] if root is None else [Locations(home, root)]
    places.append(Locations(home, Path(stored) if stored else None))
    if not stored:
        places.append(Locations(Path(before)))
    different = list({place.base: place for place in places}.values())
    if len(different) == 1:
        return different[0]
    some = list(sample())
    found = [
        sum(os.path.lexists(join(place.actual(folder), name)) for folder, name in some)
        for place in different
    ]
    return different[found.index(max(found))]


def is_relative(written: bytes) -> bool:
    """Whether a folder is written relative to the index or its root."""
    return written == b"." or written.startswith(b"./")


def split(path: bytes) -> tuple[bytes, bytes]:
    """Folder and name of a path; `join` puts them together again, whatever they are."""
    folder, slash, name = path.rpartition(b"/")
    return (folder or b"/", name) if slash else (b"", name)


def join(folder: bytes, name: bytes) -> bytes:
    """A path of its folder and its name.

    Examples:
        >>> [join(*split(path)) for path in (b"/x.jpg", b"/a/x.jpg", b"s3://a/x.jpg", b"point 1")]
        [b'/x.jpg', b'/a/x.jpg', b's3://a/x.jpg', b'point 1']
    """
    return name if not folder else folder.rstrip(b"/") + b"/" + name


def catalogue_path(index: Path) -> Path:
    """Where the catalogue of an index lies."""
    return index.with_name(index.name + ".sqlite")


def next_path(index: Path) -> Path:
    """Where a new generation lies ready."""
    return index.with_name(f".{index.name}.hier-next")


def lock_path(index: Path) -> Path:
    """What the only writer holds."""
    return index.with_name(f".{index.name}.hier-lock")


def draft_path(index: Path) -> Path:
    """A catalogue that has not been finished once; it takes its place as a whole."""
    return index.with_name(f".{index.name}.hier-part")


def files(index: Path) -> tuple[Path, ...]:
    """All files of an index: no other may take their place."""
    return (
        index, next_path(index), lock_path(index),
        *with_logs(catalogue_path(index)), *with_logs(draft_path(index)),
    )  # fmt: skip


def exists(index: Path) -> bool:
    """Whether there is an index, whole or not."""
    return index.exists() or catalogue_path(index).exists()


def require_replaceable(index: Path) -> None:
    """Check that a file in the place of an index is one of FAISS, or belongs to a catalogue.

    Raises:
        InputError: it is something else, which is not replaced even by a rebuild.
    """
    if catalogue_path(index).exists() or not index.is_file():
        return
    with open_regular(index) as file:
        start = file.read(4)
    if start and not _FAISS.fullmatch(start):
        raise InputError(
            f"expected an index or a new name, but {index} is another kind of file. Choose another "
            "name for the index"
        )


def with_logs(path: Path) -> tuple[Path, ...]:
    """A database and what SQLite may leave beside it."""
    return (path, *(path.with_name(path.name + end) for end in ("-wal", "-shm", "-journal")))
