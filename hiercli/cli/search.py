"""`hier search`."""

import itertools
import math
import os
import sys
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hiercli.cli import options
from hiercli.cli.hits import point_of, show_csv, show_json, show_table
from hiercli.cli.render import progress, say, warn
from hiercli.cli.thumbnails import STYLES
from hiercli.errors import EXIT_SKIPPED, InputError

if TYPE_CHECKING:
    from concurrent.futures import Future

    from hiercli.encoder.metadata import Metadata
    from hiercli.encoder.session import EncoderSession
    from hiercli.hierarchy.branches import Branches
    from hiercli.index.photos import Hit, PhotoIndex, Searchable
    from hiercli.index.queries import Query


def search(
    queries: Annotated[
        list[Path],
        typer.Argument(
            help="Pictures, folders, .npy files of points, or - for a picture on stdin."
        ),
    ],
    index: Annotated[
        str,
        typer.Option(
            help="Index written by `hier embed --index`: a file, milvus:FILE.db or "
            "milvus://HOST:PORT/NAME."
        ),
    ],
    k: Annotated[
        int | None, typer.Option("-k", min=1, help="Neighbours a query (10; all with --radius).")
    ] = None,
    radius: Annotated[
        float | None, typer.Option(min=0, help="Only pictures at this distance or nearer.")
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(
            help="Only pictures with label=PATTERN or path=PATTERN; * and ? stand for "
            "anything. Several must all hold."
        ),
    ] = None,
    unique: Annotated[
        bool, typer.Option("--unique", help="Show pictures with the same content once.")
    ] = False,
    branches: Annotated[
        bool,
        typer.Option(
            "--branches",
            help="Group what was found by its common ancestor with the query in the tree of the "
            "index's classes, or where it has none, of the encoder's; in tables, JSON and CSV.",
        ),
    ] = False,
    level: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Look so many levels up in the tree: the nearest picture of each class in the "
            "query's branch, then each one's next. 0: only its own class.",
        ),
    ] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="Compare every picture, whatever the index type.")
    ] = False,
    model: Annotated[
        Path | None,
        typer.Option(help="Encoder; without it the one that built the index."),
    ] = None,
    device: options.Device = "auto",
    threads: options.Threads = 0,
    strict: options.Strict = False,
    html: Annotated[Path | None, typer.Option(help="Write a page of queries and pictures.")] = None,
    thumbnails: Annotated[
        str,
        typer.Option(help="In a terminal: auto, kitty, sixel, blocks or none."),
    ] = "auto",
    csv_output: Annotated[bool, typer.Option("--csv", help="Print the result as CSV.")] = False,
    json_output: options.Json = False,
) -> None:
    """Find the nearest pictures of an index by hyperbolic distance (lower is closer).

    The answer is exact, but for an index of type hnsw or ivf searched without --exact, --where and
    --radius: `hier index stats` says how much of it such an index finds.

    With --json one object a query:
    {"query", "results": [{"rank", "path", "label", "distance", "copies"}]}; with --branches each
    result also has {"branch": {"id", "name", "radius"}}, and each query its "specificity": how far
    out it lies, 0 (abstract) to 1, or null where the encoder learned no depth.

    Examples:

    - `hier search query.jpg --index idx.faiss`

    - `hier search queries/ --index idx.faiss -k 5 --json`

    - `hier search query.jpg --index idx.faiss --where 'label=*warbler' --unique --html found.html`

    - `curl -s URL | hier search - --index idx.faiss`

    - `hier search query.jpg --index idx.faiss --branches`

    - `hier search query.jpg --index idx.faiss --level 2` (what is akin to it)

    - `hier search query.jpg --index milvus://localhost:19530/birds`
    """
    if level is not None and (index.startswith("milvus:") or radius is not None):
        raise InputError("--level needs an index file, and goes without --radius")
    if csv_output and json_output:
        raise InputError("--csv and --json cannot share stdout: give one of them")
    conditions = [_condition(text) for text in where or ()]
    if thumbnails not in STYLES:
        raise InputError(f"expected --thumbnails {'|'.join(STYLES)}, got {thumbnails!r}")
    import numpy as np

    from hiercli.encoder.session import EncoderSession
    from hiercli.files import require_apart, require_replaceable
    from hiercli.index import pair
    from hiercli.index.photos import PhotoIndex, Searchable
    from hiercli.index.queries import embed, gather

    if html is not None:
        require_replaceable(html)
    photos: Searchable
    ahead: Future[EncoderSession] | None = None
    if index.startswith("milvus:"):
        from hiercli.index import milvus

        photos = milvus.MilvusIndex(milvus.Address.parse(index))
    else:
        if model is None and any(path.suffix.lower() != ".npy" for path in queries):
            ahead = _load_ahead(Path(index), threads, device)
        photos = PhotoIndex(Path(index), device)
        if photos.fallback:
            say(photos.fallback)
        require_apart(html, pair.files(photos.path))
    require_apart(html, (photos.model, model or photos.model))
    problems: list[str] = []
    asked = gather(queries, photos, sys.stdin, problems.append)
    require_apart(html, (*queries, *(query.path for query in asked if query.path is not None)))
    tree: Branches | None = None
    if branches or level is not None or model or any(query.point is None for query in asked):
        if model is None and not photos.model.is_file():
            raise InputError(
                f"the encoder that built {index} is no longer at {photos.model}: name it with "
                "--model"
            )
        if ahead is not None:
            session = ahead.result()
        else:
            session = EncoderSession(model or photos.model, threads=threads, device=device)
        if session.fallback:
            say(session.fallback)
        photos.check(session.metadata, session.path)
        if branches or level is not None:
            tree = _branches(session.metadata, photos)
        with progress("embedding") as bar:
            asked = embed(asked, session, problems.append, bar)
    for problem in problems:
        warn(problem)
    if not asked or (strict and problems):
        raise InputError(f"{len(problems)} queries could not be read, {len(asked)} could")
    points = np.stack([query.point for query in asked if query.point is not None])
    most = 10 if k is None and radius is None else k
    within = math.inf if radius is None else radius
    found: Iterable[Sequence[Hit]] = itertools.chain.from_iterable(
        # In blocks, so that many queries need no more memory than some.
        photos.search(
            points[at : at + 256], most, radius=within, unique=unique, where=conditions, exact=exact
        )
        for at in range(0, len(points), 256)
    )
    if level is not None and tree is not None:
        assert isinstance(photos, PhotoIndex)
        found = _akin(asked, photos, tree, level, 10 if k is None else k, conditions, unique)
    if html is not None:
        from hiercli.reports import neighbours

        found = list(found)
        paths = [hit.path for hits in found for hit in hits]
        if strict and (gone := [path for path in paths if not os.path.isfile(path)]):
            raise InputError(f"{gone[0]} is in {index}, but there is no such file here")
        rows = [(query.name, query.path, query.content, hits)
                for query, hits in zip(asked, found, strict=True)]  # fmt: skip
        missing = neighbours.write_hits(html, rows, f"Nearest in {Path(index).name}")
        say(f"{html}: {len(rows)} queries with their neighbours")
        if missing:
            some = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
            say(f"{len(missing)} pictures could not be opened here and are named only: {some}")
    if csv_output:
        show_csv(asked, found, tree)
    elif json_output:
        show_json(asked, found, tree)
    else:
        show_table(asked, found, thumbnails, tree)
    if problems:
        raise typer.Exit(EXIT_SKIPPED)


