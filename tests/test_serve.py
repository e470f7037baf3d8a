"""`hier serve`: answers, limits, refusals, and what happens to the index meanwhile."""

import asyncio
import contextlib
import dataclasses
import gc
import http.client
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Hier, fails, paint
from PIL import Image

import hiercli
from hiercli import Client, Encoder, Index, InputError, ServerError
from hiercli.errors import ImageError, MismatchError
from hiercli.index.schema import content_hash
from hiercli.index.similarity import Similarity
from hiercli.review.review import Review
from hiercli.serve import collection, decoders, making, reviews
from hiercli.serve.app import Service
from hiercli.serve.asked import asked
from hiercli.serve.batching import Batcher
from hiercli.serve.decoders import DecoderPool
from hiercli.serve.guard import SECURITY
from hiercli.serve.reviews import FOUND
from hiercli.serve.settings import Settings, is_loopback

pytestmark = pytest.mark.xdist_group("serve")
TOKEN = "a-token-of-enough-characters"


class Server:
    """A server in a process of its own."""

    def __init__(self, *words: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", "from hiercli.cli.app import main; main()", "serve", "--port",
             "0", "--json", *map(str, words)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert self.process.stdout is not None and self.process.stderr is not None
        line = self.process.stdout.readline()
        assert line, self.process.stderr.read()
        self.url = json.loads(line)["url"]
        self.token = json.loads(line)["token"]
        self.port = int(self.url.rstrip("/").rpartition(":")[2])

    def ask(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, named)
            answer = connection.getresponse()
            names = {name.lower(): value for name, value in answer.getheaders()}
            return answer.status, names, answer.read()

    def made(self, path: str) -> bytes:
        """What takes the server a while to make."""
        while (answer := self.ask("GET", path))[0] == 202:
            assert json.loads(answer[2])["building"]
        assert answer[0] == 200
        return answer[2]

    def error(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Any:
        status, _, content = self.ask(method, path, body, **headers)
        told = json.loads(content)["error"]
        assert "Traceback" not in told["message"]
        return status, told["code"], told["message"]

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        code = self.process.wait(30)
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()
        return code


def form(content: bytes, name: str = "q.jpg", field: str = "image") -> tuple[bytes, str]:
    """The body of a form, and its content type."""
    head = (
        f'--limit\r\ncontent-disposition: form-data; name="{field}"; filename="{name}"\r\n'
        "content-type: image/jpeg\r\n\r\n"
    )
    return head.encode() + content + b"\r\n--limit--\r\n", "multipart/form-data; boundary=limit"


@pytest.fixture(scope="module")
def server(index: Path) -> Iterator[Server]:
    found = Server("--index", index)
    yield found
    found.stop()


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.url) as found:
        yield found


# -- answers ---------------------------------------------------------------------------------------


def test_hits_are_those_of_the_index(
    client: Client, index: Path, photos: Path, tmp_path: Path
) -> None:
    query = tmp_path / "q.png"
    with Image.open(photos / "kind3" / "photo1.jpg") as picture:
        picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(query)
    with Index(index) as opened:
        own = opened.search(query, k=7)
        verdict = opened.identify(query)
        told = client.search(query, k=7)
        assert [hit.id for hit in told.hits] == [hit.content.hex() for hit in own]
        assert [hit.label for hit in told.hits] == [hit.label for hit in own]
        assert [hit.distance for hit in told.hits] == pytest.approx(
            [hit.distance for hit in own], abs=1e-4
        )
        assert told.verdict["name"] == verdict.name
        # An image that is there already is found without being embedded again.
        first = client.search(photos / "kind3" / "photo1.jpg").hits[0]
        assert (first.distance, first.similarity, first.similar) == (0, 1, "the same image")
        point = opened.collection().points[5]
        assert client.search(point).hits[0].distance == pytest.approx(0, abs=1e-6)
        assert client.search(point.tolist(), k=3).hits == client.search(point, k=3).hits
        same = client.search_id(first.id, k=2)
        assert same.hits[0].id == first.id
    pixels = np.asarray(Image.open(query))
    assert client.search(pixels, k=7).hits == told.hits
    assert client.search(Image.open(query), k=7).hits == told.hits


def test_conditions_branches_and_breadth(client: Client, photos: Path) -> None:
    query = photos / "kind3" / "photo1.jpg"
    told = client.search(query, k=20, where=["label=kind4"])
    assert {hit.label for hit in told.hits} == {"kind4"} and len(told.hits) == 6
    near = client.search(query, k=48, max_distance=told.hits[0].distance)
    assert 0 < len(near.hits) < 48
    named = client.search(query, k=3, branches=True).hits[0].branch
    assert named["name"] == "kind3"
    breadth = client.search(query, k=8, level=1)
    assert len({hit.label for hit in breadth.hits[:2]}) == 2
    assert client.search(query, verdict=False).verdict == {}


def test_words(client: Client) -> None:
    told = client.search_words("kind5", k=4)
    assert told.understood["names"] == ["kind5"] and told.understood["kind"] == "label"
    assert {hit.label for hit in told.hits} == {"kind5"}
    with pytest.raises(InputError, match="no label or level has the words"):
        client.search_words("locomotive")


def test_forms_bodies_and_crops_are_one(server: Server, photos: Path) -> None:
    content = (photos / "kind1" / "photo2.jpg").read_bytes()
    body, kind = form(content)
    told = [
        json.loads(server.ask("POST", "/api/search?k=4", body, content_type=kind)[2]),
        json.loads(server.ask("POST", "/api/search?k=4", content, content_type="image/jpeg")[2]),
    ]
    assert told[0]["results"] == told[1]["results"]
    assert told[0]["query"] == "q.jpg"
    part = server.ask("POST", "/api/search?k=4&crop=2,2,30,30", body, content_type=kind)
    assert part[0] == 200 and json.loads(part[2])["results"] != told[0]["results"]
    wrong = server.error("POST", "/api/search?crop=2,2,300,300", body, content_type=kind)
    assert wrong[:2] == (422, "not-an-image")


def test_the_server_answers_what_the_command_prints(
    server: Server, inside: Hier, index: Path, photos: Path
) -> None:
    file = photos / "kind1" / "photo2.jpg"
    body, kind = form(file.read_bytes())
    answer = json.loads(server.ask("POST", "/api/search?k=4", body, content_type=kind)[2])
    printed = json.loads(inside("search", file, "--index", index, "-k", "4", "--json").stdout)
    for hit in printed["results"]:
        del hit["path"], hit["copies"]
    for hit in answer["results"]:
        del hit["id"]
    assert printed["results"] == answer["results"]
    assert printed["results"][0]["similarity"] == 1


def test_answers_hold_no_paths_unless_allowed(server: Server, index: Path, photos: Path) -> None:
    content = (photos / "kind1" / "photo2.jpg").read_bytes()
    body, kind = form(content)
    server.made("/api/tree")
    for path in ("/api/search", "/api/stats", "/api/tree", "/metrics", "/api/openapi.json"):
        method = "POST" if path == "/api/search" else "GET"
        status, _, told = server.ask(method, path, body if method == "POST" else None,
                                     content_type=kind)  # fmt: skip
        assert status == 200
        assert str(photos).encode() not in told and index.name.encode() not in told
    refused = server.error("POST", "/api/search?where=path=*", body, content_type=kind)
    assert refused[0] == 400
    shown = Server("--index", index, "--show-paths")
    told = json.loads(shown.ask("POST", "/api/search?k=1", body, content_type=kind)[2])
    shown.stop()
    assert told["results"][0]["path"] == str(photos / "kind1" / "photo2.jpg")
    assert told["results"][0]["copies"] == []


@pytest.mark.parametrize(
    ("query", "body"),
    [
        ("where=label=nothing", {"text": "kind2"}),
        ("where=bogus=1", {"text": "kind2"}),
        ("", {"text": "qwertz uiop"}),
        ("where=label=nothing", {"point": []}),
    ],
)
def test_messages_hold_no_paths(server: Server, query: str, body: dict[str, Any]) -> None:
    if "point" in body:
        facts = json.loads(server.ask("GET", "/api/stats")[2])["indexes"][0]
        body = {"point": [0.0] * facts["dimensions"]}
    status, _, message = server.error(
        "POST", f"/api/search?{query}", json.dumps(body).encode(), content_type="application/json"
    )
    assert status == 400
    assert "/" not in message, message


def test_messages_hold_no_folders_with_blanks(index: Path) -> None:
    settings = Settings((str(index),), model="/home/jane doe/my models/birds.onnx")
    service = Service(settings)
    told = service._without_paths("expected an encoder, got /home/jane doe/my models/birds.onnx")
    assert told == "expected an encoder, got birds.onnx"


def test_pictures_of_indexed_images_alone(
    server: Server, client: Client, index: Path, photos: Path
) -> None:
    name = client.search(photos / "kind1" / "photo2.jpg").hits[0].id
    assert client.image(name).size == (48, 48)
    assert client.image(name, "small").format == "JPEG"
    for wrong in ("0" * 32, "../../etc/passwd", "%2e%2e%2fidx.faiss", name.upper(), name[:-1]):
        status, _, told = server.ask("GET", f"/api/images/{wrong}")
        assert status == 404, told
    assert server.error("GET", f"/api/images/{name}?size=original")[0] == 403
    allowed = Server("--index", index, "--show-originals")
    status, headers, told = allowed.ask("GET", f"/api/images/{name}?size=original")
    allowed.stop()
    assert (status, headers["content-type"]) == (200, "image/jpeg")
    assert told == (photos / "kind1" / "photo2.jpg").read_bytes()


def test_the_rest_of_the_api(server: Server, client: Client) -> None:
    (told,) = client.stats()["indexes"]
    assert (told["name"], told["images"], told["labels"]) == ("idx", 48, 8)
    tree = json.loads(server.made("/api/tree"))
    assert sum(kind == 2 for kind in tree["places"]["kind"]) == 48
    assert sum(bool(name) for name in tree["places"]["image"]) >= 48
    assert json.loads(server.ask("GET", "/api/healthz")[2]) == {"status": "ok"}
    assert b"hier_requests_total" in server.ask("GET", "/metrics")[2]
    document = json.loads(server.ask("GET", "/api/openapi.json")[2])
    for path in document["paths"]:
        method = "POST" if "post" in document["paths"][path] else "GET"
        assert server.ask(method, path.replace("{id}", "0" * 32))[0] != 405
    for path in ("/", "/page/app.js", "/page/app.css", "/page/disk.js", "/page/review.js",
                 "/page/review.css", "/page/theme.css"):  # fmt: skip
        status, headers, content = server.ask("GET", path)
        assert status == 200 and content
        for name, value in SECURITY.items():
            assert headers[name] == value
    assert server.ask("GET", "/page/app.py")[0] == 404
    assert server.ask("GET", "/page/..%2fapp.py")[0] == 404


# -- the review ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reviewed(index_with_faults: Path) -> Iterator[Server]:
    found = Server("--index", index_with_faults)
    yield found
    found.stop()


def test_a_review_names_images_by_their_ids(reviewed: Server, index_with_faults: Path) -> None:
    with Client(reviewed.url) as client:
        told = client.review()
        own = hiercli.Review.of_images(index_with_faults, kinds=FOUND)
        assert told.counts == own.counts()
        copies = [one for one in told.findings if one.kind == "duplicate"]
        for one in copies:
            assert client.image(one.id).size and client.image(one.of_id).size
            assert [group["images"] for group in one.examples] == [[one.id], [one.of_id]]
        assert told.counts["duplicate"] >= 2 and told.counts["tiny"] >= 2
        assert told.counts["unreadable"] == 1
        assert all(one.path == one.of == "" for one in told.findings)
        some = client.review(["tiny"])
        assert {one.kind for one in some.findings} == {"tiny"} and some.counts == told.counts
        with pytest.raises(InputError, match=r"expected kinds among relabel.*'blurred'"):
            client.review(["tiny", "blurred"])
        with pytest.raises(InputError, match="no index"):
            client.review(index="other")
    _, _, text = reviewed.ask("GET", "/api/review")
    for name in (str(index_with_faults.parent), "secret.jpg", "again.png", "photo1.jpg"):
        assert name.encode() not in text


def test_a_review_has_paths_where_they_are_shown(index_with_faults: Path, inside: Hier) -> None:
    server = Server("--index", index_with_faults, "--show-paths")
    with Client(server.url) as client:
        told = client.review()
    server.stop()
    lines = inside("review", "--index", index_with_faults, "--json").stdout.decode().splitlines()
    own = {(one["kind"], one["path"]): one for one in map(json.loads, lines)}
    sent = [one for one in told.findings if one.kind not in ("duplicate", "leak", "unreadable")]
    assert {one.kind for one in sent} >= {"relabel", "tiny"}
    for one in sent:
        same = own[one.kind, one.path]
        assert (one.label, one.proposal, one.confidence) == (
            same["label"], same["proposal"], same["confidence"]
        )  # fmt: skip
    assert any(one.path.endswith("secret.jpg") for one in told.findings)


def test_a_review_tells_progress_and_follows_the_index(
    index_with_faults: Path, exported: Path, inside: Hier, tmp_path: Path
) -> None:
    for file in index_with_faults.parent.glob("faulty.faiss*"):
        shutil.copy(file, tmp_path / file.name)
    index = tmp_path / "faulty.faiss"
    server = Server("--index", index)
    status, _, told = server.ask("GET", "/api/review")
    assert status in (200, 202)
    if status == 202:
        assert set(json.loads(told)) == {"building", "step", "done", "total"}
    with Client(server.url) as client:
        before = client.review().counts
        images = client.stats()["indexes"][0]["images"]
        more = paint(tmp_path / "more" / "new.png", 7)
        assert inside("embed", more, "--index", index, "--model", exported).returncode == 0
        for _ in range(100):
            if client.stats()["indexes"][0]["images"] == images + 1:
                break
            time.sleep(0.1)
        after = client.review().counts
    assert after["tiny"] == before["tiny"] + 1
    assert server.stop() == 0


@contextlib.contextmanager
def silent(_: str) -> Iterator[Any]:
    yield lambda done, total: None


def test_findings_of_a_kind_are_bounded(
    index_with_faults: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reviews, "MOST", 1)
    found = reviews.reviewed(index_with_faults, Settings(("faulty.faiss",)), silent)
    assert {len(own) for own in found.by_kind.values()} == {1}
    assert json.loads(found.facts)["counts"]["tiny"] > 1
    answer = json.loads(found.answer(["tiny", "leak"]))
    assert [one["kind"] for one in answer["findings"]] == ["tiny"]


# -- wrong requests --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "word"),
    [("k=0", "k"), ("k=nan", "k"), ("k=100000", "k"), ("max_distance=-1", "max_distance"),
     ("max_distance=nan", "max_distance"), ("where=label", "where"), ("level=-2", "level"),
     ("verdict=perhaps", "verdict"), ("confidence=2", "confidence"), ("crop=1,2,3", "crop"),
     ("crop=1,2,0,4", "crop"), ("color=red", "unknown parameter 'color'"),
     ("level=1&rerank=1", "level"), ("k=" + "9" * 400, "k")],
)  # fmt: skip
def test_wrong_parameters_are_named(server: Server, photos: Path, query: str, word: str) -> None:
    content = (photos / "kind1" / "photo2.jpg").read_bytes()
    status, code, message = server.error(
        "POST", f"/api/search?{query}", content, content_type="image/jpeg"
    )
    assert (status, code) == (400, "wrong-input")
    assert word in message


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"", 400), (b"[]", 400), (b"{", 400), (b'{"id": 3}', 404), (b'{"id": "x"}', 404),
     (b'{"id": "../../x"}', 404), (b'{"point": []}', 400), (b'{"point": [1, 2]}', 400),
     (b'{"point": ["a"]}', 400), (b'{"point": [1e999]}', 400), (b'{"text": 3}', 400),
     (b'{"text": ""}', 400), (b'{"text": "kind1", "id": "x"}', 400), (b'{"path": "/"}', 400),
     (b'{"text": "' + b"a" * 5000 + b'"}', 400), (b'{"text": "' + b"a" * 50000 + b'"}', 413),
     (b"[" * 9000, 400), (b'{"point": [' + b"1," * 15 + b"1]}", 400),
     (b'{"point": [' + b"1e400," * 15 + b"NaN]}", 400),
     (b'{"point": [' + b"1e308," * 15 + b"1]}", 400), (b'{"point": [[1], [1, 2]]}', 400)],
)  # fmt: skip
def test_wrong_json_is_refused(server: Server, body: bytes, status: int) -> None:
    told = server.error("POST", "/api/search", body, content_type="application/json")
    assert told[0] == status, told


