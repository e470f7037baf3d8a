"""Searches as people ask them: filters, copies, radius, points, stdin; against brute force."""

import csv
import io
import json
import os
import shutil
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from conftest import Hier, paint
from test_index import Colours

from hiercli.errors import InputError
from hiercli.geometry import poincare
from hiercli.index import update
from hiercli.index.catalogue import Catalogue
from hiercli.index.reader import Reader


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    """300 pictures of 6 kinds; of every tenth there are four copies."""
    folder = tmp_path_factory.mktemp("library")
    for number in range(300):
        file = paint(folder / "album" / f"kind{number % 6}" / f"photo{number}.png", number)
        if number % 10 == 0:
            for copy in range(3):
                shutil.copy(file, file.with_name(f"copy{copy}of{number}.png"))
    update.update(folder / "idx.faiss", [folder / "album"], Colours())
    return Reader(folder / "idx.faiss")


def brute_force(library: Reader, query: np.ndarray) -> list[tuple[float, str, str, bytes]]:
    """Distance, path, label and content of every picture, nearest first."""
    with closing(Catalogue(library.path)) as catalogue:
        photos = [row for _, row in catalogue.every() if row is not None]
    points = np.stack([np.frombuffer(photo.point, "<f4") for photo in photos]).astype(np.float64)
    far = poincare.dist(query[None].astype(np.float64), points, 0.1)
    order = np.lexsort(([photo.id for photo in photos], far))
    return [
        (float(far[n]), os.fsdecode(photos[n].path), photos[n].label, photos[n].content)
        for n in order
    ]


def some_queries(library: Reader) -> np.ndarray:
    rng = np.random.default_rng(0)
    stored = [row.point for row in library.catalogue.rows([0, 10, 20])]
    own = np.stack([np.frombuffer(point, "<f4") for point in stored])
    return np.concatenate([own, 0.3 * rng.uniform(-1, 1, (5, 12))]).astype(np.float32)


def test_filters_are_exact(library: Reader) -> None:
    queries = some_queries(library)
    where = [("label", "kind[12]"), ("path", "*photo*")]
    for query, hits in zip(queries, library.search(queries, 7, where=where), strict=True):
        truth = [row for row in brute_force(library, query)
                 if row[2] in ("kind1", "kind2") and "photo" in Path(row[1]).name][:7]  # fmt: skip
        assert [hit.path for hit in hits] == [path for _, path, _, _ in truth]
    assert len(library.search(queries[:1], 1000, where=[("label", "kind3")])[0]) == 50
    with pytest.raises(InputError, match="label=nothing"):
        library.search(queries, 3, where=[("label", "nothing")])


def test_copies_count_once(library: Reader) -> None:
    queries = some_queries(library)
    for query, hits in zip(queries, library.search(queries, 12, unique=True), strict=True):
        truth: dict[bytes, list[str]] = {}
        for _, path, _, content in brute_force(library, query):
            truth.setdefault(content, []).append(path)
        expected = [paths[0] for paths in truth.values()][:12]
        assert [hit.path for hit in hits] == expected
        assert [hit.rank for hit in hits] == list(range(1, 13))
        for hit in hits:
            assert {hit.path, *hit.copies} == set(truth[hit.content])
    (one,) = library.search(queries[:1], 1, unique=True)
    assert len(one[0].copies) == 3
    (everything,) = library.search(queries[:1], None, unique=True)
    assert (len(everything), sum(len(hit.copies) for hit in everything)) == (300, 90)


def test_all_within_a_radius(library: Reader) -> None:
    queries = some_queries(library)
    rows = brute_force(library, queries[0])
    for count in (0, 3, 130, len(rows)):
        radius = 0.5 * (rows[count - 1][0] + rows[count][0]) if 0 < count < len(rows) else (
            rows[-1][0] + 1 if count else 0.0)  # fmt: skip
        (hits,) = library.search(queries[:1], None, max_distance=radius)
        expected = [path for far, path, _, _ in rows if far <= radius]
        assert [hit.path for hit in hits] == expected
        (hits,) = library.search(queries[:1], 2, max_distance=radius)
        assert [hit.path for hit in hits] == expected[:2]


def test_ways_to_ask_and_to_be_answered(
    index: Path, exported: Path, photos: Path, inside: Hier, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    picture = photos / "kind2" / "photo3.jpg"
    search = ("search", "--index", index)
    by_file = json.loads(inside(*search, picture, "--json").stdout)
    assert len(by_file["results"]) == 10

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(picture.read_bytes())))
    by_stdin = json.loads(inside(*search, "-", "--json").stdout)
    assert by_stdin == by_file | {"query": "-"}

    points = tmp_path / "points.npy"
    assert inside("embed", photos / "kind2", "--model", exported, "-o", points).returncode == 0
    answers = inside(*search, points, "--json").stdout.splitlines()
    assert len(answers) == 6
    (by_point,) = [json.loads(line) for line in answers if b"points.npy[3]" in line]
    assert [hit["path"] for hit in by_point["results"]] == [
        hit["path"] for hit in by_file["results"]
    ]

    done = inside(*search, picture, points, "--csv", "-k", "2")
    rows = list(csv.DictReader(io.StringIO(done.stdout.decode())))
    assert len(rows) == 14
    assert float(rows[0]["distance"]) == by_file["results"][0]["distance"]
    assert inside(*search, picture, "--csv", "--json").returncode == 2

    page = tmp_path / "found.html"
    assert inside(*search, picture, points, "--html", page).returncode == 0
    text = page.read_text()
    assert text.count('class="row"') == 7
    assert text.count("data:image/jpeg") == 71  # the points have no picture of their own
    assert "http" not in text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (np.zeros((3, 5), np.float32), b"points of 16 dimensions"),
        (np.zeros((3, 16), np.int64), b"as floats"),
        (np.full((3, 16), np.nan), b"inside the ball"),
        (np.full((3, 16), 1.0), b"inside the ball"),
        (np.array([None]), b"valid NumPy array"),
        (np.zeros((0, 16), np.float32), b"(0, 16)"),
        (np.full((1, 16), 10**0.5 / 4 * (1 - 1e-12)), b"inside the ball"),
    ],
)
def test_points_that_do_not_fit(
    index: Path, inside: Hier, tmp_path: Path, content: np.ndarray, words: bytes
) -> None:
    np.save(tmp_path / "points.npy", content)
    done = inside("search", tmp_path / "points.npy", "--index", index)
    assert (done.returncode, words in done.stderr) == (2, True), done.stderr


