"""ONNX models that other programs exported: read whole, with a digest, and run as they were read.

Large models keep their weights in further files beside them. These are read too, and the digest
covers them.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from hiercli.bounds import MAX_DIM
from hiercli.encoder.onnx_file import fields
from hiercli.encoder.sessions import open_session
from hiercli.errors import FileFormatError, HierError, InputError
from hiercli.files import open_regular, printable

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

MOST_BYTES = 8 * 2**30
"""Of a model with all its weights."""
_MOST_FILES = 10_000
_DEEPEST = 16
"""Graphs inside each other."""
_GRAPH, _FUNCTION = 7, 25
"""Fields of ModelProto in onnx.proto."""
_EXTERNAL = 13
"""Field of TensorProto: where its data lies, as pairs of key (1) and value (2)."""
_INNER = {
    "model": {_GRAPH: "graph", _FUNCTION: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
"""By the kind of a message: the fields in which tensors may lie, and their kinds."""


@dataclass(frozen=True)
class ForeignModel:
    """A model as it was read.

    Attributes:
        path: its file.
        content: the bytes of it.
        weights: the bytes of its further files, by name.
        digest: SHA-256 of all of them, hexadecimal.
    """

    path: Path
    content: bytes = field(repr=False)
    weights: Mapping[str, bytes] = field(repr=False)
    digest: str

    @classmethod
    def read(cls, path: Path | str) -> Self:
        """Read a model and the files that hold its weights.

        Raises:
            InputError: a file is missing, too large, or no regular file.
            FileFormatError: it is truncated or not ONNX, or its weights lie in another folder.
        """
        path = Path(path)
        if not path.exists():
            raise InputError(f"expected an ONNX model, but {path} is missing")
        content = _read(path, MOST_BYTES)
        try:
            names = sorted(set(_names(memoryview(content), "model", 0)))
            if len(names) > _MOST_FILES:
                raise ValueError(f"its weights lie in {len(names):,} files")
        except ValueError as error:
            raise FileFormatError(
                f"{path} is not a valid ONNX file ({error}). Copy or export it again"
            ) from error
        weights: dict[str, bytes] = {}
        for name in names:
            left = MOST_BYTES - len(content) - sum(map(len, weights.values()))
            weights[name] = _read_weights(path, name, left)
        digest = hashlib.sha256(content)
        for name, data in weights.items():
            digest.update(name.encode() + b"\0" + hashlib.sha256(data).digest())
        return cls(path, content, weights, digest.hexdigest())

    def session(self, providers: Sequence[str], threads: int) -> "InferenceSession":
        """ONNX Runtime, ready to run it on some cores; 0: on all.

        Raises:
            FileFormatError: it cannot.
        """
        try:
            return open_session(self.content, providers, threads, self.weights)
        except HierError:
            raise
        except Exception as error:  # ONNX Runtime's own errors share no base but this
            raise FileFormatError(
                f"ONNX Runtime cannot load {self.path} ({reason_of(error)}). Copy or export it "
                "again"
            ) from error


@dataclass(frozen=True)
class Port:
    """An input or output of a model.

    Attributes:
        name: in the graph.
        type: as ONNX Runtime writes it: ``tensor(float)``.
        shape: a number, or a name or ``None`` for any number, for each dimension; empty where the
            graph does not say it.
    """

    name: str
    type: str
    shape: tuple[int | str | None, ...]

    def __str__(self) -> str:
        sides = ", ".join("?" if side is None else printable(str(side)) for side in self.shape)
        return f"{printable(self.name)} {self.type} ({sides})"


def ports(session: "InferenceSession", path: Path) -> tuple[list[Port], list[Port]]:
    """Inputs and outputs of a model.

    Raises:
        FileFormatError: it has names that are no text.
    """
    try:
        inputs, outputs = (
            [Port(one.name, one.type, tuple(one.shape or ())) for one in some]
            for some in (session.get_inputs(), session.get_outputs())
        )
    except UnicodeDecodeError as error:
        raise FileFormatError(
            f"{path} has names that are not UTF-8. Copy or export it again"
        ) from error
    return inputs, outputs


def reason_of(error: Exception) -> str:
    """The first line of an error, fit for a sentence."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return printable(lines[0][:300]).rstrip(". ")


