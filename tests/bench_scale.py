"""What an index costs as it grows: `make bench-scale`.

Points of the ball in groups, and without any, are made an index of each type by `Index.build`, in
384 dimensions, 10,000,000 and more in 128; a group is a class, of which verdicts are learned.
Measured are: seconds to build; bytes on disk for each byte of float32 points; a cold `hier search`
(a new process, median of 7, and its peak memory), its query a point; queries a second once it is
open, hits and all, and their recall@10 against float64; beside them FAISS alone on the same
Euclidean points, in turn; usearch on the same points by Euclidean distance, with its defaults, as
its users would; the processor time of a cold search while 50 other processes search, over that of
one alone; updates of 1 and of 1,000 new images and removal of 1,000, whose points
cost nothing to make; opening, `verify` and `compact`.

Each row is written to `scale.json` when it is done and not measured again; `scale.md` is made of
it. Sizes, types, and groups or none may be named:

    python tests/bench_scale.py 100000,1000000 flat,ivf grouped,none
"""

import contextlib
import dataclasses
import gc
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import usearch.index
from bench_index import cloud, euclidean, group_numbers, share, truth
from bench_startup import Scattered, measured
from PIL import Image

from hiercli.collection import Collection
from hiercli.encoder.general import default_model
from hiercli.geometry import poincare
from hiercli.index import health, kinds, locations
from hiercli.index.index import Index
from hiercli.index.locations import catalogue_path
from hiercli.index.reader import Reader, opened
from hiercli.index.update import update

HERE = Path(__file__).parent
QUERIES = 200
ROUNDS = 3
MANY = 1000
USEARCH = "usearch"
LARGE = 10**7
FEW_DIMENSIONS = 128
"""Of the points of an index from that size on."""
BESIDE = 50
"""Processes that search at the same time."""
COLUMNS = {
    "points": "points", "dimensions": "dimensions", "grouped": "groups", "type": "type",
    "build": "build s", "disk": "disk",
    "cold": "cold s", "cold_few": "cold s, 1,000 points",
    "beside": "CPU with 50 beside", "peak": "peak MB", "open": "open ms",
    "recall": "recall", "warm": "queries/s", "plain": "FAISS queries/s", "ratio": "ratio",
    "one": "update 1, s", "many": "update 1,000, s", "gone": "remove 1,000, s",
    "verify": "verify s", "compact": "compact s",
}  # fmt: skip


class Quick(Scattered):
    """Likewise, of images that take no time to prepare."""

    def __init__(self, size: int) -> None:
        super().__init__(default_model(), device="cpu")
        small = dataclasses.replace(self.metadata.preprocessing, size=8)
        dim = self.metadata.embedding_dim if size < LARGE else FEW_DIMENSIONS
        self.metadata = dataclasses.replace(
            self.metadata, preprocessing=small, embedding_dim=dim, proxies=np.empty((0, dim)),
        )  # fmt: skip


class Row(dict[str, Any]):
    """What is measured, told as soon as it is known: a row can take an hour."""

    def __setitem__(self, name: str, value: Any) -> None:
        super().__setitem__(name, value)
        print(f"  {name} {_cell(value)}", flush=True)


def main() -> None:
    """Measure what is not in the table yet, and write it anew."""
    sizes = (
        [int(size) for size in sys.argv[1].split(",")] if sys.argv[1:] else [10**4, 10**5, 10**6]
    )
    types = sys.argv[2].split(",") if sys.argv[2:] else [*kinds.INDEX_TYPES[1:], USEARCH]
    groups = sys.argv[3].split(",") if sys.argv[3:] else ["grouped", "none"]
    table = HERE / "scale.json"
    rows: list[dict[str, Any]] = json.loads(table.read_text()) if table.exists() else []
    for size in sizes:
        for grouped in (group == "grouped" for group in groups):
            for index_type in types:
                key = {"points": size, "grouped": grouped, "type": index_type}
                if any(key.items() <= row.items() for row in rows):
                    continue
                with tempfile.TemporaryDirectory() as folder:
                    if index_type == USEARCH:
                        rows.append(key | measure_usearch(Path(folder), size, grouped))
                    else:
                        rows.append(key | measure(Path(folder), size, grouped, index_type))
                gc.collect()
                rows.sort(key=lambda row: (row["points"], not row["grouped"], row["type"]))
                table.write_text(json.dumps(rows, indent=1) + "\n")
                (HERE / "scale.md").write_text(as_table(rows))
                print(key, flush=True)


