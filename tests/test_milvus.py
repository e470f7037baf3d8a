"""An index in Milvus, here in a folder of milvus-lite: the answers are those of the exact index."""

import json
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from conftest import Hier, paint
from test_index import Colours

from hiercli.collection import Collection
from hiercli.errors import FileFormatError, InputError
from hiercli.index import Index, kinds, lists, update
from hiercli.index import store as stores
from hiercli.index.address import Address
from hiercli.index.milvus import MilvusReader, MilvusStore, tuning
from hiercli.index.milvus.connection import connected
from hiercli.index.reader import Reader
from hiercli.index.schema import Row
from hiercli.index.sync import Plan

pymilvus = pytest.importorskip("pymilvus", reason="the extra milvus is not installed")
pytest.importorskip("milvus_lite", reason="the extra milvus is not installed")


@pytest.fixture
def address(tmp_path: Path) -> Address:
    return Address.parse(f"milvus:{tmp_path / 'birds.db'}")


_open: list[MilvusReader | Reader] = []


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    while _open:
        _open.pop().close()


def there_is(address: Address) -> MilvusReader:
    """An index in Milvus, closed when its test ends."""
    found = MilvusReader(address)
    _open.append(found)
    return found


def flat_of(index: Path) -> Reader:
    """An index in a file, closed when its test ends."""
    found = Reader(index)
    _open.append(found)
    return found


@pytest.fixture
def album(tmp_path: Path) -> Path:
    for number in range(600):
        paint(tmp_path / "album" / f"kind{number % 4}" / f"photo{number}.png", number)
    paint(tmp_path / "album" / "kind0" / "copy.png", 5)
    return tmp_path / "album"


def answers(found: list[list]) -> list[list[tuple[str, float]]]:  # type: ignore[type-arg]
    return [[(hit.path, round(hit.distance, 9)) for hit in hits] for hits in found]


def test_the_same_answers_as_the_exact_index(album: Path, tmp_path: Path, address: Address) -> None:
    session = Colours()
    update.update(tmp_path / "idx.faiss", [album], session)
    done = update.update(address, [album], session)
    assert (done.added, done.total, done.embedded) == (601, 601, 600)
    flat, there = flat_of(tmp_path / "idx.faiss"), there_is(address)
    rng = np.random.default_rng(0)
    queries = rng.uniform(-0.3, 0.3, (60, 12)).astype(np.float32)
    queries[30:] *= 3 / np.linalg.norm(queries[30:], axis=1, keepdims=True)  # near the rim
    for how in (
        {"k": 10},
        {"k": 250},
        {"k": 10, "unique": True},
        {"k": None, "max_distance": 1.5},
        {"k": 5, "where": [("label", "kind2")]},
        {"k": 5, "where": [("path", "*/photo1*")]},
    ):
        wanted = flat.search(queries, **how)  # type: ignore[arg-type]
        assert answers(there.search(queries, **how)) == answers(wanted)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no image matches"):
        there.search(queries[:1], 3, where=[("label", "nothing")])
    with pytest.raises(InputError, match="cannot search for"):
        there.search(queries[:1], 3, where=[("path", "*a_b")])


@pytest.mark.parametrize("change", [{"levels": "[]"}, {"levels": "{"}, {"content": "no digits"}])
def test_rows_of_others_are_named(change: dict[str, str], tmp_path: Path, address: Address) -> None:
    paint(tmp_path / "a" / "x.png", 1)
    update.update(address, [tmp_path / "a"], Colours())
    there = there_is(address)
    (row,) = there._client.query(address.collection, filter="id >= 0", output_fields=["*"])
    there._client.upsert(address.collection, [row | change])
    with pytest.raises(FileFormatError, match="a row that hier did not write"):
        there.search(np.zeros((1, 12), np.float32), 1)


