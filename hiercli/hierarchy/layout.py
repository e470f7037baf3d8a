"""Where the nodes of a tree lie in the Poincare disk (c = 1), with room for every branch.

Each node has a frame of its own, in which it is the origin and its parent lies in the direction of
pi; its children are given in it by hyperbolic distance and angle. So a tree may be as deep as it
likes: positions are only ever worked out near the place that is looked at.

A node gives each child a sector of its own, and puts it so far out that the sector, seen from
there, is `_SPREAD` wide on either side, or more if it is wide to begin with: rays towards one end
of the disk leave a point at distance d under the angles tan(child / 2) = e^d tan(sector / 2)
(Lamping, Rao and Pirolli, "A Focus+Context Technique Based on Hyperbolic Geometry", CHI 1995).
Branches therefore never cross.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hiercli.hierarchy.node import Node

_SPREAD = 0.6 * math.pi
"""Half of the angle under which a node sees its branches."""
_WIDEST = 0.92 * math.pi
"""The same at most: the rest is for the line to the parent."""
_SHORTEST = 0.5
_MOST_BRANCHES = 7
"""More branches than this leave a node by way of joints, which are no nodes themselves."""
_AREA = 0.2
"""Hyperbolic area that a photo takes."""
_CLEARING = 0.6
"""Distance between a class and the nearest of its photos."""
_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class Place:
    """A node, a joint or a photo in the disk.

    Attributes:
        parent: position in the list, -1 for the root. Parents come before their children.
        distance, angle: in the frame of the parent.
        node: ``None`` for a joint or a photo.
        photo: number of the photo within its leaf, most typical first; ``None`` for others.
    """

    parent: int
    distance: float
    angle: float
    node: Node | None = None
    photo: int | None = None


@dataclass
class _Part:
    """A node or a joint with what hangs on it."""

    node: Node | None
    parts: list["_Part"]
    weight: float


def place(root: Node, photos: Mapping[str, int]) -> list[Place]:
    """Lay a tree out.

    Args:
        photos: how many photos to place at each leaf, by its id.
    """
    places: list[Place] = []
    waiting = [(_parts(root, photos), -1, 0.0, 0.0, math.pi)]
    while waiting:
        part, parent, distance, angle, half = waiting.pop()
        own = len(places)
        places.append(Place(parent, distance, angle, part.node))
        if part.node is not None and not part.parts:
            places += _around(own, half, photos.get(part.node.id, 0))
        total = sum(below.weight for below in part.parts)
        start = -half
        below_this = []
        for below in part.parts:
            sector = half * below.weight / total
            away, spread = _away(sector)
            below_this.append((below, own, away, start + sector, spread))
            start += 2 * sector
        waiting.extend(reversed(below_this))
    return places


def _away(sector: float) -> tuple[float, float]:
    """Distance of a child with half of a sector, and half of the angle that it has to itself."""
    narrow = math.tan(min(sector, _WIDEST) / 2)
    away = max(_SHORTEST, math.log(math.tan(_SPREAD / 2) / narrow))
    return away, min(_WIDEST, 2 * math.atan(math.exp(away) * narrow))


def _around(leaf: int, half: float, count: int) -> list[Place]:
    """Photos as the seeds of a sunflower in a leaf's sector, equally dense everywhere."""
    half = min(half, _SPREAD)
    return [
        Place(
            leaf,
            math.acosh(math.cosh(_CLEARING) + number * _AREA / (2 * half)),
            half * (2 * ((number * _GOLDEN + 0.5) % 1) - 1),
            photo=number,
        )
        for number in range(count)
    ]


def _parts(root: Node, photos: Mapping[str, int]) -> _Part:
    built: dict[int, _Part] = {}
    for node in reversed(list(root.walk())):
        parts = _joined([built.pop(id(child)) for child in node.children])
        weight = sum(part.weight for part in parts)
        if not node.children:
            weight = math.sqrt(1 + photos.get(node.id, 0))
        built[id(node)] = _Part(node, parts, weight)
    return built[id(root)]


def _joined(parts: Sequence[_Part]) -> list[_Part]:
    """At most so many parts; neighbours are hung on joints together, evenly by weight and number.

    Half of a part's share is that of its weight, half that of its being one: so a joint takes few
    parts however unlike their weights are.
    """
    found = list(parts)
    while len(found) > _MOST_BRANCHES:
        many = len(found) > _MOST_BRANCHES**2
        groups = math.ceil(len(found) / _MOST_BRANCHES if many else math.sqrt(len(found)))
        total = sum(part.weight for part in found)
        joints: list[_Part] = []
        carried, first = 0.0, 0
        for number, part in enumerate(found, 1):
            carried += part.weight / total + 1 / len(found)
            if carried >= 2 * (len(joints) + 1) / groups or number == len(found):
                hung = _joined(found[first:number])
                weight = sum(one.weight for one in hung)
                joints.append(hung[0] if len(hung) == 1 else _Part(None, hung, weight))
                first = number
        found = joints
    return found
