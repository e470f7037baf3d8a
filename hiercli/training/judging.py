"""A run's encoder, judged: on held-out training classes each epoch, on test classes once."""

import contextlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hiercli.collection import Collection
from hiercli.data.records import Dataset, Record
from hiercli.errors import DataError, TrainingError
from hiercli.evaluation import relevance
from hiercli.evaluation.retrieval import RetrievalScores, score
from hiercli.evaluation.taxonomy import judge_points
from hiercli.files import write_text
from hiercli.images import Preprocessing
from hiercli.nn.embedder import Embedder
from hiercli.reports import neighbours
from hiercli.training import onnx_backbone
from hiercli.training.distributed import World
from hiercli.training.loading import embed_records
from hiercli.training.recipe import Recipe
from hiercli.training.reporter import Reporter


class Judge:
    """Embeds photographs with the network as it stands, and scores them.

    Attributes:
        preprocessing: of its input; set once the network is there.
        problems: photographs that could not be read, each once, with the reason.
    """

    preprocessing: Preprocessing

    def __init__(
        self,
        recipe: Recipe,
        dataset: Dataset,
        device: torch.device,
        world: World,
        reporter: Reporter,
    ) -> None:
        self.recipe, self.dataset, self.device = recipe, dataset, device
        self.world, self.reporter = world, reporter
        self.problems = list(dataset.problems)
        self._traced: dict[int, onnx_backbone.OnnxBackbone | None] = {}

    def note(self, problems: Sequence[str]) -> None:
        """Remember what could not be read, to be reported at the end."""
        self.problems[:] = dict.fromkeys([*self.problems, *filter(None, problems)])

    def embed(
        self,
        embedder: Embedder,
        records: Sequence[Record],
        preprocessing: Preprocessing | None = None,
        what: str = "points",
    ) -> tuple[np.ndarray, list[int]]:
        """Points (or ``features``) and positions of the readable ``records``, each seen once.

        Unreadable ones are noted; the processes share the work and all get the whole.
        """
        was_training = embedder.training
        embedder.eval()
        own = range(self.world.rank, len(records), self.world.size)
        preprocessing = preprocessing or self.preprocessing
        features = self._features(embedder, preprocessing.size, len(records))

        def network(pixels: Tensor) -> Tensor:
            found = features(pixels)
            return embedder.points(found) if what == "points" else found

        points, kept, problems = embed_records(
            network,
            [records[place] for place in own],
            preprocessing,
            device=self.device,
            workers=self.recipe.machine.workers,
            on_one_core=isinstance(features, onnx_backbone.OnnxBackbone),
            progress=self.reporter.judged,
        )
        embedder.train(was_training)
        if not np.isfinite(points).all():
            raise TrainingError(
                f"the {what} are not finite, because the training has diverged. Lower --lr"
                + ("" if self.recipe.machine.precision == "fp32" else ", or use --precision fp32")
            )
        parts = self.world.collect((points, [own[place] for place in kept], problems))
        places = [place for _, own_places, _ in parts for place in own_places]
        for _, _, found in parts:
            self.note(found)
        order = np.argsort(places)
        points = np.concatenate([block for block, own_places, _ in parts if own_places] or [points])
        return points[order], [places[place] for place in order]

    def _features(
        self, embedder: Embedder, size: int, num_images: int
    ) -> Callable[[Tensor], Tensor]:
        """What gives features: ONNX Runtime, where so many images are embedded that it pays."""
        if size == self.preprocessing.size:  # as in the end all are
            part = self.dataset
            num_images += len(part.train) + len(part.query) + len(part.gallery or ())
        if size not in self._traced:
            if num_images < onnx_backbone.FEWEST_IMAGES:
                return embedder.features
            self._traced[size] = onnx_backbone.of(embedder.backbone, size, self.device)
        traced = self._traced[size]
        if traced is None:
            return embedder.features
        traced.put(embedder.backbone)
        return traced

    def validate(self, embedder: Embedder, held_out: Sequence[Record]) -> dict[str, float]:
        """Scores of held-out training classes, by name, the same in every process."""
        points, kept = self.embed(embedder, held_out)
        records = [held_out[place] for place in kept]
        found = score(points, [r.label for r in records], c=self.recipe.model.c, recall_at=(1,))
        scores = {"recall@1": found.recall_at[1], "map@r": found.map_at_r}
        scores |= self._agreement(points, records)
        return self.world.same({f"validation_{name}": value for name, value in scores.items()})

    def test(
        self, embedder: Embedder, out: Path, about: dict[str, float]
    ) -> tuple[dict[str, float], RetrievalScores | None]:
        """Score the test classes; write ``test.json`` and a page of neighbours into ``out``.

        Args:
            embedder: the network.
            out: folder of the run.
            about: what ``test.json`` is to say of the weights.

        Returns:
            the scores by name and in full; empty and ``None`` but in the main process.
        """
        points, kept = self.embed(embedder, self.dataset.query)
        queries = [self.dataset.query[place] for place in kept]
        gallery, gallery_points = None, None
        if self.dataset.gallery is not None:
            gallery_points, kept = self.embed(embedder, self.dataset.gallery)
            gallery = [self.dataset.gallery[place] for place in kept]
        if not self.world.is_main:
            return {}, None
        retrieval = score(
            points,
            [record.label for record in queries],
            gallery_points,
            None if gallery is None else [record.label for record in gallery],
            c=self.recipe.model.c,
            recall_at=self.dataset.recall_at,
        )
        scores = retrieval.to_dict() | self._agreement(points, queries)
        result = {"dataset": self.dataset.name, **about, **scores}
        write_text(out / "test.json", json.dumps(result, indent=2) + "\n")
        neighbours.write(
            out / "neighbours.html",
            points,
            queries,
            gallery_points,
            gallery,
            c=self.recipe.model.c,
            title=f"{self.dataset.name}: nearest neighbours on the test classes",
            scores=scores,
        )
        return scores, retrieval

    def _agreement(self, points: np.ndarray, records: Sequence[Record]) -> dict[str, float]:
        """Agreement with the data set's taxonomy; nothing where that is silent on these classes."""
        if not self.dataset.level_names:
            return {}
        try:
            images = Collection.of_records(
                points, records, self.dataset.level_names, c=self.recipe.model.c
            )
            found = judge_points(images).to_dict()
        except DataError:
            return {}
        with contextlib.suppress(DataError):  # no two images are related
            ranked = relevance.score_levels(images)
            found |= {"h-ap": ranked.average_precision}
            if np.isfinite(ranked.severity):
                found |= {"severity": ranked.severity}
        return found
