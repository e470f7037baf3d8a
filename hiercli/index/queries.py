"""Queries: image files, folders, an image on stdin, arrays of points, words."""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np
from PIL import Image

from hiercli import collection, collection_files
from hiercli.encoder.encoder import Encoder
from hiercli.encoder.metadata import Metadata
from hiercli.encoder.pipeline import pixels_of
from hiercli.errors import ImageError, InputError
from hiercli.files import printable
from hiercli.geometry import poincare
from hiercli.images import IMAGE_LIKE, find, read, read_bytes
from hiercli.index.schema import content_hash
from hiercli.index.searchable import Searchable
from hiercli.index.texts import TextQuery, TextReader
from hiercli.index.words import Understood, understand

Box = tuple[int, int, int, int]
"""Left, top, width and height in pixels of the upright picture."""


@dataclass(frozen=True)
class Query:
    """What is searched for.

    Attributes:
        name: as people gave it.
        path: of a picture file.
        content: bytes of a picture that has no file.
        point: (D,) in the ball, once it is known.
        understood: what the words of the query were taken for.
        box: the part of the picture that is searched for.
    """

    name: str
    path: Path | None = None
    content: bytes | None = None
    point: np.ndarray | None = None
    understood: Understood | TextQuery | None = None
    box: Box | None = None


def gather(
    given: Sequence[Path],
    photos: Searchable,
    stdin: TextIO | None,
    skipped: Callable[[str], None],
    encoder: Callable[[], Metadata | None] | None = None,
    texts: TextReader | None = None,
) -> list[Query]:
    """The queries that paths and words stand for; those of ``.npy`` files and words have points.

    Args:
        given: pictures, folders, ``.npy`` files, words, or ``-``. Words are what is no file and
            does not look like a path.
        photos: what will be searched.
        stdin: where ``-`` is read from.
        skipped: told why a folder cannot be read.
        encoder: gives the metadata of the encoder of the index, for words.
        texts: embeds words; without it they are looked for in names.

    Raises:
        InputError: a path is missing, points do not fit the index, or words match nothing.
        HierError: the text model cannot be used.
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
        elif _is_words(path):
            try:
                meant: Understood | TextQuery = (
                    texts(str(path)) if texts else understand(str(path), photos, encoder)
                )
            except InputError as error:  # a name with a typing error is taken for words too
                raise InputError(f"there is no such file, and {error}") from error
            point = np.asarray(poincare.midpoint(meant.points.astype(np.float64), photos.c))
            asked.append(Query(str(path), point=point.astype(np.float32), understood=meant))
        else:
            pictures = find([path], lambda _, reason: skipped(reason))
            asked += [Query(str(picture), path=picture) for picture in pictures]
    return asked


def gather_one(
    given: Path,
    photos: Searchable,
    encoder: Callable[[], Metadata | None] | None = None,
    texts: TextReader | None = None,
) -> Query:
    """The one query that a path or words stand for, see `gather`.

    Raises:
        InputError: there are several, or none.
    """
    problems: list[str] = []
    found = gather([given], photos, None, problems.append, encoder, texts)
    if len(found) != 1:
        raise InputError(
            f"expected one image or words to add or take away, but {printable(str(given))} has "
            f"{len(found)} queries. Name one image"
        )
    return found[0]


def _is_words(given: Path) -> bool:
    text = str(given)
    try:
        return not (
            os.sep in text
            or given.suffix.lower() in (*IMAGE_LIKE, ".npy")
            or os.path.lexists(given)
        )
    except (OSError, ValueError):  # longer than a file name can be
        return True


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
        if (
            query.point is None
            and query.box is None
            and (query.path is None or os.path.isfile(query.path))
        ):
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
        try:
            given = query.path or query.name
            part = None if query.box is None else part_of(given, query.content, query.box)
        except ImageError as error:
            return None, (query, str(error))
        pixels, problem = pixels_of(preprocessing, part or given, query.content)
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


def box_of(text: str, option: str) -> Box:
    """The part of a picture that an option or a parameter names as ``X,Y,W,H``.

    Raises:
        InputError: it names none; the message has the option.
    """
    parts = text.split(",")
    whole = all(part.strip().isascii() and part.strip().isdigit() and len(part) < 8
                for part in parts)  # fmt: skip
    if len(parts) != 4 or not whole:
        raise InputError(f"expected {option} X,Y,W,H in whole pixels, got {text[:60]!r}")
    left, top, width, height = (int(part) for part in parts)
    if not (width and height):
        raise InputError(
            f"expected {option} with a width and height of at least 1, got {text[:60]!r}"
        )
    return left, top, width, height


def part_of(path: Path | str, content: bytes | None, box: Box) -> Image.Image:
    """A part of a picture.

    Raises:
        ImageError: it cannot be read, or the part does not lie inside.
    """
    picture = read(path, None, content)
    left, top, width, height = box
    if left + width > picture.width or top + height > picture.height:
        raise ImageError(
            f"{path}: the part {left},{top},{width},{height} does not lie inside its "
            f"{picture.width} x {picture.height} pixels. Give left, top, width and height"
        )
    return picture.crop((left, top, left + width, top + height))


def cropped(queries: Sequence[Query], box: Box) -> list[Query]:
    """Queries for a part of their picture.

    Raises:
        InputError: one has no picture.
    """
    if lost := [query.name for query in queries if query.point is not None]:
        raise InputError(f"expected an image to crop, got {printable(lost[0])}. Leave --crop out")
    return [dataclasses.replace(query, box=box) for query in queries]


def combined(
    queries: Sequence[Query], plus: Sequence[Query], minus: Sequence[Query], c: float
) -> list[Query]:
    """Queries with others added and taken away.

    Tangent vectors at the origin are added, and the sum is given the mean length of those that
    were added: directions say what an image shows, depth how clearly.

    Args:
        queries: with points.
        plus: to add to each.
        minus: to take away from each.
        c: curvature magnitude.

    Raises:
        InputError: nothing is left of one.
    """
    return [
        dataclasses.replace(query, point=_sum(query, plus, minus, c), understood=None)
        for query in queries
    ]


def _sum(query: Query, plus: Sequence[Query], minus: Sequence[Query], c: float) -> np.ndarray:
    added, taken = (
        np.stack([
            poincare.logmap0(one.point.astype(np.float64), c)
            for one in some if one.point is not None
        ]) if some else np.zeros((1, 1))
        for some in ((query, *plus), minus)
    )  # fmt: skip
    total = added.sum(axis=0) - taken.sum(axis=0)
    length, wanted = np.linalg.norm(total), np.linalg.norm(added, axis=1).mean()
    if length <= 1e-6 * max(wanted, 1e-12):
        raise InputError(
            f"{printable(query.name)}: the queries cancel out, so nothing is left to search for"
        )
    return np.asarray(poincare.expmap0(total * (wanted / length), c), np.float32)
