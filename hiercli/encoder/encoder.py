"""An exported encoder: decoding in threads, inference in ONNX Runtime."""

import contextlib
import copy
import itertools
import os
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

import numpy as np
from PIL import Image

from hiercli.collection import Collection
from hiercli.encoder import onnx_file
from hiercli.encoder.general import default_model
from hiercli.encoder.gpu import missing_gpu_build
from hiercli.encoder.pipeline import ImageLike, batches, in_order, pixels_of
from hiercli.encoder.sessions import CPU, open_session, providers_for
from hiercli.errors import FileFormatError, HierError, ImageError, InputError
from hiercli.labels import Record

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

Item = TypeVar("Item")
Note = TypeVar("Note")
_BATCHES_AHEAD = 3
"""Batches at work before they are needed: enough to keep all busy, bounded in memory."""


class Encoder:
    """An exported encoder, ready to embed.

    Examples:
        >>> import numpy as np
        >>> encoder = Encoder()  # the general encoder that comes with hier
        >>> image = np.full((64, 64, 3), 200, np.uint8)
        >>> encoder.embed(image).points.shape == (1, encoder.embedding_dim)
        True

    Args:
        path: written by `hier export`; ``None`` for the general encoder that comes with hier.
        threads: cores to use; 0: all.
        device: ``cuda``, ``cpu``, or ``auto``: cuda where there is a GPU. Without a usable GPU
            inference runs on the CPU, and `fallback` says so.
        batch: pictures that go through the network together; 0: 4 on a CPU, 128 on a GPU.

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
        self,
        path: Path | str | None = None,
        device: str = "auto",
        *,
        threads: int = 0,
        batch: int = 0,
    ) -> None:
        self.path = path = default_model() if path is None else Path(path)
        file = onnx_file.read(path)
        self.metadata, self.digest = file.metadata, file.digest
        self._start(
            lambda providers: open_session(self._graph(file.content), providers, threads),
            device,
            threads,
            batch,
        )

    def _start(
        self,
        opened: Callable[[Sequence[str]], "InferenceSession"],
        device: str,
        threads: int,
        batch: int,
    ) -> None:
        """Open the session on a device, and check its graph."""
        providers, wants_gpu = providers_for(device)
        self._threads = threads
        self._narrow: Self | None = None
        self._opening = threading.Lock()
        try:
            self._session = opened(providers)
            self.input_name = self._check_graph()
        except HierError:
            raise
        except Exception as error:  # ONNX Runtime's own errors share no base but this
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise FileFormatError(
                f"ONNX Runtime cannot load {self.path} ({reason[0]}). Export it again"
            ) from error
        self.batch = batch or (128 if self.device == "cuda" else 4)
        self.fallback = ""
        if wants_gpu and self.device == "cpu":
            self.fallback = missing_gpu_build() or (
                "ONNX Runtime finds no usable GPU (driver, CUDA and cuDNN must match its build): "
                "running on the CPU"
            )

    def _graph(self, content: bytes) -> bytes:
        """The graph to run, of the bytes of the file."""
        return content

    def _output_dim(self) -> int | None:
        """Numbers that the graph gives of an image; ``None`` where that is not known before."""
        return self.metadata.embedding_dim

    def _check_graph(self) -> str:
        """The name of the only input; its shape and the output's must be those of the metadata."""
        (pixels,), (points,) = self._session.get_inputs(), self._session.get_outputs()
        side, dim = self.metadata.preprocessing.size, self._output_dim()
        if pixels.shape[1:] != [3, side, side] or len(points.shape) != 2:
            raise ValueError(
                f"its input has the shape {pixels.shape} and its output {points.shape}"
            )
        if dim is not None and isinstance(points.shape[1], int) and points.shape[1] != dim:
            raise ValueError(
                f"it outputs {points.shape[1]} dimensions, but its metadata says {dim}"
            )
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
                f"ONNX Runtime cannot run {self.path} on {len(pixels)} images ({reason}). Use a "
                "smaller --batch, or --device cpu"
            ) from error
        expected = (len(pixels), self.metadata.embedding_dim)
        if points.shape != expected or points.dtype != np.float32:
            raise FileFormatError(
                f"expected points of {expected} from {self.path}, got {points.dtype} "
                f"{points.shape}. Export it again"
            )
        # Not so where a number is none.
        if not (self.metadata.c * np.square(points, dtype=np.float64).sum(axis=1) < 1).all():
            raise FileFormatError(
                f"{self.path} outputs points that are not finite, or not inside the ball of "
                f"curvature -{self.metadata.c:g}. Export it again"
            )
        return points

    @property
    def files(self) -> tuple[Path, ...]:
        """Files that it was read from."""
        return (self.path,)

    @property
    def embedding_dim(self) -> int:
        """D, dimensions of the ball."""
        return self.metadata.embedding_dim

    @property
    def c(self) -> float:
        """Curvature magnitude, > 0: points lie in the ball of curvature -c."""
        return self.metadata.c

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits by which points of one encoder are told from those of another."""
        return self.metadata.fingerprint

    @property
    def seed(self) -> int:
        """Of the training run, which parted the classes of a folder into trained and unseen."""
        return self.metadata.seed

    @property
    def class_names(self) -> list[str]:
        """Names of the classes that it was trained on."""
        return list(self.metadata.class_names)

    def embed(
        self,
        images: ImageLike | Sequence[ImageLike],
        *,
        nested: bool = False,
        skipped: Callable[[str], None] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Collection:
        """Embed images, folders of images and manifests, in order.

        Args:
            images: one or several: paths of image files, of folders (natural order) and of
                manifests (``.csv``, ``.tsv``, ``.parquet``), Pillow images, or uint8 arrays
                (H, W, 3), (H, W, 4) or (H, W).
            nested: read folders in folders as levels, see `labels`.
            skipped: told why an image or a folder is passed over; without it that raises.
            progress: called with (done, total) images.

        Returns:
            a collection of (N, D) points with c, proxies and fingerprint of the encoder; of paths
            also with paths, labels and levels.

        Raises:
            ImageError: an image cannot be read, and ``skipped`` was not given.
            InputError: a path is missing, an array is no image, or no image can be read.
        """
        given = [images] if isinstance(images, Path | str | Image.Image | np.ndarray) else images
        if any(not isinstance(image, Path | str) for image in given):
            return self._embed(list(given), None, (), skipped, progress)
        if not len(given):
            raise InputError("expected images to embed, got none")
        from hiercli.data.listing import gather

        told = None if skipped is None else lambda _, reason: skipped(reason)
        found = gather([Path(str(path)) for path in given], nested=nested, skipped=told)
        return self.embed_records(found.records, found.level_names, skipped, progress)

    def embed_records(
        self,
        records: Sequence[Record],
        level_names: Sequence[str] = (),
        skipped: Callable[[str], None] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Collection:
        """`embed` for image files whose labels are known."""
        paths = [record.path for record in records]
        return self._embed(paths, records, level_names, skipped, progress)

    def _embed(
        self,
        images: Sequence[ImageLike],
        records: Sequence[Record] | None,
        level_names: Sequence[str],
        skipped: Callable[[str], None] | None,
        progress: Callable[[int, int], None] | None,
    ) -> Collection:
        preprocessing = self.metadata.preprocessing
        points, kept, problems = [], [], []
        with closing(self.stream(images, lambda image: pixels_of(preprocessing, image))) as stream:
            for position, (problem, point) in enumerate(stream):
                if point is not None:
                    points.append(point)
                    kept.append(position)
                elif skipped is None:
                    raise ImageError(problem)
                else:
                    problems.append(problem)
                    skipped(problem)
                done = position + 1
                if progress and (done % self.batch == 0 or done == len(images)):
                    progress(done, len(images))
        if not kept:
            raise InputError(
                "expected images to embed, but "
                + (f"none of {len(images)} can be read: {problems[0]}" if problems else "got none")
            )
        facts: dict[str, Any] = {
            "c": self.c,
            "proxies": self.metadata.proxies if len(self.metadata.proxies) else None,
            "fingerprint": self.fingerprint,
        }
        if records is None:
            return Collection(points=np.stack(points), **facts)
        own = [records[position] for position in kept]
        return Collection.of_records(np.stack(points), own, level_names, **facts)

    def stream(
        self,
        items: Iterable[Item],
        load: Callable[[Item], tuple[np.ndarray | None, Note]],
        *,
        workers: int | None = None,
    ) -> Generator[tuple[Note, np.ndarray | None], None, None]:
        """Load items in threads, and embed those that come with pixels.

        On a CPU each thread loads some items and runs the network on them, on a core of its own.
        For a GPU, or with ``workers``, threads load ahead of the network.

        Args:
            items: anything that ``load`` understands.
            load: gives (3, size, size) float32 pixels, or ``None`` where there are none, and a
                note, which comes back with the point. What it raises ends the stream.
            workers: threads that load ahead, where loading is mostly waiting.

        Yields:
            for each item in order its note and its point (D,), or ``None`` where it had no pixels.

        Raises:
            HierError: as `run`.
        """
        cores = self._threads or os.cpu_count() or 1
        if workers is not None or self.device != "cpu":
            workers = workers or cores
            ahead = self.batch * _BATCHES_AHEAD
            with closing(in_order(items, load, workers, ahead)) as loaded:
                for batch in batches(loaded, self.batch):
                    yield from self._with_points(batch)
            return
        chunks = batches(items, self.batch)
        first = list(itertools.islice(chunks, 2))

        def both(chunk: list[Item]) -> list[tuple[Note, np.ndarray | None]]:
            loaded = [load(item) for item in chunk]
            several = len(first) > 1 and any(found is not None for found, _ in loaded)
            return (self.on_one_core() if several else self)._with_points(loaded)

        every = itertools.chain(first, chunks)
        with closing(in_order(every, both, cores, cores * _BATCHES_AHEAD)) as done:
            for chunk in done:
                yield from chunk

    def _with_points(
        self, loaded: Sequence[tuple[np.ndarray | None, Note]]
    ) -> list[tuple[Note, np.ndarray | None]]:
        pixels = [found for found, _ in loaded if found is not None]
        points = iter(self.run(np.stack(pixels)) if pixels else ())
        return [(note, None if found is None else next(points)) for found, note in loaded]

    def on_one_core(self) -> Self:
        """The same encoder, each of whose runs keeps one core busy: several can run at once.

        Itself, where its file has gone or changed since it was opened.
        """
        with self._opening:
            if self._narrow is None:
                self._narrow = self
                with contextlib.suppress(HierError):
                    if (session := self._narrow_session()) is not None:
                        self._narrow = copy.copy(self)
                        self._narrow._session = session
            return self._narrow

    def _narrow_session(self) -> "InferenceSession | None":
        """A session on one core; ``None`` where the file has changed since it was opened."""
        file = onnx_file.read(self.path)
        if file.digest != self.digest:
            return None
        return open_session(self._graph(file.content), [CPU], 1)
