"""Directions as points of the Poincare ball, all at one depth.

A unit vector u becomes the point `NORM` u of the ball of curvature -`C`. On the hyperboloid, time
first, that is (sqrt(2), u). So for the distance d of two such points, and the angle between their
vectors,

    cosh(d) = 2 - cos(angle)

The nearest point is the one of the largest cosine. For small angles in radians, d is the angle.

Examples:
    >>> import numpy as np
    >>> from hiercli.geometry import poincare, sphere
    >>> points = sphere.to_ball(np.array([[2.0, 0.0], [3.0, 4.0]]))
    >>> distance = poincare.dist(points[0], points[1], sphere.C)
    >>> round(float(sphere.cosine(distance)), 5)
    0.6
"""

import math

import numpy as np

C = 1.0
"""Curvature magnitude of the ball."""
NORM = math.sqrt(2) - 1
"""Euclidean norm of all points, at which the space part on the hyperboloid has length 1."""


def to_ball(vectors: np.ndarray) -> np.ndarray:
    """Vectors (..., D) of any length above 0 as points (..., D) of the ball, float32.

    The vectors must be finite: who computes them checks that.
    """
    wide = np.asarray(vectors, np.float64)
    # Scaled first: the square of a float64 may overflow.
    wide = wide / np.abs(wide).max(axis=-1, keepdims=True)
    lengths = np.linalg.norm(wide, axis=-1, keepdims=True)
    return np.asarray(NORM * wide / lengths, np.float32)


def cosine(distance: np.ndarray | float) -> np.ndarray | float:
    """Cosine of the angle between two vectors, -1 to 1, from the distance of their points."""
    return 2.0 - np.cosh(distance)
