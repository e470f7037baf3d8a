"""The training loop: deterministic by seed, resumable at any moment, judged on held-out classes."""

import contextlib
import json
import math
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.tensorboard import SummaryWriter

from hiercli.data.records import (
    Dataset,
    Record,
    class_ids,
    class_names,
    group_ids,
    require_answers,
    split_validation,
)
from hiercli.errors import DataError, ImageError, TrainingError
from hiercli.files import write_text
from hiercli.images import probe
from hiercli.losses.hier import HierLoss
from hiercli.memory import keep_freed_memory
from hiercli.nn.embedder import Embedder
from hiercli.training import checkpoint, schedule
from hiercli.training.averaging import averaged
from hiercli.training.concluding import Result, conclude
from hiercli.training.device import choose_device, choose_precision
from hiercli.training.distributed import World
from hiercli.training.feed import Feed, Turns
from hiercli.training.interpolating import Weights, start_of
from hiercli.training.judging import Judge
from hiercli.training.objective import Objective, collapse, watch
from hiercli.training.recipe import Recipe, dump
from hiercli.training.reporter import Reporter, Silence
from hiercli.training.resuming import digest, restore, state_of
from hiercli.training.run_folder import is_run, require_same_settings
from hiercli.training.sampler import ClassBalancedSampler
from hiercli.training.starting import start_from_known
from hiercli.wording import counted

_WATCHED_BATCHES = 8
"""Batches at the end of an epoch from which its signs of health are read."""


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
    run = Run(recipe, dataset, out, reporter if world.is_main else Silence(), world)
    if going_on:
        restore(run)
    elif world.is_main:
        if taken:
            shutil.rmtree(out)
        run.begin()
    return run.finish()


def _counted(records: Sequence[Record], note: str = "") -> str:
    classes = counted(len(class_names(records)), "class", "classes")
    return f"{classes}{note}, {counted(len(records), 'image')}"