def test_stdin_without_a_picture(
    index: Path, photos: Path, inside: Hier, monkeypatch: pytest.MonkeyPatch
) -> None:
    for content in (b"", b"no picture"):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        done = inside("search", "-", "--index", index)
        assert (done.returncode, b"expected a" in done.stderr) == (2, True)
    monkeypatch.setattr(sys, "stdin", None)
    assert b"stdin is closed" in inside("search", "-", "--index", index).stderr
    assert inside("search", photos / "kind0", "--index", index).returncode == 0


@pytest.mark.skipif(os.name != "posix", reason="needs file names of any bytes")
def test_odd_names_in_every_form_of_answer(
    exported: Path, photos: Path, inside: Hier, tmp_path: Path
) -> None:
    folder, index = os.fsencode(tmp_path / "k<b>"), tmp_path / "idx.faiss"
    os.mkdir(folder)
    names = [b"caf\xe9.jpg", b"re\rturn.jpg", b"new\nline.jpg", b"\x1b[31mred.jpg", b'a,b"c.jpg']
    for number, name in enumerate(names):
        shutil.copy(photos / "kind0" / f"photo{number}.jpg", os.path.join(folder, name))
    place = Path(os.fsdecode(folder))
    assert inside("embed", place, "--model", exported, "--index", index).returncode == 0
    search = ("search", photos / "kind0" / "photo0.jpg", "--index", index)
    done = inside(*search, "--csv")
    text = done.stdout.decode("utf-8", "surrogateescape")
    found = [row["path"] for row in csv.DictReader(io.StringIO(text, newline=""))]
    expected = {os.path.join(folder, name) for name in names}
    # What a terminal would obey is shown; all else, bytes that are no UTF-8 too, is as it is.
    shown = {name.replace(b"\r", b"\\r").replace(b"\n", b"\\n").replace(b"\x1b", b"\\x1b")
             for name in expected}  # fmt: skip
    assert {os.fsencode(path) for path in found} == shown
    answer = json.loads(inside(*search, "--json").stdout)
    assert {os.fsencode(hit["path"]) for hit in answer["results"]} == expected
    assert b"\x1b[31m" not in inside(*search).stdout
    page = tmp_path / "found.html"
    assert inside(*search, "--html", page).returncode == 0
    assert "<b>" not in page.read_text()


def test_a_page_of_pictures_that_are_gone(
    exported: Path, photos: Path, inside: Hier, tmp_path: Path
) -> None:
    """The answer stands, the page names what it cannot show."""
    album, index, page = tmp_path / "album", tmp_path / "idx.faiss", tmp_path / "found.html"
    shutil.copytree(photos / "kind0", album)
    words = ("embed", album, "--model", exported, "--index", index, "--no-thumbnails")
    assert inside(*words).returncode == 0
    gone = sorted(album.iterdir())[1]
    gone.unlink()
    done = inside("search", photos / "kind0", "--index", index, "-k", "50", "--html", page)
    assert done.returncode == 0
    assert b"1 image without a thumbnail" in done.stderr
    assert os.fsencode(gone) in done.stderr
    assert str(gone) in page.read_text()
    page.unlink()
    done = inside("search", photos / "kind0", "--index", index, "-k", "50", "--html", page,
                  "--strict")  # fmt: skip
    assert (done.returncode, page.exists()) == (2, False)


def test_an_index_by_a_link(
    index: Path, photos: Path, exported: Path, inside: Hier, tmp_path: Path
) -> None:
    link = tmp_path / "link.faiss"
    link.symlink_to(index)
    search = ("search", photos / "kind0" / "photo0.jpg", "--json", "--index")
    assert inside(*search, link).stdout == inside(*search, index).stdout
    for words in (("hierarchy", "--index", link), ("embed", photos, "--index", link)):
        done = inside(*words, *(("--model", exported) if words[0] == "embed" else ()))
        assert done.returncode == 0


def test_conditions_that_say_nothing(index: Path, photos: Path, inside: Hier) -> None:
    for text, words in (
        ("robin", b"label=PATTERN"), ("colour=red", b"has no level"),
        ("label=", b"no image matches"),  # none is without a label

    ):  # fmt: skip
        done = inside("search", photos, "--index", index, "--where", text)
        assert (done.returncode, words in done.stderr) == (2, True)
