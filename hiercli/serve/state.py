"""An index as a server opened it, and how it can be searched."""

import contextlib
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hiercli.encoder.encoder import Encoder
from hiercli.encoder.metadata import Metadata
from hiercli.errors import FileFormatError, InputError, MismatchError
from hiercli.hierarchy.branches import Branches
from hiercli.hierarchy.verdict import CONFIDENCE, Calibration
from hiercli.index import store as stores
from hiercli.index import words
from hiercli.index.searchable import Searchable, open_encoder
from hiercli.index.similarity import Similarity
from hiercli.index.texts import TextQuery, TextReader, reader_of
from hiercli.serve.settings import Settings

MOST_HITS = 1000
"""That one request may ask for."""
_TEXTS = 256
"""Texts whose meaning is kept."""


@dataclass(frozen=True)
class Asked:
    """How an index is searched; requests that are equal in all are searched together.

    Attributes:
        k: hits at most.
        max_distance: of a hit.
        where: conditions that hits meet.
        unique: whether files of the same content are one hit.
        exact: whether every point is compared.
        rerank: whether the order of the nearest is corrected.
        verdict: whether the query gets one, where the index can give it.
        confidence: of a verdict.
        branches: whether each hit is told its lowest common ancestor with the query.
        level: levels above the class of the query that are searched in breadth.
        made_by: fingerprint of the encoder that the point comes from; empty where nobody knows.
    """

    k: int = 10
    max_distance: float = float("inf")
    where: tuple[tuple[str, str], ...] = ()
    unique: bool = False
    exact: bool = False
    rerank: bool = False
    verdict: bool = True
    confidence: float = CONFIDENCE
    branches: bool = False
    level: int | None = None
    made_by: str = ""

    @property
    def is_plain(self) -> bool:
        """Whether hits and verdict come of one search."""
        return not (self.where or self.unique or self.rerank or self.max_distance < float("inf"))


class State:
    """An index as it was when it was opened; its reader belongs to one thread.

    Args:
        target: FAISS file or address in Milvus.
        settings: of the server.
        known: an encoder that may be the index's own.
        threads: see `reader.Reader`.

    Attributes:
        reader: the index.
        encoder: that made its points, or ``None``.
        problem: why there is no encoder.
        texts: embeds words, where the index has a text model.
        similarity: by which distances are told in words.
    """

    def __init__(
        self, target: Any, settings: Settings, known: "Encoder | None", threads: int = 0
    ) -> None:
        self.reader: Searchable = stores.searching(
            target, settings.device, settings.root_folder, threads
        )
        self.encoder: Encoder | None = None
        self.problem = ""
        self._understood: dict[str, words.Understood] = {}
        try:
            self._take_encoder(str(target), settings, known)
            self.texts: TextReader | None = reader_of(self.reader, str(target))
            self.similarity = Similarity.of(self.reader)
            self.calibration: Calibration | None = None
            with contextlib.suppress(FileFormatError):  # hits are none the worse for it
                self.calibration = self.reader.calibration
        except BaseException:
            self.reader.close()
            raise

    def _take_encoder(self, index: str, settings: Settings, known: "Encoder | None") -> None:
        if known is not None and known.fingerprint == self.reader.fingerprint:
            self.encoder = known
            return
        model = Path(settings.model) if settings.model else None
        try:
            self.encoder = open_encoder(
                self.reader, index, model, settings.device, settings.threads
            )
        except MismatchError:
            if model is not None:
                raise
        except InputError as error:  # points, ids and words can still be searched for
            self.problem = str(error)

    @functools.cached_property
    def examples(self) -> list[str]:
        """Ids of some images for a start page, spread over the labels."""
        hits = self.reader.search(self.reader.some_points(24), 1)
        return list(dict.fromkeys(own[0].content.hex() for own in hits if own))

    @functools.cached_property
    def branches(self) -> Branches:
        """Ancestors of queries and images.

        Raises:
            InputError: there is no encoder.
        """
        held = self.reader.collection_of(self.reader.rows())
        return Branches(self.need_encoder().metadata, held.points, held.labels or ())

    def understood(self, text: str) -> words.Understood | TextQuery:
        """What words mean here.

        Raises:
            InputError: no name has them.
        """
        if self.texts is not None:
            return self.texts(text)
        if text not in self._understood:
            if len(self._understood) >= _TEXTS:
                self._understood.clear()
            self._understood[text] = words.understand(text, self.reader, self.metadata)
        return self._understood[text]

    def need_encoder(self) -> Encoder:
        """The encoder.

        Raises:
            InputError: there is none.
        """
        if self.encoder is None:
            raise InputError(self.problem or "this index has no encoder, so it takes no images")
        return self.encoder

    def metadata(self) -> Metadata | None:
        """What the encoder says of itself."""
        return None if self.encoder is None else self.encoder.metadata
