"""The batches of a run in their order, ready for the network, wherever the photographs are kept."""

import itertools
from collections.abc import Callable, Generator, Iterator, Sequence

import torch
from torch import Tensor

from hiercli.images import Preprocessing
from hiercli.labels import Record
from hiercli.training.device_photos import DevicePhotos
from hiercli.training.distributed import World
from hiercli.training.loading import Key, TrainingPhotos, to_input, training_batches
from hiercli.training.recipe import Recipe
from hiercli.training.sampler import ClassBalancedSampler

Turns = Generator[tuple[list[int], Tensor, list[str]], None, None]
"""Batches to come: indices of the whole batch, the input of the own share, what was damaged."""


class Feed:
    """Augmented photographs of one process, batch after batch and epoch after epoch.

    Args:
        recipe: says how large, how cropped, where kept and by how many workers decoded.
        records: the photographs to learn from; with a ``cache`` every one is decoded now.
        preprocessing: of the network's input.
        sampler: what the batches hold.
        device: where they go.
        world: the processes among which a batch is shared.
        progress: called with (done, total) while photographs are decoded for a cache.

    Raises:
        InputError: there is not enough memory for the cache.
    """

    def __init__(
        self,
        recipe: Recipe,
        records: Sequence[Record],
        preprocessing: Preprocessing,
        sampler: ClassBalancedSampler,
        *,
        device: torch.device,
        world: World,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.recipe, self.sampler, self.device = recipe, sampler, device
        self.share = world.share(sampler.batch_size)
        self._photos = TrainingPhotos(
            records,
            preprocessing,
            size=recipe.data.train_size,
            crop_scale_min=recipe.data.crop_scale_min,
            seed=recipe.run.seed,
        )
        self._on_device: DevicePhotos | None = None
        if recipe.machine.cache == "ram":
            self._photos.cache(progress, processes=world.size)
        elif recipe.machine.cache == "device":
            self._on_device = DevicePhotos(self._photos, device, progress, processes=world.size)

    def batches(self, epoch: int, step: int) -> Turns:
        """What is left of the run after ``step`` batches of the ``epoch``, counted from 0.

        Each item holds the indices of the whole batch, the network input of this process's share
        of it (B, 3, size, size), and why photographs in that had to be stood in for (B texts,
        mostly empty). Processes that decode ahead end when the iterator is closed.
        """
        turns, shares = itertools.tee(self._turns(epoch, step))
        own = (share[self.share] for share in shares)
        for turn, (images, reasons) in zip(turns, self._inputs(own), strict=True):
            yield [index for _, _, index in turn], images, reasons

    def _turns(self, epoch: int, step: int) -> Iterator[list[Key]]:
        for later in range(epoch, self.recipe.run.epochs):
            done = step if later == epoch else 0
            for batch in itertools.islice(self.sampler.batches(later), done, None):
                yield [(later, place, index) for place, index in enumerate(batch)]

    def _inputs(self, turns: Iterator[list[Key]]) -> Iterator[tuple[Tensor, list[str]]]:
        if self._on_device:
            yield from map(self._on_device.batch, turns)
            return
        ahead = training_batches(self._photos, turns, workers=self.recipe.machine.workers)
        for pixels, reasons in ahead:
            yield to_input(pixels, self._photos.preprocessing, self.device), reasons
