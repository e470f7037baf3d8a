"""What a label is, whatever table, archive or folder it comes from: a text, in one spelling.

Text may be stored as bytes, and ids may be whole numbers: these become text. Anything else (a
missing value, a fraction, a list) is no label and is refused with its row, so that no class comes
to be called ``nan`` or ``None``.
"""

import unicodedata
from typing import TYPE_CHECKING

import numpy as np

from hiercli.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow import parquet


def as_label(text: str) -> str:
    """The spelling of a label that counts: macOS stores the letters of file names decomposed.

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
            f"{source}: expected {name} as text or whole numbers, found {values.dtype}: save them "
            "as an array of strings"
        )
    if values.dtype.kind == "U":
        codes = np.frombuffer(values.tobytes(), np.dtype("u4").newbyteorder(values.dtype.byteorder))
        if codes.size and (codes.max() > 0x10FFFF or ((codes >> 11) == 0x1B).any()):
            raise DataError(f"{source}: expected {name} as text, found what is no Unicode")
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
            "it as text; a column of whole numbers with gaps becomes one of fractions"
        )
    if types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    try:
        values = column.to_pylist()
    except UnicodeDecodeError as error:
        raise DataError(
            f"{source}: the column {name} holds what is not text in UTF-8 ({error.reason})"
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
            raise DataError(f"{source}: row {row} has no {name}. Fill it in, or take the row out")
    return [value for value in values if value]


def require_rows(table: "parquet.ParquetFile", source: object) -> None:
    """Check that a table has no more rows than its bytes can hold, before they are unpacked.

    Raises:
        DataError: it claims more: one value packed a billion times takes next to nothing.
    """
    parts = [table.metadata.row_group(place) for place in range(table.metadata.num_row_groups)]
    packed = sum(
        part.column(place).total_compressed_size
        for part in parts for place in range(part.num_columns)
    )  # fmt: skip
    if table.metadata.num_rows > max(_FEW_ROWS, _ROWS_PER_BYTE * packed):
        raise DataError(
            f"{source}: it claims {table.metadata.num_rows:,} rows in {packed:,} bytes, which is "
            "more than paths take: write the table again"
        )


_FEW_ROWS, _ROWS_PER_BYTE = 100_000, 1


def _decoded(value: bytes, name: str, row: int, source: object) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{source}: the {name} of row {row} is not text in UTF-8 ({value[:20]!r})"
        ) from error
