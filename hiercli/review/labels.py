"""Labels that the embedding disagrees with: of images, classes that are two, pairs that are one."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hiercli.collection import Collection
from hiercli.errors import DataError
from hiercli.geometry import poincare
from hiercli.hierarchy.node import Node, lines
from hiercli.neighbours import nearest
from hiercli.review.finding import Finding
from hiercli.review.neighbourhood import nearest_of_all
from hiercli.review.planting import confidence

if TYPE_CHECKING:
    from scipy.sparse import csr_array

LABEL_KINDS = ("relabel", "split", "merge")
NEIGHBOURS = 30
_SHOWN = 10
"""Neighbours that a reason speaks of."""
_WIDTH = 0.07
"""A neighbour counts 1/e where it is farther than the nearest by this share of the median distance
to the nearest. Chosen on CUB with 100 planted labels, where 0.07 to 0.25 differ little."""
_SMOOTHING = 1e-3
"""Added to the share of a class among the neighbours of another: never seen is not impossible."""
_ROWS_AT_ONCE = 4096
_FEWEST = 8
"""Images of a class that is looked at for a split."""
_COMPARED = 1000
"""Images of a class that are compared with each other; of more, so many evenly spread."""
_SMALLEST = 0.15
"""Share of a class that the smaller half must hold."""
_MEETING = 0.05
"""Share of each class among the neighbours of the other from which on two are compared."""
_MOST_APART = 100_000
"""Pairs of classes that do not meet, of which so many are counted."""
_MIXED = 5
"""Nearest images by which the mixing of two classes is judged."""
_PLANTED = 300
"""Pairs of classes that are joined to learn what two classes under one label look like."""


def doubts(
    collection: Collection,
    root: Node | None,
    *,
    least: float = 0.45,
    neighbours: tuple[np.ndarray, np.ndarray] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Finding]:
    """Look for labels and classes that the embedding disagrees with, the surest of a kind first.

    ``relabel``: each class has its usual neighbours, that is, shares of the classes among the
    nearest 30 images of its own; an image is doubted by how much likelier its neighbours are under
    another class than under its own. ``split``: by the mean silhouette (Rousseeuw, "Silhouettes",
    1987) of a class parted in two. ``merge``: by the share of the other class among the nearest
    images of two, over what it would be with random labels. What these are worth is learnt by
    planting: changed labels, joined classes, parted classes (`planting.confidence`).

    Args:
        collection: of images with labels, two or more different ones, and c.
        root: the tree over these classes; without it branches are not named.
        least: confidence from which on something is listed.
        neighbours: distances and positions of the nearest `NEIGHBOURS` of each image, see
            `nearest_of_all`, where they are known already.
        progress: called with (done, total) steps.

    Raises:
        DataError: fewer than two classes.
    """
    if collection.labels is None or collection.c is None:
        raise DataError("expected images with labels and a curvature c to compare")
    names, codes = np.unique(np.asarray(collection.labels), return_inverse=True)
    points, c = collection.points, collection.c
    if len(names) < 2:
        raise DataError("expected images of at least two classes, found one class")
    distances, others = neighbours or nearest_of_all(points, NEIGHBOURS, c)
    if progress:
        progress(1, 3)
    where = _Branches(root, collection)
    paths = collection.paths or [f"image {place + 1}" for place in range(len(points))]
    all_of = _Classes(points.astype(np.float64), codes, [str(n) for n in names], paths, c)
    relabels = _relabels(all_of, others, distances, where, least)
    if progress:
        progress(2, 3)
    splits = _splits(all_of, where, least)
    merges = _merges(all_of, _meetings(all_of, others), where, least)
    if progress:
        progress(3, 3)
    ranked = [sorted(some, key=lambda one: -(one.confidence or 0))
              for some in (relabels, splits, merges)]  # fmt: skip
    return [one for some in ranked for one in some]


@dataclass(frozen=True)
class _Classes:
    points: np.ndarray
    codes: np.ndarray
    names: list[str]
    paths: Sequence[str]
    c: float


class _Branches:
    """Names of the branches and of the groups that hold classes."""

    def __init__(self, root: Node | None, collection: Collection) -> None:
        self._lines = {} if root is None else {line[-1].name: line for line in lines(root).values()}
        self._groups, self._level_names = collection.lineages, collection.level_names

    def common(self, first: str, second: str) -> str:
        pair = self._lines.get(first, []), self._lines.get(second, [])
        shared = [a for a, b in zip(*pair, strict=False) if a is b and a.children]
        return shared[-1].name if shared else ""

    def shared(self, first: str, second: str) -> str:
        """The finest group that two classes lie in, with its level: ``genus Icterus``."""
        own, other = self._groups.get(first, ()), self._groups.get(second, ())
        for place, name in enumerate(self._level_names):
            if own and own[place] and own[place:] == other[place:]:
                return f"{name} {own[place]}"
        return ""


# -- images ---------------------------------------------------------------------------------------


def _relabels(
    all_of: _Classes, others: np.ndarray, distances: np.ndarray, where: _Branches, least: float
) -> list[Finding]:
    scores, proposals, planted = _label_scores(all_of, others, distances)
    sure = confidence(scores, planted)
    found = []
    for place in np.flatnonzero(sure >= max(least, 1e-9)).tolist():
        label, proposal = all_of.names[all_of.codes[place]], all_of.names[proposals[place]]
        near = all_of.codes[others[place, :_SHOWN]]
        reason = (
            f"{(near == proposals[place]).sum()} of its {len(near)} nearest images have the label "
            f"{proposal}, {(near == all_of.codes[place]).sum()} the label {label}"
        )
        found.append(
            Finding("relabel", all_of.paths[place], label, proposal, "", float(sure[place]),
                    where.common(label, proposal), where.shared(label, proposal), reason)
        )  # fmt: skip
    return found


def _label_scores(
    all_of: _Classes, others: np.ndarray, distances: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How much likelier each image's neighbours are under another class; that class; planted ones.

    Returns:
        scores (N,), of images that are alone in their class -inf; codes of the classes (N,); and
        scores of images whose label was changed: half of them to any other class, half to the one
        that lies nearest.
    """
    codes, count, total = all_of.codes, len(all_of.names), len(all_of.codes)
    votes = _votes(all_of, others, distances)
    sizes = np.bincount(codes, minlength=count)
    sums = _by_class(codes, count) @ votes  # of the votes of a class's images
    seen = (sums.multiply(1 / sizes[:, None])).tocsr()
    logs = seen.copy()
    logs.data = np.log((seen.data + _SMOOTHING) / _SMOOTHING)
    rng = np.random.default_rng(0)
    wrong = (codes + rng.integers(1, count, total)) % count
    near = _nearest_class(seen)
    is_near = (rng.random(total) < 0.5) & (near[codes] >= 0)
    wrong[is_near] = near[codes[is_near]]
    scores, planted = np.full(total, -np.inf), np.empty(total)
    proposals = np.zeros(total, np.int64)
    own = _own_likelihood(codes, votes, sums, sizes)
    for first in range(0, total, _ROWS_AT_ONCE):
        rows = np.arange(first, min(total, first + _ROWS_AT_ONCE))
        likely = np.asarray((votes[rows] @ logs.T).todense())
        at = np.arange(len(rows))
        told = likely[at, wrong[rows]]
        planted[rows] = _without(likely, wrong[rows]).max(axis=1) - told
        rest = _without(likely, codes[rows])
        proposals[rows] = rest.argmax(axis=1)
        scores[rows] = rest.max(axis=1) - own[rows]
    scores[sizes[codes] == 1] = -np.inf
    return scores, proposals, planted[sizes[codes] > 1]


