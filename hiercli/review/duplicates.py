"""Near-duplicates: images that show one picture re-encoded, resized, mirrored or cropped.

The embedding proposes: a copy is among the nearest eight images. The pixels decide: two small grey
pictures agree if their normalised cross-correlation (Lewis, "Fast normalized cross-correlation",
1995) is high, of the whole pictures or of one with a part of the other, as it is or mirrored. A
part is looked for at four scales in 16 x 16 pixels, and where that agrees at eight in 32 x 32.
"""

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL import Image

from hiercli.images import grey_thumbnail

SIDE = 32
_COARSE = 16
NEIGHBOURS = 8
"""Nearest images that are looked at: of copies at half size in the generated flora, whose photos of
a species are alike, 98.5 % have theirs there; among six 97.8 %, among ten 98.9 %."""
_SCALES = (1.0, 0.94, 0.88, 0.82, 0.76, 0.7, 0.64, 0.58)
_SCALES_BETWEEN = (0.97, 0.91, 0.85, 0.79, 0.73, 0.67, 0.61)
_NEARLY = 0.8
"""Correlation from which on pairs are compared at the scales between as well."""
_COARSE_SCALES = _SCALES[::2]
_LEAST_COARSE = 0.65
LEAST = 0.91
"""Correlation from which on two images are copies: among 4,000 pairs of neighbours on CUB two lie
above, both of them copies; of crops 98 to 99 %."""
_SMALLEST = 5
"""Pixels of a template's side."""
_FLAT = 4.0
"""Variance of grey levels below which a picture shows nothing that could be compared."""
_PAIRS_AT_ONCE = 1024


