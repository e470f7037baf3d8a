"""The review of an index for the page. No file of an image is opened for it: only the index is."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hiercli.errors import InputError
from hiercli.review.finding import KINDS, Finding
from hiercli.review.review import Review, Steps, whole_path
from hiercli.serve.making import ids_of
from hiercli.serve.settings import Settings

MOST = 200
"""Findings of a kind that are sent; the first are the surest."""
FOUND = tuple(kind for kind in KINDS if kind != "blurred")
"""Kinds that an index tells by itself; blur is seen in the files alone."""


@dataclass(frozen=True)
class Findings:
    """A review as requests are answered from it.

    Attributes:
        facts: counts of all findings, and what else is true of the review as a whole, as JSON.
        by_kind: the findings that are sent, each as JSON.
    """

    facts: bytes
    by_kind: dict[str, list[bytes]]

    def answer(self, kinds: Sequence[str]) -> bytes:
        """An object with the findings of some kinds."""
        findings = b",".join(one for kind in kinds for one in self.by_kind.get(kind, ()))
        return self.facts[:-1] + b',"findings":[' + findings + b"]}"


def kinds_of(given: Sequence[str]) -> Sequence[str]:
    """The kinds that a request names; all where it names none.

    Raises:
        InputError: one is not found here.

    Examples:
        >>> kinds_of(["leak", "relabel"])
        ['relabel', 'leak']
    """
    if unknown := sorted(set(given) - set(FOUND)):
        raise InputError(f"expected kinds among {', '.join(FOUND)}, got {unknown[0][:60]!r}")
    return [kind for kind in FOUND if kind in given] if given else FOUND


def reviewed(index: Path, settings: Settings, steps: Steps) -> Findings:
    """What a review of an index finds, as `making.Background` does it.

    Raises:
        HierError: as of the index.
    """
    from hiercli.reports import review as pages

    model, show_paths = settings.model or None, settings.show_paths
    found = Review.of_images(
        index, model, kinds=FOUND, steps=steps, read_files=False, root=settings.root_folder
    )
    examples = pages.Examples(found.collection, named=show_paths)
    ids = {whole_path(path): name for path, name in ids_of(index, settings).items()}
    by_kind: dict[str, list[bytes]] = {}
    with steps("choosing examples") as told:
        for done, one in enumerate(found.findings, 1):
            own = by_kind.setdefault(one.kind, [])
            if len(own) < MOST:
                own.append(_json(_plain(one, examples.of(one), ids, show_paths)))
            told(done, len(found.findings))
    facts = pages.about(found) | {
        "images": len(found.collection),
        "counts": found.counts(),
        "most": MOST,
        "notes": [f"{note[0].upper()}{note[1:]}." for note in found.notes],
        "columns": [field.name for field in dataclasses.fields(Finding)] if show_paths else None,
    }
    return Findings(_json(facts), by_kind)


def _plain(one: Finding, groups: Any, ids: dict[str, str], show_paths: bool) -> dict[str, Any]:
    """A finding as JSON has it; images are named by their ids."""
    values = dataclasses.asdict(one)
    values |= {"id": ids.get(one.path, ""), "of_id": ids.get(one.of, "")}
    if not show_paths:
        del values["path"], values["of"]
        if one.kind == "unreadable":  # reasons of these name the file
            values["reason"] = "a file that was given to the index cannot be read"
    values["examples"] = [group.told([ids.get(path, "") for path in group.paths])
                          for group in groups]  # fmt: skip
    return values


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