def test_the_nearest_lies_beyond_the_first_candidates(address: Address) -> None:
    """150 points lie nearer by Euclidean distance, towards the rim, where distances are larger."""
    points = np.zeros((151, 2), np.float32)
    points[0] = 2.9895, 0
    points[1:, 0] = np.linspace(3.01, 3.0101, 150)
    with Index.build(f"milvus:{address.uri}", Collection(points=points, c=0.1)) as index:
        (hit,) = index.search(np.array([3.0, 0], np.float32), k=1)
    assert hit.path == "point 1"


def test_names_that_need_care(tmp_path: Path, address: Address) -> None:
    album, session = tmp_path / "al'bum%_", Colours()
    names = ["photo 0'\".png", "\\back.png", "größe é.png", "tab\t.png", "line\n.png", "a%b_c.png"]
    for number, name in enumerate(names):
        paint(album / "kind" / name, number)
    paint(tmp_path / "al'bum%_0" / "beside.png", 99)
    update.update(address, [album, tmp_path / "al'bum%_0"], session)
    done = update.update(address, [album], session)
    assert (done.unchanged, done.embedded, done.total) == (6, 0, 7)
    (album / "kind" / names[0]).unlink()
    done = update.update(address, [album], session)
    assert (done.removed, done.unchanged, done.total) == (1, 5, 6)
    with closing(MilvusReader(address)) as there:
        found = {Path(hit.path).name for hit in there.search(np.zeros((1, 12), np.float32), 9)[0]}
    assert found == {*names[1:], "beside.png"}


def test_what_milvus_cannot_store_is_named(tmp_path: Path, address: Address) -> None:
    folder = tmp_path / "album"
    paint(folder / "kind" / "good.png", 1)
    os.link(folder / "kind" / "good.png", os.path.join(os.fsencode(folder), b"b\xff.png"))
    table = tmp_path / "t.csv"
    table.write_text(f"path,label\nalbum/kind/good.png,{'x' * 1025}\n")
    done = update.update(address, [folder], Colours())
    assert (done.total, len(done.problems)) == (1, 1) and "UTF-8" in done.problems[0][1]
    with pytest.raises(InputError, match="Nothing was written"):
        update.update(address, [table], Colours(), rebuild=True)
    assert len(there_is(address)) == 1


def test_lists_of_many_points(album: Path, tmp_path: Path, address: Address) -> None:
    """Their search finds most of the nearest, and all of them where that is asked for."""
    done = update.update(address, [album], Colours(), index_type="ivf")
    update.update(tmp_path / "idx.faiss", [album], Colours())
    there, flat = there_is(address), flat_of(tmp_path / "idx.faiss")
    assert (done.total, there.stats()["index_type"]) == (601, "ivf")
    assert 0.99 <= there.facts.recall <= 1 and 0 < there.facts.nprobe <= there.facts.num_lists
    rng = np.random.default_rng(0)
    queries = rng.uniform(-0.3, 0.3, (60, 12)).astype(np.float32)
    for how in ({"k": 10, "exact": True}, {"k": None, "max_distance": 1.5}):
        assert answers(there.search(queries, **how)) == answers(flat.search(queries, **how))  # type: ignore[arg-type]
    for k in (5, 300):  # more than one list holds
        assert {len(hits) for hits in there.search(queries, k)} == {k}
    update.update(address, [album], Colours(), index_type="flat")
    assert there_is(address).stats()["index_type"] == "flat"
    with pytest.raises(InputError, match="in Milvus"):
        update.update(address, [album], Colours(), index_type="hnsw")


def test_the_index_type_follows_the_number_of_points(
    album: Path, address: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kinds, "LARGE", 600)
    update.update(address, [album / "kind1"], Colours())
    assert there_is(address).facts.num_lists == 0
    update.update(address, [album], Colours())
    assert there_is(address).facts.num_lists == lists.count_for(601)
    assert tuning.wanted_type("auto", 599) == "flat"


