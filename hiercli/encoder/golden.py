"""Golden vectors: small pictures, the tensors they become, and the points an encoder gives.

They lie beside an exported encoder as one ``.npz`` (a zip of plain arrays), so that a port to
another language, another build of ONNX Runtime or another machine can check itself step by step:
first its preprocessing against the tensors, then its inference against the points.
"""

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image

from hiercli import numpy_files
from hiercli.encoder.encoder import Encoder
from hiercli.encoder.metadata import Metadata
from hiercli.errors import FileFormatError, ImageError, InputError, MismatchError
from hiercli.files import parse_json
from hiercli.images import Preprocessing, read

TENSOR_TOLERANCE = 0.05
"""Largest difference of a tensor's value that replaying accepts: JPEG decoders differ by a few
grey levels, of which one is about 0.01 to 0.02 after normalisation."""

POINT_TOLERANCES = {"fp32": 1e-3, "fp16": 0.01, "int8": 0.05}
"""Largest difference of a coordinate that replaying accepts, by precision: processors round 8-bit
sums in different ways."""


@dataclass(frozen=True)
class Replay:
    """How far a machine is from the golden vectors.

    Attributes:
        pictures: how many were replayed.
        tensor_difference: largest difference of the preprocessed pictures.
        point_difference: largest difference of a coordinate, from the golden tensors.
        whole_difference: largest difference of a coordinate, from the pictures.
        point_tolerance: largest difference of a coordinate that passes.
    """

    pictures: int
    tensor_difference: float
    point_difference: float
    whole_difference: float
    point_tolerance: float

    @property
    def passed(self) -> bool:
        """Whether all differences are within tolerance."""
        # One by one: the largest of some numbers may not be a number, and hide it.
        return (
            self.tensor_difference <= TENSOR_TOLERANCE
            and self.point_difference <= self.point_tolerance
            and self.whole_difference <= self.point_tolerance
        )


def golden_path(model: Path) -> Path:
    """Where the golden vectors of an exported encoder lie."""
    return model.with_name(f"{model.stem}.golden.npz")


def write(
    file: Path,
    metadata: Metadata,
    digest: str,
    run: Callable[[np.ndarray], np.ndarray],
    proof: dict[str, Any],
) -> None:
    """Write the golden vectors of an encoder.

    Args:
        file: to write to.
        metadata: of the encoder.
        digest: of its file, which binds the two.
        run: (B, 3, size, size) pixels to points (B, D); the source that the export must follow.
        proof: kept with them for people to read.
    """
    pictures = _pictures()
    tensors = np.stack(
        [_tensor(name, content, metadata.preprocessing) for name, content in pictures.items()]
    )
    about = {
        "fingerprint": metadata.fingerprint,
        "digest": digest,
        "preprocessing": metadata.preprocessing.to_dict(),
        "pictures": list(pictures),
        "tensor_tolerance": TENSOR_TOLERANCE,
        "point_tolerance": POINT_TOLERANCES[metadata.precision],
        "proof": proof,
    }
    arrays: dict[str, Any] = {
        f"picture/{name}": np.frombuffer(data, np.uint8) for name, data in pictures.items()
    }
    with open(file, "wb") as target:
        np.savez_compressed(
            target,
            about=np.frombuffer(json.dumps(about).encode(), np.uint8),
            tensors=tensors,
            points=run(tensors),
            **arrays,
        )


def replay(session: Encoder, file: Path) -> Replay:
    """Take the golden pictures through this machine's preprocessing and inference.

    Raises:
        InputError: the file is missing.
        FileFormatError: it is damaged or foreign.
        MismatchError: it belongs to another encoder.
    """
    if not file.is_file():
        raise InputError(
            f"expected the golden vectors of {session.path}, but {file} is missing. `hier export` "
            "writes it beside the encoder"
        )
    arrays = numpy_files.read_npz(file, ("about", "tensors", "points"))
    try:
        about = parse_json(arrays["about"].tobytes())
        tensors, points = arrays["tensors"], arrays["points"]
        names = [str(name) for name in about["pictures"]]
        held = numpy_files.read_npz(file, [f"picture/{name}" for name in names])
        pictures = {name: held[f"picture/{name}"].tobytes() for name in names}
        belongs = str(about["digest"]) == session.digest
        expected = (len(pictures), session.metadata.embedding_dim)
        if {tensors.dtype, points.dtype} != {np.dtype(np.float32)} or points.shape != expected:
            raise ValueError(f"points of {points.dtype} {points.shape}, expected {expected}")
        found = np.stack(
            [_tensor(n, data, session.metadata.preprocessing) for n, data in pictures.items()]
        )
        if found.shape != tensors.shape:
            raise ValueError(f"tensors of shape {tensors.shape}, images of shape {found.shape}")
    except (ValueError, KeyError, TypeError, AttributeError, ImageError) as error:
        raise FileFormatError(
            f"{file} does not contain golden vectors, or is damaged ({error}). Export the encoder "
            "again"
        ) from error
    if not belongs:
        raise MismatchError(
            f"{file} does not belong to {session.path}. Name the golden vectors of this export, "
            "or export again"
        )
    return Replay(
        pictures=len(found),
        tensor_difference=float(np.abs(found - tensors).max()),
        point_difference=float(np.abs(session.run(tensors) - points).max()),
        whole_difference=float(np.abs(session.run(found) - points).max()),
        point_tolerance=POINT_TOLERANCES[session.metadata.precision],
    )


def _tensor(name: str, content: bytes, preprocessing: Preprocessing) -> np.ndarray:
    return preprocessing(read(name, preprocessing.shortest_side, content))


def _pictures() -> dict[str, bytes]:
    """What preprocessing gets wrong first: orientation, transparency, depth, palettes, shapes."""
    across, down = np.meshgrid(np.linspace(0, 1, 150), np.linspace(0, 1, 100))
    rings = 0.5 + 0.5 * np.sin(20 * np.hypot(across - 0.3, down - 0.6))
    colours = np.stack([across, down, rings], axis=2)
    wide = Image.fromarray((255 * colours).astype(np.uint8))
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    clear = wide.convert("RGBA")
    clear.putalpha(Image.fromarray((255 * rings).astype(np.uint8)))
    deep = Image.fromarray((65535 * rings[:, :100]).astype(np.uint16))
    return {
        "wide.png": _encoded(wide, "PNG"),
        "turned.jpg": _encoded(wide, "JPEG", exif=turned, quality=95),
        "transparent.png": _encoded(clear, "PNG"),
        "grey16.png": _encoded(deep, "PNG"),
        "palette.png": _encoded(wide.transpose(Image.Transpose.ROTATE_90).quantize(32), "PNG"),
    }


def _encoded(picture: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()
