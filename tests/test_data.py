"""Official layouts in miniature, folders, manifests, splits and the sampler."""

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from scipy.io import savemat

from hiercli.data import cars, catalogue
from hiercli.data.records import Dataset, Record, require_answers, split_validation
from hiercli.errors import DataError
from hiercli.training.sampler import ClassBalancedSampler


def test_cub(tmp_path: Path) -> None:
    folder = tmp_path / "CUB_200_2011"
    (folder / "images").mkdir(parents=True)
    (folder / "classes.txt").write_text("1 001.A\n2 002.B\n100 100.C\n101 101.D\n")
    (folder / "images.txt").write_text(
        "1 001.A/a.jpg\n2 002.B/b c.jpg\n3 100.C/c.jpg\n4 101.D/d.jpg\n"
    )
    (folder / "image_class_labels.txt").write_text("1 1\n2 2\n3 100\n4 101\n")
    (folder / "taxonomy.csv").write_text(
        "class_id,class_name,species,genus,family\n1,001.A,1,7,9\n"
    )
    data = catalogue.load("cub", tmp_path)
    assert [record.label for record in data.train] == ["001.A", "002.B", "100.C"]
    assert data.train[0].levels == ("7", "9")
    assert data.train[1].path == folder / "images" / "002.B/b c.jpg"
    assert [record.label for record in data.query] == ["101.D"]
    assert (data.gallery, data.recall_at, data.level_names) == (
        None,
        (1, 2, 4, 8),
        ("genus", "family"),
    )


def test_cars(tmp_path: Path) -> None:
    (tmp_path / "cars196" / "car_ims").mkdir(parents=True)
    rows = [
        ("car_ims/1.jpg", 1),
        ("car_ims/2.jpg", 98),
        ("car_ims/3.jpg", 99),
        ("car_ims/4.jpg", 99),
    ]
    annotations = np.array(rows, dtype=[("relative_im_path", "O"), ("class", "O")])
    names = np.array([f"Car {number}" for number in range(1, 197)], dtype=object)
    savemat(tmp_path / "cars196/cars_annos.mat", {"annotations": annotations, "class_names": names})
    for number in (1, 2, 3):
        (tmp_path / f"cars196/car_ims/{number}.jpg").touch()
    data = catalogue.load("cars", tmp_path)
    assert [record.label for record in data.train] == ["Car 1", "Car 98"]
    assert [record.path.name for record in data.query] == ["3.jpg"]


def test_sop(tmp_path: Path) -> None:
    folder = tmp_path / "Stanford_Online_Products"
    folder.mkdir()
    header = "image_id class_id super_class_id path\n"
    (folder / "Ebay_train.txt").write_text(
        header + "1 1 1 bicycle_final/1.JPG\n2 2 1 bicycle_final/2.JPG\n"
    )
    (folder / "Ebay_test.txt").write_text(header + "3 9 2 chair_final/3.JPG\n")
    data = catalogue.load("sop", tmp_path)
    assert (len(data.train), data.query[0].label, data.query[0].levels) == (2, "9", ("chair",))
    assert data.recall_at == (1, 10, 100, 1000)


def test_inshop_keeps_query_and_gallery_apart(tmp_path: Path) -> None:
    folder = tmp_path / "In-shop_Clothes_Retrieval_Benchmark"
    (folder / "Eval").mkdir(parents=True)
    (folder / "Img" / "img").mkdir(parents=True)
    rows = [
        ("id_1", "train"),
        ("id_2", "train"),
        ("id_3", "query"),
        ("id_3", "gallery"),
        ("id_4", "gallery"),
    ]
    lines = [
        f"img/WOMEN/Dresses/{item}/{n}.jpg   {item}   {status}"
        for n, (item, status) in enumerate(rows)
    ]
    (folder / "Eval/list_eval_partition.txt").write_text(
        "5\nimage_name item_id evaluation_status\n" + "\n".join(lines)
    )
    data = catalogue.load("inshop", tmp_path)
    assert data.gallery is not None
    assert ([r.label for r in data.query], [r.label for r in data.gallery]) == (
        ["id_3"],
        ["id_3", "id_4"],
    )
    assert data.query[0].levels == ("Dresses", "WOMEN")
    damaged = "\n".join(lines).replace("Dresses/id_3/2", "Dresses/id_3/\0")
    (folder / "Eval/list_eval_partition.txt").write_text(
        "5\nimage_name item_id evaluation_status\n" + damaged
    )
    with pytest.raises(DataError, match=r"inshop are damaged: .* zero byte"):
        catalogue.load("inshop", tmp_path)