class Run:
    """One run's moving parts. What is not in `state_of` is rebuilt from recipe and data."""

    def __init__(
        self, recipe: Recipe, dataset: Dataset, out: Path, reporter: Reporter, world: World
    ) -> None:
        self.recipe, self.dataset, self.out, self.reporter = recipe, dataset, out, reporter
        self.world = world
        self.device = choose_device(recipe.machine.device)
        self.judge = Judge(recipe, dataset, self.device, world, reporter)
        group_counts = self._take(dataset)
        self.sampler = ClassBalancedSampler(
            self._piles(),
            batch_size=recipe.data.batch_size,
            samples_per_class=recipe.data.samples_per_class,
            seed=recipe.run.seed if recipe.data.seeded_sampler else 0,
        )
        torch.manual_seed(recipe.run.seed)
        self.embedder, self.preprocessing = checkpoint.new_embedder(recipe)
        self.judge.preprocessing = self.preprocessing
        self.dtype = choose_precision(recipe.machine.precision, self.device, self.embedder.backbone)
        if self.device.type == "cpu":
            keep_freed_memory()
        schedule.freeze(recipe, self.embedder)
        self.embedder.to(self.device).to(memory_format=torch.channels_last)
        self.objective = Objective(recipe, len(self.names), group_counts).to(self.device)
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
            recipe, self.embedder, self.objective, self.judge, self.training, self.labels,
            self.groups,
        )  # fmt: skip
        self.start: Weights | None = None
        if recipe.run.interpolate and self.validation:
            self.start = start_of(self.embedder, self.objective.hier)
        # Encoder and proxies belong together, so both are averaged.
        self.averaged: tuple[AveragedModel, ...] = ()
        if recipe.optimiser.ema_decay:
            decay = recipe.optimiser.ema_decay
            self.averaged = averaged(self.embedder, decay), averaged(self.objective.hier, decay)
        self.optimizer = schedule.optimizer(
            recipe, self.embedder, self.objective, self.sampler.batch_size
        )
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)
        self.generator = torch.Generator(self.device).manual_seed(recipe.run.seed)
        self.epoch, self.step = 0, 0
        self.best, self.best_epoch = -math.inf, 0
        self.totals: dict[str, float] = {}
        self.recent: list[tuple[Tensor, Tensor]] = []

    # -- setting up ------------------------------------------------------------------------

    def _take(self, dataset: Dataset) -> list[int]:
        """Part what is learned from and what is held out; returns the groups of each level."""
        recipe = self.recipe
        readable = self._readable(dataset.train)
        if dataset.validation:
            self.training, self.validation = readable, self._readable(dataset.validation)
        else:
            self.training, self.validation = split_validation(
                readable, recipe.data.validation_share, recipe.run.seed
            )
        self.names = class_names(self.training)
        if len(self.names) < 2:
            raise DataError(f"expected at least 2 training classes, found {len(self.names)}")
        coarse = self._coarse(dataset)
        # Images without a class are of no class but their own.
        self.labels = np.concatenate(
            [class_ids(self.training, self.names), -1 - np.arange(len(coarse))]
        )
        self.training = (*self.training, *coarse)
        self.images = digest(self.training)
        self.groups, counts = group_ids(self.training, len(dataset.level_names))
        if recipe.loss.level_weight and not any(counts):
            self.reporter.warned(
                "--level-weight has no effect: the classes have no levels. Use a table with "
                "columns of levels, or --nested"
            )
        return counts

    def _coarse(self, dataset: Dataset) -> tuple[Record, ...]:
        """The images of which only groups are known, where these are learned from."""
        if not dataset.coarse or self.recipe.loss.level_weight:
            return self._readable(dataset.coarse)
        self.reporter.warned(
            f"{counted(len(dataset.coarse), 'image')} without a label ignored. Use --level-weight "
            "to train on their groups"
        )
        return ()

    def _piles(self) -> np.ndarray:
        """What batches are balanced by (N,): the class of each image, or else its group."""
        piles, numbers = self.labels.copy(), dict[tuple[str, ...], int]()
        for place in np.flatnonzero(piles < 0):
            levels = self.training[place].levels
            piles[place] = len(self.names) + numbers.setdefault(levels, len(numbers))
        return piles

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

    # -- what is saved -------------------------------------------------------------

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
            class_points=torch.empty(0, self.recipe.model.embedding_dim),
            progress=state_of(self) if to_go_on else None,
        )

    def _save_to_go_on(self) -> None:
        self._save("last.pt", self.embedder, self.objective.hier, to_go_on=True)

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
            while self.epoch < self.recipe.run.epochs and not self._out_of_patience():
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
            if not self.recipe.run.epochs:
                self._validate()
                self._save_to_go_on()
        return conclude(self)

    def _counts(self) -> dict[str, str]:
        """How many classes and images train, validate and test, and the batch that comes of it."""
        tested = (*self.dataset.query, *(self.dataset.gallery or ()))
        size, wanted = self.sampler.batch_size, self.recipe.data.batch_size
        held = "" if self.dataset.validation else ", held out"
        return {
            "train": self._learned(),
            "validate": _counted(self.validation, held)
            if self.validation else "none, so the last epoch is chosen",
            "test": _counted(tested) if tested else "nothing",
            "batch": f"{size} images, {self.recipe.data.samples_per_class} of each class"
            + (f" ({wanted} were asked for, of {len(self.names)} classes)"
               if size < wanted else ""),
        }  # fmt: skip

    def _learned(self) -> str:
        known = [r for r in self.training if r.label]
        coarse = len(self.training) - len(known)
        return _counted(known) + (f"; {coarse} without a label, by their groups" if coarse else "")

    def _out_of_patience(self) -> bool:
        waited = self.epoch - self.best_epoch
        return (
            0 < self.recipe.run.patience <= waited
            and self.epoch > self.recipe.optimiser.warmup_epochs
        )

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
            if time.monotonic() - saved > 60 * self.recipe.run.checkpoint_minutes:
                self._save_to_go_on()
                saved = time.monotonic()
        row: dict[str, Any] = {"epoch": self.epoch + 1}
        row |= {key: value / num_batches for key, value in self.totals.items()}
        row |= watch(
            self.objective.hier, self.recent, self.generator, self.recipe.hierarchy.hier_weight > 0
        )
        self.recent = []
        for problems in self.world.collect(self.judge.problems):
            self.judge.note(problems)
        self.epoch, self.step = self.epoch + 1, 0
        return row | self._validate()

    def _set_training_mode(self) -> None:
        self.embedder.train()
        for module in self.embedder.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and (
                self.recipe.optimiser.freeze_batch_norm or not module.weight.requires_grad
            ):
                module.eval()

    def _one_step(self, images: Tensor, batch: Sequence[int]) -> dict[str, float]:
        """One step from this process's ``images`` of the ``batch``; returns the loss's parts."""
        recipe = self.recipe
        images = images.to(self.device, memory_format=torch.channels_last)
        labels = torch.from_numpy(self.labels[batch]).to(self.device)
        groups = torch.from_numpy(self.groups[batch]).to(self.device)
        known = None if self.known is None else self.known[batch].to(self.device)
        held = self.epoch < recipe.optimiser.warmup_epochs
        low_precision = self.dtype != torch.float32
        with (
            torch.autocast(self.device.type, self.dtype, enabled=low_precision),
            torch.no_grad() if held else contextlib.nullcontext(),
        ):
            features = self.embedder.features(images)
        points = self.embedder.to_poincare(self.embedder.tangent(features))
        points = self.world.gather(points, divided_twice=recipe.optimiser.gradients_divided_twice)
        loss, parts = self.objective(points, labels, known, self.generator, self.dtype, groups)
        values = {name: part.item() for name, part in parts.items()}
        if not math.isfinite(loss.item()):
            raise TrainingError(self._diverged(f"the loss became {loss.item()} ({values})"))
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        for group in self.optimizer.param_groups:
            self.world.average_gradients(group["params"])
        if recipe.optimiser.gradient_clip:
            self.scaler.unscale_(self.optimizer)
            for group in self.optimizer.param_groups:
                moving = [weight for weight in group["params"] if weight.grad is not None]
                if moving:  # a backbone held still has no gradients at all
                    nn.utils.clip_grad_value_(moving, recipe.optimiser.gradient_clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if not recipe.optimiser.freeze_batch_norm:
            self.world.average_buffers(self.embedder)
        if self.averaged:
            for part, live in zip(self.averaged, (self.embedder, self.objective.hier), strict=True):
                part.update_parameters(live)
        self.recent = [*self.recent[1 - _WATCHED_BATCHES :], (points.detach(), labels)]
        return values

    def _diverged(self, what: str) -> str:
        last = self.out / "last.pt"
        return (
            f"{what} in epoch {self.epoch + 1}, step {self.step + 1}. Lower --lr"
            + ("" if self.recipe.machine.precision == "fp32" else ", or use --precision fp32")
            + (f"; {last} is the last valid state" if last.exists() else "")
        )

    # -- judging ---------------------------------------------------------------------------

    def _validate(self) -> dict[str, float]:
        """Score the held-out training classes and keep the best; without any, keep the last."""
        embedder, hier = self.embedder, self.objective.hier
        if self.averaged:
            embedder, hier = (cast(Any, part.module) for part in self.averaged)
        scores = self.judge.validate(embedder, self.validation) if self.validation else {}
        # MAP@R moves in smaller steps than Recall@1, so it tells better from good.
        value = scores.get("validation_map@r", float(self.epoch))
        if value > self.best:
            self.best, self.best_epoch = value, self.epoch
            self._save("best.pt", embedder, hier, to_go_on=False)
        return scores
