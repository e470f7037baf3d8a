"""What a FAISS index of ours holds: its kind, the ids and the lifted points."""
# FAISS's own stubs lack much of what is used here.
# mypy: disable-error-code="attr-defined,union-attr,arg-type"

from collections.abc import Iterator

import faiss
import numpy as np

MOST_WIDENED = 2**26
"""Bytes that FAISS reckons for widening rows, although it takes no such memory: so many it may."""
_HALF_STEP = 0.51
"""Of a quantised coordinate, with a little for the rounding of what decodes it."""


def index_type_of(index: faiss.Index) -> str:
    """Which of `kinds.INDEX_TYPES` an index is."""
    proper = inner(index)
    if isinstance(proper, faiss.IndexHNSW):
        return "hnsw"
    if isinstance(proper, faiss.IndexScalarQuantizer):
        return "sq8"
    return "ivf" if isinstance(proper, faiss.IndexIVF) else "flat"


def require_ours(index: faiss.Index) -> None:
    """Check, without a look at each row, that FAISS read an index as `kinds.build` makes them.

    Raises:
        ValueError: it is of another kind, or has not as many ids as points.
    """
    proper = inner(index)
    kinds = (faiss.IndexFlat, faiss.IndexHNSWFlat, faiss.IndexIVFFlat, faiss.IndexScalarQuantizer)
    if not isinstance(proper, kinds) or index.metric_type != faiss.METRIC_INNER_PRODUCT:
        raise ValueError(f"the FAISS type {type(proper).__name__} is not supported")
    if isinstance(proper, faiss.IndexIVF):
        lists = faiss.downcast_InvertedLists(proper.invlists)
        if isinstance(lists, faiss.OnDiskInvertedLists) and lists.filename:
            raise ValueError("its lists lie in another file")
        return
    counts = {index.ntotal, proper.ntotal, index.id_map.size()}
    if isinstance(proper, faiss.IndexHNSW):
        counts.add(proper.storage.ntotal)
    if len(counts) > 1:
        raise ValueError(f"ids and points of different numbers, {sorted(counts)}")
    _require_own_width(index, proper)


def _require_own_width(index: faiss.Index, proper: faiss.Index) -> None:
    """Check that rows are as wide as they are told to be, or widened by zeros at their end.

    Raises:
        ValueError: they are not.
    """
    between = faiss.downcast_index(index.index)
    if not isinstance(between, faiss.IndexPreTransform):
        if proper.d != index.d:
            raise ValueError(f"rows of {proper.d} numbers, expected {index.d}")
        return
    chain = between.chain
    step = faiss.downcast_VectorTransform(chain.at(0)) if chain.size() == 1 else None
    wanted = np.arange(proper.d)
    wanted[index.d :] = -1
    if (
        not isinstance(proper, faiss.IndexScalarQuantizer)
        or not isinstance(step, faiss.RemapDimensionsTransform)
        or (step.d_in, step.d_out) != (index.d, proper.d)
        or not np.array_equal(faiss.vector_to_array(step.map), wanted)
    ):
        raise ValueError("its rows are transformed")


def living(index: faiss.Index) -> np.ndarray:
    """Ids of all points that count."""
    every = ids(index)
    return every[every >= 0]


def ids(index: faiss.Index) -> np.ndarray:
    """Ids of all points by their places; -1 is what was removed."""
    return np.concatenate([np.empty(0, np.int64), *(numbers for numbers, _ in _parts(index))])


def rows(index: faiss.Index) -> tuple[np.ndarray, np.ndarray]:
    """Ids (N,) and lifted points (N, D+1) of all that count, in no order.

    They may be views of the index's memory: keep it as long as them.
    """
    every = ids(index)
    points = [part for _, part in _parts(index)] or [np.empty((0, index.d), np.float32)]
    whole = points[0] if len(points) == 1 else np.concatenate(points)
    counts = every >= 0
    return (every, whole) if counts.all() else (every[counts], whole[counts])


def quantization_error(index: faiss.Index) -> np.ndarray:
    """How far each coordinate of an index's rows may lie from that of the lifted point, (D+1,)."""
    proper = inner(index)
    if not isinstance(proper, faiss.IndexScalarQuantizer):
        return np.zeros(index.d)
    spans = faiss.vector_to_array(proper.sq.trained)[proper.d :][: index.d]
    return spans.astype(np.float64) / 255 * _HALF_STEP


def farthest(index: faiss.Index) -> float:
    """Largest time coordinate among the rows; 1, which is the least there is, where it is empty."""
    return max((float(points[:, 0].max()) for _, points in _parts(index)), default=1.0)


def inner(index: faiss.Index) -> faiss.Index:
    """The index proper, without the map from its places to ids, and without what widens rows."""
    if not isinstance(index, faiss.IndexIDMap):
        return faiss.downcast_index(index)
    found = faiss.downcast_index(index.index)
    # No more than these two: what else a file puts around rows is not ours.
    is_wide = isinstance(found, faiss.IndexPreTransform)
    return faiss.downcast_index(found.index) if is_wide else found


def stored(index: faiss.IndexFlat) -> np.ndarray:
    """The rows of a flat index as a view of its memory."""
    return faiss.rev_swig_ptr(index.get_xb(), index.ntotal * index.d).reshape(-1, index.d)


def _parts(index: faiss.Index) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Ids and lifted points as views of the index's memory; -1 is the id of what was removed."""
    proper = inner(index)
    if isinstance(proper, faiss.IndexIVF):
        lists = proper.invlists
        for number in range(proper.nlist):
            size = lists.list_size(number)
            if size:
                numbers = faiss.rev_swig_ptr(lists.get_ids(number), size)
                codes = faiss.rev_swig_ptr(lists.get_codes(number), size * proper.code_size)
                yield numbers, codes.view(np.float32).reshape(size, index.d)
        return
    if isinstance(proper, faiss.IndexScalarQuantizer):
        codes = faiss.vector_to_array(proper.codes).reshape(proper.ntotal, proper.code_size)
        yield faiss.vector_to_array(index.id_map), proper.sa_decode(codes)[:, : index.d]
        return
    flat = faiss.downcast_index(proper.storage) if isinstance(proper, faiss.IndexHNSW) else proper
    if flat.ntotal:
        yield faiss.vector_to_array(index.id_map), stored(flat)
