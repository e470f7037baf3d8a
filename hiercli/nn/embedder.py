"""The network that is trained: a backbone, a linear head, and the map into the ball."""

import hashlib
import json
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hiercli.images import Preprocessing
from hiercli.nn.to_poincare import ToPoincare


class Embedder(nn.Module):
    """Photographs to points of the ball: backbone -> LayerNorm -> linear -> clip -> expmap0.

    The head of HIER (arXiv 2212.14258), section 4.1: LayerNorm without parameters of its own,
    then a linear layer with orthogonal weights and zero bias.

    Metric losses look at directions only, yet each of their steps makes the tangent vectors
    longer, until all of them end on the clip radius and the radius says nothing. With
    ``learned_radius`` the linear layer therefore gives the direction alone, and a second one the
    length, between 0 and the clip radius, which only losses that see it can change.

    Args:
        backbone: (B, 3, H, W) -> (B, F) features.
        num_features: F.
        embedding_dim: D, dimensions of the ball.
        c: curvature magnitude.
        clip_radius: longest tangent vector, see `ToPoincare`.
        learned_radius: give direction and length by layers of their own.
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        num_features: int,
        embedding_dim: int,
        c: float,
        clip_radius: float,
        learned_radius: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.norm = nn.LayerNorm(num_features, elementwise_affine=False)
        self.head = nn.Linear(num_features, embedding_dim)
        nn.init.orthogonal_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.radius: nn.Linear | None = None
        if learned_radius:
            self.radius = nn.Linear(num_features, 1)
            nn.init.zeros_(self.radius.weight)
            nn.init.zeros_(self.radius.bias)
        self.to_poincare = ToPoincare(c, clip_radius)

    @property
    def embedding_dim(self) -> int:
        """D, dimensions of the ball."""
        return self.head.out_features

    def features(self, pixels: Tensor) -> Tensor:
        """Pooled features of the backbone, (B, F), as the backbone gives them."""
        features: Tensor = self.backbone(pixels)
        return features

    def tangent(self, features: Tensor) -> Tensor:
        """Tangent vectors at the origin, before clipping, (B, D) float32."""
        # Outside autocast: half precision would cost digits that the ball's rim needs.
        with torch.autocast(features.device.type, enabled=False):
            normal = self.norm(features.float())
            tangent: Tensor = self.head(normal)
            if self.radius is not None and self.to_poincare.clip_radius is not None:
                share = torch.sigmoid(self.radius(normal))
                length = self.to_poincare.clip_radius * share
                tangent = nn.functional.normalize(tangent, dim=-1) * length
        return tangent

    def points(self, features: Tensor) -> Tensor:
        """Points of the ball, of pooled features, (B, F) -> (B, D) float32."""
        points: Tensor = self.to_poincare(self.tangent(features))
        return points

    def forward(self, pixels: Tensor) -> Tensor:
        """Points of the ball, (B, 3, H, W) -> (B, D) float32."""
        return self.points(self.features(pixels))


def fingerprint(embedder: Embedder, preprocessing: Preprocessing, pooling: str | None) -> str:
    """What makes two sets of embeddings comparable, as 16 hexadecimal digits.

    A hash over all weights and buffers, the preprocessing, the pooling, c, the clip radius and the
    dimension; it travels with the checkpoint, the exported encoder, embeddings and index.

    Args:
        embedder: the network.
        preprocessing: of its input.
        pooling: as in the recipe; ``None`` for checkpoints of version 1, which left it out.
    """
    digest = hashlib.sha256()
    facts: dict[str, Any] = {
        "preprocessing": preprocessing.to_dict(),
        "c": embedder.to_poincare.c,
        "clip_radius": embedder.to_poincare.clip_radius,
        "embedding_dim": embedder.embedding_dim,
    }
    if pooling is not None:
        facts["pooling"] = pooling
    digest.update(json.dumps(facts, sort_keys=True).encode())
    for name, tensor in sorted(embedder.state_dict().items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensor.detach().cpu().numpy()).tobytes())
    return digest.hexdigest()[:16]
