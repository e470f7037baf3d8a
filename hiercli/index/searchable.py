"""What can be searched for images, wherever they are kept, and the hits that it gives."""

import contextlib
import math
import os
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from hiercli.collection import Collection, splits_of
from hiercli.encoder import onnx_file
from hiercli.encoder.general import default_model
from hiercli.encoder.metadata import Metadata
from hiercli.errors import HierError, InputError, MismatchError
from hiercli.images import Picture
from hiercli.index.pair import open_images
from hiercli.index.schema import Row, groups_of, readable
from hiercli.reranking import CANDIDATES, rerank
from hiercli.wording import counted

if TYPE_CHECKING:
    from hiercli.encoder.encoder import Encoder
    from hiercli.hierarchy.verdict import Calibration

QUERIES_AT_ONCE = 256
"""Queries searched together: many need no more memory than some."""
_MOST_BESIDE = 20
"""Files beside an index that are looked at for its encoder."""


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


def hit_of(row: Row, rank: int, distance: float, point: np.ndarray) -> Hit:
    """A row of a catalogue as a search result."""
    path, levels = os.fsdecode(row.path), groups_of(row.levels)
    return Hit(rank, path, row.label, levels, distance, row.content, point)


def collection_of(
    rows: Sequence[Row],
    *,
    dim: int,
    level_names: Sequence[str],
    c: float,
    fingerprint: str,
    proxies: np.ndarray | None = None,
) -> Collection:
    """Rows with their points as a collection.

    Raises:
        ValueError: a row says what it cannot.
        InputError: a point lies outside the ball.
    """
    points = np.frombuffer(b"".join(row.point for row in rows), "<f4")
    groups = [groups_of(row.levels) for row in rows]
    return Collection(
        points=points.reshape(len(rows), dim),
        paths=[os.fsdecode(row.path) for row in rows],
        labels=[row.label for row in rows],
        levels=[tuple(own.get(name, "") for name in level_names) for own in groups]
        if level_names else None,
        level_names=tuple(level_names),
        c=c,
        proxies=proxies,
        fingerprint=fingerprint,
        splits=splits_of(rows),
    )  # fmt: skip


def require_encoder(
    where: Path | str, told: tuple[str, float, int, Path | str], metadata: Metadata, model: Path
) -> None:
    """Refuse an encoder that did not make the points of an index.

    Args:
        where: the index lies.
        told: its encoder's fingerprint, c, dimensions, and file, as people name it.
        metadata: of the encoder at hand.
        model: its file.

    Raises:
        MismatchError: it names both sides.
    """
    fingerprint, c, dim, own = told
    if metadata.fingerprint != fingerprint:
        raise MismatchError(
            f"the index {where} was built with encoder {fingerprint} (c={c:g}, {dim} dimensions), "
            f"{model} is {metadata.fingerprint} (c={metadata.c:g}, {metadata.embedding_dim} "
            f"dimensions). Use {own}, or build the index again with `hier embed ... --rebuild`"
        )


def none_match(index: Path | str, count: int, where: Sequence[tuple[str, str]]) -> InputError:
    """What is said where no image meets some conditions.

    Args:
        index: that was searched.
        count: of its images.
        where: the conditions.
    """
    if not (count and where):
        return InputError(
            f"{index} contains no images. Add images with `hier embed FOLDER --index ...`"
        )
    asked = ", ".join(f"{name}={pattern}" for name, pattern in where)
    return InputError(
        f"no image matches {asked} ({counted(count, 'image')} in {index}). A pattern matches a "
        "whole label or a whole absolute path, and may contain * and ?: try "
        f"{where[0][0]}=*{where[0][1]}"
    )


def require_all(paths: Sequence[bytes], found: Container[bytes]) -> None:
    """Check that an index has images at all of some places.

    Raises:
        InputError: another process has removed one.
    """
    for path in paths:
        if path not in found:
            raise InputError(
                f"{readable(path)} was removed from the index meanwhile, by another process. Run "
                "the same command again"
            )


