"""`hier embed`."""

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from hiercli.cli import options
from hiercli.cli.render import progress, say, warn
from hiercli.errors import EXIT_SKIPPED, InputError


def embed(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="PATHS...",
            help="Pictures, and folders of pictures; with --engine ray also s3://BUCKET/FOLDER and "
            "the like.",
        ),
    ],
    model: options.Model = None,
    target: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="PATH",
            help="Write .npy (with a list of paths) or .parquet; with --engine ray a folder of "
            "Parquet files, also s3://BUCKET/FOLDER and the like.",
        ),
    ] = None,
    index: Annotated[
        str | None,
        typer.Option(
            help="Write a FAISS index with its catalogue, or bring it up to date; also "
            "milvus:FILE.db or milvus://HOST:PORT/NAME."
        ),
    ] = None,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="With --index: forget what it holds, start anew.")
    ] = False,
    prune: Annotated[
        bool,
        typer.Option(
            "--prune",
            help="With --index: take out pictures of folders that are empty or missing, too.",
        ),
    ] = False,
    index_type: Annotated[
        str | None,
        typer.Option(
            help="With --index: flat or sq8 (exact), ivf or hnsw (faster for millions), or auto."
        ),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(help="ray: embed on a Ray cluster, into a folder of Parquet files (-o)."),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(help="With --engine ray: the cluster (auto: this machine's); else one here."),
    ] = None,
    device: options.Device = "auto",
    threads: options.Threads = 0,
    batch: Annotated[
        int,
        typer.Option(min=0, help="Pictures embedded together; 0: by device."),
    ] = 0,
    strict: options.Strict = False,
    json_output: options.Json = False,
) -> None:
    """Turn pictures into points of the ball: float32 (N, D), in natural path order.

    Without -o and --index the points go to stdout as .npy.

    An index that is there is brought up to date: what is new or changed in the given folders is
    embedded, what is gone is taken out, moved files keep their ids, other folders' pictures stay.
    A run that was killed goes on where it stopped.

    Examples:

    - `hier embed ./images > vecs.npy`

    - `hier embed ./images --model birds.onnx -o vecs.parquet`

    - `hier embed ./images --model birds.onnx --index idx.faiss`

    - `hier embed ./images --model birds.onnx --index milvus://localhost:19530/birds`

    - `hier embed s3://bucket/photos --model birds.onnx --engine ray --address auto -o vectors/`
    """
    if engine is not None or address is not None:
        others = (index, index_type, rebuild, prune, strict, threads, batch, device != "auto")
        if engine != "ray" or target is None or any(others):
            raise InputError(
                "expected --engine ray with -o FOLDER, and beside it no options but --model, "
                "--address and --json"
            )
        _with_ray(sources, target, model, address, json_output)
        return
    paths = [Path(source) for source in sources]
    output = None if target is None else Path(target)
    to_stdout = output is None and index is None
    if to_stdout and sys.stdout.isatty():
        raise InputError(
            "the points would fill the terminal: redirect them (> vecs.npy), or name a file "
            "with -o or an index with --index"
        )
    if to_stdout and json_output:
        raise InputError("--json and the points cannot share stdout: name a file with -o")
    import numpy as np

    from hiercli import embeddings
    from hiercli.encoder.general import default_model
    from hiercli.encoder.session import EncoderSession
    from hiercli.files import require_apart, require_replaceable
    from hiercli.images import find
    from hiercli.memory import keep_freed_memory

    if output is not None and output.suffix.lower() not in embeddings.SUFFIXES:
        raise InputError(
            f"expected -o to end in {' or '.join(embeddings.SUFFIXES)}, got {output.name}"
        )
    if (rebuild or prune or index_type) and index is None:
        raise InputError(
            "--rebuild, --prune and --index-type are about an index: name it with --index"
        )
    in_milvus = index is not None and index.startswith("milvus:")
    if in_milvus and (prune or index_type or strict or output is not None):
        raise InputError("--prune, --index-type, --strict and -o are not for an index in Milvus")
    for file in (output, None if index is None or in_milvus else Path(index)):
        if file is not None:
            require_replaceable(file)
    keep_freed_memory()
    session = EncoderSession(model or default_model(), threads=threads, device=device, batch=batch)
    if session.fallback:
        say(session.fallback)
    metadata = session.metadata
    facts: dict[str, Any] = {"output": output, "index": index}
    kept: list[Path] = []
    points = np.empty((0, metadata.embedding_dim), np.float32)
    if index is not None and in_milvus:
        from hiercli.index import milvus

        with progress("embedding") as bar:
            change = milvus.update(
                milvus.Address.parse(index), paths, session, rebuild=rebuild, progress=bar,
                skipped=lambda _, reason: warn(reason),
            )  # fmt: skip
        problems, count = change.problems, change.embedded
        facts |= {name: getattr(change, name, 0) for name in _CHANGES}
    elif index is not None:
        from hiercli.index import kinds, pair
        from hiercli.index.catalogue import points_at
        from hiercli.index.update import update

        if index_type is not None and index_type not in kinds.KINDS:
            raise InputError(
                f"expected --index-type to be one of {', '.join(kinds.KINDS)}, got {index_type!r}"
            )
        file = Path(index)
        require_apart(output, (*pair.files(file), session.path))
        with progress("embedding") as bar, progress("building the index") as building:
            done = update(
                file, paths, session, rebuild=rebuild, prune=prune, strict=strict,
                index_type=index_type, progress=bar, building=building,
                skipped=lambda _, reason: warn(reason),
            )  # fmt: skip
        problems, kept, count = done.problems, done.kept, done.embedded
        facts |= {name: getattr(done, name) for name in _CHANGES}
        points = points_at(file, kept if output is not None else [])
    else:
        problems = []
        pictures = find(paths, lambda folder, reason: problems.append((folder, reason)))
        with progress("embedding") as bar:
            embedded = session.embed(pictures, progress=bar)
        problems += [(pictures[position], reason) for position, reason in embedded.problems]
        for _, reason in problems:
            warn(reason)
        kept, points = [pictures[position] for position in embedded.kept], embedded.points
        count = len(kept)
        if not kept or (strict and problems):
            raise InputError(
                f"{len(problems)} inputs could not be read, {count} pictures could; nothing "
                "was written"
            )
    if to_stdout:
        try:
            embeddings.write_npy(points, sys.stdout.buffer)
            sys.stdout.buffer.flush()
        except BrokenPipeError:  # the reader has what it wanted (`| head`)
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if output is not None:
        result = embeddings.Embeddings(
            points, [str(path) for path in kept], metadata.fingerprint, metadata.c
        )
        embeddings.write(result, output)
    say(
        f"{count} pictures embedded in {metadata.embedding_dim} dimensions with {session.path}"
        + (f", {len(problems)} skipped" if problems else "")
    )
    if index is not None:
        told = ", ".join(f"{facts[name]} {name}" for name in _CHANGES if facts[name])
        say(f"{index}: {told}")
    if json_output:
        print(json.dumps({"embedded": count, "skipped": len(problems), **facts}, default=str))
    if problems:
        raise typer.Exit(EXIT_SKIPPED)


def _with_ray(
    sources: list[str], target: str, model: Path | None, address: str | None, json_output: bool
) -> None:
    from hiercli.encoder import cluster
    from hiercli.encoder.general import default_model

    if target.endswith((".npy", ".parquet")) or Path(target).is_file():
        raise InputError(f"expected -o to name a folder for Parquet files, got {target}")
    with progress("embedding") as bar:
        done = cluster.embed(
            sources, target, model or default_model(), address=address, progress=bar
        )
    for _, reason in done.problems:
        warn(reason)
    again = f", {done.before} of them were there already" if done.before else ""
    say(f"{done.embedded} pictures embedded into {done.shards} files in {target}{again}")
    if json_output:
        facts = {"embedded": done.embedded, "skipped": len(done.problems), "output": target,
                 "files": done.shards}  # fmt: skip
        print(json.dumps(facts))
    if done.problems:
        raise typer.Exit(EXIT_SKIPPED)


_CHANGES = ("added", "changed", "moved", "removed", "unchanged", "total")
