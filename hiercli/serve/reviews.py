"""The review of an index for the page, made in the background and kept as long as it is true.

It takes seconds to minutes. It is made in a process of its own with low priority, so that no search
waits for it, and one at a time. Nothing but the index is read: no file of an image is opened.
"""

import asyncio
import contextlib
import dataclasses
import json
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from hiercli.errors import HierError, InputError, ServerError
from hiercli.review.finding import KINDS, Finding
from hiercli.serve.collection import ServedIndex
from hiercli.serve.settings import Settings

MOST = 200
"""Findings of a kind that are sent; the first are the surest."""
FOUND = tuple(kind for kind in KINDS if kind != "blurred")
"""Kinds that an index tells by itself; blur is seen in the files alone."""
_PATIENCE = 1.0
"""Seconds that a request waits for a review in the making; then it tells how far that is."""
_NICENESS = 10
_PAUSE = 0.2
"""Seconds between two tellings of progress."""


@dataclass(frozen=True)
class Progress:
    """How far a review is.

    Attributes:
        step: what is being done.
        done: of it.
        total: of it; 0 where it has not begun.
    """

    step: str
    done: int = 0
    total: int = 0


@dataclass(frozen=True)
class Findings:
    """A review as requests are answered from it.

    Attributes:
        facts: counts of all findings, and what else is true of the review as a whole, as JSON.
        by_kind: the findings that are sent, each as JSON.
    """

    facts: bytes
    by_kind: dict[str, list[bytes]]

    def answer(self, kinds: Sequence[str]) -> bytes:
        """An object with the findings of some kinds."""
        findings = b",".join(one for kind in kinds for one in self.by_kind.get(kind, ()))
        return self.facts[:-1] + b',"findings":[' + findings + b"]}"


def kinds_of(given: Sequence[str]) -> Sequence[str]:
    """The kinds that a request names; all where it names none.

    Raises:
        InputError: one is not found here.

    Examples:
        >>> kinds_of(["leak", "relabel"])
        ['relabel', 'leak']
    """
    if unknown := sorted(set(given) - set(FOUND)):
        raise InputError(f"expected kinds among {', '.join(FOUND)}, got {unknown[0][:60]!r}")
    return [kind for kind in FOUND if kind in given] if given else FOUND


class Reviews:
    """Reviews by index.

    Args:
        settings: of the server.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._thread = ThreadPoolExecutor(1, "review")
        self._made: dict[str, tuple[int, _Making, asyncio.Future[Findings]]] = {}

    async def of(self, index: ServedIndex) -> Findings | Progress:
        """What was found, or how far the search for it is.

        Raises:
            InputError: the index is one that is not reviewed here.
            HierError: as of the index.
        """
        if not isinstance(index.target, Path):
            raise InputError("an index in Milvus is reviewed by `hier review --points`")
        before = self._made.get(index.name)
        if before is None or before[0] != index.reopened:
            if before is not None:
                before[1].stop()
            making = _Making(index.target, self._settings)
            loop = asyncio.get_running_loop()
            future = loop.run_in_executor(self._thread, making)
            future.add_done_callback(lambda done: done.cancelled() or done.exception())
            self._made[index.name] = before = index.reopened, making, future
        _, making, future = before
        await asyncio.wait({future}, timeout=_PATIENCE)
        if not future.done():
            return making.progress
        try:
            return future.result()
        except Exception:
            if self._made.get(index.name) is not before:  # the index has changed meanwhile
                return Progress("starting again")
            del self._made[index.name]  # the next request tries again
            raise

    def close(self) -> None:
        """End what is being made."""
        for _, making, _ in self._made.values():
            making.stop()
        self._thread.shutdown(cancel_futures=True)


class _Making:
    """One review in the making.

    Args:
        index: the file.
        settings: of the server.

    Attributes:
        progress: how far it is.
    """

    def __init__(self, index: Path, settings: Settings) -> None:
        self.progress = Progress("waiting for another review")
        self._index, self._settings = index, settings
        self._lock = threading.Lock()
        self._stopped = False
        self._process: Any = None

    def __call__(self) -> Findings:
        """Make it.

        Raises:
            HierError: the index cannot be read, or the process was ended.
        """
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe(duplex=False)
        with closing(ours):
            with self._lock, closing(theirs):
                if not self._stopped:
                    job = theirs, self._index, self._settings.model, self._settings.show_paths
                    self._process = context.Process(target=_work, args=job, daemon=True)
                    self._process.start()
            try:
                return self._result(ours)
            finally:
                self.stop()

    def _result(self, pipe: Connection) -> Findings:
        while True:
            try:
                told = pipe.recv()
            except (EOFError, OSError) as error:
                raise ServerError("the review was broken off. Ask again") from error
            if isinstance(told, Findings):
                return told
            if isinstance(told, HierError):
                raise told
            self.progress = told

    def stop(self) -> None:
        """End its process, or see to it that it has none."""
        with self._lock:
            self._stopped = True
            if self._process is not None:
                self._process.kill()
                self._process.join()


# -- in the process of a review --------------------------------------------------------------------


def _work(pipe: Connection, index: Path, model: str, show_paths: bool) -> None:
    import signal
    import time

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
                pipe.send(Progress(name, done, total))

        pipe.send(Progress(name))
        yield tell

    with contextlib.suppress(BrokenPipeError):  # the server is gone
        try:
            pipe.send(_reviewed(index, model, show_paths, steps))
        except HierError as error:
            pipe.send(error)


def _reviewed(index: Path, model: str, show_paths: bool, steps: Any) -> Findings:
    from hiercli.reports import review as pages
    from hiercli.review.review import Review

    found = Review.of_images(index, model or None, kinds=FOUND, steps=steps, read_files=False)
    examples = pages.Examples(found.collection, named=show_paths)
    ids = _ids(index)
    by_kind: dict[str, list[bytes]] = {}
    with steps("choosing examples") as told:
        for done, one in enumerate(found.findings, 1):
            own = by_kind.setdefault(one.kind, [])
            if len(own) < MOST:
                own.append(_json(_plain(one, examples.of(one), ids, show_paths)))
            told(done, len(found.findings))
    facts = pages.about(found) | {
        "images": len(found.collection),
        "counts": found.counts(),
        "most": MOST,
        "notes": [f"{note[0].upper()}{note[1:]}." for note in found.notes],
        "columns": [field.name for field in dataclasses.fields(Finding)] if show_paths else None,
    }
    return Findings(_json(facts), by_kind)


def _ids(index: Path) -> dict[str, str]:
    """Names by which the server knows images, by path as a review has it."""
    from hiercli.index.catalogue import Catalogue
    from hiercli.index.conditions import meeting
    from hiercli.review.review import whole_path

    with closing(Catalogue(index)) as catalogue:
        rows = catalogue.rows(meeting(catalogue, []).tolist(), points=False)
        return {whole_path(os.fsdecode(row.path)): row.content.hex() for row in rows}


def _plain(one: Finding, groups: Any, ids: dict[str, str], show_paths: bool) -> dict[str, Any]:
    """A finding as JSON has it; images are named by their ids."""
    values = dataclasses.asdict(one)
    values |= {"id": ids.get(one.path, ""), "of_id": ids.get(one.of, "")}
    if not show_paths:
        del values["path"], values["of"]
        if one.kind == "unreadable":  # reasons of these name the file
            values["reason"] = "a file that was given to the index cannot be read"
    values["examples"] = [group.told([ids.get(path, "") for path in group.paths])
                          for group in groups]  # fmt: skip
    return values


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
