"""How the hits of `hier search` are shown: as a table, JSON or CSV."""

import csv
import io
import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from hiercli.cli.cells import cropped, cropped_path, linked, nearby, shared
from hiercli.cli.render import (
    BETWEEN_COLUMNS,
    UNFOLDED,
    is_terminal,
    output,
    print_title,
    say,
    table,
)
from hiercli.cli.thumbnails import has_room
from hiercli.files import escaped, printable
from hiercli.wording import counted, shortened

if TYPE_CHECKING:
    import numpy as np
    from rich.console import RenderableType
    from rich.text import Text

    from hiercli.cli.cards import Cards
    from hiercli.hierarchy.branches import Branches
    from hiercli.hierarchy.node import Node
    from hiercli.hierarchy.verdict import Verdict
    from hiercli.images import Picture
    from hiercli.index.queries import Query
    from hiercli.index.searchable import Hit
    from hiercli.index.similarity import Similarity


Answer: TypeAlias = "tuple[Sequence[Hit], Verdict | None]"
"""The hits of a query, and what they say of it where that was asked."""
_NUMBERS = ("rank", "distance", "similarity")
_LEAST_COLUMN = 20
"""Cells that the name of a query has in its title, whatever its verdict takes."""


def show_json(
    asked: Sequence["Query"],
    found: Iterable[Answer],
    tree: "Branches | None",
    scale: "Similarity",
) -> None:
    """An object a query, a line each."""
    for query, (hits, verdict) in zip(asked, found, strict=True):
        results = [hit.to_dict() | scale.to_dict(hit.distance) for hit in hits]
        result: dict[str, Any] = {"query": query.name, "results": results}
        if query.understood is not None:
            result["understood"] = query.understood.to_dict()
        if verdict is not None:
            result["verdict"] = verdict.to_dict()
        if tree is not None:
            result["specificity"] = tree.specificity(point_of(query))
            for printed, node in zip(results, _ancestors(query, hits, tree), strict=True):
                printed["branch"] = {name: getattr(node, name) for name in ("id", "name", "radius")}
        print(json.dumps(result))


