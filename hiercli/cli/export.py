"""`hier export`."""

import json
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from hiercli.cli import options
from hiercli.cli.render import progress, say, table, warn
from hiercli.errors import EXIT_SKIPPED, InputError


def export(
    output: Annotated[Path, typer.Option("--output", "-o", help="ONNX file to write.")],
    checkpoint: Annotated[
        Path | None, typer.Option(help="Checkpoint of `hier train` to export.")
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="Exported encoder to make smaller, instead of --checkpoint.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Data set to prove the export on, with the change of Recall@1."),
    ] = None,
    int8: Annotated[
        bool,
        typer.Option("--int8", help="8-bit backbone, for CPUs; --data calibrates and judges it."),
    ] = False,
    fp16: Annotated[
        bool, typer.Option("--fp16", help="Half-precision backbone, for GPUs; --data judges it.")
    ] = False,
    largest_loss: Annotated[
        float, typer.Option(help="Points of Recall@1 that --int8 and --fp16 may cost.")
    ] = 1.0,
    tolerance: Annotated[
        float, typer.Option(help="Largest difference of a coordinate that is accepted.")
    ] = 1e-3,
    data_root: options.DataRoot = None,
    json_output: options.Json = False,
) -> None:
    """Write an encoder as one ONNX file that emits points of the ball, with proof that it agrees.

    --int8 and --fp16 write a smaller variant with a report: Recall@1, overlap of the 10 nearest
    with the float32 encoder's, size and speed of both. A variant has an index of its own.

    Examples:

    - `hier export --checkpoint runs/cub-001/best.pt -o birds.onnx`

    - `hier export --checkpoint runs/cub-001/best.pt -o birds.onnx --data cub`

    - `hier export --model birds.onnx -o birds.int8.onnx --int8 --data cub`
    """
    if (checkpoint is None) == (model is None):
        raise InputError("expected one of --checkpoint and --model: what is to be exported?")
    if int8 and fp16:
        raise InputError("expected one of --int8 and --fp16: write one file after the other")
    if model is not None and not (int8 or fp16):
        raise InputError("--model is exported already: add --int8 or --fp16 to make it smaller")
    if (int8 or fp16) and data is None:
        raise InputError(
            "expected --data with --int8 and --fp16: a variant is judged on pictures (a benchmark, "
            "a folder of class folders, or a manifest)"
        )
    from hiercli.data import catalogue
    from hiercli.data.records import Dataset

    def pictures(seed: int) -> Dataset:
        return catalogue.load(str(data), data_root, seed=seed, to_train=False)

    if data is None:
        say("proving the export on random pixels; --data proves it on pictures")
    proof: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, progress("proving") as bar:
        whole = model
        if checkpoint is not None:
            from hiercli.onnx_export import export as write

            whole = Path(folder) / "whole.onnx" if int8 or fp16 else output
            proof = write(
                checkpoint, whole, data=pictures if data else None, tolerance=tolerance,
                progress=bar,
            )  # fmt: skip
        if whole is not None and (int8 or fp16):
            from hiercli import precision
            from hiercli.encoder import onnx_file

            seed = onnx_file.read(whole).metadata.seed
            proof = precision.reduce(
                whole, output, "int8" if int8 else "fp16", pictures(seed),
                largest_loss=largest_loss, progress=bar,
            )  # fmt: skip
    for problem in proof.get("skipped", ()):
        warn(problem)
    if json_output:
        print(json.dumps({"model": str(output), **proof}))
    else:
        rows = [
            [name, f"{value:.4g}" if isinstance(value, float) else str(value)]
            for name, value in proof.items()
            if name != "skipped"
        ]
        table(str(output), ["", "proof"], rows)
    if proof.get("skipped"):
        raise typer.Exit(EXIT_SKIPPED)
