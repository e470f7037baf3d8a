"""NumPy's ``.npy`` and ``.npz`` files from anybody: sizes are checked before memory is taken.

An array's header may claim any size. Here it is compared with the bytes that are really there, and
of an archive only the arrays that are asked for are unpacked. Arrays of Python objects are refused.
"""

import io
import math
import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import IO

import numpy as np

from hiercli.errors import FileFormatError
from hiercli.files import open_regular

_MAX_RATIO = 100
"""Times its packed size that an array may take unpacked; embeddings take less than twice."""
_SMALL = 2**20
"""Bytes up to which the ratio does not matter."""
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
_DAMAGED = (
    ValueError, TypeError, KeyError, OSError, EOFError, SyntaxError, MemoryError, OverflowError,
    RecursionError, NotImplementedError, RuntimeError, struct.error, tokenize.TokenError,
    zipfile.BadZipFile, zlib.error,
)  # fmt: skip


def read_npy(source: Path) -> np.ndarray:
    """The array of an ``.npy`` file.

    Raises:
        InputError: the file is missing, or no regular file.
        FileFormatError: it does not hold an array, or less of it than its header states.
    """
    with open_regular(source) as file:
        return _checked(file, os.fstat(file.fileno()).st_size, str(source))


def from_bytes(content: bytes, source: str) -> np.ndarray:
    """The array of the bytes of an ``.npy`` file, which are part of the file ``source``.

    Raises:
        FileFormatError: they do not hold an array, or less of it than its header states.
    """
    return _checked(io.BytesIO(content), len(content), source)


def read_npz(source: Path, names: Collection[str]) -> dict[str, np.ndarray]:
    """Those of some arrays that an ``.npz`` archive holds, by name. Others are not looked at.

    Raises:
        InputError: the file is missing, or no regular file.
        FileFormatError: it is not such an archive, or one of these arrays is damaged or claims to
            be larger than it can be.
    """
    found = {}
    with open_regular(source) as file:
        try:
            with zipfile.ZipFile(file) as archive:
                for member in archive.infolist():
                    name = member.filename.removesuffix(".npy")
                    if name not in names:
                        continue
                    limit = max(_SMALL, _MAX_RATIO * member.compress_size)
                    if member.file_size > limit:
                        raise ValueError(
                            f"{name} has an unpacked size of {member.file_size:,} bytes"
                        )
                    with archive.open(member) as packed:
                        found[name] = _read(packed, member.file_size)
        except _DAMAGED as error:
            raise FileFormatError(f"{source} is not a valid NumPy archive ({error})") from error
    return found


def _checked(file: IO[bytes], size: int, source: str) -> np.ndarray:
    try:
        return _read(file, size)
    except _DAMAGED as error:
        raise FileFormatError(f"{source} does not contain a valid NumPy array ({error})") from error


def _read(file: IO[bytes], size: int) -> np.ndarray:
    version = np.lib.format.read_magic(file)
    if version not in _HEADERS:
        raise ValueError(f"version {version} of the format")
    shape, is_fortran, dtype = _HEADERS[version](file)
    if dtype.hasobject:
        raise ValueError("it contains Python objects, which could run code")
    count = math.prod(shape)
    if min(shape, default=0) < 0 or (count and not dtype.itemsize) or len(shape) > 8:
        raise ValueError(f"its shape is {shape} of {dtype}")
    if count * dtype.itemsize > size:
        raise ValueError(f"its header states {count * dtype.itemsize:,} bytes of {size:,}")
    content = file.read(count * dtype.itemsize)
    if len(content) < count * dtype.itemsize:
        raise ValueError(f"it ends after {len(content):,} of {count * dtype.itemsize:,} bytes")
    array = np.frombuffer(content, dtype, count)
    return array.reshape(shape[::-1]).T if is_fortran else array.reshape(shape)
