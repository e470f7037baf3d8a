"""The training loop: deterministic by seed, resumable at any moment, judged on held-out classes."""

import contextlib
import copy
import dataclasses
import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from hiercli.data.records import (
    Dataset,
    Record,
    class_ids,
    class_names,
    require_answers,
    split_validation,
)
from hiercli.errors import DataError, FileFormatError, ImageError, TrainingError
from hiercli.evaluation.retrieval import RetrievalScores
from hiercli.files import open_regular, sweep, write_text
from hiercli.geometry import poincare
from hiercli.images import probe
from hiercli.losses.hier import HierLoss
from hiercli.memory import keep_freed_memory
from hiercli.nn.embedder import Embedder
from hiercli.reports import curves
from hiercli.training import checkpoint, schedule
from hiercli.training.device import choose_device, choose_precision
from hiercli.training.distributed import World
from hiercli.training.feed import Feed, Turns
from hiercli.training.judging import Judge
from hiercli.training.objective import Objective, collapse, watch
from hiercli.training.recipe import Recipe, dump
from hiercli.training.reporter import Reporter, Silence
from hiercli.training.run_folder import is_run, read_metrics, require_same_settings
from hiercli.training.sampler import ClassBalancedSampler
from hiercli.training.starting import start_from_known

_WATCHED_BATCHES = 8
"""Batches at the end of an epoch from which its signs of health are read."""
_FIRST_BYTES = 4096
"""Of each image, by which it is told from another of the same name and size."""


@dataclasses.dataclass(frozen=True)
class Result:
    """How a run ended.

    Attributes:
        out: its folder.
        test: scores of the test classes under the best checkpoint, by name; empty without any.
        best_epoch: the epoch whose weights ``best.pt`` holds.
        chosen_by: why that one, in words.
        familiar: classes of the test part that were trained on, so that they are not unseen.
        problems: photographs that could not be read, with the reason.
        retrieval: the retrieval scores among ``test`` in full; ``None`` without any.
    """

    out: Path
    test: dict[str, float]
    best_epoch: int
    chosen_by: str
    familiar: list[str]
    problems: list[str]
    retrieval: RetrievalScores | None = None


def train(
    recipe: Recipe,
    dataset: Dataset,
    out: Path,
    reporter: Reporter,
    *,
    resume: bool = False,
    overwrite: bool = False,
    world: World = World(),
) -> Result:
    """Train an encoder into the folder ``out``.

    On a CPU the process keeps memory that it frees from here on (`keep_freed_memory`).

    Args:
        recipe: all settings.
        dataset: its ``train`` part is learned from, its test part scored once at the end.
        out: the run's folder; it must be new or empty unless ``resume``.
        reporter: told of progress.
        resume: go on from ``out/last.pt``, with the same result as an unbroken run; a run that
            was killed before its first save starts over.
        overwrite: replace the run in ``out``; nothing else is ever replaced.
        world: the processes that train together; the result is theirs in common.

    Raises:
        DataError: too few classes or photographs, or a test part that cannot be scored.
        TrainingError: the folder is taken, another recipe is in it, or the loss is not finite.
    """
    if resume and overwrite:
        raise TrainingError(
            "expected --resume or --overwrite, got both. --resume keeps the run, --overwrite "
            "replaces it"
        )
    if out.exists() and not out.is_dir():
        raise TrainingError(f"expected a folder for the run, but {out} is a file. Name a folder")
    taken = world.same(out.exists() and any(out.iterdir()))
    if taken and not (resume or overwrite):
        raise TrainingError(
            f"the run folder {out} is not empty. Resume the run with --resume, replace it with "
            "--overwrite, or name another folder with --out"
        )
    if taken and not is_run(out):
        raise TrainingError(
            f"{out} is not the folder of a run, so --overwrite does not replace it. Name another "
            "folder"
        )
    require_answers(dataset)
    going_on = world.same(resume and (out / "last.pt").exists())
    if going_on:
        require_same_settings(out, recipe)
    run = _Run(recipe, dataset, out, reporter if world.is_main else Silence(), world)
    if going_on:
        run.restore()
    elif world.is_main:
        if taken:
            shutil.rmtree(out)
        run.begin()
    return run.finish()


