"""Words as queries: what they are taken for, what is found, and sums, differences and parts."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Hier, fails
from PIL import Image

from hiercli import Collection, Index
from hiercli.errors import InputError
from hiercli.geometry import poincare
from hiercli.index.words import LONGEST, _best, _pieces, around, understand

C = 0.1
NAMES = {
    "001.Black_footed_Albatross": "Diomedeidae", "017.Northern_Cardinal": "Cardinalidae",
    "020.Cape_May_Warbler": "Parulidae", "021.Red_faced_Warbler": "Parulidae",
    "House Wren": "Troglodytidae", "häuserSperling": "Passeridae", "*[odd]?": "Passeridae",
}  # fmt: skip


@pytest.fixture
def birds(tmp_path: Path) -> Index:
    rng = np.random.default_rng(0)
    labels = [name for name in NAMES for _ in range(5)]
    tangent = np.repeat(rng.normal(size=(len(NAMES), 6)), 5, axis=0)
    points = poincare.expmap0(tangent + 0.05 * rng.normal(size=tangent.shape), C)
    collection = Collection(
        points.astype(np.float32), [f"{n}.jpg" for n in range(len(labels))], labels,
        [(NAMES[label],) for label in labels], ("family",), c=C,
    )  # fmt: skip
    return Index.build(tmp_path / "birds.faiss", collection)


@pytest.mark.parametrize(
    ("text", "names", "unmatched"),
    [
        ("albatross", {"001.Black_footed_Albatross"}, ()),
        ("Black-footed ALBATROSSES", {"001.Black_footed_Albatross"}, ()),
        ("cardinals", {"017.Northern_Cardinal"}, ()),
        ("warbler", {"020.Cape_May_Warbler", "021.Red_faced_Warbler"}, ()),
        ("a photo of a red warbler", {"021.Red_faced_Warbler"}, ()),
        ("blue warbler", {"020.Cape_May_Warbler", "021.Red_faced_Warbler"}, ("blue",)),
        ("albatros", {"001.Black_footed_Albatross"}, ()),
        ("wren, please", {"House Wren"}, ("please",)),
        ("hauser sperling", {"häuserSperling"}, ()),
        ("parulidae", {"Parulidae"}, ()),
        ("passeridae", {"Passeridae"}, ()),
        ("odd", {"*[odd]?"}, ()),
    ],
)
def test_words_find_names(birds: Index, text: str, names: set[str], unmatched: tuple[str]) -> None:
    with birds:
        found = understand(text, birds.reader)
        assert (set(found.names), found.unmatched) == (names, unmatched)
        hits = around(birds.reader, found.points, 3)
        right = {label for label, family in NAMES.items() if {label, family} & names}
        assert {hit.label for hit in hits} <= right
        assert [hit.rank for hit in hits] == [1, 2, 3]
        assert [hit.distance for hit in hits] == sorted(hit.distance for hit in hits)


def test_numbers_in_names_count() -> None:
    """Models of cars differ by a digit; numbers before the names of class folders say nothing."""
    assert _pieces("BMW M3 Coupe 2012") == ["bmw", "m3", "coupe", "2012"]
    assert _pieces("001.Black_footed_Albatross") == ["black", "footed", "albatross"]
    assert _pieces("2008 Audi A5") == ["2008", "audi", "a5"]
    found, _ = _best(
        _pieces("bmw m3"), [("label", "BMW M5"), ("label", "BMW M3"), ("label", "BMW")]
    )
    assert found == [("label", "BMW M3")]


@pytest.mark.parametrize(
    "text", ["qwzzz", "🐦🐦", "1234", "'\"", "שלום", "", "   ", "x" * 10_000, "ab " * LONGEST]
)
def test_words_that_are_no_name(birds: Index, text: str) -> None:
    with birds, pytest.raises(InputError) as error:
        understand(text, birds.reader)
    assert len(str(error.value)) < 400
    assert "no" in str(error.value)


def test_a_slip_is_answered_with_the_nearest_names(birds: Index) -> None:
    with birds, pytest.raises(InputError, match="House Wren"):
        understand("mouse hen", birds.reader)


def test_each_image_is_found_once(birds: Index) -> None:
    with birds:
        points = birds.collection().points[[0, 0, 7]]
        hits = around(birds.reader, points, None)
        assert len(hits) == len({hit.path for hit in hits}) == len(birds)


def test_the_encoder_knows_further_names(index: Path, exported: Path, inside: Hier) -> None:
    """The encoder's own classes, where labels do not have the words."""
    done = inside("search", "kind 2", "--index", index, "--json")
    answer = json.loads(done.stdout)
    assert answer["understood"]["kind"] == "label"
    assert "verdict" not in answer


