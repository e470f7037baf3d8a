"""Grow a random tree of species: traits that change along its branches, names, Newick text.

From one ancestor through orders, families and genera to species; related plants look alike
because they inherited their traits. Nothing is drawn here.
"""

from dataclasses import dataclass, fields
from itertools import chain, combinations, product

import numpy as np

from hiercli.data.traits import Array, Traits, visible_differences, visible_steps

LEVELS = ("genus", "family", "order")

# Height above the species at which orders, families, genera and species part.
_HEIGHTS = (1.0, 0.6, 0.4, 0.22)
# Species that an order, a family and a genus hold on average.
_CLADE_SIZES = (16, 8, 4)
# Standard deviation, in the unit cube, of the change along a branch that leads to a family, a
# genus, a species. Conserved traits settle early, the others go on changing.
_CONSERVED_DRIFT = (0.16, 0.05, 0.0)
_FREE_DRIFT = (0.20, 0.12, 0.01)
# Traits in which two sister species are pushed apart by a visible step.
_SISTER_DIFFERENCES = 3


@dataclass(frozen=True)
class Species:
    """One class of the data set.

    Attributes:
        index: place among the leaves of the tree, from 0; seeds the photographs.
        class_name: ``Genus_species``, the spelling of folders, labels and the tree.
        genus, family, order: names of the levels above.
        traits: what it looks like.
        split: ``train`` or ``test``.
    """

    index: int
    class_name: str
    genus: str
    family: str
    order: str
    traits: Traits
    split: str


@dataclass(frozen=True)
class Flora:
    """All species, in the order of the tree's leaves, and that tree as Newick text."""

    species: tuple[Species, ...]
    newick: str


@dataclass(frozen=True)
class _Node:
    """A node of the tree: its height above the species, its children or else its leaf number."""

    height: float
    children: tuple["_Node", ...] = ()
    leaf: int = -1


@dataclass(frozen=True)
class _Leaf:
    """A species before it has a name.

    Attributes:
        unit: its traits as a point of the unit cube (T,).
        clade: order, its family within that, its genus within that; each counted from 0.
    """

    unit: Array
    clade: tuple[int, int, int]


def grow(seed: int, num_species: int) -> Flora:
    """Grow the tree with its traits and names; draws nothing.

    The orders divide the whole range of every trait among them; change is smaller along each
    branch from there to the species. Each time a species parts in two, the halves are pushed
    apart in three traits by a step that the eye sees at once.

    Args:
        seed: which flora.
        num_species: leaves of the tree, at least 8.
    """
    generator = np.random.default_rng((seed, num_species))
    leaves: list[_Leaf] = []
    sizes = _partition(num_species, max(2, round(num_species / _CLADE_SIZES[0])), generator)
    founders = _founders(len(sizes), generator)
    orders = [
        _radiate(unit, size, (number,), leaves, generator)
        for number, (unit, size) in enumerate(zip(founders, sizes, strict=True))
    ]
    tree = _Node(_HEIGHTS[0], tuple(orders))
    names = _names([leaf.clade for leaf in leaves], generator)
    splits = _splits([leaf.clade for leaf in leaves], generator)
    species = tuple(
        Species(index, f"{name[1]}_{name[0]}", *name[1:], Traits.from_unit(leaf.unit), split)
        for index, (leaf, name, split) in enumerate(zip(leaves, names, splits, strict=True))
    )
    return Flora(species, _newick(tree, [one.class_name for one in species]) + ";")


def _founders(num: int, generator: np.random.Generator) -> Array:
    """First plant of each order (num, T) in the unit cube: one in each of ``num`` equal slices of
    every trait, so that orders look apart whatever the seed."""
    slices = np.stack([generator.permutation(num) for _ in fields(Traits)], axis=1)
    return np.asarray((slices + generator.uniform(0.2, 0.8, slices.shape)) / num)


def _radiate(
    unit: Array,
    num_species: int,
    clade: tuple[int, ...],
    leaves: list[_Leaf],
    generator: np.random.Generator,
) -> _Node:
    """Let an ancestor give rise to clades one level down, appending their species to ``leaves``."""
    level = len(clade)
    parts = max(1, round(num_species / _CLADE_SIZES[level]))
    children = []
    for number, size in enumerate(_partition(num_species, parts, generator)):
        if level == len(LEVELS) - 1:
            child = _genus(unit, size, (*clade, number), leaves, generator)
        else:
            moved = _drift(unit, level - 1, generator)
            child = _radiate(moved, size, (*clade, number), leaves, generator)
        children.append(child)
    return _Node(_HEIGHTS[level], tuple(children))


def _genus(
    unit: Array,
    num_species: int,
    clade: tuple[int, ...],
    leaves: list[_Leaf],
    generator: np.random.Generator,
) -> _Node:
    """Grow a genus whose species can be told from each other and from all that came before."""
    start = len(leaves)
    earlier = [Traits.from_unit(leaf.unit) for leaf in leaves]
    for _ in range(100):
        del leaves[start:]
        moved = _drift(unit, len(LEVELS) - 2, generator)
        node = _speciate(moved, num_species, _HEIGHTS[-1], clade, leaves, generator)
        species = [Traits.from_unit(leaf.unit) for leaf in leaves[start:]]
        pairs = chain(combinations(species, 2), product(species, earlier))
        if all(len(visible_differences(*pair)) >= 2 for pair in pairs):
            break
    return node