def test_a_missing_benchmark_names_its_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"image_class_labels\.txt"):
        catalogue.load("cub", tmp_path)
    with pytest.raises(DataError, match="got 'no-such-thing'"):
        catalogue.load("no-such-thing", tmp_path)


def test_folder_of_class_folders(photos: Path) -> None:
    data = catalogue.load(str(photos))
    train, test = ({record.label for record in side} for side in (data.train, data.query))
    assert len(train) == len(test) == 4
    assert not train & test
    assert catalogue.load(str(photos), seed=1).query != data.query


def test_what_a_folder_leaves_out_is_named(
    photos: Path, tmp_path: Path, closed: Callable[[Path], None]
) -> None:
    folder = tmp_path / "photos"
    shutil.copytree(photos, folder)
    shutil.copy(folder / "kind0" / "photo0.jpg", folder / "loose.jpg")
    closed(folder / "kind7")
    data = catalogue.load(str(folder))
    assert len(data.train) + len(data.query) == 42
    assert [problem.split(": ")[0] for problem in data.problems] == [
        str(folder / "kind7"), str(folder / "loose.jpg"),
    ]  # fmt: skip
    assert catalogue.load(str(photos)).problems == ()
    for number in (3, 4, 5, 6):
        closed(folder / f"kind{number}")
    with pytest.raises(DataError, match=r"at least 4 classes.*kind\d: the folder cannot be read"):
        catalogue.load(str(folder))


def test_what_lies_beside_train_and_test_is_named(photos: Path, tmp_path: Path) -> None:
    for number, split in enumerate(("train", "train", "test", "test", "extra")):
        shutil.copytree(photos / f"kind{number}", tmp_path / split / f"kind{number}")
    picture = photos / "kind0" / "photo0.jpg"
    for name in ("loose.jpg", "train/loose.jpg", ".hidden.jpg"):
        shutil.copy(picture, tmp_path / name)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes.txt").touch()
    data = catalogue.load(str(tmp_path))
    assert (len(data.train), len(data.query)) == (12, 12)
    assert [problem.split(": ")[0] for problem in data.problems] == [
        str(tmp_path / name) for name in ("train/loose.jpg", "extra", "loose.jpg")
    ]


def test_a_test_part_without_answers_is_refused(photos: Path, tmp_path: Path) -> None:
    whole = [Record(path, path.parent.name) for path in sorted(photos.rglob("*.jpg"))]
    (tmp_path / "cut.jpg").write_bytes(whole[0].path.read_bytes()[:300])
    cut = Record(tmp_path / "cut.jpg", whole[0].label)

    def data(query: list[Record], gallery: list[Record] | None = None) -> Dataset:
        return Dataset("x", (), tuple(query), None if gallery is None else tuple(gallery))

    for query, gallery in (([], None), (whole[:2], None), (whole[:1], whole[:1])):
        require_answers(data(query, gallery))
    require_answers(data([cut, *whole[5:8]]))
    for query, gallery in (
        (whole[:1], None),
        (whole[::6], None),
        (whole[:6], whole[6:]),
        (whole[:6], []),
    ):
        with pytest.raises(DataError, match="two readable images"):
            require_answers(data(query, gallery))
    for query, gallery in (([cut, whole[0]], None), ([cut], whole), (whole[:3], [cut])):
        with pytest.raises(DataError, match=r"1 of them unreadable \(.*cut.jpg: .*damaged"):
            require_answers(data(query, gallery))


def test_folder_refusals(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="one folder per class"):
        (tmp_path / "a.jpg").touch()
        catalogue.load(str(tmp_path))
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "p.jpg").touch()
    with pytest.raises(DataError, match="at least 4 classes"):
        catalogue.load(str(tmp_path))


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_manifest(tmp_path: Path, suffix: str) -> None:
    table = pa.table(
        {
            "path": ["a.jpg", "b.jpg", "c.jpg", "d.jpg"],
            "label": ["001", "002", "003", "003"],
            "split": ["train", "train", "test", "test"],
            "genus": ["g", "g", "h", "h"],
        }
    )
    file = tmp_path / f"photos{suffix}"
    if suffix == ".csv":
        file.write_text(
            "\n".join(
                [
                    ",".join(table.column_names),
                    *(",".join(row.values()) for row in table.to_pylist()),
                ]
            )
        )
    else:
        parquet.write_table(table, file)
    data = catalogue.load(str(file))
    assert [record.label for record in data.train] == ["001", "002"]
    assert data.query[0] == Record(tmp_path / "c.jpg", "003", ("h",), "test")
    assert data.level_names == ("genus",)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("path,name\na,b\n", "columns path and label"),
        ("path,label,split\na,b,training\n", "split of"),
        ("path,label\na\n", "cannot be read"),
        ("path,label,split\na,b,query\n", "only one of query and gallery"),
        ("path,label,split\na,b,train\n", "at least 2 training classes"),
        ("", "cannot be read"),
    ],
)
def test_manifest_refusals(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "m.csv").write_text(text)
    with pytest.raises(DataError, match=words):
        catalogue.load(str(tmp_path / "m.csv"))


