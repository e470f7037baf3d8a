"""The `hier` command: its subcommands, and the one place where errors become exit codes."""

import os
import sys
import time
from typing import Annotated

import typer

from hiercli import __version__
from hiercli.cli import data, embed, evaluate, export, hierarchy, index, search, train, verify
from hiercli.cli.render import complain
from hiercli.errors import (
    EXIT_DONE,
    EXIT_INPUT,
    EXIT_INTERRUPTED,
    HierError,
    InterruptError,
    ReportedError,
)

app = typer.Typer(
    name="hier",
    no_args_is_help=True,
    rich_markup_mode=None,  # plain help is there in half the time
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"hier {__version__}")
        raise typer.Exit


@app.callback()
def hier(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Visual search that understands hierarchy.

    Train image encoders with HIER, prove them, export them, embed folders of photos, search them
    exactly in hyperbolic space, and look at the tree that was discovered.

    Exit codes: 0 done, 2 wrong usage or input, 3 done with some inputs skipped,
    4 files that do not belong together, 130 interrupted.
    """


for name, command, summary in (
    ("train", train.train, "Train an encoder, judge it on unseen classes."),
    ("eval", evaluate.evaluate, "Score an encoder on a data set's test classes."),
    ("export", export.export, "Write an encoder as ONNX, with proof."),
    ("embed", embed.embed, "Turn pictures into points, or into an index."),
    ("search", search.search, "Find the nearest pictures of an index."),
    ("verify", verify.verify, "Check an exported encoder on this machine."),
):
    app.command(name, short_help=summary)(command)
app.add_typer(
    hierarchy.app, name="hierarchy", short_help="Show the tree that an encoder discovered."
)
app.add_typer(data.app, name="data", short_help="List data sets, fetch one.")
app.add_typer(index.app, name="index", short_help="Look into an index, check it, mend it.")


def main() -> None:
    """Run `hier` and end the process with a documented exit code."""
    try:
        app()
    except ReportedError as error:
        sys.exit(error.exit_code)
    except HierError as error:
        if os.environ.get("RANK", "0") != "0":
            # Of several processes that fail alike the first one talks, and ends the others.
            if isinstance(error, InterruptError):
                sys.exit(error.exit_code)
            time.sleep(15)  # the first may be late on a busy machine
        complain(str(error))
        sys.exit(error.exit_code)
    except OSError as error:
        # A full disk or a closed device behind stdout; files of ours report theirs themselves.
        complain(f"the system refused: {error}. Free some space or choose another place")
        sys.exit(EXIT_INPUT)
    except SystemExit as end:
        if end.code == EXIT_INTERRUPTED:  # typer's answer to Ctrl-C, without a word
            complain("interrupted. Nothing is half-written: give the same command again")
        if isinstance(end.__context__, BrokenPipeError):  # `| head` has what it wanted
            sys.exit(EXIT_DONE)
        raise
