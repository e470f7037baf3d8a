"""Exact search on a GPU by ONNX Runtime: lifted points lie there, MatMul and TopK find the nearest.

It gives what FAISS's flat index gives, float32 products and all, so candidates are made sure of and
ordered as there (`neighbours`).
"""

import numpy as np
import onnxruntime
from onnx import TensorProto, helper

from hiercli.errors import InputError

_CUDA = "CUDAExecutionProvider"
_PRODUCTS = 2**28
"""Products held at once: 1 GiB."""


class DeviceSearch:
    """Rows on a device, to be searched by inner product.

    Args:
        ids: (N,) of the rows.
        rows: (N, D+1) float32 lifted points.
        device: cuda; cpu shows the same on the CPU.

    Raises:
        InputError: the GPU cannot be used, or has too little memory for the rows.
    """

    def __init__(self, ids: np.ndarray, rows: np.ndarray, device: str = "cuda") -> None:
        self._ids, self._device = ids, device
        # TensorFloat-32 has ten bits, where the bound on candidates takes float32's for granted.
        providers = [(_CUDA, {"use_tf32": "0"})] if device == "cuda" else ["CPUExecutionProvider"]
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        graph = _graph(rows.shape[1])
        try:
            self._session = onnxruntime.InferenceSession(graph, options, providers=providers)
            if device == "cuda" and self._session.get_providers()[0] != _CUDA:
                raise RuntimeError("driver, CUDA and cuDNN must match its build")
            self._rows = onnxruntime.OrtValue.ortvalue_from_numpy(rows, device, 0)
        except Exception as error:  # ONNX Runtime's own errors share no base but this
            raise InputError(
                f"the GPU cannot be used ({str(error).splitlines()[0]}): searching on the CPU"
            ) from error

    def __call__(self, queries: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Products and ids of the ``width`` rows with the largest products, (Q, width) each.

        Args:
            queries: (Q, D+1) float32, see `neighbours.as_queries`.
            width: at most N.
        """
        products = np.empty((len(queries), width), np.float32)
        ids = np.empty((len(queries), width), np.int64)
        step = max(1, _PRODUCTS // len(self._ids))
        for first in range(0, len(queries), step):
            part = slice(first, first + step)
            binding = self._session.io_binding()
            binding.bind_cpu_input("queries", np.ascontiguousarray(queries[part]))
            binding.bind_cpu_input("width", np.array([width], np.int64))
            binding.bind_ortvalue_input("rows", self._rows)
            binding.bind_output("products")
            binding.bind_output("places")
            self._session.run_with_iobinding(binding)
            products[part], places = binding.copy_outputs_to_cpu()
            ids[part] = self._ids[places]
        return products, ids


def _graph(dim: int) -> bytes:
    real, whole = TensorProto.FLOAT, TensorProto.INT64
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["queries", "rows"], ["all"], transB=1),
            helper.make_node("TopK", ["all", "width"], ["products", "places"]),
        ],
        "search",
        [
            helper.make_tensor_value_info("queries", real, ["Q", dim]),
            helper.make_tensor_value_info("rows", real, ["N", dim]),
            helper.make_tensor_value_info("width", whole, [1]),
        ],
        [
            helper.make_tensor_value_info("products", real, ["Q", "K"]),
            helper.make_tensor_value_info("places", whole, ["Q", "K"]),
        ],
    )
    opset = [helper.make_opsetid("", 18)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=8)
    content: bytes = model.SerializeToString()
    return content
