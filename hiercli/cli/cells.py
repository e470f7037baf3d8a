"""Text that fits into the cells of a terminal; signs of Chinese or Japanese and emoji take two."""

import os
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hiercli.files import printable

if TYPE_CHECKING:
    from rich.text import Text

_LEAST = 4
"""Cells from which the beginning of a folder's name says something."""
_BETWEEN_WORDS = " _-/"


def cropped(text: str, most: int) -> str:
    """The beginning of a text, in at most so many cells.

    Examples:
        >>> cropped("034.Gray_crowned_Rosy_Finch", 10), cropped("wren", 10), cropped("鳥鳥鳥鳥", 6)
        ('034.Gray_…', 'wren', '鳥鳥…')
    """
    from rich.cells import cell_len, set_cell_size

    if cell_len(text) <= most:
        return text
    return f"{set_cell_size(text, max(0, most - 1)).rstrip()}…"


def cropped_path(path: str, most: int) -> str:
    """A path in at most so many cells: its beginning, what fits of its end, and the file name.

    Examples:
        >>> path = "photos/birds/034.Gray_crowned_Rosy_Finch/x_0042.jpg"
        >>> cropped_path(path, 46)
        'photos/…/034.Gray_crowned_Rosy_Fin…/x_0042.jpg'
        >>> cropped_path(path, 20), cropped_path(path, 14), cropped_path(path, 8)
        ('photos/…/x_0042.jpg', '…/x_0042.jpg', 'x_0….jpg')
    """
    from rich.cells import cell_len

    if cell_len(path) <= most:
        return path
    *folders, name = path.split("/")
    if cell_len(name) + 2 > most:
        return _middle_cropped(name, most)
    top = 2 if path.startswith("/") else 1
    first, between = "/".join([*folders[:top], ""]), folders[top:]
    room = most - cell_len(f"{first}…/{name}")
    if room < 0:
        return f"…/{name}"
    kept: list[str] = []
    for folder in reversed(between):
        if cell_len(folder) + 1 > room:
            break
        kept.insert(0, folder)
        room -= cell_len(folder) + 1
    if not kept and room > _LEAST:
        kept = [cropped(between[-1], room - 1)]
    return first + "/".join([*["…"][: len(between) - len(kept)], *kept, name])


def _middle_cropped(name: str, most: int) -> str:
    """The beginning and the end of a name."""
    from rich.cells import cell_len

    start = len(name)
    while start and cell_len(name[start - 1 :]) <= most // 2:
        start -= 1
    while start < len(name) and unicodedata.category(name[start]) in ("Mn", "Me", "Cf"):
        start += 1  # a mark or a joiner belongs to the sign before it
    end = name[start:]
    return cropped(name, most - cell_len(end)) + end


def folded(text: str, width: int) -> list[str]:
    """Lines of at most so many cells, broken behind a blank or a sign between words if possible.

    Examples:
        >>> folded("109.American_Redstart", 18), folded("鳥鳥鳥鳥", 5)
        (['109.American_', 'Redstart'], ['鳥鳥', '鳥鳥'])
    """
    from rich.cells import cell_len, set_cell_size

    lines = []
    while cell_len(text) > width:
        most = len(set_cell_size(text, width).rstrip()) or 1
        last = max(text.rfind(sign, 0, most) for sign in _BETWEEN_WORDS) + 1
        end = last if 3 * last > most else most
        lines.append(text[:end])
        text = text[end:]
    return [*lines, text]


def shared(wanted: Sequence[int], available: int) -> list[int]:
    """Cells for each column: those that it wants, or an equal share of what the others leave.

    Examples:
        >>> shared([10, 30, 50], 70), shared([10, 20], 70)
        ([10, 30, 30], [10, 20])
    """
    widths = [0] * len(wanted)
    rest = max(available, 0)
    for place, column in enumerate(sorted(range(len(wanted)), key=wanted.__getitem__)):
        widths[column] = min(wanted[column], rest // (len(wanted) - place))
        rest -= widths[column]
    return widths


def nearby(path: str) -> str:
    """A path as seen from the working directory, where that is shorter."""
    try:
        return min(path, os.path.relpath(path), key=len) if os.path.isabs(path) else path
    except (OSError, ValueError):  # the working directory is gone, or is on another drive
        return path


def linked(path: str, crop: Callable[[str], str], style: str = "") -> "Text":
    """A path, cropped to what a terminal has room for, with a link to its file."""
    from rich.style import Style
    from rich.text import Text

    # Bytes that a terminal would obey are percent-encoded.
    link = Style(link=Path(path).as_uri()) if os.path.isabs(path) else Style()
    return Text().append(crop(printable(nearby(path))), Style.parse(style) + link)
