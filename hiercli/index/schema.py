"""What is written in a catalogue: its tables, one of its rows, what it says of itself.

Checksums have no key: they find accidents, not intent.
"""

import functools
import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from hiercli.files import parse_json
from hiercli.images import State

VERSION = "9"
SECOND_INDEXES = {
    "images_by_content": "CREATE INDEX images_by_content ON images (content)",
    "images_by_class": "CREATE INDEX images_by_class ON images (class)",
}
"""Of the table of images, beside that of their paths."""
SCHEMA = f"""
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE folders (id INTEGER PRIMARY KEY, path BLOB NOT NULL UNIQUE, checksum BLOB NOT NULL);
CREATE TABLE classes (
    id INTEGER PRIMARY KEY, label TEXT NOT NULL, levels TEXT NOT NULL, checksum BLOB NOT NULL,
    UNIQUE (label, levels)
);
CREATE TABLE images (
    id INTEGER PRIMARY KEY, folder INTEGER NOT NULL, name BLOB NOT NULL, class INTEGER NOT NULL,
    content BLOB NOT NULL, size INTEGER NOT NULL, modified_ns INTEGER NOT NULL,
    changed_ns INTEGER NOT NULL, checksum BLOB NOT NULL
);
CREATE UNIQUE INDEX images_by_path ON images (folder, name);
{SECOND_INDEXES["images_by_content"]};
{SECOND_INDEXES["images_by_class"]};
CREATE TABLE points (id INTEGER PRIMARY KEY, point BLOB NOT NULL, checksum BLOB NOT NULL);
CREATE TABLE added (id INTEGER PRIMARY KEY);
CREATE TABLE removed (id INTEGER PRIMARY KEY);
CREATE TABLE pending (
    content BLOB PRIMARY KEY, id INTEGER NOT NULL, checksum BLOB NOT NULL
) WITHOUT ROWID;
CREATE TABLE quarantine (
    folder INTEGER NOT NULL, name BLOB NOT NULL, reason TEXT NOT NULL, PRIMARY KEY (folder, name)
) WITHOUT ROWID;
CREATE TABLE proxies (id INTEGER PRIMARY KEY, point BLOB NOT NULL);
"""
THUMBNAILS = "CREATE TABLE thumbnails (content BLOB PRIMARY KEY, picture BLOB NOT NULL);\n"
"""Small pictures by the content of their files; those of some images may lack."""
VIEW = (
    "CREATE VIEW photos AS SELECT images.id, CAST(folders.path || '/' || name AS TEXT) AS path, "
    "label, levels FROM images JOIN folders ON folders.id = folder "
    "JOIN classes ON classes.id = class"
)
"""For people who look into a catalogue with other programs; hier does not use it."""
SCHEMA += f"{VIEW};\n"
SPLITS = "ALTER TABLE images ADD COLUMN split TEXT NOT NULL DEFAULT '';\n"
"""The part of a data set that a table put an image in; empty where none did."""
SCHEMA_7 = SCHEMA
"""Of a version that kept no small pictures."""
SCHEMA_8 = SCHEMA_7 + THUMBNAILS
"""Of the version before, which kept no splits."""
SCHEMA = SCHEMA_8 + SPLITS
COLUMNS = "id, folder, name, class, content, size, modified_ns, changed_ns, split, checksum"
FACTS = (
    "version", "fingerprint", "c", "embedding_dim", "model", "next_id", "count", "generation",
    "faiss_bytes", "placed", "delta", "index_type", "made_type", "made_count", "recall",
    "farthest", "level_names", "proxies", "home", "root", "thumbnails",
)  # fmt: skip
AT_ONCE = 500
"""Ids of one query, below what any SQLite accepts."""
POINTS_AT_ONCE = 16_384


class Row(NamedTuple):
    """One image of a catalogue.

    Attributes:
        id: not given to another image as long as the index is not built anew.
        path: where it lies, see `images.Places`.
        label: class, see `labels`.
        levels: its groups by level, fine to coarse, as JSON.
        content: hash of the file's bytes.
        state: of the file when it was read.
        point: (D,) little-endian float32 in the ball; empty where it was not asked for.
        split: part of a data set that a table put it in; empty where none did.
    """

    id: int
    path: bytes
    label: str
    levels: str
    content: bytes
    state: State
    point: bytes = b""
    split: str = ""


def content_hash(content: bytes) -> bytes:
    """Sixteen bytes by which a file is known, wherever it lies."""
    return hashlib.blake2b(content, digest_size=16).digest()


def short_hash(values: object) -> bytes:
    """Eight bytes by which damage is noticed."""
    return hashlib.blake2b(repr(values).encode(), digest_size=8).digest()


def image_checksum(values: Sequence[object]) -> bytes:
    """The checksum of a row of `COLUMNS`, given all before it.

    Without a split it is that of the version that had none.
    """
    return short_hash(tuple(values if values[-1] else values[:-1]))


def point_checksum(number: int, point: bytes) -> bytes:
    """Eight bytes by which damage of a point is noticed, and that it belongs to this id."""
    own = number.to_bytes(8, "big", signed=True)
    return hashlib.blake2b(own + point, digest_size=8).digest()


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


def facts_checksum(facts: dict[str, str]) -> str:
    """Hash of all facts but the hash itself."""
    return short_hash(sorted((name, facts[name]) for name in facts if name != "checksum")).hex()


def delta_checksum(added: Iterable[int], removed: Iterable[int]) -> str:
    """Hash of the ids that the FAISS file lacks, and of those that it has too many."""
    return short_hash((list(added), list(removed))).hex()
