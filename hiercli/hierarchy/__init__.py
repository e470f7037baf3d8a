"""The discovered tree: built from hierarchical proxies and classes, drawn and written."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hiercli.hierarchy.tree import Tree

__all__ = ["Tree"]


def __getattr__(name: str) -> Any:
    if name == "Tree":  # loaded when it is first used
        from hiercli.hierarchy.tree import Tree

        return Tree
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
