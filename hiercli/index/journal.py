"""Points that wait to be placed: a killed update loses none of them."""

import contextlib
import hashlib
import sqlite3
import time
from pathlib import Path

import numpy as np

from hiercli.encoder.metadata import Metadata
from hiercli.errors import InputError
from hiercli.index import pair
from hiercli.index.catalogue import require_plain

_SECONDS_BETWEEN_SAVES = 1.0


class Journal:
    """Points by content, on disk as soon as they are made, until the index holds them.

    Attributes:
        contents: hashes of the files whose points it has.
        embedded: points that were added in this run.
    """

    def __init__(self, index: Path, metadata: Metadata) -> None:
        self.index, self.path = index, pair.journal_path(index)
        self.embedded = 0
        self._database: sqlite3.Connection | None = None
        try:
            self.contents = self._open(metadata)
        except (sqlite3.Error, TypeError, ValueError):
            # Damaged, say by a loss of power: it holds nothing that cannot be made again.
            try:
                self.remove()
                self.contents = self._open(metadata)
            except (sqlite3.Error, OSError) as error:
                with contextlib.suppress(OSError):
                    self.remove()
                raise InputError(
                    f"writing {index} failed: its journal {self.path.name} cannot be written "
                    f"({error}). The index is unchanged. Free some space or choose another "
                    "folder, then run the command again"
                ) from error

    def _open(self, metadata: Metadata) -> set[bytes]:
        database = self._database = sqlite3.connect(self.path)
        require_plain(database)
        database.execute("PRAGMA synchronous = NORMAL")
        database.execute("CREATE TABLE IF NOT EXISTS encoder (fingerprint TEXT UNIQUE)")
        database.execute(
            "CREATE TABLE IF NOT EXISTS points (content BLOB PRIMARY KEY, point BLOB NOT NULL, "
            "seal BLOB NOT NULL) WITHOUT ROWID"
        )
        encoders = database.execute("SELECT fingerprint FROM encoder LIMIT 2").fetchall()
        if encoders != [(metadata.fingerprint,)]:
            database.execute("DELETE FROM encoder")
            database.execute("DELETE FROM points")
            database.execute("INSERT INTO encoder VALUES (?)", (metadata.fingerprint,))
        contents = set()
        for content, point, seal in database.execute("SELECT content, point, seal FROM points"):
            if seal != checksum_of(content, point) or len(point) != 4 * metadata.embedding_dim:
                raise ValueError("a point has changed")
            contents.add(content)
        database.commit()
        self._saved = time.monotonic()
        return contents

    def point(self, content: bytes) -> bytes:
        """The point of a content that it has."""
        assert self._database is not None
        (point,) = self._database.execute(
            "SELECT point FROM points WHERE content = ?", (content,)
        ).fetchone()
        return bytes(point)

    def add(self, content: bytes, point: np.ndarray) -> None:
        """Keep a point (D,).

        Raises:
            InputError: the disk is full.
        """
        assert self._database is not None
        self.embedded += 1
        row = point.astype("<f4").tobytes()
        try:
            self._database.execute(
                "INSERT OR REPLACE INTO points VALUES (?, ?, ?)",
                (content, row, checksum_of(content, row)),
            )
            if time.monotonic() - self._saved > _SECONDS_BETWEEN_SAVES:
                self._database.commit()
                self._saved = time.monotonic()
        except sqlite3.Error as error:
            raise InputError(
                f"writing {self.index} failed: its journal {self.path.name} cannot be written "
                f"({error}). The index is unchanged, and finished embeddings are kept. Free some "
                "space, then run the command again"
            ) from error
        self.contents.add(content)

    def close(self) -> None:
        """Keep what is there for the next run; nothing happens once it is removed."""
        if self._database is not None:
            with contextlib.suppress(sqlite3.Error):  # a full disk has had its word already
                self._database.commit()
            self._database.close()

    def remove(self) -> None:
        """All of it is in the index, or none of it is of use."""
        if self._database is not None:
            self._database.close()
            self._database = None
        for file in (self.path, self.path.with_name(self.path.name + "-journal")):
            file.unlink(missing_ok=True)


def checksum_of(content: bytes, point: bytes) -> bytes:
    """By which damage of a point is noticed."""
    return hashlib.blake2b(content + point, digest_size=8).digest()
