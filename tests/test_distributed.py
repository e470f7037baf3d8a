"""Several processes train as one would: same gradients, same proxies, every photograph once."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from conftest import TINY, Hier
from torch import Tensor, nn

from hiercli.errors import InputError
from hiercli.nn.embedder import Embedder
from hiercli.training.distributed import World
from hiercli.training.objective import Objective
from hiercli.training.recipe import Recipe

BATCH, SIZE = 16, 2


def gradients(world: World, twice: bool = False) -> dict[str, Tensor]:
    """One step's gradients of a small network under the whole objective."""
    recipe = Recipe.of(
        embedding_dim=8, num_proxies=12, batch_size=BATCH, relation_weight=1.0, num_neighbours=4,
        gradients_divided_twice=twice,
    )  # fmt: skip
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(3, 10, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    embedder = Embedder(backbone, num_features=10, embedding_dim=8, c=0.1, clip_radius=2.3)
    objective = Objective(recipe, num_classes=BATCH // 2)
    images, known = torch.randn(BATCH, 3, 9, 9), torch.randn(BATCH, 5)
    labels = torch.arange(BATCH) // 2
    points = world.gather(embedder(images[world.share(BATCH)]), divided_twice=twice)
    loss, _ = objective(points, labels, known, torch.Generator().manual_seed(3))
    loss.backward()
    modules = nn.ModuleDict({"embedder": embedder, "objective": objective})
    world.average_gradients(modules.parameters())
    return {name: weight.grad for name, weight in modules.named_parameters()}


def worker(rank: int, folder: str, twice: bool) -> None:
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=SIZE)
    try:
        world = World(rank, SIZE)
        torch.save(gradients(world, twice), f"{folder}/{rank}.pt")
        statistics = nn.BatchNorm1d(3)
        statistics.running_mean.fill_(float(rank))
        world.average_buffers(statistics)
        assert statistics.running_mean.tolist() == [0.5] * 3
        assert world.collect(rank) == [0, 1]
        assert world.same(rank) == 0
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("twice", [False, True])
def test_half_the_batch_each_gives_the_gradients_of_the_whole(tmp_path: Path, twice: bool) -> None:
    torch.multiprocessing.spawn(worker, (str(tmp_path), twice), nprocs=SIZE)
    alone = gradients(World(), twice)
    assert len(alone) == 6  # two of the convolution, two of the head, and two sets of proxies
    for rank in range(SIZE):
        together = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for name, gradient in alone.items():
            assert gradient.abs().max() > 0, name
            expected = gradient
            if twice and name.startswith("embedder"):
                expected = gradient / SIZE  # the published slice that is averaged once too often
            apart = (together[name] - expected).abs().max() / gradient.abs().max()
            assert apart < 1e-5, (name, float(apart))


def test_an_uneven_share_is_refused() -> None:
    with pytest.raises(InputError, match="--batch-size"):
        World(0, 3).share(16)


def test_two_processes_end_where_one_ends(photos: Path, hier: Hier, tmp_path: Path) -> None:
    """Batch norm held still, as its statistics are taken from each share alone.

    A damaged test photograph falls to the second process, and is told of all the same.
    """
    shutil.copytree(photos, tmp_path / "photos")
    for damaged in sorted((tmp_path / "photos").rglob("photo1.jpg")):
        damaged.write_bytes(damaged.read_bytes()[:600])
    rows = {}
    for count in (1, 2):
        out = tmp_path / str(count)
        # Twelve images do not span 16 principal directions: rounding would choose the last ones.
        run = hier("train", "--data", tmp_path / "photos", *TINY, "--freeze-batch-norm",
                   "--head-init", "orthogonal", "--processes", count, "--relation-weight", "1",
                   "--out", out)  # fmt: skip
        assert run.returncode == 3, run.stderr.decode()
        assert run.stderr.decode().count("skipped:") == 8
        rows[count] = [json.loads(line) for line in (out / "metrics.jsonl").open()]
        rows[count].append(json.loads((out / "test.json").read_text()))
        rows[count][-1].pop("dataset")
    assert len(rows[1]) == len(rows[2]) == 3
    for one, two in zip(rows[1], rows[2], strict=True):
        assert one == pytest.approx(two, rel=2e-3, abs=1e-3)


def test_started_by_torchrun_itself(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "hiercli", "train",
             "--data", photos, *TINY, "--epochs", "1", "--out", out, "--json"]  # fmt: skip
    run = subprocess.run(
        [sys.executable, *map(str, words)], capture_output=True, timeout=300, check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr.decode()
    assert json.loads(run.stdout)["num_queries"] > 0
    assert (out / "best.pt").exists()


def test_a_mistake_is_told_once_and_keeps_its_exit_code(
    photos: Path, hier: Hier, tmp_path: Path
) -> None:
    run = hier("train", "--data", photos, *TINY, "--batch-size", "6", "--samples-per-class", "3",
               "--processes", "4", "--out", tmp_path / "run")  # fmt: skip
    words = run.stderr.decode()
    assert run.returncode == 2, words
    assert words.count("error:") == 1, words
    assert "share evenly" in words
    assert "Traceback" not in words
