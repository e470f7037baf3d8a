"""A catalogue in the making, which takes its place as a whole."""

import json
import shutil
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from hiercli.errors import InputError
from hiercli.files import replacing
from hiercli.index.catalogue import (
    COLUMNS,
    SCHEMA,
    Photo,
    catalogue_path,
    facts_checksum,
    groups_of,
    short_hash,
)
from hiercli.labels import merged_levels

_POINTS_AT_ONCE = 16_384


class Draft:
    """A catalogue in the making; see `drafting`."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        self.touched: set[int] = set()

    def __len__(self) -> int:
        (count,) = self._database.execute("SELECT count(*) FROM photos").fetchone()
        return int(count)

    def say(self, facts: dict[str, str]) -> None:
        """Set facts."""
        self._database.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", facts.items())

    def fact(self, name: str) -> str:
        """A fact that was set."""
        ask = "SELECT value FROM facts WHERE name = ?"
        (value,) = self._database.execute(ask, (name,)).fetchone()
        return str(value)

    def remove(self, ids: Iterable[int]) -> None:
        """Forget some ids for good."""
        gone = [(number,) for number in ids]
        self._database.executemany("DELETE FROM photos WHERE id = ?", gone)
        self.touched.update(number for (number,) in gone)

    def put(self, photos: Iterable[Photo]) -> None:
        """Add rows."""
        self._database.executemany(
            f"INSERT INTO photos ({COLUMNS}, seal, point, point_seal) "
            f"VALUES ({', '.join('?' * (COLUMNS.count(',') + 4))})",
            (
                (
                    p.id,
                    p.path,
                    p.label,
                    p.levels,
                    p.content,
                    *p.state,
                    p.checksum(),
                    p.point,
                    p.point_checksum(),
                )
                for p in self._noted(photos)
            ),
        )

    def _noted(self, photos: Iterable[Photo]) -> Iterator[Photo]:
        for photo in photos:
            self.touched.add(photo.id)
            yield photo

    def rename(self, photos: Sequence[Photo]) -> None:
        """Change all of some rows but content and point."""
        # Two may change places: none may stand in another's way.
        self._database.executemany(
            "UPDATE photos SET path = ? WHERE id = ?",
            ((f"\0{p.id}".encode(), p.id) for p in photos),
        )
        self._database.executemany(
            "UPDATE photos SET path = ?, label = ?, levels = ?, size = ?, modified_ns = ?, "
            "changed_ns = ?, seal = ? WHERE id = ?",
            ((p.path, p.label, p.levels, *p.state, p.checksum(), p.id) for p in photos),
        )

    def set_proxies(self, proxies: np.ndarray) -> None:
        """Keep the hierarchical proxies (P, D) of the encoder: a tree is grown of them."""
        self._database.execute("DELETE FROM proxies")
        rows = [row.astype("<f4").tobytes() for row in proxies]
        self._database.executemany("INSERT INTO proxies VALUES (?, ?)", enumerate(rows))
        self.say({"proxies": short_hash(rows).hex()})

    def write_checksum(self) -> None:
        """Seal the facts, when all of them are said."""
        found = self._database.execute("SELECT levels FROM photos GROUP BY levels ORDER BY min(id)")
        names = merged_levels(list(groups_of(text)) for (text,) in found)
        self.say({"level_names": json.dumps(names, ensure_ascii=False)})
        facts = dict(self._database.execute("SELECT name, value FROM facts"))
        self.say({"seal": facts_checksum(facts)})

    def set_quarantine(self, removed: Iterable[bytes], added: Iterable[tuple[bytes, str]]) -> None:
        """Take some paths out of quarantine and put others into it."""
        self._database.executemany(
            "DELETE FROM quarantine WHERE path = ?", ((path,) for path in removed)
        )
        self._database.executemany("INSERT OR REPLACE INTO quarantine VALUES (?, ?)", added)

    def points_by_content(self, contents: Iterable[bytes]) -> dict[bytes, bytes]:
        """The point of each content that some row holds."""
        ask = "SELECT point FROM photos WHERE content = ? LIMIT 1"
        found = {}
        for content in contents:
            row = self._database.execute(ask, (content,)).fetchone()
            if row:
                found[content] = bytes(row[0])
        return found

    def points(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Ids (N,) and points (N, D) of all rows by id, in blocks."""
        cursor = self._database.execute("SELECT id, point FROM photos ORDER BY id")
        while block := cursor.fetchmany(_POINTS_AT_ONCE):
            yield _stacked(block)

    def points_of(self, ids: Iterable[int]) -> tuple[np.ndarray, np.ndarray]:
        """Ids (N,) and points (N, D) of those of some ids that have a row."""
        ask = "SELECT id, point FROM photos WHERE id = ?"
        found = (self._database.execute(ask, (number,)).fetchone() for number in sorted(ids))
        return _stacked([row for row in found if row is not None])


def _stacked(rows: list[tuple[int, bytes]]) -> tuple[np.ndarray, np.ndarray]:
    ids = np.array([number for number, _ in rows], np.int64)
    flat = np.frombuffer(b"".join(point for _, point in rows), "<f4")
    return ids, flat.reshape(len(ids), -1 if len(ids) else 0)


@contextmanager
def drafting(index: Path, *, anew: bool) -> Iterator[Draft]:
    """A catalogue to be filled, which takes its place when the block ends well.

    Args:
        index: whose catalogue.
        anew: start empty, instead of from the catalogue that is there.

    Raises:
        InputError: it cannot be written.
    """
    target = catalogue_path(index)
    with replacing(target) as file:
        if not anew:
            shutil.copyfile(target, file)
        try:
            database = sqlite3.connect(file)
            try:
                # Nobody else sees the draft, and it is thrown away whole where this fails.
                database.execute("PRAGMA journal_mode = OFF")
                database.execute("PRAGMA synchronous = OFF")
                if anew:
                    database.executescript(SCHEMA)
                yield Draft(database)
                database.commit()
            finally:
                database.close()
        except (sqlite3.Error, OverflowError, UnicodeError) as error:
            raise InputError(
                f"writing {target} failed ({error}). No partial file remains. Free some space or "
                "choose another folder, then run the command again"
            ) from error
