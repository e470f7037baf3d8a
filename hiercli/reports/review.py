"""The findings of a review as one page to work through, by keyboard and without a network.

``review.js`` and ``review.css`` are those of the page of `hier serve` too.
"""

import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hiercli.collection import Collection
from hiercli.files import write_text
from hiercli.geometry import poincare
from hiercli.images import Picture, read
from hiercli.reports.neighbours import thumbnail
from hiercli.reports.page import filled
from hiercli.review.finding import KINDS, Finding
from hiercli.review.review import Review

MOST = 600
"""Findings that a page shows, of each kind as many as of the others where it has them."""
_LARGE, _SMALL = 200, 64
"""Half of the pixels of the longer side, see `thumbnail`."""
_EXAMPLES = 5
_CANDIDATES = 64
"""Images among which the nearest ones are looked for, by the float64 distance."""

Progress = Callable[[int, int], None]


def write(
    target: Path,
    review: Review,
    title: str,
    *,
    picture: Picture = read,
    progress: Progress | None = None,
) -> list[str]:
    """Write the page.

    Args:
        target: the file.
        review: what was found.
        title: what the page is called.
        picture: gives the pictures of images.
        progress: called with (done, total) pictures.

    Returns:
        paths of images that cannot be shown.
    """
    shown = _most(review.findings)
    examples = Examples(review.collection)
    wanted: dict[tuple[str, int], int] = {}
    rows = []
    for one in shown:
        groups = [
            group.told([wanted.setdefault((path, group.side), len(wanted)) for path in group.paths])
            for group in examples.of(one)
        ]
        rows.append(dataclasses.asdict(one) | {"examples": groups})
    pictures = []
    missing: list[str] = []
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        loaded = threads.map(lambda at: thumbnail(at[0], at[1], picture=picture), wanted)
        for (path, _), data in zip(wanted, loaded, strict=True):
            pictures.append(data)
            if not data:
                missing.append(path)
            if progress:
                progress(len(pictures), len(wanted))
    left_out = len(review.findings) - len(shown)
    facts = about(review) | {
        "findings": rows,
        "pictures": pictures,
        "columns": [field.name for field in dataclasses.fields(Finding)],
    }
    note = f" {left_out:,} further findings are only in the CSV." if left_out else ""
    write_text(target, filled("review", title, note, facts))
    return list(dict.fromkeys(missing))


def about(review: Review) -> dict[str, Any]:
    """What ``review.js`` needs to know of a review beside its findings, as plain values."""
    return {
        "kinds": KINDS,
        "labels": review.collection.classes,
        "key": hashlib.sha256(review.to_csv().encode("utf-8", "surrogateescape")).hexdigest()[:16],
    }


def _most(findings: Sequence[Finding]) -> list[Finding]:
    """At most so many: the first of each kind, as evenly as the kinds allow."""
    by_kind: dict[str, list[Finding]] = {}
    for one in findings:
        by_kind.setdefault(one.kind, []).append(one)
    share, left = MOST, len(by_kind)
    kept: set[int] = set()
    for own in sorted(by_kind.values(), key=len):
        taken = own[: share // left]
        kept |= {id(one) for one in taken}
        share, left = share - len(taken), left - 1
    return [one for one in findings if id(one) in kept]


@dataclass(frozen=True)
class Group:
    """A row of images that help to judge a finding.

    Attributes:
        caption: of them.
        paths: of the images.
        is_large: whether they are what the finding is about.
    """

    caption: str
    paths: list[str]
    is_large: bool = False

    @property
    def side(self) -> int:
        """Half of the pixels of the longer side of their pictures."""
        return _LARGE if self.is_large else _SMALL

    def told(self, images: Sequence[int | str]) -> dict[str, Any]:
        """It as ``review.js`` reads it, with other names for its images."""
        return {"caption": self.caption, "large": self.is_large, "images": images}


class Examples:
    """Images that help to judge a finding.

    Args:
        collection: that was looked at.
        named: whether captions name files.
    """

    def __init__(self, collection: Collection, *, named: bool = True) -> None:
        self._collection, self._named = collection, named
        self._paths = collection.paths or []
        self._at = {path: place for place, path in enumerate(self._paths)}
        self._members: dict[str, list[int]] = {}
        for place, label in enumerate(collection.labels or ()):
            self._members.setdefault(label, []).append(place)

    def of(self, one: Finding) -> Iterator[Group]:
        """Rows of images; the first shows what the finding is about."""
        about = [Path(one.path).name] * self._named + [f"label {one.label}"] * bool(one.label)
        yield Group(", ".join(about) or "no label", [one.path], is_large=True)
        if one.of:
            of = Path(one.of).name if self._named else "this image"
            yield Group(f"copy of {of}", [one.of], is_large=True)
        at = self._at.get(one.path)
        if at is None:
            return
        if one.kind in ("relabel", "merge", "label"):
            if one.label:
                yield Group(f"nearest of {one.label}", self._nearest(at, one.label))
            if one.proposal:
                yield Group(f"nearest of {one.proposal}", self._nearest(at, one.proposal))
        elif one.kind == "split":
            order = self._nearest(at, one.label, every=True)
            yield Group("like this one", order[:_EXAMPLES])
            yield Group("least like it", order[: -_EXAMPLES - 1 : -1])
        elif one.kind == "outlier":
            yield Group("nearest of all", self._nearest(at, None))

    def _nearest(self, at: int, label: str | None, *, every: bool = False) -> list[str]:
        places = range(len(self._paths)) if label is None else self._members.get(label, ())
        others = np.array([place for place in places if place != at], np.int64)
        if not len(others) or self._collection.c is None:
            return []
        points, c = self._collection.points, self._collection.c
        if label is None and len(others) > _CANDIDATES:  # of all, a few are looked at closely
            squared = np.square(points[others] - points[at]).sum(axis=1)
            gaps = 1 - c * np.square(points[others]).sum(axis=1)
            others = others[np.argpartition(squared / gaps, _CANDIDATES)[:_CANDIDATES]]
        far = poincare.dist(
            points[at][None].astype(np.float64), points[others].astype(np.float64), c
        )
        order = others[np.argsort(far, kind="stable")]
        return [self._paths[place] for place in order[: None if every else _EXAMPLES]]
