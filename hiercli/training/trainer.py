"""The training loop: deterministic by seed, resumable at any moment, judged on held-out classes."""

import contextlib
import copy
import dataclasses
import json
import math
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

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
from hiercli.errors import DataError, ImageError, InputError, TrainingError
from hiercli.evaluation.retrieval import score
from hiercli.files import sweep, write_text
from hiercli.geometry import lorentz, poincare
from hiercli.images import probe
from hiercli.losses import metric
from hiercli.losses.hier import HierLoss
from hiercli.nn.embedder import Embedder
from hiercli.training import checkpoint
from hiercli.training.loading import TrainingPhotos, embed_records, training_batches
from hiercli.training.recipe import Recipe, dump
from hiercli.training.recipe import load as load_recipe
from hiercli.training.sampler import ClassBalancedSampler


class Reporter(Protocol):
    """Who is told how a run is going."""

    def started(self, facts: dict[str, Any]) -> None:
        """Once, before the first step."""

    def stepped(self, epoch: int, step: int, steps: int, values: dict[str, float]) -> None:
        """After each step, with its losses and the images a second so far."""

    def judged(self, done: int, total: int) -> None:
        """While photographs are embedded for validation or test."""

    def finished_epoch(self, row: dict[str, Any]) -> None:
        """After each epoch, with its line of ``metrics.jsonl``."""


@dataclasses.dataclass(frozen=True)
class Result:
    """How a run ended.

    Attributes:
        out: its folder.
        test: scores of the test classes under the best checkpoint, by name; empty without any.
        best_epoch: the epoch whose weights ``best.pt`` holds.
        problems: photographs that could not be read, with the reason.
    """

    out: Path
    test: dict[str, float]
    best_epoch: int
    problems: list[str]


def train(
    recipe: Recipe,
    dataset: Dataset,
    out: Path,
    reporter: Reporter,
    *,
    resume: bool = False,
    overwrite: bool = False,
) -> Result:
    """Train an encoder into the folder ``out``.

    Args:
        recipe: all settings.
        dataset: its ``train`` part is learned from, its test part scored once at the end.
        out: the run's folder; it must be new or empty unless ``resume``.
        reporter: told of progress.
        resume: go on from ``out/last.pt``, with the same result as an unbroken run; a run that
            was killed before its first save starts over.
        overwrite: replace the run in ``out``; nothing else is ever replaced.

    Raises:
        DataError: too few classes or photographs, or a test part that cannot be scored.
        TrainingError: the folder is taken, another recipe is in it, or the loss is not finite.
    """
    if resume and overwrite:
        raise TrainingError("expected --resume or --overwrite, got both: one keeps, one replaces")
    if out.exists() and not out.is_dir():
        raise TrainingError(f"expected a folder for the run, but {out} is a file: name another")
    taken = out.exists() and any(out.iterdir())
    if taken and not (resume or overwrite):
        raise TrainingError(
            f"the run folder {out} is not empty. Go on with it by --resume, replace it by "
            "--overwrite, or name another with --out"
        )
    if taken and not is_run(out):
        raise TrainingError(f"{out} is not the folder of a run: it is left alone. Name another")
    require_answers(dataset)
    run = _Run(recipe, dataset, out, reporter)
    if resume and (out / "last.pt").exists():
        run.restore()
    else:
        if taken:
            shutil.rmtree(out)
        run.begin()
    return run.finish()


