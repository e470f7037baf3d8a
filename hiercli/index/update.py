"""Bring an index up to date with folders of pictures: embed what is new, forget what is gone.

A file is known by the hash of its content, so that one that was moved, copied or only touched is
not embedded again. Points are kept as they are made; a run that is killed has lost none of them,
and the next one starts from there.
"""

import contextlib
import dataclasses
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from hiercli.data.corrections import Corrections
from hiercli.data.listing import Listing, gather
from hiercli.encoder.encoder import Encoder
from hiercli.encoder.pipeline import picture_of
from hiercli.errors import ImageError, InputError
from hiercli.images import Places, Skipped, read_bytes, state_of, thumbnail
from hiercli.index import locations
from hiercli.index import store as stores
from hiercli.index.address import Target
from hiercli.index.pair import pair_text
from hiercli.index.schema import Row, content_hash, facts_of, levels_text, readable
from hiercli.index.store import Store
from hiercli.index.sync import Scope, Seen, plan_sync, within
from hiercli.wording import counted


@dataclasses.dataclass(frozen=True)
class Update:
    """What an update did.

    Attributes:
        added: pictures that were not there before.
        changed: paths whose content is another than it was.
        moved: pictures that lie elsewhere now; they keep their ids.
        relabelled: pictures with another label, other levels or another split than before.
        removed: pictures that are gone.
        unchanged: pictures that hold what they held.
        embedded: pictures that the encoder had to look at.
        total: pictures in the index now.
        listing: the images asked for that are in the index, in natural path order.
        problems: files and folders that were passed over, with the reason.
    """

    added: int
    changed: int
    moved: int
    relabelled: int
    removed: int
    unchanged: int
    embedded: int
    total: int
    listing: Listing
    problems: list[tuple[Path, str]]


