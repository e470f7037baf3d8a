"""`hier export`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from hiercli.cli import options
from hiercli.cli.render import progress, say, table


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
    from hiercli.export import export as write

    dataset = catalogue.load(data, data_root) if data else None
    if dataset is None:
        say("proving the export on random pixels; --data proves it on pictures")
    with progress("proving") as bar:
        proof = write(checkpoint, output, dataset=dataset, tolerance=tolerance, progress=bar)
    if json_output:
        print(json.dumps({"model": str(output), **proof}))
    else:
        table(str(output), ["", "proof"], [[name, f"{value:.4g}" if isinstance(value, float)
              else str(value)] for name, value in proof.items()])  # fmt: skip
