"""Which images without a label are worth labelling first."""

from collections.abc import Sequence

import numpy as np

from hiercli.geometry import poincare
from hiercli.review.finding import Finding


def label_next(
    points: np.ndarray,
    distances: np.ndarray,
    near: np.ndarray,
    paths: Sequence[str],
    labels: Sequence[str],
    c: float,
    count: int,
) -> list[Finding]:
    """Images without a label, the most informative first.

    An image is worth more if its neighbours disagree on the label and if they are near. Each
    further one is where this value times the distance to what was chosen before is largest (Sener
    and Savarese, "Active Learning for Convolutional Neural Networks: A Core-Set Approach", 2018,
    weighted).

    Args:
        points: (N, D) of all images.
        distances, near: (N, K) of the nearest images of each.
        paths, labels: of all images; an empty label means none.
        c: curvature magnitude.
        count: at most so many.
    """
    has_label = np.array([bool(label) for label in labels])
    waiting = np.flatnonzero(~has_label)
    if not len(waiting) or count < 1:
        return []
    guesses = [_guess(near[place], labels) for place in waiting]
    doubt = np.array([1 - share for _, share in guesses]) + 0.05
    crowd = 1 / np.maximum(distances[waiting].mean(axis=1), 1e-9)  # alone in a corner says little
    value = doubt * crowd / crowd.max()
    own = points[waiting].astype(np.float64)
    gap = np.ones(len(waiting))
    found = []
    for number in range(min(count, len(waiting))):
        best = int((value * gap).argmax())
        far = poincare.dist(own[best][None], own, c)
        gap = far if not number else np.minimum(gap, far)
        value[best] = -1.0
        label, share = guesses[best]
        reason = (
            f"{share:.0%} of its labelled neighbours have the label {label}"
            if label
            else "none of its neighbours has a label"
        )
        found.append(Finding("label", paths[waiting[best]], "", label, reason=reason))
    return found


def _guess(near: np.ndarray, labels: Sequence[str]) -> tuple[str, float]:
    """The commonest label among the neighbours, with its share of those that have one."""
    told = [labels[place] for place in near if labels[place]]
    if not told:
        return "", 0.0
    names, counts = np.unique(told, return_counts=True)
    return str(names[counts.argmax()]), float(counts.max() / len(told))
