"""What a command is given, as images with their labels: files, folders and manifests."""

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hiercli import labels
from hiercli.data.corrections import Corrections
from hiercli.errors import InputError
from hiercli.images import Passed, Places, Skipped, find_under, pages
from hiercli.labels import Record


@dataclass(frozen=True)
class Listing:
    """Images to work on.

    Attributes:
        records: of the images, each once.
        level_names: names of their levels, fine to coarse; an image has as many groups, and empty
            ones where its source does not name them.
        paths: as they were given.
        linked: folders that were reached by a link.
        excluded: files and folders that a pattern names.
        unmatched: why some corrections have no effect.
        source: where labels come from, in words.
        notes: what people should know of how they were read, each a sentence.
    """

    records: list[Record]
    level_names: tuple[str, ...] = ()
    paths: tuple[Path, ...] = ()
    linked: tuple[Path, ...] = ()
    excluded: tuple[Path, ...] = ()
    unmatched: tuple[str, ...] = ()
    source: str = "folders"
    notes: tuple[str, ...] = field(default=())

    def summary(self) -> str:
        """One line on the labels and levels that were taken."""
        return labels.summary(self.records, self.level_names, self.source)


def gather(
    paths: Sequence[Path | str],
    *,
    nested: bool = False,
    skipped: Skipped | None = None,
    absent: bool = False,
    exclude: Sequence[str] = (),
    unlabelled: Sequence[Path | str] = (),
    corrections: Corrections | None = None,
) -> Listing:
    """All images of some files, folders and manifests, labelled by the rule of `labels`.

    Args:
        paths: image files, folders of images, and manifests (``.csv``, ``.tsv``, ``.parquet``).
        nested: read folders in folders as levels.
        skipped: told of each folder that cannot be read; without it such a folder raises.
        absent: paths may be missing, and there may be no images.
        exclude: patterns as of ``.gitignore``: what they name in the folders is left out.
        unlabelled: files and folders among those given, or in them, whose images have no label.
        corrections: what people decided of labels and images.

    Raises:
        MismatchError: the corrections are of other images.
        InputError: a path is missing, there are no images, or a folder cannot be read.
        DataError: a manifest cannot be used.
    """
    given = [Path(path) for path in paths]
    tables = [path for path in given if _is_manifest(path)]
    others = [path for path in given if path not in tables]
    if nested and not any(path.is_dir() for path in others):
        raise InputError("expected a folder of images with nested folders, got none")
    linked: list[Path] = []
    found: list[tuple[list[Record], tuple[str, ...]]] = []
    notes: list[str] = []
    passed = Passed()
    of_none = _Unlabelled(unlabelled, others, absent)
    listed, labelled = list[tuple[Path, Path | None]](), list[tuple[Path, Path | None]]()
    if others or not tables:
        listed = find_under(
            others, skipped, absent=absent, linked=linked, exclude=exclude, passed=passed
        )
        labelled = [pair for pair in listed if not of_none.holds(pair[0])]
        found += _from_folders(labelled, nested, notes)
        notes += filter(None, [str(passed)])
    for table in tables:
        from hiercli.data import manifest

        read = manifest.read(table)
        found.append((read.first_of_each(notes), read.level_names))
        notes += read.notes
    if len(labelled) < len(listed):
        found.append(([Record(path, "") for path, _ in listed], ()))
    records, level_names = _merged(found)
    if len(labelled) < len(listed):
        place = {path: number for number, (path, _) in enumerate(listed)}
        records.sort(key=lambda record: place.get(record.path, len(listed)))
    left_out, lost = list(passed.excluded), list[str]()
    if corrections is not None:
        records, without, lost = corrections.applied(records, level_names)
        left_out += without
    notes += filter(None, [pages.note(record.path for record in records)])
    source = " and ".join(["folders"] * bool(others) + ["tables" if len(tables) > 1 else "a table"]
                          * bool(tables))  # fmt: skip
    return Listing(
        records, level_names, tuple(given), tuple(linked), tuple(left_out), tuple(lost), source,
        tuple(notes),
    )  # fmt: skip


