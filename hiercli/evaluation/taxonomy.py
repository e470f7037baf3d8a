"""How well distances between classes agree with a taxonomy that they never saw.

Three questions, each about classes given by one point: does a tree grown from the distances keep
the groups of each level together (dendrogram purity, Heller & Ghahramani, "Bayesian Hierarchical
Clustering", ICML 2005), do its heights rise with those of the taxonomy (Spearman), and are
relatives nearer than strangers (triplet accuracy)?
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.cluster.hierarchy import average, cophenet
from scipy.sparse import csr_array
from scipy.spatial.distance import squareform
from scipy.stats import spearmanr

from hiercli.collection import Collection
from hiercli.errors import DataError
from hiercli.geometry import lorentz
from hiercli.hierarchy.labelled import blocks_of
from hiercli.labels import Record


@dataclass(frozen=True)
class TaxonomyScores:
    """Agreement with a taxonomy; 1 is perfect in each.

    Attributes:
        purity: level -> dendrogram purity of the average-linkage tree, 0 to 1. Levels at which no
            two classes share a group have none.
        correlation: Spearman correlation, over pairs of classes, of the height of their
            lowest common ancestor in that tree and in the taxonomy, -1 to 1.
        triplet_accuracy: share of triplets (i, j, k), j nearer of kin to i than k is, with
            d(i, j) < d(i, k); 0 to 1, 0.5 by chance.
        num_classes: how many classes were compared.
    """

    purity: dict[str, float]
    correlation: float
    triplet_accuracy: float
    num_classes: int

    def to_dict(self) -> dict[str, float]:
        """The scores by name, which says that the tree is that of average linkage."""
        return {
            **{f"linkage_purity@{level}": round(value, 4) for level, value in self.purity.items()},
            "linkage_correlation": round(self.correlation, 4),
            "triplet_accuracy": round(self.triplet_accuracy, 4),
        }


def judge(
    distances: np.ndarray, lineages: Sequence[Sequence[str]], levels: Sequence[str]
) -> TaxonomyScores:
    """Hold distances between classes against the taxonomy of these classes.

    Args:
        distances: (C, C), symmetric, lower is closer.
        lineages: C rows of group names, one a level, fine to coarse.
        levels: names of the levels.

    Raises:
        DataError: fewer than three classes, or a taxonomy in which all are equally related.
    """
    num_classes = len(distances)
    heights = lca_heights(lineages)
    pairs = squareform(heights, checks=False)
    if num_classes < 3 or len(np.unique(pairs)) < 2:
        raise DataError(
            "expected at least three classes that the taxonomy relates differently, found "
            f"{num_classes} classes. Use a taxonomy with more levels"
        )
    flat = squareform(np.where(np.eye(num_classes, dtype=bool), 0.0, distances), checks=False)
    tree = average(flat)
    return TaxonomyScores(
        purity=purities(tree[:, :2].astype(int), lineages, levels),
        correlation=correlation(cophenet(tree), pairs),
        triplet_accuracy=triplet_accuracy(distances, heights),
        num_classes=num_classes,
    )


def judge_points(collection: Collection) -> TaxonomyScores:
    """`judge` images with labels and levels.

    Each class is given by the direction of the midpoint of its points.

    How far out a midpoint lies says how widely its class is spread rather than where it belongs:
    on held-out training classes of CUB, directions order more triplets as the taxonomy does (0.88)
    than geodesics between midpoints (0.85).

    Classes of which the taxonomy does not name every level are left out.

    Raises:
        DataError: the levels say nothing about these classes.
    """
    lineages = collection.complete_lineages
    if not lineages or collection.labels is None:
        raise DataError("the taxonomy does not contain these classes")
    distances = class_distances(collection.points, collection.labels, list(lineages), collection.c)
    return judge(distances, list(lineages.values()), collection.level_names)


def known_lineages(records: Sequence[Record], levels: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Groups, fine to coarse, of each class of which the taxonomy names every level.

    Raises:
        DataError: there is no such class.
    """
    lineages = {
        record.label: record.levels
        for record in records
        if levels and len(record.levels) == len(levels) and all(record.levels)
    }
    if not lineages:
        raise DataError("the taxonomy does not contain these classes")
    return lineages


def class_distances(
    points: np.ndarray, labels: Sequence[str], names: Sequence[str], c: float | None
) -> np.ndarray:
    """One minus the cosine between the midpoints of classes, (C, C).

    Args:
        points: (N, D).
        labels: N class names.
        names: C of them.
        c: curvature magnitude, or ``None`` for plain features, whose mean is taken.
    """
    place = {name: number for number, name in enumerate(names)}
    codes = np.array([place.get(label, -1) for label in labels], np.int64)
    return midpoint_distances(codes, blocks_of(points), len(names), c)


