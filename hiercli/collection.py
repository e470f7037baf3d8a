"""Embedded images: points of the ball, and what is known of the images.

A `Collection` is the one type that index, hierarchy, evaluation and reports are given.
`collection_files` reads and writes it.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np

from hiercli import labels
from hiercli.bounds import is_curvature
from hiercli.errors import InputError, MismatchError
from hiercli.labels import Record

_ROWS = 65_536
"""Points that are checked at a time."""


@dataclass(frozen=True, eq=False)
class Collection:
    """Embedded images.

    Examples:
        >>> import numpy as np
        >>> birds = Collection(
        ...     points=np.array([[0.1, 0.0], [0.0, 0.2], [0.3, 0.0]], np.float32),
        ...     paths=["a.jpg", "b.jpg", "c.jpg"],
        ...     labels=["wren", "jay", "wren"],
        ...     c=0.1,
        ... )
        >>> len(birds), birds.classes
        (3, ['jay', 'wren'])
        >>> birds[[0, 2]].paths
        ['a.jpg', 'c.jpg']

    Attributes:
        points: (N, D) float32; where ``c`` is given, in the ball of curvature -c.
        paths: N image files, where they are known.
        labels: N class names, where they are known; empty for an image that has none.
        levels: for each image its groups, fine to coarse, one a level name; empty texts where a
            group is not known.
        level_names: names of the levels, fine to coarse; ``level1``, ... where left out.
        c: curvature magnitude, > 0; ``None`` for plain features, which are compared by cosine.
        proxies: (P, D) hierarchical proxies of the encoder, where they are known.
        fingerprint: of the encoder, where it is known.
        splits: for each image the part of a data set that it is in (train, test, ...), where a
            table says it; empty where that is not known.

    Raises:
        InputError: points are not floats of 32 or 64 bits and two dimensions, not finite, or not in
            the ball, or something has another length.
    """

    points: np.ndarray
    paths: Sequence[str] | None = None
    labels: Sequence[str] | None = None
    levels: Sequence[tuple[str, ...]] | None = None
    level_names: tuple[str, ...] = ()
    c: float | None = None
    proxies: np.ndarray | None = field(default=None, repr=False)
    fingerprint: str | None = None
    splits: Sequence[str] | None = None

    def __post_init__(self) -> None:
        change = object.__setattr__  # the way of frozen data classes
        if self.c is not None and (isinstance(self.c, bool) or not is_curvature(self.c)):
            raise InputError(f"expected a curvature magnitude c above 0, got {self.c!r}")
        change(self, "points", self._points("points", self.points))
        if self.proxies is not None:
            proxies = self._points("proxies", self.proxies)
            if proxies.shape[1] != self.points.shape[1] or not len(proxies):
                raise InputError(
                    f"expected proxies of {self.points.shape[1]} dimensions, got {proxies.shape}"
                )
            change(self, "proxies", proxies)
        if self.paths is not None:
            change(self, "paths", [os.fspath(path) for path in self.paths])
        if self.labels is not None:
            given = np.asarray(self.labels) if isinstance(self.labels, np.ndarray) else None
            names = list(self.labels) if given is None else labels.from_array(
                given, "labels", "the collection")  # fmt: skip
            for row, name in enumerate(names):
                if not isinstance(name, str):
                    raise InputError(f"expected labels as text, got {name!r} at position {row}")
            change(self, "labels", [labels.as_label(name) for name in names])
        if self.levels is not None:
            change(self, "levels", [tuple(groups) for groups in self.levels])
            widths = {len(groups) for groups in self.levels}
            if self.levels and not self.level_names:
                named = tuple(f"level{number + 1}" for number in range(max(widths)))
                change(self, "level_names", named)
            if widths - {len(self.level_names)}:
                raise InputError(
                    f"expected {len(self.level_names)} groups for each image (one per level), got "
                    f"{', '.join(map(str, sorted(widths)))}"
                )
        if self.splits is not None:
            change(self, "splits", [str(split) for split in self.splits])
        for name in ("paths", "labels", "levels", "splits"):
            values = getattr(self, name)
            if values is not None and len(values) != len(self.points):
                raise InputError(
                    f"expected {name} for {len(self.points)} points, got {len(values)}"
                )

    def _points(self, name: str, given: np.ndarray) -> np.ndarray:
        array = np.asarray(given)
        if array.ndim != 2 or array.dtype not in (np.float32, np.float64):
            raise InputError(
                f"expected {name} as float32 or float64 (N, D), got {array.dtype} {array.shape}"
            )
        with np.errstate(over="ignore"):
            narrow = np.ascontiguousarray(array, np.float32)
        if self.c is None:
            if not np.isfinite(narrow).all():
                raise InputError(f"expected finite {name}, got nan or inf")
        else:
            require_in_ball(narrow, self.c, name)
        return narrow

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, chosen: slice | Sequence[int] | np.ndarray) -> Self:
        """The images at some positions: a slice, positions, or a mask."""
        positions = np.arange(len(self))[chosen]
        if positions.ndim != 1:
            raise InputError(f"expected a slice, positions or a mask, got {chosen!r}")
        some = positions.tolist()

        def of(values: Sequence[Any] | None) -> list[Any] | None:
            return None if values is None else [values[place] for place in some]

        return replace(
            self, points=self.points[positions], paths=of(self.paths), labels=of(self.labels),
            levels=of(self.levels), splits=of(self.splits),
        )  # fmt: skip

    @property
    def classes(self) -> list[str]:
        """Distinct labels, sorted; empty where there are no labels."""
        return sorted(set(self.labels or ()) - {""})

    @property
    def labelled(self) -> Self:
        """The images that have a label."""
        places = [place for place, label in enumerate(self.labels or ()) if label]
        return self if len(places) == len(self) else self[places]

    @property
    def lineages(self) -> dict[str, tuple[str, ...]]:
        """The groups of each class of which any is known, fine to coarse; unknown ones are empty.

        Of images of one class, that which says most counts.
        """
        return lineages_of(zip(self.labels or (), self.levels or (), strict=False))

    @property
    def complete_lineages(self) -> dict[str, tuple[str, ...]]:
        """The `lineages` of the classes of which every level is known, as scores need them."""
        return {label: groups for label, groups in self.lineages.items() if all(groups)}

    @classmethod
    def of_records(
        cls,
        points: np.ndarray,
        records: Sequence[Record],
        level_names: Sequence[str] = (),
        **facts: Any,
    ) -> "Collection":
        """Points of image files whose labels are known.

        Args:
            points: (N, D).
            records: N files with their labels; groups that a record does not name are unknown.
            level_names: names of their levels.
            facts: further attributes.
        """
        unknown = ("",) * len(level_names)
        return cls(
            points=points,
            paths=[os.fspath(record.path) for record in records],
            labels=[record.label for record in records],
            levels=[record.levels or unknown for record in records] if level_names else None,
            level_names=tuple(level_names),
            splits=splits_of(records),
            **facts,
        )

    @classmethod
    def read(cls, source: Path | str) -> "Collection":
        """Read a collection from a file, see `collection_files`."""
        from hiercli import collection_files

        return collection_files.read(Path(source))

    def write(self, target: Path | str) -> None:
        """Write ``.npy`` (with the files beside it) or ``.parquet``, see `collection_files`."""
        from hiercli import collection_files

        collection_files.write(self, Path(target))


def splits_of(images: Iterable["_WithSplit"]) -> list[str] | None:
    """The split of each image; ``None`` where none has one."""
    found = [image.split for image in images]
    return found if any(found) else None


class _WithSplit(Protocol):
    @property
    def split(self) -> str:
        """Part of a data set; empty for none."""


def lineages_of(pairs: Iterable[tuple[str, tuple[str, ...]]]) -> dict[str, tuple[str, ...]]:
    """The groups of each class of which any is known: those that say most, of labels and groups."""
    found: dict[str, tuple[str, ...]] = {}
    for label, groups in pairs:
        known = sum(map(bool, groups)) if label else 0
        if known > sum(map(bool, found.get(label, ()))):
            found[label] = groups
    return found


def concatenate(collections: Sequence[Collection]) -> Collection:
    """Several collections of one encoder as one; levels are those of all.

    Examples:
        >>> import numpy as np
        >>> some = Collection(points=np.zeros((2, 3), np.float32), labels=["a", "b"], c=0.1)
        >>> len(concatenate([some, some[:1]]))
        3

    Raises:
        InputError: there are none.
        MismatchError: they are of different encoders, curvatures or dimensions.
    """
    if not collections:
        raise InputError("expected at least one collection to join, got none")
    first = collections[0]
    for other in collections[1:]:
        facts = [(one.fingerprint, one.c, one.points.shape[1]) for one in (first, other)]
        if facts[0] != facts[1]:
            raise MismatchError(
                f"expected collections of one encoder, got {facts[0]} and {facts[1]} "
                "(fingerprint, c, dimensions). Embed both with the same encoder"
            )
    level_names = tuple(dict.fromkeys(name for one in collections for name in one.level_names))

    def every(name: str) -> list[Any] | None:
        if any(getattr(one, name) is None for one in collections):
            return None
        return [value for one in collections for value in getattr(one, name)]

    levels = []
    for one in collections:
        for groups in one.levels or [("",) * len(one.level_names)] * len(one):
            known = dict(zip(one.level_names, groups, strict=True))
            levels.append(tuple(known.get(name, "") for name in level_names))
    splits = [own for one in collections for own in one.splits or [""] * len(one)]
    return replace(
        first,
        points=np.concatenate([one.points for one in collections]),
        paths=every("paths"),
        labels=every("labels"),
        levels=levels if level_names else None,
        level_names=level_names,
        splits=splits if any(splits) else None,
    )


def require_in_ball(points: np.ndarray, c: float, source: Path | str) -> None:
    """Check that points lie in the ball of curvature -c.

    Raises:
        InputError: some do not, or are no numbers.
    """
    for start in range(0, len(points), _ROWS):  # copies in float64 of all may not fit
        block = points[start : start + _ROWS].astype(np.float64)
        # Not so where a number is none, or infinite.
        if not (c * np.square(block).sum(axis=1) < 1).all():
            raise InputError(
                f"expected {source} inside the ball of curvature -{c:g}, but some points lie "
                "outside it or are not finite. Use the c of the encoder that embedded them"
            )
