"""Classes and the groups above them, as far as they are known or can be grown."""

import functools
from dataclasses import dataclass
from typing import Self

import numpy as np

from hiercli.errors import DataError
from hiercli.hierarchy.labelled import Labelled
from hiercli.hierarchy.naming import common_name, said_by_all

CLASS = "class"
_MOST_CLASSES = 4096
"""Of which a tree is grown."""


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
    def of(cls, images: Labelled) -> Self:
        """The classes and their levels; where no level is known, a tree of the images' points."""
        classes = images.classes
        kinds = cls(list(classes), [CLASS] * len(classes), [-1] * len(classes), len(classes))
        if images.lineages:
            kinds._add_levels(images)
        elif 2 < len(classes) <= _MOST_CLASSES:
            kinds._grow(images)
        return kinds

    def _add(self, name: str, level: str) -> int:
        """A further kind, which stands behind all that it can be a parent of."""
        self.names.append(name)
        self.levels.append(level)
        self.parents.append(-1)
        return len(self.names) - 1

    def _add_levels(self, images: Labelled) -> None:
        lines = [images.lineages.get(label, ()) for label in images.classes]
        below = list(range(len(lines)))  # the highest kind so far above each class
        for place, level in enumerate(images.level_names):
            numbers: dict[tuple[str, ...], int] = {}
            for leaf, line in enumerate(lines):
                if line and line[place]:
                    if line[place:] not in numbers:
                        numbers[line[place:]] = self._add(line[place], level)
                    self.parents[below[leaf]] = below[leaf] = numbers[line[place:]]

    def _grow(self, images: Labelled) -> None:
        """Add the joins of a tree of the classes, but the last, which says nothing."""
        from scipy.cluster.hierarchy import average  # searching does without
        from scipy.spatial.distance import squareform

        from hiercli.evaluation.taxonomy import midpoint_distances

        classes = images.classes
        far = midpoint_distances(images.codes, images.blocks(), len(classes), images.c)
        np.fill_diagonal(far, 0.0)
        said = said_by_all(classes)
        photos = np.bincount(images.codes[images.codes >= 0], minlength=len(classes))
        members = [[leaf] for leaf in range(len(classes))]
        for first, second in average(squareform(far, checks=False))[:-1, :2].astype(int):
            members.append(members[first] + members[second])
            own = members[-1]
            name = common_name([classes[leaf] for leaf in own], said, photos[own].tolist())
            self.parents[first] = self.parents[second] = self._add(name, "")

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

    def groups(self) -> dict[str, frozenset[tuple[str, str]]]:
        """Level and name of the groups above each class, by its name."""
        return {
            name: frozenset((self.levels[kind], self.names[kind]) for kind in self.chain(leaf)[1:])
            for name, leaf in self.leaves.items()
        }

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
