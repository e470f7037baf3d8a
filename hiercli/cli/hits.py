"""How the hits of `hier search` are shown: as a table, JSON or CSV."""

import csv
import io
import itertools
import json
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from hiercli.cli.render import output, say, table
from hiercli.cli.thumbnails import thumbnail
from hiercli.files import escaped
from hiercli.wording import counted, shortened

if TYPE_CHECKING:
    import numpy as np
    from rich.console import RenderableType

    from hiercli.hierarchy.branches import Branches
    from hiercli.hierarchy.node import Node
    from hiercli.hierarchy.verdict import Verdict
    from hiercli.images import Picture
    from hiercli.index.queries import Query
    from hiercli.index.searchable import Hit


Answer: TypeAlias = "tuple[Sequence[Hit], Verdict | None]"
"""The hits of a query, and what they say of it where that was asked."""


def show_json(
    asked: Sequence["Query"],
    found: Iterable[Answer],
    tree: "Branches | None",
) -> None:
    """An object a query, a line each."""
    for query, (hits, verdict) in zip(asked, found, strict=True):
        result: dict[str, Any] = {"query": query.name, "results": [hit.to_dict() for hit in hits]}
        if query.understood is not None:
            result["understood"] = query.understood.to_dict()
        if verdict is not None:
            result["verdict"] = verdict.to_dict()
        if tree is not None:
            result["specificity"] = tree.specificity(point_of(query))
            for printed, node in zip(result["results"], _ancestors(query, hits, tree), strict=True):
                printed["branch"] = {name: getattr(node, name) for name in ("id", "name", "radius")}
        print(json.dumps(result))


def show_csv(
    asked: Sequence["Query"],
    found: Iterable[Answer],
    tree: "Branches | None",
    level_names: Sequence[str],
) -> None:
    """A row a hit, without what a terminal would obey: --json has names to the letter."""
    # File names may hold bytes that are not UTF-8: they go out as they are.
    text = io.TextIOWrapper(sys.stdout.buffer, "utf-8", "surrogateescape", newline="")
    try:
        writer = csv.writer(text, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
        columns = ["query", "rank", "distance", "label", "path", "copies", *level_names]
        writer.writerow(columns if tree is None else [*columns, "branch"])
        for query, (hits, _) in zip(asked, found, strict=True):
            nodes = [] if tree is None else _ancestors(query, hits, tree)
            for place, hit in enumerate(hits):
                names = (escaped(query.name), escaped(hit.label), escaped(hit.path))
                row = [names[0], hit.rank, hit.distance, names[1], names[2], len(hit.copies)]
                row += [escaped(hit.levels.get(name, "")) for name in level_names]
                writer.writerow(row if tree is None else [*row, nodes[place].id])
    finally:
        text.detach()  # or stdout would be closed with it


def show_table(
    asked: Sequence["Query"],
    found: Iterable[Answer],
    thumbnails: str,
    tree: "Branches | None",
    picture: "Picture",
) -> None:
    """A table a query, with small pictures where stdout is a terminal that can show them."""
    with_pictures = thumbnails != "none" and output().file.isatty() and output().color_system
    for query, (hits, verdict) in zip(asked, found, strict=True):
        rows: list[list[RenderableType]] = [
            [str(hit.rank), f"{hit.distance:.4f}", hit.label,
             hit.path + (f" (+{counted(len(hit.copies), 'copy', 'copies')})" if hit.copies else "")]
            for hit in hits
        ]  # fmt: skip
        columns = ["rank", "distance", "label", "path"]
        if any(hit.levels for hit in hits):
            columns.insert(3, "levels")
            for row, hit in zip(rows, hits, strict=True):
                row.insert(3, " · ".join(hit.levels.values()))
        if with_pictures:
            columns.insert(1, "image")
            for row, hit in zip(rows, hits, strict=True):
                row.insert(1, thumbnail(hit.path, thumbnails, picture=picture))
            if query.path is not None or query.content is not None:
                seen = thumbnail(query.name, thumbnails, query.content)
                rows.insert(0, ["", seen, *[""] * (len(columns) - 3), "the query"])
        name = query.name if query.understood is None else shortened(query.name)
        title = name + ("" if verdict is None else f": {verdict}")
        if tree is not None:
            specificity = tree.specificity(point_of(query))
            title += "" if specificity is None else f" (specificity {specificity:.2f})"
            rows = _by_branch(rows, _ancestors(query, hits, tree))
        table(title, columns, rows)
        if not hits:
            say(f"{name}: no image lies within --max-distance")


def _by_branch(
    rows: list[list["RenderableType"]], nodes: Sequence["Node"]
) -> list[list["RenderableType"]]:
    """Rows in groups under a line with their branch, the branch of the nearest first."""
    before = len(rows) - len(nodes)  # the query's own
    grouped: dict[str, list[list[RenderableType]]] = {}
    for row, node in zip(rows[before:], nodes, strict=True):
        line: list[RenderableType] = [""] * (len(row) - 1)
        grouped.setdefault(node.id, [[*line, f"under {node.name} ({node.id})"]]).append(row)
    return [*rows[:before], *itertools.chain.from_iterable(grouped.values())]


def _ancestors(query: "Query", hits: Sequence["Hit"], tree: "Branches") -> list["Node"]:
    import numpy as np

    if not hits:
        return []
    points = np.stack([hit.point for hit in hits])
    return tree.common(point_of(query), points, [hit.label for hit in hits])


def point_of(query: "Query") -> "np.ndarray":
    """The point of a query that has been embedded."""
    assert query.point is not None
    return query.point
