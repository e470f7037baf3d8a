"""`hier hierarchy` with its subcommands, `hier eval --taxonomy`, `hier search` along the tree."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import Hier, reference
from PIL import Image

from hiercli import collection_files
from hiercli.errors import FileFormatError, InputError
from hiercli.geometry import poincare
from hiercli.hierarchy import formats


def told(done: object) -> str:
    assert done.returncode in (0, 3), done.stderr.decode()  # type: ignore[attr-defined]
    text: str = done.stdout.decode()  # type: ignore[attr-defined]
    return text


@pytest.fixture
def points(index: Path, photos: Path, exported: Path, inside: Hier, tmp_path: Path) -> Path:
    file = tmp_path / "points.npy"
    told(inside("embed", photos, "--model", exported, "-o", file))
    return file


@pytest.fixture
def levels(tmp_path: Path) -> Path:
    file = tmp_path / "levels.csv"
    rows = [f"kind{n},pair{n // 2},half{n // 4}\n" for n in range(8)]
    file.write_text("kind,pair,half\n" + "".join(rows))
    return file


# -- the tree -----------------------------------------------------------------------------------


@pytest.mark.parametrize("leaves", ["classes", "proxies"])
@pytest.mark.parametrize("format", ["text", "json", "newick", "graphml", "csv", "html"])
def test_every_format_of_a_tree_over_photos(
    format: str, leaves: str, index: Path, inside: Hier, tmp_path: Path
) -> None:
    words = ("hierarchy", "--index", index, "--format", format, "--leaves", leaves)
    file = tmp_path / f"tree.{format}"
    told(inside(*words, "-o", file))
    assert "kind" in file.read_text()
    if format != "html":
        assert told(inside(*words)) == file.read_text()


def test_an_index_and_its_points_give_one_tree(
    index: Path, points: Path, exported: Path, inside: Hier
) -> None:
    trees = [
        formats.from_json(told(inside("hierarchy", *source, "--json")), "x")
        for source in (("--index", index), ("--points", points, "--model", exported))
    ]
    assert trees[0] == trees[1]
    assert {leaf.name for leaf in trees[0].leaves} == {f"kind{n}" for n in range(8)}
    assert trees[0].size == 48
    assert Path(str(trees[0].photo)).is_file()


def test_cut_and_rooted(index: Path, inside: Hier) -> None:
    whole = formats.from_json(told(inside("hierarchy", "--index", index, "--json")), "x")
    cut = formats.from_json(
        told(inside("hierarchy", "--index", index, "--depth", 1, "--json")), "x"
    )
    assert [node.id for node in cut.walk()][1:] == [child.id for child in whole.children]
    part = told(inside("hierarchy", "--index", index, "--root", "kind4", "--json"))
    assert formats.from_json(part, "x").children == ()
    done = inside("hierarchy", "--index", index, "--root", "kind44")
    assert done.returncode == 2
    assert b"Similar names: kind4" in done.stderr


def test_pictures_in_a_terminal_tree(index: Path, inside: Hier, trained: Path) -> None:
    drawn = told(inside("hierarchy", "--index", index, "--images", "--thumbnails", "blocks"))
    assert "▀" in drawn or "▄" in drawn
    assert all(f"kind{n}" in drawn for n in range(8))
    done = inside("hierarchy", "--checkpoint", trained / "best.pt", "--images")
    assert done.returncode == 2
    assert b"--index" in done.stderr


def test_the_general_encoder_has_names(inside: Hier) -> None:
    done = inside("hierarchy", "--depth", 3)
    assert "1000 classes" in told(done).splitlines()[0]
    assert b"the tree of" in done.stderr
    whole = told(inside("hierarchy"))
    assert "Siamese cat" in whole and "mostly terrier" in whole


def test_a_page_says_which_photos_it_lacks(
    exported: Path, photos: Path, inside: Hier, tmp_path: Path
) -> None:
    album, index = tmp_path / "album", tmp_path / "idx.faiss"
    for file in photos.rglob("*.jpg"):
        (album / file.parent.name).mkdir(parents=True, exist_ok=True)
        (album / file.parent.name / file.name).write_bytes(file.read_bytes())
    told(inside("embed", album, "--model", exported, "--index", index, "--no-thumbnails"))
    (album / "kind1" / "photo2.jpg").unlink()
    done = inside("hierarchy", "--index", index, "--format", "html", "-o", tmp_path / "t.html")
    assert done.returncode == 3
    assert b"photo2.jpg" in done.stderr
    assert (tmp_path / "t.html").is_file()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--format", "html"), "-o tree.html"),
        (("--checkpoint", "a.pt", "--model", "b.onnx"), "got both"),
        (("--index", "INDEX", "--points", "p.npy"), "one of --index and --points"),
        (("--index", "INDEX", "-o", "INDEX"), "would overwrite"),
        (("--index", "missing.faiss"), "missing.faiss"),
        (("--index", "milvus:birds.db"), "expected an index file"),
        (("--points", "missing.npy"), "missing"),
        (("--points", "POINTS"), "--model"),
        (("--thumbnails", "sketch"), "kitty"),
        (("--index", "INDEX", "-o", "CATALOGUE"), "would overwrite"),
        (("--leaves", "proxies"), "--index or --points"),
        (("--index", "INDEX", "suggest"), "got --index before it"),
    ],
)
def test_what_does_not_go(
    words: tuple[str, ...], said: str, index: Path, points: Path, inside: Hier
) -> None:
    places = {"INDEX": index, "POINTS": points, "CATALOGUE": f"{index}.sqlite"}
    done = inside("hierarchy", *(places.get(word, word) for word in words))
    assert done.returncode == 2
    assert said in done.stderr.decode()
    assert "Traceback" not in done.stderr.decode()


def test_photos_without_labels_are_grouped_by_proxy(
    exported: Path, photos: Path, inside: Hier, tmp_path: Path
) -> None:
    """The three-minute path with one folder of unsorted photos."""
    album, index = tmp_path / "album", tmp_path / "idx.faiss"
    album.mkdir()
    for number, file in enumerate(sorted(photos.rglob("*.jpg"))):
        (album / f"{number}.jpg").write_bytes(file.read_bytes())
    told(inside("embed", album, "--model", exported, "--index", index))
    done = inside("hierarchy", "--index", index, "--json")
    assert b"groups of images by proxy" in done.stderr
    tree = formats.from_json(told(done), "x")
    assert tree.size == 48 and tree.purity is None
    assert all(leaf.name.startswith("group ") for leaf in tree.leaves)
    page = tmp_path / "tree.html"
    told(inside("hierarchy", "--index", index, "--format", "html", "-o", page))
    assert "47.jpg" in page.read_text()


def test_names_that_are_not_utf_8(
    exported: Path, photos: Path, inside: Hier, tmp_path: Path
) -> None:
    album, index = os.fsencode(tmp_path / "album"), tmp_path / "idx.faiss"
    for kind in (b"caf\xe9", b"caf\xe8", b"tea"):
        os.makedirs(album + b"/" + kind)
        for number in range(2):
            with open(album + b"/" + kind + b"/%d.jpg" % number, "wb") as file:
                file.write((photos / "kind0" / f"photo{number}.jpg").read_bytes())
    told(inside("embed", os.fsdecode(album), "--model", exported, "--index", index))
    for format in ("text", "json", "csv", "newick", "graphml"):
        done = inside("hierarchy", "--index", index, "--format", format)
        assert done.returncode == 0, done.stderr
    page = tmp_path / "t.html"
    told(inside("hierarchy", "--index", index, "--format", "html", "-o", page))
    assert page.read_text("utf-8").count("\ufffd") > 0


def test_cut_pages_keep_their_photos(index: Path, inside: Hier, tmp_path: Path) -> None:
    page = tmp_path / "t.html"
    told(inside("hierarchy", "--index", index, "--depth", 0, "--format", "html", "-o", page))
    text = page.read_text()
    assert all(f"kind{kind}/photo{n}.jpg" in text for kind in range(8) for n in range(6))


# -- diff and suggest ---------------------------------------------------------------------------


def test_trees_of_all_kinds_can_be_compared(index: Path, inside: Hier, tmp_path: Path) -> None:
    files = [index]
    for format in ("json", "newick"):
        file = tmp_path / ("tree.nwk" if format == "newick" else "tree.json")
        told(inside("hierarchy", "--index", index, "--format", format, "-o", file))
        files.append(file)
    for file in files[1:]:
        found = json.loads(told(inside("hierarchy", "diff", index, file, "--json")))
        assert (found["distance"], found["num_leaves"], found["moves"]) == (0, 8, [])
    tree = files[2].read_text()
    files[2].write_text(tree.replace("kind0", "x").replace("kind7", "kind0").replace("x", "kind7"))
    found = json.loads(told(inside("hierarchy", "diff", index, files[2], "--json")))
    assert 0 < found["distance"] <= 1 and found["correlation"] < 0.999
    assert "Spearman correlation of LCA heights" in told(
        inside("hierarchy", "diff", index, files[2])
    )


def test_what_cannot_be_compared(index: Path, photos: Path, inside: Hier, tmp_path: Path) -> None:
    picture = next(photos.rglob("*.jpg"))
    (tmp_path / "t.nwk").write_text("(a,b,c);")
    for words, code in (
        ((index, tmp_path / "none.json"), 2), ((index, picture), 2),
        ((index, tmp_path / "t.nwk"), 2), ((index, index, "--html", index), 2),
    ):  # fmt: skip
        done = inside("hierarchy", "diff", *words)
        assert done.returncode == code
        assert done.stderr.startswith(b"error:")
        assert b"Traceback" not in done.stderr


def test_suggestions_are_a_table_to_review(
    index: Path, points: Path, exported: Path, inside: Hier, tmp_path: Path
) -> None:
    file = tmp_path / "review.csv"
    done = inside("hierarchy", "suggest", "--index", index, "-o", file, "--confidence", 0)
    told(done)
    rows = list(csv.DictReader(io.StringIO(file.read_text())))
    assert rows and list(rows[0]) == [
        "kind", "path", "label", "proposal", "of", "confidence", "branch", "shared", "reason",
        "decision", "new_label",
    ]  # fmt: skip
    assert all(Path(row["path"]).is_file() for row in rows)
    assert b"48 images checked" in done.stderr
    again = told(inside("hierarchy", "suggest", "--points", points, "--model", exported,
                        "--confidence", 0, "--json"))  # fmt: skip
    assert [json.loads(line)["path"] for line in again.splitlines()] == [r["path"] for r in rows]


def test_no_photo_and_no_source_is_written_over(
    exported: Path, photos: Path, inside: Hier, tmp_path: Path
) -> None:
    album, model = tmp_path / "album", tmp_path / "own.onnx"
    shutil.copytree(photos, album)
    shutil.copy(exported, model)
    index, points = tmp_path / "idx.faiss", tmp_path / "p.npy"
    told(inside("embed", album, "--model", model, "--index", index))
    told(inside("embed", album, "--model", model, "-o", points))
    photo = album / "kind1" / "photo1.jpg"
    held = {file: file.read_bytes() for file in tmp_path.rglob("*.*") if file.is_file()}
    of_index = ("--index", index)
    of_points = ("--points", points, "--model", model)
    for words in (
        ("hierarchy", *of_index, "--format", "html", "-o", photo),
        ("hierarchy", *of_index, "-o", model),
        ("hierarchy", "suggest", *of_index, "-o", photo),
        ("hierarchy", *of_points, "-o", tmp_path / "p.paths.txt"),
        ("hierarchy", "diff", index, index, "--html", model),
        ("search", photo, *of_index, "--html", photo),
        ("search", points, *of_index, "--html", points),
    ):
        done = inside(*words)
        assert (done.returncode, b"would overwrite" in done.stderr) == (2, True), words
    assert {file: file.read_bytes() for file in held} == held


def test_an_index_whose_encoder_has_moved(
    exported: Path, photos: Path, inside: Hier, tmp_path: Path
) -> None:
    model, index = tmp_path / "own.onnx", tmp_path / "idx.faiss"
    shutil.copy(exported, model)
    told(inside("embed", photos, "--model", model, "--index", index))
    model.unlink()
    # The index holds the proxies, so its tree needs no encoder; a new image does.
    tree = told(inside("hierarchy", "--index", index))
    assert told(inside("hierarchy", "--index", index, "--model", exported)) == tree
    known = next(photos.glob("*/*.jpg"))
    assert inside("search", known, "--index", index).returncode == 0
    Image.open(known).rotate(90).save(tmp_path / "new.png")
    done = inside("search", tmp_path / "new.png", "--index", index)
    assert done.returncode == 2
    assert b"Name it with --model" in done.stderr
    # Beside the index it is found under any name.
    (tmp_path / "a.onnx").write_bytes(b"no encoder")
    shutil.copy(exported, tmp_path / "z.onnx")
    done = inside("search", tmp_path / "new.png", "--index", index)
    assert done.returncode == 0, done.stderr.decode()


def test_a_closed_stdout_is_one_message(index: Path, tmp_path: Path) -> None:
    for words in (["hierarchy"], ["hierarchy", "suggest"], ["review"]):
        done = subprocess.run(
            ["bash", "-c", '"$0" -m hiercli "$@" >&-', sys.executable, *words, "--index", index],
            capture_output=True, check=False,
        )  # fmt: skip
        assert done.returncode == 2
        assert done.stderr.startswith(b"error: stdout is closed")


# -- judgement ----------------------------------------------------------------------------------


def test_a_hierarchy_is_judged_beside_its_controls(
    photos: Path, exported: Path, levels: Path, inside: Hier, tmp_path: Path
) -> None:
    plot = tmp_path / "judgement.png"
    words = ("eval", "--model", exported, "--data", photos, "--taxonomy", levels)
    found = json.loads(told(inside(*words, "--plot", plot, "--json")))["judgement"]
    assert list(found) == ["encoder", "random proxies", "average linkage", "permuted taxonomy"]
    assert {"purity@pair", "ancestor_depth", "hp@1", "h-ap", "asi", "ndcg"} <= set(found["encoder"])
    with Image.open(plot) as picture:
        assert picture.width > 500
    table = told(inside(*words))
    assert "permuted taxonomy" in table and "ancestor_depth" in table


def test_embeddings_are_judged_without_an_encoder(
    points: Path, exported: Path, levels: Path, inside: Hier
) -> None:
    words = ("eval", "--points", points, "--model", exported, "--taxonomy", levels, "--json")
    found = json.loads(told(inside(*words)))
    assert found["num_queries"] == 48
    assert "purity@half" in found["judgement"]["average linkage"]


def test_a_published_model_is_little_better_than_random_proxies(
    inside: Hier, tmp_path: Path
) -> None:
    arrays = reference("published_cars_embeddings.npz")
    file = tmp_path / "published.npz"
    np.savez(file, **arrays)
    found = json.loads(told(inside("eval", "--points", file, "--json")))
    # The reference counts exact ties otherwise: 9 photos of 8,054 have a twin of another class.
    assert found["recall@1"] == pytest.approx(90.91, abs=0.15)
    encoder, random = (found["judgement"][name] for name in ("encoder", "random proxies"))
    assert encoder["nmi"] == pytest.approx(0.41, abs=0.01)
    assert 0 < encoder["nmi"] - random["nmi"] < 0.05
    tree = formats.from_json(
        told(inside("hierarchy", "--points", file, "--leaves", "proxies", "--json")), "x"
    )
    assert tree.size == 8054
    assert tree.purity is not None and tree.purity < 0.02


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--taxonomy", "own"), "has no levels"),
        (("--taxonomy", "none.csv"), "none.csv is missing"),
        (("--checkpoint", "a.pt"), "--points can be combined only"),
        (("--per-class",), "got --per-class"),
        (("--data", "cub"), "got --data"),
        (("--plot", "POINTS"), "name a .png file"),
    ],
)
def test_judgements_that_cannot_be(
    words: tuple[str, ...], said: str, points: Path, exported: Path, inside: Hier
) -> None:
    more = () if "--checkpoint" in words else ("--model", exported)
    given = (points if word == "POINTS" else word for word in words)
    done = inside("eval", "--points", points, *more, *given)
    assert done.returncode == 2
    assert said in done.stderr.decode()


def test_a_plot_without_a_judgement(photos: Path, exported: Path, inside: Hier) -> None:
    done = inside("eval", "--model", exported, "--data", photos, "--plot", "x.png")
    assert done.returncode == 2
    assert b"--taxonomy" in done.stderr


# -- searching along the tree -------------------------------------------------------------------


def test_hits_are_grouped_by_branch(index: Path, photos: Path, inside: Hier) -> None:
    query = photos / "kind3" / "photo0.jpg"
    whole = formats.from_json(told(inside("hierarchy", "--index", index, "--json")), "x")
    found = json.loads(told(inside("search", query, "--index", index, "--branches", "--json")))
    assert found["specificity"] is None or 0 <= found["specificity"] <= 1
    held = {node.id: {leaf.name for leaf in node.leaves} for node in whole.walk()}
    branches = [held[hit["branch"]["id"]] for hit in found["results"]]
    assert all(hit["label"] in own for hit, own in zip(found["results"], branches, strict=True))
    assert set.intersection(*branches), "all hold the class at which the query stands"
    rows = list(csv.DictReader(io.StringIO(
        told(inside("search", query, "--index", index, "--branches", "--csv"))
    )))  # fmt: skip
    assert [row["branch"] for row in rows] == [hit["branch"]["id"] for hit in found["results"]]
    table = told(inside("search", query, "--index", index, "--branches"))
    assert f"under {found['results'][0]['branch']['name']}" in table


def test_a_search_is_broadened_along_the_tree(index: Path, photos: Path, inside: Hier) -> None:
    query = photos / "kind3" / "photo0.jpg"

    def labels(level: int, k: int, *more: str) -> list[str]:
        words = ("--index", index, "--level", level, "-k", k, "--json", *more)
        return [
            hit["label"] for hit in json.loads(told(inside("search", query, *words)))["results"]
        ]

    narrow, broad = labels(0, 6), labels(50, 8)
    assert len(set(narrow)) == 1
    assert sorted(broad) == [f"kind{n}" for n in range(8)], "one of each before a second of any"
    assert set(labels(50, 48, "--where", "label=kind[12]")) == {"kind1", "kind2"}
    done = inside("search", query, "--index", index, "--level", 1, "--where", "label=nothing")
    assert done.returncode == 2
    assert b"label=nothing" in done.stderr


def test_copies_are_folded_along_the_tree_too(
    exported: Path, photos: Path, inside: Hier, tmp_path: Path
) -> None:
    album, index = tmp_path / "album", tmp_path / "idx.faiss"
    for kind in ("kind1", "kind2"):
        (album / kind).mkdir(parents=True)
        for number in range(3):
            content = (photos / kind / f"photo{number}.jpg").read_bytes()
            for copy in range(3):
                (album / kind / f"{number}-{copy}.jpg").write_bytes(content)
    told(inside("embed", album, "--model", exported, "--index", index))
    words = ("search", album / "kind1" / "0-0.jpg", "--index", index, "--level", 9, "--unique",
             "-k", 6, "--json")  # fmt: skip
    hits = json.loads(told(inside(*words)))["results"]
    assert len(hits) == 6
    assert [len(hit["copies"]) for hit in hits] == [2] * 6
    assert [hit["rank"] for hit in hits] == [1, 2, 3, 4, 5, 6]


def test_levels_need_a_tree(index: Path, photos: Path, inside: Hier) -> None:
    query = photos / "kind3" / "photo0.jpg"
    done = inside("search", query, "--index", index, "--level", 1, "--radius", 3)
    assert done.returncode == 2
    assert b"--max-distance" in done.stderr


# -- files of embeddings ------------------------------------------------------------------------


def test_embeddings_come_back(photos: Path, exported: Path, inside: Hier, tmp_path: Path) -> None:
    written = {}
    for name in ("v.npy", "v.parquet"):
        told(inside("embed", photos, "--model", exported, "-o", tmp_path / name))
        written[name] = collection_files.read(tmp_path / name)
    npy, parquet = written.values()
    assert np.array_equal(npy.points, parquet.points)
    assert npy.paths == parquet.paths
    assert npy.labels == parquet.labels == [Path(path).parent.name for path in npy.paths or ()]
    assert npy.c == parquet.c == 0.1
    assert npy.fingerprint == parquet.fingerprint


def test_an_archive_of_another_program(tmp_path: Path) -> None:
    points = poincare.expmap0(np.eye(4) * 0.5, 0.2)
    file = tmp_path / "x.npz"
    np.savez(file, points=points, labels=["a", "b", "a", "b"], proxies=points[:2], c=0.2)
    stored = collection_files.read(file)
    assert (stored.labels, stored.c, stored.paths) == (["a", "b", "a", "b"], 0.2, None)
    assert stored.points.dtype == np.float32
    assert stored.proxies is not None and stored.proxies.shape == (2, 4)


@pytest.mark.parametrize(
    ("arrays", "kind", "words"),
    [
        ({"x": np.eye(2)}, FileFormatError, "called points"),
        ({"points": np.eye(2).astype(int)}, InputError, "floats"),
        ({"points": np.eye(2), "labels": ["a"]}, FileFormatError, "labels for 2 points"),
        ({"points": np.eye(2) / 2, "proxies": np.eye(3) / 2}, FileFormatError, "proxies of 2"),
        ({"points": np.eye(2), "c": 4.0}, FileFormatError, "outside it"),
        ({"points": np.eye(2) / 2, "proxies": np.eye(2), "c": 2.0}, FileFormatError, "outside"),
        ({"points": np.eye(2) / 2, "c": -1.0}, FileFormatError, "c above 0"),
        ({"points": np.eye(2) / 2, "c": "abc"}, FileFormatError, "c as one number"),
    ],
)
def test_archives_that_cannot_be_used(
    arrays: dict[str, object], kind: type, words: str, tmp_path: Path
) -> None:
    np.savez(tmp_path / "x.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(kind, match=words):
        collection_files.read(tmp_path / "x.npz")


def test_an_array_under_the_name_of_an_archive(tmp_path: Path) -> None:
    with open(tmp_path / "x.npz", "wb") as file:
        np.save(file, np.eye(3))
    with pytest.raises(FileFormatError, match="not a valid NumPy archive"):
        collection_files.read(tmp_path / "x.npz")


def test_a_list_of_paths_that_is_none(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.eye(2) / 2)
    (tmp_path / "x.paths.txt").write_text('a.jpg\n"b\n')
    with pytest.raises(FileFormatError, match="not a list of paths"):
        collection_files.read(tmp_path / "x.npy")


@pytest.mark.parametrize("name", ["x.npz", "x.parquet", "x.npy", "x.txt", "none.npz"])
def test_files_that_hold_no_embeddings(name: str, tmp_path: Path) -> None:
    if not name.startswith("none"):
        (tmp_path / name).write_bytes(b"what is this")
    with pytest.raises((InputError, FileFormatError), match=name):
        collection_files.read(tmp_path / name)
