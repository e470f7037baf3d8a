"""Which device a run uses, and in which arithmetic its backbone computes."""

from pathlib import Path

import torch
from torch import nn

from hiercli.errors import TrainingError


def choose_device(name: str) -> torch.device:
    """The device called ``name``; ``auto`` takes the GPU where there is one.

    Raises:
        TrainingError: it is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise TrainingError(
            f"expected a device of auto, cpu, cuda or cuda:N, got {name!r}"
        ) from error
    if device.type not in ("cpu", "cuda"):
        raise TrainingError(f"expected a device of auto, cpu, cuda or cuda:N, got {name!r}")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise TrainingError("no CUDA device can be used on this machine. Use --device cpu or auto")
    return device


def choose_precision(name: str, device: torch.device, backbone: nn.Module) -> torch.dtype:
    """Arithmetic of the backbone; ``auto`` takes bfloat16 where it is the faster one."""
    if name != "auto":
        return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[name]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    # Without these instructions bfloat16 is emulated, and slower than float32.
    fast = torch.backends.cpu.get_cpu_capability().startswith("AVX512") and _has_bf16()
    return torch.bfloat16 if fast and not _has_depthwise(backbone) else torch.float32


def _has_depthwise(backbone: nn.Module) -> bool:
    """Whether it waits for memory rather than for products, so that conversions cost more."""
    return any(isinstance(m, nn.Conv2d) and m.groups == m.in_channels > 1
               for m in backbone.modules())  # fmt: skip


def _has_bf16() -> bool:
    try:
        return "avx512_bf16" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
