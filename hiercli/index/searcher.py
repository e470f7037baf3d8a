"""An index opened for search."""
# FAISS's own stubs lack much of what is used here.
# mypy: disable-error-code="call-arg,attr-defined"

from collections.abc import Callable

import faiss
import numpy as np

from hiercli import neighbours
from hiercli.errors import FileFormatError, InputError, MismatchError
from hiercli.index import contents
from hiercli.index.flat_file import FlatFile

_WIDE = 4096
"""Candidates from which on all points are compared: to walk a graph for as many takes longer."""


class Searcher:
    """An index opened for search.

    Args:
        index: as `kinds.build` made it, or the file of a flat one.
        c: curvature magnitude.
        farthest: largest time coordinate among its rows.
        device: ``cuda``: compare all points on the GPU. Without a usable GPU the
            CPU searches, and `fallback` says so.

    Attributes:
        fallback: why it does not search on the requested device; mostly empty.
    """

    def __init__(
        self, index: faiss.Index | FlatFile, c: float, farthest: float, device: str = "cpu"
    ) -> None:
        self.index, self.c, self.fallback = index, c, ""
        self._farthest = farthest
        self._on_gpu: neighbours.Search | None = None
        self._quantization_error = np.zeros(index.d)
        if isinstance(index, FlatFile):
            self._ids = index.ids
        else:
            self._ids, self._quantization_error = (
                contents.ids(index),
                contents.quantization_error(index),
            )
            if device == "cuda":
                self._go_to_gpu(index)
        self._living = self._ids >= 0
        self._size = int(self._living.sum())

    def _go_to_gpu(self, index: faiss.Index) -> None:
        from hiercli.index.gpu import DeviceSearch

        try:
            self._on_gpu = DeviceSearch(*contents.rows(index))
        except InputError as error:
            self.fallback = str(error)

    def __len__(self) -> int:
        return self._size

    def fetch(
        self,
        queries: np.ndarray,
        k: int,
        *,
        among: np.ndarray | None = None,
        exact: bool = False,
    ) -> list[np.ndarray]:
        """Candidate ids of each query, see `neighbours.candidates`.

        Args:
            queries: (Q, D) points of the ball.
            k: neighbours wanted.
            among: (M,) the ids that may be found, all of which are compared; ``None`` for all.
            exact: compare every point, for every index type.

        Raises:
            FileFormatError: the index does not give as many points as it says to have.
            MismatchError: the queries have another dimension than the index.
        """
        if queries.shape[1] + 1 != self.index.d:
            raise MismatchError(
                f"the index contains points of {self.index.d - 1} dimensions, but the encoder "
                f"outputs {queries.shape[1]}. Use the encoder that built the index"
            )
        lifted_queries = neighbours.as_queries(queries, self.c)
        error_bound = (
            neighbours.rounding(lifted_queries, self._farthest)
            + np.abs(lifted_queries) @ self._quantization_error
        )
        total = len(self) if among is None else len(among)
        wanted = min(k, total)
        if self._on_gpu is not None and among is None:
            return neighbours.candidates(self._on_gpu, lifted_queries, error_bound, wanted, total)
        narrow = self._narrow(among)

        def search(some: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
            every = exact or among is not None or width == total
            return narrow(some, width, every or width > _WIDE)

        found = neighbours.candidates(search, lifted_queries, error_bound, wanted, total)
        fewest = min(map(len, found), default=wanted)
        # A graph may find fewer than there are, a comparison with every point may not.
        if fewest < (wanted if exact or among is not None else min(1, wanted)):
            raise FileFormatError(
                f"the FAISS file is damaged: it gives {fewest} of {wanted} points. Run `hier index "
                "repair` to build it again from its catalogue"
            )
        return found

    def _narrow(
        self, among: np.ndarray | None
    ) -> Callable[[np.ndarray, int, bool], tuple[np.ndarray, np.ndarray]]:
        """A search for products and ids among some, (queries, width, whether exact)."""
        if isinstance(self.index, FlatFile):
            file = self.index
            return lambda lifted_queries, width, _: file.search(lifted_queries, width, among)
        inner = contents.inner(self.index)
        chosen: faiss.IDSelector | None = None
        if not isinstance(inner, faiss.IndexHNSW):
            if among is not None:
                chosen = faiss.IDSelectorBatch(np.ascontiguousarray(among, np.int64))
            lists = inner if isinstance(inner, faiss.IndexIVF) else None

            def search(
                lifted_queries: np.ndarray, width: int, exact: bool
            ) -> tuple[np.ndarray, np.ndarray]:
                if lists is None:
                    options = faiss.SearchParameters(sel=chosen)
                else:
                    nprobe = lists.nlist if exact else lists.nprobe
                    options = faiss.SearchParametersIVF(sel=chosen, nprobe=nprobe)
                products, ids = self.index.search(lifted_queries, width, params=options)
                return products, ids

            return search
        counts = self._living if among is None else np.isin(self._ids, among)
        bits = np.packbits(counts, bitorder="little")
        if not counts.all():
            chosen = faiss.IDSelectorBitmap(len(counts), faiss.swig_ptr(bits))

        def walk(
            lifted_queries: np.ndarray, width: int, exact: bool
        ) -> tuple[np.ndarray, np.ndarray]:
            if exact:
                options = faiss.SearchParameters(sel=chosen)
                products, places = inner.storage.search(lifted_queries, width, params=options)
            else:
                options = faiss.SearchParametersHNSW(sel=chosen, efSearch=inner.hnsw.efSearch)
                products, places = inner.search(lifted_queries, width, params=options)
            assert bits is not None  # the selector looks into it
            return products, np.where(places < 0, -1, self._ids[places])

        return walk
