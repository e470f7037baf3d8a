"""The data set ``demo``: a made-up flora, grown along a random tree and photographed in code.

Nothing is downloaded. `grow` lets the traits of the plants evolve from one ancestor through
orders, families and genera to species, and `generate` photographs each species
(`hiercli.data.flora`). The tree is therefore known, and it can be seen in the pictures. Half of
the species of each genus are there to train on; the other half are only ever searched for.

::

    demo/photos/<Genus_species>/<Genus_species>_007.jpg
    demo/taxonomy.csv    class_id,class_name,species,genus,family,order,split
    demo/tree.nwk        the true tree; its leaves are the class names
    demo/flora.json      what was generated; written last, so that its presence means complete
"""

import csv
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, fields
from itertools import chain, combinations, product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hiercli.data.flora import Traits, photograph
from hiercli.data.records import Dataset, Record
from hiercli.errors import DataError
from hiercli.files import write_text
from hiercli.images import natural_key

Array = NDArray[np.float64]
Progress = Callable[[int, int], None]

# Raised whenever the same seed would give other pictures: older folders are then replaced.
VERSION = 1
GENERATOR = "hiercli demo flora"
LEVELS = ("genus", "family", "order")
JPEG_QUALITY = 88

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


def load(root: Path, progress: Progress | None = None) -> Dataset:
    """Read ``root/demo``, generating it first where it is missing or incomplete.

    Args:
        root: folder that holds the data sets.
        progress: called with (photographs done, photographs in all) while they are drawn.

    Returns:
        the data set under its protocol: unseen species, each photograph searched for among all
        the others. Records are in natural order of their paths.

    Raises:
        DataError: the folder is not ours, or cannot be written.
    """
    folder = Path(root) / "demo"
    if not _is_complete(folder):
        generate(root, progress=progress)
    splits: dict[str, list[Record]] = {"train": [], "test": []}
    for row in _read_taxonomy(folder):
        taxonomy = tuple(row[level] for level in LEVELS)
        for path in (folder / "photos" / row["class_name"]).glob("*.jpg"):
            splits[row["split"]].append(Record(path, row["class_name"], taxonomy))
    train, test = (
        tuple(sorted(records, key=lambda record: natural_key(str(record.path))))
        for records in splits.values()
    )
    tree = (folder / "tree.nwk").read_text(encoding="utf-8").strip()
    return Dataset(name="demo", train=train, query=test, levels=LEVELS, tree=tree)


