"""Score an encoder on the test part of a data set, or vectors that anybody made."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from hiercli.collection import Collection
from hiercli.data import catalogue, listing
from hiercli.data.records import Dataset, class_names, require_answers
from hiercli.data.taxonomy import Taxonomy
from hiercli.encoder.encoder import Encoder
from hiercli.errors import DataError, InputError
from hiercli.evaluation import abstention, judgement, lineages
from hiercli.evaluation.abstention import Abstention
from hiercli.evaluation.retrieval import RetrievalScores, score
from hiercli.evaluation.specificity import Embedding, Specificity
from hiercli.evaluation.specificity import judge as judge_depth
from hiercli.evaluation.taxonomy import judge_points, known_lineages
from hiercli.labels import Record
from hiercli.wording import counted

Progress = Callable[[str, int, int], None]
"""Called with (stage, done, total)."""


class Scorable(Embedding, Protocol):
    """What can be scored: an exported encoder, or a network of torch."""

    @property
    def seed(self) -> int:
        """Of its training run, which parted the classes of a folder."""

    @property
    def class_names(self) -> Sequence[str]:
        """Classes that it was trained on."""


@dataclass(frozen=True)
class Evaluation:
    """How well an encoder finds images of the same class, and whether its hierarchy is real.

    Attributes:
        name: of the data set.
        retrieval: Recall@K, MAP@R and R-precision in percent.
        agreement: how far distances between classes agree with the levels of the data set, by
            name, 1 is perfect; empty where it has none.
        judgement: of the hierarchy beside its controls, where a taxonomy was given.
        num_classes: test classes.
        problems: images that were passed over, with the reason.
        notes: what people should know, each a sentence.
        abstention: of the verdicts that the images give of each other, where that was asked for.
        reranked: whether hits were scored in the order that `reranking` gives them.
        specificity: what the depth of images tells, where that was asked for.
    """

    name: str
    retrieval: RetrievalScores
    agreement: dict[str, float]
    judgement: judgement.Judgement | None
    num_classes: int
    problems: list[str]
    notes: list[str]
    abstention: Abstention | None = None
    reranked: bool = False
    specificity: Specificity | None = None

    def to_dict(self) -> dict[str, Any]:
        """The scores by name."""
        found: dict[str, Any] = {**self.retrieval.to_dict(), **self.agreement}
        if self.reranked:
            found["reranked"] = True
        if self.judgement is not None:
            found["judgement"] = self.judgement.columns
        if self.abstention is not None:
            found["abstention"] = self.abstention.to_dict()
        if self.specificity is not None:
            found["specificity"] = self.specificity.to_dict()
        return found


def evaluate(
    encoder: "Scorable | Path | str",
    data: "Dataset | Path | str" = "demo",
    *,
    data_root: Path | None = None,
    nested: bool = False,
    taxonomy: Path | str | None = None,
    strict: bool = False,
    abstain: bool = False,
    reranked: bool = False,
    specificity: bool = False,
    foreign: Path | str | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Score an encoder on the test classes of a data set.

    Examples:
        >>> found = evaluate("birds.onnx", "photos/")
        >>> found.num_classes
        4
        >>> 0 <= found.retrieval.recall_at[1] <= 100
        True

    Args:
        encoder: an exported encoder or its path (``.onnx``), the path of a checkpoint (``.pt``), or
            anything that embeds records.
        data: a benchmark, ``demo``, a folder of class folders, a table of images, or a data set.
        data_root: where benchmarks live.
        nested: read folders in folders as levels.
        taxonomy: judge the hierarchy too, against a CSV, a Newick tree, or ``own``: the levels of
            the data set.
        strict: stop where an image cannot be read.
        abstain: score verdicts on the test images too, see `abstention`.
        reranked: score hits in the order that `reranking` gives them.
        specificity: score the depth of images too, see `specificity`.
        foreign: with ``specificity``, data of another kind, as for ``data``: the test images of a
            benchmark, or all images of a folder.
        progress: called with (stage, done, total).

    Raises:
        DataError: the data set has no test part that can be scored.
        InputError: a file is missing, or an image cannot be read under ``strict``.
    """
    scored = _opened(encoder)
    told = progress or (lambda *_: None)
    if isinstance(data, Dataset):
        dataset = data
    else:
        dataset = catalogue.load(
            str(data), data_root, seed=scored.seed, nested=nested, to_train=False,
            progress=lambda done, total: told("generating the demo data", done, total),
        )  # fmt: skip
    if not dataset.query:
        raise InputError(
            f"{dataset.name} has no test images. Mark some rows of its table with the split test"
        )
    notes, problems = list(dataset.notes), list(dataset.problems)
    if strict and problems:
        raise InputError(problems[0])
    require_answers(dataset)
    # Before the work, which a taxonomy of other classes would waste.
    known = None if taxonomy is None else _taxonomy(taxonomy, dataset)
    notes += known.notes if known else ()
    strange = () if foreign is None else _foreign(str(foreign), data_root)
    notes += _familiar(dataset, scored.class_names)

    def pass_over(reason: str) -> None:
        if strict:
            raise InputError(reason)
        problems.append(reason)

    def embedded(records: Sequence[Record], stage: str) -> Collection:
        return scored.embed_records(
            records, dataset.level_names, pass_over, lambda done, total: told(stage, done, total)
        )

    queries = embedded(dataset.query, "embedding")
    gallery = (
        None if dataset.gallery is None else embedded(dataset.gallery, "embedding the gallery")
    )
    retrieval = score(
        queries.points, _labels(queries),
        None if gallery is None else gallery.points, None if gallery is None else _labels(gallery),
        c=queries.c, recall_at=dataset.recall_at, reranked=reranked,
        progress=lambda done, total: told("searching", done, total),
    )  # fmt: skip
    notes += retrieval.notes
    agreement: dict[str, float] = {}
    if dataset.level_names:
        try:
            agreement = judge_points(queries).to_dict()
        except DataError as silent:
            notes.append(str(silent))
    judged = None if known is None else _judge(queries, known, notes, told)
    verdicts = _abstention(queries, notes, told) if abstain else None
    count = len(class_names(dataset.query))
    deep = None
    if specificity:
        deep = _depth(scored, queries, retrieval, strange, pass_over, notes, told)
    return Evaluation(
        dataset.name, retrieval, agreement, judged, count, problems, notes, verdicts, reranked, deep
    )


