"""Two encoders on the same queries: how much better one is, and how sure that is."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hiercli.errors import DataError

_RESAMPLES = 4000


@dataclass(frozen=True)
class Comparison:
    """Difference of a score in points, with its 95 % confidence interval.

    Attributes:
        difference: second minus first.
        low, high: ends of the interval, from a bootstrap over classes.
        num_classes: classes that were resampled.
        score: name of the score.
    """

    difference: float
    low: float
    high: float
    num_classes: int
    score: str = "Recall@1"

    @property
    def verdict(self) -> str:
        """The finding in a sentence."""
        size = f"{self.difference:+.1f} points of {self.score} (95 % interval {self.low:+.1f} to "
        size += f"{self.high:+.1f}, {self.num_classes} unseen classes, one seed)"
        if self.low > 0:
            return f"better: {size}"
        if self.high < 0:
            return f"worse: {size}"
        return f"no significant difference: {size}"


def compare(
    first: np.ndarray, second: np.ndarray, labels: Sequence[str], score: str = "Recall@1"
) -> Comparison:
    """Paired bootstrap over classes: photographs of one class are right or wrong together.

    Args:
        first, second: (Q,) score of each query, 0 to 1.
        labels: the class of each query.
        score: name of the score, a mean over queries.

    Raises:
        DataError: not the same queries on both sides.
    """
    if not len(first) == len(second) == len(labels) or not len(labels):
        raise DataError(
            f"expected the same queries twice, got {len(first)}, {len(second)} and {len(labels)} "
            "labels. Some images could not be read in one of the runs"
        )
    codes = np.unique(labels, return_inverse=True)[1]
    gain = np.bincount(codes, second.astype(float) - first.astype(float))
    count = np.bincount(codes)
    drawn = np.random.default_rng(0).integers(len(count), size=(_RESAMPLES, len(count)))
    differences = 100 * gain[drawn].sum(axis=1) / count[drawn].sum(axis=1)
    low, high = np.percentile(differences, [2.5, 97.5])
    mean = 100 * gain.sum() / count.sum()
    return Comparison(mean, float(low), float(high), len(count), score)
