"""An index opened for search."""
# FAISS's own stubs lack much of what is used here.
# mypy: disable-error-code="call-arg,attr-defined"

import functools
from collections.abc import Callable

import faiss
import numpy as np

from hiercli import neighbours
from hiercli.errors import FileFormatError, InputError, MismatchError
from hiercli.index import contents
from hiercli.index import products as products_of

_SPARE_OF_BYTES = 256
"""Candidates beyond those wanted where rows have a byte a coordinate: a second look costs more."""
_PACKED = 2**30
"""Bytes of points that are held in memory a second time at most."""
_WIDE = 4096
"""Candidates from which on all points are compared: to walk a graph for as many takes longer."""


class Delta:
    """How the images differ from what a FAISS file holds.

    Args:
        ids: (N,) of points that it does not have.
        points: (N, D) of the ball.
        removed: (R,) ids whose points it has and that do not count, in order.
        c: curvature magnitude.
    """

    def __init__(self, ids: np.ndarray, points: np.ndarray, removed: np.ndarray, c: float) -> None:
        self.ids, self.removed = ids, removed
        self.rows = neighbours.lift(points, c) if len(ids) else np.empty((0, 1), np.float32)
        self.farthest = float(self.rows[:, 0].max()) if len(ids) else 1.0

    def __bool__(self) -> bool:
        return bool(len(self.ids) or len(self.removed))

    def merged(
        self,
        found: tuple[np.ndarray, np.ndarray],
        lifted_queries: np.ndarray,
        width: int,
        among: np.ndarray | None,
        *,
        is_all: bool,
    ) -> tuple[np.ndarray, np.ndarray]:
        """What a search of the FAISS file gave, without what is removed and with what is added.

        Args:
            found: products and ids.
            lifted_queries: (Q, D+1) of the search.
            width: how many are wanted.
            among: ids that may be found; ``None`` for all.
            is_all: whether no row of the FAISS file was left out.
        """
        products, ids = found
        if len(self.removed):
            ids = np.where(np.isin(ids, self.removed), -1, ids)
        chosen = slice(None) if among is None else np.isin(self.ids, among)
        rows, own = self.rows[chosen], self.ids[chosen]
        if not len(own):
            return products, ids
        few = min(width, len(own))
        more, places = faiss.knn(lifted_queries, rows, few, metric=faiss.METRIC_INNER_PRODUCT)
        # Below this nothing is known of either.
        none = np.full((len(products), 1), -np.inf, np.float32)
        last = none if is_all or not products.shape[1] else products[:, -1:]
        if few < len(own):
            last = np.maximum(last, more[:, -1:])
        products = np.concatenate([products, more], axis=1)
        ids = np.concatenate([ids, own[places]], axis=1)
        order = np.argsort(-products, axis=1, kind="stable")
        products, ids = (np.take_along_axis(part, order, axis=1) for part in (products, ids))
        unknown = products < last
        return np.where(unknown, last, products), np.where(unknown, -1, ids)


