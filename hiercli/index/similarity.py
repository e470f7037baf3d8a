"""Distances in words that people know: how similar two images are, judged by pairs of the index."""

import functools
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from hiercli.geometry import poincare
from hiercli.index.searchable import Searchable

SAMPLE = 256
"""Images whose distances to each other are the scale: 32,640 pairs."""
_NEAR = ((0.001, "very similar"), (0.01, "similar"), (0.1, "somewhat similar"))
"""Share of the pairs of images that are nearer to each other, at most, and the word for that."""
_FAR = "different"
_SAME = 1e-4
"""Distance up to which two images are the same one: what float32 leaves of copies."""


@dataclass(frozen=True)
class Similarity:
    """Distances of pairs of images of an index, by which others are judged.

    Examples:
        >>> scale = Similarity.of_points(np.array([[0.0, 0.0], [0.1, 0.0], [0.5, 0.0]]), 0.1)
        >>> [round(scale(distance), 1) for distance in (0.0, 0.4, 2.0)]
        [1.0, 0.5, 0.0]
        >>> scale.word(0.05), scale.percent(0.05)
        ('very similar', '93 %')

    Attributes:
        distances: (P,) of pairs, in rising order.
    """

    distances: np.ndarray

    @classmethod
    def of(cls, images: Searchable) -> Self:
        """The scale of an index, from images that are spread over it."""
        return cls.of_points(images.some_points(SAMPLE), images.c)

    @classmethod
    def of_points(cls, points: np.ndarray, c: float) -> Self:
        """The scale of points (N, D) of the ball."""
        wide = points.astype(np.float64)
        rows, columns = np.triu_indices(len(wide), 1)
        if not len(rows):
            return cls(np.zeros(0))
        return cls(np.sort(np.asarray(poincare.pairwise_dist(wide, wide, c))[rows, columns]))

    def __call__(self, distance: float) -> float:
        """Similarity at a distance: 1 is the same image, 0 the median distance and beyond."""
        if self._middle <= _SAME:
            return 1.0 if distance <= _SAME else 0.0
        return max(0.0, 1 - distance / self._middle)

    @functools.cached_property
    def _middle(self) -> float:
        # The median of what is in order. np.median would import numpy.ma, which takes 10 ms.
        count = len(self.distances)
        return float(self.distances[[(count - 1) // 2, count // 2]].mean()) if count else 0.0

    def percent(self, distance: float) -> str:
        """The similarity at a distance, as people read it."""
        return f"{int(100 * self(distance) + 1e-9)} %"

    def to_dict(self, distance: float) -> dict[str, Any]:
        """What programs are told of a distance."""
        return {"similarity": round(self(distance), 4), "similar": self.word(distance)}

    def word(self, distance: float) -> str:
        """The same in words: the same image, very similar, and so on to different."""
        if distance <= _SAME:
            return "the same image"
        return next((word for limit, word in self._limits if distance < limit), _FAR)

    @functools.cached_property
    def _limits(self) -> list[tuple[float, str]]:
        """Below which distance each word holds: a share of the pairs is nearer."""
        count = len(self.distances)
        return [(float(self.distances[int(share * count)]), word) for share, word in _NEAR if count]
