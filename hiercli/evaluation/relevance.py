"""Retrieval scores that know how wrong a wrong answer is: arrays of LCA heights in, numbers out.

The level of an answer is how many levels of the taxonomy it shares with the query: 0 for a
stranger, the greatest for a picture of the same class. All scores lie between 0 and 1, 1 is the
best that any ranking of these pictures could reach, except the severity.

- HP@k, hierarchical precision: similarity (Wu and Palmer: level over greatest level) of the k
  nearest, over that of the best k. Deng et al., "Hierarchical Semantic Indexing for Large Scale
  Image Retrieval" (CVPR 2011).
- H-AP: average precision in which an answer counts by its level; ASI: mean share of the first n
  that belongs there, over n up to the last relative; NDCG with gain 2^level - 1. Ramzi et al.,
  "Hierarchical Average Precision Training for Pertinent Image Retrieval" (ECCV 2022), equations 1
  to 3 with alpha 1, and its supplement.
- severity: mean height of the lowest common ancestor of a query and its nearest picture, over the
  queries whose nearest is of another class. Bertinetto et al., "Making Better Mistakes" (CVPR
  2020). Lower is better; 1 is the nearest kin there is.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from hiercli.collection import Collection
from hiercli.errors import DataError
from hiercli.evaluation.taxonomy import lca_heights
from hiercli.geometry import poincare

MOST_QUERIES = 2000
"""Each ranks the whole gallery; of more queries so many are taken, evenly spread."""
_CELLS = 1 << 22


@dataclass(frozen=True)
class RelevanceScores:
    """See the module for what each score means.

    Attributes:
        precision_at: HP@k by k.
        average_precision: H-AP.
        set_intersection: ASI.
        ndcg: over the whole ranking.
        severity: ``nan`` where no nearest picture is of another class.
        num_queries: queries that were ranked.
    """

    precision_at: dict[int, float]
    average_precision: float
    set_intersection: float
    ndcg: float
    severity: float
    num_queries: int

    def to_dict(self) -> dict[str, float]:
        """The scores by name; the severity only where there is one."""
        named = {f"hp@{k}": value for k, value in self.precision_at.items()}
        named |= {"h-ap": self.average_precision, "asi": self.set_intersection, "ndcg": self.ndcg}
        if np.isfinite(self.severity):
            named["severity"] = self.severity
        return named


def score(
    points: np.ndarray,
    codes: np.ndarray,
    heights: np.ndarray,
    *,
    c: float | None,
    precision_at: Sequence[int] = (1, 10, 100),
    progress: Callable[[int, int], None] | None = None,
) -> RelevanceScores:
    """Rank pictures by each other and score the rankings; no picture is its own answer.

    Args:
        points: (N, D).
        codes: (N,) the class of each, a row of ``heights``.
        heights: (C, C) int, from `taxonomy.lca_heights`: 0 for a class and itself.
        c: curvature magnitude, or ``None`` to rank by cosine.
        precision_at: the k of HP@k; those beyond N - 1 are left out.
        progress: called with (done, total) queries.

    Raises:
        DataError: fewer than two pictures, or all are strangers to each other.
    """
    return score_each(points, codes, [heights], c=c, precision_at=precision_at, progress=progress)[
        0
    ]


def score_levels(images: Collection) -> RelevanceScores:
    """`score` images by their own levels; those of classes whose levels lack are left out.

    Raises:
        DataError: as `score`.
    """
    lines = images.complete_lineages
    place = {name: number for number, name in enumerate(lines)}
    kept = [row for row, label in enumerate(images.labels or ()) if label in lines]
    if not kept:
        raise DataError("expected classes with levels, found none")
    codes = np.array([place[(images.labels or ())[row]] for row in kept])
    return score(images.points[kept], codes, lca_heights(list(lines.values())), c=images.c)


def score_each(
    points: np.ndarray,
    codes: np.ndarray,
    tables: Sequence[np.ndarray],
    *,
    c: float | None,
    precision_at: Sequence[int] = (1, 10, 100),
    progress: Callable[[int, int], None] | None = None,
) -> list[RelevanceScores]:
    """`score` the same rankings by several arrays of LCA heights, ranking but once."""
    count = len(points)
    levels = [(heights.max() - heights).astype(np.int16) for heights in tables]
    present = np.unique(codes)
    related = [np.triu(table[np.ix_(present, present)], 1).any() for table in levels]
    if count < 2 or (np.bincount(codes).max() < 2 and not all(related)):
        raise DataError("expected queries with related images in the gallery, found none")
    ks = [k for k in precision_at if k < count]
    asked = np.unique(np.linspace(0, count - 1, min(count, MOST_QUERIES)).astype(int))
    parts: list[list[np.ndarray]] = [[] for _ in tables]
    severities: list[list[np.ndarray]] = [[] for _ in tables]
    step = max(1, _CELLS // count)
    for start in range(0, len(asked), step):
        block = asked[start : start + step]
        order = np.argsort(_distances(points[block], points, block, c), axis=1, kind="stable")
        classes = codes[order[:, :-1]]  # the query itself comes last
        for table, scored, severe in zip(levels, parts, severities, strict=True):
            greatest = int(table.max())
            found = table[codes[block, None], classes]
            scored.append(_rankings(found, greatest, ks))
            severe.append(greatest - found[found[:, 0] < greatest, 0])
        if progress:
            progress(min(start + step, len(asked)), len(asked))
    results = []
    for scored, severe in zip(parts, severities, strict=True):
        whole, mistakes = np.concatenate(scored), np.concatenate(severe)
        means = whole[np.isfinite(whole).all(axis=1)].mean(axis=0)
        results.append(
            RelevanceScores(
                precision_at=dict(zip(ks, means.tolist(), strict=False)),
                average_precision=float(means[-3]),
                set_intersection=float(means[-2]),
                ndcg=float(means[-1]),
                severity=float(mistakes.mean()) if len(mistakes) else float("nan"),
                num_queries=len(asked),
            )
        )
    return results


def _distances(
    queries: np.ndarray, points: np.ndarray, own: np.ndarray, c: float | None
) -> np.ndarray:
    wide, others = queries.astype(np.float64), points.astype(np.float64)
    if c is None:
        wide /= np.linalg.norm(wide, axis=1, keepdims=True).clip(1e-12)
        others /= np.linalg.norm(others, axis=1, keepdims=True).clip(1e-12)
        far = 1 - wide @ others.T
    else:
        far = poincare.pairwise_dist(wide, others, c)
    far[np.arange(len(own)), own] = np.inf
    return far


def _rankings(found: np.ndarray, greatest: int, ks: Sequence[int]) -> np.ndarray:
    """(Q, len(ks) + 3): HP at each k, H-AP, ASI, NDCG of rankings given by the levels found.

    Rows without any relative are nan.
    """
    ideal = -np.sort(-found, axis=1)
    ranks = np.arange(1, found.shape[1] + 1)
    counts = np.stack([(found == level).sum(axis=1) for level in range(greatest + 1)], axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        columns = [found[:, :k].sum(axis=1, dtype=float) / ideal[:, :k].sum(axis=1) for k in ks]
        relevance = np.where(counts > 0, np.arange(greatest + 1) / greatest / counts, 0.0)
        own = np.take_along_axis(relevance, found.astype(np.int64), axis=1)
        earned = np.zeros(found.shape)
        shared = np.zeros(found.shape)
        for level in range(1, greatest + 1):
            met = np.cumsum(found == level, axis=1)
            earned += met * np.minimum(own, relevance[:, level, None])
            shared += np.minimum(met, np.cumsum(ideal == level, axis=1))
        columns.append((earned / ranks).sum(axis=1) / own.sum(axis=1))
        relatives = (found > 0).sum(axis=1)
        # Strangers belong beyond the last relative, so up to there they are never in their place.
        columns.append(((shared / ranks) * (ideal > 0)).sum(axis=1) / relatives)
        discount = 1 / np.log2(1 + ranks)
        gains = [(2.0 ** values.astype(float) - 1) @ discount for values in (found, ideal)]
        columns.append(gains[0] / gains[1])
    return np.stack(columns, axis=1)
