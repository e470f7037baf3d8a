"""Sessions of ONNX Runtime, and the devices that they run on."""

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from hiercli.encoder.gpu import num_gpus
from hiercli.errors import InputError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

DEVICES = ("auto", "cpu", "cuda")
CUDA = "CUDAExecutionProvider"
CPU = "CPUExecutionProvider"


def providers_for(device: str) -> tuple[list[str], bool]:
    """What ONNX Runtime calls a device, and whether a GPU is wanted.

    Raises:
        InputError: there is no such device.
    """
    import onnxruntime

    if device not in DEVICES:
        raise InputError(f"expected a device of {', '.join(DEVICES)}, got {device!r}")
    wants_gpu = device == "cuda" or (device == "auto" and num_gpus() > 0)
    has_cuda = wants_gpu and CUDA in onnxruntime.get_available_providers()
    return ([CUDA, CPU] if has_cuda else [CPU]), wants_gpu


def open_session(
    content: bytes,
    providers: Sequence[str],
    threads: int,
    weights: Mapping[str, bytes] | None = None,
) -> "InferenceSession":
    """ONNX Runtime, ready to run a graph on some cores; 0: on all.

    Args:
        content: an ONNX file.
        providers: of ONNX Runtime, the most wanted first.
        threads: cores.
        weights: bytes of further files that the graph names.

    Raises:
        InputError: ONNX Runtime is too old for weights in further files.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # what it would log of a missing GPU, `fallback` says
    # What was read and checked is what is run: no other file is looked into.
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", os.devnull
    )
    if weights:
        if not hasattr(options, "add_external_initializers_from_files_in_memory"):
            raise InputError(
                f"expected an ONNX Runtime that takes weights in further files, got version "
                f"{onnxruntime.__version__}. Update it"
            )
        options.add_external_initializers_from_files_in_memory(
            list(weights), list(weights.values()), [len(data) for data in weights.values()]
        )
    # Where there is nothing to fall back to, ONNX Runtime would say so on stdout and fail again.
    fallback = int(len(providers) > 1)
    return onnxruntime.InferenceSession(
        content, options, providers=list(providers), enable_fallback=fallback
    )
