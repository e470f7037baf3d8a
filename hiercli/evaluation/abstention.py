"""How far the verdicts on queries can be trusted: are the probabilities those that come true?

Half of the images of each class become an index, the other half queries. Where levels are known, a
quarter of the classes is left out of the index, so that their images have no right class there,
only right groups. What `hierarchy.verdict` learns, it learns of the index alone.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from hiercli import neighbours
from hiercli.collection import Collection
from hiercli.errors import DataError
from hiercli.hierarchy.calibrating import calibrate
from hiercli.hierarchy.kinds import Kinds
from hiercli.hierarchy.labelled import Labelled
from hiercli.hierarchy.verdict import CONFIDENCE, NEIGHBOURS, Verdict

PRECISION = 0.9
_BINS = 10
_HIDDEN = 0.25
_ROWS = 256


@dataclass(frozen=True)
class Abstention:
    """Scores of verdicts, 0 to 1.

    Attributes:
        named: share of the queries for which a class or group is named.
        precision: share of these that is right.
        named_class: share of the queries for which a class is named.
        calibration_error: expected error of the probabilities of all classes and groups that were
            considered, in ten bins (Guo et al., "On Calibration of Modern Neural Networks", ICML
            2017, equation 3). Lower is better.
        coverage: largest share of the queries for which classes can be named, the most probable
            first, so that 90 % are right.
        coverage_by_distance: the same where the class of the nearest image is named, the nearest
            first.
        foreign: share of the queries that nothing in the index is like, by the verdicts.
        num_queries: queries.
        num_unknown: of these, images of classes that the index does not have.
        curve: pairs of coverage and risk, the share of wrong classes, by probability.
        curve_by_distance: the same by distance.
    """

    named: float
    precision: float
    named_class: float
    calibration_error: float
    coverage: float
    coverage_by_distance: float
    foreign: float
    num_queries: int
    num_unknown: int
    curve: list[tuple[float, float]] = field(repr=False)
    curve_by_distance: list[tuple[float, float]] = field(repr=False)

    def to_dict(self) -> dict[str, float]:
        """The scores by name, without the curves."""
        names = ("named", "precision", "named_class", "calibration_error", "coverage",
                 "coverage_by_distance", "foreign")  # fmt: skip
        return {name: round(getattr(self, name), 4) for name in names}


def judge(
    images: Collection,
    *,
    confidence: float = CONFIDENCE,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Abstention:
    """Score the verdicts that images give of each other.

    Args:
        images: with labels.
        confidence: probability that a class or group must have to be named.
        seed: which images and classes are the index.
        progress: called with (done, total) queries.

    Raises:
        DataError: too few classes or images.
    """
    if len(images.classes) < 2:
        raise DataError("expected images of two classes or more, with labels")
    known = images.labelled
    index, queries = _parted(known, seed)
    calibration = calibrate(Labelled.of(index))
    labels = list(index.labels or ())
    verdicts: list[Verdict] = []
    nearest, first = [], []
    gallery = neighbours.Gallery(index.points, index.c)
    for start in range(0, len(queries), _ROWS):
        distances, places = gallery.nearest(queries.points[start : start + _ROWS], NEIGHBOURS + 1)
        for far, near in zip(distances, places, strict=True):
            own = [labels[place] for place in near]
            verdicts.append(calibration.verdict(far, own, confidence))
            nearest.append(far[0])
            first.append(own[0])
        if progress:
            progress(len(verdicts), len(queries))
    truth = list(queries.labels or ())
    lines = known.lineages
    groups = {
        label: dict(zip(known.level_names, line, strict=True)) for label, line in lines.items()
    }
    right = [
        _are_right(calibration.kinds, verdict, label, groups.get(label, {}))
        for verdict, label in zip(verdicts, truth, strict=True)
    ]
    named = [
        own[[sure >= confidence for _, _, sure in verdict.kinds].index(True)]
        for verdict, own in zip(verdicts, right, strict=True)
        if verdict.name
    ]
    best = [verdict.kinds[0] if verdict.kinds else ("", "", 0.0) for verdict in verdicts]
    by_verdict = np.array([kind[0] == label for kind, label in zip(best, truth, strict=True)])
    by_distance = np.array([own == label for own, label in zip(first, truth, strict=True)])
    curves = (
        _curve(by_verdict, -np.array([kind[2] for kind in best])),
        _curve(by_distance, np.array(nearest)),
    )
    return Abstention(
        named=len(named) / len(truth),
        precision=float(np.mean(named)) if named else 0.0,
        named_class=float(
            np.mean([bool(v.kinds) and v.kinds[0][2] >= confidence for v in verdicts])
        ),
        calibration_error=_calibration_error(
            np.array([sure for verdict in verdicts for _, _, sure in verdict.kinds]),
            np.array([one for own in right for one in own]),
        ),
        coverage=_coverage(curves[0]),
        coverage_by_distance=_coverage(curves[1]),
        foreign=float(np.mean([verdict.is_foreign for verdict in verdicts])),
        num_queries=len(truth),
        num_unknown=sum(label not in calibration.kinds.leaves for label in truth),
        curve=curves[0],
        curve_by_distance=curves[1],
    )


def _are_right(kinds: Kinds, verdict: Verdict, label: str, groups: Mapping[str, str]) -> list[bool]:
    """Which of the kinds that were considered are those of an image.

    Args:
        kinds: of the index.
        verdict: on the image.
        label: its class, which the index need not have.
        groups: its groups by level.
    """
    chain = kinds.chain(kinds.leaves[verdict.kinds[0][0]]) if verdict.kinds else []
    if label in kinds.leaves:
        true = set(kinds.chain(kinds.leaves[label]))
        return [kind in true for kind in chain]
    # A group is its name and all above it; a class that is not there cannot be named.
    same = [groups.get(kinds.levels[kind]) == kinds.names[kind] for kind in chain]
    return [place > 0 and all(same[place:]) for place in range(len(chain))]


def _parted(known: Collection, seed: int) -> tuple[Collection, Collection]:
    """Images that are an index, and those that are looked for."""
    rng = np.random.default_rng(seed)
    classes = known.classes
    hidden: set[str] = set()
    if known.lineages and len(classes) > 4:
        hidden = {classes[place] for place in
                  rng.permutation(len(classes))[: round(_HIDDEN * len(classes))]}  # fmt: skip
    codes = np.array(known.labels)
    inside, asked = np.zeros(len(known), bool), np.zeros(len(known), bool)
    for name in classes:
        own = rng.permutation(np.flatnonzero(codes == name))
        half = (len(own) + 1) // 2
        asked[own[half:]] = True
        inside[own[:half]] = name not in hidden
    if max(np.unique(codes[inside], return_counts=True)[1], default=0) < 2:
        raise DataError("expected a class with three images or more, found none")
    return known[inside], known[asked]


def _calibration_error(sure: np.ndarray, came: np.ndarray) -> float:
    if not len(sure):
        return 0.0
    bins = np.minimum(sure * _BINS, _BINS - 1).astype(int)
    parts = [bins == number for number in range(_BINS)]
    return float(
        sum(
            part.mean() * abs(sure[part].mean() - came[part].mean()) for part in parts if part.any()
        )
    )


def _curve(right: np.ndarray, order: np.ndarray) -> list[tuple[float, float]]:
    """Coverage and risk where the first so many by some order are answered."""
    wrong = np.cumsum(~right[np.argsort(order, kind="stable")])
    ranks = np.arange(1, len(right) + 1)
    return list(zip((ranks / len(right)).tolist(), (wrong / ranks).tolist(), strict=True))


def _coverage(curve: list[tuple[float, float]]) -> float:
    return max((covered for covered, risk in curve if 1 - risk >= PRECISION), default=0.0)
