"""Checkpoints: what an encoder needs to be rebuilt, and what a run needs to go on.

A checkpoint is a dictionary of tensors and plain values, written whole or not at all, and read
without running any code that a hostile file may carry.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hiercli.errors import FileFormatError, InputError
from hiercli.files import replacing
from hiercli.images import Preprocessing
from hiercli.nn import backbone
from hiercli.nn.embedder import Embedder, fingerprint
from hiercli.training.recipe import Recipe, from_dict

FORMAT = "hier-checkpoint"
VERSION = 1


@dataclass(frozen=True)
class Encoder:
    """A trained encoder and everything that goes with it, as a checkpoint holds it.

    Attributes:
        embedder: the network, in evaluation mode.
        preprocessing: of its input.
        recipe: what it was trained with.
        proxies: hierarchical proxies as points of the ball, (P, D).
        class_names: classes that ``class_points`` belong to.
        class_points: (C, D), the midpoint of each class's training photographs.
        fingerprint: see `nn.embedder.fingerprint`.
    """

    embedder: Embedder
    preprocessing: Preprocessing
    recipe: Recipe
    proxies: Tensor
    class_names: list[str]
    class_points: Tensor
    fingerprint: str


def new_embedder(recipe: Recipe) -> tuple[Embedder, Preprocessing]:
    """The network that a recipe describes, with its starting weights."""
    return _build(recipe, recipe.weights)


def _build(recipe: Recipe, weights: str) -> tuple[Embedder, Preprocessing]:
    network = backbone.create(
        recipe.backbone, weights=weights, pooling=recipe.pooling, image_size=recipe.eval_size
    )
    if recipe.train_size != recipe.eval_size and hasattr(network, "patch_embed"):
        raise InputError(
            f"{recipe.backbone} takes pictures of one size: expected train_size and eval_size to "
            f"agree, got {recipe.train_size} and {recipe.eval_size}"
        )
    preprocessing = backbone.preprocessing(
        network, size=recipe.eval_size, crop_share=recipe.eval_crop_share
    )
    embedder = Embedder(
        network,
        num_features=backbone.num_features(network, recipe.eval_size),
        embedding_dim=recipe.embedding_dim,
        c=recipe.c,
        clip_radius=recipe.clip_radius,
        learned_radius=recipe.learned_radius,
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
        "fingerprint": fingerprint(embedder, preprocessing),
        "model": embedder.state_dict(),
        "proxies": proxies.detach().cpu(),
        "class_names": class_names,
        "class_points": class_points.detach().cpu(),
        "progress": progress,
    }
    with replacing(path) as draft:
        try:
            torch.save(content, draft)
        except RuntimeError as error:  # torch's writer reports a full disk this way
            raise InputError(
                f"writing {path} failed ({str(error).splitlines()[0]}). Nothing was left behind; "
                "free some space, then run it again"
            ) from error


def read(path: Path) -> dict[str, Any]:
    """The raw content of a checkpoint, checked to be one of ours.

    Raises:
        InputError: missing, or not a file.
        FileFormatError: damaged, hostile, another program's, or from a newer version.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        # Opening a pipe would wait for a writer that may never come.
        raise InputError(f"expected a checkpoint, but {path} is a device or a pipe: name a file")
    content = dict(backbone.read_state_dict(path))
    if content.get("format") != FORMAT:
        raise FileFormatError(
            f"{path}: expected a checkpoint written by `hier train`, found a file of tensors of "
            "another program. To start from its backbone use `hier train --weights FILE`"
        )
    if content["version"] > VERSION:
        raise FileFormatError(
            f"{path} was written by a newer hier (format {content['version']}, this one reads up "
            f"to {VERSION}): upgrade hiercli"
        )
    return content


def load(path: Path) -> Encoder:
    """The encoder in a checkpoint, on the CPU, in evaluation mode.

    Raises:
        InputError, FileFormatError: see `read`; also where its parts do not agree.
    """
    content = read(path)
    try:
        recipe = from_dict(content["recipe"])
        embedder, _ = _build(recipe, "none")
        embedder.load_state_dict(content["model"])
        preprocessing = Preprocessing.from_dict(content["preprocessing"])
        encoder = Encoder(
            embedder.eval(),
            preprocessing,
            recipe,
            content["proxies"],
            list(content["class_names"]),
            content["class_points"],
            content["fingerprint"],
        )
    except (KeyError, TypeError, RuntimeError) as error:
        raise FileFormatError(f"{path} is incomplete or damaged: {error}") from error
    if fingerprint(embedder, preprocessing) != encoder.fingerprint:
        raise FileFormatError(f"{path}: its weights are not those it was written with (damaged)")
    return encoder
