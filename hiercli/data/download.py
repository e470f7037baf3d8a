"""Fetch a benchmark from its own published address: terms, transfer, checksum, extraction.

A file lands in ``root/.downloads`` as ``<name>.part`` and goes on from there after an
interruption. Only bytes that match their checksum are unpacked, into a hidden folder first, and
one rename puts the finished data set in place: it is there whole or not at all. Sizes are in
bytes and times in seconds throughout. Run one download of the same data set at a time.
"""

import gzip
import hashlib
import http.client
import lzma
import os
import re
import shutil
import ssl
import stat
import struct
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from types import MappingProxyType
from typing import IO
from urllib.parse import urlsplit

from hiercli.errors import DataError, DownloadError, InputError
from hiercli.files import write_text

CHUNK_BYTES = 256 * 1024
LONGEST_PAUSE = 60.0
# Photographs hardly compress: unpacked, these archives take about their own size once more.
EXTRACTED_PER_BYTE = 1.2
# Limits against archive bombs; the largest benchmark unpacks to 3 GB and 120,000 files.
MAX_EXTRACTED_BYTES = 20 * 1024**3
MAX_EXTRACTED_RATIO = 100
MAX_MEMBERS = 2_000_000
DAMAGED = (
    tarfile.TarError,
    zipfile.BadZipFile,
    gzip.BadGzipFile,
    lzma.LZMAError,
    zlib.error,
    struct.error,
    EOFError,
    RuntimeError,  # zipfile: a password or a method it does not know
    ValueError,
)


@dataclass(frozen=True)
class Archive:
    """One file to fetch.

    Attributes:
        url: where the owners of the data set offer it (http or https).
        filename: its name in the downloads folder.
        checksum: ``md5:...`` or ``sha256:...`` of the whole file; ``None`` where none is known.
        size: exact length in bytes; ``None`` where it is not known for certain.
        unpack: ``True`` for an archive, ``False`` for a file that is taken as it is.
        into: folder under the data root that receives what comes out; no two archives of a
            source unpack into the same one.
    """

    url: str
    filename: str
    checksum: str | None
    size: int | None
    unpack: bool = True
    into: str = "."


@dataclass(frozen=True)
class Source:
    """Where a data set comes from and what it must hold once it is there.

    Attributes:
        name: short name, as given to ``--data``.
        homepage: page on which the owners describe and offer it.
        terms: terms of use and citation, in plain words, shown before anything is fetched.
        archives: the files to fetch; empty where the owners offer no direct link.
        folder: resulting folder under the data root.
        required: patterns (as for `Path.glob`), each of which must match something in it.
        num_pictures: least number of JPEG files in it; 0 leaves them uncounted.
    """

    name: str
    homepage: str
    terms: str
    archives: tuple[Archive, ...]
    folder: str
    required: tuple[str, ...] = ()
    num_pictures: int = 0


# Checksums: CUB and SOP as recorded by TensorFlow Datasets, Cars by earlier releases of
# pytorch-metric-learning. No second source confirms the lengths of the Cars files: none asserted.
_CUB = Source(
    name="cub",
    homepage="https://www.vision.caltech.edu/datasets/cub_200_2011/",
    terms=(
        "CUB-200-2011 (Caltech-UCSD Birds): for non-commercial research and education. The "
        "photographs come from Flickr and stay with their photographers. Read "
        "https://www.vision.caltech.edu/datasets/cub_200_2011/ before any other use. Cite: Wah, "
        "Branson, Welinder, Perona, Belongie, The Caltech-UCSD Birds-200-2011 Dataset, "
        "California Institute of Technology, CNS-TR-2011-001, 2011."
    ),
    archives=(
        Archive(
            url="https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",
            filename="CUB_200_2011.tgz",
            checksum="sha256:0c685df5597a8b24909f6a7c9db6d11e008733779a671760afef78feb49bf081",
            size=1_150_585_339,
        ),
    ),
    folder="CUB_200_2011",
    required=(
        "images",
        "images.txt",
        "image_class_labels.txt",
        "train_test_split.txt",
        "classes.txt",
    ),
    num_pictures=11_788,
)
_CARS = Source(
    name="cars",
    homepage="https://ai.stanford.edu/~jkrause/cars/car_dataset.html",
    terms=(
        "Cars196 (Stanford Cars): published for research; no licence for other use is known. The "
        "photographs come from the web and stay with their owners. The published address has been "
        "reported out of service since 2023. Cite: Krause, Stark, Deng, Fei-Fei, 3D Object "
        "Representations for Fine-Grained Categorization, 3dRR-13, 2013."
    ),
    archives=(
        Archive(
            url="https://ai.stanford.edu/~jkrause/car196/car_ims.tgz",
            filename="car_ims.tgz",
            checksum="md5:d5c8f0aa497503f355e17dc7886c3f14",
            size=None,
            into="cars196",
        ),
        Archive(
            url="https://ai.stanford.edu/~jkrause/car196/cars_annos.mat",
            filename="cars_annos.mat",
            checksum="md5:b407c6086d669747186bd1d764ff9dbc",
            size=None,
            unpack=False,
            into="cars196",
        ),
    ),
    folder="cars196",
    required=("car_ims", "cars_annos.mat"),
    num_pictures=16_185,
)
_SOP = Source(
    name="sop",
    homepage="https://cvgl.stanford.edu/projects/lifted_struct/",
    terms=(
        "Stanford Online Products: published for research; read the LICENSE file inside the "
        "archive before any other use. The photographs come from eBay listings and stay with "
        "their owners. Cite: Oh Song, Xiang, Jegelka, Savarese, Deep Metric Learning via Lifted "
        "Structured Feature Embedding, CVPR 2016."
    ),
    archives=(
        Archive(
            url="https://drive.usercontent.google.com/download"
            "?id=1TclrpQOF_ullUP99wk_gjGN8pKvtErG8&export=download&authuser=0&confirm=t",
            filename="Stanford_Online_Products.zip",
            checksum="sha256:b04fa78210e69fab050ce73939550e1cd0f96890bdd98ec9fee732c3b756ef48",
            size=3_083_860_082,
        ),
    ),
    folder="Stanford_Online_Products",
    required=("Ebay_train.txt", "Ebay_test.txt", "*_final"),
    num_pictures=120_053,
)
_INSHOP = Source(
    name="inshop",
    homepage="https://mmlab.ie.cuhk.edu.hk/projects/DeepFashion/InShopRetrieval.html",
    terms=(
        "DeepFashion In-shop Clothes Retrieval: non-commercial research and education only, under "
        "the agreement on its page; the owners hand it out by a link on that page. Cite: Liu, Luo, "
        "Qiu, Wang, Tang, DeepFashion: Powering Robust Clothes Recognition and Retrieval with Rich "
        "Annotations, CVPR 2016."
    ),
    archives=(),
    folder="In-shop_Clothes_Retrieval_Benchmark",
    required=("Eval/list_eval_partition.txt", "Img/img"),
)
SOURCES: Mapping[str, Source] = MappingProxyType(
    {source.name: source for source in (_CUB, _CARS, _SOP, _INSHOP)}
)


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


