"""A new head for an encoder, learnt from features of images without labels.

Images that are among each other's nearest mostly show one thing. What differs between such two is
what the search should not look at, so features are scaled down along the directions in which they
differ (within-class covariance normalisation, Hatch et al., "Within-class covariance normalization
for SVM-based speaker recognition", 2006, with pairs of neighbours in place of classes). Principal
directions of the result make the new head. Under it other images are nearest, and more of them show
one thing: the head is learnt again from these. All images get one depth.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hiercli.errors import InputError
from hiercli.geometry import poincare
from hiercli.neighbours import nearest

FEWEST = 60
"""Images from which a head is learnt; with as few it was tried on training classes."""
MOST = 20_000
"""Images that a head is learnt from; of more, so many evenly spread."""
# Chosen on halves of the training classes of CUB, Cars and two generated floras, 480 to 2,033
# photos each, by an encoder learnt without that kind: Recall@1 / MAP@R from 94.5 / 60.8, 43.3 /
# 6.7, 71.9 / 27.6 and 59.3 / 20.0 to 95.4 / 69.0, 52.6 / 10.1, 81.2 / 44.7 and 70.0 / 38.1. One
# round: 94.9 / 68.9, 49.5 / 9.4, 80.2 / 42.5, 65.2 / 32.9. A share of the encoder's own head helps
# where it knows the kind and harms where it does not (half: 94.7, 48.6, 76.9, 66.0).
_ROUNDS = 3
_NEIGHBOURS = 5
_POWER = 0.75
"""Exponent of the covariance of differences: 1 would make all directions differ alike."""
_FLOOR = 0.03
_FLOOR_OF_FEW = 0.1
_FEW = 500
"""Variances are at least this share of the largest; with fewer images, noise is larger."""
_SAME = 1e-12
"""Share of their squares below which differences are rounding."""
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
    def learn(
        cls,
        features: np.ndarray,
        dim: int,
        c: float,
        radius: float = _RADIUS,
        points: np.ndarray | None = None,
    ) -> "Head":
        """Learn a head from features of images.

        Args:
            features: (N, F) of N images; of more than 20,000 so many are used.
            dim: D, at most F.
            c, radius: of the ball.
            points: (N, E) of the same images by the encoder as it is, which tell its first
                neighbours; the features where left out.

        Raises:
            InputError: there are fewer than 60 images, all are the same, or points are missing.
        """
        if points is not None and len(points) != len(features):
            raise InputError(f"expected {len(features)} points, one an image, got {len(points)}")
        if len(features) < FEWEST:
            raise InputError(
                f"expected at least {FEWEST} different images to adapt an encoder, got "
                f"{len(features)}. Add images to the index"
            )
        kept = np.linspace(0, len(features) - 1, min(len(features), MOST)).astype(int)
        some = features[kept]
        normal = normalised(some)
        floor = _FLOOR if len(some) >= _FEW else _FLOOR_OF_FEW
        near = normal if points is None else points[kept]
        for _ in range(_ROUNDS):
            pairs = _neighbours(near.astype(np.float32))
            differences = normal[pairs[:, 0]] - normal[pairs[:, 1]]
            within = differences.T @ differences
            if not len(pairs) or not np.trace(within) > 0:
                raise InputError(
                    "the images do not differ from each other, so there is nothing to adapt to. "
                    "Add other images to the index"
                )
            head = cls._of(within, [normal], dim, c, radius, floor)
            near = head.tangent(some)
        return head

    @classmethod
    def of_classes(
        cls,
        collections: Sequence[tuple[np.ndarray, Sequence[str]]],
        dim: int,
        c: float,
        radius: float = _RADIUS,
    ) -> "Head":
        """Learn a head from features of images whose classes are known.

        Args:
            collections: (N, F) features and N labels each; all count alike, however large.
            dim, c, radius: as for `learn`.

        Raises:
            InputError: there are no collections, or one has no class of two different images.
        """
        if not collections:
            raise InputError("expected at least one collection of images, got none")
        within = 0.0
        parts = []
        for features, labels in collections:
            if len(features) != len(labels) or not len(labels):
                raise InputError(
                    f"expected a label an image, got {len(labels)} for {len(features)} images"
                )
            normal = normalised(features)
            _, codes = np.unique(labels, return_inverse=True)
            sums = np.zeros((codes.max() + 1, normal.shape[1]))
            np.add.at(sums, codes, normal)
            differences = normal - (sums / np.bincount(codes)[:, None])[codes]
            own = differences.T @ differences
            if not np.trace(own) > _SAME * np.square(normal).sum():
                raise InputError(
                    "expected classes with several images that differ, got none in a collection"
                )
            within = within + own / np.trace(own)
            parts.append(normal)
        return cls._of(np.asarray(within), parts, dim, c, radius, _FLOOR)

    @classmethod
    def _of(
        cls,
        within: np.ndarray,
        collections: Sequence[np.ndarray],
        dim: int,
        c: float,
        radius: float,
        floor: float,
    ) -> "Head":
        """The head that scales down where ``within`` (F, F) is large."""
        variances, directions = np.linalg.eigh(within)
        scales = np.maximum(variances, floor * variances[-1]) ** (-_POWER / 2)
        scaled = (directions * (scales / scales.max())) @ directions.T
        middle = np.mean([normal.mean(axis=0) for normal in collections], axis=0)
        spread = 0.0
        for normal in collections:
            moved = (normal - middle) @ scaled
            spread = spread + moved.T @ moved / np.square(moved).sum()
        _, principal = np.linalg.eigh(spread)
        weight = scaled @ principal[:, ::-1][:, :dim]
        lengths = [np.linalg.norm((some - middle) @ weight, axis=1).mean() for some in collections]
        weight *= radius / max(float(np.mean(lengths)), 1e-12)
        return cls(
            np.ascontiguousarray(weight.T, np.float32),
            np.asarray(-middle @ weight, np.float32),
            c, radius,
        )  # fmt: skip

    def tangent(self, features: np.ndarray) -> np.ndarray:
        """Tangent vectors (N, D) of features (N, F), all of one length."""
        mapped = normalised(features) @ self.weight.T.astype(np.float64) + self.bias
        lengths = np.linalg.norm(mapped, axis=1, keepdims=True)
        return np.asarray(mapped * (self.radius / np.maximum(lengths, 1e-12)))

    def points(self, features: np.ndarray) -> np.ndarray:
        """Points (N, D) float32 of the ball, of features (N, F)."""
        return np.asarray(poincare.expmap0(self.tangent(features), self.c), np.float32)


def normalised(features: np.ndarray) -> np.ndarray:
    """LayerNorm without parameters, float64."""
    wide = features.astype(np.float64)
    centred = wide - wide.mean(axis=1, keepdims=True)
    return np.asarray(centred / np.sqrt(centred.var(axis=1, keepdims=True) + EPSILON))


def _neighbours(vectors: np.ndarray) -> np.ndarray:
    """Pairs (P, 2) of images that are among each other's nearest by cosine."""
    count = len(vectors)
    _, found = nearest(vectors, vectors, min(_NEIGHBOURS + 1, count), None)
    near = [set(row.tolist()) - {place} for place, row in enumerate(found)]
    pairs = [(a, b) for a, own in enumerate(near) for b in own if a < b and a in near[b]]
    return np.array(pairs, np.int64).reshape(-1, 2)
