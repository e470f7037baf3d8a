"""A rooted tree: hierarchical proxies over classes, or over groups of photos."""

import dataclasses
import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from hiercli.errors import InputError
from hiercli.labels import as_label


@dataclass(frozen=True)
class Node:
    """A proxy that stands above others, or a class, or a group of photos without labels.

    Attributes:
        id: the same whenever the tree of one encoder is built: ``p12`` for proxy 12, the name for a
            leaf. A proxy that stands in two places is ``p12`` where it has most below it, ``p12.2``
            in the next.
        name: of the class; of an inner node what its classes have in common.
        proxy: position among the hierarchical proxies; ``None`` for a class.
        radius: hyperbolic distance from the origin; small is abstract where a recipe learned depth.
            ``None`` in a tree that was read from Newick.
        height: 0 for a leaf; for an inner node half the mean distance between its branches.
        size: photos below; 1 for each class where no photos are known.
        counted: what ``size`` counts, ``photos`` or ``classes``.
        purity: share of these with the label that is commonest among them; ``None`` without labels.
        photo: path of the one in their middle; ``None`` where no photos are known.
        children: empty for a leaf.
    """

    id: str
    name: str
    proxy: int | None
    radius: float | None
    height: float
    size: int = 1
    counted: str = "classes"
    purity: float | None = 1.0
    photo: str | None = None
    children: tuple["Node", ...] = ()

    def walk(self) -> Iterator["Node"]:
        """This node and all below it, parents first, without recursion."""
        waiting = [self]
        while waiting:
            node = waiting.pop()
            yield node
            waiting.extend(reversed(node.children))

    @property
    def leaves(self) -> list["Node"]:
        """Nodes at the ends, in order; the node itself where it has no children."""
        return [node for node in self.walk() if not node.children]


def lines(root: Node) -> dict[str, list[Node]]:
    """From the root down to each leaf, by the id of the leaf; the leaf comes last."""
    found: dict[str, list[Node]] = {}
    above: dict[int, list[Node]] = {id(root): []}
    for node in root.walk():
        line = [*above.pop(id(node)), node]
        if not node.children:
            found[node.id] = line
        above |= {id(child): line for child in node.children}
    return found


def find(root: Node, wanted: str) -> Node:
    """The node of an id, or of a name that only one has.

    Raises:
        InputError: there is none, or there are several.
    """
    nodes, wanted = list(root.walk()), as_label(wanted)
    found = [node for node in nodes if as_label(node.id) == wanted]
    found = found or [node for node in nodes if as_label(node.name) == wanted]
    if len(found) == 1:
        return found[0]
    if found:
        ids = ", ".join(node.id for node in found[:5])
        raise InputError(f"{len(found)} nodes have the name {wanted!r}. Give one of the ids {ids}")
    near = difflib.get_close_matches(wanted, [node.name for node in nodes], 3, 0.5)
    hint = f" Similar names: {', '.join(near)}" if near else ""
    raise InputError(f"expected the id or the name of a node, got {wanted!r}.{hint}")


def joins(root: Node, leaves: Sequence[str]) -> tuple[list[list[int]], np.ndarray]:
    """The inner nodes as joins of what is numbered before them, in the manner of a linkage.

    Args:
        leaves: ids of the leaves, numbered 0 to C - 1; those of other leaves are left out, with
            the inner nodes that then have fewer than two branches.

    Returns:
        (members, heights): join t is number C + t; its members are numbers of leaves or of earlier
        joins. (J,) heights, as of `Node`.
    """
    place = {name: number for number, name in enumerate(leaves)}
    numbers: dict[int, int | None] = {}
    members: list[list[int]] = []
    heights: list[float] = []
    for node in reversed(list(root.walk())):
        if not node.children:
            numbers[id(node)] = place.get(node.id)
            continue
        below = [numbers.pop(id(child)) for child in node.children]
        known = [number for number in below if number is not None]
        if len(known) < 2:
            numbers[id(node)] = known[0] if known else None
            continue
        numbers[id(node)] = len(leaves) + len(members)
        members.append(known)
        heights.append(node.height)
    return members, np.array(heights)


def trim(root: Node, depth: int | None = None, min_size: int = 1) -> Node:
    """The tree without what lies too deep or holds too little.

    Args:
        depth: levels below the root that stay; ``None`` for all.
        min_size: photos (or classes) that a node must hold to stay.
    """
    levels = {id(root): 0}
    for node in root.walk():
        levels |= {id(child): levels[id(node)] + 1 for child in node.children}
    kept: dict[int, Node] = {}
    for node in reversed(list(root.walk())):
        stays = [child for child in node.children if child.size >= min_size]
        if depth is not None and levels[id(node)] >= depth:
            stays = []
        children = tuple(kept[id(child)] for child in stays)
        kept[id(node)] = dataclasses.replace(node, children=children)
    return kept[id(root)]
