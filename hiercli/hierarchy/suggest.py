"""What in a labelled collection may be wrong: photos, classes that are two, pairs that are one.

Every proposal is for a person to decide. It says how sure it is, 0 to 1, and why.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from hiercli.collection import Collection
from hiercli.errors import DataError
from hiercli.geometry import poincare
from hiercli.hierarchy.node import Node, lines
from hiercli.neighbours import nearest

KINDS = ("relabel", "split", "merge")
_NEIGHBOURS = 10
_FEWEST = 8
"""Photos of a class that is looked at for a split."""
_COMPARED = 1000
"""Photos of a class that are compared with each other; of more, so many evenly spread."""
_USUAL = (0.05, 0.07, 0.09, 0.11, 0.13)
"""Silhouettes of the best halves of one class under an encoder that was not trained on it: what is
usual where there are few classes to compare with. Training raises them (the flora's 40 species:
median 0.09 before, 0.11 to 0.13 after), so that a fixed bound would come to doubt many classes."""
_NARROWEST = 0.03
_EVEN = 3.0
"""Spreads above the median of all classes at which the confidence is one half. Of 10 pairs of CUB's
training species under one label 9 lie 2 or more above it (general encoder), single species none."""
_SMALLEST = 0.15
"""Share of a class that the smaller half must hold."""


@dataclass(frozen=True)
class Suggestion:
    """One thing to look at.

    Attributes:
        kind: ``relabel`` (a photo), ``split`` (a class that looks like two) or ``merge`` (a pair of
            classes that looks like one).
        path: of the photo; for a class that of a typical photo of its smaller half; of a pair that
            of the photo of the first which lies deepest in the second.
        label: class of the photo, or the class, or the first of the pair.
        proposal: the other class; for a split the number of photos in each half.
        confidence: above 0 and below 1; it orders suggestions of one kind, and is no probability.
            For ``relabel`` the share of the proposed class among the k nearest photos, less that of
            the own (of as many as it could have there), times k / (k + 2), since k photos prove
            nothing for certain; for ``split`` z / (z + 3), where z says by how many spreads the
            mean silhouette of the halves (Rousseeuw, "Silhouettes", 1987) lies above the median of
            all classes; for ``merge`` how often the nearest photo of the two classes is of the
            other one, over how often it would be if labels were drawn at random, times n / (n + 2)
            for n photos.
        branch: name of the branch of the tree that holds both classes; the higher, the graver.
        shared: the finest group that both classes lie in, with its level; empty where levels are
            not known, or share none.
        reason: in words.
    """

    kind: str
    path: str
    label: str
    proposal: str
    confidence: float
    branch: str
    shared: str
    reason: str


def suggest(
    collection: Collection,
    root: Node,
    *,
    least: float = 0.4,
    progress: Callable[[int, int], None] | None = None,
) -> list[Suggestion]:
    """Look for labels and classes that the embedding disagrees with, the surest of a kind first.

    Args:
        collection: of images with labels, two or more different ones, and c.
        root: the tree over these classes.
        least: confidence from which on a suggestion is made.
        progress: called with (done, total) steps.

    Raises:
        DataError: fewer than two classes.
    """
    if collection.labels is None or collection.c is None:
        raise DataError("expected images with labels and a curvature c to compare")
    names, codes = np.unique(np.asarray(collection.labels), return_inverse=True)
    points, c = collection.points, collection.c
    if len(names) < 2:
        raise DataError("expected photos of at least two classes, found one class")
    k = min(_NEIGHBOURS, len(points) - 1)
    _, found = nearest(points, points, k + 1, c)
    others = np.stack([row[row != place][:k] for place, row in enumerate(found)])
    if progress:
        progress(1, 3)
    where = _Branches(root, collection)
    paths = collection.paths or [f"image {place + 1}" for place in range(len(points))]
    all_of = _Classes(points.astype(np.float64), codes, [str(n) for n in names], paths, c)
    relabels = _relabels(all_of, others, where, least)
    if progress:
        progress(2, 3)
    splits = _splits(all_of, where, least)
    merges = _merges(all_of, others, where, least)
    if progress:
        progress(3, 3)
    ranked = [sorted(some, key=lambda one: -one.confidence) for some in (relabels, splits, merges)]
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

    def __init__(self, root: Node, collection: Collection) -> None:
        self._lines = {line[-1].name: line for line in lines(root).values()}
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


def _relabels(
    all_of: _Classes, others: np.ndarray, where: _Branches, least: float
) -> list[Suggestion]:
    found = []
    sizes = np.bincount(all_of.codes)
    for place, row in enumerate(all_of.codes[others]):
        own = all_of.codes[place]
        votes = np.bincount(row, minlength=len(all_of.names)) / others.shape[1]
        # A class of few photos cannot fill all places: its share is of those that it could.
        could = min(others.shape[1], sizes[own] - 1)
        if not could:
            continue
        held, votes[own] = round(votes[own] * others.shape[1]), -1.0
        share = held / could
        best = int(votes.argmax())
        certain = others.shape[1] / (others.shape[1] + 2)
        confidence = certain * float(votes[best] - share)
        if confidence >= least:
            label, proposal = all_of.names[own], all_of.names[best]
            reason = (
                f"{round(votes[best] * others.shape[1])} of its {others.shape[1]} nearest photos "
                f"have the label {proposal}, {held} the label {label}"
            )
            branch = where.common(label, proposal)
            found.append(
                Suggestion("relabel", all_of.paths[place], label, proposal, confidence, branch,
                           where.shared(label, proposal), reason)
            )  # fmt: skip
    return found


@dataclass(frozen=True)
class _Halves:
    """A class parted in two as well as it can be.

    Attributes:
        own: positions of its photos, or of some where there are many.
        is_second: of these, which are in the second half.
        silhouette: how far apart the halves are, -1 to 1.
        total: photos of the class.
    """

    own: np.ndarray
    is_second: np.ndarray
    silhouette: float
    total: int


def _splits(all_of: _Classes, where: _Branches, least: float) -> list[Suggestion]:
    """Classes whose halves lie farther apart than those of the others do."""
    parted = {code: halves for code in range(len(all_of.names))
              if (halves := _halves(all_of, code)) is not None}  # fmt: skip
    widths = np.array([*_USUAL, *(halves.silhouette for halves in parted.values())])
    usual = float(np.median(widths))
    spread = max(_NARROWEST, 1.4826 * float(np.median(np.abs(widths - usual))))
    found = []
    for code, halves in parted.items():
        above = max(0.0, (halves.silhouette - usual) / spread)
        confidence = above / (above + _EVEN)
        if confidence >= least:
            found.append(_split(all_of, code, halves, confidence, where))
    return found


def _halves(all_of: _Classes, code: int) -> _Halves | None:
    from scipy.cluster.vq import kmeans2

    every = np.flatnonzero(all_of.codes == code)
    if len(every) < _FEWEST:
        return None
    own = _some(every)
    tangent = poincare.logmap0(all_of.points[own], all_of.c)
    between = poincare.pairwise_dist(all_of.points[own], all_of.points[own], all_of.c)
    np.fill_diagonal(between, 0)
    best: _Halves | None = None
    for seed in range(3):
        with warnings.catch_warnings(), np.errstate(invalid="ignore"):
            warnings.simplefilter("ignore")  # photos that are all the same have no two middles
            _, halves = kmeans2(tangent, 2, minit="++", seed=seed)
        smaller = min(halves.sum(), len(own) - halves.sum())
        if smaller >= max(2, _SMALLEST * len(own)):
            width = _silhouette(between, halves)
            if best is None or width > best.silhouette:
                best = _Halves(own, halves, width, len(every))
    return best


def _split(
    all_of: _Classes, code: int, halves: _Halves, confidence: float, where: _Branches
) -> Suggestion:
    smaller = int(halves.is_second.sum() * 2 <= len(halves.own))
    part = halves.own[halves.is_second == smaller]
    centre = poincare.midpoint(all_of.points[part], all_of.c)
    typical = part[poincare.dist(centre[None], all_of.points[part], all_of.c).argmin()]
    smaller_half = round(len(part) * halves.total / len(halves.own))
    sizes = f"{halves.total - smaller_half} and {smaller_half}"
    name = all_of.names[code]
    reason = f"its photos fall into two groups of {sizes}"
    branch = where.common(name, name)
    return Suggestion(
        "split", all_of.paths[typical], name, sizes, confidence, branch, where.shared(name, name),
        reason,
    )  # fmt: skip


def _some(own: np.ndarray) -> np.ndarray:
    """So many photos of a class that every one can be compared with every other."""
    if len(own) <= _COMPARED:
        return own
    return own[np.linspace(0, len(own) - 1, _COMPARED).astype(int)]


def _silhouette(between: np.ndarray, parted: np.ndarray) -> float:
    """Mean over items of (b - a) / max(a, b): distance to the own half a, to the other b."""
    same = parted[:, None] == parted[None]
    own = (between * same).sum(axis=1) / np.maximum(1, same.sum(axis=1) - 1)
    other = (between * ~same).sum(axis=1) / np.maximum(1, (~same).sum(axis=1))
    return float(((other - own) / np.maximum(np.maximum(own, other), 1e-12)).mean())


def _merges(
    all_of: _Classes, others: np.ndarray, where: _Branches, least: float
) -> list[Suggestion]:
    count = len(all_of.names)
    met = np.zeros((count, count))
    np.add.at(met, (np.repeat(all_of.codes, others.shape[1]), all_of.codes[others].ravel()), 1)
    pairs = [(a, b) for a, b in np.argwhere(np.minimum(met, met.T) > 0).tolist() if a < b]
    found = []
    for a, b in pairs:
        own = np.concatenate([_some(np.flatnonzero(all_of.codes == code)) for code in (a, b)])
        is_b = all_of.codes[own] == b
        sizes = int((~is_b).sum()), int(is_b.sum())
        if min(sizes) < 2:
            continue
        between = poincare.pairwise_dist(all_of.points[own], all_of.points[own], all_of.c)
        np.fill_diagonal(between, np.inf)
        crossed = is_b[between.argmin(axis=1)] != is_b
        by_chance = 2 * sizes[0] * sizes[1] / (len(own) * (len(own) - 1))
        confidence = len(own) / (len(own) + 2) * min(1.0, float(crossed.mean()) / by_chance)
        if confidence >= least:
            inner = own[~is_b]
            deepest = inner[between[np.ix_(~is_b, is_b)].min(axis=1).argmin()]
            first, second = all_of.names[a], all_of.names[b]
            reason = (
                f"the nearest photo is of the other class in {crossed.mean():.0%} of cases; with "
                f"random labels it would be {by_chance:.0%}"
            )
            found.append(
                Suggestion("merge", all_of.paths[deepest], first, second, confidence,
                           where.common(first, second), where.shared(first, second), reason)
            )  # fmt: skip
    return found
