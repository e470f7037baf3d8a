"""The SQLite file of a catalogue: opened so that nothing in it is believed, and nobody waits.

In a local folder the write-ahead log lets readers see the last finished state while a writer works.
It needs memory that processes share, which network file systems do not offer: there a rollback
journal is used, and a reader waits while an update is being committed.
"""

import os
import sqlite3
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from hiercli.errors import InputError
from hiercli.index.locations import with_logs

_LONGEST_ROW = 2**20
"""Bytes: a point takes a quarter of that at most."""
_SECONDS_TO_WAIT = 60.0
_STEPS_AT_ONCE = 1_000_000
_LEAST_STEPS = 50
"""Millions of SQLite's instructions that any statement may take; larger files have more."""
_BYTES_A_STEP = 2**18
_BYTES_BESIDE = 20
"""Of a row besides its point: id, checksum and what SQLite says of them."""
_MOST_WASTE = 0.02
_NETWORK = ("nfs", "nfs4", "cifs", "smb", "smb3", "smbfs", "9p", "afs", "ceph", "fuse.sshfs")


def open_to_read(path: Path) -> sqlite3.Connection:
    """A database as it is now: what is committed later is not seen.

    Raises:
        sqlite3.Error: it is damaged.
    """
    last: sqlite3.Error = sqlite3.OperationalError("it cannot be opened")
    # Where nothing can be written beside it (no rights, no space) nobody else writes either, of
    # which SQLite has to be told.
    for options in ("mode=rw", "mode=ro&immutable=1"):
        database = _connect(path, options)
        try:
            database.execute("PRAGMA query_only = ON")
            database.execute("BEGIN")
            database.execute("SELECT count(*) FROM sqlite_master").fetchone()
            return database
        except sqlite3.DatabaseError as error:
            database.close()
            last = error
            log = with_logs(path)[1]
            if not isinstance(error, sqlite3.OperationalError) or (
                log.exists() and log.stat().st_size
            ):
                break
    raise last


def open_to_write(path: Path) -> sqlite3.Connection:
    """A database to be changed by its only writer.

    Raises:
        sqlite3.Error: it is damaged, or cannot be written.
    """
    database = _connect(path, "mode=rw")
    # With a write-ahead log NORMAL cannot damage the database, and costs less.
    try:
        database.execute(f"PRAGMA synchronous = {'NORMAL' if _is_local(path) else 'FULL'}")
        with transaction(database):
            pass
    except sqlite3.OperationalError:
        database.close()
        raise
    except sqlite3.DatabaseError:  # damage: whoever reads it says what is wrong
        pass
    return database


def create(path: Path, schema: str, row_bytes: int) -> sqlite3.Connection:
    """A new database, seen by nobody yet.

    Args:
        path: where; there is no file.
        schema: SQL that makes its tables.
        row_bytes: of its points.
    """
    database = _connect(path, "mode=rwc")
    try:
        database.execute(f"PRAGMA page_size = {_page_size(row_bytes)}")
        database.executescript(schema)
    except BaseException:
        database.close()
        raise
    return database


def _page_size(row_bytes: int) -> int:
    """The smallest page that rows of this size fill well: a larger one is read for each row."""
    whole = row_bytes + _BYTES_BESIDE
    for size in (4096, 8192, 16_384, 32_768):
        if size - size // whole * whole <= _MOST_WASTE * size:
            return size
    return 65_536


def finish(database: sqlite3.Connection, path: Path) -> None:
    """Close a new database, ready to be read while it is written."""
    mode = "WAL" if _is_local(path) else "DELETE"
    database.execute(f"PRAGMA journal_mode = {mode}")
    database.close()


def require_schema(database: sqlite3.Connection, schema: str) -> None:
    """Check that a database holds the tables of a schema, and nothing besides.

    Raises:
        ValueError: it does not. A view or a trigger could compute for ever, or change what is read.
    """
    model = sqlite3.connect(":memory:")
    try:
        model.executescript(schema)
        ask = "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY type, name"
        wanted = model.execute(ask).fetchall()
    finally:
        model.close()
    if database.execute(ask).fetchall() != wanted:
        raise ValueError("its tables are not those of an index")


def require_tables(database: sqlite3.Connection, view: str = "") -> None:
    """Check that a database of any version holds tables alone, before anything of it is read.

    Args:
        database: to be looked at.
        view: SQL of the one view that it may hold too.

    Raises:
        ValueError: it does not.
    """
    asked = (
        "SELECT count(*) FROM sqlite_master WHERE type NOT IN ('table', 'index') AND "
        "(type, sql) IS NOT ('view', ?)"
    )
    if database.execute(asked, (view,)).fetchone() != (0,):
        raise ValueError("it contains more than tables")


@contextmanager
def transaction(database: sqlite3.Connection) -> Iterator[None]:
    """All or nothing."""
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise
    database.execute("COMMIT")


def _connect(path: Path, options: str) -> sqlite3.Connection:
    where = f"file:{quote(os.fsencode(os.path.realpath(path)))}?{options}"
    database = sqlite3.connect(
        where,
        uri=True,
        check_same_thread=False,
        isolation_level=None,
        timeout=_SECONDS_TO_WAIT,
        factory=_Limited,
    )
    database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST_ROW)
    for pragma in ("trusted_schema = OFF", "cell_size_check = ON"):
        database.execute(f"PRAGMA {pragma}")
    return database


class _Limited(sqlite3.Connection):
    """A connection whose statements are ended when they take far longer than they can need."""

    steps = 0

    def execute(self, *words: Any) -> sqlite3.Cursor:
        self.steps = 0
        try:
            return super().execute(*words)
        except UnicodeDecodeError as error:  # of the text in which SQLite says what is wrong
            raise sqlite3.DatabaseError(f"names in it are not text ({error.reason})") from error


def is_sound(database: sqlite3.Connection) -> bool:
    """Whether SQLite finds no damaged page."""
    return bool(database.execute("PRAGMA quick_check(1)").fetchone() == ("ok",))


def limit_steps(database: sqlite3.Connection, path: Path) -> None:
    """End statements that take far longer than a file of this size can need."""
    most = (
        _LEAST_STEPS
        + sum(file.stat().st_size for file in with_logs(path)[:2] if file.exists()) // _BYTES_A_STEP
    )
    assert isinstance(database, _Limited)
    weak = weakref.ref(database)  # a handler that held its connection would keep it open

    def step() -> int:
        limited = weak()
        if limited is None:
            return 1
        limited.steps += 1
        return int(limited.steps > most)

    database.set_progress_handler(step, _STEPS_AT_ONCE)


def _is_local(path: Path) -> bool:
    """Whether a file lies where processes can share memory."""
    try:
        lines = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return True
    own = os.path.realpath(path)
    best, kind = "", ""
    for line in lines:
        before, _, after = line.partition(" - ")
        where = before.split()[4].encode().decode("unicode_escape", "replace")
        inside = own == where or own.startswith(where.rstrip("/") + "/")
        if inside and len(where) >= len(best):
            best, kind = where, after.split()[0]
    return kind not in _NETWORK


def writing_failed(path: Path, error: object) -> InputError:
    """What people are told when a catalogue cannot be written."""
    return InputError(
        f"writing {path} failed ({error}). The index is unchanged, and finished embeddings are "
        "kept. Free some space or choose another folder, then run the command again"
    )
