"""An index in its files: its cost, older formats, other places, and many who read it at once."""

import base64
import io
import json
import multiprocessing
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
import zipfile
from contextlib import closing
from pathlib import Path

import faiss
import numpy as np
import pytest
from conftest import Hier, fails, paint
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from test_index import Colours, Dies, counts

from hiercli.collection import Collection
from hiercli.encoder.encoder import Encoder
from hiercli.errors import FileFormatError, ImageError, InputError, MismatchError
from hiercli.hierarchy.tree import Tree
from hiercli.images import LIMITS, read_bytes
from hiercli.index import database, health, renewal, resident, update, writer
from hiercli.index.catalogue import Catalogue, version_of
from hiercli.index.index import Index
from hiercli.index.locations import Locations, catalogue_path, join, split
from hiercli.index.pictures import Pictures
from hiercli.index.reader import Reader
from hiercli.index.schema import VERSION, Row
from hiercli.index.sync import Plan, Scope, Seen, plan_sync
from hiercli.reports import neighbours

DATA = Path(__file__).parent / "data"


def all_hits(index: Path, root: Path | None = None) -> list[tuple[str, str, float]]:
    with closing(Reader(index, root=root)) as reader:
        (hits,) = reader.search(np.zeros((1, reader.dim), np.float32), None)
    return [(hit.path, hit.label, hit.distance) for hit in hits]


# -- the plan of an update ------------------------------------------------------------------------

NAMES = [b"/%s/%d.png" % (folder, number) for folder in (b"a", b"a/b", b"c", b"a/.hidden")
         for number in range(3)]  # fmt: skip
CONTENTS = [b"x", b"y", b"z", b"w"]
FOLDERS = [b"/a", b"/a/b", b"/c"]


def seen_of(files: dict[bytes, tuple[bytes, str]]) -> dict[bytes, Seen]:
    return {
        name: Seen(Path(os.fsdecode(name)), name, b"" if what else content, (1, 1, 1), what,
                   what == "no image")
        for name, (content, what) in files.items()
    }  # fmt: skip


files = st.dictionaries(st.sampled_from(NAMES), st.sampled_from(CONTENTS), max_size=8)
problems = st.sampled_from(["", "", "", "", "no image", "permission denied"])


@given(
    known=files,
    listed=st.dictionaries(
        st.sampled_from(NAMES), st.tuples(st.sampled_from(CONTENTS), problems), max_size=8
    ),
    roots=st.sets(st.sampled_from(FOLDERS)),
    closed=st.sets(st.sampled_from(FOLDERS), max_size=1),
    named=st.sets(st.sampled_from(NAMES), max_size=2),
)
@settings(max_examples=400, deadline=None)
def test_a_plan_does_what_a_naive_one_does(
    known: dict[bytes, bytes], listed: dict[bytes, tuple[bytes, str]], roots: set[bytes],
    closed: set[bytes], named: set[bytes],
) -> None:  # fmt: skip
    """Carried out, it leaves what is there: nothing twice, nothing lost that was only not seen."""
    before = {
        name: Row(number, name, "old", "{}", content, (1, 1, 1))
        for number, (name, content) in enumerate(sorted(known.items()))
    }
    scope = Scope(roots, closed, named)
    plan = plan_sync(before, seen_of(listed), dict.fromkeys(listed, ("new", "{}", "")), scope)

    def below(name: bytes, folders: set[bytes]) -> bool:
        return any(name.startswith(folder + b"/") for folder in folders)

    wanted = {}
    for name, content in known.items():
        what = listed.get(name, (b"", None))[1]
        speaks_of_it = name in named or (below(name, roots) and not below(name, closed))
        gone = what == "no image" or (what is None and speaks_of_it)
        if not gone:
            wanted[name] = content
    wanted |= {name: content for name, (content, what) in listed.items() if not what}
    after = {row.id: row for row in before.values() if row.id not in plan.removed}
    assert len(after) == len(before) - len(plan.removed)
    for row in (*plan.moved, *plan.touched, *plan.changed):
        assert row.id in after
        after[row.id] = row
    left = [*after.values(), *plan.added]
    assert {row.path: row.content for row in left} == wanted
    assert len({row.path for row in left}) == len(left)
    # What keeps its content keeps its id, where it lies as where it lies now.
    for row in plan.moved:
        assert row.content == next(old.content for old in before.values() if old.id == row.id)
    same = {name for name in known if listed.get(name) == (known[name], "")}
    assert len(same) == plan.unchanged + plan.relabelled
    gone_contents = [known[old.path] for old in before.values() if old.id in plan.removed
                     and (old.path not in listed)]  # fmt: skip
    assert not {row.content for row in plan.added} & set(gone_contents), "moved, not made anew"
    assert plan.out_of_reach == {n for n in known if listed.get(n, "  ")[1] == "permission denied"}


def test_a_plan_of_nothing_is_no_work() -> None:
    assert not Plan().is_work
    assert not plan_sync({}, {}, {}, Scope(set(), set(), set())).is_work


