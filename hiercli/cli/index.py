"""`hier index`: build an index from points, see what it holds, check it, and mend it."""

import contextlib
import dataclasses
import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from hiercli.cli import options
from hiercli.cli.render import progress, say, table
from hiercli.errors import EXIT_INPUT, EXIT_SKIPPED, InputError
from hiercli.wording import counted

app = typer.Typer(no_args_is_help=True)

Index = Annotated[str, typer.Argument(help="Use this index written by `hier embed --index`.")]


_SHOWN = {"pictures": "images", "mean_distance_from_origin": "mean depth"}
"""Facts whose names in a table are others than in JSON."""


@app.callback()
def index() -> None:
    """Build, inspect, check and repair an index and its catalogue.

    Examples:

    - `hier index build birds.faiss --points vectors/ --model birds.onnx`

    - `hier index stats birds.faiss`

    - `hier index verify birds.faiss --files`

    - `hier index repair birds.faiss`
    """


@app.command()
def build(
    index: Annotated[
        str,
        typer.Argument(
            help="Write this index: a FAISS file, milvus:FILE.db or milvus://HOST/NAME."
        ),
    ],
    points: Annotated[
        Path,
        typer.Option(
            help="Take the points of this .npy, .npz or .parquet file, or folder of Parquet files."
        ),
    ],
    model: Annotated[
        Path | None,
        typer.Option(
            help="Use this encoder for queries that are images. It must have made the points."
        ),
    ] = None,
    index_type: Annotated[
        str,
        typer.Option(
            help="Use this index type: flat or sq8 (exact), ivf or hnsw (faster for millions of "
            "images), or auto."
        ),
    ] = "auto",
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Replace the index that is there.")
    ] = False,
    json_output: options.Json = False,
) -> None:
    """Build an index from points: no image is read.

    The points come from `hier embed -o`, from `hier embed --engine ray`, or from another program
    (float32 (N, D) inside the ball). Paths, labels and levels come from the same file.

    Examples:

    - `hier index build birds.faiss --points vectors/ --model birds.onnx`

    - `hier index build birds.faiss --points birds.parquet`

    - `hier index build milvus://localhost:19530/birds --points birds.parquet`
    """
    from hiercli.collection_files import SUFFIXES
    from hiercli.encoder import onnx_file
    from hiercli.files import require_apart
    from hiercli.hierarchy.tree import images_of
    from hiercli.index import locations
    from hiercli.index.address import target_of
    from hiercli.index.index import Index as Built

    if not points.is_dir() and points.suffix.lower() not in (*SUFFIXES, ".npz", ".faiss"):
        raise InputError(
            "expected --points to be a .npy, .npz or .parquet file, a folder of Parquet files, or "
            f"an index, got {points}"
        )
    collection, files = images_of(points, model)
    target = target_of(index)
    for file in locations.files(target) if isinstance(target, Path) else ():
        require_apart(file, files)
    if collection.c is None:
        raise InputError(
            f"expected points with their curvature, but {points} does not say it. Name the encoder "
            "that made them with --model"
        )
    if model is not None and not collection.fingerprint:
        fingerprint = onnx_file.read(model).metadata.fingerprint
        collection = dataclasses.replace(collection, fingerprint=fingerprint)
    with progress("building the index") as bar:
        made = Built.build(
            index, collection, index_type, rebuild=rebuild, encoder=model, progress=bar
        )
    with contextlib.closing(made):
        count, dim = len(made), made.reader.dim
    if json_output:
        print(json.dumps({"index": str(index), "total": count, "dimensions": dim}))
    say(f"{index}: {counted(count, 'image')} in {dim} dimensions")


@app.command()
def stats(index: Index, json_output: options.Json = False) -> None:
    """Show what an index contains."""
    from hiercli.index import store
    from hiercli.index.address import target_of

    facts = store.stats(target_of(index))
    if json_output:
        print(json.dumps(facts))
        return
    facts["largest_labels"] = ", ".join(f"{n} ({k})" for n, k in facts["largest_labels"].items())
    facts["levels"] = ", ".join(facts["levels"]) or "none"
    rows = [
        [
            _SHOWN.get(name, name.replace("_", " ")),
            f"{value:.4g}" if isinstance(value, float) else str(value),
        ]
        for name, value in facts.items()
    ]
    table(str(index), ["", "index"], rows)


@app.command()
def verify(
    index: Index,
    files: Annotated[
        bool, typer.Option("--files", help="Also compare every image with its file.")
    ] = False,
    json_output: options.Json = False,
) -> None:
    """Check that an index and its catalogue are valid and match. The exit code is 2 if not.

    With --files, the exit code is 3 if image files have changed or are missing.
    """
    from hiercli.index import health
    from hiercli.index.address import require_file

    with progress("verifying") as bar:
        found = health.verify(require_file(index, "hier index verify"), files=files, progress=bar)
    if json_output:
        print(json.dumps({"index": str(index), "whole": not found.damage, **asdict(found)}))
    else:
        for line in [*found.damage[:20], *found.outdated[:20]]:
            say(line)
    if found.damage:
        say(
            f"{index} is damaged in {counted(len(found.damage), 'place')}. `hier index repair "
            f"{index}` keeps the valid images. The next `hier embed` of the same "
            "folders adds the others"
        )
        raise typer.Exit(EXIT_INPUT)
    say(f"{index} is valid")
    if found.outdated:
        say(f"changed or missing: {counted(len(found.outdated), 'file')}. `hier embed` of their "
            "folders updates the index")  # fmt: skip
        raise typer.Exit(EXIT_SKIPPED)


@app.command()
def repair(index: Index, json_output: options.Json = False) -> None:
    """Build an index again from all valid rows of its catalogue."""
    from hiercli.index import health
    from hiercli.index.address import require_file

    done = health.repair(require_file(index, "hier index repair"))
    if json_output:
        print(json.dumps({"index": str(index), "kept": done.kept, "lost": done.lost}))
    again = ". The next `hier embed` of their folders adds them again" if done.lost else ""
    say(f"{counted(done.kept, 'image')} kept, {done.lost} lost{again}")


@app.command()
def compact(index: Index, json_output: options.Json = False) -> None:
    """Write a new FAISS file with all images, and free the space of removed ones.

    This also brings an index of an older version of hier up to date.
    """
    from hiercli.index import health
    from hiercli.index.address import require_file

    before, after = health.compact(require_file(index, "hier index compact"))
    if json_output:
        print(json.dumps({"index": str(index), "bytes_before": before, "bytes_after": after}))
    say(f"{before:,} bytes before, {after:,} after")
