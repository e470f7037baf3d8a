"""A rooted tree of hierarchical proxies over classes."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from hiercli.errors import DataError
from hiercli.geometry import poincare


@dataclass(frozen=True)
class Node:
    """A proxy that stands above others, or a class.

    Attributes:
        name: the class name of a leaf; ``proxy 12`` of an inner node.
        proxy: position among the hierarchical proxies; ``None`` for a leaf.
        radius: hyperbolic distance from the origin; small is abstract where a recipe learned depth.
        height: 0 for a leaf; for an inner node half the mean distance between its branches.
        children: empty for a leaf.
    """

    name: str
    proxy: int | None
    radius: float
    height: float
    children: tuple["Node", ...] = ()

    def walk(self) -> Iterator["Node"]:
        """This node and all below it, parents first, without recursion."""
        waiting = [self]
        while waiting:
            node = waiting.pop()
            yield node
            waiting.extend(reversed(node.children))

    @property
    def leaves(self) -> list[str]:
        """Class names below, in order."""
        return [node.name for node in self.walk() if not node.children]


def build(points: np.ndarray, names: list[str], proxies: np.ndarray, c: float) -> Node:
    """Join classes bottom-up and name each join by the proxy that is its lowest common ancestor.

    Classes are joined by average linkage of their hyperbolic distances. The ancestor of a set is
    the proxy with the smallest largest distance to it (HIER, equation 6, without noise) among
    those that are not already an ancestor further down; proxies that are nobody's ancestor are
    left out.

    Args:
        points: (C, D) one point a class.
        names: C class names.
        proxies: (P, D) hierarchical proxies.
        c: curvature magnitude.

    Raises:
        DataError: fewer than two classes, or no proxies.
    """
    if len(names) < 2 or not len(proxies):
        raise DataError(
            f"expected two classes or more and some proxies for a tree, found {len(names)} classes "
            f"and {len(proxies)} proxies: the encoder must come from `hier train`"
        )
    from scipy.cluster.hierarchy import average
    from scipy.spatial.distance import squareform

    wide = points.astype(np.float64)
    between = poincare.pairwise_dist(wide, wide, c)
    np.fill_diagonal(between, 0.0)
    reach = poincare.pairwise_dist(wide, proxies.astype(np.float64), c)
    radius = 2 * np.linalg.norm(poincare.logmap0(wide, c), axis=1)
    proxy_radius = 2 * np.linalg.norm(poincare.logmap0(proxies.astype(np.float64), c), axis=1)
    nodes = [Node(name, None, float(r), 0.0) for name, r in zip(names, radius, strict=True)]
    farthest = list(reach)
    used: list[frozenset[int]] = [frozenset()] * len(names)
    for first, second, distance, _ in average(squareform(between, checks=False)):
        pair = int(first), int(second)
        farthest.append(np.maximum(farthest[pair[0]], farthest[pair[1]]))
        below = used[pair[0]] | used[pair[1]]
        by_reach = (int(proxy) for proxy in np.argsort(farthest[-1], kind="stable"))
        # With fewer proxies than joins the nearest one has to serve twice.
        ancestor = next((p for p in by_reach if p not in below), int(farthest[-1].argmin()))
        used.append(below | {ancestor})
        children = tuple(nodes[place] for place in pair)
        nodes.append(
            Node(f"proxy {ancestor}", ancestor, float(proxy_radius[ancestor]),
                 float(distance) / 2, children)
        )  # fmt: skip
    return nodes[-1]
