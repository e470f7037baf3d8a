"""The tree as text for people, JSON for programs, Newick for tree viewers."""

import json
from typing import Any

from hiercli.hierarchy.tree import Node

NAMES = ("text", "json", "newick")


def to_text(root: Node) -> str:
    """Lines drawn with branches; every inner node with its radius and number of classes."""
    lines: list[str] = []
    waiting: list[tuple[Node, str, str]] = [(root, "", "")]
    while waiting:
        node, lead, below = waiting.pop()
        note = f" · {len(node.leaves)} classes · radius {node.radius:.2f}" if node.children else ""
        lines.append(f"{lead}{one_line(node.name)}{note}")
        for place, child in reversed(list(enumerate(node.children))):
            last = place == len(node.children) - 1
            waiting.append(
                (child, below + ("└── " if last else "├── "), below + ("    " if last else "│   "))
            )
    return "\n".join(lines)


def one_line(name: str) -> str:
    """``name`` with line breaks and other control characters shown as escapes."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in name)


def to_json(root: Node) -> str:
    """Nested objects: name, radius, height, and either proxy and children, or neither."""
    built: dict[int, dict[str, Any]] = {}
    for node in reversed(list(root.walk())):
        value: dict[str, Any] = {"name": node.name, "radius": node.radius, "height": node.height}
        if node.children:
            value |= {"proxy": node.proxy}
            value |= {"children": [built[id(child)] for child in node.children]}
        built[id(node)] = value
    return json.dumps(built[id(root)], indent=2, ensure_ascii=False)


def to_newick(root: Node) -> str:
    """Newick with quoted names; a branch is as long as the heights of its ends differ."""
    parent = {id(child): node for node in root.walk() for child in node.children}
    built: dict[int, str] = {}
    for node in reversed(list(root.walk())):
        inside = ",".join(built[id(child)] for child in node.children)
        above = parent.get(id(node))
        length = "" if above is None else f":{max(0.0, above.height - node.height):.6g}"
        name = "'" + one_line(node.name).replace("'", "''") + "'"
        built[id(node)] = (f"({inside})" if inside else "") + name + length
    return built[id(root)] + ";"


WRITERS = {"text": to_text, "json": to_json, "newick": to_newick}
