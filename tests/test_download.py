"""Downloads against a server on this computer that breaks off, lies, refuses and recovers."""

import hashlib
import io
import re
import shutil
import tarfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from archives import CONTENT, PICTURES, assert_complete, packed_tar, packed_zip

from hiercli.data import transfer
from hiercli.data.catalogue import BENCHMARKS
from hiercli.data.download import fetch
from hiercli.data.sources import SOURCES, Archive, Source
from hiercli.errors import DataError, DownloadError, InputError


@dataclass
class Script:
    """What the server does. ``answers`` are used up one a request; then it serves as it should."""

    body: bytes = b""
    answers: list[Callable[["Handler"], None]] = field(default_factory=list)
    every: Callable[["Handler"], None] | None = None
    etag: str = '"first"'
    ranges: bool = True
    requests: list[tuple[str, str | None, str | None]] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)
    url: str = ""


class Handler(BaseHTTPRequestHandler):
    script: Script

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        script = self.script
        asked = (self.path, self.headers.get("Range"), self.headers.get("If-Range"))
        script.requests.append(asked)
        if script.answers:
            script.answers.pop(0)(self)
        elif script.every is not None:
            script.every(self)
        else:
            self.serve()

    def serve(self, *, stop_after: int | None = None) -> None:
        """The body or the range asked for; ``stop_after`` bytes of it where given."""
        script, total = self.script, len(self.script.body)
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        same = self.headers.get("If-Range", script.etag) == script.etag
        start = int(match[1]) if match and script.ranges and same else 0
        if start >= total > 0:
            self.respond(416, b"", {"Content-Range": f"bytes */{total}"})
            return
        headers = {"Content-Length": str(total - start)}
        if script.etag:
            headers["ETag"] = script.etag
        if start:
            headers["Content-Range"] = f"bytes {start}-{total - 1}/{total}"
        body = script.body[start:] if stop_after is None else script.body[start:][:stop_after]
        self.respond(206 if start else 200, body, headers)

    def respond(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.script.sent.append(len(body))


def answer(status: int, body: bytes = b"", **headers: str) -> Callable[[Handler], None]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda handler: handler.respond(status, body, named)


def breaks_off(after: int) -> Callable[[Handler], None]:
    return lambda handler: handler.serve(stop_after=after)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Script]:
    monkeypatch.setenv("no_proxy", "*")
    script = Script(body=packed_tar(CONTENT, "w"))
    handler = type("ScriptedHandler", (Handler,), {"script": script})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        script.url = f"http://127.0.0.1:{running.server_port}/toy.tar"
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield script
        running.shutdown()
        thread.join()


def source_of(server: Script, **changes: Any) -> Source:
    """A data set that the server offers as it stands now; ``changes`` go to its archive."""
    archive = Archive(
        url=server.url,
        filename="toy.tar",
        checksum=f"sha256:{hashlib.sha256(server.body).hexdigest()}",
        size=len(server.body),
    )
    return Source(
        name="toy",
        homepage="https://example.org/toy",
        terms="For tests only.",
        archives=(replace(archive, **changes),),
        folder="toy",
        required=("labels.txt", "images"),
        num_pictures=len(PICTURES),
    )


def get(source: Source, root: Path, **options: Any) -> Path:
    return fetch("toy", root, source=source, **{"pause": 0.0, "timeout": 5.0, **options})


def assert_nothing_but_part(root: Path) -> None:
    """Neither the data set nor a half of it is there; at most what a resumption needs."""
    assert not (root / "toy").exists()
    left = {path.name for path in (root / ".downloads").iterdir()}
    assert left <= {"toy.tar.part", "toy.tar.part.from"}


# ---------------------------------------------------------------------------------- as it should


def test_fetch_downloads_verifies_and_unpacks(server: Script, tmp_path: Path) -> None:
    steps: list[tuple[str, int, int | None]] = []
    said: list[str] = []
    source = source_of(server)
    folder = get(source, tmp_path, progress=lambda *step: steps.append(step), notice=said.append)
    assert folder == tmp_path / "toy"
    assert_complete(folder)
    assert said == ["For tests only."]
    assert steps[-1] == ("toy.tar", len(server.body), len(server.body))
    assert [step[1] for step in steps] == sorted(step[1] for step in steps)
    assert [path.name for path in tmp_path.iterdir()] == ["toy"], "the archive is tidied away"


def test_terms_are_shown_before_the_first_request(server: Script, tmp_path: Path) -> None:
    requests_when_told: list[int] = []
    get(source_of(server), tmp_path, notice=lambda _: requests_when_told.append(len(server.sent)))
    assert requests_when_told == [0]


