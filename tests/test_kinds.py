"""Kinds of index: how much of the truth they find, and what is left when points come and go."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from conftest import Hier, paint, searched
from test_index import Colours
from test_search import ball

from hiercli import neighbours
from hiercli.errors import FileFormatError, InputError, MismatchError
from hiercli.index import (
    contents,
    generation,
    health,
    kinds,
    lists,
    products,
    renewal,
    resident,
    update,
)
from hiercli.index import searcher as searching
from hiercli.index.reader import opened
from hiercli.index.searcher import Delta, Searcher

COUNT = 3000


def blocks(ids: np.ndarray, points: np.ndarray) -> lists.Blocks:
    def parts() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for first in range(0, len(ids), 1024):
            yield ids[first : first + 1024], points[first : first + 1024]

    return parts


def recall(
    searcher: Searcher, queries: np.ndarray, points: dict[int, np.ndarray], **how: object
) -> float:
    """Share of the 10 nearest among ``points``, by id, that are found and put in order."""
    ids = np.array(sorted(points))
    _, truth = neighbours.nearest(queries, np.stack([points[n] for n in ids]), 10, searcher.c)
    hits = 0
    for row, found in enumerate(searcher.fetch(queries, 10, **how)):  # type: ignore[arg-type]
        assert len(set(found.tolist())) == len(found)
        there = np.stack([points[n] for n in found.tolist()])
        _, best = neighbours.order(queries[row], there, found, searcher.c, 10)
        hits += len(set(best.tolist()) & set(ids[truth[row]].tolist()))
    return hits / (10 * len(queries))


@pytest.mark.parametrize("c", [0.1, 1.0])
@pytest.mark.parametrize("kind", ["flat", "sq8", "hnsw", "ivf"])
def test_a_kind_finds_the_truth_and_keeps_it(kind: str, c: float, tmp_path: Path) -> None:
    points, queries = ball(COUNT, 0, c), ball(100, 1, c)
    ids = 3 * np.arange(COUNT) + 5
    told: list[tuple[int, int]] = []
    index = kinds.build(
        kind, blocks(ids, points), COUNT, 12, c, lambda done, total: told.append((done, total))
    )
    assert told[-1] == (COUNT, COUNT)
    assert contents.index_type_of(index) == kind
    exact = kind in ("flat", "sq8")
    assert (kinds.tune(index, c) == 1) if exact else (kinds.tune(index, c) >= 0.995)
    # A plain FAISS file, tuned as it is: whoever reads it has no need of us.
    faiss.write_index(index, str(tmp_path / "plain.faiss"))
    index = faiss.read_index(str(tmp_path / "plain.faiss"))
    _, found = index.search(neighbours.as_queries(queries, c), 10)
    _, truth = neighbours.nearest(queries, points, 10, c)
    shares = [np.isin(mine, ids[right]).mean() for mine, right in zip(found, truth, strict=True)]
    assert np.mean(shares) > (0.4 if kind == "sq8" else 0.97)  # its order alone is a rough one
    by_id = dict(zip(ids.tolist(), points, strict=True))
    searcher = Searcher(index, c, contents.farthest(index))
    assert recall(searcher, queries, by_id) >= (1 if exact else 0.99)
    assert recall(searcher, queries, by_id, exact=True) == 1
    some = {number: by_id[number] for number in ids[::9].tolist()}
    assert recall(searcher, queries, some, among=np.array(sorted(some))) == 1
    with pytest.raises(MismatchError, match="12 dimensions"):
        searcher.fetch(queries[:, :5], 10)
    if exact:
        return
    # Again and again: what stays must not change by a digit.
    for turn in range(4):
        gone = ids[turn * 100 : turn * 100 + 100]
        news = 100_000 + 100 * turn + np.arange(120)
        later = ball(120, 10 + turn, c)
        renewed = kinds.update(index, np.concatenate([gone, news]), (news, later), c)
        assert renewed is not None
        index = renewed
        for number in gone.tolist():
            del by_id[number]
        by_id |= dict(zip(news.tolist(), later, strict=True))
    searcher = Searcher(index, c, contents.farthest(index))
    assert len(searcher) == len(by_id)
    kept, rows = contents.rows(index)
    assert sorted(kept.tolist()) == sorted(by_id)
    assert np.array_equal(rows, neighbours.lift(np.stack([by_id[n] for n in kept.tolist()]), c))
    assert kinds.tune(index, c) >= 0.995
    assert recall(searcher, queries, by_id) >= 0.99
    assert recall(searcher, queries, by_id, exact=True) == 1
    some = {number: by_id[number] for number in sorted(by_id)[::9]}
    assert recall(searcher, queries, some, among=np.array(sorted(some))) == 1


def test_a_graph_full_of_what_is_gone_is_built_anew() -> None:
    points, ids = ball(200, 0), np.arange(200)
    nothing = np.empty(0, np.int64), np.empty((0, 12), np.float32)
    index = kinds.build("hnsw", blocks(ids, points), 200, 12, 0.1)
    assert kinds.update(index, ids[:50], nothing, 0.1) is None
    index = kinds.build("hnsw", blocks(ids, points), 200, 12, 0.1)
    assert kinds.update(index, ids[:0], (ids + 200, points), 0.1) is not None
    index = kinds.build("hnsw", blocks(ids, points), 200, 12, 0.1)
    assert kinds.update(index, ids[:0], (np.arange(200, 401), ball(201, 1)), 0.1) is None


@pytest.mark.parametrize("kind", kinds.INDEX_TYPES[1:])
@pytest.mark.parametrize("count", [1, 2, 12])
def test_few_points(kind: str, count: int) -> None:
    points, ids = ball(count, 0), np.arange(count)
    index = kinds.build(kind, blocks(ids, points), count, 12, 0.1)
    assert kinds.tune(index, 0.1) == 1
    (found,) = Searcher(index, 0.1, contents.farthest(index)).fetch(points[:1], 10)
    _, nearest = neighbours.nearest(points[:1], points, 10, 0.1)
    assert set(found.tolist()) >= set(nearest[0].tolist())


@pytest.mark.parametrize("kind", ["flat", "sq8"])
def test_another_device_gives_the_same(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime's MatMul and TopK, here on the CPU, beside FAISS, among near-duplicates too."""
    points, queries, ids = ball(COUNT, 0), ball(30, 1), 2 * np.arange(COUNT)
    points[1::2] = points[::2] + np.float32(1e-6)
    index = kinds.build(kind, blocks(ids, points), COUNT, 12, 0.1)
    monkeypatch.setattr(resident, "_PRODUCTS", 7 * COUNT)
    own = resident.ResidentSearch
    monkeypatch.setattr(resident, "ResidentSearch", lambda ids, rows, *_: own(ids, rows, "cpu"))
    by_id = dict(zip(ids.tolist(), points, strict=True))
    searcher = Searcher(index, 0.1, contents.farthest(index), "cuda")
    assert not searcher.fallback
    assert recall(searcher, queries, by_id) == 1
    some = {number: by_id[number] for number in ids[::9].tolist()}
    assert recall(searcher, queries, some, among=np.array(sorted(some))) == 1


