"""A new head for an encoder, learnt from features of images without labels.

Images that are among each other's nearest mostly show one thing. What differs between such two is
what the search should not look at, so features are scaled down along the directions in which they
differ (within-class covariance normalisation, Hatch et al., "Within-class covariance normalization
for SVM-based speaker recognition", 2006, with pairs of neighbours in place of classes). Principal
directions of the result make the new head. All images get one depth.
"""

from dataclasses import dataclass

import numpy as np

from hiercli.errors import InputError
from hiercli.geometry import poincare
from hiercli.neighbours import nearest

FEWEST = 60
"""Images from which a head is learnt; with as few it was tried on training classes."""
MOST = 20_000
"""Images that a head is learnt from; of more, so many evenly spread."""
# Chosen on the training classes of the CUB and Cars subsets and of two generated floras, where
# Recall@1 of their own images is 89.8, 43.5, 65.9 and 58.0. With power 0.5: 90.2, 42.4, 64.8, 55.8
# (floor 0.01); with floor 0.01: 90.3, 41.8, 64.6, 56.8; with 8 neighbours 90.4, 41.8, 62.3, 56.9.
_NEIGHBOURS = 5
_POWER = 0.75
"""Exponent of the covariance of differences: 1 would make all directions differ alike."""
_FLOOR = 0.03
_FLOOR_OF_FEW = 0.1
_FEW = 1000
"""Variances are at least this share of the largest; with fewer images, noise is larger."""
EPSILON = 1e-5
"""Of the LayerNorm before the head."""
_RADIUS = 2.0
"""Tangent length of all points."""


@dataclass(frozen=True)
class Head:
    """From features to points: LayerNorm, a linear map, one length, and the map into the ball.

    Attributes:
        weight: (D, F) float32.
        bias: (D,) float32.
        c: curvature magnitude.
        radius: tangent length of all points.
    """

    weight: np.ndarray
    bias: np.ndarray
    c: float
    radius: float

    @classmethod
    def learn(cls, features: np.ndarray, dim: int, c: float, radius: float = _RADIUS) -> "Head":
        """Learn a head from features of images.

        Args:
            features: (N, F) of N images; of more than 20,000 so many are used.
            dim: D, at most F.
            c, radius: of the ball.

        Raises:
            InputError: there are fewer than 60 images, or all are the same.
        """
        if len(features) < FEWEST:
            raise InputError(
                f"expected at least {FEWEST} readable images to adapt an encoder, got "
                f"{len(features)}. Add images to the index"
            )
        some = features[np.linspace(0, len(features) - 1, min(len(features), MOST)).astype(int)]
        normal = _normalised(some)
        middle = normal.mean(axis=0)
        pairs = _neighbours(normal.astype(np.float32))
        differences = normal[pairs[:, 0]] - normal[pairs[:, 1]]
        within = differences.T @ differences
        if not len(pairs) or not np.trace(within) > 0:
            raise InputError(
                "the images do not differ from each other, so there is nothing to adapt to. Add "
                "other images to the index"
            )
        variances, directions = np.linalg.eigh(within)
        floor = (_FLOOR if len(some) >= _FEW else _FLOOR_OF_FEW) * variances[-1]
        scales = np.maximum(variances, floor) ** (-_POWER / 2)
        scaled = (directions * (scales / scales.max())) @ directions.T
        spread = (normal - middle) @ scaled
        _, principal = np.linalg.eigh(spread.T @ spread)
        weight = scaled @ principal[:, ::-1][:, :dim]
        length = np.linalg.norm((normal - middle) @ weight, axis=1).mean()
        weight *= radius / max(float(length), 1e-12)
        return cls(
            np.ascontiguousarray(weight.T, np.float32),
            np.asarray(-middle @ weight, np.float32),
            c, radius,
        )  # fmt: skip

    def tangent(self, features: np.ndarray) -> np.ndarray:
        """Tangent vectors (N, D) of features (N, F), all of one length."""
        mapped = _normalised(features) @ self.weight.T.astype(np.float64) + self.bias
        lengths = np.linalg.norm(mapped, axis=1, keepdims=True)
        return np.asarray(mapped * (self.radius / np.maximum(lengths, 1e-12)))

    def points(self, features: np.ndarray) -> np.ndarray:
        """Points (N, D) float32 of the ball, of features (N, F)."""
        return np.asarray(poincare.expmap0(self.tangent(features), self.c), np.float32)


def _normalised(features: np.ndarray) -> np.ndarray:
    """LayerNorm without parameters, float64."""
    wide = features.astype(np.float64)
    centred = wide - wide.mean(axis=1, keepdims=True)
    return np.asarray(centred / np.sqrt(centred.var(axis=1, keepdims=True) + EPSILON))


def _neighbours(normal: np.ndarray) -> np.ndarray:
    """Pairs (P, 2) of images that are among each other's nearest by cosine."""
    count = len(normal)
    _, found = nearest(normal, normal, min(_NEIGHBOURS + 1, count), None)
    near = [set(row.tolist()) - {place} for place, row in enumerate(found)]
    pairs = [(a, b) for a, own in enumerate(near) for b in own if a < b and a in near[b]]
    return np.array(pairs, np.int64).reshape(-1, 2)
