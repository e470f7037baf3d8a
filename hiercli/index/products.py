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
    parts = [
        _largest(queries[first : first + _QUERIES], rows, width)
        for first in range(0, len(queries), _QUERIES)
    ]
    products = np.concatenate([products for products, _ in parts])
    return products, ids[np.concatenate([places for _, places in parts])]


def _largest(queries: np.ndarray, rows: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    transposed = np.ascontiguousarray(queries.T)  # rows first: half of the time for few queries
    best = np.empty((len(queries), 0), np.float32)
    places = np.empty((len(queries), 0), np.int64)
    for first in range(0, len(rows), _ROWS):
        block = rows[first : first + _ROWS] @ transposed
        own = np.arange(first, first + len(block))
        if best.shape[1] == width:  # only what some query does not have better
            better = (block > best[:, -1]).any(axis=1)
            block, own = block[better], own[better]
            if not len(own):
                continue
        block = np.ascontiguousarray(block.T)
        if block.shape[1] > width:
            kept = np.argpartition(block, -width, axis=1)[:, -width:]
            block, numbers = np.take_along_axis(block, kept, axis=1), own[kept]
        else:
            numbers = np.broadcast_to(own, block.shape)
        block = np.concatenate([best, block], axis=1)
        numbers = np.concatenate([places, numbers], axis=1)
        order = np.argsort(-block, axis=1, kind="stable")[:, :width]
        best = np.take_along_axis(block, order, axis=1)
        places = np.take_along_axis(numbers, order, axis=1)
    return best, places
