"""Pictures in a terminal: as pixels where it can show them, else in half-block characters."""

import contextlib
import logging
import os
import sys
from typing import TYPE_CHECKING

from hiercli.errors import ImageError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from hiercli.images import Picture

STYLES = ("auto", "kitty", "sixel", "blocks", "none")
_COLUMNS, _LINES = 8, 4
_PIXELS = 96
"""Side of what is sent to a terminal that shows pixels."""


def thumbnail(
    path: str, style: str, content: bytes | None = None, picture: "Picture | None" = None
) -> "RenderableType":
    """The middle of a picture, eight columns wide and four lines high; empty if it is unreadable.

    Args:
        path: of the picture.
        style: auto asks the terminal: kitty's protocol, sixel (also iTerm2, WezTerm), else blocks.
        content: of the picture, where it has no file.
        picture: gives it; its file does where left out.
    """
    if not has_room():
        return ""
    # When it is imported it asks the terminal what it can show, and logs where that is silent.
    logging.getLogger("textual_image").setLevel(logging.CRITICAL)
    from textual_image import renderable

    from hiercli.images import centre_box, read

    kinds = {
        "auto": renderable.Image,
        "kitty": renderable.TGPImage,
        "sixel": renderable.SixelImage,
        "blocks": renderable.HalfcellImage,
    }
    try:
        found = (picture or read)(path, _PIXELS, content)
    except ImageError:
        return ""
    small = found.resize((_PIXELS, _PIXELS), box=centre_box(found, 1.0))
    shown: RenderableType = kinds[style](small, width=_COLUMNS, height=_LINES)
    return shown


def has_room() -> bool:
    """Whether the terminal has a size: what draws there divides by it."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return 0 not in os.get_terminal_size(sys.stdout.fileno())
    return True
