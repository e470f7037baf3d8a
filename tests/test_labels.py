"""What a label is; tables that contradict themselves are refused or named, not scored quietly."""

import json
import os
import unicodedata
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from conftest import Hier, paint
from PIL import Image
from pyarrow import parquet
from test_index import Colours

from hiercli import Collection, collection_files
from hiercli.collection import concatenate
from hiercli.data import catalogue
from hiercli.data.listing import gather
from hiercli.data.taxonomy import read_taxonomy
from hiercli.errors import DataError, FileFormatError, HierError, InputError
from hiercli.evaluation import retrieval, taxonomy
from hiercli.hierarchy.naming import shared_group
from hiercli.index import update
from hiercli.index.reader import Reader
from hiercli.labels import as_label, merged_levels

TEXT = ["x", "x", "y", "y", *["robin"] * 4, *["wren"] * 4]
SPLIT = ["train"] * 4 + ["test"] * 8


def manifest(folder: Path, labels: pa.Array, **columns: pa.Array) -> Path:
    paths = [f"{number}.png" for number in range(12)]
    table = pa.table({"path": paths, "label": labels, "split": SPLIT, **columns})
    parquet.write_table(table, folder / "m.parquet")
    return folder / "m.parquet"


@pytest.mark.parametrize(
    "labels",
    [pa.array(TEXT), pa.array(TEXT).dictionary_encode(), pa.array(TEXT, pa.large_string()),
     pa.array([text.encode() for text in TEXT]),
     pa.array([text.encode() for text in TEXT]).dictionary_encode()],
)  # fmt: skip
def test_text_however_it_is_stored(labels: pa.Array, tmp_path: Path) -> None:
    data = catalogue.load(str(manifest(tmp_path, labels)))
    assert sorted({record.label for record in data.query}) == ["robin", "wren"]


NUMBERS = [0.0] * 8 + [1.0] * 4


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (pa.array([*TEXT[:5], None, *TEXT[6:]]), "row 6 has no label"),
        (pa.array([*TEXT[:5], "", *TEXT[6:]]), "row 6 has no label"),
        (pa.array([*NUMBERS[:5], float("nan"), *NUMBERS[6:]]), "found double"),
        (pa.array(NUMBERS), "found double"),
        (pa.array([[text] for text in TEXT]), "found list"),
        (pa.array([{"name": text} for text in TEXT]), "found struct"),
        (pa.array([True] * 6 + [False] * 6), "found bool"),
        (pa.array([b"\xff\xfe"] * 12), "row 1 is not UTF-8"),
    ],
)
def test_what_is_no_label_is_refused_with_its_row(
    labels: pa.Array, words: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=words):
        catalogue.load(str(manifest(tmp_path, labels)))
    # The same rule for the labels of embeddings; but there an image may have none.
    points = pa.array([[0.1, 0.2]] * 12)
    table = pa.table({"path": ["a.jpg"] * 12, "point": points, "label": labels})
    parquet.write_table(table, tmp_path / "e.parquet")
    if words.endswith("has no label"):
        assert (collection_files.read(tmp_path / "e.parquet").labels or ())[5] == ""
        return
    with pytest.raises(DataError, match=words):
        collection_files.read(tmp_path / "e.parquet")


def test_labels_of_an_archive(tmp_path: Path) -> None:
    points = np.zeros((2, 2), np.float32)
    for labels, right in (
        (np.array(["a", "b"]), ["a", "b"]),
        (np.array([b"a", b"b"]), ["a", "b"]),
        (np.array([7, 8]), ["7", "8"]),
        (np.array(["a", ""]), ["a", ""]),
    ):
        np.savez(tmp_path / "v.npz", points=points, labels=labels)
        assert collection_files.read(tmp_path / "v.npz").labels == right
    bad: list[Any] = [np.array([1.0, np.nan]), np.array([b"\xff", b"b"])]
    for labels in bad:
        np.savez(tmp_path / "v.npz", points=points, labels=labels)
        with pytest.raises(DataError):
            collection_files.read(tmp_path / "v.npz")