def extract(archive: Path, target: Path) -> int:
    """Unpack a zip or a tar (plain, gzip, bzip2, xz) into the new folder ``target``.

    Nothing is written outside ``target``, and it appears only once everything is unpacked.
    Absolute paths, ``..``, links of any kind and device files are refused (no benchmark needs
    them), as is whatever unpacks to more than `MAX_EXTRACTED_BYTES`, `MAX_EXTRACTED_RATIO` times
    its own size or `MAX_MEMBERS` entries.

    Returns:
        the number of files.

    Raises:
        InputError: ``target`` is already there.
        DownloadError: the archive is damaged, cut short or hostile. It is left where it is.
        OSError: the disk is full or cannot be written to.
    """
    if os.path.lexists(target):
        raise InputError(f"expected a new folder to unpack into; {target} exists: move it away")
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(dir=target.parent, prefix=".unpacking-"))
    try:
        # A folder inside it, because mkdtemp closes its own folder to everyone else.
        content = aside / "content"
        content.mkdir()
        try:
            unpack = _unpack_tar if tarfile.is_tarfile(archive) else _unpack_zip
            num_files = unpack(archive, content)
        except DAMAGED as error:
            raise DownloadError(
                f"expected a sound archive; {archive} is damaged, cut short or hostile: "
                f"{error or type(error).__name__}. Fetch it again"
            ) from error
        os.rename(content, target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return num_files


def _unpack_tar(archive: Path, folder: Path) -> int:
    """Unpack the tar ``archive``; returns the number of files."""
    budget = _Budget(archive)
    with tarfile.open(archive) as tar:
        for member in tar:
            budget.admit(member.name, member.size, member.isreg() or member.isdir())
            tar.extract(member, folder, filter="data")
            budget.num_files += member.isreg()
        # To the end of the stream, where gzip keeps the checksum that shows a cut.
        while tar.fileobj is not None and (rest := tar.fileobj.read(CHUNK_BYTES)):
            budget.spend(len(rest))
    return budget.num_files


def _unpack_zip(archive: Path, folder: Path) -> int:
    """Unpack the zip ``archive``; returns the number of files."""
    budget = _Budget(archive)
    with zipfile.ZipFile(archive) as packed:
        for member in packed.infolist():
            kind = stat.S_IFMT(member.external_attr >> 16)
            is_plain = kind in (0, stat.S_IFREG, stat.S_IFDIR)
            budget.admit(member.filename, member.file_size, is_plain)
            packed.extract(member, folder)
            budget.num_files += not member.is_dir()
    return budget.num_files


class _Budget:
    """What one archive may still unpack; raises DownloadError where it asks for more."""

    def __init__(self, archive: Path) -> None:
        self.archive = archive
        # A tar pads itself with zeros, so the ratio says nothing about a tiny one.
        by_ratio = max(MAX_EXTRACTED_RATIO * archive.stat().st_size, CHUNK_BYTES)
        self.limit = min(MAX_EXTRACTED_BYTES, by_ratio)
        self.num_bytes = 0
        self.num_members = 0
        self.num_files = 0

    def admit(self, name: str, size: int, is_plain: bool) -> None:
        """Check one member before it is written: its name, its kind, what it adds."""
        steps = re.split(r"[/\\]", name)
        if not is_plain:
            self._refuse(f"{name!r} is a link or a device")
        if not name or steps[0] == "" or ".." in steps or re.match(r"[A-Za-z]:", name):
            self._refuse(f"{name!r} leads outside the folder")
        self.num_members += 1
        if self.num_members > MAX_MEMBERS:
            self._refuse(f"it holds more than {MAX_MEMBERS:,} entries")
        self.spend(size)

    def spend(self, size: int) -> None:
        """Count ``size`` more unpacked bytes."""
        self.num_bytes += size
        if self.num_bytes > self.limit:
            self._refuse(f"it unpacks to more than {self.limit:,} bytes")

    def _refuse(self, reason: str) -> None:
        raise DownloadError(
            f"expected an archive of plain files and folders; {self.archive}: {reason}. Refused: "
            "fetch it again, and if this comes back, the published file is not what it was"
        )
