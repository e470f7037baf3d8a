"""What an index holds, whether it is whole, and how to mend it."""

import contextlib
import dataclasses
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from hiercli import neighbours
from hiercli.encoder.metadata import Metadata
from hiercli.errors import FileFormatError, HierError, ImageError, InputError
from hiercli.files import parse_json
from hiercli.geometry import poincare
from hiercli.images import read_bytes
from hiercli.index import contents, kinds, local, locations, writer
from hiercli.index.catalogue import Catalogue
from hiercli.index.locations import catalogue_path
from hiercli.index.pair import text_model_of
from hiercli.index.reader import opened
from hiercli.index.schema import POINTS_AT_ONCE, Row, content_hash, facts_of, readable

_ROUNDING = 3e-7
"""Share by which a lifted coordinate may differ, had another machine rounded it."""


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
    catalogue, made = opened(index)
    with closing(catalogue):
        images = len(catalogue)
        ask = "SELECT class, count(*) FROM images GROUP BY class"
        labels: Counter[str] = Counter()
        depth = 0.0
        classes = catalogue.classes()
        with catalogue.damage():
            for number, count in catalogue.database.execute(ask):
                labels[classes[number][0]] += count
            (different,) = catalogue.database.execute(
                "SELECT count(DISTINCT content) FROM images"
            ).fetchone()
        for _, some in catalogue.points():
            points = some.astype(np.float64)
            depth += poincare.dist(points, np.zeros_like(points), catalogue.c).sum()
        added, removed = catalogue.delta()
        return {
            "pictures": images,
            "unlabelled": labels.pop("", 0),
            "labels": len(labels),
            "largest_labels": dict(labels.most_common(5)),
            "levels": list(catalogue.level_names),
            "duplicates": images - different,
            "quarantined": len(catalogue.quarantine()),
            "dimensions": catalogue.dim,
            "c": catalogue.c,
            "mean_distance_from_origin": float(depth) / max(1, images),
            "index_type": contents.index_type_of(made),
            "recall@10": catalogue.recall,
            "not_yet_in_faiss": len(added),
            "removed_but_in_faiss": len(removed),
            "encoder": readable(os.fsencode(catalogue.model)),
            "fingerprint": catalogue.fingerprint,
            **text_model_of(catalogue.facts.get("pair", "")),
            "index_bytes": index.stat().st_size if index.exists() else 0,
            "catalogue_bytes": _bytes(locations.with_logs(catalogue_path(index))),
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
    if not locations.exists(index):
        Catalogue(index)  # says what is missing
    found = Health([], [])
    try:
        catalogue, made = opened(index, to_memory=True)
    except HierError as error:
        found.damage.append(str(error))
        return found
    with closing(catalogue):
        try:
            found.damage.extend(f"SQLite: {line}" for line in catalogue.integrity())
            with _noted(found.damage):
                catalogue.proxies()
            added, removed = (set(ids.tolist()) for ids in catalogue.delta())
            ids, rows = contents.rows(made)
            quantization_error = contents.quantization_error(made)
            where = {int(number): row for row, number in enumerate(ids)}
            if len(where) != len(ids):
                found.damage.append(f"{len(ids) - len(where)} ids appear twice in the FAISS file")
            for number in removed:
                if where.pop(number, None) is None:
                    found.damage.append(f"the removed id {number} is not in the FAISS file")
            done, total = 0, len(catalogue)
            for block in _blocks(catalogue.every()):
                found.damage.extend(
                    _damage_of(block, where, rows, quantization_error, catalogue.c, added)
                )
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


@contextlib.contextmanager
def _noted(damage: list[str]) -> Iterator[None]:
    """Add what is damaged to a list, and go on."""
    try:
        yield
    except HierError as error:
        damage.append(str(error))


def _damage_of(
    block: list[tuple[int, Row | None]],
    where: dict[int, int],
    rows: np.ndarray,
    quantization_error: np.ndarray,
    c: float,
    added: set[int],
) -> Iterator[str]:
    lifted = iter(neighbours.lift(_points(block), c))
    for number, row in block:
        place = None if number in added else where.pop(number, None)
        if row is None:
            yield f"the row with id {number} in the catalogue has changed"
            continue
        path = readable(row.path)
        expected = next(lifted)
        if not np.isfinite(expected).all():
            yield f"{path}: the point lies outside the ball"
        elif number in added:
            continue
        elif place is None:
            yield f"{path}: the stored vector is missing in the FAISS file"
        elif (
            np.abs(expected - rows[place]) > quantization_error + _ROUNDING * np.abs(expected)
        ).any():
            yield f"{path}: the stored vector does not match the catalogue"


def _outdated(block: list[tuple[int, Row | None]]) -> Iterator[str]:
    for _, row in block:
        if row is None:
            continue
        try:
            content, _ = read_bytes(os.fsdecode(row.path))
        except ImageError as error:
            yield str(error)
        else:
            if content_hash(content) != row.content:
                yield f"{readable(row.path)}: the file has changed since it was embedded"


def _points(block: list[tuple[int, Row | None]]) -> np.ndarray:
    """(N, D) float32 of the rows that are whole."""
    good = [row.point for _, row in block if row is not None]
    return np.frombuffer(b"".join(good), "<f4").reshape(len(good), -1 if good else 0)


def _blocks(rows: Iterable[tuple[int, Row | None]]) -> Iterator[list[tuple[int, Row | None]]]:
    block: list[tuple[int, Row | None]] = []
    for row in rows:
        block.append(row)
        if len(block) == POINTS_AT_ONCE:
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
    if not locations.exists(index):
        Catalogue(index)  # says what is missing, before anything is written
    with writer.locked(index):
        writer.migrate(index)
        with closing(Catalogue(index)) as catalogue:
            kept = _whole(catalogue)
            if not kept:
                raise FileFormatError(
                    f"no row of {catalogue.path} is valid. Build the index again with `hier embed "
                    "FOLDER --index ... --rebuild`"
                )
            quarantine: list[tuple[bytes, str]] = []
            with contextlib.suppress(FileFormatError):
                quarantine = catalogue.quarantine()
            proxies = np.empty((0, catalogue.dim), np.float32)
            with contextlib.suppress(FileFormatError):
                proxies = catalogue.proxies()
            facts = {name: catalogue.facts[name] for name in _KEPT}
            if catalogue.facts.get("pair"):
                facts["pair"] = catalogue.facts["pair"]
            root = Path(written) if (written := parse_json(catalogue.facts["root"])) else None
            writer.make_anew(
                index, facts, kept.values(), quarantine, proxies, root=root,
                thumbnails=_thumbnails(catalogue, {row.content for row in kept.values()}),
            )  # fmt: skip
            return Repair(len(kept), max(0, len(catalogue) - len(kept)))


def rebase(
    index: Path,
    metadata: Metadata,
    model: Path,
    points: Mapping[int, np.ndarray],
    progress: kinds.Progress | None = None,
) -> None:
    """Give the images of an index the points of another encoder, all in one transaction.

    Args:
        index: FAISS file.
        metadata: of the encoder.
        model: its file.
        points: (D,) of each image by its id.
        progress: called with (done, total) points while the FAISS file is made.

    Raises:
        InputError: it cannot be written, another process writes to it, or has changed it meanwhile.
    """
    index = Path(os.path.realpath(index))
    with writer.locked(index):
        writer.migrate(index)
        with closing(Catalogue(index)) as catalogue:
            rows = [row for _, row in catalogue.every() if row is not None]
            if {row.id for row in rows} != set(points):
                raise InputError(
                    f"{index} was changed meanwhile, by another process. Run the same command again"
                )
            new = [row._replace(point=points[row.id].astype("<f4").tobytes()) for row in rows]
            facts = (
                {name: catalogue.facts[name] for name in _KEPT}
                | facts_of(metadata.fingerprint, metadata.c, metadata.embedding_dim, model)
                | {"image_depth": str(int(metadata.image_depth))}
            )
            root = Path(written) if (written := parse_json(catalogue.facts["root"])) else None
            writer.make_anew(
                index, facts, new, catalogue.quarantine(), metadata.proxies, progress, root=root,
                thumbnails=catalogue.thumbnails(),
            )  # fmt: skip


def _thumbnails(catalogue: Catalogue, contents_: set[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """The small pictures of some contents, up to a damaged page."""
    with contextlib.suppress(FileFormatError):
        for content, picture in catalogue.thumbnails():
            if content in contents_:
                yield content, picture


_KEPT = (
    "fingerprint",
    "c",
    "embedding_dim",
    "model",
    "next_id",
    "index_type",
    "version",
    "thumbnails",
)


def compact(index: Path) -> tuple[int, int]:
    """Make a new FAISS file of what the catalogue holds, and free the room of what is removed.

    An index of an older version is brought up to date.

    Returns:
        bytes of all files before and after.

    Raises:
        HierError: the index is missing or damaged.
    """
    index = Path(os.path.realpath(index))
    if not locations.exists(index):
        Catalogue(index)  # says what is missing
    files = (index, *locations.with_logs(catalogue_path(index)))
    before = _bytes(files)
    with writer.locked(index):
        writer.migrate(index)
        with closing(Catalogue(index)) as catalogue:
            dim = catalogue.dim
        with closing(local.LocalStore(index, dim, anew=False)) as store:
            store.compact()
        return before, _bytes(files)


def _whole(catalogue: Catalogue) -> dict[int, Row]:
    """Rows that are whole, read from the front and, past a damaged page, from the back."""
    found: dict[int, Row] = {}
    for backwards in (False, True):
        try:
            for _, row in catalogue.every(backwards=backwards):
                if row is not None:
                    found.setdefault(row.id, row)
            break
        except FileFormatError:
            continue
    return dict(sorted(found.items()))


def _bytes(files: Iterable[Path]) -> int:
    return sum(file.stat().st_size for file in files if file.exists())
