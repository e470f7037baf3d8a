"""The one rule from a path or a table row to a label and its levels.

The label is the class of an image; its levels are the groups above the class, fine to coarse.
Training, index, embeddings, cluster and review all take them from here:

1. A table row names them itself; where its label is empty, the image has none.
2. Under a given folder, the label of ``FOLDER/a/.../x.jpg`` is ``a``, the first folder below it. An
   image directly in the folder, or given by name, has the name of its own folder.
3. With ``nested``, the label is the innermost folder, and the folders above it, up to the given
   one, are its levels.

An image without a label has an empty text as its label, which is no class. A label is text in one
spelling. Text may be stored as bytes, and ids may be whole numbers: these become text. Anything
else (a fraction, a list) is refused with its row, so that no class is ever called ``nan``.
"""

import graphlib
import itertools
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from hiercli.errors import DataError
from hiercli.files import readable
from hiercli.wording import counted

if TYPE_CHECKING:
    import pyarrow as pa


VALIDATION = ("val", "valid", "validation", "dev")
"""What people call the part that they choose by."""
SPLITS = ("train", "test", *VALIDATION)
"""Folders that part a data set: inside them, labels begin one folder further down."""


@dataclass(frozen=True, slots=True)
class Record:
    """An image file with its label.

    Attributes:
        path: the file.
        label: its class; empty where it has none.
        levels: groups above the class, fine to coarse (genus, family, order); empty where none are
            known. A group that is not known is an empty text.
        split: part of a data set that a table puts it in (train, test, ...); empty where none does.
    """

    path: Path
    label: str
    levels: tuple[str, ...] = ()
    split: str = ""


def own_folder(path: Path | str) -> str:
    """The label of an image given by name: the name of its folder, as it was reached.

    Examples:
        >>> own_folder("birds/Wren/1.jpg")
        'Wren'
    """
    return _folder_label(os.path.basename(os.path.dirname(os.path.abspath(path))))


def under(path: Path, root: Path, split: bool = False) -> str:
    """The label of an image found under a folder: the first folder below that.

    Args:
        path: the image, as it was found under ``root``.
        root: the folder that was given.
        split: whether the first folder below it is one of `SPLITS`, which is no label.

    Examples:
        >>> under(Path("birds/Wren/2024/1.jpg"), Path("birds"))
        'Wren'
        >>> under(Path("birds/Wren/1.jpg"), Path("birds/Wren"))
        'Wren'
    """
    parts = path.relative_to(root).parts[int(split) : -1]
    return _folder_label(parts[0]) if parts else own_folder(path)


def nested(
    paths: Sequence[Path], root: Path, splits: Sequence[bool] = ()
) -> tuple[list[Record], tuple[str, ...]]:
    """Labels and levels of images in nested folders, such as ``order/family/species/1.jpg``.

    Where two folders of one name lie under different parents they are two classes, and both are
    called by their whole path: ``Men/Denim`` and ``Women/Denim``. Branches of fewer folders than
    the others lack their finest levels.

    Args:
        paths: images, as they were found under ``root``.
        root: the folder that was given.
        splits: for each path whether the first folder below the root is one of `SPLITS`.

    Returns:
        (a record for each path, names of the levels).
    """
    chains = []
    for place, path in enumerate(paths):
        skip = int(bool(splits) and splits[place])
        parts = path.relative_to(root).parts[skip:-1]
        chains.append(tuple(map(_folder_label, parts)) or (own_folder(path),))
    depth = max(map(len, chains), default=1) - 1
    times = Counter(chain[-1] for chain in set(chains))
    records = []
    for path, chain in zip(paths, chains, strict=True):
        label = chain[-1] if times[chain[-1]] == 1 else "/".join(chain)
        levels = ("",) * (depth + 1 - len(chain)) + chain[-2::-1]
        records.append(Record(path, label, levels))
    return records, tuple(f"level{number + 1}" for number in range(depth))


def merged_levels(chains: Iterable[Sequence[str]]) -> tuple[str, ...]:
    """Names of levels of several sources as one list, fine to coarse as in each of them.

    Examples:
        >>> merged_levels([["family", "order"], ["genus", "family"]])
        ('genus', 'family', 'order')
    """
    finer: dict[str, dict[str, None]] = {}
    for chain in chains:
        for name in chain:
            finer.setdefault(name, {})
        for fine, coarse in itertools.pairwise(chain):
            finer[coarse][fine] = None
    try:
        return tuple(graphlib.TopologicalSorter(finer).static_order())
    except graphlib.CycleError:  # two sources name them the other way round
        return tuple(finer)


