"""`Review`: everything in a collection of images that a person should look at."""

import contextlib
import csv
import dataclasses
import functools
import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np

from hiercli.collection import Collection
from hiercli.data.corrections import DECISION
from hiercli.errors import DataError, ImageError, InputError
from hiercli.hierarchy.node import Node
from hiercli.hierarchy.tree import Tree, images_of, is_index
from hiercli.images import read, size_of
from hiercli.review import duplicates, images, labelling
from hiercli.review.finding import KINDS, Finding
from hiercli.review.labels import LABEL_KINDS, NEIGHBOURS, doubts
from hiercli.review.neighbourhood import nearest_of_all
from hiercli.wording import counted

if TYPE_CHECKING:
    from hiercli.index.catalogue import Catalogue

Steps = Callable[[str], AbstractContextManager[Callable[[int, int], None]]]
"""Given the name of a step: a context in which its progress is told."""
_NEAR = 10
"""Neighbours by which outliers are found, and images to label."""
_READ_AT_ONCE = 256


@dataclass(frozen=True)
class Review:
    """What was found in a collection, by kind and the surest first.

    Examples:
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> middles = np.repeat(rng.normal(size=(10, 8)), 25, axis=0)
        >>> points = 0.3 * (middles + 0.2 * rng.normal(size=(250, 8)))
        >>> labels = [f"kind {number // 25}" for number in range(250)]
        >>> labels[3] = "kind 2"
        >>> birds = Collection(points=points.astype(np.float32), labels=labels, c=0.1)
        >>> found = Review.of_collection(birds, kinds=["relabel"]).findings
        >>> [(one.kind, one.label, one.proposal) for one in found]
        [('relabel', 'kind 2', 'kind 0')]

    Attributes:
        findings: what to look at.
        collection: the images that were looked at.
        problems: why the pixels of some could not be looked at.
        notes: what people should know of how they were looked at, each a sentence.
        index: that they come from, which may keep small pictures of them.
    """

    findings: list[Finding]
    collection: Collection
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    index: Path | None = None

    @classmethod
    def of_images(
        cls,
        source: Path | str,
        model: Path | str | None = None,
        *,
        kinds: Sequence[str] | None = None,
        least: float = 0.45,
        label_next: int = 20,
        steps: Steps | None = None,
        read_files: bool = True,
        root: Path | None = None,
    ) -> Self:
        """Look through the images of an index, or of a file of embeddings.

        Args:
            source: an index (``.faiss``), ``.npy``, ``.npz``, ``.parquet``, or a folder of these.
            model: the encoder; needed where its proxies are not at hand.
            kinds: of findings to look for; without it all.
            least: confidence from which on doubts of labels and classes are listed.
            label_next: how many images without a label are proposed.
            steps: tells of progress.
            read_files: open the files of images. Without it, copies and tiny images are found by
                the small pictures that an index keeps, blurred images are not found, and reasons
                name no file.
            root: what relative paths of an index are relative to, instead of what it says.

        Raises:
            InputError: the source is missing or empty, or a kind is unknown.
            FileFormatError: it is damaged.
        """
        source = Path(source)
        collection, _ = images_of(source, None if model is None else Path(model), root)
        if collection.paths is not None:  # a review is read in other folders too
            paths = [whole_path(path) for path in collection.paths]
            collection = dataclasses.replace(collection, paths=paths)
        unreadable: list[tuple[str, str]] = []
        smalls: Callable[[], Iterator[tuple[int, bytes]]] | None = None
        with contextlib.ExitStack() as stack:
            if is_index(source):
                from hiercli.index.catalogue import Catalogue

                catalogue = stack.enter_context(closing(Catalogue(source, root)))
                unreadable = [(os.fsdecode(path), why) for path, why in catalogue.quarantine()]
                smalls = partial(_thumbnails, catalogue, collection.paths or ())
            found = cls.of_collection(
                collection, kinds=kinds, least=least, label_next=label_next, steps=steps,
                smalls=smalls, unreadable=unreadable, read_files=read_files,
            )  # fmt: skip
        return dataclasses.replace(found, index=source) if is_index(source) else found

    @classmethod
    def of_collection(
        cls,
        collection: Collection,
        *,
        kinds: Sequence[str] | None = None,
        least: float = 0.45,
        label_next: int = 20,
        steps: Steps | None = None,
        smalls: Callable[[], Iterator[tuple[int, bytes]]] | None = None,
        unreadable: Sequence[tuple[str, str]] = (),
        read_files: bool = True,
    ) -> Self:
        """Look through a collection, see `of_images`.

        Args:
            collection: of images with c.
            kinds, least, label_next, steps, read_files: as there.
            smalls: gives positions and small pictures of images; others are read from their files.
            unreadable: paths and reasons of files that are not among the images.
        """
        wanted = set(KINDS if kinds is None else kinds)
        if unknown := sorted(wanted - set(KINDS)):
            raise InputError(
                f"expected kinds among {', '.join(KINDS)}, got {', '.join(unknown)}. Name some of "
                "these"
            )
        if collection.c is None:
            raise InputError("expected a collection with its curvature c, got one without")
        looked = _Reviewer(collection, wanted, steps or _silent, smalls, read_files)
        found = looked.run(least, label_next, unreadable)
        if wanted & set(LABEL_KINDS) and len(collection.classes) < 2:
            looked.notes.append("labels were not compared: the images have fewer than two labels")
        return cls(found, collection, tuple(looked.problems), tuple(looked.notes))

    def write(
        self, folder: Path | str, *, title: str = "Review", steps: Steps | None = None
    ) -> list[str]:
        """Write a page to decide on each finding, and all findings as CSV and JSON.

        Args:
            folder: to write ``review.html``, ``review.csv`` and ``review.jsonl`` to; it is made.
            title: of the page.
            steps: tells of progress.

        Returns:
            paths of images that the page cannot show.

        Raises:
            InputError: it cannot be written to, or has a review with decisions.
        """
        from hiercli.review import folder as folders

        folders.require(Path(folder), self.index)
        return folders.write(Path(folder), self, title, steps or _silent)

    def to_csv(self) -> str:
        """A row for each finding; people fill in its last two columns, see `data.corrections`."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([*(field.name for field in dataclasses.fields(Finding)), *DECISION])
        for one in self.findings:
            sure = "" if one.confidence is None else f"{one.confidence:.3f}"
            row = dataclasses.asdict(one) | {"confidence": sure}
            writer.writerow([*row.values(), "", ""])
        return text.getvalue()

    def to_json(self) -> str:
        """One JSON object for each finding, one a line."""
        return "".join(json.dumps(dataclasses.asdict(one)) + "\n" for one in self.findings)

    def counts(self) -> dict[str, int]:
        """How many findings there are of each kind that was found."""
        numbers = {kind: sum(one.kind == kind for one in self.findings) for kind in KINDS}
        return {kind: number for kind, number in numbers.items() if number}


def whole_path(path: str) -> str:
    """A path as findings have it: absolute, unless it is an address of another kind."""
    return path if "://" in path else os.path.abspath(path)


@contextlib.contextmanager
def _silent(name: str) -> Iterator[Callable[[int, int], None]]:
    del name
    yield lambda done, total: None


class _Reviewer:
    """One look through a collection."""

    def __init__(
        self,
        collection: Collection,
        wanted: set[str],
        steps: Steps,
        smalls: Callable[[], Iterator[tuple[int, bytes]]] | None,
        read_files: bool,
    ) -> None:
        self.collection, self.wanted, self.steps, self.smalls = collection, wanted, steps, smalls
        self.read_files = read_files
        self.paths = list(collection.paths or ())
        self.labels = list(collection.labels or [""] * len(collection))
        self.problems: list[str] = []
        self.notes: list[str] = []

    def run(self, least: float, count: int, unreadable: Sequence[tuple[str, str]]) -> list[Finding]:
        """What is found, by kind; see `Review.of_images`."""
        found: list[Finding] = []
        if self.wanted & set(LABEL_KINDS) and self._num_classes() >= 2:
            found += self._doubts(least)
        found += self._neighbourly(count)
        if "unreadable" in self.wanted:
            found += [Finding("unreadable", path, reason=why) for path, why in unreadable]
            if self.read_files:
                found += self._missing()
        if "blurred" in self.wanted and self.paths and self.read_files:
            with self.steps("looking for blur") as told:
                found += images.blurred(self.paths, self.labels, told)
        order = list(KINDS)
        kept = [one for one in found if one.kind in self.wanted]
        kept.sort(key=lambda one: order.index(one.kind))
        return kept

    def _num_classes(self) -> int:
        return len({label for label in self.labels if label})

    def _doubts(self, least: float) -> list[Finding]:
        """Of images with a label, and of classes."""
        own = self.collection.labelled
        known = self._neighbours if own is self.collection else None
        with self.steps("comparing labels") as told:
            return doubts(own, self._root(own), least=least, neighbours=known, progress=told)

    @functools.cached_property
    def _neighbours(self) -> tuple[np.ndarray, np.ndarray]:
        """Distances and positions of the nearest images of each."""
        assert self.collection.c is not None
        with self.steps("finding neighbours") as told:
            return nearest_of_all(
                self.collection.points, NEIGHBOURS, self.collection.c, progress=told
            )

    @staticmethod
    def _root(collection: Collection) -> Node | None:
        """The tree over the classes; ``None`` where none can be grown."""
        try:
            return Tree.of_collection(collection).root
        except (InputError, DataError):
            return None

    def _neighbourly(self, count: int) -> list[Finding]:
        """What neighbours tell: copies, outliers, what to label; and the size of pictures."""
        found: list[Finding] = []
        collection, c = self.collection, self.collection.c
        assert c is not None
        compared = self.wanted & {"duplicate", "leak", "outlier", "label"}
        if compared and len(collection) > 1:
            far, near = (table[:, :_NEAR] for table in self._neighbours)
            names = self.paths or [f"image {place + 1}" for place in range(len(collection))]
            if "outlier" in compared:
                found += images.outliers(far, near, names, self.labels, named=self.read_files)
            if "label" in compared and self._num_classes():
                found += labelling.label_next(
                    collection.points, far, near, names, self.labels, c, count
                )
        if not self.paths or not self.wanted & {"duplicate", "leak", "tiny"}:
            return found
        greys, aspects, sides = self._pixels()
        if "tiny" in self.wanted:
            found += images.tiny(sides, self.paths, self.labels)
        if compared & {"duplicate", "leak"} and len(collection) > 1:
            with self.steps("comparing pixels") as told:
                pairs = duplicates.near_duplicates(
                    near[:, : duplicates.NEIGHBOURS], greys, aspects, progress=told
                )
            found += images.copies(
                pairs, self.paths, self.labels, self._splits(),
                pixels=None if self.read_files else _num_pixels(sides, aspects),
            )  # fmt: skip
        return found

    def _missing(self) -> list[Finding]:
        """Images whose files are gone; an index that lies without any of its images has none."""
        gone = [at for at, path in enumerate(self.paths) if not os.path.isfile(path)]
        if len(gone) == len(self.paths):
            return []
        return [
            Finding("unreadable", self.paths[at], self.labels[at], reason="the file is missing")
            for at in gone
        ]

    def _splits(self) -> list[str]:
        """Of each image, as its table says, or else its folders."""
        told = self.collection.splits or [""] * len(self.paths)
        return [own or images.split_of(path) for own, path in zip(told, self.paths, strict=True)]

    def _pixels(self) -> tuple[np.ndarray, np.ndarray, list[int]]:
        """Small grey pictures, aspects and short sides in pixels of all images."""
        total = len(self.paths)
        pictures: list[tuple[np.ndarray, float] | None] = [None] * total
        sides = [0] * total
        with self.steps("reading images") as told, ThreadPoolExecutor(os.cpu_count()) as threads:
            done = 0
            sources: Iterator[tuple[int, bytes | None]] = iter(())
            for stored in (True, False) if self.read_files else (True,):
                if stored:
                    sources = iter(()) if self.smalls is None else self.smalls()
                else:
                    sources = ((at, None) for at in range(total) if pictures[at] is None)
                # Small pictures are decoded in less time than it takes threads to hand them over.
                for some in _chunks(sources):
                    each = map(self._look, some) if stored else threads.map(self._look, some)
                    for at, seen, problem in each:
                        if seen is not None:
                            pictures[at], sides[at] = seen[:2], seen[2]
                            done += 1
                        elif not stored:
                            self.problems.append(problem)
                    told(min(done, total), total)
        if not self.read_files and done < total:
            self.notes.append(
                f"no copies of {counted(total - done, 'image')} were looked for: the index keeps "
                "no small pictures of them"
            )
        greys, aspects = duplicates.gathered(pictures)
        return greys, aspects, sides

    def _look(
        self, given: tuple[int, bytes | None]
    ) -> tuple[int, tuple[np.ndarray, float, int] | None, str]:
        at, content = given
        try:
            if content is not None:
                return at, duplicates.stored_grey(content), ""
            picture = read(self.paths[at], duplicates.SIDE)
        except ImageError as error:
            return at, None, str(error)
        grey, aspect = duplicates.small_grey(picture)
        side = min(picture.size)
        with contextlib.suppress(ImageError):  # the file was decoded at a smaller size
            side = min(size_of(self.paths[at]))
        return at, (grey, aspect, side), ""


def _num_pixels(sides: Sequence[int], aspects: np.ndarray) -> list[int]:
    """Pixels of images, of the short side and the aspect of each."""
    long = np.maximum(aspects, 1 / aspects)
    return [round(side * side * float(more)) for side, more in zip(sides, long, strict=True)]


def _chunks(items: Iterator[tuple[int, bytes | None]]) -> Iterator[list[tuple[int, bytes | None]]]:
    some: list[tuple[int, bytes | None]] = []
    for item in items:
        some.append(item)
        if len(some) == _READ_AT_ONCE:
            yield some
            some = []
    if some:
        yield some


def _thumbnails(catalogue: "Catalogue", paths: Sequence[str]) -> Iterator[tuple[int, bytes]]:
    """Positions of images, and the small pictures that their index keeps."""
    from hiercli.index.conditions import meeting

    ids = meeting(catalogue, []).tolist()
    at = {path: place for place, path in enumerate(paths)}
    places: dict[bytes, list[int]] = {}
    for first in range(0, len(ids), _READ_AT_ONCE):
        for row in catalogue.rows(ids[first : first + _READ_AT_ONCE], points=False):
            place = at.get(os.fsdecode(row.path))
            if place is not None:
                places.setdefault(row.content, []).append(place)
    for content, small in catalogue.thumbnails():
        for place in places.get(content, ()):
            yield place, small
