"""Small archives made in memory, shared by the tests of download and extraction."""

import io
import tarfile
import zipfile
from pathlib import Path

PICTURES = {f"toy/images/{index}.jpg": bytes([index]) * (20_000 + index) for index in range(4)}
CONTENT = {"toy/labels.txt": b"one two three\n", **PICTURES}


def packed_tar(members: dict[str, bytes], mode: str = "w:gz") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as tar:  # type: ignore[call-overload]
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def packed_zip(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


def assert_complete(folder: Path) -> None:
    found = {
        path.relative_to(folder.parent).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
    assert found == CONTENT
