"""The unit hyperboloid {X : -X0^2 + |Xs|^2 = -1, X0 > 0}, coordinates time first, (..., D+1).

A point of the Poincare ball with curvature -c lifts onto it by scaling with sqrt(c), so the
curvature enters only where lengths do: a distance is the hyperboloid's, divided by sqrt(c).
Arrays are NumPy's or torch's, in float32 or float64. Formulas: Nickel and Kiela, "Learning
Continuous Hierarchies in the Lorentz Model" (ICML 2018), section 3.

Nearest neighbours become a product search here: d(q, x) falls as -Q0 X0 + Qs.Xs grows, so a
query with its time coordinate negated (`as_query`) finds its neighbours by largest inner product.

Examples:
    >>> import numpy as np
    >>> from hiercli.geometry import lorentz, poincare
    >>> x, y = np.array([0.3, 0.1]), np.array([[0.2, -0.4], [0.3, 0.2]])
    >>> products = lorentz.from_poincare(y, 1.0) @ lorentz.as_query(lorentz.from_poincare(x, 1.0))
    >>> int(products.argmax()) == int(poincare.dist(x[None], y, 1.0).argmin()) == 1
    True
"""

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


def from_poincare(x: Array, c: float) -> Array:
    """Lift points of the ball: ((1 + c|x|^2), 2 sqrt(c) x) / (1 - c|x|^2).

    Args:
        x: (..., D) points of the ball of curvature -c.
        c: curvature magnitude.

    Returns:
        (..., D+1) on the unit hyperboloid.
    """
    x = at_least_float32(x)
    xp = namespace(x)
    x2 = c * square_norm(x)
    return xp.concat([1 + x2, 2 * root(c) * x], axis=-1) / (1 - x2)


def to_poincare(x: Array, c: float) -> Array:
    """Stereographic projection back into the ball: Xs / (sqrt(c) (1 + X0)).

    Args:
        x: (..., D+1) on the unit hyperboloid.
        c: curvature magnitude.

    Returns:
        (..., D) points of the ball of curvature -c.
    """
    x = at_least_float32(x)
    return x[..., 1:] / (root(c) * (1 + x[..., :1]))


def project(x: Array) -> Array:
    """Recompute the time coordinate from the others, X0 = sqrt(1 + |Xs|^2).

    Args:
        x: (..., D+1); its first coordinate is ignored.

    Returns:
        (..., D+1) on the unit hyperboloid, to the last digit of its dtype.
    """
    x = at_least_float32(x)
    xp = namespace(x)
    return xp.concat([xp.sqrt(1 + square_norm(x[..., 1:])), x[..., 1:]], axis=-1)


def inner(x: Array, y: Array) -> Array:
    """Row-wise Minkowski product -X0 Y0 + Xs.Ys: (..., D+1), (..., D+1) -> (...,), at most -1."""
    x, y = at_least_float32(x), at_least_float32(y)
    xp = namespace(x, y)
    return xp.sum(x[..., 1:] * y[..., 1:], axis=-1) - x[..., 0] * y[..., 0]


def as_query(x: Array) -> Array:
    """Negate the time coordinate, (..., D+1): a plain inner product with it is `inner`."""
    xp = namespace(x)
    return xp.concat([-x[..., :1], x[..., 1:]], axis=-1)


def expmap0(u: Array, c: float) -> Array:
    """Exponential map at the apex, in step with `poincare.expmap0`.

    Args:
        u: (..., D) tangent vectors as the Poincare ball measures them: their Euclidean length
            is half the distance that they reach.
        c: curvature magnitude.

    Returns:
        (..., D+1) on the unit hyperboloid.
    """
    u = at_least_float32(u)
    xp = namespace(u)
    reach = 2 * root(c) * norm(u)
    safe = xp.clip(reach, _SMALLEST_NORM, None)  # the quotient is 1 at u = 0
    return xp.concat([xp.cosh(reach), 2 * root(c) * xp.sinh(safe) / safe * u], axis=-1)


def logmap0(x: Array, c: float) -> Array:
    """Logarithmic map at the apex, inverse of `expmap0`: (..., D+1) -> (..., D)."""
    x = at_least_float32(x)
    xp = namespace(x)
    space = x[..., 1:]
    # asinh of the spatial length, not arccosh of the time: exact near the apex.
    safe = xp.clip(norm(space), _SMALLEST_NORM, None)
    return xp.asinh(safe) / safe * space / (2 * root(c))


def dist(x: Array, y: Array, c: float) -> Array:
    """Row-wise geodesic distance 2/sqrt(c) asinh(|X - Y|_L / 2).

    Args:
        x, y: (..., D+1) on the unit hyperboloid.
        c: curvature magnitude.

    Returns:
        (...,), at least 0.
    """
    x, y = at_least_float32(x), at_least_float32(y)
    xp = namespace(x, y)
    # <X-Y, X-Y>_L is never negative on the hyperboloid, but its rounding can be.
    return _half_chord_to_distance(xp.clip(inner(x - y, x - y), 0.0, None), c)


def pairwise_dist(x: Array, y: Array, c: float) -> Array:
    """Geodesic distance of every X to every Y from one matrix product, formed in float64.

    Args:
        x: (N, D+1), y: (M, D+1), both on the unit hyperboloid.
        c: curvature magnitude.

    Returns:
        (N, M) in the inputs' dtype, at least 0.
    """
    x, y = at_least_float32(x), at_least_float32(y)
    xp = namespace(x, y)
    # Rounded to float32, a point is off the hyperboloid by more than near points are apart.
    product = as_query(project(widest(x))) @ project(widest(y)).T
    chord2 = xp.clip(-2 - 2 * product, 0.0, None)
    return xp.astype(_half_chord_to_distance(chord2, c), x.dtype)


def _half_chord_to_distance(chord2: Array, c: float) -> Array:
    xp = namespace(chord2)
    # The floor keeps the root's slope finite at coincident points.
    return 2 / root(c) * xp.asinh(xp.sqrt(xp.clip(chord2, _SMALLEST_NORM**2, None)) / 2)


def centroid(x: Array, weights: Array | None = None) -> Array:
    """Weighted sum over the second last axis, scaled back onto the hyperboloid.

    Law et al., "Lorentzian Distance Learning" (ICML 2019), equation 11.

    Args:
        x: (..., N, D+1) on the unit hyperboloid.
        weights: (..., N), at least 0 with a positive sum; all equal where left out.

    Returns:
        (..., D+1) on the unit hyperboloid.
    """
    x = at_least_float32(x)
    xp = namespace(x)
    if weights is not None:
        x = x * weights[..., None]
    total = xp.sum(x, axis=-2)
    space, time = total[..., 1:], total[..., :1]
    # (time - |space|)(time + |space|) loses less than time^2 - |space|^2 does far from the apex.
    length = xp.sqrt((time - norm(space)) * (time + norm(space)))
    return project(total / length)
