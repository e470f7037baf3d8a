"""An index of pictures, opened for searching."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hiercli.encoder.metadata import Metadata
from hiercli.index import hyperbolic, pair


@dataclass(frozen=True)
class Hit:
    """One neighbour: its rank from 1, its picture, its class, its distance (lower is closer)."""

    rank: int
    path: str
    label: str
    distance: float


class PhotoIndex:
    """An index and its catalogue. An update meanwhile does not disturb it: it answers as before.

    Raises:
        InputError: a file is missing.
        FileFormatError: a file is damaged or foreign.
        MismatchError: the two do not belong together.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.catalogue, self._index = pair.read(path)

    def __len__(self) -> int:
        return int(self._index.ntotal)

    @property
    def model(self) -> Path:
        """The encoder that made the points, where it lay then."""
        return Path(self.catalogue.facts["model"])

    def check(self, metadata: Metadata, model: Path) -> None:
        """Refuse an encoder that did not make this index.

        Raises:
            MismatchError: it names both sides.
        """
        self.catalogue.check(metadata, model)

    def search(self, queries: np.ndarray, k: int) -> list[list[Hit]]:
        """The k nearest pictures of each query point, (Q, D), exactly, nearest first.

        Raises:
            FileFormatError: a row of the catalogue is damaged.
        """
        c = self.catalogue.c
        found = []
        for query, ids in zip(queries, hyperbolic.fetch(self._index, queries, c, k), strict=True):
            photos = self.catalogue.photos(np.sort(ids).tolist())
            points = np.stack([np.frombuffer(photo.point, "<f4") for photo in photos])
            distances, best = hyperbolic.order(query, points, np.arange(len(photos)), c, k)
            found.append(
                [
                    Hit(rank, os.fsdecode(photos[place].path), photos[place].label, float(distance))
                    for rank, (place, distance) in enumerate(zip(best, distances, strict=True), 1)
                ]
            )
        return found
