"""A judgement as one picture: each score of the encoder beside its controls."""

from pathlib import Path

from hiercli.evaluation.judgement import COLUMNS, LOWER_IS_BETTER, Judgement
from hiercli.files import replacing

_COLOURS = dict(zip(COLUMNS, ("#0072b2", "#999999", "#009e73", "#d55e00"), strict=True))
_MARKS = dict(zip(COLUMNS, ("o", "s", "D", "x"), strict=True))


def draw(judgement: Judgement, target: Path, title: str) -> None:
    """Write a PNG with a line a score; every mark has its own shape and colour."""
    from matplotlib.figure import Figure

    names = judgement.names[::-1]
    severe = max(1.0, *(scores.get("severity", 0.0) for scores in judgement.columns.values()))
    figure = Figure(figsize=(8.5, 0.36 * len(names) + 1.7), layout="constrained")
    axes = figure.subplots()
    for column, scores in judgement.columns.items():
        shown = [(scores[name] / (severe if name == "severity" else 1), place)
                 for place, name in enumerate(names) if name in scores]  # fmt: skip
        if shown:
            axes.plot(
                *zip(*shown, strict=True), _MARKS[column], color=_COLOURS[column], label=column,
                markersize=8 if column == COLUMNS[0] else 6, zorder=3 - (column != COLUMNS[0]),
            )  # fmt: skip
    labels = {"severity": f"severity, of {severe:.2g}"}
    axes.set_yticks(
        range(len(names)),
        [labels.get(name, name) + (" (lower is better)" if name in LOWER_IS_BETTER else "")
         for name in names],
    )  # fmt: skip
    axes.set(title=title, xlim=(min(0.0, axes.get_xlim()[0]), 1.02), xlabel="score")
    axes.grid(alpha=0.3)
    axes.legend(loc="upper center", bbox_to_anchor=(0.4, -0.9 / (0.36 * len(names) + 1)), ncols=4)
    with replacing(target) as draft:
        figure.savefig(draft, dpi=110, format="png")
