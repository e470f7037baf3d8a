"""What the images of an index say of a query; how sure they are is learned when they are placed."""

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from hiercli.collection import lineages_of, require_in_ball
from hiercli.errors import DataError, FileFormatError, HierError, InputError
from hiercli.files import parse_json
from hiercli.hierarchy import depth
from hiercli.hierarchy.labelled import Labelled
from hiercli.hierarchy.verdict import CONFIDENCE, NEIGHBOURS, Calibration, Verdict
from hiercli.index.kinds import Progress
from hiercli.index.schema import groups_of
from hiercli.index.searchable import QUERIES_AT_ONCE, Hit, Searchable, answers
from hiercli.index.tables import Tables

_ENOUGH = NEIGHBOURS + 1
"""Hits that a verdict needs: one may be the query itself."""
_LABELLED = (("label", "?*"),)
"""The condition that images meet which have a label."""
_OTHERS = 0.05
"""Share of the images that are new, gone or of another class, from which on it is learned anew."""
_FEW = 2000
"""Images of which one in a new class is enough."""


# -- what an index keeps --------------------------------------------------------------------------


def renewed(
    index: Path, told: dict[str, str], tables: Tables, progress: Progress | None
) -> dict[str, str]:
    """Learn anew how far verdicts can be trusted, where the images are others than before.

    Args:
        index: FAISS file.
        told: facts of the catalogue as it will be.
        tables: of it.
        progress: called with (done, total) images compared.

    Returns:
        the facts that change; none where the images are the same, or nearly.
    """
    if not _are_others(index, told, tables):
        return {}
    return {"calibration": _learned(told, tables, progress), "calibrated": told["count"]}


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


def _learned(told: dict[str, str], tables: Tables, progress: Progress | None) -> str:
    """A calibration as text; empty where the images have no classes."""
    from hiercli.hierarchy.calibrating import calibrate  # most updates do without

    images = _labelled(told, tables)
    if len(images.classes) < 2:
        return ""
    try:
        return json.dumps(calibrate(images, progress).to_dict(), ensure_ascii=False)
    except HierError:  # too few images, or a damaged point, of which searching says more
        return ""


def _labelled(told: dict[str, str], tables: Tables) -> Labelled:
    """The images with labels."""
    run, c = tables.database.execute, float(told["c"])
    level_names = tuple(parse_json(told["level_names"]))
    named = run("SELECT id, label, levels FROM classes WHERE label != '' ORDER BY id").fetchall()
    classes = sorted({label for _, label, _ in named})
    numbers = np.array([number for number, _, _ in named], np.int64)
    place = {name: code for code, name in enumerate(classes)}
    codes = np.array([place[label] for _, label, _ in named], np.int64)
    # One row for each of them: there may be millions.
    pairs = np.fromiter(run("SELECT id, class FROM images ORDER BY id"), np.dtype((np.int64, 2)))
    pairs = pairs[np.isin(pairs[:, 1], numbers)]
    ids = pairs[:, 0]

    def blocks() -> Iterator[np.ndarray]:
        left = len(ids)
        for some, points in tables.blocks():
            known = points[np.isin(some, ids, assume_unique=True)]
            require_in_ball(known, c, "the points of an index")
            left -= len(known)
            yield known
        if left:
            raise DataError("expected a point for each image")

    def points(positions: np.ndarray) -> np.ndarray:
        found = tables.points(ids[positions].tolist())[1]
        require_in_ball(found, c, "the points of an index")
        return found

    return Labelled(
        classes=classes,
        codes=codes[np.searchsorted(numbers, pairs[:, 1])],
        blocks=blocks,
        points=points,
        lineages=lineages_of(
            (label, tuple(groups_of(levels).get(name, "") for name in level_names))
            for _, label, levels in named
        ),
        level_names=level_names,
        c=c,
        image_depth=told.get("image_depth") == "1",
    )


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


def calibration_of(images: Searchable, progress: Progress | None = None) -> Calibration:
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
        return calibrate(Labelled.of(images.collection_of(rows)), progress)
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
    told = hits_and_verdicts(images, calibration, points, _ENOUGH, confidence, exact=exact)
    yield from (verdict for _, verdict in told)


def hits_and_verdicts(
    images: Searchable,
    calibration: Calibration,
    points: np.ndarray,
    k: int,
    confidence: float = CONFIDENCE,
    *,
    exact: bool = False,
) -> Iterator[tuple[list[Hit], Verdict]]:
    """The k nearest images of each of the points (Q, D), and the verdict.

    One search gives both. Where too few of the nearest images have a label, those that have one
    are searched for the verdict.
    """
    for start in range(0, len(points), QUERIES_AT_ONCE):
        block = points[start : start + QUERIES_AT_ONCE]
        found = list(answers(images, block, max(k, _ENOUGH), exact=exact))
        lacking = [place for place, hits in enumerate(found)
                   if not all(hit.label for hit in hits) and
                   sum(bool(hit.label) for hit in hits) < _ENOUGH]  # fmt: skip
        voting = dict(enumerate(found))
        if lacking:
            with contextlib.suppress(InputError):  # none has a label by now
                labelled = answers(images, block[lacking], _ENOUGH, where=_LABELLED)
                voting |= dict(zip(lacking, list(labelled), strict=True))
        for place, point in enumerate(block):
            verdict = _of(point, voting[place], calibration, confidence, images.c)
            yield found[place][:k], verdict


def _of(
    point: np.ndarray, hits: Sequence[Hit], calibration: Calibration, confidence: float, c: float
) -> Verdict:
    distances = np.array([hit.distance for hit in hits])
    verdict = calibration.verdict(distances, [hit.label for hit in hits], confidence)
    if not calibration.radii:
        return verdict
    clear = depth.specificity(point, np.array(calibration.radii), c)
    return dataclasses.replace(verdict, specificity=clear)