class Searchable(Protocol):
    """Pictures that can be searched, wherever they are kept."""

    c: float
    dim: int
    level_names: tuple[str, ...]
    fingerprint: str

    fallback: str

    @property
    def calibration(self) -> "Calibration | None":
        """How far its images can be trusted with verdicts; ``None`` where it keeps nothing."""

    @property
    def picture(self) -> Picture:
        """Pictures of the images, wherever these are by now."""

    def __len__(self) -> int:
        """Images in it."""

    @property
    def model(self) -> Path:
        """The encoder that made the points, where it lay then."""

    @property
    def pair(self) -> str:
        """What it says of the CLIP-like models that made it, see `pair`; empty without them."""

    @property
    def files(self) -> Sequence[Path]:
        """Files that it lies in."""

    def close(self) -> None:
        """Let go of it."""

    def check(self, metadata: Metadata, model: Path) -> None:
        """Refuse an encoder that did not make the points."""

    def points_by_content(self, contents: Sequence[bytes]) -> dict[bytes, np.ndarray]:
        """Points (D,) of files that it has, by the hash of their content."""

    def rows_by_content(self, contents: Sequence[bytes]) -> dict[bytes, Row]:
        """One image of each content that it has, with its point."""

    def small_picture(self, row: Row) -> bytes | None:
        """The small JPEG that it keeps of an image; ``None`` where it keeps none."""

    def some_points(self, count: int) -> np.ndarray:
        """Points (N, D) of at most so many images, evenly spread over all."""

    def lineages(self) -> list[tuple[str, str]]:
        """Labels with their levels as JSON, each pair once."""

    def rows(self, where: Sequence[tuple[str, str]] = ()) -> list[Row]:
        """The images that meet all conditions, with their points, in a fixed order.

        Raises:
            InputError: there are none.
        """

    def rows_at(self, paths: Sequence[bytes]) -> list[Row]:
        """The images at some places, with their points, in this order."""

    def collection_of(self, rows: Sequence[Row]) -> Collection:
        """Rows with their points as a collection."""

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
    images: Searchable, points: np.ndarray, k: int | None, *, reranked: bool = False, **options: Any
) -> Iterator[list[Hit]]:
    """The hits of each of the points (Q, D), searched block by block as they are asked for.

    Args:
        images: the index.
        points: of the queries.
        k: hits of each, or all.
        reranked: correct the order of the nearest `reranking.CANDIDATES` hits.
        options: of `Searchable.search`.
    """
    depth = max(k, CANDIDATES) if reranked and k is not None else k
    for first in range(0, len(points), QUERIES_AT_ONCE):
        block = points[first : first + QUERIES_AT_ONCE]
        for query, hits in zip(block, images.search(block, depth, **options), strict=True):
            yield _reranked(query, hits, images.c)[:k] if reranked else hits


def _reranked(query: np.ndarray, hits: list[Hit], c: float) -> list[Hit]:
    if not hits:
        return hits
    order = rerank(query, np.stack([hit.point for hit in hits[:CANDIDATES]]), c)
    ordered = [hits[place] for place in order] + hits[CANDIDATES:]
    return [replace(hit, rank=rank) for rank, hit in enumerate(ordered, 1)]


def encoder_file(images: Searchable, index: Path | str) -> Path:
    """The file of the encoder that built an index, see `find_encoder`."""
    return find_encoder(images.model, images.fingerprint, images.files, index)


def find_encoder(model: Path, fingerprint: str, files: Sequence[Path], index: Path | str) -> Path:
    """The file of the encoder that built an index: where it lay then, or beside the index.

    Args:
        model: where it lay then; empty where that is not known.
        fingerprint: of the encoder. The general encoder counts too if it has this one.
        files: of the index.
        index: for the message.

    Raises:
        InputError: it is not known, or no longer there.
    """
    if model.is_file():
        return model
    beside = [
        file
        for folder in dict.fromkeys(file.parent for file in files)
        for file in sorted(folder.glob("*.onnx"), key=lambda file: file.name != model.name)[
            :_MOST_BESIDE
        ]
    ]
    with contextlib.suppress(InputError):  # an installation without it
        beside.append(default_model())
    for file in beside:
        with contextlib.suppress(HierError, OSError):
            if onnx_file.read(file).metadata.fingerprint == fingerprint:
                return file
    where = f"is no longer at {model}" if model.name else "is not known"
    raise InputError(
        f"the encoder that built {index} {where}. Name it with --model (in Python: Index(..., "
        "encoder=Encoder(...)))"
    )


def open_encoder(
    images: Searchable,
    index: Path | str,
    model: Path | None = None,
    device: str = "auto",
    threads: int = 0,
) -> "Encoder":
    """The encoder of an index, checked to be its own; of a CLIP-like pair, the image model.

    Args:
        images: the index.
        index: as people named it.
        model: file of the encoder; ``None``: as the index names it.
        device, threads: see `Encoder`.

    Raises:
        InputError: it is not known where the encoder lies now.
        MismatchError: it did not build this index.
    """
    from hiercli.encoder.encoder import Encoder

    if images.pair:
        encoder: Encoder = open_images(images, index, model=model, device=device, threads=threads)
    else:
        encoder = Encoder(model or encoder_file(images, index), device, threads=threads)
    images.check(encoder.metadata, encoder.path)
    return encoder
