"""`hier search`."""

import math
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hiercli.cli import options
from hiercli.cli.hits import Answer, point_of, show_csv, show_json, show_table
from hiercli.cli.render import progress, say, warn
from hiercli.cli.thumbnails import STYLES
from hiercli.errors import EXIT_SKIPPED, InputError
from hiercli.wording import counted, shortened

if TYPE_CHECKING:
    import numpy as np

    from hiercli.encoder.encoder import Encoder
    from hiercli.encoder.metadata import Metadata
    from hiercli.hierarchy.branches import Branches
    from hiercli.images import Picture
    from hiercli.index.queries import Box, Query
    from hiercli.index.searchable import Hit, Searchable
    from hiercli.index.texts import TextReader


def search(
    queries: Annotated[
        list[Path],
        typer.Argument(
            metavar="QUERY...",
            help="Search for these images, folders, .npy files of points, or words (labels, levels "
            "and names that the encoder knows; any words if the index has a text model); - reads "
            "an image from stdin.",
        ),
    ],
    index: Annotated[
        str,
        typer.Option(
            help="Search this index, written by `hier embed --index`: a file, milvus:FILE.db or "
            "milvus://HOST:PORT/NAME."
        ),
    ],
    plus: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="QUERY", help="Add this image or these words to each query. Can be repeated."
        ),
    ] = None,
    minus: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="QUERY",
            help="Take this image or these words away from each query. Can be repeated.",
        ),
    ] = None,
    crop: Annotated[
        str | None,
        typer.Option(
            metavar="X,Y,W,H",
            help="Search for this part of the query image: left, top, width and height in pixels.",
        ),
    ] = None,
    k: Annotated[
        int | None,
        typer.Option(
            "-k",
            min=1,
            help="Show this many hits for each query.",
            show_default="10; all with --max-distance",
        ),
    ] = None,
    max_distance: Annotated[
        float | None, typer.Option(min=0, help="Show only hits up to this hyperbolic distance.")
    ] = None,
    radius: Annotated[
        float | None,
        typer.Option(
            min=0,
            hidden=True,
            help="Show only hits up to this distance; the old name of --max-distance.",
        ),
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(
            help="Search only images with label=PATTERN, path=PATTERN or LEVEL=PATTERN. * stands "
            "for any text, ? for any character. label= means images without a label. If repeated, "
            "all conditions must hold."
        ),
    ] = None,
    unique: Annotated[
        bool, typer.Option("--unique", help="Show files with the same content only once.")
    ] = False,
    branches: Annotated[
        bool,
        typer.Option(
            "--branches",
            help="Group hits by their lowest common ancestor with the query. The tree is that of "
            "the classes in the index, or of the encoder if the index has no labels.",
        ),
    ] = False,
    level: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Go this many levels up from the class of the query (0: stay). Show the nearest "
            "image of each class below that node, then the second nearest of each class, and "
            "so on.",
        ),
    ] = None,
    verdict: Annotated[
        bool | None,
        typer.Option(
            "--verdict/--no-verdict",
            help="Print a verdict for each query: its class or group, or that nothing in the "
            "index is like it.",
            show_default="on if the index is a file and its images have classes",
        ),
    ] = None,
    confidence: Annotated[
        float,
        typer.Option(
            min=0.5,
            max=0.999,
            help="Name a class or group only if it is right with this probability.",
        ),
    ] = 0.9,
    rerank: options.Rerank = False,
    exact: Annotated[
        bool,
        typer.Option("--exact", help="Compare the query with every image, for every index type."),
    ] = False,
    model: Annotated[
        Path | None,
        typer.Option(help="Use this encoder instead of the one that built the index."),
    ] = None,
    text_model: options.TextModel = None,
    tokenizer: options.Tokenizer = None,
    root: options.Root = None,
    device: options.Device = "auto",
    threads: options.Threads = 0,
    strict: options.Strict = False,
    html: Annotated[Path | None, typer.Option(help="Write a page with queries and hits.")] = None,
    thumbnails: Annotated[
        str,
        typer.Option(
            help="Show thumbnails in a terminal: auto, kitty, sixel (also for iTerm2 and WezTerm), "
            "blocks or none."
        ),
    ] = "auto",
    csv_output: Annotated[bool, typer.Option("--csv", help="Print the result as CSV.")] = False,
    json_output: options.Json = False,
) -> None:
    """Find the nearest images in an index by hyperbolic distance (lower is closer).

    Hits are exact with the index types flat and sq8. With hnsw and ivf they are approximate,
    unless --exact, --where or --max-distance is given. `hier index stats` shows the recall.

    Similarity is 100 % for the same image, and 0 % at the median distance of two images of the
    index and beyond.

    --json prints one object for each query:
    {"query", "results": [{"rank", "path", "label", "levels", "distance", "copies", "similarity",
    "similar"}], "verdict": {"name", "level", "probability", "is_foreign", "kinds", "specificity",
    "text"}}. There, similarity is 0 to 1, and similar says it in words. A query of words has
    "understood": {"names", "kind", "unmatched"} and no verdict. If a text model embedded the words,
    kind is "text model", and "understood" also has {"model", "tokens", "truncated"}.
    With --branches, each result also has {"branch": {"id", "name", "radius"}}, and each query has
    "specificity": the share of the images in the index that are less clear, 0 to 1, or null if the
    encoder has not learned depth.

    Examples:

    - `hier search query.jpg --index idx.faiss`

    - `hier search queries/ --index idx.faiss -k 5 --json`

    - `hier search query.jpg --index idx.faiss --where 'label=*warbler' --unique --html found.html`

    - `hier search query.jpg --index idx.faiss --where genus=Icterus` (images with levels)

    - `curl -s URL | hier search - --index idx.faiss`

    - `hier search "warbler" --index idx.faiss`

    - `hier search "a red bird on water" --index clip.faiss` (built with --text-model)

    - `hier search query.jpg --plus "oriole" --minus "warbler" --index idx.faiss`

    - `hier search query.jpg --crop 40,30,200,200 --index idx.faiss`

    - `hier search query.jpg --index idx.faiss --branches`

    - `hier search query.jpg --index idx.faiss --level 2`

    - `hier search query.jpg --index idx.faiss --rerank`

    - `hier search query.jpg --index milvus://localhost:19530/birds`
    """
    max_distance = radius if max_distance is None else max_distance
    _require_fitting(level, max_distance, rerank, verdict, csv_output, json_output, thumbnails)
    conditions = [_condition(text) for text in where or ()]
    from hiercli.files import require_apart, require_replaceable
    from hiercli.index.pair import models_of
    from hiercli.index.queries import box_of, combined, gather_one, recognise
    from hiercli.index.similarity import Similarity

    box = None if crop is None else box_of(crop, "--crop")
    from hiercli.index.texts import reader_of

    if html is not None:
        require_replaceable(html)
    images = _open(index, device, root)
    with closing(images):
        used = [file for file in (model, text_model, tokenizer) if file is not None]
        require_apart(html, (*images.files, *models_of(images), *used))
        problems: list[str] = []
        texts = reader_of(images, index, text_model, tokenizer)
        names = partial(_metadata, index, images, model)
        asked = _gathered(queries, images, names, texts, box, problems, reranked=rerank)
        parts = [gather_one(one, images, names, texts) for one in (*(plus or ()), *(minus or ()))]
        _say_understood([*asked, *parts])
        require_apart(html, (*queries, *(query.path for query in asked if query.path is not None)))
        if model is None:
            asked, parts = recognise(asked, images), recognise(parts, images)
        tree: Branches | None = None
        unknown = any(query.point is None for query in (*asked, *parts))
        if branches or level is not None or model or unknown:
            encoder = _encoder(index, images, model, threads, device)
            if branches or level is not None:
                tree = _branches(encoder, images)
            asked = _embedded(asked, encoder, problems)
            parts = _embedded(parts, encoder, None)
        if parts:
            asked = combined(asked, parts[: len(plus or ())], parts[len(plus or ()) :], images.c)
        _tell_problems(problems, len(asked), strict=strict)
        hits = _find(asked, images, tree, level, k, max_distance, conditions, unique, exact, rerank)
        found: Iterable[Answer] = ((own, None) for own in hits)
        if not csv_output and _has_verdicts(images, verdict):
            is_plain = (
                level is None and max_distance is None and not (conditions or unique or rerank)
                and all(query.understood is None for query in asked)
            )  # fmt: skip
            found = _with_verdicts(None if is_plain else hits, asked, images, k, confidence, exact)
        if html is not None:
            found = list(found)
            _write_page(html, index, asked, [hits for hits, _ in found], images.picture, strict)
        scale = Similarity.of(images)
        if csv_output:
            show_csv(asked, found, tree, scale, images.level_names)
        elif json_output:
            show_json(asked, found, tree, scale)
        else:
            show_table(asked, found, tree, scale, thumbnails, images.picture)
    if problems:
        raise typer.Exit(EXIT_SKIPPED)


