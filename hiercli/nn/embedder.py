"""The network that is trained: a backbone, a linear head, and the map into the ball."""

import hashlib
import json

import numpy as np
import torch
from torch import Tensor, nn

from hiercli.images import Preprocessing
from hiercli.nn.to_poincare import ToPoincare


class Embedder(nn.Module):
    """Photographs to points of the ball: backbone -> LayerNorm -> linear -> clip -> expmap0.

    The head of HIER (arXiv 2212.14258), section 4.1: LayerNorm without parameters of its own,
    then a linear layer with orthogonal weights and zero bias.

    Args:
        backbone: (B, 3, H, W) -> (B, F) features.
        num_features: F.
        embedding_dim: D, dimensions of the ball.
        c: curvature magnitude.
        clip_radius: longest tangent vector, see `ToPoincare`.
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        num_features: int,
        embedding_dim: int,
        c: float,
        clip_radius: float,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.norm = nn.LayerNorm(num_features, elementwise_affine=False)
        self.head = nn.Linear(num_features, embedding_dim)
        nn.init.orthogonal_(self.head.weight)
        nn.init.zeros_(self.head.bias)
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
            tangent: Tensor = self.head(self.norm(features.float()))
        return tangent

    def forward(self, pixels: Tensor) -> Tensor:
        """Points of the ball, (B, 3, H, W) -> (B, D) float32."""
        points: Tensor = self.to_poincare(self.tangent(self.features(pixels)))
        return points


def fingerprint(embedder: Embedder, preprocessing: Preprocessing) -> str:
    """What makes two sets of embeddings comparable, as 16 hexadecimal digits.

    A hash over all weights and buffers, the preprocessing, c, the clip radius and the dimension;
    it travels with the checkpoint, the exported encoder, embeddings and index.
    """
    digest = hashlib.sha256()
    facts = {
        "preprocessing": preprocessing.to_dict(),
        "c": embedder.to_poincare.c,
        "clip_radius": embedder.to_poincare.clip_radius,
        "embedding_dim": embedder.embedding_dim,
    }
    digest.update(json.dumps(facts, sort_keys=True).encode())
    for name, tensor in sorted(embedder.state_dict().items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensor.detach().cpu().numpy()).tobytes())
    return digest.hexdigest()[:16]
