"""What users hold in their hands: names of the package, their docstrings, their examples."""

import doctest
import importlib
import inspect
import shutil
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import tiny_pair
from PIL import Image

import hiercli
from hiercli import Collection, Encoder, HierError, Index, InputError, MismatchError, Tree

MODULES = sorted(
    str(path.relative_to(Path(hiercli.__file__).parent.parent).with_suffix("")).replace("/", ".")
    for path in Path(hiercli.__file__).parent.glob("**/*.py")
    if ">>> " in path.read_text()
)


@pytest.fixture(scope="module")
def workplace(
    photos: Path,
    trained: Path,
    exported: Path,
    index: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A folder with what examples name: photos/, best.pt, birds.onnx, idx.faiss, clip/."""
    place = tmp_path_factory.mktemp("examples")
    shutil.copytree(photos, place / "photos")
    shutil.copy(trained / "best.pt", place)
    shutil.copy(exported, place / "birds.onnx")
    for file in tiny_pair.write(place / "clip"):
        shutil.copy(file, place / "clip")
    return place


@pytest.mark.parametrize("module", MODULES)
def test_examples_in_docstrings_run(
    module: str, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workplace)
    found = doctest.testmod(importlib.import_module(module.removesuffix(".__init__")))
    assert found.attempted > 0
    assert found.failed == 0


@pytest.mark.parametrize("name", hiercli.__all__)
def test_every_public_name_is_explained_by_an_example(name: str) -> None:
    thing = getattr(hiercli, name)
    assert inspect.getdoc(thing), name
    if isinstance(thing, type) and issubclass(thing, HierError):
        return  # drawn as one tree, with exit codes, in hiercli.errors
    assert ">>> " in str(thing.__doc__), name
    assert isinstance(thing, type | types.ModuleType | types.FunctionType)


def test_importing_the_package_loads_nothing_else() -> None:
    ask = "import sys, hiercli; print(*sorted(m.split('.')[0] for m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    assert not {"numpy", "torch", "faiss", "onnxruntime", "PIL", "typer"} & set(done.stdout.split())


def test_packages_offer_their_main_names() -> None:
    for package, name in (
        ("encoder", "Encoder"), ("encoder", "PairEncoder"), ("hierarchy", "Tree"),
        ("index", "Index"), ("losses", "HierLoss"), ("nn", "ToPoincare"),
    ):  # fmt: skip
        offered = getattr(importlib.import_module(f"hiercli.{package}"), name)
        assert offered is getattr(hiercli, name)
    with pytest.raises(AttributeError):
        hiercli.Encode  # noqa: B018


# -- Encoder ---------------------------------------------------------------------------------------


def test_an_image_embeds_alike_as_path_pillow_image_and_array(photos: Path, exported: Path) -> None:
    encoder = Encoder(exported)
    file = next(photos.glob("*/*.jpg"))
    image = Image.open(file)
    by_path = encoder.embed(file)
    assert by_path.labels == [file.parent.name]
    assert by_path.fingerprint == encoder.fingerprint and by_path.c == encoder.c
    for same in (image, np.asarray(image), [str(file)]):
        assert np.array_equal(encoder.embed(same).points, by_path.points)
    assert encoder.embed([file, photos]).points.shape == (48, encoder.embedding_dim)


def test_many_images_embed_as_one_and_without_the_encoders_file(
    photos: Path, exported: Path, tmp_path: Path
) -> None:
    """Each core has a session of its own, made of the file while it is there."""
    own = tmp_path / "own.onnx"
    shutil.copy(exported, own)
    files = sorted(photos.rglob("*.jpg"))[:11]
    one, many = Encoder(own, device="cpu"), Encoder(own, device="cpu")
    alone = np.concatenate([one.embed(file).points for file in files])
    np.testing.assert_allclose(many.embed(files).points, alone, atol=1e-6)
    late = Encoder(own, device="cpu")
    own.unlink()
    np.testing.assert_allclose(late.embed(files).points, alone, atol=1e-6)


@pytest.mark.parametrize(
    "shape, dtype",
    [((8, 8, 3), np.float32), ((8,), np.uint8), ((8, 8, 2), np.uint8), ((0, 8, 3), np.uint8)],
)
def test_what_is_no_image_is_refused(exported: Path, shape: tuple[int, ...], dtype: type) -> None:
    with pytest.raises(InputError, match="expected an image"):
        Encoder(exported).embed(np.zeros(shape, dtype))


def test_no_images_are_no_collection(exported: Path) -> None:
    with pytest.raises(InputError, match="got none"):
        Encoder(exported).embed([])


def test_an_unreadable_image_raises_or_is_told_of(
    exported: Path, photos: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no image")
    encoder, good = Encoder(exported), next(photos.glob("*/*.jpg"))
    with pytest.raises(InputError, match=r"bad\.jpg"):
        encoder.embed([good, bad])
    told: list[str] = []
    assert len(encoder.embed([good, bad], skipped=told.append)) == 1
    assert "bad.jpg" in told[0]


# -- Collection ------------------------------------------------------------------------------------


@pytest.mark.parametrize("points", [
    np.zeros((2, 3), np.float16), np.zeros((2, 3), int), np.zeros(3, np.float32),
    np.full((2, 3), np.nan, np.float32), np.full((2, 3), 9.0, np.float32),
])  # fmt: skip
def test_points_that_are_no_points_are_refused(points: np.ndarray) -> None:
    with pytest.raises(InputError):
        Collection(points=points, c=0.1)


@pytest.mark.parametrize("parts", [
    {"labels": ["a"]}, {"labels": ["a", None]}, {"labels": np.array([0.5, 1.0])}, {"c": 0.0},
    {"c": float("nan")}, {"paths": ["a"]}, {"levels": [("x",), ("x", "y")]},
    {"levels": [("x",), ("y",)], "level_names": ("genus", "family")},
    {"proxies": np.zeros((2, 5), np.float32)},
])  # fmt: skip
def test_parts_that_do_not_fit_are_refused(parts: dict[str, object]) -> None:
    with pytest.raises(InputError):
        Collection(**{"points": np.zeros((2, 3), np.float32), "c": 0.1, **parts})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["v.npy", "v.parquet"])
def test_a_collection_is_read_as_it_was_written(name: str, tmp_path: Path) -> None:
    birds = Collection(
        points=np.random.default_rng(0).normal(0, 0.1, (3, 4)),
        paths=["a/1.jpg", "a/2.jpg", "3.jpg"],
        labels=["wren", "jay", "Caf\u00e9"], levels=[("T", "P"), ("G", "P"), ("", "")],
        level_names=("genus", "order"), c=0.1, fingerprint="f",
    )  # fmt: skip
    birds.write(tmp_path / name)
    again = Collection.read(tmp_path / name)
    assert np.array_equal(again.points, birds.points)
    for part in ("paths", "labels", "levels", "level_names", "c", "fingerprint"):
        assert getattr(again, part) == getattr(birds, part), part
    assert again.lineages == {"wren": ("T", "P"), "jay": ("G", "P")}


# -- Index -----------------------------------------------------------------------------------------


def test_an_index_that_is_new_or_there_is_brought_up_to_date(
    photos: Path, exported: Path, tmp_path: Path
) -> None:
    encoder = Encoder(exported)
    with Index(tmp_path / "idx.faiss") as index:
        done = index.update([photos], encoder)
        assert (done.added, len(index)) == (48, 48)
        assert index.update([photos]).unchanged == 48
        file = photos / "kind3" / "photo2.jpg"
        hits = index.search(file, k=4)
        assert (hits[0].path, hits[0].label, hits[0].distance) == (str(file.resolve()), "kind3", 0)
        assert index.search(Image.open(file), k=4) == hits
        assert index.search(encoder.embed(file).points[0], k=4) == hits
        both = index.search([file, photos / "kind0" / "photo0.jpg"], k=1)
        assert [[hit.label for hit in own] for own in both] == [["kind3"], ["kind0"]]
        assert index.search(encoder.embed([file]), k=4) == [hits]
        assert index.search([], k=4) == []


@pytest.mark.parametrize("query, error", [
    (np.zeros(16, np.float16), InputError), (np.zeros(5, np.float32), MismatchError),
    (np.full(16, 9.0), InputError), (np.full(16, np.nan), InputError), (3, InputError),
    ("missing.jpg", InputError), ([None], InputError),
])  # fmt: skip
def test_a_wrong_query_is_refused(index: Path, query: object, error: type[Exception]) -> None:
    with Index(index) as opened, pytest.raises(error):
        opened.search(query)  # type: ignore[arg-type]


def test_an_index_of_points_alone(exported: Path, photos: Path, tmp_path: Path) -> None:
    images = Encoder(exported).embed(photos)
    with Index.build(tmp_path / "i.faiss", images) as index:
        hits = index.search(images.points[7], k=1)
        assert (hits[0].path, hits[0].label) == (
            str(Path(images.paths[7]).resolve()),
            images.labels[7],
        )
        with pytest.raises(InputError, match="--model"):
            index.search(images.paths[7])
    with Index(tmp_path / "i.faiss", encoder=Encoder(exported)) as index:
        assert index.search(images.paths[7], k=1)[0].label == images.labels[7]
        assert index.update([photos]).total == 48
    assert Tree.load(tmp_path / "i.faiss").root.size == 48
    with pytest.raises(InputError, match="already exists"):
        Index.build(tmp_path / "i.faiss", images)


# -- Tree ------------------------------------------------------------------------------------------


def test_a_tree_is_loaded_from_whatever_has_one(
    trained: Path, exported: Path, index: Path, photos: Path, tmp_path: Path
) -> None:
    images = Encoder(exported).embed(photos)
    images.write(tmp_path / "v.parquet")
    learned = Tree.load(trained / "best.pt")
    (tmp_path / "t.json").write_text(learned.to_json())
    (tmp_path / "t.nwk").write_text(learned.to_newick())
    leaves = sorted(leaf.name for leaf in learned.root.leaves)
    for source in (exported, tmp_path / "t.json", tmp_path / "t.nwk"):
        assert sorted(leaf.name for leaf in Tree.load(source).root.leaves) == leaves
    for tree in (Tree.load(index), Tree.load(tmp_path / "v.parquet", model=exported)):
        assert sorted(leaf.name for leaf in tree.root.leaves) == sorted(set(images.labels))
    Tree.load(index).to_html(tmp_path / "tree.html")
    assert (tmp_path / "tree.html").stat().st_size > 10_000
