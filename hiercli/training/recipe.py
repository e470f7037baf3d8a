"""Recipes: every setting of a training run, named, documented and checked in one place."""

import dataclasses
import difflib
import math
import tomllib
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from hiercli.bounds import (
    MAX_CLIP_RADIUS,
    MAX_CURVATURE,
    MAX_DIM,
    MAX_SIZE,
    MIN_CROP_SHARE,
    MIN_CURVATURE,
    is_curvature,
)
from hiercli.errors import InputError
from hiercli.files import read_text

DEFAULT = "hier"
_LARGEST_FILE = 2**15
"""Bytes of a recipe."""


GROUPS = ("Data", "Run", "Model", "Loss", "Hierarchy", "Optimiser", "Machine")
"""Headings of the settings, in the order in which they are shown."""


def _setting(default: Any, doc: str, group: str, choices: tuple[str, ...] = ()) -> Any:
    return field(default=default, metadata={"doc": doc, "group": group, "choices": choices})


@dataclass(frozen=True)
class Recipe:
    """All settings of a run. Each field is also a flag of `hier train`, which overrides it."""

    backbone: str = _setting("tf_efficientnet_lite0", "Fine-tune this timm model", "Model")
    weights: str = _setting(
        "auto", "Start from these weights: auto, hub, none (random), or a state dict", "Model"
    )
    pooling: str = _setting(
        "", "Pool features by avg, avgmax, token or gem (empty: as the model does)", "Model"
    )
    embedding_dim: int = _setting(128, "Embed in this many dimensions", "Model")
    c: float = _setting(0.1, "Set the curvature magnitude c (the space has curvature -c)", "Model")
    clip_radius: float = _setting(
        2.3, "Clip the embedding norm to this value before mapping to hyperbolic space", "Model"
    )
    head_init: str = _setting(
        "orthogonal",
        "Initialise the head at random, or from the principal directions of pretrained features",
        "Model",
        ("orthogonal", "pca"),
    )
    head_whitening: float = _setting(
        0.0, "Whiten the principal directions of a pca head, 0 (not at all) to 1 (fully)", "Model"
    )
    learned_radius: bool = _setting(
        False, "Let the head learn direction and norm separately", "Model"
    )
    initial_radius: float = _setting(
        0.0, "Scale embeddings to this mean norm at the start (0: do not scale)", "Model"
    )
    train_size: int = _setting(224, "Crop training images to this side, in pixels", "Data")
    eval_size: int = _setting(
        224, "Crop images to this side for evaluation and serving, in pixels", "Model"
    )
    eval_crop_share: float = _setting(
        0.875, "Crop this share of the short side for evaluation and serving", "Model"
    )
    crop_scale_min: float = _setting(
        0.2, "Crop at least this share of a training image, 0 to 1", "Data"
    )
    loss: str = _setting(
        "proxy-anchor",
        "Use this metric loss",
        "Loss",
        ("proxy-anchor", "multi-similarity", "soft-triple", "proxy-nca", "supcon", "triplet"),
    )
    class_proxy_init: str = _setting(
        "random",
        "Place the class proxies of proxy-anchor and proxy-nca at random or at class means",
        "Loss",
        ("random", "mean"),
    )
    hier_weight: float = _setting(0.5, "Give the HIER loss this weight (0: off)", "Hierarchy")
    num_proxies: int = _setting(512, "Use this many hierarchical proxies", "Hierarchy")
    temperature: float = _setting(
        0.1, "Set the temperature tau of HIER's ancestor draws", "Hierarchy"
    )
    margin: float = _setting(0.1, "Set the margin of HIER's hinge", "Hierarchy")
    proxy_init: str = _setting(
        "random",
        "Place hierarchical proxies at random, or at the nodes of a tree of the training classes",
        "Hierarchy",
        ("random", "tree"),
    )
    freeze_proxies: bool = _setting(
        False, "Keep hierarchical proxies where they start", "Hierarchy"
    )
    num_neighbours: int = _setting(
        20, "Search for reciprocal neighbours among this many nearest neighbours", "Hierarchy"
    )
    triplets_per_anchor: int = _setting(
        50, "Draw this many HIER triplets for each image and each proxy", "Hierarchy"
    )
    relation_weight: float = _setting(
        0.0, "Give the loss on pretrained relations between classes this weight (0: off)", "Loss"
    )
    relation_temperature: float = _setting(
        0.1, "Set the temperature of the pretrained relations", "Loss"
    )
    epochs: int = _setting(100, "Train for this many epochs (0: no training)", "Run")
    batch_size: int = _setting(180, "Use batches of this many images", "Data")
    samples_per_class: int = _setting(2, "Draw this many images of each class in a batch", "Data")
    lr: float = _setting(
        0.0001,
        "Set the learning rate of the backbone for a batch of 180 (scaled linearly to other sizes)",
        "Optimiser",
    )
    head_lr_factor: float = _setting(
        1.0, "Multiply the learning rate by this factor for the head", "Optimiser"
    )
    proxy_lr_factor: float = _setting(
        50.0, "Multiply the learning rate by this factor for hierarchical proxies", "Optimiser"
    )
    radius_lr_factor: float = _setting(
        1.0, "Multiply the learning rate by this factor for the learned norm", "Optimiser"
    )
    class_proxy_lr_factor: float = _setting(
        10000.0,
        "Multiply the learning rate by this factor for the proxies of the metric loss",
        "Optimiser",
    )
    weight_decay: float = _setting(0.01, "Set the weight decay of AdamW", "Optimiser")
    adam_eps: float = _setting(1e-08, "Set the epsilon of AdamW", "Optimiser")
    warmup_epochs: int = _setting(1, "Freeze the backbone for this many epochs", "Optimiser")
    schedule: str = _setting(
        "constant",
        "Use this learning rate schedule",
        "Optimiser",
        ("constant", "step", "cosine"),
    )
    lr_step: int = _setting(
        10, "Cut the learning rate after this many epochs, with --schedule step", "Optimiser"
    )
    lr_decay: float = _setting(
        0.5,
        "Multiply the learning rate by this factor at each cut, with --schedule step",
        "Optimiser",
    )
    freeze_batch_norm: bool = _setting(
        False, "Freeze the statistics of batch normalisation", "Optimiser"
    )
    gradient_clip: float = _setting(
        10.0, "Clip gradients to this absolute value (0: off)", "Optimiser"
    )
    ema_decay: float = _setting(
        0.0, "Average the weights with this decay per step (0: off)", "Optimiser"
    )
    patience: int = _setting(
        0, "Stop after this many epochs without a better validation score (0: never)", "Run"
    )
    published_faults: bool = _setting(False, "Reproduce known bugs of the original code", "Run")
    validation_share: float = _setting(
        0.15,
        "Hold out this share of the training classes to choose the best epoch (0: none)",
        "Data",
    )
    seed: int = _setting(0, "Use this random seed", "Run")
    precision: str = _setting(
        "auto",
        "Compute the backbone in this precision",
        "Machine",
        ("auto", "fp32", "bf16", "fp16"),
    )
    device: str = _setting("auto", "Train on this device: auto, cpu, cuda or cuda:N", "Machine")
    processes: int = _setting(1, "Train in this many processes, one per GPU", "Machine")
    workers: int = _setting(
        2, "Decode images in this many processes (0: in the main process)", "Machine"
    )
    cache: str = _setting(
        "none",
        "Keep decoded images in memory (ram), or on the training device and crop them there",
        "Machine",
        ("none", "ram", "device"),
    )
    checkpoint_minutes: float = _setting(
        5.0, "Save a checkpoint after this many minutes within an epoch", "Run"
    )

    def __post_init__(self) -> None:
        for setting in dataclasses.fields(self):
            _check_type(setting.name, getattr(self, setting.name), type(setting.default))
            choices = setting.metadata["choices"]
            if choices and getattr(self, setting.name) not in choices:
                raise _refused(setting.name, f"one of {', '.join(choices)}", self)
        for name in ("c", "clip_radius", "lr", "temperature", "relation_temperature", "adam_eps",
                     "checkpoint_minutes"):  # fmt: skip
            if not getattr(self, name) > 0:
                raise _refused(name, "a number above 0", self)
        for name, least in _LEAST.items():
            if not getattr(self, name) >= least:
                raise _refused(name, f"at least {least}", self)
        for name, most in _MOST.items():
            if not getattr(self, name) <= most:
                raise _refused(name, f"at most {most:g}", self)
        if not is_curvature(self.c):
            raise _refused("c", f"between {MIN_CURVATURE:g} and {MAX_CURVATURE:g}", self)
        for name in ("eval_crop_share", "crop_scale_min"):
            if not MIN_CROP_SHARE <= getattr(self, name) <= 1:
                raise _refused(name, f"a share of {MIN_CROP_SHARE} to 1", self)
        if not 0 <= self.head_whitening <= 1:
            raise _refused("head_whitening", "between 0 and 1", self)
        for name in ("validation_share", "ema_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise _refused(name, "at least 0 and below 1", self)
        if self.initial_radius >= self.clip_radius:
            raise _refused("initial_radius", f"below the clip_radius of {self.clip_radius}", self)
        if self.seed >= 2**63:
            raise _refused("seed", "below 2^63", self)
        if self.batch_size % self.samples_per_class:
            raise InputError(
                "expected a batch_size that is a multiple of samples_per_class, got "
                f"{self.batch_size} and {self.samples_per_class}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain values by field name."""
        return dataclasses.asdict(self)


_LEAST = {
    "embedding_dim": 2, "train_size": 16, "eval_size": 16, "hier_weight": 0, "num_proxies": 4,
    "margin": 0, "num_neighbours": 1, "triplets_per_anchor": 1, "epochs": 0, "batch_size": 4,
    "samples_per_class": 2, "head_lr_factor": 0, "proxy_lr_factor": 0, "radius_lr_factor": 0,
    "class_proxy_lr_factor": 0,
    "weight_decay": 0, "warmup_epochs": 0, "lr_step": 1, "lr_decay": 0, "gradient_clip": 0,
    "relation_weight": 0, "initial_radius": 0, "patience": 0, "workers": 0, "processes": 1,
    "seed": 0,
}  # fmt: skip

_MOST = {
    "embedding_dim": MAX_DIM, "train_size": MAX_SIZE, "eval_size": MAX_SIZE, "num_proxies": 10**6,
    "batch_size": 10**6, "clip_radius": MAX_CLIP_RADIUS, "processes": 1024, "workers": 1024,
    "epochs": 10**6, "num_neighbours": 10**6, "triplets_per_anchor": 10**6,
}  # fmt: skip


def _refused(name: str, expected: str, recipe: Recipe) -> InputError:
    return InputError(f"expected {name} to be {expected}, got {getattr(recipe, name)!r}")


def _check_type(name: str, value: Any, kind: type) -> None:
    fits = isinstance(value, (int, float) if kind is float else kind)
    if fits and isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"expected {name} to be a finite number, got {value}")
    if not fits or (isinstance(value, bool) and kind is not bool):
        raise InputError(f"expected {name} to be of type {kind.__name__}, got {repr(value)[:80]}")


def names() -> list[str]:
    """Names of the shipped recipes; ``paper/ENCODER/DATA`` is a cell of the published table."""
    found = []
    for file in _shipped().iterdir():
        if file.name.endswith(".toml"):
            name = file.name.removesuffix(".toml")
            cells = tomllib.loads(file.read_text(encoding="utf-8")).get("cell")
            if cells is None:
                found.append(name)
            else:
                found += [f"{name}/{enc}/{data}" for enc in cells for data in cells[enc]]
    return sorted(found)


def load(name: str, overrides: dict[str, Any] | None = None) -> Recipe:
    """A shipped recipe, or one from a TOML file of settings, with ``overrides`` on top.

    Args:
        name: one of `names`, or the path of a ``.toml`` file.
        overrides: settings by field name; they win.

    Raises:
        InputError: unknown recipe or setting, or a value out of range.
    """
    settings = _read(name) | (overrides or {})
    known = {setting.name for setting in dataclasses.fields(Recipe)}
    unknown = sorted(set(settings) - known)
    if unknown:
        raise InputError(
            f"recipe {name}: unknown setting {', '.join(unknown)[:200]}. Known settings: "
            f"{', '.join(sorted(known))}"
        )
    return Recipe(**settings)


def from_dict(values: dict[str, Any]) -> Recipe:
    """The recipe that `Recipe.to_dict` wrote."""
    return Recipe(**values)


def _read(name: str) -> dict[str, Any]:
    if name.endswith(".toml"):
        text = read_text(Path(name), most=_LARGEST_FILE)
        try:
            return tomllib.loads(text)
        except (ValueError, RecursionError) as error:  # numbers too long, brackets too deep
            raise InputError(f"{name} is not valid TOML: {str(error)[:200]}") from error
    if name not in names():
        known = [own for own in names() if "/" not in own]
        near = difflib.get_close_matches(name, names(), n=3)
        raise InputError(
            f"expected a recipe of {', '.join(known)}, a cell of the published table such as "
            f"paper/vit-s-384/cub (hier train --list-recipes), or a path that ends in .toml; got "
            f"{name!r}" + (f", which is close to {', '.join(near)}" if near else "")
        )
    base, *cell = name.split("/")
    settings = tomllib.loads((_shipped() / f"{base}.toml").read_text(encoding="utf-8"))
    if not cell:
        return settings
    encoder, data = cell
    common = settings["common"] | settings["encoder"][encoder]
    return dict(common | settings["data"].get(data, {}) | settings["cell"][encoder][data])


def _shipped() -> Any:
    return resources.files("hiercli.training") / "recipes"


def dump(recipe: Recipe) -> str:
    """The recipe as TOML, each setting under the line that explains it; `load` reads it back."""
    lines = []
    for setting in dataclasses.fields(recipe):
        value = getattr(recipe, setting.name)
        text = str(value).lower() if isinstance(value, bool) else repr(value)
        if isinstance(value, str):
            text = '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
        lines += [f"# {setting.metadata['doc']}", f"{setting.name} = {text}", ""]
    return "\n".join(lines)