# -- what an update costs -------------------------------------------------------------------------


def test_a_small_change_leaves_the_faiss_file_alone(album: Path, tmp_path: Path) -> None:
    index, session = tmp_path / "idx.faiss", Colours()
    update.update(index, [album], session)
    content = index.read_bytes()
    paint(album / "kind0" / "new.png", 500)
    paint(album / "kind1" / "photo1.png", 501)
    (album / "kind2" / "photo2.png").unlink()
    assert counts(update.update(index, [album], session))[:4] == (1, 1, 0, 1)
    assert index.read_bytes() == content
    facts = health.stats(index)
    assert (facts["not_yet_in_faiss"], facts["removed_but_in_faiss"]) == (2, 2)
    assert health.verify(index, files=True) == health.Health([], [])
    before = all_hits(index)
    health.compact(index)
    assert index.read_bytes() != content
    assert all_hits(index) == before
    facts = health.stats(index)
    assert (facts["not_yet_in_faiss"], facts["removed_but_in_faiss"]) == (0, 0)
    (album / "kind0" / "new.png").unlink()
    update.update(index, [album], session)
    paint(album / "kind0" / "new.png", 500)
    update.update(index, [album], session)
    assert health.stats(index)["removed_but_in_faiss"] == 1, "an id is not given again"
    assert all_hits(index) == before


def test_a_faiss_file_is_made_anew_beyond_a_share(
    album: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renewal, "_LEAST_DELTA", 3)
    index, session = tmp_path / "idx.faiss", Colours()
    update.update(index, [album], session)
    for number in range(5):
        paint(album / "kind0" / f"new{number}.png", 500 + number)
        update.update(index, [album], session)
        assert health.stats(index)["not_yet_in_faiss"] == (number + 1 if number < 3 else number - 3)
    assert health.verify(index).damage == []


def test_a_lost_faiss_file_is_made_again(album: Path, tmp_path: Path) -> None:
    index, session = tmp_path / "idx.faiss", Colours()
    update.update(index, [album], session)
    before = all_hits(index)
    index.unlink()
    with pytest.raises(InputError, match="hier index repair"):
        Reader(index)
    update.update(index, [album], session)
    assert all_hits(index) == before


def test_a_faiss_file_of_another_state_is_refused(album: Path, tmp_path: Path) -> None:
    index, session = tmp_path / "idx.faiss", Colours()
    update.update(index, [album], session)
    old = index.read_bytes()
    health.compact(index)
    for content in (old, index.read_bytes()[:-1], index.read_bytes() + b"x", b"", old[:100]):
        index.write_bytes(content)
        with pytest.raises(MismatchError, match="does not match its catalogue"):
            Reader(index)
        assert health.verify(index).damage
    health.repair(index)
    assert len(all_hits(index)) == 40


def test_a_catalogue_can_be_looked_into(album: Path, tmp_path: Path) -> None:
    """With any program that reads SQLite."""
    index = tmp_path / "idx.faiss"
    update.update(index, [album], Colours())
    with closing(sqlite3.connect(catalogue_path(index))) as opened:
        found = opened.execute("SELECT path, label FROM photos").fetchall()
    assert len(found) == 40
    assert ("./album/kind0/photo0.png", "kind0") in found
    with closing(sqlite3.connect(catalogue_path(index))) as opened:
        opened.execute("DROP VIEW photos")
        opened.execute("CREATE VIEW photos AS SELECT 1 AS label FROM images")
        opened.commit()
    with pytest.raises(FileFormatError):
        Reader(index)


def test_a_plain_faiss_file(album: Path, tmp_path: Path) -> None:
    """Whoever reads it with FAISS has no need of us."""
    index = tmp_path / "idx.faiss"
    update.update(index, [album], Colours())
    assert faiss.read_index(str(index)).ntotal == 40


# -- older formats --------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["5", "6", "7", "8"])
def test_an_index_of_an_older_format(
    version: str, album: Path, tmp_path: Path, inside: Hier
) -> None:
    """Written by the version before, unpacked here: `compact` or an update brings it up to date."""
    index = tmp_path / "home" / "idx.faiss"
    index.parent.mkdir()
    for part in (min(version, "6"), version):  # those of later formats hold what that of 6 does
        with zipfile.ZipFile(DATA / f"index-format-{part}.zip") as packed:
            packed.extractall(tmp_path / part)
    with closing(sqlite3.connect(tmp_path / min(version, "6") / "idx.faiss.sqlite")) as old:
        wanted = {os.fsdecode(path): (number, point) for number, path, point in
                  old.execute("SELECT id, path, point FROM photos")}  # fmt: skip
    assert len(wanted) == 11
    if version == "7":  # moved together with its images, whose paths are relative to it
        wanted = {str(tmp_path) + path.removeprefix("/tmp"): row for path, row in wanted.items()}
        for path in map(Path, wanted):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    for name in ("idx.faiss", "second.faiss"):
        for end in ("", ".sqlite"):
            shutil.copy(tmp_path / version / f"idx.faiss{end}", index.with_name(f"{name}{end}"))
    with pytest.raises(FileFormatError, match="hier index compact"):
        Reader(index)
    assert inside("index", "compact", index).returncode == 0
    facts = health.stats(index)
    assert facts["index_type"] == ("ivf" if version == "5" else "flat")
    assert (facts["pictures"], facts["quarantined"], facts["fingerprint"]) == (11, 1, "colours")
    assert facts["levels"] == ([] if version == "5" else ["level1"])
    assert health.verify(index).damage == []
    with closing(Catalogue(index)) as catalogue:
        found = {os.fsdecode(row.path): (row.id, row.point) for _, row in catalogue.every() if row}
        assert found == wanted
        assert len(catalogue.proxies()) == (0 if version == "5" else 2)
        assert catalogue.next_id == 12
        assert len(list(catalogue.thumbnails())) == (2 if version == "8" else 0)
    done = update.update(index.with_name("second.faiss"), [album], Colours())
    assert (done.added, done.total) == (40, 51)
    with closing(Catalogue(index.with_name("second.faiss"))) as catalogue:
        assert {number for number, _ in catalogue.every()} == set(range(1, 52))
    assert health.verify(index.with_name("second.faiss")).damage == []


