"""The HTTP API and the page of `hier serve`, with what Starlette has for requests and routes."""

import asyncio
import contextlib
import dataclasses
import os
import re
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import orjson
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route, Router
from starlette.types import Receive, Scope, Send

from hiercli import __version__
from hiercli.errors import HierError, ImageError, InputError, MismatchError, ServerError
from hiercli.index.queries import Box
from hiercli.index.schema import Row
from hiercli.serve import openapi
from hiercli.serve.asked import asked
from hiercli.serve.collection import ServedIndex
from hiercli.serve.decoders import DecoderPool
from hiercli.serve.guard import COOKIE, Guard
from hiercli.serve.making import Background, JobProgress
from hiercli.serve.pictures import Pictures
from hiercli.serve.responses import answer_of, error_of, fresh, page_file, refusal_of
from hiercli.serve.reviews import kinds_of, reviewed
from hiercli.serve.settings import Settings
from hiercli.serve.state import Asked
from hiercli.serve.trees import grown
from hiercli.serve.uploads import body_of, upload_of

MOST_TEXT = 10_000
"""Bytes of JSON that name an image, words or a point, beside those of the point itself."""
_PATIENCE = 1.0
"""Seconds that a request waits for a tree or review in the making; then it hears how far it is."""
_FOLDERS = re.compile(r"(?<![\w*.])(?:[A-Za-z]:)?(?:[/\\][^\s/\\]+)*[/\\](?=[^\s/\\])")
"""What stands before the name of a file in an absolute path."""
_STATUS: tuple[tuple[type[Exception], int, str], ...] = (
    (ServerError, 503, "busy"),
    (ImageError, 422, "not-an-image"),
    (MismatchError, 409, "does-not-fit"),
    (InputError, 400, "wrong-input"),
    (HierError, 503, "unavailable"),
)


Found = TypeVar("Found")


