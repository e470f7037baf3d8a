"""Class-balanced batches whose order is a function of seed and epoch, and of nothing else."""

from collections.abc import Iterator

import numpy as np


class ClassBalancedSampler:
    """Batches of ``batch_size`` indices with ``samples_per_class`` of each class that appears.

    Every class is dealt in turn from its own shuffled pile, refilled when it runs out, so that a
    class of one photograph still fills its places (each time under another augmentation) and a
    photograph is not repeated while others of its class wait.

    Args:
        labels: (N,) int64 class ids.
        batch_size: indices a batch; cut to what the classes can fill.
        samples_per_class: indices of one class in a batch.
        seed: of the order.
    """

    def __init__(
        self, labels: np.ndarray, *, batch_size: int, samples_per_class: int, seed: int
    ) -> None:
        self.members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
        self.samples_per_class = samples_per_class
        self.classes_per_batch = min(batch_size // samples_per_class, len(self.members))
        self.num_samples = len(labels)
        self.seed = seed

    @property
    def batch_size(self) -> int:
        """Indices in each batch."""
        return self.classes_per_batch * self.samples_per_class

    def __len__(self) -> int:
        """Batches an epoch: about one look at each photograph."""
        return max(1, self.num_samples // self.batch_size)

    def batches(self, epoch: int) -> Iterator[list[int]]:
        """The batches of one epoch, always the same for the same seed and epoch."""
        rng = np.random.default_rng((self.seed, epoch))
        piles: list[list[int]] = [[] for _ in self.members]
        waiting: list[int] = []
        for _ in range(len(self)):
            chosen: list[int] = []
            while len(chosen) < self.classes_per_batch:
                if not waiting:
                    # A class comes up as often as it has photographs to show.
                    turns = [max(1, len(own) // self.samples_per_class) for own in self.members]
                    waiting = list(rng.permutation(np.repeat(np.arange(len(turns)), turns)))
                fresh = next((c for c in waiting if c not in chosen), None)
                if fresh is None:
                    waiting = []
                    continue
                waiting.remove(fresh)
                chosen.append(fresh)
            yield [
                self._deal(piles[label], self.members[label], rng)
                for label in chosen
                for _ in range(self.samples_per_class)
            ]

    @staticmethod
    def _deal(pile: list[int], members: np.ndarray, rng: np.random.Generator) -> int:
        if not pile:
            pile.extend(int(index) for index in rng.permutation(members))
        return pile.pop()
