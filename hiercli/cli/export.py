"""`hier export`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from hiercli.cli import options
from hiercli.cli.render import progress, say, table, warn
from hiercli.errors import EXIT_SKIPPED


def export(
    checkpoint: Annotated[Path, typer.Option(help="Checkpoint of `hier train`.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="ONNX file to write.")],
    data: Annotated[
        str | None,
        typer.Option(help="Data set to prove the export on, with the change of Recall@1."),
    ] = None,
    tolerance: Annotated[
        float, typer.Option(help="Largest difference of a coordinate that is accepted.")
    ] = 1e-3,
    data_root: options.DataRoot = None,
    json_output: options.Json = False,
) -> None:
    """Write an encoder as one ONNX file that emits points of the ball, with proof that it agrees.

    Examples:

    - `hier export --checkpoint runs/cub-001/best.pt -o birds.onnx`

    - `hier export --checkpoint runs/cub-001/best.pt -o birds.onnx --data cub`
    """
    from hiercli.data import catalogue
    from hiercli.data.records import Dataset
    from hiercli.export import export as write

    def pictures(seed: int) -> Dataset:
        return catalogue.load(str(data), data_root, seed=seed)

    if data is None:
        say("proving the export on random pixels; --data proves it on pictures")
    with progress("proving") as bar:
        proof = write(
            checkpoint, output, data=pictures if data else None, tolerance=tolerance, progress=bar
        )
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
