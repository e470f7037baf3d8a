"""`Client`: a server of `hier serve`, from Python, with nothing but the standard library."""

import http.client
import io
import json
import threading
import time
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from PIL import Image

from hiercli.errors import HierError, ImageError, InputError, MismatchError, ServerError

_ERRORS: dict[str, type[HierError]] = {
    "not-an-image": ImageError, "does-not-fit": MismatchError, "busy": ServerError,
    "timeout": ServerError, "unavailable": ServerError,
}  # fmt: skip
_PAUSE = 0.2
"""Seconds until a server is asked again for what it is making."""


@dataclass(frozen=True)
class RemoteHit:
    """One neighbour, as a server tells it.

    Examples:
        >>> hit = RemoteHit(1, "00" * 16, "wren", {}, 0.25, 0.9, "very similar")
        >>> f"{hit.label}: {hit.similar} ({hit.similarity:.0%})"
        'wren: very similar (90%)'

    Attributes:
        rank: from 1.
        id: of the image, for `Client.search_id` and `Client.image`.
        label: its class.
        levels: its groups by level, fine to coarse.
        distance: hyperbolic, lower is closer.
        similarity: 1 is the same image, 0 the median distance of two images, or beyond.
        similar: the same in words.
        path: of the file; empty where the server does not show paths.
        copies: other files with the same content, where these are counted once.
        branch: id and name of the common ancestor with the query, where that was asked.
    """

    rank: int
    id: str
    label: str
    levels: dict[str, str]
    distance: float
    similarity: float
    similar: str
    path: str = ""
    copies: list[str] = field(default_factory=list)
    branch: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """What a server says of a query.

    Examples:
        >>> Answer([], {"text": "nothing like this in the index"}).verdict["text"]
        'nothing like this in the index'

    Attributes:
        hits: the nearest images, nearest first.
        verdict: what the query is, see `Verdict.to_dict`; empty where the index gives none.
        understood: what words were taken for; empty for other queries.
    """

    hits: list[RemoteHit]
    verdict: dict[str, Any] = field(default_factory=dict)
    understood: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RemoteFinding:
    """One thing to look at, as a server tells it; see `hier review`.

    Examples:
        >>> one = RemoteFinding("relabel", "00" * 16, "wren", "robin", 0.9)
        >>> f"{one.label}, or {one.proposal}? ({one.confidence:.0%})"
        'wren, or robin? (90%)'

    Attributes:
        kind: relabel, split, merge, duplicate, leak, outlier, unreadable, tiny or label.
        id: of the image, for `Client.image`; empty for a file that cannot be read.
        label: of the image or class; empty where there is none.
        proposal: the other class; for a split the number of images in each half.
        confidence: 0 to 1; ``None`` where none is known.
        of_id: id of the image that it is a copy of; else empty.
        branch: name of the branch of the tree that holds both classes.
        shared: the finest group that both classes lie in.
        reason: in words.
        examples: images that help to judge: a caption, and ids of images.
        path: of the file; empty where the server does not show paths.
        of: path of the image that it is a copy of; likewise.
    """

    kind: str
    id: str
    label: str = ""
    proposal: str = ""
    confidence: float | None = None
    of_id: str = ""
    branch: str = ""
    shared: str = ""
    reason: str = ""
    examples: list[dict[str, Any]] = field(default_factory=list)
    path: str = ""
    of: str = ""


@dataclass(frozen=True)
class RemoteReview:
    """What a server finds in an index.

    Examples:
        >>> RemoteReview([], {"relabel": 3}, []).counts["relabel"]
        3

    Attributes:
        findings: of the kinds that were asked for; of many the surest.
        counts: how many findings there are of each kind that was found.
        notes: what people should know of how the images were looked at.
    """

    findings: list[RemoteFinding]
    counts: dict[str, int]
    notes: list[str]


