"""A flat index searched in its file, block by block: it need not fit in memory.

A question needs every row once. To read them into an index first would take as much memory as the
file is large, and longer than the answer; the system keeps a file that is read again in memory
where there is room. FAISS could map the file, but only by its name, which may be another file's by
then, and a mapped file that is cut short ends the process.
"""

import io
import os
import struct
import threading
from typing import Self

import faiss
import numpy as np

from hiercli.errors import FileFormatError

_HEAD = "<4siqqq?i"
"""Of every FAISS index: type, dimensions, rows, two words without meaning, trained, metric."""
_BLOCK_BYTES = 2**23


class FlatFile:
    """Rows of an `IndexIDMap` over an `IndexFlatIP`, as `faiss.write_index` wrote them.

    Args:
        file: open at its start; it stays open as long as this is in use.
        dim: coordinates of a row.
        start: where in the file the rows begin.
        ids: (N,) their ids.

    Attributes:
        d: coordinates of a row, as FAISS calls them.
        ids: (N,) ids of the rows in their order.
    """

    def __init__(self, file: io.FileIO, dim: int, start: int, ids: np.ndarray) -> None:
        self._file, self._start = file, start
        self.d, self.ids = dim, ids
        self._lock = threading.Lock()

    @classmethod
    def parse(cls, file: io.FileIO) -> Self | None:
        """The rows of a whole FAISS file; ``None`` where it holds an index of another kind."""
        size = os.fstat(file.fileno()).st_size
        if size < 2 * struct.calcsize(_HEAD) + 16:
            return None
        outer, inner = _head(file), _head(file)
        if (outer[0], inner[0]) != (b"IxMp", b"IxFI"):
            return None
        dim, count = inner[1], inner[2]
        start = file.tell() + 8
        # Whatever else it is, FAISS says.
        if dim < 1 or count < 0 or start + (4 * dim + 8) * count + 8 > size:
            return None
        if _length(file) != dim * count:
            return None
        file.seek(start + 4 * dim * count)
        if _length(file) != count:
            return None
        return cls(file, dim, start, _read(file, "<i8", count))

    def search(
        self, queries: np.ndarray, width: int, among: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The rows of the largest inner products, as `neighbours.Search`.

        Args:
            queries: (Q, d) float32.
            width: how many rows each.
            among: (M,) ids of the rows that may be found; ``None`` for all.

        Raises:
            FileFormatError: the file was cut short since it was opened.
        """
        best = faiss.ResultHeap(len(queries), width, keep_max=True)
        counts = np.full(len(self.ids), True) if among is None else np.isin(self.ids, among)
        at_once = max(1, _BLOCK_BYTES // (4 * self.d))
        for first in range(0, len(self.ids), at_once):
            wanted = counts[first : first + at_once]
            if wanted.any():
                ids = self.ids[first : first + at_once][wanted]
                rows = self._read(first, len(wanted))
                products, places = faiss.knn(
                    queries, rows if wanted.all() else rows[wanted], min(width, len(ids)),
                    metric=faiss.METRIC_INNER_PRODUCT,
                )  # fmt: skip
                best.add_result(products, ids[places])
        best.finalize()
        return best.D, best.I

    def _read(self, first: int, count: int) -> np.ndarray:
        with self._lock:  # of the place in the file
            self._file.seek(self._start + 4 * self.d * first)
            return _read(self._file, "<f4", count * self.d).reshape(count, self.d)


def _head(file: io.FileIO) -> tuple[bytes, int, int]:
    content = _read(file, "u1", struct.calcsize(_HEAD))
    kind, dim, count, *_ = struct.unpack(_HEAD, content.tobytes())
    return kind, dim, count


def _length(file: io.FileIO) -> int:
    return int(_read(file, "<u8", 1)[0])


def _read(file: io.FileIO, dtype: str, count: int) -> np.ndarray:
    values = np.empty(count, dtype)
    room = values.data.cast("B")
    while room:
        size = file.readinto(room)
        if not size:
            raise FileFormatError(
                f"{file.name} is shorter than expected. It was truncated while it was read. Check "
                "it with `hier index verify`"
            )
        room = room[size:]
    return values
