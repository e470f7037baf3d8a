"""Bodies of requests: what is taken of them, and how much."""

import os

from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from hiercli.errors import InputError


async def body_of(request: Request) -> bytes:
    """All bytes of a request."""
    try:
        return await request.body()
    except ClientDisconnect as error:
        raise HTTPException(400, "the request ended too early") from error


async def upload_of(request: Request, most: int) -> tuple[bytes, str]:
    """The bytes and name of the field ``image`` of a form; all in memory.

    Raises:
        InputError: there is none.
    """
    MultiPartParser.spool_max_size = most + 1  # never on disk, which may be full
    try:
        async with request.form(max_files=1, max_fields=8, max_part_size=4096) as form:
            image = form.get("image")
            if image is None or isinstance(image, str):
                raise InputError("expected a file in the field 'image'")
            return await image.read(), _readable(image.filename or "image")
    except MultiPartException as error:
        raise InputError(f"the form cannot be read: {error.message}") from error
    except ClientDisconnect as error:
        raise HTTPException(400, "the request ended too early") from error


def _readable(name: str) -> str:
    """A file name as it may be said back: without folders, and not endless."""
    return os.path.basename(name.replace("\\", "/"))[-100:] or "image"
