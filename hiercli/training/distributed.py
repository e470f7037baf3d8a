"""Several processes that train one encoder as a single one would with the whole batch.

Each process embeds its share of a batch. The points are gathered, so that every process sees the
whole batch and computes the same loss; each sends the gradient through its own points only, and
what they find is averaged over all parameters, losses' proxies included.
"""

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hiercli.errors import EXIT_INTERRUPTED, InputError, ReportedError, TrainingError

T = TypeVar("T")
_BUCKET = 25 * 2**20
"""Numbers that are averaged in one message."""


@contextlib.contextmanager
def _company() -> Iterator[None]:
    """Around every message: a process that waits for one that has ended says so."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise TrainingError(
            "another process of this training has ended. Its error is on stderr. Fix it, then run "
            "the same command with --resume"
        ) from error


class _Gather(torch.autograd.Function):
    """Concatenate the points of all processes; the gradient goes back to one's own.

    Every process computes the same loss from all points, and gradients are averaged afterwards:
    so the own slice is multiplied by the number of processes. The published code leaves that out,
    and its gradients come out too small by that factor.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, rank: int, size: int, factor: float) -> Tensor:
        ctx.own, ctx.factor = slice(rank * len(x), (rank + 1) * len(x)), factor
        parts = [torch.empty_like(x) for _ in range(size)]
        with _company():
            dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None, None]:
        return grad_outputs[0][ctx.own] * ctx.factor, None, None, None


@dataclass(frozen=True)
class World:
    """The processes that train together; a single one by default.

    Attributes:
        rank: number of this process, from 0. The one with 0 writes files and talks.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and talks."""
        return self.rank == 0

    def share(self, batch_size: int) -> slice:
        """This process's part of a batch.

        Raises:
            InputError: the processes do not divide it.
        """
        if batch_size % self.size:
            raise InputError(
                f"expected a batch size that {self.size} processes can share evenly, got "
                f"{batch_size} images. Choose another --batch-size or --processes"
            )
        own = batch_size // self.size
        return slice(self.rank * own, (self.rank + 1) * own)

    def gather(self, x: Tensor, *, divided_twice: bool = False) -> Tensor:
        """Points of all processes in the order of the batch, (B / size, D) -> (B, D).

        Args:
            x: the points of this process.
            divided_twice: let `average_gradients` divide the gradient of ``x`` by the number of
                processes once more, as the published code does.
        """
        if self.size == 1:
            return x
        factor = 1.0 if divided_twice else float(self.size)
        gathered: Tensor = _Gather.apply(x, self.rank, self.size, factor)  # type: ignore[no-untyped-call]
        return gathered

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace each gradient by its mean over the processes."""
        self._average([p.grad for p in parameters if p.grad is not None])

    def average_buffers(self, module: nn.Module) -> None:
        """Replace running statistics, which each process took from its share, by their mean."""
        self._average([buffer for buffer in module.buffers() if buffer.is_floating_point()])

    @torch.no_grad()
    def _average(self, tensors: list[Tensor]) -> None:
        if self.size == 1:
            return
        while tensors:
            count, cells = 0, 0
            while count < len(tensors) and (count == 0 or cells < _BUCKET):
                cells += tensors[count].numel()
                count += 1
            bucket, tensors = tensors[:count], tensors[count:]
            flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
            with _company():
                dist.all_reduce(flat)
            flat /= self.size
            means = torch.split(flat, [tensor.numel() for tensor in bucket])
            for tensor, mean in zip(bucket, means, strict=True):
                tensor.copy_(mean.view_as(tensor))

    def same(self, value: T) -> T:
        """The main process's ``value``, in all of them."""
        if self.size == 1:
            return value
        box = [value]
        with _company():
            dist.broadcast_object_list(box)
        return box[0]

    def collect(self, value: T) -> list[T]:
        """Every process's ``value``, by rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        with _company():
            dist.all_gather_object(values, value)
        return values


def is_launched() -> bool:
    """Whether this process was started by torchrun, ours or the user's."""
    return "LOCAL_RANK" in os.environ and "MASTER_ADDR" in os.environ


def join(device: str) -> tuple[World, str]:
    """Meet the other processes that torchrun started, if it did.

    Args:
        device: as in the recipe; ``auto`` and ``cuda`` become this process's own GPU.

    Returns:
        (the processes, the device to use).

    Raises:
        TrainingError: there are more processes than GPUs, or the others cannot be reached.
    """
    if not is_launched():
        return World(), device
    on_gpu = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    if on_gpu:
        local = int(os.environ["LOCAL_RANK"])
        if local >= torch.cuda.device_count():
            raise TrainingError(
                f"expected a GPU for each process, found {torch.cuda.device_count()} for "
                f"{os.environ.get('LOCAL_WORLD_SIZE', '?')}. Lower --processes, or use --device "
                "cpu"
            )
        device = f"cuda:{local}"
        torch.cuda.set_device(local)
    if not dist.is_initialized():
        try:
            dist.init_process_group("nccl" if on_gpu else "gloo")
        except (RuntimeError, ValueError) as error:
            first = str(error).splitlines()[0]
            raise TrainingError(f"the other processes cannot be reached: {first}") from error
    return World(dist.get_rank(), dist.get_world_size()), device


def leave() -> None:
    """Part from the other processes, if there are any."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def launch(processes: int, words: Sequence[str]) -> None:
    """Run `hier` with the same ``words`` in ``processes`` processes, under torchrun's engine.

    Raises:
        ReportedError: one of them failed; its message is on stderr.
    """
    import logging

    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # torch's report of a failure, spread over several loggers, would bury the one message that
    # the failing process wrote; this process itself logs nothing and ends after the launch.
    logging.disable(logging.CRITICAL)
    threads = max(1, (os.cpu_count() or 1) // processes)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=processes, run_id="hier",
        rdzv_backend="c10d", rdzv_endpoint="localhost:0", max_restarts=0, monitor_interval=0.1,
    )  # fmt: skip
    try:
        elastic_launch(config, sys.executable)("-m", "hiercli", *words)
    except ChildFailedError as error:
        first = min(error.failures.values(), key=lambda failure: failure.timestamp)
        code = int(first.exitcode)
        raise ReportedError(code if code > 0 else 128 - code) from error
    except (SignalException, KeyboardInterrupt) as error:
        raise ReportedError(EXIT_INTERRUPTED) from error
