"""An index in files, open for its only writer."""

import contextlib
import json
import os
import sqlite3
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from hiercli.encoder.metadata import Metadata
from hiercli.errors import FileFormatError
from hiercli.files import parse_json, sync_folder
from hiercli.index import database, generation, kinds, renewal, verdicts
from hiercli.index.catalogue import Catalogue, version_of
from hiercli.index.locations import Locations, catalogue_path, draft_path, split, with_logs
from hiercli.index.pending import Pending
from hiercli.index.schema import SCHEMA, VERSION, Row, delta_checksum, facts_checksum, groups_of
from hiercli.index.sync import Plan, Scope, within
from hiercli.index.tables import Tables
from hiercli.labels import merged_levels


class LocalStore:
    """A catalogue and its FAISS file, to be changed; see `writer.writing`.

    Points are kept as they are made, under ids that no image has yet: a killed run loses none.

    Attributes:
        catalogue: what is known; ``None`` before anything is.
        embedded: points that were made and kept in this run.
        keeps_thumbnails: small pictures have a place here.
    """

    keeps_thumbnails = True

    def __init__(
        self,
        index: Path,
        dim: int,
        *,
        anew: bool,
        root: Path | None = None,
    ) -> None:
        self.index, self.embedded, self._dim = index, 0, dim
        self._parted: set[bytes] = set()
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
        self._pending = Pending(self.tables, dim)
        self._lookup: sqlite3.Connection | None = None
        try:
            with self._failing():
                (highest,) = self.database.execute("SELECT max(id) FROM points").fetchone()
            known = 0 if self.catalogue is None else self.catalogue.next_id
            self._next_id = max(known, -1 if highest is None else highest + 1)
            self._move_along()
        except BaseException:
            self.database.close()
            raise

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
        except BaseException as error:
            opened.close()
            if self._anew and isinstance(error, FileFormatError):
                return None
            raise
        if not self._anew:
            self.catalogue = known
        return opened

    def _draft(self) -> sqlite3.Connection:
        """A catalogue that nobody has seen: one that a killed run has left, or a new one."""
        path = draft_path(self.index)
        if path.is_file():
            with contextlib.ExitStack() as damaged, contextlib.suppress(sqlite3.Error, ValueError):
                opened = damaged.enter_context(contextlib.closing(database.open_to_write(path)))
                database.limit_steps(opened, path)
                database.require_schema(opened, SCHEMA)
                if database.is_sound(opened):
                    damaged.pop_all()
                    return opened
        # Damaged, say by a loss of power: it holds nothing that cannot be made again.
        try:
            for file in with_logs(path):
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
            for file in with_logs(self.path):
                file.unlink(missing_ok=True)

    def _end_lookup(self) -> None:
        if self._lookup is not None:
            self._lookup.close()
            self._lookup = None

    def __len__(self) -> int:
        return 0 if self.catalogue is None else len(self.catalogue)

    @property
    def facts(self) -> dict[str, str]:
        """What the index says of itself; empty where there is none yet."""
        return {} if self.catalogue is None else self.catalogue.facts

    def check(self, metadata: Metadata, model: Path) -> None:
        """Refuse an encoder that did not make the points, see `Catalogue.check`."""
        if self.catalogue is not None:
            self.catalogue.check(metadata, model)

    def quarantine(self) -> dict[bytes, str]:
        """Files that could not be read, and why."""
        return {} if self.catalogue is None else dict(self.catalogue.quarantine())

    def objection(self, path: bytes, label: str, levels: str) -> str:
        """Why an image cannot be stored: there is no reason."""
        del path, label, levels
        return ""

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
        """Say whose points will be kept, see `Pending.expect`."""
        with self._failing():
            self._pending.expect(fingerprint, is_draft=self._is_draft)

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

    def keep(self, content: bytes, point: np.ndarray, thumbnail: bytes) -> None:
        """Keep a point (D,) that was made, and a small picture of its image; empty for none.

        Raises:
            InputError: the disk is full.
        """
        with self._failing():
            self._pending.keep(content, self._next_id, point, thumbnail)
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
            self.tables.drop_thumbnails_of_none()
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
        """Carry out a plan as a whole, or not at all; see `store.Store`.

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
            facts: of the encoder, and ``index_type``.
            proxies: (P, D) of the encoder.
            renew: make a new FAISS file in any case.
            progress: called with (done, total) points while a FAISS file is built.
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
                    self.tables.drop_thumbnails_of_none()
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
        for file in with_logs(target)[1:]:  # of another database
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
        placed = "pending WHERE EXISTS (SELECT 1 FROM images WHERE content = pending.content)"
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
        told = {"thumbnails": "1"} | self.facts | facts | {
            "version": VERSION,
            "count": str(count),
            "next_id": str(max(self._next_id, int(facts.get("next_id", 0)))),
            "level_names": json.dumps(merged_levels(list(map(list, levels))), ensure_ascii=False),
            "proxies": self.tables.put_proxies(proxies),
        } | self._place()  # fmt: skip
        self.tables.drop_thumbnails(self._parted, every=told["thumbnails"] != "1")
        self._parted.clear()
        told |= renewal.renewed(self.index, self.catalogue, told, self.tables, renew, progress)
        told |= verdicts.renewed(self.index, told, self.tables, progress)
        added, removed = self.tables.delta()
        told["delta"] = delta_checksum(added, removed)
        told["checksum"] = facts_checksum(told)
        self.database.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", told.items())

    def _remove(self, ids: Collection[int]) -> None:
        for number in ids:
            self._part(number)
            self.database.execute("DELETE FROM images WHERE id = ?", (number,))
            self.database.execute("DELETE FROM points WHERE id = ?", (number,))
            self.tables.note_removed(number)
        self._count -= len(ids)

    def _part(self, number: int) -> None:
        """Note the content that an image is about to lose."""
        ask = "SELECT content FROM images WHERE id = ?"
        if (held := self.database.execute(ask, (number,)).fetchone()) is not None:
            self._parted.add(held[0])

    def _change(self, row: Row, points: dict[bytes, bytes]) -> None:
        """Give an image another content and its point."""
        point = self._point(row.content, points)
        self._part(row.id)
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
        """Add the first rows, with their points under their own ids, inside `changing`."""
        with self.tables.indexed_afterwards():
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