class Service:
    """Everything that a server holds while it runs.

    Args:
        settings: of it.

    Attributes:
        failure: why it could not start.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.indexes: dict[str, ServedIndex] = {}
        for index in settings.indexes:
            name = Path(index.rpartition("/")[2] or index).stem or "index"
            while name in self.indexes:
                name += "-2"
            self.indexes[name] = ServedIndex(name, index, settings)
        self.decoders = DecoderPool(settings.num_decoders)
        self._background = ThreadPoolExecutor(1, "background")
        patience = min(_PATIENCE, settings.seconds / 2)
        self.trees = Background(grown, settings, patience, "`hier hierarchy`", self._background)
        self.reviews = Background(
            reviewed, settings, patience, "`hier review --points`", self._background
        )
        self.pictures = Pictures(self.decoders, settings.show_originals)
        self.failure: HierError | None = None
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "hier_requests", "Requests by route and status.", ("route", "status"),
            registry=self.registry,
        )  # fmt: skip
        self.seconds = Histogram(
            "hier_request_seconds", "Seconds of a request by route.", ("route",),
            buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30),
            registry=self.registry,
        )  # fmt: skip
        self.images = Gauge(
            "hier_images", "Images of an index.", ("index",), registry=self.registry
        )
        self.reopened = Gauge(
            "hier_reopened", "Times that an index was opened again.", ("index",),
            registry=self.registry,
        )  # fmt: skip

    @contextlib.asynccontextmanager
    async def running(self, _: object) -> AsyncIterator[None]:
        """Open the indexes, watch them, and let go of all in the end."""
        try:
            for index in self.indexes.values():
                await index.open()
        except HierError as error:
            self.failure = error
            raise
        watching = [asyncio.create_task(index.watch()) for index in self.indexes.values()]
        try:
            yield
        finally:
            for task in watching:
                task.cancel()
            for index in self.indexes.values():
                index.close()
            self.trees.close()
            self.reviews.close()
            self._background.shutdown(cancel_futures=True)
            self.decoders.close()

    def index(self, name: str | None) -> ServedIndex:
        """The index of a name; the first one without.

        Raises:
            HTTPException: there is none of this name.
        """
        name = name or next(iter(self.indexes))
        if name not in self.indexes:
            raise HTTPException(404, f"there is no index {name[:60]!r} here")
        return self.indexes[name]

    async def answered(self, endpoint: "Endpoint", request: Request) -> Response:
        """The answer of an endpoint, or the error that it raised as JSON."""
        try:
            return await endpoint(request)
        except HTTPException as error:
            return refusal_of(error)
        except HierError as error:
            status, code = next((s, c) for kind, s, c in _STATUS if isinstance(error, kind))
            return error_of(status, code, self._without_paths(str(error)))
        except Exception:  # a fault of ours: the operator is told, the client is not
            traceback.print_exc()
            return error_of(500, "fault", "the server failed because of a bug")

    def _without_paths(self, message: str) -> str:
        """A message as clients may see it: files by their names, without folders."""
        if self.settings.show_paths:
            return message
        known = {self.settings.root, *map(os.path.dirname, (*self.settings.indexes,
                                                            self.settings.model))}  # fmt: skip
        for index in self.indexes.values():
            known.add(index.model_folder)
        # Folders with blanks are known as a whole only.
        every = {as_seen(folder) for folder in known - {"", "."}
                 for as_seen in (str, os.path.abspath, os.path.realpath)}  # fmt: skip
        for folder in sorted(every, key=len, reverse=True):
            message = message.replace(os.path.join(folder, ""), "")
        return _FOLDERS.sub("", message)

    # -- the API -----------------------------------------------------------------------------------

    async def search(self, request: Request) -> Response:
        """The nearest images of an image, an indexed image, a point, or words."""
        name, how, part = asked(request.scope["query_string"])
        index = self.index(name)
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == "application/json":
            return answer_of(await self._by_json(index, await body_of(request), how))
        if kind == "multipart/form-data":
            content, name = await upload_of(request, self.settings.max_upload)
        elif kind.startswith("image/") or kind == "application/octet-stream":
            content, name = await body_of(request), "image"
        else:
            raise HTTPException(
                415, "expected multipart/form-data with a field 'image', an image as the body, or "
                "application/json with one of id, point and text"
            )  # fmt: skip
        if not content:
            raise InputError("expected an image, got an empty one")
        point, made_by = await self._point(index, content, name, part)
        how = dataclasses.replace(how, made_by=made_by)
        return answer_of({"query": name} | await index.points(point, how))

    async def _point(
        self, index: ServedIndex, content: bytes, name: str, part: Box | None
    ) -> tuple[np.ndarray, str]:
        """The point of an image, and the fingerprint of its encoder."""
        if part is None:
            known, made_by = await index.known_point(content)
            if known is not None:
                return known, made_by
        encoder = index.state.need_encoder()
        if self.decoders.is_full:
            raise ServerError("the server is busy. Try again in a moment")
        pixels = await self.decoders.pixels(content, name, encoder.metadata.preprocessing, part)
        return await index.pixels(pixels, encoder), encoder.fingerprint

    async def _by_json(self, index: ServedIndex, body: bytes, how: Asked) -> dict[str, Any]:
        if len(body) > MOST_TEXT + 32 * index.state.reader.dim:
            raise HTTPException(413, "the JSON body is larger than that of an id, a point or words")
        try:
            given = orjson.loads(body)
        except ValueError as error:
            raise InputError("expected JSON, got something else") from error
        if not isinstance(given, dict) or len(given) != 1:
            raise InputError('expected one of {"id": ...}, {"point": [...]} and {"text": ...}')
        ((name, value),) = given.items()
        if name == "point":
            point = await index.checked(value)
            return {"query": "point"} | await index.points(point, how)
        if name == "id":
            row, made_by = await self._row(index, value)
            point = np.frombuffer(row.point, "<f4")
            how = dataclasses.replace(how, made_by=made_by)
            return {"query": value} | await index.points(point, how)
        if name == "text":
            if not isinstance(value, str):
                raise InputError("expected words as text")
            if how.level is not None or how.rerank or how.branches:
                raise InputError("words cannot be combined with level, branches or rerank")
            return {"query": value} | await index.by_words(value, how)
        raise InputError(f"expected id, point or text, got {name[:60]!r}")

    async def _row(self, index: ServedIndex, name: object) -> tuple[Row, str]:
        """The image with an id, and the fingerprint of the encoder of its point.

        Raises:
            HTTPException: there is none.
        """
        row, made_by = None, ""
        if isinstance(name, str) and len(name) == 32 and not set(name) - set("0123456789abcdef"):
            row, made_by = await index.row(name)
        if row is None:
            raise HTTPException(404, "there is no image with this id")
        return row, made_by

    async def image(self, request: Request) -> Response:
        """A small picture, a preview or, where that is allowed, the file of an indexed image."""
        index = self.index(request.query_params.get("index"))
        size = request.query_params.get("size", "preview")
        self.pictures.require(size)
        row, _ = await self._row(index, request.path_params["id"])
        return await self.pictures.answer(index, row, size)

    async def stats(self, request: Request) -> Response:
        """Sizes and names of the indexes."""
        told = [await index.stats() for index in self.indexes.values()]
        for one in told:
            if "problem" in one:
                one["problem"] = self._without_paths(one["problem"])
        return answer_of({
            "version": __version__,
            "indexes": told,
            "max_upload": self.settings.max_upload,
            "shows_originals": self.settings.show_originals,
        })  # fmt: skip

    async def tree(self, request: Request) -> Response:
        """The tree of the classes with its images, laid out in a disk."""
        index = self.index(request.query_params.get("index"))
        found = _unless_building(await self.trees.of(index))
        return found if isinstance(found, Response) else fresh(found)

    async def review(self, request: Request) -> Response:
        """What a person should look at in the index."""
        kinds = kinds_of(request.query_params.getlist("kind"))
        made = await self.reviews.of(self.index(request.query_params.get("index")))
        found = _unless_building(made)
        return found if isinstance(found, Response) else fresh(found.answer(kinds))

    async def health(self, request: Request) -> Response:
        """Whether the server answers."""
        problems = [index.problem for index in self.indexes.values() if index.problem]
        return answer_of({"status": "degraded" if problems else "ok"})

    async def metrics(self, request: Request) -> Response:
        """Counts and times, for Prometheus."""
        for index in self.indexes.values():
            self.images.labels(index.name).set(await index.call(lambda state: len(state.reader)))
            self.reopened.labels(index.name).set(index.reopened)
        return Response(generate_latest(self.registry), media_type="text/plain; version=0.0.4")

    async def document(self, request: Request) -> Response:
        """The OpenAPI document."""
        return answer_of(openapi.document())

    # -- the page ----------------------------------------------------------------------------------

    async def start(self, request: Request) -> Response:
        """The page; a token in its address becomes a cookie and leaves the address."""
        if "token" in request.query_params and self.settings.token:
            answer: Response = RedirectResponse("/", 303)
            answer.set_cookie(
                COOKIE, self.settings.token, httponly=True, samesite="strict", path="/"
            )
            return answer
        return page_file("index.html")

    async def part(self, request: Request) -> Response:
        """A script or style of the page."""
        return page_file(request.path_params["name"])


def _unless_building(found: Found | JobProgress) -> Found | Response:
    """What was made, or the answer that says how far it is."""
    if isinstance(found, JobProgress):
        return answer_of({"building": True} | dataclasses.asdict(found), 202)
    return found


Endpoint = Callable[[Request], Awaitable[Response]]


class _Counted:
    """An endpoint for one method, as ASGI: it always answers, and its answers are counted.

    Args:
        service: counts them.
        path: of the route.
        method: GET or POST.
        endpoint: answers requests.
    """

    def __init__(self, service: Service, path: str, method: str, endpoint: Endpoint) -> None:
        self._service, self._path, self._endpoint = service, path, endpoint
        self._methods = ("GET", "HEAD") if method == "GET" else (method,)
        self._seconds = service.seconds.labels(path)
        self._counts: dict[int, Counter] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        begun = time.perf_counter()
        if scope["method"] in self._methods:
            response = await self._service.answered(self._endpoint, Request(scope, receive))
        else:
            response = error_of(405, "wrong-method", f"expected {' or '.join(self._methods)}")
            response.headers["allow"] = ", ".join(self._methods)
        status = response.status_code
        if status not in self._counts:
            self._counts[status] = self._service.requests.labels(self._path, status)
        self._counts[status].inc()
        self._seconds.observe(time.perf_counter() - begun)
        await response(scope, receive, send)


def application(settings: Settings) -> tuple[Guard, Service]:
    """The whole application, behind its guard, and what it holds.

    Args:
        settings: of the server.
    """
    service = Service(settings)
    table: tuple[tuple[str, str, Endpoint], ...] = (
        ("/api/search", "POST", service.search),  # most requests: the first one that is compared
        ("/api/images/{id}", "GET", service.image),
        ("/", "GET", service.start),
        ("/page/{name}", "GET", service.part),
        ("/api/tree", "GET", service.tree),
        ("/api/review", "GET", service.review),
        ("/api/stats", "GET", service.stats),
        ("/api/healthz", "GET", service.health),
        ("/api/openapi.json", "GET", service.document),
        ("/metrics", "GET", service.metrics),
    )
    router = Router(
        [Route(path, _Counted(service, path, method, answer)) for path, method, answer in table],
        redirect_slashes=False, default=_not_there, lifespan=service.running,
    )  # fmt: skip
    return Guard(router, settings), service


async def _not_there(scope: Scope, receive: Receive, send: Send) -> None:
    await error_of(404, "not-found", "there is no such path")(scope, receive, send)
