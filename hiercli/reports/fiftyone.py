"""The findings of a review as a FiftyOne dataset, to be looked through in the FiftyOne App."""

import contextlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from hiercli.errors import InputError, MissingExtraError
from hiercli.review.finding import Finding
from hiercli.review.review import Review

_AT_ONCE = 1000
"""Samples that are handed over together."""

Progress = Callable[[int, int], None]


def require(name: str, *, overwrite: bool = False) -> None:
    """Check that a dataset can be written, before any work is done.

    Raises:
        MissingExtraError: FiftyOne is not installed.
        InputError: it cannot be used, or there is a dataset of this name already.
    """
    if importlib.util.find_spec("fiftyone") is None:
        raise MissingExtraError(
            "expected the package fiftyone, but it is not installed. Run `pip install fiftyone`"
        )
    with _opened() as fo:
        if not overwrite and fo.dataset_exists(name):
            raise InputError(
                f"there is a FiftyOne dataset {name!r} already. Name another, or replace it with "
                "--overwrite"
            )


def write(
    found: Review, name: str, *, overwrite: bool = False, progress: Progress | None = None
) -> int:
    """Write a dataset that stays when the program ends: a sample for each image.

    A sample has the label in ``ground_truth``, the point in ``embedding``, its findings in
    ``findings`` (a classification each: the kind, the confidence, and the attributes ``proposal``,
    ``copy_of`` and ``reason``), and a tag for each kind. Findings on files that are not among the
    images are left out.

    Args:
        found: the review.
        name: of the dataset.
        overwrite: replace the dataset of this name.
        progress: called with (done, total) samples.

    Returns:
        how many images have names that FiftyOne cannot store, and are left out.

    Raises:
        MissingExtraError, InputError: as `require`; also where the images have no paths.
    """
    require(name, overwrite=overwrite)
    images = found.collection
    if images.paths is None:
        raise InputError("expected images with paths, got points alone. FiftyOne shows image files")
    paths, labels = images.paths, images.labels or [""] * len(images)
    by_path: dict[str, list[Finding]] = {}
    for one in found.findings:
        by_path.setdefault(one.path, []).append(one)
    stored = [place for place, path in enumerate(paths) if _is_text(path)]
    with _opened() as fo:
        dataset = fo.Dataset(name, persistent=True, overwrite=overwrite)
        for start in range(0, len(stored), _AT_ONCE):
            some = stored[start : start + _AT_ONCE]
            dataset.add_samples([
                _sample(fo, paths[place], labels[place], images.points[place],
                        by_path.get(paths[place], ()))
                for place in some
            ])  # fmt: skip
            if progress:
                progress(start + len(some), len(stored))
    return len(paths) - len(stored)


def _sample(
    fo: ModuleType, path: str, label: str, point: np.ndarray, findings: Sequence[Finding]
) -> Any:
    fields: dict[str, Any] = {"embedding": point}
    if label:
        fields["ground_truth"] = fo.Classification(label=label)
    if findings:
        fields["findings"] = fo.Classifications(
            classifications=[
                fo.Classification(label=one.kind, confidence=one.confidence, **_told(one))
                for one in findings
            ]
        )
    tags = list(dict.fromkeys(one.kind for one in findings))
    return fo.Sample(filepath=path, tags=tags, **fields)


def _told(one: Finding) -> dict[str, str]:
    """What else is said of a finding, of what is not empty."""
    told = {"proposal": one.proposal, "copy_of": one.of, "reason": one.reason}
    return {name: text for name, text in told.items() if text and _is_text(text)}


@contextlib.contextmanager
def _opened() -> Iterator[ModuleType]:
    """FiftyOne, whose words go to stderr: stdout is for data."""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            import fiftyone

            fiftyone.config.show_progress_bars = False
            yield fiftyone
    except (InputError, KeyboardInterrupt):
        raise
    except Exception as error:  # of FiftyOne and of its database, which share no base but this
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"FiftyOne cannot write the dataset ({reason[:200]})") from error


def _is_text(path: str) -> bool:
    """Whether a name can be stored: those of files may hold bytes that are no text."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True
