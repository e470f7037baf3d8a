"""Which encoder serves when none is named."""

from pathlib import Path

from hiercli.errors import InputError

NAME = "general.onnx"


def default_model() -> Path:
    """``models/general.onnx`` of the current folder, or of the source tree hier runs from.

    Raises:
        InputError: there is none.
    """
    for folder in (Path.cwd(), Path(__file__).parents[2]):
        model = folder / "models" / NAME
        if model.is_file():
            return model
    raise InputError(
        "expected an encoder: name one with --model (written by `hier export`), or set HIER_MODEL; "
        f"models/{NAME} was not found either"
    )
