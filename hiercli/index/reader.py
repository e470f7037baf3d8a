"""An index of pictures, opened for searching."""

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from hiercli import neighbours
from hiercli.collection import Collection
from hiercli.encoder.metadata import Metadata
from hiercli.errors import FileFormatError, InputError
from hiercli.index import pair
from hiercli.index.catalogue import Photo, groups_of
from hiercli.index.flat_file import FlatFile
from hiercli.index.searcher import Searcher
from hiercli.wording import counted

_QUERIES_AT_ONCE = 256
"""Queries searched together: many need no more memory than some."""


@dataclass(frozen=True)
class Hit:
    """One neighbour.

    Examples:
        >>> import numpy as np
        >>> hit = Hit(1, "a.jpg", "wren", {"genus": "Troglodytes"}, 0.25, b"", np.zeros(2))
        >>> hit.to_dict()["levels"]
        {'genus': 'Troglodytes'}

    Attributes:
        rank: from 1.
        path: of the picture.
        label: its class.
        levels: its groups by level, fine to coarse.
        distance: hyperbolic, lower is closer.
        content: hash of the file.
        point: (D,) in the ball.
        copies: other pictures with the same content, where copies are folded.
    """

    rank: int
    path: str
    label: str
    levels: dict[str, str]
    distance: float
    content: bytes = field(repr=False)
    point: np.ndarray = field(compare=False, repr=False)
    copies: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """What people are told of it."""
        names = ("rank", "path", "label", "levels", "distance", "copies")
        return {name: getattr(self, name) for name in names}


def hit_of(photo: Photo, rank: int, distance: float, point: np.ndarray) -> Hit:
    """A row of a catalogue as a search result."""
    path = os.fsdecode(photo.path)
    levels = groups_of(photo.levels)
    return Hit(rank, path, photo.label, levels, distance, photo.content, point)


class Searchable(Protocol):
    """Pictures that can be searched, wherever they are kept."""

    c: float
    dim: int
    level_names: tuple[str, ...]

    @property
    def model(self) -> Path:
        """The encoder that made the points, where it lay then."""

    @property
    def files(self) -> Sequence[Path]:
        """Files that it lies in."""

    def close(self) -> None:
        """Let go of it."""

    def check(self, metadata: Metadata, model: Path) -> None:
        """Refuse an encoder that did not make the points."""

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
        """The nearest pictures of each query point, see `Reader.search`."""


def answers(
    images: Searchable, points: np.ndarray, k: int | None, **options: Any
) -> Iterator[list[Hit]]:
    """The hits of each of the points (Q, D), searched block by block as they are asked for."""
    for first in range(0, len(points), _QUERIES_AT_ONCE):
        yield from images.search(points[first : first + _QUERIES_AT_ONCE], k, **options)


def encoder_file(images: Searchable, index: Path | str) -> Path:
    """The file of the encoder that built an index.

    Raises:
        InputError: it is not known, or no longer there.
    """
    if images.model.is_file():
        return images.model
    where = f"is no longer at {images.model}" if images.model.name else "is not known"
    raise InputError(
        f"the encoder that built {index} {where}. Name it with --model (in Python: Index(..., "
        "encoder=Encoder(...)))"
    )