def _require_fitting(
    level: int | None,
    max_distance: float | None,
    rerank: bool,
    verdict: bool | None,
    csv_output: bool,
    json_output: bool,
    thumbnails: str,
) -> None:
    """Refuse options that do not go together, before anything is read."""
    for other, given in (("--max-distance", max_distance is not None), ("--rerank", rerank)):
        if level is not None and given:
            raise InputError(f"--level and {other} cannot be combined. Give one of them")
    if csv_output and verdict:
        raise InputError("--csv has no column for verdicts. Use --json")
    if csv_output and json_output:
        raise InputError("--csv and --json cannot be combined. Give one of them")
    if thumbnails not in STYLES:
        raise InputError(f"expected --thumbnails {'|'.join(STYLES)}, got {thumbnails!r}")


def _gathered(
    queries: Sequence[Path],
    images: "Searchable",
    names: "Callable[[], Metadata | None]",
    texts: "TextReader | None",
    box: "Box | None",
    problems: list[str],
    *,
    reranked: bool,
) -> list["Query"]:
    """What is searched for, before anything is embedded."""
    from hiercli.index.queries import cropped, gather

    asked = gather(queries, images, sys.stdin, problems.append, names, texts)
    if reranked and any(query.understood is not None for query in asked):
        raise InputError("--rerank and words cannot be combined. Leave one of them out")
    return asked if box is None else cropped(asked, box)