class _Run:
    """One run's moving parts. What is not in `_progress` is rebuilt from recipe and data."""

    def __init__(self, recipe: Recipe, dataset: Dataset, out: Path, reporter: Reporter) -> None:
        self.recipe, self.dataset, self.out, self.reporter = recipe, dataset, out, reporter
        self.device = choose_device(recipe.device)
        self.dtype = choose_precision(recipe.precision, self.device)
        self.problems = list(dataset.problems)
        readable = self._readable(dataset.train)
        self.training, self.validation = split_validation(
            readable, recipe.validation_share, recipe.seed
        )
        self.names = class_names(self.training)
        if len(self.names) < 2:
            raise DataError(f"expected 2 classes to learn from or more, found {len(self.names)}")
        self.labels = class_ids(self.training, self.names)
        self.sampler = ClassBalancedSampler(
            self.labels,
            batch_size=recipe.batch_size,
            samples_per_class=recipe.samples_per_class,
            seed=recipe.seed,
        )
        torch.manual_seed(recipe.seed)
        self.embedder, self.preprocessing = checkpoint.new_embedder(recipe)
        self.embedder.to(self.device).to(memory_format=torch.channels_last)
        self.metric = metric.create(
            recipe.loss,
            num_classes=len(self.names),
            embedding_dim=recipe.embedding_dim,
            c=recipe.c,
        ).to(self.device)
        self.hier = HierLoss(
            recipe.embedding_dim,
            recipe.num_proxies,
            c=recipe.c,
            clip_radius=recipe.clip_radius,
            temperature=recipe.temperature,
            margin=recipe.margin,
            num_neighbours=recipe.num_neighbours,
            triplets_per_anchor=recipe.triplets_per_anchor,
        ).to(self.device)
        self.averaged = copy.deepcopy(self.embedder).eval() if recipe.ema_decay else None
        self.optimizer = torch.optim.AdamW(self._parameter_groups(), eps=1e-8)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)
        self.generator = torch.Generator(self.device).manual_seed(recipe.seed)
        self.photos = TrainingPhotos(
            self.training,
            self.preprocessing,
            size=recipe.train_size,
            crop_scale_min=recipe.crop_scale_min,
            seed=recipe.seed,
        )
        self.epoch, self.step = 0, 0
        self.best, self.best_epoch = -math.inf, 0
        self.totals: dict[str, float] = {}
        self.class_sums = torch.zeros(len(self.names), recipe.embedding_dim + 1).double()
        self.class_points = torch.zeros(len(self.names), recipe.embedding_dim)

    # -- setting up ------------------------------------------------------------------------

    def _readable(self, records: Sequence[Record]) -> tuple[Record, ...]:
        """Leave out, with a word, what cannot even be opened; damage further in is found later."""
        good = []
        for record in records:
            try:
                probe(record.path)
            except ImageError as error:
                self.problems.append(str(error))
            else:
                good.append(record)
        return tuple(good)

    def _parameter_groups(self) -> list[dict[str, Any]]:
        base = self.recipe.lr * self.sampler.batch_size / 180
        factors = {
            "backbone": (self.embedder.backbone, 1.0),
            "head": (self.embedder.head, self.recipe.head_lr_factor),
            "proxies": (self.hier, self.recipe.proxy_lr_factor),
            "class_proxies": (self.metric, self.recipe.class_proxy_lr_factor),
        }
        groups = []
        for name, (module, factor) in factors.items():
            parameters = list(module.parameters())
            if parameters:
                decay = self.recipe.weight_decay
                groups.append(
                    {"params": parameters, "base_lr": base * factor, "weight_decay": decay}
                    | {"name": name, "lr": base * factor}
                )
        return groups

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
            "problems": self.problems,
            "class_sums": self.class_sums,
            "hier": self.hier.state_dict(),
            "metric": self.metric.state_dict(),
            "averaged": self.averaged.state_dict() if self.averaged else None,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "generator": self.generator.get_state(),
            "torch_rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }

    def _save(self, name: str, embedder: Embedder, progress: dict[str, Any] | None) -> None:
        with torch.no_grad():
            proxies = self.hier.proxy_points()
        checkpoint.save(
            self.out / name,
            embedder=embedder,
            preprocessing=self.preprocessing,
            recipe=self.recipe,
            proxies=proxies,
            class_names=self.names,
            class_points=self.class_points,
            progress=progress,
        )

    def restore(self) -> None:
        sweep(self.out)
        content = checkpoint.read(self.out / "last.pt")
        ignored = ("device", "workers", "checkpoint_minutes")
        changed = [
            f"{key} {content['recipe'].get(key)} -> {value}"
            for key, value in self.recipe.to_dict().items()
            if key not in ignored and content["recipe"].get(key) != value
        ]
        if changed or content["class_names"] != self.names or content["progress"] is None:
            raise TrainingError(
                f"{self.out} cannot be resumed: it was started with other "
                + (f"settings ({'; '.join(changed)})" if changed else "classes")
                + ". Give the same ones, or start anew with another --out"
            )
        state = content["progress"]
        self.embedder.load_state_dict(content["model"])
        self.class_points = content["class_points"]
        self.hier.load_state_dict(state["hier"])
        self.metric.load_state_dict(state["metric"])
        if self.averaged:
            self.averaged.load_state_dict(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.generator.set_state(state["generator"])
        torch.set_rng_state(state["torch_rng"])
        if state["cuda_rng"] and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(state["cuda_rng"])
        self.epoch, self.step = state["epoch"], state["step"]
        self.best, self.best_epoch = state["best"], state["best_epoch"]
        self.totals, self.class_sums = state["totals"], state["class_sums"]
        self._note(state["problems"])
        # A kill can fall between the line of an epoch and its checkpoint.
        lines = _rows(self.out / "metrics.jsonl")
        kept = [json.dumps(row) + "\n" for row in lines if row["epoch"] <= self.epoch]
        write_text(self.out / "metrics.jsonl", "".join(kept))

    # -- the loop --------------------------------------------------------------------------

    def finish(self) -> Result:
        self.reporter.started(
            {
                "out": str(self.out),
                "data": self.dataset.name,
                "training": f"{len(self.training)} photos of {len(self.names)} classes",
                "validation": f"{len(self.validation)} photos of "
                f"{len(class_names(self.validation))} held-out classes",
                "device": f"{self.device.type}, {str(self.dtype).removeprefix('torch.')}",
                "resumed at epoch": self.epoch,
            }
        )
        with SummaryWriter(str(self.out / "tensorboard"), purge_step=self.epoch + 1) as curves:
            while self.epoch < self.recipe.epochs and not self._out_of_patience():
                row = self._one_epoch()
                for key, value in row.items():
                    curves.add_scalar(key, value, row["epoch"])
                with open(self.out / "metrics.jsonl", "a", encoding="utf-8") as lines:
                    lines.write(json.dumps(row) + "\n")
                self._save("last.pt", self.embedder, self._progress())
                self.reporter.finished_epoch(row)
        return self._judge_test()

    def _out_of_patience(self) -> bool:
        waited = self.epoch - self.best_epoch
        return 0 < self.recipe.patience <= waited and self.epoch > self.recipe.warmup_epochs

    def _one_epoch(self) -> dict[str, Any]:
        self._set_training_mode()
        self._set_learning_rates()
        batches = list(self.sampler.batches(self.epoch))
        if self.step == 0:
            self.totals, self.class_sums = {}, torch.zeros_like(self.class_sums)
        started = saved = time.monotonic()
        seen = 0
        pixels = training_batches(
            self.photos, batches[self.step :], epoch=self.epoch, workers=self.recipe.workers
        )
        for batch, (images, reasons) in zip(batches[self.step :], pixels, strict=True):
            values = self._one_step(images, torch.from_numpy(self.labels[batch]))
            self._note(reasons)
            self.step += 1
            seen += len(batch)
            for key, value in values.items():
                self.totals[key] = self.totals.get(key, 0.0) + value
            rate = {"images/s": seen / (time.monotonic() - started)}
            self.reporter.stepped(self.epoch + 1, self.step, len(batches), values | rate)
            if time.monotonic() - saved > 60 * self.recipe.checkpoint_minutes:
                self._save("last.pt", self.embedder, self._progress())
                saved = time.monotonic()
        row: dict[str, Any] = {"epoch": self.epoch + 1}
        row |= {key: value / len(batches) for key, value in self.totals.items()}
        seen_now = self.class_sums[:, 0] > 0  # a class may have had no turn in a short epoch
        self.class_points[seen_now] = midpoints(self.class_sums[seen_now], self.recipe.c)
        self.epoch, self.step = self.epoch + 1, 0
        return row | self._validate()

    def _set_training_mode(self) -> None:
        self.embedder.train()
        if self.recipe.freeze_batch_norm:
            for module in self.embedder.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()

    def _set_learning_rates(self) -> None:
        warmup = self.recipe.warmup_epochs
        factor = 1.0
        if self.recipe.schedule == "step":
            factor = self.recipe.lr_decay ** (self.epoch // self.recipe.lr_step)
        elif self.recipe.schedule == "cosine":
            span = max(1, self.recipe.epochs - warmup)
            factor = 0.5 * (1 + math.cos(math.pi * max(0, self.epoch - warmup) / span))
        for group in self.optimizer.param_groups:
            held = group["name"] == "backbone" and self.epoch < warmup
            group["lr"] = 0.0 if held else group["base_lr"] * factor

    def _one_step(self, images: Tensor, labels: Tensor) -> dict[str, float]:
        images = images.to(self.device, memory_format=torch.channels_last, non_blocking=True)
        labels = labels.to(self.device)
        held = self.epoch < self.recipe.warmup_epochs
        with (
            torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32),
            torch.no_grad() if held else contextlib.nullcontext(),
        ):
            features = self.embedder.features(images)
        points = self.embedder.to_poincare(self.embedder.tangent(features))
        metric_loss = self.metric(points, labels)
        loss, values = metric_loss, {self.recipe.loss: metric_loss.item()}
        if self.recipe.hier_weight:
            hier_loss = self.hier(points, labels, self.generator)
            loss = loss + self.recipe.hier_weight * hier_loss
            values["hier"] = hier_loss.item()
        if not math.isfinite(loss.item()):
            raise TrainingError(self._diverged(f"the loss became {loss.item()} ({values})"))
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        if self.recipe.gradient_clip:
            self.scaler.unscale_(self.optimizer)
            for group in self.optimizer.param_groups:
                moving = [weight for weight in group["params"] if weight.grad is not None]
                if moving:  # a backbone held still has no gradients at all
                    nn.utils.clip_grad_value_(moving, self.recipe.gradient_clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.averaged:
            self._average()
        lifted = lorentz.from_poincare(points.detach().double().cpu(), self.recipe.c)
        self.class_sums.index_add_(0, labels.cpu(), lifted)
        values["photo_radius"] = points.detach().norm(dim=1).mean().item()
        values["proxy_radius"] = self.hier.proxy_points().detach().norm(dim=1).mean().item()
        return values

    def _diverged(self, what: str) -> str:
        last = self.out / "last.pt"
        return (
            f"{what} in epoch {self.epoch + 1}, step {self.step + 1}. Lower --lr"
            + ("" if self.recipe.precision == "fp32" else ", or use --precision fp32")
            + (f"; {last} holds the last good state" if last.exists() else "")
        )

    @torch.no_grad()
    def _average(self) -> None:
        assert self.averaged is not None
        for kept, new in zip(
            self.averaged.state_dict().values(), self.embedder.state_dict().values(), strict=True
        ):
            if kept.is_floating_point():
                kept.lerp_(new, 1 - self.recipe.ema_decay)
            else:
                kept.copy_(new)

    # -- judging ---------------------------------------------------------------------------

    def _validate(self) -> dict[str, float]:
        """Score the held-out training classes and keep the best; without any, keep the last."""
        judged = self.averaged or self.embedder
        scores: dict[str, float] = {}
        if self.validation:
            points, kept = self.embed(judged, self.validation)
            labels = [self.validation[index].label for index in kept]
            held_out = score(points, labels, c=self.recipe.c, recall_at=(1,))
            scores = {
                "validation_recall@1": held_out.recall_at[1],
                "validation_map@r": held_out.map_at_r,
            }
        # MAP@R moves in smaller steps than Recall@1, so it tells better from good.
        value = scores.get("validation_map@r", float(self.epoch))
        if value > self.best:
            self.best, self.best_epoch = value, self.epoch
            self._save("best.pt", judged, None)
        return scores

    def embed(self, embedder: Embedder, records: Sequence[Record]) -> tuple[np.ndarray, list[int]]:
        """Points and positions of the readable ``records``; the others are noted."""
        was_training = embedder.training
        points, kept, problems = embed_records(
            embedder.eval(),
            records,
            self.preprocessing,
            device=self.device,
            workers=self.recipe.workers,
            progress=self.reporter.judged,
        )
        embedder.train(was_training)
        if not np.isfinite(points).all():
            raise TrainingError(self._diverged("points are not finite"))
        self._note(problems)
        return points, kept

    def _note(self, problems: Sequence[str]) -> None:
        """Remember what could not be read, each once, to be reported at the end."""
        self.problems += [text for text in dict.fromkeys(problems) if text]
        self.problems = list(dict.fromkeys(self.problems))

    def _judge_test(self) -> Result:
        from hiercli.reports import curves, neighbours

        curves.draw(self.out / "metrics.jsonl", self.out / "curves.png")
        if not self.dataset.query:
            return Result(self.out, {}, self.best_epoch, self.problems)
        best = checkpoint.load(self.out / "best.pt").embedder
        best.to(self.device).to(memory_format=torch.channels_last)
        points, kept = self.embed(best, self.dataset.query)
        queries = [self.dataset.query[index] for index in kept]
        gallery, gallery_points = None, None
        if self.dataset.gallery is not None:
            gallery_points, kept = self.embed(best, self.dataset.gallery)
            gallery = [self.dataset.gallery[index] for index in kept]
        scores = score(
            points,
            [record.label for record in queries],
            gallery_points,
            None if gallery is None else [record.label for record in gallery],
            c=self.recipe.c,
            recall_at=self.dataset.recall_at,
        ).to_dict()
        result = {"dataset": self.dataset.name, "best_epoch": self.best_epoch, **scores}
        write_text(self.out / "test.json", json.dumps(result, indent=2) + "\n")
        neighbours.write(
            self.out / "neighbours.html",
            points,
            queries,
            gallery_points,
            gallery,
            c=self.recipe.c,
            title=f"{self.dataset.name}: nearest neighbours on unseen classes",
            scores=scores,
        )
        return Result(self.out, scores, self.best_epoch, self.problems)


def _rows(metrics: Path) -> list[dict[str, Any]]:
    """The whole lines of a ``metrics.jsonl``; a kill or a full disk can leave half of one."""
    rows = []
    for line in metrics.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            rows.append(json.loads(line))
    return rows


def midpoints(sums: Tensor, c: float) -> Tensor:
    """Midpoint of each class from the sum of its lifted points, (C, D+1) -> (C, D) float32."""
    centre = lorentz.centroid(sums[:, None])
    points: Tensor = poincare.project(lorentz.to_poincare(centre, c), c).float()
    return points


def choose_device(name: str) -> torch.device:
    """The device called ``name``; ``auto`` takes the GPU where there is one.

    Raises:
        TrainingError: it is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise TrainingError(
            f"expected a device of auto, cpu, cuda or cuda:N, got {name!r}"
        ) from error
    if device.type not in ("cpu", "cuda"):
        raise TrainingError(f"expected a device of auto, cpu, cuda or cuda:N, got {name!r}")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise TrainingError("no CUDA device is usable here: use --device cpu or auto")
    return device


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """Arithmetic of the backbone; ``auto`` takes bfloat16 where the hardware has it."""
    if name != "auto":
        return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[name]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    # Without these instructions bfloat16 is emulated, and slower than float32.
    fast = torch.backends.cpu.get_cpu_capability().startswith("AVX512") and _has_bf16()
    return torch.bfloat16 if fast else torch.float32


def _has_bf16() -> bool:
    try:
        return "avx512_bf16" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


def numbered_folder(parent: Path, name: str) -> Path:
    """The first of ``name-001``, ``name-002``, ... that ``parent`` does not have."""
    safe = "".join(char if char.isalnum() else "-" for char in Path(name).stem) or "run"
    return next(path for path in _numbered(parent, safe) if not path.exists())


def _numbered(parent: Path, name: str) -> Iterator[Path]:
    number = 1
    while True:
        yield parent / f"{name}-{number:03d}"
        number += 1


def is_run(folder: Path) -> bool:
    """Whether ``folder`` was made by `train`, so that ``--overwrite`` may remove it."""
    try:
        load_recipe(str(folder / "config.toml"))
    except InputError:
        return False
    return (folder / "metrics.jsonl").exists()
