"""Where the folders of an index lie: written relative to it, so that both can be moved together."""

import os
from pathlib import Path


class Locations:
    """Folders as a catalogue writes them, and as the file system knows them.

    A folder below the parent of the index's own folder is written relative to that folder; with a
    root, one below the root relative to the root. Every other is written as it is.

    Examples:
        >>> where = Locations(Path("/data/birds"))
        >>> where.written(b"/data/photos/wren"), where.written(b"/home/me")
        (b'./../photos/wren', b'/home/me')
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
