"""What `hier serve` stands: load, an update meanwhile, fuzzed requests, and memory over time.

`make bench-serve` runs all of it against an index of 100,000 points of 384 dimensions in a thousand
classes, with clients on the same machine. Each part is kept in `serve.json`, of which `serve.md` is
made. Parts can be named:

    python tests/bench_serve.py points graph images graph-images update fuzz soak

points: JSON with a point, 50 clients that ask again as soon as they are answered, and 50 that ask
ten times a second each, whatever they are answered. graph: the same against an index of type hnsw.
images: JPEG files of 1024 x 768, 50 clients, beside the encoder's own rate on the same files in
turn. graph-images: the same against an index of type hnsw. update: as points, while `hier embed`
changes the index three times. fuzz: 10,000 requests drawn at random, none of which may end in a
fault of the server or tell a path. soak: 100,000 requests of all kinds; the memory of all processes
of the server afterwards over that after the first 5,000.
"""

import asyncio
import contextlib
import io
import itertools
import json
import os
import platform
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from bench_embed import draw
from bench_index import cloud, group_numbers
from PIL import Image

from hiercli.collection import Collection
from hiercli.encoder.encoder import Encoder
from hiercli.encoder.general import default_model
from hiercli.index.index import Index

HERE = Path(__file__).parent
COUNT, CLIENTS, SECONDS = 100_000, 50, 20.0
FUZZED, SOAKED, WARM = 10_000, 100_000, 5_000
BOUNDARY = b"limit"
JPEGS = 320


@dataclass
class Told:
    """What clients saw: seconds of each answer, and how often each status."""

    times: list[float] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=dict)
    seconds: float = 0.0
    wrong: list[bytes] = field(default_factory=list)
    leaks: int = 0

    def __str__(self) -> str:
        ordered = sorted(self.times) or [0.0]
        p50, p99 = ordered[len(ordered) // 2], ordered[int(0.99 * len(ordered))]
        rate = len(self.times) / max(self.seconds, 1e-9)
        return f"{rate:,.0f} a second, median {1e3 * p50:.1f} ms, p99 {1e3 * p99:.1f} ms"

    @property
    def failed(self) -> int:
        """Answers that are not 200."""
        return sum(count for status, count in self.statuses.items() if status != 200)


Draw = Callable[[], bytes]


async def load(
    port: int,
    draws: Sequence[Draw],
    until: Callable[[int], bool],
    *,
    rate: float = 0.0,
    secret: bytes = b"",
) -> Told:
    """Clients that ask one after the other over connections of their own.

    Args:
        port: of the server.
        draws: of each client, gives its next request.
        until: whether to go on, given how many answers there are.
        rate: requests a second of all clients, at fixed times: an answer that is late makes the
            next ones late too. 0: each asks as soon as it is answered.
        secret: that no answer may hold.
    """
    told = Told()
    begun = time.perf_counter()

    async def client(number: int, draw: Draw) -> None:
        reader = writer = None
        planned = begun + (number / rate if rate else 0.0)
        while until(len(told.times)):
            if rate:
                await asyncio.sleep(planned - time.perf_counter())
            if writer is None:
                try:
                    reader, writer = await asyncio.open_connection("127.0.0.1", port)
                except OSError as error:
                    told.wrong.append(str(error).encode())
                    await asyncio.sleep(0.05)
                    continue
            assert reader is not None
            started = planned if rate else time.perf_counter()
            planned += len(draws) / rate if rate else 0.0
            try:
                writer.write(draw())
                await writer.drain()
                head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)
                names = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
                body = await reader.readexactly(int(names.get(b"content-length", b"0")))
            except (OSError, asyncio.IncompleteReadError, TimeoutError, ValueError):
                writer.close()
                writer = None
                told.statuses[0] = told.statuses.get(0, 0) + 1
                continue
            told.times.append(time.perf_counter() - started)
            status = int(head.split(b" ", 2)[1])
            told.statuses[status] = told.statuses.get(status, 0) + 1
            told.leaks += bool(secret) and secret in body
            if status >= 500 and len(told.wrong) < 5:
                told.wrong.append(head[:60] + body[:200])
            if names.get(b"connection") == b"close":
                writer.close()
                writer = None
        if writer is not None:
            writer.close()

    await asyncio.gather(*itertools.starmap(client, enumerate(draws)))
    told.seconds = time.perf_counter() - begun
    return told


def during(seconds: float) -> Callable[[int], bool]:
    """Until so many seconds are over."""
    end = time.perf_counter() + seconds
    return lambda _: time.perf_counter() < end


