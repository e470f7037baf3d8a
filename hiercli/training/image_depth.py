"""A depth of its own for each image: clear ones far from the origin, unclear ones nearer to it.

The layer that gives the length of a tangent vector is fitted once the other weights are final. It
learns from images, blurred, darkened, occluded, cropped and noisy copies of others, and images with
shuffled tiles, how clear each is and whether its nearest image is of its class. Lengths
stay close to each other, so that the order of hits hardly changes.
"""

import math
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from hiercli.images import degrading
from hiercli.labels import Record
from hiercli.neighbours import Gallery
from hiercli.training.checkpoint import Trained

if TYPE_CHECKING:
    from hiercli.training.trainer import Run

_PLAIN = 1000
"""Held-out and training images that it is learned from."""
_WORSE, _SHUFFLED = 600, 120
"""Copies of some of them, degraded and shuffled."""
_LEAST_STRENGTH = 0.1
_LOST = 0.5
"""How much an image at full strength of degradation lacks, if its nearest image is right."""
_RIDGE = 1.0
_SPREAD = 0.1
"""Standard deviation of the log-odds of lengths; with 0.2 unseen classes lose MAP@R."""


@torch.no_grad()
def learn(run: "Run", held: Trained) -> None:
    """Fit the layer of lengths of an encoder, in place.

    Args:
        run: its images.
        held: the encoder; it gives direction and length by layers of their own.
    """
    embedder = held.embedder
    assert embedder.radius is not None
    assert embedder.to_poincare.clip_radius is not None
    known = [record for record in (*run.validation, *run.training) if record.label]
    evenly = np.unique(np.linspace(0, len(known) - 1, min(_PLAIN, len(known))).astype(int))
    plain = [known[place] for place in evenly]
    rng = np.random.default_rng(run.recipe.run.seed)
    degraded = rng.permutation(len(plain))[:_WORSE]
    kinds = [str(kind) for kind in rng.choice(degrading.DEGRADATIONS, len(degraded))]
    strengths = rng.uniform(_LEAST_STRENGTH, 1, len(degraded))
    senseless = rng.permutation(len(plain))[:_SHUFFLED]
    sources = np.concatenate([degraded, senseless])
    with tempfile.TemporaryDirectory() as folder:
        written = degrading.write(
            [plain[place].path for place in sources],
            [*kinds, *[degrading.SHUFFLED] * len(senseless)],
            [*strengths, *[1.0] * len(senseless)],
            Path(folder), run.preprocessing.shortest_side, rng,
        )  # fmt: skip
        worse = [place for place, file in enumerate(written) if file is not None]
        copies = [Record(Path(file), "") for file in written if file is not None]
        features, kept = run.judge.embed(embedder, plain, what="features")
        of_copies, kept_copies = run.judge.embed(embedder, copies, what="features")
    worse = [worse[place] for place in kept_copies]
    source = np.concatenate([np.array(kept, int), sources[worse]])
    lost = np.concatenate([_LOST * strengths, np.ones(len(senseless))])[worse]
    clear = np.concatenate([np.ones(len(kept)), 1 - lost])
    together = torch.from_numpy(np.concatenate([features, of_copies])).to(run.device)
    tangent = embedder.tangent(together)
    points = embedder.to_poincare(tangent).cpu().numpy()
    labels = np.array([plain[place].label for place in source])
    right = _first_is_right(points, labels, source, len(kept), run.recipe.model.c)
    normal = embedder.norm(together.float()).cpu().numpy().astype(np.float64)
    weight, bias = _fitted(normal, right * clear)
    score = normal @ weight + bias
    share = (tangent[: len(kept)].norm(dim=1) / embedder.to_poincare.clip_radius).mean().item()
    middle, spread = float(score.mean()), max(float(score.std()), 1e-6)
    embedder.radius.weight.copy_(torch.from_numpy(_SPREAD / spread * weight)[None])
    embedder.radius.bias.fill_(math.log(share / (1 - share)) + _SPREAD * (bias - middle) / spread)


def _first_is_right(
    points: np.ndarray, labels: np.ndarray, source: np.ndarray, num_plain: int, c: float
) -> np.ndarray:
    """Whether the nearest plain image that is not the source of a point is of its class, (N,)."""
    _, near = Gallery(points[:num_plain], c).nearest(points, 2)
    own = source[near[:, 0]] == source
    first = np.where(own, near[:, -1], near[:, 0])
    right: np.ndarray = labels[first] == labels
    return right


def _fitted(rows: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, float]:
    """Weights (F,) and bias of a logistic model of targets between 0 and 1."""
    from scipy.optimize import minimize

    middle = rows.mean(axis=0)
    centred = rows - middle

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        score = centred @ weights[:-1] + weights[-1]
        value = (np.logaddexp(0, score) - target * score).mean()
        slope = (1 / (1 + np.exp(-score.clip(-50, 50))) - target) / len(target)
        gradient = np.append(centred.T @ slope + _RIDGE * weights[:-1], slope.sum())
        return value + _RIDGE / 2 * (weights[:-1] @ weights[:-1]), gradient

    found = minimize(loss, np.zeros(rows.shape[1] + 1), jac=True, method="L-BFGS-B").x
    return found[:-1], float(found[-1] - middle @ found[:-1])
