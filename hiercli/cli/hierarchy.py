"""`hier hierarchy`."""

import csv
import dataclasses
import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hiercli.cli import options
from hiercli.cli.render import emit, progress, say, table, warn
from hiercli.cli.render import output as stdout
from hiercli.cli.thumbnails import STYLES, thumbnail
from hiercli.errors import EXIT_SKIPPED, InputError
from hiercli.files import escaped

if TYPE_CHECKING:
    from hiercli.hierarchy.compare import Difference
    from hiercli.hierarchy.node import Node
    from hiercli.hierarchy.tree import Tree

app = typer.Typer(invoke_without_command=True)


class Format(StrEnum):
    """How a tree is written."""

    text = "text"
    json = "json"
    newick = "newick"
    graphml = "graphml"
    csv = "csv"
    html = "html"


class Leaves(StrEnum):
    """What the leaves of a tree over photos are."""

    classes = "classes"
    proxies = "proxies"


Index = Annotated[
    Path | None,
    typer.Option(help="Use the photos of this index."),
]
Points = Annotated[
    Path | None,
    typer.Option(
        help="Use these embeddings: .npy, .parquet, or .npz with points, c, proxies and labels."
    ),
]
LeavesOption = Annotated[
    Leaves,
    typer.Option(
        help="With --index or --points: use classes as leaves, or groups of the photos nearest to "
        "each proxy."
    ),
]
Model = Annotated[
    Path | None,
    typer.Option(
        help="Use this encoder written by `hier export`.",
        show_default="the encoder of --index, or the general encoder of hier",
    ),
]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="Write to this file instead of stdout.")
]


@app.callback()
def hierarchy(
    context: typer.Context,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            help="Show the tree of this checkpoint of `hier train`, or of an exported .onnx."
        ),
    ] = None,
    model: Model = None,
    index: Index = None,
    points: Points = None,
    leaves: LeavesOption = Leaves.classes,
    format: Annotated[
        Format, typer.Option(help="Write the tree in this format. html writes an interactive page.")
    ] = Format.text,
    root: Annotated[
        str | None,
        typer.Option(help="Show only this node and its descendants. Give its id or name."),
    ] = None,
    depth: Annotated[
        int | None, typer.Option(min=0, help="Show only this many levels below the root.")
    ] = None,
    min_size: Annotated[
        int,
        typer.Option(
            min=1,
            help="Show only nodes with at least this many photos (without photos: classes).",
        ),
    ] = 1,
    images: Annotated[
        bool, typer.Option("--images", help="Show the central photo of each node in the terminal.")
    ] = False,
    thumbnails: Annotated[
        str, typer.Option(help="With --images: show photos by auto, kitty, sixel or blocks.")
    ] = "auto",
    pictures: Annotated[
        int,
        typer.Option(
            min=0,
            help="With --format html: show this many photos as images, and the others as dots.",
        ),
    ] = 1500,
    output: Output = None,
    json_output: Annotated[
        bool, typer.Option("--json", help="Write JSON; the same as --format json.")
    ] = False,
) -> None:
    """Show the tree of an encoder, or of the photos in an index.

    Leaves are classes. An inner node is a hierarchical proxy, the lowest common ancestor (LCA) of
    the classes below it, and is named after them. --format html writes an interactive page that
    works offline: a hyperbolic disk, with the photos of an index at the leaves.

    Examples:

    - `hier hierarchy --checkpoint ckpt.pt`

    - `hier hierarchy --depth 4` (the general encoder)

    - `hier hierarchy --index idx.faiss --format html -o tree.html`

    - `hier hierarchy --index idx.faiss --min-size 20 --images`

    - `hier hierarchy --model birds.onnx --format newick -o birds.nwk`

    - `hier hierarchy diff before.pt after.pt`

    - `hier hierarchy suggest --index idx.faiss -o review.csv`
    """
    if context.invoked_subcommand:
        if given := options.given(context):
            raise InputError(
                f"expected the options of `hier hierarchy {context.invoked_subcommand}` after its "
                f"name, got {given[0]} before it"
            )
        return
    if checkpoint and model:
        raise InputError("expected one of --checkpoint and --model, got both")
    if thumbnails not in STYLES:
        raise InputError(f"expected --thumbnails {'|'.join(STYLES)}, got {thumbnails!r}")
    from hiercli.files import require_apart, require_replaceable, write_text
    from hiercli.hierarchy.tree import files_of

    format = Format.json if json_output else format
    if format is Format.html and output is None:
        raise InputError("expected a file for the page. Add -o tree.html")
    if output is not None:
        require_replaceable(output)
        require_apart(output, files_of(checkpoint, model, index, points))
    if index is not None and points is not None:
        raise InputError("expected one of --index and --points, got both")
    tree = _load(checkpoint, model, index or points, leaves is Leaves.proxies)
    tree.require_apart(output)
    shown = (tree if root is None else tree.find(root)).trim(depth, min_size)
    if format is Format.html:
        assert output is not None
        name = Path(index or points or checkpoint or model or "hier").name
        _write_page(output, shown, f"Hierarchy of {name}", pictures)
    elif images and format is Format.text and output is None:
        _show_with_images(shown.root, thumbnails)
    elif output is None:
        emit(getattr(shown, f"to_{format}")() + "\n")
    else:
        write_text(output, getattr(shown, f"to_{format}")() + "\n")


