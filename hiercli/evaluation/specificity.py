"""Whether depth means something: do unclear, unusual and foreign images lie nearer the origin?"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from scipy.stats import rankdata, spearmanr

from hiercli.collection import Collection
from hiercli.errors import DataError
from hiercli.hierarchy import depth
from hiercli.images import degrading
from hiercli.labels import Record

_DEGRADED = 60
"""Images of which worse copies are made."""
_STRENGTHS = (0.25, 0.5, 0.75, 1.0)
_SIDE = 320
"""Of the copies, in pixels."""
_MOST_FOREIGN = 400


class Embedding(Protocol):
    """What embeds image files."""

    def embed_records(
        self,
        records: Sequence[Record],
        level_names: Sequence[str] = (),
        skipped: Callable[[str], None] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Collection:
        """Embed image files, see `Encoder.embed_records`."""


@dataclass(frozen=True)
class Specificity:
    """What the distance of images from the origin tells.

    Attributes:
        wrong_hits: AUROC of right first hits against wrong ones, 0.5 to 1; 0.5 is chance.
        degradation: Spearman correlation with how little an image is degraded, for each kind of
            degradation, -1 to 1.
        foreign: AUROC of the images against those of another data set; ``None`` without one.
    """

    wrong_hits: float
    degradation: dict[str, float]
    foreign: float | None

    def to_dict(self) -> dict[str, float]:
        """The scores by name."""
        found = {"wrong_hits_auroc": self.wrong_hits}
        found |= {f"spearman@{kind}": value for kind, value in self.degradation.items()}
        if self.foreign is not None:
            found["foreign_auroc"] = self.foreign
        return {name: round(value, 4) for name, value in found.items()}


def judge(
    encoder: Embedding,
    queries: Collection,
    right: np.ndarray,
    scored: np.ndarray,
    foreign: Sequence[Record] = (),
    skipped: Callable[[str], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Specificity:
    """Score the depth of images.

    Args:
        encoder: that embedded them; it embeds worse copies of 60 of them.
        queries: with paths.
        right: (Q,) bool, whether the first hit of each query that is scored is right.
        scored: (Q,) positions of these queries.
        foreign: images of another data set; at most 400 are used.
        skipped: told of each of these that cannot be read; without it such an image raises.
        progress: called with (done, total) images embedded.

    Raises:
        DataError: all images lie equally far from the origin, or all first hits are right, or all
            wrong.
    """
    if queries.c is None:
        raise DataError("features without a curvature have no depth")
    own = depth.radius_of(queries.points.astype(np.float64), queries.c)
    if np.ptp(own) < 1e-4 * own.mean():
        raise DataError("the encoder places all images equally far from the origin")
    if right.all() or not right.any():
        raise DataError("depth cannot be held against first hits that are all right, or all wrong")
    evenly = np.unique(np.linspace(0, len(queries) - 1, min(_DEGRADED, len(queries))).astype(int))
    paths = [Path((queries.paths or ())[place]) for place in evenly]
    kinds = [kind for kind in degrading.DEGRADATIONS for _ in _STRENGTHS for _ in paths]
    strengths = [value for _ in degrading.DEGRADATIONS for value in _STRENGTHS for _ in paths]
    copies = len(degrading.DEGRADATIONS) * len(_STRENGTHS)
    with tempfile.TemporaryDirectory() as folder:
        written = degrading.write(
            paths * copies, kinds, strengths, Path(folder), _SIDE, np.random.default_rng(0)
        )
        there = [place for place, file in enumerate(written) if file is not None]
        records = [Record(file, kinds[place]) for place, file in enumerate(written) if file]
        worse = encoder.embed_records(records, progress=progress)
    far = depth.radius_of(worse.points.astype(np.float64), queries.c)
    degradation = {}
    for kind in degrading.DEGRADATIONS:
        of_kind = [row for row, place in enumerate(there) if kinds[place] == kind]
        lost = [strengths[there[row]] for row in of_kind] + [0.0] * len(evenly)
        radii = np.concatenate([far[of_kind], own[evenly]])
        degradation[kind] = float(spearmanr(radii, -np.array(lost)).statistic)
    others = None
    if foreign:
        some = np.unique(np.linspace(0, len(foreign) - 1, min(_MOST_FOREIGN, len(foreign))))
        strange = encoder.embed_records(
            [foreign[int(place)] for place in some], skipped=skipped, progress=progress
        )
        radii = depth.radius_of(strange.points.astype(np.float64), queries.c)
        others = auroc(own, radii)
    return Specificity(auroc(own[scored][right], own[scored][~right]), degradation, others)


def auroc(high: np.ndarray, low: np.ndarray) -> float:
    """How often a value of the first kind is larger than one of the second; ties count half.

    Examples:
        >>> auroc(np.array([3.0, 2.0]), np.array([1.0, 2.0]))
        0.875
    """
    ranks = rankdata(np.concatenate([high, low]))
    wins = ranks[: len(high)].sum() - len(high) * (len(high) + 1) / 2
    return float(wins / (len(high) * len(low)))
