"""What training costs on a GPU, whether it computes what a CPU does, and the published figures.

    python examples/gpu_check.py                                     # some minutes
    python examples/gpu_check.py --published --data-root ~/data      # days: the published table
    python examples/gpu_check.py --device cpu --small                # to try the script itself

Prints Markdown tables: (1) a training step of ViT-S with and without HIER, by batch and precision;
(2) the whole training loop on generated images beside the network alone, and how busy the GPU was;
(3) the first steps and the loss with the same draws on GPU and CPU; (4) with --published, Recall@1
of `hier train --recipe paper/...` on CUB and Cars beside the paper's (it needs both data sets, and
weights from the hub).
"""

import argparse
import contextlib
import itertools
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from hiercli.data import catalogue, demo
from hiercli.data.records import Dataset
from hiercli.geometry import poincare
from hiercli.losses.hier import lca_triplet_loss
from hiercli.training import checkpoint, recipe, trainer
from hiercli.training.distributed import World
from hiercli.training.objective import Objective
from hiercli.training.reporter import Silence

VIT = "paper/vit-s-384/cub"
ROUNDS = 5
STEPS = 5
PUBLISHED = {
    "vit-s-384": {"cub": 85.7, "cars": 88.3},
    "dino-s-384": {"cub": 81.1, "cars": 91.3},
    "deit-s-384": {"cub": 78.7, "cars": 88.9},
}
"""Recall@1 in arXiv 2212.14258, table 1."""


