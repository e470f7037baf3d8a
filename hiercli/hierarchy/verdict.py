"""What an image is, as far as its nearest neighbours can tell: a class, a group, or nothing known.

The neighbours of a query vote for their classes, near ones more. Going up from the class with the
most votes, each group holds more of them, so that "a warbler" can be sure where the species is not.
How sure is calibrated on the index itself: some of its images are looked for among the others, once
as they are and once with their whole class left out, as if it were not known yet. A logistic model
of votes, distance and size of the group then gives the probability that a group is the right one.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from hiercli import neighbours
from hiercli.collection import Collection
from hiercli.errors import DataError
from hiercli.hierarchy.naming import common_name, said_by_all

NEIGHBOURS = 20
"""Images that vote."""
CONFIDENCE = 0.9
CLASS = "class"
_MOST_ASKED = 1000
_MOST_CLASSES = 4096
"""Of which a tree is grown."""
_ROWS = 16_384
_UNKNOWN = 0.2
"""How much an image whose class was left out counts beside one whose class is known."""
_FAR = 0.95
"""Share of the images of unknown classes that count as something like what is known."""
_RIDGE = 1e-3
_FEATURES = 10


@dataclass(frozen=True)
class Kinds:
    """Classes and the groups above them.

    Attributes:
        names: of K kinds; the first ones are the classes.
        levels: of each kind the name of its level; ``class``, or empty for a group that was grown.
        parents: of each kind the next one above, -1 at the top.
        num_classes: C.
    """

    names: list[str]
    levels: list[str]
    parents: list[int]
    num_classes: int

    @classmethod
    def of(cls, collection: Collection) -> Self:
        """The classes of images and their levels; where no level is known, a tree of their points.

        Args:
            collection: with labels.
        """
        classes = collection.classes
        lineages = collection.lineages
        names, levels = list(classes), [CLASS] * len(classes)
        parents = [-1] * len(classes)
        if lineages:
            lines = [lineages.get(label, ()) for label in classes]
            below = list(range(len(classes)))  # the highest kind so far above each class
            for place, level in enumerate(collection.level_names):
                numbers: dict[tuple[str, ...], int] = {}
                for leaf, line in enumerate(lines):
                    if not (line and line[place]):
                        continue
                    if line[place:] not in numbers:
                        numbers[line[place:]] = len(names)
                        names.append(line[place])
                        levels.append(level)
                        parents.append(-1)
                    parents[below[leaf]] = below[leaf] = numbers[line[place:]]
        elif 2 < len(classes) <= _MOST_CLASSES:
            from scipy.cluster.hierarchy import average  # searching does without
            from scipy.spatial.distance import squareform

            from hiercli.evaluation.taxonomy import class_distances

            far = class_distances(collection.points, collection.labels or (), classes, collection.c)
            np.fill_diagonal(far, 0.0)
            said = said_by_all(classes)
            members = [[leaf] for leaf in range(len(classes))]
            for first, second in average(squareform(far, checks=False))[:-1, :2].astype(int):
                parents[first] = parents[second] = len(names)
                members.append(members[first] + members[second])
                names.append(common_name([classes[leaf] for leaf in members[-1]], said))
                levels.append("")
                parents.append(-1)
        return cls(names, levels, parents, len(classes))

    def __post_init__(self) -> None:
        count = len(self.names)
        if not (
            len(self.levels) == len(self.parents) == count and 0 < self.num_classes <= count
            # Upwards only, so that no walk is endless.
            and all(own < above < count or above == -1 for own, above in enumerate(self.parents))
            and all(above == -1 or above >= self.num_classes for above in self.parents)
        ):  # fmt: skip
            raise DataError("expected kinds whose parents stand behind them")

    def chain(self, leaf: int) -> list[int]:
        """A class and all above it."""
        found = [leaf]
        while self.parents[found[-1]] >= 0:
            found.append(self.parents[found[-1]])
        return found

    def sizes(self) -> np.ndarray:
        """Classes in each kind, (K,)."""
        sizes = np.zeros(len(self.names), np.int64)
        sizes[: self.num_classes] = 1
        for own, above in enumerate(self.parents):
            if above >= 0:
                sizes[above] += sizes[own]
        return sizes


@dataclass(frozen=True)
class Verdict:
    """What an image is.

    Attributes:
        name: of the most specific kind that is sure enough; empty where none is.
        level: ``class``, the name of a level, or empty for a group that was grown.
        probability: that it is this kind, 0 to 1; of no kind, that it is none of those known.
        is_foreign: nothing like it is in the index.
        kinds: from the class with the most votes upwards: name, level and probability of each.
    """

    name: str
    level: str
    probability: float
    is_foreign: bool
    kinds: list[tuple[str, str, float]]

    def __str__(self) -> str:
        if self.is_foreign:
            return "nothing like this in the index"
        if not self.name:
            best, _, sure = self.kinds[0]
            return f"not sure what this is; perhaps {best} ({sure:.0%})"
        if self.level == CLASS:
            return f"{self.name} ({self.probability:.0%})"
        level = f"{self.level} " if self.level else "one of: "
        return f"{level}{self.name} ({self.probability:.0%}), class unsure"

    def to_dict(self) -> dict[str, Any]:
        """Plain values by name."""
        found = dataclasses.asdict(self)
        found["kinds"] = [
            {"name": name, "level": level, "probability": round(sure, 4)}
            for name, level, sure in self.kinds
        ]
        return found | {"probability": round(self.probability, 4), "text": str(self)}


@dataclass(frozen=True)
class Calibration:
    """How far votes of neighbours can be trusted, learned from the images of an index.

    Examples:
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> middles = rng.normal(size=(8, 1, 16)) * 0.2
        >>> points = (middles + 0.02 * rng.normal(size=(8, 12, 16))).reshape(96, 16)
        >>> labels = [f"kind{number // 12}" for number in range(96)]
        >>> known = Calibration.of(Collection(points=points, labels=labels, c=0.1))
        >>> known.verdict(np.full(20, 0.2), ["kind3"] * 20).name
        'kind3'
        >>> known.verdict(np.full(20, 9.0), ["kind3"] * 20).is_foreign
        True

    Attributes:
        kinds: classes and groups.
        scale: distance beyond the nearest at which a vote counts 1/e.
        middle, spread: mean and standard deviation of the distance to the nearest image.
        weights: of the logistic model, one for each kind of evidence.
        farthest: distance of the nearest image from which on nothing is like it.
    """

    kinds: Kinds
    scale: float
    middle: float
    spread: float
    weights: tuple[float, ...]
    farthest: float

    @classmethod
    def of(cls, collection: Collection, progress: Callable[[int, int], None] | None = None) -> Self:
        """Learn from images, at most 1,000 of which are looked for among all.

        Args:
            collection: with labels; without c, distances are those of directions.
            progress: called with (done, total) images compared.

        Raises:
            DataError: fewer than two classes, or none with two images.
        """
        if collection.labels is None or len(collection.classes) < 2:
            raise DataError("expected images of two classes or more, with labels")
        kinds = Kinds.of(collection)
        place = {name: number for number, name in enumerate(collection.classes)}
        codes = np.array([place[label] for label in collection.labels])
        counts = np.bincount(codes)
        if counts.max() < 2:
            raise DataError("expected a class with two images or more, found none")
        asked = np.unique(np.linspace(0, len(codes) - 1, min(_MOST_ASKED, len(codes))).astype(int))
        own, others = _neighbours(collection, codes, asked, progress)
        known = [near for near, at in zip(own, asked, strict=True) if counts[codes[at]] > 1]
        nearest = np.array([near[0][0] for near in known])
        gaps = [near[0][-1] - near[0][0] for near in known]
        scale = max(float(np.median(gaps)) / 2, 1e-6)
        middle, spread = float(nearest.mean()), float(nearest.std()) + 1e-6
        draft = cls(kinds, scale, middle, spread, (0.0,) * _FEATURES, np.inf)
        rows, right, weight = [], [], []
        for regime, share in ((own, 1.0), (others, _UNKNOWN)):
            for near, at in zip(regime, asked, strict=True):
                if regime is own and counts[codes[at]] < 2:
                    continue
                chain, evidence = draft._chain(*near)
                true = set(kinds.chain(int(codes[at])))
                rows.append(evidence)
                right += [kind in true for kind in chain]
                weight += [share] * len(chain)
        weights = _fit(np.concatenate(rows), np.array(right, float), np.array(weight))
        strange = np.array([near[0][0] for near in others])
        farthest = max(float(np.quantile(strange, _FAR)), float(np.quantile(nearest, 0.99)))
        return cls(kinds, scale, middle, spread, weights, farthest)

    def verdict(
        self, distances: np.ndarray, labels: Sequence[str], confidence: float = CONFIDENCE
    ) -> Verdict:
        """What an image is.

        Args:
            distances: of its nearest images, nearest first; of `NEIGHBOURS` of them or fewer.
            labels: their classes. One that was not there when this was learned has no vote.
            confidence: probability that a kind must have to be named, 0 to 1.
        """
        place = {
            name: number for number, name in enumerate(self.kinds.names[: self.kinds.num_classes])
        }
        voting = [(far, place[label]) for far, label in zip(distances, labels, strict=True)
                  if label in place][:NEIGHBOURS]  # fmt: skip
        if not voting or distances[0] > self.farthest:
            return Verdict("", "", 1.0, True, [])
        chain, evidence = self._chain(np.array([far for far, _ in voting]),
                                      np.array([code for _, code in voting]))  # fmt: skip
        sure = np.maximum.accumulate(_sigmoid(evidence @ np.array(self.weights)))
        named = [
            (self.kinds.names[kind], self.kinds.levels[kind], float(p))
            for kind, p in zip(chain, sure, strict=True)
        ]
        for name, level, p in named:
            if p >= confidence:
                return Verdict(name, level, p, False, named)
        return Verdict("", "", 1 - float(sure[-1]), False, named)

    def _chain(self, distances: np.ndarray, codes: np.ndarray) -> tuple[list[int], np.ndarray]:
        """The kinds with the most votes, from the class upwards, and the evidence for each."""
        votes = np.exp(-(distances - distances[0]) / self.scale)
        votes /= votes.sum()
        share: dict[int, float] = {}
        children: dict[int, set[int]] = {}
        for vote, code in zip(votes.tolist(), codes.tolist(), strict=True):
            above = -1
            for kind in self.kinds.chain(code)[::-1]:
                share[kind] = share.get(kind, 0.0) + vote
                children.setdefault(above, set()).add(kind)
                above = kind
        chain: list[int] = []
        at = -1
        while at in children:
            at = max(children[at], key=lambda kind: (share[kind], -kind))
            chain.insert(0, at)
        sizes = self.kinds.sizes()
        return chain, _evidence(
            np.array([share[kind] for kind in chain]),
            (distances[0] - self.middle) / self.spread,
            np.log(sizes[chain]) / np.log(self.kinds.num_classes),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """What `to_dict` gave.

        Raises:
            KeyError, TypeError, ValueError, DataError: it is something else.
        """
        told = values["kinds"]
        kinds = Kinds(
            [str(name) for name in told["names"]], [str(name) for name in told["levels"]],
            [int(above) for above in told["parents"]], int(told["num_classes"]),
        )  # fmt: skip
        numbers = {name: float(values[name]) for name in ("scale", "middle", "spread", "farthest")}
        weights = tuple(float(weight) for weight in values["weights"])
        if len(weights) != _FEATURES or not np.isfinite([*numbers.values(), *weights]).all():
            raise ValueError("numbers that are none")
        if min(numbers["scale"], numbers["spread"]) <= 0:
            raise ValueError("a scale that is not above 0")
        return cls(kinds, weights=weights, **numbers)


def _evidence(share: np.ndarray, far: float, size: np.ndarray) -> np.ndarray:
    """What the model looks at, (K, F): votes, distance of the nearest image, size, in pairs."""
    held = share.clip(1e-3, 1 - 1e-3)
    votes = np.log(held / (1 - held))
    first = [votes, np.full_like(votes, np.tanh(far / 3) * 3), size]
    second = [a * b for n, a in enumerate(first) for b in first[n:]]
    return np.stack([np.ones_like(votes), *first, *second], axis=1)


def _sigmoid(score: np.ndarray) -> np.ndarray:
    value: np.ndarray = 1 / (1 + np.exp(-score.clip(-50, 50)))
    return value


def _fit(rows: np.ndarray, right: np.ndarray, weight: np.ndarray) -> tuple[float, ...]:
    """Weights of a logistic model, kept small where the images leave them open."""

    from scipy.optimize import minimize

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        score = rows @ weights
        value = (weight * (np.logaddexp(0, score) - right * score)).sum() / weight.sum()
        slope = rows.T @ (weight * (_sigmoid(score) - right)) / weight.sum()
        return value + _RIDGE * (weights @ weights) / 2, slope + _RIDGE * weights

    found = minimize(loss, np.zeros(rows.shape[1]), jac=True, method="L-BFGS-B").x
    return tuple(float(weight) for weight in found)


def _neighbours(
    collection: Collection,
    codes: np.ndarray,
    asked: np.ndarray,
    progress: Callable[[int, int], None] | None,
) -> tuple[list[Any], list[Any]]:
    """Distances and classes of the nearest of all others, and of those of other classes."""
    c = collection.c
    points = collection.points
    if c is None:
        points = points / np.linalg.norm(points, axis=1, keepdims=True).clip(1e-12)
    queries = points[asked] if c is None else neighbours.as_queries(points[asked], c)
    # Products find the candidates, distances in float64 put them in order.
    best: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for start in range(0, len(points), _ROWS):
        block = np.arange(start, min(start + _ROWS, len(points)))
        product = queries @ (points[block] if c is None else neighbours.lift(points[block], c)).T
        for hidden, found in zip(
            (asked[:, None] == block, codes[asked, None] == codes[block]), best, strict=True
        ):
            product[hidden] = -np.inf
            many = min(2 * NEIGHBOURS, len(block))
            near = np.argpartition(-product, many - 1, axis=1)[:, :many]
            found.append(np.where(np.take_along_axis(hidden, near, 1), -1, block[near]))
        if progress:
            progress(int(block[-1]) + 1, len(points))
    results: tuple[list[Any], list[Any]] = ([], [])
    for found, result in zip(best, results, strict=True):
        for at, near in zip(asked, np.concatenate(found, axis=1), strict=True):
            near = near[near >= 0]
            if c is None:
                far = 1 - points[near].astype(np.float64) @ points[at].astype(np.float64)
                order = np.argsort(far, kind="stable")[:NEIGHBOURS]
                result.append((far[order], codes[near[order]]))
            else:
                far, near = neighbours.order(points[at], points[near], near, c, NEIGHBOURS)
                result.append((far, codes[near]))
    return results
