"""Decoding in processes of their own: a file that crashes a decoder or hangs it costs one answer.

Files from strangers are decoded by libraries written in C. A process that dies or takes too long is
replaced. An image over which two processes died is refused.
"""

import asyncio
import contextlib
import io
import multiprocessing
import os
import queue
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from hiercli.errors import ImageError
from hiercli.images import Preprocessing
from hiercli.index.queries import Box

SECONDS = 15.0
"""That decoding one image may take."""
MEMORY = 4 * 2**30
"""Bytes of address space that a process may use."""
PREVIEW = 512
"""Longest side of a preview, in pixels."""
_MOST_WAITING = 256


_TRIES = 2


class _DiedError(Exception):
    """A process has died over an image."""


class DecoderPool:
    """Processes that turn bytes of image files into pixels or previews.

    Args:
        count: of the processes.
        seconds: that one image may take.
    """

    def __init__(self, count: int, seconds: float = SECONDS) -> None:
        self._seconds = seconds
        self._threads = ThreadPoolExecutor(count, "decode")
        self._idle: queue.SimpleQueue[_Process] = queue.SimpleQueue()
        self._all = [_Process() for _ in range(count)]
        for process in self._all:
            self._idle.put(process)
        self._pending = 0

    @property
    def is_full(self) -> bool:
        """Whether so many images wait that another one would wait too long."""
        return self._pending >= _MOST_WAITING

    async def pixels(
        self, content: bytes, name: str, preprocessing: Preprocessing, box: Box | None = None
    ) -> np.ndarray:
        """An image as large as a network's input, uint8 (size, size, 3), from the bytes of a file.

        Numbers of a byte pass from process to process in a quarter of the time of floats.

        Raises:
            ImageError: it cannot be read, or takes too long.
        """
        size = preprocessing.size
        found = await self._run(content, name, ("pixels", preprocessing.to_dict(), box))
        return np.frombuffer(found, np.uint8).reshape(size, size, 3)

    async def preview(self, content: bytes, name: str, longest: int = PREVIEW) -> bytes:
        """A JPEG of at most so many pixels a side, without the metadata of the file.

        Raises:
            ImageError: it cannot be read, or takes too long.
        """
        return await self._run(content, name, ("preview", longest, None))

    async def _run(self, content: bytes, name: str, job: tuple[str, Any, Any]) -> bytes:
        self._pending += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._threads, self._decode, content, name, job)
        finally:
            self._pending -= 1

    def _decode(self, content: bytes, name: str, job: tuple[str, Any, Any]) -> bytes:
        process = self._idle.get()
        try:
            for _ in range(_TRIES):  # a process may also die through no fault of the image
                with contextlib.suppress(_DiedError):
                    return process(content, name, job, self._seconds)
        finally:
            self._idle.put(process)
        raise ImageError(f"{name}: the image is damaged: its decoder crashed")

    def close(self) -> None:
        """End the processes."""
        self._threads.shutdown(cancel_futures=True)
        for process in self._all:
            process.stop()


class _Process:
    """One decoding process, started when it is first needed and again when it died."""

    def __init__(self) -> None:
        self._process: Any = None
        self._pipe: Connection | None = None
        self._lock = threading.Lock()

    def __call__(
        self, content: bytes, name: str, job: tuple[str, Any, Any], seconds: float
    ) -> bytes:
        with self._lock:
            pipe = self._pipe if self._process is not None and self._process.is_alive() else None
            if pipe is None:
                self.stop()
                pipe = self._start()
            try:
                pipe.send((name, job))
                pipe.send_bytes(content)
                if not pipe.poll(seconds):
                    self.stop()
                    raise ImageError(
                        f"{name}: decoding takes longer than {seconds:g} s. Make the image smaller"
                    )
                problem = pipe.recv_bytes().decode()
                if problem:
                    raise ImageError(problem)
                return pipe.recv_bytes()
            except (EOFError, OSError) as error:
                self.stop()
                raise _DiedError from error

    def _start(self) -> Connection:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()
        self._pipe = ours
        return ours

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
        if self._pipe is not None:
            self._pipe.close()
        self._process = self._pipe = None


def _serve(pipe: Connection) -> None:
    """What a process does: decode what comes, until the other end is closed."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 2)  # what decoders print of damaged files
    jobs: dict[str, Callable[[bytes, str, Any, Any], bytes]] = {
        "pixels": _pixels, "preview": _preview,
    }  # fmt: skip
    with contextlib.suppress(EOFError, OSError, BrokenPipeError):
        while True:
            name, (kind, what, more) = pipe.recv()
            content = pipe.recv_bytes()
            try:
                found, problem = jobs[kind](content, name, what, more), ""
            except ImageError as error:
                found, problem = b"", str(error)
            except MemoryError:
                found, problem = (
                    b"",
                    f"{name}: too large for the memory of a decoder. Make the image smaller",
                )
            pipe.send_bytes(problem.encode("utf-8", "replace"))
            if not problem:
                pipe.send_bytes(found)


def _pixels(content: bytes, name: str, values: dict[str, Any], box: Box | None) -> bytes:
    from hiercli.encoder.pipeline import picture_of
    from hiercli.index.queries import part_of

    preprocessing = Preprocessing.from_dict(values)
    image = name if box is None else part_of(name, content, box)
    return preprocessing.fitted(picture_of(preprocessing, image, content)).tobytes()


def _preview(content: bytes, name: str, longest: int, _: None) -> bytes:
    from hiercli.images import read

    picture = read(name, longest, content)
    picture.thumbnail((longest, longest))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()
