"""Which encoder serves when none is named."""

from pathlib import Path

from hiercli.errors import InputError

NAME = "general.onnx"


def default_model() -> Path:
    """The general encoder that came with hier.

    Raises:
        InputError: there is none.
    """
    package = Path(__file__).parents[1]
    # Installed from a wheel the models lie in the package, in a source tree beside it. One that
    # lies in the current folder may be anybody's.
    for folder in (package, package.parent):
        model = folder / "models" / NAME
        if model.is_file():
            return model
    raise InputError(
        f"expected an encoder, but the general encoder {NAME} is missing from this installation. "
        "Name an encoder written by `hier export` with --model or HIER_MODEL"
    )