def _without(likely: np.ndarray, columns: np.ndarray) -> np.ndarray:
    rest = likely.copy()
    rest[np.arange(len(rest)), columns] = -np.inf
    return rest


def _votes(all_of: _Classes, others: np.ndarray, distances: np.ndarray) -> "csr_array":
    """Share of each class among the neighbours of each image, near ones counting more."""
    from scipy.sparse import csr_array

    total, k = others.shape
    width = max(_WIDTH * float(np.median(distances[:, 0])), 1e-12)
    weights = np.exp(-(distances - distances[:, :1]) / width)
    weights /= weights.sum(axis=1, keepdims=True)
    rows = np.repeat(np.arange(total), k)
    shape = (total, len(all_of.names))
    votes = csr_array((weights.ravel(), (rows, all_of.codes[others].ravel())), shape=shape)
    votes.sum_duplicates()
    return votes


def _by_class(codes: np.ndarray, count: int) -> "csr_array":
    from scipy.sparse import csr_array

    ones = np.ones(len(codes))
    return csr_array((ones, (codes, np.arange(len(codes)))), shape=(count, len(codes)))


def _own_likelihood(
    codes: np.ndarray, votes: "csr_array", sums: "csr_array", sizes: np.ndarray
) -> np.ndarray:
    """Of each image's neighbours under its own class, as the others of the class have them."""
    rows = np.repeat(np.arange(len(codes)), np.diff(votes.indptr))
    rest = np.asarray(sums[codes[rows], votes.indices]).ravel() - votes.data
    shares = np.maximum(0, rest) / np.maximum(1, sizes[codes[rows]] - 1)
    likely = votes.data * np.log((shares + _SMOOTHING) / _SMOOTHING)
    return np.bincount(rows, likely, minlength=len(codes))