class Client:
    """A server of `hier serve`. Several threads may use one client.

    Examples:
        >>> client = Client("http://127.0.0.1:8000")
        >>> client.url
        'http://127.0.0.1:8000'
        >>> answer = client.search("query.jpg", k=3)  # doctest: +SKIP
        >>> answer.hits[0].label  # doctest: +SKIP
        'wren'

    Args:
        url: address of the server.
        token: that it asks for, if it does.
        timeout: seconds to wait for an answer.

    Raises:
        InputError: the address is none of HTTP.
    """

    def __init__(
        self, url: str = "http://127.0.0.1:8000", *, token: str = "", timeout: float = 60.0
    ) -> None:
        told = urllib.parse.urlsplit(url)
        if told.scheme not in ("http", "https") or not told.hostname:
            raise InputError(f"expected an address such as http://127.0.0.1:8000, got {url!r}")
        self.url, self._told, self._timeout = url.rstrip("/"), told, timeout
        self._headers = {"authorization": f"Bearer {token}"} if token else {}
        self._own = threading.local()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection of this thread; the next request opens another."""
        connection = getattr(self._own, "connection", None)
        if connection is not None:
            connection.close()
            self._own.connection = None

    def search(
        self,
        query: Path | str | bytes | Image.Image | np.ndarray | Sequence[float],
        k: int = 10,
        **options: Any,
    ) -> Answer:
        """The images nearest to an image or a point.

        Args:
            query: path or bytes of an image file, a Pillow image, uint8 pixels (H, W, 3), or a
                point (D,) of the ball as floats.
            k: hits at most.
            options: parameters of the API: ``index``, ``max_distance``, ``where`` (a list of texts
                like ``label=*warbler``), ``unique``, ``exact``, ``rerank``, ``verdict``,
                ``confidence``, ``branches``, ``level``, ``crop``.

        Raises:
            ImageError: the image cannot be read.
            InputError: an option is not what it must be.
            MismatchError: the point does not fit the index.
            ServerError: the server cannot be reached, or is too busy.
        """
        if isinstance(query, np.ndarray) and query.dtype == np.uint8:
            query = Image.fromarray(query)
        if isinstance(query, Image.Image):
            buffer = io.BytesIO()
            query.save(buffer, "PNG")
            query = buffer.getvalue()
        if isinstance(query, Path | str):
            try:
                query = Path(query).read_bytes()
            except OSError as error:
                raise ImageError(f"{query!s}: {error.strerror or error}") from error
        if isinstance(query, bytes):
            return self._search(query, "application/octet-stream", k, options)
        return self._asked({"point": [float(value) for value in query]}, k, options)

    def search_words(self, text: str, k: int = 10, **options: Any) -> Answer:
        """The images around the names that words match, see `Index.search_words`.

        Raises:
            InputError: no name has the words.
            ServerError: the server cannot be reached, or is too busy.
        """
        return self._asked({"text": text}, k, options)

    def search_id(self, image_id: str, k: int = 10, **options: Any) -> Answer:
        """The images nearest to an indexed one.

        Raises:
            InputError: there is no image with this id.
            ServerError: the server cannot be reached, or is too busy.
        """
        return self._asked({"id": image_id}, k, options)

    def image(self, image_id: str, size: str = "preview", index: str | None = None) -> Image.Image:
        """A picture of an indexed image.

        Args:
            image_id: from a hit.
            size: ``small``, ``preview`` (up to 512 pixels), or ``original`` where the server
                allows it.
            index: name of the index; the first one where left out.

        Raises:
            InputError: there is no such image, or no picture of it.
        """
        query = {"size": size} | ({} if index is None else {"index": index})
        path = f"/api/images/{urllib.parse.quote(image_id, safe='')}"
        content = self._request("GET", f"{path}?{urllib.parse.urlencode(query)}")
        return Image.open(io.BytesIO(content))

    def review(
        self, kinds: Sequence[str] = (), index: str | None = None, *, patience: float = 3600.0
    ) -> RemoteReview:
        """What a person should look at in an index: wrong labels, copies, odd images.

        The server takes seconds to minutes for it, once for each state of the index.

        Args:
            kinds: of findings; all where left out.
            index: name of the index; the first one where left out.
            patience: seconds to wait.

        Raises:
            InputError: a kind or the index is unknown.
            ServerError: the server cannot be reached, or takes longer.
        """
        query = [("kind", kind) for kind in kinds] + ([] if index is None else [("index", index)])
        end = time.monotonic() + patience
        while True:
            told = json.loads(self._request("GET", f"/api/review?{urllib.parse.urlencode(query)}"))
            if "building" not in told:
                break
            if time.monotonic() > end:
                raise ServerError(f"the review takes longer than {patience:g} s. Ask again later")
            time.sleep(_PAUSE)
        findings = [RemoteFinding(**one) for one in told["findings"]]
        return RemoteReview(findings, told["counts"], told["notes"])

    def stats(self) -> dict[str, Any]:
        """Names and sizes of the indexes.

        Raises:
            ServerError: the server cannot be reached.
        """
        found: dict[str, Any] = json.loads(self._request("GET", "/api/stats"))
        return found

    def _asked(self, body: dict[str, Any], k: int, options: dict[str, Any]) -> Answer:
        return self._search(json.dumps(body).encode(), "application/json", k, options)

    def _search(self, body: bytes, kind: str, k: int, options: dict[str, Any]) -> Answer:
        values = {"k": k} | {
            name: str(value).lower() if isinstance(value, bool) else value
            for name, value in options.items()
            if value is not None
        }
        path = f"/api/search?{urllib.parse.urlencode(values, doseq=True)}"
        told = json.loads(self._request("POST", path, body, {"content-type": kind}))
        hits = [RemoteHit(**hit) for hit in told["results"]]
        return Answer(hits, told.get("verdict", {}), told.get("understood", {}))

    def _request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> bytes:
        sent = self._headers | (headers or {})
        for attempt in (1, 2):
            connection = self._connection()
            try:
                connection.request(method, self._told.path.rstrip("/") + path, body, sent)
                response = connection.getresponse()
                content = response.read()
                break
            except (OSError, http.client.HTTPException) as error:
                self.close()
                # A connection that was kept may have been closed by the server meanwhile.
                kept = isinstance(error, http.client.RemoteDisconnected | ConnectionResetError
                                  | BrokenPipeError)  # fmt: skip
                if attempt == 1 and kept:
                    continue
                raise ServerError(
                    f"no answer from {self.url} ({error}). Is `hier serve` running there?"
                ) from error
        if response.status in (200, 202):
            return content
        try:
            told = json.loads(content)["error"]
            code, message = told["code"], told["message"]
        except (ValueError, KeyError, TypeError):
            code, message = "unavailable", f"the server answered {response.status}"
        raise _ERRORS.get(code, InputError)(message)

    def _connection(self) -> http.client.HTTPConnection:
        found: http.client.HTTPConnection | None = getattr(self._own, "connection", None)
        if found is None:
            kind = (
                http.client.HTTPSConnection if self._told.scheme == "https"
                else http.client.HTTPConnection
            )  # fmt: skip
            assert self._told.hostname is not None
            found = kind(self._told.hostname, self._told.port, timeout=self._timeout)
            self._own.connection = found
        return found