def summary(records: Sequence[Record], level_names: Sequence[str], source: str) -> str:
    """One line on what was taken: ``58 classes, 3 levels above them (...), from folders``."""
    count = len({record.label for record in records} - {""})
    without = sum(not record.label for record in records)
    classes = counted(count, "class", "classes")
    levels = "no levels above them"
    if level_names:
        levels = f"{counted(len(level_names), 'level')} above them ({', '.join(level_names)})"
    told = f"{classes}, {levels}, from {source}"
    return f"{told}; {counted(without, 'image')} without a label" if without else told


def _folder_label(name: str) -> str:
    return as_label(readable(name))


def as_label(text: str) -> str:
    """The spelling of a label that counts: macOS stores the letters of file names decomposed.

    Examples:
        >>> as_label("Cafe\\u0301") == "Caf\\u00e9"
        True
    """
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def from_array(values: np.ndarray, name: str, source: object) -> list[str]:
    """Texts of a NumPy array of strings, bytes or whole numbers.

    Args:
        values: the array, any shape.
        name: what it is called in messages.
        source: the file that it comes from.

    Raises:
        DataError: it holds something else.
    """
    if values.dtype.kind not in "USiu":
        raise DataError(
            f"{source}: expected {name} as text or whole numbers, found {values.dtype}. Save them "
            "as an array of strings"
        )
    if values.dtype.kind == "U":
        codes = np.frombuffer(values.tobytes(), np.dtype("u4").newbyteorder(values.dtype.byteorder))
        if codes.size and (codes.max() > 0x10FFFF or ((codes >> 11) == 0x1B).any()):
            raise DataError(f"{source}: expected {name} as text, found invalid Unicode")
    flat = values.ravel().tolist()
    if values.dtype.kind == "S":
        return [_decoded(value, name, row, source) for row, value in enumerate(flat, 1)]
    return [str(value) for value in flat]


def from_column(column: "pa.ChunkedArray", name: str, source: object) -> list[str | None]:
    """Texts of a column of a table, with ``None`` for what is missing.

    Args:
        column: text, bytes in UTF-8, whole numbers, or a dictionary of these.
        name: of the column.
        source: the file that it comes from.

    Raises:
        DataError: the column holds something else.
    """
    from pyarrow import types

    if not is_text(column):
        raise DataError(
            f"{source}: expected text in the column {name}, found {str(column.type)[:200]}. Save "
            "it as text. (Whole numbers with empty cells are read as fractions.)"
        )
    if types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    try:
        values = column.to_pylist()
    except UnicodeDecodeError as error:
        raise DataError(
            f"{source}: the column {name} contains text that is not UTF-8 ({error.reason})"
        ) from error
    if types.is_integer(column.type):
        return [None if value is None else str(value) for value in values]
    return [
        _decoded(value, name, row, source) if isinstance(value, bytes) else value
        for row, value in enumerate(values, 1)
    ]


def is_text(column: "pa.ChunkedArray") -> bool:
    """Whether a column of a table holds text, bytes or whole numbers, or nothing at all."""
    from pyarrow import types

    kind = column.type
    if types.is_dictionary(kind):
        kind = kind.value_type
    tests = (
        types.is_string, types.is_large_string, types.is_string_view, types.is_binary,
        types.is_large_binary, types.is_fixed_size_binary, types.is_integer, types.is_null,
    )  # fmt: skip
    return any(test(kind) for test in tests)


def require_all(values: list[str | None], name: str, source: object) -> list[str]:
    """The values, none of which may be missing or empty.

    Raises:
        DataError: it names the first row where one is.
    """
    for row, value in enumerate(values, 1):
        if not value:
            raise DataError(f"{source}: row {row} has no {name}. Fill it in, or delete the row")
    return [value for value in values if value]


def require_rows(file: BinaryIO, source: object) -> None:
    """Check that a Parquet table has no more rows than its file can hold, before it is unpacked.

    What it says of its columns is not asked for: pyarrow ends the process where that is damaged.

    Raises:
        DataError: it claims more: one value packed a billion times takes next to nothing.
    """
    from pyarrow import parquet

    rows = parquet.ParquetFile(file).metadata.num_rows
    size = os.fstat(file.fileno()).st_size
    if rows > max(_FEW_ROWS, _ROWS_PER_BYTE * size):
        raise DataError(
            f"{source}: its header states {rows:,} rows in {size:,} bytes, which is not plausible. "
            "Write the table again"
        )


_FEW_ROWS, _ROWS_PER_BYTE = 100_000, 1


def _decoded(value: bytes, name: str, row: int, source: object) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{source}: the {name} in row {row} is not UTF-8 ({value[:20]!r})"
        ) from error