def _digest(records: Sequence[Record]) -> str:
    """By which other images under the same class names are told: name, size and first bytes."""
    digest = hashlib.sha256()
    for record in records:
        with open_regular(record.path) as file:
            size = os.fstat(file.fileno()).st_size
            digest.update(f"{record.label}/{record.path.name} {size}\n".encode(errors="replace"))
            digest.update(file.read(_FIRST_BYTES))
    return digest.hexdigest()


class _Run:
    """One run's moving parts. What is not in `_progress` is rebuilt from recipe and data."""

    def __init__(
        self, recipe: Recipe, dataset: Dataset, out: Path, reporter: Reporter, world: World
    ) -> None:
        self.recipe, self.dataset, self.out, self.reporter = recipe, dataset, out, reporter
        self.world = world
        self.device = choose_device(recipe.device)
        self.judge = Judge(recipe, dataset, self.device, world, reporter)
        readable = self._readable(dataset.train)
        if dataset.validation:
            self.training, self.validation = readable, self._readable(dataset.validation)
        else:
            self.training, self.validation = split_validation(
                readable, recipe.validation_share, recipe.seed
            )
        self.names = class_names(self.training)
        if len(self.names) < 2:
            raise DataError(f"expected at least 2 training classes, found {len(self.names)}")
        self.labels = class_ids(self.training, self.names)
        self.images = _digest(self.training)
        self.sampler = ClassBalancedSampler(
            self.labels,
            batch_size=recipe.batch_size,
            samples_per_class=recipe.samples_per_class,
            # The published sampler orders classes the same way whatever the seed.
            seed=0 if recipe.published_faults else recipe.seed,
        )
        torch.manual_seed(recipe.seed)
        self.embedder, self.preprocessing = checkpoint.new_embedder(recipe)
        self.judge.preprocessing = self.preprocessing
        self.dtype = choose_precision(recipe.precision, self.device, self.embedder.backbone)
        if self.device.type == "cpu":
            keep_freed_memory()
        self.embedder.to(self.device).to(memory_format=torch.channels_last)
        self.objective = Objective(recipe, len(self.names)).to(self.device)
        self.feed = Feed(
            recipe,
            self.training,
            self.preprocessing,
            self.sampler,
            device=self.device,
            world=world,
            progress=reporter.judged,
        )
        self.known = start_from_known(
            recipe, self.embedder, self.objective, self.judge, self.training, self.labels
        )
        # Encoder and proxies belong together, so both are averaged.
        self.averaged = None
        if recipe.ema_decay:
            self.averaged = copy.deepcopy((self.embedder.eval(), self.objective.hier))
        self.optimizer = schedule.optimizer(
            recipe, self.embedder, self.objective, self.sampler.batch_size
        )
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)
        self.generator = torch.Generator(self.device).manual_seed(recipe.seed)
        self.epoch, self.step = 0, 0
        self.best, self.best_epoch = -math.inf, 0
        self.totals: dict[str, float] = {}
        self.recent: list[tuple[Tensor, Tensor]] = []

    # -- setting up ------------------------------------------------------------------------

    def _readable(self, records: Sequence[Record]) -> tuple[Record, ...]:
        """Leave out, with a word, what cannot even be opened; damage further in is found later."""
        good = []
        for record in records:
            try:
                probe(record.path)
            except ImageError as error:
                self.judge.note([str(error)])
            else:
                good.append(record)
        return tuple(good)

    def begin(self) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        write_text(self.out / "config.toml", dump(self.recipe))
        (self.out / "metrics.jsonl").write_text("")

    # -- going on after a kill -------------------------------------------------------------

    def _progress(self) -> dict[str, Any]:
        return {
            "epoch": self.epoch,
            "step": self.step,
            "best": self.best,
            "best_epoch": self.best_epoch,
            "totals": self.totals,
            "problems": self.judge.problems,
            "images": self.images,
            "device": self.device.type,
            "objective": self.objective.state_dict(),
            "recent": self.recent,
            "averaged": [part.state_dict() for part in self.averaged or ()],
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "generator": self.generator.get_state(),
            "torch_rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }

    def _save(self, name: str, embedder: Embedder, hier: HierLoss, *, to_go_on: bool) -> None:
        if not self.world.is_main:
            return
        with torch.no_grad():
            proxies = hier.proxy_points()
        checkpoint.save(
            self.out / name,
            embedder=embedder,
            preprocessing=self.preprocessing,
            recipe=self.recipe,
            proxies=proxies,
            class_names=self.names,
            class_points=torch.empty(0, self.recipe.embedding_dim),
            progress=self._progress() if to_go_on else None,
        )

    def _save_to_go_on(self) -> None:
        self._save("last.pt", self.embedder, self.objective.hier, to_go_on=True)

    def restore(self) -> None:
        if self.world.is_main:
            sweep(self.out)
        content = checkpoint.read(self.out / "last.pt")
        state = content.progress
        if content.class_names != self.names or state is None:
            raise TrainingError(
                f"{self.out} cannot be resumed: it was started with other classes. Use the same "
                "data, or start a new run with another --out"
            )
        if "images" not in state:
            raise TrainingError(
                f"{self.out} cannot be resumed: it was started by an older version of hier. Its "
                "best.pt can still be used. Start a new run with another --out"
            )
        if state["images"] != self.images:
            raise TrainingError(
                f"{self.out} cannot be resumed: it was started with other images of these "
                "classes. Use the same data, or start a new run with another --out"
            )
        try:
            self._take_up(content, state)
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:
            raise FileFormatError(
                f"{self.out / 'last.pt'} is incomplete or damaged ({str(error).strip()[:200]}). "
                "Start a new run with another --out"
            ) from error

    def _take_up(self, content: checkpoint.Checkpoint, state: dict[str, Any]) -> None:
        if state["device"] != self.device.type:
            raise TrainingError(
                f"{self.out} cannot be resumed on {self.device.type}: it was started on "
                f"{state['device']}, which has another random generator. Use --device "
                f"{state['device']}, or start a new run with another --out"
            )
        self.embedder.load_state_dict(content.model)
        self.objective.load_state_dict(state["objective"])
        self.recent = [(x.to(self.device), y.to(self.device)) for x, y in state["recent"]]
        for points, labels in self.recent:
            if points.shape != (len(labels), self.recipe.embedding_dim) or labels.ndim != 1:
                raise ValueError(f"points of {tuple(points.shape)} in the last batches")
        for part, averaged in zip(self.averaged or (), state["averaged"], strict=True):
            part.load_state_dict(averaged)
        # Its settings are the recipe's: only what it has learned of the weights is taken up.
        settings = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict(
            {"state": state["optimizer"]["state"], "param_groups": settings}
        )
        self._check_optimizer()
        self.scaler.load_state_dict(state["scaler"])
        self.generator.set_state(state["generator"])
        torch.set_rng_state(state["torch_rng"])
        if state["cuda_rng"] and len(state["cuda_rng"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["cuda_rng"])
        self.epoch, self.step, self.best_epoch = (
            int(state[name]) for name in ("epoch", "step", "best_epoch")
        )
        self.best = float(state["best"])
        self.totals = {str(name): float(value) for name, value in state["totals"].items()}
        if not (self.epoch >= 0 and 0 <= self.step <= len(self.sampler)):
            raise ValueError(f"epoch {self.epoch}, step {self.step}")
        self.judge.note(state["problems"])
        if self.world.is_main:
            # A kill can fall between the line of an epoch and its checkpoint.
            lines = read_metrics(self.out / "metrics.jsonl")
            kept = [json.dumps(row) + "\n" for row in lines if row["epoch"] <= self.epoch]
            write_text(self.out / "metrics.jsonl", "".join(kept))

    def _check_optimizer(self) -> None:
        """Raise ValueError where AdamW would miss something of a weight that it has moved."""
        for weight, known in self.optimizer.state.items():
            means = [known.get(name) for name in ("exp_avg", "exp_avg_sq")]
            sound = all(isinstance(x, Tensor) and x.shape == weight.shape for x in means)
            step = known.get("step")
            if (
                not sound
                or set(known) != {"exp_avg", "exp_avg_sq", "step"}
                or (not isinstance(step, Tensor) or step.numel() != 1)
            ):
                raise ValueError("the state of the optimizer does not match the weights")

    # -- the loop --------------------------------------------------------------------------

    def finish(self) -> Result:
        self.reporter.started(
            {
                "out": str(self.out),
                "data": self.dataset.name,
                **self._counts(),
                "device": f"{self.device.type}, {str(self.dtype).removeprefix('torch.')}"
                + (f", {self.world.size} processes" if self.world.size > 1 else ""),
                "resumed at epoch": self.epoch,
            }
        )
        with contextlib.ExitStack() as leaving:
            turns = leaving.enter_context(
                contextlib.closing(self.feed.batches(self.epoch, self.step))
            )
            if self.world.is_main:
                board = SummaryWriter(str(self.out / "tensorboard"), purge_step=self.epoch + 1)
                leaving.callback(board.close)
            while self.epoch < self.recipe.epochs and not self._out_of_patience():
                row = self._one_epoch(turns)
                if self.world.is_main:
                    for key, value in row.items():
                        board.add_scalar(key, value, row["epoch"])
                    with open(self.out / "metrics.jsonl", "a", encoding="utf-8") as lines:
                        lines.write(json.dumps(row) + "\n")
                self._save_to_go_on()
                self.reporter.finished_epoch(row)
                if warning := collapse(row, self.recipe):
                    self.reporter.warned(warning)
            if not self.recipe.epochs:
                self._validate()
                self._save_to_go_on()
        return self._conclude()

    def _counts(self) -> dict[str, str]:
        """How many classes and images train, validate and test, and the batch that comes of it."""
        tested = (*self.dataset.query, *(self.dataset.gallery or ()))
        size, wanted = self.sampler.batch_size, self.recipe.batch_size
        held = "" if self.dataset.validation else ", held out"
        return {
            "train": f"{len(self.names)} classes, {len(self.training)} images",
            "validate": f"{len(class_names(self.validation))} classes{held}, "
            f"{len(self.validation)} images"
            if self.validation else "none, so the last epoch is chosen",
            "test": f"{len(class_names(tested))} classes, {len(tested)} images"
            if tested else "nothing",
            "batch": f"{size} images, {self.recipe.samples_per_class} of each class"
            + (f" (not {wanted}: there are {len(self.names)} classes)" if size < wanted else ""),
        }  # fmt: skip

    def _out_of_patience(self) -> bool:
        waited = self.epoch - self.best_epoch
        return 0 < self.recipe.patience <= waited and self.epoch > self.recipe.warmup_epochs

    def _one_epoch(self, turns: Turns) -> dict[str, Any]:
        self._set_training_mode()
        schedule.set_learning_rates(self.optimizer, self.recipe, self.epoch)
        num_batches = len(self.sampler)
        if self.step == 0:
            self.totals = {}
        started = saved = time.monotonic()
        seen = 0
        while self.step < num_batches:
            batch, images, reasons = next(turns)
            values = self._one_step(images, batch)
            self.judge.note(reasons)
            self.step += 1
            seen += len(batch)
            for key, value in values.items():
                self.totals[key] = self.totals.get(key, 0.0) + value
            rate = {"images/s": seen / (time.monotonic() - started)}
            self.reporter.stepped(self.epoch + 1, self.step, num_batches, values | rate)
            if time.monotonic() - saved > 60 * self.recipe.checkpoint_minutes:
                self._save_to_go_on()
                saved = time.monotonic()
        row: dict[str, Any] = {"epoch": self.epoch + 1}
        row |= {key: value / num_batches for key, value in self.totals.items()}
        row |= watch(self.objective.hier, self.recent, self.generator, self.recipe.hier_weight > 0)
        self.recent = []
        for problems in self.world.collect(self.judge.problems):
            self.judge.note(problems)
        self.epoch, self.step = self.epoch + 1, 0
        return row | self._validate()

    def _set_training_mode(self) -> None:
        self.embedder.train()
        # The published switch, given as "False", was a non-empty text and so meant yes.
        if self.recipe.freeze_batch_norm or self.recipe.published_faults:
            for module in self.embedder.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()

    def _one_step(self, images: Tensor, batch: Sequence[int]) -> dict[str, float]:
        """One step from this process's ``images`` of the ``batch``; returns the loss's parts."""
        recipe = self.recipe
        images = images.to(self.device, memory_format=torch.channels_last)
        labels = torch.from_numpy(self.labels[batch]).to(self.device)
        known = None if self.known is None else self.known[batch].to(self.device)
        held = self.epoch < recipe.warmup_epochs
        low_precision = self.dtype != torch.float32
        with (
            torch.autocast(self.device.type, self.dtype, enabled=low_precision),
            torch.no_grad() if held else contextlib.nullcontext(),
        ):
            features = self.embedder.features(images)
        points = self.embedder.to_poincare(self.embedder.tangent(features))
        points = self.world.gather(points, published_faults=recipe.published_faults)
        loss, parts = self.objective(points, labels, known, self.generator, self.dtype)
        values = {name: part.item() for name, part in parts.items()}
        if not math.isfinite(loss.item()):
            raise TrainingError(self._diverged(f"the loss became {loss.item()} ({values})"))
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        for group in self.optimizer.param_groups:
            self.world.average_gradients(group["params"])
        if recipe.gradient_clip:
            self.scaler.unscale_(self.optimizer)
            for group in self.optimizer.param_groups:
                moving = [weight for weight in group["params"] if weight.grad is not None]
                if moving:  # a backbone held still has no gradients at all
                    nn.utils.clip_grad_value_(moving, recipe.gradient_clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if not recipe.freeze_batch_norm:
            self.world.average_buffers(self.embedder)
        if self.averaged:
            self._average()
        self.recent = [*self.recent[1 - _WATCHED_BATCHES :], (points.detach(), labels)]
        return values

    def _diverged(self, what: str) -> str:
        last = self.out / "last.pt"
        return (
            f"{what} in epoch {self.epoch + 1}, step {self.step + 1}. Lower --lr"
            + ("" if self.recipe.precision == "fp32" else ", or use --precision fp32")
            + (f"; {last} is the last valid state" if last.exists() else "")
        )

    @torch.no_grad()
    def _average(self) -> None:
        assert self.averaged is not None
        for part, live in zip(self.averaged, (self.embedder, self.objective.hier), strict=True):
            own, others = part.state_dict().values(), live.state_dict().values()
            for kept, new in zip(own, others, strict=True):
                if kept.is_floating_point():
                    kept.lerp_(new, 1 - self.recipe.ema_decay)
                else:
                    kept.copy_(new)

    # -- judging ---------------------------------------------------------------------------

    def _validate(self) -> dict[str, float]:
        """Score the held-out training classes and keep the best; without any, keep the last."""
        embedder, hier = self.averaged or (self.embedder, self.objective.hier)
        scores = self.judge.validate(embedder, self.validation) if self.validation else {}
        # MAP@R moves in smaller steps than Recall@1, so it tells better from good.
        value = scores.get("validation_map@r", float(self.epoch))
        if value > self.best:
            self.best, self.best_epoch = value, self.epoch
            self._save("best.pt", embedder, hier, to_go_on=False)
        return scores

    def _conclude(self) -> Result:
        """Work out where the classes lie under the best weights, and score the test classes."""
        if self.world.is_main and self.recipe.epochs:
            curves.draw(read_metrics(self.out / "metrics.jsonl"), self.out / "curves.png")
        self.world.same(True)  # best.pt is there once the main process has come this far
        held = checkpoint.load(self.out / "best.pt")
        best = held.embedder.to(self.device).to(memory_format=torch.channels_last)
        if not len(held.class_points):
            self._place_classes(held)
        scores: dict[str, float] = {}
        retrieval = None
        if self.dataset.query:
            scores, retrieval = self.judge.test(best, self.out, self.best_epoch)
        tested = class_names((*self.dataset.query, *(self.dataset.gallery or ())))
        trained = {*self.names, *class_names(self.validation)}
        return Result(
            self.out,
            scores,
            self.best_epoch,
            self._chosen_by(),
            [name for name in tested if name in trained],
            self.judge.problems,
            retrieval,
        )

    def _chosen_by(self) -> str:
        if not self.recipe.epochs:
            return "untrained"
        return "highest validation MAP@R" if self.validation else "the last epoch, no validation"

    def _place_classes(self, held: checkpoint.Trained) -> None:
        """Write into ``best.pt`` the midpoint of each class's images, each embedded once."""
        points, kept = self.judge.embed(held.embedder, self.training)
        if not kept:
            raise DataError(
                "no training image can be read any more. Restore the images, then resume with "
                "--resume"
            )
        labels = self.labels[kept]
        present = np.unique(labels)
        middles = [
            poincare.midpoint(points[labels == label].astype(np.float64), self.recipe.c)
            for label in present
        ]
        if self.world.is_main:
            checkpoint.save(
                self.out / "best.pt",
                embedder=held.embedder,
                preprocessing=self.preprocessing,
                recipe=self.recipe,
                proxies=held.proxies,
                class_names=[self.names[label] for label in present],
                class_points=torch.from_numpy(np.stack(middles)).float(),
            )
