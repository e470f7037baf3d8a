"""What people decided in a review: other labels, renamed classes, images to leave out."""

import csv
import dataclasses
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hiercli.errors import DataError, MismatchError
from hiercli.files import read_text
from hiercli.images import Places
from hiercli.labels import Record
from hiercli.wording import counted

DECISION = ("decision", "new_label")
"""Columns of a review that people fill in."""
_DECISIONS = ("accept", "reject", "exclude", "relabel")
_UNWANTED = ("duplicate", "leak", "outlier", "unreadable", "tiny", "blurred")
"""Kinds of findings of which to accept one means to leave the image out."""


@dataclass(frozen=True)
class Corrections:
    """Decisions on images and classes.

    Attributes:
        file: that they were read from.
        labels: new label of each image, by its place (`images.Places`).
        renamed: new label of all images of a label.
        excluded: places of images to leave out.
        paths: as the file spells them, by place.
    """

    file: Path
    labels: dict[bytes, str]
    renamed: dict[str, str]
    excluded: frozenset[bytes]
    paths: dict[bytes, str]

    @classmethod
    def read(cls, file: Path) -> "Corrections":
        """Read a table of new labels, or a review with decisions.

        With the columns ``path`` and ``label`` each row gives an image its label. With a column
        ``decision``, as `hier review` writes it, a row counts if that holds ``accept`` (a proposed
        label is taken, two classes become one, a copy or bad image is left out), ``exclude`` (the
        image is left out) or ``relabel`` (the image gets the label in ``new_label``); ``reject``
        and an empty cell change nothing.

        Raises:
            InputError: the file is missing, or not in UTF-8.
            DataError: columns are missing, or a row cannot be understood.
        """
        rows = list(csv.reader(io.StringIO(read_text(file))))
        columns = [name.strip().lower() for name in rows[0]] if rows else []
        is_review = DECISION[0] in columns
        needed = ("path", "kind", "label", "proposal") if is_review else ("path", "label")
        if missing := [name for name in needed if name not in columns]:
            raise DataError(
                f"{file}: expected the columns {', '.join(needed)}, but {', '.join(missing)} is "
                "missing. Use a table of path and label, or a review of `hier review`"
            )
        place, labels, renamed = Places(), dict[bytes, str](), dict[str, str]()
        excluded, paths = set[bytes](), dict[bytes, str]()
        for number, cells in enumerate(rows[1:], 2):
            if not cells:
                continue
            if len(cells) != len(columns):
                raise DataError(
                    f"{file}: expected {len(columns)} cells in line {number}, got {len(cells)}. "
                    "Write the table again"
                )
            row = dict(zip(columns, cells, strict=True))
            decided = _decided(row, f"{file}: line {number}") if is_review else row["label"]
            if decided is None:
                continue
            if row.get("kind") == "merge" and row["decision"].strip() == "accept":
                renamed[row["label"]] = row["proposal"]
                continue
            where = place(file.parent / row["path"])
            paths[where] = row["path"]
            if decided:
                labels[where] = decided
            else:
                excluded.add(where)
        return cls(file, labels, renamed, frozenset(excluded), paths)

    def applied(
        self, records: Sequence[Record], level_names: Sequence[str]
    ) -> tuple[list[Record], list[Path], list[Path]]:
        """Records with their new labels; those of a label that is known have its levels.

        Args:
            records: of images.
            level_names: of their levels.

        Returns:
            the records that are left; paths of images that are left out; and paths that were named
            and are not among the records.

        Raises:
            MismatchError: none of the images that are named is among the records.
        """
        place = Places()
        known = {record.label: record.levels for record in records}
        kept, left_out, seen = [], [], set[bytes]()
        for record in records:
            where = place(record.path)
            if where in self.paths:
                seen.add(where)
            if where in self.excluded:
                left_out.append(record.path)
                continue
            label = self.labels.get(where, record.label)
            label = self.renamed.get(label, label)
            if label != record.label:
                levels = known.get(label, ("",) * len(level_names))
                record = dataclasses.replace(record, label=label, levels=levels)
            kept.append(record)
        lost = [Path(path) for where, path in self.paths.items() if where not in seen]
        if self.paths and not seen:
            raise MismatchError(
                f"{self.file} names {counted(len(lost), 'image')}, and none of them is among the "
                f"images given ({lost[0]}, ...). Use the review of these images"
            )
        return kept, left_out, lost


def _decided(row: dict[str, str], where: str) -> str | None:
    """The new label that a row of a review gives; empty to leave the image out; else ``None``.

    Raises:
        DataError: the decision is unknown, or has no label.
    """
    decision, kind = row[DECISION[0]].strip().lower(), row["kind"]
    if decision and decision not in _DECISIONS:
        raise DataError(
            f"{where}: expected a decision of {', '.join(_DECISIONS)} or none, got {decision!r}. "
            "Correct it"
        )
    row[DECISION[0]] = decision
    if decision == "exclude" or (decision == "accept" and kind in _UNWANTED):
        return ""
    new = row.get(DECISION[1], "").strip()
    if decision == "relabel" and not new:
        raise DataError(
            f"{where}: the decision is relabel, but new_label is empty. Write the label there"
        )
    if decision == "relabel":
        return new
    if decision == "accept" and kind in ("relabel", "merge", "label"):
        return new or row["proposal"] or None
    return None
