"""What a request asks for, checked: nothing that it says is believed."""

import functools
import math
from typing import Any

from starlette.datastructures import QueryParams

from hiercli.errors import InputError
from hiercli.hierarchy.verdict import CONFIDENCE
from hiercli.index.queries import Box, box_of
from hiercli.serve.state import MOST_HITS, Asked

MOST_CONDITIONS = 16
_TRUE, _FALSE = ("1", "true", "yes", "on", ""), ("0", "false", "no", "off")
PARAMETERS: dict[str, tuple[str, str]] = {
    "index": ("string", "Name of the index. Default: the first one."),
    "k": ("integer", f"Hits at most, 1 to {MOST_HITS}. Default: 10."),
    "max_distance": ("number", "Only hits up to this hyperbolic distance."),
    "where": ("array", "Only hits with label=PATTERN or LEVEL=PATTERN; can be repeated."),
    "unique": ("boolean", "Count files with the same content once."),
    "exact": ("boolean", "Compare every point, for every type of index."),
    "rerank": ("boolean", "Correct the order of the nearest hits by what is near them."),
    "verdict": ("boolean", "Say what the query is. Default: true."),
    "confidence": (
        "number",
        "Name a class only if its probability is at least this, 0.5 to 0.999.",
    ),
    "branches": ("boolean", "Return the lowest common ancestor of each hit and the query."),
    "level": ("integer", "Search in breadth, this many levels above the class of the query."),
    "crop": ("string", "X,Y,W,H in pixels: search for this part of the image."),
}
"""Of a search: type and meaning, as the OpenAPI document has them."""


@functools.lru_cache(256)  # few ways to search, many requests
def asked(query: bytes) -> tuple[str | None, Asked, Box | None]:
    """Which index is searched, how, and for which part of the image.

    Args:
        query: the address of the request after its question mark.

    Raises:
        InputError: a parameter is unknown, or has a value that it cannot have.
    """
    given = QueryParams(query)
    if unknown := set(given.keys()) - set(PARAMETERS):
        raise InputError(
            f"unknown parameter {min(unknown)[:60]!r}. Known parameters: {', '.join(PARAMETERS)}"
        )
    conditions = tuple(_condition(text) for text in given.getlist("where"))
    if len(conditions) > MOST_CONDITIONS:
        raise InputError(f"expected at most {MOST_CONDITIONS} conditions")
    level = given.get("level")
    found = Asked(
        k=int(_number(given, "k", 10, 1, MOST_HITS, whole=True)),
        max_distance=_number(given, "max_distance", math.inf, 0, math.inf),
        where=conditions,
        unique=_flag(given, "unique", False),
        exact=_flag(given, "exact", False),
        rerank=_flag(given, "rerank", False),
        verdict=_flag(given, "verdict", True),
        confidence=_number(given, "confidence", CONFIDENCE, 0.5, 0.999),
        branches=_flag(given, "branches", False),
        level=None if level is None else int(_number(given, "level", 0, 0, 100, whole=True)),
    )
    if found.level is not None and (found.rerank or found.max_distance < math.inf):
        raise InputError("level cannot be combined with rerank or max_distance")
    part = given.get("crop")
    return given.get("index"), found, None if part is None else box_of(part, "crop")


def _condition(text: str) -> tuple[str, str]:
    name, sign, pattern = text.partition("=")
    # As on the command line, label= means images without a label.
    if not (name and sign and (pattern or name == "label")) or len(text) > 500:
        raise InputError(f"expected where=label=PATTERN or LEVEL=PATTERN, got {text[:60]!r}")
    if name == "path":
        raise InputError("expected a condition on a label or level; paths are not searched here")
    return name, pattern


def _flag(given: QueryParams, name: str, default: bool) -> bool:
    text = given.get(name)
    if text is None:
        return default
    if text.lower() not in (*_TRUE, *_FALSE):
        raise InputError(f"expected {name} to be true or false, got {text[:60]!r}")
    return text.lower() in _TRUE


def _number(
    given: QueryParams, name: str, default: float, least: float, most: float, *, whole: bool = False
) -> float:
    text = given.get(name)
    if text is None:
        return default
    try:
        value: Any = int(text[:20]) if whole else float(text[:40])
    except ValueError:
        value = math.nan
    if not least <= value <= most:  # not so where it is no number
        kind = "a whole number" if whole else "a number"
        raise InputError(
            f"expected {name} to be {kind} of {least:g} to {most:g}, got {text[:60]!r}"
        )
    return float(value)