def show_csv(
    asked: Sequence["Query"],
    found: Iterable[Answer],
    tree: "Branches | None",
    scale: "Similarity",
    level_names: Sequence[str],
) -> None:
    """A row a hit, without what a terminal would obey: --json has names to the letter."""
    # File names may hold bytes that are not UTF-8: they go out as they are.
    text = io.TextIOWrapper(sys.stdout.buffer, "utf-8", "surrogateescape", newline="")
    try:
        writer = csv.writer(text, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
        columns = ["query", *_NUMBERS, "label", "path", "copies", *level_names]
        writer.writerow(columns if tree is None else [*columns, "branch"])
        for query, (hits, _) in zip(asked, found, strict=True):
            nodes = [] if tree is None else _ancestors(query, hits, tree)
            for place, hit in enumerate(hits):
                names = (escaped(query.name), escaped(hit.label), escaped(hit.path))
                similarity = scale.to_dict(hit.distance)["similarity"]
                row = [names[0], hit.rank, hit.distance, similarity, *names[1:], len(hit.copies)]
                row += [escaped(hit.levels.get(name, "")) for name in level_names]
                writer.writerow(row if tree is None else [*row, nodes[place].id])
    finally:
        text.detach()  # or stdout would be closed with it


def show_table(
    asked: Sequence["Query"],
    found: Iterable[Answer],
    tree: "Branches | None",
    scale: "Similarity",
    thumbnails: str,
    picture: "Picture",
) -> None:
    """A table a query; on a terminal that can show pictures, cards with them."""
    cards = _cards(thumbnails, picture, scale)
    for query, (hits, verdict) in zip(asked, found, strict=True):
        said = "" if verdict is None else f": {verdict}"
        groups: list[tuple[str, Sequence[Hit]]] = [("", hits)]
        if tree is not None:
            specificity = tree.specificity(point_of(query))
            said += "" if specificity is None else f" (specificity {specificity:.2f})"
            groups = _by_branch(hits, _ancestors(query, hits, tree))
        title = _title(query, printable(said))
        if cards is not None:
            print_title(title)
            cards.show(query, groups)
        else:
            table(title, *_rows(groups, scale))
        if not hits:
            say(f"{query.name}: no image lies within --max-distance")


def _cards(thumbnails: str, picture: "Picture", scale: "Similarity") -> "Cards | None":
    """Cards, where stdout is a terminal that can show pictures and is wide enough."""
    console = output()
    if thumbnails == "none" or not is_terminal() or not has_room():
        return None
    if console.color_system is None or console.no_color:  # pictures are made of colours
        return None
    from hiercli.cli.cards import LEAST_WIDTH, Cards

    return Cards(thumbnails, picture, scale) if console.width >= LEAST_WIDTH else None


def _title(query: "Query", said: str) -> "Text":
    """The name of a query and what is said of it, on one line of a terminal if possible."""
    from rich.cells import cell_len
    from rich.text import Text

    if query.understood is not None or not is_terminal():
        return Text(printable(shortened(query.name) if query.understood else query.name) + said)
    most = max(_LEAST_COLUMN, output().width - cell_len(said))
    if query.path is None:
        return Text(cropped(printable(query.name), most) + said)
    return linked(os.path.abspath(query.path), lambda path: cropped_path(path, most)).append(said)


def _rows(
    groups: "Sequence[tuple[str, Sequence[Hit]]]", scale: "Similarity"
) -> "tuple[list[str], list[list[RenderableType]]]":
    """Names and rows of a table, cropped to the width of a terminal; elsewhere they are whole."""
    hits = [hit for _, some in groups for hit in some]
    has_levels = any(hit.levels for hit in hits)
    columns = [*_NUMBERS, "label", *(["levels"] if has_levels else []), "path"]
    *widths, path_width = _widths(hits, columns[len(_NUMBERS) :])
    rows: list[list[RenderableType]] = []
    for heading, some in groups:
        if heading:
            rows.append([*[""] * (len(columns) - 1), heading])
        for hit in some:
            numbers = [str(hit.rank), f"{hit.distance:.4f}", scale.percent(hit.distance)]
            names = zip(_names(hit), widths, strict=False)  # without levels there is one width
            cells = [cropped(name, most) for name, most in names]
            rows.append([*numbers, *cells, _place(hit, path_width)])
    return columns, rows


def _widths(hits: Sequence["Hit"], columns: Sequence[str]) -> list[int]:
    """Cells for the label, perhaps the levels, and the path of hits."""
    from rich.cells import cell_len

    if not is_terminal():
        return [UNFOLDED] * len(columns)
    wanted = [len(name) for name in columns]
    for hit in hits:
        label, levels = _names(hit)
        path = printable(nearby(hit.path)) + _copies(hit)
        texts = (label, levels, path) if len(columns) == 3 else (label, path)
        wanted = [max(most, cell_len(text)) for most, text in zip(wanted, texts, strict=True)]
    taken = sum(len(name) + BETWEEN_COLUMNS for name in _NUMBERS)
    return shared(wanted, output().width - taken - BETWEEN_COLUMNS * (len(columns) - 1))


def _names(hit: "Hit") -> tuple[str, str]:
    return printable(hit.label), printable(" · ".join(hit.levels.values()))


def _copies(hit: "Hit") -> str:
    return f" (+{counted(len(hit.copies), 'copy', 'copies')})" if hit.copies else ""


def _place(hit: "Hit", most: int) -> "str | Text":
    """The path of a hit, on a terminal with a link to the file."""
    copies = _copies(hit)
    if not is_terminal():
        return hit.path + copies
    return linked(hit.path, lambda path: cropped_path(path, most - len(copies))).append(copies)


def _by_branch(hits: Sequence["Hit"], nodes: Sequence["Node"]) -> "list[tuple[str, Sequence[Hit]]]":
    """Hits in groups with their branch as heading, the branch of the nearest first."""
    grouped: dict[str, tuple[str, list[Hit]]] = {}
    for hit, node in zip(hits, nodes, strict=True):
        grouped.setdefault(node.id, (f"under {node.name} ({node.id})", []))[1].append(hit)
    return list(grouped.values())


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
