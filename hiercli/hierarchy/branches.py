"""Where pictures stand in a tree: their common ancestors, what is akin, how specific they are."""

from collections.abc import Sequence

import numpy as np

from hiercli.encoder.metadata import Metadata
from hiercli.geometry import poincare
from hiercli.hierarchy import build
from hiercli.hierarchy.tree import Node


class Branches:
    """A tree to be asked about points: that of an index's classes, or of an encoder's.

    A picture stands where its label does; one without a label, or with one that the tree does not
    have, where the class does whose middle is nearest to it.

    Args:
        metadata: of the encoder.
        points: (N, D) photos of an index.
        labels: N class names. With fewer than two different ones, and without photos, the tree is
            that of the classes that the encoder was trained on.

    Attributes:
        root: of the tree.
        has_depth: whether radii say how abstract something is, see `build.carries_depth`.

    Raises:
        DataError: the encoder has no proxies, or there are fewer than two classes.
    """

    def __init__(
        self, metadata: Metadata, points: np.ndarray | None = None, labels: Sequence[str] = ()
    ) -> None:
        self._c, self._clip_radius = metadata.c, metadata.clip_radius
        self.has_depth = build.carries_depth(metadata.class_points, metadata.proxies, metadata.c)
        self._names = list(metadata.class_names)
        self._middles = metadata.class_points.astype(np.float64)
        unique = sorted(set(labels))
        if points is not None and len(unique) > 1:
            codes, wide = np.asarray(labels), points.astype(np.float64)
            self._names = unique
            self._middles = np.stack(
                [poincare.midpoint(wide[codes == name], metadata.c) for name in unique]
            )
            self.root = build.from_photos(points, None, labels, metadata.proxies, metadata.c)
        else:
            self.root = build.from_classes(
                metadata.class_points, self._names, metadata.proxies, metadata.c
            )
        self._lines: dict[str, list[Node]] = {}
        above: dict[int, list[Node]] = {id(self.root): []}
        for node in self.root.walk():
            line = [*above.pop(id(node)), node]
            if not node.children:
                self._lines[node.name] = line
            above |= {id(child): line for child in node.children}

    def place(self, points: np.ndarray, labels: Sequence[str] | None = None) -> list[str]:
        """The class at which each of some points (N, D) stands."""
        from hiercli.index.hyperbolic import nearest

        _, found = nearest(points, self._middles.astype(np.float32), 1, self._c)
        placed = [self._names[code] for code in found[:, 0].tolist()]
        if labels is None:
            return placed
        return [label if label in self._lines else near
                for label, near in zip(labels, placed, strict=True)]  # fmt: skip

    def common(self, query: np.ndarray, points: np.ndarray, labels: Sequence[str]) -> list[Node]:
        """The lowest node that holds a query and each of some pictures.

        Args:
            query: (D,).
            points: (K, D).
            labels: K class names.
        """
        (own,) = self.place(query[None])
        found = []
        for other in self.place(points, labels):
            shared = zip(self._lines[own], self._lines[other], strict=False)
            found.append([mine for mine, theirs in shared if mine is theirs][-1])
        return found

    def above(self, query: np.ndarray, level: int) -> Node:
        """The branch so many levels above the class nearest to a point (D,); at most the root."""
        line = self._lines[self.place(query[None])[0]]
        return line[max(0, len(line) - 1 - level)]

    def spread(
        self, query: np.ndarray, points: np.ndarray, labels: Sequence[str], branch: Node, k: int
    ) -> np.ndarray:
        """Positions of pictures in a branch: the nearest of each class in it, then each one's next.

        Args:
            query: (D,).
            points: (N, D) of all pictures.
            labels: N class names.
            k: how many at most.

        Returns:
            (K,) positions; within a turn the nearest first.
        """
        held = {leaf.name for leaf in branch.leaves}
        placed = np.asarray(self.place(points, labels))
        own = np.flatnonzero(np.isin(placed, list(held)))
        far = poincare.dist(query[None].astype(np.float64), points[own].astype(np.float64), self._c)
        order = np.lexsort((far, placed[own]))
        _, first, counts = np.unique(placed[own][order], return_index=True, return_counts=True)
        turn = np.empty(len(own), np.int64)
        turn[order] = np.arange(len(own)) - np.repeat(first, counts)
        return own[np.lexsort((far, turn))[:k]]

    def specificity(self, point: np.ndarray) -> float | None:
        """How far out a point lies, 0 to 1 at the clip radius; ``None`` where radii say nothing."""
        if not self.has_depth:
            return None
        length = float(np.linalg.norm(poincare.logmap0(point.astype(np.float64), self._c)))
        return min(1.0, length / self._clip_radius)