def generate(
    root: Path,
    *,
    seed: int = 0,
    num_species: int = 80,
    photos_per_species: int = 24,
    size: int = 160,
    progress: Progress | None = None,
) -> Path:
    """Make the data set, or leave it as it is where the same one already stands there.

    The work is done in a hidden folder beside it, renamed when everything is there: a killed run
    leaves what stood there before, or nothing.

    Args:
        root: folder that holds the data sets; made if missing.
        seed: which flora; the same numbers give the same bytes.
        num_species: classes, at least 8; from 64 on they fall into four orders or more.
        photos_per_species: at least 2, so that each has another to be found by.
        size: side of a photograph in pixels, at least 32.
        progress: called with (photographs done, photographs in all) after each one.

    Returns:
        the folder ``root/demo``, complete.

    Raises:
        DataError: a number is too small, something foreign lies there, or it cannot be written.
    """
    for name, value, least in (
        ("seed", seed, 0),
        ("num_species", num_species, 8),
        ("photos_per_species", photos_per_species, 2),
        ("size", size, 32),
    ):
        if value < least:
            raise DataError(
                f"expected {name} of at least {least}, got {value}: choose a larger one"
            )
    folder = Path(root) / "demo"
    made: dict[str, str | int] = {
        "generator": GENERATOR,
        "version": VERSION,
        "seed": seed,
        "num_species": num_species,
        "photos_per_species": photos_per_species,
        "size": size,
    }
    try:
        _refuse_foreign(folder)
        if _read_made(folder) == made and _is_complete(folder):
            return folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(folder.parent)
        draft = Path(tempfile.mkdtemp(prefix=".demo-draft-", dir=folder.parent))
        try:
            flora = grow(seed, num_species)
            _write_photographs(draft, flora, seed, photos_per_species, size, progress)
            _write_taxonomy(draft / "taxonomy.csv", flora)
            write_text(draft / "tree.nwk", flora.newick + "\n")
            write_text(draft / "flora.json", json.dumps(made, indent=2) + "\n")
            draft.chmod(0o755)
            _put_in_place(draft, folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    except OSError as error:
        if _read_made(folder) == made and _is_complete(folder):
            return folder  # another run made the same set in the meantime
        raise DataError(
            f"expected to be able to write the demo data set to {folder}, but: "
            f"{error.strerror or error}. Free some space or choose another folder for data sets"
        ) from error
    return folder


# --------------------------------------------------------------------------------- growing a tree


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
    steps = _steps()
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


def _steps() -> Array:
    """Visible step of each trait in the unit cube (T,); infinite where sisters never differ."""
    return np.array(
        [
            trait.metadata["step"] / (trait.metadata["high"] - trait.metadata["low"])
            if trait.metadata["step"]
            else np.inf
            for trait in fields(Traits)
        ]
    )


def visible_differences(first: Traits, second: Traits) -> list[str]:
    """Names of the traits in which two species differ by a visible step.

    What the eye cannot tell does not count: a trait that starts below zero is absent there, one
    petal more is not seen among many, and a petal that is nearly white has no hue.
    """
    found = []
    for trait in fields(Traits):
        step = trait.metadata["step"]
        one, other = getattr(first, trait.name), getattr(second, trait.name)
        if trait.metadata["low"] < 0.0 and trait.name not in ("petal_tip", "tip_fade"):
            one, other = max(one, 0.0), max(other, 0.0)
        if trait.name == "petal_count":
            one, other = round(one), round(other)
            if max(one, other) > 8:
                continue
        if trait.name == "petal_hue" and min(first.petal_saturation, second.petal_saturation) < 0.3:
            continue
        if step and abs(one - other) >= step:
            found.append(trait.name)
    return found


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


# ------------------------------------------------------------------------------------------ files


def _write_photographs(
    draft: Path,
    flora: Flora,
    seed: int,
    photos_per_species: int,
    size: int,
    progress: Progress | None,
) -> None:
    """Each photograph from a generator of its own, so that any of them can be drawn alone."""
    total = len(flora.species) * photos_per_species
    for one in flora.species:
        folder = draft / "photos" / one.class_name
        folder.mkdir(parents=True)
        for number in range(photos_per_species):
            generator = np.random.default_rng((seed, one.index, number))
            picture = photograph(one.traits, generator, size)
            picture.save(folder / f"{one.class_name}_{number:03d}.jpg", quality=JPEG_QUALITY)
            if progress is not None:
                progress(one.index * photos_per_species + number + 1, total)


def _write_taxonomy(path: Path, flora: Flora) -> None:
    """One row per class; ``class_id`` is the place of its name in natural order."""
    columns = ("class_id", "class_name", "species", "genus", "family", "order", "split")
    ordered = sorted(flora.species, key=lambda one: natural_key(one.class_name))
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        for class_id, one in enumerate(ordered):
            species = one.class_name.replace("_", " ")
            row = (class_id, one.class_name, species, one.genus, one.family, one.order, one.split)
            writer.writerow(row)


def _read_taxonomy(folder: Path) -> list[dict[str, str]]:
    with open(folder / "taxonomy.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _read_made(folder: Path) -> dict[str, object] | None:
    """What ``flora.json`` says was generated; nothing where it is missing or not ours."""
    try:
        made = json.loads((folder / "flora.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return made if isinstance(made, dict) and made.get("generator") == GENERATOR else None


def _is_complete(folder: Path) -> bool:
    """Whether the folder holds all that its ``flora.json``, of this version, says."""
    made = _read_made(folder)
    if made is None or made.get("version") != VERSION or not (folder / "tree.nwk").is_file():
        return False
    try:
        folders = [folder / "photos" / row["class_name"] for row in _read_taxonomy(folder)]
    except (OSError, ValueError, KeyError, csv.Error):
        return False
    expected = made.get("photos_per_species")
    return len(folders) == made.get("num_species") and all(
        sum(1 for _ in photos.glob("*.jpg")) == expected for photos in folders
    )


def _refuse_foreign(folder: Path) -> None:
    """Stop before something that is not ours would be replaced."""
    if not folder.exists() and not folder.is_symlink():
        return
    if folder.is_dir() and (_read_made(folder) is not None or not any(folder.iterdir())):
        return
    what = "a folder with other contents" if folder.is_dir() else "not a folder"
    raise DataError(
        f"expected {folder} to be missing, empty or a generated demo data set (with its "
        f"flora.json), but it is {what}. Move it away, or choose another folder for data sets"
    )


def _put_in_place(draft: Path, folder: Path) -> None:
    """Rename ``draft`` to ``folder``, setting aside and then removing what stood there."""
    if folder.exists():
        aside = Path(tempfile.mkdtemp(prefix=".demo-draft-", dir=folder.parent))
        folder.rename(aside / "demo")
        draft.rename(folder)
        shutil.rmtree(aside, ignore_errors=True)
    else:
        draft.rename(folder)


def _remove_abandoned(root: Path) -> None:
    """Remove what killed runs left, once it has lain untouched for an hour."""
    for draft in root.glob(".demo-draft-*"):
        with suppress(FileNotFoundError):  # its own run may be renaming it just now
            newest = max(path.stat().st_mtime for path in (draft, *draft.glob("photos")))
            if time.time() - newest > 3600.0:
                shutil.rmtree(draft, ignore_errors=True)
