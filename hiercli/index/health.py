"""What an index holds, whether it is whole, and how to mend it."""

import contextlib
import dataclasses
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from hiercli import neighbours
from hiercli.errors import FileFormatError, HierError, ImageError
from hiercli.geometry import poincare
from hiercli.images import read_bytes
from hiercli.index import contents, pair
from hiercli.index.catalogue import Catalogue, Photo, catalogue_path, readable
from hiercli.index.draft import Draft

_AT_ONCE = 16_384


@dataclasses.dataclass(frozen=True)
class Repair:
    """What `repair` could keep: rows, and how many it had to give up."""

    kept: int
    lost: int


@dataclasses.dataclass(frozen=True)
class Health:
    """What `verify` found: damage of the index, and pictures that are not what it says."""

    damage: list[str]
    outdated: list[str]


def stats(index: Path) -> dict[str, Any]:
    """Facts of an index by name, in the order in which people want them.

    Raises:
        HierError: it is missing or damaged.
    """
    index = Path(os.path.realpath(index))
    catalogue, opened = pair.read(index)
    with closing(catalogue):
        pictures = len(catalogue)
        labels: Counter[str] = Counter()
        different: set[bytes] = set()
        depth = 0.0
        for block in _blocks(catalogue.every()):
            labels.update(photo.label for photo, _ in block)
            different.update(photo.content for photo, _ in block)
            points = _points(block).astype(np.float64)
            depth += poincare.dist(points, np.zeros_like(points), catalogue.c).sum()
        size = index.stat().st_size if index.exists() else 0
        return {
            "pictures": pictures,
            "labels": len(labels),
            "largest_labels": dict(labels.most_common(5)),
            "levels": list(catalogue.level_names),
            "duplicates": pictures - len(different),
            "quarantined": len(catalogue.quarantine()),
            "dimensions": catalogue.dim,
            "c": catalogue.c,
            "mean_distance_from_origin": float(depth) / max(1, pictures),
            "index_type": contents.index_type_of(opened),
            "recall@10": catalogue.recall,
            "encoder": readable(os.fsencode(catalogue.model)),
            "fingerprint": catalogue.fingerprint,
            "index_bytes": size,
            "catalogue_bytes": catalogue_path(index).stat().st_size,
        }


