"""Embeddings on disk: ``.npy`` with a list of paths beside it, or Parquet with everything in it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from hiercli.errors import InputError
from hiercli.files import replacing

SUFFIXES = (".npy", ".parquet")


@dataclass(frozen=True)
class Embeddings:
    """Points and where they come from.

    Attributes:
        points: (N, D) float32 in the ball.
        paths: N picture files.
        fingerprint: of the encoder.
        c: curvature magnitude.
    """

    points: np.ndarray
    paths: Sequence[str]
    fingerprint: str
    c: float


def write(embeddings: Embeddings, target: Path) -> None:
    """Write to ``.npy`` (with ``NAME.paths.txt``, a JSON string a line) or ``.parquet``.

    Raises:
        InputError: another suffix, or the file cannot be written.
    """
    if target.suffix == ".npy":
        listing = target.with_name(f"{target.stem}.paths.txt")
        # Both are whole before either takes its place: points and paths of two runs never mix.
        with replacing(listing) as listing_draft, replacing(target) as draft:
            with open(draft, "wb") as file:
                write_npy(embeddings.points, file)
            # A path with a newline in it still takes one line: such paths alone are quoted.
            lines = "".join(f"{_one_line(path)}\n" for path in embeddings.paths)
            listing_draft.write_text(lines, encoding="utf-8", errors="surrogateescape")
    elif target.suffix == ".parquet":
        _write_parquet(embeddings, target)
    else:
        raise InputError(f"expected a file name that ends in {' or '.join(SUFFIXES)}, got {target}")


def write_npy(points: np.ndarray, file: BinaryIO) -> None:
    """Write points as NumPy's own format; the file need not be seekable."""
    rows = np.ascontiguousarray(points, np.float32)
    np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(rows))
    file.write(rows.reshape(-1).view(np.uint8).data)


def _one_line(path: str) -> str:
    return json.dumps(path) if len(path.splitlines()) != 1 or path.startswith('"') else path


def _write_parquet(embeddings: Embeddings, target: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    count, dim = embeddings.points.shape
    flat = pa.array(np.ascontiguousarray(embeddings.points, np.float32).reshape(-1))
    paths = [path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
             for path in embeddings.paths]  # fmt: skip
    table = pa.table(
        {
            "path": pa.array(paths, pa.string()),
            "point": pa.FixedSizeListArray.from_arrays(flat, dim),
        }
    )
    facts = {"fingerprint": embeddings.fingerprint, "c": embeddings.c, "count": count}
    table = table.replace_schema_metadata({b"hier": json.dumps(facts).encode()})
    with replacing(target) as draft:
        parquet.write_table(table, draft)
