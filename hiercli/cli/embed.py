"""`hier embed`."""

import contextlib
import dataclasses
import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hiercli.bounds import MAX_PIXELS
from hiercli.cli import options
from hiercli.cli.render import progress, say, warn
from hiercli.errors import EXIT_SKIPPED, InputError
from hiercli.wording import counted

if TYPE_CHECKING:
    from hiercli.collection import Collection
    from hiercli.data.listing import Listing
    from hiercli.encoder.encoder import Encoder


def embed(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="PATHS...",
            help="Embed these images, folders of images, and tables of images (CSV, TSV or Parquet "
            "with the columns path, label and levels). --engine ray also accepts URLs such as "
            "s3://BUCKET/FOLDER.",
        ),
    ],
    model: options.Model = None,
    text_model: options.TextModel = None,
    tokenizer: options.Tokenizer = None,
    nested: options.Nested = False,
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            help="Leave out files and folders that match this pattern, written as in .gitignore. "
            "Can be given several times. Patterns in a file .hierignore hold for its folder.",
        ),
    ] = None,
    unlabelled: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PATH",
            help="Give the images in this folder no label, unless a table has one. The folder must "
            "be one of PATHS, or in one. Can be given several times.",
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            help="Apply the decisions of a review (see `hier review`), or take labels from a CSV "
            "with the columns path and label."
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="PATH",
            help="Write the points to this .npy file (with a list of paths) or .parquet file. With "
            "--engine ray: write them to this folder of Parquet files, or to a URL such as "
            "s3://BUCKET/FOLDER.",
        ),
    ] = None,
    index: Annotated[
        str | None,
        typer.Option(
            help="Build or update this search index: a FAISS file, milvus:FILE.db or "
            "milvus://HOST:PORT/NAME."
        ),
    ] = None,
    rebuild: Annotated[
        bool,
        typer.Option(
            "--rebuild", help="With --index: delete the contents of the index and build it again."
        ),
    ] = False,
    prune: Annotated[
        bool,
        typer.Option(
            "--prune",
            help="With --index: also remove images whose folder is empty or missing.",
        ),
    ] = False,
    index_type: Annotated[
        str | None,
        typer.Option(
            help="With --index: use this index type: flat or sq8 (exact), ivf or hnsw (faster for "
            "millions of images), or auto; in Milvus flat, ivf or auto."
        ),
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option(
            help="With --index: store image paths relative to this folder, not to that of the "
            "index."
        ),
    ] = None,
    no_thumbnails: Annotated[
        bool,
        typer.Option(
            "--no-thumbnails",
            help="With --index: store no thumbnails (2 to 4 kB per image) and delete stored ones. "
            "Pages show a thumbnail if the image file is missing.",
        ),
    ] = False,
    engine: Annotated[
        str | None,
        typer.Option(help="Embed on a Ray cluster (ray). Write a folder of Parquet files (-o)."),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            help="With --engine ray: join this cluster (auto: the cluster of this machine)."
        ),
    ] = None,
    device: options.Device = "auto",
    threads: options.Threads = 0,
    batch: Annotated[
        int,
        typer.Option(min=0, help="Embed this many images in one batch (0: choose by device)."),
    ] = 0,
    max_pixels: Annotated[
        int,
        typer.Option(
            min=1,
            help="Skip images with more pixels than this (WebP, AVIF, HEIC, JPEG XL and JPEG 2000: "
            "than 5/8 of it).",
        ),
    ] = MAX_PIXELS,
    strict: options.Strict = False,
    json_output: options.Json = False,
) -> None:
    """Embed images; optionally build or update a search index.

    The result is one point of hyperbolic space per image: float32 (N, D), in natural path order.
    Without -o and --index, the points are written to stdout as .npy.

    An existing index is updated, with the encoder that built it. New and changed images of the
    given folders are embedded. Missing images are removed. Moved images keep their ids. Images of
    other folders stay unchanged. An interrupted run resumes when the same command is run again.

    The label of an image is the name of the first folder below the given one (with --nested: of the
    innermost folder). A table has its own columns for the label and the levels. An image has no
    label where the table's is empty, or in a folder given with --unlabelled.

    With --text-model, --model is an ONNX image model of another program, and `hier search` finds
    images by words. preprocessor_config.json and tokenizer.json are read beside the models, or in
    the folder above.

    Examples:

    - `hier embed ./images > vecs.npy`

    - `hier embed ./images --model birds.onnx -o vecs.parquet`

    - `hier embed ./images --model birds.onnx --index idx.faiss`

    - `hier embed ./images --model vision.onnx --text-model text.onnx --index clip.faiss`

    - `hier embed ./images --exclude 'drafts/' --exclude '*_small.*' --index idx.faiss`

    - `hier embed labels.csv --model birds.onnx --index idx.faiss`

    - `hier embed ./images ./inbox --unlabelled ./inbox --index idx.faiss`

    - `hier embed ./images --index idx.faiss --labels review.csv`

    - `hier embed ./images --model birds.onnx --index milvus://localhost:19530/birds`

    - `hier embed s3://bucket/photos --model birds.onnx --engine ray --address auto -o vectors/`
    """
    if engine is not None or address is not None:
        others = (index, index_type, root, rebuild, prune, no_thumbnails, strict, threads, batch,
                  nested, exclude, unlabelled, labels, text_model, tokenizer, device != "auto",
                  max_pixels != MAX_PIXELS)  # fmt: skip
        if engine != "ray" or target is None or any(others):
            raise InputError(
                "expected --engine ray with -o FOLDER. Only --model, --address and --json can be "
                "added"
            )
        _with_ray(sources, target, model, address, json_output)
        return
    output = None if target is None else Path(target)
    _require_usable(output, index, json_output)
    if (rebuild or prune or index_type or root or no_thumbnails) and index is None:
        raise InputError(
            "--rebuild, --prune, --root, --index-type and --no-thumbnails need an index. Name it "
            "with --index"
        )
    from hiercli.data.corrections import Corrections

    corrections = None if labels is None else Corrections.read(labels)
    text = (text_model, tokenizer)
    encoder = _open(None if rebuild else index, model, text, device, threads, batch, max_pixels)
    paths = [Path(source) for source in sources]
    if index is not None:
        done = _into_index(
            index, paths, encoder, output is not None, output, nested=nested,
            exclude=exclude or (), unlabelled=unlabelled or (), corrections=corrections,
            rebuild=rebuild, prune=prune, strict=strict, index_type=index_type, root=root,
            thumbnails=False if no_thumbnails else None,
        )  # fmt: skip
    else:
        listed = {"nested": nested, "exclude": exclude or (), "unlabelled": unlabelled or (),
                  "corrections": corrections}  # fmt: skip
        done = _into_points(paths, encoder, listed, strict)
    if output is not None and done.collection is not None:
        done.collection.write(output)
    elif index is None and done.collection is not None:
        _to_stdout(done.collection)
    _report(done, encoder, output, index, json_output)
    if done.problems:
        raise typer.Exit(EXIT_SKIPPED)


