"""A run's losses and validation recall as one picture."""

import json
from pathlib import Path

from hiercli.files import replacing


def draw(metrics: Path, target: Path) -> None:
    """Plot ``metrics.jsonl`` (one row an epoch) to a PNG: losses left, validation right."""
    from matplotlib.figure import Figure

    rows = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    epochs = [row["epoch"] for row in rows]
    figure = Figure(figsize=(10, 4), layout="constrained")
    losses, recall = figure.subplots(1, 2)
    for key in rows[0] if rows else ():
        if key == "epoch" or key.endswith("radius"):
            continue
        axes = recall if key.startswith("validation") else losses
        label = key.removeprefix("validation_")
        axes.plot(epochs, [row[key] for row in rows], marker="o", markersize=3, label=label)
    for axes, title, unit in (
        (losses, "Training losses", "loss"),
        (recall, "Held-out training classes", "percent"),
    ):
        axes.set(title=title, xlabel="epoch", ylabel=unit)
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
        if axes.has_data():
            axes.legend()
    with replacing(target) as draft:
        figure.savefig(draft, dpi=120, format="png")
