"""The settings of a training run in groups: each with its default, what it does, and its bounds."""

import dataclasses
import math
import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hiercli.bounds import (
    MAX_CLIP_RADIUS,
    MAX_CURVATURE,
    MAX_DIM,
    MAX_SIZE,
    MIN_CROP_SHARE,
    MIN_CURVATURE,
)
from hiercli.errors import InputError


def _setting(default: Any, doc: str, **bounds: Any) -> Any:
    """A field; ``bounds`` are ``choices``, ``least``, ``most``, ``above`` and ``below``."""
    return field(default=default, metadata={"doc": doc, "choices": (), **bounds})


class Group:
    """Settings that belong together, checked against the bounds that stand beside each."""

    def __post_init__(self) -> None:
        for setting in dataclasses.fields(self):  # type: ignore[arg-type]
            _check(setting, getattr(self, setting.name))


@dataclass(frozen=True)
class Data(Group):
    """What is learned from, and in what batches."""

    train_size: int = _setting(
        224, "Crop training images to this side, in pixels", least=16, most=MAX_SIZE
    )
    crop_scale_min: float = _setting(
        0.2, "Crop at least this share of a training image, 0 to 1", least=MIN_CROP_SHARE, most=1
    )
    batch_size: int = _setting(180, "Use batches of this many images", least=4, most=10**6)
    samples_per_class: int = _setting(2, "Draw this many images of each class in a batch", least=2)
    validation_share: float = _setting(
        0.15,
        "Hold out this share of the training classes to choose the best epoch (0: none)",
        least=0,
        below=1,
    )
    seeded_sampler: bool = _setting(
        True, "Draw the classes of a batch by the seed (off: as the published code does)"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_size % self.samples_per_class:
            raise InputError(
                "expected a batch_size that is a multiple of samples_per_class, got "
                f"{self.batch_size} and {self.samples_per_class}"
            )


@dataclass(frozen=True)
class Run(Group):
    """How long it takes, and what is kept."""

    epochs: int = _setting(100, "Train for this many epochs (0: no training)", least=0, most=10**6)
    patience: int = _setting(
        0, "Stop after this many epochs without a better validation score (0: never)", least=0
    )
    interpolate: bool = _setting(
        False,
        "Mix the weights of start and end by the share that scores best on the held-out classes",
    )
    seed: int = _setting(0, "Use this random seed", least=0, below=2**63)
    checkpoint_minutes: float = _setting(
        5.0, "Save a checkpoint after this many minutes within an epoch", above=0
    )


@dataclass(frozen=True)
class Model(Group):
    """The encoder."""

    backbone: str = _setting("tf_efficientnet_lite0", "Fine-tune this timm model")
    weights: str = _setting(
        "auto", "Start from these weights: auto, hub, none (random), or a state dict"
    )
    pooling: str = _setting(
        "",
        "Pool features by avg, avgmax, token or gem (auto: gem in place of avg; empty: as the "
        "model does)",
    )
    embedding_dim: int = _setting(128, "Embed in this many dimensions", least=2, most=MAX_DIM)
    c: float = _setting(
        0.1,
        "Set the curvature magnitude c (the space has curvature -c)",
        least=MIN_CURVATURE,
        most=MAX_CURVATURE,
    )
    clip_radius: float = _setting(
        2.3,
        "Clip the embedding norm to this value before mapping to hyperbolic space",
        above=0,
        most=MAX_CLIP_RADIUS,
    )
    head_init: str = _setting(
        "orthogonal",
        "Initialise the head at random, or from the principal directions of pretrained features",
        choices=("orthogonal", "pca"),
    )
    head_whitening: float = _setting(
        0.0,
        "Whiten the principal directions of a pca head, 0 (not at all) to 1 (fully)",
        least=0,
        most=1,
    )
    learned_radius: bool = _setting(False, "Let the head learn direction and norm separately")
    image_depth: bool = _setting(
        False,
        "Place unclear and unusual images nearer the origin, after the last epoch (only with "
        "--learned-radius)",
    )
    initial_radius: float = _setting(
        0.0, "Scale embeddings to this mean norm at the start (0: do not scale)", least=0
    )
    eval_size: int = _setting(
        224,
        "Crop images to this side for evaluation and serving, in pixels",
        least=16,
        most=MAX_SIZE,
    )
    eval_crop_share: float = _setting(
        0.875,
        "Crop this share of the short side for evaluation and serving",
        least=MIN_CROP_SHARE,
        most=1,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image_depth and not self.learned_radius:
            raise InputError(
                "image_depth needs learned_radius. Use --learned-radius or --no-image-depth"
            )
        if self.initial_radius >= self.clip_radius:
            raise _refused(
                "initial_radius",
                f"below the clip_radius of {self.clip_radius}",
                self.initial_radius,
            )


@dataclass(frozen=True)
class Loss(Group):
    """What is minimised beside HIER."""

    loss: str = _setting(
        "proxy-anchor",
        "Use this metric loss",
        choices=(
            "proxy-anchor",
            "multi-similarity",
            "soft-triple",
            "proxy-nca",
            "supcon",
            "triplet",
        ),
    )
    class_proxy_init: str = _setting(
        "random",
        "Place the class proxies of proxy-anchor and proxy-nca at random or at class means",
        choices=("random", "mean"),
    )
    relation_weight: float = _setting(
        0.0, "Give the loss on pretrained relations between classes this weight (0: off)", least=0
    )
    relation_temperature: float = _setting(
        0.1, "Set the temperature of the pretrained relations", above=0
    )
    level_weight: float = _setting(
        0.0, "Give the loss on known levels above the classes this weight (0: off)", least=0
    )
    level_loss: str = _setting(
        "proxies",
        "Learn levels by a proxy for each group, or by ranking relatives before others",
        choices=("proxies", "ranking"),
    )
    half_precision_loss: bool = _setting(
        False, "Compute the metric loss in the backbone's precision, as the published code does"
    )


@dataclass(frozen=True)
class Hierarchy(Group):
    """HIER and its proxies."""

    hier_weight: float = _setting(0.5, "Give the HIER loss this weight (0: off)", least=0)
    num_proxies: int = _setting(512, "Use this many hierarchical proxies", least=4, most=10**6)
    temperature: float = _setting(0.1, "Set the temperature tau of HIER's ancestor draws", above=0)
    margin: float = _setting(0.1, "Set the margin of HIER's hinge", least=0)
    proxy_init: str = _setting(
        "random",
        "Place hierarchical proxies at random, or at the nodes of a tree of the training classes",
        choices=("random", "tree"),
    )
    freeze_proxies: bool = _setting(False, "Keep hierarchical proxies where they start")
    num_neighbours: int = _setting(
        20,
        "Search for reciprocal neighbours among this many nearest neighbours",
        least=1,
        most=10**6,
    )
    triplets_per_anchor: int = _setting(
        50, "Draw this many HIER triplets for each image and each proxy", least=1, most=10**6
    )
    self_neighbours: bool = _setting(
        False,
        "Let HIER count a point among its own neighbours and negatives, as the published code does",
    )
    own_ancestors: bool = _setting(
        False, "Let a hierarchical proxy be its own ancestor, as the published code does"
    )


@dataclass(frozen=True)
class Optimiser(Group):
    """How the weights move."""

    lr: float = _setting(
        0.0001,
        "Set the learning rate of the backbone for a batch of 180 (scaled linearly to other sizes)",
        above=0,
    )
    head_lr_factor: float = _setting(
        1.0, "Multiply the learning rate by this factor for the head", least=0
    )
    proxy_lr_factor: float = _setting(
        50.0, "Multiply the learning rate by this factor for hierarchical proxies", least=0
    )
    radius_lr_factor: float = _setting(
        1.0, "Multiply the learning rate by this factor for the learned norm", least=0
    )
    class_proxy_lr_factor: float = _setting(
        10000.0,
        "Multiply the learning rate by this factor for the proxies of the metric loss",
        least=0,
    )
    weight_decay: float = _setting(0.01, "Set the weight decay of AdamW", least=0)
    adam_eps: float = _setting(1e-08, "Set the epsilon of AdamW", above=0)
    warmup_epochs: int = _setting(1, "Freeze the backbone for this many epochs", least=0)
    schedule: str = _setting(
        "constant", "Use this learning rate schedule", choices=("constant", "step", "cosine")
    )
    lr_step: int = _setting(
        10, "Cut the learning rate after this many epochs, with --schedule step", least=1
    )
    lr_decay: float = _setting(
        0.5, "Multiply the learning rate by this factor at each cut, with --schedule step", least=0
    )
    freeze_batch_norm: bool = _setting(False, "Freeze the statistics of batch normalisation")
    freeze_share: float = _setting(
        0.0,
        "Keep this share of the pretrained backbone's layers as they are, from its input on",
        least=0,
        most=1,
    )
    layer_decay: float = _setting(
        1.0,
        "Multiply the learning rate of each layer by this factor for each layer above it",
        above=0,
        most=1,
    )
    gradient_clip: float = _setting(10.0, "Clip gradients to this absolute value (0: off)", least=0)
    ema_decay: float = _setting(
        0.0, "Average the weights with this decay per step (0: off)", least=0, below=1
    )
    gradients_divided_twice: bool = _setting(
        False,
        "Divide the encoder's gradients once too often among processes, as the published code does",
    )


@dataclass(frozen=True)
class Machine(Group):
    """Where it runs, and how exactly it computes."""

    precision: str = _setting(
        "auto", "Compute the backbone in this precision", choices=("auto", "fp32", "bf16", "fp16")
    )
    device: str = _setting("auto", "Train on this device: auto, cpu, cuda or cuda:N")
    processes: int = _setting(1, "Train in this many processes, one per GPU", least=1, most=1024)
    workers: int = _setting(
        2, "Decode images in this many processes (0: in the main process)", least=0, most=1024
    )
    cache: str = _setting(
        "none",
        "Keep decoded images in memory (ram), or on the training device and crop them there",
        choices=("none", "ram", "device"),
    )


def _check(setting: "dataclasses.Field[Any]", value: Any) -> None:
    name, kind, bounds = setting.name, type(setting.default), setting.metadata
    fits = isinstance(value, (int, float) if kind is float else kind)
    if fits and isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"expected {name} to be a finite number, got {value}")
    if not fits or (isinstance(value, bool) and kind is not bool):
        raise InputError(f"expected {name} to be of type {kind.__name__}, got {repr(value)[:80]}")
    if bounds["choices"] and value not in bounds["choices"]:
        raise _refused(name, f"one of {', '.join(bounds['choices'])}", value)
    for word, wrong in _WRONG.items():
        if word in bounds and wrong(value, bounds[word]):
            raise _refused(name, _expected(bounds), value)


_WRONG: dict[str, Callable[[Any, Any], bool]] = {
    "least": operator.lt, "most": operator.gt, "above": operator.le, "below": operator.ge,
}  # fmt: skip
_WORDS = {"least": "at least", "above": "above", "most": "at most", "below": "below"}


def _expected(bounds: Any) -> str:
    return " and ".join(
        f"{_WORDS[word]} {_number(bounds[word])}" for word in _WORDS if word in bounds
    )


def _number(bound: float) -> str:
    return "2^63" if bound == 2**63 else f"{bound:.10g}"


def _refused(name: str, expected: str, value: Any) -> InputError:
    return InputError(f"expected {name} to be {expected}, got {value!r}")