def _nearest_class(seen: "csr_array") -> np.ndarray:
    """The class that each is taken for most often but itself; -1 where there is none."""
    rest = seen.tolil(copy=True)
    rest.setdiag(0)
    rows = rest.tocsr()
    best = np.asarray(rows.argmax(axis=1)).ravel()
    best[np.asarray(rows.max(axis=1).todense()).ravel() <= 0] = -1
    return best


# -- classes --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Halves:
    """Images parted in two as well as they can be.

    Attributes:
        own: positions of the images.
        is_second: of these, which are in the second half.
        silhouette: how far apart the halves are, -1 to 1.
        total: images of the class.
    """

    own: np.ndarray
    is_second: np.ndarray
    silhouette: float
    total: int


def _meetings(all_of: _Classes, others: np.ndarray) -> "csr_array":
    """Share of each class (column) among the nearest images of those of each class (row)."""
    from scipy.sparse import csr_array

    near = others[:, :_SHOWN]
    count = len(all_of.names)
    pairs = np.repeat(all_of.codes, near.shape[1]), all_of.codes[near].ravel()
    met = csr_array((np.ones(near.size), pairs), shape=(count, count))
    met.sum_duplicates()
    return (met.multiply(1 / met.sum(axis=1)[:, None])).tocsr()


def _splits(all_of: _Classes, where: _Branches, least: float) -> list[Finding]:
    """Classes whose halves lie as far apart as two classes under one label do."""
    members = [np.flatnonzero(all_of.codes == code) for code in range(len(all_of.names))]
    parted = {
        code: halves
        for code, own in enumerate(members)
        if (halves := _halves(all_of, own)) is not None
    }
    planted = [
        halves.silhouette
        for first, second in _joined_pairs(all_of)
        if (halves := _halves(all_of, np.concatenate([members[first], members[second]])))
    ]
    widths = np.array([halves.silhouette for halves in parted.values()])
    sure = confidence(widths, np.array(planted))
    return [
        _split(all_of, code, halves, float(own), where)
        for (code, halves), own in zip(parted.items(), sure, strict=True)
        if own >= max(least, 1e-9)
    ]


