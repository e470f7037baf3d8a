"""Pages that are one file: a template with its style, its script and its data inside."""

import html
import json
import re
import string
from importlib import resources
from typing import Any

from hiercli.files import readable

_UNSAFE = re.compile("[<\ud800-\udfff]")


def filled(name: str, title: str, note: str, facts: dict[str, Any]) -> str:
    """The page of a template.

    Args:
        name: of the files ``.html``, ``.css`` and ``.js`` in this folder.
        title: of the page.
        note: a remark that it shows; empty for none.
        facts: what its script reads.
    """
    here = resources.files("hiercli.reports")
    page, style, script = (
        here.joinpath(f"{name}.{kind}").read_text("utf-8") for kind in ("html", "css", "js")
    )
    theme = here.joinpath("theme.css").read_text("utf-8")
    data = json.dumps(facts, separators=(",", ":"), ensure_ascii=False)
    # Nothing in the data can end the element that holds it. Bytes of file names that are no text
    # cannot be written as they are.
    data = _UNSAFE.sub(lambda sign: f"\\u{ord(sign[0]):04x}", data)
    words = {"title": html.escape(readable(title)), "note": html.escape(note)}
    return string.Template(page).substitute(
        words, theme=theme, style=style, script=script, data=data
    )
