"""What people search for: picture files, folders, a picture on stdin, arrays of points."""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np

from hiercli import collection, collection_files
from hiercli.encoder.encoder import Encoder
from hiercli.encoder.pipeline import pixels_of
from hiercli.errors import ImageError, InputError
from hiercli.images import find, read_bytes
from hiercli.index.schema import content_hash
from hiercli.index.searchable import Searchable


@dataclass(frozen=True)
class Query:
    """What is searched for.

    Attributes:
        name: as people gave it.
        path: of a picture file.
        content: bytes of a picture that has no file.
        point: (D,) in the ball, once it is known.
    """

    name: str
    path: Path | None = None
    content: bytes | None = None
    point: np.ndarray | None = None


def gather(
    given: Sequence[Path], photos: Searchable, stdin: TextIO | None, skipped: Callable[[str], None]
) -> list[Query]:
    """The queries that some paths stand for, in order; those of ``.npy`` files have points.

    Args:
        given: pictures, folders, ``.npy`` files, or ``-``.
        photos: what will be searched.
        stdin: where ``-`` is read from.
        skipped: told why a folder cannot be read.

    Raises:
        InputError: a path is missing, or points do not fit the index.
    """
    asked: list[Query] = []
    for path in given:
        if str(path) == "-":
            if stdin is None:
                raise InputError("expected an image on stdin for -, but stdin is closed")
            asked.append(Query("-", content=stdin.buffer.read()))
        elif path.suffix.lower() == ".npy" and path.is_file():
            points = _points(path, photos)
            asked += [Query(f"{path}[{row}]", point=point) for row, point in enumerate(points)]
        else:
            pictures = find([path], lambda _, reason: skipped(reason))
            asked += [Query(str(picture), path=picture) for picture in pictures]
    return asked


def _points(path: Path, photos: Searchable) -> np.ndarray:
    points = collection_files.read_npy(path)
    if points.shape[1] != photos.dim:
        raise InputError(
            f"expected points of {photos.dim} dimensions, (N, {photos.dim}), but {path} holds "
            f"{points.dtype} {points.shape}. Embed with {photos.model}"
        )
    collection.require_in_ball(points, photos.c, f"the points of {path}")
    return points


def recognise(queries: Sequence[Query], photos: Searchable) -> list[Query]:
    """The queries, those with the point that the index has of the same file's content.

    It is neither decoded nor embedded again.
    """
    digests: dict[int, bytes] = {}
    for place, query in enumerate(queries):
        if query.point is None and (query.path is None or os.path.isfile(query.path)):
            with contextlib.suppress(ImageError):  # embedding says why
                content = query.content if query.path is None else read_bytes(query.path)[0]
                assert content is not None
                digests[place] = content_hash(content)
    points = photos.points_by_content(list(set(digests.values())))
    found = list(queries)
    for place, digest in digests.items():
        if digest in points:
            found[place] = dataclasses.replace(found[place], point=points[digest])
    return found


def embed(
    queries: Sequence[Query],
    encoder: Encoder,
    skipped: Callable[[str], None],
    progress: Callable[[int, int], None] | None = None,
) -> list[Query]:
    """The queries with their points, without those that cannot be read.

    Args:
        skipped: told why a picture cannot be read.
        progress: called with (done, total).
    """
    preprocessing = encoder.metadata.preprocessing

    def load(query: Query) -> tuple[np.ndarray | None, tuple[Query, str]]:
        if query.point is not None:
            return None, (query, "")
        pixels, problem = pixels_of(preprocessing, query.path or query.name, query.content)
        return pixels, (query, problem)

    good = []
    with contextlib.closing(encoder.stream(queries, load)) as stream:
        for done, ((query, problem), point) in enumerate(stream, 1):
            if problem:
                skipped(problem)
            else:
                good.append(query if point is None else dataclasses.replace(query, point=point))
            if progress:
                progress(done, len(queries))
    return good
