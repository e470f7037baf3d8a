"""Whether there is a GPU, and whether the ONNX Runtime that is installed could use it."""

import ctypes
import functools
import os


@functools.cache
def num_gpus() -> int:
    """How many CUDA devices the driver knows; 0 without a driver."""
    name = "nvcuda.dll" if os.name == "nt" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(name)
        count = ctypes.c_int(0)
        if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
            return 0
    except (OSError, AttributeError):
        return 0
    return count.value


def missing_gpu_build() -> str:
    """What to do where the CPU build of ONNX Runtime lies over the GPU build; mostly empty."""
    import importlib.metadata

    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        return ""
    both = {"onnxruntime", "onnxruntime-gpu"}
    installed = {str(one.name).lower() for one in importlib.metadata.distributions()}
    if both <= installed:
        return (
            "the packages onnxruntime and onnxruntime-gpu are both installed, and the CPU build "
            "hides the GPU build: running on the CPU. Run `pip uninstall onnxruntime "
            "onnxruntime-gpu`, then `pip install onnxruntime-gpu`"
        )
    return (
        "this ONNX Runtime was built without CUDA: running on the CPU. Run `pip install "
        "onnxruntime-gpu`"
    )
