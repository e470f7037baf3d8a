"""Conditions of a search as expressions of Milvus."""

import json
import re
import unicodedata
from collections.abc import Sequence

from hiercli.errors import InputError
from hiercli.index.milvus.collections import literal


def expression(where: Sequence[tuple[str, str]], level_names: Sequence[str]) -> str:
    """An expression that the rows meet which meet all conditions; empty without any.

    Raises:
        InputError: there is no such level, or Milvus cannot search for a pattern.
    """
    return " and ".join(_condition(name, pattern, level_names) for name, pattern in where)


def _condition(name: str, pattern: str, level_names: Sequence[str]) -> str:
    """A pattern of a shell as an expression of Milvus, however its letters are composed."""
    if name not in ("label", "path", *level_names):
        raise InputError(
            f"the index has no level {name!r}. Conditions can be on "
            f"{', '.join(('label', 'path', *level_names))}"
        )
    composed, apart = (unicodedata.normalize("NFC", pattern), unicodedata.normalize("NFD", pattern))
    forms = dict.fromkeys((pattern, composed, apart))
    build = _on_column if name in ("label", "path") else _on_level
    either = " or ".join(build(name, form) for form in forms)
    return f"({either})" if len(forms) > 1 else either


def _on_level(name: str, pattern: str) -> str:
    """Of a group: it is a part of the JSON that holds them."""
    if re.search(r"[%_\\[\]?]|\*.", pattern) or re.search(r"[%_\\]", name):
        raise InputError(
            f"Milvus cannot search for {name}={pattern}: in Milvus, the names of a level and of a "
            "group cannot contain % _ [ ] or ?, and * only at the end of the group"
        )
    own = f"{json.dumps(name, ensure_ascii=False)}: {json.dumps(pattern, ensure_ascii=False)}"
    text = own[:-2] if pattern.endswith("*") else own
    return f"levels like {literal(f'%{text}%')}"


def _on_column(name: str, pattern: str) -> str:
    if re.search(r"[%_\[\]\\]", pattern) and re.search(r"[*?\[]", pattern):
        raise InputError(
            f"Milvus cannot search for {name}={pattern}: in Milvus, a pattern cannot contain % _ "
            "[ ] or \\"
        )
    if re.search(r"[*?]", pattern):
        return f"{name} like {literal(pattern.replace('*', '%').replace('?', '_'))}"
    return f"{name} == {literal(pattern)}"
