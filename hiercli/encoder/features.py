"""The features that an exported encoder computes of images before it maps them into the ball."""

import numpy as np
import onnx

from hiercli.encoder.encoder import Encoder
from hiercli.encoder.parts import Parts
from hiercli.errors import FileFormatError, InputError


class FeatureEncoder(Encoder):
    """An exported encoder up to its pooled features; `stream` gives features instead of points.

    Args:
        path, device, threads, batch: see `Encoder`.

    Attributes:
        parts: of the encoder.

    Raises:
        InputError, FileFormatError: as `Encoder`; also where it has no head of the usual form.
    """

    parts: Parts

    def _graph(self, content: bytes) -> bytes:
        """The backbone alone; what comes behind it is not opened."""
        try:
            self.parts = Parts.cut(onnx.load_from_string(content))
            return self.parts.backbone.SerializeToString()
        except Exception as error:  # onnx's own errors are of nearly every kind
            raise FileFormatError(
                f"the head of {self.path} is not one that `hier export` writes. Export it again"
            ) from error

    def _output_dim(self) -> None:
        return None

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
