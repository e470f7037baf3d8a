"""Retrieval metrics over exact neighbours, in blocks of queries so that memory stays bounded.

Recall@K: share of queries with a photograph of their class among the K nearest. R-precision: the
share of right ones among the R nearest, R being how many there are to find. MAP@R: Musgrave et
al., "A Metric Learning Reality Check" (ECCV 2020), equation 4.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from hiercli.errors import DataError
from hiercli.neighbours import Gallery
from hiercli.reranking import CANDIDATES, rerank

_QUERIES_AT_A_TIME = 1024


@dataclass(frozen=True)
class RetrievalScores:
    """Scores in percent.

    Attributes:
        recall_at: Recall@K by K.
        map_at_r, r_precision: see the module.
        num_queries: queries that had something to find.
        num_gallery: photographs searched in.
        per_class: class -> (queries, Recall at the smallest K, R-precision).
        unanswerable: queries whose class has no other photograph; they are left out.
        right: (Q,) bool, for each query that is not left out whether the nearest is of its class.
        precision: (Q,) MAP@R of each of these queries, 0 to 1.
        labels: the classes of these Q queries.
        places: (Q,) their positions among all queries.
    """

    recall_at: dict[int, float]
    map_at_r: float
    r_precision: float
    num_queries: int
    num_gallery: int
    per_class: dict[str, tuple[int, float, float]]
    unanswerable: int
    right: np.ndarray
    precision: np.ndarray
    labels: list[str]
    places: np.ndarray

    @property
    def notes(self) -> list[str]:
        """A sentence on queries that the scores leave out, if there are any."""
        if not self.unanswerable:
            return []
        return [
            f"{self.unanswerable} of {self.unanswerable + self.num_queries} queries have no other "
            "image of their class. They are not scored"
        ]

    def to_dict(self) -> dict[str, float]:
        """The scores by name, as `hier eval --json` prints them."""
        recall = {f"recall@{k}": round(value, 4) for k, value in self.recall_at.items()}
        return {
            "num_queries": self.num_queries,
            "num_gallery": self.num_gallery,
            "unanswerable": self.unanswerable,
            **recall,
            "map@r": round(self.map_at_r, 4),
            "r_precision": round(self.r_precision, 4),
        }


def score(
    queries: np.ndarray,
    query_labels: Sequence[str],
    gallery: np.ndarray | None = None,
    gallery_labels: Sequence[str] | None = None,
    *,
    c: float | None,
    recall_at: Sequence[int] = (1, 2, 4, 8),
    reranked: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> RetrievalScores:
    """Score queries against a gallery, or against each other with self-matches left out.

    Args:
        queries: (Q, D) points.
        query_labels: Q class names.
        gallery: (N, D) points; ``None``: the queries are the gallery, and each one ignores itself
            (by its position, so that an identical twin still counts).
        gallery_labels: N class names; they come with ``gallery``.
        c: curvature magnitude, or ``None`` to rank by cosine.
        recall_at: the K of Recall@K.
        reranked: correct the order of the nearest by what is near them, see `reranking`.
        progress: called with (done, total) queries.

    Raises:
        DataError: no query has anything to find, or points and labels do not belong together.
    """
    if (gallery is None) != (gallery_labels is None):
        raise DataError("expected gallery points and gallery labels, got only one of them")
    itself = gallery is None
    if gallery is None or gallery_labels is None:
        gallery, gallery_labels = queries, query_labels
    for points, names_of in ((queries, query_labels), (gallery, gallery_labels)):
        if points.ndim != 2 or len(points) != len(names_of):
            raise DataError(
                f"expected a label for each point, got points of shape {points.shape} and "
                f"{len(names_of)} labels"
            )
    if not len(queries) or not len(gallery):
        raise DataError("expected readable query and gallery images, found none")
    if not (np.isfinite(queries).all() and np.isfinite(gallery).all()):
        raise DataError(
            "expected finite points, found nan or inf. Train or export the encoder again"
        )
    names, codes = np.unique([*query_labels, *gallery_labels], return_inverse=True)
    asked, stored = codes[: len(queries)], codes[len(queries) :]
    to_find = np.bincount(stored, minlength=len(names))[asked] - itself
    answerable = np.flatnonzero(to_find > 0)
    if answerable.size == 0:
        raise DataError(
            "expected queries with another image of their class, found none. Each class needs at "
            "least two images"
        )
    ks = np.array(sorted(recall_at))
    searched = Gallery(gallery, c)
    parts, firsts = [], []
    for start in range(0, len(answerable), _QUERIES_AT_A_TIME):
        block = answerable[start : start + _QUERIES_AT_A_TIME]
        depth = int(max(ks[-1], to_find[block].max(), CANDIDATES if reranked else 0))
        _, found = searched.nearest(queries[block], depth + itself)
        if itself:
            found = _without(found, block)
        if reranked:
            for query, row in zip(queries[block], found[:, :CANDIDATES], strict=True):
                row[:] = row[rerank(query, gallery[row], c)]
        right = stored[found] == asked[block, None]
        firsts.append(right[:, 0])
        parts.append(_block_scores(right, to_find[block], ks))
        if progress:
            progress(min(start + _QUERIES_AT_A_TIME, len(answerable)), len(answerable))
    table = np.concatenate(parts)  # a row a query: Recall at each K, MAP@R, R-precision
    means = 100 * table.mean(axis=0)
    per_class = {}
    for code in np.unique(asked[answerable]):
        own = table[asked[answerable] == code]
        per_class[str(names[code])] = (
            len(own), 100 * float(own[:, 0].mean()), 100 * float(own[:, -1].mean())
        )  # fmt: skip
    return RetrievalScores(
        recall_at={int(k): float(value) for k, value in zip(ks, means, strict=False)},
        map_at_r=float(means[-2]),
        r_precision=float(means[-1]),
        num_queries=len(answerable),
        num_gallery=len(gallery),
        per_class=per_class,
        unanswerable=len(queries) - len(answerable),
        right=np.concatenate(firsts),
        precision=table[:, -2],
        labels=[query_labels[int(place)] for place in answerable],
        places=answerable,
    )


def _without(found: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Drop each query's own position from its row, or the last entry where it is not in it."""
    is_own = found == own[:, None]
    is_own[~is_own.any(axis=1), -1] = True
    return found[~is_own].reshape(len(found), -1)


def _block_scores(right: np.ndarray, to_find: np.ndarray, ks: np.ndarray) -> np.ndarray:
    recall = np.stack([right[:, :k].any(axis=1) for k in ks], axis=1)
    ranks = np.arange(1, right.shape[1] + 1)
    counted = right & (ranks[None] <= to_find[:, None])
    precision = np.cumsum(counted, axis=1) / ranks[None]
    map_at_r = (precision * counted).sum(axis=1) / to_find
    r_precision = counted.sum(axis=1) / to_find
    return np.column_stack((recall, map_at_r, r_precision)).astype(np.float64)
