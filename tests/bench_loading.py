"""Images a second of the whole training loop over those of the network alone.

`make bench` runs it, on photographs of the generated flora. Before that, what a step on a CPU
gains where freed memory is kept for the next one.
"""

import contextlib
import itertools
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from hiercli.data import demo
from hiercli.memory import keep_freed_memory
from hiercli.nn import backbone
from hiercli.training import recipe, trainer
from hiercli.training.distributed import World
from hiercli.training.reporter import Silence

STEPS = 6
ROUNDS = 5
LEAD = 4
"""Batches that the workers have ready before they wait: not timed."""
BATCH = 30
MODES = (("none", 2), ("ram", 2), ("device", 0))


def main() -> None:
    """Print a line on memory, then one for each way of decoding."""
    pixels = torch.randn(90, 3, 160, 160).to(memory_format=torch.channels_last)
    network = backbone.create(backbone.DEFAULT).eval().to(memory_format=torch.channels_last)
    returned = plain_steps(network, pixels)
    keep_freed_memory()
    kept = plain_steps(network, pixels)
    print(
        f"training steps of the default backbone, 160 px, float32: {kept:.1f} images/s, "
        f"{returned:.1f} where memory goes back after each, ratio {kept / returned:.2f}"
    )
    with tempfile.TemporaryDirectory() as folder:
        demo.generate(Path(folder), num_species=112, photos_per_species=8, size=256)
        dataset = demo.load(Path(folder))
        print(
            f"training loop, recipe hier, 160 px, photographs of 256 px, batches of {BATCH}, "
            f"{torch.get_num_threads()} threads, median of {ROUNDS} pairs and their range"
        )
        for cache, workers in MODES:
            settings = recipe.load(
                "hier",
                {"cache": cache, "workers": workers, "batch_size": BATCH}
                | {"warmup_epochs": 0, "epochs": 100},
            )
            run = trainer.Run(settings, dataset, Path(folder), Silence(), World())
            run._set_training_mode()
            ready = torch.randn(BATCH, 3, settings.data.train_size, settings.data.train_size)
            with contextlib.closing(run.feed.batches(0, 0)) as turns:
                batch, _, _ = next(turns)
                alone, whole = [], []
                for _ in range(ROUNDS):
                    alone.append(seconds(run, itertools.repeat((batch, ready, [])), untimed=1))
                    whole.append(seconds(run, turns, untimed=LEAD))
            ratios = [one / other for one, other in zip(alone, whole, strict=True)]
            print(
                f"  cache {cache}, workers {workers}: "
                f"whole loop {STEPS * BATCH / statistics.median(whole):.1f} images/s, "
                f"network alone {STEPS * BATCH / statistics.median(alone):.1f} images/s, "
                f"ratio {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
            )


def seconds(
    run: trainer.Run, turns: Iterator[tuple[list[int], Tensor, list[str]]], *, untimed: int
) -> float:
    """Time of `STEPS` steps, after some untimed ones in which workers lose or gain their lead."""
    for step in range(untimed + STEPS):
        if step == untimed:
            started = time.perf_counter()
        batch, images, _ = next(turns)
        run._one_step(images, batch)
    return time.perf_counter() - started


def plain_steps(network: nn.Module, pixels: Tensor) -> float:
    """Images a second, forward and backward, best of `ROUNDS`."""
    times = []
    for _ in range(1 + ROUNDS):
        started = time.perf_counter()
        network(pixels).square().mean().backward()
        network.zero_grad(set_to_none=True)
        times.append(time.perf_counter() - started)
    return len(pixels) / min(times[1:])


if __name__ == "__main__":
    main()