@dataclass
class _Done:
    """What was done: images embedded and passed over, and what changed in an index."""

    listing: "Listing"
    embedded: int
    problems: list[Any]
    collection: "Collection | None" = None
    changes: dict[str, int] = field(default_factory=dict)


def _require_usable(output: Path | None, index: str | None, json_output: bool) -> None:
    """Refuse outputs that cannot be written, before any work is done."""
    if output is None and index is None:
        if sys.stdout.isatty():
            raise InputError(
                "stdout is a terminal, and the points are binary. Redirect them (> vecs.npy), "
                "name a file with -o, or name an index with --index"
            )
        if json_output:
            raise InputError("--json and the points cannot both go to stdout. Name a file with -o")
    from hiercli import collection_files
    from hiercli.files import require_replaceable

    if output is not None:
        if output.suffix.lower() not in collection_files.SUFFIXES:
            raise InputError(
                f"expected -o to end in {' or '.join(collection_files.SUFFIXES)}, got {output.name}"
            )
        require_replaceable(output)
    if index is not None and not index.startswith("milvus:"):
        require_replaceable(Path(index))


def _known_encoder(index: str | None, device: str, threads: int, batch: int) -> "Encoder":
    """The encoder of the index that is to be updated; the general one for a new index."""
    from hiercli.encoder.encoder import Encoder
    from hiercli.index import store
    from hiercli.index.address import target_of

    if index is None:
        return Encoder(None, device, threads=threads, batch=batch)
    target = target_of(index)
    pair = store.pair_encoder(target, device, threads)
    if pair is not None:
        return pair
    return Encoder(store.encoder_of(target), device, threads=threads, batch=batch)