def test_one_spelling_of_a_label(tmp_path: Path, exported: Path, inside: Hier) -> None:
    """macOS stores the letters of names decomposed, people type them composed."""
    composed = "Café"
    decomposed = unicodedata.normalize("NFD", composed)
    assert composed != decomposed
    assert as_label(decomposed) == composed
    rng = np.random.default_rng(0)
    for folder in (decomposed, "wren"):
        (tmp_path / "p" / folder).mkdir(parents=True)
        for number in range(2):
            pixels = rng.integers(0, 256, (30, 30, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "p" / folder / f"{number}.png")
    index = tmp_path / "i.faiss"
    inside("embed", tmp_path / "p", "--model", exported, "--index", index)
    photo = tmp_path / "p" / "wren" / "0.png"
    for typed in (composed, decomposed, f"{composed[:3]}*"):
        done = inside("search", photo, "--index", index, "--where", f"label={typed}", "--json")
        assert len(json.loads(done.stdout)["results"]) == 2


# ----------------------------------------------------------------------------- rows and columns


def written(folder: Path, rows: list[str], header: str = "path,label,split") -> str:
    (folder / "m.csv").write_text("\n".join([header, *rows]) + "\n")
    return str(folder / "m.csv")


PLAIN = ["a.png,x,train", "b.png,y,train", "c.png,robin,test", "d.png,robin,test"]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([*PLAIN, "c.png,wren,test"], "two labels, robin in row 3 and wren in row 5"),
        ([*PLAIN, "./x/../c.png,wren,test"], "two labels"),
        ([*PLAIN[:2], "c.png,robin,query", "c.png,robin,gallery"], "find itself"),
        ([*PLAIN, "e.png,robin,tests"], "a split of train, test"),
        ([*PLAIN, "e.png,,test"], "row 5 has no label"),
    ],
)
def test_rows_that_contradict_each_other(rows: list[str], words: str, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    with pytest.raises(DataError, match=words):
        catalogue.load(written(tmp_path, rows))


def test_two_columns_of_one_name(tmp_path: Path) -> None:
    rows = [f"{row},{number}" for number, row in enumerate(PLAIN)]
    with pytest.raises(DataError, match="label appears twice"):
        catalogue.load(written(tmp_path, rows, "path,label,split,label"))


def test_a_row_that_stands_twice_counts_once(tmp_path: Path) -> None:
    data = catalogue.load(written(tmp_path, [*PLAIN, *PLAIN[2:]]))
    assert len(data.query) == 2
    assert any("2 rows" in note and "row 5 repeats row 3" in note for note in data.notes)


def test_pictures_that_are_trained_and_tested_on_are_named(tmp_path: Path) -> None:
    rows = [*PLAIN, "a.png,x,test", "b.png,y,val"]
    data = catalogue.load(written(tmp_path, rows))
    assert [record.label for record in data.validation] == ["y"]
    assert sum("also training images" in note for note in data.notes) == 2


@pytest.mark.parametrize("name", ["val", "valid", "validation", "dev", "Val"])
def test_every_name_of_validation(name: str, photos: Path, tmp_path: Path) -> None:
    data = catalogue.load(written(tmp_path, [*PLAIN, f"e.png,z,{name}"]))
    assert [record.label for record in data.validation] == ["z"]
    for number, part in enumerate(("train", name.lower(), "test")):
        for label in range(2):
            folder = tmp_path / "f" / part / f"kind{2 * number + label}"
            folder.mkdir(parents=True)
            for photo in sorted((photos / f"kind{label}").iterdir())[:2]:
                (folder / photo.name).write_bytes(photo.read_bytes())
    data = catalogue.load(str(tmp_path / "f"))
    assert {record.label for record in data.validation} == {"kind2", "kind3"}
    assert ({r.label for r in data.train}, data.problems) == ({"kind0", "kind1"}, ())


def test_a_part_that_is_only_scored_needs_nothing_to_learn_from(tmp_path: Path) -> None:
    source = written(tmp_path, PLAIN[2:])
    assert len(catalogue.load(source, to_train=False).query) == 2
    with pytest.raises(DataError, match="at least 2 training classes"):
        catalogue.load(source)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("path,label\na.png,x\n".encode("utf-16"), "is UTF-16"),
        ("path,label\na.png,Grünfink\n".encode("latin-1"), "Latin-1"),
        (b"path;label\na.png;x\n", "expected the columns path and label"),
        (b"", "cannot be read as csv"),
        (b'path,label\n"a.png,x\n', "cannot be read as csv|expected"),
    ],
)
def test_tables_in_other_encodings_are_called_by_name(
    content: bytes, words: str, tmp_path: Path
) -> None:
    (tmp_path / "UP.CSV").write_bytes(content)
    with pytest.raises(HierError, match=words):
        catalogue.load(str(tmp_path / "UP.CSV"))


# ----------------------------------------------------------------------------------- taxonomies


