"""Exact search by ONNX Runtime: all lifted points lie in memory, MatMul and TopK find the nearest.

On a GPU they lie in its memory. On a CPU they are packed once as its kernels want them, which a
BLAS does at each call: small batches take half of the time or less.

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


class ResidentSearch:
    """Rows in the memory of a device, to be searched by inner product.

    Args:
        ids: (N,) of the rows.
        rows: (N, D+1) float32 lifted points; a CPU goes on reading them where they are.
        device: cuda or cpu.
        threads: of the CPU; 0 for all cores.

    Raises:
        InputError: the device cannot be used, or has too little memory for the rows.
    """

    def __init__(
        self, ids: np.ndarray, rows: np.ndarray, device: str = "cuda", threads: int = 0
    ) -> None:
        self._ids, self._device = ids, device
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = threads
        # Threads that wait in loops would take the processor from those that have work.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            rows = np.ascontiguousarray(rows)  # others would be copied, and could not be lent
            self._rows = onnxruntime.OrtValue.ortvalue_from_numpy(rows, device, 0)
            if device == "cuda":
                # TensorFloat-32 has ten bits; the bound on candidates takes float32's for granted.
                providers: list[object] = [(_CUDA, {"use_tf32": "0"})]
            else:
                providers = ["CPUExecutionProvider"]
                options.add_external_initializers(["rows"], [self._rows])
            graph = _graph(rows.shape, is_input=device == "cuda")
            self._session = onnxruntime.InferenceSession(graph, options, providers=providers)
            if device == "cuda" and self._session.get_providers()[0] != _CUDA:
                raise RuntimeError("driver, CUDA and cuDNN must match the build of ONNX Runtime")
        except Exception as error:  # ONNX Runtime's own errors share no base but this
            reason = str(error).splitlines()[0]
            raise InputError(
                f"the GPU cannot be used ({reason}): searching on the CPU"
                if device == "cuda"
                else f"the points cannot be packed in memory ({reason}): searching the FAISS file"
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
            if self._device == "cuda":
                binding.bind_ortvalue_input("rows", self._rows)
            binding.bind_output("products")
            binding.bind_output("places")
            self._session.run_with_iobinding(binding)
            products[part], places = binding.copy_outputs_to_cpu()
            ids[part] = self._ids[places]
        return products, ids


def _graph(shape: tuple[int, ...], *, is_input: bool) -> bytes:
    """The search as an ONNX model; its rows are an input, or an initializer that is given later."""
    real, whole = TensorProto.FLOAT, TensorProto.INT64
    inputs = [
        helper.make_tensor_value_info("queries", real, ["Q", shape[1]]),
        helper.make_tensor_value_info("width", whole, [1]),
    ]
    initializers = []
    if is_input:
        inputs.append(helper.make_tensor_value_info("rows", real, ["N", shape[1]]))
    else:
        rows = TensorProto(
            name="rows", data_type=real, dims=shape, data_location=TensorProto.EXTERNAL
        )
        rows.external_data.add(key="location", value="rows")
        initializers.append(rows)
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["queries", "rows"], ["all"], transB=1),
            helper.make_node("TopK", ["all", "width"], ["products", "places"]),
        ],
        "search",
        inputs,
        [
            helper.make_tensor_value_info("products", real, ["Q", "K"]),
            helper.make_tensor_value_info("places", whole, ["Q", "K"]),
        ],
        initializers,
    )
    opset = [helper.make_opsetid("", 18)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=8)
    content: bytes = model.SerializeToString()
    return content
