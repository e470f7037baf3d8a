"""The tree of an index for the page, grown in the background and kept as long as it is true."""

import asyncio
import json
import os
from pathlib import Path

from hiercli.errors import InputError
from hiercli.hierarchy.tree import Tree
from hiercli.reports import disk
from hiercli.serve.collection import ServedIndex
from hiercli.serve.settings import Settings

_PATIENCE = 20.0
"""Seconds that a request waits for a tree in the making."""


class Trees:
    """Trees by index.

    Args:
        settings: of the server.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._made: dict[str, tuple[int, asyncio.Task[bytes]]] = {}

    async def of(self, index: ServedIndex) -> bytes | None:
        """The tree as JSON; ``None`` where growing it takes longer than a request may wait.

        Raises:
            InputError: the index has none.
        """
        if not isinstance(index.target, Path):
            raise InputError("the tree of an index in Milvus is shown by `hier hierarchy`")
        state, task = self._made.get(index.name, (-1, None))
        if task is None or state != index.reopened:
            ids = await index.call(lambda state: {
                os.fsdecode(row.path): row.content.hex() for row in state.reader.rows()
            })  # fmt: skip
            work = asyncio.to_thread(_grown, index.target, self._settings.model, ids)
            task = asyncio.create_task(work)
            self._made[index.name] = index.reopened, task
        done, _ = await asyncio.wait({task}, timeout=_PATIENCE)
        if not done:
            return None
        try:
            return task.result()
        except Exception:
            del self._made[index.name]  # the next request tries again
            raise


def _grown(index: Path, model: str, ids: dict[str, str]) -> bytes:
    tree = Tree.of_images(index, Path(model) if model else None)
    with tree.pictures() as picture:
        found, _ = disk.facts(tree.root, tree.images_by_leaf(), picture=picture, ids=ids)
    return json.dumps(found, separators=(",", ":")).encode()