def levelled(folder: Path, rows: list[str], header: str) -> catalogue.Dataset:
    lines = [f"{number}.png,{row}" for number, row in enumerate(rows)]
    return catalogue.load(written(folder, lines, f"path,label,split,{header}"))


def test_a_column_in_which_a_class_has_two_values_is_no_level(tmp_path: Path) -> None:
    rows = ["a,train,winter,g1", "b,train,summer,g1", "a,test,summer,g1", "c,test,winter,g2"]
    data = levelled(tmp_path, rows, "season,genus")
    assert data.level_names == ("genus",)
    assert [record.levels for record in data.train] == [("g1",), ("g1",)]
    (note,) = data.notes
    assert "season" in note
    assert "a has winter in row 1 and summer in row 3" in note


def test_a_group_with_two_parents_is_two_groups_and_named(tmp_path: Path) -> None:
    rows = ["jeans,train,denim,men", "skirt,train,denim,women", "coat,test,wool,men",
            "scarf,test,wool,men"]  # fmt: skip
    data = levelled(tmp_path, rows, "fabric,section")
    assert data.level_names == ("fabric", "section")
    (note,) = data.notes
    assert "fabric denim has two parents, men (row 1) and women (row 2)" in note


def test_levels_from_coarse_to_fine_are_refused(tmp_path: Path) -> None:
    rows = ["a,train,bird,gull", "b,train,bird,tern", "c,test,bird,gull", "d,test,mammal,cat"]
    with pytest.raises(DataError, match="from fine to coarse"):
        levelled(tmp_path, rows, "order,genus")


