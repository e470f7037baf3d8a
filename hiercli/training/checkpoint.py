"""Checkpoints: what an encoder needs to be rebuilt, and what a run needs to go on.

A checkpoint is a dictionary of tensors and plain values, written whole or not at all, and read
without running any code that a hostile file may carry.
"""

import errno
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hiercli.errors import FileFormatError, HierError, InputError
from hiercli.files import replacing
from hiercli.images import Preprocessing
from hiercli.nn import backbone, tensor_file
from hiercli.nn.embedder import Embedder, fingerprint
from hiercli.training.recipe import Recipe, from_dict

FORMAT = "hier-checkpoint"
VERSION = 3
"""2: the fingerprint tells poolings apart, and class points are those of the saved weights.
3: the settings are in groups."""


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds, checked, before a network is made of it.

    Attributes:
        version: of the format that it was written in.
        recipe: what the encoder was trained with.
        preprocessing: of its input.
        fingerprint: see `nn.embedder.fingerprint`.
        model: weights by name.
        proxies: hierarchical proxies as points of the ball, (P, D).
        class_names: training classes.
        class_points: (C, D), the midpoint of each class's training images under these weights;
            (0, D) as long as the run was not finished.
        interpolation: how far the weights were taken from those of the start to those of the best
            epoch, 0 to 1, see `interpolating`; 1 as long as the run was not finished.
        progress: what is needed to go on training; ``None`` in ``best.pt``.
    """

    version: int
    recipe: Recipe
    preprocessing: Preprocessing
    fingerprint: str
    model: Mapping[str, Tensor]
    proxies: Tensor
    class_names: list[str]
    class_points: Tensor
    interpolation: float
    progress: dict[str, Any] | None


@dataclass(frozen=True)
class Trained:
    """A trained encoder and everything that goes with it.

    Attributes:
        embedder: the network, in evaluation mode.
        preprocessing, recipe, proxies, class_names, class_points, fingerprint, interpolation: as
            of `Checkpoint`.
    """

    embedder: Embedder
    preprocessing: Preprocessing
    recipe: Recipe
    proxies: Tensor
    class_names: list[str]
    class_points: Tensor
    fingerprint: str
    interpolation: float = 1.0


def new_embedder(recipe: Recipe) -> tuple[Embedder, Preprocessing]:
    """The network that a recipe describes, with its starting weights."""
    return _build(recipe, recipe.model.weights)


def _build(recipe: Recipe, weights: str) -> tuple[Embedder, Preprocessing]:
    network = backbone.create(
        recipe.model.backbone,
        weights=weights,
        pooling=recipe.model.pooling,
        image_size=recipe.model.eval_size,
        train_size=recipe.data.train_size,
    )
    preprocessing = backbone.preprocessing(
        network, size=recipe.model.eval_size, crop_share=recipe.model.eval_crop_share
    )
    embedder = Embedder(
        network,
        num_features=backbone.num_features(network, recipe.model.eval_size),
        embedding_dim=recipe.model.embedding_dim,
        c=recipe.model.c,
        clip_radius=recipe.model.clip_radius,
        learned_radius=recipe.model.learned_radius,
    )
    return embedder, preprocessing


def save(
    path: Path,
    *,
    embedder: Embedder,
    preprocessing: Preprocessing,
    recipe: Recipe,
    proxies: Tensor,
    class_names: list[str],
    class_points: Tensor,
    interpolation: float = 1.0,
    progress: dict[str, Any] | None = None,
) -> None:
    """Write a checkpoint; ``progress`` holds what is needed to go on training.

    Raises:
        InputError: it cannot be written; an older file at ``path`` stays as it was.
    """
    content = {
        "format": FORMAT,
        "version": VERSION,
        "recipe": recipe.to_dict(),
        "preprocessing": preprocessing.to_dict(),
        "fingerprint": fingerprint(embedder, preprocessing, recipe.model.pooling),
        "model": embedder.state_dict(),
        "proxies": proxies.detach().cpu(),
        "class_names": class_names,
        "class_points": class_points.detach().cpu(),
        "interpolation": interpolation,
        "progress": progress,
    }
    with replacing(path) as draft:
        try:
            torch.save(content, draft)
        except RuntimeError as error:  # torch's writer says "file write failed", whatever the cause
            raise OSError(errno.ENOSPC, "the disk is full or not writable") from error


def read(path: Path) -> Checkpoint:
    """The content of a checkpoint, checked to be one of ours; no network is built.

    Raises:
        InputError: missing, or not a file.
        FileFormatError: damaged, hostile, another program's, or from a newer version.
    """
    if path.is_dir():
        raise InputError(f"expected a checkpoint, but {path} is a folder. Name the best.pt in it")
    content = dict(tensor_file.read(path))
    if content.get("format") != FORMAT:
        raise FileFormatError(
            f"{path}: expected a checkpoint written by `hier train`, found tensors of another "
            "program. To start from these weights, use `hier train --weights FILE`"
        )
    try:
        if type(content["version"]) is not int:
            raise ValueError(f"the version {content['version']!r:.80}")
        if content["version"] > VERSION:
            raise FileFormatError(
                f"{path} was written by a newer version of hier (format {content['version']}, "
                f"this version reads up to {VERSION}). Upgrade hiercli"
            )
        return _checked(content)
    except FileFormatError:
        raise
    except (
        KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError, RuntimeError,
        HierError,
    ) as error:  # fmt: skip
        raise FileFormatError(
            f"{path} is incomplete or damaged ({str(error)[:200]}): train again, or fetch it again"
        ) from error


def _checked(content: dict[str, Any]) -> Checkpoint:
    """Raise ValueError, or whatever a wrong type leads to, where a part is not what it can be."""
    recipe = from_dict(content["recipe"])
    model, names = dict(content["model"]), list(content["class_names"])
    proxies, points = content["proxies"], content["class_points"]
    if not all(isinstance(value, Tensor) for value in (*model.values(), proxies, points)):
        raise ValueError("weights that are not tensors")
    if not all(isinstance(text, str) for text in (*model, *names, content["fingerprint"])):
        raise ValueError("names that are not text")
    for some in (proxies, points):
        if (
            some.ndim != 2
            or some.shape[1] != recipe.model.embedding_dim
            or not some.is_floating_point()
        ):
            raise ValueError(f"points of shape {tuple(some.shape)}")
        # Not so where a number is none.
        if not bool((recipe.model.c * some.double().square().sum(dim=1) < 1).all()):
            raise ValueError("points outside the ball")
    if len(points) not in (0, len(names)) or len(set(names)) < len(names):
        raise ValueError(f"{len(points)} points of {len(set(names))} classes")
    share = content.get("interpolation", 1.0)
    if not isinstance(share, float) or not 0 <= share <= 1:
        raise ValueError(f"an interpolation of {share!r:.80}")
    progress = content["progress"]
    return Checkpoint(
        int(content["version"]),
        recipe,
        Preprocessing.from_dict(content["preprocessing"]),
        content["fingerprint"],
        model,
        proxies.float(),
        names,
        points.float(),
        share,
        None if progress is None else dict(progress),
    )


def load(path: Path) -> Trained:
    """The encoder in a checkpoint, on the CPU, in evaluation mode. Nothing is fetched.

    Raises:
        InputError, FileFormatError: see `read`; also where its parts do not agree.
    """
    content = read(path)
    recipe = content.recipe
    try:
        _require_weights(recipe, content.model)
        embedder, _ = _build(recipe, "none")
        embedder.load_state_dict(content.model)
    except (KeyError, TypeError, ValueError, RuntimeError, HierError) as error:
        raise FileFormatError(
            f"{path} is incomplete or damaged ({str(error).strip()[:200]}): train again, or fetch "
            "it again"
        ) from error
    pooling = recipe.model.pooling if content.version >= 2 else None
    if fingerprint(embedder, content.preprocessing, pooling) != content.fingerprint:
        raise FileFormatError(
            f"{path} is damaged: the checksum of its weights does not match. Train again, or copy "
            "the file again"
        )
    return Trained(
        embedder.eval(),
        content.preprocessing,
        recipe,
        content.proxies,
        content.class_names,
        content.class_points,
        content.fingerprint,
        content.interpolation,
    )


def _require_weights(recipe: Recipe, model: Mapping[str, Tensor]) -> None:
    """Raise ValueError where a recipe would build a network far larger than the weights given."""
    if model["head.weight"].shape[0] != recipe.model.embedding_dim:
        raise ValueError(f"a head of shape {tuple(model['head.weight'].shape)}")
    with torch.device("meta"):
        planned = backbone.create(
            recipe.model.backbone,
            weights="none",
            pooling=recipe.model.pooling,
            image_size=recipe.model.eval_size,
        )
    needed = sum(tensor.numel() for tensor in planned.state_dict().values())
    held = sum(tensor.numel() for tensor in model.values())
    if needed > held:
        raise ValueError(f"weights of {held:,} numbers for a backbone of {needed:,}")
