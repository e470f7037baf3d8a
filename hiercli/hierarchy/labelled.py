"""Images with labels whose points are read when they are asked for: memory need not hold all."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np

from hiercli.collection import Collection

_ROWS = 65_536


@dataclass(frozen=True, eq=False)
class Labelled:
    """Images with labels.

    Examples:
        >>> import numpy as np
        >>> points = np.array([[0.1, 0.0], [0.0, 0.2], [0.3, 0.0]], np.float32)
        >>> birds = Labelled.of(Collection(points=points, labels=["wren", "jay", "wren"], c=0.1))
        >>> birds.classes, birds.codes.tolist()
        (['jay', 'wren'], [1, 0, 1])

    Attributes:
        classes: C names, sorted.
        codes: (N,) int64, the class of each image.
        blocks: the points (M, D) of all images in their order, a block at a time.
        points: the points (M, D) of the images at some positions (M,).
        lineages: the groups of each class of which any is known, fine to coarse.
        level_names: names of their levels.
        c: curvature magnitude, or ``None`` for plain features.
        image_depth: whether unclear images lie nearer the origin.
    """

    classes: list[str]
    codes: np.ndarray
    blocks: Callable[[], Iterator[np.ndarray]]
    points: Callable[[np.ndarray], np.ndarray]
    lineages: dict[str, tuple[str, ...]]
    level_names: tuple[str, ...]
    c: float | None
    image_depth: bool = False

    @classmethod
    def of(cls, collection: Collection) -> Self:
        """Those of some images in memory that have a label."""
        collection = collection.labelled
        classes = collection.classes
        place = {name: number for number, name in enumerate(classes)}
        return cls(
            classes=classes,
            codes=np.array([place[label] for label in collection.labels or ()], np.int64),
            blocks=lambda: blocks_of(collection.points),
            points=lambda positions: collection.points[positions],
            lineages=collection.lineages,
            level_names=collection.level_names,
            c=collection.c,
        )


def blocks_of(points: np.ndarray) -> Iterator[np.ndarray]:
    """Points (N, D), a block at a time."""
    for start in range(0, len(points), _ROWS):
        yield points[start : start + _ROWS]