def records(counts: dict[str, int]) -> list[Record]:
    return [
        Record(Path(f"{label}{n}"), label) for label, count in counts.items() for n in range(count)
    ]


def test_validation_holds_out_whole_classes() -> None:
    photos = records({f"class{number}": 3 for number in range(20)})
    train, held_out = split_validation(photos, 0.2, seed=3)
    labels = [{record.label for record in side} for side in (train, held_out)]
    assert (len(labels[0]), len(labels[1])) == (16, 4)
    assert not labels[0] & labels[1]
    assert split_validation(photos, 0.2, seed=3) == (train, held_out)
    assert split_validation(photos, 0.2, seed=4)[1] != held_out
    assert split_validation(photos, 0, seed=3) == (tuple(photos), ())
    with pytest.raises(DataError, match="at least 4 classes"):
        split_validation(records({"a": 2, "b": 2, "c": 2}), 0.2, seed=0)


def test_batches_are_balanced_seeded_and_fair() -> None:
    labels = np.repeat(np.arange(7), [1, 2, 5, 9, 9, 9, 30])

    def sampler(seed: int) -> ClassBalancedSampler:
        return ClassBalancedSampler(labels, batch_size=8, samples_per_class=2, seed=seed)

    batches = list(sampler(0).batches(0))
    assert len(batches) == len(sampler(0)) == 8
    for batch in batches:
        assert Counter(Counter(labels[batch]).values()) == {2: 4}
    assert batches == list(sampler(0).batches(0))
    assert batches != list(sampler(1).batches(0))
    assert batches != list(sampler(0).batches(1))
    seen = Counter(
        index for epoch in range(12) for batch in sampler(0).batches(epoch) for index in batch
    )
    assert len(seen) == len(labels)


def test_a_class_of_one_picture_fills_its_places() -> None:
    sampler = ClassBalancedSampler(np.array([0, 1]), batch_size=180, samples_per_class=2, seed=0)
    assert sorted(next(sampler.batches(0))) == [0, 0, 1, 1]


def test_a_matlab_file_that_ends_its_reader_ends_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SciPy's reader has died of single bytes; it has a process of its own."""
    (tmp_path / "cars196" / "car_ims").mkdir(parents=True)
    file = tmp_path / "cars196" / "cars_annos.mat"
    savemat(file, {"annotations": np.zeros(3), "class_names": np.zeros(3)})
    with pytest.raises(DataError, match="not the annotation file"):
        catalogue.load("cars", tmp_path)
    monkeypatch.setattr(cars, "_READER", "import os; os.abort()")
    with pytest.raises(DataError, match="SciPy cannot read it"):
        catalogue.load("cars", tmp_path)
    savemat(file, {"huge": np.zeros(2**27, np.uint8)}, do_compression=True)
    monkeypatch.setattr(cars, "_LARGEST_PART", 2**20)
    with pytest.raises(DataError, match="a variable of more than"):
        catalogue.load("cars", tmp_path)
    file.write_bytes(b"no MATLAB file")
    with pytest.raises(DataError, match="level 5"):
        catalogue.load("cars", tmp_path)


def test_lists_that_do_not_agree(tmp_path: Path) -> None:
    folder = tmp_path / "CUB_200_2011"
    (folder / "images").mkdir(parents=True)
    (folder / "classes.txt").write_text("1 001.A\n")
    (folder / "image_class_labels.txt").write_text("1 x\n")
    (folder / "images.txt").write_text("1 001.A/a.jpg\n2 001.A/b.jpg\n")
    with pytest.raises(DataError, match="do not agree"):
        catalogue.load("cub", tmp_path)


def test_a_column_whose_name_is_no_text(tmp_path: Path) -> None:
    parquet.write_table(
        pa.table({"path": ["a"], "label": ["b"], "zzzz": ["c"]}), tmp_path / "m.parquet"
    )
    content = (tmp_path / "m.parquet").read_bytes()
    (tmp_path / "m.parquet").write_bytes(content.replace(b"zzzz", b"\xff\xfe\xff\xfe"))
    with pytest.raises(DataError, match="cannot be read as parquet"):
        catalogue.load(str(tmp_path / "m.parquet"))
