"""What an image is, as far as its nearest neighbours can tell: a class, a group, or nothing known.

The neighbours of a query vote for their classes, near ones more. Going up from the class with the
most votes, each group holds more of them, so that "a warbler" can be sure where the species is not.
How sure is calibrated on the index itself: some of its images are looked for among the others, once
as they are and once with their whole class left out, as if it were not known yet. A logistic model
of votes, distance and size of the group then gives the probability that a group is the right one.
"""

import dataclasses
import functools
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
SAME = 1e-4
"""Distance up to which an image is the query itself, or a copy of it, and has no vote."""
CONFIDENCE = 0.9
CLASS = "class"
LEAST = 10
"""Images from which something can be learned."""
_MOST_ASKED = 1000
_MOST_CLASSES = 4096
"""Of which a tree is grown."""
_ROWS = 16_384
_LEAST_SPREAD = 0.05
"""Of distances to the nearest image, over their mean: a few say little of how they vary."""
_MOST_WEIGHT = 1e6
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
        """A class and all above it; a number beyond the last kind is a class of its own."""
        found = [leaf]
        while found[-1] < len(self.parents) and self.parents[found[-1]] >= 0:
            found.append(self.parents[found[-1]])
        return found

    def size(self, kind: int) -> int:
        """Classes in a kind."""
        return self._sizes[kind] if kind < len(self._sizes) else 1

    @functools.cached_property
    def leaves(self) -> dict[str, int]:
        """The number of each class by its name."""
        return {name: leaf for leaf, name in enumerate(self.names[: self.num_classes])}

    @functools.cached_property
    def _sizes(self) -> list[int]:
        sizes = [1] * self.num_classes + [0] * (len(self.names) - self.num_classes)
        for own, above in enumerate(self.parents):
            if above >= 0:
                sizes[above] += sizes[own]
        return sizes