class Reader:
    """An index and its catalogue. An update meanwhile does not disturb it: it answers as before.

    Args:
        path: FAISS file.
        device: where all points are compared, see `searcher.Searcher`.

    Attributes:
        fallback: why it is not searched there; mostly empty.

    Raises:
        InputError: a file is missing.
        FileFormatError: a file is damaged or foreign.
        MismatchError: the two do not belong together.
    """

    def __init__(self, path: Path, device: str = "cpu") -> None:
        self.path = Path(os.path.realpath(path))
        self.catalogue, self._file = pair.open_checked(self.path)
        self.c, self.dim = self.catalogue.c, self.catalogue.dim
        self.level_names = self.catalogue.level_names
        try:
            flat = None if device == "cuda" else FlatFile.parse(self._file)
            index = pair.whole(self._file) if flat is None else flat
            self._searcher = Searcher(index, self.c, self.catalogue.farthest, device)
        except BaseException:
            self.close()
            raise
        self.fallback = self._searcher.fallback

    def close(self) -> None:
        """Let go of the files."""
        self.catalogue.close()
        self._file.close()

    def __len__(self) -> int:
        return len(self._searcher)

    @property
    def model(self) -> Path:
        """The encoder that made the points, where it lay then."""
        return self.catalogue.model

    @property
    def files(self) -> Sequence[Path]:
        """Index, catalogue and what lies beside them."""
        return pair.files(self.path)

    def check(self, metadata: Metadata, model: Path) -> None:
        """Refuse an encoder that did not make this index.

        Raises:
            MismatchError: it names both sides.
        """
        self.catalogue.check(metadata, model)

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

        They are exactly the nearest, but in an index of a kind that compares a part only: there
        all points are compared where ``exact``, ``where`` or ``k=None`` ask for it.

        Args:
            k: how many at most; ``None`` for all.
            max_distance: only those at this distance or nearer.
            unique: count pictures with the same content once, as the nearest's copies.
            where: only those that meet these conditions, see `Catalogue.where`.
            exact: compare every point, for every index type.

        Raises:
            InputError: no picture meets the conditions.
            FileFormatError: a row of the catalogue is damaged.
        """
        among = self.catalogue.where(where) if where else None
        total = len(self) if among is None else len(among)
        if not total:
            raise self._none_has(where)
        wanted = total if k is None else min(k, total)
        found: list[list[Hit]] = [[] for _ in queries]
        pending, width = np.arange(len(queries)), wanted if k is not None else min(64, total)
        while pending.size:
            again = []
            for row, ids in zip(
                pending,
                self._searcher.fetch(
                    queries[pending], width, among=among, exact=exact or k is None
                ),
                strict=True,
            ):
                found[row], farthest = self._hits(queries[row], ids, width, max_distance, unique)
                if len(found[row]) < wanted and width < total and farthest <= max_distance:
                    again.append(row)
            pending, width = np.array(again, np.int64), min(4 * width, total)
        answers = [hits[:wanted] for hits in found]
        if unique:
            self._add_copies(answers, among)
        return answers

    def rows(self, where: Sequence[tuple[str, str]] = ()) -> list[Photo]:
        """The rows of the images that meet all conditions, by id.

        Raises:
            InputError: none does.
            FileFormatError: a row of the catalogue is damaged.
        """
        rows = self.catalogue.photos(self.catalogue.where(where).tolist())
        if not rows:
            raise self._none_has(where)
        return rows

    def collection(self, where: Sequence[tuple[str, str]] = ()) -> Collection:
        """The images that meet all conditions, by id, see `rows`."""
        return self.catalogue.collection(self.rows(where))

    def _none_has(self, where: Sequence[tuple[str, str]]) -> InputError:
        if not len(self):
            return InputError(
                f"{self.path} contains no images. Add images with `hier embed FOLDER --index ...`"
            )
        asked = ", ".join(f"{name}={pattern}" for name, pattern in where)
        return InputError(
            f"no image matches {asked} ({counted(len(self), 'image')} in {self.path}). A pattern "
            "matches a whole label or a whole absolute path, and may contain * and ?: try "
            f"{where[0][0]}=*{where[0][1]}"
        )

    def _add_copies(self, answers: list[list[Hit]], among: np.ndarray | None) -> None:
        contents = {hit.content for hits in answers for hit in hits}
        copies = self.catalogue.copies(list(contents))
        allowed = None if among is None else set(among.tolist())
        for hits in answers:
            for hit in hits:
                for photo in copies[hit.content]:
                    path = os.fsdecode(photo.path)
                    if path != hit.path and (allowed is None or photo.id in allowed):
                        hit.copies.append(path)

    def _hits(
        self, query: np.ndarray, ids: np.ndarray, k: int, max_distance: float, unique: bool
    ) -> tuple[list[Hit], float]:
        """Hits among some ids, and the distance of the last of the k nearest."""
        photos = self.catalogue.photos(np.sort(ids).tolist())
        points = np.stack([np.frombuffer(photo.point, "<f4") for photo in photos])
        # Not so where a number is none: such a point has no distance.
        if not (self.c * np.square(points, dtype=np.float64).sum(axis=1) < 1).all():
            raise FileFormatError(
                f"{self.catalogue.path} contains points outside the ball of curvature "
                f"-{self.c:g}. Build the index again with `hier embed FOLDER --index ... "
                "--rebuild`"
            )
        distances, best = neighbours.order(
            query, points, np.arange(len(photos)), self.catalogue.c, k
        )
        hits: dict[object, Hit] = {}
        for place, distance in zip(best, distances, strict=True):
            if distance > max_distance:
                break
            photo = photos[place]
            key = photo.content if unique else photo.id
            if key not in hits:
                hits[key] = hit_of(photo, len(hits) + 1, float(distance), points[place])
        return list(hits.values()), float(distances[-1])
