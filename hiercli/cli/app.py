"""The `hier` command: its subcommands, and the one place where errors become exit codes."""

import os
import platform
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_group

from hiercli import __version__, extras
from hiercli.cli.render import complain, prepare_streams
from hiercli.errors import (
    EXIT_DONE,
    EXIT_FAULT,
    EXIT_INPUT,
    EXIT_INTERRUPTED,
    HierError,
    InputError,
    InterruptError,
    ReportedError,
)

_COMMANDS = {
    "train": ("train", "train", "Train an encoder and score it."),
    "eval": ("evaluate", "evaluate", "Score an encoder on the test classes of a data set."),
    "export": ("export", "export", "Export to ONNX and check that the outputs match."),
    "embed": ("embed", "embed", "Embed images; build or update a search index."),
    "adapt": ("adapt", "adapt", "Adapt an encoder to the images of an index, without labels."),
    "search": ("search", "search", "Find the nearest images in an index."),
    "serve": ("serve", "serve", "Serve an index: a page in the browser and an HTTP API."),
    "verify": ("verify", "verify", "Check an exported encoder on this machine."),
    "hierarchy": ("hierarchy", "app", "Show the tree of an encoder or an index."),
    "data": ("data", "app", "List data sets, or fetch one."),
    "review": ("review", "review", "Find wrong labels, copies and bad images."),
    "index": ("index", "app", "Inspect, check and repair an index."),
}
"""By name: the module, what it calls the command or the group of commands, and one line of help."""


class _LazyCommands(Mapping[str, Any]):
    """The commands by name; one is imported when it is asked for, which makes a start shorter."""

    def __init__(self) -> None:
        self._loaded: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._loaded:
            module_name, attribute, summary = _COMMANDS[name]
            module = import_module(f"hiercli.cli.{module_name}")
            command = getattr(module, attribute)
            alone = typer.Typer(rich_markup_mode=None)
            if isinstance(command, typer.Typer):
                alone.add_typer(command, name=name, short_help=summary)
            else:
                kind = getattr(module, "COMMAND_CLASS", None)
                alone.command(name, short_help=summary, cls=kind)(command)
            self._loaded[name] = get_group(alone).commands[name]
        return self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(_COMMANDS)

    def __len__(self) -> int:
        return len(_COMMANDS)


class _LazyGroup(TyperGroup):
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = _LazyCommands()  # type: ignore[assignment]


app = typer.Typer(
    name="hier",
    cls=_LazyGroup,
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

    Embed folders of images, search them exactly in hyperbolic space, and show the tree that
    connects them. Train image encoders with HIER, score them, and export them to ONNX.

    Exit codes: 0 success, 1 a bug in hier, 2 wrong usage or input, 3 success with some inputs
    skipped, 4 files that do not belong together, 130 interrupted.
    """


def main() -> None:
    """Run `hier` and end the process with a documented exit code."""
    prepare_streams()
    try:
        _refuse_empty(sys.argv[1:])
        app()
    except ReportedError as error:
        sys.exit(error.exit_code)
    except HierError as error:
        if not _said_by_another(error):
            complain(str(error))
        sys.exit(error.exit_code)
    except ModuleNotFoundError as error:
        told = extras.missing(error)
        complain(_noted_down(error) if told is None else str(told))
        sys.exit(EXIT_FAULT if told is None else told.exit_code)
    except MemoryError:
        complain("not enough memory. Give fewer inputs at a time, or close other programs")
        sys.exit(EXIT_INPUT)
    except OSError as error:
        # A full disk or a closed device behind stdout; files of ours report theirs themselves.
        complain(
            f"the operating system reported an error: {error}. Free some space, or choose another "
            "folder"
        )
        sys.exit(EXIT_INPUT)
    except KeyboardInterrupt:
        _interrupted()
    except SystemExit as end:
        if end.code == EXIT_INTERRUPTED:  # typer's answer to Ctrl-C, without a word
            _interrupted()
        if isinstance(end.__context__, BrokenPipeError):  # `| head` has what it wanted
            sys.exit(EXIT_DONE)
        raise
    except Exception as error:
        complain(_noted_down(error))
        sys.exit(EXIT_FAULT)


def _interrupted() -> None:
    complain("interrupted. No file is half-written. Run the same command again")
    sys.exit(EXIT_INTERRUPTED)


def _refuse_empty(words: Sequence[str]) -> None:
    """An empty argument would mean the current folder, where a variable of the shell was not set.

    Raises:
        InputError: there is one.
    """
    for before, word in zip(("", *words), words, strict=False):
        if not word and before != "--pooling":  # there it stands for the backbone's own
            raise InputError(
                f"expected no empty argument, got '' after {before or 'hier'!r}. Check whether a "
                "shell variable is not set"
            )


def _said_by_another(error: HierError) -> bool:
    """Whether another process of the same training has failed alike and said so, or will.

    Processes that torchrun starts are children of one. The first to fail leaves its message in a
    file named after it; who has the same to say keeps silent.
    """
    if "LOCAL_RANK" not in os.environ:
        return False
    if isinstance(error, InterruptError) and os.environ.get("RANK") != "0":
        return True
    name = f"hier-{os.getppid()}-{os.environ.get('MASTER_PORT', '')}.txt"
    file = os.path.join(tempfile.gettempdir(), name)
    try:
        with open(file, "x", encoding="utf-8", errors="replace") as first:
            first.write(str(error))
        return False
    except FileExistsError:
        if time.time() - os.path.getmtime(file) > _MEANWHILE:  # of a run long past
            return False
        with open(file, encoding="utf-8") as earlier:
            return earlier.read() in ("", str(error))
    except OSError:
        return False


_MEANWHILE = 120
"""Seconds within which processes of one training fail alike."""


def _noted_down(error: Exception) -> str:
    """One sentence on a fault of hier itself, after the details are written to a file."""
    what = traceback.format_exception_only(error)[-1].strip()[:200]
    told = f"hier failed because of a bug ({what})"
    details = [
        f"hier {__version__}, Python {platform.python_version()}, {platform.platform()}",
        f"hier {' '.join(map(repr, sys.argv[1:]))}",
        *traceback.format_exception(error),
    ]
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="hier-fault-", suffix=".txt", delete=False, encoding="utf-8",
            errors="backslashreplace",
        ) as file:  # fmt: skip
            file.write("\n".join(details))
    except OSError:
        return f"{told}. Please report it together with the command"
    return f"{told}. Please report it together with the details in {file.name}"
