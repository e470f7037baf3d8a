"""From a cold process to an answer: `hier --help`, and `hier search` on 100,000 pictures.

`make bench` runs it. The pictures are tiny and their points random: what is measured is the start
of the process, the index and the catalogue, and one picture through the general encoder.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from hiercli.encoder.encoder import Encoder
from hiercli.encoder.general import default_model
from hiercli.geometry import poincare
from hiercli.index import update

COUNT = 100_000
ROUNDS = 7


WATCHER = """
import json, resource, subprocess, sys, time
started = time.perf_counter()
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
took = time.perf_counter() - started
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(json.dumps([took, peak / (1e6 if sys.platform == "darwin" else 1e3)]))
"""
"""A small process that runs another: a child's peak counts the memory of who started it."""


class Scattered(Encoder):
    """The general encoder, with random points in place of inference."""

    def run(self, pixels: np.ndarray) -> np.ndarray:
        rng = np.random.default_rng(int(np.abs(pixels).sum()))
        direction = rng.normal(size=(len(pixels), self.metadata.embedding_dim))
        direction *= 2 / np.linalg.norm(direction, axis=1, keepdims=True)
        points: np.ndarray = poincare.expmap0(direction, self.metadata.c).astype(np.float32)
        return points


def main() -> None:
    """Print a line a command."""
    timed("hier --help", ["--help"])
    with tempfile.TemporaryDirectory() as folder:
        album, index = Path(folder) / "album", Path(folder) / "idx.faiss"
        started = time.perf_counter()
        for number in range(COUNT):
            file = album / f"kind{number % 100}" / f"{number}.bmp"
            if number < 100:
                file.parent.mkdir(parents=True)
            colour = (number % 256, number // 256 % 256, number // 65536)
            Image.new("RGB", (2, 2), colour).save(file)
        update.update(index, [album], Scattered(default_model(), device="cpu"))
        print(f"{COUNT:,} pictures of 2 x 2 indexed in {time.perf_counter() - started:.0f} s")
        query = Path(folder) / "query.jpg"
        noise = np.random.default_rng(0).integers(0, 255, (480, 640, 3)).astype(np.uint8)
        Image.fromarray(noise).save(query)
        timed(f"hier search, index of {COUNT:,}", ["search", str(query), "--index", str(index)])


def measured(words: list[str]) -> tuple[list[float], float]:
    """Run a command in new processes: seconds of each, and the largest resident memory in MB."""
    command = [sys.executable, "-c", WATCHER, sys.executable, "-m", "hiercli", *words]
    runs = [json.loads(subprocess.check_output(command)) for _ in range(ROUNDS)]
    took, memory = zip(*runs, strict=True)
    return list(took), max(memory)


def timed(name: str, words: list[str]) -> None:
    """Print how long a command takes, and its memory."""
    took, memory = measured(words)
    print(
        f"{name}: median {statistics.median(took):.2f} s (from {min(took):.2f} to "
        f"{max(took):.2f}), {memory:.0f} MB",
        flush=True,
    )


if __name__ == "__main__":
    main()
