"""Writing files so that a killed run leaves the old state or the new one, never a half."""

import glob
import os
import platform
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hiercli.errors import InputError


@contextmanager
def replacing(target: Path | str) -> Iterator[Path]:
    """Yield a path beside ``target`` to write to; on success it is synced and renamed over it.

    Args:
        target: the file that should exist, whole, afterwards. Its folder is made if missing.

    Yields:
        a temporary path in the same folder (so that the rename is atomic), with the same suffix.

    Raises:
        InputError: the folder cannot be made or written to, or the disk is full. What stood at
            ``target`` before is untouched in every case, and the temporary file is gone.
    """
    target = Path(target)
    require_replaceable(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        sweep(target.parent, target.stem[:80])
        handle, name = tempfile.mkstemp(
            dir=target.parent,
            prefix=_draft_prefix(target.stem[:80], os.getpid()),
            suffix=target.suffix,
        )
    except OSError as error:
        raise InputError(
            f"cannot write {target}: {error.strerror or error}. Choose a folder you can write to"
        ) from error
    os.close(handle)
    draft = Path(name)
    try:
        yield draft
        draft.chmod(0o666 & ~_umask())
        with open(draft, "rb") as written:
            os.fsync(written.fileno())
        os.replace(draft, target)
        sync_folder(target.parent)
    except OSError as error:
        raise InputError(
            f"writing {target} failed: {error.strerror or error}. Nothing was left behind; "
            "free some space or choose another place, then run it again"
        ) from error
    finally:
        draft.unlink(missing_ok=True)


def require_replaceable(target: Path) -> None:
    """Check that `replacing` can put a file at ``target``, before work goes into its content.

    Raises:
        InputError: a folder, a device or a pipe is there.
    """
    if target.is_dir():
        raise InputError(f"expected a file name to write to, but {target} is a folder: add a name")
    if target.exists() and not target.is_file():
        raise InputError(
            f"expected a file to write to, but {target} is a device or a pipe: name another"
        )


def require_apart(target: Path | None, others: Iterable[Path | str]) -> None:
    """Check that a file to be written is none of the files that are used for it.

    Raises:
        InputError: it is one of them.
    """
    if target is None:
        return
    own = os.path.realpath(target)
    for other in others:
        if own == os.path.realpath(other):
            raise InputError(f"writing {target} would destroy what it is made from: name another")


def write_text(target: Path | str, text: str) -> None:
    """Write ``text`` (UTF-8) to ``target`` through `replacing`."""
    with replacing(target) as draft:
        draft.write_text(text, encoding="utf-8", errors="surrogateescape")


def readable(text: str) -> str:
    """File names may hold bytes that are not UTF-8, which pages and other programs cannot read."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def sweep(folder: Path, stem: str = "*") -> None:
    """Remove drafts in ``folder`` whose writer was killed before it could do so itself.

    Args:
        folder: where to look.
        stem: of the targets, all where left out.
    """
    pattern = stem if stem == "*" else glob.escape(stem)
    for draft in folder.glob(f".{pattern}.{glob.escape(platform.node())}.*"):
        process = draft.name.split(f".{platform.node()}.")[-1].split(".")[0]
        if process.isdigit() and not _is_alive(int(process)):
            draft.unlink(missing_ok=True)


def _draft_prefix(stem: str, process: int) -> str:
    # The machine is named too: on a shared disk its process numbers mean nothing elsewhere.
    return f".{stem}.{platform.node()}.{process}."


def _is_alive(process: int) -> bool:
    if os.name != "posix":  # elsewhere asking would be killing
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def sync_folder(folder: Path) -> None:
    """Make the rename itself durable, where the system lets a folder be synced."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)
