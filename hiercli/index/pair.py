"""A FAISS file and its catalogue as one: both change together or not at all.

The catalogue records a checksum of its FAISS file. A writer stages the new FAISS file under
a hidden name, replaces the catalogue, which is the moment of change, and moves the FAISS file into
place. Whoever reads in between, or after a writer was killed in between, finds the file that the
catalogue describes under one name or the other.
"""

import contextlib
import hashlib
import io
import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import cast

import faiss
import numpy as np

from hiercli.errors import FileFormatError, HierError, InputError, MismatchError
from hiercli.files import open_regular, replacing, require_replaceable, sync_folder
from hiercli.index import contents, kinds
from hiercli.index.catalogue import Catalogue, catalogue_path
from hiercli.index.draft import Draft, drafting

_LOOKS = 3
"""At a catalogue without its FAISS file, before that is damage and not a writer at work."""


def next_path(index: Path) -> Path:
    """Where a new FAISS file lies ready."""
    return index.with_name(f".{index.name}.hier-next")


def lock_path(index: Path) -> Path:
    """What the only writer holds."""
    return index.with_name(f".{index.name}.hier-lock")


def journal_path(index: Path) -> Path:
    """Where points wait that are not in the index yet."""
    return index.with_name(f".{index.name}.hier-part")


def files(index: Path) -> tuple[Path, ...]:
    """All files of an index: no other may take their place."""
    return (index, catalogue_path(index), next_path(index), lock_path(index), journal_path(index))


def exists(index: Path) -> bool:
    """Whether there is an index, whole or not."""
    return index.exists() or catalogue_path(index).exists()


@contextmanager
def writing(index: Path) -> Iterator[None]:
    """Be the only writer of an index; finish first what a killed one left half done.

    Raises:
        InputError: another process writes to it, or the folder cannot be written to.
    """
    from filelock import FileLock, Timeout  # readers do without

    for file in (index, catalogue_path(index)):
        require_replaceable(file)
    # It stays when all is done: to remove it would let two writers hold two files of one name.
    lock = FileLock(lock_path(index), timeout=0)
    try:
        index.parent.mkdir(parents=True, exist_ok=True)
        lock_path(index).touch()  # the lock itself would take some refusals for another's lock
        lock.acquire()
    except Timeout as error:
        raise InputError(
            f"another process is writing to {index}. Wait until it finishes, or end it. Searching "
            "is still possible"
        ) from error
    except OSError as error:
        raise InputError(
            f"cannot write {index}: {error.strerror or error}. Choose a folder you can write to"
        ) from error
    try:
        _recover(index)
        yield
    finally:
        lock.release()


def _recover(index: Path) -> None:
    ready = next_path(index)
    if not ready.is_file():
        return
    if not catalogue_path(index).exists():
        ready.unlink()
        return
    try:
        catalogue = Catalogue(index)
    except FileFormatError:
        return
    with closing(catalogue), _open(ready) as file:
        wanted = _checksum(file) == catalogue.checksum
    if wanted:
        os.replace(ready, index)
        sync_folder(index.parent)
    else:
        ready.unlink()


def change(
    index: Path,
    fill: Callable[[Draft], None],
    *,
    anew: bool,
    progress: kinds.Progress | None = None,
) -> None:
    """Write a new state of an index, under `writing`.

    Args:
        index: FAISS file.
        fill: changes the catalogue.
        anew: start from an empty catalogue, instead of from the one that is there.
        progress: called with (done, total) points that a new FAISS index was given.

    Raises:
        InputError: the files cannot be written; the old state stands.
    """
    try:
        _stage(index, fill, anew, progress)
    finally:  # whichever state was reached: the other's FAISS file goes
        _recover(index)