def told(done: object) -> list[dict[str, object]]:
    assert done.returncode == 0, done.stderr.decode()  # type: ignore[attr-defined]
    return [json.loads(line) for line in done.stdout.splitlines()]  # type: ignore[attr-defined]


@pytest.fixture
def named(photos: Path, exported: Path, inside: Hier, tmp_path: Path) -> Path:
    """An index of which the labels are words."""
    index, table = tmp_path / "named.faiss", tmp_path / "t.csv"
    words = ["jay", "wren", "owl", "tern", "gull", "finch", "crow", "stork"]
    rows = [f"{file},{words[int(file.parent.name[4:])]}\n" for file in photos.rglob("*.jpg")]
    table.write_text("path,label\n" + "".join(rows))
    assert inside("embed", table, "--model", exported, "--index", index).returncode == 0
    return index


def test_words_and_images_side_by_side(named: Path, photos: Path, inside: Hier) -> None:
    photo = photos / "kind3" / "photo1.jpg"
    words, image = told(inside("search", "owl", photo, "--index", named, "-k", "4", "--json"))
    assert words["query"] == "owl" and words["results"][0]["label"] == "owl"  # type: ignore[index]
    assert image["results"][0]["path"] == str(photo)  # type: ignore[index]
    assert image["results"][0]["distance"] == 0  # type: ignore[index]
    assert "verdict" in image and "verdict" not in words
    done = inside("search", "owl", "--index", named)
    assert done.returncode == 0 and b"owl: 1 label (owl)" in done.stderr
    fails(inside("search", "owls of prey", "--index", named, "--crop", "0,0,5,5"), 2, "--crop")
    fails(inside("search", "owl.jpg", "--index", named), 2, "owl.jpg")
    fails(inside("search", "owl", "--index", named, "--rerank"), 2, "--rerank")
    fails(inside("search", "qwzzz", "--index", named), 2, "qwzzz", "nearest")
    fails(inside("search", "x" * 5000, "--index", named), 2, "200")


def test_queries_are_added_and_taken_away(named: Path, photos: Path, inside: Hier) -> None:
    photo = photos / "kind3" / "photo1.jpg"

    def nearest(*words: object) -> list[str]:
        (answer,) = told(inside("search", *words, "--index", named, "-k", "12", "--json"))
        return [hit["label"] for hit in answer["results"]]  # type: ignore[attr-defined]

    alone = nearest(photo)
    both = nearest(photo, "--plus", "owl")
    assert both.count("owl") > alone.count("owl")
    assert nearest("owl", "--plus", photo) == both
    again = nearest(photo, "--plus", "owl", "--minus", "owl")
    assert again[0] == alone[0]
    fails(inside("search", "owl", "--minus", "owl", "--index", named), 2, "cancel out")
    fails(inside("search", "owl", "--plus", photos, "--index", named), 2, "48 queries")


def test_a_part_of_an_image_is_searched_for(
    index: Path, photos: Path, inside: Hier, tmp_path: Path
) -> None:
    photo = photos / "kind3" / "photo1.jpg"
    with Image.open(photo) as picture:
        size = picture.size
        wide = Image.new("RGB", (3 * size[0], size[1]), "gray")
        wide.paste(picture.convert("RGB"), (size[0], 0))
    wide.save(tmp_path / "wide.png")
    box = f"{size[0]},0,{size[0]},{size[1]}"
    words = ("search", tmp_path / "wide.png", "--index", index, "-k", "1", "--json")
    (answer,) = told(inside(*words, "--crop", box))
    assert answer["results"][0]["path"] == str(photo)  # type: ignore[index]
    assert answer["results"][0]["distance"] < 0.05  # type: ignore[index]
    fails(inside(*words, "--crop", f"0,0,{4 * size[0]},1"), 2, "does not lie inside")
    for wrong in ("1,2,3", "a,b,c,d", "0,0,0,5", "-1,0,5,5", "1.5,0,5,5"):
        fails(inside(*words, f"--crop={wrong}"), 2, "--crop")


def test_words_cost_no_decoding(
    named: Path, inside: Hier, monkeypatch: pytest.MonkeyPatch, closed: Callable[[Path], None]
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise AssertionError("nothing needs an encoder")

    monkeypatch.setattr("hiercli.encoder.encoder.Encoder.__init__", refused)
    assert inside("search", "owl", "--index", named).returncode == 0


def test_words_from_python(birds: Index) -> None:
    with birds:
        hits = birds.search_words("warblers", k=4)
        assert {hit.label for hit in hits} == {"020.Cape_May_Warbler", "021.Red_faced_Warbler"}
        with pytest.raises(InputError, match="nearest"):
            birds.search_words("zebra")
