"""Starting and stopping a server: its socket, its processes, its last requests."""

import contextlib
import logging
import multiprocessing
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from typing import Any

import uvicorn

from hiercli.cli.render import complain
from hiercli.errors import HierError, InputError
from hiercli.serve.app import application
from hiercli.serve.guard import BoundedProtocol, Guard
from hiercli.serve.settings import Settings

_BACKLOG = 256
_DRAIN = 20
"""Seconds that requests in work have when the server is told to stop."""


def new_token() -> str:
    """A token that cannot be guessed."""
    return secrets.token_urlsafe(24)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there.

    Raises:
        InputError: the port is taken or not allowed, or the host is not this machine's.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        found = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise InputError(
            f"expected a host name or address of this machine, got {host!r} "
            f"({getattr(error, 'strerror', None) or error}). Use 127.0.0.1, or 0.0.0.0 for all "
            "networks"
        ) from error
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        found.listen(_BACKLOG)
    except OSError as error:
        found.close()
        raise InputError(
            f"cannot listen on {host}, port {port} ({error.strerror}). Choose another --port; 0 "
            "takes a free one"
        ) from error
    return found


def address_of(listening: socket.socket, host: str) -> str:
    """The address that people open."""
    port = listening.getsockname()[1]
    shown = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(host, host)
    return f"http://[{shown}]:{port}/" if ":" in shown else f"http://{shown}:{port}/"


def run(settings: Settings, listening: socket.socket, started: Callable[[], None]) -> None:
    """Serve until SIGINT or SIGTERM, then answer what is in work.

    Args:
        settings: of the server.
        listening: its socket.
        started: called when the first requests can be answered.

    Raises:
        HierError: an index is missing or damaged.
    """
    if settings.workers == 1:
        _serve(settings, listening, started)
        return
    context = multiprocessing.get_context("spawn")
    ready = context.Semaphore(0)
    processes: list[BaseProcess] = [
        context.Process(target=_work, args=(settings.to_json(), listening, ready))
        for _ in range(settings.workers)  # they map the same files
    ]
    for process in processes:
        process.start()
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    told = False
    while not stopping.wait(0.2):
        if not told and ready.acquire(block=False):
            told = True
            started()
        if any(process.exitcode for process in processes):
            break
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(_DRAIN + 5)
        process.kill()
    if not stopping.is_set():
        raise InputError("a process of the server ended. Start it again; see the message above")


def _work(settings: str, listening: socket.socket, ready: Any) -> None:
    """What one of several processes does."""
    try:
        _serve(Settings.from_json(settings), listening, ready.release)
    except HierError as error:
        complain(str(error))
        sys.exit(error.exit_code)


def _serve(settings: Settings, listening: socket.socket, started: Callable[[], None]) -> None:
    app, service = application(settings)
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    server = _Server(_config(settings, app), started)
    with contextlib.suppress(SystemExit):  # uvicorn's own, where the start fails
        server.run([listening])
    if service.failure is not None:
        raise service.failure


def _config(settings: Settings, app: Guard) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=BoundedProtocol,
        ws="none",
        loop="auto",
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        limit_concurrency=settings.connections,
        backlog=_BACKLOG,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=_DRAIN,
    )


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._told = started

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Drain at SIGINT and SIGTERM; being told to stop is no fault, so the process ends well."""
        before = {
            number: signal.signal(number, self.handle_exit)
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._told()
