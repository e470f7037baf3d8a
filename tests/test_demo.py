"""The generated flora: the tree is real, the files are whole, and chance comes from the seed."""

import csv
import hashlib
import re
import shutil
from collections.abc import Iterator
from dataclasses import fields
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hiercli.data import demo
from hiercli.data.flora import photograph
from hiercli.data.phylogeny import LEVELS, grow
from hiercli.data.traits import Traits, visible_differences
from hiercli.errors import DataError
from hiercli.images import natural_key

NUM_SPECIES, PHOTOS, SIZE = 16, 3, 64


def generate(root: Path, seed: int = 0) -> Path:
    return demo.generate(
        root, seed=seed, num_species=NUM_SPECIES, photos_per_species=PHOTOS, size=SIZE
    )


pytestmark = pytest.mark.xdist_group("demo")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("data")
    generate(root)
    yield root


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_same_seed_same_bytes_other_seed_other_bytes(root: Path, tmp_path: Path) -> None:
    first = digests(root / "demo")
    assert len(first) == NUM_SPECIES * PHOTOS + 3
    assert digests(generate(tmp_path / "same")) == first
    other = digests(generate(tmp_path / "other", seed=1))
    assert set(first.values()).isdisjoint(other.values())


def test_any_photograph_can_be_drawn_alone(root: Path) -> None:
    one = grow(0, NUM_SPECIES).species[5]
    alone = photograph(one.traits, np.random.default_rng((0, 5, 2)), SIZE)
    stored = Image.open(root / "demo" / "photos" / one.class_name / f"{one.class_name}_002.jpg")
    assert stored.size == alone.size == (SIZE, SIZE)
    # JPEG loses some of the noise, so that the pixels agree only on the whole.
    difference = np.asarray(stored, dtype=float) - np.asarray(alone, dtype=float)
    assert np.abs(difference).mean() < 12.0


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_default_flora_has_four_levels_and_unique_names(seed: int) -> None:
    species = grow(seed, 80).species
    assert len(species) == len({one.class_name.lower() for one in species}) == 80
    num_genera, num_families, num_orders = (
        len({getattr(one, level) for one in species}) for level in LEVELS
    )
    assert 4 <= num_orders < num_families < num_genera < 80
    for one in species:
        assert re.fullmatch(r"[A-Z][a-z]+_[a-z]+", one.class_name)
        assert one.class_name.startswith(one.genus + "_")
    for fine, coarse in (("genus", "family"), ("family", "order")):
        nested = {(getattr(one, fine), getattr(one, coarse)) for one in species}
        assert len(nested) == len({name for name, _ in nested}), "a clade has two parents"


@pytest.mark.parametrize("num_species", [8, 9, 16, 33, 130])
def test_any_number_of_species_grows(num_species: int) -> None:
    species = grow(3, num_species).species
    assert [one.index for one in species] == list(range(num_species))
    assert sum(one.split == "train" for one in species) == (num_species + 1) // 2


