"""How large the numbers of an encoder and of images may be, whichever file or option says them.

Beyond these a number is a slip of the finger, or a file that asks for all the memory there is.
"""

MAX_DIM = 65_536
"""Dimensions of the ball."""
MAX_SIZE = 4096
"""Pixels of the largest side of a network's input."""
MIN_CROP_SHARE = 0.01
"""Share of the short side that a crop may cover at least."""
MIN_CURVATURE, MAX_CURVATURE = 1e-6, 1e4
"""Curvature magnitudes with which float32 can still tell points of the ball apart."""
MAX_CLIP_RADIUS = 1e3
"""Length of a tangent vector at the origin."""
MAX_PIXELS = 160_000_000
"""Of the largest image that is decoded: more than any camera takes in one shot."""
MAX_IMAGE_BYTES = 2**30
"""Of the largest image file that is read: `MAX_PIXELS` of three bytes fit in half of it."""


def is_curvature(c: float) -> bool:
    """Whether a number can be a curvature magnitude; ``nan`` cannot."""
    return MIN_CURVATURE <= c <= MAX_CURVATURE
