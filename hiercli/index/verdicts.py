"""What the images of an index say of a query; how sure they are is learned when they are placed."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from hiercli.collection import Collection
from hiercli.errors import DataError, FileFormatError, HierError, InputError
from hiercli.files import parse_json
from hiercli.hierarchy.verdict import CONFIDENCE, NEIGHBOURS, Calibration, Verdict
from hiercli.index.schema import groups_of
from hiercli.index.searchable import Hit, Searchable, answers
from hiercli.index.tables import Tables

_ENOUGH = NEIGHBOURS + 1
"""Hits that a verdict needs: one may be the query itself."""
_OTHERS = 0.05
"""Share of the images that are new, gone or of another class, from which on it is learned anew."""
_FEW = 2000
"""Images of which one in a new class is enough."""


# -- what an index keeps --------------------------------------------------------------------------


def renewed(index: Path, told: dict[str, str], tables: Tables) -> dict[str, str]:
    """Learn anew how far verdicts can be trusted, where the images are others than before.

    Args:
        index: FAISS file.
        told: facts of the catalogue as it will be.
        tables: of it.

    Returns:
        the facts that change; none where the images are the same, or nearly.
    """
    if not _are_others(index, told, tables):
        return {}
    return {"calibration": _learned(told, tables), "calibrated": told["count"]}


def _are_others(index: Path, told: dict[str, str], tables: Tables) -> bool:
    count, run = int(told["count"]), tables.database.execute
    if abs(count - int(told.get("calibrated", 0))) > _OTHERS * count:
        return True
    try:
        calibration = read(told.get("calibration", ""), index)
    except FileFormatError:
        return True
    if calibration is None:
        return False  # as few as then
    known = calibration.kinds.groups()
    new = 0
    for number, label, levels in run("SELECT id, label, levels FROM classes WHERE label != ''"):
        groups = {pair for pair in groups_of(levels).items() if pair[1]}
        if label not in known or not groups <= known[label]:
            new += run("SELECT count(*) FROM images WHERE class = ?", (number,)).fetchone()[0]
    return new > (_OTHERS * count if count > _FEW else 0)


def _learned(told: dict[str, str], tables: Tables) -> str:
    """A calibration as text; empty where the images have no classes."""
    from hiercli.hierarchy.calibrating import calibrate  # most updates do without

    rows = tables.database.execute(
        "SELECT images.id, label, levels FROM images JOIN classes ON classes.id = class "
        "WHERE label != '' ORDER BY images.id"
    ).fetchall()
    if len({label for _, label, _ in rows}) < 2:
        return ""
    ids, blocks = zip(*tables.blocks(), strict=True)
    places = np.searchsorted(np.concatenate(ids), [number for number, _, _ in rows])
    names = parse_json(told["level_names"])
    groups = [groups_of(text) for _, _, text in rows]
    try:
        images = Collection(
            points=np.concatenate(blocks)[places], labels=[label for _, label, _ in rows],
            levels=[tuple(own.get(name, "") for name in names) for own in groups]
            if names else None, level_names=tuple(names), c=float(told["c"]),
        )  # fmt: skip
        return json.dumps(calibrate(images).to_dict(), ensure_ascii=False)
    except HierError:  # too few images, or a damaged point, of which searching says more
        return ""


def read(text: str, index: object) -> Calibration | None:
    """The calibration that an index keeps as text; ``None`` for an empty one.

    Raises:
        FileFormatError: it is something else.
    """
    if not text:
        return None
    try:
        return Calibration.from_dict(parse_json(text))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, DataError) as error:
        raise FileFormatError(
            f"the calibration of {index} is damaged ({str(error)[:200]}). Run `hier index compact "
            f"{index}` to calibrate again"
        ) from error


# -- verdicts -------------------------------------------------------------------------------------


def calibration_of(
    images: Searchable, progress: Callable[[int, int], None] | None = None
) -> Calibration:
    """What an index keeps, or else what can be learned of its images now.

    Args:
        images: the index.
        progress: called with (done, total) images compared.

    Raises:
        InputError: its images have no labels, or too few.
        FileFormatError: what it keeps is damaged.
    """
    if (stored := images.calibration) is not None:
        return stored
    from hiercli.hierarchy.calibrating import calibrate

    rows = [row for row in images.rows() if row.label]
    try:
        if not rows:
            raise DataError("expected images with labels, found none")
        return calibrate(images.collection_of(rows), progress)
    except DataError as error:
        raise InputError(f"verdicts are not possible: {error}") from error


def verdicts(
    images: Searchable,
    calibration: Calibration,
    points: np.ndarray,
    confidence: float = CONFIDENCE,
    *,
    exact: bool = False,
) -> Iterator[Verdict]:
    """The verdict on each of the points (Q, D), searched block by block as they are asked for."""
    for hits in answers(images, points, _ENOUGH, exact=exact):
        yield _of(hits, calibration, confidence)


def hits_and_verdicts(
    images: Searchable,
    calibration: Calibration,
    points: np.ndarray,
    k: int,
    confidence: float = CONFIDENCE,
    *,
    exact: bool = False,
) -> Iterator[tuple[list[Hit], Verdict]]:
    """The k nearest images of each of the points (Q, D), and the verdict, by one search."""
    for hits in answers(images, points, max(k, _ENOUGH), exact=exact):
        yield hits[:k], _of(hits, calibration, confidence)


def _of(hits: Sequence[Hit], calibration: Calibration, confidence: float) -> Verdict:
    distances = np.array([hit.distance for hit in hits])
    return calibration.verdict(distances, [hit.label for hit in hits], confidence)
