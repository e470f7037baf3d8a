"""Encoders that nobody trained: what a backbone knows already, as a baseline and as an encoder."""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from hiercli.data.records import Dataset, split_validation
from hiercli.errors import DataError, InputError
from hiercli.evaluation.comparison import Comparison, compare
from hiercli.evaluation.evaluate import Progress
from hiercli.evaluation.retrieval import RetrievalScores, score
from hiercli.files import write_text
from hiercli.hierarchy.proxies import grow_proxies
from hiercli.images import Preprocessing
from hiercli.labels import Record
from hiercli.nn import backbone as backbones
from hiercli.nn.embedder import fingerprint
from hiercli.training.checkpoint import Trained, new_embedder
from hiercli.training.device import choose_device
from hiercli.training.embedding import TorchEncoder
from hiercli.training.loading import embed_records
from hiercli.training.recipe import Recipe
from hiercli.training.starting import start_head

MOST_IMAGES = 2000
"""Images from which the head of an untrained encoder takes its directions."""
_NUM_PROXIES = 256
_LEAST_APART = 0.05
"""Mean distance of normalised features from their middle, over their length, below which the head
does not enlarge it further. The default backbone gives 0.84 on 30 photographs of birds."""


@dataclasses.dataclass(frozen=True)
class Baseline:
    """The best that the backbone does without training, by cosine.

    Attributes:
        pooling: that was best on the held-out training classes; empty: the model's own.
        crop_share: share of the short side that was.
        scores: of the test classes, by name, in percent.
        comparison: how much better the trained encoder is, where it scored the same queries.
        of_precision: the same by MAP@R.
    """

    pooling: str
    crop_share: float
    scores: dict[str, float]
    comparison: Comparison | None = None
    of_precision: Comparison | None = None

    def verdict(self, trained: dict[str, float]) -> str:
        """Whether training helped, in a sentence: by Recall@1, as sure as the queries allow.

        Where that tells no difference, MAP@R is told too, if it tells one.
        """
        if self.comparison is not None:
            found = self.comparison.verdict
            if self.comparison.low > 0:
                return f"training helped, {found}"
            further = self.of_precision
            if self.comparison.high > 0 and further is not None and further.low > 0:
                return f"training helped, {further.verdict}; {found}"
            began = (
                "training did not help" if self.comparison.high < 0
                else "no evidence that training helped"
            )  # fmt: skip
            if self.comparison.high > 0 and further is not None and further.high < 0:
                found += f"; {further.verdict}"
            return f"{began}, {found}. `hier export --backbone` exports the untrained backbone"
        first = f"recall@{min(int(name[7:]) for name in self.scores if name[:7] == 'recall@')}"
        gains = [trained[name] - self.scores[name] for name in (first, "map@r")]
        if min(gains) >= 0 and max(gains) > 0:
            return "training helped"
        if max(gains) > 0:
            return "training improved one of Recall@1 and MAP@R and worsened the other"
        return (
            "training did not help: the untrained backbone is as good or better. `hier export "
            "--backbone` exports it"
        )


def score_untrained(
    recipe: Recipe,
    dataset: Dataset,
    out: Path,
    progress: Progress | None = None,
    trained: RetrievalScores | None = None,
) -> Baseline:
    """Score the backbone of a run as it was before, on the test classes.

    Pooling (the recipe's, the model's own, GeM) and crop (the recipe's, the whole short side) are
    chosen by MAP@R on held-out training classes, never on test classes. The result is kept in
    ``out/untrained.json``.

    Args:
        recipe: of the run.
        dataset: with a test part.
        out: folder of the run.
        progress: called with (stage, done, total).
        trained: scores of the trained encoder, to compare with.

    Raises:
        DataError: no image can be read.
    """
    told = progress or (lambda *_: None)
    held = _held_out(recipe, dataset)
    best: tuple[float, TorchEncoder, str, float] | None = None
    own = () if recipe.model.pooling == "auto" else (recipe.model.pooling,)
    for pooling in dict.fromkeys([*own, "", "gem"]):
        for crop_share in dict.fromkeys([recipe.model.eval_crop_share, 1.0]):
            torch.manual_seed(recipe.run.seed)  # of random weights
            try:
                model = recipe.model
                encoder = TorchEncoder.from_backbone(
                    model.backbone, weights=model.weights, image_size=model.eval_size,
                    pooling=pooling, crop_share=crop_share,
                )  # fmt: skip
            except InputError:  # GeM is for convolutional networks
                continue
            value = 0.0
            if held:
                value = _score(encoder, held, None, (1,), told, "untrained backbone").map_at_r
            if best is None or value > best[0]:
                best = value, encoder, pooling, crop_share
    if best is None:
        raise DataError(f"{recipe.model.backbone} cannot be scored without training")
    found = _score(
        best[1], dataset.query, dataset.gallery, dataset.recall_at, told, "untrained backbone"
    )
    comparison = of_precision = None
    if trained is not None:
        with contextlib.suppress(DataError):  # not the same queries could be read
            comparison = compare(found.right, trained.right, trained.labels)
            of_precision = compare(found.precision, trained.precision, trained.labels, "MAP@R")
    baseline = Baseline(best[2], best[3], found.to_dict(), comparison, of_precision)
    write_text(out / "untrained.json", json.dumps(dataclasses.asdict(baseline), indent=2) + "\n")
    return baseline


