"""Photographs to batches of pixels, for training with augmentation and for evaluation without."""

import bisect
import contextlib
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from hiercli.encoder.pipeline import batches, in_order, pixels_of
from hiercli.errors import DataError, ImageError, InputError
from hiercli.images import Preprocessing, read
from hiercli.labels import Record

Key = tuple[int, int, int]
"""A photograph's turn: (epoch, place in batch, index)."""

_FEW, _MANY = 8, 64
"""Images embedded at once: on a CPU, whose caches hold no more, and elsewhere."""

Box = tuple[float, float, float, float]
"""(left, top, right, bottom) in pixels."""


class TrainingPhotos(TorchDataset[tuple[Tensor, str]]):
    """Randomly cropped and flipped photographs by `Key`, as uint8 (size, size, 3).

    The crop depends on seed, epoch, index and place alone: not on which worker draws it, nor on
    whether the run was interrupted. A photograph that turns out to be damaged is stood in for by
    the next of its class and comes with the reason; a whole one comes with an empty text.
    Pixels stay bytes until they are on the training device: a quarter of what has to travel.
    """

    def __init__(
        self,
        records: Sequence[Record],
        preprocessing: Preprocessing,
        *,
        size: int,
        crop_scale_min: float,
        seed: int,
    ) -> None:
        self.records = records
        self.preprocessing = replace(preprocessing, size=size)
        self.crop_scale_min = crop_scale_min
        self.seed = seed
        # A small crop is enlarged, so it needs the picture at more than the crop's size.
        self.side = round(size / math.sqrt(crop_scale_min))
        self._members: dict[tuple[str, ...], list[int]] = {}
        for place, record in enumerate(records):
            self._members.setdefault(_kind(record), []).append(place)
        self._cached: list[np.ndarray | str] = []

    def cache(
        self, progress: Callable[[int, int], None] | None = None, *, processes: int = 1
    ) -> None:
        """Decode every photograph now and keep the pixels, so that an epoch only crops them.

        Crops come out as without it, to the bit.

        Args:
            progress: called with (done, total) photographs.
            processes: how many do the same on this machine.

        Raises:
            InputError: there is not enough memory for that; nothing is kept.
        """
        every = max(1, len(self.records) // 64)
        some = [self.decode(place) for place in range(0, len(self.records), every)]
        sizes = [pixels.nbytes for pixels in some if not isinstance(pixels, str)]
        require_memory(int(np.mean(sizes or [0]) * len(self.records)) * processes, free_memory())
        self._cached = list(self.decode_all(progress))

    def decode_all(
        self, progress: Callable[[int, int], None] | None = None
    ) -> Iterator[np.ndarray | str]:
        """`decode` of every photograph in order, on all cores."""
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            # Not all at once: what is done would wait in memory for what is taken.
            for first in range(0, len(self.records), 256):
                chunk = range(first, min(first + 256, len(self.records)))
                yield from pool.map(self.decode, chunk)
                if progress:
                    progress(chunk.stop, len(self.records))

    def decode(self, index: int) -> np.ndarray | str:
        """Pixels of a photograph, or what is wrong with it."""
        try:
            return np.asarray(read(self.records[index].path, self.side))
        except ImageError as error:
            return str(error)

    def __getitem__(self, key: Key) -> tuple[Tensor, str]:
        picture, problem = self._read(key[2])
        box, flipped = self.view(key, picture.size)
        pixels = self.preprocessing.crop(picture, box)
        return torch.from_numpy(pixels[:, ::-1].copy() if flipped else pixels.copy()), problem

    def view(self, key: Key, size: tuple[int, int]) -> tuple[Box, bool]:
        """Which box of a picture of this (width, height) is seen, and whether flipped."""
        epoch, place, index = key
        rng = np.random.default_rng((self.seed, epoch, index, place))
        box = random_box(size, self.crop_scale_min, rng)
        return box, bool(rng.random() < 0.5)

    def successors(self, index: int) -> Iterator[int]:
        """The photograph's index, then those that stand in for it where it is damaged."""
        own = self._members[_kind(self.records[index])]
        first = bisect.bisect_left(own, index)
        yield from own[first:]
        yield from own[:first]

    def _read(self, index: int) -> tuple[Image.Image, str]:
        """The photograph, or the next whole one of its class and what is wrong with the first."""
        problem = ""
        for place in self.successors(index):
            pixels = self._cached[place] if self._cached else self.decode(place)
            if not isinstance(pixels, str):
                return Image.fromarray(pixels), problem
            problem = problem or pixels
        raise nothing_whole(self.records[index].label, problem)


def _kind(record: Record) -> tuple[str, ...]:
    """What the photographs that can stand in for one have in common."""
    return (record.label,) if record.label else record.levels


def nothing_whole(label: str, problem: str) -> DataError:
    """The error of a class none of whose photographs can be read."""
    return DataError(f"no image of the class {label} can be read: {problem}")


def require_memory(needed: int, free: int) -> None:
    """Check that ``needed`` bytes of decoded photographs fit well into the ``free`` ones.

    Raises:
        InputError: they do not.
    """
    if needed > 0.8 * free:
        raise InputError(
            f"expected about {needed / 2**30:.1f} GiB of memory for the decoded images, found "
            f"{free / 2**30:.1f} GiB free. Use --cache none"
        )


def free_memory() -> int:
    """Bytes of memory that can be had."""
    return int(psutil.virtual_memory().available)


def random_box(size: tuple[int, int], scale_min: float, rng: np.random.Generator) -> Box:
    """A box of random area (``scale_min`` to 1 of the picture) and aspect (3:4 to 4:3) inside it.

    Returns:
        (left, top, right, bottom) in pixels; after ten boxes that do not fit, the whole picture's
        centred square.
    """
    width, height = size
    for _ in range(10):
        area = width * height * rng.uniform(scale_min, 1)
        aspect = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        across, down = math.sqrt(area * aspect), math.sqrt(area / aspect)
        if across <= width and down <= height:
            left, top = rng.uniform(0, width - across), rng.uniform(0, height - down)
            return left, top, left + across, top + down
    side = min(size)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def training_batches(
    photos: TrainingPhotos, turns: Iterable[list[Key]], *, workers: int
) -> Iterator[tuple[Tensor, list[str]]]:
    """Pixels of each batch, uint8 (B, size, size, 3), decoded ahead by ``workers`` processes.

    With them come the B reasons why a photograph had to be stood in for, mostly empty. The
    processes live as long as the iterator: give it the ``turns`` of many epochs.
    """
    sampler: Any = turns
    # Its own generator: the loader would draw from the global one, which a resumed run restores.
    own = torch.Generator()
    yield from DataLoader(photos, batch_sampler=sampler, num_workers=workers, generator=own)


def to_input(pixels: Tensor, preprocessing: Preprocessing, device: torch.device) -> Tensor:
    """Pixels 0 to 255, (B, H, W, 3), to a network's input on the device: float32 (B, 3, H, W).

    To the bit what `Preprocessing.normalise` gives for each picture.
    """
    scaled = pixels.to(device, non_blocking=True).float()
    scaled = scaled - 255 * torch.tensor(preprocessing.mean, device=device)
    scaled /= 255 * torch.tensor(preprocessing.std, device=device)
    return scaled.permute(0, 3, 1, 2)


class EvaluationPhotos(TorchDataset[tuple[int, Tensor]]):
    """Centre-cropped photographs; one that cannot be read comes as the reason it gave."""

    def __init__(self, records: Sequence[Record], preprocessing: Preprocessing) -> None:
        self.records = records
        self.preprocessing = preprocessing

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Any:
        pixels, problem = pixels_of(self.preprocessing, self.records[index].path)
        return problem if pixels is None else torch.from_numpy(pixels)


def embed_records(
    network: Callable[[Tensor], Tensor],
    records: Sequence[Record],
    preprocessing: Preprocessing,
    *,
    device: torch.device,
    workers: int = 0,
    on_one_core: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[np.ndarray, list[int], list[str]]:
    """Embed photographs in order.

    Args:
        network: (B, 3, size, size) -> (B, D), in evaluation mode.
        workers: processes that decode ahead.
        on_one_core: the network keeps one core busy and may be called in several threads: instead
            of the workers each core decodes and embeds.
        progress: called with (done, total).

    Returns:
        (points float32 (N, D), positions of the N readable records, reasons of the others).
    """
    batch_size = _FEW if device.type == "cpu" else _MANY
    photos = EvaluationPhotos(records, preprocessing)

    @torch.inference_mode()  # which holds for one thread
    def embed(batch: Sequence[Tensor | str]) -> tuple[Sequence[Tensor | str], np.ndarray | None]:
        readable = [item for item in batch if not isinstance(item, str)]
        if not readable:
            return batch, None
        pixels = torch.stack(readable).to(device, memory_format=torch.channels_last)
        return batch, network(pixels).float().cpu().numpy()

    with contextlib.ExitStack() as leaving:
        embedded: Iterable[tuple[Sequence[Tensor | str], np.ndarray | None]]
        if on_one_core:
            cores = torch.get_num_threads()
            chunks = batches(range(len(records)), batch_size)
            embedded = leaving.enter_context(contextlib.closing(in_order(
                chunks, lambda chunk: embed([photos[index] for index in chunk]), cores, 2 * cores
            )))  # fmt: skip
        else:
            loader: DataLoader[Any] = DataLoader(
                photos,
                batch_size=batch_size,
                num_workers=workers if len(records) > batch_size else 0,
                collate_fn=list,
                generator=torch.Generator(),
            )
            embedded = map(embed, loader)
        points, kept, problems, done = [], [], [], 0
        for batch, found in embedded:
            problems += [item for item in batch if isinstance(item, str)]
            kept += [done + place for place, item in enumerate(batch) if not isinstance(item, str)]
            if found is not None:
                points.append(found)
            done += len(batch)
            if progress:
                progress(done, len(records))
    return np.concatenate(points) if points else np.empty((0, 0), np.float32), kept, problems