def evaluate_points(
    collection: Collection,
    taxonomy: Path | str | None = None,
    *,
    name: str = "points",
    abstain: bool = False,
    reranked: bool = False,
    progress: Progress | None = None,
) -> Evaluation:
    """Score vectors with labels: each searches all others. No proxies are needed.

    Examples:
        >>> points = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
        >>> found = evaluate_points(Collection(points=points, labels=["a", "a", "b", "b"]))
        >>> found.retrieval.recall_at[1]
        100.0

    Args:
        collection: of images with labels; without c they are compared by cosine.
        taxonomy: judge the hierarchy against a CSV, a Newick tree, or ``own``: their own levels.
        name: for the report.
        abstain: score verdicts too, see `abstention`.
        reranked: score hits in the order that `reranking` gives them.
        progress: called with (stage, done, total).

    Raises:
        InputError: there are no labels, or ``own`` without levels.
        DataError: no label stands twice.
    """
    told = progress or (lambda *_: None)
    if not collection.classes:
        raise InputError(
            f"expected labels in {name}, found none. Add an array or a column called labels, or "
            "keep the images in class folders"
        )
    known, notes = Taxonomy(), list[str]()
    if without := len(collection) - len(collection.labelled):
        notes.append(f"{counted(without, 'image')} without a label ignored")
    collection = collection.labelled
    if taxonomy == "own":
        known = Taxonomy(collection.level_names, collection.complete_lineages)
        if not known.lines:
            raise InputError(f"{name} has no levels. Name a CSV or Newick file with --taxonomy")
    elif taxonomy is not None:
        known = lineages.read(Path(taxonomy), collection.classes)
        notes += known.notes
    retrieval = score(
        collection.points, _labels(collection), c=collection.c, reranked=reranked,
        progress=lambda done, total: told("searching", done, total),
    )  # fmt: skip
    notes += retrieval.notes
    judged = _judge(collection, known, notes, told) if len(collection.classes) > 1 else None
    return Evaluation(
        name, retrieval, {}, judged, len(collection.classes), [], notes,
        _abstention(collection, notes, told) if abstain else None, reranked,
    )  # fmt: skip


def _opened(encoder: "Scorable | Path | str") -> Scorable:
    if not isinstance(encoder, Path | str):
        return encoder
    if Path(encoder).suffix.lower() == ".onnx":
        return Encoder(encoder)
    from hiercli.training.embedding import TorchEncoder

    return TorchEncoder.from_checkpoint(Path(encoder))


def _depth(
    scored: Embedding,
    queries: Collection,
    retrieval: RetrievalScores,
    foreign: Sequence[Record],
    skipped: Callable[[str], None],
    notes: list[str],
    told: Progress,
) -> Specificity | None:
    try:
        return judge_depth(
            scored, queries, retrieval.right, retrieval.places, foreign, skipped,
            lambda done, total: told("scoring depth", done, total),
        )  # fmt: skip
    except DataError as error:
        notes.append(f"depth cannot be scored: {error}")
        return None


def _foreign(data: str, root: Path | None) -> Sequence[Record]:
    """The test images of a benchmark, or all images of a folder or table."""
    if data in catalogue.NAMES:
        return catalogue.load(data, root, to_train=False).query
    return listing.gather([Path(data)]).records


def _labels(collection: Collection) -> Sequence[str]:
    assert collection.labels is not None
    return collection.labels


def _taxonomy(taxonomy: Path | str, dataset: Dataset) -> Taxonomy:
    if taxonomy == "own":
        return Taxonomy(dataset.level_names, known_lineages(dataset.query, dataset.level_names))
    return lineages.read(Path(taxonomy), class_names(dataset.query))


def _familiar(dataset: Dataset, trained: Sequence[str]) -> list[str]:
    """A sentence on test classes that have the name of one that was trained on."""
    tested = {record.label for record in dataset.query}
    familiar = sorted(tested & set(trained))
    if not familiar:
        return []
    return [
        f"{len(familiar)} of the {len(tested)} test classes have the name of a training class of "
        f"the encoder ({', '.join(familiar[:3])}{', ...' if len(familiar) > 3 else ''}): if the "
        "classes are the same, they are not unseen"
    ]


def _abstention(images: Collection, notes: list[str], told: Progress) -> Abstention | None:
    try:
        return abstention.judge(
            images, progress=lambda done, total: told("scoring verdicts", done, total)
        )
    except DataError as error:
        notes.append(f"verdicts cannot be scored: {error}")
        return None


def _judge(
    images: Collection, known: Taxonomy, notes: list[str], told: Progress
) -> judgement.Judgement:
    proxies: np.ndarray | None = images.proxies
    judged = judgement.judge(
        images.points, _labels(images), known.lines or {}, known.levels, c=images.c,
        proxies=proxies, progress=lambda done, total: told("scoring the hierarchy", done, total),
    )  # fmt: skip
    if judged.unknown:
        notes.append(
            "not in the taxonomy and not scored: "
            f"{counted(len(judged.unknown), 'class', 'classes')}, "
            f"{', '.join(judged.unknown[:5])}"
        )
    return judged
