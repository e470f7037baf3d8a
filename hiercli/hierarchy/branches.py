"""Where pictures of any kind stand in a tree: their common ancestors, how specific they are."""

import numpy as np

from hiercli.encoder.metadata import Metadata
from hiercli.geometry import poincare
from hiercli.hierarchy import build
from hiercli.hierarchy.tree import Node


class Branches:
    """The tree of an encoder, to be asked about points.

    Args:
        metadata: of the encoder.

    Attributes:
        root: of the tree over its training classes.
        has_depth: whether radii say how abstract something is, see `build.carries_depth`.

    Raises:
        DataError: it has fewer than two classes, or no proxies.
    """

    def __init__(self, metadata: Metadata) -> None:
        self._c, self._clip_radius = metadata.c, metadata.clip_radius
        self.root = build.from_classes(
            metadata.class_points, metadata.class_names, metadata.proxies, metadata.c
        )
        self.has_depth = build.carries_depth(metadata.class_points, metadata.proxies, metadata.c)
        self._classes = metadata.class_points.astype(np.float64)
        self._places: dict[int, list[Node]] = {}
        self._above: dict[str, list[str]] = {}
        above: dict[str, list[str]] = {self.root.id: []}
        for node in self.root.walk():
            line = above.pop(node.id)
            if node.proxy is not None:
                self._places.setdefault(node.proxy, []).append(node)
            else:
                self._above[node.name] = line
            above |= {child.id: [*line, node.id] for child in node.children}
        self._names = metadata.class_names
        self._alive = np.array(sorted(self._places))
        self._proxies = metadata.proxies[self._alive].astype(np.float64)

    def common(self, query: np.ndarray, points: np.ndarray) -> list[Node]:
        """The lowest common ancestor of a query and each of some points.

        It is the proxy with the smallest largest distance to the two (HIER, equation 6, without
        noise); one that stands in several places of the tree is meant where the class lies that is
        nearest to the query.

        Args:
            query: (D,).
            points: (K, D).
        """
        asked = query.astype(np.float64)[None]
        own = poincare.pairwise_dist(asked, self._proxies, self._c)
        reach = poincare.pairwise_dist(points.astype(np.float64), self._proxies, self._c)
        best = self._alive[np.maximum(own, reach).argmin(axis=1)]
        nearest = int(poincare.pairwise_dist(asked, self._classes, self._c).argmin())
        line = self._above[self._names[nearest]]
        found = []
        for proxy in best.tolist():
            places = self._places[proxy]
            found.append(next((node for node in places if node.id in line), places[0]))
        return found

    def specificity(self, point: np.ndarray) -> float | None:
        """How far out a point lies, 0 to 1 at the clip radius; ``None`` where radii say nothing."""
        if not self.has_depth:
            return None
        length = float(np.linalg.norm(poincare.logmap0(point.astype(np.float64), self._c)))
        return min(1.0, length / self._clip_radius)
