"""Images a second of the whole training loop over those of the network alone.

`make bench` runs it, on photographs of the generated flora.
"""

import tempfile
import time
from pathlib import Path

import torch

from hiercli.data import demo
from hiercli.training import recipe, trainer
from hiercli.training.distributed import World
from hiercli.training.loading import training_batches
from hiercli.training.reporter import Silence

STEPS = 8
ROUNDS = 2
MODES = (("none", 2), ("ram", 2))


def main() -> None:
    """Print a line for each way of decoding."""
    with tempfile.TemporaryDirectory() as folder:
        demo.generate(Path(folder), num_species=32, photos_per_species=24, size=256)
        dataset = demo.load(Path(folder))
        print(
            f"training loop, recipe fast, 160 px, photographs of 256 px, "
            f"{torch.get_num_threads()} threads"
        )
        for cache, workers in MODES:
            settings = recipe.load("fast", {"cache": cache, "workers": workers, "warmup_epochs": 0})
            run = trainer._Run(settings, dataset, Path(folder), Silence(), World())
            run._set_training_mode()
            batches = [batch for epoch in range(4) for batch in run.sampler.batches(epoch)][:STEPS]
            ready = torch.randn(len(batches[0]), 3, settings.train_size, settings.train_size)
            run._one_step(ready, batches[0])
            alone, whole = [], []
            for epoch in range(ROUNDS):
                started = time.perf_counter()
                for batch in batches:
                    run._one_step(ready, batch)
                alone.append(time.perf_counter() - started)
                started = time.perf_counter()
                one_pass(run, batches, epoch)
                whole.append(time.perf_counter() - started)
            images = STEPS * len(ready)
            print(
                f"  cache {cache}, workers {workers}: whole loop {images / min(whole):.1f} "
                f"images/s, network alone {images / min(alone):.1f} images/s, "
                f"ratio {min(alone) / min(whole):.3f}"
            )


def one_pass(run: trainer._Run, batches: list[list[int]], epoch: int) -> None:
    """A short epoch, with the start of its workers."""
    pixels = training_batches(run.photos, batches, epoch=epoch, workers=run.recipe.workers)
    for batch, (images, _) in zip(batches, pixels, strict=True):
        run._one_step(images, batch)


if __name__ == "__main__":
    main()
