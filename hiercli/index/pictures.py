"""Pictures of the images of an index, wherever these are by now."""

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from hiercli.errors import FileFormatError, ImageError
from hiercli.images import Picture, Places, read
from hiercli.index.catalogue import Catalogue


class Pictures:
    """Pictures from files, or where these are gone the small ones that an index keeps.

    Args:
        catalogue: of the index; several threads may ask.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue, self._place, self._asks = catalogue, Places(), threading.Lock()

    def __call__(
        self, path: Path | str, shortest_side: int | None = None, content: bytes | None = None
    ) -> Image.Image:
        """As `images.read`.

        Raises:
            ImageError: the file cannot be read, and the index keeps no small picture of it.
        """
        try:
            return read(path, shortest_side, content)
        except ImageError:
            if content is not None:
                raise
            small = None
            with self._asks, contextlib.suppress(FileFormatError):  # the first error says more
                small = self._catalogue.thumbnail(self._place(Path(path)))
            if small is None:
                raise
            return read(path, shortest_side, small)


@contextlib.contextmanager
def pictures_of(index: Path | None, root: Path | None = None) -> Iterator[Picture]:
    """Pictures of the images of an index; without one, of files alone.

    Args:
        index: FAISS file.
        root: what relative paths are relative to, instead of what the index says.

    Raises:
        HierError: the index is missing or damaged.
    """
    if index is None:
        yield read
        return
    with contextlib.closing(Catalogue(index, root)) as catalogue:
        yield Pictures(catalogue)