def _is_manifest(path: Path) -> bool:
    return path.suffix.lower() in (".csv", ".tsv", ".parquet") and path.is_file()


class _Unlabelled:
    """Files and folders whose images have no label.

    Args:
        paths: of these.
        given: files and folders that are listed.
        absent: they may be missing.

    Raises:
        InputError: one of them is missing, or is not among those that are listed.
    """

    def __init__(self, paths: Sequence[Path | str], given: Sequence[Path], absent: bool) -> None:
        self._roots = {os.path.realpath(path) for path in paths}
        self._place = Places()
        around = {os.path.realpath(path) for path in given}
        for path in paths:
            if not (absent or os.path.exists(path)):
                raise InputError(f"expected an image or a folder of images, but {path} is missing")
            if not _is_within(os.path.realpath(path), around):
                raise InputError(
                    f"expected unlabelled images among those given, but {path} is in none of these "
                    "folders. Name it as a folder to embed too"
                )

    def holds(self, path: Path) -> bool:
        """Whether an image lies in one of them, or is one."""
        return bool(self._roots) and _is_within(os.fsdecode(self._place(path)), self._roots)


def _is_within(path: str, folders: set[str]) -> bool:
    return any(str(one) in folders for one in (Path(path), *Path(path).parents))


def _from_folders(
    listed: Sequence[tuple[Path, Path | None]], nested: bool, notes: list[str]
) -> list[tuple[list[Record], tuple[str, ...]]]:
    """Records of images by the folder that they were found under."""
    by_root: dict[Path | None, list[Path]] = {}
    for path, root in listed:
        by_root.setdefault(root, []).append(path)
    found: list[tuple[list[Record], tuple[str, ...]]] = []
    for root, own in by_root.items():
        if root is None:
            found.append(([Record(path, labels.own_folder(path)) for path in own], ()))
            continue
        parted = split_folders(root)
        splits = [path.relative_to(root).parts[0] in parted for path in own]
        if nested:
            found.append(labels.nested(own, root, splits))
            continue
        pairs = list(zip(own, splits, strict=True))
        found.append(([Record(path, labels.under(path, root, split)) for path, split in pairs], ()))
        if min(len(path.relative_to(root).parts) - 1 - split for path, split in pairs) >= 2:
            notes.append(
                f"all images of {root} lie two or more folders deep. Their labels are the names "
                f"of the first folders below it ({found[-1][0][0].label}, ...). With --nested the "
                "innermost folders are the labels, and the folders above them their levels"
            )
    return found


def split_folders(folder: Path) -> list[str]:
    """Names of the folders that part a data set (train, test, ...), if it is parted."""
    there = [name for name in labels.SPLITS if (folder / name).is_dir()]
    return there if "train" in there and len(there) > 1 else []


def _merged(
    found: Sequence[tuple[list[Record], tuple[str, ...]]],
) -> tuple[list[Record], tuple[str, ...]]:
    """Records of several sources under the levels of all, each image once.

    The first counts that has a label, or else the first; of splits the first that is named.
    """
    if len(found) == 1:
        return list(found[0][0]), found[0][1]
    level_names = tuple(dict.fromkeys(name for _, names in found for name in names))
    place = Places()
    merged: dict[bytes, Record] = {}
    for records, names in found:
        for record in records:
            groups = dict(zip(names, record.levels, strict=True))
            levels = tuple(groups.get(name, "") for name in level_names)
            where = place(record.path)
            own = dataclasses.replace(record, levels=levels)
            known = merged.setdefault(where, own)
            if record.label and not known.label:
                own = dataclasses.replace(own, path=known.path, split=record.split or known.split)
                merged[where] = own
            elif record.split and not known.split:
                merged[where] = dataclasses.replace(known, split=record.split)
    return list(merged.values()), level_names
