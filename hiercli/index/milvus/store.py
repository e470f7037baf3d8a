"""An index in Milvus, open for writing."""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from hiercli.encoder.metadata import Metadata
from hiercli.errors import InputError
from hiercli.index.address import Address
from hiercli.index.kinds import Progress
from hiercli.index.milvus import collections, tuning
from hiercli.index.milvus.connection import connect, disconnect, failing
from hiercli.index.milvus.facts import Facts
from hiercli.index.milvus.waiting import Waiting
from hiercli.index.schema import Row, groups_of
from hiercli.index.sync import Plan, Scope, within
from hiercli.labels import merged_levels


class MilvusStore:
    """The collection of an index, to be changed; see `store.Store`.

    Several updates may be at work at once: rows are known by their paths, and each is written as a
    whole. A new index, or one that is rebuilt, is filled beside and takes its place when it is
    whole; only one process may do that.

    Args:
        address: of the index, new or there.
        dim: of the ball.
        anew: start from nothing; what is there stays until the new rows are ready.

    Raises:
        InputError: pymilvus is not installed, or the server does not answer.
        FileFormatError: the collection is somebody else's.
    """

    keeps_thumbnails = False

    def __init__(self, address: Address, dim: int, *, anew: bool = False) -> None:
        self.address, self._dim, self.embedded = address, dim, 0
        self._name, self._new = address.collection, collections.anew(address.collection)
        self._client = connect(address)
        self.facts: dict[str, str] = {}
        self._count = 0
        try:
            self._open(anew)
        except BaseException:
            disconnect(address, self._client)
            raise

    def _open(self, anew: bool) -> None:
        """Look at what is there."""
        address = self.address
        with failing(address):
            self._there = collections.is_there(self._client, address)
            self._waiting = Waiting(self._client, address, self._dim)
            self._anew = anew or not self._there
            if self._there:
                told = collections.require_ours(self._client, address, self._name)
            if not self._anew:
                self.facts = Facts.of(told, address).told
                self._count = collections.count(self._client, self._name)

    def close(self) -> None:
        """Keep what was made for the next run, and let go of the connection."""
        try:
            with failing(self.address):
                self._waiting.save()
        finally:
            disconnect(self.address, self._client)

    def __len__(self) -> int:
        return self._count

    def check(self, metadata: Metadata, model: Path) -> None:
        """Refuse an encoder that did not make the points, see `Facts.check`."""
        if not self._anew:
            Facts.of(self.facts, self.address).check(metadata, model)

    def objection(self, path: bytes, label: str, levels: str) -> str:
        """Why Milvus cannot store an image; empty where it can."""
        try:
            path.decode()
        except UnicodeDecodeError:
            return "Milvus stores only names in UTF-8. Rename the file"
        texts = {"path": path, "label": label.encode(), "levels": levels.encode()}
        for column, most in collections.LONGEST.items():
            longest = most - collections.ROOM.get(column, 0)
            if len(texts[column]) > longest:
                return f"Milvus stores a {column} of at most {longest} bytes"
        return ""

    # -- points that wait -------------------------------------------------------------------------

    def expect(self, fingerprint: str) -> None:
        """Say whose points will be kept. Those of another encoder that still wait are dropped."""
        with failing(self.address):
            kept = self._waiting.expect(fingerprint)
            # What a killed run has placed waits no more.
            self._waiting.forget(set(self._points_by_content(kept)))

    def has(self, content: bytes) -> bool:
        """Whether a point of some content is kept, so that it need not be made."""
        if content in self._waiting:
            return True
        if self._anew:
            return False
        with failing(self.address):
            found = self._client.query(
                self._name, filter=f'content == "{content.hex()}"', output_fields=["id"], limit=1
            )
        return bool(found)

    def keep(self, content: bytes, point: np.ndarray, thumbnail: bytes) -> None:
        """Keep a point (D,) that was made; a kill loses some seconds of work at most."""
        del thumbnail  # they have no place in Milvus
        self.embedded += 1
        with failing(self.address):
            self._waiting.keep(content, point)

    # -- what is known ----------------------------------------------------------------------------

    def known(self, listed: Iterable[bytes], scope: Scope) -> dict[bytes, Row]:
        """Rows, without points, of all paths that an update speaks of."""
        if self._anew:
            return {}
        found: dict[bytes, Row] = {}
        for root in scope.roots:
            if not within(root, scope.roots):
                found |= self._below(root)
        others = {*listed, *scope.named} - set(found)
        numbers = [
            collections.number_of(path.decode())
            for path in others
            if not within(path, scope.roots) and not self.objection(path, "", "")
        ]
        for block in collections.blocks(numbers):
            found |= self._rows(f"id in {block}")
        return found

    def _below(self, root: bytes) -> dict[bytes, Row]:
        try:
            start = (root.rstrip(b"/") + b"/").decode()
        except UnicodeDecodeError:
            return {}  # Milvus has no such paths
        end = start[:-1] + chr(ord("/") + 1)
        first, last = collections.literal(start), collections.literal(end)
        return self._rows(f"path >= {first} and path < {last}")

    def _rows(self, expression: str) -> dict[bytes, Row]:
        with failing(self.address):
            found = collections.every(self._client, self._name, expression, collections.COLUMNS)
            rows = [collections.row_of(entity, self.address) for entity in found]
        return {row.path: row for row in rows}

    def quarantine(self) -> dict[bytes, str]:
        """Files that could not be read, and why."""
        if self._anew:
            return {}
        with failing(self.address):
            return self._waiting.refused()

    def is_behind(self) -> bool:
        """Whether there is no collection of what is known, or its index was left unfinished."""
        return self._anew or bool(self.facts.get("tuning"))

    # -- changes ----------------------------------------------------------------------------------

    def apply(
        self,
        plan: Plan,
        facts: dict[str, str],
        proxies: np.ndarray,
        freed: Iterable[bytes],
        passed_over: Iterable[tuple[bytes, str]],
        progress: Progress | None = None,
    ) -> None:
        """Carry out a plan row by row: each is old or new, and none is lost; see `store.Store`.

        Images that moved are written before they are taken from where they lay. Proxies are not
        kept in Milvus.
        """
        del proxies
        rows, moving = [*plan.changed, *plan.added], [*plan.moved, *plan.touched]
        was_anew = self._anew
        with failing(self.address):
            # Before any row changes: what two rows exchange would be lost.
            contents = {row.content for row in rows}
            points = self._points_by_content({one for one in contents if one not in self._waiting})
            target = self._begin(facts, (*rows, *moving))
            parts = [
                (rows, lambda block: points | self._waiting.points({row.content for row in block})),
                (moving, self._points_by_id),
            ]
            self._write(target, parts, len(rows) + len(moving), progress)
            gone = [*plan.removed, *(row.id for row in plan.moved)]
            for ids in collections.blocks(gone):
                self._client.delete(self._name, ids=ids)
            self._end(target)
            self._waiting.forget(contents)
            told = [(path, why) for path, why in passed_over if not self.objection(path, "", "")]
            self._waiting.refuse(freed, told, every=was_anew)

    def put(
        self,
        rows: Callable[[], Iterable[Row]],
        total: int,
        facts: dict[str, str],
        progress: Progress | None = None,
    ) -> None:
        """Fill a new collection with rows and their points.

        Args:
            rows: gives them, each time it is called.
            total: how many they are.
            facts: of the encoder, ``index_type`` and ``level_names``.
            progress: called with (done, total) rows.

        Raises:
            InputError: a row cannot be stored, or Milvus refuses something.
        """
        for row in rows():
            if why := self.objection(row.path, row.label, row.levels):
                raise InputError(f"{row.path.decode(errors='replace')}: {why}")
        with failing(self.address):
            target = self._begin(facts, ())
            self._write(target, [(rows(), _own_points)], total, progress)
            self._end(target)
            self._waiting.refuse((), (), every=True)

    def _end(self, target: str) -> None:
        """Tune the index; one that was filled beside takes its place."""
        tuning.tune(self._client, target)
        if target != self._name:
            collections.tell(self._client, target, {"whole": "1"})
            if self._there:
                self._client.drop_collection(self._name)
            self._client.rename_collection(target, self._name)
            self._client.load_collection(self._name)
            self._there, self._anew = True, False
        self.facts = collections.properties(self._client, self._name)
        self._count = collections.count(self._client, self._name)

    def _begin(self, facts: dict[str, str], rows: Iterable[Row]) -> str:
        """The collection to write to, which says by now what the rows need to be understood."""
        # Read again: other writers may have added levels.
        told = {} if self._anew else collections.properties(self._client, self._name)
        texts = {row.levels for row in rows}
        names = merged_levels([
            json.loads((facts | told).get("level_names", "[]")),
            *(list(groups_of(text)) for text in sorted(texts)),
        ])  # fmt: skip
        wanted = facts | {"level_names": json.dumps(names, ensure_ascii=False)}
        if not self._anew:
            news = {name: value for name, value in wanted.items() if told.get(name) != value}
            if news:
                collections.tell(self._client, self._name, news)
            return self._name
        if self._client.has_collection(self._new):  # of a process that was killed
            self._client.drop_collection(self._new)
        wanted |= tuning.UNTUNED
        collections.create_images(self._client, self.address, self._new, self._dim, wanted)
        return self._new

    def _write(
        self,
        target: str,
        parts: Iterable[tuple[Iterable[Row], Callable[[Sequence[Row]], dict[bytes, np.ndarray]]]],
        total: int,
        progress: Progress | None,
    ) -> None:
        """Write rows, block by block; with each part of them what gives points by content."""
        done = 0
        for rows, points_of in parts:
            for block in collections.blocks(rows):
                points = points_of(block)
                if missing := [row.path for row in block if row.content not in points]:
                    raise InputError(
                        f"{self.address} was changed by another process meanwhile: it has no point "
                        f"of {missing[0].decode()} any more. Run the same command again"
                    )
                entities = [collections.entity_of(row, points[row.content]) for row in block]
                self._client.upsert(target, entities)
                done += len(block)
                if progress:
                    progress(done, total)

    def _points_by_content(self, contents: Iterable[bytes]) -> dict[bytes, np.ndarray]:
        """Points that images have."""
        if self._anew:
            return {}
        return collections.points(self._client, self._name, contents)

    def _points_by_id(self, rows: Sequence[Row]) -> dict[bytes, np.ndarray]:
        found = self._client.query(
            self._name, filter=f"id in {[row.id for row in rows]}",
            output_fields=["content", "point"],
        )  # fmt: skip
        return collections.by_content(found)


def _own_points(rows: Sequence[Row]) -> dict[bytes, np.ndarray]:
    """Points of rows that have them."""
    return {row.content: np.frombuffer(row.point, "<f4") for row in rows}
