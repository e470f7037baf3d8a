"""The catalogue of an index: one SQLite database, which is the truth about its images.

``birds.faiss.sqlite`` holds path, label, levels, content hash and float32 point of every image. The
FAISS file ``birds.faiss`` is made of it, and can be made again at any time. It carries the id of
its generation behind its last byte. Points that it does not have yet, or has too many, are listed
in the catalogue: a search adds and leaves them out.

Checksums have no key: they find accidents, not intent. What is given out is checked, what is only
looked through is not; `health.verify` checks all.
"""

import contextlib
import os
import re
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from hiercli.bounds import MAX_DIM, is_curvature
from hiercli.collection import Collection
from hiercli.encoder.metadata import Metadata
from hiercli.errors import FileFormatError, InputError
from hiercli.files import parse_json
from hiercli.index import database
from hiercli.index.locations import (
    catalogue_path,
    is_relative,
    join,
    located,
    require_replaceable,
    split,
)
from hiercli.index.pair import named_models
from hiercli.index.schema import (
    AT_ONCE,
    COLUMNS,
    FACTS,
    POINTS_AT_ONCE,
    SCHEMA,
    VERSION,
    VIEW,
    Row,
    delta_checksum,
    facts_checksum,
    groups_of,
    image_checksum,
    point_checksum,
    short_hash,
)
from hiercli.index.searchable import collection_of, require_encoder

_SAMPLE = 50
"""Images that are looked for where an index may have been moved."""


def version_of(index: Path) -> str:
    """Version of the catalogue of an index; empty where there is none that can be read."""
    try:
        opened = database.open_to_read(catalogue_path(index))
    except sqlite3.Error:
        return ""
    with contextlib.closing(opened), contextlib.suppress(sqlite3.Error, TypeError, ValueError):
        database.limit_steps(opened, catalogue_path(index))
        database.require_tables(opened, VIEW)
        ask = "SELECT value FROM facts WHERE name = 'version'"
        (version,) = opened.execute(ask).fetchone()
        return str(version) if re.fullmatch("[0-9]{1,3}", str(version)) else ""
    return ""


def encoder_of(index: Path) -> tuple[Path, str] | None:
    """Where the encoder of an index of any version lay, and its fingerprint.

    ``None`` where that cannot be read: whoever opens the index says why.
    """
    with contextlib.suppress(sqlite3.Error, ValueError, TypeError, KeyError):
        opened = database.open_to_read(catalogue_path(index))
        with contextlib.closing(opened):
            database.limit_steps(opened, catalogue_path(index))
            database.require_tables(opened, VIEW)
            facts = dict(opened.execute("SELECT name, value FROM facts"))
            return Path(parse_json(facts["model"])), str(facts["fingerprint"])
    return None


def missing(index: Path) -> InputError:
    """What people are told where there is no index."""
    try:
        require_replaceable(index)
    except InputError:
        return InputError(
            f"expected an index, but {index} is another kind of file. Name the file that `hier "
            "embed --index` wrote"
        )
    # What lies there without a catalogue may be somebody's own: it is not replaced unasked.
    over = " --rebuild" if index.exists() else ""
    lost = catalogue_path(index) if over else index
    return InputError(
        f"expected an index, but {lost} is missing. Build one with `hier embed FOLDER --index "
        f"{index}{over}`"
    )


