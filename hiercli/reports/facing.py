"""Two trees face to face, with a line between the two places of each leaf."""

import html
from collections.abc import Sequence
from pathlib import Path

from hiercli.files import readable, write_text
from hiercli.hierarchy.compare import Difference, leaf_key
from hiercli.hierarchy.node import Node

_STEP = 17
_TREE, _NAMES, _GAP = 320, 215, 150
_TOP = 20
_STYLE = """
:root { color-scheme: light dark; font: 15px/1.45 system-ui, sans-serif; }
body { margin: 2rem auto; max-width: 1240px; padding: 0 1rem; }
svg { display: block; max-width: 100%; height: auto; font-size: 11.5px; }
text { fill: CanvasText; } .branch { fill: none; stroke: GrayText; stroke-width: 1.1; }
.same { stroke: #0072b2; opacity: .45; } .moved { stroke: #d55e00; stroke-width: 2; }
.alone { fill: GrayText; font-style: italic; }
table { border-collapse: collapse; margin: .5rem 0 1.5rem; }
td, th { text-align: left; padding: .2rem .8rem .2rem 0; vertical-align: top; }
th { font-weight: 600; border-bottom: 1px solid GrayText; }
"""


def write(
    target: Path, roots: tuple[Node, Node], names: tuple[str, str], found: Difference
) -> None:
    """Write one self-contained HTML file.

    Leaves of the second tree come in the order of the first as far as its branches allow.

    Args:
        target: the file.
        roots: the two trees.
        names: what they are called.
        found: their difference.
    """
    first, second = roots
    rows = {leaf_key(leaf.name): float(place) for place, leaf in enumerate(first.leaves)}
    orders = [first.leaves, _sorted_leaves(second, rows)]
    moved = {leaf_key(move.leaf) for move in found.moves}
    heights = [_TOP + _STEP * len(order) for order in orders]
    wide = 2 * (_TREE + _NAMES) + _GAP
    places = [
        {leaf_key(leaf.name): _TOP + _STEP * (place + 0.5) * max(heights) / height
         for place, leaf in enumerate(order)}
        for order, height in zip(orders, heights, strict=True)
    ]  # fmt: skip
    drawn = [
        f'<svg viewBox="0 0 {wide} {max(heights) + _TOP}" role="img" '
        f'aria-label="{_text(names[0])} and {_text(names[1])}">'
    ]
    for side, (root, places_of) in enumerate(zip(roots, places, strict=True)):
        drawn += _tree(root, places_of, mirrored=bool(side), wide=wide)
        for leaf in root.leaves:
            key = leaf_key(leaf.name)
            at = wide - _TREE - 6 if side else _TREE + 6
            kind = "" if key in places[1 - side] else ' class="alone"'
            drawn.append(
                f'<text{kind} x="{at}" y="{places_of[key] + 4:.1f}" '
                f'text-anchor="{"end" if side else "start"}">{_text(leaf.name, 30)}</text>'
            )
    left, right = _TREE + _NAMES, wide - _TREE - _NAMES
    for key in sorted(places[0].keys() & places[1].keys(), key=lambda key: key in moved):
        kind = "moved" if key in moved else "same"
        drawn.append(
            f'<line class="{kind}" x1="{left}" y1="{places[0][key]:.1f}" x2="{right}" '
            f'y2="{places[1][key]:.1f}"><title>{_text(key)}</title></line>'
        )
    drawn.append("</svg>")
    told = (
        f"Left: {_text(names[0])}. Right: {_text(names[1])}. Distance {found.distance:.3f} (0: "
        "the same inner nodes, 1: none in common), Spearman correlation of LCA heights "
        f"{found.correlation:.3f}, {found.num_leaves} leaves in both. Orange leaves have moved to "
        "another part of the tree."
    )
    moves = [(one.leaf, one.before, one.after, f"{one.distance:.2f}") for one in found.moves]
    parts = [
        _table("Moved", ("leaf", "from", "to", "distance"), moves),
        *(
            _table(title, ("branch", "leaves", "parts"),
                   [(one.name, str(one.size), "; ".join(one.parts)) for one in some])
            for title, some in (("Split", found.splits), ("Merged", found.merges))
        ),
    ]  # fmt: skip
    title = f"{_text(names[0])} and {_text(names[1])}"
    write_text(
        target,
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" '
        f'content="width=device-width"><title>{title}</title><style>{_STYLE}</style>'
        f"<h1>{title}</h1><p>{told}</p>{''.join(parts)}{''.join(drawn)}</html>\n",
    )


def _sorted_leaves(root: Node, rows: dict[str, float]) -> list[Node]:
    """Leaves with the branches of each node ordered by the mean row of what they hold."""
    middles: dict[int, float] = {}
    order: dict[int, list[Node]] = {}
    for node in reversed(list(root.walk())):
        if not node.children:
            middles[id(node)] = rows.get(leaf_key(node.name), len(rows) / 2)
            order[id(node)] = [node]
            continue
        branches = sorted(node.children, key=lambda child: middles[id(child)])
        middles[id(node)] = sum(middles[id(child)] for child in branches) / len(branches)
        order[id(node)] = [leaf for child in branches for leaf in order.pop(id(child))]
    return order[id(root)]


def _tree(root: Node, places: dict[str, float], *, mirrored: bool, wide: int) -> list[str]:
    """Right-angled branches; a node lies as far from the leaves as there are nodes below it."""
    deep: dict[int, int] = {}
    row: dict[int, float] = {}
    lines = []
    nodes = list(root.walk())
    for node in reversed(nodes):
        below = node.children
        deep[id(node)] = 1 + max(deep[id(child)] for child in below) if below else 0
        row[id(node)] = (
            sum(row[id(child)] for child in below) / len(below) if below
            else places[leaf_key(node.name)]
        )  # fmt: skip
    step = (_TREE - 10) / max(1, deep[id(root)])

    def across(node: Node) -> float:
        at = _TREE - step * deep[id(node)]
        return wide - at if mirrored else at

    for node in nodes:
        for child in node.children:
            lines.append(
                f'<path class="branch" d="M{across(child):.1f} {row[id(child)]:.1f}'
                f'H{across(node):.1f}V{row[id(node)]:.1f}"><title>{_text(node.name)}</title></path>'
            )
    return lines


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    head = "".join(f"<th>{name}</th>" for name in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<h2>{title}</h2><table><tr>{head}</tr>{body}</table>"


def _text(text: str, most: int | None = None) -> str:
    """Escaped, readable, and not too long."""
    shown = readable(text)
    if most is not None and len(shown) > most:
        shown = shown[: most - 1] + "…"
    return html.escape(shown)