def _open(
    index: str | None,
    model: Path | None,
    text: tuple[Path | None, Path | None],
    device: str,
    threads: int,
    batch: int,
    max_pixels: int,
) -> "Encoder":
    """The encoder; of a pair with its text model and tokenizer."""
    from hiercli.encoder.encoder import Encoder
    from hiercli.encoder.pair import PairEncoder
    from hiercli.images import LIMITS
    from hiercli.memory import keep_freed_memory

    text_model, tokenizer = text
    if text_model is None and tokenizer is not None:
        raise InputError("--tokenizer needs a text model. Name it with --text-model")
    if text_model is not None and model is None:
        raise InputError("--text-model needs its image model. Name it with --model")
    keep_freed_memory()
    LIMITS.pixels = max_pixels
    if model is None:
        encoder = _known_encoder(index, device, threads, batch)
    elif text_model is None:
        encoder = Encoder(model, device, threads=threads, batch=batch)
    else:
        encoder = PairEncoder(
            model, text_model, device, tokenizer=tokenizer, threads=threads, batch=batch
        )
    if encoder.fallback:
        say(encoder.fallback)
    return encoder


def _into_points(
    paths: list[Path], encoder: "Encoder", listed: dict[str, Any], strict: bool
) -> _Done:
    from hiercli.data.listing import gather

    problems: list[str] = []
    listing = gather(paths, skipped=lambda _, reason: problems.append(reason), **listed)
    problems += listing.unmatched
    found: Collection | None = None
    with progress("embedding") as bar, contextlib.suppress(InputError):  # of which none is readable
        found = encoder.embed_records(listing.records, listing.level_names, problems.append, bar)
    for problem in problems:
        warn(problem)
    if found is None or (strict and problems):
        raise InputError(
            f"{counted(len(problems), 'input')} cannot be read, "
            f"{counted(len(found or ()), 'image')} can. Nothing was written"
        )
    read = set(found.paths or ())
    kept = [record for record in listing.records if str(record.path) in read]
    return _Done(dataclasses.replace(listing, records=kept), len(found), problems, found)


def _into_index(
    index: str,
    paths: list[Path],
    encoder: "Encoder",
    keep: bool,
    output: Path | None,
    **options_: Any,
) -> _Done:
    from hiercli.files import require_apart
    from hiercli.images import Places
    from hiercli.index import locations, store
    from hiercli.index.address import target_of
    from hiercli.index.update import update

    target = target_of(index)
    files = locations.files(target) if isinstance(target, Path) else ()
    require_apart(output, (*files, *encoder.files))
    with progress("embedding") as bar, progress("building the index") as building:
        done = update(
            target, paths, encoder, progress=bar, building=building,
            skipped=lambda _, reason: warn(reason), **options_,
        )  # fmt: skip
    collection = None
    if keep:
        place, kept = Places(), [record.path for record in done.listing.records]
        with contextlib.closing(store.searching(target)) as images:
            found = images.collection_of(images.rows_at([place(path) for path in kept]))
        collection = dataclasses.replace(found, paths=[str(path) for path in kept])
    changes = {name: getattr(done, name) for name in _CHANGES}
    return _Done(done.listing, done.embedded, done.problems, collection, changes)


def _to_stdout(found: "Collection") -> None:
    from hiercli import collection_files

    try:
        collection_files.write_npy(found.points, sys.stdout.buffer)
        sys.stdout.buffer.flush()
    except BrokenPipeError:  # the reader has what it wanted (`| head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _report(
    done: _Done, encoder: "Encoder", output: Path | None, index: str | None, json_output: bool
) -> None:
    for note in done.listing.notes:
        say(f"note: {note}")
    say(done.listing.summary())
    say(
        f"{counted(done.embedded, 'image')} embedded in {encoder.embedding_dim} dimensions with "
        f"{encoder.path}" + (f", {len(done.problems)} skipped" if done.problems else "")
    )
    if index is not None:
        told = ", ".join(f"{done.changes[name]} {name}" for name in _CHANGES if done.changes[name])
        say(f"{index}: {told}")
        known = done.changes["added"] + done.changes["changed"] - done.embedded
        if known > 0:
            say(
                f"{counted(known, 'image was', 'images were')} not embedded again: the points of "
                "the same content are known from another file or an interrupted run"
            )
    if json_output:
        facts = {"embedded": done.embedded, "skipped": len(done.problems), "output": output,
                 "index": index, **done.changes}  # fmt: skip
        print(json.dumps(facts, default=str))


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
    again = f", {done.before} of them by an earlier run" if done.before else ""
    say(
        f"{counted(done.embedded, 'image')} embedded into "
        f"{counted(done.shards, 'file')} in {target}{again}"
    )
    if json_output:
        facts = {"embedded": done.embedded, "skipped": len(done.problems), "output": target,
                 "files": done.shards}  # fmt: skip
        print(json.dumps(facts))
    if done.problems:
        raise typer.Exit(EXIT_SKIPPED)


_CHANGES = ("added", "changed", "moved", "relabelled", "removed", "unchanged", "total")
