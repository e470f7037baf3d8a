"""Points that wait until their images can be placed: a killed update loses none of them.

They lie in the catalogue's own table of points, under ids that no image has yet, so that nothing is
copied when an image takes one over.
"""

import hashlib
import time

import numpy as np

from hiercli.index import database
from hiercli.index.schema import point_checksum
from hiercli.index.tables import Tables

_SECONDS_BETWEEN_SAVES = 1.0


class Pending(dict[bytes, int]):
    """Ids of points that wait, by the content of their files.

    Args:
        tables: of the catalogue.
        dim: of the points.
    """

    def __init__(self, tables: Tables, dim: int) -> None:
        super().__init__()
        self._tables, self._dim = tables, dim
        self._fingerprint = b""
        self._saved = time.monotonic()

    def expect(self, fingerprint: str, *, is_draft: bool) -> None:
        """Say whose points will be kept. Those of another encoder that still wait are dropped.

        Args:
            fingerprint: of the encoder.
            is_draft: whether the catalogue has not taken its place yet.
        """
        self._fingerprint = fingerprint.encode()
        run = self._tables.database.execute
        if is_draft:
            self._take_back(fingerprint)
        bad = []
        for content, number, point, checksum in run(
            "SELECT content, pending.id, point, pending.checksum FROM pending LEFT JOIN points "
            "USING (id)"
        ):
            if isinstance(point, bytes) and self._checksum(content, point) == checksum:
                self[content] = number
            else:
                bad.append((content, number))
        with database.transaction(self._tables.database):
            for content, number in bad:
                run("DELETE FROM pending WHERE content = ?", (content,))
                run(
                    "DELETE FROM points WHERE id = ? AND id NOT IN (SELECT id FROM images)",
                    (number,),
                )

    def _take_back(self, fingerprint: str) -> None:
        """Points of a draft that was finished, and killed before it took its place, wait again."""
        run = self._tables.database.execute
        told = run("SELECT value FROM facts WHERE name = 'fingerprint'").fetchone()
        every = "SELECT content, id, point, points.checksum FROM images JOIN points USING (id)"
        with database.transaction(self._tables.database):
            for content, number, point, checksum in run(every) if told == (fingerprint,) else ():
                if point_checksum(number, point) == checksum:
                    values = content, number, self._checksum(content, point)
                    run("INSERT OR IGNORE INTO pending VALUES (?, ?, ?)", values)
            run("DELETE FROM images")

    def _checksum(self, content: object, point: bytes) -> bytes:
        if not isinstance(content, bytes) or len(point) != 4 * self._dim:
            return b""
        own = self._fingerprint + content + point
        return hashlib.blake2b(own, digest_size=8).digest()

    def keep(self, content: bytes, number: int, point: np.ndarray, thumbnail: bytes) -> None:
        """Keep a point (D,) under an id, and a small picture; a kill loses a second of work."""
        opened, row = self._tables.database, point.astype("<f4").tobytes()
        if not opened.in_transaction:
            opened.execute("BEGIN IMMEDIATE")
        self._tables.put_point(number, row)
        if thumbnail:
            self._tables.put_thumbnail(content, thumbnail)
        values = content, number, self._checksum(content, row)
        opened.execute("INSERT OR REPLACE INTO pending VALUES (?, ?, ?)", values)
        if time.monotonic() - self._saved > _SECONDS_BETWEEN_SAVES:
            opened.execute("COMMIT")
            self._saved = time.monotonic()
        self[content] = number
