"""Images in Milvus, opened for searching.

With

    g(x, y) = |x - y|^2 / ((1 - c|x|^2)(1 - c|y|^2)),

by which the hyperbolic distance grows, a point y beyond the Euclidean distance L of the last
candidate has g(x, y) >= L^2 / (1 - c|x|^2), wherever it lies: nothing has to be known of the index.
"""

import dataclasses
import math
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hiercli import neighbours
from hiercli.collection import Collection
from hiercli.encoder.metadata import Metadata
from hiercli.errors import InputError
from hiercli.images import read
from hiercli.index.address import Address
from hiercli.index.milvus import collections, tuning
from hiercli.index.milvus.conditions import expression
from hiercli.index.milvus.connection import connect, disconnect, failing
from hiercli.index.milvus.facts import Facts
from hiercli.index.pair import text_model_of
from hiercli.index.schema import Row
from hiercli.index.searchable import Hit, collection_of, hit_of, none_match, require_all

_FIRST_WIDTH = 100
_LARGEST_WIDTH = 16_384
"""What Milvus answers at most."""
_BYTES_AT_ONCE = 2**25
"""Of the points of one answer, so that it stays below what a server sends at once."""
_ROUNDING = 1e-3
"""Share by which the squared float32 distance that Milvus goes by may be off, and some more."""


