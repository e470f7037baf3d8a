"""Exported encoders: ONNX files that emit points of the ball, run without torch."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hiercli.encoder.encoder import Encoder
    from hiercli.encoder.pair import PairEncoder

__all__ = ["Encoder", "PairEncoder"]


def __getattr__(name: str) -> Any:
    if name == "Encoder":  # loaded when it is first used
        from hiercli.encoder.encoder import Encoder

        return Encoder
    if name == "PairEncoder":
        from hiercli.encoder.pair import PairEncoder

        return PairEncoder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