def measure(folder: Path, size: int, grouped: bool, index_type: str) -> dict[str, Any]:
    """One row of the table."""
    encoder = Quick(size)
    c, dim = encoder.c, encoder.embedding_dim
    points = cloud(size, c, 2.3, 1, dim, grouped=grouped)
    queries = cloud(QUERIES, c, 2.3, 2, dim, grouped=grouped)
    index, few = folder / "idx.faiss", folder / "few.faiss"
    row = Row(dimensions=dim)
    labels = [f"group {number}" for number in group_numbers(size, 1)] if grouped else None
    collection = Collection(points=points, labels=labels, c=c, fingerprint=encoder.fingerprint)
    row["build"] = seconds(partial(Index.build, index, collection, index_type))
    Index.build(few, Collection(points=points[:1000], c=c, fingerprint=encoder.fingerprint))
    on_disk = sum(
        file.stat().st_size for file in locations.with_logs(catalogue_path(index)) if file.exists()
    )
    # The FAISS file beside, which plain FAISS has too.
    row["disk"] = on_disk / points.nbytes
    np.save(folder / "q.npy", queries[:1])
    for name, target in (("cold", index), ("cold_few", few)):
        words = ["search", str(folder / "q.npy"), "--index", str(target), "--json"]
        took, row["peak" if name == "cold" else "peak_few"] = measured(["-m", "hiercli", *words])
        row[name] = statistics.median(took)
    if index_type == "ivf" and grouped:  # it takes minutes
        row["beside"] = with_others(folder / "q.npy", index)
    row["open"] = 1000 * statistics.median(seconds(lambda: close(index)) for _ in range(ROUNDS))
    warm(row, index, index_type, points, queries)
    del points, labels, collection
    gc.collect()
    for name, count in (("one", 1), ("many", MANY)):
        album = folder / name
        album.mkdir()
        for number in range(count):
            colour = (number % 256, number // 256, count % 251)
            Image.new("RGB", (2, 2), colour).save(album / f"{number}.bmp")
        row[name] = seconds(partial(update, index, [album], encoder))
    shutil.rmtree(folder / "many")
    row["gone"] = seconds(lambda: update(index, [folder / "many"], encoder, prune=True))
    row["verify"] = seconds(lambda: sound(index))
    row["compact"] = seconds(lambda: health.compact(index))
    return row


OTHER = """
import sys, numpy as np
from pathlib import Path
from hiercli.index.reader import Reader
query, reader = np.load(sys.argv[1]), Reader(Path(sys.argv[2]))
print(flush=True)
while True:
    reader.search(query, 10)
"""
"""A process that searches all the time, and says when it has begun."""


def with_others(query: Path, index: Path) -> float:
    """Processor time of a cold search among `BESIDE` processes that search, over one alone."""
    words = [sys.executable, "-m", "hiercli", "search", str(query), "--index", str(index), "--json"]

    def cost() -> float:
        run = subprocess.Popen(words, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(run.pid, 0)
        run.returncode = status
        assert status == 0
        return usage.ru_utime + usage.ru_stime

    alone = statistics.median(cost() for _ in range(ROUNDS))
    command = [sys.executable, "-c", OTHER, str(query), str(index)]
    with contextlib.ExitStack() as stack:
        others = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(BESIDE)]
        for other in others:
            stack.callback(other.wait)
            stack.callback(other.kill)
        for other in others:
            assert other.stdout is not None
            stack.callback(other.stdout.close)
            assert other.stdout.read(1) == b"\n"
        return statistics.median(cost() for _ in range(ROUNDS)) / alone


def measure_usearch(folder: Path, size: int, grouped: bool) -> dict[str, Any]:
    """The row of usearch: a graph over the points of the ball, by Euclidean distance."""
    encoder = Quick(size)
    c, dim = encoder.c, encoder.embedding_dim
    points = cloud(size, c, 2.3, 1, dim, grouped=grouped)
    queries = cloud(QUERIES, c, 2.3, 2, dim, grouped=grouped)
    row: dict[str, Any] = {"dimensions": dim}
    graph = usearch.index.Index(ndim=dim, metric="l2sq")
    row["build"] = seconds(partial(graph.add, np.arange(size), points))
    file = folder / "graph.usearch"
    graph.save(str(file))
    row["disk"] = file.stat().st_size / points.nbytes
    row["open"] = 1000 * statistics.median(
        seconds(lambda: usearch.index.Index.restore(str(file), view=True)) for _ in range(ROUNDS)
    )
    found = usearch.index.Index.restore(str(file), view=True)
    assert found is not None
    ids = found.search(queries, 10).keys
    near = truth(queries, points, lambda q, x: poincare.pairwise_dist(q, x, c))
    row["recall"] = share(np.asarray(ids).astype(np.int64), near)
    took = [seconds(lambda: found.search(queries, 10)) for _ in range(ROUNDS)]
    row["warm"] = len(queries) / statistics.median(took)
    return row


def warm(
    row: dict[str, Any], index: Path, index_type: str, points: np.ndarray, queries: np.ndarray
) -> None:
    """Queries a second, ours with hits and paths, and FAISS's own with numbers alone."""
    with closing(Reader(index)) as reader:
        near = truth(queries, points, lambda q, x: poincare.pairwise_dist(q, x, reader.c))
        ids = [
            [int(hit.path.split()[-1]) - 1 for hit in hits] for hits in reader.search(queries, 10)
        ]
        row["recall"] = share(np.array(ids), near)
        catalogue, made = opened(index)
        catalogue.close()
        plain = euclidean(index_type, points, kinds.search_parameter(made))
        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(ROUNDS):
            times[0].append(seconds(lambda: reader.search(queries, 10)))
            times[1].append(seconds(lambda: plain.search(queries, 10)))
    row["warm"], row["plain"] = (len(queries) / statistics.median(took) for took in times)
    row["ratio"] = statistics.median(b / a for a, b in zip(*times, strict=True))


def close(index: Path) -> None:
    """Open an index and close it."""
    Reader(index).close()


def sound(index: Path) -> None:
    """Verify an index, which must be whole."""
    damage = health.verify(index).damage
    assert not damage, damage[:3]


def seconds(work: Callable[[], object]) -> float:
    """How long something takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def as_table(rows: list[dict[str, Any]]) -> str:
    """The table as Markdown."""
    lines = [
        "# An index as it grows", "",
        f"`make bench-scale`: FAISS {faiss.__version__} with {faiss.omp_get_max_threads()} "
        "threads. Disk is the catalogue's bytes for each byte of "
        "float32 points, without the FAISS file. The ratio is of queries a second, ours with paths "
        "and labels over FAISS's own on the same points with Euclidean distance.", "",
        "| " + " | ".join(COLUMNS.values()) + " |", "|" + " --: |" * len(COLUMNS),
    ]  # fmt: skip
    for row in rows:
        lines.append("| " + " | ".join(_cell(row.get(name, "")) for name in COLUMNS) + " |")
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "1,000" if value else "none"
    if isinstance(value, int) or (isinstance(value, float) and value >= 100):
        return f"{value:,.0f}"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