def update(
    index: Target,
    paths: Sequence[Path],
    encoder: Encoder,
    *,
    nested: bool = False,
    exclude: Sequence[str] = (),
    unlabelled: Sequence[Path | str] = (),
    corrections: Corrections | None = None,
    rebuild: bool = False,
    prune: bool = False,
    strict: bool = False,
    index_type: str | None = None,
    root: Path | None = None,
    thumbnails: bool | None = None,
    skipped: Skipped | None = None,
    progress: Callable[[int, int], None] | None = None,
    building: Callable[[int, int], None] | None = None,
) -> Update:
    """Make an index say what the given files and folders hold, leaving other folders' as they are.

    A picture that is no picture any more is taken out; one that the file system refuses to give
    stays as it was, for what is out of reach is not gone. Both are named.

    Args:
        index: FAISS file or address in Milvus, new or to be brought up to date.
        paths: pictures, folders of pictures, and manifests. Pictures that a manifest named before
            and does not name now stay.
        encoder: makes the points.
        nested: read folders in folders as levels, see `labels`.
        exclude: patterns as of ``.gitignore``: what they name is taken out of the index.
        unlabelled: files and folders among ``paths``, or in them, whose images have no label.
        corrections: other labels for some images; what they leave out is taken out likewise.
        rebuild: forget what is there and start anew, with another encoder if need be.
        prune: take a folder or file that is missing, and a folder without pictures, for gone.
            Without it they are an error: a disk may just not be mounted.
        strict: write nothing where something cannot be read.
        index_type: one of `kinds.INDEX_TYPES`, in Milvus of `milvus.tuning.INDEX_TYPES`; ``None``
            leaves it as it is, or chooses by size.
        root: keep paths below it relative to it from now on, instead of to the index.
        thumbnails: keep a small picture of each image, 2 to 4 kB; ``False`` removes those that are
            there. ``None`` leaves it as it is, or keeps them. Milvus has none.
        skipped: told of each file or folder that is passed over, and why.
        progress: called with (done, total) pictures.
        building: called with (done, total) points while the FAISS index is made.

    Raises:
        InputError: nothing to index, the root is no folder, another writer at work, or the files
            cannot be written.
        MismatchError: the index was built with another encoder.
        FileFormatError: the index that is there is damaged, or a collection is somebody else's.
    """
    index = Path(os.path.realpath(index)) if isinstance(index, Path) else index
    stores.require_root(index, root)
    if index_type is not None:
        stores.require_index_type(index, index_type)
    problems: list[tuple[Path, str]] = []

    def pass_over(path: Path, reason: str) -> None:
        problems.append((path, reason))
        if skipped:
            skipped(path, reason)

    there = stores.exists(index)
    listing = gather(
        paths, nested=nested, exclude=exclude, unlabelled=unlabelled, skipped=pass_over,
        absent=prune and there, corrections=corrections,
    )  # fmt: skip
    unmatched = [(paths[0] if corrections is None else corrections.file, why)
                 for why in listing.unmatched]  # fmt: skip
    if skipped is not None:
        for file, why in unmatched:  # no images: nothing of them is kept in the index
            skipped(file, why)
    anew = rebuild or not there
    if anew and isinstance(index, Path):
        locations.require_replaceable(index)
    metadata = encoder.metadata
    with stores.writing(index, metadata.embedding_dim, anew=anew, root=root) as store:
        store.check(metadata, encoder.path)
        place = Places()
        scope = Scope.of(
            paths, listing.linked, [path for path, _ in problems], place, listing.excluded
        )
        listed, labels = _listed(listing, place, store, pass_over)
        known = store.known(listed, scope)
        if not prune:
            scope.require_images(listed, known)
        else:
            scope.require_known(paths, known, place)
        for name in list(scope.kept_outright(known, listed)):
            listed[name] = Path(os.fsdecode(name))
            labels[name] = known[name].label, known[name].levels, known[name].split
        store.expect(encoder.fingerprint)
        wanted = _wanted(encoder, store, index, index_type, thumbnails)
        small = store.keeps_thumbnails and wanted["thumbnails"] == "1"
        seen = _look(listed, known, encoder, store, small, progress)
        for one in seen.values():
            if one.problem:
                pass_over(one.path, one.problem)
        plan = plan_sync(known, seen, labels, scope)
        total = len(store) - len(plan.removed) + len(plan.added)
        emptied = prune and not anew and not problems
        if not (total or emptied) or (strict and problems):
            raise _unread(problems, seen)
        passed_over = {place(path): readable(os.fsencode(why)) for path, why in problems}
        freed, news = _quarantine(store, passed_over, seen, scope)
        stale = any(store.facts.get(name) != value for name, value in wanted.items())
        if plan.is_work or freed or news or stale or store.is_behind():
            store.apply(plan, wanted, metadata.proxies, freed, news.items(), building)
    kept = {name for name, one in seen.items() if not one.problem} | plan.out_of_reach
    records = [one for one in listing.records if place(one.path) in kept]
    listing = dataclasses.replace(listing, records=records)
    return Update(
        len(plan.added), len(plan.changed), len(plan.moved), plan.relabelled, len(plan.removed),
        plan.unchanged, store.embedded, total, listing,
        [*problems, *unmatched],
    )  # fmt: skip


def _wanted(
    encoder: Encoder,
    store: Store,
    index: Target,
    index_type: str | None,
    thumbnails: bool | None,
) -> dict[str, str]:
    """What the index says of its encoder and of itself from now on."""
    before = store.facts
    home = index.parent if isinstance(index, Path) else None
    pair = pair_text(encoder, home, before.get("pair", ""))
    told = {"pair": pair} if pair or "pair" in before else {}
    return (
        told
        | facts_of(encoder.fingerprint, encoder.c, encoder.embedding_dim, encoder.path)
        | {
            "index_type": index_type or before.get("index_type", "auto"),
            "thumbnails": before.get("thumbnails", "1")
            if thumbnails is None
            else str(int(thumbnails)),
            "image_depth": str(int(encoder.metadata.image_depth)),
        }
    )


