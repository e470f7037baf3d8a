"""Unpack an archive that nobody vouches for: plain files and folders only, within limits.

Sizes are in bytes.
"""

import gzip
import lzma
import os
import re
import shutil
import stat
import struct
import tarfile
import tempfile
import zipfile
import zlib
from pathlib import Path

from hiercli.errors import DownloadError, InputError

CHUNK_BYTES = 256 * 1024
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


def extract(archive: Path, target: Path) -> int:
    """Unpack a zip or a tar (plain, gzip, bzip2, xz) into the new folder ``target``.

    Nothing is written outside ``target``, and it appears only once everything is unpacked.
    Absolute paths, ``..``, links of any kind and device files are refused (no benchmark needs
    them), as is whatever unpacks to more than `MAX_EXTRACTED_BYTES`, `MAX_EXTRACTED_RATIO` times
    its own size or `MAX_MEMBERS` entries.

    Returns:
        the number of files.

    Raises:
        InputError: ``target`` is already there, or ``archive`` is no regular file.
        DownloadError: the archive is damaged, cut short or hostile. It is left where it is.
        OSError: the disk is full or cannot be written to.
    """
    if archive.exists() and not archive.is_file():  # to read a pipe would be to wait for ever
        raise InputError(f"expected an archive, but {archive} is a folder, a device or a pipe")
    if os.path.lexists(target):
        raise InputError(f"expected to unpack into a new folder, but {target} exists. Move it away")
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(dir=target.parent, prefix=".unpacking-"))
    try:
        # A folder inside it, because mkdtemp closes its own folder to everyone else.
        content = aside / "content"
        content.mkdir()
        try:
            unpack = _unpack_tar if _is_tar(archive) else _unpack_zip
            num_files = unpack(archive, content)
        except DAMAGED as error:
            raise DownloadError(
                f"expected a valid archive, but {archive} is damaged or unsafe: "
                f"{error or type(error).__name__}. Fetch it again"
            ) from error
        os.rename(content, target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return num_files


class _Header(tarfile.TarInfo):
    """A header of a tar that takes no more memory than names need, and knows plain members only.

    tarfile reads long names and comments whole, however long they claim to be, and lists of the
    holes of sparse files.
    """

    def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in _LONG and self.size > _LONGEST_HEADER:
            raise ValueError(f"a header claims {self.size:,} bytes")
        member: tarfile.TarInfo = super()._proc_member(tar)  # type: ignore[misc]
        return member

    def _refuse_sparse(self, *_: object) -> None:
        raise ValueError("it contains a sparse file")

    _proc_sparse = _proc_gnusparse_00 = _proc_gnusparse_01 = _proc_gnusparse_10 = _refuse_sparse


_LONG = (
    tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)  # fmt: skip
_LONGEST_HEADER = 2**20


def _is_tar(archive: Path) -> bool:
    """Whether the first header of an archive is that of a tar, whatever comes after it."""
    try:
        with tarfile.open(archive, tarinfo=_Header):
            return True
    except tarfile.TarError:
        return False


def _unpack_tar(archive: Path, folder: Path) -> int:
    """Unpack the tar ``archive``; returns the number of files."""
    budget = _Budget(archive)
    with tarfile.open(archive, tarinfo=_Header) as tar:
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
            self._refuse(f"it contains more than {MAX_MEMBERS:,} entries")
        self.spend(size)

    def spend(self, size: int) -> None:
        """Count ``size`` more unpacked bytes."""
        self.num_bytes += size
        if self.num_bytes > self.limit:
            self._refuse(f"it unpacks to more than {self.limit:,} bytes")

    def _refuse(self, reason: str) -> None:
        raise DownloadError(
            f"expected an archive of plain files and folders; {self.archive}: {reason}. The "
            "archive was not unpacked. Download it again. If the error remains, the published "
            "file has changed"
        )