def _load(
    checkpoint: Path | None, model: Path | None, images: Path | None, by_proxy: bool
) -> "Tree":
    """The tree of images, or where there are none, of an encoder."""
    from hiercli.hierarchy.tree import Tree, images_of

    if images is None and by_proxy:
        raise InputError("--leaves proxies groups images. Add --index or --points")
    if images is None:
        tree = Tree.of_encoder(checkpoint or model)
    elif checkpoint is not None and checkpoint.suffix.lower() != ".onnx":
        raise InputError(
            "expected an exported encoder, got a checkpoint. Export it with `hier export`, then "
            "name it with --model"
        )
    else:
        collection, files = images_of(images, checkpoint or model)
        tree = Tree.of_collection(collection, by_proxy=by_proxy, files=files)
    for note in tree.notes:
        say(f"note: {note}")
    return tree


def _write_page(target: Path, tree: "Tree", title: str, pictures: int) -> None:
    with progress("drawing") as bar:
        problems = tree.to_html(target, title=title, pictures=pictures, progress=bar)
    for problem in problems:
        warn(problem)
    size = target.stat().st_size / 1e6
    say(f"{target}: {sum(1 for _ in tree.root.walk())} nodes, {size:.1f} MB. Open it in a browser")
    if problems:
        raise typer.Exit(EXIT_SKIPPED)


def _show_with_images(root: "Node", style: str) -> None:
    from rich.columns import Columns
    from rich.text import Text
    from rich.tree import Tree

    from hiercli.hierarchy import formats

    if style == "none" or root.photo is None:
        raise InputError(
            "--images needs a tree with photos. Add --index, and a --thumbnails style other than "
            "none"
        )

    def label(node: "Node") -> Columns:
        words = Text(formats.describe(node))
        assert node.photo is not None
        return Columns([thumbnail(node.photo, style), words], padding=(0, 1))

    drawn = Tree(label(root))
    waiting = [(root, drawn)]
    while waiting:
        node, branch = waiting.pop()
        for child in node.children:
            waiting.append((child, branch.add(label(child))))
    stdout().print(drawn)
    missing = {node.photo for node in root.walk() if node.photo and not Path(node.photo).is_file()}
    for photo in sorted(missing):
        warn(f"{photo} is missing")
    if missing:
        raise typer.Exit(EXIT_SKIPPED)


@app.command("diff")
def diff(
    first: Annotated[
        Path,
        typer.Argument(
            help="Compare this checkpoint, .onnx, index, .npz with proxies, or tree (.json, .nwk)."
        ),
    ],
    second: Annotated[
        Path, typer.Argument(help="Compare it with this file. The same file types are accepted.")
    ],
    html: Annotated[
        Path | None, typer.Option(help="Write an HTML page with both trees side by side.")
    ] = None,
    json_output: options.Json = False,
) -> None:
    """Compare two trees over the same classes. Show what has moved, split or merged.

    The distance (Robinson and Foulds) is the share of inner nodes that only one tree has: 0 for
    equal trees, 1 for nothing in common.

    Examples:

    - `hier hierarchy diff before.pt after.pt`

    - `hier hierarchy diff birds.onnx taxonomy.nwk --html diff.html`
    """
    from hiercli.files import require_apart, require_replaceable
    from hiercli.hierarchy.compare import compare
    from hiercli.hierarchy.tree import Tree, files_of

    if html is not None:
        require_replaceable(html)
        require_apart(html, files_of(first, second))
    trees = Tree.load(first), Tree.load(second)
    for tree in trees:
        tree.require_apart(html)
    roots = trees[0].root, trees[1].root
    found = compare(*roots)
    if html is not None:
        from hiercli.reports import facing

        names = (
            (first.name, second.name) if first.name != second.name else (str(first), str(second))
        )
        facing.write(html, roots, names, found)
        say(f"{html}: both trees side by side")
    if json_output:
        print(json.dumps(dataclasses.asdict(found)))
    else:
        _show_difference(found)


def _show_difference(found: "Difference") -> None:
    facts = [
        ["distance (0: equal, 1: nothing in common)", f"{found.distance:.3f}"],
        ["Spearman correlation of LCA heights", f"{found.correlation:.3f}"],
        ["leaves in both", str(found.num_leaves)],
        ["only in the first", ", ".join(found.only_first[:5]) or "-"],
        ["only in the second", ", ".join(found.only_second[:5]) or "-"],
    ]
    table("", ["", "the two trees"], facts)
    if found.moves:
        rows = [[one.leaf, one.before, one.after, f"{one.distance:.2f}"] for one in found.moves]
        table("Moved", ["leaf", "from", "to", "distance"], rows)
    for title, splits in (("Split", found.splits), ("Merged", found.merges)):
        if splits:
            rows = [[one.name, str(one.size), "; ".join(one.parts)] for one in splits]
            table(title, ["branch", "leaves", "parts"], rows)


@app.command("suggest")
def suggest(
    index: Index = None,
    points: Points = None,
    model: Model = None,
    confidence: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="Show only suggestions of at least this confidence, 0 to 1."
        ),
    ] = 0.4,
    output: Output = None,
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
    say(f"{len(collection)} images checked: {counts}")