def request(path: str, body: bytes, kind: str, method: str = "POST") -> bytes:
    """An HTTP request."""
    return (
        f"{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: {kind}\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    ).encode() + body


class Points:
    """Requests with points near to those of the index."""

    def __init__(self, seed: int, query: str = "k=10") -> None:
        points = cloud(200, 0.1, 2.3, 100 + seed, 384)
        bodies = [json.dumps({"point": [round(float(v), 6) for v in point]}) for point in points]
        self._some = [
            request(f"/api/search?{query}", body.encode(), "application/json") for body in bodies
        ]
        self._rng = random.Random(seed)

    def __call__(self) -> bytes:
        return self._rng.choice(self._some)


class Uploads:
    """Requests with image files."""

    def __init__(self, files: Sequence[Path], seed: int) -> None:
        self._some = [
            request("/api/search?k=10", file.read_bytes(), "image/jpeg") for file in files
        ]
        self._rng = random.Random(seed)

    def __call__(self) -> bytes:
        return self._rng.choice(self._some)


class Fuzz:
    """Requests that nobody would send, and some that somebody would."""

    paths = ("/", "/api/search", "/api/images/", "/api/tree", "/api/review", "/api/stats",
             "/metrics", "/api/healthz", "/api/openapi.json", "/page/app.js",
             "/nothing")  # fmt: skip
    words = ("k", "where", "max_distance", "level", "crop", "verdict", "index", "unique", "exact",
             "branches", "rerank", "confidence", "size", "kind", "x")  # fmt: skip
    values = ("", "1", "0", "-1", "10", "1e9", "nan", "inf", "true", "no", "label=*", "label=",
              "path=*", "a=b", "../../etc/passwd", "%00", "%ff", "😀", "1,2,3,4", "0,0,9,9", "'",
              "<script>", "a" * 300, "{}", "idx")  # fmt: skip

    def __init__(self, photo: bytes, name: str, seed: int) -> None:
        self._photo, self._name, self._rng = photo, name, random.Random(seed)

    def __call__(self) -> bytes:
        rng = self._rng
        path = rng.choice((*self.paths, "/api/search", "/api/search", "/api/search"))
        if path == "/api/images/":
            path += rng.choice((self._name, self._name[:-1], "0" * 32, "..%2f..%2fetc%2fpasswd",
                                "%2e%2e", "a b".replace(" ", "%20"), ""))  # fmt: skip
        asked = "&".join(
            f"{rng.choice(self.words)}={self._quoted(rng.choice(self.values))}"
            for _ in range(rng.choice((0, 0, 1, 2, 3)))
        )
        method = rng.choice(("POST",) * 6 + ("GET",) * 4 + ("PUT", "DELETE", "OPTIONS", "HEAD"))
        kind, body = self._body()
        if method == "HEAD":  # whose answer has a length, and no body
            method = "GET"
        return request(path + (f"?{asked}" if asked else ""), body, kind, method)

    @staticmethod
    def _quoted(text: str) -> str:
        return "".join(
            sign if sign.isascii() and (sign.isalnum() or sign in "*=.,-_%") else
            "".join(f"%{byte:02x}" for byte in sign.encode())
            for sign in text
        )  # fmt: skip

    def _body(self) -> tuple[str, bytes]:
        rng = self._rng
        kind = rng.choice(("application/json", "multipart/form-data; boundary=limit", "image/jpeg",
                           "text/plain", "application/octet-stream", "multipart/form-data",
                           "application/json; charset=utf-16"))  # fmt: skip
        if kind.startswith("application/json"):
            value: Any = rng.choice((
                {"id": self._name}, {"id": "x"}, {"id": None}, {"text": "class 1"}, {"text": "😀"},
                {"text": "\u202e" * 50}, {"text": ""}, {"point": [0.0] * 384},
                {"point": [9.0] * 384}, {"point": [0.0] * 383}, {"point": ["1"] * 384}, [], None, 3,
                {"id": self._name, "text": "a"}, {"point": [1e308] * 384}, {"point": {}},
            ))  # fmt: skip
            return kind, json.dumps(value).encode()[: rng.choice((None, None, None, 5, 40))]
        content = bytearray(self._photo)
        for _ in range(rng.choice((0, 0, 1, 20))):
            content[rng.randrange(len(content))] = rng.randrange(256)
        part = bytes(content[: rng.choice((None, None, 100, 1000))])
        if kind.startswith("multipart"):
            name = rng.choice(("image", "image", "other", ""))
            head = f'--limit\r\ncontent-disposition: form-data; name="{name}"; filename="a.jpg"\r\n'
            end = rng.choice((b"\r\n--limit--\r\n", b"", b"\r\n--limit\r\n"))
            return kind, head.encode() + b"\r\n" + part + end
        return kind, part


class Server:
    """A server in a process of its own."""

    def __init__(self, index: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", "from hiercli.cli.app import main; main()", "serve", "--port",
             "0", "--json", "--index", str(index)],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        self.port = int(
            json.loads(self.process.stdout.readline())["url"].rstrip("/").split(":")[-1]
        )

    def memory(self) -> int:
        """Bytes that the server and its processes have to themselves."""
        own = psutil.Process(self.process.pid)
        return sum(one.memory_full_info().uss for one in (own, *own.children(recursive=True)))

    def stop(self) -> int:
        """Its exit code, once it has drained."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


def built(folder: Path) -> Path:
    """The index, of which some images are files."""
    encoder = Encoder(default_model(), device="cpu")
    numbers = group_numbers(COUNT, 1)
    images = Collection(
        points=cloud(COUNT, 0.1, 2.3, 1, 384),
        paths=[str(folder / f"none/{number}.jpg") for number in range(COUNT)],
        labels=[f"class {number}" for number in numbers],
        c=encoder.c, fingerprint=encoder.fingerprint, proxies=encoder.metadata.proxies,
    )  # fmt: skip
    Index.build(folder / "idx.faiss", images, encoder=default_model()).close()
    return folder / "idx.faiss"


def main() -> None:
    """Measure what is named, and write the table."""
    table = HERE / "serve.json"
    kept: dict[str, list[list[str]]] = json.loads(table.read_text()) if table.exists() else {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        index = built(folder)
        (folder / "photos" / "new").mkdir(parents=True)
        files = draw(folder / "photos" / "new")[:JPEGS]
        for part in sys.argv[1:] or PARTS:
            rows: list[list[str]] = []

            def tell(what: str, goal: str, found: str, rows: list[list[str]] = rows) -> None:
                rows.append([what, goal, found])
                print(f"{what}: {found} (goal: {goal})", flush=True)

            used = graph_of(index) if part.startswith("graph") else index
            server = Server(used)
            try:
                PARTS[part](server, used, files, tell)
            finally:
                code = server.stop()
            if code:
                tell(f"{part}: the server's end", "exit code 0", str(code))
            kept[part] = rows
            table.write_text(json.dumps(kept, indent=1) + "\n")
    written = "".join(f"| {' | '.join(row)} |\n" for part in PARTS for row in kept.get(part, ()))
    (HERE / "serve.md").write_text(
        "# `hier serve` under load\n\n"
        f"`make bench-serve`; index of {COUNT:,} points of 384 dimensions, {CLIENTS} clients on "
        f"the same machine: {os.cpu_count()} cores of {processor()}.\n\n"
        f"| what | goal | measured |\n| --- | --- | --- |\n{written}",
        encoding="utf-8",
    )


def processor() -> str:
    """What the processor calls itself."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(": ")[2]
    return platform.machine()


def graph_of(index: Path) -> Path:
    """The same images as a graph."""
    target = index.with_name("graph.faiss")
    with closing(Index(index)) as opened:
        Index.build(target, opened.collection(), encoder=default_model(), index_type="hnsw").close()
    return target


Tell = Callable[[str, str, str], None]
RATE = 500.0


def kind_of(index: Path) -> str:
    """What is said of an index that is no flat one."""
    return ", hnsw" if index.stem == "graph" else ""


def points(server: Server, index: Path, files: Sequence[Path], tell: Tell) -> None:
    """Load with points."""
    kind = kind_of(index)
    for query, what in (("k=10&verdict=0", "points"), ("k=10", "points, with verdicts")):
        draws = [Points(seed, query) for seed in range(CLIENTS)]
        asyncio.run(load(server.port, draws, during(3)))
        told = asyncio.run(load(server.port, draws, during(SECONDS)))
        goal = "500 a second" if "verdict=0" in query else ""
        tell(what + kind, goal, f"{told}, {told.failed} failed")
        if goal:
            told = asyncio.run(load(server.port, draws, during(SECONDS), rate=RATE))
            tell(f"{what}{kind}, {RATE:g} a second asked for", "p99 50 ms",
                 f"{told}, {told.failed} failed")  # fmt: skip


def images(server: Server, index: Path, files: Sequence[Path], tell: Tell) -> None:
    """Load with images, and the encoder alone in turn."""
    encoder = Encoder(default_model(), device="cpu")
    draws = [Uploads(files, seed) for seed in range(CLIENTS)]
    alone_server = asyncio.run(load(server.port, draws[:1], during(5)))
    rates, loads = [], []
    for _ in range(3):
        started = time.perf_counter()
        encoder.embed([str(file) for file in files])
        rates.append(len(files) / (time.perf_counter() - started))
        loads.append(asyncio.run(load(server.port, draws, during(SECONDS / 2))))
    told = sorted(loads, key=lambda one: len(one.times) / one.seconds)[1]
    ratio = len(told.times) / told.seconds / statistics.median(rates)
    single = statistics.median(alone_server.times)
    p99 = sorted(told.times)[int(0.99 * len(told.times))]
    tell(
        f"image uploads{kind_of(index)}",
        "0.85 of the encoder's rate",
        f"{told}, {told.failed} failed; {ratio:.2f} of {statistics.median(rates):.0f}",
    )
    tell(f"p99 of uploads over one alone{kind_of(index)}", "20",
         f"{p99 / single:.0f} ({1e3 * single:.0f} ms alone)")  # fmt: skip


def update(server: Server, index: Path, files: Sequence[Path], tell: Tell) -> None:
    """Load with points while the index changes."""

    async def both() -> Told:
        draws = [Points(seed) for seed in range(10)]
        ended = asyncio.Event()

        async def change() -> None:
            for number in range(3):
                picture = Image.new("RGB", (64, 64), (90 * number, 40, 200))
                picture.save(files[0].parent / f"more {number}.png")
                done = await asyncio.create_subprocess_exec(
                    sys.executable, "-c", "from hiercli.cli.app import main; main()", "embed",
                    str(files[0].parent), "--index", str(index), "--model", str(default_model()),
                    stderr=asyncio.subprocess.DEVNULL,
                )  # fmt: skip
                assert await done.wait() == 0
                await asyncio.sleep(2)
            ended.set()

        asking = asyncio.create_task(load(server.port, draws, lambda _: not ended.is_set()))
        await change()
        return await asking

    told = asyncio.run(both())
    stats = asyncio.run(load(server.port, [lambda: request("/api/stats", b"", "", "GET")],
                             lambda done: not done))  # fmt: skip
    assert not stats.failed
    tell("an update of the index, three times, under load", "0 failed requests",
         f"{told.failed} of {len(told.times):,} failed")  # fmt: skip


def fuzz(server: Server, index: Path, files: Sequence[Path], tell: Tell) -> None:
    """Requests drawn at random."""
    with closing(Index(index)) as opened:
        name = opened.search(cloud(1, 0.1, 2.3, 3, 384), 1)[0][0].content.hex()
    small = io.BytesIO()
    Image.open(files[0]).resize((80, 60)).save(small, "JPEG")
    draws = [Fuzz(small.getvalue(), name, seed) for seed in range(16)]
    secret = str(index.parent).encode()
    told = asyncio.run(load(server.port, draws, lambda done: done < FUZZED, secret=secret))
    # 503 is a limit that was set on purpose: too many wait, or a tree takes too long.
    faults = {
        status: count
        for status, count in told.statuses.items()
        if (status >= 500 and status != 503) or not status
    }
    others = ", ".join(f"{status}: {count:,}" for status, count in sorted(told.statuses.items()))
    tell(f"{sum(told.statuses.values()):,} fuzzed requests", "no 5xx but limits (503), no path",
         f"{sum(faults.values())} faults, {told.leaks} paths ({others})")  # fmt: skip
    for one in told.wrong:
        print(one)


def soak(server: Server, index: Path, files: Sequence[Path], tell: Tell) -> None:
    """Many requests, and the memory before and after."""
    uploads = files[:8]

    class Mixed:
        def __init__(self, seed: int) -> None:
            self._rng, self._points = random.Random(seed), Points(seed)
            self._files = Uploads(uploads, seed)

        def __call__(self) -> bytes:
            kind = self._rng.random()
            if kind < 0.02:
                return self._files()
            if kind < 0.04:
                return request("/api/search", json.dumps({"text": "class"}).encode(),
                               "application/json")  # fmt: skip
            if kind < 0.05:
                return request("/api/stats", b"", "", "GET")
            return self._points()

    draws = [Mixed(seed) for seed in range(CLIENTS)]
    asyncio.run(load(server.port, draws, lambda done: done < WARM))
    before = server.memory()
    told = asyncio.run(load(server.port, draws, lambda done: done < SOAKED))
    after = server.memory()
    tell(f"{SOAKED:,} requests: memory", "growth under 5 %",
         f"{before / 1e6:.0f} to {after / 1e6:.0f} MB ({after / before - 1:+.1%}), {told.failed} "
         "failed")  # fmt: skip


PARTS = {"points": points, "graph": points, "images": images, "graph-images": images,
         "update": update, "fuzz": fuzz, "soak": soak}  # fmt: skip

if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
