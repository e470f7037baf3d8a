"""Rows written into a catalogue, each with what it refers to and its checksum."""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from hiercli.index.catalogue import Catalogue
from hiercli.index.locations import Locations, split
from hiercli.index.schema import (
    COLUMNS,
    POINTS_AT_ONCE,
    SECOND_INDEXES,
    Row,
    image_checksum,
    point_checksum,
    short_hash,
)


class Tables:
    """The tables of a catalogue, inside a transaction.

    Args:
        database: where they are.
        locations: how folders are written.
        dim: of the points.
    """

    def __init__(self, database: sqlite3.Connection, locations: Locations, dim: int) -> None:
        self.database = database
        self._locations, self._dim = locations, dim
        self._folders: dict[bytes, int] = {}
        self._classes: dict[tuple[str, str], int] = {}

    def put_row(self, row: Row) -> None:
        folder, name = split(row.path)
        values = (row.id, self._folder(folder), name, self._class(row.label, row.levels),
                  row.content, *row.state, row.split)  # fmt: skip
        self.database.execute(
            f"INSERT OR REPLACE INTO images ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (*values, image_checksum(values)),
        )

    @contextmanager
    def indexed_afterwards(self) -> Iterator[None]:
        """Sort the images by content and class when all are there, not one by one."""
        for name in SECOND_INDEXES:
            self.database.execute(f"DROP INDEX {name}")
        yield
        for statement in SECOND_INDEXES.values():
            self.database.execute(statement)

    def put_point(self, number: int, point: bytes) -> None:
        self.database.execute(
            "INSERT OR REPLACE INTO points VALUES (?, ?, ?)",
            (number, point, point_checksum(number, point)),
        )

    def rename(self, rows: Sequence[Row]) -> None:
        """Change all of some rows but content and point."""
        # Two may change places: none may stand in another's way.
        self.database.executemany(
            "UPDATE images SET folder = -1, name = ? WHERE id = ?",
            ((row.id.to_bytes(8, "big"), row.id) for row in rows),
        )
        for row in rows:
            self.put_row(row)

    def note_removed(self, number: int) -> None:
        if not self.database.execute("DELETE FROM added WHERE id = ?", (number,)).rowcount:
            self.database.execute("INSERT OR IGNORE INTO removed VALUES (?)", (number,))

    def points_by_content(self, contents_: Iterable[bytes]) -> dict[bytes, bytes]:
        """The point of each content that some image has."""
        ask = (
            "SELECT points.id, point, points.checksum FROM images JOIN points USING (id) "
            "WHERE content = ? LIMIT 1"
        )
        found = {}
        for content in contents_:
            row = self.database.execute(ask, (content,)).fetchone()
            if row and point_checksum(row[0], row[1]) == row[2]:
                found[content] = bytes(row[1])
        return found

    def put_thumbnail(self, content: bytes, picture: bytes) -> None:
        self.database.execute("INSERT OR REPLACE INTO thumbnails VALUES (?, ?)", (content, picture))

    def drop_thumbnails(self, contents_: Iterable[bytes], *, every: bool) -> None:
        """Remove the small pictures of contents that no image has any more, or all."""
        if every:
            self.database.execute("DELETE FROM thumbnails")
        self.database.executemany(
            "DELETE FROM thumbnails WHERE content = ?1 AND NOT EXISTS (SELECT 1 FROM images WHERE "
            "content = ?1)", [(content,) for content in contents_],
        )  # fmt: skip

    def drop_thumbnails_of_none(self) -> None:
        """Remove small pictures of what is neither an image nor waits to be one."""
        self.database.execute(
            "DELETE FROM thumbnails WHERE content NOT IN (SELECT content FROM images) AND content "
            "NOT IN (SELECT content FROM pending)"
        )

    def delta(self) -> tuple[list[int], list[int]]:
        added, removed = (
            [number for (number,) in self.database.execute(f"SELECT id FROM {name} ORDER BY id")]
            for name in ("added", "removed")
        )
        return added, removed

    def clear_delta(self) -> None:
        """Note that the FAISS file has all that it should."""
        for table in ("added", "removed"):
            self.database.execute(f"DELETE FROM {table}")

    def blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        cursor = self.database.execute(
            "SELECT images.id, point FROM images JOIN points USING (id) ORDER BY images.id"
        )
        while block := cursor.fetchmany(POINTS_AT_ONCE):
            yield self._stacked(block)

    def points(self, ids: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        ask = "SELECT id, point FROM points WHERE id = ?"
        return self._stacked([self.database.execute(ask, (number,)).fetchone() for number in ids])

    def _stacked(self, rows: Sequence[tuple[int, bytes]]) -> tuple[np.ndarray, np.ndarray]:
        ids = np.array([number for number, _ in rows], np.int64)
        flat = np.frombuffer(b"".join(point for _, point in rows), "<f4")
        return ids, flat.reshape(len(ids), self._dim)

    def _folder(self, folder: bytes) -> int:
        if folder not in self._folders:
            written = self._locations.written(folder)
            asked = "SELECT id FROM folders WHERE path IN (?, ?)"
            self._folders[folder] = self._number("folders", (written,), asked, (written, folder))
        return self._folders[folder]

    def _class(self, label: str, levels: str) -> int:
        key = label, levels
        if key not in self._classes:
            asked = "SELECT id FROM classes WHERE label = ? AND levels = ?"
            self._classes[key] = self._number("classes", key, asked, key)
        return self._classes[key]

    def _number(
        self, table: str, values: tuple[bytes | str, ...], asked: str, words: Sequence[object]
    ) -> int:
        """The id of what ``asked`` finds, or else of a new row with some values."""
        run = self.database.execute
        if (found := run(asked, words).fetchone()) is not None:
            return int(found[0])
        (highest,) = run(f"SELECT max(id) FROM {table}").fetchone()
        number = int(highest or 0) + 1
        row = (number, *values)
        marks = ", ".join("?" * (len(row) + 1))
        run(f"INSERT INTO {table} VALUES ({marks})", (*row, short_hash(row)))
        return number

    def put_proxies(self, proxies: np.ndarray) -> str:
        """Keep the hierarchical proxies of the encoder, of which a tree is grown; their hash."""
        rows = [row.astype("<f4").tobytes() for row in proxies]
        self.database.execute("DELETE FROM proxies")
        self.database.executemany("INSERT INTO proxies VALUES (?, ?)", enumerate(rows))
        return short_hash(rows).hex()

    def set_quarantine(
        self, freed: Iterable[bytes], passed_over: Iterable[tuple[bytes, str]]
    ) -> None:
        """Take some paths out of quarantine and put others into it, inside `changing`."""
        for path in freed:
            folder, name = split(path)
            ask = "DELETE FROM quarantine WHERE folder = ? AND name = ?"
            self.database.execute(ask, (self._folder(folder), name))
        for path, reason in passed_over:
            folder, name = split(path)
            ask = "INSERT OR REPLACE INTO quarantine VALUES (?, ?, ?)"
            self.database.execute(ask, (self._folder(folder), name, reason))

    def relocate(self, known: Catalogue) -> list[int]:
        """Write folders relative to where the index lies now, or to its root.

        Returns:
            ids of images that have become another's copy, since their folders have become one.
        """
        folders = dict(known.folders())
        # One may take another's place: none may stand in its way.
        self.database.execute("UPDATE folders SET path = CAST('/' || id || '/' AS BLOB)")
        twice: list[int] = []
        for number, folder in folders.items():
            if folder in self._folders:
                twice += self._merge(known, number, self._folders[folder])
                continue
            written = self._locations.written(folder)
            self._folders[folder] = number
            self.database.execute(
                "UPDATE folders SET path = ?, checksum = ? WHERE id = ?",
                (written, short_hash((number, written)), number),
            )
        return twice

    def _merge(self, known: Catalogue, number: int, into: int) -> list[int]:
        """Put what lies in one folder into another; ids of images that are there already."""
        there = {row.path for row in known.in_folder(into)}
        rows = list(known.in_folder(number))
        for row in rows:
            if row.path not in there:
                self.put_row(row)
        self.database.execute(
            "UPDATE OR REPLACE quarantine SET folder = ? WHERE folder = ?", (into, number)
        )
        self.database.execute("DELETE FROM folders WHERE id = ?", (number,))
        return [row.id for row in rows if row.path in there]
