"""A run's losses, validation and use of the space as one picture."""

from pathlib import Path
from typing import Any

from hiercli.files import replacing

_SHARES = ("lca_deeper", "dead_proxies")
_LENGTHS = ("photo_radius", "proxy_radius")
_PERCENT = ("validation_recall@1", "validation_map@r")
_UNSEEN = (
    "effective_rank", "photo_radius_spread", "proxy_radius_spread", "validation_severity",
)  # fmt: skip


def draw(rows: list[dict[str, Any]], target: Path) -> None:
    """Plot the lines of ``metrics.jsonl``, one an epoch, to a PNG."""
    from matplotlib.figure import Figure

    epochs = [row["epoch"] for row in rows]
    # Some are only there from a later epoch on.
    keys = [key for key in dict.fromkeys(key for row in rows for key in row) if key != "epoch"]
    agreement = [
        key for key in keys if key.startswith("validation_") and key not in (*_PERCENT, *_UNSEEN)
    ]
    elsewhere = (*_SHARES, *_LENGTHS, *_PERCENT, *agreement, *_UNSEEN)
    panels = (
        ("Training losses", "loss", [key for key in keys if key not in elsewhere]),
        ("Held-out training classes", "percent", _PERCENT),
        ("Hierarchy", "share or correlation", (*_SHARES, *agreement)),
        ("Norm", "mean norm in the ball", _LENGTHS),
    )
    figure = Figure(figsize=(11, 7), layout="constrained")
    for axes, (title, unit, wanted) in zip(figure.subplots(2, 2).flat, panels, strict=True):
        for key in keys:
            if key in wanted:
                label = key.removeprefix("validation_").replace("_", " ")
                axes.plot(epochs, [row.get(key) for row in rows], "o-", markersize=3, label=label)
        axes.set(title=title, xlabel="epoch", ylabel=unit)
        axes.grid(alpha=0.3)
        if unit == "loss":
            axes.set_yscale("symlog", linthresh=0.1)  # a metric loss is many times the others
        axes.xaxis.get_major_locator().set_params(integer=True)
        if axes.has_data():
            # Below the panel: many lines, some of them level, would run under it.
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=4, fontsize=8)
    with replacing(target) as draft:
        figure.savefig(draft, dpi=110, format="png")
