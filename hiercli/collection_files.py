"""A `Collection` on disk: ``.npy`` with two files beside it, Parquet, or ``.npz``.


- Beside ``vecs.npy`` lie ``vecs.paths.txt``, a path a line, and ``vecs.hier.json``, which names the
  encoder, holds labels and levels, and a digest of points and paths, so that files of two runs are
  never taken for those of one.
- Parquet has the columns ``path``, ``point``, ``label`` and one for each level. A folder of such
  files is read as one. An empty label means that the image has none. The column ``split`` is there
  where the split of an image is known.
- ``.npz`` is how other programs hand over labels and hierarchical proxies.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from hiercli import labels, numpy_files
from hiercli.collection import Collection
from hiercli.errors import DataError, FileFormatError, InputError, MismatchError
from hiercli.files import open_regular, parse_json, readable, replacing

SUFFIXES = (".npy", ".parquet")
_LARGEST_NOTE = 2**28
"""Bytes of ``NAME.hier.json``."""


def read(source: Path) -> Collection:
    """Read a collection.

    Args:
        source: ``.npy`` (paths from ``NAME.paths.txt``, where it is there), ``.parquet`` or a
            folder of such files (columns ``point`` and ``path``; ``label`` and levels, if there are
            any), or ``.npz`` with ``points`` and, each if it is there, ``c``, ``labels``,
            ``paths`` and ``proxies``. Where labels are not said, an image's is the name of its
            folder.

    Raises:
        InputError: the file is missing, or of another kind.
        FileFormatError: it does not hold what its kind should.
    """
    if not source.exists():
        raise InputError(f"expected a file of embeddings, but {source} is missing")
    kind = source.suffix.lower()
    if source.is_dir() or kind == ".parquet":
        return _read_parquet(source)
    if kind == ".npy":
        return _read_npy(source)
    if kind == ".npz":
        return _read_npz(source)
    raise InputError(f"expected embeddings as .npy, .npz or .parquet, got {source}")


def read_npy(source: Path) -> np.ndarray:
    """Points of an ``.npy`` file, (N, D) float32, N at least 1.

    Raises:
        InputError: it is missing, or holds something else than numbers with a fraction.
        FileFormatError: it is not a whole ``.npy`` file.
    """
    return _as_points(np.atleast_2d(numpy_files.read_npy(source)), source)


def _read_npy(source: Path) -> Collection:
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
                raise ValueError("a path is not text")
            if not any(paths):  # written without
                paths = None
        except ValueError as error:
            raise FileFormatError(f"{listing} is not a list of paths ({error})") from error
    facts: dict[str, Any] = {}
    classes = _folders(paths)
    level_names: tuple[str, ...] = ()
    levels = None
    if note.is_file():
        facts = _parsed(note)
        if facts.get("points") != _digest(points) or facts.get("paths") != _sha256(content):
            raise MismatchError(
                f"{source}, {listing.name} and {note.name} do not belong together: they were "
                "written by different runs, or one was changed. Embed again"
            )
        if "labels" in facts:
            classes, levels, level_names = _noted_labels(facts, len(points), note)
    return _made(
        source, points=points, paths=paths, labels=classes, levels=levels, level_names=level_names,
        c=_curvature(facts, note), fingerprint=facts.get("fingerprint"),
        splits=_noted_splits(facts, note),
    )  # fmt: skip


def _made(source: Path, **parts: Any) -> Collection:
    """A collection of what a file holds; what cannot be is a fault of the file."""
    try:
        return Collection(**parts)
    except InputError as error:
        if type(error) is not InputError:
            raise
        raise FileFormatError(f"{source}: {error}") from error


def _noted_labels(
    facts: dict[str, Any], count: int, note: Path
) -> tuple[list[str], list[tuple[str, ...]] | None, tuple[str, ...]]:
    """Labels, levels and level names of N images, as `_note_labels` wrote them."""
    try:
        names = [(str(label), tuple(map(str, groups))) for label, groups in facts["labels"]]
        codes = [int(code) for code in facts["codes"]]
        level_names = tuple(map(str, facts["levels"]))
        if len(codes) != count or min(codes, default=0) < 0:
            raise ValueError(f"{len(codes)} labels for {count} points")
        classes = [names[code][0] for code in codes]
        levels = [names[code][1] for code in codes]
    except (ValueError, TypeError, KeyError, IndexError, OverflowError) as error:
        raise FileFormatError(f"{note} is damaged ({error}). Embed again") from error
    return classes, levels if level_names else None, level_names


def _noted_splits(facts: dict[str, Any], note: Path) -> list[str] | None:
    splits = facts.get("splits")
    if splits is not None and not (
        isinstance(splits, list) and all(isinstance(split, str) for split in splits)
    ):
        raise FileFormatError(f"{note} is damaged (splits that are no text). Embed again")
    return splits


def _note_labels(collection: Collection) -> dict[str, Any]:
    if collection.labels is None:
        return {}
    groups = collection.levels or [()] * len(collection)
    codes: dict[tuple[str, tuple[str, ...]], int] = {}
    own = [codes.setdefault(pair, len(codes))
           for pair in zip(collection.labels, groups, strict=True)]  # fmt: skip
    return {"levels": collection.level_names, "labels": list(codes), "codes": own}


def _parsed(note: Path) -> dict[str, Any]:
    with open_regular(note) as file:
        content = file.read(_LARGEST_NOTE)
    try:
        facts = parse_json(content)
        if not isinstance(facts, dict) or not isinstance(facts.get("fingerprint"), str | None):
            raise ValueError("no object with a fingerprint")
    except ValueError as error:
        raise FileFormatError(f"{note} is damaged ({error}). Embed again") from error
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


def _as_points(points: np.ndarray, source: Path) -> np.ndarray:
    if points.ndim != 2 or not points.size or points.dtype.kind != "f":
        raise InputError(
            f"expected points as floats, (N, D), but {source} contains {points.dtype} "
            f"{points.shape}"
        )
    with np.errstate(over="ignore"):
        narrow: np.ndarray = points.astype(np.float32)
    return narrow


def _folders(paths: Sequence[str] | None) -> list[str] | None:
    if paths is None:
        return None
    return [labels.as_label(readable(os.path.basename(os.path.dirname(path)))) for path in paths]


def _read_npz(source: Path) -> Collection:
    arrays = numpy_files.read_npz(source, ("points", "paths", "labels", "proxies", "c"))
    if "points" not in arrays:
        raise FileFormatError(f"{source}: expected an array called points, found none")
    paths = labels.from_array(arrays["paths"], "paths", source) if "paths" in arrays else None
    classes = _folders(paths)
    if "labels" in arrays:
        classes = _classes(labels.from_array(arrays["labels"], "labels", source))
    if not arrays.get("proxies", np.ones(1)).size:
        raise FileFormatError(f"{source}: expected some proxies, found none")
    return _made(
        source,
        points=_as_points(arrays["points"], source),
        paths=paths,
        labels=classes,
        proxies=_as_points(arrays["proxies"], source) if "proxies" in arrays else None,
        c=_number(arrays["c"], source) if "c" in arrays else None,
    )


def _classes(values: Iterable[str | None]) -> list[str]:
    """Labels; empty where there is none."""
    return [labels.as_label(label or "") for label in values]


def _number(array: np.ndarray, source: Path) -> float:
    if array.size != 1 or array.dtype.kind not in "fiu":
        raise FileFormatError(f"{source}: expected c as one number, found {array!r}")
    return float(array.item())


def _read_parquet(source: Path) -> Collection:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        files = _parts(source) if source.is_dir() else [str(source)]
        for file in files:
            with open_regular(file) as content:
                labels.require_rows(content, file)
        with contextlib.ExitStack() as opened:
            table = parquet.read_table(
                files if source.is_dir() else opened.enter_context(open_regular(source))
            )
        points = _vectors(table.column("point"))
        named = labels.from_column(table.column("path"), "path", source)
        paths = labels.require_all(named, "path", source) if any(named) else None
        facts = parse_json((table.schema.metadata or {}).get(b"hier", b"{}"))
        if not isinstance(facts, dict) or not isinstance(facts.get("fingerprint"), str | None):
            raise ValueError("its encoder metadata is damaged")
        classes = _folders(paths)
        if "label" in table.column_names:
            classes = _classes(labels.from_column(table.column("label"), "label", source))
        splits = None
        if facts.get("splits"):
            named = labels.from_column(table.column("split"), "split", source)
            splits = [split or "" for split in named]
        level_names = tuple(map(str, facts.get("levels", ())))
        columns = [labels.from_column(table.column(name), name, source) for name in level_names]
        levels = [tuple(labels.as_label(cell or "") for cell in row)
                  for row in zip(*columns, strict=True)]  # fmt: skip
    except DataError:
        raise
    except (
        pa.ArrowException, KeyError, ValueError, TypeError, AttributeError, OSError, MemoryError
    ) as error:  # fmt: skip
        raise FileFormatError(
            f"{source} does not contain embeddings (columns path and point): {error}"
        ) from error
    c, fingerprint = _curvature(facts, source), facts.get("fingerprint")
    return _made(
        source, points=_as_points(points, source), paths=paths, labels=classes,
        levels=levels if level_names else None, level_names=level_names, c=c,
        fingerprint=fingerprint, splits=splits,
    )  # fmt: skip


def _parts(folder: Path) -> list[str]:
    """The Parquet files of a folder, which are all there if a cluster run wrote them."""
    found = sorted(str(file) for file in folder.glob("*.parquet") if file.is_file())
    if not found:
        raise InputError(f"expected a folder of Parquet files, but {folder} contains none")
    about = folder / "hier.json"
    if about.is_file():
        facts = _parsed(about)
        count, size = facts.get("pictures"), facts.get("shard")
        if not isinstance(count, int) or not isinstance(size, int) or size < 1:
            raise FileFormatError(f"{about} is damaged. Embed again")
        if len(found) != -(-count // size):
            raise InputError(
                f"expected {-(-count // size)} files in {folder}, found {len(found)}: the run "
                "that writes them is not finished. Run its command again"
            )
    return found


def _vectors(column: Any) -> np.ndarray:
    """A column of lists of numbers of one length as (N, D)."""
    whole = column.combine_chunks()
    flat = whole.flatten().to_numpy(zero_copy_only=False)
    count = len(whole)
    if not count or whole.null_count or len(flat) % count:
        raise ValueError("points are missing or have different lengths")
    lengths = np.diff(whole.offsets.to_numpy()) if hasattr(whole, "offsets") else np.ones(1)
    if np.ptp(lengths):
        raise ValueError("points of different lengths")
    rows: np.ndarray = flat.reshape(count, -1)
    return rows


def write(collection: Collection, target: Path) -> None:
    """Write to ``.npy`` (with ``NAME.paths.txt`` and ``NAME.hier.json``) or ``.parquet``.

    Raises:
        InputError: another suffix, or the file cannot be written.
    """
    kind = target.suffix.lower()
    paths = collection.paths or [""] * len(collection)
    if kind == ".npy":
        # A path with a line break in it still takes one line: such paths alone are quoted.
        lines = "".join(f"{_one_line(path)}\n" for path in paths)
        listed = lines.encode("utf-8", "surrogateescape")
        facts: dict[str, Any] = {"fingerprint": collection.fingerprint, "c": collection.c}
        facts |= {"points": _digest(collection.points), "paths": _sha256(listed)}
        facts |= _note_labels(collection)
        facts |= {"splits": collection.splits} if collection.splits else {}
        # All are whole before any takes its place. After a kill in between the note, the last to
        # do so, tells that they do not belong together.
        with (
            replacing(_note(target)) as note,
            replacing(_listing(target)) as listing,
            replacing(target) as draft,
        ):
            with open(draft, "wb") as file:
                write_npy(collection.points, file)
            listing.write_bytes(listed)
            note.write_text(json.dumps(facts) + "\n", encoding="utf-8")
    elif kind == ".parquet":
        _write_parquet(collection, target)
    else:
        raise InputError(f"expected a file name that ends in {' or '.join(SUFFIXES)}, got {target}")


def write_npy(points: np.ndarray, file: BinaryIO) -> None:
    """Write points as NumPy's own format; the file need not be seekable."""
    rows = np.ascontiguousarray(points, np.float32)
    np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(rows))
    file.write(rows.reshape(-1).view(np.uint8).data)


