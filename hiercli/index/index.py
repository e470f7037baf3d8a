"""`Index`: what people open to search images, and to keep an index up to date."""

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from PIL import Image

from hiercli.collection import Collection
from hiercli.encoder.encoder import Encoder
from hiercli.encoder.metadata import Metadata
from hiercli.encoder.pair import PairEncoder
from hiercli.encoder.pipeline import ImageLike, pixels_of
from hiercli.errors import ImageError, InputError, MismatchError
from hiercli.hierarchy.verdict import CONFIDENCE
from hiercli.images import Places
from hiercli.index import locations, texts, verdicts, words
from hiercli.index import store as stores
from hiercli.index.address import target_of
from hiercli.index.pair import open_text, pair_text, text_model_of
from hiercli.index.schema import Row, content_hash, facts_of, levels_text
from hiercli.index.searchable import Hit, Searchable, answers, open_encoder
from hiercli.index.update import Update, update

if TYPE_CHECKING:
    from hiercli.encoder.text_model import TextModel


class Index:
    """An index of images, new or there: a FAISS file with its catalogue, or a place in Milvus.

    Examples:
        >>> import tempfile, numpy as np
        >>> birds = Collection(
        ...     points=np.array([[0.1, 0.0], [0.0, 0.2], [0.3, 0.0]], np.float32),
        ...     paths=["a.jpg", "b.jpg", "c.jpg"], labels=["wren", "jay", "wren"], c=0.1,
        ... )
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with Index.build(f"{folder}/birds.faiss", birds) as index:
        ...         hits = index.search(np.array([0.12, 0.0], np.float32), k=2)
        >>> [(hit.rank, hit.label, round(hit.distance, 2)) for hit in hits]
        [(1, 'wren', 0.04), (2, 'wren', 0.36)]

    Args:
        path: FAISS file, or ``milvus:FILE.db`` or ``milvus://HOST:PORT/NAME``; it is made by the
            first `update`.
        device: ``cuda`` compares all points on the GPU, ``cpu`` searches with FAISS.
        encoder: for queries that are images; without it the one that built the index.
        root: where images lie that are known by paths relative to the index, should both have
            been moved apart.
    """

    def __init__(
        self,
        path: Path | str,
        device: str = "cpu",
        *,
        encoder: Encoder | None = None,
        root: Path | str | None = None,
    ) -> None:
        self.path = target_of(path)
        self._device, self._encoder = device, encoder
        self._root = None if root is None else Path(root)
        self._reader: Searchable | None = None
        self._texts: TextModel | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the files; the next use opens them again."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        self._texts = None

    @classmethod
    def build(
        cls,
        path: Path | str,
        collection: Collection,
        index_type: str = "auto",
        *,
        rebuild: bool = False,
        encoder: Encoder | Path | str | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> "Index":
        """Make an index from points alone: no image has to be at hand.

        Args:
            path: FAISS file to write, or address in Milvus.
            collection: points with c; paths must differ. Without paths an image is called
                ``point 1``, without labels its label is empty.
            index_type: flat or sq8 (exact), ivf or hnsw (faster for millions), or auto; in Milvus
                flat, ivf or auto.
            rebuild: replace the index that is there.
            encoder: the encoder that made the points, or its file, for queries that are images.
            progress: called with (done, total) points.

        Raises:
            InputError: the collection has no curvature, is empty, or holds a path twice; or there
                is a file at ``path``.
        """
        target = target_of(path)
        stores.require_index_type(target, index_type)
        if stores.exists(target) and not rebuild:
            raise InputError(
                f"{path} already exists. Name another file, or build it again with rebuild=True"
            )
        if isinstance(target, Path):
            locations.require_replaceable(target)
        if collection.c is None:
            raise InputError("expected a collection with its curvature c, got one without")
        made_by = encoder.path if isinstance(encoder, Encoder) else encoder
        facts = facts_of(
            collection.fingerprint or "",
            collection.c,
            collection.points.shape[1],
            None if made_by is None else Path(made_by),
        ) | {"index_type": index_type}
        if isinstance(encoder, Encoder):
            home = target.parent if isinstance(target, Path) else None
            facts |= {"pair": pair} if (pair := pair_text(encoder, home)) else {}
        stores.fill(target, facts, lambda: _rows(collection), collection, progress)
        return cls(path)

    def update(
        self,
        paths: Sequence[Path | str],
        encoder: Encoder | None = None,
        **options: Any,
    ) -> Update:
        """Make the index say what files, folders and manifests hold; other images stay.

        Args:
            paths: images, folders of images, and manifests.
            encoder: makes the points; without it the one that built this index, of any version.
            options: see `hiercli.index.update.update`.

        Raises:
            HierError: as there.
        """
        used = encoder or self._encoder
        if used is None:
            used = stores.pair_encoder(self.path, "auto", 0)
        if used is None and (model := stores.encoder_of(self.path)) is not None:
            used = Encoder(model)
        used = used or self.encoder  # says what is missing
        self.close()
        done = update(self.path, [Path(path) for path in paths], used, root=self._root, **options)
        self._encoder = used
        return done

    @property
    def reader(self) -> Searchable:
        """The index, opened for reading.

        Raises:
            HierError: it is missing or damaged.
        """
        if self._reader is None:
            self._reader = stores.searching(self.path, self._device, self._root)
        return self._reader

    @property
    def encoder(self) -> Encoder:
        """The encoder for queries that are images: the one given, or that which built the index.

        Raises:
            InputError: it is not known where that lies now.
            MismatchError: it did not build this index.
        """
        if self._encoder is None:
            self._encoder = open_encoder(self.reader, str(self.path))
        elif stores.exists(self.path):
            self.reader.check(self._encoder.metadata, self._encoder.path)
        return self._encoder

    def __len__(self) -> int:
        return len(self.reader)

    @property
    def c(self) -> float:
        """Curvature magnitude, > 0."""
        return self.reader.c

    @property
    def fingerprint(self) -> str:
        """Of the encoder that made the points."""
        return self.reader.fingerprint

    @property
    def level_names(self) -> tuple[str, ...]:
        """Names of the levels that its images have, fine to coarse."""
        return self.reader.level_names

    def collection(self, where: Sequence[tuple[str, str]] = ()) -> Collection:
        """All images, or those that meet all conditions, see `search`.

        Raises:
            InputError: there are none.
        """
        return self.reader.collection_of(self.reader.rows(where))

    def search(
        self,
        query: "ImageLike | Collection | Sequence[ImageLike]",
        k: int | None = 10,
        *,
        max_distance: float = math.inf,
        where: Sequence[tuple[str, str]] = (),
        unique: bool = False,
        exact: bool = False,
        rerank: bool = False,
    ) -> list[Any]:
        """The nearest images by hyperbolic distance, nearest first.

        They are exactly the nearest, but in an index of type hnsw or ivf, which compares a part
        only, unless ``exact``, ``where`` or ``k=None`` ask for all.

        Args:
            query: a path of an image, a Pillow image, uint8 pixels (H, W, 3), or a point (D,) of
                the ball as floats; or a list of these, points (Q, D), or a collection.
            k: how many at most; ``None`` for all.
            max_distance: only images at this distance or nearer.
            where: only images that meet these conditions, pairs like ``("genus", "Icterus")`` or
                ``("label", "*warbler")``: label, path or the name of a level.
            unique: count images of the same content once, as copies of the nearest.
            exact: compare every point, for every index type.
            rerank: correct the order of the nearest 200 by what is near them, see `reranking`.

        Returns:
            a list of `Hit` for one query, a list of such lists for several.

        Raises:
            ImageError: a query cannot be read.
            InputError: a query is none of these, or no image meets the conditions.
            MismatchError: points are of another dimension than the index.
        """
        if k is not None and k < 1:
            raise InputError(f"expected k of at least 1, got {k}")
        points, is_one = self._points(query)
        found = list(
            answers(self.reader, points, k, max_distance=max_distance, where=where, unique=unique,
                    exact=exact, reranked=rerank)
        )  # fmt: skip
        return found[0] if is_one else found

    def search_words(self, text: str, k: int | None = 10, **options: Any) -> list[Hit]:
        """The images nearest to words.

        If the index was built by a `PairEncoder` with a text model, that embeds the words.
        Otherwise they are looked for in labels and levels, then in the names that the encoder
        knows, see `hiercli.index.words`.

        Args:
            text: the words, such as ``red warbler``.
            k: how many at most; ``None`` for all.
            options: ``max_distance``, ``where``, ``unique`` and ``exact``, as of `search`.

        Raises:
            InputError: no name has any of the words; the message has the nearest names. Or the text
                model is no longer where it was.
            MissingExtraError: a text model needs the package tokenizers.
            MismatchError: the text model has changed.
        """
        if (model := self._text_model()) is not None:
            return words.around(self.reader, texts.read_by(model, text).points, k, **options)

        def known() -> Metadata | None:
            if self.reader.pair:  # its models know no names
                return None
            try:
                return self.encoder.metadata
            except InputError:  # it is not at hand
                return None

        found = words.understand(text, self.reader, known)
        return words.around(self.reader, found.points, k, **options)

    def _text_model(self) -> "TextModel | None":
        """What embeds words; ``None`` where they are looked for in names."""
        if isinstance(self._encoder, PairEncoder) and self._encoder.text_model is not None:
            self.reader.check(self._encoder.metadata, self._encoder.path)
            return self._encoder.text_model
        if self._texts is None and text_model_of(self.reader.pair):
            self._texts = open_text(self.reader, str(self.path))
        return self._texts

    def identify(
        self,
        query: "ImageLike | Collection | Sequence[ImageLike]",
        confidence: float = CONFIDENCE,
    ) -> Any:
        """What an image is: the most specific class or group that its nearest images support.

        Args:
            query: as of `search`.
            confidence: probability that a class or group must have to be named, 0 to 1.

        Returns:
            a `Verdict` for one query, a list of them for several.

        Raises:
            ImageError, InputError, MismatchError: as `search`; also where images have no classes.
        """
        if not isinstance(confidence, int | float) or not 0 < confidence < 1:
            raise InputError(f"expected a confidence between 0 and 1, got {confidence}")
        points, is_one = self._points(query)
        known = verdicts.calibration_of(self.reader)
        found = list(verdicts.verdicts(self.reader, known, points, confidence))
        return found[0] if is_one else found

    def _points(self, query: Any) -> tuple[np.ndarray, bool]:
        """Points (Q, D) of queries, and whether it was but one."""
        if isinstance(query, Collection):
            if query.fingerprint not in (None, self.fingerprint):
                raise MismatchError(
                    f"the index {self.path} was built with encoder {self.fingerprint}, the "
                    f"collection with {query.fingerprint}. Embed both with the same encoder"
                )
            return self._checked(query.points), False
        if isinstance(query, np.ndarray) and query.dtype.kind == "f":
            return self._checked(np.atleast_2d(query)), query.ndim == 1
        is_one = isinstance(query, Path | str | Image.Image | np.ndarray)
        several = [query] if is_one else query
        if not isinstance(several, Iterable):
            raise InputError(
                "expected an image (path, Pillow image, uint8 array) or a point (D,), got "
                f"{type(query).__name__}"
            )
        return np.concatenate(
            [np.empty((0, self.reader.dim), np.float32), *map(self._point, several)]
        ), is_one

    def _point(self, query: Any) -> np.ndarray:
        """The point (1, D) of one query."""
        if isinstance(query, np.ndarray) and query.dtype.kind == "f":
            return self._checked(np.atleast_2d(query))
        if not isinstance(query, Path | str | Image.Image | np.ndarray):
            raise InputError(
                "expected an image (path, Pillow image, uint8 array) or a point (D,), got "
                f"{type(query).__name__}"
            )
        encoder = self.encoder
        pixels, problem = pixels_of(encoder.metadata.preprocessing, query)
        if pixels is None:
            raise ImageError(problem)
        return encoder.run(pixels[None])

    def _checked(self, points: np.ndarray) -> np.ndarray:
        """Points that are of this ball."""
        if points.ndim != 2 or points.shape[1] != self.reader.dim:
            raise MismatchError(
                f"the index contains points of {self.reader.dim} dimensions, got {points.shape}. "
                "Use the encoder that built the index"
            )
        return Collection(points=points, c=self.c).points


def _rows(collection: Collection) -> Iterator[Row]:
    """Rows of a catalogue for images that nobody has looked at."""
    place = Places()
    seen: dict[bytes, int] = {}
    count = len(collection)
    if not count:
        raise InputError("expected at least one point to build an index, got none")
    names = collection.paths or [f"point {number + 1}" for number in range(count)]
    labels = collection.labels or [""] * count
    levels = collection.levels or [("",) * len(collection.level_names)] * count
    for number, name in enumerate(names):
        is_file = collection.paths is not None and "://" not in name
        path = place(name) if is_file else os.fsencode(name)
        if path in seen:
            raise InputError(
                f"expected different paths, but {name} appears at positions {seen[path]} and "
                f"{number}. Keep one"
            )
        seen[path] = number
        point = collection.points[number].astype("<f4").tobytes()
        content = content_hash(point)
        groups = levels_text(collection.level_names, levels[number])
        split = collection.splits[number] if collection.splits else ""
        yield Row(number, path, labels[number], groups, content, (-1, 0, 0), point, split)
