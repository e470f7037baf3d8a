"""Findings on single images: copies, outliers, tiny and blurred images."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from hiercli.errors import ImageError
from hiercli.images import read, size_of
from hiercli.labels import SPLITS, VALIDATION
from hiercli.review.duplicates import Pairs
from hiercli.review.finding import Finding

TINY = 64
"""Pixels of the short side below which an image is tiny."""
_SIDE = 256
"""Pixels of the short side at which blur is measured."""
_ALONE = 3.0
_SOFT = 3.5
"""Robust standard deviations by which an image stands out."""
_FEWEST = 20
"""Images among which one can stand out."""
_RANK = 10
"""Outliers are judged by the distance to this neighbour, so that a few copies hide none."""

Progress = Callable[[int, int], None]


def copies(
    pairs: Pairs,
    paths: Sequence[str],
    labels: Sequence[str],
    splits: Sequence[str],
    *,
    pixels: Sequence[int] | None = None,
) -> list[Finding]:
    """A finding for each copy but the best of its group: a leak where that is in another split.

    The best is in train, if one is, and has a label, if one has; it has the most pixels, then the
    most bytes, then the first path.

    Args:
        pairs: of copies.
        paths, labels: of all images.
        splits: name of the part (train, test, ...) that each is in; empty for none.
        pixels: of each. With them no file is opened, and reasons name none.
    """

    def goodness(place: int) -> tuple[int, int, str]:
        return _goodness(paths[place]) if pixels is None else (-pixels[place], 0, paths[place])

    agreement: dict[int, int] = {}
    for row, (first, second) in enumerate(zip(pairs.first, pairs.second, strict=True)):
        for place in (int(first), int(second)):
            if pairs.agreement[row] > pairs.agreement[agreement.get(place, row)] or (
                place not in agreement
            ):
                agreement[place] = row
    found: list[Finding] = []
    leaks: list[Finding] = []
    for group in pairs.groups(len(paths)):
        # Of each group one image is kept, and the findings of both kinds keep the same.
        order = sorted(
            group.tolist(),
            key=lambda at: (splits[at] != "train", not labels[at], goodness(at)),
        )
        best = order[0]
        for place in order[1:]:
            row = agreement[place]
            how = _how(float(pairs.scale[row]), bool(pairs.mirrored[row]))
            other = int(pairs.first[row] + pairs.second[row] - place)
            reason = f"{how} of {Path(paths[other]).name if pixels is None else 'another image'}"
            if other != best and pixels is None:
                reason += f"; of these, {Path(paths[best]).name} is kept"
            if labels[place] and labels[place] != labels[best]:
                reason += f"; the labels differ ({labels[place]}, {labels[best]})"
            is_leak = bool(splits[place]) and bool(splits[best]) and splits[place] != splits[best]
            if is_leak:
                reason = f"in {splits[place]}, {reason}, which is kept in {splits[best]}"
            sure = float(pairs.agreement[row])
            (leaks if is_leak else found).append(
                Finding("leak" if is_leak else "duplicate", paths[place], labels[place], "",
                        paths[best], sure, reason=reason)
            )  # fmt: skip
    ranked = [sorted(some, key=lambda one: (one.of, -(one.confidence or 0)))
              for some in (found, leaks)]  # fmt: skip
    return [*ranked[0], *ranked[1]]


def _how(scale: float, mirrored: bool) -> str:
    kind = "a mirrored " if mirrored else "a "
    return f"{kind}copy" if scale == 1 else f"{kind}crop or enlargement ({scale:.0%} of a side)"


def _goodness(path: str) -> tuple[int, int, str]:
    """Sort key under which the best of some copies comes first."""
    try:
        width, height = size_of(path)
        return -width * height, -os.path.getsize(path), path
    except (ImageError, OSError):  # then nothing speaks for it
        return 0, 0, path


def split_of(path: str) -> str:
    """The part of a data set that a path lies in: its last folder of a name like train or test.

    Examples:
        >>> split_of("birds/Val/Wren/1.jpg"), split_of("birds/Wren/1.jpg")
        ('validation', '')
    """
    parts = [part.lower() for part in Path(path).parts[:-1]]
    found = next((part for part in reversed(parts) if part in SPLITS), "")
    return "validation" if found in VALIDATION else found


def outliers(
    distances: np.ndarray,
    near: np.ndarray,
    paths: Sequence[str],
    labels: Sequence[str],
    *,
    named: bool = True,
) -> list[Finding]:
    """Images that lie much farther from their nearest than images do, the farthest first.

    Args:
        distances: (N, K) to the nearest images, ascending.
        near: (N, K) positions of these.
        paths, labels: of all images.
        named: whether reasons name the nearest image.
    """
    if len(paths) < _FEWEST:
        return []
    far = np.log(np.maximum(distances[:, min(_RANK, distances.shape[1]) - 1], 1e-9))
    standing = _standing_out(far)
    found = []
    for place in np.argsort(-standing, kind="stable"):
        if standing[place] < _ALONE:
            break
        times = np.exp(far[place] - np.median(far))
        reason = f"its nearest images lie {times:.1f} times as far as usual"
        if named:
            reason += f"; the nearest is {Path(paths[near[place, 0]]).name}"
        found.append(Finding("outlier", paths[place], labels[place], reason=reason))
    return found


def _standing_out(values: np.ndarray) -> np.ndarray:
    """Robust standard deviations above the median."""
    middle = np.median(values)
    spread = max(1.4826 * float(np.median(np.abs(values - middle))), 1e-6)
    return np.asarray((values - middle) / spread)


def tiny(sides: Sequence[int], paths: Sequence[str], labels: Sequence[str]) -> list[Finding]:
    """Images of few pixels.

    Args:
        sides: pixels of the short side of each; 0 where it is not known.
        paths, labels: of all images.
    """
    found = [(side, place) for place, side in enumerate(sides) if 0 < side < TINY]
    return [
        Finding("tiny", paths[place], labels[place], reason=f"its short side has {side} pixels")
        for side, place in sorted(found)
    ]


def blurred(
    paths: Sequence[str], labels: Sequence[str], progress: Progress | None = None
) -> list[Finding]:
    """Images that are much less sharp than the others, by the variance of their Laplacian.

    Images whose files are missing are not looked at.
    """
    places = [place for place, path in enumerate(paths) if os.path.isfile(path)]
    sharp = []
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for done, value in enumerate(threads.map(lambda at: _sharpness(paths[at]), places), 1):
            sharp.append(value)
            if progress:
                progress(done, len(places))
    known = [(place, value) for place, value in zip(places, sharp, strict=True) if value]
    if len(known) < _FEWEST:
        return []
    standing = _standing_out(-np.log([value for _, value in known]))
    usual = float(np.median([value for _, value in known]))
    found = [
        (float(above), place, value)
        for above, (place, value) in zip(standing, known, strict=True)
        if above >= _SOFT
    ]
    return [
        Finding("blurred", paths[place], labels[place],
                reason=f"its edges are {(usual / value) ** 0.5:.1f} times as soft as usual")
        for _, place, value in sorted(found, reverse=True)
    ]  # fmt: skip


def _sharpness(path: str) -> float:
    """Variance of the Laplacian over that of the grey levels; 0 where there is nothing to see."""
    from scipy.ndimage import laplace

    try:
        picture = read(path, _SIDE)
    except ImageError:
        return 0.0
    factor = max(1, min(picture.size) // _SIDE)
    grey = np.asarray(picture.convert("L").reduce(factor), np.float32)
    spread = float(grey.var())
    return 0.0 if spread < 1 else float(laplace(grey).var()) / spread + 1e-6
