"""What an image may cost: pixels and bytes of one, and memory for decoding that threads share."""

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass

from hiercli.bounds import MAX_IMAGE_BYTES, MAX_PIXELS


@dataclass
class Limits:
    """Of single images, for the whole process.

    Attributes:
        pixels: of the largest that is decoded.
        bytes: of the largest file that is read.
    """

    pixels: int = MAX_PIXELS
    bytes: int = MAX_IMAGE_BYTES


LIMITS = Limits()
"""Those that hold; a program may change them before it reads images."""


class Budget:
    """So many bytes that are taken and given back. Who finds too few of them left waits.

    What is more than all of it is given as soon as nobody else has any: it is decoded alone.

    Examples:
        >>> budget = Budget(100)
        >>> with budget.taking(80):
        ...     budget.left
        20
        >>> budget.left
        100

    Args:
        size: bytes.
    """

    def __init__(self, size: int) -> None:
        self.size = self.left = size
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def taking(self, count: int) -> Iterator[None]:
        """Hold so many bytes as long as the context lasts."""
        count = min(count, self.size)
        with self._changed:
            self._changed.wait_for(lambda: self.left >= count)
            self.left -= count
        try:
            yield
        finally:
            with self._changed:
                self.left += count
                self._changed.notify_all()


BUDGET = Budget(3 * 2**30)
"""Enough for the largest image that is decoded, and for a dozen of 24 megapixels at once."""