def _held_out(recipe: Recipe, dataset: Dataset) -> Sequence[Record]:
    """Images to choose by: the validation part, or held-out training classes, as in the run."""
    if dataset.validation:
        return dataset.validation
    try:
        share = recipe.data.validation_share or 0.15
        return split_validation(dataset.train, share, recipe.run.seed)[1]
    except DataError:  # too few classes: the recipe's own pooling and crop count
        return ()


def _score(
    encoder: TorchEncoder,
    queries: Sequence[Record],
    gallery: Sequence[Record] | None,
    recall_at: Sequence[int],
    told: Progress,
    stage: str,
) -> RetrievalScores:
    ignored: list[str] = []  # the run has named them
    parts = [
        encoder.embed_records(
            part, skipped=ignored.append, progress=lambda done, total: told(stage, done, total)
        )
        for part in (queries, gallery)
        if part is not None
    ]
    others = parts[1] if len(parts) > 1 else None
    return score(
        parts[0].points, parts[0].labels or (),
        None if others is None else others.points, None if others is None else others.labels,
        c=None, recall_at=recall_at,
    )  # fmt: skip


@torch.no_grad()
def untrained_encoder(
    name: str,
    *,
    weights: str = "auto",
    pooling: str = "",
    records: Sequence[Record] = (),
    embedding_dim: int | None = None,
    image_size: int | None = None,
    crop_share: float | None = None,
    whitening: float = 0.25,
    radius: float = 1.5,
    skipped: Callable[[str], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Trained:
    """An encoder of a timm model as it is: only a head that maps its features into the ball.

    The head takes the principal directions of the features of some images, evened out a little, and
    the hierarchical proxies are the nodes of the tree of these images. Labels are not needed.
    Without images the head mixes features at random, which keeps their distances.

    Args:
        name: that timm knows.
        weights: auto, hub, none (random), or the path of a state dict.
        pooling: avg, avgmax, token, gem; empty: the model's own.
        records: images; of many so many evenly spread.
        embedding_dim: dimensions of the ball; 384 where left out, or as many as there are features.
        image_size: side of the input in pixels; the model's own where left out.
        crop_share: share of the short side that is cropped; all of it where left out.
        whitening: 0 to 1, how far the spread of the directions is evened out.
        radius: mean tangent length of the images.
        skipped: told why an image is passed over.
        progress: called with (done, total) images.

    Raises:
        InputError: timm does not know the model, or it cannot take such images.
        DataError: fewer than two images can be read.
    """
    plain = backbones.create(name, weights="none", pooling=pooling, image_size=image_size)
    size = backbones.preprocessing(plain, size=image_size).size
    features_of = backbones.num_features(plain, size)
    recipe = Recipe.of(
        backbone=name, weights=weights, pooling=pooling, eval_size=size, train_size=size,
        eval_crop_share=crop_share or 1.0, embedding_dim=min(embedding_dim or 384, features_of),
        num_proxies=_NUM_PROXIES, head_init="pca" if records else "orthogonal",
        head_whitening=whitening, initial_radius=radius, proxy_init="tree", epochs=0,
    )  # fmt: skip
    torch.manual_seed(0)
    embedder, preprocessing = new_embedder(recipe)
    embedder.eval()
    if records:
        features = _features(embedder.features, records, preprocessing, skipped, progress)
        normal = embedder.norm(features)
        apart = (normal - normal.mean(dim=0)).norm(dim=1).mean() / features_of**0.5
        # A backbone that hardly tells the images apart: more would only enlarge its rounding.
        radius = min(radius, radius * float(apart) / _LEAST_APART)
        start_head(embedder, features, init="pca", whitening=whitening, radius=radius)
        tangent = embedder.tangent(features).cpu().numpy()
        places = grow_proxies(tangent, np.arange(len(tangent)), recipe.hierarchy.num_proxies)
    else:
        generator = torch.Generator().manual_seed(0)
        some = torch.randn(256, features_of, generator=generator)
        start_head(embedder, some, init="orthogonal", radius=radius)
        tangent = embedder.tangent(some).numpy()
        places = grow_proxies(tangent, np.arange(len(tangent)), recipe.hierarchy.num_proxies)
    proxies = embedder.to_poincare(torch.from_numpy(places))
    return Trained(
        embedder=embedder,
        preprocessing=preprocessing,
        recipe=recipe,
        proxies=proxies,
        class_names=[],
        class_points=torch.empty(0, recipe.model.embedding_dim),
        fingerprint=fingerprint(embedder, preprocessing, recipe.model.pooling),
    )


def _features(
    network: Callable[[torch.Tensor], torch.Tensor],
    records: Sequence[Record],
    preprocessing: Preprocessing,
    skipped: Callable[[str], None] | None,
    progress: Callable[[int, int], None] | None,
) -> torch.Tensor:
    evenly = np.unique(np.linspace(0, len(records) - 1, min(MOST_IMAGES, len(records))).astype(int))
    features, kept, problems = embed_records(
        network, [records[place] for place in evenly], preprocessing,
        device=choose_device("cpu"), progress=progress,
    )  # fmt: skip
    for problem in problems:
        if skipped:
            skipped(problem)
    if len(kept) < 2:
        raise DataError(
            f"expected at least two readable images for the head, found {len(kept)}"
            + (f": {problems[0]}" if problems else "")
        )
    return torch.from_numpy(features)
