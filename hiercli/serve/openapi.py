"""The OpenAPI document of the server."""

from typing import Any

from hiercli import __version__
from hiercli.serve.asked import PARAMETERS
from hiercli.serve.reviews import FOUND, MOST

_ID = {
    "name": "id", "in": "path", "required": True, "description": "The id of an image, from a hit.",
    "schema": {"type": "string", "pattern": "^[0-9a-f]{32}$"},
}  # fmt: skip
_NUMBER, _WHOLE, _TEXT = {"type": "number"}, {"type": "integer"}, {"type": "string"}


def document() -> dict[str, Any]:
    """The document, as JSON has it."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "hier",
            "version": __version__,
            "description": "Visual search that understands hierarchy.",
            "license": {"name": "Apache-2.0"},
        },
        "paths": _paths(),
        "components": {"schemas": _schemas(), "securitySchemes": {
            "token": {"type": "http", "scheme": "bearer"},
        }},
        "security": [{"token": []}, {}],
    }  # fmt: skip


def _paths() -> dict[str, Any]:
    return {
        "/api/search": {"post": {
            "summary": "Find the nearest images of an image, an indexed image, a point, or words.",
            "parameters": [_parameter(name, *told) for name, told in PARAMETERS.items()],
            "requestBody": {"required": True, "content": {
                "multipart/form-data": {"schema": {
                    "type": "object", "required": ["image"],
                    "properties": {"image": {"type": "string", "format": "binary"}},
                }},
                "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
                "application/json": {"schema": {"oneOf": [
                    _only("id", _ID["schema"]),
                    _only("text", {"type": "string", "maxLength": 200}),
                    _only("point", {"type": "array", "items": _NUMBER}),
                ]}},
            }},
            "responses": _answers("Answer", 400, 404, 409, 413, 415, 422, 503),
        }},
        "/api/images/{id}": {"get": {
            "summary": "A picture of an indexed image.",
            "parameters": [_ID, _parameter("index", *PARAMETERS["index"]), {
                "name": "size", "in": "query", "schema": {
                    "type": "string", "enum": ["small", "preview", "original"],
                    "default": "preview",
                },
                "description": "small: as the index keeps it. preview: up to 512 pixels. original: "
                "the file, where the server was started with --show-originals.",
            }],
            "responses": {"200": {"description": "The picture.", "content": {"image/*": {}}}}
            | _errors(400, 403, 404),
        }},
        "/api/tree": {"get": {
            "summary": "The tree of the classes with its images, laid out in a disk.",
            "parameters": [_parameter("index", *PARAMETERS["index"])],
            "responses": {
                "200": {"description": "The tree.", "content": {"application/json": {}}},
                "202": {"description": "The tree is being built. Ask again.", "content": {
                    "application/json": {"schema": {"$ref": "#/components/schemas/Progress"}},
                }},
            } | _errors(400, 404, 503),
        }},
        "/api/review": {"get": {
            "summary": "What a person should look at: wrong labels, copies, odd images.",
            "parameters": [_parameter("index", *PARAMETERS["index"]), {
                "name": "kind", "in": "query",
                "description": "Only findings of this kind; can be repeated.",
                "schema": {"type": "array", "items": {"type": "string", "enum": list(FOUND)}},
            }],
            "responses": _answers("Review", 400, 404, 503) | {
                "202": {"description": "The review is running. Ask again.", "content": {
                    "application/json": {"schema": {"$ref": "#/components/schemas/Progress"}},
                }},
            },
        }},
        "/api/stats": {"get": {
            "summary": "Sizes and names of the indexes.",
            "responses": {"200": {"description": "Facts.", "content": {"application/json": {}}}},
        }},
        "/api/healthz": {"get": {
            "summary": "Whether the server answers.",
            "security": [],
            "responses": {"200": {"description": "It does.", "content": {"application/json": {
                "schema": {"type": "object", "properties": {
                    "status": {"type": "string", "enum": ["ok", "degraded"]},
                }},
            }}}},
        }},
        "/metrics": {"get": {
            "summary": "Counts and times, for Prometheus.",
            "responses": {"200": {"description": "Metrics.", "content": {"text/plain": {}}}},
        }},
    }  # fmt: skip


def _parameter(name: str, kind: str, meaning: str) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": kind}
    if kind == "array":
        schema["items"] = _TEXT
    return {"name": name, "in": "query", "description": meaning, "schema": schema}


def _only(name: str, schema: object) -> dict[str, Any]:
    return {
        "type": "object", "required": [name], "properties": {name: schema},
        "additionalProperties": False,
    }  # fmt: skip


def _answers(schema: str, *errors: int) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    return {"200": {"description": "The answer.", "content": content}} | _errors(*errors)


_MEANINGS = {
    400: "A parameter or the body is not what it must be.",
    403: "The server does not allow this.",
    404: "There is no such image or index.",
    409: "The point does not fit the index.",
    413: "The request is too large.",
    415: "The body is of another type.",
    422: "The image cannot be read.",
    503: "The server is busy. Try again.",
}


def _errors(*statuses: int) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {
        str(status): {"description": _MEANINGS[status], "content": content} for status in statuses
    }


def _schemas() -> dict[str, Any]:
    hit = {
        "rank": {"type": "integer", "minimum": 1},
        "id": _ID["schema"],
        "label": _TEXT,
        "levels": {"type": "object", "additionalProperties": _TEXT},
        "distance": _NUMBER | {"description": "Hyperbolic; lower is closer."},
        "similarity": _NUMBER
        | {"description": "1: the same image; 0: the median distance of two images, or beyond."},
        "similar": _TEXT | {"description": "The same in words."},
        "branch": {"type": "object", "description": "With branches: the common ancestor."},
        "path": _TEXT | {"description": "Where the server was started with --show-paths."},
        "copies": {"type": "array", "items": _TEXT},
    }
    required = ["rank", "id", "label", "levels", "distance", "similarity", "similar"]
    return {
        "Hit": {"type": "object", "required": required, "properties": hit},
        "Answer": {
            "type": "object",
            "required": ["query", "results"],
            "properties": {
                "query": _TEXT,
                "results": {"type": "array", "items": {"$ref": "#/components/schemas/Hit"}},
                "verdict": {"type": "object", "description": "What the query is."},
                "understood": {"type": "object", "description": "How the words were interpreted."},
            },
        },
        "Finding": _finding(),
        "Review": {
            "type": "object",
            "required": ["findings", "counts", "images", "notes", "key", "kinds", "labels"],
            "properties": {
                "findings": {
                    "type": "array", "items": {"$ref": "#/components/schemas/Finding"},
                    "description": f"At most {MOST} of a kind, the surest first.",
                },
                "counts": {
                    "type": "object", "additionalProperties": _WHOLE,
                    "description": "How many there are of each kind that was found.",
                },
                "images": _WHOLE | {"description": "That were looked at."},
                "most": _WHOLE | {"description": "Findings of a kind that are sent."},
                "notes": {"type": "array", "items": _TEXT},
                "key": _TEXT | {"description": "The same as long as the findings are the same."},
                "kinds": {"type": "object", "additionalProperties": _TEXT},
                "labels": {"type": "array", "items": _TEXT},
                "columns": {
                    "type": ["array", "null"], "items": _TEXT,
                    "description": "Of the CSV for `hier embed --labels`; null without paths.",
                },
            },
        },
        "Progress": {
            "type": "object",
            "required": ["building", "step", "done", "total"],
            "properties": {
                "building": {"const": True}, "step": _TEXT, "done": _WHOLE, "total": _WHOLE,
            },
        },
        "Error": {
            "type": "object",
            "required": ["error"],
            "properties": {"error": {
                "type": "object",
                "required": ["code", "message"],
                "properties": {"code": _TEXT, "message": _TEXT},
            }},
        },
    }  # fmt: skip


def _finding() -> dict[str, Any]:
    images = {"type": "array", "items": _TEXT | {"description": "Id of an image."}}
    values = {
        "kind": {"type": "string", "enum": list(FOUND)},
        "id": _TEXT | {"description": "Of the image; empty where the file cannot be read."},
        "of_id": _TEXT | {"description": "Of the image that it is a copy of; else empty."},
        "label": _TEXT,
        "proposal": _TEXT | {"description": "Another label or class."},
        "confidence": {"type": ["number", "null"], "description": "0 to 1."},
        "branch": _TEXT,
        "shared": _TEXT | {"description": "The finest group that both classes lie in."},
        "reason": _TEXT,
        "examples": {"type": "array", "description": "Images that help to judge.", "items": {
            "type": "object",
            "properties": {"caption": _TEXT, "large": {"type": "boolean"}, "images": images},
        }},
        "path": _TEXT | {"description": "Where the server was started with --show-paths."},
        "of": _TEXT | {"description": "Likewise."},
    }  # fmt: skip
    required = [name for name in values if name not in ("path", "of")]
    return {"type": "object", "required": required, "properties": values}
