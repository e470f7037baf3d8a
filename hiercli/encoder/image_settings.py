"""Preprocessing as the files beside a CLIP-like model say it.

``preprocessor_config.json`` comes with models of Hugging Face, ``preprocess_cfg.json`` and
``open_clip_config.json`` with those of OpenCLIP.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hiercli.bounds import MAX_SIZE
from hiercli.encoder.companions import companion, settings
from hiercli.errors import FileFormatError, HierError, InputError, MismatchError
from hiercli.images import Preprocessing

HUGGING_FACE = "preprocessor_config.json"
OPEN_CLIP = ("preprocess_cfg.json", "open_clip_config.json")
_FILTERS = {1: "lanczos", 2: "bilinear", 3: "bicubic"}
"""By the numbers that Pillow gives them."""


def preprocessing_of(model: Path, size: int | None = None) -> Preprocessing:
    """The preprocessing of a model, from the file beside it or in the folder above.

    Args:
        model: the ONNX file.
        size: side of the images that its graph takes; ``None`` where the graph takes any.

    Raises:
        InputError: there is no such file.
        FileFormatError: it is damaged, or says something that hier does not do.
        MismatchError: it says another size than the graph.
    """
    file = companion(model, (HUGGING_FACE, *OPEN_CLIP))
    if file is None:
        raise InputError(
            f"expected {HUGGING_FACE} beside {model} or in the folder above (image size, mean and "
            f"std), found none, and no {OPEN_CLIP[0]} either. Copy it from where the model came"
        )
    facts = settings(file)
    try:
        found = (_hugging_face if file.name == HUGGING_FACE else _open_clip)(facts, size)
    except HierError as error:
        raise FileFormatError(f"{file}: {error}") from error
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        told = f"{error} is missing" if isinstance(error, KeyError) else str(error)[:200]
        raise FileFormatError(
            f"{file}: expected a size, mean and std of images, but {told}. Copy the file from "
            "where the model came"
        ) from error
    if size not in (None, found.size):
        raise MismatchError(
            f"{file} says images of {found.size} pixels, {model} takes {size}. Use the file that "
            "came with the model"
        )
    return found


def _hugging_face(facts: Mapping[str, Any], size: int | None) -> Preprocessing:
    has_crop = _flag(facts, "do_center_crop", "crop_size" in facts)
    if not _flag(facts, "do_resize", True):
        raise InputError("it does not resize images, which hier has to")
    for name in ("do_pad", "rescale_offset"):
        if facts.get(name):
            raise InputError(f"it has {name}, which hier does not do")
    resized = facts.get("size", size)
    if isinstance(resized, dict):
        is_short_side = "shortest_edge" in resized
        side = _side(resized["shortest_edge"] if is_short_side else _square(resized))
    else:
        is_short_side, side = has_crop, _side(resized)
    if is_short_side and not has_crop:
        raise InputError("it resizes the short side and does not crop, but models take squares")
    crop = _side(_square(facts.get("crop_size", side))) if has_crop else side
    if crop > side:
        raise InputError(f"it crops {crop} of {side} pixels")
    if not is_short_side and crop != side:
        raise InputError("it stretches images and then crops them, which hier does not do")
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if _flag(facts, "do_normalize", True):
        mean, std = _three(facts["image_mean"]), _three(facts["image_std"])
    # Values of 0 to 255 are multiplied by this, and then normalised.
    factor = float(facts.get("rescale_factor", 1 / 255)) if _flag(facts, "do_rescale", True) else 1
    if not 1e-6 <= factor <= 1:
        raise InputError(f"its rescale_factor is {factor}")
    scale = 1 if abs(255 * factor - 1) < 1e-6 else 255 * factor
    number = facts.get("resample", 3)
    if number not in _FILTERS:
        raise InputError(f"its resample is {number!r}, expected 1, 2 or 3")
    return Preprocessing(
        crop, crop / side if is_short_side else 1.0,
        _scaled(mean, scale), _scaled(std, scale), _FILTERS[number],
        "crop" if is_short_side else "stretch",
    )  # fmt: skip


def _open_clip(facts: Mapping[str, Any], size: int | None) -> Preprocessing:
    told = facts.get("preprocess_cfg", facts)
    vision = facts.get("model_cfg", {}).get("vision_cfg", {})
    side = _side(_square(told.get("size", vision.get("image_size", size))))
    mode = told.get("resize_mode", "shortest")
    if mode not in ("shortest", "squash"):
        raise InputError(f"its resize_mode is {mode!r}, expected shortest or squash")
    return Preprocessing(
        side, 1.0, _three(told["mean"]), _three(told["std"]),
        str(told.get("interpolation", "bicubic")), "crop" if mode == "shortest" else "stretch",
    )  # fmt: skip


def _flag(facts: Mapping[str, Any], name: str, default: bool) -> bool:
    value = facts.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise InputError(f"its {name} is {value!r}, expected true or false")
    return value


def _square(value: Any) -> Any:
    """The side of a square that is given as one number, as two, or by name."""
    sides = value
    if isinstance(value, dict):
        sides = [value["height"], value["width"]]
    if not isinstance(sides, list):
        return sides
    if len(sides) != 2 or sides[0] != sides[1]:
        raise InputError(f"it makes images of {sides} pixels, expected a square")
    return sides[0]


def _side(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_SIZE:
        raise InputError(
            f"its image size is {str(value)[:60]}, expected a whole number from 1 to {MAX_SIZE}"
        )
    return value


def _three(values: Any) -> tuple[float, float, float]:
    red, green, blue = values
    return float(red), float(green), float(blue)


def _scaled(values: tuple[float, float, float], scale: float) -> tuple[float, float, float]:
    red, green, blue = values
    return red / scale, green / scale, blue / scale
