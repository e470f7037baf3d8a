"""An index of pictures, opened for searching."""

import contextlib
import functools
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hiercli import neighbours
from hiercli.collection import Collection
from hiercli.encoder.metadata import Metadata
from hiercli.errors import FileFormatError
from hiercli.geometry import poincare
from hiercli.index import generation, locations
from hiercli.index.catalogue import Catalogue
from hiercli.index.conditions import meeting
from hiercli.index.pictures import Pictures
from hiercli.index.schema import Row
from hiercli.index.searchable import Hit, hit_of, none_match, require_all
from hiercli.index.searcher import Delta, Searcher

if TYPE_CHECKING:
    from hiercli.hierarchy.verdict import Calibration

_LOOKS = 3
"""At a catalogue without its FAISS file, before that is damage and not a writer at work."""


class Reader:
    """An index and its catalogue. An update meanwhile does not disturb it: it answers as before.

    Args:
        path: FAISS file.
        device: where all points are compared, see `searcher.Searcher`.
        root: what relative paths are relative to, instead of what the catalogue says.
        threads: see `searcher.Searcher`.

    Attributes:
        fallback: why it is not searched there; mostly empty.

    Raises:
        InputError: a file is missing.
        FileFormatError: a file is damaged or foreign.
        MismatchError: the two do not belong together.
    """

    def __init__(
        self, path: Path, device: str = "cpu", root: Path | None = None, threads: int = 0
    ) -> None:
        self.path = Path(os.path.realpath(path))
        locations.require_root(root)
        self.catalogue, index = opened(self.path, root)
        self.c, self.dim = self.catalogue.c, self.catalogue.dim
        self.level_names = self.catalogue.level_names
        self.fingerprint = self.catalogue.fingerprint
        try:
            if index.d != self.dim + 1:
                raise generation.lost(self.path)
            self._searcher = Searcher(
                index, self.c, self.catalogue.farthest, device,
                delta=delta_of(self.catalogue), count=len(self.catalogue), threads=threads,
            )  # fmt: skip
        except BaseException:
            self.close()
            raise
        self.fallback = self._searcher.fallback
        self._asked: tuple[tuple[tuple[str, str], ...], np.ndarray] | None = None

    def close(self) -> None:
        """Let go of the files."""
        self.catalogue.close()

    def __len__(self) -> int:
        return len(self._searcher)

    @property
    def model(self) -> Path:
        """The encoder that made the points, where it lay then."""
        return self.catalogue.model

    @property
    def pair(self) -> str:
        """What it says of the CLIP-like models that made it; empty without them."""
        return self.catalogue.facts.get("pair", "")

    @functools.cached_property
    def calibration(self) -> "Calibration | None":
        """How far its images can be trusted with verdicts."""
        from hiercli.index import verdicts

        return verdicts.read(self.catalogue.facts.get("calibration", ""), self.path)

    @property
    def files(self) -> Sequence[Path]:
        """Index, catalogue and what lies beside them."""
        return locations.files(self.path)

    def check(self, metadata: Metadata, model: Path) -> None:
        """Refuse an encoder that did not make this index.

        Raises:
            MismatchError: it names both sides.
        """
        self.catalogue.check(metadata, model)

    def points_by_content(self, contents: Sequence[bytes]) -> dict[bytes, np.ndarray]:
        """Points (D,) of files that it has, by the hash of their content."""
        first = {content: rows[0].id for content, rows in self.catalogue.copies(contents).items()}
        ids, points = self.catalogue.points_of(list(first.values()))
        by_id = dict(zip(ids, points, strict=True))
        return {content: by_id[number] for content, number in first.items()}

    def rows_by_content(self, contents: Sequence[bytes]) -> dict[bytes, Row]:
        """One image of each content that it has, with its point."""
        first = {content: rows[0].id for content, rows in self.catalogue.copies(contents).items()}
        return {row.content: row for row in self.catalogue.rows(list(first.values()))}

    def small_picture(self, row: Row) -> bytes | None:
        """The small JPEG that the catalogue keeps of an image; ``None`` where it keeps none."""
        return self.catalogue.thumbnail(row.path)

    def some_points(self, count: int) -> np.ndarray:
        """Points (N, D) of at most so many images, evenly spread over all."""
        return self.catalogue.some_points(count)

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
        """The nearest pictures of each query point, (Q, D), nearest first.

        They are exactly the nearest, but in an index of a type that compares a part only: there
        all points are compared where ``exact``, ``where`` or ``k=None`` ask for it.

        Args:
            k: how many at most; ``None`` for all.
            max_distance: only those at this distance or nearer.
            unique: count pictures with the same content once, as the nearest's copies.
            where: only those that meet these conditions, see `conditions.meeting`.
            exact: compare every point, for every index type.

        Raises:
            InputError: no picture meets the conditions.
            FileFormatError: a row of the catalogue is damaged.
        """
        among = self._meeting(where) if where else None
        total = len(self) if among is None else len(among)
        if not total:
            raise none_match(self.path, len(self), where)
        wanted = total if k is None else min(k, total)
        found: list[list[Hit]] = [[] for _ in queries]
        pending, width = np.arange(len(queries)), wanted if k is not None else min(64, total)
        while pending.size:
            again = []
            nearest = self._searcher.fetch(
                queries[pending], width, among=among, exact=exact or k is None
            )
            hits = self._hits(queries[pending], nearest, width, max_distance, unique)
            for row, (own, farthest) in zip(pending, hits, strict=True):
                found[row] = own
                if len(own) < wanted and width < total and farthest <= max_distance:
                    again.append(row)
            pending, width = np.array(again, np.int64), min(4 * width, total)
        answers = [hits[:wanted] for hits in found]
        if unique:
            self._add_copies(answers, among)
        return answers

    def lineages(self) -> list[tuple[str, str]]:
        """Labels with their levels as JSON, each pair once."""
        return list(self.catalogue.classes().values())

    def rows(self, where: Sequence[tuple[str, str]] = ()) -> list[Row]:
        """The rows of the images that meet all conditions, by id.

        Raises:
            InputError: none does.
            FileFormatError: a row of the catalogue is damaged.
        """
        rows = self.catalogue.rows(self._meeting(where).tolist())
        if not rows:
            raise none_match(self.path, len(self), where)
        return rows

    def collection_of(self, rows: Sequence[Row]) -> Collection:
        """Rows with their points as a collection, see `Catalogue.collection`."""
        return self.catalogue.collection(rows)

    @property
    def picture(self) -> Pictures:
        """Pictures of the images, from their files or small ones that the index keeps."""
        return Pictures(self.catalogue)

    def rows_at(self, paths: Sequence[bytes]) -> list[Row]:
        """The images at some places, with their points, in this order."""
        rows = self.catalogue.at(paths)
        require_all(paths, rows)
        return self.catalogue.rows([rows[path].id for path in paths])

    def _meeting(self, where: Sequence[tuple[str, str]]) -> np.ndarray:
        """Ids of the images that meet all conditions, looked for once."""
        if self._asked is None or self._asked[0] != tuple(where):
            self._asked = tuple(where), meeting(self.catalogue, where)
        return self._asked[1]

    def _add_copies(self, answers: list[list[Hit]], among: np.ndarray | None) -> None:
        contents = {hit.content for hits in answers for hit in hits}
        copies = self.catalogue.copies(list(contents))
        allowed = None if among is None else set(among.tolist())
        for hits in answers:
            for hit in hits:
                for row in copies[hit.content]:
                    path = os.fsdecode(row.path)
                    if path != hit.path and (allowed is None or row.id in allowed):
                        hit.copies.append(path)

    def _hits(
        self,
        queries: np.ndarray,
        nearest: Sequence[np.ndarray],
        k: int,
        max_distance: float,
        unique: bool,
    ) -> list[tuple[list[Hit], float]]:
        """Hits among some ids for each query, and the distance of the last of the k nearest."""
        ids, points = self.catalogue.points_of(np.concatenate(nearest).tolist())
        numbers = np.array(ids, np.int64)
        # Not so where a number is none: such a point has no distance.
        if not (self.c * np.square(points, dtype=np.float64).sum(axis=1) < 1).all():
            raise FileFormatError(
                f"{self.catalogue.path} contains points outside the ball of curvature "
                f"-{self.c:g}. Build the index again with `hier embed FOLDER --index ... "
                "--rebuild`"
            )
        ordered: list[tuple[np.ndarray, np.ndarray, float]] = []
        for some in _blocks([len(own) for own in nearest]):
            owner = np.repeat(np.arange(len(queries))[some], [len(own) for own in nearest[some]])
            places = np.searchsorted(numbers, np.concatenate(nearest[some]))
            far = poincare.dist(
                queries[owner].astype(np.float64), points[places].astype(np.float64), self.c
            )
            order = np.lexsort((places, far, owner))
            ends = np.cumsum([len(own) for own in nearest[some]])
            for end, own in zip(ends, nearest[some], strict=True):
                best = order[end - len(own) : end][:k]
                near = best[far[best] <= max_distance]
                ordered.append((far[near], places[near], float(far[best[-1]])))
        wanted = sorted({place for _, best, _ in ordered for place in best.tolist()})
        rows = dict(
            zip(wanted, self.catalogue.rows(numbers[wanted].tolist(), points=False), strict=True)
        )
        found = []
        for distances, best, farthest in ordered:
            hits: dict[object, Hit] = {}
            for place, distance in zip(best.tolist(), distances.tolist(), strict=True):
                row = rows[place]
                key = row.content if unique else row.id
                if key not in hits:
                    hits[key] = hit_of(row, len(hits) + 1, distance, points[place])
            found.append((list(hits.values()), farthest))
        return found


