"""Fetch a benchmark from its own published address: terms, transfer, checksum, installation.

A file lands in ``root/.downloads`` as ``<name>.part`` and goes on from there after an
interruption. Only bytes that match their checksum are unpacked, into a hidden folder first, and
one rename puts the finished data set in place: it is there whole or not at all. Sizes are in
bytes and times in seconds throughout. Run one download of the same data set at a time.
"""

import hashlib
import http.client
import os
import re
import shutil
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from hiercli.data.extract import CHUNK_BYTES, MAX_EXTRACTED_BYTES, extract
from hiercli.data.sources import SOURCES, Archive, Source
from hiercli.errors import DataError, DownloadError, InputError
from hiercli.files import write_text

LONGEST_PAUSE = 60.0
# Photographs hardly compress: unpacked, these archives take about their own size once more.
EXTRACTED_PER_BYTE = 1.2


class _BrokenOffError(Exception):
    """A transfer that ended early for a reason that may pass: the caller tries again."""


@dataclass(frozen=True)
class _Transfer:
    """One archive on its way: what to fetch, where to, whom to tell, how patiently."""

    archive: Archive
    downloads: Path
    advice: str
    progress: Callable[[str, int, int | None], None] | None
    notice: Callable[[str], None]
    retries: int
    timeout: float
    pause: float

    @property
    def whole(self) -> Path:
        """The finished file."""
        return self.downloads / self.archive.filename

    @property
    def part(self) -> Path:
        """What has come so far."""
        return self.downloads / f"{self.archive.filename}.part"

    @property
    def note(self) -> Path:
        """Beside the part: its address, then the server's mark of that version (or nothing)."""
        return self.downloads / f"{self.archive.filename}.part.from"

    def discard(self) -> None:
        """Forget what has come so far."""
        self.part.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)


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
            f"expected {folder} to hold {source.name} whole; it lacks {', '.join(missing)}. "
            "Complete it, or move it away and run this again to fetch it anew"
        )
    tell = notice or (lambda message: None)
    tell(source.terms)
    if not source.archives:
        raise DataError(
            f"expected {source.name} at {folder}; it has no direct public link. Follow the "
            f"instructions on {source.homepage}, then unpack it so that {folder} holds "
            f"{', '.join(source.required)}"
        )
    names = " and ".join(archive.filename for archive in source.archives)
    advice = f"To get it by hand, see {source.homepage}, put {names} into {downloads}, run it again"
    transfers = [
        _Transfer(archive, downloads, advice, progress, tell, retries, timeout, pause)
        for archive in source.archives
    ]
    try:
        downloads.mkdir(parents=True, exist_ok=True)
        _require_space(downloads, sum(_bytes_needed(one, one.archive.size) for one in transfers))
        for one in transfers:
            _obtain(one)
        _install(source, transfers, folder)
    except OSError as error:
        raise InputError(
            f"cannot write {source.name} under {root}: {error.strerror or error}. What has come "
            "is kept: make room or choose another folder, then run this again"
        ) from error
    return folder


def _missing(source: Source, folder: Path) -> list[str]:
    """What ``folder`` lacks of the data set, in words; empty where it is complete."""
    if not folder.is_dir():
        return ["everything: it is no folder"]
    missing = [pattern for pattern in source.required if not any(folder.glob(pattern))]
    if source.num_pictures and not missing:
        names = (name for _, _, files in os.walk(folder, followlinks=True) for name in files)
        num_pictures = sum(name.lower().endswith((".jpg", ".jpeg")) for name in names)
        if num_pictures < source.num_pictures:
            missing.append(f"{source.num_pictures - num_pictures:,} of its pictures")
    return missing


def _bytes_needed(transfer: _Transfer, size: int | None) -> int:
    """Bytes of disk still needed for a file of ``size`` bytes and for what comes out of it."""
    if size is None:
        return 0
    held = max(
        (path.stat().st_size for path in (transfer.whole, transfer.part) if path.exists()),
        default=0,
    )
    return max(size - held, 0) + int(size * EXTRACTED_PER_BYTE)