class Searcher:
    """An index opened for search.

    Args:
        index: as `kinds.build` made it.
        c: curvature magnitude.
        farthest: largest time coordinate among its rows.
        device: ``cuda``: compare all points on the GPU. Without a usable GPU the
            CPU searches, and `fallback` says so.
        delta: images by which it differs from what is to be searched.
        count: images to be searched; counted where left out.
        threads: with which an index of type flat is searched, its points packed in memory a second
            time where they are not too many; 0: they are read where they are.

    Attributes:
        fallback: why it does not search on the requested device; mostly empty.
    """

    def __init__(
        self,
        index: faiss.Index,
        c: float,
        farthest: float,
        device: str = "cpu",
        *,
        delta: Delta | None = None,
        count: int | None = None,
        threads: int = 0,
    ) -> None:
        self.index, self.c, self.fallback = index, c, ""
        self._delta = delta or Delta(*(np.empty(0, np.int64),) * 3, c)
        self._farthest = max(farthest, self._delta.farthest)
        self._resident: neighbours.Search | None = None
        self._resident_rows = self._widest = 0
        self._quantization_error = contents.quantization_error(index)
        inner, size = contents.inner(index), 4 * index.ntotal * index.d
        if device == "cuda" and size:
            self._hold(device, lambda: contents.rows(index))
        elif threads and isinstance(inner, faiss.IndexFlat) and 0 < size <= _PACKED:
            self._hold("cpu", lambda: (self._ids, contents.stored(inner)), threads)
        self._size = len(contents.living(index)) if count is None else count

    def _hold(
        self, device: str, read: Callable[[], tuple[np.ndarray, np.ndarray]], threads: int = 0
    ) -> None:
        from hiercli.index.resident import ResidentSearch

        try:
            ids, rows = read()
            self._resident = ResidentSearch(ids, rows, device, threads)
        except InputError as error:
            self.fallback = str(error)
            return
        self._resident_rows = len(ids)
        # A CPU sorts many candidates of one query slowly.
        self._widest = len(ids) if device == "cuda" else _WIDE

    @functools.cached_property
    def _ids(self) -> np.ndarray:
        """Ids by place."""
        return contents.ids(self.index)

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
        resident = self._resident if among is None else None
        narrow = self._narrow(among)
        # Of all that the FAISS file has, some may not count.
        most = self.index.ntotal if resident is None else self._resident_rows
        spare = max(0, most + len(self._delta.ids) - len(self))

        def search(some: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
            every = exact or among is not None or width == total
            inside = min(most, width + spare) if width == total else min(most, width)
            if not inside:
                found = np.empty((len(some), 0), np.float32), np.empty((len(some), 0), np.int64)
            elif resident is not None and inside <= self._widest:
                found = resident(some, inside)
            else:
                found = narrow(some, inside, every or width > _WIDE)
            if not self._delta:
                return found
            is_all = every and inside == most
            return self._delta.merged(found, some, width, among, is_all=is_all)

        found = neighbours.candidates(
            search, lifted_queries, error_bound, wanted, total,
            _SPARE_OF_BYTES if self._quantization_error.any() else neighbours.SPARE,
        )  # fmt: skip
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
        inner = contents.inner(self.index)
        chosen: faiss.IDSelector | None = None
        if among is not None and not isinstance(inner, faiss.IndexHNSW):
            chosen = faiss.IDSelectorBatch(np.ascontiguousarray(among, np.int64))
        if isinstance(inner, faiss.IndexIVF):

            def visit(
                lifted_queries: np.ndarray, width: int, exact: bool
            ) -> tuple[np.ndarray, np.ndarray]:
                nprobe = inner.nlist if exact else inner.nprobe
                options = faiss.SearchParametersIVF(sel=chosen, nprobe=nprobe)
                products, ids = self.index.search(lifted_queries, width, params=options)
                return products, ids

            return visit
        if not isinstance(inner, faiss.IndexHNSW):
            flat = inner if chosen is None and isinstance(inner, faiss.IndexFlat) else None

            def compare(
                lifted_queries: np.ndarray, width: int, exact: bool
            ) -> tuple[np.ndarray, np.ndarray]:
                if (
                    flat is not None
                    and len(lifted_queries) >= products_of.FEWEST
                    and width <= _WIDE
                ):
                    rows = contents.stored(flat)
                    return products_of.largest(lifted_queries, rows, self._ids, width)
                # Without options FAISS compares many queries at once.
                options = None if chosen is None else faiss.SearchParameters(sel=chosen)
                products, ids = self.index.search(lifted_queries, width, params=options)
                return products, ids

            return compare
        bits: np.ndarray | None = None
        if among is not None:
            counts = np.isin(self._ids, among)
            bits = np.packbits(counts, bitorder="little")
            chosen = faiss.IDSelectorBitmap(len(counts), faiss.swig_ptr(bits))

        def walk(
            lifted_queries: np.ndarray, width: int, exact: bool
        ) -> tuple[np.ndarray, np.ndarray]:
            if exact:
                options = None if chosen is None else faiss.SearchParameters(sel=chosen)
                products, places = inner.storage.search(lifted_queries, width, params=options)
            else:
                options = faiss.SearchParametersHNSW(sel=chosen, efSearch=inner.hnsw.efSearch)
                products, places = inner.search(lifted_queries, width, params=options)
            _ = bits  # the selector looks into it
            return products, np.where(places < 0, -1, self._ids[places])

        return walk
