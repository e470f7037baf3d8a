"""Growing the tree: groups are joined bottom-up, each join takes the proxy that is its ancestor.

Groups (classes, or the photos that are nearest to one proxy) are joined by average linkage of their
hyperbolic distances. The ancestor of a join is the proxy with the smallest largest distance to what
is below it (HIER, equation 6, without noise). Where the encoder learned depth, that is where
proxies lie nearer the origin than photos and radii differ, only proxies count that lie no
farther out than the ancestors of the branches, so radii grow from the root to the leaves.
Joins with one and the same ancestor, one right above the other and nearly as high, are one node
with many branches; proxies that are nobody's ancestor are left out.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from hiercli.collection import Collection
from hiercli.errors import DataError
from hiercli.geometry import lorentz, poincare
from hiercli.hierarchy.depth import at_one_radius, carries_depth, radius_of
from hiercli.hierarchy.groups import (
    Groups,
    Photos,
    class_counts,
    grouped,
    leaf_ids,
    parts_of,
)
from hiercli.hierarchy.naming import common_name, group_name, said_by_all, shared_group
from hiercli.hierarchy.node import Node
from hiercli.wording import counted

_LEVEL = 0.95
"""Share of a join's height from which on a branch with the same ancestor is one node with it. On
the 58 training species of CUB, by a general encoder that had not learned from them, purity at
family level and correlation of heights are 0.58 and 0.72; with 0.9 they are 0.55 and 0.77, if
height does not count 0.38 and 0.80."""
_MOST_LEAVES = 12_000
"""Average linkage needs their square."""
_AT_ONCE = 4096


@dataclass
class _Branch:
    """A node in the making.

    Attributes:
        leaves: groups below.
        proxy: the ancestor; ``None`` for a group.
        below: proxies that are ancestors further down.
    """

    leaves: list[int]
    farthest: np.ndarray
    height: float = 0.0
    proxy: int | None = None
    below: frozenset[int] = frozenset()
    children: list["_Branch"] = field(default_factory=list)


def from_classes(points: np.ndarray, names: Sequence[str], proxies: np.ndarray, c: float) -> Node:
    """The tree over classes that are given by one point each.

    Args:
        points: (C, D) in the ball.
        names: C class names.
        proxies: (P, D) hierarchical proxies.
        c: curvature magnitude.

    Raises:
        DataError: fewer than two classes, or no proxies.
    """
    wide = points.astype(np.float64)
    groups = Groups(list(names), leaf_ids(names), wide, radius_of(wide, c), said=said_by_all(names))
    return _grow(groups, wide, proxies, c)


def from_images(collection: Collection, *, by_proxy: bool = False) -> Node:
    """The tree over the classes of images, or over the images that are nearest to one proxy.

    Args:
        collection: of N images with proxies and c. Without labels, or with one only, images are
            grouped by proxy, and groups have numbers for names, and no purity. Where there are
            classes, images without a label are left out. Without paths the nodes name no image. An
            inner node whose classes share a group is named after it.
        by_proxy: leaves are proxies with the images nearest to them, whatever their labels.

    Raises:
        DataError: fewer than two groups, or no proxies.
    """
    points, paths, labels, proxies, c = parts_of(collection)
    names, ids, members, codes = grouped(points, labels, proxies, c, by_proxy)
    wide = points.astype(np.float64)
    radius = radius_of(wide, c)
    middles = np.stack([poincare.midpoint(wide[own], c) for own in members])
    radii = np.array([radius[own].mean() for own in members])
    lifted = lorentz.from_poincare(wide, c).astype(np.float32)
    classes = sorted(set(labels) - {""}) if labels is not None and by_proxy else None
    photos = Photos(members, lifted, None if labels is None else codes, paths, classes)
    said = said_by_all(classes or names)
    lineages = {} if by_proxy else collection.lineages
    groups = Groups(names, ids, middles, radii, photos, said, lineages)
    return _grow(groups, wide, proxies, c)


def leaf_images(
    whole: Node, shown: Node, collection: Collection, *, by_proxy: bool = False
) -> dict[str, np.ndarray]:
    """Positions of the images at each leaf of a tree of `from_images`, the most typical first.

    Args:
        whole: the tree.
        shown: the tree, or what was left of it: a node that lost its branches is a leaf with all
            that was below it.
        collection, by_proxy: as it was grown from.
    """
    points, _, labels, proxies, c = parts_of(collection)
    _, ids, members, _ = grouped(points, labels, proxies, c, by_proxy)
    own = dict(zip(ids, members, strict=True))
    nodes = {node.id: node for node in whole.walk()}
    found = {}
    for leaf in shown.leaves:
        positions = np.concatenate([own[group.id] for group in nodes[leaf.id].leaves])
        wide = points[positions].astype(np.float64)
        far = poincare.dist(poincare.midpoint(wide, c)[None], wide, c)
        found[leaf.id] = positions[np.argsort(far, kind="stable")]
    return found


def _grow(groups: Groups, points: np.ndarray, proxies: np.ndarray, c: float) -> Node:
    count = len(groups.names)
    if count < 2 or not len(proxies):
        raise DataError(
            f"expected at least two classes and one proxy for a tree, found "
            f"{counted(count, 'class or group', 'classes or groups')} and "
            f"{counted(len(proxies), 'proxy', 'proxies')}"
        )
    if count > _MOST_LEAVES:
        raise DataError(
            f"expected at most {_MOST_LEAVES:,} leaves for a tree, found {count:,}. Group the "
            "photos by proxy (`--leaves proxies`), or use fewer photos"
        )
    from scipy.cluster.hierarchy import average
    from scipy.spatial.distance import squareform

    inner = proxies.astype(np.float64)
    placed = at_one_radius(groups.points, groups.radius.mean(), c)
    between = poincare.pairwise_dist(placed, placed, c)
    np.fill_diagonal(between, 0.0)
    reach = poincare.pairwise_dist(placed, inner, c)
    depth = radius_of(inner, c)
    radial = carries_depth(points, inner, c)
    branches = [_Branch([place], reach[place]) for place in range(count)]
    for first, second, distance, _ in average(squareform(between, checks=False)):
        pair = (branches[int(first)], branches[int(second)])
        branches.append(_join(pair, float(distance) / 2, depth if radial else None))
    return _finish(branches[-1], groups, depth)


def _join(pair: tuple[_Branch, _Branch], height: float, depth: np.ndarray | None) -> _Branch:
    farthest = np.maximum(pair[0].farthest, pair[1].farthest)
    own = [branch.proxy for branch in pair if branch.proxy is not None]
    allowed = np.ones(len(farthest), bool)
    if depth is not None:
        allowed = depth <= min((depth[proxy] for proxy in own), default=np.inf)
    # An ancestor of one branch may be that of both; one that stands below an ancestor may not.
    deeper = frozenset[int]().union(*(branch.below for branch in pair))
    allowed[list(deeper)] = False
    if not allowed.any():  # with few proxies one has to stand in several places
        allowed[own] = True
    proxy = int(np.where(allowed, farthest, np.inf).argmin())
    children: list[_Branch] = []
    for branch in pair:
        same = branch.proxy == proxy and branch.height >= _LEVEL * height
        children += branch.children if same else [branch]
    below = deeper | {passed for passed in own if passed != proxy}
    return _Branch(pair[0].leaves + pair[1].leaves, farthest, height, proxy, below, children)


def _finish(root: _Branch, groups: Groups, depth: np.ndarray) -> Node:
    """Nodes of branches: with ids, names, photos."""
    every, waiting = [], [root]
    while waiting:
        branch = waiting.pop()
        every.append(branch)
        waiting.extend(reversed(branch.children))
    ids, shared = _ids(every, groups), _shared_groups(every, groups)
    kept: dict[int, Node] = {}
    for branch in reversed(every):
        size, photo = len(branch.leaves), None
        purity: float | None = 1 / size
        if groups.photos is not None:
            own = np.concatenate([groups.photos.members[leaf] for leaf in branch.leaves])
            size, purity = len(own), None
            if groups.photos.labels is not None:
                counts = class_counts(groups.photos.labels[own], 1)
                purity = float(counts.max() / counts.sum()) if counts.any() else None
            if groups.photos.paths is not None:
                photo = groups.photos.paths[_medoid(groups.photos.lifted, own)]
        leaf, proxy = branch.leaves[0], branch.proxy
        kept[id(branch)] = Node(
            id=ids[id(branch)],
            name=groups.names[leaf]
            if proxy is None
            else shared.get(id(branch)) or _name(branch, groups),
            proxy=proxy,
            radius=float(groups.radius[leaf] if proxy is None else depth[proxy]),
            height=branch.height,
            size=size,
            counted="classes" if groups.photos is None else "photos",
            purity=purity,
            photo=photo,
            children=tuple(kept.pop(id(child)) for child in branch.children),
        )
    return kept[id(root)]


def _ids(every: list[_Branch], groups: Groups) -> dict[int, str]:
    ids: dict[int, str] = {}
    taken: Counter[int] = Counter()
    for branch in sorted(every, key=lambda one: -len(one.leaves)):
        if branch.proxy is not None:
            taken[branch.proxy] += 1
            again = f".{taken[branch.proxy]}" if taken[branch.proxy] > 1 else ""
            ids[id(branch)] = f"p{branch.proxy}{again}"
    return ids | {
        id(branch): groups.ids[branch.leaves[0]] for branch in every if branch.proxy is None
    }


def _name(branch: _Branch, groups: Groups) -> str:
    """What the classes below have in common, those in the middle first."""
    photos = groups.photos
    if photos is not None and photos.classes is not None and photos.labels is not None:
        own = np.concatenate([photos.members[leaf] for leaf in branch.leaves])
        counts = class_counts(photos.labels[own], len(photos.classes))
        if counts.any():
            return group_name(photos.classes, counts, groups.said)
    points = groups.points[branch.leaves]
    middle = points.mean(axis=0)
    order = np.argsort(np.linalg.norm(points - middle, axis=1), kind="stable")
    leaves = [branch.leaves[place] for place in order]
    sizes = None if photos is None else [float(len(photos.members[leaf])) for leaf in leaves]
    return common_name([groups.names[leaf] for leaf in leaves], groups.said, sizes)


def _shared_groups(every: list[_Branch], groups: Groups) -> dict[int, str]:
    """Of each branch whose classes share a group that the branch above does not: its name."""
    if not groups.lineages:
        return {}
    own = {
        id(branch): shared_group([groups.lineages.get(groups.names[leaf])
                                   for leaf in branch.leaves])
        for branch in every
    }  # fmt: skip
    parents = {id(child): id(branch) for branch in every for child in branch.children}
    return {one: name for one, name in own.items() if name != own.get(parents.get(one, 0))}


def _medoid(lifted: np.ndarray, own: np.ndarray) -> int:
    """Position of the photo that lies nearest to the middle of some."""
    middle = np.zeros(lifted.shape[1])
    for first in range(0, len(own), _AT_ONCE):
        middle += lifted[own[first : first + _AT_ONCE]].sum(axis=0, dtype=np.float64)
    asked = lorentz.as_query(middle[None] / len(own))[0].astype(np.float32)
    products = np.concatenate(
        [lifted[own[first : first + _AT_ONCE]] @ asked for first in range(0, len(own), _AT_ONCE)]
    )
    return int(own[products.argmax()])
