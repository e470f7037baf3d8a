"""Hits of a query as cards in a terminal: an image, and right of it what is known of it."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from hiercli.cli.cells import cropped, cropped_path, folded, linked
from hiercli.cli.render import output
from hiercli.cli.thumbnails import thumbnail
from hiercli.files import printable
from hiercli.wording import counted

if TYPE_CHECKING:
    from rich.console import RenderableType

    from hiercli.images import Picture
    from hiercli.index.queries import Query
    from hiercli.index.searchable import Hit
    from hiercli.index.similarity import Similarity

_WIDTH = 50
"""Columns of a card, about: two cards fit side by side into 80 columns, three into 160."""
_IMAGE_SHARE = 0.54
_LARGEST_IMAGE = 36
_GAP = 2
LEAST_WIDTH = 24
"""Columns of a terminal that cards need."""


class Cards:
    """Cards side by side, as many as fit into the terminal.

    Args:
        style: of the thumbnails.
        picture: gives the images of hits.
        scale: of the index, for distances.
    """

    def __init__(self, style: str, picture: "Picture", scale: "Similarity") -> None:
        self._style, self._picture, self._scale = style, picture, scale
        width = output().width
        self._across = max(1, round(width / _WIDTH))
        self._width = (width + _GAP) // self._across - _GAP
        self._image = min(_LARGEST_IMAGE, int(_IMAGE_SHARE * self._width) // 2 * 2)
        self._text = self._width - self._image - 1

    def show(self, query: "Query", groups: "Sequence[tuple[str, Sequence[Hit]]]") -> None:
        """A card of the query if it is an image, and one of each hit, in groups with headings."""
        from rich.text import Text

        first = [] if query.path is None and query.content is None else [self._query(query)]
        for heading, hits in groups or [("", ())]:
            if heading:
                self._print(first)
                first = []
                output().print(Text(printable(heading), "bold"))
            self._print([*first, *map(self._hit, hits)])
            first = []

    def _print(self, cards: "Sequence[RenderableType]") -> None:
        from rich.table import Table

        for first in range(0, len(cards), self._across):
            row = Table.grid(padding=(0, _GAP, 0, 0))
            for _ in range(self._across):
                row.add_column(width=self._width)
            row.add_row(*cards[first : first + self._across])
            output().print(row)
            output().print()

    def _card(self, image: "RenderableType", lines: "Sequence[RenderableType]") -> "RenderableType":
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        card = Table.grid(padding=(0, 1, 0, 0))
        card.add_column(width=self._image)
        card.add_column(width=self._text, overflow="fold")
        card.add_row(image or Text("cannot be opened", "dim"), Group(*lines))
        return card

    def _query(self, query: "Query") -> "RenderableType":
        from rich.text import Text

        image = thumbnail(query.name, self._style, self._image, query.content)
        return self._card(image, [Text("the query", "bold")])

    def _hit(self, hit: "Hit") -> "RenderableType":
        from rich.text import Text

        image = thumbnail(hit.path, self._style, self._image, picture=self._picture)
        lines = [
            Text(self._two_lines(cropped, f"{hit.rank}  {printable(hit.label)}"), "bold"),
            Text(f"distance {hit.distance:.4f}"),
            Text(f"similarity {self._scale.percent(hit.distance)}"),
            Text(self._scale.word(hit.distance)),
        ]
        lines += [Text(cropped(printable(name), self._text)) for name in hit.levels.values()]
        lines.append(linked(hit.path, lambda path: self._two_lines(cropped_path, path), "dim"))
        if hit.copies:
            lines.append(Text(f"+{counted(len(hit.copies), 'copy', 'copies')}"))
        return self._card(image, lines)

    def _two_lines(self, crop: Callable[[str, int], str], text: str) -> str:
        """As much of a text as two lines of a card hold."""
        for most in range(2 * self._text, self._text, -1):
            lines = folded(crop(text, most), self._text)
            if len(lines) <= 2:
                return "\n".join(lines)
        return crop(text, self._text)
