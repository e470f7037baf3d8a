"""Fetch a benchmark from its own published address: terms, transfer, checksum, installation.

A file lands in ``root/.downloads`` as ``<name>.part`` and goes on from there after an
interruption. Only bytes that match their checksum are unpacked, into a hidden folder first, and
one rename puts the finished data set in place: it is there whole or not at all. Sizes are in
bytes and times in seconds throughout. Run one download of the same data set at a time.
"""

import hashlib
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from hiercli.data.extract import extract
from hiercli.data.sources import SOURCES, Source
from hiercli.data.transfer import Transfer, bytes_needed, download, require_space
from hiercli.errors import DataError, DownloadError, InputError
from hiercli.files import open_regular, write_text


def fetch(
    name: str,
    root: Path,
    *,
    progress: Callable[[str, int, int | None], None] | None = None,
    notice: Callable[[str], None] | None = None,
    source: Source | None = None,
    retries: int = 4,
    timeout: float = 30.0,
    pause: float = 1.0,
) -> Path:
    """Download, verify, extract; does nothing where the data set is already complete.

    Files that were put into ``root/.downloads`` by hand under their published names are verified
    and used in place of a transfer.

    Args:
        name: key of `SOURCES`; only a label where ``source`` is given.
        root: folder of all data sets; made if missing.
        progress: called with (file name, bytes so far, bytes in all or ``None``).
        notice: called with the terms before the transfer, then with every remark and warning.
        source: what to fetch instead of ``SOURCES[name]``.
        retries: how often a transfer that broke off is taken up again.
        timeout: seconds without a byte after which a transfer counts as broken off.
        pause: seconds before the first new attempt; doubles each time, up to a minute.

    Returns:
        the folder ``root / source.folder``.

    Raises:
        InputError: no such data set, or the disk is full or cannot be written to.
        DataError: the folder is there but incomplete, or must be fetched by hand.
        DownloadError: the transfer failed for good, or what came is not what was promised.
    """
    if source is None:
        if name not in SOURCES:
            raise InputError(f"expected one of {', '.join(SOURCES)}; got {name!r}")
        source = SOURCES[name]
    folder, downloads = Path(root) / source.folder, Path(root) / ".downloads"
    if os.path.lexists(folder):
        missing = _missing(source, folder)
        if not missing:
            return folder
        raise DataError(
            f"expected all of {source.name} in {folder}, but it lacks {', '.join(missing)}. Add "
            "the missing files, or move the folder away and run the command again to download "
            "everything"
        )
    tell = notice or (lambda message: None)
    tell(source.terms)
    if not source.archives:
        raise DataError(
            f"expected {source.name} in {folder}, but it is missing and has no public download "
            f"link. Follow the instructions on {source.homepage}, then unpack the files so that "
            f"{folder} contains {', '.join(source.required)}"
        )
    names = " and ".join(archive.filename for archive in source.archives)
    advice = (
        f"To download it by hand, see {source.homepage}, put {names} into {downloads}, and run "
        "the command again"
    )
    transfers = [
        Transfer(archive, downloads, advice, progress, tell, retries, timeout, pause)
        for archive in source.archives
    ]
    try:
        downloads.mkdir(parents=True, exist_ok=True)
        require_space(downloads, sum(bytes_needed(one, one.archive.size) for one in transfers))
        for one in transfers:
            _obtain(one)
        _install(source, transfers, folder)
    except OSError as error:
        raise InputError(
            f"cannot write {source.name} under {root}: {error.strerror or error}. The downloaded "
            "part is kept. Free some space or choose another folder, then run the command again"
        ) from error
    return folder


def _missing(source: Source, folder: Path) -> list[str]:
    """What ``folder`` lacks of the data set, in words; empty where it is complete."""
    if not folder.is_dir():
        return ["everything (it is not a folder)"]
    missing = [pattern for pattern in source.required if not any(folder.glob(pattern))]
    if source.num_pictures and not missing:
        names = (name for _, _, files in os.walk(folder, followlinks=True) for name in files)
        num_pictures = sum(name.lower().endswith((".jpg", ".jpeg")) for name in names)
        if num_pictures < source.num_pictures:
            missing.append(f"{source.num_pictures - num_pictures:,} images")
    return missing


def _obtain(transfer: Transfer) -> None:
    """Make sure that the whole file is there and verified (errors as for `fetch`)."""
    if transfer.whole.exists():
        _verify(transfer, transfer.whole)
        return
    download(transfer)
    try:
        _verify(transfer, transfer.part)
    except DownloadError:
        transfer.discard()
        raise
    os.replace(transfer.part, transfer.whole)
    transfer.note.unlink(missing_ok=True)


def _verify(transfer: Transfer, path: Path) -> None:
    """Compare length and checksum; record the sum where none is published, with a warning."""
    archive = transfer.archive
    size = path.stat().st_size
    if archive.size is not None and size != archive.size:
        raise DownloadError(
            f"{path}: expected {archive.size:,} bytes, found {size:,}. Remove it and run the "
            "command again"
        )
    algorithm, _, expected = (archive.checksum or "sha256:").partition(":")
    with open_regular(path) as stream:
        digest = hashlib.file_digest(
            stream, lambda: hashlib.new(algorithm, usedforsecurity=False)
        ).hexdigest()
    if archive.checksum is None:
        record = transfer.downloads / f"{archive.filename}.sha256"
        write_text(record, f"{digest}  {archive.filename}\n")
        transfer.notice(
            f"Warning: no checksum is published for {archive.filename}, so the file could not be "
            f"verified. Its sha256 is {digest}, recorded in {record}"
        )
    elif digest != expected.lower():
        raise DownloadError(
            f"{archive.filename}: expected {algorithm} {expected}, got {digest}: this is not the "
            "published file. A downloaded file is removed automatically. Remove a file that you "
            f"put there yourself. Then run the command again. {transfer.advice}"
        )


def _install(source: Source, transfers: list[Transfer], folder: Path) -> None:
    """Unpack everything aside, check that it is complete, rename it to ``folder``, tidy up."""
    downloads = transfers[0].downloads
    staging = downloads / f"{source.folder}.unpacked"
    shutil.rmtree(staging, ignore_errors=True)  # left by a run that was killed
    try:
        # Archives first, because each wants a folder of its own to appear in.
        for one in sorted(transfers, key=lambda one: not one.archive.unpack):
            target = staging / one.archive.into
            if one.archive.unpack:
                extract(one.whole, target)
            else:
                target.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(one.whole, target / one.archive.filename)
        missing = _missing(source, staging / source.folder)
        if missing:
            raise DownloadError(
                f"expected all of {source.name} in its archives, but they lack "
                f"{', '.join(missing)}. Run the command again to download them again. "
                f"{transfers[0].advice}"
            )
        os.rename(staging / source.folder, folder)
    except DownloadError:
        for one in transfers:
            one.whole.unlink(missing_ok=True)
        raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    for one in transfers:
        one.whole.unlink(missing_ok=True)
    with suppress(OSError):  # records of checksums, or another download, may still lie there
        downloads.rmdir()