@dataclass(frozen=True)
class Pairs:
    """Images that are copies of each other.

    Attributes:
        first, second: (P,) positions of the images.
        agreement: (P,) correlation, from `LEAST` to 1.
        scale: (P,) side of the one over that of the part of the other; 1 for whole pictures.
        mirrored: (P,) whether one is mirrored.
    """

    first: np.ndarray
    second: np.ndarray
    agreement: np.ndarray
    scale: np.ndarray
    mirrored: np.ndarray

    def groups(self, total: int) -> list[np.ndarray]:
        """Positions of the images of each group of copies, of two or more."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        links = coo_array(
            (np.ones(len(self.first)), (self.first, self.second)), shape=(total, total)
        )
        _, group = connected_components(links, directed=False)
        order = np.argsort(group, kind="stable")
        parts = np.split(order, np.flatnonzero(np.diff(group[order])) + 1)
        return [part for part in parts if len(part) > 1]


def small_grey(picture: Image.Image) -> tuple[np.ndarray, float]:
    """A picture in 32 x 32 grey levels, whatever its shape, and its width over its height."""
    small = picture.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(small), picture.width / picture.height


def stored_grey(content: bytes) -> tuple[np.ndarray, float, int]:
    """The same of a small picture that an index keeps, and the pixels of its short side.

    Raises:
        ImageError: it is damaged.
    """
    picture, (width, height) = grey_thumbnail(content, SIDE)
    return small_grey(picture)[0], width / height, min(width, height)


def near_duplicates(
    neighbours: np.ndarray,
    greys: np.ndarray,
    aspects: np.ndarray,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Pairs:
    """Pairs of images that show one picture.

    Args:
        neighbours: (N, K) positions of the nearest images of each, -1 for none.
        greys: (N, 32, 32) uint8 grey levels, see `small_grey`.
        aspects: (N,) width over height of each.
        progress: called with (done, total) pairs.
    """
    pairs = _pairs(neighbours)
    coarse = greys.reshape(-1, _COARSE, 2, _COARSE, 2).mean((2, 4), dtype=np.float32)
    busy = coarse.var((1, 2)) >= _FLAT
    pairs = pairs[busy[pairs].all(axis=1)]
    total = len(pairs)

    def compare(some: np.ndarray) -> tuple[np.ndarray, ...]:
        likely = _agreement(coarse, aspects, some, _COARSE_SCALES)[0] >= _LEAST_COARSE
        some = some[likely]
        agreement, scale, mirrored = _agreement(greys, aspects, some, _SCALES)
        nearly = np.flatnonzero((agreement >= _NEARLY) & (agreement < LEAST))
        again, at, flipped = _agreement(greys, aspects, some[nearly], _SCALES_BETWEEN)
        better = again > agreement[nearly]
        rows = nearly[better]
        agreement[rows], scale[rows], mirrored[rows] = again[better], at[better], flipped[better]
        return some, agreement, scale, mirrored

    parts = [pairs[first : first + _PAIRS_AT_ONCE] for first in range(0, total, _PAIRS_AT_ONCE)]
    results: list[tuple[np.ndarray, ...]] = []
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for done, result in enumerate(threads.map(compare, parts), 1):
            results.append(result)
            if progress:
                progress(min(total, done * _PAIRS_AT_ONCE), total)
    if not results:
        none = np.empty(0)
        return Pairs(none.astype(int), none.astype(int), none, none, none.astype(bool))
    found, agreement, scale, mirrored = (
        np.concatenate(column) for column in zip(*results, strict=True)
    )
    kept = agreement >= LEAST
    return Pairs(found[kept, 0], found[kept, 1], agreement[kept], scale[kept], mirrored[kept])


def _pairs(neighbours: np.ndarray) -> np.ndarray:
    """Each pair of neighbours once, (P, 2)."""
    rows = np.repeat(np.arange(len(neighbours)), neighbours.shape[1])
    both = np.column_stack([rows, neighbours.ravel()])
    both = both[(both[:, 1] >= 0) & (both[:, 0] != both[:, 1])]
    return np.unique(np.sort(both, axis=1), axis=0)


def _agreement(
    pictures: np.ndarray, aspects: np.ndarray, pairs: np.ndarray, scales: Sequence[float]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Best correlation of each pair, with the scale and whether one is mirrored."""
    best = np.full(len(pairs), -1.0, np.float32)
    scale, mirrored = np.ones(len(pairs)), np.zeros(len(pairs), bool)
    for whole, part in ((0, 1), (1, 0)):
        own, pages_at = np.unique(pairs[:, whole], return_inverse=True)
        pages = _Pages(pictures[own].astype(np.float32))
        others = pictures[pairs[:, part]].astype(np.float32)
        shape = aspects[pairs[:, part]] / aspects[pairs[:, whole]]
        for own_scale in scales:
            if own_scale == 1 and whole:
                continue  # whole pictures are compared once
            for places, height, width in _sizes(shape, own_scale, pictures.shape[1]):
                parts = _resized(others if len(places) == len(pairs) else others[places],
                                 height, width)  # fmt: skip
                found = pages.correlation(pages_at[places], parts)
                for is_mirrored, agreement in zip((False, True), found, strict=True):
                    better = agreement > best[places]
                    at = places[better]
                    best[at], scale[at], mirrored[at] = agreement[better], own_scale, is_mirrored
    return best, scale, mirrored


def _sizes(shape: np.ndarray, scale: float, side: int) -> Iterator[tuple[np.ndarray, int, int]]:
    """Pairs whose part is of one size in pixels: their positions, the height and the width.

    Args:
        shape: (P,) aspect of the part over that of the whole.
        scale: the longer side of the part over that of the whole.
        side: of the small pictures, which are square whatever they show.
    """
    heights = np.round(side * scale * np.minimum(1, 1 / shape)).astype(int)
    widths = np.round(side * scale * np.minimum(1, shape)).astype(int)
    sizes = np.maximum(_SMALLEST, heights) * (side + 1) + np.maximum(_SMALLEST, widths)
    for size in np.unique(sizes).tolist():
        yield np.flatnonzero(sizes == size), *divmod(size, side + 1)


def _resized(pictures: np.ndarray, height: int, width: int) -> np.ndarray:
    """Pictures (P, S, S) in another size, each pixel the mean of what it covers."""
    side = pictures.shape[1]
    if (height, width) == (side, side):
        return pictures
    rows, columns = _covering(side, height), _covering(side, width)
    return np.matmul(np.matmul(rows, pictures), columns.T)