def main() -> None:
    """Print the tables."""
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("--device", default="cuda")
    words.add_argument("--small", action="store_true", help="small batches, images and network")
    words.add_argument("--published", action="store_true", help="train the published cells too")
    words.add_argument("--encoders", nargs="+", default=list(PUBLISHED), choices=PUBLISHED)
    words.add_argument("--data-root", type=Path, default=None)
    words.add_argument("--runs", type=Path, default=Path("runs/published"))
    asked = words.parse_args()
    device = torch.device(asked.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        words.error("torch sees no GPU. Name --device cpu --small to try the script without one")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    print(f"# {name}, torch {torch.__version__}\n")
    steps(device, asked.small)
    with tempfile.TemporaryDirectory() as folder:
        side = 64 if asked.small else 320
        demo.generate(Path(folder), num_species=24, photos_per_species=10, size=side)
        dataset = demo.load(Path(folder))
        loop(device, dataset, Path(folder), asked.small)
        if device.type != "cpu":
            same_steps(device, dataset, Path(folder), asked.small)
    same_loss(device)
    if asked.published:
        published(asked.encoders, asked.data_root, asked.runs)


# -- (1) the step -------------------------------------------------------------------------------


def steps(device: torch.device, small: bool) -> None:
    """Milliseconds of a step of the published network and losses, with and without HIER."""
    print("## A step: ViT-S, forward, backward, AdamW\n")
    print("| batch | precision | ms | without HIER | share of HIER | images/s | peak GB |")
    print("| --: | --- | --: | --: | --: | --: | --: |")
    precisions = (torch.float32,) if device.type == "cpu" else (torch.float32, torch.bfloat16)
    for batch, dtype in itertools.product((8,) if small else (90, 180, 512), precisions):
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        whole, without = (step_of(device, batch, dtype, weight, small) for weight in (0.5, 0.0))
        peak = torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else 0.0
        print(
            f"| {batch} | {str(dtype).removeprefix('torch.')} | {1000 * whole:.1f} | "
            f"{1000 * without:.1f} | {1 - without / whole:.1%} | {batch / whole:,.0f} | "
            f"{peak:.1f} |",
            flush=True,
        )


def step_of(
    device: torch.device, batch: int, dtype: torch.dtype, hier_weight: float, small: bool
) -> float:
    """Median seconds of a step on random pixels."""
    smaller = {"backbone": "test_vit", "train_size": 160, "eval_size": 160} if small else {}
    settings = recipe.load(VIT, {"weights": "none", "hier_weight": hier_weight, **smaller})
    torch.manual_seed(0)
    embedder, preprocessing = checkpoint.new_embedder(settings)
    embedder.to(device).train()
    objective = Objective(settings, batch // 2).to(device)
    moving = [*embedder.parameters(), *objective.parameters()]
    optimizer = torch.optim.AdamW(moving, lr=1e-6)
    side = preprocessing.size
    pixels = torch.randn(batch, 3, side, side, device=device)
    labels = torch.arange(batch, device=device) // 2
    generator = torch.Generator(device).manual_seed(0)

    def once() -> None:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            features = embedder.features(pixels)
        points = embedder.to_poincare(embedder.tangent(features))
        loss, _ = objective(points, labels, None, generator, dtype)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    for _ in range(2):
        once()
    return statistics.median(timed(device, once) for _ in range(ROUNDS))


def timed(device: torch.device, work: object) -> float:
    """Seconds until the device has done it."""
    assert callable(work)
    wait(device)
    started = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - started


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# -- (2) the loop -------------------------------------------------------------------------------


def loop(device: torch.device, dataset: Dataset, folder: Path, small: bool) -> None:
    """Images a second of the training loop by the way in which images are kept."""
    print("\n## The training loop: recipe hier, generated images\n")
    print("| cache | workers | images/s | network alone | ratio | GPU busy |")
    print("| --- | --: | --: | --: | --: | --: |")
    for cache, workers in (("none", 8), ("ram", 4), ("device", 0)):
        run = new_run(device, dataset, folder, small, cache=cache, workers=workers)
        run._set_training_mode()
        with contextlib.closing(run.feed.batches(0, 0)) as turns:
            batch, images, _ = next(turns)
            ready = images.to(device)
            alone = rate(run, device, itertools.repeat((batch, ready, [])), small)
            with contextlib.ExitStack() as stack:
                busy = stack.enter_context(watched(device))
                whole = rate(run, device, turns, small)
        shown = f"{statistics.mean(busy):.0f} %" if busy else ""
        print(
            f"| {cache} | {workers} | {whole:,.0f} | {alone:,.0f} | {whole / alone:.2f} "
            f"| {shown} |",
            flush=True,
        )


def new_run(
    device: torch.device, dataset: Dataset, folder: Path, small: bool, **settings: object
) -> trainer.Run:
    """A run that has not begun."""
    smaller = {"batch_size": 16, "train_size": 64, "eval_size": 64, "workers": 0,
               "num_proxies": 32} if small else {}  # fmt: skip
    fixed = {"device": device.type, "weights": "none", "warmup_epochs": 0, "epochs": 1000,
             "interpolate": False, "head_init": "orthogonal", "class_proxy_init": "random",
             "relation_weight": 0.0, "proxy_init": "random", "freeze_share": 0.0}  # fmt: skip
    return trainer.Run(
        recipe.load("hier", fixed | settings | smaller), dataset, folder, Silence(), World()
    )


def rate(
    run: trainer.Run,
    device: torch.device,
    turns: Iterator[tuple[list[int], torch.Tensor, list[str]]],
    small: bool,
) -> float:
    """Images a second, the first steps left out, in which what was decoded ahead is used up."""
    lead, steps = (1, 2) if small else (2 * STEPS, 10 * STEPS)
    seen = 0
    for step in range(lead + steps):
        if step == lead:
            wait(device)
            started, seen = time.perf_counter(), 0
        batch, images, _ = next(turns)
        run._one_step(images, batch)
        seen += len(batch)
    wait(device)
    return seen / (time.perf_counter() - started)


@contextlib.contextmanager
def watched(device: torch.device) -> Iterator[list[float]]:
    """How busy the GPU is meanwhile, in percent; stays empty where nobody can say."""
    found: list[float] = []
    if device.type != "cuda" or shutil.which("nvidia-smi") is None:
        yield found
        return
    words = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits",
             "-lms", "100", "-i", str(device.index or 0)]  # fmt: skip
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield found
        finally:
            process.terminate()
            output, _ = process.communicate()
            found += [float(line) for line in output.split() if line.replace(".", "").isdigit()]


# -- (3) the same as on a CPU -------------------------------------------------------------------


def same_steps(device: torch.device, dataset: Dataset, folder: Path, small: bool) -> None:
    """The loss of the first steps in float32 on both, without the parts that draw at random."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    losses = {}
    for kind in ("cpu", device.type):
        run = new_run(torch.device(kind), dataset, folder, small, hier_weight=0.0,
                      precision="fp32", batch_size=32, workers=0, lr=1e-5)  # fmt: skip
        run._set_training_mode()
        with contextlib.closing(run.feed.batches(0, 0)) as turns:
            rows = []
            for _ in range(STEPS):
                batch, images, _ = next(turns)
                rows.append(run._one_step(images, batch)["proxy-anchor"])
        losses[kind] = rows
    print("\n## The first steps in float32: Proxy-Anchor on both\n")
    print("| step | CPU | GPU | difference, relative |")
    print("| --: | --: | --: | --: |")
    for step, (one, other) in enumerate(zip(*losses.values(), strict=True), start=1):
        print(f"| {step} | {one:.6f} | {other:.6f} | {abs(one - other) / abs(one):.1e} |")


def same_loss(device: torch.device) -> None:
    """HIER with the same draws in float64 on the CPU, in float32 there and on the device."""
    print("\n## HIER with the same draws, against float64 on the CPU\n")
    print("| where | loss | difference | largest difference of a gradient, relative |")
    print("| --- | --: | --: | --: |")
    generator = torch.Generator().manual_seed(0)
    num_points, num_proxies, dim, c = 90, 512, 384, 0.1
    tangents = 0.1 * torch.randn(num_points + num_proxies, dim, generator=generator)
    drawn = torch.randint(num_points, (3, 50 * num_points), generator=generator)
    uniform = torch.rand(2, drawn.shape[1], num_proxies, generator=generator)
    noise = -(-uniform.clamp(min=1e-9).log()).log()

    def computed(place: str, dtype: torch.dtype) -> tuple[float, torch.Tensor]:
        both = tangents.to(place, dtype).detach().requires_grad_()
        points = poincare.expmap0(both, c)
        distances = poincare.pairwise_dist(points[:num_points], points[num_points:], c)
        own = noise.to(place, dtype)
        loss = lca_triplet_loss(
            distances, *drawn.to(place), temperature=0.1, margin=0.1, noise_ij=own[0],
            noise_ijk=own[1],
        )  # fmt: skip
        loss.backward()  # type: ignore[no-untyped-call]
        assert both.grad is not None
        return loss.item(), both.grad.double().cpu()

    true, gradient = computed("cpu", torch.float64)
    for place in dict.fromkeys(("cpu", device.type)):
        value, own = computed(place, torch.float32)
        worst = ((own - gradient).abs().max() / gradient.abs().max()).item()
        print(f"| {place} | {value:.7f} | {abs(value - true):.1e} | {worst:.1e} |", flush=True)


# -- (4) the published table --------------------------------------------------------------------


def published(encoders: Sequence[str], root: Path | None, runs: Path) -> None:
    """Train the cells with weights from the hub; a run that was killed goes on."""
    print("\n## The published table: Recall@1\n")
    print("| encoder | data | hier | published | difference |")
    print("| --- | --- | --: | --: | --: |")
    for encoder, data in itertools.product(encoders, ("cub", "cars")):
        out = runs / f"{encoder}-{data}"
        settings = recipe.load(f"paper/{encoder}/{data}", {"weights": "hub"})
        dataset = catalogue.load(data, root or catalogue.default_root())
        result = trainer.train(settings, dataset, out, Silence(), resume=out.exists())
        own, theirs = result.test["recall@1"], PUBLISHED[encoder][data]
        print(
            f"| {encoder} | {data} | {own:.1f} | {theirs:.1f} | {own - theirs:+.1f} |", flush=True
        )


if __name__ == "__main__":
    main()
