"""`hier review`, and its older name for labels alone, `hier hierarchy suggest`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hiercli.cli import options
from hiercli.cli.render import emit, progress, say, warn
from hiercli.errors import EXIT_SKIPPED, InputError
from hiercli.wording import counted

if TYPE_CHECKING:
    from hiercli.review.review import Review

Confidence = Annotated[
    float,
    typer.Option(
        min=0,
        max=1,
        help="List relabel, split and merge only from this confidence on, 0 to 1.",
    ),
]
Lines = Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")]
_FILES = ("review.html", "review.csv", "review.jsonl")


def review(
    index: options.TreeIndex = None,
    points: options.TreePoints = None,
    model: options.TreeModel = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Write review.html, review.csv and review.jsonl to this folder. Without it, the "
            "CSV goes to stdout.",
        ),
    ] = None,
    kind: Annotated[
        list[str] | None,
        typer.Option(
            help="Look only for this kind: relabel, split, merge, duplicate, leak, outlier, "
            "unreadable, tiny, blurred or label. Can be given several times."
        ),
    ] = None,
    confidence: Confidence = 0.45,
    label_next: Annotated[
        int,
        typer.Option(min=0, help="Propose this many of the images without a label."),
    ] = 20,
    json_output: Lines = False,
) -> None:
    """Find wrong labels, near-duplicates and bad images; write a page to decide on each.

    relabel: the label of an image looks wrong. split: a class looks like two. merge: two classes
    look like one. duplicate: an image is a re-encoded, resized, mirrored or cropped copy of
    another. leak: a copy of an image is in another split (column split of a table, or folders
    called train, test, ...). outlier: an image is like no other. unreadable, tiny, blurred: image
    quality. label: images without a label that are worth labelling first.

    The confidence of relabel, split and merge is a probability, estimated by planting the same
    fault in the collection. Nothing is changed. To apply decisions, save them from the page and
    give them to `hier embed --labels`.

    Examples:

    - `hier review --index idx.faiss -o review/`

    - `hier review --index idx.faiss --kind duplicate --kind leak > copies.csv`

    - `hier embed ./images --index idx.faiss --labels review.csv`
    """
    source = _source(index, points)
    if output is not None:
        _require_folder(output, source, model)
    found = _found(source, model, kind, confidence, label_next)
    if output is not None:
        _write(output, source, found)
    elif json_output:
        emit(found.to_json())
    else:
        emit(found.to_csv())
    if output is not None and json_output:
        emit(found.to_json())
    for problem in found.problems[:10]:
        warn(problem)
    if len(found.problems) > 10:
        warn(f"{counted(len(found.problems) - 10, 'further image')} cannot be read")
    if len(found.collection.classes) < 2 and not {"relabel", "split", "merge"}.isdisjoint(
        kind or ("relabel",)
    ):
        say("labels were not compared: the images have fewer than two labels")
    _tell(found)
    if found.problems:
        raise typer.Exit(EXIT_SKIPPED)


def suggest(
    index: options.TreeIndex = None,
    points: options.TreePoints = None,
    model: options.TreeModel = None,
    confidence: Confidence = 0.45,
    output: options.Output = None,
    json_output: Lines = False,
) -> None:
    """List possible label errors as CSV: `hier review` with the kinds relabel, split and merge.

    Examples:

    - `hier hierarchy suggest --index idx.faiss -o review.csv`

    - `hier hierarchy suggest --index idx.faiss --confidence 0.8 --json`
    """
    from hiercli.files import require_apart, require_replaceable, write_text
    from hiercli.hierarchy.tree import files_of
    from hiercli.review.labels import LABEL_KINDS

    source = _source(index, points)
    if output is not None:
        require_replaceable(output)
        require_apart(output, files_of(index, points, model))
    found = _found(source, model, LABEL_KINDS, confidence, 0)
    if len(found.collection.classes) < 2:
        raise InputError(
            "expected images with at least two different labels. A label is the name of the "
            "folder, or the column label of a table"
        )
    text = found.to_json() if json_output else found.to_csv()
    if output is not None:
        require_apart(output, found.collection.paths or ())
        write_text(output, text)
    else:
        emit(text)
    _tell(found)


def _source(index: Path | None, points: Path | None) -> Path:
    given = [path for path in (index, points) if path is not None]
    if len(given) != 1:
        raise InputError("expected one of --index and --points")
    return given[0]


def _require_folder(output: Path, source: Path, model: Path | None) -> None:
    """Refuse a folder that cannot be written to, before any work is done."""
    from hiercli.data.corrections import has_decisions
    from hiercli.files import require_apart, require_replaceable
    from hiercli.hierarchy.tree import files_of

    if output.exists() and not output.is_dir():
        raise InputError(f"expected -o to name a folder, but {output} is a file")
    if has_decisions(output / _FILES[1]):
        raise InputError(
            f"{output / _FILES[1]} has decisions that would be lost. Rename it, or name another "
            "folder"
        )
    for name in _FILES:
        if output.is_dir():
            require_replaceable(output / name)
        require_apart(output / name, files_of(source, model))


def _found(
    source: Path,
    model: Path | None,
    kinds: "list[str] | tuple[str, ...] | None",
    confidence: float,
    label_next: int,
) -> "Review":
    from hiercli.review.review import Review

    return Review.of_images(
        source, model, kinds=kinds, least=confidence, label_next=label_next, steps=progress
    )


def _write(output: Path, source: Path, found: "Review") -> None:
    import contextlib

    from hiercli.files import write_text
    from hiercli.images import Picture, read
    from hiercli.reports import review as pages

    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"the folder {output} cannot be made ({error.strerror})") from error
    with contextlib.ExitStack() as stack:
        picture: Picture = read
        if source.suffix.lower() not in (".npy", ".npz", ".parquet") and not source.is_dir():
            from hiercli.index.catalogue import Catalogue
            from hiercli.index.pictures import Pictures

            picture = Pictures(stack.enter_context(contextlib.closing(Catalogue(source))))
        bar = stack.enter_context(progress("writing the page"))
        missing = pages.write(
            output / _FILES[0], found, f"Review of {source.name}", picture=picture, progress=bar
        )
    write_text(output / _FILES[1], found.to_csv())
    write_text(output / _FILES[2], found.to_json())
    if missing:
        say(f"{counted(len(missing), 'image')} cannot be shown on the page")
    say(f"open {output / _FILES[0]} in a browser")


def _tell(found: "Review") -> None:
    counts = ", ".join(f"{number} {kind}" for kind, number in found.counts().items())
    say(f"{counted(len(found.collection), 'image')} checked: {counts or 'no findings'}")
