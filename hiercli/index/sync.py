"""What an update has to do, decided from what is known and what was seen.

An index in files and one in Milvus ask here, so that neither takes for gone what is only not in
sight.
"""

import dataclasses
import os
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

from hiercli.errors import InputError
from hiercli.images import Places, State
from hiercli.index.schema import Row, readable
from hiercli.wording import counted


@dataclasses.dataclass(frozen=True)
class Scope:
    """What an update speaks of: only there is something gone because it was not seen.

    Attributes:
        roots: folders that were listed; what is missing from them is gone.
        closed: folders and files that could not be read; nothing of them is gone.
        named: files and folders that were given by name.
        excluded: files and folders in the roots that are not wanted.
    """

    roots: set[bytes]
    closed: set[bytes]
    named: set[bytes]
    excluded: set[bytes] = dataclasses.field(default_factory=set)

    @classmethod
    def of(
        cls, paths: Sequence[Path], linked: Sequence[Path], unread: Iterable[Path], place: Places,
        excluded: Iterable[Path] = (),
    ) -> "Scope":  # fmt: skip
        """Of what was asked for.

        Args:
            paths: images, folders of images, and manifests.
            linked: folders behind links in them.
            unread: folders and files that could not be read.
            place: the names of paths in the index.
            excluded: files and folders that are not wanted.
        """
        return cls(
            {_root(path, place) for path in (*paths, *linked) if not path.is_file()},
            {_root(path, place) for path in unread},
            {place(path) for path in paths},
            {_root(path, place) for path in excluded},
        )

    def lists(self, name: bytes) -> bool:
        """Whether a file lies in a folder that was listed, and not in one that could not be."""
        return within(name, self.roots) and not within(name, self.closed)

    def covers(self, name: bytes) -> bool:
        """Whether a file that is known and was not seen is gone."""
        return name in self.named or self.lists(name)

    def kept_outright(self, known: Iterable[bytes], listed: Collection[bytes]) -> Iterator[bytes]:
        """Names of files that a folder's listing leaves out, and that are there all the same.

        They were given by name before. Those that are excluded are not wanted any more.
        """
        for name in known:
            if name in listed or not self.lists(name):
                continue
            if name in self.excluded or within(name, self.excluded):
                continue
            if Path(os.fsdecode(name)).is_file():
                yield name

    def require_images(self, listed: Iterable[bytes], known: Iterable[bytes]) -> None:
        """Refuse to empty a folder of the index only because nothing is seen in it today.

        Raises:
            InputError: a folder of which the index has images holds none.
        """
        silent = self.roots - self.closed
        silent -= {folder for name in listed for folder in folders_of(name)}
        lost = Counter(folder for name in known for folder in folders_of(name) if folder in silent)
        for folder, count in lost.items():
            raise InputError(
                f"expected images in {readable(folder)}, found none, but the index has "
                f"{counted(count, 'image')} there. If its disk is not connected, connect it. "
                "Use --prune to remove them from the index"
            )

    def require_known(self, paths: Sequence[Path], known: Iterable[bytes], place: Places) -> None:
        """A path that is missing, and of which the index knows nothing, is a slip of the finger.

        Raises:
            InputError: there is one.
        """
        held = {
            folder for name in known for folder in (name, *folders_of(name)) if folder in self.roots
        }
        for path in paths:
            if not path.exists() and place(path) not in held:
                raise InputError(
                    f"expected an image or a folder of images, but {path} is missing and is not in "
                    "the index"
                )


def _root(path: Path, place: Places) -> bytes:
    """A folder as the places of its files begin; one that is gone by its name."""
    return os.path.dirname(place(path / "file")) if path.is_dir() else place(path)


@dataclasses.dataclass(frozen=True)
class Seen:
    """A file as it was read just now, or why it could not be."""

    path: Path
    name: bytes
    content: bytes = b""
    state: State = (-1, 0, 0)
    problem: str = ""
    is_gone: bool = False
    thumbnail: bytes = b""


@dataclasses.dataclass
class Plan:
    """Rows to write, without their points, and ids to remove; rows to add have no ids yet."""

    added: list[Row] = dataclasses.field(default_factory=list)
    changed: list[Row] = dataclasses.field(default_factory=list)
    moved: list[Row] = dataclasses.field(default_factory=list)
    touched: list[Row] = dataclasses.field(default_factory=list)
    removed: list[int] = dataclasses.field(default_factory=list)
    relabelled: int = 0
    unchanged: int = 0
    out_of_reach: set[bytes] = dataclasses.field(default_factory=set)

    @property
    def is_work(self) -> bool:
        """Whether anything changes."""
        return bool(self.added or self.changed or self.moved or self.touched or self.removed)


def plan_sync(
    known: dict[bytes, Row],
    seen: dict[bytes, Seen],
    labels: dict[bytes, tuple[str, str, str]],
    scope: Scope,
) -> Plan:
    """Which rows are added, changed, moved, touched, removed, or kept although out of reach.

    Args:
        known: rows of the catalogue by path.
        seen: files as they were read just now, by path.
        labels: label, levels and split of each of them.
        scope: what was looked at.
    """
    plan = Plan()
    gone: dict[bytes, list[Row]] = defaultdict(list)
    for name, old in known.items():
        if name in seen and seen[name].problem:
            if seen[name].is_gone:
                plan.removed.append(old.id)
            else:
                plan.out_of_reach.add(name)
        if scope.covers(name) and name not in seen:
            gone[old.content].append(old)
    for name, one in seen.items():
        if one.problem:
            continue
        label, levels, split = labels[name]
        row = Row(-1, name, label, levels, one.content, one.state, split=split)
        held = known.get(name)
        if held is not None:
            row = row._replace(id=held.id)
            if held.content != one.content:
                plan.changed.append(row)
            else:
                if row != held:
                    plan.touched.append(row)
                again = labels[name] != (held.label, held.levels, held.split)
                plan.relabelled += again
                plan.unchanged += not again
        elif gone[one.content]:
            plan.moved.append(row._replace(id=gone[one.content].pop().id))
        else:
            plan.added.append(row)
    plan.removed += [one.id for left in gone.values() for one in left]
    return plan


def within(name: bytes, folders: set[bytes]) -> bool:
    """Whether any folder that holds the file is among some."""
    return any(folder in folders for folder in folders_of(name))


def folders_of(name: bytes) -> Iterator[bytes]:
    """All folders that hold a file, the nearest first."""
    while (parent := os.path.dirname(name)) != name:
        yield parent
        name = parent