def verify(
    index: Path,
    *,
    files: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Health:
    """All damage of an index; empty if it is valid.

    Args:
        index: FAISS file.
        files: compare every picture with its file too.
        progress: called with (done, total) rows.

    Raises:
        InputError: there is no index.
    """
    index = Path(os.path.realpath(index))
    if not pair.exists(index):
        Catalogue(index)  # says what is missing
    found = Health([], [])
    try:
        catalogue, opened = pair.read(index)
    except HierError as error:
        found.damage.append(str(error))
        return found
    with closing(catalogue):
        try:
            found.damage.extend(f"SQLite: {line}" for line in catalogue.integrity())
            ids, rows = contents.rows(opened)
            quantization_error = contents.quantization_error(opened)
            where = {int(number): row for row, number in enumerate(ids)}
            if len(where) != len(ids):
                found.damage.append(f"{len(ids) - len(where)} ids appear twice in the FAISS file")
            done, total = 0, len(catalogue)
            for block in _blocks(catalogue.every()):
                found.damage.extend(_damage_of(block, where, rows, quantization_error, catalogue.c))
                if files:
                    found.outdated.extend(_outdated(block))
                done += len(block)
                if progress:
                    progress(done, total)
            if where:
                found.damage.append(f"{len(where)} ids of the FAISS file are not in the catalogue")
        except HierError as error:
            found.damage.append(str(error))
        return found


def _damage_of(
    block: list[tuple[Photo, bool]],
    where: dict[int, int],
    rows: np.ndarray,
    quantization_error: np.ndarray,
    c: float,
) -> Iterator[str]:
    lifted = iter(neighbours.lift(_points(block), c))
    for photo, whole in block:
        row = where.pop(photo.id, None)
        if not whole:
            yield f"the row with id {photo.id} in the catalogue has changed"
            continue
        path = readable(photo.path)
        expected = next(lifted)
        if row is None:
            yield f"{path}: the stored vector is missing in the FAISS file"
        elif (
            np.abs(expected - rows[row]) > quantization_error + 1e-6 + 1e-5 * np.abs(expected)
        ).any():
            yield f"{path}: the stored vector does not match the catalogue"


def _outdated(block: list[tuple[Photo, bool]]) -> Iterator[str]:
    for photo, whole in block:
        if not whole:
            continue
        try:
            content, _ = read_bytes(os.fsdecode(photo.path))
        except ImageError as error:
            yield str(error)
        else:
            if hashlib.blake2b(content, digest_size=16).digest() != photo.content:
                yield f"{readable(photo.path)}: the file has changed since it was embedded"


def _points(block: list[tuple[Photo, bool]]) -> np.ndarray:
    """(N, D) float32 of the rows that are whole."""
    good = [photo.point for photo, whole in block if whole]
    return np.frombuffer(b"".join(good), "<f4").reshape(len(good), -1 if good else 0)


def _blocks(rows: Iterable[tuple[Photo, bool]]) -> Iterator[list[tuple[Photo, bool]]]:
    block: list[tuple[Photo, bool]] = []
    for row in rows:
        block.append(row)
        if len(block) == _AT_ONCE:
            yield block
            block = []
    if block:
        yield block


def repair(index: Path) -> Repair:
    """Save what can be saved: rows of the catalogue that are whole, and a FAISS file made of them.

    Pictures whose rows are lost come back with the next `hier embed` of their folder.

    Raises:
        InputError: there is no index, or another process writes to it.
        FileFormatError: the catalogue does not even say which encoder made it.
    """
    index = Path(os.path.realpath(index))
    Catalogue(index).close()  # says what is missing, before anything is written
    with pair.writing(index):
        catalogue = Catalogue(index)
        with closing(catalogue):
            kept = _whole(catalogue)
            before = _count(catalogue)
            quarantine: list[tuple[bytes, str]] = []
            with contextlib.suppress(FileFormatError):
                quarantine = catalogue.quarantine()
            proxies = np.empty((0, catalogue.dim), np.float32)
            with contextlib.suppress(FileFormatError):
                proxies = catalogue.proxies()
        if not kept:
            raise FileFormatError(
                f"no row of {catalogue.path} is valid. Build the index again with `hier embed "
                "FOLDER --index ... --rebuild`"
            )
        _write(index, catalogue.facts, kept.values(), quarantine, proxies)
        return Repair(len(kept), max(0, before - len(kept)))


def compact(index: Path) -> tuple[int, int]:
    """Write both files anew without the room that removed pictures have left.

    Returns:
        bytes of both before and after.

    Raises:
        HierError: the index is missing or damaged.
    """
    index = Path(os.path.realpath(index))
    Catalogue(index).close()
    with pair.writing(index):
        before = _bytes(index)
        catalogue, file = pair.open_checked(index)
        with file, closing(catalogue):
            every = (catalogue.photos([photo.id])[0] if not whole else photo
                     for photo, whole in catalogue.every())  # fmt: skip
            _write(index, catalogue.facts, every, catalogue.quarantine(), catalogue.proxies())
        return before, _bytes(index)


def _write(
    index: Path,
    facts: dict[str, str],
    photos: Iterable[Photo],
    quarantine: list[tuple[bytes, str]],
    proxies: np.ndarray,
) -> None:
    def fill(draft: Draft) -> None:
        draft.say(facts)
        draft.set_proxies(proxies)
        draft.put(photos)
        draft.set_quarantine((), quarantine)

    pair.change(index, fill, anew=True)


def _whole(catalogue: Catalogue) -> dict[int, Photo]:
    """Rows that are whole, read from the front and, past a damaged page, from the back."""
    found: dict[int, Photo] = {}
    for backwards in (False, True):
        try:
            for photo, whole in catalogue.every(backwards=backwards):
                if whole:
                    found.setdefault(photo.id, photo)
            break
        except FileFormatError:
            continue
    return dict(sorted(found.items()))


def _count(catalogue: Catalogue) -> int:
    try:
        return len(catalogue)
    except FileFormatError:
        return 0


def _bytes(index: Path) -> int:
    return sum(file.stat().st_size for file in (index, catalogue_path(index)) if file.exists())