@pytest.mark.parametrize("kind", kinds.INDEX_TYPES[1:])
def test_points_packed_in_memory_give_the_same(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    points, queries, ids = ball(COUNT, 0), ball(30, 1), 2 * np.arange(COUNT)
    points[1::2] = points[::2] + np.float32(1e-6)
    index = kinds.build(kind, blocks(ids, points), COUNT, 12, 0.1)
    by_id = dict(zip(ids.tolist(), points, strict=True))
    calls: list[int] = []
    called = resident.ResidentSearch.__call__

    def counted(self: object, *words: Any) -> Any:
        calls.append(len(words[0]))
        return called(self, *words)  # type: ignore[arg-type]

    monkeypatch.setattr(resident.ResidentSearch, "__call__", counted)
    packed = Searcher(index, 0.1, contents.farthest(index), threads=2)
    assert not packed.fallback
    assert recall(packed, queries, by_id, exact=True) == 1
    assert bool(calls) == (kind == "flat")
    some = {number: by_id[number] for number in ids[::9].tolist()}
    assert recall(packed, queries, some, among=np.array(sorted(some))) == 1
    found, plain = (
        searcher.fetch(queries[:1], COUNT)[0]
        for searcher in (packed, Searcher(index, 0.1, contents.farthest(index)))
    )
    assert sorted(found.tolist()) == sorted(plain.tolist())
    # Too many points are not held a second time.
    calls.clear()
    monkeypatch.setattr(searching, "_PACKED", 4 * COUNT * 13 - 1)
    assert recall(Searcher(index, 0.1, contents.farthest(index), threads=2), queries, by_id,
                  exact=True) == 1  # fmt: skip
    assert not calls


def test_without_a_gpu_the_cpu_searches(
    photos: Path, exported: Path, index: Path, inside: Hier, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_gpu(*_: object) -> None:
        raise InputError("no GPU here")

    monkeypatch.setattr(resident, "ResidentSearch", no_gpu)
    done = inside("search", photos / "kind0", "--index", index, "--device", "cuda", "--json")
    assert done.returncode == 0
    assert b"no GPU here" in done.stderr
    monkeypatch.undo()
    same = inside("search", photos / "kind0", "--index", index, "--json")
    assert done.stdout == same.stdout


def test_size_chooses() -> None:
    assert kinds.choices("auto", kinds.LARGE - 1) == ("flat",)
    assert kinds.choices("auto", kinds.LARGE) == ("ivf", "hnsw")
    assert kinds.choices("ivf", 3) == ("ivf",)


def test_lists_that_compare_too_much_and_a_graph_that_misses_too_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    album, index = tmp_path / "album", tmp_path / "idx.faiss"
    for number in range(60):
        paint(album / f"kind{number % 4}" / f"photo{number}.png", number)
    monkeypatch.setattr(kinds, "LARGE", 50)
    monkeypatch.setattr(renewal, "_LEAST_DELTA", 0)
    monkeypatch.setattr(renewal, "_MOST_DELTA", 0)
    update.update(index, [album], Colours())
    assert health.stats(index)["index_type"] == "ivf"
    monkeypatch.setattr(kinds, "_FEW", 10)
    paint(album / "kind1" / "first.png", 500)
    update.update(index, [album], Colours(), rebuild=True)
    assert health.stats(index)["index_type"] == "hnsw"
    tune = kinds.tune
    monkeypatch.setattr(
        kinds,
        "tune",
        lambda index, c: 0.9 if contents.index_type_of(index) == "hnsw" else tune(index, c),
    )
    built: list[str] = []
    build = kinds.build
    monkeypatch.setattr(
        kinds, "build", lambda kind, *more: [built.append(kind), build(kind, *more)][1]
    )
    paint(album / "kind1" / "new.png", 501)
    update.update(index, [album], Colours())
    assert built == [], "a graph that misses too much stays until there is much more to index"
    monkeypatch.setattr(renewal, "_MORE", 0.0)
    paint(album / "kind1" / "newer.png", 502)
    update.update(index, [album], Colours())
    assert built == ["ivf", "hnsw"]
    monkeypatch.setattr(renewal, "_MORE", 1.2)
    paint(album / "kind1" / "newest.png", 503)
    update.update(index, [album], Colours())
    assert built == ["ivf", "hnsw"], "lists that find enough are kept"
    facts = health.stats(index)
    assert (facts["index_type"], facts["pictures"], facts["recall@10"]) == ("ivf", 64, 1)
    assert health.verify(index).damage == []


@pytest.mark.parametrize("kind", ["sq8", "hnsw", "ivf"])
def test_an_index_grows_and_shrinks_in_its_kind(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renewal, "_LEAST_DELTA", 0)
    monkeypatch.setattr(renewal, "_MOST_DELTA", 0)
    album, index, session = tmp_path / "album", tmp_path / "idx.faiss", Colours()
    for number in range(90):
        paint(album / f"kind{number % 4}" / f"photo{number}.png", number)
    update.update(index, [album], session, index_type=kind)
    assert health.stats(index)["index_type"] == kind
    (album / "kind0" / "photo0.png").unlink()
    paint(album / "kind1" / "photo1.png", 500)
    (album / "kind2" / "photo2.png").rename(album / "kind2" / "moved.png")
    paint(album / "kind3" / "new.png", 501)
    done = update.update(index, [album], session)
    assert (done.added, done.changed, done.moved, done.removed) == (1, 1, 1, 1)
    facts = health.stats(index)
    assert (facts["index_type"], facts["pictures"], facts["recall@10"]) == (kind, 90, 1)
    assert health.verify(index, files=True) == health.Health([], [])
    catalogue, made = opened(index)
    catalogue.close()
    assert (made.ntotal > 90) == (kind == "hnsw")  # stepping stones
    everything = searched(index, np.zeros((1, 12), np.float32))[0]
    assert len(everything) == 90
    assert not [hit for hit in everything if hit.path.endswith(("photo0.png", "photo2.png"))]
    (album / "kind0" / "photo4.png").unlink()
    assert update.update(index, [album], session).removed == 1, "and nothing new"
    assert health.verify(index, files=True) == health.Health([], [])
    everything = searched(index, np.zeros((1, 12), np.float32))[0]
    assert len(everything) == 89
    health.compact(index)
    catalogue, made = opened(index)
    catalogue.close()
    assert (made.ntotal, contents.index_type_of(made)) == (89, kind)
    update.update(index, [album], session, index_type="flat")
    assert health.stats(index)["index_type"] == "flat"
    same = searched(index, np.zeros((1, 12), np.float32))[0]
    assert [hit.path for hit in same] == [hit.path for hit in everything]


def test_the_kind_on_the_command_line(
    photos: Path, exported: Path, inside: Hier, tmp_path: Path
) -> None:
    words = ("embed", photos, "--model", exported)
    done = inside(*words, "--index", tmp_path / "idx.faiss", "--index-type", "tree")
    assert done.returncode == 2
    assert b"flat, sq8, hnsw, ivf" in done.stderr
    assert not (tmp_path / "idx.faiss").exists()
    assert inside(*words, "--index-type", "hnsw", "-o", tmp_path / "x.npy").returncode == 2
    answers = []
    for kind in kinds.INDEX_TYPES[1:]:
        index = tmp_path / f"{kind}.faiss"
        assert inside(*words, "--index", index, "--index-type", kind).returncode == 0
        done = inside("search", photos, "--index", index, "--exact", "--json")
        answers.append([json.loads(line)["results"] for line in done.stdout.splitlines()])
    assert all(other == answers[0] for other in answers)
    assert len(answers[0][0]) == 10


@pytest.mark.parametrize("kind", kinds.INDEX_TYPES[1:])
def test_a_mapped_index_answers_as_one_in_memory(kind: str, tmp_path: Path) -> None:
    """By several threads too, also when another file takes its name meanwhile."""
    points, queries = ball(700, 0), ball(9, 1)
    index = kinds.build(kind, blocks(3 * np.arange(700) + 5, points), 700, 12, 0.1)
    target = tmp_path / "idx.faiss"
    number, size = generation.write(target, index)
    generation.settle(target, number)
    with generation.opened(target, number, size) as file:
        assert file is not None
        mapped, whole = generation.mapped(file), generation.whole(file)
    with generation.opened(target, number, size + 1) as file:
        assert file is None
    target.with_name("other").write_bytes(b"other")
    target.with_name("other").replace(target)
    asked = neighbours.as_queries(queries, 0.1)
    expected = whole.search(asked, 20)[1]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: mapped.search(asked, 20)[1], range(64)))
    assert all(np.array_equal(answer, expected) for answer in answers)


