"""The two collections of an index: their columns, their rows, and what they say of themselves."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np

from hiercli.errors import FileFormatError
from hiercli.index.address import Address
from hiercli.index.schema import AT_ONCE, Row, groups_of

PREFIX = "hier."
"""Of the properties that are ours."""
COLUMNS = ("id", "path", "label", "levels", "content", "size", "modified_ns", "changed_ns")
EVERYTHING = [*COLUMNS, "point"]
LONGEST = {"path": 4096, "label": 1024, "levels": 4096}
"""Bytes of the columns that people fill."""
ROOM = {"levels": 64}
"""Bytes of these that are kept free for what hier adds."""
_SPLIT = "hier.split"
"""Key of the split in the JSON of the levels. It has no column of its own: collections of earlier
versions would lack that, and Milvus Lite cannot add one."""
_LONGEST_REASON = 2048
_Item = TypeVar("_Item")


def number_of(path: str) -> int:
    """The id of an image, which its path gives."""
    digest = hashlib.blake2b(path.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def literal(text: str) -> str:
    """A text as an expression of Milvus writes it."""
    return json.dumps(text, ensure_ascii=False)


def blocks(items: Iterable[_Item]) -> Iterator[list[_Item]]:
    """Parts of what Milvus is asked or told at once."""
    block: list[_Item] = []
    for item in items:
        block.append(item)
        if len(block) == AT_ONCE:
            yield block
            block = []
    if block:
        yield block


def entity_of(row: Row, point: np.ndarray) -> dict[str, Any]:
    """An image as Milvus keeps it."""
    path = row.path.decode()
    levels = row.levels
    if row.split:
        told = groups_of(levels) | {_SPLIT: row.split}
        levels = json.dumps(told, ensure_ascii=False)
    values = (number_of(path), path, row.label, levels, row.content.hex(), *row.state)
    return dict(zip(COLUMNS, values, strict=True)) | {"point": point.astype(np.float32)}


def row_of(entity: dict[str, Any], address: Address) -> Row:
    """What Milvus keeps of an image, with its point where that was asked for.

    Raises:
        FileFormatError: hier did not write it.
    """
    try:
        number, path, label, levels, content, *state = (entity[name] for name in COLUMNS)
        size, modified, changed = state
        point = np.array(entity.get("point", ()), "<f4").tobytes()
        groups, split = groups_of(levels), ""
        if _SPLIT in groups:
            split = groups.pop(_SPLIT)
            levels = json.dumps(groups, ensure_ascii=False)
        return Row(number, path.encode(), label, levels, bytes.fromhex(content),
                   (size, modified, changed), point, split)  # fmt: skip
    except (KeyError, ValueError, TypeError) as error:
        raise foreign_row(address, error) from error


def foreign_row(address: Address, error: Exception) -> FileFormatError:
    """What is said of a row that hier did not write."""
    return FileFormatError(
        f"{address} contains a row that hier did not write ({error}). Embed its images again with "
        "--rebuild"
    )


def properties(client: Any, collection: str) -> dict[str, str]:
    """What a collection says of itself, of what is ours."""
    found = client.describe_collection(collection)["properties"]
    return {
        name.removeprefix(PREFIX): str(value)
        for name, value in found.items()
        if name.startswith(PREFIX)
    }


def is_there(client: Any, address: Address) -> bool:
    """Whether there is an index; a whole new one whose process was killed takes its place first."""
    name, new = address.collection, anew(address.collection)
    if client.has_collection(name):
        return True
    if not client.has_collection(new) or properties(client, new).get("whole") != "1":
        return False
    client.rename_collection(new, name)
    return True


def require_ours(client: Any, address: Address, collection: str) -> dict[str, str]:
    """The properties of a collection that is an index of hier, whole or not; ready to be asked.

    Raises:
        FileFormatError: it is somebody else's.
    """
    found = properties(client, collection)
    if not found:
        raise FileFormatError(
            f"the collection {collection} at {address.uri} was not written by hier. Choose another "
            "name"
        )
    if not client.list_indexes(collection, field_name="point"):  # of an update that was killed
        index = client.prepare_index_params()
        index.add_index("point", index_type="FLAT", metric_type="L2")
        client.create_index(collection, index)
    client.load_collection(collection)
    return found


def create_images(
    client: Any, address: Address, name: str, dim: int, facts: dict[str, str]
) -> None:
    """Make an empty collection of images; points are compared one by one."""
    from pymilvus import DataType

    schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("id", DataType.INT64, is_primary=True)
    for column, longest in LONGEST.items():
        schema.add_field(column, DataType.VARCHAR, max_length=longest)
    schema.add_field("content", DataType.VARCHAR, max_length=32)
    for column in COLUMNS[-3:]:
        schema.add_field(column, DataType.INT64)
    schema.add_field("point", DataType.FLOAT_VECTOR, dim=dim)
    _create(client, address, name, schema, facts, ["path", "content"])


def create_waiting(client: Any, address: Address, dim: int, facts: dict[str, str]) -> None:
    """Make an empty collection of points that wait and of files that could not be read."""
    from pymilvus import DataType

    schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("content", DataType.VARCHAR, max_length=32)
    schema.add_field("path", DataType.VARCHAR, max_length=LONGEST["path"])
    schema.add_field("reason", DataType.VARCHAR, max_length=_LONGEST_REASON)
    schema.add_field("point", DataType.FLOAT_VECTOR, dim=dim)
    _create(client, address, side(address.collection), schema, facts, ["content"])


def _create(
    client: Any,
    address: Address,
    name: str,
    schema: Any,
    facts: dict[str, str],
    columns: Sequence[str],
) -> None:
    from pymilvus.exceptions import MilvusException

    index = client.prepare_index_params()
    index.add_index("point", index_type="FLAT", metric_type="L2")
    for column in columns:
        # Every server knows the one, milvus-lite only the other.
        index.add_index(column, index_type="INVERTED" if address.is_file else "Trie")
    told = {PREFIX + fact: value for fact, value in facts.items()}
    try:
        client.create_collection(
            name, schema=schema, index_params=index, properties=told, consistency_level="Strong"
        )
    except MilvusException:  # another writer may have been first
        if not client.has_collection(name):
            raise
        require_ours(client, address, name)


def waiting_number(content: bytes) -> int:
    """The id of a point that no image has yet."""
    return number_of(f"point {content.hex()}")


def waiting_point(content: bytes, point: np.ndarray) -> dict[str, Any]:
    """A point that no image has yet."""
    return {"id": waiting_number(content), "content": content.hex(), "path": "", "reason": "",
            "point": point.astype(np.float32)}  # fmt: skip


def refused_file(path: bytes, reason: str, dim: int) -> dict[str, Any]:
    """A file that could not be read, and why."""
    text = path.decode()
    short = reason.encode()[:_LONGEST_REASON].decode(errors="ignore")
    return {"id": refused_number(path), "content": "", "path": text, "reason": short,
            "point": np.zeros(dim, np.float32)}  # fmt: skip


def anew(name: str) -> str:
    """The collection in which an index is built, until it is whole."""
    return f"{name}_hier_new"


def side(name: str) -> str:
    """The collection of points that wait and of files that could not be read."""
    return f"{name}_hier"


def refused(client: Any, collection: str) -> dict[bytes, str]:
    """Files that could not be read, and why."""
    if not client.has_collection(collection):
        return {}
    client.load_collection(collection)
    rows = every(client, collection, 'path != ""', ["path", "reason"])
    return {row["path"].encode(): row["reason"] for row in rows}


def refused_number(path: bytes) -> int:
    """The id of a file that could not be read."""
    return number_of(f"file {path.decode(errors='replace')}")


def every(
    client: Any, collection: str, expression: str, columns: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """All rows that meet an expression; all rows where it is empty."""
    found = client.query_iterator(
        collection, batch_size=AT_ONCE, filter=expression, output_fields=list(columns)
    )
    try:
        while block := found.next():
            yield from block
    finally:
        found.close()


def count(client: Any, collection: str) -> int:
    """How many rows a collection has."""
    found = client.query(collection, filter="", output_fields=["count(*)"])
    return int(found[0]["count(*)"])


def tell(client: Any, collection: str, facts: dict[str, str]) -> None:
    """Write some of what a collection says of itself; the rest stays."""
    told = {PREFIX + fact: value for fact, value in facts.items()}
    client.alter_collection_properties(collection, told)


def points(client: Any, collection: str, contents: Iterable[bytes]) -> dict[bytes, np.ndarray]:
    """Points (D,) of files that a collection has, by the hash of their content."""
    found: dict[bytes, np.ndarray] = {}
    for block in blocks(contents):
        names = ", ".join(f'"{content.hex()}"' for content in block)
        rows = client.query(
            collection, filter=f"content in [{names}]", output_fields=["content", "point"]
        )
        found |= by_content(rows)
    return found


def by_content(rows: Iterable[dict[str, Any]]) -> dict[bytes, np.ndarray]:
    """Points (D,) of rows by the hash of their content."""
    return {bytes.fromhex(row["content"]): np.array(row["point"], np.float32) for row in rows}
