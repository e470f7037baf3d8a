"""What people decided in a review: other labels, renamed classes, images to leave out."""

import csv
import dataclasses
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hiercli.errors import DataError, HierError, MismatchError
from hiercli.files import printable, read_text
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
    excluded: set[bytes]
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
        text = read_text(file, errors="surrogateescape")  # as file names can be
        first = text.partition("\n")[0]
        separator = ";" if ";" in first and "," not in first else ","
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=separator))
        columns = [name.strip().lower() for name in rows[0]] if rows else []
        is_review = DECISION[0] in columns
        needed = ("path", "kind", "label", "proposal") if is_review else ("path", "label")
        if missing := [name for name in needed if name not in columns]:
            raise DataError(
                f"{file}: expected the columns {', '.join(needed)}, but {', '.join(missing)} is "
                "missing. Use a table of path and label, or a review of `hier review`"
            )
        made = cls(file, {}, {}, set(), {})
        for number, cells in enumerate(rows[1:], 2):
            if not cells:
                continue
            if len(cells) != len(columns):
                raise DataError(
                    f"{file}: expected {len(columns)} cells in line {number}, got {len(cells)}. "
                    "Write the table again"
                )
            row = dict(zip(columns, cells, strict=True))
            where = f"{file}: line {number}"
            if is_review:
                made._add(where, row, _decided(row, where))
            elif not row["label"].strip() or not row["path"].strip():
                raise DataError(f"{where}: the path or the label is empty. Fill in both")
            else:
                made._add(where, row, row["label"].strip())
        if is_review and not (made.paths or made.renamed):
            raise DataError(
                f"{file} has no decisions. Fill in its column decision, or save the decisions from "
                "the page of `hier review`"
            )
        return made

    def _add(self, where: str, row: dict[str, str], decided: str | None) -> None:
        """Note what a row decides: a new label, empty to leave the image out, or nothing.

        Raises:
            DataError: another row decides otherwise.
        """
        if decided is None:
            return
        if DECISION[0] in row and row["kind"] == "merge" and decided:
            if self.renamed.setdefault(row["label"], decided) != decided:
                raise DataError(
                    f"{where}: the label {printable(row['label'])} becomes both "
                    f"{printable(self.renamed[row['label']])} and {printable(decided)}. Keep one"
                )
            return
        place = Places()(self.file.parent / row["path"])
        self.paths[place] = row["path"]
        if not decided:
            self.excluded.add(place)
        elif self.labels.setdefault(place, decided) != decided:
            raise DataError(
                f"{where}: {printable(row['path'])} gets both the label "
                f"{printable(self.labels[place])} and {printable(decided)}. Keep one"
            )

    def _renamed(self, label: str) -> str:
        """What a label becomes in the end.

        Raises:
            DataError: labels become each other.
        """
        seen = [label]
        while seen[-1] in self.renamed:
            label = self.renamed[seen[-1]]
            if label in seen:
                raise DataError(
                    f"{self.file}: the labels {', '.join(map(printable, seen))} become each other. "
                    "Accept one merge less"
                )
            seen.append(label)
        return seen[-1]

    def applied(
        self, records: Sequence[Record], level_names: Sequence[str]
    ) -> tuple[list[Record], list[Path], list[str]]:
        """Records with their new labels; those of a label that is known have its levels.

        Args:
            records: of images.
            level_names: of their levels.

        Returns:
            the records that are left; paths of images that are left out; and why some decisions
            have no effect.

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
            label = self._renamed(label)
            if label != record.label:
                levels = known.get(label, ("",) * len(level_names))
                record = dataclasses.replace(record, label=label, levels=levels)
            kept.append(record)
        gone = [path for where, path in self.paths.items() if where not in seen]
        lost = [
            *(f"{printable(path)}: named in {self.file}, but not among the images given"
              for path in gone),
            *(f"{self.file}: no image has the label {printable(label)}"
              for label in self.renamed if label not in known),
        ]  # fmt: skip
        if lost and len(lost) == len(self.paths) + len(self.renamed):
            raise MismatchError(
                f"{lost[0]}. None of the {counted(len(lost), 'decision')} in it fits the images "
                "given: use the review of these images. Relative paths start at the folder of the "
                "CSV"
            )
        return kept, left_out, lost


def has_decisions(file: Path) -> bool:
    """Whether a file is a review in which somebody has decided something."""
    try:
        Corrections.read(file)
    except (HierError, csv.Error):
        return False
    return True


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