def _say_understood(asked: Sequence["Query"]) -> None:
    for query in asked:
        if query.understood is not None:
            say(f"{shortened(query.name)}: {query.understood}")


def _tell_problems(problems: Sequence[str], count: int, *, strict: bool) -> None:
    """Name the queries that cannot be read; with none left, or if strict, that is the end."""
    for problem in problems:
        warn(problem)
    if not count or (strict and problems):
        raise InputError(
            f"{counted(len(problems), 'query', 'queries')} cannot be read, {count} can"
        )


def _open(index: str, device: str, root: Path | None) -> "Searchable":
    from hiercli.index.address import target_of
    from hiercli.index.store import searching

    images = searching(target_of(index), device, root)
    if images.fallback:
        say(images.fallback)
    return images


def _encoder(
    index: str,
    images: "Searchable",
    model: Path | None,
    threads: int,
    device: str,
) -> "Encoder":
    """The encoder of an index, checked to be its own."""
    from hiercli.index.searchable import open_encoder

    encoder = open_encoder(images, index, model, device, threads)
    if encoder.fallback:
        say(encoder.fallback)
    return encoder


def _metadata(index: str, images: "Searchable", model: Path | None) -> "Metadata | None":
    """What the encoder of an index says of itself; ``None`` where it is not at hand."""
    from hiercli.encoder import onnx_file
    from hiercli.index.searchable import encoder_file

    if images.pair:  # its models know no names
        return None
    try:
        source = model or encoder_file(images, index)
    except InputError:
        return None
    metadata = onnx_file.read(source).metadata
    images.check(metadata, source)
    return metadata


def _branches(encoder: "Encoder", images: "Searchable") -> "Branches":
    from hiercli.hierarchy.branches import Branches

    collection = images.collection_of(images.rows())
    return Branches(encoder.metadata, collection.points, collection.labels or ())


def _embedded(
    asked: Sequence["Query"], encoder: "Encoder", problems: list[str] | None
) -> list["Query"]:
    """Queries with their points; without a list of problems all must be readable."""
    from hiercli.index.queries import embed

    lost: list[str] = []
    with progress("embedding") as bar:
        found = embed(asked, encoder, lost.append, bar)
    if problems is None and lost:
        raise InputError(lost[0])
    if problems is not None:
        problems += lost
    return found


