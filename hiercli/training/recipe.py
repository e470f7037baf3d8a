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


def _setting(default: Any, doc: str, choices: tuple[str, ...] = ()) -> Any:
    return field(default=default, metadata={"doc": doc, "choices": choices})


@dataclass(frozen=True)
class Recipe:
    """All settings of a run. Each field is also a flag of `hier train`, which overrides it."""

    backbone: str = _setting("tf_efficientnet_lite0", "timm model to fine-tune")
    weights: str = _setting("auto", "auto, hub, none (random), or the path of a state dict")
    pooling: str = _setting("", "global pooling: avg, avgmax, token, gem; empty: the model's own")
    embedding_dim: int = _setting(128, "dimensions of the ball")
    c: float = _setting(0.1, "curvature magnitude (the space has curvature -c)")
    clip_radius: float = _setting(2.3, "longest tangent vector kept")
    head_init: str = _setting(
        "orthogonal",
        "first weights of the head: random orthogonal, or the principal directions of pretrained "
        "features",
        ("orthogonal", "pca"),
    )
    head_whitening: float = _setting(
        0.0, "how far a pca head evens out the spread of its directions, 0 to 1"
    )
    learned_radius: bool = _setting(
        False, "let the head give direction and length of a tangent vector separately"
    )
    initial_radius: float = _setting(
        0.0, "mean tangent length of the photos at the start; 0: what the head gives"
    )
    train_size: int = _setting(224, "side of the training crops in pixels")
    eval_size: int = _setting(224, "side of the centre crop at evaluation and in serving, pixels")
    eval_crop_share: float = _setting(0.875, "share of the short side that this crop covers")
    crop_scale_min: float = _setting(0.2, "smallest area of a random training crop, 0 to 1")

    loss: str = _setting(
        "proxy-anchor",
        "metric loss",
        ("proxy-anchor", "multi-similarity", "soft-triple", "proxy-nca", "supcon", "triplet"),
    )
    class_proxy_init: str = _setting(
        "random",
        "first places of the class proxies of proxy-anchor and proxy-nca: at random, or the means "
        "of the classes under pretrained features",
        ("random", "mean"),
    )
    hier_weight: float = _setting(0.5, "weight of HIER beside the metric loss; 0 switches it off")
    num_proxies: int = _setting(512, "hierarchical proxies")
    temperature: float = _setting(0.1, "tau of HIER's ancestor draws")
    margin: float = _setting(0.1, "margin of HIER's hinge")
    proxy_init: str = _setting(
        "random",
        "first places of hierarchical proxies: at random, or the nodes of the training classes' "
        "tree under pretrained features",
        ("random", "tree"),
    )
    freeze_proxies: bool = _setting(False, "leave hierarchical proxies where they start")
    num_neighbours: int = _setting(20, "neighbours that HIER examines for reciprocity")
    triplets_per_anchor: int = _setting(50, "HIER triplets drawn for each photo and each proxy")

    relation_weight: float = _setting(
        0.0, "weight of keeping the pretrained relations between classes; 0 switches it off"
    )
    relation_temperature: float = _setting(0.1, "temperature of those relations")

    epochs: int = _setting(100, "passes over the training images; 0: only the start, untrained")
    batch_size: int = _setting(180, "photos a step")
    samples_per_class: int = _setting(2, "photos of each class in a batch")
    lr: float = _setting(1e-4, "learning rate of the backbone for a batch of 180, scaled linearly")
    head_lr_factor: float = _setting(1.0, "learning rate of the head over the backbone's")
    proxy_lr_factor: float = _setting(50.0, "learning rate of hierarchical proxies, likewise")
    radius_lr_factor: float = _setting(1.0, "learning rate of the learned radius, likewise")
    class_proxy_lr_factor: float = _setting(1e4, "learning rate of the loss's proxies, likewise")
    weight_decay: float = _setting(1e-2, "AdamW weight decay")
    adam_eps: float = _setting(1e-8, "AdamW epsilon")
    warmup_epochs: int = _setting(1, "epochs in which the backbone is held still")
    schedule: str = _setting("constant", "learning rate over time", ("constant", "step", "cosine"))
    lr_step: int = _setting(10, "epochs between two cuts, with --schedule step")
    lr_decay: float = _setting(0.5, "factor of each cut, with --schedule step")
    freeze_batch_norm: bool = _setting(False, "keep the statistics of batch normalisation")
    gradient_clip: float = _setting(10.0, "largest absolute gradient value; 0 does not clip")
    ema_decay: float = _setting(0.0, "decay a step of the averaged weights; 0 switches it off")
    patience: int = _setting(0, "epochs without a better validation before stopping; 0: never")

    published_faults: bool = _setting(
        False, "repeat what the published code does amiss, as the paper recipes do"
    )
    validation_share: float = _setting(0.15, "share of training classes held out to choose by")
    seed: int = _setting(0, "seed of everything random")
    precision: str = _setting(
        "auto", "arithmetic of the backbone", ("auto", "fp32", "bf16", "fp16")
    )
    device: str = _setting("auto", "auto, cpu, cuda, or cuda:1 and so on")
    processes: int = _setting(1, "processes that train together, one a GPU where there are some")
    workers: int = _setting(2, "processes that decode pictures; 0 decodes in the main one")
    cache: str = _setting(
        "none",
        "keep decoded pictures in memory (ram), or on the training device and crop them there",
        ("none", "ram", "device"),
    )
    checkpoint_minutes: float = _setting(5.0, "minutes between two saves within an epoch")

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
                f"expected a batch_size that samples_per_class divides, got {self.batch_size} and "
                f"{self.samples_per_class}"
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
            f"recipe {name}: no setting is called {', '.join(unknown)[:200]}. "
            f"Known settings: {', '.join(sorted(known))}"
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
