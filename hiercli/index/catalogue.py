"""The catalogue beside an index: what each id is, and the point that FAISS holds lifted.

``birds.faiss`` is a plain FAISS file; ``birds.faiss.sqlite`` says path, label and state of each id
and keeps its float32 point for exact ordering. Both are written whole; the catalogue records a
checksum of its FAISS file, so two that do not belong together are noticed.
"""

import hashlib
import os
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np

from hiercli.encoder.metadata import Metadata
from hiercli.errors import FileFormatError, InputError, MismatchError
from hiercli.files import replacing
from hiercli.index import hyperbolic

_VERSION = "1"
_SCHEMA = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE photos (
    id INTEGER PRIMARY KEY, path BLOB NOT NULL, label TEXT NOT NULL, size INTEGER NOT NULL,
    modified_ns INTEGER NOT NULL, point BLOB NOT NULL
);
CREATE TABLE quarantine (path BLOB NOT NULL, reason TEXT NOT NULL);
"""


@dataclass(frozen=True)
class Hit:
    """One neighbour: its rank from 1, its picture, its class, its distance (lower is closer)."""

    rank: int
    path: str
    label: str
    distance: float


def catalogue_path(index: Path) -> Path:
    """Where the catalogue of an index lies."""
    return index.with_name(index.name + ".sqlite")


def label_of(path: Path) -> str:
    """The class of a picture in a folder of class folders: the name of its folder."""
    return path.absolute().parent.name


def write(
    target: Path,
    points: np.ndarray,
    paths: Sequence[Path],
    problems: Iterable[tuple[Path, str]],
    metadata: Metadata,
    model: Path,
) -> None:
    """Write an index and its catalogue, replacing older ones.

    Args:
        target: FAISS file.
        points: (N, D) in the ball.
        paths: N pictures.
        problems: pictures that could not be read, with the reason.
        metadata, model: of the encoder that made the points, and its file.

    Raises:
        InputError: nothing to index, or the files cannot be written.
    """
    if not len(points):
        raise InputError("expected at least one readable picture to index, found none")
    with replacing(catalogue_path(target)) as catalogue_draft, replacing(target) as index_draft:
        content = faiss.serialize_index(hyperbolic.build(points, metadata.c)).tobytes()
        index_draft.write_bytes(content)
        facts = {
            "version": _VERSION,
            "fingerprint": metadata.fingerprint,
            "c": repr(metadata.c),
            "embedding_dim": str(metadata.embedding_dim),
            "model": str(model.absolute()),
            "checksum": _checksum(content),
        }
        try:
            _fill(catalogue_draft, facts, points, paths, problems)
        except sqlite3.Error as error:
            raise InputError(
                f"writing {catalogue_path(target)} failed ({error}). Nothing was left behind; free "
                "some space or choose another place, then run it again"
            ) from error


def _fill(
    file: Path,
    facts: dict[str, str],
    points: np.ndarray,
    paths: Sequence[Path],
    problems: Iterable[tuple[Path, str]],
) -> None:
    database = sqlite3.connect(file)
    try:
        database.executescript(_SCHEMA)
        database.executemany("INSERT INTO facts VALUES (?, ?)", facts.items())
        rows = np.ascontiguousarray(points, "<f4")
        database.executemany(
            "INSERT INTO photos VALUES (?, ?, ?, ?, ?, ?)",
            (
                (number, os.fsencode(path.absolute()), _text(label_of(path)), *_state(path),
                 rows[number].tobytes())
                for number, path in enumerate(paths)
            ),
        )  # fmt: skip
        database.executemany(
            "INSERT INTO quarantine VALUES (?, ?)",
            ((os.fsencode(path.absolute()), _text(reason)) for path, reason in problems),
        )
        database.commit()
    finally:
        database.close()


def _text(path: str) -> str:
    """File names may hold bytes that are not UTF-8; a label is for reading."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _state(path: Path) -> tuple[int, int]:
    state = os.stat(path)
    return state.st_size, state.st_mtime_ns


def _checksum(content: bytes) -> str:
    return hashlib.blake2b(content).hexdigest()


class PhotoIndex:
    """An index and its catalogue, opened for searching.

    Raises:
        InputError: a file is missing.
        FileFormatError: a file is damaged or foreign.
        MismatchError: the two do not belong together.
    """

    def __init__(self, path: Path) -> None:
        for file in (path, catalogue_path(path)):
            if not file.is_file():
                raise InputError(
                    f"expected an index, but {file} is missing: build one with "
                    f"`hier embed FOLDER --model M.onnx --index {path}`"
                )
        self.path = path
        try:
            self._database = sqlite3.connect(
                f"file:{_quoted(catalogue_path(path))}?mode=ro", uri=True
            )
            self.facts = dict(self._database.execute("SELECT name, value FROM facts"))
            self.c = float(self.facts["c"])
            self.fingerprint = self.facts["fingerprint"]
            checksum = self.facts["checksum"]
        except (sqlite3.Error, KeyError, ValueError) as error:
            raise FileFormatError(
                f"{catalogue_path(path)} is not the catalogue of an index ({error}): build the "
                "index again with `hier embed`"
            ) from error
        if self.facts["version"] != _VERSION:
            raise FileFormatError(f"{path} was written by another hier: build it again")
        content = path.read_bytes()
        if _checksum(content) != checksum:
            raise MismatchError(
                f"{path} is not the file that its catalogue {catalogue_path(path).name} describes: "
                "one of the two was damaged or replaced. Build the index again with `hier embed`"
            )
        self._index: faiss.IndexFlatIP = faiss.deserialize_index(np.frombuffer(content, np.uint8))  # type: ignore[assignment]

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def check(self, metadata: Metadata, model: Path) -> None:
        """Refuse an encoder that did not make this index.

        Raises:
            MismatchError: it names both sides.
        """
        if metadata.fingerprint != self.fingerprint:
            raise MismatchError(
                f"the index {self.path} was built with encoder {self.fingerprint} (c={self.c:g}, "
                f"{self.facts['embedding_dim']} dimensions), {model} is {metadata.fingerprint} "
                f"(c={metadata.c:g}, {metadata.embedding_dim} dimensions). Search with "
                f"{self.facts['model']}, or rebuild the index with `hier embed ... --index`"
            )

    def search(self, queries: np.ndarray, k: int) -> list[list[Hit]]:
        """The k nearest pictures of each query point, (Q, D), exactly, nearest first."""
        found = []
        for query, ids in zip(
            queries, hyperbolic.fetch(self._index, queries, self.c, k), strict=True
        ):
            rows = [self._row(int(number)) for number in ids]
            candidates = np.stack([np.frombuffer(row[2], "<f4") for row in rows])
            distances, best = hyperbolic.order(query, candidates, np.arange(len(ids)), self.c, k)
            found.append(
                [
                    Hit(rank, os.fsdecode(rows[place][0]), rows[place][1], float(distance))
                    for rank, (place, distance) in enumerate(zip(best, distances, strict=True), 1)
                ]
            )
        return found

    def _row(self, number: int) -> tuple[bytes, str, bytes]:
        row: tuple[bytes, str, bytes] = self._database.execute(
            "SELECT path, label, point FROM photos WHERE id = ?", (number,)
        ).fetchone()
        return row


def _quoted(path: Path) -> str:
    from urllib.parse import quote

    return quote(os.fsencode(path.absolute()))