def test_the_tree_holds_the_class_names_at_equal_depth(root: Path) -> None:
    text = (root / "demo" / "tree.nwk").read_text()
    with open(root / "demo" / "taxonomy.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    names = re.findall(r"[(,]([A-Za-z_]+):", text)
    assert sorted(names, key=natural_key) == [row["class_name"] for row in rows]
    assert [int(row["class_id"]) for row in rows] == list(range(NUM_SPECIES))
    depths = leaf_depths(text)
    assert set(depths) == set(names)
    assert np.allclose(list(depths.values()), 1.0, atol=1e-3)


def leaf_depths(newick: str) -> dict[str, float]:
    """Distance of each leaf from the root, read back to front: a length precedes its node."""
    depths: dict[str, float] = {}
    above, length = [0.0], 0.0
    for token in re.findall(r"[(),;]|:[\d.]+|\w+", newick)[::-1]:
        if token.startswith(":"):
            length = float(token[1:])
        elif token == ")":
            above.append(above[-1] + length)
            length = 0.0
        elif token == "(":
            above.pop()
        elif token not in ",;":
            depths[token] = above[-1] + length
    return depths


def trait_distance(first: Traits, second: Traits) -> float:
    return float(
        np.mean(
            [
                abs(getattr(first, trait.name) - getattr(second, trait.name))
                / (trait.metadata["high"] - trait.metadata["low"])
                for trait in fields(Traits)
            ]
        )
    )


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_relatives_look_alike_and_strangers_do_not(seed: int) -> None:
    groups: dict[str, list[float]] = {"genus": [], "family": [], "order": [], "none": []}
    for first, second in combinations(grow(seed, 80).species, 2):
        shared = next(
            (level for level in LEVELS if getattr(first, level) == getattr(second, level)),
            "none",
        )
        groups[shared].append(trait_distance(first.traits, second.traits))
    means = [float(np.mean(distances)) for distances in groups.values()]
    assert means == sorted(means)
    assert means[-1] > 2.5 * means[0]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_any_two_species_differ_visibly(seed: int) -> None:
    for first, second in combinations(grow(seed, 80).species, 2):
        different = visible_differences(first.traits, second.traits)
        assert len(different) >= 2, (first.class_name, second.class_name, different)


def test_halves_are_disjoint_and_both_hold_every_order() -> None:
    species = grow(0, 80).species
    halves = [[one for one in species if one.split == split] for split in ("train", "test")]
    assert [len(half) for half in halves] == [40, 40]
    for level in ("order", "genus"):
        names = [{getattr(one, level) for one in half} for half in halves]
        assert names[0] == names[1]


def test_load_gives_records_in_natural_order(root: Path) -> None:
    data = demo.load(root)
    assert (data.name, data.gallery, data.recall_at) == ("demo", None, (1, 2, 4, 8))
    assert data.level_names == ("genus", "family", "order")
    assert data.tree is not None and data.tree.endswith(";")
    assert len(data.train) == len(data.query) == NUM_SPECIES * PHOTOS // 2
    for records in (data.train, data.query):
        paths = [str(record.path) for record in records]
        assert paths == sorted(paths, key=natural_key)
    train, query = ({record.label for record in half} for half in (data.train, data.query))
    assert train.isdisjoint(query) and len(train | query) == NUM_SPECIES
    record = data.query[0]
    assert record.path.parent.name == record.label
    assert record.levels[0] == record.label.split("_")[0]
    assert record.levels[1].endswith("aceae") and record.levels[2].endswith("ales")


def test_an_interrupted_generation_is_not_taken_for_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        demo.generate(tmp_path, num_species=8, photos_per_species=2, size=SIZE, progress=stop)
    assert list(tmp_path.iterdir()) == []
    asked = demo.generate
    monkeypatch.setattr(
        demo,
        "generate",
        lambda root, progress: asked(
            root, num_species=8, photos_per_species=2, size=SIZE, progress=progress
        ),
    )
    calls: list[tuple[int, int]] = []
    data = demo.load(tmp_path, progress=lambda done, total: calls.append((done, total)))
    assert len(data.train) + len(data.query) == 16
    assert calls == [(done, 16) for done in range(1, 17)]
    demo.load(tmp_path, progress=lambda done, total: pytest.fail("drew a complete set again"))
    data.query[0].path.unlink()
    assert len(demo.load(tmp_path).query) == len(data.query)
    (tmp_path / "demo" / "flora.json").write_text(
        (tmp_path / "demo" / "flora.json").read_text().replace('"version": ', '"version": 9')
    )
    calls.clear()
    demo.load(tmp_path, progress=lambda done, total: calls.append((done, total)))
    assert len(calls) == 16
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]


def test_another_demo_is_not_replaced(tmp_path: Path) -> None:
    numbers = {"num_species": 8, "photos_per_species": 2, "size": 32}
    folder = demo.generate(tmp_path, **numbers)
    before = digests(folder)
    with pytest.raises(DataError, match=r"another demo \(8 species, 2 photos of each, seed 0\)"):
        demo.generate(tmp_path, **numbers | {"num_species": 9})
    assert digests(folder) == before
    (folder / "tree.nwk").unlink()  # incomplete, so it would be drawn again
    (folder / "photos" / "mine").mkdir()
    (folder / "photos" / "mine" / "holiday.jpg").write_bytes(b"mine")
    with pytest.raises(DataError, match=r"found photos/mine/holiday\.jpg"):
        demo.generate(tmp_path, **numbers)
    assert (folder / "photos" / "mine" / "holiday.jpg").read_bytes() == b"mine"
    shutil.rmtree(folder / "photos" / "mine")
    demo.generate(tmp_path, **numbers)
    assert digests(folder) == before


def test_a_foreign_folder_is_refused_and_left_alone(tmp_path: Path) -> None:
    mine = tmp_path / "demo" / "holiday.jpg"
    mine.parent.mkdir()
    mine.write_bytes(b"mine")
    with pytest.raises(DataError, match=r"expected .* but it is .* Move it away"):
        demo.load(tmp_path)
    assert mine.read_bytes() == b"mine"
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]


def test_numbers_too_small_and_places_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="num_species of at least 8, got 3"):
        demo.generate(tmp_path, num_species=3)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write the demo data set"):
        demo.generate(tmp_path / "file" / "below")
