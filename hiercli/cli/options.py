"""Options that several commands share, so that each has one name, one help text, one default."""

from pathlib import Path
from typing import Annotated

import typer

Data = Annotated[
    str,
    typer.Option(
        "--data",
        help="Use this data: cub, cars, sop, inshop, demo, a folder of class folders, or a table "
        "of images.",
    ),
]
DataRoot = Annotated[
    Path | None,
    typer.Option(
        "--data-root",
        envvar="HIER_DATA",
        help="Read and download benchmarks in this folder.",
        show_default="data",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Device = Annotated[
    str,
    typer.Option(
        help="Run on auto, cpu or cuda. If no GPU can be used, hier prints a note and runs on the "
        "CPU."
    ),
]
Threads = Annotated[int, typer.Option(min=0, help="Use this many CPU cores (0: all).")]
Model = Annotated[
    Path | None,
    typer.Option(
        "--model",
        envvar="HIER_MODEL",
        help="Use this encoder written by `hier export`.",
        show_default="the general encoder of hier",
    ),
]
Nested = Annotated[
    bool,
    typer.Option(
        "--nested",
        help="Use the innermost folder as the label, and the folders above it as levels.",
    ),
]
Strict = Annotated[
    bool, typer.Option("--strict", help="Stop if an image or a folder cannot be read.")
]


def given(context: typer.Context) -> list[str]:
    """The options that stand on the command line, as they are spelled: ``--json``."""
    sources = ((option, context.get_parameter_source(str(option.name)))
               for option in context.command.params)  # fmt: skip
    return [option.opts[0] for option, source in sources if source and source.name == "COMMANDLINE"]
