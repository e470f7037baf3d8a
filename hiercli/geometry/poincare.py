"""The Poincare ball {x : c |x|^2 < 1} of sectional curvature -c, c > 0.

Every function takes NumPy arrays or torch tensors of shape (..., D) and computes in float32 or
float64, whichever came in (half precision is raised to float32). The formulas are those of
Ganea et al., "Hyperbolic Neural Networks" (2018), section 2, with c the curvature magnitude.

Examples:
    >>> import numpy as np
    >>> from hiercli.geometry import poincare
    >>> points = poincare.expmap0(np.array([[1.0, 0.0], [0.0, 1.0]]), c=1.0)
    >>> poincare.dist(np.zeros((2, 2)), points, c=1.0).round(6).tolist()
    [2.0, 2.0]
"""

from hiercli.geometry import lorentz
from hiercli.geometry.arrays import (
    Array,
    at_least_float32,
    namespace,
    norm,
    root,
    square_norm,
    widest,
)

_SMALLEST_NORM = 1e-15
"""Stands in for |u| = 0 in a quotient whose limit is 1; far below any norm that matters."""


def rim(x: Array) -> float:
    """Gap that `project` keeps to the edge of the unit ball: 1e-3 in float32, 1e-5 in float64.

    At the gap 1 - c|x|^2 is still resolved to about 1e-4 of itself, so distances stay finite.
    """
    xp = namespace(x)
    return 1e-5 if x.dtype == xp.float64 else 1e-3


def project(x: Array, c: float) -> Array:
    """Pull points outside the radius (1 - rim) / sqrt(c) back onto it; leave all others alone.

    Args:
        x: (..., D).
        c: curvature magnitude.

    Returns:
        (..., D), strictly inside the ball.
    """
    xp = namespace(x)
    x = at_least_float32(x)
    largest = (1 - rim(x)) / root(c)
    length = norm(x)
    # A clamp on the divisor, not a where on the result: the untaken branch of a where would
    # send nan gradients back through a zero norm.
    return x * xp.clip(largest / xp.clip(length, _SMALLEST_NORM, None), None, 1.0)


def clip(u: Array, clip_radius: float) -> Array:
    """Shorten tangent vectors longer than ``clip_radius``: u min(1, r / (|u| + 1e-5)).

    Guo et al., "Clipped Hyperbolic Classifiers Are Super-Hyperbolic Classifiers" (CVPR 2022),
    equation 10; the 1e-5 is the published implementation's guard against |u| = 0.

    Args:
        u: (..., D) tangent vectors at the origin.
        clip_radius: largest length r kept, > 0.

    Returns:
        (..., D), lengths at most ``clip_radius``.
    """
    xp = namespace(u)
    u = at_least_float32(u)
    return u * xp.clip(clip_radius / (norm(u) + 1e-5), None, 1.0)


def expmap0(u: Array, c: float) -> Array:
    """Exponential map at the origin: tanh(sqrt(c)|u|) u / (sqrt(c)|u|).

    Args:
        u: (..., D) tangent vectors at the origin.
        c: curvature magnitude.

    Returns:
        (..., D) points of the ball, kept off its rim by `project`.
    """
    xp = namespace(u)
    u = at_least_float32(u)
    # The floor makes the quotient 1 at u = 0; there the numerator's tanh is linear.
    scaled = xp.clip(root(c) * norm(u), _SMALLEST_NORM, None)
    return project(xp.tanh(scaled) / scaled * u, c)


def logmap0(x: Array, c: float) -> Array:
    """Logarithmic map at the origin, inverse of `expmap0`: artanh(sqrt(c)|x|) x / (sqrt(c)|x|).

    Args:
        x: (..., D) points of the ball.
        c: curvature magnitude.

    Returns:
        (..., D) tangent vectors at the origin; |u| is half the distance from the origin to x.
    """
    xp = namespace(x)
    x = project(x, c)
    scaled = xp.clip(root(c) * norm(x), _SMALLEST_NORM, None)
    return xp.atanh(scaled) / scaled * x


