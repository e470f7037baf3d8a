"""How sure a finding is, measured on the collection itself by planting the same fault in it.

A score says how much an item looks faulty. What a score is worth differs from collection to
collection, and from encoder to encoder. So the fault is planted: labels are changed, classes are
joined or parted, and the same score is taken of them. Where planted faults score as the observed
items do, an observed item may be faulty; how many are is bounded from above by the share of
observed items that score as high as planted ones do (learning from positive and unlabelled
examples: Elkan and Noto, "Learning classifiers from only positive and unlabeled data", 2008).
"""

import numpy as np

_SURE = 0.99
"""Highest confidence that is reported."""
_FEWEST_PLANTED = 8
_BINS = 512
_ROUNDS = 30
_HIGH = (0.3, 0.6)
"""Quantiles of planted scores above which few sound items lie: there faulty ones are counted."""
_MOST_FAULTY = 0.15
"""Most of a collection is sound. Where all items score as planted faults do, scores say nothing."""
_UNSEEN = 1
"""Faulty items above a limit beyond those that were seen: of one or two, few may lie there."""


def share_of_faults(observed: np.ndarray, planted: np.ndarray) -> float:
    """At most this share of the observed items is faulty, 0 to 0.15.

    Args:
        observed: (N,) scores of the items.
        planted: (M,) scores of planted faults.
    """
    if not len(observed) or len(planted) < _FEWEST_PLANTED:
        return 0.0
    limits = np.quantile(planted, np.linspace(*_HIGH, 9))
    high = np.sort(observed)
    seen = (len(high) - np.searchsorted(high, limits) + _UNSEEN) / len(high)
    known = 1 - np.searchsorted(np.sort(planted), limits) / len(planted)
    return float(min(_MOST_FAULTY, (seen / known).mean()))


def confidence(observed: np.ndarray, planted: np.ndarray) -> np.ndarray:
    """The probability that each observed item is faulty, (N,), from 0 to 0.99.

    The observed scores are taken for a mixture: a known share of faults with the density of the
    planted ones, and sound items, whose density is found by expectation and maximisation.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> scores = np.concatenate([rng.normal(0, 1, 980), rng.normal(8, 1, 20)])
        >>> sure = confidence(scores, rng.normal(8, 1, 500))
        >>> int((sure[:980] > 0.5).sum()), bool(sure[980:].mean() > 0.5)
        (0, True)

    Args:
        observed: (N,) scores of the items; a higher one looks more faulty.
        planted: (M,) scores of planted faults; with fewer than 8 nothing is known, and all are 0.
    """
    share = share_of_faults(observed, planted)
    if not share:
        return np.zeros(len(observed))
    low, high = np.quantile(planted, [0.01, 0.99])
    spread = max(float(high - low), 1e-9)
    limits = low - spread / 2, high
    own, known = np.clip(observed, *limits), np.clip(planted, *limits)
    smooth = _Smoothing(limits, 0.9 * max(float(planted.std()), spread / 10) * len(planted) ** -0.2)
    faulty = smooth.density(known, np.ones(len(known)), own)
    sure = np.full(len(own), share)
    for _ in range(_ROUNDS):
        sound = smooth.density(own, 1 - sure, own)
        sure = share * faulty / (share * faulty + (1 - share) * sound + 1e-12)
    order = np.argsort(own, kind="stable")
    rising = np.empty(len(own))
    rising[order] = np.maximum.accumulate(sure[order])  # a higher score is no less faulty
    return np.minimum(rising, _SURE)


class _Smoothing:
    """Densities by Gaussian kernels of one width, on a grid.

    Args:
        limits: between which all scores lie.
        width: standard deviation of the kernel.
    """

    def __init__(self, limits: tuple[float, float], width: float) -> None:
        self._edges = np.linspace(*limits, _BINS + 1)
        self._step = (limits[1] - limits[0]) / _BINS
        self._width = width / self._step

    def density(self, scores: np.ndarray, weights: np.ndarray, at: np.ndarray) -> np.ndarray:
        """Of weighted scores, at some others."""
        from scipy.ndimage import gaussian_filter1d

        counts, _ = np.histogram(scores, self._edges, weights=weights)
        smooth = gaussian_filter1d(counts, self._width, mode="reflect")
        middles = (self._edges[1:] + self._edges[:-1]) / 2
        total = max(float(weights.sum()), 1e-12) * self._step
        return np.interp(at, middles, smooth) / total