def test_columns_of_other_things_are_no_levels(tmp_path: Path) -> None:
    file = manifest(tmp_path, pa.array(TEXT), sharpness=pa.array([0.5] * 12))
    data = catalogue.load(str(file))
    assert data.level_names == ()
    assert "sharpness" in data.notes[0]


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("class_name,genus\nwren,a\nwren,b\n", "class wren has different groups in line 2 and"),
        ("class_name,order,genus\na,o,1\nb,o,2\nc,o,1\nd,p,3\n", "from fine to coarse"),
        ("class_name,genus\nwren\n", "expected 2 columns in line 2"),
        ("class_name,genus\nwren,a,b\n", "expected 2 columns in line 2"),
        ("class_name,genus,genus\nwren,a,b\n", "different names"),
    ],
)
def test_taxonomies_that_contradict_themselves(table: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(table)
    with pytest.raises(DataError, match=words):
        read_taxonomy(tmp_path / "t.csv")


def test_groups_of_one_name_under_two_parents_are_not_merged() -> None:
    """Denim of men and denim of women are as far apart as the sections are."""
    lines = [("denim", "men"), ("wool", "men"), ("denim", "women"), ("wool", "women")]
    assert taxonomy.lca_heights(lines).tolist() == [
        [0, 2, 3, 3], [2, 0, 3, 3], [3, 3, 0, 2], [3, 3, 2, 0]
    ]  # fmt: skip
    # By bare names the fabrics were groups of two, with a purity in any tree.
    assert taxonomy.purities([[0, 1], [2, 3], [4, 5]], lines, ("fabric", "section")) == {
        "section": 1.0
    }


# -------------------------------------------------------------------------------------- scoring


def test_a_gallery_comes_with_its_labels() -> None:
    points = np.eye(4, dtype=np.float32) / 2
    labels = ["a", "a", "b", "b"]
    for gallery, names in ((points, None), (None, labels)):
        with pytest.raises(DataError, match="got only one of them"):
            retrieval.score(points, labels, gallery, names, c=0.1)
    with pytest.raises(DataError, match="a label for each point"):
        retrieval.score(points, labels[:3], c=0.1)
    with pytest.raises(DataError, match="a label for each point"):
        retrieval.score(points, labels, points, labels[:3], c=0.1)


def test_queries_without_an_answer_are_counted_aloud(
    tmp_path: Path, photos: Path, exported: Path, inside: Hier
) -> None:
    names = sorted(str(photo) for photo in photos.rglob("*.jpg"))[:5]
    labels = ["a", "a", "lone1", "lone2", "lone3"]
    rows = [f"{name},{label},test" for name, label in zip(names, labels, strict=True)]
    done = inside("eval", "--model", exported, "--data", written(tmp_path, rows))
    assert b"3 of 5 queries have no other image of their class" in done.stderr
    assert b"unanswerable" in done.stdout


# ----------------------------------------------------------------------------------- embeddings


@pytest.mark.parametrize("suffix", [".npy", ".parquet"])
@pytest.mark.parametrize("with_labels", [True, False])
def test_what_is_written_without_paths_and_encoder_is_read_again(
    tmp_path: Path, suffix: str, with_labels: bool
) -> None:
    given = Collection(points=np.eye(3, 4, dtype=np.float32) / 9, c=0.1,
                       labels=["a", "b", "a"] if with_labels else None)  # fmt: skip
    given.write(tmp_path / f"v{suffix}")
    found = Collection.read(tmp_path / f"v{suffix}")
    assert found.paths is None
    assert found.labels == given.labels
    assert (found.fingerprint, found.c) == (None, 0.1)
    assert np.array_equal(found.points, given.points)


@pytest.mark.parametrize("suffix", [".npy", ".parquet"])
def test_splits_are_written_and_read(tmp_path: Path, suffix: str) -> None:
    given = Collection(
        points=np.eye(3, 4, dtype=np.float32) / 9, c=0.1, splits=["train", "", "test"],
        levels=[("a",), ("b",), ("a",)], level_names=("split",), labels=["x", "y", "z"],
    )  # fmt: skip
    given.write(tmp_path / f"v{suffix}")
    found = Collection.read(tmp_path / f"v{suffix}")
    assert found.splits == given.splits and found.levels == given.levels
    assert concatenate([found[1:], found[:1]]).splits == ["", "test", "train"]
    with pytest.raises(InputError, match="expected splits for 3 points"):
        replace(given, splits=["train"])


def test_a_folder_of_parquet_that_a_cluster_wrote(tmp_path: Path) -> None:
    points = pa.array([[0.1, 0.2], [0.3, 0.1]], pa.list_(pa.float32(), 2))
    for number in range(2):
        table = pa.table({"path": [f"{number}a.jpg", f"{number}b.jpg"], "point": points})
        table = table.replace_schema_metadata({b"hier": b'{"fingerprint": "f", "c": 0.1}'})
        parquet.write_table(table, tmp_path / f"part-{number:06d}.parquet")
    (tmp_path / "hier.json").write_text('{"pictures": 4, "shard": 2}')
    stored = collection_files.read(tmp_path)
    assert stored.paths == ["0a.jpg", "0b.jpg", "1a.jpg", "1b.jpg"]
    assert (stored.points.shape, stored.c) == ((4, 2), 0.1)
    (tmp_path / "hier.json").write_text('{"pictures": 6, "shard": 2}')
    with pytest.raises(InputError, match="expected 3 files"):
        collection_files.read(tmp_path)
    (tmp_path / "hier.json").write_text("[" * 100_000)
    with pytest.raises(FileFormatError, match="damaged"):
        collection_files.read(tmp_path)


def test_suffixes_in_capitals(exported: Path, photos: Path, inside: Hier, tmp_path: Path) -> None:
    assert inside("embed", photos, "--model", exported, "-o", tmp_path / "V.NPY").returncode == 0
    (tmp_path / "UP.CSV").write_text("path,label,split\n" + "".join(
        f"{photo},{photo.parent.name},test\n" for photo in sorted(photos.rglob("*.jpg"))[:9]
    ))  # fmt: skip
    done = inside("eval", "--model", exported, "--data", tmp_path / "UP.CSV")
    assert done.returncode == 0
    done = inside("hierarchy", "--points", tmp_path / "V.NPY", "--model", exported)
    assert done.returncode == 0
    assert os.path.exists(tmp_path / "V.paths.txt")


# ------------------------------------------------------------------------------------- the one rule


def images_at(root: Path, *names: str) -> Path:
    """Small images, each of a colour of its own."""
    for number, name in enumerate(names):
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (number * 37 % 256, number * 91 % 256, 60)).save(file)
    return root


def labelled(*paths: Path, nested: bool = False) -> dict[str, tuple[str, tuple[str, ...]]]:
    found = gather(paths, nested=nested).records
    return {record.path.name: (record.label, record.levels) for record in found}


def test_the_label_is_the_first_folder_below_the_given_one(tmp_path: Path) -> None:
    root = images_at(tmp_path / "birds", "Wren/2023/a.png", "Wren/b.png", "Jay/x/y/c.png", "d.png")
    right = {"a.png": ("Wren", ()), "b.png": ("Wren", ()), "c.png": ("Jay", ())}
    assert labelled(root) == right | {"d.png": ("birds", ())}
    assert labelled(root / "Wren") == {"a.png": ("2023", ()), "b.png": ("Wren", ())}
    assert labelled(root / "Wren" / "b.png") == {"b.png": ("Wren", ())}
    # The first of several that hold it decides.
    assert labelled(root, root / "Wren")["a.png"] == ("Wren", ())
    assert not gather([root]).notes


