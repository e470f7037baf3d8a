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
_SHOWN = 10


def review(
    index: options.TreeIndex = None,
    points: options.TreePoints = None,
    model: options.TreeModel = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Write review.html, review.csv and review.jsonl to this folder. Without it and "
            "--fiftyone, the CSV goes to stdout.",
        ),
    ] = None,
    fiftyone: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Write a FiftyOne dataset of this name: images with labels, points and findings. "
            "It needs the package fiftyone.",
        ),
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="With --fiftyone: replace the dataset of this name."),
    ] = False,
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

    - `hier review --index idx.faiss --fiftyone birds`
    """
    from hiercli.review import folder

    source = _source(index, points)
    if output is not None:
        folder.require(output, source, model)
    _require_dataset(fiftyone, overwrite)
    found = _found(source, model, kind, confidence, label_next)
    if output is not None:
        missing = found.write(output, title=f"Review of {source.name}", steps=progress)
        if missing:
            say(f"{counted(len(missing), 'image')} cannot be shown on the page")
        say(f"open {output / folder.PAGE} in a browser")
    if fiftyone is not None:
        _to_fiftyone(found, fiftyone, overwrite)
    if json_output:
        emit(found.to_json())
    elif output is None and fiftyone is None:
        emit(found.to_csv())
    for problem in found.problems[:_SHOWN]:
        warn(problem)
    if len(found.problems) > _SHOWN:
        warn(f"{counted(len(found.problems) - _SHOWN, 'further image')} cannot be read")
    for note in found.notes:
        say(note)
    _tell(found)
    if found.problems:
        raise typer.Exit(EXIT_SKIPPED)


def _require_dataset(name: str | None, overwrite: bool) -> None:
    if name is None:
        if overwrite:
            raise InputError("--overwrite needs --fiftyone. Add it, or omit --overwrite")
        return
    from hiercli.reports import fiftyone

    fiftyone.require(name, overwrite=overwrite)


def _to_fiftyone(found: "Review", name: str, overwrite: bool) -> None:
    from hiercli.reports import fiftyone

    with progress("writing the dataset") as bar:
        left_out = fiftyone.write(found, name, overwrite=overwrite, progress=bar)
    if left_out:
        warn(f"{counted(left_out, 'image')} left out of the dataset: their names are not UTF-8")
    say(f"look at the dataset with `fiftyone app launch {name}`")


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


def _tell(found: "Review") -> None:
    counts = ", ".join(f"{number} {kind}" for kind, number in found.counts().items())
    say(f"{counted(len(found.collection), 'image')} checked: {counts or 'no findings'}")
