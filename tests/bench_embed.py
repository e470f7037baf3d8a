"""`hier embed` beside its two halves, and beside a DataLoader with the same backbone.

`make bench` runs it on pictures of 1024 x 768, and on the photos of CUB-200-2011 where HIER_DATA
names a folder that has them. The parts take turns in one process, on the same pictures; each figure
is the median of the rounds. Where decoding and inference share the cores, no way of doing both can
be faster than the sum of their times: that bound is printed too.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import timm.data
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as Pictures

from hiercli.data import catalogue
from hiercli.encoder.encoder import Encoder
from hiercli.encoder.general import default_model
from hiercli.errors import HierError
from hiercli.images import read
from hiercli.memory import keep_freed_memory
from hiercli.nn import backbone

COUNT = 480
DRAWN = 120
"""Distinct pictures of 1024 x 768; each is there several times, under names of its own."""
ROUNDS = 3
PLAIN = 200
"""Pictures for the DataLoader, which is slower."""


def main() -> None:
    """Print a block a folder."""
    keep_freed_memory()
    encoders = [default_model(), default_model().with_suffix(".int8.onnx")]
    with tempfile.TemporaryDirectory() as folder:
        files = draw(Path(folder))
        for encoder in encoders:
            compare("generated pictures of 1024 x 768", files, Encoder(encoder, device="cpu"))
    try:
        dataset = catalogue.load("cub", Path(os.environ.get("HIER_DATA", "data")))
    except HierError as error:
        print(f"photos of CUB: skipped ({error})")
    else:
        files = [Path(record.path) for record in dataset.query[:COUNT]]
        for encoder in encoders:
            compare("photos of CUB", files, Encoder(encoder, device="cpu"))


def draw(folder: Path) -> list[Path]:
    """JPEG files of soft colours with grain, about as large as photographs are."""
    rng = np.random.default_rng(0)
    files = []
    for number in range(DRAWN):
        coarse = Image.fromarray(rng.integers(0, 255, (24, 32, 3)).astype(np.uint8))
        soft = np.asarray(coarse.resize((1024, 768), Image.Resampling.BICUBIC)).astype(np.int16)
        grain = rng.integers(-12, 12, (768, 1024, 1))
        picture = Image.fromarray((soft + grain).clip(0, 255).astype(np.uint8))
        file = folder / f"{number}.jpg"
        picture.save(file, quality=90)
        files.append(file)
        for copy in range(1, COUNT // DRAWN):
            files.append(folder / f"{number}-{copy}.jpg")
            os.link(file, files[-1])
    return files


def compare(name: str, files: list[Path], session: Encoder) -> None:
    """Print the rates of one folder."""
    preprocessing = session.metadata.preprocessing

    def load(file: Path) -> np.ndarray:
        return preprocessing(read(file, preprocessing.shortest_side))

    ready = np.stack([load(file) for file in files[: session.batch]])

    def inference() -> None:
        for _ in range(0, len(files), session.batch):
            session.run(ready)

    def decoding() -> None:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for _ in pool.map(load, files):
                pass

    ways: dict[str, tuple[int, Callable[[], object]]] = {
        "inference": (len(files), inference),
        "decoding": (len(files), decoding),
        "hier": (len(files), lambda: session.embed(files)),
        "plain": (PLAIN, lambda: plain(files[:PLAIN])),
    }
    rates: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(ROUNDS):
        for way, (count, run) in ways.items():
            started = time.perf_counter()
            run()
            rates[way].append(count / (time.perf_counter() - started))

    def ratio(bound: Callable[[int], float]) -> float:
        return statistics.median(rates["hier"][n] / bound(n) for n in range(ROUNDS))

    middle = {way: statistics.median(found) for way, found in rates.items()}
    slower = ratio(lambda n: min(rates["inference"][n], rates["decoding"][n]))
    shared = ratio(lambda n: 1 / (1 / rates["inference"][n] + 1 / rates["decoding"][n]))
    print(
        f"{name}, {len(files)} files, {os.cpu_count()} cores, {session.path.name} at "
        f"{ready.shape[-1]} px:"
    )
    print(
        f"  inference alone {middle['inference']:.0f} images/s, decoding alone "
        f"{middle['decoding']:.0f}, hier embed {middle['hier']:.0f}: {slower:.2f} of the slower, "
        f"{shared:.2f} of what sharing the cores allows"
    )
    print(
        f"  DataLoader with the same backbone in torch {middle['plain']:.0f} images/s: hier embed "
        f"is {ratio(lambda n: rates['plain'][n]):.1f} times faster",
        flush=True,
    )


class Files(Pictures[torch.Tensor]):
    """What most people write: Pillow and timm's transform."""

    def __init__(self, files: Sequence[Path], transform: Callable[[Image.Image], torch.Tensor]):
        self.files, self.transform = files, transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.transform(Image.open(self.files[index]).convert("RGB"))


def plain(files: Sequence[Path]) -> None:
    """Features of some files with torch and timm."""
    network = backbone.create(backbone.DEFAULT).eval().to(memory_format=torch.channels_last)
    settings = timm.data.resolve_data_config({}, model=network)
    pictures = Files(files, timm.data.create_transform(**settings))
    loader = DataLoader(pictures, batch_size=32, num_workers=os.cpu_count() or 1)
    with torch.inference_mode():
        for pixels in loader:
            network(pixels.to(memory_format=torch.channels_last))


if __name__ == "__main__":
    main()