def test_second_call_does_nothing(server: Script, tmp_path: Path) -> None:
    get(source_of(server), tmp_path)
    said: list[str] = []
    assert get(source_of(server), tmp_path, notice=said.append) == tmp_path / "toy"
    assert len(server.requests) == 1
    assert said == []


def test_zip_and_single_file_make_one_data_set(server: Script, tmp_path: Path) -> None:
    pictures = packed_zip({"images/1.jpg": b"one"})
    labels = b"labels"
    bodies = {"/images.zip": pictures, "/labels.txt": labels}
    server.every = lambda handler: handler.respond(
        200, bodies[handler.path], {"Content-Length": str(len(bodies[handler.path]))}
    )
    base = server.url.removesuffix("/toy.tar")
    archives = tuple(
        Archive(
            url=f"{base}{path}",
            filename=path[1:],
            checksum=f"md5:{hashlib.md5(body).hexdigest()}",
            size=None,
            unpack=path.endswith("zip"),
            into="toy",
        )
        for path, body in reversed(bodies.items())
    )
    source = Source("toy", "https://example.org", "Terms.", archives, "toy", ("labels.txt",), 1)
    folder = get(source, tmp_path)
    assert (folder / "images/1.jpg").read_bytes() == b"one"
    assert (folder / "labels.txt").read_bytes() == labels


def test_file_put_there_by_hand_is_verified_and_used(server: Script, tmp_path: Path) -> None:
    by_hand = tmp_path / ".downloads" / "toy.tar"
    by_hand.parent.mkdir()
    by_hand.write_bytes(server.body)
    assert_complete(get(source_of(server), tmp_path))
    assert server.requests == []

    other = tmp_path / "other" / ".downloads" / "toy.tar"
    other.parent.mkdir(parents=True)
    other.write_bytes(server.body[:-1] + b"x")
    with pytest.raises(DownloadError, match="Remove a file that you put there"):
        get(source_of(server), tmp_path / "other")
    assert other.exists(), "what the user put there is the user's to remove"


# ------------------------------------------------------------------------------------- resumption


def test_resume_asks_only_for_the_rest(server: Script, tmp_path: Path) -> None:
    total = len(server.body)
    server.answers = [breaks_off(30_000), breaks_off(10_000)]
    said: list[str] = []
    assert_complete(get(source_of(server), tmp_path, notice=said.append))
    assert [asked[1:] for asked in server.requests] == [
        (None, None),
        ("bytes=30000-", '"first"'),
        ("bytes=40000-", '"first"'),
    ]
    assert sum(server.sent) == total
    assert "stopped after 30,000 of" in said[1]


def test_next_run_goes_on_where_the_last_one_stopped(server: Script, tmp_path: Path) -> None:
    server.every = breaks_off(25_000)
    with pytest.raises(DownloadError, match="Run the command again to resume"):
        get(source_of(server), tmp_path, retries=0)
    server.every = None
    assert_complete(get(source_of(server), tmp_path, retries=0))
    assert server.requests[-1][1] == "bytes=25000-"
    assert sum(server.sent) == len(server.body)


