"""Words as queries: names that they match, the points of these, and the images around them.

Words are compared with the labels and groups of an index, and where these say less with the names
of the classes that its encoder knows. Nothing is embedded: a name stands for the middle of its
images, or for the point that the encoder keeps of its class.
"""

import dataclasses
import difflib
import math
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from hiercli.encoder.metadata import Metadata
from hiercli.errors import InputError
from hiercli.files import printable
from hiercli.geometry import poincare
from hiercli.index.schema import groups_of
from hiercli.index.searchable import Hit, Searchable
from hiercli.wording import counted

LONGEST = 200
"""Most characters of a query of words."""
MOST_NAMES = 64
"""Most names that a query may match; of more, the shortest are used."""
MOST_POINTS = 256
"""Most class points that a query of words searches around."""
_STOP = frozenset({
    "a", "an", "the", "of", "on", "in", "at", "to", "and", "or", "with", "by", "for", "from",
    "photo", "image", "picture",
})  # fmt: skip
_HEAD = 1.5
"""Weight of the last word, which in English says what the thing is; of others it is 1."""
_LIKE = 0.84
"""Similarity from which one word may be a misspelling of another."""
_SHOWN = 3
_ENCODER = "class of the encoder"
_PLURALS = {_ENCODER: "classes of the encoder", "genus": "genera", "family": "families",
            "species": "species", "class": "classes", "label or genus": "labels or genera",
            "label or family": "labels or families"}  # fmt: skip
_PIECE = re.compile(r"[^\W_]+")
_NUMBERING = re.compile(r"\d+[.)_-]+(?=[^\W\d])")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")


@dataclass(frozen=True)
class Understood:
    """What words were taken for.

    Examples:
        >>> found = Understood(("House_Wren", "Winter_Wren"), "label", np.zeros((2, 3)), ("red",))
        >>> str(found)
        "2 labels (House_Wren, Winter_Wren); no name has 'red'"

    Attributes:
        names: that match, the best first.
        kind: what they are: ``label``, the name of a level, or ``class of the encoder``.
        points: (P, D) in the ball: the middle of each class that the names stand for.
        unmatched: words that no name has.
    """

    names: tuple[str, ...]
    kind: str
    points: np.ndarray
    unmatched: tuple[str, ...]

    def __str__(self) -> str:
        some = ", ".join(printable(name) for name in self.names[:_SHOWN])
        more = ", ..." if len(self.names) > _SHOWN else ""
        names = counted(len(self.names), self.kind, _PLURALS.get(self.kind, ""))
        told = f"{names} ({some}{more})"
        lost = ", ".join(repr(word) for word in self.unmatched)
        return f"{told}; no name has {lost}" if lost else told

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return {"names": list(self.names), "kind": self.kind, "unmatched": list(self.unmatched)}


def understand(
    text: str, images: Searchable, encoder: Callable[[], Metadata | None] | None = None
) -> Understood:
    """Find the names that words match.

    Args:
        text: the words.
        images: an index.
        encoder: gives the metadata of its encoder, where that is at hand; asked only if labels and
            groups do not have all words.

    Raises:
        InputError: no name is like them; the message has the nearest ones.
    """
    words = _pieces(text)
    shown = printable(text[:60]) + ("..." if len(text) > 60 else "")
    if not words or len(text) > LONGEST:
        raise InputError(
            f"expected an image, a folder, or words of at most {LONGEST} characters, got "
            f"{shown!r}. There is no such file: name one, or give words of letters"
        )
    lineages = [(label, groups_of(levels)) for label, levels in images.lineages()]
    own = [("label", label) for label, _ in lineages if label]
    for _, groups in lineages:
        own += [(level, group) for level, group in groups.items() if group]
    own = list(dict.fromkeys(own))
    best, score = _best(words, own)
    complete = sum(_weights(words))
    if score < complete and encoder is not None and (metadata := encoder()) is not None:
        known = [(_ENCODER, name) for name in metadata.class_names]
        others, other_score = _best(words, known)
        if other_score > score:
            at = {name: place for place, name in enumerate(metadata.class_names)}
            points = np.stack([metadata.class_points[at[name]] for _, name in others])
            return _understood(words, others, points.astype(np.float32))
    if not best:
        raise InputError(
            f"no label or level has the words {shown!r}. "
            f"{_nearest(text, [name for _, name in own])}"
        )
    classes = [(kind, name, label) for kind, name in best
               for label in _labels_of(kind, name, lineages)][:MOST_POINTS]  # fmt: skip
    middles = [_middle(images, [(kind, name), ("label", label)]) for kind, name, label in classes]
    return _understood(words, best, np.stack(middles))


