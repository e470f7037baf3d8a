"""HIER, forward and backward, beside the literal formulation: time, memory, ratio.

`make bench` runs it. Times alternate in one process, so that a busy machine disturbs both alike;
memory is the growth of a fresh process of its own. At the larger size the literal formulation
wants more memory than most machines have: there it runs on an eighth and on a quarter of the
anchors, and a straight line through the two says what the whole would take.
"""

import subprocess
import sys
import time
from pathlib import Path

import torch
from literal_hier import literal_hier

from hiercli.losses.hier import HierLoss
from hiercli.memory import keep_freed_memory
from hiercli.nn.to_poincare import ToPoincare

SIZES = ((180, 512, 384), (1024, 2048, 384))
ROUNDS = {180: 7, 1024: 3}
PARTS = {180: (1,), 1024: (8, 4)}
"""The literal formulation takes each 8th, then each 4th anchor of the larger size."""
STATUS = Path("/proc/self/status")


def step(kind: str, samples: int, num_proxies: int, dim: int) -> float:
    """Seconds of one forward and backward pass; ``kind`` is ours or the literal one's part."""
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
            num_neighbours=20, triplets_per_anchor=50, every=int(kind),
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


def whole(parts: dict[int, float]) -> float:
    """What all anchors take, from what each n-th of them took, by n."""
    if len(parts) == 1:
        return parts[1]
    (few, less), (more, larger) = parts.items()
    slope = (larger - less) / (1 / more - 1 / few)
    return less + slope * (1 - 1 / few)


def main() -> None:
    """Print a line a size."""
    print(f"HIER forward + backward, float32, {torch.get_num_threads()} threads")
    for size in SIZES:
        kinds = ("ours", *map(str, PARTS[size[0]]))
        # First, while this process holds nothing.
        megabytes = {kind: grown(kind, size) for kind in kinds}
        keep_freed_memory()
        times: dict[str, list[float]] = {kind: [] for kind in kinds}
        step("ours", *size)
        for _ in range(ROUNDS[size[0]]):
            for kind, taken in times.items():
                taken.append(step(kind, *size))
        middle = {kind: sorted(taken)[len(taken) // 2] for kind, taken in times.items()}
        seconds, space = (
            whole({n: found[str(n)] for n in PARTS[size[0]]}) for found in (middle, megabytes)
        )
        how = "" if PARTS[size[0]] == (1,) else ", by a line through parts of its anchors"
        print(f"  {size[0]} samples, {size[1]} proxies, {size[2]} dimensions:")
        print(f"    ours: {1000 * middle['ours']:.0f} ms, adds {megabytes['ours']:.0f} MB")
        print(f"    literal: {1000 * seconds:.0f} ms, adds {space:.0f} MB{how}")
        print(
            f"    {seconds / middle['ours']:.1f} times faster, "
            f"{megabytes['ours'] / space:.3f} of the memory"
        )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        step("ours", 8, 8, 4)  # what any first step loads is not counted
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak
        before = memory("VmRSS")
        step(sys.argv[1], *map(int, sys.argv[2:]))
        print(memory("VmHWM") - before)
    else:
        main()