@pytest.mark.parametrize("kind", kinds.INDEX_TYPES[1:])
@pytest.mark.parametrize("seed", range(4))
def test_what_came_and_went_since_is_searched_too(kind: str, seed: int) -> None:
    """Against a search of all points that should be there, near-duplicates among them."""
    rng = np.random.default_rng(seed)
    points, ids = ball(900, seed), np.arange(900)
    points[450:] = points[:450] + rng.normal(0, 10.0 ** -rng.integers(3, 7), (450, 12))
    points = points.astype(np.float32)
    index = kinds.build(kind, blocks(ids[:700], points[:700]), 700, 12, 0.1)
    kinds.tune(index, 0.1)
    removed = np.sort(rng.permutation(700)[: rng.integers(0, 300)])
    again = removed[::3]  # changed: another point under the same id
    by_id = {int(n): points[n] for n in ids if n not in removed}
    by_id |= {int(n): ball(1, 1000 + int(n))[0] for n in again}
    added = np.array([n for n in by_id if n >= 700 or n in set(again.tolist())], np.int64)
    delta = Delta(added, np.stack([by_id[int(n)] for n in added]), removed, 0.1)
    searcher = Searcher(index, 0.1, contents.farthest(index), delta=delta, count=len(by_id))
    queries = np.concatenate([points[rng.permutation(900)[:40]], ball(20, 50)])
    how = {} if kind in ("flat", "sq8") else {"exact": True}
    assert recall(searcher, queries, by_id, **how) == 1
    assert recall(searcher, queries, by_id) >= 0.99
    some = {number: by_id[number] for number in sorted(by_id)[::9]}
    assert recall(searcher, queries, some, among=np.array(sorted(some))) == 1
    for k in (len(by_id), len(by_id) + 5, 300):
        for found in searcher.fetch(queries[:3], k, exact=True):
            assert len(found) >= min(k, len(by_id)) and set(found.tolist()) <= set(by_id)


