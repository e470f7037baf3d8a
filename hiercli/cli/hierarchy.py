"""`hier hierarchy`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from hiercli.errors import InputError


class Format(StrEnum):
    """How the tree is written."""

    text = "text"
    json = "json"
    newick = "newick"


def hierarchy(
    checkpoint: Annotated[
        Path | None, typer.Option(help="Checkpoint of `hier train`, or an exported .onnx.")
    ] = None,
    model: Annotated[Path | None, typer.Option(help="Encoder written by `hier export`.")] = None,
    format: Annotated[Format, typer.Option(help="How to write the tree.")] = Format.text,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write instead of stdout.")
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Same as --format json.")] = False,
) -> None:
    """Show the tree of hierarchical proxies and classes that training discovered.

    Classes are leaves; each inner node is the proxy that is their lowest common ancestor.

    Examples:

    - `hier hierarchy --checkpoint ckpt.pt`

    - `hier hierarchy --model birds.onnx --format newick -o birds.nwk`
    """
    source = checkpoint or model
    if source is None or (checkpoint and model):
        raise InputError("expected one of --checkpoint and --model")
    from hiercli.files import write_text
    from hiercli.hierarchy import formats, tree

    if model is not None or source.suffix == ".onnx":
        from hiercli.encoder.session import EncoderSession

        metadata = EncoderSession(source).metadata
        parts = (metadata.class_points, metadata.class_names, metadata.proxies, metadata.c)
    else:
        from hiercli.training import checkpoint as checkpoints

        content = checkpoints.read(source)
        parts = (
            content["class_points"].numpy(),
            content["class_names"],
            content["proxies"].numpy(),
            content["recipe"]["c"],
        )
    text = formats.WRITERS["json" if json_output else format](tree.build(*parts))
    if output is None:
        print(text)
    else:
        write_text(output, text + "\n")