def _condition(text: str) -> tuple[str, str]:
    name, sign, pattern = text.partition("=")
    if not name or not sign or not (pattern or name == "label"):
        raise InputError(
            f"expected --where label=PATTERN, path=PATTERN or LEVEL=PATTERN, got {text!r}. Quote "
            "patterns so that the shell does not expand them"
        )
    return name, pattern


def _find(
    asked: Sequence["Query"],
    images: "Searchable",
    tree: "Branches | None",
    level: int | None,
    k: int | None,
    max_distance: float | None,
    conditions: Sequence[tuple[str, str]],
    unique: bool,
    exact: bool,
    rerank: bool,
) -> Iterable[Sequence["Hit"]]:
    """The hits of each query, as they are asked for."""
    import numpy as np

    from hiercli.index.searchable import answers
    from hiercli.index.words import around

    points = np.stack([query.point for query in asked if query.point is not None])
    if level is not None and tree is not None:
        yield from _in_breadth(points, asked, images, tree, level, k or 10, conditions, unique)
        return
    most = 10 if k is None and max_distance is None else k
    within = math.inf if max_distance is None else max_distance
    if any(query.understood is not None for query in asked):
        for query in asked:
            own = point_of(query)[None] if query.understood is None else query.understood.points
            yield around(images, own, most, max_distance=within, unique=unique,
                         where=conditions, exact=exact)  # fmt: skip
        return
    yield from answers(images, points, most, max_distance=within, unique=unique,
                       where=conditions, exact=exact, reranked=rerank)  # fmt: skip


def _in_breadth(
    points: "np.ndarray",
    asked: Sequence["Query"],
    images: "Searchable",
    tree: "Branches",
    level: int,
    k: int,
    conditions: Sequence[tuple[str, str]],
    unique: bool,
) -> Iterable[Sequence["Hit"]]:
    from hiercli.hierarchy.branches import search_in_breadth

    found = search_in_breadth(points, images, tree, level, k, where=conditions, unique=unique)
    for query, one in zip(asked, found, strict=True):
        branch = one.branch
        classes = counted(len(branch.leaves), "class", "classes")
        say(f"{query.name}: searched {classes} below {branch.name} ({branch.id})")
        yield one.hits


def _has_verdicts(images: "Searchable", wanted: bool | None) -> bool:
    """Whether to give verdicts; by default where the index keeps a calibration."""
    from hiercli.errors import FileFormatError

    if wanted is not None:
        return wanted
    try:
        return images.calibration is not None
    except FileFormatError as error:  # the hits are none the worse for it
        say(f"no verdicts: {error}")
        return False


def _with_verdicts(
    found: Iterable[Sequence["Hit"]] | None,
    asked: Sequence["Query"],
    images: "Searchable",
    k: int | None,
    confidence: float,
    exact: bool,
) -> Iterable[Answer]:
    """The hits of each query, searched for now where there are none, with the verdict on it.

    All images of the index vote, whatever the conditions on hits are.
    """
    import numpy as np

    from hiercli.index.verdicts import calibration_of, hits_and_verdicts, verdicts

    with progress("calibrating verdicts") as bar:
        calibration = calibration_of(images, bar)
    points = np.stack([query.point for query in asked if query.point is not None])
    if found is None:
        return hits_and_verdicts(images, calibration, points, k or 10, confidence, exact=exact)
    told = verdicts(images, calibration, points, confidence, exact=exact)
    return (
        (hits, one if query.understood is None else None)
        for query, hits, one in zip(asked, found, told, strict=True)
    )


def _write_page(
    html: Path,
    index: str,
    asked: Sequence["Query"],
    found: Sequence[Sequence["Hit"]],
    picture: "Picture",
    strict: bool,
) -> None:
    from hiercli.reports import neighbours

    paths = [hit.path for hits in found for hit in hits]
    if strict and (gone := [path for path in paths if not os.path.isfile(path)]):
        raise InputError(f"{gone[0]} is in {index}, but the file is missing")
    rows = [(query.name, query.path, query.content, hits)
            for query, hits in zip(asked, found, strict=True)]  # fmt: skip
    missing = neighbours.write_hits(html, rows, f"Nearest in {Path(index).name}", picture)
    say(f"{html}: {counted(len(rows), 'query', 'queries')} with hits")
    if missing:
        some = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        images = counted(len(missing), "image")
        say(f"{images} without a thumbnail, as the file cannot be opened: {some}")
