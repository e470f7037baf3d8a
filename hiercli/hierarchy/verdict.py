"""What an image is, as far as its nearest neighbours can tell: a class, a group, or nothing known.

The neighbours of a query vote for their classes, near ones more. Going up from the class with the
most votes, each group holds more of them, so that "a warbler" can be sure where the species is not.
A logistic model of votes, distance and size of the group gives the probability that a group is the
right one; `calibrating` learns it from the images of an index.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from hiercli.hierarchy.depth import NUM_RADII
from hiercli.hierarchy.kinds import CLASS, Kinds

NEIGHBOURS = 20
"""Images that vote."""
SAME = 1e-4
"""Distance up to which an image is the query itself, or a copy of it, and has no vote."""
CONFIDENCE = 0.9
UNCLEAR = 0.02
"""Specificity below which people are told."""
FEATURES = 10
_MOST_WEIGHT = 1e6


def _percent(probability: float) -> str:
    """A probability as people read it; what is not certain is never 100 %."""
    return f"{int(100 * probability + 1e-9)} %"


@dataclass(frozen=True)
class Verdict:
    """What an image is.

    Examples:
        >>> kinds = [("Rock Wren", "class", 0.6), ("Troglodytidae", "family", 0.99)]
        >>> print(Verdict("Troglodytidae", "family", 0.99, False, kinds))
        family Troglodytidae (99 %), class not sure

    Attributes:
        name: of the most specific kind that is sure enough; empty where none is.
        level: ``class``, the name of a level, or empty for a group that was grown.
        probability: that it is this kind, 0 to 1; where none is named, that it is none of those
            known.
        is_foreign: nothing like it is in the index.
        kinds: from the class with the most votes upwards: name, level and probability of each;
            empty where it is foreign, or no image near it has a class.
        specificity: share of the images of the index that are less clear and more unusual, 0 to 1;
            ``None`` where the encoder does not tell.
    """

    name: str
    level: str
    probability: float
    is_foreign: bool
    kinds: list[tuple[str, str, float]]
    specificity: float | None = None

    def __str__(self) -> str:
        unclear = self.specificity is not None and self.specificity < UNCLEAR
        return self._said() + (", an unclear or unusual image" if unclear else "")

    def _said(self) -> str:
        if self.is_foreign:
            return "nothing like this in the index"
        if not self.kinds:
            return "no image with a class is near it"
        if not self.name:
            best, _, sure = self.kinds[0]
            return f"not sure, perhaps {best} ({_percent(sure)})"
        if self.kinds[0] == (self.name, self.level, self.probability):
            return f"{self.name} ({_percent(self.probability)})"
        level = self.level or "group"
        return f"{level} {self.name} ({_percent(self.probability)}), class not sure"

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
    """How far votes of neighbours can be trusted, see `calibrating.calibrate`.

    Attributes:
        kinds: classes and groups.
        scale: distance beyond the nearest at which a vote counts 1/e.
        middle, spread: mean and standard deviation of the distance to the nearest image.
        weights: of the logistic model, one for each kind of evidence.
        farthest: distance of the nearest image from which on nothing is like it.
        radii: of the images, see `depth.radii`; none where they say nothing.
    """

    kinds: Kinds
    scale: float
    middle: float
    spread: float
    weights: tuple[float, ...]
    farthest: float
    radii: tuple[float, ...] = ()

    def verdict(
        self, distances: np.ndarray, labels: Sequence[str], confidence: float = CONFIDENCE
    ) -> Verdict:
        """What an image is.

        Args:
            distances: of its nearest images, nearest first. Those that are the image itself, and
                those without a label, have no vote; of the others `NEIGHBOURS` count.
            labels: their classes, empty where an image has none. One that was not there when this
                was learned stands for itself, without groups.
            confidence: probability that a kind must have to be named, 0 to 1.
        """
        told = [(far, label) for far, label in zip(distances, labels, strict=True) if far > SAME]
        voting = [(far, label) for far, label in told if label][:NEIGHBOURS]
        if not voting:
            return Verdict("", "", 0.0, False, [])
        if voting[0][0] > self.farthest:
            return Verdict("", "", 1.0, True, [])
        known, count = self.kinds.leaves, len(self.kinds.names)
        unknown = dict.fromkeys(label for _, label in voting if label not in known)
        new = {label: count + number for number, label in enumerate(unknown)}
        leaves = known | new
        chain, evidence = self.evidence(
            np.array([far for far, _ in voting]),
            np.array([leaves[label] for _, label in voting]),
        )
        sure = np.maximum.accumulate(sigmoid(evidence @ np.array(self.weights)))
        names = [*self.kinds.names, *new]
        levels = [*self.kinds.levels, *[CLASS] * len(new)]
        named = [(names[kind], levels[kind], float(p)) for kind, p in zip(chain, sure, strict=True)]
        for name, level, p in named:
            if p >= confidence:
                return Verdict(name, level, p, False, named)
        return Verdict("", "", 1 - float(sure[-1]), False, named)

    def evidence(self, distances: np.ndarray, codes: np.ndarray) -> tuple[list[int], np.ndarray]:
        """The class with the most votes and the kinds above it, and the evidence for each.

        Args:
            distances: of images that vote, nearest first.
            codes: numbers of their classes.

        Returns:
            K kinds, and what the model looks at, (K, F).
        """
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
        if len(weights) != FEATURES or not np.isfinite([*numbers.values(), *weights]).all():
            raise ValueError("numbers that are none")
        if max(map(abs, weights)) > _MOST_WEIGHT or len(kinds.leaves) < kinds.num_classes:
            raise ValueError("weights out of range, or a class that stands twice")
        if min(numbers["scale"], numbers["spread"]) <= 0:
            raise ValueError("a scale that is not above 0")
        radii = tuple(float(radius) for radius in values.get("radii", ()))
        if len(radii) not in (0, NUM_RADII) or not np.isfinite(radii).all():
            raise ValueError("radii that are none")
        return cls(kinds, weights=weights, radii=radii, **numbers)


def _evidence(share: np.ndarray, far: float, size: np.ndarray) -> np.ndarray:
    """What the model looks at, (K, F): votes, distance of the nearest image, size, in pairs."""
    held = share.clip(1e-3, 1 - 1e-3)
    votes = np.log(held / (1 - held))
    first = [votes, np.full_like(votes, np.tanh(far / 3) * 3), size]
    second = [a * b for n, a in enumerate(first) for b in first[n:]]
    return np.stack([np.ones_like(votes), *first, *second], axis=1)


def sigmoid(score: np.ndarray) -> np.ndarray:
    """Probabilities of log-odds."""
    value: np.ndarray = 1 / (1 + np.exp(-score.clip(-50, 50)))
    return value
