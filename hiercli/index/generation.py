"""The FAISS file of an index: one generation after another, each written once and never changed.

Behind its last byte each carries the id of its generation, 16 bytes that FAISS does not read and
that the catalogue names. A new one is made beside the old under a hidden name; when the catalogue
that names it is committed, which is the moment of change, it is renamed. Whoever reads in between,
or after a writer was killed in between, finds it under one name or the other.
"""
# FAISS's own stubs lack much of what is used here.
# mypy: disable-error-code="attr-defined"

import contextlib
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import faiss

from hiercli.errors import FileFormatError, InputError, MismatchError
from hiercli.files import open_regular, replacing, sync_folder
from hiercli.index import contents
from hiercli.index.locations import next_path

_ID_BYTES = 16
_BUFFER = 2**20


def write(index: Path, made: faiss.Index) -> tuple[str, int]:
    """Lay a new generation ready beside the one that is there.

    Returns:
        its id, and its bytes in all.

    Raises:
        InputError: it cannot be written; nothing of it is left.
    """
    number = os.urandom(_ID_BYTES)
    with replacing(next_path(index)) as draft, open(draft, "wb", buffering=_BUFFER) as content:
        faiss.write_index(made, faiss.PyCallbackIOWriter(content.write, _BUFFER))
        content.write(number)
        size = content.tell()
    return number.hex(), size


def settle(index: Path, generation: str) -> None:
    """Put what lies ready into its place if the catalogue names it; else drop it."""
    ready = next_path(index)
    if not ready.is_file():
        return
    with _open(ready) as file:
        wanted = _id_of(file) == generation
    if wanted:
        os.replace(ready, index)
        sync_folder(index.parent)
    else:
        ready.unlink()


@contextmanager
def opened(index: Path, generation: str, size: int) -> Iterator[io.FileIO | None]:
    """The FAISS file of a generation, open; ``None`` where it is not there (now)."""
    with contextlib.ExitStack() as files:
        for name in (index, next_path(index)):
            # The file may be renamed at any moment: what was opened stays what was checked.
            with contextlib.suppress(FileNotFoundError, IsADirectoryError):
                file = files.enter_context(_open(name))
                if _id_of(file) == generation and os.fstat(file.fileno()).st_size == size:
                    yield file
                    return
        yield None


def mapped(file: io.FileIO) -> faiss.Index:
    """An index that lies in an open file: only what is looked at comes into memory.

    Raises:
        FileFormatError: it is not one, or not of our types.
    """
    name = f"/proc/self/fd/{file.fileno()}"
    if not os.path.exists(name):
        return whole(file)
    with _errors(file):
        # FAISS maps the lists of ivf by one flag, all others by another.
        flags = faiss.IO_FLAG_MMAP if _kind(file) in _LISTS else faiss.IO_FLAG_MMAP_IFC
        index = faiss.read_index(name, flags)
        contents.require_ours(index)
        return index


def whole(file: io.FileIO) -> faiss.Index:
    """An index read from an open file into memory, to be changed there.

    Raises:
        FileFormatError: it is not one, or not of our types.
    """
    with _errors(file):
        file.seek(0)
        reader = faiss.PyCallbackIOReader(io.BufferedReader(file, _BUFFER).read, _BUFFER)
        index = faiss.read_index(reader)
        contents.require_ours(index)
        return index


_LISTS = (b"IwFl", b"IwFd", b"IwSq")


def _kind(file: io.FileIO) -> bytes:
    return os.pread(file.fileno(), 4, 0)


@contextmanager
def _errors(file: io.FileIO) -> Iterator[None]:
    # What a length in the file claims is allocated before it is read.
    limit = faiss.get_deserialization_vector_byte_limit()
    size = os.fstat(file.fileno()).st_size
    faiss.set_deserialization_vector_byte_limit(max(size, contents.MOST_WIDENED))
    try:
        yield
    except (RuntimeError, ValueError, AttributeError, TypeError, MemoryError) as error:
        raise FileFormatError(
            f"{file.name} is not an index of hier, or it is damaged. Run `hier index repair` to "
            "build it again from its catalogue"
        ) from error
    finally:
        faiss.set_deserialization_vector_byte_limit(limit)


def lost(index: Path) -> FileFormatError | InputError | MismatchError:
    """What people are told where the FAISS file that a catalogue names is not there."""
    again = f"Run `hier index repair {index}` to build it again from its catalogue"
    if not index.is_file():
        return InputError(f"expected an index, but {index} is missing. {again}")
    return MismatchError(
        f"{index} does not match its catalogue: one of the two was damaged, replaced, or copied "
        f"without the other. {again}"
    )


def _id_of(file: io.FileIO) -> str:
    size = os.fstat(file.fileno()).st_size
    return os.pread(file.fileno(), _ID_BYTES, max(0, size - _ID_BYTES)).hex()


def _open(file: Path) -> io.FileIO:
    """A regular file open at its start, without a buffer.

    Raises:
        FileNotFoundError, IsADirectoryError: it is none.
        InputError: it is a pipe or a device, or may not be read.
    """
    if file.is_dir():
        raise IsADirectoryError(file)
    try:
        buffered = open_regular(file)
    except InputError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise error.__cause__ from error
        raise
    return cast(io.FileIO, buffered.detach())
