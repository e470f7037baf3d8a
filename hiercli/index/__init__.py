"""Exact hyperbolic search through FAISS, and the catalogue that says what each id is."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hiercli.index.index import Index

__all__ = ["Index"]


def __getattr__(name: str) -> Any:
    if name == "Index":  # loaded when it is first used
        from hiercli.index.index import Index

        return Index
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