def _unread(problems: list[tuple[Path, str]], seen: dict[bytes, Seen]) -> InputError:
    good = sum(not one.problem for one in seen.values())
    return InputError(
        f"{counted(len(problems), 'input')} cannot be read, {counted(good, 'image')} can. Nothing "
        "was written"
    )


def _listed(
    listing: Listing, place: Places, store: Store, pass_over: Skipped
) -> tuple[dict[bytes, Path], dict[bytes, tuple[str, str, str]]]:
    """Files that can be stored, and label, levels and split of each, by their places."""
    files, labels = {}, {}
    for record in listing.records:
        name = place(record.path)
        own = record.label, levels_text(listing.level_names, record.levels)
        if why := store.objection(name, *own):
            pass_over(record.path, f"{record.path}: {why}")
        else:
            files[name], labels[name] = record.path, (*own, record.split)
    return files, labels


def _quarantine(
    store: Store, passed_over: dict[bytes, str], seen: dict[bytes, Seen], scope: Scope
) -> tuple[set[bytes], dict[bytes, str]]:
    """Paths that leave quarantine, and those that enter it with another reason than before."""
    before = store.quarantine()
    freed = {name for name in before if name in seen or within(name, scope.roots)}
    news = {name: why for name, why in passed_over.items() if before.get(name) != why}
    return freed - set(passed_over), news


def _look(
    listed: dict[bytes, Path],
    known: dict[bytes, Row],
    encoder: Encoder,
    store: Store,
    with_thumbnails: bool,
    progress: Callable[[int, int], None] | None,
) -> dict[bytes, Seen]:
    """Read what is not known, and keep the points of what is new."""
    preprocessing = encoder.metadata.preprocessing
    claimed: set[bytes] = set()
    claims = threading.Lock()

    def load(item: tuple[bytes, Path]) -> tuple[np.ndarray | None, Seen]:
        name, path = item
        old = known.get(name)
        seen = Seen(path, name)
        try:
            with contextlib.suppress(OSError):  # reading it says why
                if old is not None and old.state == state_of(os.stat(path)):
                    return None, dataclasses.replace(seen, content=old.content, state=old.state)
            content, state = read_bytes(path)
            digest = content_hash(content)
            seen = dataclasses.replace(seen, content=digest, state=state)
            with claims:  # of several copies only one is decoded
                if digest in claimed or store.has(digest):
                    return None, seen
                claimed.add(digest)
        except ImageError as error:
            # What is no file any more is gone, what the system refuses to give is not.
            gone = not path.is_file()
            return None, dataclasses.replace(seen, problem=str(error), is_gone=gone)
        try:
            picture = picture_of(preprocessing, path, content)
        except ImageError as error:  # what was read and is no picture is gone as one
            return None, dataclasses.replace(seen, problem=str(error), is_gone=True)
        small = thumbnail(picture) if with_thumbnails else b""
        return preprocessing(picture), dataclasses.replace(seen, thumbnail=small)

    found: dict[bytes, Seen] = {}
    bad: dict[bytes, str] = {}
    with contextlib.closing(encoder.stream(listed.items(), load)) as stream:
        for done, (seen, point) in enumerate(stream, 1):
            if point is not None:
                store.keep(seen.content, point, seen.thumbnail)
                seen = dataclasses.replace(seen, thumbnail=b"")
            if seen.problem and seen.content:
                bad[seen.content] = seen.problem.removeprefix(str(seen.path))
            found[seen.name] = seen
            if progress and (done % 32 == 0 or done == len(listed)):
                progress(done, len(listed))
    for name, seen in found.items():  # copies of what is no picture
        if seen.content in bad and not seen.problem:
            problem = f"{seen.path}{bad[seen.content]}"
            found[name] = dataclasses.replace(seen, problem=problem, is_gone=True)
    return found
