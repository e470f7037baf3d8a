"""The catalogue beside an index: what each id is, and the point that FAISS holds lifted.

``birds.faiss`` is a plain FAISS file; ``birds.faiss.sqlite`` says path, label and state of each id
and keeps its float32 point for exact ordering. A catalogue is never changed in place: it is
written anew beside the old one and takes its place as a whole, so a reader that has opened one
keeps what it has opened.
"""

import fnmatch
import functools
import hashlib
import json
import os
import re
import sqlite3
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from hiercli.bounds import MAX_DIM, is_curvature
from hiercli.collection import Collection
from hiercli.encoder.metadata import Metadata
from hiercli.errors import FileFormatError, InputError, MismatchError
from hiercli.files import parse_json
from hiercli.images import State
from hiercli.labels import as_label

VERSION = "6"
SCHEMA = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE photos (
    id INTEGER PRIMARY KEY, path BLOB NOT NULL UNIQUE, label TEXT NOT NULL, levels TEXT NOT NULL,
    content BLOB NOT NULL, size INTEGER NOT NULL, modified_ns INTEGER NOT NULL,
    changed_ns INTEGER NOT NULL, seal BLOB NOT NULL, point BLOB NOT NULL, point_seal BLOB NOT NULL
);
CREATE INDEX photos_by_content ON photos (content);
CREATE TABLE quarantine (path BLOB PRIMARY KEY, reason TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE proxies (id INTEGER PRIMARY KEY, point BLOB NOT NULL);
"""
COLUMNS = "id, path, label, levels, content, size, modified_ns, changed_ns"
_FACTS = (
    "version", "fingerprint", "c", "embedding_dim", "model", "next_id", "checksum", "index_type",
    "recall", "farthest", "level_names", "proxies",
)  # fmt: skip
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
        label: class, see `labels`.
        levels: its groups by level, fine to coarse, as JSON.
        content: hash of the file's bytes.
        state: of the file when it was read.
        point: (D,) little-endian float32 in the ball.
    """

    id: int
    path: bytes
    label: str
    levels: str
    content: bytes
    state: State
    point: bytes = b""

    def checksum(self) -> bytes:
        """Hash of all but the point, by which a reader knows that nothing was damaged."""
        return short_hash((self.id, self.path, self.label, self.levels, self.content, *self.state))

    def is_sound(self) -> bool:
        """Whether all is of the type that it should be; SQLite takes any."""
        texts = isinstance(self.label, str) and isinstance(self.path, bytes)
        groups_of(self.levels)
        blobs = isinstance(self.content, bytes) and isinstance(self.point, bytes)
        return texts and blobs and all(isinstance(number, int) for number in (self.id, *self.state))

    def point_checksum(self) -> bytes:
        """Hash of the point, likewise."""
        return short_hash((self.id, self.content, self.point))


def short_hash(values: object) -> bytes:
    """Eight bytes by which damage is noticed."""
    return hashlib.blake2b(repr(values).encode(), digest_size=8).digest()


@functools.lru_cache(2**12)  # many images share their groups
def _parsed_groups(levels: str) -> tuple[tuple[str, str], ...]:
    found = parse_json(levels)
    if not isinstance(found, dict) or not all(isinstance(group, str) for group in found.values()):
        raise ValueError(f"the levels are {levels[:40]!r}")
    return tuple(found.items())


def groups_of(levels: str) -> dict[str, str]:
    """Groups by level, fine to coarse, of what `levels_text` wrote.

    Raises:
        ValueError: it is something else.
    """
    return dict(_parsed_groups(levels))


def levels_text(level_names: Sequence[str], groups: Sequence[str]) -> str:
    """Groups by level, fine to coarse, as JSON; those that are not known are left out."""
    pairs = zip(level_names, groups, strict=True)
    return json.dumps({name: group for name, group in pairs if group}, ensure_ascii=False)


def catalogue_path(index: Path) -> Path:
    """Where the catalogue of an index lies."""
    return index.with_name(index.name + ".sqlite")


def readable(name: bytes) -> str:
    """A file name for reading: such names may hold bytes that are not UTF-8."""
    return name.decode("utf-8", "replace")


def facts_of(fingerprint: str, c: float, embedding_dim: int, model: Path | None) -> dict[str, str]:
    """What an index says of the encoder that made its points; its file may not be known."""
    return {
        "version": VERSION,
        "fingerprint": fingerprint,
        "c": repr(c),
        "embedding_dim": str(embedding_dim),
        # Names may hold bytes that are no text.
        "model": json.dumps("" if model is None else os.path.abspath(model)),
    }


def require_plain(database: sqlite3.Connection) -> None:
    """Check that a database holds nothing but tables, and set a limit to what a row of it takes.

    Raises:
        ValueError: it does. A view or a trigger in the place of a table could compute for ever.
    """
    database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST_ROW)
    asked = "SELECT count(*) FROM sqlite_master WHERE type NOT IN ('table', 'index')"
    if database.execute(asked).fetchone() != (0,):
        raise ValueError("it contains more than tables")


