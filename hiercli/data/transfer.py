"""One file over HTTP, taken up again where it broke off.

What has come lies in ``<name>.part``, with a note of which version of the file it belongs to: a
transfer goes on only where the server says that it is still the same one. Sizes are in bytes and
times in seconds.
"""

import http.client
import re
import shutil
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from hiercli.data.extract import CHUNK_BYTES, MAX_EXTRACTED_BYTES
from hiercli.data.sources import Archive
from hiercli.errors import DownloadError, InputError

LONGEST_PAUSE = 60.0
# Photographs hardly compress: unpacked, these archives take about their own size once more.
EXTRACTED_PER_BYTE = 1.2


class _BrokenOffError(Exception):
    """A transfer that ended early for a reason that may pass: the caller tries again."""


@dataclass(frozen=True)
class Transfer:
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


def download(transfer: Transfer) -> None:
    """Bring the part file to its full length, taking up broken transfers again."""
    reason = ""
    for attempt in range(transfer.retries + 1):
        if attempt:
            transfer.notice(f"{transfer.archive.filename}: {reason}. Resuming the download")
            time.sleep(min(transfer.pause * 2 ** (attempt - 1), LONGEST_PAUSE))
        try:
            _attempt(transfer)
            return
        except _BrokenOffError as error:
            reason = str(error)
    raise DownloadError(
        f"the download of {transfer.archive.url} failed {transfer.retries + 1} times: {reason}. "
        f"The downloaded part is kept. Run the command again to resume. {transfer.advice}"
    )


def _attempt(transfer: Transfer) -> None:
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
            raise _BrokenOffError("the server sent a part that was not requested")
        _check_total(transfer, response.headers, start, total)
        if start == 0:
            transfer.discard()
            mark = _version(response.headers)
            transfer.note.write_text(f"{archive.url}\n{mark}", encoding="utf-8")
        if archive.size is None:
            require_space(transfer.downloads, bytes_needed(transfer, total))
        _receive(transfer, response, start, total)


def bytes_needed(transfer: Transfer, size: int | None) -> int:
    """Bytes of disk still needed for a file of ``size`` bytes and for what comes out of it."""
    if size is None:
        return 0
    held = max(
        (path.stat().st_size for path in (transfer.whole, transfer.part) if path.exists()),
        default=0,
    )
    return max(size - held, 0) + int(size * EXTRACTED_PER_BYTE)


def require_space(folder: Path, needed: int) -> None:
    """Raise InputError where the disk of ``folder`` has fewer than ``needed`` bytes free."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(
            f"expected {needed:,} free bytes of disk space for the archive and the images, found "
            f"{free:,} at {folder}. Free some space or choose another folder"
        )


def _resume_point(transfer: Transfer) -> tuple[int, str]:
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
                f"{req.full_url} redirects from https to plain http ({newurl}), which is not "
                "secure. The download was stopped. Download the file by hand from a source you "
                "trust"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _check_scheme(url: str) -> None:
    """Raise DownloadError unless ``url`` is http or https."""
    if urlsplit(url).scheme not in ("http", "https"):
        raise DownloadError(f"expected an http or https address, got {url}")


def _request(
    transfer: Transfer, headers: dict[str, str], offset: int
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
        raise _BrokenOffError("the server cannot resume the download") from error
    except (OSError, http.client.HTTPException) as error:
        raise _network_error(transfer, error) from error
    assert isinstance(response, http.client.HTTPResponse)
    return response


def _refusal(transfer: Transfer, error: urllib.error.HTTPError) -> Exception:
    """What to raise for an HTTP error status: server trouble may pass, a refusal will not."""
    status = f"the server answered {error.code} {error.reason}"
    if error.code >= 500 or error.code in (408, 429):
        return _BrokenOffError(status)
    meaning = "the file no longer exists" if error.code in (404, 410) else "access is refused"
    return DownloadError(
        f"expected {transfer.archive.filename} at {transfer.archive.url}; {status}: {meaning}. "
        f"{transfer.advice}"
    )


def _network_error(transfer: Transfer, error: Exception) -> Exception:
    """What to raise for a connection that failed."""
    reason = getattr(error, "reason", None) or error
    if isinstance(reason, ssl.SSLCertVerificationError):
        return DownloadError(
            f"expected a valid certificate from {transfer.archive.url}; {reason.verify_message}. "
            "Check the clock and the certificates of this computer, then run the command again"
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


def _check_total(transfer: Transfer, headers: Message, start: int, total: int | None) -> None:
    """Raise DownloadError where the stated length cannot be that of the published file."""
    archive = transfer.archive
    problem = ""
    if archive.size is not None and total not in (None, archive.size):
        kind = headers.get("Content-Type", "no stated type")
        problem = (
            f"expected {archive.size:,} bytes, the server offers {total:,} ({kind}). The address "
            "may return a web page instead of the file"
        )
    elif archive.size is None and archive.checksum is None and total is None:
        problem = (
            "expected a stated length or a known checksum, found neither. The download could not "
            "be verified"
        )
    elif total is not None and not start <= total <= MAX_EXTRACTED_BYTES:
        problem = f"expected at most {MAX_EXTRACTED_BYTES:,} bytes, the server offers {total:,}"
    if problem:
        raise DownloadError(f"{archive.url}: {problem}. Try again later. {transfer.advice}")


def _receive(
    transfer: Transfer, response: http.client.HTTPResponse, start: int, total: int | None
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
        raise _BrokenOffError(f"the transfer stopped after {received:,} of {length:,} bytes")
    # Where a checksum decides, waiting for surplus bytes would gain nothing.
    if archive.checksum is None and _has_surplus(transfer, response):
        transfer.discard()
        raise DownloadError(
            f"{archive.url}: expected {limit:,} bytes as stated, but the server sent more. There "
            f"is no checksum to verify the file, so it was deleted. {transfer.advice}"
        )


def _read(transfer: Transfer, response: http.client.HTTPResponse, amount: int) -> bytes:
    """Up to ``amount`` bytes, as soon as some are there; b"" at the end."""
    try:
        return response.read1(amount)
    except (OSError, http.client.HTTPException) as error:
        raise _network_error(transfer, error) from error


def _has_surplus(transfer: Transfer, response: http.client.HTTPResponse) -> bool:
    """Whether the server sends on after the stated end."""
    try:
        return bool(_read(transfer, response, 1))
    except _BrokenOffError:
        return False  # it keeps the connection open and silent
