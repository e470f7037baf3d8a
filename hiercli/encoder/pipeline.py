"""From images to a network's input, in threads."""

import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from hiercli.errors import ImageError
from hiercli.images import Preprocessing, from_array, prepared, read

ImageLike = Path | str | Image.Image | np.ndarray
"""A path, a Pillow image, or uint8 pixels (H, W, 3), (H, W, 4) or (H, W)."""
Item = TypeVar("Item")
Result = TypeVar("Result")


def pixels_of(
    preprocessing: Preprocessing, image: ImageLike, content: bytes | None = None
) -> tuple[np.ndarray | None, str]:
    """From an image to a network's input: decoded by `picture_of`, and preprocessed.

    Args:
        preprocessing: of the encoder.
        image: a path, a Pillow image, or an array.
        content: bytes of the file, where they were read already.

    Returns:
        (float32 (3, size, size), ""), or (``None``, the reason) where it cannot be read.
    """
    try:
        return preprocessing(picture_of(preprocessing, image, content)), ""
    except ImageError as error:
        return None, str(error)


def picture_of(
    preprocessing: Preprocessing, image: ImageLike, content: bytes | None = None
) -> Image.Image:
    """An image decoded, upright and in RGB, as large as preprocessing needs it; see `pixels_of`.

    Raises:
        ImageError: it cannot be read.
    """
    if isinstance(image, Image.Image):
        return prepared(image)
    if isinstance(image, np.ndarray):
        return prepared(from_array(image))
    return read(image, preprocessing.shortest_side, content)


def batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Items in lists of some length; the last may be shorter."""
    waiting = iter(items)
    while batch := list(itertools.islice(waiting, size)):
        yield batch


def in_order(
    items: Iterable[Item], work: Callable[[Item], Result], workers: int, ahead: int
) -> Generator[Result, None, None]:
    """What ``work`` makes of items in threads, in their order, a bounded number ahead."""
    pending: deque[Future[Result]] = deque()
    waiting = iter(items)
    pool = ThreadPoolExecutor(workers)
    try:
        while True:
            for item in itertools.islice(waiting, ahead - len(pending)):
                pending.append(pool.submit(work, item))
            if not pending:
                return
            yield pending.popleft().result()
    finally:
        # Whoever ends early closes next what the threads use: none may still be at work.
        pool.shutdown(cancel_futures=True)