def _require_space(folder: Path, needed: int) -> None:
    """Raise InputError where the disk of ``folder`` has fewer than ``needed`` bytes free."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(
            f"expected {needed:,} free bytes of disk, for the archive and the pictures; found "
            f"{free:,} at {folder}. Free some space or choose another folder"
        )


def _obtain(transfer: _Transfer) -> None:
    """Make sure that the whole file is there and verified (errors as for `fetch`)."""
    if transfer.whole.exists():
        _verify(transfer, transfer.whole)
        return
    _download(transfer)
    try:
        _verify(transfer, transfer.part)
    except DownloadError:
        transfer.discard()
        raise
    os.replace(transfer.part, transfer.whole)
    transfer.note.unlink(missing_ok=True)


def _verify(transfer: _Transfer, path: Path) -> None:
    """Compare length and checksum; record the sum where none is published, with a warning."""
    archive = transfer.archive
    size = path.stat().st_size
    if archive.size is not None and size != archive.size:
        raise DownloadError(
            f"{path}: expected {archive.size:,} bytes, found {size:,}. Remove it and run this again"
        )
    algorithm, _, expected = (archive.checksum or "sha256:").partition(":")
    with open(path, "rb") as stream:
        digest = hashlib.file_digest(
            stream, lambda: hashlib.new(algorithm, usedforsecurity=False)
        ).hexdigest()
    if archive.checksum is None:
        record = transfer.downloads / f"{archive.filename}.sha256"
        write_text(record, f"{digest}  {archive.filename}\n")
        transfer.notice(
            f"Warning: no checksum is published for {archive.filename}, so what came could not be "
            f"verified. Its sha256 is {digest}, recorded in {record}"
        )
    elif digest != expected.lower():
        raise DownloadError(
            f"{archive.filename}: expected {algorithm} {expected}, got {digest}: this is not the "
            "published file. What was downloaded is removed; remove what you put there yourself. "
            f"Then run this again. {transfer.advice}"
        )


def _download(transfer: _Transfer) -> None:
    """Bring the part file to its full length, taking up broken transfers again."""
    reason = ""
    for attempt in range(transfer.retries + 1):
        if attempt:
            transfer.notice(f"{transfer.archive.filename}: {reason}; taking it up again")
            time.sleep(min(transfer.pause * 2 ** (attempt - 1), LONGEST_PAUSE))
        try:
            _attempt(transfer)
            return
        except _BrokenOffError as error:
            reason = str(error)
    raise DownloadError(
        f"expected the whole of {transfer.archive.url}; gave up after {transfer.retries + 1} "
        f"attempts: {reason}. What has come is kept: run this again to go on from there. "
        f"{transfer.advice}"
    )


def _attempt(transfer: _Transfer) -> None:
    """One request for what is still missing, written behind what is there."""
    archive = transfer.archive
    offset, version = _resume_point(transfer)
    if offset and offset == archive.size:
        return
    headers = {"User-Agent": "hiercli", "Accept-Encoding": "identity"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
        if version:
            headers["If-Range"] = version
    response = _request(transfer, headers, offset)
    if response is None:
        return
    with response:
        start, total = _stated_span(response)
        if start not in (0, offset):
            transfer.discard()
            raise _BrokenOffError("the server sent another part than the one asked for")
        _check_total(transfer, response.headers, start, total)
        if start == 0:
            transfer.discard()
            mark = _version(response.headers)
            transfer.note.write_text(f"{archive.url}\n{mark}", encoding="utf-8")
        if archive.size is None:
            _require_space(transfer.downloads, _bytes_needed(transfer, total))
        _receive(transfer, response, start, total)


def _resume_point(transfer: _Transfer) -> tuple[int, str]:
    """(bytes to keep, the server's mark of their version); (0, "") to start over."""
    archive = transfer.archive
    if transfer.part.exists() and transfer.note.exists():
        url, _, version = transfer.note.read_text("utf-8", errors="replace").partition("\n")
        offset = transfer.part.stat().st_size
        fits = archive.size is None or offset <= archive.size
        # Without a mark two versions could be spliced, and only a checksum would notice.
        if url == archive.url and fits and (version or archive.checksum):
            return offset, version
    transfer.discard()
    return 0, ""


def _version(headers: Message) -> str:
    """The server's mark of this version of the file, fit for If-Range; "" where it has none."""
    tag: str = headers.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else str(headers.get("Last-Modified", ""))


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follow redirects to http and https, but never from https down to http."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        """The request to follow with; raises DownloadError where it would lose the encryption."""
        _check_scheme(newurl)
        if req.full_url.startswith("https:") and not newurl.startswith("https:"):
            raise DownloadError(
                f"{req.full_url} redirects from https to plain http ({newurl}), which anyone on "
                "the way could alter: refused. Fetch the file by hand from a source you trust"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _check_scheme(url: str) -> None:
    """Raise DownloadError unless ``url`` is http or https."""
    if urlsplit(url).scheme not in ("http", "https"):
        raise DownloadError(f"expected an http or https address, got {url}: refused")


def _request(
    transfer: _Transfer, headers: dict[str, str], offset: int
) -> http.client.HTTPResponse | None:
    """Ask for the file; ``None`` where the server says that ``offset`` bytes are all of it."""
    _check_scheme(transfer.archive.url)
    request = urllib.request.Request(transfer.archive.url, headers=headers)
    try:
        response = urllib.request.build_opener(_Redirects).open(request, timeout=transfer.timeout)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code != 416:
            raise _refusal(transfer, error) from error
        if offset and error.headers.get("Content-Range", "").strip() == f"bytes */{offset}":
            return None
        transfer.discard()
        raise _BrokenOffError("the server cannot go on from where the transfer stopped") from error
    except (OSError, http.client.HTTPException) as error:
        raise _network_error(transfer, error) from error
    assert isinstance(response, http.client.HTTPResponse)
    return response


def _refusal(transfer: _Transfer, error: urllib.error.HTTPError) -> Exception:
    """What to raise for an HTTP error status: server trouble may pass, a refusal will not."""
    status = f"the server answered {error.code} {error.reason}"
    if error.code >= 500 or error.code in (408, 429):
        return _BrokenOffError(status)
    meaning = "the file is not there any more" if error.code in (404, 410) else "it refuses it"
    return DownloadError(
        f"expected {transfer.archive.filename} at {transfer.archive.url}; {status}: {meaning}. "
        f"{transfer.advice}"
    )


def _network_error(transfer: _Transfer, error: Exception) -> Exception:
    """What to raise for a connection that failed."""
    reason = getattr(error, "reason", None) or error
    if isinstance(reason, ssl.SSLCertVerificationError):
        return DownloadError(
            f"expected a valid certificate from {transfer.archive.url}; {reason.verify_message}. "
            "Check the clock and the certificates of this computer, then run this again"
        )
    return _BrokenOffError(f"the connection failed ({reason or type(error).__name__})")


def _stated_span(response: http.client.HTTPResponse) -> tuple[int, int | None]:
    """(first byte sent, length of the whole file or ``None``), as stated; -1 if not to be read."""
    if response.status == 206:
        span = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if span is None:
            return -1, None
        return int(span[1]), None if span[2] == "*" else int(span[2])
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if re.fullmatch(r"[0-9]{1,18}", length) else None


def _check_total(transfer: _Transfer, headers: Message, start: int, total: int | None) -> None:
    """Raise DownloadError where the stated length cannot be that of the published file."""
    archive = transfer.archive
    problem = ""
    if archive.size is not None and total not in (None, archive.size):
        kind = headers.get("Content-Type", "no stated type")
        problem = (
            f"expected {archive.size:,} bytes, the server offers {total:,} ({kind}): this may be "
            "a page of text in place of the file"
        )
    elif archive.size is None and archive.checksum is None and total is None:
        problem = (
            "expected a stated length or a known checksum, found neither, so that a whole file "
            "cannot be told from a broken one"
        )
    elif total is not None and not start <= total <= MAX_EXTRACTED_BYTES:
        problem = f"expected at most {MAX_EXTRACTED_BYTES:,} bytes, the server offers {total:,}"
    if problem:
        raise DownloadError(f"{archive.url}: {problem}. Try again later. {transfer.advice}")


def _receive(
    transfer: _Transfer, response: http.client.HTTPResponse, start: int, total: int | None
) -> None:
    """Append the body to the part, never beyond the published or stated length."""
    archive = transfer.archive
    length = total if archive.size is None else archive.size
    limit = MAX_EXTRACTED_BYTES if length is None else length
    # The count is kept here: left to itself, the response hides bytes beyond its stated length.
    response.length = None
    received = start
    with open(transfer.part, "ab") as part:
        while received < limit and (
            block := _read(transfer, response, min(CHUNK_BYTES, limit - received))
        ):
            part.write(block)
            received += len(block)
            if transfer.progress is not None:
                transfer.progress(archive.filename, received, length)
    if length is not None and received < length:
        raise _BrokenOffError(f"it stopped after {received:,} of {length:,} bytes")
    # Where a checksum decides, waiting for surplus bytes would gain nothing.
    if archive.checksum is None and _has_surplus(transfer, response):
        transfer.discard()
        raise DownloadError(
            f"{archive.url}: expected {limit:,} bytes as stated, the server sent more, and no "
            f"checksum could tell whether they are right: refused. {transfer.advice}"
        )


def _read(transfer: _Transfer, response: http.client.HTTPResponse, amount: int) -> bytes:
    """Up to ``amount`` bytes, as soon as some are there; b"" at the end."""
    try:
        return response.read1(amount)
    except (OSError, http.client.HTTPException) as error:
        raise _network_error(transfer, error) from error


def _has_surplus(transfer: _Transfer, response: http.client.HTTPResponse) -> bool:
    """Whether the server sends on after the stated end."""
    try:
        return bool(_read(transfer, response, 1))
    except _BrokenOffError:
        return False  # it keeps the connection open and silent


def _install(source: Source, transfers: list[_Transfer], folder: Path) -> None:
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
                f"expected {source.name} whole from its archives; they lack {', '.join(missing)}. "
                f"Run this again to fetch them anew. {transfers[0].advice}"
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
