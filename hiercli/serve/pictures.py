"""Pictures of indexed images: small ones, previews, and files where those are allowed."""

import asyncio
import contextlib
from collections import OrderedDict

from starlette.exceptions import HTTPException
from starlette.responses import Response

from hiercli.errors import ImageError, InputError
from hiercli.images import kinds
from hiercli.index.schema import Row
from hiercli.serve.collection import ServedIndex, content_of
from hiercli.serve.decoders import PREVIEW, DecoderPool

_PREVIEWS = 64 * 2**20
"""Bytes of previews that are kept."""
_SMALL = 96
"""Longest side of a small picture, in pixels."""
_CACHED = {"cache-control": "private, max-age=3600"}
_MIMES = {
    f"a {name} image": f"image/{name.lower()}" for name in ("JPEG", "PNG", "GIF", "WebP", "BMP")
} | {"an AVIF image": "image/avif"}
"""Kinds of files that browsers show."""


class Pictures:
    """Answers with pictures, of which the last ones are kept.

    Args:
        decoders: make previews.
        show_originals: whether the image files themselves are served.
    """

    def __init__(self, decoders: DecoderPool, show_originals: bool) -> None:
        self._decoders, self._show_originals = decoders, show_originals
        self._previews = Cache(_PREVIEWS)

    def require(self, size: str) -> None:
        """Check what is asked for.

        Raises:
            InputError: there is no such size.
            HTTPException: it is not served.
        """
        if size not in ("small", "preview", "original"):
            raise InputError("expected a size of small, preview or original")
        if size == "original" and not self._show_originals:
            raise HTTPException(
                403, "originals are not served. Start the server with --show-originals"
            )

    async def answer(self, index: ServedIndex, row: Row, size: str) -> Response:
        """A small picture, a preview or the file of an indexed image.

        Raises:
            HTTPException: there is none.
        """
        if size == "original":
            return await _original(row)
        key = (index.name, row.content, size)
        found = self._previews.get(key)
        if found is None:
            found = await self._picture(index, row, size)
            self._previews.put(key, found)
        return Response(found, media_type="image/jpeg", headers=_CACHED)

    async def _picture(self, index: ServedIndex, row: Row, size: str) -> bytes:
        kept = await index.small_picture(row)
        if size == "small" and kept is not None:
            return kept
        content = await asyncio.to_thread(content_of, row)
        if content is not None:
            with contextlib.suppress(ImageError):
                longest = _SMALL if size == "small" else PREVIEW
                return await self._decoders.preview(content, "image", longest)
        if kept is None:
            raise HTTPException(
                404, "there is no preview: the file cannot be read, and the index has no thumbnail"
            )
        return kept


async def _original(row: Row) -> Response:
    content = await asyncio.to_thread(content_of, row)
    kind = None if content is None else kinds.of(content, "")
    mime = _MIMES.get(kind.name if kind else "")
    if content is None:
        raise HTTPException(404, "the file is missing, or has changed since it was indexed")
    if mime is None:
        raise HTTPException(404, "originals of this format are not served. Use size=preview")
    return Response(content, media_type=mime, headers=_CACHED)


class Cache:
    """Bytes by key, the least recently used ones dropped beyond a size.

    Examples:
        >>> cache = Cache(3)
        >>> cache.put("a", b"12"); cache.put("b", b"34")
        >>> cache.get("a"), cache.get("b")
        (None, b'34')

    Args:
        size: bytes of all values.
    """

    def __init__(self, size: int) -> None:
        self._left, self._held = size, OrderedDict[object, bytes]()

    def get(self, key: object) -> bytes | None:
        """What was put there, if it is still there."""
        if key in self._held:
            self._held.move_to_end(key)
        return self._held.get(key)

    def put(self, key: object, value: bytes) -> None:
        """Keep a value."""
        self._left += len(self._held.pop(key, b"")) - len(value)
        self._held[key] = value
        while self._left < 0 and self._held:
            self._left += len(self._held.popitem(last=False)[1])
