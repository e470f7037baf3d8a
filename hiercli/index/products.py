"""The largest inner products of many queries with all rows, by blocks of a matrix product.

NumPy multiplies matrices with a BLAS for the processor at hand. FAISS's packages bring one for any
processor, which takes many times as long (`tests/bench_index.py`).
"""

import itertools
from concurrent.futures import Executor

import numpy as np

FEWEST = 4
"""Queries from which on it pays; a row that is read for one query may be used for all."""
_ROWS = 16_384
"""Rows of a block: with 64 queries, its products fit a processor's cache."""
_QUERIES = 256
_HELD = 4
"""Times the width: products of a query that are held before the smaller ones are dropped."""


def largest(
    queries: np.ndarray,
    rows: np.ndarray,
    ids: np.ndarray,
    width: int,
    threads: Executor | None = None,
    parts: int = 1,
) -> tuple[np.ndarray, np.ndarray]:
    """Products and ids of the rows with the largest products, as `neighbours.Search` gives them.

    Args:
        queries: (Q, D+1) float32.
        rows: (N, D+1) float32; may be mapped from a file.
        ids: (N,) of the rows.
        width: how many for each query, at most N.
        threads: each compares a part of the rows; the calling one does all where left out.
        parts: of the rows.
    """
    found = [
        _of_parts(queries[first : first + _QUERIES], rows, width, threads, parts)
        for first in range(0, len(queries), _QUERIES)
    ]
    products = np.concatenate([products for products, _ in found])
    return products, ids[np.concatenate([places for _, places in found])]


def _of_parts(
    queries: np.ndarray, rows: np.ndarray, width: int, threads: Executor | None, parts: int
) -> tuple[np.ndarray, np.ndarray]:
    if threads is None or len(rows) < 2 * parts * max(width, _ROWS):
        return _Largest(queries, width).of(rows, 0).found()
    ends = np.linspace(0, len(rows), parts + 1).astype(int).tolist()
    first, *others = threads.map(
        lambda part: _Largest(queries, width).of(rows[part[0] : part[1]], part[0]),
        itertools.pairwise(ends),
    )
    for one in others:
        first.join(one)
    return first.found()


class _Largest:
    """The largest products of each query so far, in pieces.

    Args:
        queries: (Q, D+1).
        width: products of each query that are wanted.
    """

    def __init__(self, queries: np.ndarray, width: int) -> None:
        self._count, self._width = len(queries), width
        # Rows first: half of the time for few queries.
        self._transposed = np.ascontiguousarray(queries.T)
        self._bound = np.full(len(queries), -np.inf, np.float32)
        self._products = [np.empty(0, np.float32)]
        self._places = [np.empty(0, np.int64)]
        self._owners = [np.empty(0, np.int64)]
        self._held = 0

    def of(self, rows: np.ndarray, offset: int) -> "_Largest":
        """With rows (N, D+1) whose first one has the place ``offset``."""
        for first in range(0, len(rows), _ROWS):
            block = rows[first : first + _ROWS] @ self._transposed
            if not first:
                self._bound = self._least(block)
            kept = np.flatnonzero(block >= self._bound)
            places, owners = np.divmod(kept, self._count)
            self._take(block.reshape(-1)[kept], places + (offset + first), owners)
            if not first or self._held > _HELD * self._width * self._count:
                self._drop()
        return self

    def _least(self, block: np.ndarray) -> np.ndarray:
        """What the wanted products of each query are not below (Q,), from a first block.

        Of the largest products of some groups of rows, so many are as large.
        """
        groups = min(len(block), _HELD * self._width)
        if groups < self._width:
            return self._bound
        size = len(block) // groups
        best = block[: groups * size].reshape(size, groups, self._count).max(axis=0)
        found: np.ndarray = np.partition(best, -self._width, axis=0)[-self._width]
        return found

    def _take(self, products: np.ndarray, places: np.ndarray, owners: np.ndarray) -> None:
        self._products.append(products)
        self._places.append(places)
        self._owners.append(owners)
        self._held += len(products)

    def join(self, other: "_Largest") -> None:
        """With what was found among other rows."""
        self._take(*(np.concatenate(part) for part in (
            other._products, other._places, other._owners)))  # fmt: skip

    def _drop(self) -> None:
        """Put what is held in order, and drop what is beyond the width."""
        products, places, owners = (
            np.concatenate(part) for part in (self._products, self._places, self._owners)
        )
        order = np.lexsort((places, np.negative(products), owners))
        owners = owners[order]
        starts = np.searchsorted(owners, np.arange(self._count + 1))
        ranks = np.arange(len(owners)) - starts[owners]
        order, owners = order[ranks < self._width], owners[ranks < self._width]
        self._products, self._places = [products[order]], [places[order]]
        self._owners, self._held = [owners], len(owners)
        full = np.flatnonzero(np.diff(starts) >= self._width)
        last = np.cumsum(np.minimum(np.diff(starts), self._width)) - 1
        self._bound[full] = self._products[0][last[full]]

    def found(self) -> tuple[np.ndarray, np.ndarray]:
        """Products and places, (Q, width) each, largest product first, ties by place."""
        self._drop()
        shape = self._count, self._width
        return self._products[0].reshape(shape), self._places[0].reshape(shape)
