"""`hier verify`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from hiercli.cli import options
from hiercli.cli.render import say, table
from hiercli.errors import EXIT_INPUT


def verify(
    model: Annotated[Path, typer.Argument(help="Check this encoder written by `hier export`.")],
    golden: Annotated[
        Path | None,
        typer.Option(help="Use these golden vectors instead of those beside the encoder."),
    ] = None,
    device: options.Device = "auto",
    json_output: options.Json = False,
) -> None:
    """Check that the outputs of an encoder on this machine match those at export.

    The export includes small test images. They are decoded, resized and embedded, and tensors and
    points are compared. The exit code is 2 if they differ by more than rounding.

    Examples:

    - `hier verify birds.onnx`
    """
    from hiercli.encoder import golden as vectors
    from hiercli.encoder.encoder import Encoder

    session = Encoder(model, device=device)
    if session.fallback:
        say(session.fallback)
    done = vectors.replay(session, golden or vectors.golden_path(model))
    if json_output:
        print(json.dumps({"model": str(model), "passed": done.passed, **asdict(done)}))
    else:
        rows = [
            ["images", str(done.pictures), ""],
            ["tensors", f"{done.tensor_difference:.2g}", f"{vectors.TENSOR_TOLERANCE:g}"],
            ["points from the stored tensors", f"{done.point_difference:.2g}",
             f"{done.point_tolerance:g}"],
            ["points from the images", f"{done.whole_difference:.2g}",
             f"{done.point_tolerance:g}"],
        ]  # fmt: skip
        table(str(model), ["", "largest difference", "accepted"], rows)
    if not done.passed:
        say(f"the outputs of {model} differ from those at export. Compare the versions of Pillow "
            "and ONNX Runtime, and run with --device cpu")  # fmt: skip
        raise typer.Exit(EXIT_INPUT)
