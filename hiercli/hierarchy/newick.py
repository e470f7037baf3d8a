"""Reading Newick, the format that tree viewers share; `formats.to_newick` writes it.

The grammar is Olsen's (https://phylipweb.github.io/phylip/newick_doc.html): quoted labels with
doubled quotes, comments in square brackets, optional branch lengths, underscores for blanks in
labels without quotes.
"""

import re
from collections import Counter
from dataclasses import dataclass, field

from hiercli.errors import FileFormatError
from hiercli.hierarchy.naming import common_name
from hiercli.hierarchy.node import Node

_TOKEN = re.compile(
    r"[ \t\r\n]+|\[[^\]]*\]|(?P<quoted>'(?:[^']|'')*')|(?P<sign>[(),:;])"
    r"|(?P<plain>[^ \t\r\n\[\]'(),:;]+)"
)
_NAMED_AFTER = 20
"""Leaves that a node without a name is named after, at most."""


@dataclass
class _Clade:
    name: str = ""
    length: float | None = None
    children: list["_Clade"] = field(default_factory=list)


def read(text: str, source: str) -> Node:
    """The tree of a Newick text.

    Heights are distances to the farthest leaf below; without branch lengths every branch is 1 long.
    Newick knows neither radii nor proxies. A leaf's id is its name; an inner node's too, where no
    other has it, and ``n1``, ``n2`` ... in reading order otherwise. Inner nodes without a name get
    one made of their leaves'.

    Raises:
        FileFormatError: the text, of the file ``source``, is no Newick tree.
    """
    top = _parse(text, source)
    every, waiting = [], [top]
    while waiting:
        clade = waiting.pop()
        every.append(clade)
        waiting.extend(reversed(clade.children))
    leaves = Counter(clade.name for clade in every if not clade.children)
    name, times = max(leaves.items(), key=lambda item: item[1])
    if times > 1 or "" in leaves:
        raise FileFormatError(
            f"{source}: expected leaves with different names, found {times} called {name!r}"
        )
    inner = Counter(clade.name for clade in every if clade.children)
    built: dict[int, Node] = {}
    held: dict[int, list[str]] = {}
    for number, clade in reversed(list(enumerate(every))):
        children = tuple(built.pop(id(child)) for child in clade.children)
        height = max(
            (node.height + (1.0 if below.length is None else max(0.0, below.length))
             for node, below in zip(children, clade.children, strict=True)),
            default=0.0,
        )  # fmt: skip
        own = clade.name
        if children and (not own or inner[own] > 1 or own in leaves):
            own = f"n{number}"
            while own in leaves or own in inner:
                own += "'"
        below = [name for child in clade.children for name in held.pop(id(child))][:_NAMED_AFTER]
        held[id(clade)] = below or [clade.name]
        size = sum(child.size for child in children) or 1
        shown = clade.name or common_name(below)
        built[id(clade)] = Node(
            own, shown, None, None, height, size, purity=1 / size, children=children
        )
    return built[id(top)]


def _parse(text: str, source: str) -> _Clade:
    root = _Clade()
    line, expects, closed = [root], "label", False  # the clades that are open, innermost last
    for found in _tokens(text, source):
        sign, label = found
        if closed:
            raise FileFormatError(f"{source}: expected one Newick tree, found more after its ';'")
        here = line[-1]
        if sign == "(" and expects == "label" and not here.children and not here.name:
            line.append(_child(here))
        elif sign == "," and len(line) > 1:
            line.pop()
            line.append(_child(line[-1]))
            expects = "label"
        elif sign == ")" and len(line) > 1:
            line.pop()
            expects = "name"
        elif sign == ":" and expects != "length":
            expects = "length"
        elif sign == ";" and len(line) == 1 and expects != "length":
            closed = True
        elif not sign and expects == "length":
            try:
                here.length = float(label)
            except ValueError as error:
                raise FileFormatError(f"{source}: {label!r} is not a branch length") from error
            expects = "end"
        elif not sign and expects in ("label", "name") and not here.name:
            here.name = label
            expects = "end"
        else:
            raise FileFormatError(
                f"{source} is not a valid Newick tree: {sign or label!r} is not expected there"
            )
    if not closed or not root.children:
        raise FileFormatError(
            f"{source} is not a valid Newick tree: a bracket is not closed, or the ';' at the end "
            "is missing"
        )
    return root


def _child(above: _Clade) -> _Clade:
    below = _Clade()
    above.children.append(below)
    return below


def _tokens(text: str, source: str) -> list[tuple[str, str]]:
    """(sign, "") or ("", label) each."""
    found, at = [], 0
    while at < len(text):
        token = _TOKEN.match(text, at)
        if token is None:
            raise FileFormatError(
                f"{source} is not a valid Newick tree: unexpected text {text[at : at + 20]!r}"
            )
        at = token.end()
        if quoted := token["quoted"]:
            found.append(("", quoted[1:-1].replace("''", "'")))
        elif plain := token["plain"]:
            found.append(("", plain.replace("_", " ")))
        elif sign := token["sign"]:
            found.append((sign, ""))
    return found