def _blocks(lengths: Sequence[int]) -> Iterator[slice]:
    """Parts of a list whose lengths together stay below what is compared at once."""
    first, total = 0, 0
    for place, length in enumerate(lengths):
        if total and total + length > neighbours.AT_ONCE:
            yield slice(first, place)
            first, total = place, 0
        total += length
    if lengths:
        yield slice(first, len(lengths))


def opened(
    index: Path, root: Path | None = None, *, to_memory: bool = False
) -> tuple[Catalogue, Any]:
    """The catalogue of an index and the FAISS index that it names.

    Args:
        index: FAISS file.
        root: see `Reader`.
        to_memory: read the FAISS file whole, instead of mapping it.

    Raises:
        HierError: as `Reader`.
    """
    looks: list[str] = []
    while looks.count(looks[-1] if looks else "") < _LOOKS:
        with contextlib.ExitStack() as stack:
            catalogue = stack.enter_context(contextlib.closing(Catalogue(index, root)))
            looks.append(catalogue.generation)
            with generation.opened(index, catalogue.generation, catalogue.faiss_bytes) as file:
                if file is not None:
                    found = generation.whole(file) if to_memory else generation.mapped(file)
                    stack.pop_all()
                    return catalogue, found
    raise generation.lost(index)


def delta_of(catalogue: Catalogue) -> Delta:
    """How the images of a catalogue differ from its FAISS file."""
    added, removed = catalogue.delta()
    ids, points = catalogue.points_of(added.tolist())
    return Delta(np.array(ids, np.int64), points, removed, catalogue.c)
