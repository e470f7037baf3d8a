"""Keep what the backbone already knew about which classes are alike.

A metric loss only asks that classes be apart, and in a few epochs wipes out the kinship between
them that pretrained features carry. This term holds on to it, in the manner of similarity
distillation (Park et al., "Relational Knowledge Distillation", CVPR 2019): for each photograph,
the soft ranking of the photographs of *other* classes should stay the one that the backbone gave
before training.
"""

import torch
from torch import Tensor
from torch.nn import functional


def relational_loss(points: Tensor, labels: Tensor, known: Tensor, *, temperature: float) -> Tensor:
    """Mean KL divergence, over photographs, from the known soft ranking of others to the new one.

    Args:
        points: (B, D); only their directions count, which are the same before and after the
            exponential map at the origin.
        labels: (B,) int64; photographs of the own class are left out of a ranking, since to pull
            them together is the metric loss's task.
        known: (B, F) features before training, centred on the data set's mean.
        temperature: of both softmaxes over cosines, > 0.

    Returns:
        Scalar, at least 0; 0 where the batch holds one class only.
    """
    stranger = labels[:, None] != labels[None, :]
    rankings = []
    for vectors in (known, points):
        unit = functional.normalize(vectors.float(), dim=1)
        logits = unit @ unit.T / temperature
        rankings.append(logits.masked_fill(~stranger, -1e9).log_softmax(dim=1))
    before, after = rankings
    divergence = (before.exp() * (before - after)).masked_fill(~stranger, 0.0).sum(dim=1)
    has_strangers = stranger.any(dim=1)
    return torch.where(has_strangers, divergence, 0.0).sum() / has_strangers.sum().clamp(min=1)
