"""Exported encoders: ONNX files that emit points of the ball, run without torch."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hiercli.encoder.encoder import Encoder

__all__ = ["Encoder"]


def __getattr__(name: str) -> Any:
    if name == "Encoder":  # loaded when it is first used
        from hiercli.encoder.encoder import Encoder

        return Encoder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
