"""Embeddings on disk: ``.npy`` with a list of paths beside it, or Parquet with everything in it.

Beside ``vecs.npy`` lie ``vecs.paths.txt``, a path a line, and ``vecs.hier.json``, which names the
encoder and holds a digest of both, so that files of two runs are never taken for those of one.
Read are also folders of Parquet files, and ``.npz`` archives, in which other programs can hand over
labels and hierarchical proxies.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from hiercli import labels, numpy_files
from hiercli.bounds import is_curvature
from hiercli.errors import DataError, FileFormatError, InputError, MismatchError
from hiercli.files import open_regular, parse_json, replacing

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
    kind = source.suffix.lower()
    if source.is_dir() or kind == ".parquet":
        return _checked(_read_parquet(source), source)
    if kind == ".npy":
        return _checked(_read_npy(source), source)
    if kind == ".npz":
        return _checked(_read_npz(source), source)
    raise InputError(f"expected embeddings as .npy, .npz or .parquet, got {source}")


def read_npy(source: Path) -> np.ndarray:
    """Points of an ``.npy`` file, (N, D) float32, N at least 1.

    Raises:
        InputError: it is missing, or holds something else than numbers with a fraction.
        FileFormatError: it is not a whole ``.npy`` file.
    """
    return _as_points(np.atleast_2d(numpy_files.read_npy(source)), source)


def _read_npy(source: Path) -> Stored:
    points, paths = read_npy(source), None
    listing, note = _listing(source), _note(source)
    content = b""
    if listing.is_file():
        with open_regular(listing) as file:
            content = file.read()
        try:
            # Not by `splitlines`, which breaks lines at signs that names may hold.
            lines = content.decode("utf-8", "surrogateescape").removesuffix("\n").split("\n")
            lines = [line.removesuffix("\r") for line in lines]
            paths = [parse_json(line) if line.startswith('"') else line for line in lines]
            if not all(isinstance(path, str) for path in paths):
                raise ValueError("a path is no text")
        except ValueError as error:
            raise FileFormatError(f"{listing} is no list of paths ({error})") from error
    facts: dict[str, Any] = {}
    if note.is_file():
        facts = _parsed(note)
        if facts.get("points") != _digest(points) or facts.get("paths") != _sha256(content):
            raise MismatchError(
                f"{source}, {listing.name} and {note.name} were not written by one run, or one of "
                "them was changed: embed again"
            )
    return Stored(
        points, paths, _folders(paths), None, _curvature(facts, note), facts.get("fingerprint")
    )


def _parsed(note: Path) -> dict[str, Any]:
    with open_regular(note) as file:
        content = file.read(2**20)
    try:
        facts = parse_json(content)
        if not isinstance(facts, dict) or not isinstance(facts.get("fingerprint", ""), str):
            raise ValueError("no object with a fingerprint")
    except ValueError as error:
        raise FileFormatError(f"{note} is damaged ({error}): embed again") from error
    return facts


def _curvature(facts: dict[str, Any], source: Path) -> float | None:
    c = facts.get("c")
    if c is not None and (isinstance(c, bool) or not isinstance(c, int | float)):
        raise FileFormatError(f"{source}: expected c as a number, found {str(c)[:40]}")
    return None if c is None else float(c)


def _listing(source: Path) -> Path:
    return source.with_name(f"{source.stem}.paths.txt")


def _note(source: Path) -> Path:
    return source.with_name(f"{source.stem}.hier.json")


def _digest(points: np.ndarray) -> str:
    return _sha256(np.ascontiguousarray(points, "<f4").tobytes())


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


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
    if paths is None:
        return None
    return [labels.as_label(os.path.basename(os.path.dirname(path))) for path in paths]


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
        if not is_curvature(stored.c):
            raise FileFormatError(
                f"{source}: expected a curvature magnitude c above 0, found {stored.c}"
            )
        require_in_ball(stored.points, stored.c, source)
        if stored.proxies is not None:
            require_in_ball(stored.proxies, stored.c, source)
    return stored


def _read_npz(source: Path) -> Stored:
    arrays = numpy_files.read_npz(source, ("points", "paths", "labels", "proxies", "c"))
    if "points" not in arrays:
        raise FileFormatError(f"{source}: expected an array called points, found none")
    paths = labels.from_array(arrays["paths"], "paths", source) if "paths" in arrays else None
    classes = _folders(paths)
    if "labels" in arrays:
        classes = _classes(list(labels.from_array(arrays["labels"], "labels", source)), source)
    if not arrays.get("proxies", np.ones(1)).size:
        raise FileFormatError(f"{source}: expected some proxies, found none")
    return Stored(
        _as_points(arrays["points"], source),
        paths,
        classes,
        _as_points(arrays["proxies"], source) if "proxies" in arrays else None,
        _number(arrays["c"], source) if "c" in arrays else None,
    )


def _classes(values: list[str | None], source: Path) -> list[str]:
    return [labels.as_label(label) for label in labels.require_all(values, "label", source)]


def _number(array: np.ndarray, source: Path) -> float:
    if array.size != 1 or array.dtype.kind not in "fiu":
        raise FileFormatError(f"{source}: expected c as one number, found {array!r}")
    return float(array.item())


def _read_parquet(source: Path) -> Stored:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        files = _parts(source) if source.is_dir() else [str(source)]
        for file in files:
            with open_regular(file) as content:
                labels.require_rows(parquet.ParquetFile(content), file)
        table = parquet.read_table(files if source.is_dir() else open_regular(source))
        points = _vectors(table.column("point"))
        paths = labels.require_all(
            labels.from_column(table.column("path"), "path", source), "path", source
        )
        facts = parse_json((table.schema.metadata or {}).get(b"hier", b"{}"))
        if not isinstance(facts, dict) or not isinstance(facts.get("fingerprint", ""), str):
            raise ValueError("what it says of its encoder is damaged")
        classes = _folders(paths)
        if "label" in table.column_names:
            classes = _classes(labels.from_column(table.column("label"), "label", source), source)
    except DataError:
        raise
    except (
        pa.ArrowException, KeyError, ValueError, TypeError, AttributeError, OSError, MemoryError
    ) as error:  # fmt: skip
        raise FileFormatError(
            f"{source} does not hold embeddings (columns path and point): {error}"
        ) from error
    c, fingerprint = _curvature(facts, source), facts.get("fingerprint")
    return Stored(_as_points(points, source), paths, classes, None, c, fingerprint)


def _parts(folder: Path) -> list[str]:
    """The Parquet files of a folder, which are all there if a cluster run wrote them."""
    found = sorted(str(file) for file in folder.glob("*.parquet") if file.is_file())
    if not found:
        raise InputError(f"expected a folder of Parquet files, but {folder} holds none")
    about = folder / "hier.json"
    if about.is_file():
        facts = _parsed(about)
        count, size = facts.get("pictures"), facts.get("shard")
        if not isinstance(count, int) or not isinstance(size, int) or size < 1:
            raise FileFormatError(f"{about} is damaged: embed again")
        if len(found) != -(-count // size):
            raise InputError(
                f"expected {-(-count // size)} files in {folder}, found {len(found)}: the run that "
                "writes them is not finished. Give its command again"
            )
    return found


def _vectors(column: Any) -> np.ndarray:
    """A column of lists of numbers of one length as (N, D)."""
    whole = column.combine_chunks()
    flat = whole.flatten().to_numpy(zero_copy_only=False)
    count = len(whole)
    if not count or whole.null_count or len(flat) % count:
        raise ValueError("points are missing, or of different lengths")
    lengths = np.diff(whole.offsets.to_numpy()) if hasattr(whole, "offsets") else np.ones(1)
    if np.ptp(lengths):
        raise ValueError("points of different lengths")
    rows: np.ndarray = flat.reshape(count, -1)
    return rows


def write(embeddings: Embeddings, target: Path) -> None:
    """Write to ``.npy`` (with ``NAME.paths.txt`` and ``NAME.hier.json``) or ``.parquet``.

    Raises:
        InputError: another suffix, or the file cannot be written.
    """
    kind = target.suffix.lower()
    if kind == ".npy":
        # A path with a line break in it still takes one line: such paths alone are quoted.
        lines = "".join(f"{_one_line(path)}\n" for path in embeddings.paths)
        listed = lines.encode("utf-8", "surrogateescape")
        facts = {"fingerprint": embeddings.fingerprint, "c": embeddings.c}
        facts |= {"points": _digest(embeddings.points), "paths": _sha256(listed)}
        # All are whole before any takes its place. After a kill in between the note, the last to
        # do so, tells that they do not belong together.
        with (
            replacing(_note(target)) as note,
            replacing(_listing(target)) as listing,
            replacing(target) as draft,
        ):
            with open(draft, "wb") as file:
                write_npy(embeddings.points, file)
            listing.write_bytes(listed)
            note.write_text(json.dumps(facts) + "\n", encoding="utf-8")
    elif kind == ".parquet":
        _write_parquet(embeddings, target)
    else:
        raise InputError(f"expected a file name that ends in {' or '.join(SUFFIXES)}, got {target}")


def write_npy(points: np.ndarray, file: BinaryIO) -> None:
    """Write points as NumPy's own format; the file need not be seekable."""
    rows = np.ascontiguousarray(points, np.float32)
    np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(rows))
    file.write(rows.reshape(-1).view(np.uint8).data)


def _one_line(path: str) -> str:
    return json.dumps(path) if path.splitlines() != [path] or path.startswith('"') else path


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
