"""The file of an exported encoder: graph, weights and metadata, with a digest of them at its end.

An ONNX file is a protocol buffer: whoever appends a field to it adds that field. So the digest of
all that comes before is one more metadata entry of fixed length, the last in the file, and to check
it takes one reading and no parser. What was checked is what is run: the session is given the same
bytes.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hiercli.encoder.metadata import KEY, Metadata
from hiercli.errors import FileFormatError, InputError
from hiercli.files import open_regular

if TYPE_CHECKING:
    import onnx

_DIGEST_KEY = f"{KEY}.digest".encode()
_METADATA_FIELD = 14
"""Of ModelProto in onnx.proto: entries of key (1) and value (2)."""


@dataclass(frozen=True)
class EncoderFile:
    """An exported encoder as it was read, whole and unchanged.

    Attributes:
        content: the bytes of the file.
        digest: SHA-256 of all but the digest itself, hexadecimal.
        metadata: what it says of itself.
    """

    content: bytes
    digest: str
    metadata: Metadata


def write(model: "onnx.ModelProto", metadata: Metadata, file: Path) -> str:
    """Write an encoder with its metadata; the digest is returned.

    Args:
        model: the graph, one input (B, 3, S, S) and one output (B, D); its metadata is replaced.
        metadata: what the file says of the encoder.
        file: to write to.
    """
    del model.metadata_props[:]
    for key, value in metadata.to_properties().items():
        model.metadata_props.add(key=key, value=value)
    content = stamped(model.SerializeToString())
    file.write_bytes(content)
    return _split(content)[1]


def stamped(content: bytes) -> bytes:
    """The bytes of an ONNX file with their digest as the last metadata entry."""
    return content + _entry(hashlib.sha256(content).hexdigest())


def without_digest(content: bytes) -> bytes:
    """The bytes of an ONNX file without the digest at its end, if there is one."""
    return _split(content)[0]


def read(path: Path | str) -> EncoderFile:
    """Read an exported encoder and check that nobody changed it.

    Raises:
        InputError: it is missing, or no regular file.
        FileFormatError: it is no exported encoder, or was changed since its export.
    """
    if not Path(path).exists():
        raise InputError(
            f"expected an exported encoder, but {path} is missing. Write one with `hier export`"
        )
    with open_regular(path) as file:
        content = file.read()
    body, digest = _split(content)
    try:
        properties = dict(_properties(body))
    except ValueError as error:
        raise FileFormatError(
            f"{path} is not a valid ONNX file ({error}). Export it again"
        ) from error
    if not digest and KEY in properties:
        raise FileFormatError(
            f"expected a checksum in the metadata of {path}, found none. The file was changed, or "
            "exported by an older version of hier. Export it again from its checkpoint"
        )
    if digest and hashlib.sha256(body).hexdigest() != digest:
        raise FileFormatError(
            f"the checksum of {path} does not match: its weights, graph or metadata have changed "
            "since the export. Export it again from its checkpoint, or copy it again"
        )
    return EncoderFile(content, digest, Metadata.from_properties(properties, str(path)))


def _entry(digest: str) -> bytes:
    pair = b"\x0a%c%s\x12%c%s" % (len(_DIGEST_KEY), _DIGEST_KEY, len(digest), digest.encode())
    return b"%c%c%s" % (_METADATA_FIELD << 3 | 2, len(pair), pair)


def _split(content: bytes) -> tuple[bytes, str]:
    """All but the digest, and the digest; empty where there is none."""
    size = len(_entry("0" * 64))
    claimed = content[-64:].decode("ascii", "replace")
    if re.fullmatch("[0-9a-f]{64}", claimed) and content[-size:] == _entry(claimed):
        return content[:-size], claimed
    return content, ""


def _properties(content: bytes) -> Iterator[tuple[str, str]]:
    for number, value in fields(memoryview(content)):
        if number == _METADATA_FIELD:
            pair = {key: bytes(text) for key, text in fields(value)}
            yield pair.get(1, b"").decode(), pair.get(2, b"").decode()


def fields(content: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Number and bytes of each field of a message; numbers have no bytes."""
    at = 0
    while at < len(content):
        tag, at = _varint(content, at)
        kind, size = tag & 7, 0
        if kind == 0:
            _, at = _varint(content, at)
        elif kind == 2:
            size, at = _varint(content, at)
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        else:
            raise ValueError("it is not a protocol buffer")
        if at + size > len(content):
            raise ValueError("it is truncated, or not a protocol buffer")
        yield tag >> 3, content[at : at + size]
        at += size


def _varint(content: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 64, 7):
        if at >= len(content):
            break
        byte = content[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
    raise ValueError("it is truncated, or not a protocol buffer")