def _speciate(
    unit: Array,
    num_species: int,
    height: float,
    clade: tuple[int, ...],
    leaves: list[_Leaf],
    generator: np.random.Generator,
) -> _Node:
    """Split a genus in two again and again until it has ``num_species``."""
    if num_species == 1:
        order, family, genus = clade
        leaves.append(_Leaf(unit, (order, family, genus)))
        return _Node(0.0, leaf=len(leaves) - 1)
    first = int(generator.integers(1, num_species))
    lower = height * generator.uniform(0.5, 0.8)
    children = [
        _speciate(_drift(half, len(LEVELS) - 1, generator), size, lower, clade, leaves, generator)
        for half, size in zip(_part(unit, generator), (first, num_species - first), strict=True)
    ]
    return _Node(height, tuple(children))


def _drift(unit: Array, level: int, generator: np.random.Generator) -> Array:
    """Random change along a branch into a family (``level`` 0), a genus (1) or a species (2),
    reflected at the walls of the unit cube."""
    conserved = np.array([trait.metadata["conserved"] for trait in fields(Traits)])
    spread = np.where(conserved, _CONSERVED_DRIFT[level], _FREE_DRIFT[level])
    moved = np.abs(unit + spread * generator.standard_normal(len(unit))) % 2.0
    return np.asarray(np.where(moved > 1.0, 2.0 - moved, moved))


def _part(unit: Array, generator: np.random.Generator) -> tuple[Array, Array]:
    """Two daughters of one ancestor, visibly different in a few traits, alike in the rest."""
    steps = visible_steps()
    candidates = np.flatnonzero(np.isfinite(steps))
    best = (unit, unit)
    for _ in range(50):
        chosen = generator.choice(candidates, _SISTER_DIFFERENCES, replace=False)
        half = np.zeros(len(unit))
        half[chosen] = 0.5 * steps[chosen] * generator.uniform(1.05, 1.4, len(chosen))
        middle = np.clip(unit, np.abs(half), 1.0 - np.abs(half))
        half *= generator.choice([-1.0, 1.0], len(unit))
        pair = (middle + half, middle - half)
        if len(visible_differences(*map(Traits.from_unit, pair))) >= _SISTER_DIFFERENCES:
            return pair
        best = pair
    return best


def _partition(total: int, parts: int, generator: np.random.Generator) -> list[int]:
    """Split ``total`` into ``parts`` uneven sizes that sum to it, each 2 or more if that fits."""
    least = 2 if total >= 2 * parts else 1
    spare = total - least * parts
    shares = generator.dirichlet(np.full(parts, 6.0))
    cuts = np.rint(np.cumsum(shares) * spare).astype(int)
    sizes: list[int] = (np.diff(cuts, prepend=0) + least).tolist()
    return sizes


def _splits(clades: list[tuple[int, int, int]], generator: np.random.Generator) -> list[str]:
    """``train`` or ``test`` for each leaf: halves of every genus, so both hold every order."""
    noise = generator.random(len(clades))
    splits = [""] * len(clades)
    shuffled = sorted(range(len(clades)), key=lambda index: (clades[index], noise[index]))
    for rank, index in enumerate(shuffled):
        splits[index] = "test" if rank % 2 else "train"
    return splits


def _newick(node: _Node, names: list[str]) -> str:
    """Newick text below ``node``, with branch lengths; only leaves carry names."""
    if node.leaf >= 0:
        return names[node.leaf]
    inside = ",".join(
        f"{_newick(child, names)}:{node.height - child.height:.4f}" for child in node.children
    )
    return f"({inside})"


# ------------------------------------------------------------------------------------------ names

# fmt: off
_STARTS = (
    "al", "bel", "bras", "cal", "cel", "cor", "dor", "dra", "el", "fen", "fri", "gal", "gren",
    "hel", "is", "jun", "lam", "lin", "lys", "mal", "mir", "mor", "nar", "nem", "ol", "per",
    "phal", "quer", "rhod", "ros", "sal", "styr", "tal", "thal", "ul", "vel", "ver", "vin", "xan",
    "yl", "zin",
)
_MIDDLES = (
    "an", "anth", "ar", "el", "en", "er", "il", "in", "ind", "ol", "on", "oph", "or", "ost", "ul",
    "ur",
)
_GENUS_ENDINGS = (
    "ia", "ella", "ina", "aria", "era", "issa", "ora", "illa",
)
_EPITHET_ENDINGS = (
    "ensis", "iana", "oides", "escens", "ata", "ina", "osa", "ifera",
)
# fmt: on


def _names(
    clades: list[tuple[int, int, int]], generator: np.random.Generator
) -> list[tuple[str, str, str, str]]:
    """(epithet, genus, family, order) of each leaf; families and orders after their first genus.

    Stems of genera are unique, so that their families and orders are too, and class names with
    them; an epithet may come again in another genus.
    """

    def new(taken: set[str]) -> str:
        word = ""
        # One middle more for each turn, so that there are always names left.
        for more in range(1, len(clades) + 3):
            parts = [generator.choice(_STARTS), *generator.choice(_MIDDLES, (more + 1) // 2)]
            word = "".join(parts)
            if word not in taken:
                break
        taken.add(word)
        return word

    stems: dict[tuple[int, ...], str] = {}
    genera: dict[tuple[int, ...], str] = {}
    used: dict[tuple[int, ...], set[str]] = {(): set()}
    names = []
    for clade in clades:
        if clade not in genera:
            stem = new(used[()])
            genera[clade] = (stem + str(generator.choice(_GENUS_ENDINGS))).capitalize()
            stems.setdefault(clade[:1], stem.capitalize())
            stems.setdefault(clade[:2], stem.capitalize())
        epithet = new(used.setdefault(clade, set())) + str(generator.choice(_EPITHET_ENDINGS))
        family, order = f"{stems[clade[:2]]}aceae", f"{stems[clade[:1]]}ales"
        names.append((epithet, genera[clade], family, order))
    return names
