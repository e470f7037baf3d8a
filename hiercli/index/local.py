"""An index in files, open for its only writer."""

import contextlib
import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import faiss
import numpy as np

from hiercli.errors import FileFormatError, HierError, InputError
from hiercli.files import parse_json, require_replaceable, sync_folder
from hiercli.index import contents, database, generation, kinds
from hiercli.index.catalogue import (
    SCHEMA,
    VERSION,
    Catalogue,
    Row,
    catalogue_path,
    delta_checksum,
    facts_checksum,
    groups_of,
    point_checksum,
    version_of,
)
from hiercli.index.locations import Locations, split
from hiercli.index.sync import Plan, Scope, within
from hiercli.index.tables import Tables
from hiercli.labels import merged_levels

_SECONDS_BETWEEN_SAVES = 1.0
_LEAST_DELTA, _MOST_DELTA = 500, 10_000
"""Images that a FAISS file may lack or have too many: a 20th of all, within these."""
_MORE = 1.2
"""Growth from which on it is tried again whether another type serves better."""


def lock_path(index: Path) -> Path:
    """What the only writer holds."""
    return index.with_name(f".{index.name}.hier-lock")


def draft_path(index: Path) -> Path:
    """A catalogue that has not been finished once; it takes its place as a whole."""
    return index.with_name(f".{index.name}.hier-part")


def files(index: Path) -> tuple[Path, ...]:
    """All files of an index: no other may take their place."""
    return (
        index, generation.next_path(index), lock_path(index),
        *database.files_of(catalogue_path(index)), *database.files_of(draft_path(index)),
    )  # fmt: skip


def exists(index: Path) -> bool:
    """Whether there is an index, whole or not."""
    return index.exists() or catalogue_path(index).exists()


@contextmanager
def writing(
    index: Path, dim: int, *, anew: bool = False, root: Path | None = None
) -> Iterator["LocalStore"]:
    """Be the only writer of an index; finish first what a killed one left half done.

    Args:
        index: FAISS file, new or there.
        dim: of the ball.
        anew: start from nothing, whatever is there.
        root: paths are relative to it from now on.

    Raises:
        InputError: another process writes to it, or the folder cannot be written to.
        FileFormatError: the catalogue that is there is damaged.
    """
    with locked(index):
        if not anew and catalogue_path(index).is_file():
            migrate(index)
        store = LocalStore(index, dim, anew=anew, root=root)
        try:
            yield store
        finally:
            store.close()


@contextmanager
def locked(index: Path) -> Iterator[None]:
    """Let nobody else write meanwhile; reading goes on.

    Raises:
        InputError: another process writes to it, or the folder cannot be written to.
    """
    from filelock import FileLock, Timeout  # readers do without

    for file in (index, catalogue_path(index)):
        require_replaceable(file)
    # It stays when all is done: to remove it would let two writers hold two files of one name.
    lock = FileLock(lock_path(index), timeout=0)
    try:
        index.parent.mkdir(parents=True, exist_ok=True)
        lock_path(index).touch()  # the lock itself would take some refusals for another's lock
        lock.acquire()
    except Timeout as error:
        raise InputError(
            f"another process is writing to {index}. Wait until it finishes, or end it. Searching "
            "is still possible"
        ) from error
    except OSError as error:
        raise InputError(
            f"cannot write {index}: {error.strerror or error}. Choose a folder you can write to"
        ) from error
    try:
        yield
    finally:
        lock.release()


def migrate(index: Path) -> None:
    """Bring a catalogue of an older version up to date, under `locked`; a present one stays."""
    version = version_of(index)
    if version in ("", VERSION):
        return
    from hiercli.index.migrate import read_old

    facts, rows, quarantine, proxies = read_old(index, version)
    make_anew(index, facts, rows, quarantine, proxies)