class MilvusReader:
    """Images in Milvus; see `searchable.Searchable`.

    Args:
        address: of the index.
        device: ``cuda`` is not used, and `fallback` says so.

    Raises:
        InputError: pymilvus is not installed, the server does not answer, or there is no such
            index.
        FileFormatError: the collection was not written by hier.
    """

    picture = staticmethod(read)
    calibration = None

    def __init__(self, address: Address, device: str = "cpu") -> None:
        self.address = address
        self.fallback = (
            "--device cuda has no effect: Milvus searches on its own machine"
            if device == "cuda"
            else ""
        )
        missing = InputError(
            f"expected an index in Milvus, but there is no collection {address.collection} at "
            f"{address.uri}. Build one with `hier embed FOLDER --index milvus:...`"
        )
        if address.is_file and not os.path.exists(address.uri):
            raise missing
        self._client = connect(address)
        try:
            with failing(address):
                if not collections.is_there(self._client, address):
                    raise missing
                self.facts = Facts.read(self._client, address)
        except BaseException:
            disconnect(address, self._client)
            raise
        self.c, self.dim = self.facts.c, self.facts.dim
        self.fingerprint, self.level_names = self.facts.fingerprint, self.facts.level_names

    def __len__(self) -> int:
        with failing(self.address):
            return collections.count(self._client, self.address.collection)

    @property
    def model(self) -> Path:
        """The encoder that made the points, where it lay then."""
        return self.facts.model

    @property
    def pair(self) -> str:
        """What it says of the CLIP-like models that made it; empty without them."""
        return self.facts.told.get("pair", "")

    @property
    def files(self) -> Sequence[Path]:
        """None of ours: Milvus keeps them."""
        return ()

    def close(self) -> None:
        """Let go of the connection."""
        disconnect(self.address, self._client)

    def check(self, metadata: Metadata, model: Path) -> None:
        """Refuse an encoder that did not make this index, see `Facts.check`."""
        self.facts.check(metadata, model)

    def points_by_content(self, contents: Sequence[bytes]) -> dict[bytes, np.ndarray]:
        """Points (D,) of files that it has, by the hash of their content."""
        with failing(self.address):
            return collections.points(self._client, self.address.collection, contents)

    def rows_by_content(self, contents: Sequence[bytes]) -> dict[bytes, Row]:
        """One image of each content that it has, with its point."""
        found: dict[bytes, Row] = {}
        for block in collections.blocks(contents):
            names = ", ".join(f'"{content.hex()}"' for content in block)
            with failing(self.address):
                entities = self._client.query(
                    self.address.collection, filter=f"content in [{names}]",
                    output_fields=collections.EVERYTHING,
                )  # fmt: skip
            for row in (collections.row_of(entity, self.address) for entity in entities):
                found.setdefault(row.content, row)
        return found

    def small_picture(self, row: Row) -> bytes | None:
        """None: Milvus keeps no pictures."""
        return None

    def some_points(self, count: int) -> np.ndarray:
        """Points (N, D) of at most so many images, those that Milvus gives first."""
        with failing(self.address):
            found = self._client.query(
                self.address.collection, filter="", limit=count, output_fields=["point"]
            )
        return np.array([entity["point"] for entity in found], np.float32).reshape(-1, self.dim)

    def lineages(self) -> list[tuple[str, str]]:
        """Labels with their levels as JSON, each pair once."""
        rows = self.rows() if len(self) else []
        return list(dict.fromkeys((row.label, row.levels) for row in rows))

    def stats(self) -> dict[str, Any]:
        """Facts of the index by name, in the order in which people want them."""
        name, labels, contents = self.address.collection, Counter[str](), set()
        with failing(self.address):
            for row in collections.every(self._client, name, "", ["label", "content"]):
                labels[row["label"]] += 1
                contents.add(row["content"])
            refused = collections.refused(self._client, collections.side(name))
        images = labels.total()
        return {
            "pictures": images,
            "unlabelled": labels.pop("", 0),
            "labels": len(labels),
            "largest_labels": dict(labels.most_common(5)),
            "levels": list(self.level_names),
            "duplicates": images - len(contents),
            "quarantined": len(refused),
            "dimensions": self.dim,
            "c": self.c,
            "index_type": "ivf" if self.facts.num_lists else "flat",
            "recall@10": self.facts.recall,
            "encoder": str(self.model),
            "fingerprint": self.fingerprint,
            **text_model_of(self.pair),
        }

    def search(
        self,
        queries: np.ndarray,
        k: int | None,
        *,
        max_distance: float = math.inf,
        unique: bool = False,
        where: Sequence[tuple[str, str]] = (),
        exact: bool = False,
    ) -> list[list[Hit]]:
        """The nearest images of each query point, (Q, D), nearest first: see `Reader.search`.

        Raises:
            InputError: a condition that Milvus cannot check, or more is asked for than it answers.
        """
        with failing(self.address):  # an update may have made another index meanwhile
            told = collections.properties(self._client, self.address.collection)
        self.facts = Facts.of(told, self.address)
        total = len(self)
        if not total:
            raise none_match(str(self.address), len(self), where)
        wanted = total if k is None else min(k, total)
        condition = expression(where, self.level_names)
        compares_all = exact or k is None or bool(where)
        width = min(max(_FIRST_WIDTH, 2 * wanted) if k is not None else 1024, _LARGEST_WIDTH)
        found: list[list[Hit]] = [[] for _ in queries]
        pending = list(range(len(queries)))
        few: list[int] = []
        while pending:
            again = []
            for row, (hits, far, is_all) in zip(
                pending,
                self._nearest(queries[pending], width, condition, compares_all),
                strict=True,
            ):
                if not hits and compares_all:
                    raise none_match(str(self.address), len(self), where)
                own = _folded(hits) if unique else hits
                enough = [hit for hit in own if hit.distance <= max_distance][:wanted]
                found[row] = [
                    dataclasses.replace(hit, rank=rank) for rank, hit in enumerate(enough, 1)
                ]
                # All that can matter is known if what was left out lies beyond.
                last = enough[-1].distance if len(enough) == wanted and enough else max_distance
                if not is_all and far <= last:
                    again.append(row)
                elif is_all and len(own) < wanted and not compares_all:
                    few.append(row)
            if again and width == _LARGEST_WIDTH:
                what = "all hits within max_distance" if k is None else f"{k} neighbours"
                raise InputError(
                    f"Milvus returns at most {_LARGEST_WIDTH} candidates, too few to be sure of "
                    f"{what}. Ask for fewer, or restrict the search with --where"
                )
            pending, width = again, min(4 * width, _LARGEST_WIDTH)
        if few:  # the lists that were visited hold fewer
            options: dict[str, Any] = {"max_distance": max_distance, "unique": unique}
            whole = self.search(queries[few], k, where=where, exact=True, **options)
            for row, hits in zip(few, whole, strict=True):
                found[row] = hits
        return found

    def _nearest(
        self, queries: np.ndarray, width: int, condition: str, exact: bool
    ) -> list[tuple[list[Hit], float, bool]]:
        """Of each query candidates in order, the distance below which none is missing, and
        whether they are all there are."""
        facts, found = self.facts, []
        step = max(1, _BYTES_AT_ONCE // (4 * self.dim * width))
        for first in range(0, len(queries), step):
            some = queries[first : first + step]
            with failing(self.address):
                answers = self._client.search(
                    self.address.collection,
                    data=some.astype(np.float32).tolist(),
                    limit=width,
                    filter=condition,
                    output_fields=collections.EVERYTHING,
                    anns_field="point",
                    search_params=tuning.search_params(facts.num_lists, facts.nprobe, exact=exact),
                )
            for query, rows in zip(some, answers, strict=True):
                hits, far = self._ordered(query, rows)
                found.append((hits, far, len(rows) < width))
        return found

    def _ordered(self, query: np.ndarray, rows: Sequence[Any]) -> tuple[list[Hit], float]:
        """Candidates by hyperbolic distance, and how far away what is not among them lies."""
        if not rows:
            return [], math.inf
        own = [collections.row_of(row["entity"], self.address) for row in rows]
        own.sort(key=lambda row: row.path)
        points = np.frombuffer(b"".join(row.point for row in own), "<f4").reshape(len(own), -1)
        distances, best = neighbours.order(query, points, np.arange(len(rows)), self.c, len(rows))
        try:
            hits = [
                hit_of(own[place], 0, float(distance), points[place])
                for place, distance in zip(best.tolist(), distances, strict=True)
            ]
        except ValueError as error:
            raise collections.foreign_row(self.address, error) from error
        # Of the points themselves, so that nothing rests on what Milvus calls the distance.
        wide = query.astype(np.float64)
        beyond = (1 - _ROUNDING) * float(np.square(points - wide).sum(axis=1).max())
        g = beyond / (1 - self.c * float(np.square(wide).sum()))
        return hits, 2 / math.sqrt(self.c) * math.asinh(math.sqrt(self.c * g))

    def rows(self, where: Sequence[tuple[str, str]] = ()) -> list[Row]:
        """The images that meet all conditions, with their points, by path.

        Raises:
            InputError: there are none.
        """
        condition = expression(where, self.level_names)
        with failing(self.address):
            found = [
                collections.row_of(entity, self.address)
                for entity in collections.every(
                    self._client, self.address.collection, condition, collections.EVERYTHING
                )
            ]
        if not found:
            raise none_match(str(self.address), len(self), where)
        return sorted(found, key=lambda row: row.path)

    def rows_at(self, paths: Sequence[bytes]) -> list[Row]:
        """The images at some places, with their points, in this order."""
        ids = [collections.number_of(path.decode()) for path in paths]
        by_id: dict[int, Row] = {}
        for block in collections.blocks(ids):
            with failing(self.address):
                found = self._client.query(
                    self.address.collection, filter=f"id in {block}",
                    output_fields=collections.EVERYTHING,
                )  # fmt: skip
            by_id |= {entity["id"]: collections.row_of(entity, self.address) for entity in found}
        require_all(paths, {row.path for row in by_id.values()})
        return [by_id[number] for number in ids]

    def collection_of(self, rows: Sequence[Row]) -> Collection:
        """Rows with their points as a collection.

        Raises:
            FileFormatError: hier did not write them.
        """
        try:
            return collection_of(
                rows, dim=self.dim, level_names=self.level_names, c=self.c,
                fingerprint=self.fingerprint,
            )  # fmt: skip
        except (ValueError, InputError) as error:
            raise collections.foreign_row(self.address, error) from error


def _folded(hits: list[Hit]) -> list[Hit]:
    """Images with the same content as copies of the nearest."""
    found: dict[bytes, Hit] = {}
    for hit in hits:
        if hit.content in found:
            found[hit.content].copies.append(hit.path)
        else:
            found[hit.content] = hit
    return list(found.values())
