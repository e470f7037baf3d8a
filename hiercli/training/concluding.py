"""The end of a run: its best weights, where its classes lie under them, and the test scores."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from hiercli.data.records import class_names
from hiercli.errors import DataError
from hiercli.evaluation.retrieval import RetrievalScores
from hiercli.geometry import poincare
from hiercli.reports import curves
from hiercli.training import checkpoint, image_depth
from hiercli.training.interpolating import choose
from hiercli.training.run_folder import read_metrics

if TYPE_CHECKING:
    from hiercli.training.trainer import Run


@dataclasses.dataclass(frozen=True)
class Result:
    """How a run ended.

    Attributes:
        out: its folder.
        test: scores of the test classes under the best checkpoint, by name; empty without any.
        best_epoch: the epoch with the best weights.
        interpolation: where the weights of ``best.pt`` lie between those of the start, 0, and those
            of that epoch, 1.
        chosen_by: why that one, in words.
        familiar: classes of the test part that were trained on, so that they are not unseen.
        problems: photographs that could not be read, with the reason.
        retrieval: the retrieval scores among ``test`` in full; ``None`` without any.
    """

    out: Path
    test: dict[str, float]
    best_epoch: int
    interpolation: float
    chosen_by: str
    familiar: list[str]
    problems: list[str]
    retrieval: RetrievalScores | None = None


def conclude(run: "Run") -> Result:
    """Work out where the classes lie under the best weights, and score the test classes."""
    if run.world.is_main and run.recipe.run.epochs:
        curves.draw(read_metrics(run.out / "metrics.jsonl"), run.out / "curves.png")
    run.world.same(True)  # best.pt is there once the main process has come this far
    held = checkpoint.load(run.out / "best.pt")
    held.embedder.to(run.device).to(memory_format=torch.channels_last)
    share = held.interpolation
    if not len(held.class_points):
        if run.start is not None and run.recipe.run.epochs:
            held, share = choose(run, run.start, held)
        if run.recipe.model.image_depth:
            image_depth.learn(run, held)
        _place_classes(run, held, share)
    scores: dict[str, float] = {}
    retrieval = None
    if run.dataset.query:
        scores, retrieval = run.judge.test(
            held.embedder, run.out, {"best_epoch": run.best_epoch, "interpolation": share}
        )
    tested = class_names((*run.dataset.query, *(run.dataset.gallery or ())))
    trained = {*run.names, *class_names(run.validation)}
    return Result(
        run.out,
        scores,
        run.best_epoch,
        share,
        _chosen_by(run, share),
        [name for name in tested if name in trained],
        run.judge.problems,
        retrieval,
    )


def _chosen_by(run: "Run", share: float) -> str:
    if not run.recipe.run.epochs:
        return "untrained"
    if not run.validation:
        return "the last epoch, no validation"
    if not share:
        return "back to the start: training did not raise the validation MAP@R"
    mixed = f", {share:.0%} of the way from the start" if share < 1 else ""
    return f"highest validation MAP@R{mixed}"


def _place_classes(run: "Run", held: checkpoint.Trained, share: float) -> None:
    """Write into ``best.pt`` the midpoint of each class's images, each embedded once."""
    known = [record for record in run.training if record.label]
    points, kept = run.judge.embed(held.embedder, known)
    if not kept:
        raise DataError(
            "no training image can be read any more. Restore the images, then resume with --resume"
        )
    labels = run.labels[kept]
    present = np.unique(labels)
    middles = [
        poincare.midpoint(points[labels == label].astype(np.float64), run.recipe.model.c)
        for label in present
    ]
    if run.world.is_main:
        checkpoint.save(
            run.out / "best.pt",
            embedder=held.embedder,
            preprocessing=run.preprocessing,
            recipe=run.recipe,
            proxies=held.proxies,
            class_names=[run.names[label] for label in present],
            class_points=torch.from_numpy(np.stack(middles)).float(),
            interpolation=share,
        )
