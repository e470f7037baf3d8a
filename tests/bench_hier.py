"""HIER, forward and backward, beside the literal formulation: time, memory, ratio.

`make bench` runs it. Times alternate in one process, so that a busy machine disturbs both alike;
memory is the growth of a fresh process of its own.
"""

import subprocess
import sys
import time
from pathlib import Path

import torch
from literal_hier import literal_hier

from hiercli.losses.hier import HierLoss
from hiercli.nn.to_poincare import ToPoincare
from hiercli.training.loading import free_memory

SIZES = ((180, 512, 384), (1024, 2048, 384))
ROUNDS = {180: 7, 1024: 1}
LITERAL_GIB = {180: 2, 1024: 20}
"""What the literal formulation wants; with less at hand it is not run."""
STATUS = Path("/proc/self/status")


def step(kind: str, samples: int, num_proxies: int, dim: int) -> float:
    """Seconds of one forward and backward pass."""
    torch.manual_seed(0)
    hier = HierLoss(dim, num_proxies)
    to_poincare = ToPoincare(0.1, 2.3)
    tangent = torch.randn(samples, dim, requires_grad=True)
    labels = torch.arange(samples) // 2
    started = time.perf_counter()
    points = to_poincare(tangent)
    if kind == "ours":
        loss = hier(points, labels)
    else:
        loss = literal_hier(
            points, labels, hier.proxy_points(), c=0.1, temperature=0.1, margin=0.1,
            num_neighbours=20, triplets_per_anchor=50,
        )  # fmt: skip
    loss.backward()
    return time.perf_counter() - started


def memory(field: str) -> float:
    """``VmRSS`` (now) or ``VmHWM`` (the peak since it was last reset) of this process, MB."""
    (line,) = [x for x in STATUS.read_text().splitlines() if x.startswith(field)]
    return int(line.split()[1]) / 1024


def grown(kind: str, size: tuple[int, int, int]) -> float:
    """MB that one step adds to a fresh process; nan where it did not survive."""
    words = [sys.executable, __file__, kind, *map(str, size)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return float(done.stdout) if done.returncode == 0 else float("nan")


def main() -> None:
    """Print a line a size."""
    print(f"HIER forward + backward, float32, {torch.get_num_threads()} threads")
    for size in SIZES:
        enough = (free_memory() or 0) > LITERAL_GIB[size[0]] * 2**30
        kinds = ("ours", "literal") if enough else ("ours",)
        # First, while this process holds nothing.
        megabytes = {kind: grown(kind, size) for kind in kinds}
        times: dict[str, list[float]] = {kind: [] for kind in kinds}
        step("ours", *size)
        for _ in range(ROUNDS[size[0]]):
            for kind, taken in times.items():
                taken.append(step(kind, *size))
        middle = {kind: sorted(taken)[len(taken) // 2] for kind, taken in times.items()}
        print(f"  {size[0]} samples, {size[1]} proxies, {size[2]} dimensions:")
        for kind in kinds:
            print(f"    {kind}: {1000 * middle[kind]:.0f} ms, adds {megabytes[kind]:.0f} MB")
        if enough:
            print(
                f"    {middle['literal'] / middle['ours']:.1f} times faster, "
                f"{megabytes['ours'] / megabytes['literal']:.3f} of the memory"
            )
        else:
            print(f"    literal: not run, it wants {LITERAL_GIB[size[0]]} GiB")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        step("ours", 8, 8, 4)  # what any first step loads is not counted
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak
        before = memory("VmRSS")
        step(sys.argv[1], *map(int, sys.argv[2:]))
        print(memory("VmHWM") - before)
    else:
        main()