@pytest.mark.parametrize("kind", ["hnsw", "ivf"])
def test_as_many_are_found_as_were_asked_for(kind: str) -> None:
    """Lists that are empty, or that hold fewer, and ways that do not lead to all."""
    points = np.repeat(ball(50, 0), 40, axis=0)
    index = kinds.build(kind, blocks(np.arange(2000), points), 2000, 12, 0.1)
    kinds.tune(index, 0.1)
    searcher = Searcher(index, 0.1, contents.farthest(index))
    for k in (10, 500, 1900, 2000):
        assert all(len(found) >= k for found in searcher.fetch(ball(40, 1), k))


def test_an_index_that_gives_fewer_points_than_it_has_is_damaged() -> None:
    points, queries = ball(COUNT, 0, 0.1), ball(4, 1, 0.1)
    index = kinds.build("ivf", blocks(np.arange(COUNT), points), COUNT, 12, 0.1)
    searcher = Searcher(index, 0.1, contents.farthest(index))
    lists = contents.inner(index)
    for number in range(1, lists.nlist):
        lists.invlists.resize(number, 0)
    with pytest.raises(FileFormatError, match=r"damaged: it gives \d+ of 2000 points"):
        searcher.fetch(queries, 2000, exact=True)
    lists.invlists.resize(0, 0)
    with pytest.raises(FileFormatError, match="damaged: it gives 0 of 10 points"):
        searcher.fetch(queries, 10)