def around(
    images: Searchable, points: np.ndarray, k: int | None, *, max_distance: float = math.inf,
    **options: bool | Sequence[tuple[str, str]],
) -> list[Hit]:  # fmt: skip
    """The images nearest to any of some points, nearest first; each once.

    Args:
        images: the index.
        points: (P, D) in the ball.
        k: hits, or all.
        max_distance: only those at this distance or nearer.
        options: of `Searchable.search`.
    """
    nearest: dict[str, Hit] = {}
    for hits in images.search(points, k, max_distance=max_distance, **options):  # type: ignore[arg-type]
        for hit in hits:
            if hit.path not in nearest or hit.distance < nearest[hit.path].distance:
                nearest[hit.path] = hit
    ordered = sorted(nearest.values(), key=lambda hit: (hit.distance, hit.path))[:k]
    return [dataclasses.replace(hit, rank=rank) for rank, hit in enumerate(ordered, 1)]


def _understood(
    words: Sequence[str], found: Sequence[tuple[str, str]], points: np.ndarray
) -> Understood:
    kinds = list(dict.fromkeys(kind for kind, _ in found))
    names = [_pieces(name) for _, name in found]
    unmatched = [word for word in words if not any(_alike(word, own) for own in names)]
    return Understood(
        tuple(name for _, name in found), " or ".join(kinds), points, tuple(unmatched)
    )


def _labels_of(kind: str, name: str, lineages: Sequence[tuple[str, dict[str, str]]]) -> list[str]:
    """The label itself, or those of a group; one empty label where its images have none."""
    if kind == "label":
        return [name]
    found = {label for label, groups in lineages if groups.get(kind) == name}
    return sorted(found - {""} or found)


def _middle(images: Searchable, conditions: Sequence[tuple[str, str]]) -> np.ndarray:
    """The point in the middle of the images with a label."""
    rows = images.rows([(kind, _literal(name)) for kind, name in conditions])
    points = np.stack([np.frombuffer(row.point, "<f4") for row in rows]).astype(np.float64)
    return np.asarray(poincare.midpoint(points, images.c), np.float32)


def _literal(name: str) -> str:
    """A pattern that only this name matches."""
    return re.sub(r"([*?\[])", r"[\1]", name)


def _weights(words: Sequence[str]) -> list[float]:
    return [1.0] * (len(words) - 1) + [_HEAD]


def _best(
    words: Sequence[str], names: Sequence[tuple[str, str]]
) -> tuple[list[tuple[str, str]], float]:
    """The names that have most of the words, shorter names first, and how much they have.

    If some of these names have as many words as the query, only those are returned.
    """
    scored = []
    for kind, name in names:
        own = _pieces(name)
        had = [_alike(word, own) for word in words]
        score = sum(weight * one for weight, one in zip(_weights(words), had, strict=True))
        if score > 0:
            scored.append((score, len(own), kind, name))
    if not scored:
        return [], 0.0
    top = max(score for score, *_ in scored)
    kept = sorted((size, kind, name) for score, size, kind, name in scored if score > top - 1e-9)
    whole = [(kind, name) for size, kind, name in kept if size == len(words)]
    chosen = whole or [(kind, name) for _, kind, name in kept]
    return chosen[:MOST_NAMES], top


def _pieces(text: str) -> list[str]:
    """The words of a text or name in one spelling: no accents, small letters, no plural."""
    plain = unicodedata.normalize("NFKD", _CAMEL.sub(" ", text[: 4 * LONGEST]))
    if numbering := _NUMBERING.match(plain):  # of class folders: 140.Summer_Tanager
        plain = plain[numbering.end() :]
    plain = "".join(sign for sign in plain if not unicodedata.combining(sign))
    found = [_singular(piece) for piece in _PIECE.findall(plain.casefold())]
    return [piece for piece in found if piece not in _STOP] or found


def _singular(word: str) -> str:
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 4 and word.endswith(("ches", "shes", "sses", "xes")):
        return word[:-2]
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def _alike(word: str, own: Sequence[str]) -> float:
    """How far one of a name's words is this word: 1 the same, less for a part or a slip."""
    if word in own:
        return 1.0
    best = 0.0
    for other in own:
        if min(len(word), len(other)) < 4:
            continue
        if other.startswith(word) or word.startswith(other):
            best = max(best, 0.9)
        elif abs(len(word) - len(other)) <= 2:
            ratio = difflib.SequenceMatcher(None, word, other).ratio()
            best = max(best, 0.8 * ratio) if ratio >= _LIKE else best
    return best


def _nearest(text: str, names: Sequence[str]) -> str:
    """A sentence with the names that are nearest to some words."""
    plain = {" ".join(_pieces(name)): name for name in names}
    near = difflib.get_close_matches(" ".join(_pieces(text)), list(plain), _SHOWN, 0.0)
    if not near:
        return "The images of the index have no labels"
    some = ", ".join(printable(plain[name]) for name in near)
    return f"The nearest of {counted(len(plain), 'name')}: {some}"
