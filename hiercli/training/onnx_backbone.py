"""The backbone of a run by ONNX Runtime, which on a CPU is several times as fast as torch.

Batch normalisation is folded into the convolutions before it. The graph is traced once, and given
the weights of the moment before each pass over the images.
"""

import copy
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from hiercli.nn import onnx_graph

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

FEWEST_IMAGES = 1000
"""For which tracing pays: it takes as long as torch needs for some 500."""
_TOLERANCE = 1e-3
"""Largest difference from torch's features, over their largest value."""


class OnnxBackbone:
    """Pooled features of a backbone, float32 (B, 3, size, size) -> (B, F), as torch gives them.

    Each call keeps one core busy; several threads can call at once.

    Args:
        backbone: on the CPU, with batch normalisation.
        size: side of its input in pixels.

    Raises:
        Exception: torch cannot export it; see `onnx_graph.trace`.
    """

    def __init__(self, backbone: nn.Module, size: int) -> None:
        own = copy.deepcopy(backbone).eval().to(memory_format=torch.contiguous_format)
        self._graph = onnx_graph.trace(own, size, output="features", optimize=False)
        self._session: InferenceSession | None = None
        self.put(backbone)

    def put(self, backbone: nn.Module) -> None:
        """Take over the present weights of the backbone that was traced."""
        import onnx
        import onnxscript.optimizer
        from onnx import numpy_helper
        from onnxruntime import InferenceSession, SessionOptions

        weights = backbone.state_dict()
        graph = onnx.ModelProto()
        graph.CopyFrom(self._graph)
        for constant in graph.graph.initializer:
            if constant.name in weights:
                value = np.ascontiguousarray(weights[constant.name].detach().numpy())
                constant.CopyFrom(numpy_helper.from_array(value, constant.name))
        options = SessionOptions()
        options.intra_op_num_threads = 1
        content = onnxscript.optimizer.optimize(graph).SerializeToString()
        self._session = InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def __call__(self, pixels: Tensor) -> Tensor:
        assert self._session is not None
        features: np.ndarray = self._session.run(None, {"pixels": pixels.contiguous().numpy()})[0]
        return torch.from_numpy(features)


@torch.inference_mode()
def of(backbone: nn.Module, size: int, device: torch.device) -> OnnxBackbone | None:
    """The backbone by ONNX Runtime, where that is faster and gives what torch gives.

    Args:
        backbone: in evaluation mode.
        size: side of its input in pixels.
        device: that it runs on.
    """
    convolutional = any(isinstance(part, _BatchNorm) for part in backbone.modules())
    if device.type != "cpu" or not convolutional:
        return None
    try:
        found = OnnxBackbone(backbone, size)
    except Exception:  # the exporter's errors are of nearly every kind
        return None
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(4, 3, size, size, generator=generator)
    expected = backbone(pixels.to(memory_format=torch.channels_last))
    apart = (found(pixels) - expected).abs().max() / expected.abs().max()
    return found if apart <= _TOLERANCE else None