def test_what_is_skipped_is_no_class(exported: Path, inside: Hier, tmp_path: Path) -> None:
    root = images_at(tmp_path / "birds", "Jay/a.png", "Tit/b.png")
    (root / "Wren").mkdir()
    (root / "Wren" / "cut.png").write_bytes((root / "Jay" / "a.png").read_bytes()[:60])
    for target in (["-o", tmp_path / "v.npy"], ["--index", tmp_path / "i.faiss"]):
        done = inside("embed", root, "--model", exported, *target)
        assert done.returncode == 3
        assert b"2 classes, no levels above them, from folders" in done.stderr


def test_nested_folders_are_levels(tmp_path: Path) -> None:
    root = images_at(
        tmp_path / "shop", "Men/Denim/a.png", "Women/Denim/b.png", "Women/Coats/c.png", "Hats/d.png"
    )
    assert labelled(root, nested=True) == {
        "a.png": ("Men/Denim", ("Men",)), "b.png": ("Women/Denim", ("Women",)),
        "c.png": ("Coats", ("Women",)), "d.png": ("Hats", ("",)),
    }  # fmt: skip
    deep = images_at(tmp_path / "birds", "o/f/g/s/a.png", "o/f/h/t/b.png")
    assert labelled(deep, nested=True)["a.png"] == ("s", ("g", "f", "o"))
    assert gather([deep], nested=True).level_names == ("level1", "level2", "level3")
    assert "--nested" in gather([deep]).notes[0]


def test_folders_that_part_a_data_set_are_no_labels(tmp_path: Path) -> None:
    names = [f"{side}/{label}/{n}{label}.png" for side in ("train", "val", "test")
             for label in ("Jay", "Tit") for n in range(2)]  # fmt: skip
    root = images_at(tmp_path / "birds", *names)
    assert {label for label, _ in labelled(root).values()} == {"Jay", "Tit"}
    data = catalogue.load(str(root))
    assert {record.label for record in data.query} == {"Jay", "Tit"}
    alone = images_at(tmp_path / "trains", "train/1.png", "bus/2.png")  # a class of that name
    assert labelled(alone) == {"1.png": ("train", ()), "2.png": ("bus", ())}


@pytest.mark.parametrize("nested", [False, True])
def test_training_and_index_agree_on_labels(tmp_path: Path, nested: bool) -> None:
    root = images_at(tmp_path / "b", *(f"o{n % 2}/s{n}/i/{n}{k}.png" for n in range(8)
                                       for k in range(2)))  # fmt: skip
    data = catalogue.load(str(root), nested=nested, to_train=False, test_share=0)
    trained = {record.path.name: (record.label, record.levels) for record in data.train}
    assert trained == labelled(root, nested=nested)
    assert not data.query


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
def test_a_table_reaches_index_search_tree_and_review(
    suffix: str, photos: Path, exported: Path, inside: Hier, tmp_path: Path
) -> None:
    files = sorted(photos.glob("kind[0-3]/*.jpg"))
    columns = {
        "image": [os.path.relpath(file, tmp_path) for file in files],
        "class": [f"C{file.parent.name[4:]}" for file in files],
        "genus": [f"G{int(file.parent.name[4:]) // 2}" for file in files],
        "family": ["F"] * len(files),
    }
    table = tmp_path / f"t{suffix}"
    if suffix == ".parquet":
        parquet.write_table(pa.table(columns), table)
    else:
        mark = "," if suffix == ".csv" else "\t"
        rows = zip(*columns.values(), strict=True)
        table.write_text("\n".join(map(mark.join, [tuple(columns), *rows])) + "\n")
    index = tmp_path / "i.faiss"
    done = inside("embed", table, "--model", exported, "--index", index, "-o", tmp_path / "v.npy")
    assert done.returncode == 0, done.stderr
    assert b"4 classes, 2 levels above them (genus, family), from a table" in done.stderr
    done = inside("search", files[0], "--index", index, "--where", "genus=G1", "--json")
    hits = json.loads(done.stdout)["results"]
    assert {hit["label"] for hit in hits} == {"C2", "C3"}
    assert hits[0]["levels"] == {"genus": "G1", "family": "F"}
    done = inside("search", files[0], "--index", index, "-k", "1", "--csv")
    assert done.stdout.decode().splitlines()[1].endswith('"G0","F"')
    done = inside("search", files[0], "--index", index, "--where", "order=X")
    assert done.returncode == 2 and b"has no level" in done.stderr
    names = inside("hierarchy", "--index", index).stdout.decode()
    assert names.startswith("F · 24 photos")
    done = inside("hierarchy", "suggest", "--index", index, "--confidence", "0", "--json")
    shared = {(one["label"], one["proposal"]): one["shared"]
              for one in map(json.loads, done.stdout.splitlines())}  # fmt: skip
    assert shared and set(shared.values()) <= {"genus G0", "genus G1", "family F"}
    done = inside("eval", "--points", tmp_path / "v.npy", "--taxonomy", "own", "--json")
    assert done.returncode == 0, done.stderr
    judged = json.loads(done.stdout)["judgement"]["average linkage"]
    assert {"purity@genus", "purity@family"} <= set(judged)
    # An update without the table keeps what it said of the others, and labels by folder.
    assert inside("embed", photos / "kind0", "--model", exported, "--index", index).returncode == 0
    done = inside("search", files[0], "--index", index, "-k", "24", "--json")
    labels = {hit["label"] for hit in json.loads(done.stdout)["results"]}
    assert labels == {"kind0", "C1", "C2", "C3"}


