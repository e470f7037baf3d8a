"""Being the only writer of an index: what is done under its lock."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from hiercli.errors import InputError
from hiercli.files import require_replaceable
from hiercli.index import kinds
from hiercli.index.catalogue import version_of
from hiercli.index.local import LocalStore
from hiercli.index.locations import catalogue_path, lock_path
from hiercli.index.schema import VERSION, Row


@contextmanager
def writing(
    index: Path, dim: int, *, anew: bool = False, root: Path | None = None
) -> Iterator[LocalStore]:
    """Be the only writer of an index; finish first what a killed one left half done.

    Args:
        index: FAISS file, new or there.
        dim: of the ball.
        anew: start from nothing, whatever is there.
        root: paths are relative to it from now on.

    Raises:
        InputError: another process writes to it, or the folder cannot be written to.
        FileFormatError: the catalogue that is there is damaged.
    """
    with locked(index):
        if not anew and catalogue_path(index).is_file():
            migrate(index)
        store = LocalStore(index, dim, anew=anew, root=root)
        try:
            yield store
        finally:
            store.close()


@contextmanager
def locked(index: Path) -> Iterator[None]:
    """Let nobody else write meanwhile; reading goes on.

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
        yield
    finally:
        lock.release()


def migrate(index: Path) -> None:
    """Bring a catalogue of an older version up to date, under `locked`; a present one stays."""
    version = version_of(index)
    if version in ("", VERSION):
        return
    from hiercli.index.migrate import IN_PLACE, add_what_lacks, read_old

    if version in IN_PLACE:
        add_what_lacks(index, version)
        return
    with read_old(index, version) as (facts, rows, quarantine, proxies):
        make_anew(index, facts, rows, quarantine, proxies)


def make_anew(
    index: Path,
    facts: dict[str, str],
    rows: Iterable[Row],
    quarantine: Iterable[tuple[bytes, str]],
    proxies: np.ndarray,
    progress: kinds.Progress | None = None,
    root: Path | None = None,
    thumbnails: Iterable[tuple[bytes, bytes]] = (),
) -> None:
    """Replace an index by one that holds some rows, under `locked`.

    Args:
        index: FAISS file.
        facts: of the encoder, and ``next_id`` and ``index_type``.
        rows: with their points.
        quarantine: paths and reasons.
        proxies: (P, D).
        progress: called with (done, total) points.
        root: what paths are relative to, instead of the index.
        thumbnails: contents and small pictures.

    Raises:
        InputError: the files cannot be written; what was there before stands.
    """
    dim = int(facts["embedding_dim"])
    store = LocalStore(index, dim, anew=True, root=root)
    try:
        with store.changing(facts, proxies, progress=progress):
            store.put(rows)
            for content, picture in thumbnails:
                store.tables.put_thumbnail(content, picture)
            store.tables.set_quarantine((), quarantine)
    finally:
        store.close()
