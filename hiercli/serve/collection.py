"""One index as a server has it: opened, watched, searched in batches.

Each of its lanes has a thread and a reader of its own, and opens its files again when they have
changed. Where the new state cannot be opened, the old one answers.
"""

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from hiercli.collection import require_in_ball
from hiercli.encoder.encoder import Encoder
from hiercli.errors import HierError, InputError, MismatchError, ServerError
from hiercli.geometry import poincare
from hiercli.hierarchy.branches import search_in_breadth
from hiercli.hierarchy.verdict import Verdict
from hiercli.images import read_bytes
from hiercli.index import verdicts, words
from hiercli.index.address import target_of
from hiercli.index.schema import Row, content_hash
from hiercli.index.searchable import Hit, answers
from hiercli.serve.batching import Batcher
from hiercli.serve.settings import Settings
from hiercli.serve.state import Asked, State

_SEARCHES = 64
"""Points that are searched together."""
_IMAGES = 8
"""Images that go through the network together."""
_WAITING, _SLOW_WAITING = 1024, 16
"""Points that may wait for a search; fewer where a search takes long."""
_PAUSE = 1.0
"""Seconds before a state that could not be opened is tried again."""
Result = TypeVar("Result")


class ServedIndex:
    """An index that is searched by many at a time and opened again when it changes.

    Args:
        name: by which requests know it.
        index: FAISS file, or address in Milvus.
        settings: of the server.
    """

    def __init__(self, name: str, index: str, settings: Settings) -> None:
        self.name, self.index, self.settings = name, index, settings
        self.target = target_of(index)
        self.reopened = 0
        self._problem = ""
        self._thread = ThreadPoolExecutor(1, f"search-{name}")
        lanes = settings.num_decoders
        self._embedding = ThreadPoolExecutor(lanes, f"embed-{name}")
        self._seen: object = None
        self.state: State
        self._points: Batcher[np.ndarray, dict[str, Any]] = Batcher(
            self._search_now, self._thread, most=_SEARCHES, waiting=_WAITING
        )
        # What can take long has threads and readers of its own, so that nobody else waits for it:
        # trees and searches in breadth look at all images, words and conditions at all labels.
        self._trees = _Lane(self, f"tree-{name}", _SLOW_WAITING)
        self._filters = _Lane(self, f"filter-{name}", _WAITING)
        self.pixels: Batcher[np.ndarray, np.ndarray] = Batcher(
            self._embed, self._embedding, most=_IMAGES, waiting=_WAITING, lanes=lanes
        )

    @property
    def problem(self) -> str:
        """Why the newest state is not the one that answers; mostly empty."""
        return self._problem or self._trees.problem or self._filters.problem

    @property
    def model_folder(self) -> str:
        """Where its encoder lay when it was built; empty where that is not known."""
        return str(self.state.reader.model.parent) if hasattr(self, "state") else ""

    async def open(self) -> None:
        """Open it for the first time.

        Raises:
            HierError: it is missing or damaged.
        """
        self._seen = self._look()
        self.state = await self._in_thread(lambda: self._opened(None))
        for lane in (self._trees, self._filters):  # their files may be gone when they are needed
            await lane.call(lambda _: None)

    def _opened(self, known: Encoder | None) -> State:
        """The state that is there now, ready for many searches."""
        return State(self.target, self.settings, known, self.settings.search_threads)

    async def watch(self, pause: float = 1.0) -> None:
        """Open it again each time it has changed, until cancelled."""
        while True:
            await asyncio.sleep(pause)
            seen = await asyncio.to_thread(self._look)
            if seen != self._seen:
                await self.reopen()
                self._seen = seen

    async def reopen(self) -> None:
        """Open the state that is there now; where that is not possible, keep the one before."""

        def swap() -> None:
            before = self.state
            try:
                self.state = self._opened(before.encoder)
            except (HierError, OSError) as error:
                self._problem = str(error)
                return
            self._problem = ""
            self.reopened += 1
            before.reader.close()

        await self._in_thread(swap)

    def close(self) -> None:
        """Let go of files and threads, after what is at work."""
        self._thread.submit(lambda: self.state.reader.close())
        self._thread.shutdown()
        self._trees.close()
        self._filters.close()
        self._embedding.shutdown()

    async def call(self, work: Callable[[State], Result]) -> Result:
        """Do something with the index, between searches."""
        return await self._in_thread(lambda: work(self.state))

    async def _in_thread(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _look(self) -> object:
        """What tells one state of the files from another; nothing for Milvus, which has one."""
        if not isinstance(self.target, Path):
            return None
        found: list[tuple[int, int, int] | None] = []
        for file in (self.target, *(Path(f"{self.target}.sqlite{end}") for end in ("", "-wal"))):
            try:
                told = os.stat(file)
                found.append((told.st_ino, told.st_size, told.st_mtime_ns))
            except OSError:
                found.append(None)
        return found

    # -- searching, in the index's own thread ------------------------------------------------------

    def _embed(self, encoder: Hashable, pixels: list[np.ndarray]) -> Sequence[np.ndarray]:
        assert isinstance(encoder, Encoder)
        if encoder.device == "cpu":  # each lane keeps one core busy, and none waits in a loop
            encoder = encoder.on_one_core()
        normalise = encoder.metadata.preprocessing.normalise
        return list(encoder.run(np.stack([normalise(one) for one in pixels])))

    async def points(self, point: np.ndarray, asked: Asked) -> dict[str, Any]:
        """The answer to a point.

        Raises:
            ServerError: too many wait already.
            HierError: as of the index.
        """
        if asked.branches or asked.level is not None:
            return await self._trees.points(point, asked)
        if asked.where:
            return await self._filters.points(point, asked)
        return await self._points(point, asked)

    def _search_now(self, key: Hashable, points: list[np.ndarray]) -> Sequence[dict[str, Any]]:
        return self.search(self.state, key, points)

    def search(
        self, state: State, key: Hashable, points: list[np.ndarray]
    ) -> Sequence[dict[str, Any]]:
        """The answers to points that are asked for in the same way.

        Raises:
            ServerError: the points come from another encoder than the state: it is a newer one.
        """
        assert isinstance(key, Asked)
        if key.made_by and key.made_by != state.reader.fingerprint:
            raise ServerError("the index has another encoder since a moment ago. Try again")
        stacked = np.stack(points)
        if stacked.shape[1] != state.reader.dim:
            raise MismatchError(
                f"expected a point of {state.reader.dim} numbers, got {stacked.shape[1]}. Use the "
                "encoder that built the index"
            )
        if key.level is not None:
            tree = state.branches
            breadth = search_in_breadth(
                stacked, state.reader, tree, key.level, key.k, where=key.where, unique=key.unique
            )
            return [
                self._told(state, point, one.hits, None, key) | {
                    "searched": {"id": one.branch.id, "name": one.branch.name}
                }
                for point, one in zip(stacked, breadth, strict=True)
            ]  # fmt: skip
        return [
            self._told(state, point, hits, verdict, key)
            for point, hits, verdict in self._found(state, stacked, key)
        ]

    def _found(
        self, state: State, points: np.ndarray, asked: Asked
    ) -> "list[tuple[np.ndarray, Sequence[Hit], Verdict | None]]":
        known = state.calibration if asked.verdict else None
        if known is not None and asked.is_plain:
            both = verdicts.hits_and_verdicts(
                state.reader, known, points, asked.k, asked.confidence, exact=asked.exact
            )
            return [(point, hits, one) for point, (hits, one) in zip(points, both, strict=True)]
        hits = answers(
            state.reader, points, asked.k, max_distance=asked.max_distance, where=asked.where,
            unique=asked.unique, exact=asked.exact, reranked=asked.rerank,
        )  # fmt: skip
        told: Any = [None] * len(points)
        if known is not None:
            told = verdicts.verdicts(
                state.reader, known, points, asked.confidence, exact=asked.exact
            )
        return list(zip(points, hits, told, strict=True))

    def _told(
        self,
        state: State,
        point: np.ndarray,
        hits: Sequence[Hit],
        verdict: Verdict | None,
        asked: Asked,
    ) -> dict[str, Any]:
        """The answer to one query, as JSON has it."""
        results = [self._hit(state, hit) for hit in hits]
        answer: dict[str, Any] = {"results": results}
        if verdict is not None:
            answer["verdict"] = verdict.to_dict()
        if asked.branches:
            tree = state.branches
            answer["specificity"] = tree.specificity(point)
            if hits:
                common = tree.common(
                    point, np.stack([hit.point for hit in hits]), [hit.label for hit in hits]
                )
                for result, node in zip(results, common, strict=True):
                    result["branch"] = {name: getattr(node, name) for name in ("id", "name")}
        return answer

    def _hit(self, state: State, hit: Hit) -> dict[str, Any]:
        told = {
            "rank": hit.rank,
            "id": hit.content.hex(),
            "label": hit.label,
            "levels": hit.levels,
            "distance": hit.distance,
        } | state.similarity.to_dict(hit.distance)
        if self.settings.show_paths:
            told |= {"path": hit.path, "copies": hit.copies}
        return told

    async def by_words(self, text: str, asked: Asked) -> dict[str, Any]:
        """The images around the names that words match.

        Raises:
            InputError: no name has the words.
        """

        def search(state: State) -> dict[str, Any]:
            meant = state.understood(text)
            hits = words.around(
                state.reader, meant.points, asked.k, max_distance=asked.max_distance,
                unique=asked.unique, where=asked.where, exact=asked.exact,
            )  # fmt: skip
            middle = poincare.midpoint(meant.points.astype(np.float64), state.reader.c)
            told = self._told(state, np.asarray(middle, np.float32), hits, None, asked)
            return {"understood": meant.to_dict() | {"text": str(meant)}} | told

        return await self._filters.call(search)

    async def checked(self, values: object) -> np.ndarray:
        """A point that a request gave.

        Raises:
            InputError: it is not one of this ball.
        """
        reader = self.state.reader
        wanted = f"a point of {reader.dim} numbers"
        try:
            given = np.array(values)
        except ValueError as error:  # lists of different lengths
            raise InputError(f"expected {wanted}") from error
        if given.dtype.kind not in "fi" or given.shape != (reader.dim,):
            raise InputError(f"expected {wanted}, got {given.dtype} {given.shape}")
        with np.errstate(over="ignore"):  # what overflows is not in the ball
            point = given.astype(np.float32)
            require_in_ball(point[None], reader.c, "the point")
        return point

    async def row(self, name: str) -> tuple[Row | None, str]:
        """The image with an id, or ``None``, and the fingerprint of the encoder of its point."""
        content = bytes.fromhex(name)

        def look(state: State) -> tuple[Row | None, str]:
            reader = state.reader
            return reader.rows_by_content([content]).get(content), reader.fingerprint

        return await self.call(look)

    async def known_point(self, content: bytes) -> tuple[np.ndarray | None, str]:
        """The point of an image whose content is in the index, and who made it, see `row`."""
        digest = content_hash(content)

        def look(state: State) -> tuple[np.ndarray | None, str]:
            reader = state.reader
            return reader.points_by_content([digest]).get(digest), reader.fingerprint

        return await self.call(look)

    async def small_picture(self, row: Row) -> bytes | None:
        """The small JPEG that the index keeps of an image."""
        return await self.call(lambda state: state.reader.small_picture(row))

    async def stats(self) -> dict[str, Any]:
        """What people want to know of it."""

        def look(state: State) -> dict[str, Any]:
            reader = state.reader
            labels = {label for label, _ in reader.lineages() if label}
            return {
                "name": self.name,
                "images": len(reader),
                "labels": len(labels),
                "levels": list(reader.level_names),
                "dimensions": reader.dim,
                "c": reader.c,
                "fingerprint": reader.fingerprint,
                "takes_images": state.encoder is not None,
                "verdicts": state.calibration is not None,
                "examples": state.examples,
                "reopened": self.reopened,
            } | ({"problem": self.problem} if self.problem else {})

        return await self.call(look)


class _Lane:
    """A thread with a state of its own; where the newest cannot be opened, the one before.

    Args:
        index: whose state it follows.
        name: of the thread.
        waiting: points that may wait.

    Attributes:
        problem: why the newest state cannot be opened; mostly empty.
    """

    def __init__(self, index: ServedIndex, name: str, waiting: int) -> None:
        self._index, self._thread = index, ThreadPoolExecutor(1, name)
        self._held: State | None = None
        self._number, self._next = 0, 0.0
        self.problem = ""
        self.points: Batcher[np.ndarray, dict[str, Any]] = Batcher(
            self._search, self._thread, most=_SEARCHES, waiting=waiting
        )

    async def call(self, work: Callable[[State], Result]) -> Result:
        """Do something with the state."""
        return await asyncio.get_running_loop().run_in_executor(
            self._thread, lambda: work(self._state())
        )

    def close(self) -> None:
        """Let go of files and thread, after what is at work."""
        self._thread.submit(self._let_go)
        self._thread.shutdown()

    def _search(self, key: Hashable, points: list[np.ndarray]) -> Sequence[dict[str, Any]]:
        return self._index.search(self._state(), key, points)

    def _state(self) -> State:
        index = self._index
        is_old = self._held is None or self._number != index.reopened
        if is_old and time.monotonic() >= self._next:
            number = index.reopened
            try:
                opened = State(index.target, index.settings, index.state.encoder)
            except (HierError, OSError) as error:
                self.problem, self._next = str(error), time.monotonic() + _PAUSE
            else:
                self._let_go()
                self._held, self._number, self.problem = opened, number, ""
        if self._held is None:
            raise ServerError("the index cannot be read. Try again later")
        return self._held

    def _let_go(self) -> None:
        if self._held is not None:
            self._held.reader.close()
            self._held = None


def content_of(row: Row) -> bytes | None:
    """The bytes of the file of an image, if it is still the one that was indexed."""
    with contextlib.suppress(HierError, OSError):
        content = read_bytes(os.fsdecode(row.path))[0]
        if content_hash(content) == row.content:
            return content
    return None
