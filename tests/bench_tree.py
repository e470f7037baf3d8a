"""Growing, judging and drawing a tree of 100,000 photos and 2,000 proxies. `make bench` runs it."""

import tempfile
import time
from pathlib import Path

import numpy as np
from conftest import leaf_images, tree_of

from hiercli.geometry import poincare
from hiercli.reports import disk

PHOTOS, PROXIES, CLASSES, DIM, C = 100_000, 2_000, 1_000, 128, 0.1


def main() -> None:
    """Print a line a step."""
    rng = np.random.default_rng(0)
    middles = rng.normal(size=(PROXIES, DIM))
    which = rng.integers(0, PROXIES, PHOTOS)
    tangent = middles[which] + 0.5 * rng.normal(size=(PHOTOS, DIM))
    tangent *= rng.uniform(1.2, 2, (PHOTOS, 1)) / np.linalg.norm(tangent, axis=1, keepdims=True)
    points = poincare.expmap0(tangent, C).astype(np.float32)
    inner = middles * rng.uniform(0.2, 1.1, (PROXIES, 1)) / DIM**0.5
    proxies = poincare.expmap0(inner, C).astype(np.float32)
    labels = [f"class {number % CLASSES}" for number in which]
    paths = [f"{number}.jpg" for number in range(PHOTOS)]
    for by_proxy in (False, True):
        started = time.perf_counter()
        root = tree_of(points, paths, labels, proxies, C, by_proxy=by_proxy)
        took = time.perf_counter() - started
        print(
            f"tree of {PHOTOS:,} photos over {len(root.leaves):,} "
            f"{'proxies' if by_proxy else 'classes'}: {took:.1f} s"
        )
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        own = leaf_images(root, root, points, labels, proxies, C, by_proxy=True)
        photos = {leaf: [paths[place] for place in places] for leaf, places in own.items()}
        page = Path(folder) / "tree.html"
        disk.write(page, root, photos, "bench", pictures=0)
        print(
            f"its page: {time.perf_counter() - started:.1f} s, {page.stat().st_size / 1e6:.1f} MB",
            flush=True,
        )


if __name__ == "__main__":
    main()
