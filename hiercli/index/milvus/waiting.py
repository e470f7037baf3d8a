"""Points that no image has yet, and files that could not be read: a collection of their own.

A killed update loses some seconds of work at most.
"""

import time
from collections.abc import Iterable
from typing import Any

import numpy as np

from hiercli.index.address import Address
from hiercli.index.milvus import collections

_SECONDS_BETWEEN_SAVES = 5.0


class Waiting:
    """The collection beside the images of an index; it is made when something is put into it.

    Args:
        client: of Milvus.
        address: of the index.
        dim: of the points.

    Raises:
        FileFormatError: the collection is somebody else's.
    """

    def __init__(self, client: Any, address: Address, dim: int) -> None:
        self._client, self._address, self._dim = client, address, dim
        self._name = collections.side(address.collection)
        self._made: dict[bytes, np.ndarray] = {}
        self._kept: set[bytes] = set()
        self._facts: dict[str, str] = {}
        self._saved = time.monotonic()
        if client.has_collection(self._name):
            collections.require_ours(client, address, self._name)

    def __contains__(self, content: bytes) -> bool:
        return content in self._made or content in self._kept

    def expect(self, fingerprint: str) -> set[bytes]:
        """Say whose points will be kept. Those of another encoder that still wait are dropped.

        Returns:
            contents of the points that wait.
        """
        self._facts = {"fingerprint": fingerprint, "embedding_dim": str(self._dim)}
        if not self._client.has_collection(self._name):
            return set()
        if collections.properties(self._client, self._name) != self._facts:
            self._client.drop_collection(self._name)
            return set()
        rows = collections.every(self._client, self._name, 'content != ""', ["content"])
        self._kept = {bytes.fromhex(row["content"]) for row in rows}
        return set(self._kept)

    def keep(self, content: bytes, point: np.ndarray) -> None:
        """Keep a point (D,) that was made."""
        self._made[content] = point
        late = time.monotonic() - self._saved > _SECONDS_BETWEEN_SAVES
        if late or len(self._made) >= collections.AT_ONCE:
            self.save()

    def save(self) -> None:
        """Write the points that this process holds."""
        if self._made:
            self._require_collection()
            rows = [collections.waiting_point(*item) for item in self._made.items()]
            self._client.upsert(self._name, rows)
        self._kept.update(self._made)
        self._made.clear()
        self._saved = time.monotonic()

    def points(self, contents: set[bytes]) -> dict[bytes, np.ndarray]:
        """Points (D,) of those contents that wait."""
        kept = collections.points(self._client, self._name, contents & self._kept)
        return kept | {key: self._made[key] for key in contents if key in self._made}

    def forget(self, contents: set[bytes]) -> None:
        """Remove points that images have now."""
        for content in contents:
            self._made.pop(content, None)
        self._delete(collections.waiting_number(content) for content in contents & self._kept)
        self._kept -= contents

    def refused(self) -> dict[bytes, str]:
        """Files that could not be read, and why."""
        return collections.refused(self._client, self._name)

    def refuse(
        self, freed: Iterable[bytes], passed_over: Iterable[tuple[bytes, str]], *, every: bool
    ) -> None:
        """Note files that could not be read.

        Args:
            freed: paths of which this is no longer so.
            passed_over: paths and reasons.
            every: no file that was noted before counts any more.
        """
        if every and self._client.has_collection(self._name):
            self._client.delete(self._name, filter='path != ""')
        self._delete(collections.refused_number(path) for path in freed)
        for block in collections.blocks(passed_over):
            self._require_collection()
            rows = [collections.refused_file(path, why, self._dim) for path, why in block]
            self._client.upsert(self._name, rows)

    def _delete(self, numbers: Iterable[int]) -> None:
        for ids in collections.blocks(numbers):
            self._client.delete(self._name, ids=ids)

    def _require_collection(self) -> None:
        if not self._client.has_collection(self._name):
            collections.create_waiting(self._client, self._address, self._dim, self._facts)
