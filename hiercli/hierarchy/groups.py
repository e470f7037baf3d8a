"""The leaves of a tree: classes, or the images that are nearest to one proxy."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from hiercli.collection import Collection
from hiercli.errors import DataError
from hiercli.hierarchy.depth import nearest_proxy
from hiercli.hierarchy.naming import group_name

_LIKE_PROXY = re.compile(r"(class )*p\d+(\.\d+)?", re.DOTALL)


@dataclass(frozen=True)
class Groups:
    """What the tree stands on.

    Attributes:
        names: G of them.
        ids: G, all different.
        points: (G, D) middles.
        radius: (G,) mean hyperbolic distance of their photos from the origin.
        photos: the photos, where they are known.
        said: words that every class has in its name.
        lineages: groups of classes, fine to coarse, where they are known.
    """

    names: list[str]
    ids: list[str]
    points: np.ndarray
    radius: np.ndarray
    photos: "Photos | None" = None
    said: frozenset[str] = frozenset()
    lineages: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Photos:
    """Photos under a tree.

    Attributes:
        members: for each group the positions of its photos.
        lifted: (N, D+1) float32.
        labels: (N,) class of each, where they are known; -1 for a photo without a label.
        paths: N files, where they are known.
        classes: names of the classes, where groups are none.
    """

    members: list[np.ndarray]
    lifted: np.ndarray
    labels: np.ndarray | None
    paths: Sequence[str] | None
    classes: list[str] | None = None


def parts_of(
    collection: Collection,
) -> tuple[np.ndarray, Sequence[str] | None, Sequence[str] | None, np.ndarray, float]:
    """Points, paths, labels (``None`` where they say nothing), proxies and c.

    Raises:
        DataError: there are no proxies, or no curvature.
    """
    if collection.proxies is None or collection.c is None:
        raise DataError("expected hierarchical proxies for a tree, found none")
    labels = collection.labels if len(collection.classes) > 1 else None
    return collection.points, collection.paths, labels, collection.proxies, collection.c


def grouped(
    points: np.ndarray,
    labels: Sequence[str] | None,
    proxies: np.ndarray,
    c: float,
    by_proxy: bool,
) -> tuple[list[str], list[str], list[np.ndarray], np.ndarray]:
    """Names and ids of the groups, the positions of their photos, and the class of each photo.

    A photo without a label has the class -1. It is in a group only where groups are by proxy.
    """
    if not len(proxies):
        raise DataError("expected hierarchical proxies for a tree, found none")
    names = sorted(set(labels or ()) - {""})
    if len(names) < 2:  # one label says nothing
        names = []
    place = {name: number for number, name in enumerate(names)}
    codes = np.array([place.get(name, -1) for name in labels or [""] * len(points)], np.int64)
    if names and not by_proxy:
        return names, leaf_ids(names), _members(codes, len(names)), codes
    alive, which = np.unique(nearest_proxy(points, proxies, c), return_inverse=True)
    members = _members(which, len(alive))
    ids = [f"group {proxy}" for proxy in alive]
    held = [class_counts(codes[own], len(names)) for own in members]
    named = [group_name(names, counts) if counts.any() else own
             for own, counts in zip(ids, held, strict=True)]  # fmt: skip
    return named, ids, members, codes


def _members(which: np.ndarray, count: int) -> list[np.ndarray]:
    """Positions of the photos of each group; those of group -1 are left out."""
    order = np.argsort(which, kind="stable")[np.count_nonzero(which < 0) :]
    return np.split(order, np.cumsum(class_counts(which, count))[:-1])


def class_counts(codes: np.ndarray, count: int) -> np.ndarray:
    """How many photos there are of each class; those without a label are of none."""
    return np.bincount(codes[codes >= 0], minlength=count)


def leaf_ids(names: Sequence[str]) -> list[str]:
    """The names, told apart from the ids of proxies where they look like one."""
    return [f"class {name}" if _LIKE_PROXY.fullmatch(name) else name for name in names]
