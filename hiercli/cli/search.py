"""`hier search`."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from hiercli.cli import options
from hiercli.cli.render import output, say, table, warn
from hiercli.errors import EXIT_SKIPPED, InputError


def search(
    queries: Annotated[list[Path], typer.Argument(help="Pictures, or folders, to search for.")],
    index: Annotated[Path, typer.Option(help="Index written by `hier embed --index`.")],
    k: Annotated[int, typer.Option("-k", min=1, help="Neighbours a query.")] = 10,
    model: Annotated[
        Path | None,
        typer.Option(help="Encoder; without it the one that built the index."),
    ] = None,
    device: options.Device = "auto",
    threads: options.Threads = 0,
    strict: options.Strict = False,
    json_output: options.Json = False,
) -> None:
    """Find the nearest pictures of an index, exactly, by hyperbolic distance (lower is closer).

    With --json one object a query:
    {"query", "results": [{"rank", "path", "label", "distance"}]}.

    Examples:

    - `hier search query.jpg --index idx.faiss`

    - `hier search queries/ --index idx.faiss -k 5 --json`
    """
    from dataclasses import asdict

    from hiercli.encoder.session import EncoderSession
    from hiercli.images import find
    from hiercli.index.photos import PhotoIndex

    photos = PhotoIndex(index)
    closed: list[str] = []
    pictures = find(queries, lambda _, reason: closed.append(reason))
    built_with = photos.model
    if model is None and not built_with.is_file():
        raise InputError(
            f"the encoder that built {index} is no longer at {built_with}: name it with --model"
        )
    session = EncoderSession(model or built_with, threads=threads, device=device)
    if session.fallback:
        say(session.fallback)
    photos.check(session.metadata, session.path)
    done = session.embed(pictures)
    problems = [*closed, *(reason for _, reason in done.problems)]
    for problem in problems:
        warn(problem)
    if not done.kept or (strict and problems):
        raise InputError(f"{len(problems)} queries could not be read, {len(done.kept)} could")
    for position, hits in zip(done.kept, photos.search(done.points, k), strict=True):
        if json_output:
            result: dict[str, Any] = {"query": str(pictures[position])}
            result["results"] = [asdict(hit) for hit in hits]
            print(json.dumps(result))
            continue
        if output.is_terminal and output.color_system in ("truecolor", "256"):
            _pictures([pictures[position], *(Path(hit.path) for hit in hits)])
        rows = [[str(hit.rank), f"{hit.distance:.4f}", hit.label, hit.path] for hit in hits]
        table(str(pictures[position]), ["rank", "distance", "label", "path"], rows)
    if problems:
        raise typer.Exit(EXIT_SKIPPED)


_WIDTH = 12
"""Columns of a thumbnail; a character cell shows two pixels, one above the other."""


def _pictures(paths: list[Path]) -> None:
    """A strip of thumbnails, the query first, in half-block characters."""
    from rich.text import Text

    from hiercli.errors import ImageError
    from hiercli.images import centre_box, read

    strips = [Text() for _ in range(_WIDTH // 2)]
    for path in paths[: max(1, output.width // (_WIDTH + 1))]:
        try:
            picture = read(path, _WIDTH)
        except ImageError:
            continue
        small = picture.resize((_WIDTH, _WIDTH), box=centre_box(picture, 1.0))
        for row, strip in enumerate(strips):
            for column in range(_WIDTH):
                above, below = (
                    "#" + bytes(small.crop((column, y, column + 1, y + 1)).tobytes()).hex()
                    for y in (2 * row, 2 * row + 1)
                )
                strip.append("▀", style=f"{above} on {below}")
            strip.append(" ")
    for strip in strips:
        output.print(strip, no_wrap=True)
