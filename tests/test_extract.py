"""Extraction of sound, damaged and hostile archives: whole or not at all, never outside."""

import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from archives import CONTENT, assert_complete, packed_tar, packed_zip

from hiercli.data.extract import extract
from hiercli.errors import DownloadError, InputError


def write(tmp_path: Path, content: bytes) -> Path:
    archive = tmp_path / "archive"
    archive.write_bytes(content)
    return archive


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz", "zip"])
def test_extract_counts_files(tmp_path: Path, mode: str) -> None:
    content = packed_zip(CONTENT) if mode == "zip" else packed_tar(CONTENT, mode)
    target = tmp_path / "deep" / "out"
    assert extract(write(tmp_path, content), target) == len(CONTENT)
    assert_complete(target / "toy")
    assert target.stat().st_mode & 0o777 == tmp_path.joinpath("deep").stat().st_mode & 0o777
    with pytest.raises(InputError, match="Move it away"):
        extract(tmp_path / "archive", target)


HOSTILE_NAMES = ["../escape", "a/../../escape", "/escape", "..\\escape", "C:\\escape", "C:/escape"]


@pytest.mark.parametrize("name", HOSTILE_NAMES)
@pytest.mark.parametrize("pack", [packed_tar, packed_zip])
def test_names_that_lead_outside(
    tmp_path: Path, name: str, pack: Callable[[dict[str, bytes]], bytes]
) -> None:
    archive = write(tmp_path, pack({"fine": b"x", name: b"x"}))
    with pytest.raises(DownloadError, match="leads outside"):
        extract(archive, tmp_path / "inner" / "out")
    assert [path.name for path in tmp_path.rglob("*")] in (
        ["archive", "inner"],
        ["inner", "archive"],
    )


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE]
)
@pytest.mark.parametrize("goal", ["/etc", "../..", "fine"])
def test_links_and_devices_in_a_tar(tmp_path: Path, kind: bytes, goal: str) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("fine"))
        member = tarfile.TarInfo("link")
        member.type, member.linkname = kind, goal
        tar.addfile(member)
        tar.addfile(tarfile.TarInfo("link/escape"))
    with pytest.raises(DownloadError, match="a link or a device"):
        extract(write(tmp_path, stream.getvalue()), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["archive"]


def test_links_in_a_zip(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as packed:
        member = zipfile.ZipInfo("link")
        member.external_attr = 0o120777 << 16
        packed.writestr(member, "../..")
    with pytest.raises(DownloadError, match="a link or a device"):
        extract(write(tmp_path, stream.getvalue()), tmp_path / "out")


@pytest.mark.parametrize(
    ("limit", "value", "reason"),
    [
        ("MAX_EXTRACTED_BYTES", 50_000, "more than 50,000 bytes"),
        ("MAX_MEMBERS", 3, "more than 3 entries"),
    ],
)
@pytest.mark.parametrize("pack", [packed_tar, packed_zip])
def test_limits_against_bombs(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    pack: Callable[[dict[str, bytes]], bytes],
    limit: str,
    value: int,
    reason: str,
) -> None:
    monkeypatch.setattr(f"hiercli.data.extract.{limit}", value)
    with pytest.raises(DownloadError, match=reason):
        extract(write(tmp_path, pack(CONTENT)), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["archive"]


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_ratio_against_bombs(tmp_path: Path, kind: str) -> None:
    zeros = {"zeros": bytes(3_000_000)}
    bomb = packed_tar(zeros) if kind == "tar" else packed_zip(zeros, zipfile.ZIP_DEFLATED)
    with pytest.raises(DownloadError, match="unpacks to more than"):
        extract(write(tmp_path, bomb), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["archive"]


def test_zip_that_lies_about_a_size(tmp_path: Path) -> None:
    content = packed_zip({"file": b"0123456789" * 10})
    archive = write(tmp_path, content.replace((100).to_bytes(4, "little"), bytes([50, 0, 0, 0])))
    with pytest.raises(DownloadError, match="damaged"):
        extract(archive, tmp_path / "out")
