"""Bring an index up to date with folders of pictures: embed what is new, forget what is gone.

A file is known by the hash of its content, so that one that was moved, copied or only touched is
not embedded again. Points go into a journal as they are made; a run that is killed has lost none
of them, and the next one starts from there.
"""

import contextlib
import dataclasses
import hashlib
import os
import sqlite3
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np

from hiercli.encoder.session import EncoderSession
from hiercli.errors import ImageError, InputError
from hiercli.images import Skipped, find, read, read_bytes
from hiercli.index import pair
from hiercli.index.catalogue import Draft, Photo, facts_of, label_of, readable

_SECONDS_BETWEEN_SAVES = 1.0


@dataclasses.dataclass(frozen=True)
class Update:
    """What an update did.

    Attributes:
        added: pictures that were not there before.
        changed: paths whose content is another than it was.
        moved: pictures that lie elsewhere now; they keep their ids.
        removed: pictures that are gone.
        unchanged: pictures that hold what they held.
        embedded: pictures that the encoder had to look at.
        total: pictures in the index now.
        kept: the pictures asked for that are in the index, in natural path order.
        problems: files and folders that were passed over, with the reason.
    """

    added: int
    changed: int
    moved: int
    removed: int
    unchanged: int
    embedded: int
    total: int
    kept: list[Path]
    problems: list[tuple[Path, str]]


