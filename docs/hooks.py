"""Fill the page of commands with what each one says of itself."""

from collections.abc import Iterator
from typing import Any

from typer.main import get_command

from hiercli.cli.app import app


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the help of every command in the place that the page keeps for it."""
    return markdown.replace("<!-- commands -->", "\n".join(_sections()))


def _sections() -> Iterator[str]:
    root = get_command(app)
    for name, command in root.commands.items():
        yield from _section(f"hier {name}", command)
        for own, below in getattr(command, "commands", {}).items():
            yield from _section(f"hier {name} {own}", below)


def _section(name: str, command: Any) -> Iterator[str]:
    with command.make_context(name, [], resilient_parsing=True) as context:
        context.info_name = name
        context.max_content_width = 96
        text = command.get_help(context)
    yield f"## {name}\n\n```text\n{text}\n```\n"
