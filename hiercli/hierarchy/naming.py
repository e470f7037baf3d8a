"""Names for inner nodes, made of the names of what they hold."""

import re
from collections.abc import Mapping, Sequence

import numpy as np

_WORD = re.compile(r"[^\W\d_]{3,}")
_SMALL = frozenset({
    "and", "with", "the", "for", "from", "non", "von", "der", "die", "das", "und", "mit", "les",
    "des", "aux", "avec", "sur", "del", "las", "los", "con", "per",
})  # fmt: skip
"""Words that name nothing."""
_ENOUGH = 0.6
"""A word that more than this share of the photos have speaks for all of them."""
_MOST = 0.5
"""A class that more than this share of the photos have speaks for all of them."""
_NAMED = 3
"""Groups that are named."""


def said_by_all(names: Sequence[str]) -> frozenset[str]:
    """Words that every name has: among these they tell nothing apart."""
    words = [frozenset(word.lower() for word in _WORD.findall(name)) for name in names]
    return frozenset.intersection(*words) if len(words) > 1 else frozenset()


def common_name(
    names: Sequence[str],
    said: frozenset[str] = frozenset(),
    photos: Sequence[float] | None = None,
) -> str:
    """What some classes have in common, in words of their own names.

    A word that more than 60 % of the photos have speaks for all: ``Warbler``, or ``mostly
    Warbler``; so does a class of more than half of them. Where there is none, up to three are
    named, ``Gull, Tern and Auk``; of more, two are named and the other classes counted, ``Gull,
    Tern and 3 more``.

    Args:
        names: of the classes, the most typical first.
        said: words, in small letters, that name nothing here.
        photos: of each class; as many of each where left out.
    """
    weights = dict(zip(names, [1.0] * len(names) if photos is None else photos, strict=True))
    total = sum(weights[name] for name in names)
    spelled: dict[str, str] = {}
    for name in names:
        for word in _words(name):
            spelled.setdefault(word.lower(), word)
    if len(names) == 1:
        return names[0]
    best, having = _shared_word(names, weights, said, anywhere=True)
    if len(having) == len(names) and best:
        return spelled[best]
    if best and sum(weights[name] for name in having) > _ENOUGH * total:
        return f"mostly {spelled[best]}"
    first = max(names, key=lambda name: weights[name], default="")
    if photos is not None and weights.get(first, 0.0) > _MOST * total:
        return f"mostly {first}"
    parts: list[tuple[str, list[str]]] = []
    left = list(names)
    while left and len(parts) < _NAMED:
        shared, mine = _shared_word(left, weights, said)
        # A word that only this name has says less than the whole name.
        parts.append((spelled[shared], mine) if shared else (left[0], left[:1]))
        left = [name for name in left if name not in mine] if shared else left[1:]
    if photos is not None:
        parts.sort(key=lambda part: -sum(weights[name] for name in part[1]))
    if not left:
        *others, last = [text for text, _ in parts] or [""]
        return " and ".join(filter(None, [", ".join(others), last]))
    return f"{parts[0][0]}, {parts[1][0]} and {len(left) + len(parts[2][1])} more"


def _words(name: str) -> list[str]:
    return [word for word in _WORD.findall(name) if word.lower() not in _SMALL]


def _shared_word(
    names: Sequence[str],
    weights: Mapping[str, float],
    said: frozenset[str],
    anywhere: bool = False,
) -> tuple[str, list[str]]:
    """The word of most photos, in small letters, and the names that have it; empty if of one only.

    Args:
        names: of classes.
        weights: photos of each.
        said: see `common_name`.
        anywhere: in place of last words first, and others only where no last word is shared.
    """
    # What a thing is stands last in English, so of words in as many names the last one counts.
    words = [[word.lower() for word in reversed(_words(name))] for name in names]
    words = [[word for word in own if word not in said] for own in words]
    for some in (words,) if anywhere else ([own[:1] for own in words], words):
        having: dict[str, list[str]] = {}
        for name, own in zip(names, some, strict=True):
            for word in dict.fromkeys(own):
                having.setdefault(word, []).append(name)
        shared = [word for word, own in having.items() if len(own) > 1]
        if shared:
            best = max(shared, key=lambda word: sum(weights[name] for name in having[word]))
            return best, [name for name in names if best in map(str.lower, _words(name))]
    return "", []


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
    own = [float(counts[place]) for place in order]
    return common_name([names[place] for place in order], said, own)


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
