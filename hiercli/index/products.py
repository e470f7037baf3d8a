"""The largest inner products of many queries with all rows, by blocks of a matrix product.

NumPy multiplies matrices with a BLAS for the processor at hand. FAISS's packages bring one for any
processor, which takes many times as long (`tests/bench_index.py`).
"""

import numpy as np

FEWEST = 4
"""Queries from which on it pays; a row that is read for one query may be used for all."""
_ROWS = 16_384
"""Rows of a block: with 64 queries, its products fit a processor's cache."""
_QUERIES = 256
_HELD = 4
"""Times the width: products of a query that are held before the smaller ones are dropped."""


def largest(
    queries: np.ndarray, rows: np.ndarray, ids: np.ndarray, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Products and ids of the rows with the largest products, as `neighbours.Search` gives them.

    Args:
        queries: (Q, D+1) float32.
        rows: (N, D+1) float32; may be mapped from a file.
        ids: (N,) of the rows.
        width: how many for each query, at most N.
    """
    found = [
        _Largest(queries[first : first + _QUERIES], width).of(rows)
        for first in range(0, len(queries), _QUERIES)
    ]
    products = np.concatenate([products for products, _ in found])
    return products, ids[np.concatenate([places for _, places in found])]


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

    def of(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Products and places of rows (N, D+1), (Q, width) each, largest first, ties by place."""
        room = np.empty((min(len(rows), _ROWS), self._count), np.float32)
        for first in range(0, len(rows), _ROWS):
            some = rows[first : first + _ROWS]
            block = np.matmul(some, self._transposed, out=room[: len(some)])
            if not first:
                self._bound = self._least(block)
            kept = np.flatnonzero(block >= self._bound)
            places, owners = np.divmod(kept, self._count)
            self._products.append(block.reshape(-1)[kept])
            self._places.append(places + first)
            self._owners.append(owners)
            self._held += len(kept)
            if not first or self._held > _HELD * self._width * self._count:
                self._drop()
        self._drop()
        shape = self._count, self._width
        return self._products[0].reshape(shape), self._places[0].reshape(shape)

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
