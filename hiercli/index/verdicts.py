"""What the images of an index say of a query; how sure they are is learned when they are placed."""

import json
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from hiercli.collection import Collection
from hiercli.errors import DataError, FileFormatError, HierError, InputError
from hiercli.files import parse_json
from hiercli.hierarchy.verdict import CONFIDENCE, NEIGHBOURS, Calibration, Verdict
from hiercli.index.schema import groups_of
from hiercli.index.searchable import Hit, Searchable, answers
from hiercli.index.tables import Tables


def learned(tables: Tables, level_names: Sequence[str], c: float) -> str:
    """A calibration of the images of a catalogue, as text; empty where they have no classes.

    Args:
        tables: inside a transaction.
        level_names: of the levels, fine to coarse.
        c: curvature magnitude.
    """
    rows = tables.database.execute(
        "SELECT images.id, label, levels FROM images JOIN classes ON classes.id = class "
        "WHERE label != '' ORDER BY images.id"
    ).fetchall()
    if len({label for _, label, _ in rows}) < 2:
        return ""
    ids, blocks = zip(*tables.blocks(), strict=True)
    places = np.searchsorted(np.concatenate(ids), [number for number, _, _ in rows])
    points = np.concatenate(blocks)[places]
    groups = [groups_of(text) for _, _, text in rows]
    try:
        images = Collection(
            points=points, labels=[label for _, label, _ in rows], c=c,
            levels=[tuple(own.get(name, "") for name in level_names) for own in groups]
            if level_names else None, level_names=tuple(level_names),
        )  # fmt: skip
        return json.dumps(Calibration.of(images).to_dict(), ensure_ascii=False)
    except HierError:  # too few images, or a damaged point, of which searching says more
        return ""


def read(text: str, index: object) -> Calibration | None:
    """What `learned` wrote; ``None`` for an empty text.

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
            f"{index}` to make it anew"
        ) from error


def known_groups(text: str, index: object) -> dict[str, frozenset[tuple[str, str]]]:
    """Level and name of the groups of each class that a calibration, as text, knows.

    Raises:
        FileFormatError: it is damaged.
    """
    known = read(text, index)
    kinds = None if known is None else known.kinds
    if kinds is None:
        return {}
    return {
        label: frozenset((kinds.levels[kind], kinds.names[kind]) for kind in kinds.chain(leaf)[1:])
        for label, leaf in kinds.leaves.items()
    }


def calibration_of(
    images: Searchable, progress: Callable[[int, int], None] | None = None
) -> Calibration:
    """What an index keeps, or else what can be learned of its images now.

    Args:
        images: the index.
        progress: called with (done, total) images compared.

    Raises:
        InputError: its images have no labels, or one class only.
        FileFormatError: what it keeps is damaged.
    """
    stored = images.calibration
    if stored is not None:
        return stored
    rows = [row for row in images.rows() if row.label]
    try:
        if not rows:
            raise DataError("expected images with labels, found none")
        return Calibration.of(images.collection_of(rows), progress)
    except DataError as error:
        raise InputError(f"there can be no verdicts: {error}") from error


def verdicts(
    images: Searchable,
    calibration: Calibration,
    points: np.ndarray,
    confidence: float = CONFIDENCE,
    *,
    exact: bool = False,
) -> Iterator[Verdict]:
    """The verdict on each of the points (Q, D), searched block by block as they are asked for."""
    for hits in answers(images, points, NEIGHBOURS + 1, exact=exact):
        yield of_hits(calibration, hits, confidence)


def of_hits(calibration: Calibration, hits: Sequence[Hit], confidence: float) -> Verdict:
    """The verdict on one query, from its nearest images."""
    distances = np.array([hit.distance for hit in hits])
    return calibration.verdict(distances, [hit.label for hit in hits], confidence)
