"""A network of torch as an ONNX graph."""

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    import onnx

_OPSET = 18


def trace(
    network: nn.Module, size: int, *, output: str, optimize: bool = True
) -> "onnx.ModelProto":
    """The graph of a network that maps ``pixels`` (B, 3, size, size) float32, for any B.

    The random state is left as it is.

    Args:
        network: on the CPU, in evaluation mode.
        size: side of its input in pixels.
        output: name of what it gives.
        optimize: fold what is constant. Without it, weights keep the names of `state_dict`.

    Raises:
        Exception: torch cannot export it. The exporter's errors are of nearly every kind.
    """
    with torch.random.fork_rng(devices=[]):
        program: Any = torch.onnx.export(
            network,
            (torch.randn(2, 3, size, size),),
            dynamo=True,
            opset_version=_OPSET,
            input_names=["pixels"],
            output_names=[output],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            optimize=optimize,
            verbose=False,
        )
    graph: onnx.ModelProto = program.model_proto
    return graph