def _joined_pairs(all_of: _Classes) -> list[tuple[int, int]]:
    """Pairs of classes to be joined: of each its nearest and any other, at most so many pairs."""
    count = len(all_of.names)
    middles = np.stack([
        poincare.midpoint(all_of.points[all_of.codes == code], all_of.c) for code in range(count)
    ])  # fmt: skip
    _, near = nearest(middles, middles, 2, all_of.c)
    others = (np.arange(count) + np.random.default_rng(0).integers(1, count, count)) % count
    pairs = {(min(a, b), max(a, b))
             for a, row in enumerate(np.column_stack([near, others]).tolist())
             for b in row if a != b}  # fmt: skip
    ordered = sorted(pairs)
    return ordered[:: max(1, len(ordered) // _PLANTED)]


def _halves(all_of: _Classes, every: np.ndarray) -> _Halves | None:
    from scipy.cluster.vq import kmeans2

    if len(every) < _FEWEST:
        return None
    own = _some(every)
    tangent = poincare.logmap0(all_of.points[own], all_of.c)
    between = poincare.pairwise_dist(all_of.points[own], all_of.points[own], all_of.c)
    np.fill_diagonal(between, 0)
    best: _Halves | None = None
    for seed in range(3):
        with warnings.catch_warnings(), np.errstate(invalid="ignore"):
            warnings.simplefilter("ignore")  # images that are all the same have no two middles
            _, halves = kmeans2(tangent, 2, minit="++", seed=seed)
        smaller = min(halves.sum(), len(own) - halves.sum())
        if smaller >= max(2, _SMALLEST * len(own)):
            width = _silhouette(between, halves)
            if best is None or width > best.silhouette:
                best = _Halves(own, halves, width, len(every))
    return best


def _split(all_of: _Classes, code: int, halves: _Halves, sure: float, where: _Branches) -> Finding:
    smaller = int(halves.is_second.sum() * 2 <= len(halves.own))
    part = halves.own[halves.is_second == smaller]
    centre = poincare.midpoint(all_of.points[part], all_of.c)
    typical = part[poincare.dist(centre[None], all_of.points[part], all_of.c).argmin()]
    smaller_half = round(len(part) * halves.total / len(halves.own))
    sizes = f"{halves.total - smaller_half} and {smaller_half}"
    name = all_of.names[code]
    reason = f"its images fall into two groups of {sizes}, as far apart as two classes"
    return Finding("split", all_of.paths[typical], name, sizes, "", sure,
                   where.common(name, name), where.shared(name, name), reason)  # fmt: skip


def _some(own: np.ndarray) -> np.ndarray:
    """So many images of a class that every one can be compared with every other."""
    if len(own) <= _COMPARED:
        return own
    return own[np.linspace(0, len(own) - 1, _COMPARED).astype(int)]


def _silhouette(between: np.ndarray, parted: np.ndarray) -> float:
    """Mean over items of (b - a) / max(a, b): distance to the own half a, to the other b."""
    same = parted[:, None] == parted[None]
    own = (between * same).sum(axis=1) / np.maximum(1, same.sum(axis=1) - 1)
    other = (between * ~same).sum(axis=1) / np.maximum(1, (~same).sum(axis=1))
    return float(((other - own) / np.maximum(np.maximum(own, other), 1e-12)).mean())


def _merges(all_of: _Classes, met: "csr_array", where: _Branches, least: float) -> list[Finding]:
    """Pairs of classes that are as mixed as two halves of one class are."""
    members = [_some(np.flatnonzero(all_of.codes == code)) for code in range(len(all_of.names))]
    rows, columns = (met.minimum(met.T) >= _MEETING).nonzero()
    pairs = [_Pair.of(all_of, members[a], members[b], (a, b))
             for a, b in zip(rows.tolist(), columns.tolist(), strict=True) if a < b]  # fmt: skip
    planted = []
    for own in members:
        mixed = np.random.default_rng(len(own)).permutation(own)
        halves = _Pair.of(all_of, mixed[::2], mixed[1::2], (0, 0))
        planted += [] if halves is None else [halves.mixing]
    kept = [pair for pair in pairs if pair is not None]
    # Pairs that do not meet are observed too: not mixed at all.
    apart = len(members) * (len(members) - 1) // 2 - len(kept)
    mixing = np.array([pair.mixing for pair in kept] + [0.0] * min(apart, _MOST_APART))
    sure = confidence(mixing, np.array(planted))[: len(kept)]
    found = []
    for pair, own_sure in zip(kept, sure, strict=True):
        if own_sure >= max(least, 1e-9):
            first, second = (all_of.names[code] for code in pair.codes)
            reason = (
                f"{pair.crossed:.0%} of the nearest images are of the other class; with random "
                f"labels it would be {pair.by_chance:.0%}"
            )
            found.append(
                Finding("merge", all_of.paths[pair.deepest], first, second, "", float(own_sure),
                        where.common(first, second), where.shared(first, second), reason)
            )  # fmt: skip
    return found


@dataclass(frozen=True)
class _Pair:
    """Two classes, and how mixed they are.

    Attributes:
        codes: of the classes.
        crossed: share of the other class among the nearest `_MIXED` of each image.
        by_chance: what that share would be with random labels.
        deepest: the image of the first that lies nearest to one of the second.
    """

    codes: tuple[int, int]
    crossed: float
    by_chance: float
    deepest: int

    @property
    def mixing(self) -> float:
        return self.crossed / self.by_chance

    @classmethod
    def of(
        cls, all_of: _Classes, first: np.ndarray, second: np.ndarray, codes: tuple[int, int]
    ) -> "_Pair | None":
        """``None`` where there are too few images to tell."""
        if min(len(first), len(second)) < 2:
            return None
        own = np.concatenate([first, second])
        is_second = np.arange(len(own)) >= len(first)
        between = poincare.pairwise_dist(all_of.points[own], all_of.points[own], all_of.c)
        np.fill_diagonal(between, np.inf)
        k = min(_MIXED, len(own) - 1)
        near = np.argpartition(between, k - 1, axis=1)[:, :k]
        crossed = is_second[near] != is_second[:, None]
        by_chance = 2 * len(first) * len(second) / (len(own) * (len(own) - 1))
        across = between[np.ix_(~is_second, is_second)]
        return cls(codes, float(crossed.mean()), by_chance, int(first[across.min(axis=1).argmin()]))
