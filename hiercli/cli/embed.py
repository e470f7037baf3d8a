"""`hier embed`."""

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from hiercli.cli import options
from hiercli.cli.render import progress, say, warn
from hiercli.errors import EXIT_SKIPPED, InputError


def embed(
    paths: Annotated[list[Path], typer.Argument(help="Pictures, and folders of pictures.")],
    model: options.Model = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write .npy (with a list of paths) or .parquet."),
    ] = None,
    index: Annotated[
        Path | None, typer.Option(help="Write a FAISS index with its catalogue.")
    ] = None,
    strict: options.Strict = False,
    json_output: options.Json = False,
) -> None:
    """Turn pictures into points of the ball: float32 (N, D), in natural path order.

    Without -o and --index the points go to stdout as .npy.

    Examples:

    - `hier embed ./images > vecs.npy`

    - `hier embed ./images --model birds.onnx -o vecs.parquet`

    - `hier embed ./images --model birds.onnx --index idx.faiss`
    """
    to_stdout = output is None and index is None
    if to_stdout and sys.stdout.isatty():
        raise InputError(
            "the points would fill the terminal: redirect them (> vecs.npy), or name a file "
            "with -o or an index with --index"
        )
    if to_stdout and json_output:
        raise InputError("--json and the points cannot share stdout: name a file with -o")
    from hiercli import embeddings
    from hiercli.encoder.general import default_model
    from hiercli.encoder.session import EncoderSession
    from hiercli.files import require_replaceable
    from hiercli.images import find

    if output is not None and output.suffix not in embeddings.SUFFIXES:
        raise InputError(
            f"expected -o to end in {' or '.join(embeddings.SUFFIXES)}, got {output.name}"
        )
    for target in (output, index):
        if target is not None:
            require_replaceable(target)
    problems: list[tuple[Path, str]] = []
    pictures = find(paths, lambda folder, reason: problems.append((folder, reason)))
    session = EncoderSession(model or default_model())
    with progress("embedding") as bar:
        done = session.embed(pictures, progress=bar)
    problems += [(pictures[position], reason) for position, reason in done.problems]
    for _, reason in problems:
        warn(reason)
    if not done.kept or (strict and problems):
        raise InputError(
            f"{len(problems)} inputs could not be read, {len(done.kept)} pictures could; nothing "
            "was written"
        )
    kept = [pictures[position] for position in done.kept]
    metadata = session.metadata
    result = embeddings.Embeddings(
        done.points, [str(path) for path in kept], metadata.fingerprint, metadata.c
    )
    if to_stdout:
        try:
            embeddings.write_npy(result.points, sys.stdout.buffer)
            sys.stdout.buffer.flush()
        except BrokenPipeError:  # the reader has what it wanted (`| head`)
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if output is not None:
        embeddings.write(result, output)
    if index is not None:
        from hiercli.index import catalogue

        catalogue.write(index, done.points, kept, problems, metadata, session.path)
    say(
        f"{len(kept)} pictures embedded in {metadata.embedding_dim} dimensions with {session.path}"
        + (f", {len(problems)} skipped" if problems else "")
    )
    if json_output:
        facts = {"embedded": len(kept), "skipped": len(problems), "output": output, "index": index}
        print(json.dumps(facts, default=str))
    if problems:
        raise typer.Exit(EXIT_SKIPPED)
