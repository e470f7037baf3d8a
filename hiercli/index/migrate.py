"""Catalogues of older versions, read so that they can be written in the present form."""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from hiercli.errors import FileFormatError
from hiercli.index import database
from hiercli.index.locations import catalogue_path
from hiercli.index.schema import (
    SCHEMA_7,
    SCHEMA_8,
    SPLITS,
    THUMBNAILS,
    VERSION,
    Row,
    facts_checksum,
)

_COLUMNS = {
    "5": "id, path, label, '{}', content, size, modified_ns, changed_ns, point",
    "6": "id, path, label, levels, content, size, modified_ns, changed_ns, point",
}
_KEPT = ("fingerprint", "c", "embedding_dim", "model", "next_id", "index_type")
_TABLES = {"facts", "photos", "quarantine", "proxies"}
_IN_PLACE = {
    "7": (SCHEMA_7, (THUMBNAILS, SPLITS), {"thumbnails": "1"}),
    "8": (SCHEMA_8, (SPLITS,), {}),
}
"""Versions of which nothing is rewritten: their schema, what it lacks, and facts that it lacks."""
IN_PLACE = tuple(_IN_PLACE)


@contextlib.contextmanager
def read_old(
    index: Path, version: str
) -> Iterator[tuple[dict[str, str], Iterator[Row], list[tuple[bytes, str]], np.ndarray]]:
    """Facts, rows with points, quarantine and proxies of an index of version 5 or 6.

    Raises:
        FileFormatError: it is damaged, or of a version that is not known.
    """
    if version not in _COLUMNS:
        raise FileFormatError(
            f"{index} was written by a version of hier that this one does not know (format "
            f"{version}). Update hier, or build the index again with `hier embed FOLDER --index "
            "... --rebuild`"
        )
    path = catalogue_path(index)
    with _damage(path):
        opened = database.open_to_read(path)
    with contextlib.closing(opened):
        with _damage(path):
            database.limit_steps(opened, path)
            database.require_tables(opened)
            names = {name for kind, name in opened.execute("SELECT type, name FROM sqlite_master")
                     if kind == "table" and not name.startswith("sqlite_")}  # fmt: skip
            if not names <= _TABLES:
                raise ValueError(f"it contains the tables {', '.join(sorted(names - _TABLES))}")
            facts = dict(opened.execute("SELECT name, value FROM facts"))
            told = {name: str(facts[name]) for name in _KEPT} | {"version": VERSION}
            dim = int(told["embedding_dim"])
            quarantine = list(opened.execute("SELECT path, reason FROM quarantine"))
            proxies = np.empty((0, dim), np.float32)
            if "proxies" in names:
                stored = opened.execute("SELECT point FROM proxies ORDER BY id").fetchall()
                proxies = np.frombuffer(b"".join(p for (p,) in stored), "<f4").reshape(-1, dim)

        def rows() -> Iterator[Row]:
            with _damage(path):
                asked = opened.execute(f"SELECT {_COLUMNS[version]} FROM photos ORDER BY id")
                for number, name, label, levels, content, *state, point in asked:
                    if len(point) != 4 * dim or not isinstance(name, bytes):
                        raise ValueError(f"the row with id {number} has changed")
                    yield Row(number, name, label, levels, content, tuple(state), bytes(point))

        yield told, rows(), quarantine, proxies


def add_what_lacks(index: Path, version: str) -> None:
    """Bring a catalogue of one of the versions `IN_PLACE` up to date where it lies.

    Raises:
        FileFormatError: it is damaged.
        InputError: it cannot be written.
    """
    path = catalogue_path(index)
    schema, statements, news = _IN_PLACE[version]
    with _damage(path):
        try:
            opened = database.open_to_write(path)
        except sqlite3.Error as error:
            raise database.writing_failed(index, error) from error
        with contextlib.closing(opened):
            database.limit_steps(opened, path)
            database.require_schema(opened, schema)
            facts = dict(opened.execute("SELECT name, value FROM facts"))
            if facts.get("checksum") != facts_checksum(facts):
                raise ValueError("its encoder metadata has changed")
            facts |= {"version": VERSION} | news
            facts["checksum"] = facts_checksum(facts)
            try:
                with database.transaction(opened):
                    for statement in statements:
                        opened.execute(statement)
                    opened.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", facts.items())
            except sqlite3.OperationalError as error:
                raise database.writing_failed(index, error) from error


@contextlib.contextmanager
def _damage(path: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, KeyError, ValueError, TypeError, OverflowError) as error:
        raise FileFormatError(
            f"{path} is damaged ({error}). Build the index again with `hier embed FOLDER --index "
            "... --rebuild`"
        ) from error