def _compact(index: str) -> None:
    health.compact(Path(index))


@pytest.mark.parametrize("version", ["6", "7", "8"])
def test_a_killed_migration_leaves_the_old_or_the_new(
    version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zipfile.ZipFile(DATA / f"index-format-{version}.zip") as packed:
        packed.extractall(tmp_path / "old")
    rng, index = random.Random(0), tmp_path / "idx.faiss"
    context = multiprocessing.get_context("forkserver")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    context.set_forkserver_preload(["test_index_files"])
    seen, length = set(), 60.0
    for turn in range(25):
        for file in tmp_path.glob("*idx.faiss*"):
            file.unlink()
        for file in (tmp_path / "old").iterdir():
            shutil.copy(file, tmp_path / file.name)
        run = context.Process(target=_compact, args=(str(index),))
        run.start()
        began = time.monotonic()
        run.join(None if turn == 0 else rng.uniform(0, 1.1 * length))
        if turn == 0:
            length = time.monotonic() - began
        run.kill()
        run.join()
        seen.add(version_of(index))
        health.compact(index)
        assert health.verify(index).damage == []
        assert len(all_hits(index)) == 11
    assert seen <= {version, VERSION}


def test_a_newer_format_is_named(album: Path, tmp_path: Path) -> None:
    index = tmp_path / "idx.faiss"
    update.update(index, [album], Colours())
    with closing(sqlite3.connect(catalogue_path(index))) as opened:
        opened.execute("UPDATE facts SET value = '99' WHERE name = 'version'")
        opened.commit()
    for attempt in (Reader, health.compact, health.repair):
        with pytest.raises(FileFormatError, match="format 99"):
            attempt(index)


def test_a_damaged_catalogue_of_the_version_before(tmp_path: Path) -> None:
    with zipfile.ZipFile(DATA / "index-format-7.zip") as packed:
        packed.extractall(tmp_path)
    index = tmp_path / "idx.faiss"
    with closing(sqlite3.connect(catalogue_path(index))) as opened:
        opened.execute("UPDATE facts SET value = '0.3' WHERE name = 'c'")
        opened.commit()
    with pytest.raises(FileFormatError, match="damaged"):
        health.compact(index)
    assert version_of(index) == "7"


def test_a_full_disk_in_a_migration_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zipfile.ZipFile(DATA / "index-format-7.zip") as packed:
        packed.extractall(tmp_path)

    open_to_write = database.open_to_write

    def full(path: Path) -> sqlite3.Connection:
        opened = open_to_write(path)
        opened.execute("PRAGMA max_page_count = 1")  # no more than it has
        return opened

    with monkeypatch.context() as patched:
        patched.setattr(database, "open_to_write", full)
        with pytest.raises(InputError, match="full") as told:
            health.compact(tmp_path / "idx.faiss")
    assert "damaged" not in str(told.value) and "--rebuild" not in str(told.value)
    health.compact(tmp_path / "idx.faiss")
    assert health.verify(tmp_path / "idx.faiss").damage == []


# -- thumbnails -----------------------------------------------------------------------------------


def stored_thumbnails(index: Path) -> dict[bytes, bytes]:
    with closing(Catalogue(index)) as catalogue:
        return dict(catalogue.thumbnails())


def test_thumbnails_come_and_go_with_their_images(album: Path, tmp_path: Path) -> None:
    index = tmp_path / "idx.faiss"
    shutil.copy(album / "kind0" / "photo0.png", album / "kind0" / "copy.png")
    update.update(index, [album], Colours())
    before = stored_thumbnails(index)
    assert len(before) == 40  # copies share one
    with Image.open(io.BytesIO(next(iter(before.values())))) as small:
        assert (small.format, small.size) == ("JPEG", (24, 24))
    (album / "kind0" / "photo0.png").unlink()  # its copy stays
    (album / "kind1" / "photo1.png").unlink()
    paint(album / "kind2" / "photo2.png", 1000)
    update.update(index, [album], Colours())
    after = stored_thumbnails(index)
    assert (len(after), len(after.keys() & before.keys())) == (39, 38)
    health.repair(index)
    assert stored_thumbnails(index) == after
    with pytest.raises(KeyboardInterrupt):
        update.update(index, [paint(tmp_path / "x" / "1.png", 77).parent], Dies())
    with pytest.raises(KeyboardInterrupt):
        update.update(index, [album], Dies("other"), rebuild=True)
    health.compact(index)
    update.update(index, [album], Colours())
    assert stored_thumbnails(index) == after
    assert update.update(index, [album], Colours(), thumbnails=False).embedded == 0
    assert stored_thumbnails(index) == {}
    paint(album / "kind2" / "later.png", 1001)
    update.update(index, [album], Colours())  # it stays so
    assert stored_thumbnails(index) == {}
    update.update(index, [album], Colours(), rebuild=True)
    assert len(stored_thumbnails(index)) == 40


def test_a_comment_is_not_kept_with_a_thumbnail(tmp_path: Path) -> None:
    """It may be private, and longer than a JPEG can hold."""
    album = tmp_path / "album"
    paint(album / "good.png", 1)
    small = Image.new("RGB", (200, 200), "red")
    small.convert("P").save(album / "long.gif", comment=b"x" * 100_000)
    small.save(album / "short.jpg", comment=b"secret" * 100)
    assert update.update(tmp_path / "idx.faiss", [album], Colours()).total == 3
    kept = stored_thumbnails(tmp_path / "idx.faiss").values()
    assert len(kept) == 3
    assert not any(b"secret" in picture or len(picture) > 4000 for picture in kept)
    for file in ("long.gif", "short.jpg"):  # pages write such pictures too
        shown = base64.b64decode(neighbours.thumbnail(album / file).partition(",")[2])
        assert shown and b"secret" not in shown


def test_a_damaged_row_costs_one_picture_not_the_page(album: Path, tmp_path: Path) -> None:
    index = tmp_path / "idx.faiss"
    update.update(index, [album], Colours())
    gone = album / "kind0" / "photo0.png"
    gone.unlink()
    with closing(sqlite3.connect(catalogue_path(index))) as opened:
        opened.execute("UPDATE images SET size = size + 1")
        opened.commit()
    with closing(Catalogue(index)) as catalogue, pytest.raises(ImageError, match="no such file"):
        Pictures(catalogue)(gone)


def test_a_tree_does_not_keep_its_index_open(
    photos: Path, exported: Path, inside: Hier, tmp_path: Path
) -> None:
    """Who reads holds back what SQLite may remove from its log."""
    index = tmp_path / "idx.faiss"
    assert inside("embed", photos, "--model", exported, "--index", index).returncode == 0
    tree = Tree.load(index)
    tree.to_html(tmp_path / "tree.html", pictures=2)
    for number in range(3):
        extra = paint(tmp_path / "more" / "kind" / f"{number}.png", number).parent
        update.update(index, [extra], Encoder(exported, device="cpu"))
    log = catalogue_path(index).with_name("idx.faiss.sqlite-wal")
    assert not log.exists() or log.stat().st_size == 0


def test_pages_show_images_that_are_no_longer_there(
    photos: Path, exported: Path, inside: Hier, tmp_path: Path
) -> None:
    shutil.copytree(photos, tmp_path / "photos")
    index, page = tmp_path / "idx.faiss", tmp_path / "page.html"
    query = sorted(photos.rglob("*.jpg"))[0]
    assert (
        inside("embed", tmp_path / "photos", "--model", exported, "--index", index).returncode == 0
    )
    assert inside("search", query, "--index", index, "-k", 3, "--html", page).returncode == 0
    assert page.read_text().count("data:image/jpeg") == 4
    shutil.rmtree(tmp_path / "photos")
    done = inside("search", query, "--index", index, "-k", 3, "--html", page)
    assert (done.returncode, b"without a thumbnail" in done.stderr) == (0, False)
    assert page.read_text().count("data:image/jpeg") == 4
    done = inside("hierarchy", "--index", index, "--format", "html", "-o", page)
    assert done.returncode == 0, done.stderr
    with closing(sqlite3.connect(catalogue_path(index))) as opened:
        opened.execute("UPDATE thumbnails SET picture = 'no picture'")
        opened.commit()
    done = inside("search", query, "--index", index, "-k", 3, "--html", page)
    assert (done.returncode, b"3 images without a thumbnail" in done.stderr) == (0, True)
    done = inside("hierarchy", "--index", index, "--format", "html", "-o", page)
    assert (done.returncode, b"cannot" in done.stderr or b"no such" in done.stderr) == (3, True)


# -- other places ---------------------------------------------------------------------------------


def test_an_index_moved_with_its_images(album: Path, tmp_path: Path) -> None:
    index, session = tmp_path / "idx.faiss", Colours()
    update.update(index, [album], session)
    before = all_hits(index)
    new = tmp_path / "elsewhere"
    new.mkdir()
    for file in (index, catalogue_path(index), album):
        file.rename(new / file.name)
    moved = [(path.replace(str(tmp_path), str(new)), *more) for path, *more in before]
    assert all_hits(new / "idx.faiss") == moved
    done = update.update(new / "idx.faiss", [new / "album"], session)
    assert counts(done) == (0, 0, 0, 0, 40, 0)
    assert health.verify(new / "idx.faiss", files=True) == health.Health([], [])


def test_an_index_moved_alone(album: Path, tmp_path: Path) -> None:
    index, session = tmp_path / "idx.faiss", Colours()
    update.update(index, [album], session)
    before = all_hits(index)
    new = tmp_path / "deep" / "in" / "side"
    new.mkdir(parents=True)
    for file in (index, catalogue_path(index)):
        file.rename(new / file.name)
    assert all_hits(new / "idx.faiss") == before
    paint(album / "kind0" / "new.png", 500)
    assert counts(update.update(new / "idx.faiss", [album], session)) == (1, 0, 0, 0, 40, 1)
    assert health.verify(new / "idx.faiss", files=True) == health.Health([], [])
    # Where the images are not at all, it answers with the names that it knows.
    shutil.rmtree(album)
    assert len(all_hits(new / "idx.faiss")) == 41


def test_a_root_of_ones_own(album: Path, tmp_path: Path) -> None:
    index, session = tmp_path / "far" / "off" / "idx.faiss", Colours()
    update.update(index, [album], session, root=tmp_path)
    before = all_hits(index)
    assert before[0][0].startswith(str(album))
    disk = tmp_path / "disk"
    disk.mkdir()
    album.rename(disk / "album")
    there = [(path.replace(str(tmp_path), str(disk)), *more) for path, *more in before]
    assert all_hits(index, disk) == there
    assert counts(update.update(index, [disk / "album"], session, root=disk))[4] == 40
    assert all_hits(index) == there
    with Index(index, encoder=session) as opened:
        assert opened.update([disk / "album"]).unchanged == 40


def test_a_root_for_an_index_that_had_none(album: Path, tmp_path: Path) -> None:
    index, session = tmp_path / "idx.faiss", Colours()
    update.update(index, [album], session)
    before = all_hits(index)
    assert counts(update.update(index, [album], session, root=album))[4] == 40
    assert all_hits(index) == before
    moved = tmp_path / "moved"
    album.rename(moved)
    assert [path for path, *_ in all_hits(index, moved)] == [
        path.replace(str(album), str(moved)) for path, *_ in before
    ]


def moved_apart(tmp_path: Path, images: str, index: str) -> tuple[Path, Path]:
    """Images in one folder, and their index in another; both below a folder of their own."""
    for number in range(4):
        paint(tmp_path / images / f"{number}.png", number)
    target = tmp_path / index / "idx.faiss"
    update.update(target, [tmp_path / images], Colours())
    return tmp_path / images, target


def test_an_index_moved_away_from_images_beside_it(tmp_path: Path) -> None:
    """The folder itself is there wherever the index lies: images decide."""
    images, index = moved_apart(tmp_path, "album", "album")
    before, new = all_hits(index), tmp_path / "other"
    new.mkdir()
    for file in (index, catalogue_path(index)):
        file.rename(new / file.name)
    assert all_hits(new / "idx.faiss") == before
    assert counts(update.update(new / "idx.faiss", [images], Colours())) == (0, 0, 0, 0, 4, 0)
    assert all_hits(new / "idx.faiss") == before


def test_a_root_is_read_and_written_alike(tmp_path: Path) -> None:
    """Index and images have been moved apart: searching and updating agree where they are."""
    images, index = moved_apart(tmp_path, "a/photos", "a/idx")
    for name in ("b", "c"):
        (tmp_path / name).mkdir()
    index.parent.rename(tmp_path / "b" / "idx")
    images.rename(tmp_path / "c" / "photos")
    root, index = tmp_path / "c" / "idx", tmp_path / "b" / "idx" / "idx.faiss"
    root.mkdir()
    with Index(index, encoder=Colours(), root=root) as opened:
        paths = {hit.path for hit in opened.search(np.zeros(12, np.float32), k=None)}
        assert paths == {str(file) for file in (tmp_path / "c" / "photos").iterdir()}
        done = opened.update([tmp_path / "c" / "photos"])
        assert (done.unchanged, done.total) == (4, 4)
    assert {path for path, *_ in all_hits(index)} == paths


def test_another_root_while_images_stay(tmp_path: Path) -> None:
    images, index = moved_apart(tmp_path, "data/photos/k", "far")
    before = all_hits(index)
    for root in (tmp_path / "data" / "photos", tmp_path / "data", tmp_path, tmp_path / "data"):
        assert counts(update.update(index, [images], Colours(), root=root))[4] == 4
        assert all_hits(index) == before
    assert health.verify(index, files=True) == health.Health([], [])


def test_folders_that_take_each_others_place(tmp_path: Path) -> None:
    for folder in ("m/a", "m/m/a"):
        paint(tmp_path / folder / "0.png", len(folder))
    index = tmp_path / "m" / "idx.faiss"
    update.update(index, [tmp_path / "m"], Colours())
    before = all_hits(index)
    done = update.update(index, [tmp_path / "m"], Colours(), root=tmp_path)
    assert (done.unchanged, done.total) == (2, 2)
    assert all_hits(index) == before


def test_two_folders_that_become_one(tmp_path: Path) -> None:
    """One is known by its own name and one relative to the index, which has moved to the other."""
    for place in ("x", "y"):
        for number in range(3):
            paint(tmp_path / place / "photos" / f"{number}.png", number)
    index = tmp_path / "x" / "deep" / "idx.faiss"
    folders = [tmp_path / place / "photos" for place in ("x", "y")]
    update.update(index, folders, Colours())
    assert len(all_hits(index)) == 6
    shutil.rmtree(tmp_path / "x" / "photos")
    shutil.copytree(tmp_path / "x" / "deep", tmp_path / "y" / "deep")
    new = tmp_path / "y" / "deep" / "idx.faiss"
    done = update.update(new, [folders[1]], Colours())
    assert (done.unchanged, done.total) == (3, 3)
    assert {path for path, *_ in all_hits(new)} == set(map(str, folders[1].iterdir()))
    assert health.verify(new, files=True) == health.Health([], [])


@given(
    folder=st.lists(st.sampled_from(["a", "b", "photos", "é", ".h"]), max_size=4),
    home=st.lists(st.sampled_from(["a", "b", "photos"]), max_size=3),
)
def test_a_folder_is_written_and_read_as_it_was(folder: list[str], home: list[str]) -> None:
    path = os.fsencode("/" + "/".join(folder))
    for where in (Locations(Path("/" + "/".join(home))), Locations(Path("/x"), Path("/a"))):
        assert where.actual(where.written(path)) == path
    assert join(*split(path + b"/x.png")) == path.rstrip(b"/") + b"/x.png"


# -- many readers, few rights, odd disks ----------------------------------------------------------


def test_a_folder_that_is_only_read(album: Path, tmp_path: Path) -> None:
    shelf = Path(tempfile.mkdtemp())  # pytest's own folders are closed to other users
    index = shelf / "idx.faiss"
    update.update(index, [album], Colours())
    other = tmp_path / "other.faiss"
    update.update(other, [album], Colours())
    code = f"""
import os
import numpy as np
from pathlib import Path
from hiercli.index.pictures import Pictures
from hiercli.index.reader import Reader
# All that is imported must be before another user, who may not read Python's folder, goes on.
Reader(Path({str(other)!r})).search(np.zeros((1, 12), np.float32), 1)
if os.getuid() == 0:
    os.setgid(65534); os.setuid(65534)
try:
    open({str(shelf / "x")!r}, "w")
except OSError:
    reader = Reader(Path({str(index)!r}))
    print(len(reader.search(np.zeros((1, 12), np.float32), None)[0]))
"""
    shelf.chmod(0o555)
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    finally:
        shelf.chmod(0o755)
    assert done.stdout == "40\n", done.stderr
    assert sorted(file.name for file in shelf.iterdir()) == [
        ".idx.faiss.hier-lock", "idx.faiss", "idx.faiss.sqlite"
    ]  # fmt: skip
    shutil.rmtree(shelf)


@pytest.mark.parametrize("is_local", [True, False])
def test_readers_and_a_writer(
    is_local: bool, album: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a network disk too: what is open answers as before, what is opened later sees the new."""
    monkeypatch.setattr(database, "_is_local", lambda _: is_local)
    index, session = tmp_path / "idx.faiss", Colours()
    update.update(index, [album], session)
    with closing(sqlite3.connect(catalogue_path(index))) as opened:
        (mode,) = opened.execute("PRAGMA journal_mode").fetchone()
    assert mode == ("wal" if is_local else "delete")
    readers = [Reader(index) for _ in range(50)]
    if not is_local:  # a rollback journal lets nobody write while somebody is in the midst of it
        for reader in readers:
            reader.catalogue.database.execute("COMMIT")
    paint(album / "kind0" / "new.png", 500)
    assert update.update(index, [album], session).added == 1
    for reader in readers:
        assert len(reader.search(np.zeros((1, 12), np.float32), None)[0]) == 40
        reader.close()
    assert len(all_hits(index)) == 41


def test_what_a_kill_leaves_is_used(album: Path, tmp_path: Path) -> None:
    """The write-ahead log of a killed writer belongs to the catalogue; without it all is old."""
    index, session = tmp_path / "idx.faiss", Colours()
    update.update(index, [album], session)
    paint(album / "kind0" / "new.png", 500)
    code = f"""
import os, sys
sys.path[:0] = {[str(Path(__file__).parent)]!r}
from pathlib import Path
from test_index import Colours
from hiercli.index import local, update
local.LocalStore.close = lambda self: os._exit(0)
update.update(Path({str(index)!r}), [Path({str(album)!r})], Colours())
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    assert Path(f"{index}.sqlite-wal").stat().st_size
    old = tmp_path / "copy.faiss"
    shutil.copy(index, old)
    shutil.copy(catalogue_path(index), catalogue_path(old))
    assert len(all_hits(old)) == 40
    assert len(all_hits(index)) == 41
    assert health.verify(old).damage == [] == health.verify(index).damage


def test_a_file_too_large_to_be_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    huge = tmp_path / "k" / "huge.jpg"
    paint(tmp_path / "k" / "0.png", 0)
    with open(huge, "wb") as file:
        file.truncate(2**32)
    done = update.update(tmp_path / "idx.faiss", [tmp_path / "k"], Colours())
    assert (done.added, len(done.problems)) == (1, 1)
    assert "4,294,967,296 bytes" in done.problems[0][1]
    monkeypatch.setattr(LIMITS, "bytes", 10)
    with pytest.raises(ImageError, match="more than the 10"):
        read_bytes(tmp_path / "k" / "0.png")


# -- points without images ------------------------------------------------------------------------


def test_points_become_an_index(
    photos: Path, exported: Path, index: Path, inside: Hier, tmp_path: Path
) -> None:
    query = sorted(photos.rglob("*.jpg"))[0]
    wanted = json.loads(inside("search", query, "--index", index, "--json").stdout)["results"]
    for name in ("v.npy", "v.parquet", "shards"):
        points = tmp_path / name
        if name == "shards":
            points.mkdir()
            shutil.copy(tmp_path / "v.parquet", points / "part-0.parquet")
        else:
            assert inside("embed", photos, "--model", exported, "-o", points).returncode == 0
        target = tmp_path / f"{name}.faiss"
        words = ("index", "build", target, "--points", points, "--model", exported, "--json")
        done = inside(*words)
        assert done.returncode == 0, done.stderr.decode()
        assert json.loads(done.stdout)["total"] == 48
        assert inside(*words).returncode == 2, "it is not replaced unasked"
        assert inside(*words, "--rebuild").returncode == 0
        found = json.loads(inside("search", query, "--index", target, "--json").stdout)["results"]
        assert [(hit["path"], hit["label"]) for hit in found] == [
            (hit["path"], hit["label"]) for hit in wanted
        ]
        assert np.allclose([h["distance"] for h in found], [h["distance"] for h in wanted])
        assert inside("index", "verify", target).returncode == 0
    other = tmp_path / "other.npy"
    np.save(other, np.full((3, 5), 0.1, np.float32))
    done = inside("index", "build", tmp_path / "x.faiss", "--points", query)
    assert (done.returncode, b"expected --points to be" in done.stderr) == (2, True)
    done = inside("search", query, "--index", index, "--root", tmp_path / "nowhere")
    assert (done.returncode, b"expected --root to be a folder" in done.stderr) == (2, True)
    words = ("embed", photos, "--model", exported, "--index", tmp_path / "y.faiss")
    done = inside(*words, "--root", tmp_path / "nowhere")
    assert (done.returncode, b"expected --root to be a folder" in done.stderr) == (2, True)
    for bad in (other, tmp_path / "none.npy"):
        done = inside("index", "build", tmp_path / "x.faiss", "--points", bad, "--model", exported)
        assert done.returncode in (2, 4)
        assert not (tmp_path / "x.faiss").exists()
    done = inside("index", "build", tmp_path / "x.faiss", "--points", other)
    assert (done.returncode, b"Name the encoder" in done.stderr) == (2, True)


@pytest.mark.parametrize("value", [np.nan, np.inf, 3.2])
def test_points_that_are_none_of_the_ball(value: float, tmp_path: Path) -> None:
    points = np.zeros((4, 3), np.float32)
    points[2, 1] = value
    with pytest.raises(InputError):
        Index.build(tmp_path / "x.faiss", Collection(points=points, c=0.1))
    assert not list(tmp_path.iterdir())


def test_an_image_that_is_known_is_not_embedded_again(
    photos: Path, index: Path, inside: Hier, monkeypatch: pytest.MonkeyPatch
) -> None:
    query = sorted(photos.rglob("*.jpg"))[0]
    with_encoder = inside("search", query, "--index", index, "--json", "--branches")
    monkeypatch.setattr(Encoder, "run", None)
    done = inside("search", query, "--index", index, "--json")
    assert done.returncode == 0, done.stderr.decode()
    assert [h["path"] for h in json.loads(done.stdout)["results"]] == [
        h["path"] for h in json.loads(with_encoder.stdout)["results"]
    ]


def test_memory_does_not_grow_over_a_thousand_opens(album: Path, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    index = tmp_path / "idx.faiss"
    update.update(index, [album], Colours())

    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0

    all_hits(index)
    before, opened = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, descriptors()
    for _ in range(1000):
        with closing(Reader(index)) as reader:
            reader.search(np.zeros((1, 12), np.float32), 3)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 20_000, f"{grown} KB more"
    assert descriptors() <= opened + 1


# -- kills, damage and other devices --------------------------------------------------------------


def test_what_waits_survives_an_update_of_other_images(album: Path, tmp_path: Path) -> None:
    index, other = tmp_path / "idx.faiss", paint(tmp_path / "other" / "k" / "0.png", 900).parent
    update.update(index, [other], Colours())
    with pytest.raises(KeyboardInterrupt):
        update.update(index, [album], Dies())
    paint(other / "1.png", 901)
    assert update.update(index, [other], Colours()).embedded == 1
    health.compact(index)
    assert update.update(index, [album], Colours()).embedded == 8
    assert health.verify(index, files=True) == health.Health([], [])


def test_a_commit_is_on_disk_before_its_faiss_file_takes_its_place(
    album: Path, tmp_path: Path
) -> None:
    index = tmp_path / "idx.faiss"
    update.update(index, [album], Colours())
    with writer.writing(index, 12) as store:
        assert store.catalogue is not None
        with store.changing({}, store.catalogue.proxies(), renew=True):
            assert store.database.execute("PRAGMA synchronous").fetchone() == (2,)


def test_a_killed_repair_takes_nothing_back(album: Path, tmp_path: Path) -> None:
    """Somebody has the index open, so what was committed last is still in the log."""
    index = tmp_path / "idx.faiss"
    update.update(index, [album / "kind0"], Colours())
    with closing(Reader(index)):
        update.update(index, [album], Colours())
        code = f"""
import os
from pathlib import Path
from hiercli.index import health
real = os.replace
def replace(old, new):
    if str(new).endswith((".sqlite", ".faiss")):
        os._exit(9)
    real(old, new)
os.replace = replace
health.repair(Path({str(index)!r}))
"""
        done = subprocess.run([sys.executable, "-c", code])
        assert done.returncode == 9
        code = f"""
from pathlib import Path
from hiercli.index.catalogue import Catalogue
print(len(Catalogue(Path({str(index)!r}))))
"""
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "40\n", done.stderr


def test_a_damaged_page_of_contents_is_one_message(album: Path, tmp_path: Path) -> None:
    index = tmp_path / "idx.faiss"
    update.update(index, [album], Colours())
    with closing(sqlite3.connect(catalogue_path(index))) as opened:
        (page,) = opened.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'images_by_content'"
        ).fetchone()
        (size,) = opened.execute("PRAGMA page_size").fetchone()
    with open(catalogue_path(index), "r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * size)
    paint(album / "kind0" / "new.png", 500)
    with pytest.raises(FileFormatError, match="damaged"):
        update.update(index, [album], Colours())


@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivf"])
def test_a_gpu_searches_what_came_and_went(
    kind: str, album: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the CPU by the same graph: removed points, a graph's stepping stones, an empty file."""
    own = resident.ResidentSearch
    monkeypatch.setattr(resident, "ResidentSearch", lambda ids, rows, *_: own(ids, rows, "cpu"))
    index = tmp_path / "idx.faiss"
    update.update(index, [album], Colours(), index_type=kind)

    def all_ways() -> list[list[str]]:
        found = []
        for device, threads in (("cpu", 0), ("cuda", 0), ("cpu", 2)):
            with closing(Reader(index, device, threads=threads)) as reader:
                assert not reader.fallback
                (hits,) = reader.search(np.zeros((1, 12), np.float32), None)
            found.append([hit.path for hit in hits])
        return found

    for least in (500, 0):
        monkeypatch.setattr(renewal, "_LEAST_DELTA", least)
        for file in sorted(album.rglob("*.png"))[:4]:
            file.unlink()
        paint(album / "kind1" / f"new{least}.png", 700 + least)
        update.update(index, [album], Colours())
        one, other, packed = all_ways()
        assert one == other == packed and len(one) == len(list(album.rglob("*.png")))
    for file in album.rglob("*.png"):
        file.unlink()
    update.update(index, [album], Colours(), prune=True)
    monkeypatch.setattr(renewal, "_LEAST_DELTA", 500)
    paint(album / "kind1" / "last.png", 800)
    update.update(index, [album], Colours())
    assert [len(found) for found in all_ways()] == [1, 1, 1]


@pytest.mark.parametrize("rebuild", [[], ["--rebuild"]])
def test_a_file_that_is_no_index_is_not_replaced(
    inside: Hier, album: Path, exported: Path, tmp_path: Path, rebuild: list[str]
) -> None:
    """A photo named by mistake stays, even where the index should be built anew."""
    photo = tmp_path / "own.jpg"
    Image.new("RGB", (9, 9)).save(photo)
    before = photo.read_bytes()
    for words in (["embed", album, "--model", exported, *rebuild], ["search", photo]):
        done = inside(*words, "--index", photo)
        fails(done, 2, "another kind of file", "own.jpg")
        assert "--rebuild" not in done.stderr.decode()
    assert photo.read_bytes() == before
    assert not photo.with_name("own.jpg.sqlite").exists()
