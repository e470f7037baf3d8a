"""The `hier` command: its subcommands, and the one place where errors become exit codes."""

import os
import sys
import time
from typing import Annotated

import typer

from hiercli import __version__
from hiercli.cli import data, embed, evaluate, export, hierarchy, index, search, train, verify
from hiercli.cli.render import complain
from hiercli.errors import EXIT_INPUT, EXIT_INTERRUPTED, HierError, InterruptError, ReportedError

app = typer.Typer(
    name="hier",
    no_args_is_help=True,
    rich_markup_mode="markdown",
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


app.command("train")(train.train)
app.command("eval")(evaluate.evaluate)
app.command()(export.export)
app.command()(embed.embed)
app.command()(search.search)
app.command()(hierarchy.hierarchy)
app.command()(verify.verify)
app.add_typer(data.app, name="data")
app.add_typer(index.app, name="index")


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
            time.sleep(3)
        complain(str(error))
        sys.exit(error.exit_code)
    except OSError as error:
        # A full disk or a closed device behind stdout; files of ours report theirs themselves.
        complain(f"the system refused: {error}. Free some space or choose another place")
        sys.exit(EXIT_INPUT)
    except SystemExit as end:
        if end.code == EXIT_INTERRUPTED:  # typer's answer to Ctrl-C, without a word
            complain("interrupted. Nothing is half-written: give the same command again")
        raise
