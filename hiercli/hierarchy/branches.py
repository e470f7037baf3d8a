"""Where images stand in a tree: common ancestors, searches in breadth, specificity."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hiercli.collection import Collection
from hiercli.geometry import poincare
from hiercli.hierarchy import build, depth
from hiercli.hierarchy.node import Node, lines
from hiercli.hierarchy.proxies import proxies_of_images
from hiercli.index.searchable import Hit, Searchable, hit_of

if TYPE_CHECKING:
    from hiercli.encoder.metadata import Metadata


@dataclass(frozen=True)
class BreadthHits:
    """The hits of a search in breadth.

    Attributes:
        branch: the part of the tree that was searched.
        hits: the nearest image of each class in it, then each one's next.
    """

    branch: Node
    hits: list[Hit]


def search_in_breadth(
    queries: np.ndarray,
    images: Searchable,
    tree: "Branches",
    level: int,
    k: int,
    *,
    where: Sequence[tuple[str, str]] = (),
    unique: bool = False,
) -> Iterator[BreadthHits]:
    """Search in breadth: go some levels up in the tree, then hit by hit of each class.

    Args:
        queries: (Q, D).
        images: the index.
        tree: over its classes.
        level: how many levels above the class of a query; 0: that class alone.
        k: hits for each query.
        where: only images that meet these conditions.
        unique: count images of the same content once.
    """
    rows = images.rows(where)
    copies: dict[bytes, list[str]] = {}
    if unique:
        for row in rows:
            copies.setdefault(row.content, []).append(os.fsdecode(row.path))
        rows = list({row.content: row for row in reversed(rows)}.values())[::-1]
    held = images.collection_of(rows)
    placed = tree.place(held.points, held.labels)
    for query in queries:
        branch = tree.above(query, level)
        found, far = tree.spread(query, held.points, placed, branch, k)
        hits = []
        for rank, (place, distance) in enumerate(zip(found, far, strict=True), 1):
            hit = hit_of(rows[place], rank, float(distance), held.points[place])
            hit.copies.extend(copies.get(hit.content, [])[1:])
            hits.append(hit)
        yield BreadthHits(branch, hits)


class Branches:
    """A tree to be asked about points: that of an index's classes, or of an encoder's.

    A picture stands where its label does; one without a label, or with one that the tree does not
    have, where the class does whose middle is nearest to it.

    Args:
        metadata: of the encoder.
        points: (N, D) photos of an index.
        labels: N class names, empty for a photo without one. With fewer than two different ones,
            and without photos, the tree is that of the classes that the encoder was trained on.

    Attributes:
        root: of the tree.
        has_depth: whether radii say how abstract something is, see `depth.carries_depth`.

    Raises:
        DataError: the encoder has no proxies, or there are fewer than two classes.
    """

    def __init__(
        self, metadata: "Metadata", points: np.ndarray | None = None, labels: Sequence[str] = ()
    ) -> None:
        self._c = metadata.c
        judged_by = metadata.class_points if points is None else points
        proxies = metadata.proxies
        if not len(proxies) and points is not None:
            proxies = proxies_of_images(points, labels, metadata.c)
        self.has_depth = depth.carries_depth(judged_by, proxies, metadata.c)
        self._image_depth = metadata.image_depth
        self._radii = depth.radii(judged_by, metadata.c)
        self._names = list(metadata.class_names)
        self._middles = metadata.class_points.astype(np.float64)
        unique = sorted(set(labels) - {""})
        if points is not None and len(unique) > 1:
            codes, wide = np.asarray(labels), points.astype(np.float64)
            self._names = unique
            self._middles = np.stack(
                [poincare.midpoint(wide[codes == name], metadata.c) for name in unique]
            )
            images = Collection(points=points, labels=labels, c=self._c, proxies=proxies)
            self.root = build.from_images(images)
        else:
            self.root = build.from_classes(metadata.class_points, self._names, proxies, metadata.c)
        self._lines = {line[-1].name: line for line in lines(self.root).values()}

    def place(self, points: np.ndarray, labels: Sequence[str] | None = None) -> list[str]:
        """The class at which each of some points (N, D) stands."""
        from hiercli.neighbours import nearest

        placed = [""] * len(points) if labels is None else list(labels)
        strange = [number for number, name in enumerate(placed) if name not in self._lines]
        if strange:
            _, found = nearest(points[strange], self._middles.astype(np.float32), 1, self._c)
            for number, code in zip(strange, found[:, 0].tolist(), strict=True):
                placed[number] = self._names[code]
        return placed

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
        """The branch some levels above the class nearest to a point (D,); at most the root."""
        line = self._lines[self.place(query[None])[0]]
        return line[max(0, len(line) - 1 - level)]

    def spread(
        self, query: np.ndarray, points: np.ndarray, placed: Sequence[str], branch: Node, k: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Positions of pictures in a branch: the nearest of each class in it, then each one's next.

        Args:
            query: (D,).
            points: (N, D) of all pictures.
            placed: the class at which each of them stands, see `place`.
            k: how many at most.

        Returns:
            (positions, distances), each (K,); within a turn the nearest first.
        """
        _, classes = np.unique(np.asarray(placed), return_inverse=True)
        held = {leaf.name for leaf in branch.leaves}
        own = np.flatnonzero([name in held for name in placed])
        far = poincare.dist(query[None].astype(np.float64), points[own].astype(np.float64), self._c)
        order = np.lexsort((far, classes[own]))
        _, first, counts = np.unique(classes[own][order], return_index=True, return_counts=True)
        turn = np.empty(len(own), np.int64)
        turn[order] = np.arange(len(own)) - np.repeat(first, counts)
        best = np.lexsort((far, turn))[:k]
        return own[best], far[best]

    def specificity(self, point: np.ndarray) -> float | None:
        """Share of the photos that lie nearer to the origin; ``None`` where that says nothing."""
        return depth.specificity(point, self._radii, self._c) if self._image_depth else None
