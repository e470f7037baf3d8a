"""Embeddings on disk: ``.npy`` with a list of paths beside it, or Parquet with everything in it.

Read are also folders of Parquet files, and ``.npz`` archives, in which other programs can hand over
labels and hierarchical proxies.
"""

import json
import os
import tokenize
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from hiercli.errors import FileFormatError, InputError
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


@dataclass(frozen=True)
class Stored:
    """What a file of embeddings holds; ``None`` for what it does not say.

    Attributes:
        points: (N, D) float32.
        paths: N picture files.
        labels: N class names; where no column says them, the names of the pictures' folders.
        proxies: (P, D) hierarchical proxies.
        c: curvature magnitude.
        fingerprint: of the encoder.
    """

    points: np.ndarray
    paths: list[str] | None = None
    labels: list[str] | None = None
    proxies: np.ndarray | None = None
    c: float | None = None
    fingerprint: str | None = None


def read(source: Path) -> Stored:
    """Read embeddings.

    Args:
        source: ``.npy`` (paths from ``NAME.paths.txt``, where it is there), ``.parquet`` or a
            folder of such files (columns ``point`` and ``path``, if there is one ``label``), or
            ``.npz`` with ``points`` and, each if it is there, ``c``, ``labels``, ``paths`` and
            ``proxies``.

    Raises:
        InputError: the file is missing, or of another kind.
        FileFormatError: it does not hold what its kind should.
    """
    if not source.exists():
        raise InputError(f"expected a file of embeddings, but {source} is missing")
    if source.suffix == ".npy":
        listing = source.with_name(f"{source.stem}.paths.txt")
        points = read_npy(source)
        paths = None
        if listing.is_file():
            lines = listing.read_text("utf-8", "surrogateescape").splitlines()
            try:
                paths = [json.loads(line) if line.startswith('"') else line for line in lines]
            except ValueError as error:
                raise FileFormatError(f"{listing} is no list of paths ({error})") from error
        return _checked(Stored(points, paths, _folders(paths)), source)
    if source.suffix == ".npz":
        return _checked(_read_npz(source), source)
    if source.suffix == ".parquet" or source.is_dir():
        return _checked(_read_parquet(source), source)
    raise InputError(f"expected embeddings as .npy, .npz or .parquet, got {source}")


def read_npy(source: Path) -> np.ndarray:
    """Points of an ``.npy`` file, (N, D) float32, N at least 1.

    Raises:
        InputError: it holds something else.
    """
    try:
        points = np.atleast_2d(np.load(source, allow_pickle=False))
    except (ValueError, OSError, EOFError, SyntaxError, MemoryError, OverflowError,
            tokenize.TokenError) as error:  # fmt: skip
        raise InputError(f"{source} is not an array of points ({error})") from error
    return _as_points(points, source)


def require_in_ball(points: np.ndarray, c: float, source: Path) -> None:
    """Check that points lie in the ball of curvature -c.

    Raises:
        InputError: some do not, or are no numbers.
    """
    # Not so where a number is none, or infinite.
    if not (c * np.square(points.astype(np.float64)).sum(axis=1) < 1).all():
        raise InputError(
            f"{source} holds points outside the ball of curvature -{c:g}: they were embedded by "
            "another encoder, or by none"
        )


def _as_points(points: np.ndarray, source: Path) -> np.ndarray:
    if points.ndim != 2 or not points.size or points.dtype.kind != "f":
        raise InputError(
            f"expected points as floats, (N, D), but {source} holds {points.dtype} {points.shape}"
        )
    with np.errstate(over="ignore"):
        narrow: np.ndarray = points.astype(np.float32)
    return narrow


def _folders(paths: Sequence[str] | None) -> list[str] | None:
    return None if paths is None else [Path(path).parent.name for path in paths]


def _checked(stored: Stored, source: Path) -> Stored:
    for name in ("paths", "labels"):
        values = getattr(stored, name)
        if values is not None and len(values) != len(stored.points):
            raise FileFormatError(
                f"{source}: expected {name} for its {len(stored.points)} points, found "
                f"{len(values)}: embed again"
            )
    if stored.proxies is not None and stored.proxies.shape[1:] != stored.points.shape[1:]:
        raise FileFormatError(
            f"{source}: expected proxies of {stored.points.shape[1]} dimensions, found "
            f"{stored.proxies.shape}"
        )
    if stored.c is not None:
        if not 0 < stored.c < np.inf:
            raise FileFormatError(f"{source}: expected c above 0, found {stored.c}")
        require_in_ball(stored.points, stored.c, source)
        if stored.proxies is not None:
            require_in_ball(stored.proxies, stored.c, source)
    return stored


def _read_npz(source: Path) -> Stored:
    try:
        with zipfile.ZipFile(source), np.load(source, allow_pickle=False) as archive:
            arrays: Mapping[str, np.ndarray] = dict(archive)
    except (ValueError, OSError, EOFError, MemoryError, zipfile.BadZipFile) as error:
        raise FileFormatError(f"{source} is not a NumPy archive ({error})") from error
    if "points" not in arrays:
        raise FileFormatError(
            f"{source}: expected an array called points, found {', '.join(arrays) or 'none'}"
        )
    texts = {
        name: [os.fsdecode(value) if isinstance(value, bytes) else str(value)
               for value in arrays[name].ravel().tolist()]
        for name in ("paths", "labels") if name in arrays
    }  # fmt: skip
    if not arrays.get("proxies", np.ones(1)).size:
        raise FileFormatError(f"{source}: expected some proxies, found none")
    paths = texts.get("paths")
    return Stored(
        _as_points(arrays["points"], source),
        paths,
        texts.get("labels", _folders(paths)),
        _as_points(arrays["proxies"], source) if "proxies" in arrays else None,
        _number(arrays["c"], source) if "c" in arrays else None,
    )


def _number(array: np.ndarray, source: Path) -> float:
    if array.size != 1 or array.dtype.kind not in "fiu":
        raise FileFormatError(f"{source}: expected c as one number, found {array!r}")
    return float(array.item())


def _read_parquet(source: Path) -> Stored:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        table = parquet.read_table(source)
        points = np.stack(table.column("point").to_numpy(zero_copy_only=False))
        paths = [str(path) for path in table.column("path").to_pylist()]
        facts = json.loads((table.schema.metadata or {}).get(b"hier", b"{}"))
        labels = _folders(paths)
        if "label" in table.column_names:
            labels = [str(label) for label in table.column("label").to_pylist()]
    except (pa.ArrowException, KeyError, ValueError, OSError) as error:
        raise FileFormatError(
            f"{source} does not hold embeddings (columns path and point): {error}"
        ) from error
    return Stored(
        _as_points(points, source), paths, labels, None, facts.get("c"), facts.get("fingerprint")
    )


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
