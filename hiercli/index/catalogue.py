"""The catalogue beside an index: what each id is, and the point that FAISS holds lifted.

``birds.faiss`` is a plain FAISS file; ``birds.faiss.sqlite`` says path, label and state of each id
and keeps its float32 point for exact ordering. A catalogue is never changed in place: it is
written anew beside the old one and takes its place as a whole, so a reader that has opened one
keeps what it has opened.
"""

import fnmatch
import hashlib
import json
import os
import re
import shutil
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from hiercli.bounds import MAX_DIM, is_curvature
from hiercli.encoder.metadata import Metadata
from hiercli.errors import FileFormatError, InputError, MismatchError
from hiercli.files import parse_json, replacing
from hiercli.images import Places, State
from hiercli.labels import as_label

VERSION = "5"
_SCHEMA = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE photos (
    id INTEGER PRIMARY KEY, path BLOB NOT NULL UNIQUE, label TEXT NOT NULL, content BLOB NOT NULL,
    size INTEGER NOT NULL, modified_ns INTEGER NOT NULL, changed_ns INTEGER NOT NULL,
    seal BLOB NOT NULL, point BLOB NOT NULL, point_seal BLOB NOT NULL
);
CREATE INDEX photos_by_content ON photos (content);
CREATE TABLE quarantine (path BLOB PRIMARY KEY, reason TEXT NOT NULL) WITHOUT ROWID;
"""
_COLUMNS = "id, path, label, content, size, modified_ns, changed_ns"
_FACTS = (
    "version", "fingerprint", "c", "embedding_dim", "model", "next_id", "checksum", "index_type",
    "recall", "farthest",
)  # fmt: skip
_POINTS_AT_ONCE = 16_384
_LONGEST_ROW = 2**20
"""Bytes: a point takes a quarter of that at most."""
_AT_ONCE = 500
"""Ids of one query, below what any SQLite accepts."""


@dataclass(frozen=True)
class Photo:
    """One row of the catalogue.

    Attributes:
        id: not given to another picture as long as the index is not built anew.
        path: where it lies, see `images.Places`.
        label: class, the name of its folder.
        content: hash of the file's bytes.
        state: of the file when it was read.
        point: (D,) little-endian float32 in the ball.
    """

    id: int
    path: bytes
    label: str
    content: bytes
    state: State
    point: bytes = b""

    def seal(self) -> bytes:
        """Hash of all but the point, by which a reader knows that nothing was damaged."""
        return _hash((self.id, self.path, self.label, self.content, *self.state))

    def is_sound(self) -> bool:
        """Whether all is of the type that it should be; SQLite takes any."""
        texts = isinstance(self.label, str) and isinstance(self.path, bytes)
        blobs = isinstance(self.content, bytes) and isinstance(self.point, bytes)
        return texts and blobs and all(isinstance(number, int) for number in (self.id, *self.state))

    def point_seal(self) -> bytes:
        """Hash of the point, likewise."""
        return _hash((self.id, self.content, self.point))


def _hash(values: object) -> bytes:
    return hashlib.blake2b(repr(values).encode(), digest_size=8).digest()


def catalogue_path(index: Path) -> Path:
    """Where the catalogue of an index lies."""
    return index.with_name(index.name + ".sqlite")


def label_of(path: Path | str) -> str:
    """The class of a picture: the name of its folder, as it was reached, be it a link or not."""
    folder = os.path.dirname(os.path.abspath(path))
    return as_label(readable(os.fsencode(os.path.basename(folder))))


def readable(name: bytes) -> str:
    """A file name for reading: such names may hold bytes that are not UTF-8."""
    return name.decode("utf-8", "replace")


def facts_of(metadata: Metadata, model: Path) -> dict[str, str]:
    """What an index says of the encoder that made its points."""
    return {
        "version": VERSION,
        "fingerprint": metadata.fingerprint,
        "c": repr(metadata.c),
        "embedding_dim": str(metadata.embedding_dim),
        "model": json.dumps(os.path.abspath(model)),  # names may hold bytes that are no text
    }


def require_plain(database: sqlite3.Connection) -> None:
    """Check that a database holds nothing but tables, and set a limit to what a row of it takes.

    Raises:
        ValueError: it does. A view or a trigger in the place of a table could compute for ever.
    """
    database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST_ROW)
    asked = "SELECT count(*) FROM sqlite_master WHERE type NOT IN ('table', 'index')"
    if database.execute(asked).fetchone() != (0,):
        raise ValueError("it holds more than tables")


def _facts_seal(facts: dict[str, str]) -> str:
    return _hash(sorted((name, facts[name]) for name in facts if name != "seal")).hex()


class Catalogue:
    """A catalogue opened for reading.

    Attributes:
        facts: text by name: encoder, geometry, checksum of the FAISS file.

    Raises:
        InputError: missing.
        FileFormatError: damaged, foreign or of another version.
    """

    def __init__(self, index: Path) -> None:
        self.index = index = Path(os.path.realpath(index))  # a link has no catalogue beside it
        self.path = catalogue_path(index)
        if not self.path.is_file():
            # What lies there without a catalogue may be somebody's own: it is not replaced unasked.
            over = " --rebuild" if index.exists() else ""
            raise InputError(
                f"expected an index, but {self.path} is missing: build one with "
                f"`hier embed FOLDER --model M.onnx --index {index}{over}`"
            )
        # Immutable: no lock, and none of the files beside it that a read-only folder refuses.
        where = f"file:{quote(os.fsencode(os.path.realpath(self.path)))}?mode=ro&immutable=1"
        with self._damage():
            self._database = sqlite3.connect(where, uri=True, check_same_thread=False)
            require_plain(self._database)
            self.facts = dict(self._database.execute("SELECT name, value FROM facts"))
            version = self.facts["version"]
        if version != VERSION and re.fullmatch("[0-9]{1,3}", str(version)):
            self.close()
            raise FileFormatError(
                f"{index} was written by another version of hier: build it again with `hier embed "
                "FOLDER --index ... --rebuild`"
            )
        with self._damage():
            if self.facts.get("seal") != _facts_seal(self.facts) or set(_FACTS) - set(self.facts):
                raise ValueError("what it says of its encoder was changed")
            self.c = float(self.facts["c"])
            self.dim = int(self.facts["embedding_dim"])
            self.fingerprint = self.facts["fingerprint"]
            self.checksum = self.facts["checksum"]
            self.recall = float(self.facts["recall"])
            self.farthest = float(self.facts["farthest"])
            self.model = Path(parse_json(self.facts["model"]))
            int(self.facts["next_id"])
            if not is_curvature(self.c) or not 1 <= self.dim <= MAX_DIM or not self.farthest >= 1:
                raise ValueError(f"c is {self.c}, of {self.dim} dimensions")

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()

    def __len__(self) -> int:
        with self._damage():
            (count,) = self._database.execute("SELECT count(*) FROM photos").fetchone()
        return int(count)

    def check(self, metadata: Metadata, model: Path) -> None:
        """Refuse an encoder that did not make this index.

        Raises:
            MismatchError: it names both sides.
        """
        if metadata.fingerprint != self.fingerprint:
            raise MismatchError(
                f"the index {self.index} was built with encoder {self.fingerprint} (c={self.c:g}, "
                f"{self.dim} dimensions), {model} is {metadata.fingerprint} "
                f"(c={metadata.c:g}, {metadata.embedding_dim} dimensions). Use "
                f"{self.model}, or build the index anew with `hier embed ... --rebuild`"
            )

    def photos(self, ids: Sequence[int]) -> list[Photo]:
        """The rows of some ids, in their order.

        Raises:
            FileFormatError: a row is missing or damaged.
        """
        return self._find("id", [int(number) for number in ids])

    def at(self, paths: Sequence[bytes]) -> list[Photo]:
        """The rows of some absolute paths, in their order.

        Raises:
            FileFormatError: a row is missing or damaged.
        """
        return self._find("path", paths)

    def _find(self, column: str, wanted: Sequence[Any]) -> list[Photo]:
        found: dict[Any, Photo] = {}
        for first in range(0, len(wanted), _AT_ONCE):
            some = wanted[first : first + _AT_ONCE]
            marks = ",".join("?" * len(some))
            for photo, whole in self._rows(f"WHERE {column} IN ({marks})", some):
                if not whole:
                    raise self._damaged(f"the row of id {photo.id} was changed")
                found[getattr(photo, column)] = photo
        lost = [value for value in wanted if value not in found]
        if lost:
            raise self._damaged(f"there is no row of {column} {lost[0]!r}")
        return [found[value] for value in wanted]

    def where(self, conditions: Sequence[tuple[str, str]]) -> np.ndarray:
        """Ids (M,) of the rows that meet all conditions, in order.

        Args:
            conditions: pairs of ``label`` or ``path`` and a text, or a pattern in which ``*``,
                ``?`` and ``[...]`` stand for characters, as in a shell; a star also stands for
                slashes.

        Raises:
            FileFormatError: a row is damaged.
        """
        found = []
        wanted = [(name, as_label(pattern)) for name, pattern in conditions]
        # Row by row and not in SQL, which would not notice a label that was damaged.
        for photo in self.names():
            texts = {"label": as_label(photo.label), "path": as_label(readable(photo.path))}
            if all(
                texts[name] == pattern or fnmatch.fnmatchcase(texts[name], pattern)
                for name, pattern in wanted
            ):
                found.append(photo.id)
        return np.array(found, np.int64)

    def names(self) -> Iterator[Photo]:
        """All rows by id, without their points.

        Raises:
            FileFormatError: a row is damaged.
        """
        ask = f"SELECT {_COLUMNS}, seal FROM photos ORDER BY id"
        with self._damage():
            for number, path, label, content, *state, seal in self._database.execute(ask):
                photo = Photo(number, path, label, content, tuple(state))
                if photo.seal() != seal or not photo.is_sound():
                    raise ValueError(f"the row of id {number} was changed")
                yield photo

    def copies(self, contents: Sequence[bytes]) -> dict[bytes, list[Photo]]:
        """All rows with some contents, by content, each list by id."""
        found: dict[bytes, list[Photo]] = defaultdict(list)
        for first in range(0, len(contents), _AT_ONCE):
            some = contents[first : first + _AT_ONCE]
            marks = ",".join("?" * len(some))
            for photo, whole in self._rows(f"WHERE content IN ({marks}) ORDER BY id", some):
                if not whole:
                    raise self._damaged(f"the row of id {photo.id} was changed")
                found[photo.content].append(photo)
        return found

    def with_points(self, where: Sequence[tuple[str, str]] = ()) -> tuple[list[Photo], np.ndarray]:
        """The rows that meet all conditions, see `where`, and their points (M, D) float32.

        Raises:
            FileFormatError: a row is damaged.
        """
        rows = self.photos(self.where(where).tolist())
        points = np.frombuffer(b"".join(row.point for row in rows), "<f4")
        return rows, points.reshape(len(rows), self.dim)

    def every(self, *, backwards: bool = False) -> Iterator[tuple[Photo, bool]]:
        """All rows by id, each with whether it is whole."""
        return self._rows("ORDER BY id DESC" if backwards else "ORDER BY id", ())

    def quarantine(self) -> list[tuple[bytes, str]]:
        """Path and reason of each file that was passed over."""
        with self._damage():
            return list(self._database.execute("SELECT path, reason FROM quarantine ORDER BY path"))

    def integrity(self) -> list[str]:
        """What SQLite itself finds amiss."""
        with self._damage():
            found = [row[0] for row in self._database.execute("PRAGMA integrity_check")]
        return [] if found == ["ok"] else found

    def _rows(self, where: str, values: Sequence[Any]) -> Iterator[tuple[Photo, bool]]:
        with self._damage():
            for (
                number,
                path,
                label,
                content,
                *state,
                seal,
                point,
                point_seal,
            ) in self._database.execute(
                f"SELECT {_COLUMNS}, seal, point, point_seal FROM photos {where}", values
            ):
                photo = Photo(number, path, label, content, tuple(state), point)
                whole = (photo.seal(), photo.point_seal()) == (seal, point_seal)
                yield photo, whole and photo.is_sound() and len(point) == 4 * self.dim

    def _damaged(self, what: object) -> FileFormatError:
        return FileFormatError(
            f"{self.path} is not the catalogue of an index, or it is damaged ({what}): `hier index "
            f"repair {self.index}` saves what can be saved; else build the index again with "
            "`hier embed FOLDER --index ... --rebuild`"
        )

    @contextmanager
    def _damage(self) -> Iterator[None]:
        try:
            yield
        except (
            sqlite3.Error,
            KeyError,
            ValueError,
            TypeError,
            OverflowError,
            AttributeError,
            MemoryError,
        ) as error:
            raise self._damaged(error) from error


def points_at(index: Path, paths: Sequence[Path]) -> np.ndarray:
    """Points (N, D) float32 of pictures that an index holds.

    Raises:
        FileFormatError: a picture is not there.
    """
    place = Places()
    with closing(Catalogue(index)) as catalogue:
        photos = catalogue.at([place(path) for path in paths])
        flat = np.frombuffer(b"".join(photo.point for photo in photos), "<f4")
        return flat.reshape(len(photos), catalogue.dim)


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
            f"INSERT INTO photos ({_COLUMNS}, seal, point, point_seal) "
            f"VALUES ({', '.join('?' * (_COLUMNS.count(',') + 4))})",
            (
                (p.id, p.path, p.label, p.content, *p.state, p.seal(), p.point, p.point_seal())
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
            "UPDATE photos SET path = ?, label = ?, size = ?, modified_ns = ?, changed_ns = ?, "
            "seal = ? WHERE id = ?",
            ((p.path, p.label, *p.state, p.seal(), p.id) for p in photos),
        )

    def seal(self) -> None:
        """Seal the facts, when all of them are said."""
        facts = dict(self._database.execute("SELECT name, value FROM facts"))
        self.say({"seal": _facts_seal(facts)})

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
                    database.executescript(_SCHEMA)
                yield Draft(database)
                database.commit()
            finally:
                database.close()
        except (sqlite3.Error, OverflowError, UnicodeError) as error:
            raise InputError(
                f"writing {target} failed ({error}). Nothing was left behind; free some space or "
                "choose another place, then run it again"
            ) from error
