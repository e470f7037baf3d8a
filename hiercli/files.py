"""Writing files so that a killed run leaves the old state or the new one, never a half."""

import glob
import io
import json
import os
import platform
import re
import stat
import tempfile
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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
            f"writing {target} failed: {error.strerror or error}. No partial file remains. Free "
            "some space or choose another folder, then run the command again"
        ) from error
    finally:
        draft.unlink(missing_ok=True)


def require_replaceable(target: Path) -> None:
    """Check that `replacing` can put a file at ``target``, before work goes into its content.

    Raises:
        InputError: a folder, a device or a pipe is there.
    """
    if target.is_dir():
        raise InputError(
            f"expected a file name to write to, but {target} is a folder. Add a file name"
        )
    if target.exists() and not target.is_file():
        raise InputError(
            f"expected a file to write to, but {target} is a device or a pipe. Name another file"
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
            raise InputError(
                f"writing {target} would overwrite an input of this command. Name another file"
            )


def write_text(target: Path | str, text: str) -> None:
    """Write ``text`` (UTF-8) to ``target`` through `replacing`."""
    with replacing(target) as draft:
        draft.write_text(text, encoding="utf-8", errors="surrogateescape")


def open_regular(source: Path | str) -> io.BufferedReader:
    """Open a file for reading bytes; a pipe or a device, which could wait for ever, is refused.

    Raises:
        InputError: it is missing, no regular file, or may not be read.
    """
    try:
        file = open(source, "rb", opener=_at_once)  # noqa: SIM115
    except IsADirectoryError as error:
        raise InputError(f"expected a file, but {source} is a folder") from error
    except OSError as error:
        raise InputError(f"cannot read {source}: {error.strerror or error}") from error
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise InputError(f"expected a file, but {source} is a folder, a device or a pipe")
    return file


def _at_once(path: str, flags: int) -> int:
    """Open without waiting for the writer of a pipe; of a regular file it makes no difference."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def read_text(source: Path, *, most: int = 2**28, errors: str = "strict") -> str:
    """The text of a UTF-8 file, with or without a byte order mark.

    Args:
        source: the file.
        most: bytes that it may have.
        errors: ``surrogateescape`` keeps bytes that are not UTF-8, as file names may have them.

    Raises:
        InputError: it is missing, no regular file, too large, or not UTF-8. The message says which
            encoding it has where its first bytes tell.
    """
    with open_regular(source) as file:
        # As much as is asked for is set aside.
        content = file.read(min(most, os.fstat(file.fileno()).st_size) + 1)
    if len(content) > most:
        raise InputError(f"expected a text file of at most {most:,} bytes, but {source} is larger")
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise InputError(f"expected UTF-8, but {source} is UTF-16. Save it as UTF-8")
    try:
        return content.decode("utf-8-sig", errors)
    except UnicodeDecodeError as error:
        raise InputError(
            f"expected UTF-8, but byte {error.start} of {source} is not UTF-8 (perhaps Latin-1 or "
            "Windows-1252). Save the file as UTF-8"
        ) from error


def parse_json(text: str | bytes) -> Any:
    """`json.loads` that has one answer, ValueError, to whatever is no JSON that can be read.

    Half of a character is no text, and no file or terminal takes it. (The halves that stand for
    bytes of file names, U+DC80 to U+DCFF, are kept.)
    """
    try:
        value = json.loads(text)
        if _HALF.search(text if isinstance(text, str) else text.decode("utf-8", "replace")):
            json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogateescape")
        return value
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


_HALF = re.compile(r"\\u[dD][89a-fA-F]|[\ud800-\udfff]")


def readable(text: str) -> str:
    """File names may hold bytes that are not UTF-8, which pages and other programs cannot read."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def printable(text: str) -> str:
    """``text`` on one line, with what a terminal would obey shown as an escape.

    That is control characters, line ends of every kind, and the signs that turn the direction of
    what follows. Joiners, soft hyphens and every kind of blank are part of names and stay.
    """
    return escaped(readable(text))


def escaped(text: str) -> str:
    """`printable`, but for bytes of file names that are not UTF-8, which stay as they are."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(repr(sign)[1:-1] if _is_obeyed(sign) else sign for sign in text)


def _is_obeyed(sign: str) -> bool:
    return unicodedata.category(sign) in ("Cc", "Zl", "Zp") or sign in _TURNING


_TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Unicode's embeddings, overrides and isolates: they can make a name read as another."""


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
