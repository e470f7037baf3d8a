"""`hier hierarchy`."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hiercli.cli import options
from hiercli.cli.diff import diff
from hiercli.cli.render import emit, progress, say, warn
from hiercli.cli.render import output as stdout
from hiercli.cli.review import suggest
from hiercli.cli.thumbnails import STYLES, has_room, thumbnail
from hiercli.errors import EXIT_SKIPPED, InputError

if TYPE_CHECKING:
    from hiercli.hierarchy.node import Node
    from hiercli.hierarchy.tree import Tree
    from hiercli.images import Picture

app = typer.Typer(invoke_without_command=True)

_COLUMNS = 8
"""Of a thumbnail in a tree."""


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


LeavesOption = Annotated[
    Leaves,
    typer.Option(
        help="With --index or --points: use classes as leaves, or groups of the photos nearest to "
        "each proxy."
    ),
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
    model: options.TreeModel = None,
    index: options.TreeIndex = None,
    points: options.TreePoints = None,
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
    output: options.Output = None,
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
        with shown.pictures() as picture:
            _show_with_images(shown, thumbnails, picture)
    elif output is None:
        emit(getattr(shown, f"to_{format}")() + "\n")
    else:
        write_text(output, getattr(shown, f"to_{format}")() + "\n")


def _load(
    checkpoint: Path | None, model: Path | None, images: Path | None, by_proxy: bool
) -> "Tree":
    """The tree of images, or where there are none, of an encoder."""
    from hiercli.hierarchy.tree import Tree

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
        tree = Tree.of_images(images, checkpoint or model, by_proxy=by_proxy)
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


def _show_with_images(tree: "Tree", style: str, picture: "Picture") -> None:
    from rich.columns import Columns
    from rich.text import Text
    from rich.tree import Tree as Drawn

    from hiercli.hierarchy import formats

    root = tree.root
    if style == "none" or root.photo is None:
        raise InputError(
            "--images needs a tree with photos. Add --index, and a --thumbnails style other than "
            "none"
        )

    missing: set[str] = set()

    def label(node: "Node") -> Columns:
        words = Text(formats.describe(node))
        assert node.photo is not None
        small = thumbnail(node.photo, style, _COLUMNS, picture=picture)
        if not small and has_room():
            missing.add(node.photo)
        return Columns([small, words], padding=(0, 1))

    drawn = Drawn(label(root))
    waiting = [(root, drawn)]
    while waiting:
        node, branch = waiting.pop()
        for child in node.children:
            waiting.append((child, branch.add(label(child))))
    stdout().print(drawn)
    for photo in sorted(missing):
        warn(f"{photo} cannot be opened")
    if missing:
        raise typer.Exit(EXIT_SKIPPED)


app.command("diff")(diff)
app.command("suggest")(suggest)