@functools.lru_cache(2**10)
def _covering(side: int, smaller: int) -> np.ndarray:
    """(smaller, side) share of each pixel in each larger one."""
    edges = np.linspace(0, side, smaller + 1)
    starts = np.arange(side)
    covered = np.minimum(edges[1:, None], starts + 1) - np.maximum(edges[:-1, None], starts)
    covered = np.maximum(covered, 0)
    return np.asarray(covered / covered.sum(axis=1, keepdims=True), np.float32)


class _Pages:
    """Pictures in which parts are looked for, with what every part needs."""

    def __init__(self, pictures: np.ndarray) -> None:
        self._side = pictures.shape[1]
        self._pictures = pictures - pictures.mean((1, 2), keepdims=True)
        self._sums, self._squares = _integral(self._pictures), _integral(self._pictures**2)

    @functools.cached_property
    def _spectra(self) -> np.ndarray:
        from scipy import fft

        return np.asarray(fft.rfft2(self._pictures))

    def correlation(self, at: np.ndarray, parts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The best correlation of each part with the same-sized parts of its picture.

        Args:
            at: (P,) positions of the pictures.
            parts: (P, height, width).

        Returns:
            that of the parts as they are, (P,), and mirrored, (P,).
        """
        height, width = parts.shape[1:]
        parts = parts - parts.mean((1, 2), keepdims=True)
        energy = np.square(parts).sum((1, 2))
        own = 1 / np.sqrt(np.maximum(energy, _FLAT * height * width))
        weights = self._inverse_norms(height, width)[at]
        if height == width == self._side:
            pictures = self._pictures[at]
            products = [np.einsum("pij,pij->p", pictures, parts[:, :, ::step]) for step in (1, -1)]
            direct, mirrored = (found[:, None, None] for found in products)
        else:
            direct, mirrored = self._products(at, parts)
        return tuple(
            (found * weights).reshape(len(at), -1).max(axis=1) * own for found in (direct, mirrored)
        )  # type: ignore[return-value]

    def _products(self, at: np.ndarray, parts: np.ndarray) -> Iterator[np.ndarray]:
        """Products of parts and mirrored parts with all parts of their pictures of that size."""
        from scipy import fft

        side, (height, width) = self._side, parts.shape[1:]
        spectra = self._spectra[at]
        own = fft.rfft2(parts, s=(side, side))
        # The spectrum of a mirrored part is that of the part with another sign of one frequency,
        # and moved: it needs no transform of its own.
        rows = -np.arange(side) % side
        turned = np.exp(2j * np.pi * (width - 1) / side * np.arange(side // 2 + 1))
        for other in (own.conj(), own[:, rows] * turned.astype(np.complex64)):
            products = fft.irfft2(spectra * other, s=(side, side))
            yield products[:, : side - height + 1, : side - width + 1]

    def _inverse_norms(self, height: int, width: int) -> np.ndarray:
        """One over the norm of each part of a size, its mean taken off, of each picture."""
        count = height * width
        sums = _windows(self._sums, height, width)
        spread = _windows(self._squares, height, width) - np.square(sums) / count
        return np.asarray(1 / np.sqrt(np.maximum(spread, _FLAT * count)), np.float32)


def _integral(pictures: np.ndarray) -> np.ndarray:
    padded = np.pad(pictures.astype(np.float64), ((0, 0), (1, 0), (1, 0)))
    return padded.cumsum(1).cumsum(2)


def _windows(integral: np.ndarray, height: int, width: int) -> np.ndarray:
    """Sums over all windows of a size."""
    return (
        integral[:, height:, width:] - integral[:, :-height, width:]
        - integral[:, height:, :-width] + integral[:, :-height, :-width]
    )  # fmt: skip


def gathered(pictures: Sequence[tuple[np.ndarray, float] | None]) -> tuple[np.ndarray, np.ndarray]:
    """Grey levels and aspects of pictures; black where there is none, which agrees with none."""
    greys = np.zeros((len(pictures), SIDE, SIDE), np.uint8)
    aspects = np.ones(len(pictures))
    for place, picture in enumerate(pictures):
        if picture is not None:
            greys[place], aspects[place] = picture
    return greys, aspects
