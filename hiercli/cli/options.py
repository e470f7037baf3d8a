"""Options that several commands share, so that each has one name, one help text, one default."""

from pathlib import Path
from typing import Annotated

import typer

Data = Annotated[
    str,
    typer.Option(
        "--data",
        help="cub, cars, sop, inshop, demo, a folder of class folders, or a table of images.",
    ),
]
DataRoot = Annotated[
    Path | None,
    typer.Option("--data-root", envvar="HIER_DATA", help="Where benchmarks live (default: data)."),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Device = Annotated[
    str,
    typer.Option(help="auto, cpu or cuda. Where the GPU cannot be used it says so and goes on."),
]
Threads = Annotated[int, typer.Option(min=0, help="Cores for inference; 0: all.")]
Model = Annotated[
    Path | None,
    typer.Option(
        "--model",
        envvar="HIER_MODEL",
        help="Encoder written by `hier export`. Without it: the general encoder of hier.",
    ),
]
Nested = Annotated[
    bool,
    typer.Option(
        "--nested",
        help="Take the innermost folders as labels, and the folders above them as their levels.",
    ),
]
Strict = Annotated[
    bool, typer.Option("--strict", help="Stop where an image or a folder cannot be read or used.")
]


def given(context: typer.Context) -> list[str]:
    """The options that stand on the command line, as they are spelled: ``--json``."""
    sources = ((option, context.get_parameter_source(str(option.name)))
               for option in context.command.params)  # fmt: skip
    return [option.opts[0] for option, source in sources if source and source.name == "COMMANDLINE"]
