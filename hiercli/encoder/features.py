"""The features that an exported encoder computes of images before it maps them into the ball."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hiercli.encoder.encoder import Encoder
from hiercli.encoder.parts import Parts
from hiercli.encoder.sessions import CPU, open_session
from hiercli.errors import FileFormatError, InputError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession


class FeatureEncoder(Encoder):
    """An exported encoder up to its pooled features; `stream` gives features instead of points.

    Args:
        path, device, threads, batch: see `Encoder`.

    Attributes:
        parts: of the encoder.

    Raises:
        InputError, FileFormatError: as `Encoder`; also where it has no head of the usual form.
    """

    def __init__(
        self, path: Path | str, device: str = "auto", *, threads: int = 0, batch: int = 0
    ) -> None:
        super().__init__(path, device, threads=threads, batch=batch)
        try:
            self.parts = Parts.of(self.path)
            self._content = self.parts.backbone.SerializeToString()
        except Exception as error:  # onnx's own errors are of nearly every kind
            raise FileFormatError(
                f"the head of {path} is not one that `hier export` writes. Export it again"
            ) from error
        self._session = open_session(self._content, self._session.get_providers(), threads)

    def run(self, pixels: np.ndarray) -> np.ndarray:
        """Float32 pixels (B, 3, size, size) to features (B, F).

        Raises:
            InputError: the runtime fails, or features are not finite.
        """
        try:
            features: np.ndarray = self._session.run(None, {self.input_name: pixels})[0]
        except Exception as error:  # ONNX Runtime's own errors share no base but this
            raise InputError(f"ONNX Runtime cannot run {self.path} ({error})") from error
        if features.ndim != 2 or not np.isfinite(features).all():
            raise InputError(f"{self.path} computes features that are not finite numbers")
        return features

    def _narrow_session(self) -> "InferenceSession":
        return open_session(self._content, [CPU], 1)
