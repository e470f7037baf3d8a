"""The tree as text for people, and in forms that other programs read."""

import csv
import io
import json
from collections import Counter
from typing import Any

from hiercli.errors import FileFormatError, InputError
from hiercli.files import escaped, parse_json, printable
from hiercli.hierarchy.node import Node

_FACTS = ("id", "name", "proxy", "radius", "height", "size", "counted", "purity", "photo")

_KINDS: dict[str, Any] = {
    "id": str, "name": str, "proxy": int | None, "radius": float | int | None,
    "height": float | int, "size": int, "counted": str, "purity": float | int | None,
    "photo": str | None,
}  # fmt: skip


def to_text(root: Node) -> str:
    """Lines drawn with branches; every proxy with what it holds, its radius and its id."""
    lines: list[str] = []
    waiting: list[tuple[Node, str, str]] = [(root, "", "")]
    while waiting:
        node, lead, below = waiting.pop()
        lines.append(lead + describe(node))
        for place, child in reversed(list(enumerate(node.children))):
            last = place == len(node.children) - 1
            waiting.append(
                (child, below + ("└── " if last else "├── "), below + ("    " if last else "│   "))
            )
    return "\n".join(lines)


def describe(node: Node) -> str:
    """A node in a line: its name and, of a proxy, what it holds, its radius and its id."""
    note = ""
    if node.children or node.proxy is not None:
        depth = "" if node.radius is None else f" · depth {node.radius:.2f}"
        note = f" · {node.size} {node.counted}{depth} · {node.id}"
    elif node.counted == "photos":
        note = f" · {node.size} photos"
    return f"{escaped(node.name)}{note}"


def to_json(root: Node) -> str:
    """Nested objects with the fields of `Node`; ``children`` where there are some."""
    built: dict[int, dict[str, Any]] = {}
    for node in reversed(list(root.walk())):
        value: dict[str, Any] = {name: getattr(node, name) for name in _FACTS}
        if node.children:
            value["children"] = [built.pop(id(child)) for child in node.children]
        built[id(node)] = value
    try:
        return json.dumps(built[id(root)], indent=2, ensure_ascii=False)
    except RecursionError as error:
        raise InputError(
            "the tree is too deep for JSON. Cut it with --depth, or write csv or newick"
        ) from error


def from_json(text: str, source: str) -> Node:
    """The inverse of `to_json`.

    Raises:
        FileFormatError: the text, of the file ``source``, is no such tree.
    """
    try:
        order, waiting = [], [parse_json(text)]
        while waiting:
            value = waiting.pop()
            order.append(value)
            waiting.extend(reversed(value.get("children", [])))
        built: dict[int, Node] = {}
        for value in reversed(order):
            children = tuple(built.pop(id(child)) for child in value.get("children", []))
            facts = {name: value[name] for name in _FACTS}
            for name, kinds in _KINDS.items():
                if not isinstance(facts[name], kinds):
                    raise TypeError(f"{name} is {facts[name]!r}")
            built[id(value)] = Node(**facts, children=children)
        return built[id(order[0])]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise FileFormatError(
            f"{source} is not a tree written by `hier hierarchy --format json` ({error!r})"
        ) from error


def to_newick(root: Node) -> str:
    """Newick with quoted names; a branch is as long as the heights of its ends differ.

    Leaves of one name, as groups of photos may have, are told apart by their ids.
    """
    times = Counter(escaped(leaf.name) for leaf in root.leaves)
    parent = {id(child): node for node in root.walk() for child in node.children}
    built: dict[int, str] = {}
    for node in reversed(list(root.walk())):
        inside = ",".join(built.pop(id(child)) for child in node.children)
        above = parent.get(id(node))
        length = "" if above is None else f":{max(0.0, above.height - node.height):.6g}"
        name = escaped(node.name)
        if not node.children and (times[name] > 1 or not name.strip()):
            name = f"{name} ({escaped(node.id)})".strip()
        name = "'" + name.replace("'", "''") + "'"
        built[id(node)] = (f"({inside})" if inside else "") + name + length
    return built[id(root)] + ";"


def to_graphml(root: Node) -> str:
    """GraphML: a directed edge from each node to each of its children, the facts as attributes."""
    import networkx

    graph = networkx.DiGraph()
    numbers = {id(node): f"n{number}" for number, node in enumerate(root.walk())}
    for node in root.walk():
        facts = {name: getattr(node, name) for name in _FACTS if getattr(node, name) is not None}
        # Numbers, since two ids may look alike once what XML cannot hold is gone.
        graph.add_node(numbers[id(node)], **{name: _xml(value) for name, value in facts.items()})
        graph.add_edges_from((numbers[id(node)], numbers[id(child)]) for child in node.children)
    return "\n".join(networkx.generate_graphml(graph))


def _xml(value: Any) -> Any:
    """XML knows no control characters, and no bytes that are not text."""
    if not isinstance(value, str):
        return value
    return printable(value).translate(_NO_XML)


_NO_XML = {0xFFFE: "\\ufffe", 0xFFFF: "\\uffff"}


def to_csv(root: Node) -> str:
    """A line a node, parents first; ``parent`` is the id of the node above, empty for the root."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["parent", *_FACTS])
    parent = {child.id: node.id for node in root.walk() for child in node.children}
    for node in root.walk():
        facts = (getattr(node, name) for name in _FACTS)
        cells = (parent.get(node.id, ""), *facts)
        writer.writerow([escaped(cell) if isinstance(cell, str) else cell for cell in cells])
    return text.getvalue().rstrip("\n")


WRITERS = {
    "text": to_text, "json": to_json, "newick": to_newick, "graphml": to_graphml, "csv": to_csv,
}  # fmt: skip
