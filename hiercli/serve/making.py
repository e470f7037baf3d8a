"""Work on all images of an index, done in the background and kept as long as it is true.

It takes seconds to minutes. It is done in a process of its own with low priority, so that no search
waits for it, and one piece at a time. Each of several processes of a server does its own.
"""

import asyncio
import contextlib
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import closing
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Generic, TypeVar

from hiercli.errors import HierError, InputError, ServerError
from hiercli.review.review import Steps
from hiercli.serve.collection import ServedIndex
from hiercli.serve.settings import Settings

_NICENESS = 10
_PAUSE = 0.2
"""Seconds between two tellings of progress."""
Result = TypeVar("Result")
Job = Callable[[Path, Settings, Steps], Result]
"""From a FAISS file, settings and steps to a result that can be sent between processes."""


@dataclass(frozen=True)
class JobProgress:
    """How far a piece of work is.

    Attributes:
        step: what is being done.
        done: of it.
        total: of it; 0 where it has not begun.
    """

    step: str
    done: int = 0
    total: int = 0


class Background(Generic[Result]):
    """Results of one job by index.

    Args:
        job: a function of a module.
        settings: of the server.
        patience: seconds that a request waits for a result in the making; then it is told how far
            that is.
        elsewhere: what to use for an index in Milvus, which is not worked on here.
        thread: waits for the processes; jobs with the same one are done one after the other.
    """

    def __init__(
        self,
        job: Job[Result],
        settings: Settings,
        patience: float,
        elsewhere: str,
        thread: Executor,
    ) -> None:
        self._job, self._settings, self._patience = job, settings, patience
        self._elsewhere = elsewhere
        self._thread = thread
        self._made: dict[str, tuple[int, _Making[Result], asyncio.Future[Result]]] = {}

    async def of(self, index: ServedIndex) -> Result | JobProgress:
        """The result, or how far it is.

        Raises:
            InputError: the index is one that is not worked on here.
            HierError: as of the index.
        """
        if not isinstance(index.target, Path):
            raise InputError(
                f"this is available for FAISS files only. For Milvus use {self._elsewhere}"
            )
        before = self._made.get(index.name)
        if before is None or before[0] != index.reopened:
            if before is not None:
                before[1].stop()
            making = _Making(self._job, index.target, self._settings)
            loop = asyncio.get_running_loop()
            future = loop.run_in_executor(self._thread, making)
            future.add_done_callback(lambda done: done.cancelled() or done.exception())
            self._made[index.name] = before = index.reopened, making, future
        _, making, future = before
        await asyncio.wait({future}, timeout=self._patience)
        if not future.done():
            return making.progress
        try:
            return future.result()
        except HierError:
            if self._made.get(index.name) is not before:  # the index has changed meanwhile
                return JobProgress("starting again")
            del self._made[index.name]  # the next request tries again
            raise

    def close(self) -> None:
        """End what is being made."""
        for _, making, _ in self._made.values():
            making.stop()


class _FaultError(Exception):
    """A bug in a job; the same work would end in it again."""


class _Making(Generic[Result]):
    """One piece of work.

    Args:
        job: to do.
        index: the file.
        settings: of the server.

    Attributes:
        progress: how far it is.
    """

    def __init__(self, job: Job[Result], index: Path, settings: Settings) -> None:
        self.progress = JobProgress("waiting until another index is finished")
        self._job, self._index, self._settings = job, index, settings
        self._lock = threading.Lock()
        self._stopped = False
        self._process: Any = None

    def __call__(self) -> Result:
        """Do it.

        Raises:
            HierError: the index cannot be read, or the process was ended.
        """
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe(duplex=False)
        with closing(ours):
            with self._lock, closing(theirs):
                if not self._stopped:
                    words = theirs, self._job, self._index, self._settings
                    self._process = context.Process(target=_work, args=words, daemon=True)
                    self._process.start()
            try:
                return self._result(ours)
            finally:
                self.stop()

    def _result(self, pipe: Connection) -> Result:
        while True:
            try:
                told = pipe.recv()
            except (EOFError, OSError) as error:
                raise ServerError("the process that did this was stopped. Ask again") from error
            if isinstance(told, Exception):
                raise told
            if not isinstance(told, JobProgress):
                return told  # type: ignore[no-any-return]
            self.progress = told

    def stop(self) -> None:
        """End its process, or see to it that it has none."""
        with self._lock:
            self._stopped = True
            if self._process is not None:
                self._process.kill()
                self._process.join()


def _work(pipe: Connection, job: Job[Any], index: Path, settings: Settings) -> None:
    """What the process does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server
    with contextlib.suppress(AttributeError, OSError):  # Windows has no such call
        os.nice(_NICENESS)

    @contextlib.contextmanager
    def steps(name: str) -> Iterator[Callable[[int, int], None]]:
        last = time.monotonic()

        def tell(done: int, total: int) -> None:
            nonlocal last
            if time.monotonic() - last >= _PAUSE:
                last = time.monotonic()
                pipe.send(JobProgress(name, done, total))

        pipe.send(JobProgress(name))
        yield tell

    with contextlib.suppress(BrokenPipeError):  # the server is gone
        try:
            pipe.send(job(index, settings, steps))
        except HierError as error:
            pipe.send(error)
        except Exception as error:  # a fault of ours: the operator is told
            traceback.print_exc()
            pipe.send(_FaultError(type(error).__name__))


def ids_of(index: Path, settings: Settings) -> dict[str, str]:
    """Names by which the server knows images, by their paths."""
    from hiercli.index.catalogue import Catalogue
    from hiercli.index.conditions import meeting

    with closing(Catalogue(index, settings.root_folder)) as catalogue:
        rows = catalogue.rows(meeting(catalogue, []).tolist(), points=False)
        return {os.fsdecode(row.path): row.content.hex() for row in rows}