def test_interrupt_keeps_the_part(
    server: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "CHUNK_BYTES", 16_384)

    def interrupt(name: str, received: int, total: int | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        get(source_of(server), tmp_path, progress=interrupt)
    assert_nothing_but_part(tmp_path)
    kept = (tmp_path / ".downloads/toy.tar.part").stat().st_size
    assert 0 < kept < len(server.body)
    assert_complete(get(source_of(server), tmp_path))
    assert server.requests[-1][1] == f"bytes={kept}-"


def test_server_that_breaks_off_every_time_fails(server: Script, tmp_path: Path) -> None:
    server.every = breaks_off(1_000)
    with pytest.raises(DownloadError, match=r"failed 3 times.*stopped after 3,000 of .*by hand"):
        get(source_of(server), tmp_path, retries=2)
    assert len(server.requests) == 3
    assert_nothing_but_part(tmp_path)


def test_server_that_ignores_ranges_starts_over(server: Script, tmp_path: Path) -> None:
    server.ranges = False
    server.answers = [breaks_off(30_000)]
    assert_complete(get(source_of(server), tmp_path))
    assert server.requests[1][1] == "bytes=30000-"
    assert server.sent == [30_000, len(server.body)]


def test_file_that_changed_meanwhile_starts_over(server: Script, tmp_path: Path) -> None:
    old = server.body
    server.body = bytes(len(old))
    server.answers = [breaks_off(30_000)]
    source = source_of(server, checksum=f"sha256:{hashlib.sha256(old).hexdigest()}")
    server.every = breaks_off(30_000)
    with pytest.raises(DownloadError):
        get(source, tmp_path, retries=0)
    server.body, server.etag, server.every = old, '"second"', None
    assert_complete(get(source, tmp_path))
    assert server.sent[-1] == len(old)


def test_range_past_the_end(server: Script, tmp_path: Path) -> None:
    """416: whole already where the lengths agree, otherwise start over."""
    source = source_of(server, size=None)
    part = tmp_path / ".downloads/toy.tar.part"
    part.parent.mkdir()
    for content, num_requests in ((server.body, 1), (server.body + b"more", 2)):
        server.requests.clear()
        part.write_bytes(content)
        part.with_name("toy.tar.part.from").write_text(f'{server.url}\n"first"')
        assert_complete(get(source, tmp_path))
        assert len(server.requests) == num_requests
        shutil.rmtree(tmp_path / "toy")
        part.parent.mkdir(exist_ok=True)


def test_another_part_than_asked_for_starts_over(server: Script, tmp_path: Path) -> None:
    wrong = answer(206, b"xyz", Content_Range=f"bytes 7-9/{len(server.body)}", Content_Length="3")
    server.answers = [breaks_off(30_000), wrong]
    assert_complete(get(source_of(server), tmp_path))
    assert server.requests[2][1] is None


def test_nothing_is_spliced_without_version_or_checksum(server: Script, tmp_path: Path) -> None:
    server.etag = ""
    server.answers = [breaks_off(30_000)]
    assert_complete(get(source_of(server, checksum=None), tmp_path))
    assert [asked[1] for asked in server.requests] == [None, None]


# ------------------------------------------------------------------- lies, refusals, wrong content


@pytest.mark.parametrize("difference", [-500, 500])
def test_stated_length_that_is_not_the_published_one(
    server: Script, tmp_path: Path, difference: int
) -> None:
    source = source_of(server)
    body = server.body[:difference] if difference < 0 else server.body + bytes(difference)
    server.every = answer(200, body, Content_Length=str(len(body)), Content_Type="text/html")
    with pytest.raises(DownloadError, match=rf"expected .* bytes, .*{len(body):,} \(text/html\)"):
        get(source, tmp_path)
    assert len(server.requests) == 1, "asking again would not help"
    assert_nothing_but_part(tmp_path)


@pytest.mark.parametrize("known", ["size", "checksum", "neither"])
def test_server_that_sends_less_than_it_states(server: Script, tmp_path: Path, known: str) -> None:
    source = source_of(
        server,
        **({} if known == "size" else {"size": None}),
        **({} if known == "checksum" else {"checksum": None}),
    )
    server.every = answer(200, server.body[:-10], Content_Length=str(len(server.body)))
    with pytest.raises(DownloadError, match="stopped after"):
        get(source, tmp_path, retries=1)
    assert_nothing_but_part(tmp_path)


@pytest.mark.parametrize("known", ["size", "neither"])
def test_server_that_sends_more_than_it_states(server: Script, tmp_path: Path, known: str) -> None:
    size = len(server.body) if known == "size" else None
    source = source_of(server, checksum=None, size=size)
    server.every = answer(200, server.body + b"surplus", Content_Length=str(len(server.body)))
    with pytest.raises(DownloadError, match="the server sent more"):
        get(source, tmp_path)
    assert_nothing_but_part(tmp_path)


def test_cut_file_under_a_cut_length_fails_its_checksum(server: Script, tmp_path: Path) -> None:
    source = source_of(server, size=None)
    server.every = answer(200, server.body, Content_Length=str(len(server.body) - 10))
    with pytest.raises(DownloadError, match="expected sha256"):
        get(source, tmp_path)
    assert_nothing_but_part(tmp_path)


def test_unstated_length_is_capped_by_the_known_one(server: Script, tmp_path: Path) -> None:
    source = source_of(server)
    server.every = answer(200, server.body)
    assert_complete(get(source, tmp_path))
    with pytest.raises(DownloadError, match="found neither"):
        get(source_of(server, size=None, checksum=None), tmp_path / "other")


def test_endless_body_is_cut(
    server: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = source_of(server, size=None)
    server.every = answer(200, server.body * 20)
    monkeypatch.setattr(transfer, "MAX_EXTRACTED_BYTES", len(server.body))
    assert_complete(get(source, tmp_path))  # cut at the cap, where the checksum agrees
    server.every = answer(200, b"", Content_Length=str(10**12))
    with pytest.raises(DownloadError, match="at most"):
        get(source, tmp_path / "other")


def test_wrong_checksum_names_both_sums_and_removes_the_part(
    server: Script, tmp_path: Path
) -> None:
    source = source_of(server)
    right = hashlib.sha256(server.body).hexdigest()
    server.body = server.body[:-1] + b"x"
    wrong = hashlib.sha256(server.body).hexdigest()
    with pytest.raises(DownloadError, match=rf"{right}.*{wrong}.*run the command again"):
        get(source, tmp_path)
    assert not any((tmp_path / ".downloads").iterdir())
    assert not (tmp_path / "toy").exists()


def test_missing_checksum_warns_and_records(server: Script, tmp_path: Path) -> None:
    said: list[str] = []
    assert_complete(get(source_of(server, checksum=None), tmp_path, notice=said.append))
    digest = hashlib.sha256(server.body).hexdigest()
    assert said[1].startswith("Warning: no checksum") and digest in said[1]
    record = tmp_path / ".downloads/toy.tar.sha256"
    assert record.read_text() == f"{digest}  toy.tar\n"


@pytest.mark.parametrize(
    ("status", "meaning"), [(404, "no longer exists"), (403, "access is refused")]
)
def test_refusals_are_not_repeated(
    server: Script, tmp_path: Path, status: int, meaning: str
) -> None:
    server.every = answer(status)
    with pytest.raises(DownloadError, match=rf"answered {status} .*{meaning}.*example\.org/toy"):
        get(source_of(server), tmp_path)
    assert len(server.requests) == 1


def test_server_trouble_passes(server: Script, tmp_path: Path) -> None:
    server.answers = [answer(503), answer(429)]
    said: list[str] = []
    assert_complete(get(source_of(server), tmp_path, notice=said.append))
    assert "503" in said[1] and "429" in said[2]


def test_server_trouble_that_stays(server: Script, tmp_path: Path) -> None:
    server.every = answer(500)
    with pytest.raises(DownloadError, match=r"failed 3 times: the server answered 500"):
        get(source_of(server), tmp_path, retries=2)


def test_no_server_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as closed:
        url = f"http://127.0.0.1:{closed.server_port}/toy.tar"
    with pytest.raises(DownloadError, match="the connection failed"):
        get(source_of(Script(b"x", url=url)), tmp_path, retries=1)


def test_silent_server_times_out(server: Script, tmp_path: Path) -> None:
    release = threading.Event()

    def stall(handler: Handler) -> None:
        handler.serve(stop_after=100)
        handler.wfile.flush()
        release.wait(5)

    server.answers = [stall]
    try:
        assert_complete(get(source_of(server), tmp_path, timeout=0.2))
    finally:
        release.set()
    assert server.requests[1][1] == "bytes=100-"


def test_pauses_double_up_to_a_minute(
    server: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    server.every = answer(502)
    with pytest.raises(DownloadError):
        get(source_of(server), tmp_path, retries=5, pause=5.0)
    assert pauses == [5, 10, 20, 40, 60]


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://127.0.0.1/x", "data:,x"])
def test_only_http_and_https(tmp_path: Path, url: str) -> None:
    with pytest.raises(DownloadError, match="http or https"):
        get(source_of(Script(b"x", url=url)), tmp_path)


def redirected(before: str, after: str) -> urllib.request.Request | None:
    request = urllib.request.Request(before, headers={"Range": "bytes=5-"})
    headers: Any = Message()
    return transfer._Redirects().redirect_request(request, io.BytesIO(), 302, "", headers, after)


def test_redirects_never_lose_the_encryption() -> None:
    with pytest.raises(DownloadError, match="plain http"):
        redirected("https://example.org/a", "http://example.org/a")
    with pytest.raises(DownloadError, match="http or https"):
        redirected("https://example.org/a", "ftp://example.org/a")
    followed = redirected("http://example.org/a", "https://example.org/b")
    assert followed is not None and followed.get_header("Range") == "bytes=5-"


def test_redirect_is_followed(server: Script, tmp_path: Path) -> None:
    server.answers = [answer(302, Location="/moved.tar", Content_Length="0")]
    assert_complete(get(source_of(server), tmp_path))
    assert [asked[0] for asked in server.requests] == ["/toy.tar", "/moved.tar"]


# ---------------------------------------------------------------------------- the user's own disk


def test_too_little_space_is_said_before_the_transfer(
    server: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=len(server.body))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(InputError, match=f"found {len(server.body):,}"):
        get(source_of(server), tmp_path)
    assert server.requests == []
    with pytest.raises(InputError, match="free bytes of disk"):
        get(source_of(server, size=None), tmp_path)
    assert (tmp_path / ".downloads/toy.tar.part").exists() is False


def test_incomplete_folder_is_left_alone(server: Script, tmp_path: Path) -> None:
    mine = tmp_path / "toy" / "labels.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    with pytest.raises(DataError, match=r"lacks images.*move the folder away"):
        get(source_of(server), tmp_path)
    (tmp_path / "toy/images").mkdir()
    (tmp_path / "toy/images/0.JPG").write_bytes(b"")
    with pytest.raises(DataError, match="lacks 3 images"):
        get(source_of(server), tmp_path)
    assert mine.read_text() == "mine"
    assert server.requests == []


def test_root_that_cannot_be_written(server: Script, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write toy"):
        get(source_of(server), tmp_path / "file")


# ------------------------------------------------------------------------------------ installation


@pytest.mark.parametrize(
    "body",
    [b"no archive at all" * 100, packed_tar(CONTENT)[:-4], packed_zip(CONTENT)[:-40], b""],
    ids=["foreign", "cut tar", "cut zip", "empty"],
)
def test_bad_archive_leaves_nothing(server: Script, tmp_path: Path, body: bytes) -> None:
    server.body = body
    with pytest.raises(DownloadError, match=r"damaged or unsafe"):
        get(source_of(server), tmp_path)
    assert not any((tmp_path / ".downloads").iterdir())
    assert not (tmp_path / "toy").exists()


def test_archive_that_lacks_files_is_not_installed(server: Script, tmp_path: Path) -> None:
    server.body = packed_tar({"toy/labels.txt": b"", "toy/images/1.jpg": b""})
    with pytest.raises(DownloadError, match="lack 3 images"):
        get(source_of(server), tmp_path)
    assert not any((tmp_path / ".downloads").iterdir())
    assert not (tmp_path / "toy").exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_interrupted_extraction_leaves_no_final_folder(
    server: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    plain = tarfile.TarFile.extract

    def stop_at_the_third(self: tarfile.TarFile, member: Any, *args: Any, **options: Any) -> None:
        if member.name.endswith("2.jpg"):
            raise error
        plain(self, member, *args, **options)

    with monkeypatch.context() as patched:
        patched.setattr(tarfile.TarFile, "extract", stop_at_the_third)
        with pytest.raises((KeyboardInterrupt, InputError)):
            get(source_of(server), tmp_path)
    assert not (tmp_path / "toy").exists()
    assert [path.name for path in (tmp_path / ".downloads").iterdir()] == ["toy.tar"]
    assert_complete(get(source_of(server), tmp_path))
    assert len(server.requests) == 1, "the verified archive is used again"


def test_killed_extraction_is_tidied_up(server: Script, tmp_path: Path) -> None:
    half = tmp_path / ".downloads/toy.unpacked/toy"
    half.mkdir(parents=True)
    (half / "half.jpg").write_bytes(b"half")
    assert_complete(get(source_of(server), tmp_path))


# -------------------------------------------------------------------------------------- the table


@pytest.mark.parametrize("name", ["cub", "cars", "sop", "inshop"])
def test_sources_are_well_formed(name: str) -> None:
    source = SOURCES[name]
    assert source.name == name
    reader = BENCHMARKS[name]
    assert source.folder == reader.FOLDER, "what is fetched is where the reader looks for it"
    assert set(reader.FILES) <= set(source.required)
    assert "Cite:" in source.terms
    assert source.homepage.startswith("https://")
    assert source.required
    for archive in source.archives:
        assert archive.url.startswith("https://")
        algorithm, _, digest = (archive.checksum or "").partition(":")
        assert len(digest) == {"md5": 32, "sha256": 64}[algorithm]


def test_in_shop_is_fetched_by_hand(tmp_path: Path) -> None:
    said: list[str] = []
    with pytest.raises(DataError, match=r"no public download link.*InShopRetrieval.*Img/img"):
        fetch("inshop", tmp_path, notice=said.append)
    assert said == [SOURCES["inshop"].terms]
    folder = tmp_path / "In-shop_Clothes_Retrieval_Benchmark"
    (folder / "Img/img").mkdir(parents=True)
    (folder / "Eval").mkdir()
    (folder / "Eval/list_eval_partition.txt").write_text("")
    assert fetch("inshop", tmp_path) == folder


def test_unknown_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="one of cub, cars, sop, inshop; got 'birds'"):
        fetch("birds", tmp_path)
