"""Small files that lie beside a model of another program and say how to use it."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hiercli.errors import FileFormatError
from hiercli.files import parse_json, read_text

_MOST_BYTES = 2**24


def companion(model: Path, names: Sequence[str]) -> Path | None:
    """The first file of these names in the folder of a model, or else in the folder above it.

    Args:
        model: the ONNX file. Where it is a link, the folder of the link counts.
        names: the most wanted first.
    """
    folder = Path(os.path.abspath(model)).parent
    for place in (folder, folder.parent):
        for name in names:
            if (place / name).is_file():
                return place / name
    return None


def settings(file: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        InputError: it cannot be read, or is far too large.
        FileFormatError: it is no JSON object.
    """
    try:
        found = parse_json(read_text(file, most=_MOST_BYTES))
    except ValueError as error:
        raise FileFormatError(f"{file} is not valid JSON ({error}). Copy it again") from error
    if not isinstance(found, dict):
        raise FileFormatError(f"expected a JSON object in {file}, got a {type(found).__name__}")
    return found
