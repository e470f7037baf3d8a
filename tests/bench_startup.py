"""From a cold process to an answer: `hier --help`, and `hier search` among 100,000 points.

`make bench` runs it. Beside the search stands what no such program can leave out: the libraries are
imported and one image goes through the general encoder. The two run in turn; the ratio is the
median of the pairs. Byte code is kept between runs, as after an installation.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from hiercli.collection import Collection
from hiercli.encoder.encoder import Encoder
from hiercli.encoder.general import default_model
from hiercli.geometry import poincare
from hiercli.index import Index

COUNT = 100_000
ROUNDS = 11


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


BARE = """
import sys
import faiss, numpy as np, onnxruntime, rich.console, typer
from PIL import Image
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
image = Image.open(sys.argv[2]).convert("RGB").resize((224, 224))
pixels = (np.asarray(image, np.float32).transpose(2, 0, 1)[None] / 255 - 0.5) / 0.5
session.run(None, {session.get_inputs()[0].name: pixels})
"""
"""The least that a search from Python does."""


def main() -> None:
    """Print a line a command."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    timed("hier --help", measured(["-m", "hiercli", "--help"]))
    encoder = default_model()
    with tempfile.TemporaryDirectory() as folder:
        index, query = Path(folder) / "idx.faiss", Path(folder) / "query.jpg"
        made = Scattered(encoder, device="cpu")
        points = np.concatenate([made.run(np.full((1000, 1), n)) for n in range(COUNT // 1000)])
        names = [f"kind{number % 100}/{number}.jpg" for number in range(COUNT)]
        collection = Collection(points, names, c=made.c, fingerprint=made.fingerprint)
        Index.build(index, collection, "flat", encoder=encoder).close()
        noise = np.random.default_rng(0).integers(0, 255, (480, 640, 3)).astype(np.uint8)
        Image.fromarray(noise).save(query)
        search = ["-m", "hiercli", "search", str(query), "--index", str(index), "--model"]
        search += [str(encoder), "--json"]
        bare = ["-c", BARE, str(encoder), str(query)]
        pairs = [(measured(search, 1), measured(bare, 1)) for _ in range(ROUNDS + 1)][1:]
        timed(f"hier search, index of {COUNT:,}", joined([one for one, _ in pairs]))
        timed("imports and one image", joined([other for _, other in pairs]))
        ratio = statistics.median(one[0][0] / other[0][0] for one, other in pairs)
        print(f"ratio {ratio:.2f}")


def measured(words: list[str], rounds: int = ROUNDS) -> tuple[list[float], float]:
    """Run Python in new processes: seconds of each, and the largest resident memory in MB."""
    command = [sys.executable, "-c", WATCHER, sys.executable, *words]
    runs = [json.loads(subprocess.check_output(command)) for _ in range(rounds)]
    took, memory = zip(*runs, strict=True)
    return list(took), max(memory)


def joined(runs: list[tuple[list[float], float]]) -> tuple[list[float], float]:
    """Seconds and largest memory of several measurements together."""
    return [seconds for took, _ in runs for seconds in took], max(memory for _, memory in runs)


def timed(name: str, runs: tuple[list[float], float]) -> None:
    """Print how long a command takes, and its memory."""
    took, memory = runs
    print(
        f"{name}: median {statistics.median(took):.2f} s (from {min(took):.2f} to "
        f"{max(took):.2f}), {memory:.0f} MB",
        flush=True,
    )


if __name__ == "__main__":
    main()
