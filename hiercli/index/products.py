"""The largest inner products of many queries with all rows, by blocks of a matrix product.

NumPy multiplies matrices with a BLAS for the processor at hand. FAISS's packages bring one for any
processor, which takes many times as long (`tests/bench_index.py`).
"""

from collections.abc import Sequence

import numpy as np

from hiercli.errors import FileFormatError

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
        _largest(queries[first : first + _QUERIES], rows, width)
        for first in range(0, len(queries), _QUERIES)
    ]
    products = np.concatenate([products for products, _ in found])
    return products, ids[np.concatenate([places for _, places in found])]


def _largest(queries: np.ndarray, rows: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Products and places, (Q, width) each, largest first, ties by place."""
    count = len(queries)
    transposed = np.ascontiguousarray(queries.T)  # rows first: half of the time for few queries
    room = np.empty((min(len(rows), _ROWS), count), np.float32)
    kept = np.empty(0, np.float32), np.empty(0, np.int64), np.empty(0, np.int64)
    parts, held, above = [kept], 0, np.full(count, -np.inf, np.float32)
    for first in range(0, len(rows), _ROWS):
        some = rows[first : first + _ROWS]
        block = np.matmul(some, transposed, out=room[: len(some)])
        if not first and len(block) > width:
            # Products that are as large count too, until so many are held.
            above = np.nextafter(_least(block, width), np.float32(-np.inf))
        flat = np.flatnonzero(block > above)
        places, owners = np.divmod(flat, count)
        parts.append((block.reshape(-1)[flat], places + first, owners))
        held += len(flat)
        if not first or held > _HELD * width * count:
            kept, above = _cut(parts, width, count)
            parts, held = [kept], len(kept[0])
    (products, places, _), _ = _cut(parts, width, count)
    if len(products) < count * width:
        raise FileFormatError(
            "the FAISS file is damaged: some of its points are not numbers. Run `hier index "
            "repair` to build it again from its catalogue"
        )
    return products.reshape(count, width), places.reshape(count, width)


def _least(block: np.ndarray, width: int) -> np.ndarray:
    """A bound that at least ``width`` products of each query reach, (Q,).

    It is the width-th largest of the maxima of groups of rows.
    """
    groups = min(len(block), _HELD * width)
    size = len(block) // groups
    best = block[: groups * size].reshape(size, groups, block.shape[1]).max(axis=0)
    found: np.ndarray = np.partition(best, -width, axis=0)[-width]
    return found


def _cut(
    parts: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], width: int, count: int
) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], np.ndarray]:
    """The largest products of each query in order, and what further ones have to be above.

    Args:
        parts: products, places of rows and numbers of queries.
        width: products of each query.
        count: Q.
    """
    products, places, owners = (np.concatenate(part) for part in zip(*parts, strict=True))
    order = np.lexsort((places, np.negative(products), owners))
    owners = owners[order]
    starts = np.searchsorted(owners, np.arange(count + 1))
    inside = np.arange(len(owners)) - starts[owners] < width
    order, owners = order[inside], owners[inside]
    kept = products[order], places[order], owners
    counts = np.minimum(np.diff(starts), width)
    above = np.full(count, -np.inf, np.float32)
    full = np.flatnonzero(counts == width)
    above[full] = kept[0][np.cumsum(counts)[full] - 1]
    return kept, above