def _stage(
    index: Path, fill: Callable[[Draft], None], anew: bool, progress: kinds.Progress | None
) -> None:
    with drafting(index, anew=anew) as draft:
        fill(draft)
        c = float(draft.fact("c"))
        choices = kinds.choices(draft.fact("index_type"), len(draft))
        made = None if anew else _updated(index, choices, draft, c)
        recall = 0.0 if made is None else kinds.tune(made, c)
        if made is None or (recall < kinds.ENOUGH and len(choices) > 1):
            dim = int(draft.fact("embedding_dim"))
            made, recall = kinds.choose(choices, draft.points, len(draft), dim, c, progress)
        draft.say({"recall": repr(recall), "farthest": repr(contents.farthest(made))})
        with replacing(next_path(index)) as file:
            with open(file, "wb") as content:
                faiss.write_index(made, faiss.PyCallbackIOWriter(content.write))  # type: ignore[attr-defined]
            with open(file, "rb", buffering=0) as content:
                draft.say({"checksum": _checksum(content)})
        draft.write_checksum()


def _updated(index: Path, choices: tuple[str, ...], draft: Draft, c: float) -> faiss.Index | None:
    """The FAISS index that is there, changed as the draft was; ``None``: it must be built anew."""
    if choices == ("flat",):
        return None  # to fill another takes no longer
    try:
        catalogue, old = read(index)
    except HierError:
        return None
    catalogue.close()
    if contents.index_type_of(old) not in choices:
        return None
    removed = np.fromiter(draft.touched, np.int64)
    return kinds.update(old, removed, draft.points_of(draft.touched), c)


def read(index: Path) -> tuple[Catalogue, faiss.Index]:
    """The catalogue of an index and the FAISS index that belongs to it.

    Raises:
        InputError: a file is missing.
        FileFormatError: a file is damaged or foreign.
        MismatchError: the two do not belong together.
    """
    catalogue, file = open_checked(index)
    return catalogue, whole(file)


def whole(file: io.FileIO) -> faiss.Index:
    """The FAISS index in an open file, read from its start; the file is closed.

    Raises:
        FileFormatError: it is not one, or not of our kinds.
    """
    with file:
        file.seek(0)
        # What a length in the file claims is allocated before it is read.
        limit = faiss.get_deserialization_vector_byte_limit()
        faiss.set_deserialization_vector_byte_limit(os.fstat(file.fileno()).st_size)
        reader = faiss.PyCallbackIOReader(io.BufferedReader(file).read)  # type: ignore[attr-defined]
        try:
            index = faiss.read_index(reader)
            contents.require_ours(index)
        except (RuntimeError, ValueError, AttributeError, TypeError, MemoryError) as error:
            raise FileFormatError(
                f"{file.name} is not an index of hier, or it is damaged. Run `hier index repair` "
                "to build it again from its catalogue"
            ) from error
        finally:
            faiss.set_deserialization_vector_byte_limit(limit)
        return index


def open_checked(index: Path) -> tuple[Catalogue, io.FileIO]:
    """The catalogue of an index and the FAISS file that belongs to it, open at its start.

    Raises:
        HierError: as `read`.
    """
    looks: list[str] = []
    while looks.count(looks[-1] if looks else "") < _LOOKS:
        with contextlib.ExitStack() as opened:
            catalogue = opened.enter_context(closing(Catalogue(index)))
            looks.append(catalogue.checksum)
            for name in (index, next_path(index)):
                # The file may be renamed at any moment: what was opened stays what was checked.
                with contextlib.suppress(FileNotFoundError, IsADirectoryError):
                    file = opened.enter_context(_open(name))
                    if _checksum(file) == catalogue.checksum:
                        file.seek(0)
                        opened.pop_all()
                        return catalogue, file
                    file.close()
    if not index.is_file():
        raise InputError(
            f"expected an index, but {index} is missing. Run `hier index repair {index}` to build "
            "it again from its catalogue"
        )
    raise MismatchError(
        f"{index} does not match its catalogue {catalogue_path(index).name}: one of the two was "
        f"damaged or replaced. Run `hier index repair {index}` to build it again from the "
        "catalogue"
    )


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


def _checksum(file: io.FileIO) -> str:
    # Twice as fast as BLAKE2 where the processor has instructions for it, as most have.
    return hashlib.file_digest(file, "sha256").hexdigest()
