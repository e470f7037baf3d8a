"""Files of tensors that anybody may have written, read without running code or filling memory.

torch reads them with ``weights_only``, which calls only functions that it knows. That leaves sizes:
a kilobyte can claim gigabytes, by compression, by a tensor that repeats one number, by a storage
that is larger than its record. So the file is gone through first by an unpickler that calls nothing
and only adds up what is claimed.
"""

import io
import math
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import torch

from hiercli.errors import FileFormatError, InputError
from hiercli.files import open_regular

_LARGEST_PICKLE = 2**28
"""Bytes of the part of a file that says what its tensors are called and how large they are."""
_DAMAGED = (
    pickle.UnpicklingError, RuntimeError, EOFError, KeyError, ValueError, IndexError, TypeError,
    AttributeError, OSError, MemoryError, OverflowError, RecursionError, NotImplementedError,
    ImportError, AssertionError, struct.error, zipfile.BadZipFile,
)  # fmt: skip


def read(path: Path) -> Mapping[str, Any]:
    """A dictionary saved by torch, on the CPU.

    Raises:
        InputError: the file is missing, or no regular file.
        FileFormatError: it is not such a dictionary, is damaged, holds more than plain data, or
            claims more than it holds.
    """
    if not path.exists():
        raise InputError(f"expected a file of weights, but {path} is missing")
    with open_regular(path) as file:
        try:
            _require_sizes(file)
            file.seek(0)
            saved = torch.load(file, map_location="cpu", weights_only=True)
        except _DAMAGED as error:
            raise FileFormatError(
                f"{path} is not a valid checkpoint or file of weights. Expected plain data "
                "saved by torch (code in the file is never run). Train again, or copy the file "
                "again"
            ) from error
    if not isinstance(saved, Mapping):
        raise FileFormatError(
            f"{path}: expected a dictionary of tensors, found {type(saved).__name__}"
        )
    return saved


def _require_sizes(file: IO[bytes]) -> None:
    """Raise ValueError where a file would take more memory than it has bytes."""
    size = os.fstat(file.fileno()).st_size
    if not zipfile.is_zipfile(file):
        file.seek(0)
        for _ in range(4):  # mark, version and machine of the old format, then the data
            _Scout(file, lambda _: size).load()
        return
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        packed = any(member.compress_type != zipfile.ZIP_STORED for member in members)
        if packed or sum(member.file_size for member in members) > size:
            raise ValueError("its parts are larger than the file")
        (data,) = [member for member in members if member.filename.endswith("/data.pkl")]
        if data.file_size > _LARGEST_PICKLE:
            raise ValueError("its list of tensors is too long")
        folder = data.filename.removesuffix("data.pkl")
        sizes = {member.filename: member.file_size for member in members}
        content = io.BytesIO(archive.read(data))
        _Scout(content, lambda key: sizes[f"{folder}data/{key}"]).load()


class _Anything:
    """What the scout puts in the place of every object."""

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass

    def __hash__(self) -> int:
        return id(self)


class _Scout(pickle.Unpickler):
    """Reads a pickle without calling anything that it names.

    Args:
        file: at the start of the pickle.
        room: bytes that the storage of a key has in the file.
    """

    def __init__(self, file: IO[bytes], room: Callable[[str], int]) -> None:
        super().__init__(file)
        self._room = room

    def find_class(self, module: str, name: str) -> Any:
        if name == "bytearray":  # of any length, for a few bytes
            raise ValueError("it makes byte arrays")
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if name in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3"):
            return _require_room
        if name.startswith("_rebuild") and name != "_rebuild_parameter":
            raise ValueError(f"it makes tensors by {name}")
        if module == "torch" and name.endswith("Storage"):
            return _item_size(name)
        return _Anything

    def persistent_load(self, pid: Any) -> Any:
        _, item, key, _, count, *_ = pid
        claimed = item * count
        if not 0 <= claimed <= self._room(str(key)):
            raise ValueError("a storage is larger than the file")
        return _Storage(count)


class _Storage:
    def __init__(self, count: int) -> None:
        self.count = count


def _require_room(storage: _Storage, offset: int, size: Any, stride: Any, *_: Any) -> _Anything:
    """In place of the function that makes a tensor: no number of it may stand for two."""
    if min([offset, *size, *stride], default=0) < 0 or offset + math.prod(size) > storage.count:
        raise ValueError(f"a tensor of {size} numbers is larger than its storage")
    return _Anything()


def _item_size(name: str) -> int:
    return _ITEM_SIZES[name.removesuffix("Storage")]


_ITEM_SIZES = {
    "Untyped": 1, "Bool": 1, "Byte": 1, "Char": 1, "Short": 2, "Half": 2, "BFloat16": 2, "Int": 4,
    "Float": 4, "Long": 8, "Double": 8, "ComplexFloat": 8, "ComplexDouble": 16,
}  # fmt: skip
