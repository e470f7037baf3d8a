"""Training photographs that stay on the training device and are cropped there, a batch at a time.

No decoding, no worker processes and next to no traffic: what is left for an epoch is one
resampling for the whole batch, a few per cent of a step on a CPU and less on a GPU.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from hiercli.training.loading import (
    Box,
    Key,
    TrainingPhotos,
    free_memory,
    nothing_whole,
    require_memory,
    to_input,
)


class DevicePhotos:
    """Photographs squeezed to squares on ``device``; the crops undo the squeezing.

    Boxes and flips are those of `TrainingPhotos`. Pixels are resampled twice, the second time
    bilinearly without smoothing first, so that fine detail differs by a few grey levels of 255: a
    run with this cache is another run than one without.

    Args:
        photos: where they come from; every one is decoded now.
        device: where they stay.
        progress: called with (done, total) photographs.
        processes: how many hold the same in one memory.

    Raises:
        InputError: there is not enough memory on the device.
    """

    def __init__(
        self,
        photos: TrainingPhotos,
        device: torch.device,
        progress: Callable[[int, int], None] | None = None,
        *,
        processes: int = 1,
    ) -> None:
        self.photos, self.device = photos, device
        # More than twice the crop would be skipped over by the four taps of a bilinear crop.
        side = min(photos.side, 2 * photos.preprocessing.size)
        needed = 3 * side * side * len(photos.records)
        if device.type == "cuda":
            require_memory(needed, torch.cuda.mem_get_info(device)[0])
        else:
            require_memory(needed * processes, free_memory())
        self._pixels = torch.empty(
            (len(photos.records), 3, side, side), dtype=torch.uint8, device=device
        )
        self._sizes: list[tuple[int, int]] = []
        self._problems: list[str] = []
        for place, pixels in enumerate(photos.decode_all(progress)):
            problem = pixels if isinstance(pixels, str) else ""
            picture = Image.new("RGB", (1, 1))
            if not isinstance(pixels, str):
                picture = Image.fromarray(pixels)
            square = np.array(picture.resize((side, side), Image.Resampling.BICUBIC))
            self._pixels[place] = torch.from_numpy(square).permute(2, 0, 1)
            self._sizes.append(picture.size)
            self._problems.append(problem)

    def batch(self, keys: Sequence[Key]) -> tuple[Tensor, list[str]]:
        """Network input float32 (B, 3, size, size), and the B reasons of photographs stood in for.

        Raises:
            DataError: no photograph of a class can be read.
        """
        shown = [self._whole(index) for _, _, index in keys]
        motions = [
            _motion(self.photos.view(key, self._sizes[place]), self._sizes[place])
            for key, place in zip(keys, shown, strict=True)
        ]
        size = self.photos.preprocessing.size
        theta = torch.tensor(motions, dtype=torch.float32).to(self.device)
        grid = functional.affine_grid(theta, [len(keys), 3, size, size], align_corners=False)
        sources = self._pixels[torch.tensor(shown, device=self.device)].float()
        crops = functional.grid_sample(
            sources, grid, padding_mode="border", align_corners=False
        ).permute(0, 2, 3, 1)
        ready = to_input(crops, self.photos.preprocessing, self.device)
        return ready, [self._problems[index] for _, _, index in keys]

    def _whole(self, index: int) -> int:
        for place in self.photos.successors(index):
            if not self._problems[place]:
                return place
        raise nothing_whole(self.photos.records[index].label, self._problems[index])


def _motion(view: tuple[Box, bool], size: tuple[int, int]) -> list[list[float]]:
    """2 x 3 matrix from the crop's coordinates to the picture's, both from -1 to 1."""
    (left, top, right, bottom), flipped = view
    width, height = size
    across, down = (right - left) / width, (bottom - top) / height
    turned = -across if flipped else across
    return [
        [turned, 0.0, (left + right) / width - 1],
        [0.0, down, (top + bottom) / height - 1],
    ]