def _one_line(path: str) -> str:
    return json.dumps(path) if path.splitlines() != [path] or path.startswith('"') else path


def _write_parquet(collection: Collection, target: Path) -> None:
    from pyarrow import parquet

    with replacing(target) as draft:
        parquet.write_table(to_table(collection), draft)


def to_table(collection: Collection, **facts: Any) -> Any:
    """A collection as an Arrow table, with what it says of its encoder in the schema's metadata.

    Args:
        facts: more to say there, as JSON can hold it.
    """
    import pyarrow as pa

    count, dim = collection.points.shape
    flat = pa.array(collection.points.reshape(-1))
    columns: dict[str, Any] = {
        "path": pa.array(map(readable, collection.paths or [""] * count), pa.string()),
        "point": pa.FixedSizeListArray.from_arrays(flat, dim),
    }
    taken = {*columns, "label"}
    if collection.labels is not None:
        columns["label"] = pa.array(collection.labels, pa.string())
    if collection.splits is not None:
        columns["split"] = pa.array(collection.splits, pa.string())
        facts |= {"splits": True}
        taken.add("split")
    names = []
    for place, name in enumerate(collection.level_names):
        names.append(name if name not in taken else f"level {name}")
        groups = [own[place] for own in collection.levels or ()]
        columns[names[-1]] = pa.array(groups or [""] * count, pa.string())
    facts |= {"fingerprint": collection.fingerprint, "c": collection.c, "count": count}
    facts |= {"levels": names}
    table = pa.table(columns)
    return table.replace_schema_metadata({b"hier": json.dumps(facts).encode()})
