"""Preprocessing: from an RGB picture to a network's input, in training, evaluation and serving.

Pillow resizes, NumPy normalises; nothing here knows which framework comes next.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from PIL import Image

from hiercli.bounds import MAX_SIZE, MIN_CROP_SHARE
from hiercli.errors import InputError

_FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_FITS = ("crop", "stretch")


@dataclass(frozen=True)
class Preprocessing:
    """How a decoded picture becomes a network's input at evaluation time.

    Attributes:
        size: side of the square crop in pixels.
        crop_share: share of the short side that the crop covers, in (0, 1]. 0.875 is the usual
            "resize to 256, crop 224".
        mean, std: of each RGB channel, on a scale of 0 to 1.
        interpolation: ``bilinear``, ``bicubic`` or ``lanczos``.
        fit: ``crop`` takes the centre of the picture, ``stretch`` resizes the whole of it to a
            square, whatever its proportions are.
    """

    size: int
    crop_share: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"
    fit: str = "crop"

    def __post_init__(self) -> None:
        if not 1 <= self.size <= MAX_SIZE or not MIN_CROP_SHARE <= self.crop_share <= 1:
            raise InputError(
                f"expected a size of 1 to {MAX_SIZE} and a crop_share of {MIN_CROP_SHARE} to 1, "
                f"got {self.size} and {self.crop_share}"
            )
        if not all(abs(value) < 1e3 for value in (*self.mean, *self.std)) or min(self.std) < 1e-4:
            raise InputError(f"expected a mean and a std above 0, got {self.mean}, {self.std}")
        if self.interpolation not in _FILTERS:
            raise InputError(
                f"expected an interpolation of {', '.join(_FILTERS)}, got {self.interpolation!r}"
            )
        if self.fit not in _FITS or (self.fit == "stretch" and self.crop_share != 1):
            raise InputError(
                f"expected a fit of {' or '.join(_FITS)} (stretch with a crop_share of 1), got "
                f"{self.fit!r} and {self.crop_share}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON and for the fingerprint."""
        values = asdict(self)
        if self.fit == "crop":
            del values["fit"]  # encoders of earlier versions lack it
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Preprocessing":
        """The inverse of `to_dict`."""
        return cls(
            size=int(values["size"]),
            crop_share=float(values["crop_share"]),
            mean=_three(values["mean"]),
            std=_three(values["std"]),
            interpolation=str(values["interpolation"]),
            fit=str(values.get("fit", "crop")),
        )

    def __call__(self, picture: Image.Image) -> np.ndarray:
        """Crop or stretch, resize and normalise an RGB picture: float32 (3, size, size)."""
        return self.normalise(self.fitted(picture))

    def fitted(self, picture: Image.Image) -> np.ndarray:
        """Crop or stretch and resize an RGB picture: uint8 (size, size, 3)."""
        whole = (0.0, 0.0, float(picture.width), float(picture.height))
        is_whole = self.fit == "stretch"
        return self.crop(picture, whole if is_whole else centre_box(picture, self.crop_share))

    def crop(self, picture: Image.Image, box: tuple[float, float, float, float]) -> np.ndarray:
        """Resample ``box`` (left, top, right, bottom, in pixels) to uint8 (size, size, 3)."""
        side = (self.size, self.size)
        return np.asarray(picture.resize(side, _FILTERS[self.interpolation], box=box))

    def normalise(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 (H, W, 3) to float32 (3, H, W) of zero mean and unit spread per channel."""
        planes = np.ascontiguousarray(pixels.transpose(2, 0, 1))
        middle = np.float32(255) * np.asarray(self.mean, np.float32)[:, None, None]
        scaled = np.subtract(planes, middle, dtype=np.float32)
        scaled /= np.float32(255) * np.asarray(self.std, np.float32)[:, None, None]
        return scaled

    @property
    def shortest_side(self) -> int:
        """Length of the short side, in pixels, at which the crop needs no enlarging."""
        return round(self.size / self.crop_share)


def _three(values: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = values
    return float(red), float(green), float(blue)


def centre_box(picture: Image.Image, share: float) -> tuple[float, float, float, float]:
    """The centred square whose side is ``share`` of the picture's short side."""
    width, height = picture.size
    side = share * min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side