class Catalogue:
    """A catalogue opened for reading, as it was when it was opened.

    Args:
        index: the FAISS file that it belongs to.
        root: what relative paths are relative to, instead of what the catalogue says.
        opened: its database, where that is open already.
        check: whether its tables are what they should be, of a database that is open already.

    Attributes:
        facts: text by name: encoder, geometry, generation of the FAISS file.

    Raises:
        InputError: missing.
        FileFormatError: damaged, foreign or of another version.
    """

    def __init__(
        self,
        index: Path,
        root: Path | None = None,
        opened: sqlite3.Connection | None = None,
        *,
        check: bool = False,
    ) -> None:
        self.index = index = Path(os.path.realpath(index))  # a link has no catalogue beside it
        self.path = catalogue_path(index)
        if opened is None and not os.path.isfile(self.path):
            raise missing(index)
        if opened is None and (version := version_of(index)) not in ("", VERSION):
            raise FileFormatError(
                f"{index} was written by another version of hier (format {version}, expected "
                f"{VERSION}). If that version is older, run `hier index compact {index}`. No image "
                "is embedded again"
            )
        self._folders: dict[int, bytes] = {}
        self._classes: dict[int, tuple[str, str]] = {}
        with self.damage():
            self.database = opened or database.open_to_read(self.path)
        try:
            with self.damage():
                if opened is None or check:
                    database.limit_steps(self.database, self.path)
                    database.require_schema(self.database, SCHEMA)
            self._read_facts(root)
        except BaseException:
            if opened is None:
                self.close()
            raise

    def _read_facts(self, root: Path | None) -> None:
        """Take what it says of itself, and check it."""
        with self.damage():
            self.facts = facts = dict(self.database.execute("SELECT name, value FROM facts"))
            if facts.get("checksum") != facts_checksum(facts) or set(FACTS) - set(facts):
                raise ValueError("its encoder metadata has changed")
            self.c = float(facts["c"])
            self.dim = int(facts["embedding_dim"])
            self.fingerprint, self.generation = facts["fingerprint"], facts["generation"]
            self.recall, self.farthest = float(facts["recall"]), float(facts["farthest"])
            self.count, self.placed = int(facts["count"]), int(facts["placed"])
            self.faiss_bytes, self.next_id = int(facts["faiss_bytes"]), int(facts["next_id"])
            self.model = Path(parse_json(facts["model"]))
            self.level_names = tuple(map(str, parse_json(facts["level_names"])))
            if not is_curvature(self.c) or not 1 <= self.dim <= MAX_DIM or not self.farthest >= 1:
                raise ValueError(f"c is {self.c}, of {self.dim} dimensions")
            stored, before = parse_json(facts["root"]), parse_json(facts["home"])
            self.locations = located(self.index.parent, before, stored, root, self._some_relative)

    def _some_relative(self) -> Iterator[tuple[bytes, bytes]]:
        """Folder and name of a few images with relative paths, spread over all."""
        ask = (
            "SELECT path, name FROM images JOIN folders ON folders.id = folder "
            "WHERE images.id >= ? ORDER BY images.id LIMIT 1"
        )
        for first in range(0, self.next_id, max(1, self.next_id // _SAMPLE)):
            found = self.database.execute(ask, (first,)).fetchone()
            if found is not None and is_relative(found[0]):
                yield found

    def close(self) -> None:
        """Let go of the file."""
        self.database.close()

    def __len__(self) -> int:
        return self.count

    def check(self, metadata: Metadata, model: Path) -> None:
        """Refuse an encoder that did not make this index.

        Raises:
            MismatchError: it names both sides.
        """
        named = named_models(self.facts.get("pair", ""), self.model)
        told = self.fingerprint, self.c, self.dim, named
        require_encoder(self.index, told, metadata, model)

    def rows(self, ids: Sequence[int], *, points: bool = True) -> list[Row]:
        """The rows of some ids, in their order.

        Args:
            ids: of images.
            points: take their points too.

        Raises:
            FileFormatError: a row is missing or damaged.
        """
        found = {row.id: row for row in self._some("id", [int(number) for number in ids])}
        stored = dict(zip(*self.points_of(list(found)), strict=True)) if points else {}
        lost = [number for number in ids if number not in found]
        if lost:
            raise self.damaged(f"the row with id {lost[0]} is missing")
        if not points:
            return [found[number] for number in ids]
        return [found[number]._replace(point=stored[number].tobytes()) for number in ids]

    def at(self, paths: Iterable[bytes]) -> dict[bytes, Row]:
        """The rows of some absolute paths, by path, without their points."""
        found: dict[bytes, Row] = {}
        ask = f"SELECT {COLUMNS} FROM images WHERE folder = ? AND name = ?"
        with self.damage():
            for path in paths:
                folder, name = split(path)
                number = self.folder_id(folder)
                values = None if number is None else self.database.execute(
                    ask, (number, name)
                ).fetchone()  # fmt: skip
                if values is not None:
                    found[path] = self.row(values)
        return found

    def folder_id(self, folder: bytes) -> int | None:
        """The id of a folder of the file system; ``None`` where no image was ever in it."""
        ask = "SELECT id FROM folders WHERE path = ?"
        for written in dict.fromkeys((self.locations.written(folder), folder)):
            if (found := self.database.execute(ask, (written,)).fetchone()) is not None:
                return int(found[0])
        return None

    def in_folder(self, number: int) -> Iterator[Row]:
        """The images that lie in a folder, without their points, unchecked."""
        ask = f"SELECT {COLUMNS} FROM images WHERE folder = ?"
        with self.damage():
            for values in self.database.execute(ask, (number,)):
                yield self.row(values, checked=False)

    def folders(self) -> dict[int, bytes]:
        """All folders, as the file system knows them, by id."""
        with self.damage():
            for (number,) in self.database.execute("SELECT id FROM folders"):
                self._folder(number)
        return self._folders

    def classes(self) -> dict[int, tuple[str, str]]:
        """All labels with their levels, by id."""
        with self.damage():
            for (number,) in self.database.execute("SELECT id FROM classes"):
                self._class(number)
        return self._classes

    def copies(self, contents: Sequence[bytes]) -> dict[bytes, list[Row]]:
        """All rows with some contents, by content, each list by id."""
        found: dict[bytes, list[Row]] = defaultdict(list)
        for row in sorted(self._some("content", contents), key=lambda row: row.id):
            found[row.content].append(row)
        return found

    def _some(self, column: str, wanted: Sequence[Any]) -> Iterator[Row]:
        with self.damage():
            for first in range(0, len(wanted), AT_ONCE):
                some = wanted[first : first + AT_ONCE]
                ask = f"SELECT {COLUMNS} FROM images WHERE {column} IN ({_marks(some)})"
                for values in self.database.execute(ask, some):
                    yield self.row(values)

    def row(self, values: Sequence[Any], *, checked: bool = True) -> Row:
        """A row of what a query for `COLUMNS` gives.

        Raises:
            ValueError: it is damaged.
        """
        number, folder, name, kind, content, *state, split, checksum = values
        if checked and (
            image_checksum(values[:-1]) != checksum or not isinstance(split, str)
            or not isinstance(content, bytes) or not isinstance(name, bytes) or b"\0" in name
            or not all(isinstance(one, int) for one in (number, *state))
        ):  # fmt: skip
            raise ValueError(f"the row with id {number} has changed")
        return Row(
            number, join(self._folder(folder), name), *self._class(kind), content, tuple(state),
            split=split,
        )  # fmt: skip

    def _folder(self, number: int) -> bytes:
        if number not in self._folders:
            ask = "SELECT path, checksum FROM folders WHERE id = ?"
            path, checksum = self.database.execute(ask, (number,)).fetchone()
            if short_hash((number, path)) != checksum or b"\0" in path:
                raise ValueError(f"the folder with id {number} has changed")
            self._folders[number] = self.locations.actual(path)
        return self._folders[number]

    def _class(self, number: int) -> tuple[str, str]:
        if number not in self._classes:
            ask = "SELECT label, levels, checksum FROM classes WHERE id = ?"
            label, levels, checksum = self.database.execute(ask, (number,)).fetchone()
            if short_hash((number, label, levels)) != checksum or not isinstance(label, str):
                raise ValueError(f"the class with id {number} has changed")
            groups_of(levels)
            self._classes[number] = label, levels
        return self._classes[number]

    def points_of(self, ids: Sequence[int]) -> tuple[list[int], np.ndarray]:
        """Points of some ids, by id: (ids, float32 (N, D)).

        Raises:
            FileFormatError: a point is missing or damaged.
        """
        numbers, points = [], []
        asked = sorted({int(number) for number in ids})
        with self.damage():
            for first in range(0, len(asked), AT_ONCE):
                some = asked[first : first + AT_ONCE]
                ask = (
                    f"SELECT id, point, checksum FROM points WHERE id IN ({_marks(some)}) "
                    "ORDER BY id"
                )
                for number, point, checksum in self.database.execute(ask, some):
                    if point_checksum(number, point) != checksum or len(point) != 4 * self.dim:
                        raise ValueError(f"the point with id {number} has changed")
                    numbers.append(number)
                    points.append(point)
            if numbers != asked:
                raise ValueError(f"the point with id {min(set(asked) - set(numbers))} is missing")
        return numbers, np.frombuffer(b"".join(points), "<f4").reshape(len(points), self.dim)

    def some_points(self, count: int) -> np.ndarray:
        """Points (N, D) of at most so many images, evenly spread over all ids."""
        ask = "SELECT id FROM images WHERE id >= ? ORDER BY id LIMIT 1"
        starts = set(np.linspace(0, max(self.next_id - 1, 0), count).astype(int).tolist())
        with self.damage():
            found = [self.database.execute(ask, (start,)).fetchone() for start in starts]
        return self.points_of(sorted({row[0] for row in found if row is not None}))[1]

    def points(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Ids (N,) and points (N, D) of all images by id, in blocks, unchecked.

        Raises:
            FileFormatError: a point has another length.
        """
        with self.damage():
            cursor = self.database.execute(
                "SELECT images.id, point FROM images JOIN points USING (id) ORDER BY images.id"
            )
            while block := cursor.fetchmany(POINTS_AT_ONCE):
                flat = np.frombuffer(b"".join(point for _, point in block), "<f4")
                ids = np.array([number for number, _ in block], np.int64)
                yield ids, flat.reshape(len(ids), self.dim)

    def delta(self) -> tuple[np.ndarray, np.ndarray]:
        """Ids that the FAISS file does not have yet, and ids that it has too many, each in order.

        Raises:
            FileFormatError: they are not those that were written.
        """
        with self.damage():
            added, removed = (
                [number for (number,) in self.database.execute(f"SELECT id FROM {name} ORDER BY 1")]
                for name in ("added", "removed")
            )
            if delta_checksum(added, removed) != self.facts["delta"]:
                raise ValueError("the ids of added and removed images have changed")
        return np.array(added, np.int64), np.array(removed, np.int64)

    def collection(self, rows: Sequence[Row]) -> Collection:
        """Some rows with their points as a collection, with the proxies of the encoder.

        Raises:
            FileFormatError: a point or a proxy is damaged.
        """
        with self.damage():
            proxies = self.proxies()
            try:
                return collection_of(
                    rows, dim=self.dim, level_names=self.level_names, c=self.c,
                    fingerprint=self.fingerprint, proxies=proxies if len(proxies) else None,
                )  # fmt: skip
            except InputError as error:
                raise ValueError(str(error)) from error

    def thumbnail(self, path: bytes) -> bytes | None:
        """The small picture of the image at a path, as JPEG; ``None`` where there is none."""
        row = self.at([path]).get(path)
        if row is None:
            return None
        with self.damage():
            ask = "SELECT picture FROM thumbnails WHERE content = ?"
            found = self.database.execute(ask, (row.content,)).fetchone()
            return found[0] if found and isinstance(found[0], bytes) else None

    def thumbnails(self) -> Iterator[tuple[bytes, bytes]]:
        """Contents and small pictures of all images that have one."""
        with self.damage():
            yield from self.database.execute("SELECT content, picture FROM thumbnails")

    def proxies(self) -> np.ndarray:
        """Hierarchical proxies (P, D) of the encoder, float32; (0, D) where it has none."""
        with self.damage():
            ask = "SELECT point FROM proxies ORDER BY id"
            rows = [row[0] for row in self.database.execute(ask)]
            if short_hash(rows).hex() != self.facts["proxies"]:
                raise ValueError("the proxies have changed")
            return np.frombuffer(b"".join(rows), "<f4").reshape(len(rows), self.dim)

    def every(self, *, backwards: bool = False) -> Iterator[tuple[int, Row | None]]:
        """All rows by id with their points; ``None`` for one that is damaged."""
        columns = ", ".join(f"images.{name}" for name in COLUMNS.split(", "))
        ask = (
            f"SELECT {columns}, point, points.checksum FROM images LEFT JOIN points USING (id) "
            f"ORDER BY images.id {'DESC' if backwards else ''}"
        )
        with self.damage():
            for *values, point, checksum in self.database.execute(ask):
                row = None
                with contextlib.suppress(ValueError, TypeError, AttributeError):
                    found = self.row(tuple(values))
                    if point_checksum(found.id, point) == checksum and len(point) == 4 * self.dim:
                        row = found._replace(point=point)
                yield values[0], row

    def quarantine(self) -> list[tuple[bytes, str]]:
        """Path and reason of each file that was passed over."""
        with self.damage():
            ask = "SELECT folder, name, reason FROM quarantine ORDER BY folder, name"
            return [
                (join(self._folder(folder), name), reason)
                for folder, name, reason in self.database.execute(ask)
            ]

    def integrity(self) -> list[str]:
        """Damage that SQLite reports, and rows that should be and are not."""
        with self.damage():
            found = [str(row[0]) for row in self.database.execute("PRAGMA integrity_check")]
            found = [] if found == ["ok"] else found
            waiting = "SELECT count(*) FROM points WHERE id NOT IN (SELECT id FROM pending)"
            for table, ask in {"images": "SELECT count(*) FROM images", "points": waiting}.items():
                (count,) = self.database.execute(ask).fetchone()
                if count != self.count:
                    found.append(f"the table {table} has {count} rows, expected {self.count}")
            return found

    def damaged(self, what: object) -> FileFormatError:
        """What people are told of damage."""
        return FileFormatError(
            f"{self.path} is damaged, or is not the catalogue of an index ({what}). Run `hier "
            f"index repair {self.index}` to keep the valid images, or build the index again with "
            "`hier embed FOLDER --index ... --rebuild`"
        )

    @contextmanager
    def damage(self) -> Iterator[None]:
        """Say in our words what SQLite or Python find wrong with a row."""
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
            raise self.damaged(error) from error


def _marks(some: Sequence[object]) -> str:
    return ",".join("?" * len(some))