def facts_checksum(facts: dict[str, str]) -> str:
    """Hash of all facts but the hash itself."""
    return short_hash(sorted((name, facts[name]) for name in facts if name != "seal")).hex()


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
            missing = self.path if over else index
            raise InputError(
                f"expected an index, but {missing} is missing. Build one with `hier embed "
                f"FOLDER --index {index}{over}`"
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
                f"{index} was written by another version of hier. Build it again with `hier embed "
                "FOLDER --index ... --rebuild`"
            )
        with self._damage():
            if self.facts.get("seal") != facts_checksum(self.facts) or set(_FACTS) - set(
                self.facts
            ):
                raise ValueError("its encoder metadata has changed")
            self.c = float(self.facts["c"])
            self.dim = int(self.facts["embedding_dim"])
            self.fingerprint = self.facts["fingerprint"]
            self.checksum = self.facts["checksum"]
            self.recall = float(self.facts["recall"])
            self.farthest = float(self.facts["farthest"])
            self.model = Path(parse_json(self.facts["model"]))
            int(self.facts["next_id"])
            self.level_names = tuple(map(str, parse_json(self.facts["level_names"])))
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
                f"{self.dim} dimensions), {model} is {metadata.fingerprint} (c={metadata.c:g}, "
                f"{metadata.embedding_dim} dimensions). Use {self.model}, or build the index "
                "again with `hier embed ... --rebuild`"
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
                    raise self._damaged(f"the row with id {photo.id} has changed")
                found[getattr(photo, column)] = photo
        lost = [value for value in wanted if value not in found]
        if lost:
            raise self._damaged(f"the row with {column} {lost[0]!r} is missing")
        return [found[value] for value in wanted]

    def where(self, conditions: Sequence[tuple[str, str]]) -> np.ndarray:
        """Ids (M,) of the rows that meet all conditions, in order.

        Args:
            conditions: pairs of ``label``, ``path`` or the name of a level, and a text, or a
                pattern in which ``*``, ``?`` and ``[...]`` stand for characters, as in a shell; a
                star also stands for slashes.

        Raises:
            InputError: there is no such level.
            FileFormatError: a row is damaged.
        """
        found = []
        for name, _ in conditions:
            if name not in ("label", "path", *self.level_names):
                raise InputError(
                    f"{self.index} has no level {name!r}. Conditions can be on "
                    f"{', '.join(('label', 'path', *self.level_names))}"
                )
        wanted = [(name, as_label(pattern)) for name, pattern in conditions]
        # Row by row and not in SQL, which would not notice a label that was damaged.
        for photo in self.names():
            texts = groups_of(photo.levels)
            texts |= {"label": as_label(photo.label), "path": as_label(readable(photo.path))}
            if all(
                texts.get(name) == pattern or fnmatch.fnmatchcase(texts.get(name, ""), pattern)
                for name, pattern in wanted
            ):
                found.append(photo.id)
        return np.array(found, np.int64)

    def names(self) -> Iterator[Photo]:
        """All rows by id, without their points.

        Raises:
            FileFormatError: a row is damaged.
        """
        ask = f"SELECT {COLUMNS}, seal FROM photos ORDER BY id"
        with self._damage():
            for number, path, label, levels, content, *state, seal in self._database.execute(ask):
                photo = Photo(number, path, label, levels, content, tuple(state))
                if photo.checksum() != seal or not photo.is_sound():
                    raise ValueError(f"the row with id {number} has changed")
                yield photo

    def copies(self, contents: Sequence[bytes]) -> dict[bytes, list[Photo]]:
        """All rows with some contents, by content, each list by id."""
        found: dict[bytes, list[Photo]] = defaultdict(list)
        for first in range(0, len(contents), _AT_ONCE):
            some = contents[first : first + _AT_ONCE]
            marks = ",".join("?" * len(some))
            for photo, whole in self._rows(f"WHERE content IN ({marks}) ORDER BY id", some):
                if not whole:
                    raise self._damaged(f"the row with id {photo.id} has changed")
                found[photo.content].append(photo)
        return found

    def collection(self, photos: Sequence[Photo]) -> Collection:
        """Some rows as a collection, with the proxies of the encoder.

        Raises:
            FileFormatError: a point or a proxy is damaged.
        """
        points = np.frombuffer(b"".join(photo.point for photo in photos), "<f4")
        groups = [groups_of(photo.levels) for photo in photos]
        with self._damage():
            proxies = self.proxies()
            try:
                return Collection(
                    points=points.reshape(len(photos), self.dim),
                    paths=[os.fsdecode(photo.path) for photo in photos],
                    labels=[photo.label for photo in photos],
                    levels=[tuple(own.get(name, "") for name in self.level_names) for own in groups]
                    if self.level_names else None,
                    level_names=self.level_names,
                    c=self.c,
                    proxies=proxies if len(proxies) else None,
                    fingerprint=self.fingerprint,
                )  # fmt: skip
            except InputError as error:
                raise ValueError(str(error)) from error

    def proxies(self) -> np.ndarray:
        """Hierarchical proxies (P, D) of the encoder, float32; (0, D) where it has none."""
        with self._damage():
            ask = "SELECT point FROM proxies ORDER BY id"
            rows = [row[0] for row in self._database.execute(ask)]
            if short_hash(rows).hex() != self.facts["proxies"]:
                raise ValueError("the proxies have changed")
            return np.frombuffer(b"".join(rows), "<f4").reshape(len(rows), self.dim)

    def every(self, *, backwards: bool = False) -> Iterator[tuple[Photo, bool]]:
        """All rows by id, each with whether it is whole."""
        return self._rows("ORDER BY id DESC" if backwards else "ORDER BY id", ())

    def quarantine(self) -> list[tuple[bytes, str]]:
        """Path and reason of each file that was passed over."""
        with self._damage():
            return list(self._database.execute("SELECT path, reason FROM quarantine ORDER BY path"))

    def integrity(self) -> list[str]:
        """Damage that SQLite reports."""
        with self._damage():
            found = [row[0] for row in self._database.execute("PRAGMA integrity_check")]
        return [] if found == ["ok"] else found

    def _rows(self, where: str, values: Sequence[Any]) -> Iterator[tuple[Photo, bool]]:
        with self._damage():
            for (
                number,
                path,
                label,
                levels,
                content,
                *state,
                seal,
                point,
                point_seal,
            ) in self._database.execute(
                f"SELECT {COLUMNS}, seal, point, point_seal FROM photos {where}", values
            ):
                photo = Photo(number, path, label, levels, content, tuple(state), point)
                whole = (photo.checksum(), photo.point_checksum()) == (seal, point_seal)
                yield photo, whole and photo.is_sound() and len(point) == 4 * self.dim

    def _damaged(self, what: object) -> FileFormatError:
        return FileFormatError(
            f"{self.path} is damaged, or is not the catalogue of an index ({what}). Run `hier "
            f"index repair {self.index}` to keep the valid images, or build the index again with "
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
