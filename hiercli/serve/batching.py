"""Calls that come while others are at work, worked off together."""

import asyncio
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Executor
from typing import Generic, TypeVar

from hiercli.errors import ServerError

_SHARE = 0.25
"""Of the time of the batch before that the next one may wait for further calls."""
_PAUSE = 0.001
"""Seconds without a call after which no more are expected."""
Item = TypeVar("Item")
Result = TypeVar("Result")


class Batcher(Generic[Item, Result]):
    """Hands items to a function that takes many at once; calls wait for the batch before.

    Where the batch before had several items, its callers may be about to ask again: then the next
    batch begins when no more calls come for a millisecond, or a quarter of the time that the one
    before took is over. A client that is alone is not delayed.

    Args:
        work: from a key and items with this key to their results, in order. An item whose result
            is an exception fails alone; an exception that is raised fails the whole batch.
        executor: where it runs.
        most: items of a batch.
        waiting: items that may wait.
        lanes: batches at a time.
    """

    def __init__(
        self,
        work: Callable[[Hashable, list[Item]], Sequence[Result | Exception]],
        executor: Executor,
        *,
        most: int,
        waiting: int,
        lanes: int = 1,
    ) -> None:
        self._work, self._executor = work, executor
        self._most, self._waiting, self._lanes = most, waiting, lanes
        self._queue: deque[tuple[Hashable, Item, asyncio.Future[Result]]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._last, self._took = 0, 0.0

    async def __call__(self, item: Item, key: Hashable = None) -> Result:
        """The result of an item.

        Raises:
            ServerError: too many items wait already.
        """
        if len(self._queue) >= self._waiting:
            raise ServerError("the server is busy. Try again in a moment")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Result] = loop.create_future()
        self._queue.append((key, item, answer))
        if len(self._tasks) < self._lanes:
            task = loop.create_task(self._run())
            self._tasks.add(task)
        return await answer

    async def _run(self) -> None:
        try:
            await self._work_off()
        finally:  # at once: a call that came before a callback did this would wait for the next one
            self._tasks = {task for task in self._tasks if task is not asyncio.current_task()}

    async def _work_off(self) -> None:
        loop = asyncio.get_running_loop()
        while self._queue:
            await self._others()
            key, some = self._next()
            if not some:  # nobody waits any more, or another lane was faster
                continue
            begun = loop.time()
            try:
                results = await loop.run_in_executor(
                    self._executor, self._work, key, [item for item, _ in some]
                )
            except Exception as error:
                results = [error] * len(some)
            self._last, self._took = len(some), loop.time() - begun
            for (_, answer), result in zip(some, results, strict=True):
                if answer.cancelled():
                    continue
                if isinstance(result, Exception):
                    answer.set_exception(result)
                else:
                    answer.set_result(result)

    async def _others(self) -> None:
        """Wait for calls that are about to come."""
        loop = asyncio.get_running_loop()
        end = loop.time() + _SHARE * self._took
        waiting = 0
        while self._last > 1 and waiting < len(self._queue) < self._most and loop.time() < end:
            waiting = len(self._queue)
            await asyncio.sleep(_PAUSE)

    def _next(self) -> tuple[Hashable, list[tuple[Item, "asyncio.Future[Result]"]]]:
        """Items with the key of the oldest, without those that nobody waits for any more."""
        key = self._queue[0][0] if self._queue else None
        some: list[tuple[Item, asyncio.Future[Result]]] = []
        others: list[tuple[Hashable, Item, asyncio.Future[Result]]] = []
        while self._queue and len(some) < self._most:
            own, item, answer = self._queue.popleft()
            if answer.cancelled():
                continue
            if own == key:
                some.append((item, answer))
            else:
                others.append((own, item, answer))
        self._queue.extendleft(reversed(others))
        return key, some
