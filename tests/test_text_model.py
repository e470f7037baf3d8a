"""Words as queries by a text model: a tiny random pair, written here as exports look."""

import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_pair
from conftest import Hier, fails
from PIL import Image
from tiny_pair import CONTEXT, DIM, MEAN, SIDE, STD, WORDS

from hiercli import (
    Encoder,
    FileFormatError,
    HierError,
    Index,
    InputError,
    MismatchError,
    MissingExtraError,
    PairEncoder,
    Tree,
)
from hiercli.encoder import foreign, tokenizing
from hiercli.encoder.foreign import ForeignModel
from hiercli.encoder.image_settings import preprocessing_of
from hiercli.encoder.text_model import TextModel
from hiercli.geometry import poincare, sphere
from hiercli.index import kinds
from hiercli.index.pair import KnownFile, Pair

TEXT = "a red bird on water"


@pytest.fixture(scope="session")
def album(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty images of noise in four folders, wider than high."""
    root = tmp_path_factory.mktemp("noise")
    rng = np.random.default_rng(0)
    for number in range(40):
        file = root / f"kind{number % 4}" / f"{number}.png"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (SIDE, 3 * SIDE, 3), np.uint8)).save(file)
    return root


@pytest.fixture
def models(tmp_path: Path) -> tuple[Path, Path]:
    return tiny_pair.write(tmp_path / "clip")


@pytest.fixture
def built(models: tuple[Path, Path], album: Path, inside: Hier, tmp_path: Path) -> Path:
    index = tmp_path / "clip.faiss"
    image, text = models
    done = inside("embed", album, "--model", image, "--text-model", text, "--index", index)
    assert done.returncode == 0, done.stderr.decode()
    return index


def answer_of(done: Any) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr.decode()
    (line,) = done.stdout.splitlines()
    return json.loads(line)


def unit(vectors: np.ndarray) -> np.ndarray:
    wide = vectors.astype(np.float64)
    wide = wide / np.abs(wide).max()
    return wide / np.linalg.norm(wide, axis=-1, keepdims=True)


def image_vectors(files: list[str]) -> np.ndarray:
    """What the image model computes, said again in other words: the middle square of each image."""
    rows = []
    for file in files:
        pixels = np.asarray(Image.open(file).convert("RGB"), np.float64)[:, SIDE : 2 * SIDE]
        rows.append(((pixels / 255 - MEAN) / STD).transpose(2, 0, 1).ravel())
    return np.stack(rows) @ tiny_pair.image_weight().astype(np.float64)


def text_vector(text: str, context: int = CONTEXT) -> np.ndarray:
    """What the text model computes: the mean over marks, words and padding."""
    ids = [WORDS.index(word) + 4 if word in WORDS else 0 for word in text.lower().split()]
    ids = [1, *ids[: context - 2], 2]
    ids += [2] * (context - len(ids))
    return tiny_pair.text_weight().astype(np.float64)[ids].mean(axis=0)


# -- order ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("index_type", kinds.INDEX_TYPES)
def test_the_order_of_hits_is_that_of_cosines(
    index_type: str, models: tuple[Path, Path], album: Path, tmp_path: Path
) -> None:
    pair = PairEncoder(*models)
    with Index(tmp_path / "i.faiss") as index:
        index.update([album], pair, index_type=index_type)
        files = sorted(map(str, album.rglob("*.png")))
        vectors = unit(image_vectors(files))
        for text in (TEXT, "a blue flower", "kind the i"):
            cosines = vectors @ unit(text_vector(text))
            hits = index.search_words(text, k=None)
            expected = [files[place] for place in np.argsort(-cosines)]
            assert [hit.path for hit in hits] == expected
            near = np.arccosh(2 - np.sort(cosines)[::-1])
            np.testing.assert_allclose([hit.distance for hit in hits], near, atol=1e-5)
            some = index.search_words(text, k=7, exact=True)
            assert [hit.path for hit in some] == expected[:7]
        for place in (0, 17):
            cosines = vectors @ vectors[place]
            hits = index.search(files[place], k=None)
            assert [hit.path for hit in hits] == [files[one] for one in np.argsort(-cosines)]


def test_all_points_lie_at_one_depth() -> None:
    rng = np.random.default_rng(0)
    for scale in (1e-30, 1.0, 1e30, 1e200):
        vectors = scale * rng.normal(size=(50, 300))
        points = sphere.to_ball(vectors)
        assert points.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(points, axis=1), sphere.NORM, atol=1e-6)
        far = poincare.pairwise_dist(points.astype(np.float64), points.astype(np.float64), sphere.C)
        np.testing.assert_allclose(sphere.cosine(far), unit(vectors) @ unit(vectors).T, atol=1e-6)
    assert sphere.cosine(0.0) == 1
    assert sphere.cosine(math.acosh(3)) == pytest.approx(-1)


def test_words_are_added_and_taken_away_as_unit_vectors(
    built: Path, album: Path, inside: Hier
) -> None:
    files = sorted(map(str, album.rglob("*.png")))
    vectors = unit(image_vectors(files))
    words = ("--plus", "water", "--plus", files[3], "--minus", "a flower")
    answer = answer_of(inside("search", TEXT, *words, "--index", built, "--json", "-k", "40"))
    total = (
        unit(text_vector(TEXT)) + unit(text_vector("water")) + vectors[3]
        - unit(text_vector("a flower"))
    )  # fmt: skip
    expected = [files[place] for place in np.argsort(-(vectors @ total))]
    assert [hit["path"] for hit in answer["results"]] == expected
    fails(inside("search", TEXT, "--minus", TEXT, "--index", built), 2, "cancel out")


# -- the command line -----------------------------------------------------------------------------


def test_words_are_embedded_by_the_text_model(built: Path, album: Path, inside: Hier) -> None:
    done = inside("search", TEXT, "--index", built, "--json", "-k", "3")
    answer = answer_of(done)
    assert answer["query"] == TEXT and len(answer["results"]) == 3
    assert answer["understood"] == {
        "names": [], "kind": "text model", "unmatched": [], "model": "text_model.onnx",
        "tokens": 5, "truncated": False,
    }  # fmt: skip
    assert "verdict" not in answer
    assert b"text model text_model.onnx, 5 tokens" in done.stderr
    image = next(album.rglob("*.png"))
    found = answer_of(inside("search", image, "--index", built, "--json", "-k", "2"))
    assert found["results"][0]["path"] == str(image) and found["results"][0]["distance"] == 0
    assert "verdict" in found
    both = inside("search", TEXT, image, "kind", "--index", built, "--json", "-k", "2")
    assert [json.loads(line)["query"] for line in both.stdout.splitlines()] == [
        TEXT, str(image), "kind",
    ]  # fmt: skip
    for more in (["--csv"], ["--branches"], ["--level", "1"], ["--unique"], ["--verdict"],
                 ["--where", "label=kind1"], ["--max-distance", "1.2"]):  # fmt: skip
        assert inside("search", TEXT, "--index", built, *more).returncode == 0
    page = built.with_name("page.html")
    assert inside("search", TEXT, "--index", built, "--html", page).returncode == 0
    assert TEXT in page.read_text()
    fails(inside("search", TEXT, "--index", built, "--rerank"), 2, "--rerank")


def test_an_index_is_updated_without_embedding_again(
    built: Path, models: tuple[Path, Path], album: Path, inside: Hier, tmp_path: Path
) -> None:
    image, text = models
    words = ("embed", album, "--model", image, "--index", built, "--json")
    done = inside(*words, "--text-model", text)
    assert answer_of(done)["unchanged"] == 40 and answer_of(done)["embedded"] == 0
    fails(inside(*words), 2, "--text-model")
    done = inside("embed", album, "--index", built, "--json")  # the models that the index names
    assert answer_of(done)["unchanged"] == 40 and answer_of(done)["embedded"] == 0
    with Index(built) as index:
        assert index.update([album]).unchanged == 40
    assert answer_of(inside("search", TEXT, "--index", built, "--json"))["understood"]
    # Another text model for the same images: nothing is embedded.
    other = tmp_path / "other" / "text_model.onnx"
    shutil.copytree(text.parent.parent, other.parent)
    tiny_pair.text_model(other, weight=-tiny_pair.text_weight())
    before = answer_of(inside("search", TEXT, "--index", built, "--json", "-k", "40"))
    done = inside(*words, "--text-model", other)
    assert answer_of(done)["embedded"] == 0
    after = answer_of(inside("search", TEXT, "--index", built, "--json", "-k", "40"))
    assert after["results"][-1]["path"] == before["results"][0]["path"]
    stats = answer_of(inside("index", "stats", built, "--json"))
    assert stats["text_model"] == str(other)


def test_an_index_keeps_its_models_when_it_is_mended(
    built: Path, models: tuple[Path, Path], album: Path, inside: Hier
) -> None:
    for command in ("compact", "repair", "verify"):
        assert inside("index", command, built).returncode == 0
        assert answer_of(inside("search", TEXT, "--index", built, "--json"))["understood"]
    assert Tree.load(built).root.size == 40
    fails(inside("adapt", "--index", built, "-o", built.with_name("x.onnx")), 2, "text model")
    # Built anew with an encoder of hier, it knows no text model.
    done = inside("embed", album, "--index", built, "--rebuild")
    assert done.returncode == 0
    answer = answer_of(inside("search", "kind 2", "--index", built, "--json"))
    assert answer["understood"]["kind"] == "label"
    fails(inside("search", TEXT, "--index", built, "--text-model", models[1]), 2, "--text-model")
    fails(inside("search", "kind", "--index", built, "--tokenizer", "t.json"), 2, "--tokenizer")


def test_an_index_finds_its_models_where_it_is_now(
    built: Path, album: Path, inside: Hier, tmp_path: Path
) -> None:
    before = answer_of(inside("search", TEXT, "--index", built, "--json"))["results"]
    moved = tmp_path / "far" / "away"
    moved.mkdir(parents=True)
    for file in (*tmp_path.glob("clip.faiss*"), tmp_path / "clip"):
        shutil.move(file, moved / file.name)
    index = moved / built.name

    def found() -> list[dict[str, Any]]:
        return answer_of(inside("search", TEXT, "--index", index, "--json"))["results"]

    assert found() == before
    clip = moved / "clip"
    (clip / "tokenizer_config.json").unlink()  # what it says is in the index
    (clip / "preprocessor_config.json").unlink()
    shutil.move(clip / "tokenizer.json", moved / "words.json")
    shutil.move(clip / "onnx" / "text_model.onnx", moved / "another name.onnx")
    assert found() == before
    query = next(album.rglob("*.png")).read_bytes() + b"changed"
    (tmp_path / "query.png").write_bytes(query)
    done = inside("search", tmp_path / "query.png", "--index", index, "--json")
    assert answer_of(done)["results"][0]["distance"] < 1e-6
    (moved / "words.json").unlink()
    fails(inside("search", TEXT, "--index", index), 2, "tokenizer", "no longer at", "--tokenizer")
    (moved / "another name.onnx").unlink()
    done = inside("search", TEXT, "--index", index)
    fails(done, 2, "text_model.onnx", "no longer at", "--text-model")
    (clip / "onnx" / "vision_model.onnx").unlink()
    fails(inside("search", tmp_path / "query.png", "--index", index), 2, "no longer at", "--model")


def test_a_text_model_that_has_changed_is_refused(
    built: Path, models: tuple[Path, Path], inside: Hier
) -> None:
    _, text = models
    tiny_pair.text_model(text, weight=tiny_pair.text_weight() + 1)
    fails(inside("search", TEXT, "--index", built), 4, str(text), "has changed")
    done = inside("search", TEXT, "--index", built, "--text-model", text, "--json")
    assert answer_of(done)["understood"]["kind"] == "text model"
    text.write_bytes(text.read_bytes()[:-50])
    fails(inside("search", TEXT, "--index", built), 2, str(text), "Copy")


def test_models_that_do_not_fit_are_refused(
    built: Path, models: tuple[Path, Path], album: Path, inside: Hier, tmp_path: Path
) -> None:
    image, text = models
    wide = tiny_pair.text_model(text.with_name("wide.onnx"), dim=DIM + 1)
    new = tmp_path / "new.faiss"
    words = ("embed", album, "--model", image, "--index", new)
    fails(inside(*words, "--text-model", wide), 4, "13 numbers", "have 12")
    fails(inside("search", TEXT, "--index", built, "--text-model", wide), 4, "13 numbers")
    few = tiny_pair.text_model(text.with_name("few.onnx"), weight=tiny_pair.text_weight()[:5])
    fails(inside(*words, "--text-model", few), 4, "tokenizer.json", "--tokenizer")
    tiny_pair.settings(image.parent, size={"shortest_edge": 8}, crop_size=8)
    fails(inside(*words, "--text-model", text), 4, "8 pixels", "takes 16")
    fails(inside(*words, "--text-model", tmp_path / "none.onnx"), 4)  # the first that is wrong
    (image.parent / "preprocessor_config.json").unlink()
    fails(inside(*words, "--text-model", tmp_path / "none.onnx"), 2, "none.onnx is missing")
    assert not list(tmp_path.glob("*new.faiss*"))


def test_options_without_use_are_refused(
    models: tuple[Path, Path], album: Path, inside: Hier, tmp_path: Path
) -> None:
    image, text = models
    new = tmp_path / "new.faiss"
    fails(inside("embed", album, "--text-model", text, "--index", new), 2, "--model")
    words = ("embed", album, "--model", image)
    fails(inside(*words, "--tokenizer", "t.json", "--index", new), 2, "--text-model")
    fails(inside(*words, "--text-model", text, "--engine", "ray", "-o", tmp_path / "o"), 2)
    fails(inside(*words, "--text-model", text, "--index", new, "-o", text), 2, "-o")
    points = tmp_path / "points.parquet"
    assert inside(*words, "--text-model", text, "-o", points).returncode == 0
    assert points.stat().st_size


def test_without_the_extra_the_command_is_named(
    built: Path, models: tuple[Path, Path], album: Path, inside: Hier, monkeypatch: Any
) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "tokenizers" else find(name)
    )
    image, text = models
    done = inside("search", TEXT, "--index", built)
    fails(done, 2, "pip install 'hiercli[text]'")
    assert len(done.stderr.decode().strip().splitlines()) == 1
    words = ("--model", image, "--text-model", text, "--index", built.with_name("new.faiss"))
    fails(inside("embed", album, *words), 2, "pip install 'hiercli[text]'")
    assert inside("search", next(album.rglob("*.png")), "--index", built).returncode == 0
    with pytest.raises(MissingExtraError):
        PairEncoder(image, text)


@pytest.mark.parametrize(
    "text",
    ["'\"`$(x)", "🐦🐦 🐦", "ציפור אדומה", "\u202ered", "ein Vögelchen", "a" * 10_000, "\t a"],
)
def test_any_words_are_taken(text: str, built: Path, inside: Hier) -> None:
    done = inside("search", text, "--index", built, "--json")
    answer = answer_of(done)
    assert answer["understood"]["tokens"] > 0 and len(answer["results"]) == 10
    assert len(done.stderr) < 600 and b"\xe2\x80\xae" not in done.stderr


def test_words_that_do_not_fit_are_told_of(built: Path, inside: Hier) -> None:
    done = inside("search", "bird " * 2_000, "--index", built, "--json")
    answer = answer_of(done)
    assert answer["understood"]["truncated"] is True
    assert answer["understood"]["tokens"] == CONTEXT - 2
    assert b"the last 1,992 of 2,000 tokens do not fit" in done.stderr and len(done.stderr) < 400
    short = answer_of(inside("search", "bird " * 8, "--index", built, "--json"))
    assert short["results"] == answer["results"]
    assert inside("search", "bird " * 2_000, "--index", built).returncode == 0


@pytest.mark.parametrize(("text", "told"), [("   ", "empty"), ("\t\t", "empty"), ("", "empty")])
def test_no_words_are_refused(text: str, told: str, built: Path, inside: Hier) -> None:
    fails(inside("search", text, "--index", built), 2, told)


def test_far_too_many_words_are_refused(models: tuple[Path, Path]) -> None:
    text = TextModel(models[1])
    with pytest.raises(InputError, match="at most 100,000"):
        text.points(["a" * 100_001])
    assert text.points([]).shape == (0, DIM)
    assert np.isfinite(text.points(["a \udcff \0 b"])).all()  # bytes that are not UTF-8


# -- from Python ----------------------------------------------------------------------------------


def test_a_pair_from_python(models: tuple[Path, Path], album: Path, tmp_path: Path) -> None:
    pair = PairEncoder(*models)
    images = pair.embed(album)
    assert isinstance(pair, Encoder) and images.points.shape == (40, DIM)
    words = pair.embed_text([TEXT, "water"])
    assert words.points.shape == (2, DIM) and words.fingerprint == images.fingerprint
    np.testing.assert_allclose(words.points[0], sphere.to_ball(text_vector(TEXT)), atol=1e-6)
    np.testing.assert_array_equal(pair.embed_text(TEXT).points, words.points[:1])
    for wrong in ([], [1], [""]):
        with pytest.raises(InputError):
            pair.embed_text(wrong)  # type: ignore[arg-type]
    with Index.build(tmp_path / "i.faiss", images, encoder=pair) as index:
        found = index.search(words, k=3)
        assert found[0] == index.search_words(TEXT, k=3)
    alone = PairEncoder(models[0])
    assert alone.fingerprint == pair.fingerprint
    with pytest.raises(InputError, match="for images alone"):
        alone.embed_text(TEXT)
    with Index(tmp_path / "j.faiss") as index:
        index.update([album], alone)
        with pytest.raises(InputError, match="no label or level"):  # names are looked for
            index.search_words("water")
        index.update([album], pair)
        assert index.search_words("water", k=2) == index.search(pair.embed_text("water"), k=2)[0]
        index.update([album], alone)  # the text model stays known
    with Index(tmp_path / "j.faiss") as index:
        assert len(index.search_words("water", k=2)) == 2


def test_an_index_in_milvus_knows_its_models(
    models: tuple[Path, Path], album: Path, inside: Hier, tmp_path: Path
) -> None:
    pytest.importorskip("milvus_lite")
    index = f"milvus:{tmp_path / 'clip.db'}"
    image, text = models
    done = inside("embed", album, "--model", image, "--text-model", text, "--index", index)
    assert done.returncode == 0, done.stderr.decode()
    answer = answer_of(inside("search", TEXT, "--index", index, "--json", "-k", "5"))
    assert answer["understood"]["kind"] == "text model" and len(answer["results"]) == 5


# -- exports of other programs --------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"batch": 1},
        {"batch": 3},
        {"side": "any"},
        {"name": "image", "outputs": ("embedding",)},
        {"outputs": ("pooler_output", "last_hidden_state")},
        {"outputs": ("features", "last_hidden_state")},
        {"dtype": np.float16},
        {"external": "weights.bin"},
    ],
)
def test_image_models_of_many_shapes(
    options: dict[str, Any], album: Path, models: tuple[Path, Path]
) -> None:
    files = sorted(map(str, album.rglob("*.png")))[:7]
    tiny_pair.image_model(models[0], **options)
    points = PairEncoder(models[0]).embed(files).points
    tolerance = 1e-2 if "dtype" in options else 1e-5
    np.testing.assert_allclose(points, sphere.to_ball(image_vectors(files)), atol=tolerance)


@pytest.mark.parametrize(
    "options",
    [
        {"batch": 1, "length": CONTEXT},
        {"batch": 2},
        {"dtype": np.int32},
        {"dtype": np.int32, "name": "text", "output": "embedding", "length": CONTEXT, "batch": 1},
        {"output": "pooler_output"},
        {"external": "text_model.onnx_data"},
    ],
)
def test_text_models_of_many_shapes(options: dict[str, Any], models: tuple[Path, Path]) -> None:
    tiny_pair.text_model(models[1], **options)
    found = TextModel(models[1]).points([TEXT, "flower"])
    expected = sphere.to_ball(np.stack([text_vector(TEXT), text_vector("flower")]))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_padding_is_masked_where_the_model_takes_a_mask(models: tuple[Path, Path]) -> None:
    tiny_pair.text_model(models[1], mask=True)
    ids = [1, WORDS.index("red") + 4, 2]
    expected = sphere.to_ball(tiny_pair.text_weight()[ids].sum(axis=0))
    np.testing.assert_allclose(TextModel(models[1]).points(["red"])[0], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("length", "truncation", "padding", "config", "context", "pad"),
    [
        (7, 9, 9, {"model_max_length": 8}, 7, 2),
        ("any", 9, None, {"model_max_length": 8}, 8, 2),
        ("any", 9, None, {"model_max_length": 10**30}, 9, 2),
        ("any", None, 6, {}, 6, 2),
        ("any", None, None, {"model_max_length": 8, "pad_token": "!"}, 8, 3),
        ("any", None, None, {"model_max_length": 8, "pad_token": {"content": "!"}}, 8, 3),
        ("any", None, None, {"model_max_length": 8, "pad_token": None}, 8, 2),
    ],
)
def test_context_and_padding(
    length: int | str, truncation: int | None, padding: int | None, config: dict[str, Any],
    context: int, pad: int, models: tuple[Path, Path],
) -> None:  # fmt: skip
    folder = models[1].parent.parent
    tiny_pair.text_model(models[1], length=length)
    tiny_pair.tokenizer(folder / "tokenizer.json", truncation=truncation, padding=padding)
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    text = TextModel(models[1])
    assert (text.tokenizer.context, text.tokenizer.pad) == (context, pad)
    assert text.tokens("red").ids == [1, WORDS.index("red") + 4, 2, *[pad] * (context - 3)]


@pytest.mark.parametrize("config", [{}, {"model_max_length": 1e30}, {"model_max_length": "64"}])
def test_nothing_says_how_long_texts_are(config: dict[str, Any], models: tuple[Path, Path]) -> None:
    (models[1].parent.parent / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="how many tokens"):
        TextModel(models[1])


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, (16, 1.0, tuple(MEAN), tuple(STD), "bicubic", "crop")),
        ({"size": 16, "crop_size": 16}, (16, 1.0, tuple(MEAN), tuple(STD), "bicubic", "crop")),
        ({"size": {"shortest_edge": 20}, "resample": 2},
         (16, 0.8, tuple(MEAN), tuple(STD), "bilinear", "crop")),
        ({"size": {"height": 16, "width": 16}, "do_center_crop": False, "resample": 1},
         (16, 1.0, tuple(MEAN), tuple(STD), "lanczos", "stretch")),
        ({"do_normalize": False}, (16, 1.0, (0.0,) * 3, (1.0,) * 3, "bicubic", "crop")),
        ({"do_rescale": False, "image_mean": [127.5] * 3, "image_std": [255] * 3},
         (16, 1.0, (0.5,) * 3, (1.0,) * 3, "bicubic", "crop")),
        ({"rescale_factor": 1 / 127.5, "image_mean": [1] * 3, "image_std": [1] * 3},
         (16, 1.0, (0.5,) * 3, (0.5,) * 3, "bicubic", "crop")),
    ],
)  # fmt: skip
def test_preprocessing_of_hugging_face(
    changes: dict[str, Any], expected: tuple[Any, ...], models: tuple[Path, Path]
) -> None:
    tiny_pair.settings(models[0].parent, **changes)
    found = preprocessing_of(models[0], 16)
    assert (found.size, found.crop_share, found.interpolation, found.fit) == (
        expected[0], expected[1], expected[4], expected[5],
    )  # fmt: skip
    np.testing.assert_allclose(found.mean, expected[2])
    np.testing.assert_allclose(found.std, expected[3])
    assert type(found).from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_siglip_stretches_images(models: tuple[Path, Path]) -> None:
    tiny_pair.settings(
        models[0].parent, size={"height": 16, "width": 16}, do_center_crop=None, crop_size=None,
        image_mean=[0.5] * 3, image_std=[0.5] * 3,
    )  # fmt: skip
    facts = json.loads((models[0].parent / "preprocessor_config.json").read_text())
    del facts["do_center_crop"], facts["crop_size"]
    (models[0].parent / "preprocessor_config.json").write_text(json.dumps(facts))
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 50, 3), np.uint8))
    small = np.asarray(picture.resize((16, 16), Image.Resampling.BICUBIC), np.float32)
    expected = (small / 255 - 0.5) / 0.5
    found = preprocessing_of(models[0])(picture)
    np.testing.assert_allclose(found, expected.transpose(2, 0, 1), atol=1e-5)


@pytest.mark.parametrize("name", ["preprocess_cfg.json", "open_clip_config.json"])
def test_preprocessing_of_open_clip(name: str, models: tuple[Path, Path]) -> None:
    facts: dict[str, Any] = {
        "size": [16, 16], "mode": "RGB", "mean": MEAN, "std": STD, "interpolation": "bilinear",
        "resize_mode": "squash", "fill_color": 0,
    }  # fmt: skip
    if name == "open_clip_config.json":
        del facts["size"]
        facts = {"model_cfg": {"vision_cfg": {"image_size": 16}}, "preprocess_cfg": facts}
    (models[0].parent.parent / "preprocessor_config.json").unlink()
    (models[0].parent / name).write_text(json.dumps(facts))
    found = preprocessing_of(models[0])
    assert (found.size, found.interpolation, found.fit) == (16, "bilinear", "stretch")
    facts.get("preprocess_cfg", facts)["resize_mode"] = "longest"
    (models[0].parent / name).write_text(json.dumps(facts))
    with pytest.raises(FileFormatError, match="longest"):
        preprocessing_of(models[0])


@pytest.mark.parametrize("changes", [
    {"size": 10**9}, {"size": -1}, {"size": {"shortest_edge": True}}, {"size": "16"}, {"size": {}},
    {"size": {"height": 16, "width": 8}}, {"crop_size": 17}, {"crop_size": [16]},
    {"image_mean": [0.5]}, {"image_mean": None}, {"image_mean": [float("nan")] * 3},
    {"image_std": [0, 1, 1]}, {"image_std": [1e-9] * 3}, {"image_std": ["x"] * 3},
    {"rescale_factor": 0}, {"rescale_factor": float("inf")}, {"rescale_factor": [1]},
    {"resample": 0}, {"resample": "bicubic"}, {"resample": []}, {"do_resize": False},
    {"do_center_crop": False}, {"do_center_crop": "yes"}, {"do_pad": True},
    {"size": {"height": 20, "width": 20}},
])  # fmt: skip
def test_settings_that_make_no_sense_are_refused(
    changes: dict[str, Any], models: tuple[Path, Path]
) -> None:
    tiny_pair.settings(models[0].parent, **changes)
    with pytest.raises(FileFormatError, match="preprocessor_config") as error:
        preprocessing_of(models[0], 16)
    assert len(str(error.value)) < 500


@pytest.mark.parametrize("content", ["", "{", "[]", "3", "\xff", "[" * 100_000, '{"size": 1e999}'])
def test_settings_that_are_no_settings_are_refused(
    content: str, models: tuple[Path, Path], album: Path, inside: Hier, tmp_path: Path
) -> None:
    folder = models[0].parent.parent
    for name in ("preprocessor_config.json", "tokenizer_config.json", "tokenizer.json"):
        before = (folder / name).read_bytes()
        (folder / name).write_bytes(content.encode("latin-1"))
        words = ("--model", models[0], "--text-model", models[1], "--index", tmp_path / "i.faiss")
        done = inside("embed", album, *words)
        fails(done, 2, name)
        assert len(done.stderr.decode().strip().splitlines()) == 1
        (folder / name).write_bytes(before)
    assert not list(tmp_path.glob("*i.faiss*"))


# -- damage ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", [0, 1])
def test_a_truncated_model_is_refused(
    which: int, models: tuple[Path, Path], album: Path, inside: Hier, tmp_path: Path
) -> None:
    whole = models[which].read_bytes()
    words = ("--model", models[0], "--text-model", models[1], "--index", tmp_path / "i.faiss")
    for size in (0, 1, 10, len(whole) // 2, len(whole) - 1):
        models[which].write_bytes(whole[:size])
        done = inside("embed", album, *words)
        fails(done, 2, models[which].name)
        assert len(done.stderr.decode().strip().splitlines()) == 1
    models[which].unlink()
    fails(inside("embed", album, *words), 2, "missing")
    models[which].mkdir()
    fails(inside("embed", album, *words), 2, "folder")
    assert not list(tmp_path.glob("*i.faiss*"))


def test_no_changed_byte_of_a_model_is_a_fault(
    models: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    for file, opened in ((models[0], PairEncoder), (models[1], TextModel)):
        whole = file.read_bytes()
        places = [*range(0, 60), *range(len(whole) - 300, len(whole), 2)]
        failed = 0
        for at in places:
            file.write_bytes(whole[:at] + b"\xff" + whole[at + 1 :])
            try:
                opened(file)
            except HierError as error:
                assert len(str(error)) < 700
                failed += 1
        assert failed > len(places) / 10
        file.write_bytes(whole)
    assert capsys.readouterr().out == ""


def test_swapped_models_are_told_apart(models: tuple[Path, Path]) -> None:
    image, text = models
    with pytest.raises(FileFormatError, match="expected an image model"):
        PairEncoder(text, image)
    with pytest.raises(FileFormatError, match="expected a text model"):
        TextModel(image)


def test_vectors_that_are_not_finite_are_refused(
    models: tuple[Path, Path], album: Path, inside: Hier, tmp_path: Path
) -> None:
    image, text = models
    words = ("embed", album, "--model", image, "--text-model", text, "--index", tmp_path / "i.f")
    for wrong in (float("nan"), float("inf"), 0.0):
        tiny_pair.text_model(text, weight=np.full_like(tiny_pair.text_weight(), wrong))
        fails(inside(*words), 2, "text_model.onnx", "not finite, or all zero")
    tiny_pair.text_model(text)
    for wrong in (float("nan"), 0.0):
        tiny_pair.image_model(image, weight=np.full_like(tiny_pair.image_weight(), wrong))
        fails(inside(*words), 2, "vision_model.onnx", "not finite, or all zero")
    assert not [file for file in tmp_path.glob("*i.f*") if not file.name.endswith("-lock")]


def test_weights_in_further_files_are_part_of_a_model(
    models: tuple[Path, Path], tmp_path: Path
) -> None:
    file = tiny_pair.image_model(tmp_path / "x" / "big.onnx", external="big.onnx_data")
    shutil.copy(models[0].parent.parent / "preprocessor_config.json", file.parent)
    whole = ForeignModel.read(file)
    assert (
        set(whole.weights) == {"big.onnx_data"} and whole.digest == ForeignModel.read(file).digest
    )
    fingerprint = PairEncoder(file).fingerprint
    data = file.with_name("big.onnx_data")
    blobs = tmp_path / "blobs"  # as in a cache of downloads, where both are links
    blobs.mkdir()
    for one in (file, data):
        shutil.move(one, blobs / one.name)
        one.symlink_to(os.path.relpath(blobs / one.name, one.parent))
    assert PairEncoder(file).fingerprint == fingerprint
    content = data.read_bytes()
    data.write_bytes(content[:-4] + b"\0\0\0\0")
    assert PairEncoder(file).fingerprint != fingerprint
    data.write_bytes(content[:100])
    with pytest.raises(FileFormatError, match=r"big\.onnx"):
        PairEncoder(file)
    data.unlink()
    with pytest.raises(InputError, match=r"big\.onnx_data beside it.*missing"):
        PairEncoder(file)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/b", "..", ""])
def test_weights_outside_the_folder_are_not_opened(name: str, tmp_path: Path) -> None:
    import onnx

    file = tiny_pair.image_model(tmp_path / "x" / "m.onnx", external="data")
    (tmp_path / "secret").write_bytes(b"\0" * 10**6)
    model = onnx.load(str(file), load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = name
    file.write_bytes(model.SerializeToString())
    with pytest.raises(FileFormatError, match="outside its folder"):
        ForeignModel.read(file)


def test_files_that_are_far_too_large_are_refused(
    models: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(foreign, "MOST_BYTES", 100)
    with pytest.raises(InputError, match="at most"):
        ForeignModel.read(models[0])
    monkeypatch.undo()
    monkeypatch.setattr(tokenizing, "_MOST_BYTES", 100)
    with pytest.raises(InputError, match="at most 100 bytes"):
        TextModel(models[1])


def test_a_damaged_tokenizer_is_refused(models: tuple[Path, Path]) -> None:
    file = models[1].parent.parent / "tokenizer.json"
    whole = file.read_text()
    told = json.loads(whole)
    for damaged in (
        whole[:200], whole.replace("WordLevel", "Other"), "null", json.dumps(told | {"model": {}}),
        json.dumps(told | {"truncation": {"max_length": -1}}),
    ):  # fmt: skip
        file.write_text(damaged)
        with pytest.raises(FileFormatError, match=r"tokenizer\.json is not a tokenizer"):
            TextModel(models[1])
    file.unlink()
    with pytest.raises(InputError, match=r"expected tokenizer\.json beside"):
        TextModel(models[1])


def test_what_an_index_says_of_its_models_is_not_believed(built: Path) -> None:
    with Index(built) as index:
        text = index.reader.pair
    pair = Pair.from_text(text, built)
    assert Pair.from_text(pair.to_text(), built) == pair
    told = json.loads(text)
    for name, value in (
        ("context", 10**9), ("context", "x"), ("pad", -1), ("image", None), ("image", {}),
        ("text", {"path": 1, "relative": "", "digest": "0" * 64}), ("tokenizer", None),
        ("text", {"path": "a", "relative": "", "digest": "x"}),
        ("preprocessing", told["preprocessing"] | {"size": 10**9}), ("preprocessing", 3),
    ):  # fmt: skip
        with pytest.raises(FileFormatError, match="damaged"):
            Pair.from_text(json.dumps(told | {name: value}), built)
    for path in ("", "/", "x/", "\udcff", "*.[", "a.on*", "/dev/zero"):
        assert not list(KnownFile(path, path, "0" * 64).places([built.parent / "onnx"]))
    for wrong in ("", "{", "[]", "null", "[" * 100_000):
        with pytest.raises(FileFormatError, match="damaged"):
            Pair.from_text(wrong, built)


def test_files_of_one_name_are_told_apart_by_their_digest(
    built: Path, models: tuple[Path, Path], album: Path, inside: Hier
) -> None:
    """Another model of the same name lies beside the index: it is not taken."""
    _, text = models
    tiny_pair.text_model(built.with_name(text.name), weight=-tiny_pair.text_weight())
    before = answer_of(inside("search", TEXT, "--index", built, "--json"))
    hidden = text.with_name("hidden.txt")
    text.rename(hidden)
    fails(inside("search", TEXT, "--index", built), 2, "no longer at")
    hidden.rename(built.with_name("z.onnx"))
    after = answer_of(inside("search", TEXT, "--index", built, "--json"))
    assert after["results"] == before["results"]
    with Index(built) as index, pytest.raises(MismatchError):
        index.update([album], PairEncoder(models[0], preprocessing=_half()))


def _half() -> Any:
    from hiercli.images import Preprocessing

    return Preprocessing(SIDE, 0.5, (0.5,) * 3, (0.5,) * 3)
