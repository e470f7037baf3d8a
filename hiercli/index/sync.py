"""What an update has to do, decided from what is known and what was seen. Nothing is read here."""

import dataclasses
import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from hiercli.images import State
from hiercli.index.catalogue import Photo


@dataclasses.dataclass(frozen=True)
class Seen:
    """A file as it was read just now, or why it could not be."""

    path: Path
    name: bytes
    content: bytes = b""
    state: State = (-1, 0, 0)
    problem: str = ""
    is_gone: bool = False


@dataclasses.dataclass
class Plan:
    """Rows to write, without their points, and ids to remove."""

    next_id: int
    added: list[Photo] = dataclasses.field(default_factory=list)
    changed: list[Photo] = dataclasses.field(default_factory=list)
    moved: list[Photo] = dataclasses.field(default_factory=list)
    touched: list[Photo] = dataclasses.field(default_factory=list)
    removed: list[int] = dataclasses.field(default_factory=list)
    unchanged: int = 0
    out_of_reach: set[bytes] = dataclasses.field(default_factory=set)

    @property
    def is_work(self) -> bool:
        """Whether anything changes."""
        return bool(self.added or self.changed or self.moved or self.touched or self.removed)


def plan_sync(
    known: dict[bytes, Photo],
    seen: dict[bytes, Seen],
    labels: dict[bytes, tuple[str, str]],
    roots: set[bytes],
    closed: set[bytes],
    named: set[bytes],
    next_id: int,
) -> Plan:
    """Which rows are added, changed, moved, touched, removed, or kept although out of reach.

    Args:
        known: rows of the catalogue by path.
        seen: files as they were read just now, by path.
        labels: label and levels of each of them.
        roots: folders that were listed; what is missing from them is gone.
        closed: folders that could not be listed; nothing of them is gone.
        named: files that were given by name.
        next_id: the first free id.
    """
    plan = Plan(next_id)
    gone: dict[bytes, list[Photo]] = defaultdict(list)
    for name, photo in known.items():
        if name in seen and seen[name].problem:
            if seen[name].is_gone:
                plan.removed.append(photo.id)
            else:
                plan.out_of_reach.add(name)
        asked = name in named or (within(name, roots) and not within(name, closed))
        if asked and name not in seen:
            gone[photo.content].append(photo)
    for name, one in seen.items():
        if one.problem:
            continue
        row = Photo(-1, name, *labels[name], one.content, one.state)
        old = known.get(name)
        if old is not None:
            row = dataclasses.replace(row, id=old.id)
            if old.content != one.content:
                plan.changed.append(row)
            else:
                plan.unchanged += 1
                if row != old:
                    plan.touched.append(row)
        elif gone[one.content]:
            plan.moved.append(dataclasses.replace(row, id=gone[one.content].pop().id))
        else:
            plan.added.append(dataclasses.replace(row, id=plan.next_id))
            plan.next_id += 1
    plan.removed += [photo.id for left in gone.values() for photo in left]
    return plan


def within(name: bytes, folders: set[bytes]) -> bool:
    """Whether any folder that holds the file is among some."""
    return any(folder in folders for folder in folders_of(name))


def folders_of(name: bytes) -> Iterator[bytes]:
    """All folders that hold a file, the nearest first."""
    while (parent := os.path.dirname(name)) != name:
        yield parent
        name = parent