def output_of(outputs: Sequence[Port], names: Sequence[str], path: Path) -> Port:
    """The output with one vector for each input: by name, or else the only one of 2 dimensions.

    Args:
        outputs: of the model.
        names: the most wanted first.
        path: of the model.

    Raises:
        FileFormatError: there is none, or several.
    """
    for name in names:
        for output in outputs:
            if output.name == name:
                return output
    flat = [output for output in outputs if len(output.shape) == 2]
    if len(flat) == 1:
        return flat[0]
    if len(outputs) == 1 and not outputs[0].shape:  # its shape is known when it has run
        return outputs[0]
    found = ", ".join(map(str, outputs[:6]))
    raise FileFormatError(
        f"expected {path} to have an output {' or '.join(names)}, or one output of 2 dimensions, "
        f"found {found}. Export the model with its projection"
    )


def dim_of(output: Port) -> int | None:
    """D of an output (B, D); ``None`` where the graph does not say it.

    Raises:
        FileFormatError: it is far too large.
    """
    dim = output.shape[-1] if len(output.shape) == 2 else None
    if not isinstance(dim, int):
        return None
    if not 1 <= dim <= MAX_DIM:
        raise FileFormatError(f"expected vectors of 1 to {MAX_DIM} numbers, the model has {dim}")
    return dim


def require_vectors(found: Any, count: int, dim: int | None, path: Path) -> np.ndarray:
    """Check what a model computed: float64 (count, dim), finite, no vector of length 0.

    Args:
        found: the output.
        count: of inputs.
        dim: that is expected; ``None`` for any.
        path: of the model.

    Raises:
        FileFormatError: it is something else.
    """
    is_right = (
        isinstance(found, np.ndarray) and found.dtype.kind == "f" and found.ndim == 2
        and len(found) == count and 1 <= found.shape[1] <= MAX_DIM
        and dim in (None, found.shape[1])
    )  # fmt: skip
    if not is_right:
        shown = f"{found.dtype} {found.shape}" if isinstance(found, np.ndarray) else type(found)
        raise FileFormatError(
            f"expected vectors ({count}, {dim or 'D'}) from {path}, got {shown}. Export it again"
        )
    vectors = found.astype(np.float64)
    if not np.isfinite(vectors).all() or not vectors.any(axis=1).all():
        raise FileFormatError(
            f"{path} outputs vectors that are not finite, or all zero. Export it again, or use "
            "another precision of it"
        )
    return vectors


def _read(path: Path, most: int) -> bytes:
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise InputError(
                f"expected a model of at most {MOST_BYTES // 2**30} GiB with its weights, but "
                f"{path} has {size:,} bytes"
            )
        return file.read(size)


def _read_weights(path: Path, name: str, most: int) -> bytes:
    shown = printable(name[:100])
    if name in ("", ".", "..") or os.path.basename(name) != name or "\0" in name:
        raise FileFormatError(
            f"{path} names a file of weights outside its folder ({shown}), which hier does not "
            "open. Export it again with the weights beside the model"
        )
    beside = path.with_name(name)
    if not beside.exists():
        raise InputError(
            f"expected the weights of {path} in {shown} beside it, but that file is missing. Copy "
            "it there"
        )
    return _read(beside, most)


def _names(message: memoryview, kind: str, depth: int) -> Iterator[str]:
    """Names of the files in which tensors of a message lie.

    Raises:
        ValueError: it is no ONNX.
    """
    if depth > 4 * _DEEPEST:
        raise ValueError("its graphs are nested too deeply")
    if kind == "tensor":
        for number, value in fields(message):
            if number == _EXTERNAL:
                pair = {key: bytes(text) for key, text in fields(value)}
                if pair.get(1) == b"location":
                    yield pair.get(2, b"").decode()
        return
    for number, value in fields(message):
        if (inner := _INNER[kind].get(number)) is not None:
            yield from _names(value, inner, depth + 1)
