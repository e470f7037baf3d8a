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
"""No collection proves more."""
_FEWEST_PLANTED = 8


def share_of_faults(observed: np.ndarray, planted: np.ndarray) -> float:
    """At most this share of the observed items is faulty, 0 to 1.

    Args:
        observed: (N,) scores of the items.
        planted: (M,) scores of planted faults.
    """
    if not len(observed) or len(planted) < _FEWEST_PLANTED:
        return 0.0
    limits = np.quantile(planted, np.linspace(0.05, 0.6, 12))
    high = np.sort(observed)
    seen = 1 - np.searchsorted(high, limits) / len(observed)
    known = 1 - np.searchsorted(np.sort(planted), limits) / len(planted)
    return float(min(1.0, (seen / known).min()))


def confidence(observed: np.ndarray, planted: np.ndarray) -> np.ndarray:
    """The probability that each observed item is faulty, (N,), from 0 to 0.99.

    It does not fall as the score rises, and is estimated from above, see `share_of_faults`.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> scores = np.concatenate([rng.normal(0, 1, 980), rng.normal(8, 1, 20)])
        >>> sure = confidence(scores, rng.normal(8, 1, 500))
        >>> int((sure[:980] > 0.5).sum()), bool((sure[980:] > 0.9).all())
        (0, True)

    Args:
        observed: (N,) scores of the items; a higher one looks more faulty.
        planted: (M,) scores of planted faults; with fewer than 8 nothing is known, and all are 0.
    """
    from scipy.optimize import isotonic_regression

    share = share_of_faults(observed, planted)
    if not share:
        return np.zeros(len(observed))
    scores = np.concatenate([observed, planted])
    is_planted = np.concatenate([np.zeros(len(observed)), np.ones(len(planted))])
    weights = np.where(is_planted == 1, share * len(observed) / len(planted), 1.0)
    _, places = np.unique(scores, return_inverse=True)
    total = np.bincount(places, weights)
    part = np.bincount(places, weights * is_planted) / total
    rising = np.clip(isotonic_regression(part, weights=total).x, 0, 0.5)
    odds = rising / (1 - rising)  # density of faults over the density of all that is observed
    return np.minimum(odds, _SURE)[places[: len(observed)]]
