"""What stands between the network and the application: who may ask, and how much.

Everything here is plain ASGI, so that it costs little and sees each request before anything else.
"""

import asyncio
import functools
import hmac
import json
import urllib.parse
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from hiercli.serve.settings import Settings, is_loopback

MOST_HEADERS = 100
MOST_HEADER_BYTES = 16 * 2**10
HEADER_SECONDS = 10.0
"""That a client has to send the head of a request."""
COOKIE = "hier_token"
SECURITY = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src "
    "'self' data: blob:; connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action "
    "'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
}  # fmt: skip
_OPEN = ("/api/healthz",)
"""Paths that need no token: they say nothing but that the server is alive."""
_SECURITY = [(name.encode(), value.encode()) for name, value in SECURITY.items()]


class BoundedProtocol(HttpToolsProtocol):
    """HTTP/1.1 whose heads are bounded in bytes and seconds; the parser alone bounds neither."""

    _bytes = 0
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._wait_for_head()

    def _wait_for_head(self) -> None:
        self._bytes = 0
        self._deadline = self.loop.call_later(HEADER_SECONDS, self._give_up)

    def _give_up(self) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.close()

    def _head_is_there(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def data_received(self, data: bytes) -> None:
        if self._deadline is None and (self.cycle is None or self.cycle.response_complete):
            self._wait_for_head()  # the next request of a connection that is kept
        if self._deadline is not None:
            self._bytes += len(data)
        super().data_received(data)
        if self._deadline is not None and self._bytes > 2 * MOST_HEADER_BYTES:
            self._head_is_there()
            self.send_400_response("The head of the request is too large.")

    def on_headers_complete(self) -> None:
        self._head_is_there()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_is_there()
        super().connection_lost(exc)


class Guard:
    """Lets through what may be asked: right host, right origin, right token, bounded size and time.

    Args:
        app: behind it.
        settings: of the server.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app, self.settings = app, settings
        self._token, self._is_local = settings.token.encode(), settings.is_local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or hand it on."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        started = False

        async def sending(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message.get("headers", ()), *_SECURITY]
            await send(message)

        refusal = self._refusal(scope)
        if refusal is not None:
            return await _say(sending, *refusal)
        try:
            async with asyncio.timeout(self.settings.seconds):
                await self.app(scope, self._bounded(receive), sending)
        except TimeoutError:
            if not started:
                await _say(
                    sending, 503, "timeout",
                    f"the request took longer than {self.settings.seconds:g} s. Try again later",
                )  # fmt: skip

    def _bounded(self, receive: Receive) -> Receive:
        left = self.settings.max_upload

        async def receiving() -> Message:
            nonlocal left
            message = await receive()
            if message["type"] == "http.request":
                left -= len(message.get("body", b""))
                if left < 0:
                    raise HTTPException(413, _too_large(self.settings))
            return message

        return receiving

    def _refusal(self, scope: Scope) -> tuple[int, str, str] | tuple[int, str, str, Any] | None:
        """Why a request is not answered: status, code, message, and further headers."""
        if len(scope["headers"]) > MOST_HEADERS or sum(
            len(name) + len(value) for name, value in scope["headers"]
        ) > MOST_HEADER_BYTES:  # fmt: skip
            return 431, "headers-too-large", "the request has too many or too large headers"
        headers = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1")
        if self._is_local and not _is_own(host):
            # A page of another site whose name was bound to this machine would ask like this.
            return 421, "wrong-host", "this server answers requests to localhost only"
        origin = headers.get(b"origin")
        if origin is not None and urllib.parse.urlsplit(origin.decode("latin-1")).netloc != host:
            return 403, "wrong-origin", "requests from pages of other sites are refused"
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length[:20]) > self.settings.max_upload:
            return 413, "too-large", _too_large(self.settings)
        if self._token and scope["path"] not in _OPEN and not self._knows_token(scope, headers):
            return (
                401, "token-needed",
                "this server needs its token: open the address that `hier serve` printed, or send "
                "the header 'Authorization: Bearer TOKEN'",
                [(b"www-authenticate", b"Bearer")],
            )  # fmt: skip
        return None

    def _knows_token(self, scope: Scope, headers: MutableMapping[bytes, bytes]) -> bool:
        given = [headers.get(b"authorization", b"").removeprefix(b"Bearer ")]
        for part in headers.get(b"cookie", b"").split(b";"):
            name, _, value = part.strip().partition(b"=")
            if name == COOKIE.encode():
                given.append(value)
        if scope["path"] == "/":  # the link that people open
            asked = urllib.parse.parse_qs(scope["query_string"].decode("latin-1"))
            given += [value.encode("latin-1", "replace") for value in asked.get("token", ())]
        right = False
        for one in given:
            right |= hmac.compare_digest(one, self._token)
        return right


def _too_large(settings: Settings) -> str:
    return (
        f"the request has more than {settings.max_upload:,} bytes. Scale the image down, or start "
        "the server with a larger --max-upload"
    )


def _name_of(host: str) -> str:
    """The name in a Host header, without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if ":" in host else host


@functools.lru_cache(64)
def _is_own(host: str) -> bool:
    """Whether a Host header names this machine from within."""
    return is_loopback(_name_of(host))


async def _say(
    send: Callable[[Message], Awaitable[None]],
    status: int,
    code: str,
    message: str,
    headers: Any = (),
) -> None:
    body = json.dumps({"error": {"code": code, "message": message}}).encode()
    await send({
        "type": "http.response.start",
        "status": status,
        "headers": [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
            *headers,
        ],
    })  # fmt: skip
    await send({"type": "http.response.body", "body": body})
