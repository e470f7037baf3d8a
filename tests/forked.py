"""Run `hier` in a process forked from one that has imported everything.

To import PyTorch and its company takes seconds, hundreds of times over in a test suite. Tests of
what happens at the start, or of signals, run a process of their own.
"""

import faulthandler
import functools
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_MODULES = [
    "faiss", "forked", "hiercli.cli.app", "hiercli.evaluation.evaluate",
    "hiercli.review.review", "hiercli.index.update", "hiercli.onnx_export",
    "hiercli.reports.curves", "hiercli.reports.disk", "hiercli.training.baseline",
    "hiercli.training.untrained", "networkx", "onnx", "onnxruntime", "pyarrow.dataset",
    "pyarrow.parquet", "pytest", "rich.progress", "scipy.cluster.hierarchy", "torch._dynamo",
]  # fmt: skip


@functools.cache
def _context() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_MODULES)
    return context


def start(
    words: Sequence[str], cwd: Path | None, environment: dict[str, str], out: Path, err: Path
) -> multiprocessing.Process:
    """Start ``hier WORDS``, see `run`, with files for stdout and stderr."""
    process: multiprocessing.Process = _context().Process(
        target=_main, args=(list(words), str(cwd or Path.cwd()), environment, out, err)
    )
    process.start()
    return process


def run(
    words: Sequence[str], cwd: Path | None, environment: dict[str, str], timeout: float
) -> subprocess.CompletedProcess[bytes]:
    """Run ``hier WORDS`` to its end.

    Args:
        words: after ``hier``.
        cwd: its folder; that of the caller where left out.
        environment: variables, all of them.
        timeout: seconds.
    """
    with tempfile.TemporaryDirectory() as name:
        out, err = Path(name) / "out", Path(name) / "err"
        process = start(words, cwd, environment, out, err)
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            raise subprocess.TimeoutExpired(["hier", *words], timeout, out.read_bytes())
        return subprocess.CompletedProcess(
            words, process.exitcode, out.read_bytes(), err.read_bytes()
        )


def _main(words: list[str], cwd: str, environment: dict[str, str], out: Path, err: Path) -> None:
    for number, file in ((1, out), (2, err)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdin, sys.stdout, sys.stderr = (
        open(number, mode, 1, "utf-8", how, closefd=False)  # noqa: SIM115
        for number, mode, how in ((0, "r", None), (1, "w", None), (2, "w", "backslashreplace"))
    )
    faulthandler.enable(file=2)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.argv = ["hier", *words]
    from hiercli.cli.app import main

    main()