def test_columns_of_a_table_go_by_several_names(tmp_path: Path) -> None:
    images_at(tmp_path, "a.png", "b.png")
    for header in ("path,label", "filename,class", "image,label", "file,class"):
        (tmp_path / "t.csv").write_text(f"{header}\na.png,Jay\nb.png,Tit\n")
        assert labelled(tmp_path / "t.csv") == {"a.png": ("Jay", ()), "b.png": ("Tit", ())}
    (tmp_path / "t.csv").write_text("path\na.png\n")
    found = gather([tmp_path / "t.csv"])
    assert found.records[0].label == tmp_path.name and "no column label" in found.notes[0]
    (tmp_path / "t.csv").write_text("where,label\na.png,Jay\n")
    with pytest.raises(DataError, match="columns path and label"):
        gather([tmp_path / "t.csv"])


def test_levels_stay_in_order_where_the_first_image_lacks_one(tmp_path: Path) -> None:
    """Its own levels say nothing of where the one that it lacks belongs."""
    for number, place in enumerate(("Apodiformes/Trochilidae/a_wren",
                                    "Passeriformes/Icteridae/Icterus/b_oriole",
                                    "Passeriformes/Icteridae/Icterus/c_oriole")):  # fmt: skip
        paint(tmp_path / "birds" / place / "1.png", number)
    index = tmp_path / "idx.faiss"
    update.update(index, [tmp_path / "birds"], Colours(), nested=True)
    with closing(Reader(index)) as reader:
        assert reader.level_names == ("level1", "level2", "level3")
        images = reader.collection_of(reader.rows())
    assert images.lineages == {
        "a_wren": ("", "Trochilidae", "Apodiformes"),
        "b_oriole": ("Icterus", "Icteridae", "Passeriformes"),
        "c_oriole": ("Icterus", "Icteridae", "Passeriformes"),
    }
    assert merged_levels([["a", "b"], ["b", "a"]]) == ("a", "b")


def test_a_class_without_a_genus_is_of_its_family_all_the_same() -> None:
    assert (
        shared_group([("", "Trochilidae", "X"), ("Calypte", "Trochilidae", "X")]) == "Trochilidae"
    )
    assert shared_group([("Icterus", "", ""), ("Icterus", "Icteridae", "X")]) == ""
    assert shared_group([("", "", ""), ("", "", "")]) == ""


def test_other_labels_are_counted(tmp_path: Path) -> None:
    """They are a change, though no image has changed."""
    for number in range(3):
        paint(tmp_path / "birds" / f"kind{number}" / "1.png", number)
    index = tmp_path / "idx.faiss"
    rows = "".join(f"birds/kind{number}/1.png,kind{number},genus{number}\n" for number in range(3))
    (tmp_path / "birds.csv").write_text("Path,Label,Genus\n" + rows)
    update.update(index, [tmp_path / "birds.csv"], Colours())
    done = update.update(index, [tmp_path / "birds"], Colours())
    assert (done.relabelled, done.unchanged, done.embedded) == (3, 0, 0)
    done = update.update(index, [tmp_path / "birds"], Colours())
    assert (done.relabelled, done.unchanged) == (0, 3)
