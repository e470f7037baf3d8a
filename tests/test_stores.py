"""Laws of an index, in files and in Milvus: what an update takes for new, moved, gone.

Milvus is milvus-lite in a file; with `MILVUS_SERVER=milvus://host:19530` it is that server.
"""

import contextlib
import multiprocessing
import os
import random
import shutil
import signal
import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from conftest import paint
from test_index import Colours, Dies, counts

from hiercli.collection import Collection
from hiercli.errors import InputError, MismatchError
from hiercli.images import State
from hiercli.index import Index, pending, update
from hiercli.index import store as stores
from hiercli.index.address import Address, Target, target_of

SERVER = os.environ.get("MILVUS_SERVER", "")


@pytest.fixture(params=["files", "milvus"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Target]:
    """An index that is not there yet."""
    if request.param == "files":
        yield tmp_path / "idx.faiss"
        return
    pytest.importorskip("pymilvus", reason="the extra milvus is not installed")
    if not SERVER:
        pytest.importorskip("milvus_lite", reason="the extra milvus is not installed")
        yield Address.parse(f"milvus:{tmp_path / 'birds.db'}")
        return
    from hiercli.index.milvus.connection import connected

    address = Address.parse(f"{SERVER}/t{random.getrandbits(60):x}")
    yield address
    with connected(address) as client:
        for end in ("", "_hier", "_hier_new"):
            name = address.collection + end
            client.drop_collection(name)


def rows(index: Target) -> dict[str, tuple[str, bytes]]:
    """Label and point by the last two parts of each path."""
    with closing(stores.searching(index)) as images, contextlib.suppress(InputError):
        return {
            "/".join(os.fsdecode(row.path).split("/")[-2:]): (row.label, row.point)
            for row in images.rows()
        }
    return {}


def test_an_update_does_what_changed_and_no_more(
    album: Path, tmp_path: Path, target: Target
) -> None:
    session = Colours()
    assert counts(update.update(target, [album], session)) == (40, 0, 0, 0, 0, 40)
    before = rows(target)
    assert counts(update.update(target, [album], session)) == (0, 0, 0, 0, 40, 0)

    (album / "kind0" / "photo0.png").rename(album / "kind1" / "elsewhere.png")
    (album / "kind1" / "photo1.png").unlink()
    paint(album / "kind2" / "photo2.png", 1000)
    paint(album / "kind3" / "new.png", 1001)
    shutil.copy(album / "kind3" / "photo3.png", album / "kind0" / "copy.png")
    os.utime(album / "kind0" / "photo4.png", ns=(1, 1))  # touched, by a clock that went back
    assert counts(update.update(target, [album], session)) == (2, 1, 1, 1, 37, 2)
    after = rows(target)
    assert after["kind1/elsewhere.png"] == ("kind1", before["kind0/photo0.png"][1])
    assert after["kind2/photo2.png"][1] != before["kind2/photo2.png"][1]
    assert after["kind0/copy.png"][1] == before["kind3/photo3.png"][1]
    assert len(after) == 41
    anew = tmp_path / "anew.faiss"
    update.update(anew, [album], session)
    assert rows(anew) == after
    assert counts(update.update(target, [album], session)) == (0, 0, 0, 0, 41, 0)


def _linked(folder: Path) -> Path:
    """Class folders that are links into a store under other names."""
    for label in ("Robin", "Wren"):
        store = folder / "store" / f"id-{label.lower()}"
        paint(store / "0.png", len(label))
        paint(store / "1.png", len(label) + 50)
        (folder / "linked").mkdir(exist_ok=True)
        (folder / "linked" / label).symlink_to(store, target_is_directory=True)
    return folder / "linked"


def test_two_that_change_places(album: Path, target: Target) -> None:
    session = Colours()
    update.update(target, [album], session)
    before = rows(target)
    one, other = album / "kind0" / "photo0.png", album / "kind1" / "photo1.png"
    one.rename(album / "aside")
    other.rename(one)
    (album / "aside").rename(other)
    assert counts(update.update(target, [album], session)) == (0, 2, 0, 0, 38, 0)
    after = rows(target)
    assert after["kind0/photo0.png"][1] == before["kind1/photo1.png"][1]
    assert after["kind1/photo1.png"][1] == before["kind0/photo0.png"][1]


def test_what_was_not_asked_about_stays(
    album: Path, target: Target, closed: Callable[[Path], None]
) -> None:
    session = Colours()
    update.update(target, [album / "kind0"], session)
    assert counts(update.update(target, [album / "kind1", album / "kind2"], session))[0] == 20
    (album / "kind0" / "photo0.png").unlink()
    update.update(target, [album / "kind1" / "photo1.png"], session)
    assert len(rows(target)) == 30
    closed(album / "kind2")  # out of reach is not gone
    done = update.update(target, [album], session)
    assert (done.removed, done.added, done.total) == (1, 10, 39)
    assert "cannot be read" in done.problems[0][1]
    with pytest.raises(InputError, match="Nothing was written"):
        update.update(target, [album], session, strict=True)


def test_a_damaged_picture_leaves_and_an_unreadable_one_stays(
    album: Path, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Colours()
    update.update(target, [album], session)
    (album / "kind0" / "photo0.png").write_bytes(b"no picture any more")
    paint(album / "kind1" / "photo1.png", 1000)
    read_bytes = update.read_bytes

    def refused(path: Path) -> tuple[bytes, State]:
        if path.name == "photo1.png":
            raise update.ImageError(f"{path}: permission denied")
        return read_bytes(path)

    monkeypatch.setattr(update, "read_bytes", refused)
    done = update.update(target, [album], session)
    assert (done.removed, done.total, len(done.problems)) == (1, 39, 2)
    assert "kind1/photo1.png" in rows(target)
    assert stores.stats(target)["quarantined"] == 2
    monkeypatch.undo()
    paint(album / "kind0" / "photo0.png", 0)
    done = update.update(target, [album], session)
    assert (done.added, done.changed, done.total, done.problems) == (1, 1, 40, [])
    assert stores.stats(target)["quarantined"] == 0


def test_points_of_a_killed_run_are_not_made_again(album: Path, target: Target) -> None:
    with pytest.raises(KeyboardInterrupt):
        update.update(target, [album], Dies())
    assert not stores.exists(target)
    assert update.update(target, [album], Colours()).embedded == 8
    # Another encoder's points would be wrong ones.
    with pytest.raises(KeyboardInterrupt):
        update.update(target, [album], Dies("other"), rebuild=True)
    assert update.update(target, [album], Colours("third"), rebuild=True).embedded == 40


def test_another_encoder_is_refused_unless_all_is_made_anew(album: Path, target: Target) -> None:
    update.update(target, [album], Colours())
    with pytest.raises(MismatchError, match="--rebuild"):
        update.update(target, [album], Colours("other"))
    assert update.update(target, [album], Colours("other"), rebuild=True).embedded == 40


def test_one_file_by_whatever_way_it_is_reached(tmp_path: Path, target: Target) -> None:
    far = paint(tmp_path / "far" / "robin" / "1.png", 1).parent
    (tmp_path / "here").mkdir()
    paint(tmp_path / "here" / "robin" / "1.png", 2)
    (tmp_path / "here" / "link").symlink_to(far)
    session = Colours()
    assert update.update(target, [tmp_path / "here"], session).added == 2
    # Behind a link, `..` is the folder that the link leads to.
    done = update.update(target, [tmp_path / "here" / "link" / ".."], session)
    assert (counts(done), done.relabelled) == ((0, 0, 0, 0, 0, 0), 1)
    spellings = [tmp_path / "here" / ".", Path(f"/{tmp_path}/here"), far, far / "1.png",
                 far / ".." / "robin"]  # fmt: skip
    assert update.update(target, spellings, session).total == 2
    assert {label for label, _ in rows(target).values()} == {"robin"}


def test_swapped_files_of_one_size_and_time_are_noticed(tmp_path: Path, target: Target) -> None:
    folder, session = tmp_path / "k", Colours()
    for number in range(2):
        os.utime(paint(folder / f"{number}.bmp", number), ns=(10, 10))
    update.update(target, [folder], session)
    before = rows(target)
    (folder / "0.bmp").rename(folder / "aside")
    (folder / "1.bmp").rename(folder / "0.bmp")
    (folder / "aside").rename(folder / "1.bmp")
    assert update.update(target, [folder], session).changed == 2
    assert rows(target)["k/0.bmp"][1] == before["k/1.bmp"][1]


def test_what_is_missing_goes_only_if_asked(album: Path, tmp_path: Path, target: Target) -> None:
    session = Colours()
    hidden = paint(album / ".own" / "seen.png", 500)
    odd = paint(album / "kind0" / "odd.png", 501).rename(album / "kind0" / "odd.dat")
    assert update.update(target, [album, hidden, odd], session).total == 42
    assert update.update(target, [album], session).total == 42  # named outright before
    shutil.rmtree(album / "kind1")
    (album / "kind2").rename(tmp_path / "elsewhere")
    (album / "kind2").mkdir()
    for gone in (album / "kind1", album / "kind2"):
        with pytest.raises(InputError):
            update.update(target, [gone, album / "kind3"], session)
    done = update.update(target, [album / "kind1", album / "kind2"], session, prune=True)
    assert (done.removed, done.total) == (20, 22)
    (album / "kind0" / "photo0.png").unlink()
    (album / "kind0" / "photo0.png").symlink_to("nowhere")
    done = update.update(target, [album], session)
    assert (done.removed, done.total, len(done.problems)) == (1, 21, 1)


def test_copies_are_embedded_once(tmp_path: Path, target: Target) -> None:
    first = paint(tmp_path / "k" / "0.png", 0)
    bad = tmp_path / "k" / "bad0.png"
    bad.write_bytes(b"no picture")
    for number in range(1, 30):
        shutil.copy(first, tmp_path / "k" / f"{number}.png")
        shutil.copy(bad, tmp_path / "k" / f"bad{number}.png")
    done = update.update(target, [tmp_path / "k"], Colours())
    assert (done.embedded, done.added, len(done.problems)) == (1, 30, 30)
    assert all(str(path) in reason for path, reason in done.problems)
    assert len({point for _, point in rows(target).values()}) == 1


def test_a_label_is_the_name_of_the_folder_that_was_given(tmp_path: Path, target: Target) -> None:
    linked = _linked(tmp_path)
    update.update(target, [linked], Colours())
    assert Counter(label for label, _ in rows(target).values()) == {"Robin": 2, "Wren": 2}
    update.update(target, [linked / "Wren" / "0.png"], Colours())
    assert Counter(label for label, _ in rows(target).values()) == {"Robin": 2, "Wren": 2}
    update.update(target, [tmp_path / "store"], Colours())
    assert Counter(label for label, _ in rows(target).values()) == {"id-robin": 2, "id-wren": 2}


def test_what_was_deleted_behind_a_link_goes(tmp_path: Path, target: Target) -> None:
    linked = _linked(tmp_path)
    update.update(target, [linked], Colours())
    (tmp_path / "store" / "id-wren" / "0.png").unlink()
    done = update.update(target, [linked], Colours())
    assert (done.removed, done.total) == (1, 3)
    # A disk behind a link may just not be there.
    (tmp_path / "store" / "id-wren" / "1.png").unlink()
    with pytest.raises(InputError, match="Use --prune"):
        update.update(target, [linked], Colours())
    done = update.update(target, [linked], Colours(), prune=True)
    assert (done.removed, done.total) == (1, 2)


def test_folders_that_overlap_are_written_once(album: Path, target: Target) -> None:
    every = update.update(target, [album], Colours())
    inner = sorted(path for path in album.iterdir() if path.is_dir())[0]
    for paths in ([album, inner], [inner, album], [album, album]):
        for prune in (False, True):
            done = update.update(target, paths, Colours(), prune=prune)
            found, wanted = (
                {record.path for record in one.listing.records} for one in (done, every)
            )
            assert found == wanted
            assert len(done.listing.records) == len(wanted)


def test_an_index_can_be_emptied(tmp_path: Path, target: Target) -> None:
    paint(tmp_path / "a" / "0.png", 1)
    update.update(target, [tmp_path / "a"], Colours())
    shutil.rmtree(tmp_path / "a")
    with pytest.raises(InputError, match="missing"):
        update.update(target, [tmp_path / "a"], Colours())
    with pytest.raises(InputError, match="is not in the index"):
        update.update(target, [tmp_path / "b"], Colours(), prune=True)
    done = update.update(target, [tmp_path / "a"], Colours(), prune=True)
    assert (done.removed, done.total) == (1, 0)
    with closing(stores.searching(target)) as images, pytest.raises(InputError, match="no images"):
        images.search(np.zeros((1, 12), np.float32), 3)
    paint(tmp_path / "a" / "1.png", 2)
    assert update.update(target, [tmp_path / "a"], Colours()).total == 1


def test_a_time_that_no_clock_shows(album: Path, target: Target) -> None:
    os.utime(album / "kind0" / "photo0.png", (2**34, 2**34))
    assert update.update(target, [album], Colours()).total == 40
    assert update.update(target, [album], Colours()).unchanged == 40


def test_labels_that_changed_are_told_of(album: Path, tmp_path: Path, target: Target) -> None:
    update.update(target, [album], Colours())
    lines = [f"album/kind{n % 4}/photo{n}.png,C{n % 4},G{n % 2}" for n in range(40)]
    table = tmp_path / "t.csv"
    table.write_text("\n".join(["path,label,genus", *lines]))
    done = update.update(target, [table], Colours())
    assert (done.relabelled, done.unchanged, done.embedded, done.total) == (40, 0, 0, 40)
    assert Counter(label for label, _ in rows(target).values()) == dict.fromkeys(
        ("C0", "C1", "C2", "C3"), 10
    )
    with closing(stores.searching(target)) as images:
        assert images.level_names == ("genus",)
        (hits,) = images.search(np.zeros((1, 12), np.float32), 40, where=[("genus", "G1")])
        assert {hit.label for hit in hits} == {"C1", "C3"} and len(hits) == 20
        with pytest.raises(InputError, match="no image matches"):
            images.search(np.zeros((1, 12), np.float32), 40, where=[("label", "nobody")])
        with pytest.raises(InputError, match="has no level"):
            images.search(np.zeros((1, 12), np.float32), 1, where=[("order", "x")])


def test_splits_of_a_table_are_kept(album: Path, tmp_path: Path, target: Target) -> None:
    def table(*splits: str) -> Path:
        lines = [f"album/kind{n % 4}/photo{n}.png,C{n % 4},G,{splits[n % len(splits)]}"
                 for n in range(40)]  # fmt: skip
        (tmp_path / "t.csv").write_text("\n".join(["path,label,genus,split", *lines]))
        return tmp_path / "t.csv"

    def splits() -> dict[str, int]:
        with closing(stores.searching(target)) as images:
            assert images.level_names in ((), ("genus",)), "a split is no level"
            held = images.rows()
            told = images.collection_of(held).splits or [""] * 40
        assert told == [row.split for row in held]
        return Counter(told)

    update.update(target, [table("train", "Test")], Colours())
    assert splits() == {"train": 20, "test": 20}
    assert update.update(target, [tmp_path / "t.csv"], Colours()).unchanged == 40
    done = update.update(target, [table("train", "test", "train", "val")], Colours())
    assert (done.relabelled, done.unchanged, done.embedded) == (10, 30, 0)
    assert splits() == {"train": 20, "test": 10, "validation": 10}
    with closing(stores.searching(target)) as images:
        (hits,) = images.search(np.zeros((1, 12), np.float32), 40, where=[("genus", "G")])
        assert len(hits) == 40 and hits[0].levels == {"genus": "G"}
    # A folder says nothing of splits.
    assert update.update(target, [album / "kind3"], Colours()).relabelled == 10
    assert splits() == {"train": 20, "test": 10, "": 10}


def test_a_condition_whose_letters_are_composed_otherwise(tmp_path: Path, target: Target) -> None:
    """macOS writes é as e and an accent; people type it as one letter."""
    paint(tmp_path / "a" / unicodedata.normalize("NFD", "Café") / "1.png", 1)
    paint(tmp_path / "a" / "tea" / "2.png", 2)
    update.update(target, [tmp_path / "a"], Colours())
    with closing(stores.searching(target)) as images:
        for pattern in ("Café", unicodedata.normalize("NFD", "Café"), "Caf*"):
            (hits,) = images.search(np.zeros((1, 12), np.float32), 5, where=[("label", pattern)])
            assert [Path(hit.path).name for hit in hits] == ["1.png"]


def test_an_image_that_another_process_removed(tmp_path: Path, target: Target) -> None:
    update.update(target, [paint(tmp_path / "a" / "1.png", 1)], Colours())
    with closing(stores.searching(target)) as images:
        assert len(images.rows_at([os.fsencode(tmp_path / "a" / "1.png")])) == 1
        with pytest.raises(InputError, match="was removed from the index meanwhile"):
            images.rows_at([b"/no/such.png"])


def test_an_index_of_lists_can_be_emptied(tmp_path: Path, target: Target) -> None:
    update.update(target, [paint(tmp_path / "a" / "1.png", 1).parent], Colours())
    shutil.rmtree(tmp_path / "a")
    done = update.update(target, [tmp_path / "a"], Colours(), prune=True, index_type="ivf")
    assert (done.removed, done.total) == (1, 0)


def test_an_update_that_dies_loses_no_point_and_no_row(album: Path, target: Target) -> None:
    update.update(target, [album / "kind0"], Colours())
    before = rows(target)
    with pytest.raises(KeyboardInterrupt):
        update.update(target, [album], Dies())
    assert rows(target) == before
    done = update.update(target, [album], Colours())
    assert (done.embedded, done.total) == (30, 40)


def test_no_thread_works_on_when_an_update_has_ended(
    album: Path, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would ask a database that is closed by then, which ends the whole process."""
    at_work, read_bytes = set(), update.read_bytes

    def slow(path: Path) -> tuple[bytes, State]:
        at_work.add(path)
        time.sleep(0.05)
        found = read_bytes(path)
        at_work.remove(path)
        return found

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(update, "read_bytes", slow)
    monkeypatch.setattr(Colours, "run", dies)
    session = Colours()
    session.batch = 1
    with pytest.raises(KeyboardInterrupt):
        update.update(target, [album], session)
    assert not at_work


def test_an_index_of_points_alone(target: Target) -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(-0.3, 0.3, (700, 12)).astype(np.float32)
    given = Collection(
        points=points, paths=[f"s3://birds/{n}.jpg" for n in range(700)],
        labels=[f"C{n % 7}" for n in range(700)], c=0.1, fingerprint="colours",
        level_names=("genus",), levels=[(f"G{n % 7 // 3}",) for n in range(700)],
    )  # fmt: skip
    name = str(target) if isinstance(target, Path) else f"milvus:{target.uri}"
    if SERVER and isinstance(target, Address):
        name = f"{SERVER}/{target.collection}"
    assert target_of(name) == target
    with Index.build(name, given) as index:
        hits = index.search(points[:3], k=5, where=[("genus", "G1")])
        far = index.collection([("label", "C3")])
    for found in hits:
        assert {hit.levels["genus"] for hit in found} == {"G1"}
        assert found == sorted(found, key=lambda hit: hit.distance) and len(found) == 5
    assert far.labels == ["C3"] * 100 and far.level_names == ("genus",)
    with pytest.raises(InputError, match="already exists"):
        Index.build(name, given)
    with Index.build(name, given, rebuild=True) as index:
        assert len(index) == 700


def test_nothing_is_written_where_all_must_be_read(album: Path, target: Target) -> None:
    (album / "kind0" / "bad.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match="Nothing was written"):
        update.update(target, [album], Colours(), strict=True)
    assert not stores.exists(target)
    assert update.update(target, [album], Colours()).embedded < 40  # what was made is kept


def work(index: Target, folder: str) -> None:
    """What the killed process does."""
    pending._SECONDS_BETWEEN_SAVES = 0.0
    update.update(index, [Path(folder)], Colours())


def test_kills_leave_each_image_old_or_new(
    album: Path, tmp_path: Path, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In files the whole index is old or new, see `test_index`; in Milvus each image is."""
    rng, context = random.Random(0), multiprocessing.get_context("forkserver")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    context.set_forkserver_preload(["test_stores"])
    update.update(target, [album], Colours())
    for _ in range(2):  # the first process also starts the server
        began = time.monotonic()
        run = context.Process(target=work, args=(target, str(album)))
        run.start()
        run.join()
        length = time.monotonic() - began
        assert run.exitcode == 0
    kills = 0
    for turn in range(40):
        old = rows(target)
        gone = rng.choice(sorted(album.rglob("*.png")))
        gone.unlink()
        paint(album / f"kind{turn % 4}" / f"later{turn}.png", 2000 + turn)
        moving = rng.choice(sorted(album.rglob("*.png")))
        moving.rename(moving.with_name(f"moved{turn}.png"))
        run = context.Process(target=work, args=(target, str(album)))
        run.start()
        run.join(rng.uniform(0.1, 1) * length)
        run.kill()
        run.join()
        kills += run.exitcode == -signal.SIGKILL
        new = {f"{file.parent.name}/{file.name}" for file in album.rglob("*.png")}
        found = rows(target)
        assert set(old) & new <= set(found) <= set(old) | new
        assert {name: row for name, row in found.items() if name in old}.items() <= old.items()
        if kills == 8:
            break
    assert kills == 8
    anew = tmp_path / "anew.faiss"
    update.update(anew, [album], Colours())
    update.update(target, [album], Colours())
    assert rows(target) == rows(anew)
