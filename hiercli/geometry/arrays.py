"""What both models need from their arrays: a namespace, a floating dtype, a checked curvature."""

from typing import Any, cast

import array_api_compat
import numpy as np

from hiercli.errors import InputError

Array = Any
"""A NumPy array or a torch tensor; every function returns the kind, and device, that came in."""


def namespace(*arrays: Array) -> Any:
    """The array-API namespace (NumPy's or torch's) that all ``arrays`` share."""
    if all(isinstance(array, np.ndarray | np.generic) for array in arrays):
        return np  # is one itself; the wrapper would take a tenth of a second to import
    return array_api_compat.array_namespace(*arrays)


def at_least_float32(x: Array) -> Array:
    """``x`` as it is in float32 or float64; half precision and integers become float32.

    Curvature maths in half precision loses the ball's rim, where most photographs end up, so
    mixed-precision training enters geometry here and leaves half precision behind.
    """
    xp = namespace(x)
    return x if x.dtype in (xp.float32, xp.float64) else xp.astype(x, xp.float32)


def widest(x: Array) -> Array:
    """``x`` in float64, or as it is on devices that have no float64 (Apple's MPS)."""
    xp = namespace(x)
    if "mps" in str(array_api_compat.device(x)):
        return x
    return xp.astype(x, xp.float64)


def norm(x: Array) -> Array:
    """Euclidean norm over the last axis, kept: (..., D) -> (..., 1). Its gradient at 0 is 0."""
    xp = namespace(x)
    return xp.linalg.vector_norm(x, axis=-1, keepdims=True)


def square_norm(x: Array) -> Array:
    """Squared Euclidean norm over the last axis, kept: (..., D) -> (..., 1)."""
    xp = namespace(x)
    return xp.sum(x * x, axis=-1, keepdims=True)


def root(c: float) -> float:
    """Square root of the curvature magnitude ``c``.

    Raises:
        InputError: ``c`` is not a positive number.
    """
    if isinstance(c, int | float) and not c > 0:
        raise InputError(
            f"expected a positive curvature magnitude c (the space has curvature -c), got {c}"
        )
    return cast(float, c**0.5)
