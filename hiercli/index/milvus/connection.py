"""Talking with Milvus, and what it objects to in one message."""

import contextlib
import logging
import os
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

from hiercli import extras
from hiercli.errors import InputError
from hiercli.index.address import Address

_SECONDS = 10
_open_files: Counter[str] = Counter()
"""How many clients of this process use each file of milvus-lite, which one process opens alone."""
_opening = threading.Lock()


def connect(address: Address) -> Any:
    """A client of Milvus; `disconnect` lets go of it.

    Raises:
        InputError: pymilvus is not installed, the server does not answer, or another process uses
            the file.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # it would print what it tries again by itself
    try:
        from pymilvus import MilvusClient
    except ImportError as error:
        raise extras.missing(error) or error from error
    for name in ("milvus_lite", "pymilvus"):  # they log what is told here in a sentence
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with _opening:
        try:
            with failing(address):
                token = os.environ.get("MILVUS_TOKEN", "")
                client = MilvusClient(uri=address.uri, token=token, timeout=_SECONDS)
        except InputError as error:
            if not address.is_file:
                raise
            raise InputError(
                f"milvus-lite cannot open {address.uri}. It allows one process at a time: wait "
                "until no other uses the file, or use a Milvus server. If none does, the file is "
                "damaged"
            ) from error
        if address.is_file:
            _open_files[address.uri] += 1
        return client


def disconnect(address: Address, client: Any) -> None:
    """Let go of Milvus; a file with its last client, so that other processes may open it."""
    client.close()
    if not address.is_file:
        return
    from milvus_lite.server_manager import server_manager_instance  # type: ignore[import-untyped]

    with _opening:
        _open_files[address.uri] -= 1
        if _open_files[address.uri] == 0:
            server_manager_instance.release_server(address.uri)


@contextlib.contextmanager
def connected(address: Address) -> Iterator[Any]:
    """A client of Milvus for a while, see `connect`."""
    client = connect(address)
    try:
        with failing(address):
            yield client
    finally:
        disconnect(address, client)


@contextlib.contextmanager
def failing(address: Address) -> Iterator[None]:
    """Say what Milvus objects to in one message."""
    from pymilvus.exceptions import MilvusException

    try:
        yield
    except MilvusException as error:
        reason = (str(error.message).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"Milvus at {address} refused this: {reason}. Check that Milvus 2.4 or later runs "
            "there, and that MILVUS_TOKEN holds its token"
        ) from error