@dataclass(frozen=True)
class Verdict:
    """What an image is.

    Examples:
        >>> kinds = [("Rock Wren", "class", 0.6), ("Troglodytidae", "family", 0.99)]
        >>> print(Verdict("Troglodytidae", "family", 0.99, False, kinds))
        family Troglodytidae (99%), class unsure

    Attributes:
        name: of the most specific kind that is sure enough; empty where none is.
        level: ``class``, the name of a level, or empty for a group that was grown.
        probability: that it is this kind, 0 to 1; where none is named, that it is none of those
            known.
        is_foreign: nothing like it is in the index.
        kinds: from the class with the most votes upwards: name, level and probability of each;
            empty where it is foreign, or no image near it has a class.
    """

    name: str
    level: str
    probability: float
    is_foreign: bool
    kinds: list[tuple[str, str, float]]

    def __str__(self) -> str:
        if self.is_foreign:
            return "nothing like this in the index"
        if not self.kinds:
            return "no image with a class is near"
        if not self.name:
            best, _, sure = self.kinds[0]
            return f"not sure what this is; perhaps {best} ({sure:.0%})"
        if self.kinds[0] == (self.name, self.level, self.probability):
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
            DataError: fewer than two classes, or fewer than `LEAST` images to learn from.
        """
        if collection.labels is None or len(collection.classes) < 2:
            raise DataError("expected images of two classes or more, with labels")
        kinds = Kinds.of(collection)
        place = {name: number for number, name in enumerate(collection.classes)}
        codes = np.array([place[label] for label in collection.labels])
        counts = np.bincount(codes)
        if (several := int(counts[counts > 1].sum())) < LEAST:
            raise DataError(
                f"expected at least {LEAST} images of classes with two images or more, found "
                f"{several}"
            )
        asked = np.unique(np.linspace(0, len(codes) - 1, min(_MOST_ASKED, len(codes))).astype(int))
        own, others = _neighbours(collection, codes, asked, progress)
        known = [near for near, at in zip(own, asked, strict=True) if counts[codes[at]] > 1]
        nearest = np.array([near[0][0] for near in known if len(near[0])])
        gaps = [near[0][-1] - near[0][0] for near in known if len(near[0])]
        if not len(nearest):
            raise DataError("expected images that differ, found copies of each other")
        scale = max(float(np.median(gaps)) / 2, 1e-6)
        middle = float(nearest.mean())
        spread = max(float(nearest.std()), _LEAST_SPREAD * middle, 1e-6)
        draft = cls(kinds, scale, middle, spread, (0.0,) * _FEATURES, np.inf)
        rows, right, weight = [], [], []
        for regime, share in ((own, 1.0), (others, _UNKNOWN)):
            for near, at in zip(regime, asked, strict=True):
                if len(near[0]):
                    chain, evidence = draft._chain(*near)
                    true = set(kinds.chain(int(codes[at])))
                    rows.append(evidence)
                    right += [kind in true for kind in chain]
                    weight += [share] * len(chain)
        weights = _fit(np.concatenate(rows), np.array(right, float), np.array(weight))
        strange = np.array([near[0][0] for near in others if len(near[0])])
        farthest = max(float(np.quantile(strange, _FAR)), float(np.quantile(nearest, 0.99)))
        return cls(kinds, scale, middle, spread, weights, farthest)

    def verdict(
        self, distances: np.ndarray, labels: Sequence[str], confidence: float = CONFIDENCE
    ) -> Verdict:
        """What an image is.

        Args:
            distances: of its nearest images, nearest first. Those that are the image itself have no
                vote; of the others `NEIGHBOURS` count.
            labels: their classes, empty where an image has none. One that was not there when this
                was learned stands for itself, without groups.
            confidence: probability that a kind must have to be named, 0 to 1.
        """
        told = [(far, label) for far, label in zip(distances, labels, strict=True) if far > SAME]
        voting = [(far, label) for far, label in told[:NEIGHBOURS] if label]
        if not voting:
            return Verdict("", "", 0.0, False, [])
        if voting[0][0] > self.farthest:
            return Verdict("", "", 1.0, True, [])
        known, count = self.kinds.leaves, len(self.kinds.names)
        unknown = dict.fromkeys(label for _, label in voting if label not in known)
        new = {label: count + number for number, label in enumerate(unknown)}
        leaves = known | new
        chain, evidence = self._chain(
            np.array([far for far, _ in voting]),
            np.array([leaves[label] for _, label in voting]),
        )
        sure = np.maximum.accumulate(_sigmoid(evidence @ np.array(self.weights)))
        names = [*self.kinds.names, *new]
        levels = [*self.kinds.levels, *[CLASS] * len(new)]
        named = [(names[kind], levels[kind], float(p)) for kind, p in zip(chain, sure, strict=True)]
        for name, level, p in named:
            if p >= confidence:
                return Verdict(name, level, p, False, named)
        return Verdict("", "", 1 - float(sure[-1]), False, named)

    def _chain(self, distances: np.ndarray, codes: np.ndarray) -> tuple[list[int], np.ndarray]:
        """The kinds with the most votes, from the class upwards, and the evidence for each."""
        votes = np.exp(-(distances - distances[0]) / self.scale)
        votes /= votes.sum()
        share: dict[int, float] = {}
        for vote, code in zip(votes.tolist(), codes.tolist(), strict=True):
            for kind in self.kinds.chain(code):
                share[kind] = share.get(kind, 0.0) + vote
        chain = self.kinds.chain(max(codes.tolist(), key=lambda code: (share[code], -code)))
        sizes = np.array([self.kinds.size(kind) for kind in chain])
        return chain, _evidence(
            np.array([share[kind] for kind in chain]),
            (distances[0] - self.middle) / self.spread,
            np.log(sizes) / np.log(max(2, self.kinds.num_classes)),
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
        if max(map(abs, weights)) > _MOST_WEIGHT or len(kinds.leaves) < kinds.num_classes:
            raise ValueError("weights out of range, or a class that stands twice")
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
    """Distances and classes of the nearest images of some, as if these were not in the index.

    An image that is left out leaves its class one vote fewer than it would have; so that this is no
    handicap, each other class does without one image too. Copies count as the image itself.

    Returns:
        of all other images; of those of other classes.
    """
    c = collection.c
    points = collection.points
    if c is None:
        points = points / np.linalg.norm(points, axis=1, keepdims=True).clip(1e-12)
    queries = points[asked] if c is None else neighbours.as_queries(points[asked], c)
    spare = np.zeros(len(codes), bool)
    order = np.random.default_rng(0).permutation(len(codes))
    spare[order[np.unique(codes[order], return_index=True)[1]]] = True
    spare &= np.bincount(codes)[codes] > 1
    # Products find the candidates, distances in float64 put them in order.
    best: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for start in range(0, len(points), _ROWS):
        block = np.arange(start, min(start + _ROWS, len(points)))
        product = queries @ (points[block] if c is None else neighbours.lift(points[block], c)).T
        same = codes[asked, None] == codes[block]
        left_out = (asked[:, None] == block) | (spare[block] & ~same)
        for hidden, found in zip((left_out, same), best, strict=True):
            seen = np.where(hidden, -np.inf, product)
            many = min(2 * NEIGHBOURS, len(block))
            near = np.argpartition(-seen, many - 1, axis=1)[:, :many]
            found.append(np.where(np.take_along_axis(hidden, near, 1), -1, block[near]))
        if progress:
            progress(int(block[-1]) + 1, len(points))
    results: tuple[list[Any], list[Any]] = ([], [])
    for found, result in zip(best, results, strict=True):
        for at, near in zip(asked, np.concatenate(found, axis=1), strict=True):
            near = near[near >= 0]
            if c is None:
                far = 1 - points[near].astype(np.float64) @ points[at].astype(np.float64)
                order = np.argsort(far, kind="stable")
                far, near = far[order], near[order]
            else:
                far, near = neighbours.order(points[at], points[near], near, c, len(near))
            told = far > SAME
            result.append((far[told][:NEIGHBOURS], codes[near[told][:NEIGHBOURS]]))
    return results
