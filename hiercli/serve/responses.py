"""Answers of the server: JSON, errors, and files of the page."""

import json
from importlib import resources

import orjson
from starlette.exceptions import HTTPException
from starlette.responses import Response

_OWN = ("index.html", "app.css", "app.js")
_SHARED = ("theme.css", "disk.css", "disk.js", "review.css", "review.js")
"""Files of the page; tree, review and colours are those of the offline pages."""
_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript"}
_CODES = {400: "wrong-input", 403: "forbidden", 404: "not-found", 413: "too-large",
          415: "wrong-type", 405: "wrong-method"}  # fmt: skip


def answer_of(value: object, status: int = 200) -> Response:
    """A value as JSON."""
    try:
        body = orjson.dumps(value)
    except TypeError:  # a name that is not UTF-8
        body = json.dumps(value, separators=(",", ":")).encode()
    return Response(body, status, media_type="application/json")


def error_of(status: int, code: str, message: str) -> Response:
    """An error, as clients of the API expect it."""
    answer = answer_of({"error": {"code": code, "message": message}}, status)
    if status == 503:
        answer.headers["retry-after"] = "1"
    return answer


def refusal_of(error: HTTPException) -> Response:
    """What an endpoint refused."""
    return error_of(error.status_code, _CODES.get(error.status_code, "error"), error.detail)


def fresh(content: bytes) -> Response:
    """JSON that a browser asks for again each time."""
    return Response(content, media_type="application/json", headers={"cache-control": "no-cache"})


def page_file(name: str) -> Response:
    """A file of the page.

    Raises:
        HTTPException: there is none of this name.
    """
    if name not in (*_OWN, *_SHARED):
        raise HTTPException(404, "there is no such page")
    here = resources.files("hiercli.serve").joinpath("page", name)
    if name in _SHARED:
        here = resources.files("hiercli.reports").joinpath(name)
    kind = _TYPES[name.rpartition(".")[2]]
    return Response(
        here.read_bytes(),
        media_type=f"{kind}; charset=utf-8",
        headers={"cache-control": "no-cache"},
    )
