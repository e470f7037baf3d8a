"""Words and progress for people go to stderr; data goes to stdout and stays clean for pipes."""

import contextlib
import functools
import io
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from hiercli.errors import InputError
from hiercli.files import printable

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.progress import Progress
    from rich.text import Text


# Rich is imported where it is first used: `hier --help` does without.
@functools.cache
def errors() -> "Console":
    """What people read: stderr."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True)


@functools.cache
def output() -> "Console":
    """What programs read, and people where it is a terminal: stdout."""
    from rich.console import Console

    return Console(highlight=False)


def watched() -> bool:
    """Whether people follow stderr on a terminal. Rich need not be loaded to know that they don't.

    Colours forced by the environment do not make it a terminal.
    """
    if not sys.stderr.isatty():
        return False
    return errors().is_terminal and not errors().is_dumb_terminal


class _Closed(io.TextIOBase):
    """What stands for a stdout that is closed: silence would look like success."""

    def write(self, _: str) -> int:
        raise InputError("stdout is closed. Open it, or name a file to write to")

    @property
    def buffer(self) -> Any:
        raise InputError("stdout is closed. Open it, or name a file to write to")


def prepare_streams() -> None:
    """Make stdout and stderr fit for whatever is said, before anything is.

    Signs that their encoding lacks (a C locale, a Windows console) become escapes. A closed one
    keeps its number, which the next file that is opened would get else, with stray words in it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the smallest number that is free
    if sys.stdout is None:
        sys.stdout = _Closed()
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def emit(text: str) -> None:
    """Data to stdout; file names in it that are not UTF-8 go out as the bytes that they are."""
    sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape"))
    sys.stdout.buffer.flush()


UNFOLDED = 1_000_000
"""Columns of what is no terminal: more than any row takes."""


def complain(message: str) -> None:
    """An error, to stderr."""
    errors().print("[bold red]error:[/] ", end="")
    say(message)


def say(message: str) -> None:
    """A word on what is going on, to stderr."""
    errors().print(_shortened(printable(message)), markup=False)


def _shortened(message: str) -> str:
    """A message that can be read, whatever names it holds."""
    return message if len(message) <= 1500 else f"{message[:1000]} ... {message[-400:]}"


def warn(message: str) -> None:
    """Something that was passed over, to stderr."""
    if not watched():  # rich is slow for many thousands
        print(f"skipped: {_shortened(printable(message))}", file=sys.stderr)
        return
    errors().print("[yellow]skipped:[/] ", end="")
    say(message)


def print_title(title: "str | Text") -> None:
    """A line above a table, which would fold it to its own width."""
    from rich.text import Text

    line = Text(printable(title)) if isinstance(title, str) else title
    line.stylize("table.title")
    _tables().print(line, soft_wrap=True)


def table(
    title: "str | Text", columns: Sequence[str], rows: "Sequence[Sequence[RenderableType]]"
) -> None:
    """A table to stdout, folded to the width of a terminal; elsewhere nothing is folded."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    if title:
        print_title(title)
    light = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    drawn = light if is_terminal() else Table()
    for name in columns:
        drawn.add_column(name, overflow="fold")
    for row in rows:
        cells = (Text(printable(cell)) if isinstance(cell, str) else cell for cell in row)
        drawn.add_row(*cells)
    _tables().print(drawn)


BETWEEN_COLUMNS = 2
"""Cells between two columns of a table on a terminal."""


def is_terminal() -> bool:
    """Whether stdout is a terminal. Colours forced by the environment do not make it one."""
    return output().file.isatty()


def _tables() -> "Console":
    from rich.console import Console

    return output() if is_terminal() else Console(highlight=False, width=UNFOLDED)


@contextmanager
def progress(task: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, a line each tenth of the way elsewhere; called with (done, total)."""
    if not watched():
        yield _Tenths(task)
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    )  # fmt: skip
    with Progress(*columns, console=errors(), transient=True) as bars:

        def show(done: int, total: int) -> None:
            if not bars.tasks:  # work that never begins shows no bar
                bars.add_task(task)
            bars.update(bars.task_ids[0], completed=done, total=total)

        yield show


@contextmanager
def stages() -> Iterator[Callable[[str, int, int], None]]:
    """`progress` for work of several stages; called with (stage, done, total)."""
    with contextlib.ExitStack() as opened:
        bars: dict[str, Callable[[int, int], None]] = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in bars:
                opened.close()  # the bar of the stage before
                bars[stage] = opened.enter_context(progress(stage))
            bars[stage](done, total)

        yield show


class _Tenths:
    def __init__(self, task: str) -> None:
        self.task, self.said = task, 0

    def __call__(self, done: int, total: int) -> None:
        tenth = 10 * done // max(1, total)
        # Short work needs no report: under a few hundred items it is over in a second or two.
        if total >= 256 and tenth > self.said:
            self.said = tenth
            say(f"{self.task}: {done}/{total}")


class TrainingProgress:
    """Follows a training run: bars on a terminal, plain lines elsewhere."""

    def __init__(self) -> None:
        self._bars: Progress | None = None
        self._bar: Any = None
        self._task = ""

    def started(self, facts: dict[str, Any]) -> None:
        """Print the facts of the run."""
        for name, value in facts.items():
            if value:
                say(f"{name}: {value}")

    def _show(self, task: str, done: int, total: int, note: str) -> None:
        if not watched():
            return
        if self._bars is None:
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                Progress,
                TextColumn,
                TimeRemainingColumn,
            )

            columns = (
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
                TimeRemainingColumn(), TextColumn("{task.fields[note]}"),
            )  # fmt: skip
            self._bars = Progress(*columns, console=errors(), transient=True)
            self._bars.start()
        if self._bar is None or task != self._task:
            if self._bar is not None:
                self._bars.remove_task(self._bar)
            self._bar, self._task = self._bars.add_task(task, total=total, note=""), task
        self._bars.update(self._bar, completed=done, total=total, note=note)

    def stepped(self, epoch: int, step: int, steps: int, values: dict[str, float]) -> None:
        """Move the bar of the epoch, or print a line at each quarter of it."""
        note = "  ".join(f"{name} {value:.3g}" for name, value in values.items())
        if not watched() and step % max(1, steps // 4) == 0:
            say(f"epoch {epoch} step {step}/{steps}  {note}")
        self._show(f"epoch {epoch}", step, steps, note)

    def judged(self, done: int, total: int) -> None:
        """Move the bar of the photographs embedded for scoring."""
        self._show("scoring", done, total, "")

    def warned(self, message: str) -> None:
        """Print a warning."""
        errors().print("[yellow]warning:[/] ", end="")
        say(message)

    def finished_epoch(self, row: dict[str, Any]) -> None:
        """Print the epoch's line."""
        values = "  ".join(f"{key} {value:.4g}" for key, value in row.items() if key != "epoch")
        say(f"epoch {row['epoch']}  {values}")

    def close(self) -> None:
        """Take the bars away."""
        if self._bars is not None:
            self._bars.stop()
