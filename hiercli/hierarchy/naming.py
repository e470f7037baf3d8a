"""Names for inner nodes, made of the names of what they hold."""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

_WORD = re.compile(r"[^\W\d_]{3,}")
_ENOUGH = 0.6
"""A word that more than this share of the classes have speaks for all of them."""
_MOST = 0.5
"""A class that more than this share of the photos have speaks for all of them."""
_NAMED = 3
"""Groups that are named."""


def said_by_all(names: Sequence[str]) -> frozenset[str]:
    """Words that every name has: among these they tell nothing apart."""
    words = [frozenset(word.lower() for word in _WORD.findall(name)) for name in names]
    return frozenset.intersection(*words) if len(words) > 1 else frozenset()


def common_name(names: Sequence[str], said: frozenset[str] = frozenset()) -> str:
    """What some classes have in common, in words of their own names.

    A word that more than 60 % of them have speaks for all: ``Warbler``, or ``mostly Warbler``.
    Where there is none, up to three are named, ``Gull, Tern and Auk``; of more, two are named and
    the others counted, ``Gull, Tern and 3 more``.

    Args:
        names: of the classes, the most typical first.
        said: words, in small letters, that name nothing here.
    """
    spelled: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for name in names:
        words = [word for word in _WORD.findall(name) if word.lower() not in said]
        for word in words:
            spelled.setdefault(word.lower(), word)
        # What a thing is stands last in English, so of words in as many names the last one counts.
        counts.update(list(dict.fromkeys(word.lower() for word in reversed(words))))
    if not counts:
        return _listed(list(names), [1] * len(names))
    best, count = max(counts.items(), key=lambda item: item[1])
    if len(names) == 1 or (count > 1 and count == len(names)):
        return spelled[best] if len(names) > 1 else names[0]
    if count > 1 and count > _ENOUGH * len(names):
        return f"mostly {spelled[best]}"
    parts: list[str] = []
    sizes: list[int] = []
    left = list(names)
    while left and len(parts) < _NAMED:
        shared = _shared_word(left, said)
        mine = [name for name in left if shared in map(str.lower, _WORD.findall(name))]
        # A word that only this name has says less than the whole name.
        parts.append(spelled[shared] if shared else left[0])
        sizes.append(len(mine) if shared else 1)
        left = [name for name in left if name not in mine] if shared else left[1:]
    return _listed(parts, sizes, len(left))


def _shared_word(names: Sequence[str], said: frozenset[str]) -> str:
    """The word of most names: among their last words, or else among all; empty if of one only."""
    words = [[word.lower() for word in reversed(_WORD.findall(name))] for name in names]
    words = [[word for word in own if word not in said] for own in words]
    for some in ([own[:1] for own in words], words):
        counts = Counter(word for own in some for word in dict.fromkeys(own))
        if counts and max(counts.values()) > 1:
            return max(counts, key=lambda word: counts[word])
    return ""


def group_name(names: Sequence[str], counts: np.ndarray, said: frozenset[str] = frozenset()) -> str:
    """What a group of photos holds: its class, ``mostly`` that class, or the commonest of several.

    Args:
        names: C class names.
        counts: (C,) photos of each class in the group.
        said: see `common_name`.
    """
    order = [int(place) for place in np.argsort(-counts, kind="stable") if counts[place]]
    share = counts[order[0]] / counts.sum()
    if len(order) == 1 or share > _MOST:
        return names[order[0]] if len(order) == 1 else f"mostly {names[order[0]]}"
    return common_name([names[place] for place in order], said)


def _listed(parts: list[str], sizes: list[int], others: int = 0) -> str:
    """Names of groups, with their sizes in classes, and how many more classes there are."""
    if len(parts) <= _NAMED and not others:
        return " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))
    return f"{', '.join(parts[:2])} and {others + sum(sizes[2:])} more"


def shared_group(lines: Sequence[tuple[str, ...] | None]) -> str:
    """The finest group that all of some classes lie in; empty where there is none.

    A number is no name.
    """
    first = lines[0]
    for place, group in enumerate(first or ()):
        # A group is its name and all above it.
        if group and all(
            line is not None and first and line[place:] == first[place:] for line in lines
        ):
            return "" if group.isdigit() else group
    return ""