@pytest.mark.parametrize("c", [0.1, 1.0])
def test_lists_are_even(c: float) -> None:
    """No few lists hold most points, wherever these lie."""
    points = ball(COUNT, 0, c)
    index = kinds.build("ivf", blocks(np.arange(COUNT), points), COUNT, 12, c)
    lists = contents.inner(index)
    sizes = [lists.invlists.list_size(number) for number in range(lists.nlist)]
    assert max(sizes) < 4 * COUNT / lists.nlist


def test_lists_that_lie_in_another_file_are_refused(tmp_path: Path) -> None:
    """FAISS would open whatever file an index names."""
    index = kinds.build("ivf", blocks(np.arange(300), ball(300, 0)), 300, 12, 0.1)
    lists = faiss.OnDiskInvertedLists(index.nlist, index.code_size, str(tmp_path / "lists"))
    index.replace_invlists(lists, False)
    number, size = generation.write(tmp_path / "idx.faiss", index)
    generation.settle(tmp_path / "idx.faiss", number)
    with generation.opened(tmp_path / "idx.faiss", number, size) as file:
        assert file is not None
        for read in (generation.mapped, generation.whole):
            with pytest.raises(FileFormatError, match="not an index of hier"):
                read(file)


def test_rows_of_bytes_are_widened_by_zeros_and_nothing_else() -> None:
    """FAISS compares 16 coordinates of a byte at once; a transform of a file could be anything."""
    built = kinds.build("sq8", blocks(np.arange(50), ball(50, 0)), 50, 12, 0.1)
    contents.require_ours(built)
    assert (built.d, contents.inner(built).d) == (13, 16)
    between = faiss.downcast_index(built.index)
    step = faiss.downcast_VectorTransform(between.chain.at(0))
    told = faiss.vector_to_array(step.map)
    faiss.copy_array_to_vector(np.roll(told, 1).astype(np.int32), step.map)
    with pytest.raises(ValueError, match="transformed"):
        contents.require_ours(built)
    other = faiss.IndexPreTransform(faiss.LinearTransform(13, 16), contents.inner(built))
    foreign = faiss.IndexIDMap(faiss.IndexScalarQuantizer(13, faiss.ScalarQuantizer.QT_8bit,
                                                          faiss.METRIC_INNER_PRODUCT))  # fmt: skip
    foreign.index = other
    foreign.ntotal, foreign.id_map = built.ntotal, built.id_map
    with pytest.raises(ValueError, match="transformed"):
        contents.require_ours(foreign)
    foreign.own_fields = False
    once = faiss.IndexIDMap(faiss.IndexFlatIP(13))
    once.add_with_ids(np.zeros((5, 13), np.float32), np.arange(5)[::-1].copy())
    twice = faiss.IndexIDMap(faiss.IndexFlatIP(13))
    twice.index = once
    twice.ntotal = 5
    faiss.copy_array_to_vector(np.arange(5), twice.id_map)
    with pytest.raises(ValueError, match="not supported"):
        contents.require_ours(twice)
    twice.own_fields = False


@pytest.mark.parametrize("count", [1, 40, 16_384, 40_000])
def test_largest_products_are_those_of_all(count: int) -> None:
    rng = np.random.default_rng(count)
    rows = rng.normal(size=(count, 9)).astype(np.float32)
    rows[rng.integers(0, count, count // 3)] = rows[0]  # many of the same product
    queries = rng.normal(size=(300, 9)).astype(np.float32)
    ids = rng.permutation(10 * count)[:count]
    for width in {1, min(count, 37), min(count, 4000)}:
        found, names = products.largest(queries[:5], rows, ids, width)
        every = np.sort(queries[:5] @ rows.T, axis=1)[:, ::-1]
        assert np.allclose(found, every[:, :width], atol=1e-5)
        assert all(len(set(own)) == width for own in names.tolist())
        place = {number: row for row, number in enumerate(ids.tolist())}
        own = rows[[place[number] for number in names[0].tolist()]] @ queries[0]
        assert np.allclose(own, found[0], atol=1e-5)
    many, _ = products.largest(queries, rows, ids, 1)
    assert np.allclose(many[:, 0], (queries @ rows.T).max(axis=1), atol=1e-5)
