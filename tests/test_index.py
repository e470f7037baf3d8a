"""A catalogue that is never wrong: updates, kills, damage, two writers, readers meanwhile."""

import contextlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import faiss
import numpy as np
import pytest
from conftest import Hier, paint, searched

from hiercli.collection import Collection
from hiercli.encoder.encoder import Encoder
from hiercli.encoder.metadata import Metadata
from hiercli.errors import FileFormatError, HierError, InputError
from hiercli.images import Preprocessing
from hiercli.index import generation, health, local, locations, pending, renewal, update, writer
from hiercli.index.catalogue import Catalogue
from hiercli.index.index import Index
from hiercli.index.locations import catalogue_path
from hiercli.index.reader import Reader
from hiercli.index.schema import point_checksum, short_hash


class Colours(Encoder):
    """An encoder of no weight at all: the mean colour of a picture's quarters."""

    device, _threads = "cpu", 0

    def __init__(self, fingerprint: str = "colours") -> None:
        self.path, self.batch = Path("colours.onnx"), 32
        nothing = np.zeros((0, 12), np.float32)
        self.metadata = Metadata(
            fingerprint=fingerprint,
            preprocessing=Preprocessing(16, 1.0, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
            c=0.1, clip_radius=2.3, embedding_dim=12, backbone="none", seed=0,
            class_names=[], class_points=nothing, proxies=nothing,
        )  # fmt: skip

    def on_one_core(self) -> "Colours":
        return self

    def run(self, pixels: np.ndarray) -> np.ndarray:
        quarters = pixels.reshape(len(pixels), 3, 2, 8, 2, 8).mean(axis=(3, 5))
        points: np.ndarray = 0.3 * quarters.reshape(len(pixels), 12)
        return points


class Dies(Colours):
    """Interrupted at the last batch, which is not full."""

    def run(self, pixels: np.ndarray) -> np.ndarray:
        if len(pixels) < self.batch:
            raise KeyboardInterrupt
        return super().run(pixels)


def rows(index: Path) -> dict[str, tuple[int, str, bytes]]:
    """Id, label and point by the last two parts of each path."""
    with closing(Catalogue(index)) as catalogue:
        return {
            "/".join(os.fsdecode(row.path).split("/")[-2:]): (row.id, row.label, row.point)
            for _, row in catalogue.every()
            if row is not None
        }


def counts(done: update.Update) -> tuple[int, ...]:
    return (done.added, done.changed, done.moved, done.removed, done.unchanged, done.embedded)


def test_an_update_does_what_changed_and_no_more(album: Path, tmp_path: Path) -> None:
    index, session = tmp_path / "idx.faiss", Colours()
    assert counts(update.update(index, [album], session)) == (40, 0, 0, 0, 0, 40)
    before = rows(index)
    stamp = index.stat().st_mtime_ns
    assert counts(update.update(index, [album], session)) == (0, 0, 0, 0, 40, 0)
    assert index.stat().st_mtime_ns == stamp  # nothing to do: nothing written

    (album / "kind0" / "photo0.png").rename(album / "kind1" / "elsewhere.png")
    (album / "kind1" / "photo1.png").unlink()
    paint(album / "kind2" / "photo2.png", 1000)
    paint(album / "kind3" / "new.png", 1001)
    shutil.copy(album / "kind3" / "photo3.png", album / "kind0" / "copy.png")
    os.utime(album / "kind0" / "photo4.png", ns=(1, 1))  # touched, by a clock that went back
    done = update.update(index, [album], session)
    assert counts(done) == (2, 1, 1, 1, 37, 2)
    assert health.verify(index, files=True) == health.Health([], [])
    after = rows(index)
    assert after["kind1/elsewhere.png"] == (before["kind0/photo0.png"][0], "kind1",
                                            before["kind0/photo0.png"][2])  # fmt: skip
    assert after["kind2/photo2.png"][0] == before["kind2/photo2.png"][0]
    assert after["kind2/photo2.png"][2] != before["kind2/photo2.png"][2]
    assert after["kind0/copy.png"][2] == before["kind3/photo3.png"][2]
    assert after["kind0/copy.png"][0] not in {number for number, _, _ in before.values()}
    assert len(after) == 41
    anew = tmp_path / "anew.faiss"
    update.update(anew, [album], session)
    assert {k: v[1:] for k, v in rows(anew).items()} == {k: v[1:] for k, v in after.items()}
    assert counts(update.update(index, [album], session)) == (0, 0, 0, 0, 41, 0)


def work(index: str, folder: str, kind: str, compacts: bool = False) -> None:
    """What the killed process does."""
    pending._SECONDS_BETWEEN_SAVES = 0.0
    renewal._LEAST_DELTA = 2  # so that some updates make a new FAISS file, and some do not
    if compacts:
        health.compact(Path(index))
    update.update(Path(index), [Path(folder)], Colours(), index_type=kind)


@contextlib.contextmanager
def a_reader_in_a_loop(index: Path) -> Iterator[None]:
    """Somebody who opens and searches all the time, and is never refused."""
    refused: list[Exception] = []
    done = threading.Event()

    def read() -> None:
        while not done.wait(0.002):
            try:
                with closing(Reader(index)) as reader:
                    assert reader.search(np.zeros((1, 12), np.float32), 1)[0]
            except Exception as error:
                refused.append(error)

    reading = threading.Thread(target=read)
    if catalogue_path(index).exists():
        reading.start()
    try:
        yield
    finally:
        done.set()
        if reading.ident is not None:
            reading.join()
    assert refused == []


@pytest.mark.parametrize(("kind", "most"), [("flat", 100), ("hnsw", 25), ("ivf", 25)])
def test_a_hundred_kills_lose_nothing(
    kind: str, most: int, album: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each at a random moment, of an update or a `compact`, while somebody reads.

    After each the index is the old one or the new one, whole.
    """
    rng = random.Random(0)
    index = tmp_path / "idx.faiss"
    context = multiprocessing.get_context("forkserver")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    context.set_forkserver_preload(["test_index"])  # else each process would import it anew
    words = (str(index), str(album), kind)
    for name in ("first.faiss", "second.faiss"):  # the first process also starts the server
        started = time.monotonic()
        whole = context.Process(target=work, args=(str(tmp_path / name), *words[1:]))
        whole.start()
        whole.join()
        length = time.monotonic() - started
    old: set[str] | None = None
    kills = 0
    while kills < most:
        compacts = old is not None and rng.random() < 0.3
        run = context.Process(target=work, args=(*words, compacts))
        with a_reader_in_a_loop(index):
            run.start()
            run.join(rng.uniform(0, (1.5 if compacts else 1.1) * length))
            run.kill()
            run.join()
        kills += run.exitcode == -signal.SIGKILL
        new = {f"{file.parent.name}/{file.name}" for file in album.rglob("*.png")}
        if not catalogue_path(index).exists():
            assert old is None
        else:
            assert health.verify(index).damage == []
            found = set(rows(index))
            assert found in ([new] if old is None else [old, new])
            probe = sorted(found)[0]
            with closing(Reader(index)) as reader:
                (hits,) = reader.search(np.frombuffer(rows(index)[probe][2], "<f4")[None], 1)
            assert hits[0].distance == pytest.approx(0, abs=1e-6)
            old = found
        if run.exitcode == 0:
            assert old == new
        if run.exitcode == 0 or rng.random() < 0.2:
            rng.choice(sorted(album.rglob("*.png"))).unlink()
            paint(album / f"kind{kills % 4}" / f"later{kills}.png", 2000 + kills)
            moving = rng.choice(sorted(album.rglob("*.png")))
            moving.rename(moving.with_name(f"moved{kills}.png"))
    done = update.update(index, [album], Colours())
    anew = tmp_path / "anew.faiss"
    update.update(anew, [album], Colours())
    assert health.verify(index, files=True) == health.Health([], [])
    assert {k: v[1:] for k, v in rows(index).items()} == {k: v[1:] for k, v in rows(anew).items()}
    assert done.total == len(list(album.rglob("*.png")))
    left = {file.name for file in tmp_path.iterdir() if file.name.startswith((".idx", "idx"))}
    assert left == {"idx.faiss", "idx.faiss.sqlite", ".idx.faiss.hier-lock"}


def test_points_that_wait_disturb_nothing(album: Path, tmp_path: Path) -> None:
    index = tmp_path / "idx.faiss"
    update.update(index, [album / "kind0"], Colours())
    before = health.stats(index)["mean_distance_from_origin"]
    with pytest.raises(KeyboardInterrupt):
        update.update(index, [album], Dies())
    assert health.stats(index)["mean_distance_from_origin"] == before
    health.compact(index)
    assert health.verify(index).damage == []
    assert update.update(index, [album], Colours()).total == 40
    assert health.verify(index).damage == []


def test_a_damaged_point_is_not_copied(album: Path, tmp_path: Path) -> None:
    index = tmp_path / "idx.faiss"
    update.update(index, [album], Colours())
    with closing(sqlite3.connect(catalogue_path(index))) as database:
        database.execute("UPDATE points SET point = zeroblob(48)")
        database.commit()
    shutil.copy(album / "kind0" / "photo0.png", album / "kind0" / "copy.png")
    with pytest.raises(FileFormatError, match="damaged"):
        update.update(index, [album], Colours())


def test_a_finished_catalogue_that_did_not_take_its_place(
    album: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = tmp_path / "idx.faiss"

    def dies(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(local.LocalStore, "_take_place", dies)
    with pytest.raises(KeyboardInterrupt):
        update.update(index, [album], Colours())
    monkeypatch.undo()
    assert not locations.exists(index)
    done = update.update(index, [album], Colours())
    assert (done.embedded, done.total) == (0, 40)
    assert health.verify(index, files=True) == health.Health([], [])
    assert not locations.draft_path(index).exists()


@pytest.mark.parametrize("kind", ["flat", "sq8", "hnsw", "ivf"])
def test_an_index_of_any_type_can_be_emptied(kind: str, album: Path, tmp_path: Path) -> None:
    index, session = tmp_path / "idx.faiss", Colours()
    update.update(index, [album], session, index_type=kind)
    shutil.rmtree(album)
    assert update.update(index, [album], session, prune=True).total == 0
    health.compact(index)
    assert health.verify(index).damage == []
    paint(album / "kind0" / "0.png", 1)
    assert update.update(index, [album], session).total == 1
    with closing(Reader(index)) as reader:
        assert len(reader.search(np.zeros((1, 12), np.float32), 3)[0]) == 1
    health.compact(index)
    assert health.stats(index)["index_type"] == kind


def test_a_killed_writer_between_the_two_files(album: Path, tmp_path: Path) -> None:
    """The catalogue is new already, the FAISS file lies ready: readers and writers cope."""
    index, session = tmp_path / "idx.faiss", Colours()
    update.update(index, [album], session)
    old = index.read_bytes()
    (album / "kind0" / "photo0.png").unlink()
    update.update(index, [album], session)
    health.compact(index)
    index.rename(locations.next_path(index))
    index.write_bytes(old)
    assert health.verify(index).damage == []
    assert len(searched(index, np.zeros((1, 12), np.float32))[0]) == 39
    update.update(index, [album], session)
    assert not locations.next_path(index).exists()
    assert faiss.read_index(str(index)).ntotal == 39


def test_one_writer_at_a_time_while_readers_go_on(album: Path, tmp_path: Path) -> None:
    index, session = tmp_path / "idx.faiss", Colours()
    update.update(index, [album], session)
    point = np.frombuffer(rows(index)["kind0/photo0.png"][2], "<f4")[None]
    with closing(Reader(index)) as reader:
        with writer.writing(index, 12):
            with pytest.raises(InputError, match="another process is writing"):
                update.update(index, [album], session)
            assert len(searched(index, np.zeros((1, 12), np.float32))[0]) == 40
        (album / "kind0" / "photo0.png").unlink()
        update.update(index, [album], session)
        assert reader.search(point, 1)[0][0].path.endswith("photo0.png")
    assert not searched(index, point, 1)[0][0].path.endswith("photo0.png")


@pytest.mark.parametrize("change", ["zeroblob(48)", "x'00'", "'text'"])
def test_proxies_that_have_changed_are_found_and_left_out(tmp_path: Path, change: str) -> None:
    index = tmp_path / "idx.faiss"
    points = np.random.default_rng(0).normal(0, 0.1, (20, 12)).astype(np.float32)
    Index.build(index, Collection(points=points, c=0.1, fingerprint="x", proxies=points[:3]))
    assert health.verify(index).damage == []
    with closing(sqlite3.connect(catalogue_path(index))) as opened:
        opened.execute(f"UPDATE proxies SET point = {change} WHERE id = 1")
        opened.commit()
    assert len(health.verify(index).damage) == 1
    assert health.repair(index) == health.Repair(20, 0)
    assert health.verify(index).damage == []


@pytest.mark.parametrize("which", ["index", "catalogue"])
def test_damage_is_found_and_mended(album: Path, tmp_path: Path, which: str) -> None:
    """Truncated at each tenth, then with flipped bytes.

    What the catalogue says is checked when it is given out. The FAISS file is not read whole to
    search, so that only `verify` finds a byte that has changed in it.
    """
    index, session = tmp_path / "idx.faiss", Colours()
    update.update(index, [album], session)
    whole = {file: file.read_bytes() for file in (index, catalogue_path(index))}
    truth = rows(index)
    target = index if which == "index" else catalogue_path(index)
    content = whole[target]
    rng = random.Random(1)
    cases = [content[: len(content) * tenth // 10] for tenth in range(10)]
    for _ in range(60):
        place = rng.randrange(len(content))
        flipped = content[place] ^ (1 << rng.randrange(8))
        cases.append(content[:place] + bytes([flipped]) + content[place + 1 :])
    query = np.stack([np.frombuffer(point, "<f4") for _, _, point in truth.values()])

    def answered() -> list[list[str]]:
        with closing(Reader(index)) as reader:
            return [[hit.path for hit in hits] for hits in reader.search(query, 3)]

    expected, noticed = answered(), 0
    for case in cases:
        for file in tmp_path.glob("idx.faiss.sqlite-*"):  # of another catalogue
            file.unlink()
        for file, good in whole.items():
            file.write_bytes(good)
        target.write_bytes(case)
        try:
            answers = answered()
        except HierError:
            noticed += 1
            assert health.verify(index).damage != []
        else:
            if which == "index" and health.verify(index).damage:
                noticed += 1
            else:
                assert answers == expected
        try:
            health.repair(index)
        except FileFormatError:
            continue
        assert health.verify(index).damage == []
        kept = rows(index)
        assert all(truth[name] == row for name, row in kept.items())
        update.update(index, [album], session)
        assert {k: v[1:] for k, v in rows(index).items()} == {k: v[1:] for k, v in truth.items()}
    # In the FAISS file all but the last digits of a coordinate.
    assert noticed >= (len(cases) - 10 if which == "index" else 10)


def test_damage_stops_a_writer_with_one_message(album: Path, tmp_path: Path) -> None:
    index, session = tmp_path / "idx.faiss", Colours()
    update.update(index, [album], session)
    whole = {file: file.read_bytes() for file in (index, catalogue_path(index))}
    content, rng, stopped = whole[catalogue_path(index)], random.Random(3), 0
    paint(album / "kind0" / "new.png", 500)
    for _ in range(60):
        place = rng.randrange(100, len(content))
        cut = content[:place] + content[place + 1 :]  # all behind it lies one byte off
        for attempt in (
            lambda: health.compact(index),
            lambda: update.update(index, [album], session),
            lambda: update.update(index, [album], session, rebuild=True),
        ):
            for file in tmp_path.glob("*idx.faiss*"):
                file.unlink()
            index.write_bytes(whole[index])
            catalogue_path(index).write_bytes(cut)
            try:
                attempt()
            except HierError:
                stopped += 1
            else:
                with closing(Reader(index)) as reader:
                    assert len(reader) >= 40
    assert stopped > 60


def test_looking_after_an_index(index: Path, photos: Path, inside: Hier, tmp_path: Path) -> None:
    own = tmp_path / "own.faiss"
    shutil.copy(index, own)
    shutil.copy(catalogue_path(index), catalogue_path(own))
    done = inside("index", "stats", own, "--json")
    facts = json.loads(done.stdout)
    assert (facts["pictures"], facts["labels"], facts["quarantined"]) == (48, 8, 0)
    assert inside("index", "stats", own).returncode == 0
    done = inside("index", "verify", own, "--files", "--json")
    assert (done.returncode, json.loads(done.stdout)["whole"]) == (0, True)
    with sqlite3.connect(catalogue_path(own)) as database:
        database.execute("UPDATE images SET class = 1 - class % 2 WHERE id = 3")
        database.execute("UPDATE points SET point = ? WHERE id = 4", (b"\0" * 64,))
    done = inside("index", "verify", own)
    assert done.returncode == 2
    assert done.stderr.decode().count("in the catalogue has changed") == 2
    done = inside("search", photos / "kind0", "--index", own, "-k", "48")
    assert (done.returncode, b"hier index repair" in done.stderr) == (2, True)
    done = inside("index", "repair", own, "--json")
    assert json.loads(done.stdout) == {"index": str(own), "kept": 46, "lost": 2}
    assert inside("index", "verify", own).returncode == 0
    done = inside("index", "compact", own, "--json")
    assert done.returncode == 0
    own.unlink()
    assert b"repair" in inside("search", photos, "--index", own).stderr
    assert inside("index", "repair", own).returncode == 0
    assert len(searched(own, np.zeros((1, 16), np.float32))[0]) == 46
    assert inside("index", "stats", tmp_path / "gone.faiss").returncode == 2


def test_a_damaged_journal_costs_time_and_nothing_else(album: Path, tmp_path: Path) -> None:
    index, rng = tmp_path / "idx.faiss", random.Random(2)
    with pytest.raises(KeyboardInterrupt):
        update.update(index, [album], Dies())
    journal = locations.draft_path(index)
    content = journal.read_bytes()
    update.update(tmp_path / "anew.faiss", [album], Colours())
    truth = {name: row[1:] for name, row in rows(tmp_path / "anew.faiss").items()}
    cases = [content[: len(content) // 2], b"hello", b"", content[:5000] + b"\xff" * 200]
    for _ in range(40):
        place = rng.randrange(len(content))
        flipped = bytes([content[place] ^ (1 << rng.randrange(8))])
        cases.append(content[:place] + flipped + content[place + 1 :])
    for case in cases:
        for file in (index, catalogue_path(index)):
            file.unlink(missing_ok=True)
        journal.write_bytes(case)
        update.update(index, [album], Colours())
        assert {name: row[1:] for name, row in rows(index).items()} == truth
    for file in (index, catalogue_path(index)):
        file.unlink()
    journal.mkdir()
    with pytest.raises(InputError, match="failed"):
        update.update(index, [album, paint(tmp_path / "extra.png", 9)], Colours())


def test_an_index_behind_a_link_is_updated_where_it_lies(tmp_path: Path) -> None:
    index, session = tmp_path / "idx.faiss", Colours()
    paint(tmp_path / "far" / "1.png", 1)
    update.update(index, [tmp_path / "far"], session)
    assert len(searched(Path(f"/{index}"), np.zeros((1, 12), np.float32))[0]) == 1
    (tmp_path / "other.faiss").symlink_to(index)
    paint(tmp_path / "far" / "2.png", 3)
    update.update(tmp_path / "other.faiss", [tmp_path / "far"], session)
    assert len(searched(index, np.zeros((1, 12), np.float32))[0]) == 2


def test_ids_are_not_given_again(album: Path, tmp_path: Path) -> None:
    index, session = tmp_path / "idx.faiss", Colours()
    update.update(index, [album], session)
    last = max(rows(index).items(), key=lambda item: item[1][0])
    (album / last[0]).unlink()
    update.update(index, [album], session)
    health.repair(index)
    health.compact(index)
    paint(album / "kind0" / "new.png", 500)
    update.update(index, [album], session)
    assert rows(index)["kind0/new.png"][0] == last[1][0] + 1


def test_damaged_facts_are_not_believed(album: Path, tmp_path: Path) -> None:
    index = tmp_path / "idx.faiss"
    update.update(index, [album], Colours())
    with sqlite3.connect(catalogue_path(index)) as database:
        database.execute("UPDATE facts SET value = '0.3' WHERE name = 'c'")
    for attempt in (Reader, health.repair, health.stats):
        with pytest.raises(FileFormatError, match="--rebuild"):
            attempt(index)


def test_other_files_are_safe(index: Path, exported: Path, photos: Path, inside: Hier) -> None:
    before = index.read_bytes()
    words = ("embed", photos, "--model", exported, "--index", index)
    for target in (index, catalogue_path(index)):
        done = inside("search", photos / "kind0", "--index", index, "--html", target)
        assert (done.returncode, b"would overwrite" in done.stderr) == (2, True)
    other = index.with_name("v.npy")
    words = ("embed", photos, "--model", exported, "--index", other, "-o", other)
    done = inside(*words)
    assert (done.returncode, b"would overwrite" in done.stderr) == (2, True)
    assert index.read_bytes() == before
    for command in ("repair", "compact"):
        nowhere = index.with_name("no") / "such"
        assert inside("index", command, nowhere).returncode == 2
        assert not nowhere.parent.exists()


# -- labels, links and pruning --------------------------------------------------------------------


def test_a_catalogue_holds_nothing_that_computes(album: Path, tmp_path: Path) -> None:
    index = tmp_path / "i.faiss"
    update.update(index, [album], Colours())
    with closing(sqlite3.connect(f"{index}.sqlite")) as database:
        database.execute("ALTER TABLE facts RENAME TO kept")
        database.execute(
            "CREATE VIEW facts (name, value) AS WITH RECURSIVE n(i) AS "
            "(SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i, i FROM n"
        )
        database.commit()
    with pytest.raises(FileFormatError, match="not those of an index"):
        Catalogue(index)


def test_a_catalogue_whose_rows_say_what_they_cannot(album: Path, tmp_path: Path) -> None:
    """With every checksum made anew."""
    index = tmp_path / "i.faiss"
    update.update(index, [album], Colours())
    whole = catalogue_path(index).read_bytes()
    with closing(sqlite3.connect(catalogue_path(index))) as database:
        for number, _ in database.execute("SELECT id, path FROM folders").fetchall():
            path = b"/a\0b%d" % number
            database.execute(
                "UPDATE folders SET path = ?, checksum = ? WHERE id = ?",
                (path, short_hash((number, path)), number),
            )
        database.commit()
    with closing(Reader(index)) as reader, pytest.raises(FileFormatError, match="has changed"):
        reader.search(np.zeros((1, 12), np.float32), 3)
    assert health.verify(index, files=True).damage
    catalogue_path(index).write_bytes(whole)
    with closing(sqlite3.connect(catalogue_path(index))) as database:
        database.execute("DELETE FROM images")
        database.commit()
    with closing(Reader(index)) as reader, pytest.raises(HierError, match="no images"):
        reader.collection_of(reader.rows())
    name = whole.index(b"quarantine")
    catalogue_path(index).write_bytes(whole[:name] + b"\xff\xfe" + whole[name + 2 :])
    for attempt in (Reader, health.repair, health.stats):
        with pytest.raises(HierError):
            attempt(index)


def test_hostile_points_have_no_distance(album: Path, tmp_path: Path) -> None:
    """With every seal made anew, as somebody who knows the format would."""
    index = tmp_path / "i.faiss"
    update.update(index, [album], Colours())
    bad = np.full(12, 1e3, "<f4").tobytes()
    with closing(sqlite3.connect(f"{index}.sqlite")) as database:
        for (number,) in database.execute("SELECT id FROM points").fetchall():
            database.execute(
                "UPDATE points SET point = ?, checksum = ? WHERE id = ?",
                (bad, point_checksum(number, bad), number),
            )
        database.commit()
    with pytest.raises(FileFormatError, match="outside the ball"):
        searched(index, np.zeros((1, 12), np.float32), 3)


def test_a_length_in_a_faiss_file_claims_no_more_than_the_file(tmp_path: Path) -> None:
    before = faiss.get_deserialization_vector_byte_limit()
    graph = faiss.IndexIDMap(faiss.IndexHNSWFlat(5, 8, faiss.METRIC_INNER_PRODUCT))
    graph.add_with_ids(np.ones((9, 5), np.float32), np.arange(9))
    content = bytearray(faiss.serialize_index(graph).tobytes())
    sizes = [
        at for at in range(len(content) - 8) if content[at : at + 8] == (9).to_bytes(8, "little")
    ]
    assert len(sizes) > 3
    for at in sizes:
        changed = content.copy()
        changed[at : at + 8] = (2**35).to_bytes(8, "little")
        (tmp_path / "i.faiss").write_bytes(changed)
        with (
            open(tmp_path / "i.faiss", "rb", buffering=0) as file,
            pytest.raises(FileFormatError, match="not an index of hier"),
        ):
            generation.whole(file)
    assert faiss.get_deserialization_vector_byte_limit() == before
