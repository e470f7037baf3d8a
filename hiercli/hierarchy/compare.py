"""Two trees over the same leaves: how far apart they are, and what moved, split or merged."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hiercli.errors import InputError
from hiercli.hierarchy.node import Node
from hiercli.labels import as_label

_SAME = 0.5
"""Share of relatives that a leaf keeps if it has not moved."""
_MOST_LEAVES = 4000
"""Their square is compared."""
_COVERED = 0.8
"""Share of a branch that its parts in the other tree must hold if it is to count as split."""


@dataclass(frozen=True)
class Move:
    """A leaf that has other relatives now.

    Attributes:
        leaf: its name.
        before, after: names of the branches that it hangs on.
        distance: 1 - Spearman correlation of how near it is to all other leaves in the two trees;
            0 for no change, 1 for no relation.
    """

    leaf: str
    before: str
    after: str
    distance: float


@dataclass(frozen=True)
class Split:
    """A branch of one tree whose leaves lie in several branches of the other.

    Attributes:
        name: of the branch.
        size: leaves.
        parts: names of the branches that hold them there.
    """

    name: str
    size: int
    parts: tuple[str, ...]


@dataclass(frozen=True)
class Difference:
    """What sets two trees apart.

    Attributes:
        distance: of Robinson and Foulds, "Comparison of phylogenetic trees" (1981), for rooted
            trees: branches that only one of them has, over all branches; 0 the same, 1 nothing in
            common.
        correlation: Spearman, over pairs of leaves, of how near their common ancestors are.
        num_leaves: leaves that both have; others are in ``only_first`` and ``only_second``.
        moves: the largest first.
        splits: branches of the first tree that the second parts.
        merges: branches of the second tree that the first parts.
    """

    distance: float
    correlation: float
    num_leaves: int
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    moves: tuple[Move, ...]
    splits: tuple[Split, ...]
    merges: tuple[Split, ...]


@dataclass(frozen=True)
class _Clades:
    """The branches of a tree as sets of the leaves that both trees have.

    Attributes:
        members: for each inner node with two such leaves or more a (C,) bool row, root first.
        names: of these nodes.
        lowest: (C,) row of the lowest one that holds each leaf.
        steps: (C, C) how many nodes hold both leaves: more for nearer relatives.
    """

    members: np.ndarray
    names: list[str]
    lowest: np.ndarray
    steps: np.ndarray


def compare(first: Node, second: Node) -> Difference:
    """Compare two trees by the names of their leaves.

    Blanks and underscores are the same: Newick files do not keep them apart.

    Raises:
        InputError: they share fewer than three leaves, or a name stands at several of them.
    """
    leaves = [_by_name(tree) for tree in (first, second)]
    shared = sorted(leaves[0].keys() & leaves[1].keys())
    if len(shared) > _MOST_LEAVES:
        raise InputError(
            f"expected at most {_MOST_LEAVES:,} leaves that both trees have, found "
            f"{len(shared):,}. Compare parts of the trees"
        )
    if len(shared) < 3:
        some = ["; ".join(list(own.values())[:3]) for own in leaves]
        raise InputError(
            f"expected at least three leaves that both trees have, found {len(shared)}: the first "
            f"has {some[0]} ..., the second {some[1]} ..."
        )
    only = [tuple(sorted(own[key] for key in own.keys() - set(shared))) for own in leaves]
    a, b = (_clades(tree, shared) for tree in (first, second))
    distinct = [{row.tobytes() for row in clades.members if not row.all()} for clades in (a, b)]
    total = len(distinct[0]) + len(distinct[1])
    upper = np.triu_indices(len(shared), 1)
    names = [leaves[0][key] for key in shared]
    return Difference(
        distance=len(distinct[0] ^ distinct[1]) / total if total else 0.0,
        correlation=_correlation(a.steps[upper], b.steps[upper]),
        num_leaves=len(shared),
        only_first=only[0],
        only_second=only[1],
        moves=_moves(a, b, names),
        splits=_splits(a, b),
        merges=_splits(b, a),
    )


def leaf_key(name: str) -> str:
    """What two trees must agree on for two leaves to be the same."""
    return " ".join(part for part in re.split("[_ \t\r\n]+", as_label(name)) if part)


def _by_name(root: Node) -> dict[str, str]:
    found: dict[str, str] = {}
    for leaf in root.leaves:
        key = leaf_key(leaf.name)
        if key in found:
            raise InputError(
                f"expected leaves with different names, but {found[key]!r} and {leaf.name!r} "
                "differ only in spaces. Compare trees over classes"
            )
        found[key] = leaf.name
    return found


def _clades(root: Node, shared: Sequence[str]) -> _Clades:
    place = {key: number for number, key in enumerate(shared)}
    rows: dict[int, np.ndarray] = {}
    every = list(root.walk())
    for node in reversed(every):
        row = np.zeros(len(shared), bool)
        if not node.children:
            number = place.get(leaf_key(node.name))
            if number is not None:
                row[number] = True
        for child in node.children:
            row |= rows[id(child)]
        rows[id(node)] = row
    inner = [node for node in every if node.children and rows[id(node)].sum() > 1]
    # A node whose branches are but one, once other leaves are left out, is the one below it.
    kept = [
        node for node in inner
        if not any((rows[id(child)] == rows[id(node)]).all() for child in node.children)
    ]  # fmt: skip
    members = np.stack([rows[id(node)] for node in kept])
    lowest = np.zeros(len(shared), int)
    for number, row in enumerate(members):  # parents first
        lowest[row] = number
    counted = members.astype(np.float32)
    return _Clades(members, [node.name for node in kept], lowest, counted.T @ counted)


def _moves(a: _Clades, b: _Clades, names: list[str]) -> tuple[Move, ...]:
    found = []
    for leaf, name in enumerate(names):
        before, after = a.members[a.lowest[leaf]].copy(), b.members[b.lowest[leaf]].copy()
        before[leaf] = after[leaf] = False
        others = np.arange(len(names)) != leaf
        kept = (before & after).sum() / (before | after).sum()
        # One that has gained or lost far kin has not moved: its nearest must be others.
        if kept >= _SAME or (before & ~after).sum() == 0 or (after & ~before).sum() == 0:
            continue
        change = 1 - _correlation(a.steps[leaf, others], b.steps[leaf, others])
        found.append(Move(name, a.names[a.lowest[leaf]], b.names[b.lowest[leaf]], change))
    return tuple(sorted(found, key=lambda move: (-move.distance, move.leaf)))


def _splits(a: _Clades, b: _Clades) -> tuple[Split, ...]:
    found = []
    sizes = b.members.sum(axis=1)
    for row, name in zip(a.members, a.names, strict=True):
        size = int(row.sum())
        if size < 4 or row.all() or (b.members == row).all(axis=1).any():
            continue
        inside = (b.members & ~row).sum(axis=1) == 0
        parts: list[int] = []
        covered = np.zeros(len(row), bool)
        for number in np.flatnonzero(inside):  # parents first, so the largest of a line
            if not (b.members[number] & covered).any():
                parts.append(int(number))
                covered |= b.members[number]
        holds = (b.members & row).sum(axis=1) == size
        smallest = sizes[holds].min()
        if len(parts) > 1 and covered.sum() >= _COVERED * size and smallest > 1.5 * size:
            found.append(Split(name, size, tuple(b.names[number] for number in parts)))
    return tuple(found)


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    from scipy.stats import spearmanr

    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return 1.0 if np.ptp(first) == np.ptp(second) else 0.0
    return float(spearmanr(first, second).statistic)