def update(
    index: Path,
    paths: Sequence[Path],
    session: EncoderSession,
    *,
    rebuild: bool = False,
    strict: bool = False,
    skipped: Skipped | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Update:
    """Make an index say what the given files and folders hold, leaving other folders' as they are.

    A picture whose content is damaged now is taken out; one that the file system refuses to give
    stays as it was, for what is out of reach is not gone. Both are named.

    Args:
        index: FAISS file, new or to be brought up to date.
        paths: pictures and folders of pictures.
        session: the encoder.
        rebuild: forget what is there and start anew, with another encoder if need be.
        strict: write nothing where something cannot be read.
        skipped: told of each file or folder that is passed over, and why.
        progress: called with (done, total) pictures.

    Raises:
        InputError: nothing to index, another writer at work, or the files cannot be written.
        MismatchError: the index was built with another encoder.
        FileFormatError: the index that is there is damaged.
    """
    problems: list[tuple[Path, str]] = []

    def pass_over(path: Path, reason: str) -> None:
        problems.append((path, reason))
        if skipped:
            skipped(path, reason)

    with pair.writing(index):
        anew = rebuild or not pair.exists(index)
        known, quarantined, facts = ({}, {}, {}) if anew else _known(index, session)
        pictures = find(paths, pass_over)
        closed = [_name(folder) for folder, _ in problems]
        with closing(_Journal(index, session.metadata.fingerprint)) as journal:
            seen: dict[bytes, _Seen] = {}
            for one in _look(pictures, known, session, journal, progress):
                if one.problem and one.name not in seen:
                    pass_over(one.path, one.problem)
                seen.setdefault(one.name, one)
            roots = [_name(path) for path in paths if path.is_dir()]
            plan = _plan(known, seen, roots, closed)
            total = len(known) - len(plan.removed) + len(plan.added)
            if not total or (strict and problems):
                good = sum(not one.problem for one in seen.values())
                raise InputError(
                    f"{len(problems)} inputs could not be read, {good} pictures could; nothing was "
                    "written"
                )
            passed_over = {_name(path): readable(os.fsencode(why)) for path, why in problems}
            freed = {n for n in quarantined if n in seen or _within(n, roots)}
            news = {n: why for n, why in passed_over.items() if quarantined.get(n) != why}
            wanted = facts_of(session.metadata, session.path)

            def fill(draft: Draft) -> None:
                draft.say(wanted)
                draft.set_quarantine(freed - passed_over.keys(), news.items())
                _carry_out(plan, draft, journal)

            stale = any(facts.get(name) != value for name, value in wanted.items())
            if plan.is_work or freed - passed_over.keys() or news or stale:
                pair.change(index, fill, anew=anew)
            journal.remove()
    return Update(
        added=len(plan.added),
        changed=len(plan.changed),
        moved=len(plan.moved),
        removed=len(plan.removed),
        unchanged=plan.unchanged,
        embedded=journal.embedded,
        total=total,
        kept=[
            one.path for name, one in seen.items() if not one.problem or name in plan.out_of_reach
        ],
        problems=problems,
    )


@dataclasses.dataclass(frozen=True)
class _Seen:
    """A file as it was read just now, or why it could not be."""

    path: Path
    name: bytes
    content: bytes = b""
    size: int = 0
    modified_ns: int = 0
    problem: str = ""


@dataclasses.dataclass
class _Plan:
    """Rows to write, without their points, and ids to remove."""

    added: list[Photo]
    changed: list[Photo]
    moved: list[Photo]
    touched: list[Photo]
    removed: list[int]
    unchanged: int
    out_of_reach: set[bytes]

    @property
    def is_work(self) -> bool:
        return bool(self.added or self.changed or self.moved or self.touched or self.removed)


def _known(
    index: Path, session: EncoderSession
) -> tuple[dict[bytes, Photo], dict[bytes, str], dict[str, str]]:
    """Photos by path, without their points (they are most of the memory); quarantine; facts."""
    catalogue, _ = pair.read(index)
    with closing(catalogue):
        catalogue.check(session.metadata, session.path)
        known = {}
        for photo, whole in catalogue.every():
            if not whole:
                catalogue.photos([photo.id])  # raises
            known[photo.path] = dataclasses.replace(photo, point=b"")
        return known, dict(catalogue.quarantine()), catalogue.facts


def _look(
    pictures: Sequence[Path],
    known: dict[bytes, Photo],
    session: EncoderSession,
    journal: "_Journal",
    progress: Callable[[int, int], None] | None,
) -> Iterator[_Seen]:
    """Read what is not known, and put the points of what is new into the journal."""
    preprocessing = session.metadata.preprocessing
    contents = {photo.content for photo in known.values()} | journal.contents()

    def load(path: Path) -> tuple[np.ndarray | None, _Seen]:
        name = _name(path)
        old = known.get(name)
        seen = _Seen(path, name)
        try:
            content, size, modified_ns = b"", -1, -1
            if old is not None:
                state = os.stat(path)
                size, modified_ns = state.st_size, state.st_mtime_ns
            if old is not None and (old.size, old.modified_ns) == (size, modified_ns):
                digest = old.content
            else:
                content, size, modified_ns = read_bytes(path)
                digest = hashlib.blake2b(content, digest_size=16).digest()
            seen = _Seen(path, name, digest, size, modified_ns)
            if digest in contents:
                return None, seen
            return preprocessing(read(path, preprocessing.shortest_side, content)), seen
        except (ImageError, OSError) as error:
            return None, dataclasses.replace(seen, problem=str(error))

    for done, (seen, point) in enumerate(session.stream(pictures, load), 1):
        if point is not None:
            journal.add(seen.content, point)
            contents.add(seen.content)
        if progress and (done % 32 == 0 or done == len(pictures)):
            progress(done, len(pictures))
        yield seen


def _plan(
    known: dict[bytes, Photo], seen: dict[bytes, _Seen], roots: list[bytes], closed: list[bytes]
) -> _Plan:
    plan = _Plan([], [], [], [], [], 0, set())
    gone: dict[bytes, list[Photo]] = defaultdict(list)
    for name, photo in known.items():
        if name in seen and seen[name].problem:
            if seen[name].content:  # read, and found to be no picture any more
                plan.removed.append(photo.id)
            else:
                plan.out_of_reach.add(name)
        elif name not in seen and _within(name, roots) and not _within(name, closed):
            gone[photo.content].append(photo)
    next_id = 1 + max((photo.id for photo in known.values()), default=-1)
    for name, one in seen.items():
        if one.problem:
            continue
        row = Photo(-1, name, label_of(one.path), one.content, one.size, one.modified_ns, b"")
        old = known.get(name)
        if old is not None:
            row = dataclasses.replace(row, id=old.id)
            if old.content != one.content:
                plan.changed.append(row)
            else:
                plan.unchanged += 1
                if row != old:
                    plan.touched.append(row)
        elif gone[one.content]:
            plan.moved.append(dataclasses.replace(row, id=gone[one.content].pop().id))
        else:
            plan.added.append(dataclasses.replace(row, id=next_id + len(plan.added)))
    plan.removed += [photo.id for left in gone.values() for photo in left]
    return plan


def _carry_out(plan: _Plan, draft: Draft, journal: "_Journal") -> None:
    rows = [*plan.changed, *plan.moved, *plan.touched, *plan.added]
    # What is not in the journal must be taken from rows that may be about to change.
    kept = draft.points_by_content({row.content for row in rows} - journal.contents())
    draft.remove([*plan.removed, *(row.id for row in rows)])
    draft.put(
        dataclasses.replace(row, point=kept.get(row.content) or journal.point(row.content))
        for row in rows
    )


def _name(path: Path) -> bytes:
    return os.fsencode(os.path.abspath(path))


def _within(name: bytes, folders: Sequence[bytes]) -> bool:
    return any(name.startswith(folder.rstrip(b"/") + b"/") for folder in folders)


class _Journal:
    """Points by content, on disk as soon as they are made, until the index holds them."""

    def __init__(self, index: Path, fingerprint: str) -> None:
        self.path = index.with_name(index.name + ".part")
        self.embedded = 0
        try:
            self._open(fingerprint)
        except sqlite3.Error:  # damaged, say by a loss of power: it holds nothing irreplaceable
            self._clear()
            try:
                self._open(fingerprint)
            except sqlite3.Error as error:
                self._clear()
                raise InputError(
                    f"writing {self.path} failed ({error}). The index is as it was: free some "
                    "space or choose another place, then run it again"
                ) from error

    def _clear(self) -> None:
        self._database.close()
        for file in (self.path, self.path.with_name(self.path.name + "-journal")):
            file.unlink(missing_ok=True)

    def _open(self, fingerprint: str) -> None:
        self._database = sqlite3.connect(self.path)
        self._database.execute("PRAGMA synchronous = NORMAL")
        self._database.execute("CREATE TABLE IF NOT EXISTS encoder (fingerprint TEXT UNIQUE)")
        self._database.execute(
            "CREATE TABLE IF NOT EXISTS points (content BLOB PRIMARY KEY, point BLOB NOT NULL) "
            "WITHOUT ROWID"
        )
        if self._database.execute("SELECT * FROM encoder").fetchall() != [(fingerprint,)]:
            self._database.execute("DELETE FROM encoder")
            self._database.execute("DELETE FROM points")
            self._database.execute("INSERT INTO encoder VALUES (?)", (fingerprint,))
        self._database.commit()
        self._saved = time.monotonic()

    def contents(self) -> set[bytes]:
        return {row[0] for row in self._database.execute("SELECT content FROM points")}

    def point(self, content: bytes) -> bytes:
        (point,) = self._database.execute(
            "SELECT point FROM points WHERE content = ?", (content,)
        ).fetchone()
        return bytes(point)

    def add(self, content: bytes, point: np.ndarray) -> None:
        self.embedded += 1
        row = (content, point.astype("<f4").tobytes())
        try:
            self._database.execute("INSERT OR REPLACE INTO points VALUES (?, ?)", row)
            if time.monotonic() - self._saved > _SECONDS_BETWEEN_SAVES:
                self._database.commit()
                self._saved = time.monotonic()
        except sqlite3.Error as error:
            raise InputError(
                f"writing {self.path} failed ({error}). The index is as it was, and what was "
                "embedded is kept: free some space, then run it again"
            ) from error

    def close(self) -> None:
        """Keep what is there for the next run; nothing happens once it is removed."""
        if self.path.exists():
            with contextlib.suppress(sqlite3.Error):  # a full disk has had its word already
                self._database.commit()
            self._database.close()

    def remove(self) -> None:
        """All of it is in the index."""
        self._clear()