def midpoint_distances(
    codes: np.ndarray, blocks: Iterable[np.ndarray], num_classes: int, c: float | None
) -> np.ndarray:
    """`class_distances` of points that are read a block at a time.

    Args:
        codes: (N,) class of each, -1 for none of them.
        blocks: their points (M, D), in order.
        num_classes: C.
        c: see there.
    """
    sums: np.ndarray | float = 0.0
    start = 0
    for block in blocks:
        wide = block.astype(np.float64)
        if c is not None:  # a midpoint lies where the sum on the hyperboloid points to
            wide = lorentz.from_poincare(wide, c)[:, 1:]
        own = codes[start : start + len(block)]
        (rows,) = np.nonzero(own >= 0)
        members = csr_array(
            (np.ones(len(rows)), (own[rows], rows)), shape=(num_classes, len(block))
        )
        sums = sums + members @ wide
        start += len(block)
    assert isinstance(sums, np.ndarray), "no class without images"
    unit = sums / np.linalg.norm(sums, axis=1, keepdims=True).clip(np.finfo(float).tiny)
    # Rounded, so that classes in one place do not come in an order made by the last digits.
    distances: np.ndarray = (1 - unit @ unit.T).round(12)
    return distances


def purities(
    joins: Sequence[Sequence[int]] | np.ndarray,
    lineages: Sequence[Sequence[str]],
    levels: Sequence[str],
) -> dict[str, float]:
    """Dendrogram purity of a tree of classes at each level at which two of them share a group."""
    codes = groups(lineages)
    return {
        level: dendrogram_purity(joins, one_each(codes[:, place]))
        for place, level in enumerate(levels)
        if len(np.unique(codes[:, place])) < len(lineages)
    }


def correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's rank correlation; 0 where one side is all the same and so orders nothing."""
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    return float(spearmanr(first, second).statistic)


def lca_heights(lineages: Sequence[Sequence[str]]) -> np.ndarray:
    """Height of the lowest common ancestor of every two classes, int64 (C, C).

    0 for a class and itself, 1 where the finest level agrees, one more for each level further up,
    and one more than there are levels where none agrees.
    """
    table = groups(lineages)
    num_classes, num_levels = table.shape
    heights = np.full((num_classes, num_classes), num_levels + 1)
    for place in reversed(range(num_levels)):
        heights[table[:, None, place] == table[None, :, place]] = place + 1
    np.fill_diagonal(heights, 0)
    return heights


def groups(lineages: Sequence[Sequence[str]]) -> np.ndarray:
    """A number for the group of each class at each level, int64 (C, L).

    A group is its name and all that is above it: the denim of men and that of women are two.

    Examples:
        >>> groups([("denim", "men"), ("denim", "women"), ("coats", "women")])[:, 1].tolist()
        [0, 1, 1]
    """
    codes = np.empty((len(lineages), len(lineages[0])), np.int64)
    for place in range(codes.shape[1]):
        numbers: dict[tuple[str, ...], int] = {}
        for row, line in enumerate(lineages):
            codes[row, place] = numbers.setdefault(tuple(line[place:]), len(numbers))
    return codes


def dendrogram_purity(joins: Iterable[Sequence[int]], counts: np.ndarray) -> float:
    """Mean, over pairs of items of one group, of that group's share under their common ancestor.

    Args:
        joins: for each inner node the numbers of its branches: leaves are 0 to L - 1, join t is
            number L + t. SciPy's linkages and `hierarchy.tree.joins` give them so.
        counts: (L, G) items of each group at each leaf; two items must share a group.
    """
    below = list(counts.astype(np.float64))
    total, pairs = 0.0, 0.0

    def meet(met: np.ndarray, under: np.ndarray) -> None:
        nonlocal total, pairs
        total += float((met * under).sum() / under.sum())
        pairs += float(met.sum())

    for own in below:  # several items at one leaf have that leaf as their ancestor
        if own.sum() > 1:
            meet(own * (own - 1) / 2, own)
    for branches in joins:
        parts = np.stack([below[branch] for branch in branches])
        under = parts.sum(axis=0)
        below.append(under)
        meet((under**2 - (parts**2).sum(axis=0)) / 2, under)
    return total / pairs


def one_each(names: Sequence[str] | np.ndarray) -> np.ndarray:
    """Counts for `dendrogram_purity` of leaves that are one item each, (L, G)."""
    codes = np.unique(names, return_inverse=True)[1]
    return np.eye(codes.max() + 1)[codes]


def joined_at(joins: Iterable[Sequence[int]], heights: np.ndarray, count: int) -> np.ndarray:
    """Height at which every two leaves meet, (count, count), 0 on the diagonal.

    What SciPy's ``cophenet`` gives for two branches a join, for any number of them.

    Args:
        joins: as for `dendrogram_purity`.
        heights: (J,) of the joins.
        count: leaves.
    """
    met = np.zeros((count, count))
    below = [[leaf] for leaf in range(count)]
    for branches, height in zip(joins, heights, strict=True):
        under: list[int] = []
        for branch in branches:
            met[np.ix_(under, below[branch])] = height
            met[np.ix_(below[branch], under)] = height
            under = under + below[branch]
        below.append(under)
    return met


def triplet_accuracy(distances: np.ndarray, heights: np.ndarray) -> float:
    """Share of the triplets with height(i, j) < height(i, k) in which also d(i, j) < d(i, k).

    Args:
        distances: (C, C).
        heights: (C, C), as from `lca_heights`.
    """
    right, total = 0, 0
    for i in range(len(distances)):
        others = np.arange(len(distances)) != i
        reach, height = distances[i, others], heights[i, others]
        for level in np.unique(height)[:-1]:
            near, far = reach[height == level], np.sort(reach[height > level])
            right += int((len(far) - np.searchsorted(far, near, side="right")).sum())
            total += len(near) * len(far)
    return right / total
