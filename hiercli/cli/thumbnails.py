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
_PIXELS_PER_COLUMN = 16
"""Of what is sent to a terminal that shows pixels: the columns of a sharp screen."""


def thumbnail(
    path: str,
    style: str,
    columns: int,
    content: bytes | None = None,
    picture: "Picture | None" = None,
) -> "RenderableType":
    """The middle of a picture, half as many lines high as columns wide; empty if unreadable.

    Args:
        path: of the picture.
        style: auto asks the terminal: sixel (also iTerm2, WezTerm), kitty's protocol, else blocks.
        columns: of the terminal that it takes, an even number.
        content: of the picture, where it has no file.
        picture: gives it; its file does where left out.
    """
    if not has_room():
        return ""
    # When it is imported it asks the terminal what it can show, and logs where that is silent.
    logging.getLogger("textual_image").setLevel(logging.CRITICAL)
    from PIL.Image import Resampling
    from textual_image import renderable

    from hiercli.images import centre_box, read

    kind = {
        "auto": renderable.Image,
        "kitty": renderable.TGPImage,
        "sixel": renderable.SixelImage,
        "blocks": renderable.HalfcellImage,
    }[style]
    # A character of blocks shows two pixels, one above the other.
    side = columns if kind is renderable.HalfcellImage else _PIXELS_PER_COLUMN * columns
    try:
        found = (picture or read)(path, side, content)
    except ImageError:
        return ""
    small = found.resize((side, side), Resampling.LANCZOS, box=centre_box(found, 1.0))
    shown: RenderableType = kind(small, width=columns, height=columns // 2)
    return shown


def has_room() -> bool:
    """Whether the terminal has a size: what draws there divides by it."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return 0 not in os.get_terminal_size(sys.stdout.fileno())
    return True