def _load_ahead(index: Path, threads: int, device: str) -> "Future[EncoderSession]":
    """Load the encoder of an index while the index is read; its errors come with the result."""
    from concurrent.futures import ThreadPoolExecutor

    from hiercli.encoder.session import EncoderSession
    from hiercli.index.catalogue import Catalogue

    with closing(Catalogue(index)) as catalogue:
        source = catalogue.model
    pool = ThreadPoolExecutor(1)
    loading = pool.submit(EncoderSession, source, threads=threads, device=device)
    pool.shutdown(wait=False)
    return loading


def _branches(metadata: "Metadata", photos: "Searchable") -> "Branches":
    from hiercli.hierarchy.branches import Branches
    from hiercli.index.photos import PhotoIndex

    if not isinstance(photos, PhotoIndex):
        return Branches(metadata)
    rows, points = photos.catalogue.with_points()
    return Branches(metadata, points, [row.label for row in rows])


def _condition(text: str) -> tuple[str, str]:
    name, _, pattern = text.partition("=")
    if name not in ("label", "path") or not pattern:
        raise InputError(
            f"expected --where label=PATTERN or path=PATTERN, got {text!r}. Quote patterns, so "
            "that the shell leaves them alone"
        )
    return name, pattern


def _akin(
    asked: Sequence["Query"],
    photos: "PhotoIndex",
    tree: "Branches",
    level: int,
    k: int,
    conditions: Sequence[tuple[str, str]],
    unique: bool,
) -> Iterable[Sequence["Hit"]]:
    from hiercli.index.photos import Hit

    rows, points = photos.among(conditions)
    copies: dict[bytes, list[str]] = {}
    if unique:
        for row in rows:
            copies.setdefault(row.content, []).append(os.fsdecode(row.path))
        firsts = list(
            {row.content: place for place, row in reversed(list(enumerate(rows)))}.values()
        )
        rows, points = [rows[place] for place in firsts], points[firsts]
    placed = tree.place(points, [row.label for row in rows])
    for query in asked:
        branch = tree.above(point_of(query), level)
        say(f"{query.name}: among {len(branch.leaves)} of the classes, {branch.name} ({branch.id})")
        found, far = tree.spread(point_of(query), points, placed, branch, k)
        chosen = [(rows[place], points[place]) for place in found.tolist()]
        yield [
            Hit(rank, os.fsdecode(row.path), row.label, distance, row.content, point,
                copies.get(row.content, [])[1:])
            for rank, ((row, point), distance) in enumerate(
                zip(chosen, far.tolist(), strict=True), 1
            )
        ]  # fmt: skip
