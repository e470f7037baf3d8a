"""`hier hierarchy diff`."""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hiercli.cli import options
from hiercli.cli.render import say, table

if TYPE_CHECKING:
    from hiercli.hierarchy.compare import Difference


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
