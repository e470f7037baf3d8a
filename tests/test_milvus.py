"""An index in Milvus, here in a folder of milvus-lite: the answers are those of the exact index."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import Hier
from test_index import Colours, paint

from hiercli.errors import FileFormatError, InputError, MismatchError
from hiercli.index import update
from hiercli.index.milvus import Address, MilvusIndex
from hiercli.index.milvus import update as update_milvus
from hiercli.index.reader import Reader

pytest.importorskip("pymilvus", reason="the extra milvus is not installed")
pytest.importorskip("milvus_lite", reason="the extra milvus is not installed")


@pytest.fixture
def address(tmp_path: Path) -> Address:
    return Address.parse(f"milvus:{tmp_path / 'birds.db'}")


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
    done = update_milvus(address, [album], session)
    assert (done.added, done.total, done.embedded) == (601, 601, 601)
    flat, there = Reader(tmp_path / "idx.faiss"), MilvusIndex(address)
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
    assert there.search(queries[:1], 3, where=[("label", "nothing")]) == [[]]
    with pytest.raises(InputError, match="cannot search for"):
        there.search(queries[:1], 3, where=[("path", "*a_b")])


def test_levels_of_a_table(album: Path, tmp_path: Path, address: Address) -> None:
    rows = [f"album/kind{n % 4}/photo{n}.png,C{n % 4},G {n % 4 // 2},F" for n in range(24)]
    table = tmp_path / "t.csv"
    table.write_text("\n".join(["path,label,genus,family", *rows]))
    update_milvus(address, [table], Colours())
    there = MilvusIndex(address)
    assert there.level_names == ("genus", "family")
    (hits,) = there.search(np.zeros((1, 12), np.float32), 24, where=[("genus", "G 1")])
    assert {hit.label for hit in hits} == {"C2", "C3"} and len(hits) == 12
    assert hits[0].levels == {"genus": "G 1", "family": "F"}
    assert len(there.search(np.zeros((1, 12), np.float32), 24, where=[("genus", "G*")])[0]) == 24
    with pytest.raises(InputError, match="has no level"):
        there.search(np.zeros((1, 12), np.float32), 1, where=[("order", "x")])


@pytest.mark.parametrize("change", [{"levels": "[]"}, {"levels": "{"}, {"content": "no digits"}])
def test_rows_of_others_are_named(change: dict[str, str], tmp_path: Path, address: Address) -> None:
    paint(tmp_path / "a" / "x.png", 1)
    update_milvus(address, [tmp_path / "a"], Colours())
    there = MilvusIndex(address)
    (row,) = there._client.query(address.collection, filter="id >= 0", output_fields=["*"])
    there._client.upsert(address.collection, [row | change])
    with pytest.raises(FileFormatError, match="a row that hier did not write"):
        there.search(np.zeros((1, 12), np.float32), 1)


def test_what_came_went_and_changed(tmp_path: Path, address: Address) -> None:
    album, session = tmp_path / "album", Colours()
    for number in range(12):
        paint(album / f"kind{number % 3}" / f"photo {number}'\".png", number)
    paint(tmp_path / "elsewhere" / "stays.png", 100)
    update_milvus(address, [album, tmp_path / "elsewhere"], session)
    assert update_milvus(address, [album], session).embedded == 0
    (album / "kind0" / "photo 0'\".png").unlink()
    paint(album / "kind1" / "photo 1'\".png", 50)
    paint(album / "kind2" / "new.png", 51)
    (album / "kind2" / "photo 2'\".png").write_bytes(b"no picture")
    done = update_milvus(address, [album], session)
    assert (done.added, done.changed, done.removed, done.unchanged, done.total) == (1, 1, 2, 9, 12)
    assert [path.name for path, _ in done.problems] == ["photo 2'\".png"]
    hits = MilvusIndex(address).search(np.zeros((1, 12), np.float32), None)[0]
    names = {Path(hit.path).name for hit in hits}
    assert names >= {"stays.png", "new.png", "photo 1'\".png"}
    assert not names & {"photo 0'\".png", "photo 2'\".png"}
    with pytest.raises(MismatchError, match="other"):
        update_milvus(address, [album], Colours("other"))
    assert update_milvus(address, [album], Colours("other"), rebuild=True).total == 11


@pytest.mark.parametrize(
    "text", ["milvus:", "milvus:birds", "milvus://host", "milvus://host/a-b", "milvus:///birds"]
)
def test_addresses_that_are_none(text: str) -> None:
    with pytest.raises(InputError, match="milvus://host:19530/birds"):
        Address.parse(text)


def test_addresses() -> None:
    assert Address.parse("milvus://host:19530/birds") == Address("http://host:19530", "birds")
    found = Address.parse("milvus:a/b-c.db")
    assert (Path(found.uri), found.collection) == (Path("a/b-c.db").absolute(), "b_c")


def test_what_is_no_index_of_ours(address: Address) -> None:
    from pymilvus import MilvusClient

    with pytest.raises(InputError, match="no collection birds"):
        MilvusIndex(address)
    client = MilvusClient(uri=address.uri)
    client.create_collection("birds", dimension=4)
    client.close()
    with pytest.raises(FileFormatError, match="not written by hier"):
        MilvusIndex(address)


def test_a_collection_of_others_is_not_dropped(tmp_path: Path, address: Address) -> None:
    from pymilvus import MilvusClient

    client = MilvusClient(uri=address.uri)
    client.create_collection("birds", dimension=4)
    client.insert("birds", [{"id": 1, "vector": [1.0, 0.0, 0.0, 0.0]}])
    client.close()
    paint(tmp_path / "album" / "a.png", 1)
    for rebuild in (False, True):
        with pytest.raises(FileFormatError, match="not written by hier"):
            update_milvus(address, [tmp_path / "album"], Colours(), rebuild=rebuild)
    client = MilvusClient(uri=address.uri)
    assert len(client.query("birds", filter="id == 1")) == 1
    client.close()


def test_what_is_only_not_in_sight_stays(tmp_path: Path, address: Address) -> None:
    """An empty folder may be a disk that is not connected; a listing leaves out hidden files."""
    album, session = tmp_path / "album", Colours()
    for number in range(6):
        paint(album / f"photo{number}.png", number)
    paint(album / ".hidden" / "named.png", 20)
    named = album / ".hidden" / "named.png"
    assert update_milvus(address, [album, named], session).total == 7
    done = update_milvus(address, [album], session)
    assert (done.removed, done.total) == (0, 7)
    album.rename(tmp_path / "disk")
    album.mkdir()
    paint(tmp_path / "other" / "a.png", 30)
    with pytest.raises(InputError, match="found none, but the index has 7 images there"):
        update_milvus(address, [tmp_path / "other", album], session)
    assert len(MilvusIndex(address)) == 7
    done = update_milvus(address, [tmp_path / "other", album], session, prune=True)
    assert (done.added, done.removed, done.total) == (1, 7, 1)


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
    assert inside("embed", photos, "--index", where, "--strict").returncode == 2
    monkeypatch.setitem(sys.modules, "pymilvus", None)
    done = inside("search", picture, "--index", where)
    assert done.returncode == 2
    assert b"hiercli[milvus]" in done.stderr
