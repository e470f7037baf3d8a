"""A network of torch as something that embeds image files, to be scored as exported ones are."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from hiercli.collection import Collection
from hiercli.errors import InputError
from hiercli.images import Preprocessing
from hiercli.labels import Record
from hiercli.memory import keep_freed_memory
from hiercli.nn import backbone as backbones
from hiercli.nn.embedder import Embedder
from hiercli.training import checkpoint, onnx_backbone
from hiercli.training.device import choose_device
from hiercli.training.loading import embed_records


@dataclass(frozen=True)
class TorchEncoder:
    """A network and what it needs to embed image files.

    Attributes:
        network: (B, 3, size, size) -> (B, D), in evaluation mode.
        preprocessing: of its input.
        device: that it runs on.
        c: curvature magnitude; ``None`` for plain features, which are compared by cosine.
        seed: of its training run.
        class_names: that it was trained on.
        proxies: (P, D) hierarchical proxies, where it has some.
    """

    network: nn.Module
    preprocessing: Preprocessing
    device: torch.device
    c: float | None = None
    seed: int = 0
    class_names: Sequence[str] = ()
    proxies: np.ndarray | None = None

    @classmethod
    def from_checkpoint(cls, source: Path) -> "TorchEncoder":
        """The encoder of a checkpoint.

        Raises:
            HierError: it is missing or damaged.
        """
        held, device = checkpoint.load(source), _device()
        c, seed = held.recipe.model.c, held.recipe.run.seed
        return cls(
            held.embedder.to(device), held.preprocessing, device, c, seed, held.class_names,
            held.proxies.numpy(),
        )  # fmt: skip

    @classmethod
    def from_backbone(
        cls,
        name: str,
        *,
        weights: str = "auto",
        image_size: int | None = None,
        pooling: str = "",
        crop_share: float | None = None,
    ) -> "TorchEncoder":
        """The plain features of a timm model, as a baseline.

        Args:
            name: that timm knows.
            weights: auto, hub, none (random), or the path of a state dict.
            image_size: side of the crop in pixels; the model's own where left out.
            pooling: avg, avgmax, token, gem; empty: the model's own.
            crop_share: share of the short side that is cropped; the model's own where left out.

        Raises:
            InputError: timm does not know it, or it cannot take such images.
        """
        device = _device()
        network = backbones.create(
            name, weights=weights, image_size=image_size, pooling=pooling
        ).eval()
        preprocessing = backbones.preprocessing(network, size=image_size, crop_share=crop_share)
        return cls(network.to(device), preprocessing, device)

    def embed_records(
        self,
        records: Sequence[Record],
        level_names: Sequence[str] = (),
        skipped: Callable[[str], None] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Collection:
        """Embed image files, see `Encoder.embed_records`."""
        traced = self._traced if len(records) >= onnx_backbone.FEWEST_IMAGES else None
        points, kept, problems = embed_records(
            self.network if traced is None else self._through(traced), records, self.preprocessing,
            device=self.device, workers=1, on_one_core=traced is not None, progress=progress,
        )  # fmt: skip
        for problem in problems:
            if skipped is None:
                raise InputError(problem)
            skipped(problem)
        if not kept:
            raise InputError(f"expected images to embed, but none of {len(records)} can be read")
        own = [records[place] for place in kept]
        return Collection.of_records(points, own, level_names, c=self.c, proxies=self.proxies)

    def _through(self, features: onnx_backbone.OnnxBackbone) -> Callable[[Tensor], Tensor]:
        network = self.network
        if not isinstance(network, Embedder):
            return features
        return lambda pixels: network.points(features(pixels))

    @functools.cached_property
    def _traced(self) -> onnx_backbone.OnnxBackbone | None:
        network = self.network
        if isinstance(network, Embedder):
            network = network.backbone
        return onnx_backbone.of(network, self.preprocessing.size, self.device)


def _device() -> torch.device:
    device = choose_device("auto")
    if device.type == "cpu":
        keep_freed_memory()
    return device