def test_two_writers_at_once(tmp_path: Path, address: Address) -> None:
    """Both write rows of their own; no setting is read by one and overwritten by the other."""
    for number in range(20):
        paint(tmp_path / f"f{number % 2}" / f"{number}.png", number)
    update.update(address, [paint(tmp_path / "x.png", 77)], Colours())
    threads = [
        threading.Thread(target=update.update, args=(address, [tmp_path / f"f{n}"], Colours()))
        for n in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(there_is(address)) == 21


def test_a_new_index_is_there_when_it_is_whole(
    tmp_path: Path, address: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    album = paint(tmp_path / "a" / "1.png", 1).parent
    bad = paint(tmp_path / "bad" / "2.png", 2)
    bad.write_bytes(b"no picture")
    with monkeypatch.context() as patched:
        patched.setattr(MilvusStore, "_end", dies)
        with pytest.raises(KeyboardInterrupt):
            update.update(address, [album], Colours())
    assert not stores.exists(address)
    done = update.update(address, [album, bad], Colours())
    assert (done.embedded, done.total, there_is(address).stats()["quarantined"]) == (0, 1, 1)
    paint(album / "3.png", 3)
    with monkeypatch.context() as patched:  # between the old and the new
        patched.setattr(pymilvus.MilvusClient, "rename_collection", dies)
        with pytest.raises(KeyboardInterrupt):
            update.update(address, [album], Colours(), rebuild=True)
    done = update.update(address, [album], Colours())
    assert (done.embedded, done.unchanged, done.total) == (0, 2, 2)
    update.update(address, [album], Colours(), rebuild=True)
    assert there_is(address).stats()["quarantined"] == 0


def test_a_kill_while_lists_are_made(
    album: Path, tmp_path: Path, address: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever searches then, or has been searching, still finds all that is nearest."""
    update.update(address, [album], Colours())
    update.update(tmp_path / "idx.faiss", [album], Colours())
    flat, since = flat_of(tmp_path / "idx.faiss"), there_is(address)

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(tuning, "_nprobe", dies)
        with pytest.raises(KeyboardInterrupt):
            update.update(address, [album], Colours(), index_type="ivf")
    queries = np.random.default_rng(0).uniform(-0.3, 0.3, (40, 12)).astype(np.float32)
    for images in (since, there_is(address)):
        assert answers(images.search(queries, 10)) == answers(flat.search(queries, 10))
    update.update(address, [album], Colours())
    assert there_is(address).facts.told["tuning"] == ""
    assert there_is(address).facts.recall >= 0.99
    assert answers(since.search(queries, 10, exact=True)) == answers(flat.search(queries, 10))


def test_writers_keep_what_others_say(tmp_path: Path, address: Address) -> None:
    """Levels that one adds while another is at work are still there when both have ended."""
    paint(tmp_path / "x" / "0.png", 7)
    update.update(address, [tmp_path / "x"], Colours())
    paint(tmp_path / "nested" / "genus" / "species" / "1.png", 1)
    with closing(MilvusStore(address, 12)) as first:
        update.update(address, [tmp_path / "nested"], Colours(), nested=True)
        first.expect("colours")
        first.keep(b"0" * 16, np.zeros(12, np.float32), b"")
        row = Row(-1, b"/y.png", "y", "{}", b"0" * 16, (1, 2, 3))
        first.apply(Plan(added=[row]), {"index_type": "flat"}, np.empty((0, 12)), (), ())
    assert there_is(address).level_names == ("level1",)
    assert len(there_is(address)) == 3


@pytest.mark.parametrize(
    "text",
    [
        "milvus:",
        "milvus:birds",
        "milvus://host:abc/x",
        "milvus://[::1/x",
        "milvus://host",
        "milvus://host/a-b",
        "milvus:///birds",
    ],
)
def test_addresses_that_are_none(text: str) -> None:
    with pytest.raises(InputError, match="milvus://host:19530/birds"):
        Address.parse(text)


def test_addresses() -> None:
    assert Address.parse("milvus://host:19530/birds") == Address("http://host:19530", "birds")
    found = Address.parse("milvus:a/b-c.db")
    assert (Path(found.uri), found.collection) == (Path("a/b-c.db").absolute(), "b_c")


def test_what_is_no_index_of_ours(address: Address) -> None:
    with pytest.raises(InputError, match="no collection birds"):
        there_is(address)
    with connected(address) as client:
        client.create_collection("birds", dimension=4)
    with pytest.raises(FileFormatError, match="not written by hier"):
        there_is(address)


def test_a_collection_of_others_is_not_dropped(tmp_path: Path, address: Address) -> None:
    with connected(address) as client:
        client.create_collection("birds", dimension=4)
        client.insert("birds", [{"id": 1, "vector": [1.0, 0.0, 0.0, 0.0]}])
    paint(tmp_path / "album" / "a.png", 1)
    for rebuild in (False, True):
        with pytest.raises(FileFormatError, match="not written by hier"):
            update.update(address, [tmp_path / "album"], Colours(), rebuild=rebuild)
    with connected(address) as client:
        client.load_collection("birds")
        assert len(client.query("birds", filter="id == 1")) == 1


def test_on_the_command_line(
    photos: Path, exported: Path, index: Path, inside: Hier, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    where = f"milvus:{tmp_path / 'birds.db'}"
    done = inside("embed", photos, "--model", exported, "--index", where, "--json")
    assert done.returncode == 0, done.stderr.decode()
    assert json.loads(done.stdout)["total"] == len(list(photos.rglob("*.jpg")))
    picture = sorted(photos.rglob("*.jpg"))[0]
    found = [inside("search", picture, "--index", i, "--json").stdout for i in (where, index)]
    there, flat = (json.loads(text)["results"] for text in found)
    assert [hit["path"] for hit in there] == [hit["path"] for hit in flat]
    done = inside("search", picture, "--index", "milvus://127.0.0.1:1/birds")
    assert done.returncode == 2
    assert b"127.0.0.1:1" in done.stderr
    points = tmp_path / "v.npy"
    words = ("embed", photos, "--model", exported, "--index", where, "-o", points, "--strict")
    assert inside(*words).returncode == 0
    assert len(np.load(points)) == len(list(photos.rglob("*.jpg")))
    done = inside("index", "stats", where, "--json")
    assert json.loads(done.stdout)["pictures"] == len(np.load(points))
    assert inside("index", "verify", where).returncode == 2
    other = f"milvus:{tmp_path / 'other.db'}"
    words = ("index", "build", other, "--points", points, "--model", exported)
    assert inside(*words).returncode == 0
    level = [inside("search", picture, "--index", i, "--level", 1, "--json").stdout
             for i in (where, index)]  # fmt: skip
    assert [[hit["path"] for hit in json.loads(text)["results"]] for text in level[:1]] == [
        [hit["path"] for hit in json.loads(text)["results"]] for text in level[1:]
    ]
    assert inside("search", picture, "--index", where, "--root", tmp_path).returncode == 2
    monkeypatch.setitem(sys.modules, "pymilvus", None)
    done = inside("search", picture, "--index", where)
    assert done.returncode == 2
    assert b"hiercli[milvus]" in done.stderr


def test_another_process_has_the_file(tmp_path: Path, address: Address, hier: Hier) -> None:
    update.update(address, [paint(tmp_path / "a" / "1.png", 1)], Colours())
    with closing(MilvusReader(address)):
        done = hier("search", tmp_path / "a", "--index", f"milvus:{address.uri}")
    assert (done.returncode, b"one process at a time" in done.stderr) == (2, True)
    assert b"Traceback" not in done.stderr
    gone = tmp_path / "gone.db"
    assert hier("search", tmp_path / "a", "--index", f"milvus:{gone}").returncode == 2
    assert not gone.exists()