def conformal_factor(x: Array, c: float) -> Array:
    """lambda_x = 2 / (1 - c|x|^2): how much longer a step at x is than in flat space.

    Args:
        x: (..., D) points of the ball.
        c: curvature magnitude.

    Returns:
        (..., 1), at least 2.
    """
    root(c)
    return 2 / (1 - c * square_norm(at_least_float32(x)))


def mobius_add(x: Array, y: Array, c: float) -> Array:
    """Moebius addition, the ball's translation: neither commutative nor associative.

    Args:
        x, y: (..., D) points of the ball, broadcast against each other.
        c: curvature magnitude.

    Returns:
        (..., D) point of the ball; mobius_add(-x, x) = 0 and mobius_add(-x, x (+) y) = y.
    """
    root(c)
    x, y = at_least_float32(x), at_least_float32(y)
    xp = namespace(x, y)
    x2, y2 = square_norm(x), square_norm(y)
    xy = xp.sum(x * y, axis=-1, keepdims=True)
    numerator = (1 + 2 * c * xy + c * y2) * x + (1 - c * x2) * y
    denominator = 1 + 2 * c * xy + c * c * x2 * y2
    # Zero only for two opposite points on the rim itself, which `project` never leaves there.
    return project(numerator / xp.clip(denominator, _SMALLEST_NORM, None), c)


def dist(x: Array, y: Array, c: float) -> Array:
    """Row-wise geodesic distance 2/sqrt(c) asinh(sqrt(c)|x-y| / sqrt((1-c|x|^2)(1-c|y|^2))).

    The asinh form keeps its digits where x and y nearly agree; the arccosh form does not.

    Args:
        x, y: (..., D) points of the ball, broadcast against each other.
        c: curvature magnitude.

    Returns:
        (...,), at least 0, exactly 0 for equal points.
    """
    x, y = at_least_float32(x), at_least_float32(y)
    xp = namespace(x, y)
    apart = root(c) * norm(x - y)
    stretch = xp.sqrt((1 - c * square_norm(x)) * (1 - c * square_norm(y)))
    return 2 / root(c) * xp.squeeze(xp.asinh(apart / stretch), axis=-1)


def pairwise_dist(x: Array, y: Array, c: float) -> Array:
    """Geodesic distance of every x to every y, without an (N, M, D) array.

    |x-y|^2 comes from one matrix product, which cancels badly for near points; the product is
    therefore formed in float64 and only the result is rounded back.

    Args:
        x: (N, D) points of the ball.
        y: (M, D) points of the ball.
        c: curvature magnitude.

    Returns:
        (N, M) in the inputs' dtype, at least 0. The gradient at x = y is 0, never nan.
    """
    x, y = at_least_float32(x), at_least_float32(y)
    xp = namespace(x, y)
    wide_x, wide_y = widest(x), widest(y)
    x2, y2 = square_norm(wide_x), square_norm(wide_y)
    # Rounding can make a zero slightly negative; the floor (not 0) keeps the root's slope finite.
    apart2 = xp.clip(x2 + y2.T - 2 * (wide_x @ wide_y.T), _SMALLEST_NORM**2, None)
    ratio = c * apart2 / ((1 - c * x2) * (1 - c * y2.T))
    return xp.astype(2 / root(c) * xp.asinh(xp.sqrt(ratio)), x.dtype)


def midpoint(x: Array, c: float, weights: Array | None = None) -> Array:
    """Weighted centre of points over the second last axis, by way of the hyperboloid.

    The Lorentz centroid of Law et al., "Lorentzian Distance Learning" (ICML 2019), equation 11;
    for two points it is the middle of the geodesic between them.

    Args:
        x: (..., N, D) points of the ball.
        c: curvature magnitude.
        weights: (..., N), at least 0 with a positive sum; all equal where left out.

    Returns:
        (..., D) point of the ball.
    """
    centre = lorentz.centroid(lorentz.from_poincare(x, c), weights)
    return lorentz.to_poincare(centre, c)
