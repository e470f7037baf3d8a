"""Running an exported encoder: decoding ahead in threads, inference in ONNX Runtime."""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hiercli.encoder.metadata import Metadata
from hiercli.errors import FileFormatError, ImageError, InputError
from hiercli.images import read

_BATCH = 32
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

    Raises:
        InputError: missing.
        FileFormatError: not ONNX, damaged, or without our metadata.
    """

    def __init__(self, path: Path | str, *, threads: int = 0) -> None:
        import onnxruntime

        self.path = Path(path)
        if not self.path.is_file():
            raise InputError(
                f"expected an exported encoder, but {path} is missing: write one with `hier export`"
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        available = onnxruntime.get_available_providers()
        wanted = [
            name
            for name in ("CUDAExecutionProvider", "CPUExecutionProvider")
            if name in available and (name[:3] == "CPU" or os.path.exists("/dev/nvidia0"))
        ]
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=wanted)
        except Exception as error:  # ONNX Runtime's own errors share no base but this
            reason = str(error).splitlines()[0]
            raise FileFormatError(
                f"{path} is not an ONNX file that can be run ({reason}): export it again"
            ) from error
        properties = self._session.get_modelmeta().custom_metadata_map
        self.metadata = Metadata.from_properties(properties, str(path))
        self._input = self._session.get_inputs()[0].name

    @property
    def device(self) -> str:
        """What inference runs on: cpu or cuda."""
        return "cuda" if self._session.get_providers()[0].startswith("CUDA") else "cpu"

    def run(self, pixels: np.ndarray) -> np.ndarray:
        """Float32 pixels (B, 3, size, size) to points of the ball (B, D)."""
        points: np.ndarray = self._session.run(None, {self._input: pixels})[0]
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
        points, kept, problems, done = [], [], [], 0
        for batch in self._decoded(paths, workers or os.cpu_count() or 1):
            good = [(done + place, item) for place, item in enumerate(batch)
                    if not isinstance(item, str)]  # fmt: skip
            problems += [(done + place, item) for place, item in enumerate(batch)
                         if isinstance(item, str)]  # fmt: skip
            if good:
                points.append(self.run(np.stack([pixels for _, pixels in good])))
                kept += [position for position, _ in good]
            done += len(batch)
            if progress:
                progress(done, len(paths))
        if not all(np.isfinite(part).all() for part in points):
            raise FileFormatError(f"{self.path} gives points that are not finite: export it again")
        empty = np.empty((0, self.metadata.embedding_dim), np.float32)
        return Embedded(np.concatenate([empty, *points]), kept, problems)

    def _decoded(
        self, paths: Sequence[Path | str], workers: int
    ) -> Iterator[list[np.ndarray | str]]:
        """Batches of pixels, or of the reason why there are none, decoded ahead in threads."""
        pending: deque[Future[np.ndarray | str]] = deque()
        waiting = iter(paths)
        pool = ThreadPoolExecutor(workers)
        try:
            while True:
                while len(pending) < _BATCH * _BATCHES_AHEAD:
                    path = next(waiting, None)
                    if path is None:
                        break
                    pending.append(pool.submit(self._pixels, path))
                if not pending:
                    return
                yield [pending.popleft().result() for _ in range(min(_BATCH, len(pending)))]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _pixels(self, path: Path | str) -> np.ndarray | str:
        preprocessing = self.metadata.preprocessing
        try:
            return preprocessing(read(path, preprocessing.shortest_side))
        except ImageError as error:
            return str(error)
