"""The folder of a run: its name, what marks it as one, its metrics, whose settings it holds."""

import contextlib
import itertools
from pathlib import Path
from typing import Any

from hiercli.errors import InputError, TrainingError
from hiercli.files import parse_json, read_text
from hiercli.training.recipe import Recipe, load


def numbered_folder(parent: Path, name: str) -> Path:
    """The first of ``name-001``, ``name-002``, ... that ``parent`` does not have."""
    safe = "".join(char if char.isalnum() else "-" for char in Path(name).stem) or "run"
    numbered = (parent / f"{safe}-{number:03d}" for number in itertools.count(1))
    return next(path for path in numbered if not path.exists())


def is_run(folder: Path) -> bool:
    """Whether ``folder`` was made by `trainer.train`, so that ``--overwrite`` may remove it."""
    try:
        load(str(folder / "config.toml"))
    except InputError:
        return False
    return (folder / "metrics.jsonl").is_file()


_LONGEST_NAME = 100
"""Signs of a metric's name: a plot takes minutes to draw a text of thousands."""


def read_metrics(file: Path) -> list[dict[str, Any]]:
    """The whole lines of a ``metrics.jsonl``; a kill or a full disk can leave half of one."""
    rows = []
    for line in read_text(file).splitlines():
        with contextlib.suppress(ValueError):
            row = parse_json(line)
            if isinstance(row, dict) and isinstance(row.get("epoch"), int):
                rows.append(
                    {k: value for k, value in row.items()
                     if isinstance(value, int | float) and len(k) <= _LONGEST_NAME}
                )  # fmt: skip
    return rows


def require_same_settings(out: Path, recipe: Recipe) -> None:
    """Check that the run in ``out`` was started with ``recipe``, but for what changes no result.

    Raises:
        TrainingError: it names the settings that differ.
    """
    ignored = ("device", "workers", "processes", "checkpoint_minutes")
    earlier, now = load(str(out / "config.toml")).to_dict(), recipe.to_dict()
    pairs = [(key, earlier[group][key], now[group][key]) for group in now for key in now[group]]
    changed = [
        f"{key} {str(before)[:60]} -> {str(value)[:60]}"
        for key, before, value in pairs
        if key not in ignored
        and before != value
        # Crops are the same with and without images in memory, but not on the device.
        and (key != "cache" or "device" in (value, before))
    ]
    if changed:
        raise TrainingError(
            f"{out} cannot be resumed: it was started with other settings ({'; '.join(changed)}). "
            "Use the same settings, or start a new run with another --out"
        )
