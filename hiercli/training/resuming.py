"""Going on with a run that was broken off: what is saved for it, and how it is taken up."""

import hashlib
import json
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hiercli.data.records import Record
from hiercli.errors import FileFormatError, TrainingError
from hiercli.files import open_regular, sweep, write_text
from hiercli.training import checkpoint
from hiercli.training.run_folder import read_metrics

if TYPE_CHECKING:
    from hiercli.training.trainer import Run

_FIRST_BYTES = 4096
"""Of each image, by which it is told from another of the same name and size."""
_MOST_EPOCHS = 10**6


def digest(records: Sequence[Record]) -> str:
    """By which other images under the same class names are told: name, size and first bytes."""
    found = hashlib.sha256()
    for record in records:
        with open_regular(record.path) as file:
            size = os.fstat(file.fileno()).st_size
            found.update(f"{record.label}/{record.path.name} {size}\n".encode(errors="replace"))
            found.update(file.read(_FIRST_BYTES))
    return found.hexdigest()


def state_of(run: "Run") -> dict[str, Any]:
    """All that a run cannot work out again from its recipe and its data."""
    return {
        "epoch": run.epoch,
        "step": run.step,
        "best": run.best,
        "best_epoch": run.best_epoch,
        "totals": run.totals,
        "problems": run.judge.problems,
        "images": run.images,
        "device": run.device.type,
        "objective": run.objective.state_dict(),
        "recent": run.recent,
        "averaged": [part.state_dict() for part in run.averaged],
        "optimizer": run.optimizer.state_dict(),
        "scaler": run.scaler.state_dict(),
        "generator": run.generator.get_state(),
        "torch_rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore(run: "Run") -> None:
    """Put a run back where its ``last.pt`` was saved.

    Raises:
        TrainingError: it was started with other data, on another device, or by an older version.
        FileFormatError: ``last.pt`` is damaged.
    """
    if run.world.is_main:
        sweep(run.out)
    content = checkpoint.read(run.out / "last.pt")
    state = content.progress
    if content.class_names != run.names or state is None:
        raise TrainingError(
            f"{run.out} cannot be resumed: it was started with other classes. Use the same "
            "data, or start a new run with another --out"
        )
    averages = run.recipe.optimiser.ema_decay > 0
    if "images" not in state or (averages and content.version < 3):
        raise TrainingError(
            f"{run.out} cannot be resumed: it was started by an older version of hier. Its "
            "best.pt can still be used. Start a new run with another --out"
        )
    if state["images"] != run.images:
        raise TrainingError(
            f"{run.out} cannot be resumed: it was started with other images of these "
            "classes. Use the same data, or start a new run with another --out"
        )
    try:
        _take_up(run, content, state)
    except (
        KeyError, TypeError, ValueError, RuntimeError, AttributeError, IndexError, OverflowError
    ) as error:  # fmt: skip
        raise FileFormatError(
            f"{run.out / 'last.pt'} is incomplete or damaged ({str(error).strip()[:200]}). "
            "Start a new run with another --out"
        ) from error


def _take_up(run: "Run", content: checkpoint.Checkpoint, state: dict[str, Any]) -> None:
    if state["device"] != run.device.type:
        raise TrainingError(
            f"{run.out} cannot be resumed on {run.device.type}: it was started on "
            f"{state['device']}, which has another random generator. Use --device "
            f"{state['device']}, or start a new run with another --out"
        )
    run.embedder.load_state_dict(content.model)
    run.objective.load_state_dict(state["objective"])
    run.recent = [(x.to(run.device), y.to(run.device)) for x, y in state["recent"]]
    for points, labels in run.recent:
        if points.shape != (len(labels), run.recipe.model.embedding_dim) or labels.ndim != 1:
            raise ValueError(f"points of {tuple(points.shape)} in the last batches")
    for part, averaged in zip(run.averaged, state["averaged"], strict=True):
        part.load_state_dict(averaged)
    # Its settings are the recipe's: only what it has learned of the weights is taken up.
    settings = run.optimizer.state_dict()["param_groups"]
    run.optimizer.load_state_dict({"state": state["optimizer"]["state"], "param_groups": settings})
    _check_optimizer(run)
    run.scaler.load_state_dict(state["scaler"])
    run.generator.set_state(state["generator"])
    torch.set_rng_state(state["torch_rng"])
    if state["cuda_rng"] and len(state["cuda_rng"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda_rng"])
    run.epoch, run.step, run.best_epoch = (
        int(state[name]) for name in ("epoch", "step", "best_epoch")
    )
    run.best = float(state["best"])
    run.totals = {str(name): float(value) for name, value in state["totals"].items()}
    if not (0 <= run.epoch <= _MOST_EPOCHS and 0 <= run.step <= len(run.sampler)):
        raise ValueError(f"epoch {run.epoch}, step {run.step}")
    run.judge.note(state["problems"])
    if run.world.is_main:
        # A kill can fall between the line of an epoch and its checkpoint.
        lines = read_metrics(run.out / "metrics.jsonl")
        kept = [json.dumps(row) + "\n" for row in lines if row["epoch"] <= run.epoch]
        write_text(run.out / "metrics.jsonl", "".join(kept))


def _check_optimizer(run: "Run") -> None:
    """Raise ValueError where AdamW would miss something of a weight that it has moved."""
    for weight, known in run.optimizer.state.items():
        means = [known.get(name) for name in ("exp_avg", "exp_avg_sq")]
        sound = all(isinstance(x, Tensor) and x.shape == weight.shape for x in means)
        step = known.get("step")
        if (
            not sound
            or set(known) != {"exp_avg", "exp_avg_sq", "step"}
            or (not isinstance(step, Tensor) or step.numel() != 1 or not step.is_floating_point())
        ):
            raise ValueError("the state of the optimizer does not match the weights")