def make_anew(
    index: Path,
    facts: dict[str, str],
    rows: Iterable[Row],
    quarantine: Iterable[tuple[bytes, str]],
    proxies: np.ndarray,
    progress: kinds.Progress | None = None,
    root: Path | None = None,
) -> None:
    """Replace an index by one that holds some rows, under `locked`.

    Args:
        index: FAISS file.
        facts: of the encoder, and ``next_id`` and ``index_type``.
        rows: with their points.
        quarantine: paths and reasons.
        proxies: (P, D).
        progress: called with (done, total) points.
        root: what paths are relative to, instead of the index.

    Raises:
        InputError: the files cannot be written; what was there before stands.
    """
    dim = int(facts["embedding_dim"])
    store = LocalStore(index, dim, anew=True, root=root)
    try:
        with store.changing(facts, proxies, progress=progress):
            store.put(rows)
            store.tables.set_quarantine((), quarantine)
    finally:
        store.close()


class LocalStore:
    """A catalogue and its FAISS file, to be changed; see `writing`.

    Points are kept as they are made, under ids that no image has yet: a killed run loses none.

    Attributes:
        catalogue: what is known; ``None`` before anything is.
        embedded: points that were made and kept in this run.
    """

    def __init__(
        self,
        index: Path,
        dim: int,
        *,
        anew: bool,
        root: Path | None = None,
    ) -> None:
        self.index, self.embedded, self._dim = index, 0, dim
        self._anew = anew
        usable = version_of(index) == VERSION
        if not (usable or anew):
            Catalogue(index).close()  # says what is wrong
        self.catalogue: Catalogue | None = None
        existing = self._existing(root) if usable else None
        self._is_draft = existing is None
        self.path = draft_path(index) if existing is None else catalogue_path(index)
        self.database = self._draft() if existing is None else existing
        written = self.catalogue.facts["root"] if self.catalogue else '""'
        self._root = root or (Path(found) if (found := parse_json(written)) else None)
        self._locations = Locations(index.parent, self._root)
        self.tables = Tables(self.database, self._locations, dim)
        self._pending: dict[bytes, int] = {}
        self._lookup: sqlite3.Connection | None = None
        self._saved = time.monotonic()
        with self._failing():
            (highest,) = self.database.execute("SELECT max(id) FROM points").fetchone()
        known = 0 if self.catalogue is None else self.catalogue.next_id
        self._next_id = max(known, -1 if highest is None else highest + 1)
        self._move_along()

    def _existing(self, root: Path | None) -> sqlite3.Connection | None:
        """The catalogue that is there; ``None`` where it is damaged, and not needed."""
        try:
            opened = database.open_to_write(catalogue_path(self.index))
        except sqlite3.Error as error:
            raise database.writing_failed(self.index, error) from error
        try:
            known = Catalogue(self.index, root, opened, check=True)
            if self._anew and not database.is_sound(opened):
                raise known.damaged("SQLite finds damaged pages")
            generation.settle(self.index, known.generation)
        except FileFormatError:
            opened.close()
            if not self._anew:
                raise
            return None
        if not self._anew:
            self.catalogue = known
        return opened

    def _draft(self) -> sqlite3.Connection:
        """A catalogue that nobody has seen: one that a killed run has left, or a new one."""
        path = draft_path(self.index)
        if path.is_file():
            with contextlib.suppress(sqlite3.Error, ValueError):
                opened = database.open_to_write(path)
                database.limit_steps(opened, path)
                database.require_schema(opened, SCHEMA)
                if database.is_sound(opened):
                    return opened
                opened.close()
        # Damaged, say by a loss of power: it holds nothing that cannot be made again.
        try:
            for file in database.files_of(path):
                file.unlink(missing_ok=True)
            return database.create(path, SCHEMA, 4 * self._dim)
        except (sqlite3.Error, OSError) as error:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
            raise database.writing_failed(self.index, error) from error

    def close(self) -> None:
        """Keep what is there for the next run."""
        with contextlib.suppress(sqlite3.Error):  # a full disk has been told of already
            if self.database.in_transaction:
                self.database.execute("COMMIT")
        self._end_lookup()
        holds = True
        with contextlib.suppress(sqlite3.Error):
            holds = self.database.execute("SELECT 1 FROM points LIMIT 1").fetchone() is not None
        self.database.close()
        if self._is_draft and not holds:
            for file in database.files_of(self.path):
                file.unlink(missing_ok=True)

    def _end_lookup(self) -> None:
        if self._lookup is not None:
            self._lookup.close()
            self._lookup = None

    def __len__(self) -> int:
        return 0 if self.catalogue is None else len(self.catalogue)

    def _move_along(self) -> None:
        """Write paths relative to where the index lies now, or to another root."""
        known = self.catalogue
        if known is not None and (
            known.locations.base != self._locations.base
            or self._place() != {name: known.facts[name] for name in ("home", "root")}
        ):
            with self.changing({}, known.proxies()):
                self._remove(self.tables.relocate(known))

    def is_behind(self) -> bool:
        """Whether there is no FAISS file of what is known."""
        known = self.catalogue
        if known is None:
            return True
        with generation.opened(self.index, known.generation, known.faiss_bytes) as file:
            return file is None

    def _place(self) -> dict[str, str]:
        """What is said of where paths start."""
        root = "" if self._root is None else os.path.realpath(self._root)
        return {"home": json.dumps(os.fspath(self.index.parent)), "root": json.dumps(root)}

    # -- points that wait until all of them can be placed ---------------------------------------

    def expect(self, fingerprint: str) -> None:
        """Say whose points will be kept. Those of another encoder that still wait are dropped."""
        self._fingerprint = fingerprint.encode()
        ask = (
            "SELECT content, pending.id, point, pending.checksum FROM pending LEFT JOIN points "
            "USING (id)"
        )
        bad = []
        with self._failing():
            if self._is_draft:
                self._take_back(fingerprint)
            for content, number, point, checksum in self.database.execute(ask):
                if isinstance(point, bytes) and self._checksum(content, point) == checksum:
                    self._pending[content] = number
                else:
                    bad.append((content, number))
            with database.transaction(self.database):
                for content, number in bad:
                    self.database.execute("DELETE FROM pending WHERE content = ?", (content,))
                    ask = "DELETE FROM points WHERE id = ? AND id NOT IN (SELECT id FROM images)"
                    self.database.execute(ask, (number,))

    def _take_back(self, fingerprint: str) -> None:
        """Points of a draft that was finished, and killed before it took its place, wait again."""
        asked = "SELECT value FROM facts WHERE name = 'fingerprint'"
        told = self.database.execute(asked).fetchone()
        every = (
            "SELECT content, images.id, point, points.checksum FROM images JOIN points USING (id)"
        )
        with database.transaction(self.database):
            if told == (fingerprint,):
                for content, number, point, checksum in self.database.execute(every).fetchall():
                    if point_checksum(number, point) == checksum:
                        self.database.execute(
                            "INSERT OR IGNORE INTO pending VALUES (?, ?, ?)",
                            (content, number, self._checksum(content, point)),
                        )
            self.database.execute("DELETE FROM images")

    def _checksum(self, content: object, point: bytes) -> bytes:
        if not isinstance(content, bytes) or len(point) != 4 * self._dim:
            return b""
        own = self._fingerprint + content + point
        return hashlib.blake2b(own, digest_size=8).digest()

    def has(self, content: bytes) -> bool:
        """Whether a point of some content is kept, so that it need not be made.

        Only one thread may ask at a time.
        """
        if content in self._pending:
            return True
        if self.catalogue is None:
            return False
        with self._failing():
            if self._lookup is None:
                # Of its own: threads that ask while points are kept would wait for each other.
                self._lookup = database.open_to_read(self.path)
                self._lookup.execute("COMMIT")  # it must not stand in the way of what is kept
            ask = "SELECT 1 FROM images WHERE content = ? LIMIT 1"
            return self._lookup.execute(ask, (content,)).fetchone() is not None

    def keep(self, content: bytes, point: np.ndarray) -> None:
        """Keep a point (D,) that was made; a kill loses a second of work at most.

        Raises:
            InputError: the disk is full.
        """
        row = point.astype("<f4").tobytes()
        with self._failing():
            if not self.database.in_transaction:
                self.database.execute("BEGIN IMMEDIATE")
            self.tables.put_point(self._next_id, row)
            self.database.execute(
                "INSERT OR REPLACE INTO pending VALUES (?, ?, ?)",
                (content, self._next_id, self._checksum(content, row)),
            )
            if time.monotonic() - self._saved > _SECONDS_BETWEEN_SAVES:
                self.database.execute("COMMIT")
                self._saved = time.monotonic()
        self._pending[content] = self._next_id
        self._next_id += 1
        self.embedded += 1

    # -- what is known ----------------------------------------------------------------------------

    def known(self, listed: Iterable[bytes], scope: Scope) -> dict[bytes, Row]:
        """Rows, without points, of all paths that an update speaks of."""
        if self.catalogue is None:
            return {}
        found: dict[bytes, Row] = {}
        covered = set()
        for number, folder in self.catalogue.folders().items():
            if folder in scope.roots or within(folder, scope.roots):
                covered.add(folder)
                found |= {row.path: row for row in self.catalogue.in_folder(number)}
        others = [name for name in {*listed, *scope.named} if split(name)[0] not in covered]
        return found | self.catalogue.at(others)

    def compact(self) -> None:
        """Make a new FAISS file, and free the room of what was removed."""
        known = self.catalogue
        assert known is not None
        with self.changing({}, known.proxies(), renew=True):
            self.database.execute(
                "DELETE FROM folders WHERE NOT EXISTS (SELECT 1 FROM images WHERE folder = "
                "folders.id) AND NOT EXISTS (SELECT 1 FROM quarantine WHERE folder = folders.id)"
            )
        with self._failing():
            self.database.execute("VACUUM")
            self.database.execute("PRAGMA wal_checkpoint(PASSIVE)")

    # -- changes ----------------------------------------------------------------------------------

    def apply(
        self,
        plan: Plan,
        facts: dict[str, str],
        proxies: np.ndarray,
        freed: Iterable[bytes],
        passed_over: Iterable[tuple[bytes, str]],
        progress: kinds.Progress | None = None,
    ) -> None:
        """Carry out a plan as a whole, or not at all.

        Args:
            plan: what `sync.plan_sync` decided.
            facts: of the encoder, and ``index_type``.
            proxies: (P, D) of the encoder.
            freed: paths that leave quarantine.
            passed_over: paths and reasons that enter it.
            progress: called with (done, total) points while a FAISS file is built.

        Raises:
            InputError: the files cannot be written; the old state stands.
        """
        with self.changing(facts, proxies, progress=progress):
            contents_ = {row.content for row in (*plan.changed, *plan.added)} - set(self._pending)
            points = self.tables.points_by_content(contents_)  # of rows that may be about to change
            self._remove(plan.removed)
            self.tables.rename([*plan.moved, *plan.touched])
            for row in plan.changed:
                self._change(row, points)
            for row in plan.added:
                self._add(row, points)
            self.tables.set_quarantine(freed, passed_over)

    @contextmanager
    def changing(
        self,
        facts: dict[str, str],
        proxies: np.ndarray,
        *,
        renew: bool = False,
        progress: kinds.Progress | None = None,
    ) -> Iterator[None]:
        """One transaction, at whose end the FAISS file fits, or the difference is listed.

        Args:
            facts: see `apply`.
            proxies: likewise.
            renew: make a new FAISS file in any case.
            progress: see `apply`.
        """
        with self._failing():
            if self.database.in_transaction:
                self.database.execute("COMMIT")
            self._end_lookup()
            self._count = len(self)
            # On disk before the FAISS file that it names takes the place of the old one.
            self.database.execute("PRAGMA synchronous = FULL")
            with database.transaction(self.database):
                if self.catalogue is None:
                    for table in ("images", "added", "removed", "quarantine", "facts", "folders",
                                  "classes"):  # fmt: skip
                        self.database.execute(f"DELETE FROM {table}")
                    self.database.execute(
                        "DELETE FROM points WHERE id NOT IN (SELECT id FROM pending)"
                    )
                yield
                self._finish(facts, proxies, renew, progress)
            if self._is_draft:
                self._take_place()
        try:
            self.catalogue = Catalogue(self.index, None, self.database)
        finally:  # whichever state was reached: the other's FAISS file goes
            if self.catalogue is not None:
                generation.settle(self.index, self.catalogue.generation)

    def _take_place(self) -> None:
        """The draft becomes the catalogue."""
        database.finish(self.database, self.path)
        target = catalogue_path(self.index)
        for file in database.files_of(target)[1:]:  # of another database
            file.unlink(missing_ok=True)
        with open(self.path, "rb") as written:
            os.fsync(written.fileno())
        os.replace(self.path, target)
        sync_folder(target.parent)
        self.path, self._is_draft = target, False
        self.database = self.tables.database = database.open_to_write(target)

    def _finish(
        self,
        facts: dict[str, str],
        proxies: np.ndarray,
        renew: bool,
        progress: kinds.Progress | None,
    ) -> None:
        run = self.database.execute
        run("DELETE FROM pending WHERE id IN (SELECT id FROM images)")
        # What no image has yet goes on waiting for the run that needs it.
        placed = "pending WHERE content IN (SELECT content FROM images)"
        run(f"DELETE FROM points WHERE id IN (SELECT id FROM {placed})")
        run(f"DELETE FROM {placed}")
        run("DELETE FROM classes WHERE NOT EXISTS (SELECT 1 FROM images WHERE class = classes.id)")
        (count,) = run("SELECT count(*) FROM images").fetchone()
        if count != self._count:
            raise FileFormatError(
                f"{self.path} is damaged: it has {count} images, expected {self._count}. Run `hier "
                f"index repair {self.index}`"
            )
        levels = [groups_of(text) for (text,) in run("SELECT levels FROM classes ORDER BY id")]
        before = {} if self.catalogue is None else self.catalogue.facts
        told = before | facts | {
            "version": VERSION,
            "count": str(count),
            "next_id": str(max(self._next_id, int(facts.get("next_id", 0)))),
            "level_names": json.dumps(merged_levels(list(map(list, levels))), ensure_ascii=False),
            "proxies": self.tables.put_proxies(proxies),
        } | self._place()  # fmt: skip
        told |= self._generation(told, renew, progress)
        added, removed = self.tables.delta()
        told["delta"] = delta_checksum(added, removed)
        told["checksum"] = facts_checksum(told)
        self.database.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", told.items())

    def _generation(
        self, told: dict[str, str], renew: bool, progress: kinds.Progress | None
    ) -> dict[str, str]:
        """What is to be said of the FAISS file, which is made anew where it lacks too much."""
        added, removed = self.tables.delta()
        count, c = int(told["count"]), float(told["c"])
        few = max(_LEAST_DELTA, min(_MOST_DELTA, count // 20))
        known = self.catalogue
        same_type = known is not None and known.facts["index_type"] == told["index_type"]
        old: faiss.Index | None = None
        if known is not None:
            with generation.opened(self.index, known.generation, known.faiss_bytes) as file:
                is_near = same_type and len(added) + len(removed) <= few
                if file is not None and is_near and not renew:
                    return {}
                choices = self._choices(told, count)
                if file is not None and not renew and choices != ("flat",):
                    with contextlib.suppress(HierError):
                        old = generation.whole(file)
        else:
            choices = self._choices(told, count)
        made, recall = None, 0.0
        if old is not None and contents.index_type_of(old) in choices:
            _, points = self.tables.points(added)
            made = kinds.update(old, np.array(removed, np.int64), (np.array(added), points), c)
            recall = 0.0 if made is None else kinds.tune(made, c)
        if made is None or (recall < kinds.ENOUGH and len(choices) > 1):
            made, recall = kinds.choose(choices, self.tables.blocks, count, self._dim, c, progress)
        number, size = generation.write(self.index, made)
        for table in ("added", "removed"):
            self.database.execute(f"DELETE FROM {table}")
        made_type = contents.index_type_of(made)
        settled = len(choices) == 1 and told.get("made_type") == made_type
        return {
            "generation": number,
            "faiss_bytes": str(size),
            "placed": str(count),
            "recall": repr(recall),
            "farthest": repr(contents.farthest(made)),
            "made_type": made_type,
            "made_count": told["made_count"] if settled else str(count),
        }

    @staticmethod
    def _choices(told: dict[str, str], count: int) -> tuple[str, ...]:
        """The types to choose from; what was chosen stays until there is much more to index."""
        choices = kinds.choices(told["index_type"], count) if count else ("flat",)
        if told.get("made_type") in choices and count < _MORE * int(told["made_count"]):
            return (told["made_type"],)
        return choices

    def _remove(self, ids: Collection[int]) -> None:
        for number in ids:
            self.database.execute("DELETE FROM images WHERE id = ?", (number,))
            self.database.execute("DELETE FROM points WHERE id = ?", (number,))
            self.tables.note_removed(number)
        self._count -= len(ids)

    def _change(self, row: Row, points: dict[bytes, bytes]) -> None:
        """Give an image another content and its point."""
        point = self._point(row.content, points)
        self.tables.put_row(row)
        self.tables.put_point(row.id, point)
        self.tables.note_removed(row.id)
        self.database.execute("INSERT OR IGNORE INTO added VALUES (?)", (row.id,))

    def _add(self, row: Row, points: dict[bytes, bytes]) -> None:
        waiting = self._pending.pop(row.content, None)
        if waiting is not None:  # its point has an id already, which becomes the image's
            ask = "SELECT point FROM points WHERE id = ?"
            (point,) = self.database.execute(ask, (waiting,)).fetchone()
            points[row.content] = bytes(point)
            self.database.execute("DELETE FROM pending WHERE content = ?", (row.content,))
            number = waiting
        else:
            number, self._next_id = self._next_id, self._next_id + 1
            self.tables.put_point(number, self._point(row.content, points))
        self.tables.put_row(row._replace(id=number))
        self.database.execute("INSERT INTO added VALUES (?)", (number,))
        self._count += 1

    def _point(self, content: bytes, points: dict[bytes, bytes]) -> bytes:
        if content not in points:
            ask = "SELECT point FROM points WHERE id = ?"
            (point,) = self.database.execute(ask, (self._pending[content],)).fetchone()
            points[content] = bytes(point)
        return points[content]

    def put(self, rows: Iterable[Row]) -> None:
        """Add rows with their points under their own ids, inside `changing`."""
        for row in rows:
            self.tables.put_row(row)
            self.tables.put_point(row.id, row.point)
            self._count += 1
            self._next_id = max(self._next_id, row.id + 1)

    @contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError, OverflowError, ValueError, TypeError, KeyError) as error:
            # SQLite says no more than this of a damaged page; the others are of a damaged row.
            is_damage = type(error) in (sqlite3.DatabaseError, ValueError, TypeError, KeyError)
            if not is_damage:
                raise database.writing_failed(self.index, error) from error
            raise FileFormatError(
                f"{self.path} is damaged ({error}). Run `hier index repair {self.index}` to keep "
                "the valid images"
            ) from error
