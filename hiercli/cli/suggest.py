"""`hier hierarchy suggest`."""

import csv
import dataclasses
import json
from typing import Annotated

import typer

from hiercli.cli import options
from hiercli.cli.render import emit, progress, say
from hiercli.errors import InputError
from hiercli.files import escaped
from hiercli.wording import counted


def suggest(
    index: options.TreeIndex = None,
    points: options.TreePoints = None,
    model: options.TreeModel = None,
    confidence: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="Show only suggestions of at least this confidence, 0 to 1."
        ),
    ] = 0.4,
    output: options.Output = None,
    json_output: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per line.")
    ] = False,
) -> None:
    """List possible label errors as CSV for review. Nothing is changed.

    relabel: the nearest photos of a photo have another label. split: the photos of a class form two
    groups. merge: the photos of two classes are mixed.

    Examples:

    - `hier hierarchy suggest --index idx.faiss -o review.csv`

    - `hier hierarchy suggest --index idx.faiss --confidence 0.8 --json`
    """
    import io

    from hiercli.files import require_apart, require_replaceable, write_text
    from hiercli.hierarchy import suggest as suggestions
    from hiercli.hierarchy.tree import Tree, files_of, images_of

    if (index is None) == (points is None):
        raise InputError("expected one of --index and --points")
    if output is not None:
        require_replaceable(output)
        require_apart(output, files_of(index, points, model))
    source = index if index is not None else points
    assert source is not None
    collection, files = images_of(source, model)
    if len(collection.classes) < 2:
        raise InputError(
            "expected images with at least two different labels. A label is the name of the "
            "folder, or the column label of a table"
        )
    tree = Tree.of_collection(collection, files=files)
    tree.require_apart(output)
    with progress("comparing") as bar:
        found = suggestions.suggest(collection, tree.root, least=confidence, progress=bar)
    text = io.StringIO()
    if json_output:
        text.writelines(json.dumps(dataclasses.asdict(one)) + "\n" for one in found)
    else:
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(field.name for field in dataclasses.fields(suggestions.Suggestion))
        for one in found:
            row = dataclasses.asdict(one) | {"confidence": f"{one.confidence:.3f}"}
            cells = row.values()
            writer.writerow(escaped(cell) if isinstance(cell, str) else cell for cell in cells)
    if output is not None:
        write_text(output, text.getvalue())
    else:
        emit(text.getvalue())
    counts = ", ".join(
        f"{sum(one.kind == kind for one in found)} to {kind}" for kind in suggestions.KINDS
    )
    say(f"{counted(len(collection), 'image')} checked: {counts}")