def test_wrong_uploads_are_refused(server: Server, photos: Path) -> None:
    whole = (photos / "kind1" / "photo2.jpg").read_bytes()
    huge = (
        b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x7f\xff\xff\xff\x7f\xff\xff\xff\x08\x02\x00\x00\x00"
    )
    for content in (b"no image", whole[: len(whole) // 2], huge, b"%!PS\n", b"\x00" * 100_000):
        told = server.error("POST", "/api/search", content, content_type="image/jpeg")
        assert told[:2] == (422, "not-an-image"), told
    assert server.error("POST", "/api/search", whole, content_type="text/plain")[0] == 415
    assert server.error("POST", "/api/search", whole)[0] == 415
    body, kind = form(whole, field="other")
    assert server.error("POST", "/api/search", body, content_type=kind)[0] == 400
    assert server.error("POST", "/api/search", body[:50], content_type=kind)[0] == 400
    told = server.error("POST", "/api/search", b"", content_type="image/jpeg")
    assert told[0] == 400
    named = form(whole, name="..\\..\\evil\x7f<b>.jpg")
    status, _, answer = server.ask("POST", "/api/search", named[0], content_type=kind)
    assert status == 200 and "evil" in json.loads(answer)["query"]
    assert server.error("GET", "/api/search")[0] == 405
    assert server.error("GET", "/api/nothing")[0] == 404


def test_uploads_are_bounded(index: Path, photos: Path) -> None:
    server = Server("--index", index, "--max-upload", 1)
    told = server.error("POST", "/api/search", b"\xff\xd8\xff" * 400_000,
                        content_type="image/jpeg")  # fmt: skip
    assert told[:2] == (413, "too-large")
    with socket.create_connection(("127.0.0.1", server.port), 30) as line:  # without a length
        line.sendall(b"POST /api/search HTTP/1.1\r\nhost: localhost\r\ncontent-type: image/jpeg\r\n"
                     b"transfer-encoding: chunked\r\n\r\n")  # fmt: skip
        with contextlib.suppress(OSError):
            for _ in range(64):
                line.sendall(b"10000\r\n" + b"a" * 65536 + b"\r\n")
        assert b"413" in line.recv(200)
    content = (photos / "kind1" / "photo2.jpg").read_bytes()
    assert server.ask("POST", "/api/search", content, content_type="image/jpeg")[0] == 200
    server.stop()


def test_heads_are_bounded(server: Server) -> None:
    many = "".join(f"x-{number}: 1\r\n" for number in range(10_000))
    long = f"x: {'a' * 40_000}\r\n"
    for headers in (many, long):
        with socket.create_connection(("127.0.0.1", server.port), 30) as line:
            with contextlib.suppress(OSError):
                line.sendall(f"GET / HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n".encode())
            told = b""
            with contextlib.suppress(OSError):
                told = line.recv(200)
            assert told == b"" or b" 4" in told.split(b"\r\n")[0]
    some = "".join(f"x-{number}: 1\r\n" for number in range(150))
    with socket.create_connection(("127.0.0.1", server.port), 30) as line:
        line.sendall(f"GET / HTTP/1.1\r\nhost: localhost\r\n{some}\r\n".encode())
        assert b"431" in line.recv(200)
    with socket.create_connection(("127.0.0.1", server.port), 30) as line:
        line.sendall(b"GET / HTTP/1.1\r\nhost: localhost\r\nupgrade: websocket\r\n"
                     b"connection: upgrade\r\nsec-websocket-key: x\r\n\r\n")  # fmt: skip
        assert b"HTTP/1.1 " in line.recv(200)
    assert server.ask("GET", "/api/healthz")[0] == 200


def test_foreign_sites_and_hosts_are_refused(server: Server, photos: Path) -> None:
    content = (photos / "kind1" / "photo2.jpg").read_bytes()
    told = server.error("POST", "/api/search", content, content_type="image/jpeg",
                        origin="http://evil.example")  # fmt: skip
    assert told[:2] == (403, "wrong-origin")
    assert server.error("GET", "/api/stats", host="evil.example")[:2] == (421, "wrong-host")
    status, headers, _ = server.ask("GET", "/api/stats", origin=f"http://127.0.0.1:{server.port}")
    assert status == 200
    assert not [name for name in headers if name.startswith("access-control")]


def test_a_token_is_needed_where_others_can_ask(index: Path, photos: Path) -> None:
    server = Server("--index", index, "--host", "0.0.0.0")
    assert server.token and len(server.token) >= 24
    for headers in ({}, {"authorization": "Bearer wrong"}, {"cookie": "hier_token=wrong"},
                    {"authorization": f"Bearer {server.token}x"}):  # fmt: skip
        for path in ("/", "/api/stats", "/metrics", "/page/app.js", "/api/openapi.json"):
            status, code, message = server.error("GET", path, **headers)
            assert (status, code) == (401, "token-needed")
            assert server.token not in message
    assert server.ask("GET", "/api/healthz")[0] == 200
    assert server.ask("GET", "/api/stats", authorization=f"Bearer {server.token}")[0] == 200
    status, headers, _ = server.ask("GET", f"/?token={server.token}")
    assert (status, headers["location"]) == (303, "/")
    cookie = headers["set-cookie"]
    assert "HttpOnly" in cookie and "samesite=strict" in cookie.lower()
    assert server.ask("GET", "/", cookie=cookie.partition(";")[0])[0] == 200
    with Client(f"http://127.0.0.1:{server.port}", token=server.token) as client:
        assert client.search(photos / "kind1" / "photo2.jpg", k=1).hits[0].label == "kind1"
    with (
        Client(f"http://127.0.0.1:{server.port}", token="no") as client,
        pytest.raises(InputError, match="token"),
    ):
        client.stats()
    server.stop()


# -- the index changes -----------------------------------------------------------------------------


def test_an_update_is_seen_and_refuses_nobody(
    exported: Path, photos: Path, hier: Hier, tmp_path: Path
) -> None:
    place = tmp_path / "photos"
    shutil.copytree(photos, place)
    index = tmp_path / "own.faiss"
    assert hier("embed", place, "--model", exported, "--index", index).returncode == 0
    server = Server("--index", index)
    wrong: list[object] = []
    ended = threading.Event()

    def keep_asking() -> None:
        with Client(server.url) as client:
            while not ended.is_set():
                try:
                    assert client.search_words("kind2", k=1).hits
                except Exception as error:
                    wrong.append(error)

    with ThreadPoolExecutor(2) as pool:
        asking = [pool.submit(keep_asking) for _ in range(2)]
        paint(place / "new kind" / "a.png", 7)
        assert hier("embed", place, "--index", index).returncode == 0
        with Client(server.url) as client:
            for _ in range(100):
                if client.stats()["indexes"][0]["images"] == 49:
                    break
                time.sleep(0.1)
            assert client.search(place / "new kind" / "a.png", k=1).hits[0].label == "new kind"
        # Damaged or gone: the state before goes on answering.
        index.with_name("own.faiss.sqlite").unlink()
        index.unlink()
        for _ in range(100):
            told = json.loads(server.ask("GET", "/api/healthz")[2])
            if told == {"status": "degraded"}:
                break
            time.sleep(0.1)
        assert told == {"status": "degraded"}
        ended.set()
        for one in asking:
            one.result()
    assert wrong == []
    with Client(server.url) as client:
        assert client.search_words("kind2", k=1).hits
        assert "/" not in client.stats()["indexes"][0]["problem"]
    server.stop()


def test_it_ends_after_the_requests_in_work(index: Path, photos: Path) -> None:
    server = Server("--index", index)
    content = (photos / "kind1" / "photo2.jpg").read_bytes()
    head = (
        f"POST /api/search HTTP/1.1\r\nhost: localhost\r\ncontent-type: image/jpeg\r\n"
        f"content-length: {len(content)}\r\nconnection: close\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port), 30) as line:
        line.sendall(head.encode() + content[:100])
        time.sleep(0.5)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        line.sendall(content[100:])
        told = b""
        while more := line.recv(65536):
            told += more
    assert b" 200 " in told.split(b"\r\n")[0] and b'"results"' in told
    assert server.process.wait(30) == 0
    with pytest.raises(ServerError, match="Is `hier serve` running"), Client(server.url) as client:
        client.stats()
    server.stop()


def test_several_processes_answer(index: Path, photos: Path) -> None:
    server = Server("--index", index, "--workers", 2)
    with Client(server.url) as client:
        for _ in range(6):
            client.close()
            assert client.search(photos / "kind1" / "photo2.jpg", k=1).hits[0].label == "kind1"
    assert server.stop() == 0


def test_wrong_starts_are_told(inside: Hier, index: Path, tmp_path: Path) -> None:
    fails(inside("serve", "--index", tmp_path / "no.faiss"), 2, "there is no index", "hier embed")
    fails(inside("serve", "--index", index, "--host", "no.such.host.invalid"), 2, "host")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        fails(inside("serve", "--index", index, "--port", port), 2, str(port), "--port")
    fails(inside("serve", "--index", index, "--token", "short"), 2, "16")
    fails(inside("serve"), 2, "--index")
    damaged = tmp_path / "d.faiss"
    shutil.copy(index, damaged)
    shutil.copy(f"{index}.sqlite", f"{damaged}.sqlite")
    damaged.write_bytes(damaged.read_bytes()[:100])
    done = subprocess.run(
        [sys.executable, "-c", "from hiercli.cli.app import main; main()", "serve", "--port", "0",
         "--index", damaged], capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    fails(done, 4, "d.faiss")


# -- parts -----------------------------------------------------------------------------------------


def test_a_decoder_that_dies_costs_nothing_but_time(
    photos: Path, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = (photos / "kind1" / "photo2.jpg").read_bytes()
    preprocessing = Encoder(exported).metadata.preprocessing
    pool = DecoderPool(1)

    async def use() -> None:
        first = await pool.pixels(content, "a", preprocessing)
        process = pool._all[0]._process
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert np.array_equal(await pool.pixels(content, "a", preprocessing), first)
        os.kill(pool._all[0]._process.pid, signal.SIGSTOP)
        work = asyncio.create_task(pool.pixels(content, "a", preprocessing))
        await asyncio.sleep(0.3)
        os.kill(pool._all[0]._process.pid, signal.SIGKILL)  # through no fault of the image
        assert np.array_equal(await work, first)
        os.kill(pool._all[0]._process.pid, signal.SIGSTOP)  # hangs
        pool._seconds = 0.5
        with pytest.raises(ImageError, match="longer than"):
            await pool.pixels(content, "slow", preprocessing)
        pool._seconds = 20.0
        assert np.array_equal(await pool.pixels(content, "a", preprocessing), first)
        preview = Image.open(io.BytesIO(await pool.preview(content, "a", 20)))
        assert preview.size == (20, 20) and not preview.getexif()
        with pytest.raises(ImageError):
            await pool.preview(b"nothing", "b")
        with monkeypatch.context() as patched:
            patched.setattr(decoders._Process, "__call__", dies)
            with pytest.raises(ImageError, match="decoder crashed"):
                await pool.preview(content, "b")

    def dies(*_: object) -> bytes:
        raise decoders._DiedError

    asyncio.run(use())
    pool.close()


@pytest.mark.parametrize("query", ["", "level=1", "where=label%3Dkind1"])  # a lane each
@pytest.mark.parametrize("given", ["image", "known image", "id"])
def test_a_point_of_the_encoder_before_is_searched_nowhere(
    given: str, query: str, index: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The index is replaced by one of another encoder between an image's point and its search."""
    service = Service(Settings((str(index),), decoders=1))
    (served,) = service.indexes.values()
    content = (photos / "kind1" / "photo2.jpg").read_bytes()
    search = served.search

    def later(state: Any, key: Any, points: list[np.ndarray]) -> Any:
        state.reader.fingerprint = "0123456789abcdef"
        return search(state, key, points)

    async def pixels(*_: object) -> np.ndarray:
        size = served.state.need_encoder().metadata.preprocessing.size
        return np.zeros((size, size, 3), np.uint8)

    async def ask() -> None:
        _, how, _ = asked(query.encode())
        if given == "id":
            body = json.dumps({"id": content_hash(content).hex()}).encode()
            await service._by_json(served, body, how)
        else:
            new = content + b"not in the index" * (given == "image")
            point, made_by = await service._point(served, new, "q.jpg", None)
            await served.points(point, dataclasses.replace(how, made_by=made_by))

    monkeypatch.setattr(service.decoders, "pixels", pixels)
    asyncio.run(served.open())
    asyncio.run(ask())
    monkeypatch.setattr(served, "search", later)
    with pytest.raises(ServerError, match="another encoder"):
        asyncio.run(ask())
    served.close()
    service.decoders.close()


def test_batches_are_of_one_key_and_in_order() -> None:
    seen: list[tuple[object, int]] = []

    def work(key: object, items: list[int]) -> list[int | Exception]:
        seen.append((key, len(items)))
        time.sleep(0.01)
        return [InputError("odd") if item == 13 else 10 * item for item in items]

    async def use() -> None:
        with ThreadPoolExecutor(1) as pool:
            batcher: Batcher[int, int] = Batcher(work, pool, most=8, waiting=40)
            told = await asyncio.gather(
                *(batcher(number, number % 2) for number in range(40)), return_exceptions=True
            )
            assert [one for place, one in enumerate(told) if place != 13] == [
                10 * number for number in range(40) if number != 13
            ]
            assert isinstance(told[13], InputError)
            refused = await asyncio.gather(
                *(batcher(number, 0) for number in range(60)), return_exceptions=True
            )
            assert sum(isinstance(one, ServerError) for one in refused) == 20

    asyncio.run(use())
    assert max(count for _, count in seen) == 8
    assert len(seen) < 25


def test_a_call_right_after_another_is_not_forgotten() -> None:
    async def use() -> None:
        with ThreadPoolExecutor(1) as pool:
            batcher: Batcher[int, int] = Batcher(lambda _, items: items, pool, most=4, waiting=9)
            for number in range(20):
                assert await asyncio.wait_for(batcher(number), 10) == number

    asyncio.run(use())


def test_a_lane_that_comes_too_late_ends_quietly() -> None:
    def work(_: object, items: list[int]) -> list[int]:
        time.sleep(0.05)
        return [10 * item for item in items]

    async def use() -> list[object]:
        wrong: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, told: wrong.append(told))
        with ThreadPoolExecutor(2) as pool:
            batcher: Batcher[int, int] = Batcher(work, pool, most=4, waiting=9, lanes=2)
            for _ in range(3):  # after a batch of several, lanes wait for more, and one takes all
                assert await asyncio.gather(*map(batcher, range(3))) == [0, 10, 20]
        gc.collect()
        await asyncio.sleep(0)
        return wrong

    assert asyncio.run(use()) == []


def test_a_lane_goes_on_with_the_old_state_and_tries_again(
    index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = collection.ServedIndex("idx", str(index), Settings((str(index),)))
    opened = collection.State

    def fails_to_open(*words: Any) -> Any:
        raise OSError("too many open files")

    async def use() -> None:
        await served.open()
        before = await served._filters.call(lambda state: state)
        await served.reopen()
        monkeypatch.setattr(collection, "State", fails_to_open)
        assert await served._filters.call(lambda state: state) is before
        assert "too many open files" in served.problem
        monkeypatch.setattr(collection, "State", opened)
        monkeypatch.setattr(collection, "_PAUSE", 0.0)
        served._filters._next = 0.0
        assert await served._filters.call(lambda state: state) is not before
        assert served.problem == ""
        served.close()

    asyncio.run(use())


def explodes(index: Path, settings: Settings, steps: Any) -> bytes:
    """A job with a bug."""
    return bytes(1 // len(index.parts) * 0 or [][0])


def slow(index: Path, settings: Settings, steps: Any) -> bytes:
    """A job that takes long."""
    with steps("sleeping"):
        time.sleep(60)
    return b""


def test_a_job_with_a_bug_is_not_done_again(index: Path) -> None:
    served = collection.ServedIndex("idx", str(index), Settings((str(index),)))

    async def use() -> None:
        with ThreadPoolExecutor(1) as thread:
            jobs = making.Background(explodes, served.settings, 30, "", thread)
            with pytest.raises(making._FaultError):
                await jobs.of(served)
            before = jobs._made["idx"]
            with pytest.raises(making._FaultError):
                await jobs.of(served)
            assert jobs._made["idx"] is before
            jobs.close()

    asyncio.run(use())


def test_a_job_ends_with_the_server(index: Path) -> None:
    served = collection.ServedIndex("idx", str(index), Settings((str(index),)))

    async def use() -> None:
        with ThreadPoolExecutor(1) as thread:
            jobs = making.Background(slow, served.settings, 0.05, "", thread)
            for _ in range(200):
                found = await jobs.of(served)
                assert isinstance(found, making.JobProgress)
                if found.step == "sleeping":
                    break
            process = jobs._made["idx"][1]._process
            assert process.is_alive()
            jobs.close()
            assert not process.is_alive()

    asyncio.run(use())


def test_a_root_is_that_of_reviews_and_trees_too(
    exported: Path, photos: Path, inside: Hier, tmp_path: Path
) -> None:
    place, moved = tmp_path / "old", tmp_path / "moved" / "new"
    shutil.copytree(photos, place)
    index = tmp_path / "root.faiss"
    done = inside("embed", place, "--model", exported, "--index", index, "--root", place)
    assert done.returncode == 0, done.stderr
    moved.parent.mkdir()
    place.rename(moved)
    settings = Settings((str(index),), root=str(moved), show_paths=True)
    assert all(path.startswith(str(moved)) for path in making.ids_of(index, settings))
    found = Review.of_images(index, kinds=["label"], root=moved)
    assert all(Path(path).is_file() for path in found.collection.paths or [""])


def test_similarity_is_judged_by_pairs_of_the_index() -> None:
    rng = np.random.default_rng(0)
    points = 0.3 * rng.normal(size=(60, 5))
    scale = Similarity.of_points(points, 0.1)
    pairs = [
        float(np.asarray(hiercli.poincare.dist(points[a], points[b], 0.1)))
        for a in range(60) for b in range(a)
    ]  # fmt: skip
    middle = float(np.median(pairs))
    assert scale(middle) == pytest.approx(0, abs=1e-9)
    assert scale(middle / 4) == pytest.approx(0.75)
    assert scale(0) == 1 and scale(99) == 0
    assert [scale.word(d) for d in (0.0, np.quantile(pairs, 0.0005), np.quantile(pairs, 0.005),
                                    np.quantile(pairs, 0.05), middle)] == [
        "the same image", "very similar", "similar", "somewhat similar", "different"
    ]  # fmt: skip
    assert Similarity.of_points(points[:1], 0.1).word(1.0) == "different"


def test_settings_are_checked() -> None:
    assert [is_loopback(host) for host in ("127.0.0.5", "[::1]", "192.168.1.1", "x")] == [
        True, True, False, False
    ]  # fmt: skip
    with pytest.raises(InputError, match="token"):
        Settings(("a.faiss",), host="0.0.0.0")
    with pytest.raises(InputError, match="16"):
        Settings(("a.faiss",), token="a b")
    own = Settings(("a.faiss", "b.faiss"), host="0.0.0.0", token=TOKEN, show_paths=True)
    assert Settings.from_json(own.to_json()) == own
    with pytest.raises(InputError, match="http"):
        Client("ftp://x")
    assert issubclass(ServerError, hiercli.HierError) and MismatchError.exit_code == 4
