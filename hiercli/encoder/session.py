"""Running an exported encoder: decoding ahead in threads, inference in ONNX Runtime."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from hiercli.encoder import onnx_file
from hiercli.encoder.gpu import missing_gpu_build, num_gpus
from hiercli.errors import FileFormatError, ImageError, InputError
from hiercli.images import read

Item = TypeVar("Item")
Note = TypeVar("Note")

DEVICES = ("auto", "cpu", "cuda")
_CUDA = "CUDAExecutionProvider"
_BATCHES_AHEAD = 3
"""Batches decoded before they are needed: enough to keep the network busy, bounded in memory."""


@dataclass(frozen=True)
class Embedded:
    """Points of a sequence of pictures.

    Attributes:
        points: (N, D) float32 in the ball.
        kept: positions, in the sequence, of the N that could be read.
        problems: position and reason of each one that could not.
    """

    points: np.ndarray
    kept: list[int]
    problems: list[tuple[int, str]]


class EncoderSession:
    """An exported encoder, ready to embed.

    Args:
        path: written by `hier export`.
        threads: cores for inference; 0: all.
        device: ``cuda``, ``cpu``, or ``auto``: cuda where there is a GPU. Without a usable GPU
            inference runs on the CPU, and `fallback` says so.
        batch: pictures that go through the network together; 0: 16 on a CPU, 128 on a GPU.

    Attributes:
        metadata: what the file says of the encoder.
        digest: of the file, see `onnx_file`.
        input_name: of the graph.
        fallback: why it does not run on the device that was asked for; mostly empty.

    Raises:
        InputError: missing.
        FileFormatError: not ONNX, damaged, changed since its export, or without our metadata.
    """

    def __init__(
        self, path: Path | str, *, threads: int = 0, device: str = "auto", batch: int = 0
    ) -> None:
        import onnxruntime

        if device not in DEVICES:
            raise InputError(f"expected a device of {', '.join(DEVICES)}, got {device!r}")
        self.path = Path(path)
        file = onnx_file.read(path)
        self.metadata, self.digest = file.metadata, file.digest
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4  # what it would log of a missing GPU, `fallback` says
        # Weights are in the file, where the digest vouches for them: no other file is looked into.
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", os.devnull
        )
        wants_gpu = device == "cuda" or (device == "auto" and num_gpus() > 0)
        providers = ["CPUExecutionProvider"]
        if wants_gpu and _CUDA in onnxruntime.get_available_providers():
            providers.insert(0, _CUDA)
        try:
            self._session = onnxruntime.InferenceSession(file.content, options, providers=providers)
            self.input_name = self._check_graph()
        except Exception as error:  # ONNX Runtime's own errors share no base but this
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise FileFormatError(
                f"{path} is not an ONNX file that can be run ({reason[0]}): export it again"
            ) from error
        self.batch = batch or (128 if self.device == "cuda" else 16)
        self.fallback = ""
        if wants_gpu and self.device == "cpu":
            self.fallback = missing_gpu_build() or (
                "ONNX Runtime finds no usable GPU (driver, CUDA and cuDNN must fit its build): "
                "running on the CPU"
            )

    def _check_graph(self) -> str:
        """The name of the only input; its shape and the output's must be those of the metadata."""
        (pixels,), (points,) = self._session.get_inputs(), self._session.get_outputs()
        side, dim = self.metadata.preprocessing.size, self.metadata.embedding_dim
        if pixels.shape[1:] != [3, side, side] or len(points.shape) != 2:
            raise ValueError(f"it takes {pixels.shape} and gives {points.shape}")
        if isinstance(points.shape[1], int) and points.shape[1] != dim:
            raise ValueError(f"it gives {points.shape[1]} dimensions, its metadata says {dim}")
        return str(pixels.name)

    @property
    def device(self) -> str:
        """What inference runs on: cpu or cuda."""
        return "cuda" if self._session.get_providers()[0].startswith("CUDA") else "cpu"

    def run(self, pixels: np.ndarray) -> np.ndarray:
        """Float32 pixels (B, 3, size, size) to points of the ball (B, D).

        Raises:
            InputError: the runtime fails, for instance for want of memory.
            FileFormatError: what it gives are no such points.
        """
        try:
            points: np.ndarray = self._session.run(None, {self.input_name: pixels})[0]
        except Exception as error:  # ONNX Runtime's own errors share no base but this
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise InputError(
                f"ONNX Runtime cannot run {self.path} on {len(pixels)} images ({reason}): lower "
                "--batch, or use --device cpu"
            ) from error
        expected = (len(pixels), self.metadata.embedding_dim)
        if points.shape != expected or points.dtype != np.float32:
            raise FileFormatError(
                f"expected points of {expected} from {self.path}, got {points.dtype} "
                f"{points.shape}: export it again"
            )
        # Not so where a number is none.
        if not (self.metadata.c * np.square(points, dtype=np.float64).sum(axis=1) < 1).all():
            raise FileFormatError(
                f"{self.path} gives points that are not finite, or not inside the ball of "
                f"curvature -{self.metadata.c:g}: export it again"
            )
        return points

    def embed(
        self,
        paths: Sequence[Path | str],
        *,
        progress: Callable[[int, int], None] | None = None,
        workers: int | None = None,
    ) -> Embedded:
        """Embed picture files in order; one that cannot be read is passed over and reported.

        Args:
            paths: picture files.
            progress: called with (done, total).
            workers: decoding threads; as many as cores where left out.
        """
        points, kept, problems = [], [], []
        for position, (note, point) in enumerate(self.stream(paths, self._load, workers=workers)):
            if point is None:
                problems.append((position, note))
            else:
                points.append(point)
                kept.append(position)
            if progress and ((position + 1) % self.batch == 0 or position == len(paths) - 1):
                progress(position + 1, len(paths))
        empty = np.empty((0, self.metadata.embedding_dim), np.float32)
        return Embedded(np.concatenate([empty, *(row[None] for row in points)]), kept, problems)

    def stream(
        self,
        items: Iterable[Item],
        load: Callable[[Item], tuple[np.ndarray | None, Note]],
        *,
        workers: int | None = None,
    ) -> Iterator[tuple[Note, np.ndarray | None]]:
        """Load items in threads, ahead of the network, and embed those that come with pixels.

        Args:
            items: anything that ``load`` understands.
            load: gives (3, size, size) float32 pixels, or ``None`` where there are none, and a
                note, which comes back with the point. It must not raise.
            workers: loading threads; as many as cores where left out.

        Yields:
            for each item in order its note and its point (D,), or ``None`` where it had no pixels.

        Raises:
            HierError: as `run`.
        """
        for batch in _ahead(items, load, self.batch, workers or os.cpu_count() or 1):
            pixels = [found for found, _ in batch if found is not None]
            points = iter(self.run(np.stack(pixels)) if pixels else ())
            for found, note in batch:
                yield note, None if found is None else next(points)

    def _load(self, path: Path | str) -> tuple[np.ndarray | None, str]:
        preprocessing = self.metadata.preprocessing
        try:
            return preprocessing(read(path, preprocessing.shortest_side)), ""
        except ImageError as error:
            return None, str(error)


def _ahead(
    items: Iterable[Item],
    load: Callable[[Item], tuple[np.ndarray | None, Note]],
    batch: int,
    workers: int,
) -> Iterator[list[tuple[np.ndarray | None, Note]]]:
    """Batches of what ``load`` gives, in order, loaded before they are asked for."""
    pending: deque[Future[tuple[np.ndarray | None, Note]]] = deque()
    waiting = iter(items)
    pool = ThreadPoolExecutor(workers)
    try:
        while True:
            while len(pending) < batch * _BATCHES_AHEAD:
                try:
                    item = next(waiting)
                except StopIteration:
                    break
                pending.append(pool.submit(load, item))
            if not pending:
                return
            yield [pending.popleft().result() for _ in range(min(batch, len(pending)))]
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
