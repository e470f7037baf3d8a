"""`hier eval`."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hiercli.cli import options
from hiercli.cli.render import progress, say, table, warn
from hiercli.errors import EXIT_SKIPPED, DataError, InputError

if TYPE_CHECKING:
    from hiercli.data.records import Dataset
    from hiercli.data.taxonomy import Taxonomy
    from hiercli.evaluation.judgement import Judgement
    from hiercli.evaluation.retrieval import RetrievalScores


def evaluate(
    context: typer.Context,
    data: options.Data = "demo",
    checkpoint: Annotated[Path | None, typer.Option(help="Checkpoint of `hier train`.")] = None,
    model: Annotated[Path | None, typer.Option(help="Encoder of `hier export`.")] = None,
    backbone: Annotated[
        str | None,
        typer.Option(help="timm model: score its raw features by cosine, as a baseline."),
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(help="Side of the pictures in pixels, with --backbone.")
    ] = None,
    weights: Annotated[
        str, typer.Option(help="Weights for --backbone, as in `hier train`.")
    ] = "auto",
    points: Annotated[
        Path | None,
        typer.Option(
            help="Score embeddings instead: .npy, .parquet, or .npz with points, labels, c and "
            "proxies. With --model: the encoder that made them."
        ),
    ] = None,
    taxonomy: Annotated[
        str | None,
        typer.Option(
            help="Judge the hierarchy too, beside its controls, against a CSV (classes, then "
            "levels from fine to coarse), a Newick tree, or `own`: that of the data set."
        ),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Write the judgement as a picture (PNG).")
    ] = None,
    per_class: Annotated[bool, typer.Option("--per-class", help="Add a row a class.")] = False,
    data_root: options.DataRoot = None,
    strict: options.Strict = False,
    json_output: options.Json = False,
) -> None:
    """Score an encoder on the test classes of a data set: Recall@K, MAP@R, R-precision, in percent.

    Where the data set has a taxonomy, also how well the encoder agrees with it (1 is perfect):
    dendrogram purity at each level and correlation of heights of the tree that average linkage
    grows of the classes, and accuracy on triplets of classes.

    With --taxonomy all that is known of a hierarchy: the tree of the proxies over these classes and
    rankings that know how wrong a wrong answer is, each beside random proxies, average linkage of
    the same points, and a permuted taxonomy. `hp@k`, `h-ap`, `asi` and `ndcg` are at most 1;
    `severity` is how far away, in levels, the wrong first neighbours are.

    Give one of --checkpoint, --model, --backbone and --points.

    Examples:

    - `hier eval --checkpoint runs/cub-001/best.pt --data cub`

    - `hier eval --model birds.onnx --data cub --json`

    - `hier eval --backbone resnet50 --data photos/`

    - `hier eval --model birds.onnx --data cub --taxonomy own --plot judgement.png`

    - `hier eval --points vectors.npz --taxonomy birds.nwk`
    """
    given = [option for option in (checkpoint, model, backbone) if option is not None]
    if points is None and len(given) != 1:
        raise InputError(
            f"expected one of --checkpoint, --model and --backbone, got {len(given)} of them"
        )
    if plot is not None:
        from hiercli.files import require_apart, require_replaceable

        require_replaceable(plot)
        if plot.suffix.lower() != ".png":
            raise InputError(f"expected --plot with a name that ends in .png, got {plot}")
        named = [points, checkpoint, model, Path(taxonomy) if taxonomy else None]
        require_apart(plot, [file for file in named if file is not None])
        if taxonomy is None and points is None:
            raise InputError("--plot draws a judgement: add --taxonomy")
    if taxonomy not in (None, "own") and not Path(str(taxonomy)).is_file():
        raise InputError(
            f"expected a taxonomy as CSV or Newick, or `own`, but {taxonomy} is missing"
        )
    if points is not None:
        goes_with = {"--points", "--model", "--taxonomy", "--plot", "--json"}
        if other := [name for name in options.given(context) if name not in goes_with]:
            raise InputError(
                "expected --points alone or with --model (the encoder that made them), --taxonomy, "
                f"--plot and --json, got {other[0]} too"
            )
        _score_points(points, model, taxonomy, plot, json_output)
        return
    from hiercli.data import catalogue
    from hiercli.data.records import require_answers
    from hiercli.evaluation.retrieval import score
    from hiercli.evaluation.taxonomy import judge_points

    if model is not None:
        scored = _from_onnx(model)
    else:
        scored = _from_torch(checkpoint, backbone, weights, image_size)
    with progress("drawing the demo flora") as drawing:
        dataset = catalogue.load(
            data, data_root, seed=scored.seed, to_train=False, progress=drawing
        )
    for note in dataset.notes:
        say(f"note: {note}")
    if not dataset.query:
        raise InputError(f"{data} has no test pictures: mark some with split=test in its manifest")
    problems = list(dataset.problems)
    if strict and problems:
        raise InputError(problems[0])
    require_answers(dataset)
    lineages: Taxonomy | None = None
    if taxonomy is not None:  # before the work, which a taxonomy of other classes would waste
        lineages = _read_lineages(taxonomy, dataset)
    tested = {record.label for record in dataset.query}
    familiar = sorted(tested & set(scored.class_names))
    if familiar:
        say(
            f"note: {len(familiar)} of the {len(tested)} test classes have the name of a class "
            f"that the encoder was trained on ({', '.join(familiar[:3])}"
            f"{', ...' if len(familiar) > 3 else ''}): if they are the same, they are not unseen"
        )

    def embedded(records: Sequence[Any], task: str) -> tuple[Any, list[Any]]:
        with progress(task) as bar:
            points, kept, reasons = scored.embed(records, bar)
        if strict and reasons:
            raise InputError(reasons[0])
        problems.extend(reasons)
        return points, [records[index] for index in kept]

    queries, answered = embedded(dataset.query, "embedding")
    query_labels = [record.label for record in answered]
    gallery, gallery_labels = None, None
    if dataset.gallery is not None:
        gallery, stored = embedded(dataset.gallery, "embedding the gallery")
        gallery_labels = [record.label for record in stored]
    with progress("searching") as bar:
        scores = score(
            queries, query_labels, gallery, gallery_labels,
            c=scored.c, recall_at=dataset.recall_at, progress=bar,
        )  # fmt: skip
    for problem in problems:
        warn(problem)
    tell_unanswerable(scores)
    values = scores.to_dict()
    if dataset.levels:
        try:
            values |= judge_points(queries, answered, dataset.levels, scored.c).to_dict()
        except DataError as silent:
            say(f"note: {silent}")
    judged = None
    if lineages is not None:
        judged = _judge(queries, query_labels, lineages, scored.c, scored.proxies)
    if json_output:
        result: dict[str, Any] = {"dataset": dataset.name, **values}
        result |= {"skipped": len(problems)}
        if judged is not None:
            result["judgement"] = judged.columns
        if per_class:
            result["per_class"] = {
                name: {"queries": count, "recall@1": recall, "r_precision": precision}
                for name, (count, recall, precision) in scores.per_class.items()
            }
        print(json.dumps(result))
    else:
        rows = [[name, f"{value:g}"] for name, value in values.items()]
        table(f"{data}: {len(tested)} test classes", ["", "test"], rows)
        if per_class:
            first = min(scores.recall_at)
            detail = [
                [name, str(count), f"{recall:.1f}", f"{precision:.1f}"]
                for name, (count, recall, precision) in scores.per_class.items()
            ]
            table("", ["class", "queries", f"recall@{first}", "r_precision"], detail)
        if judged is not None:
            _show_judgement(judged)
    if judged is not None and plot is not None:
        _draw(judged, plot, f"{Path(given[0]).name} on {Path(data).name}")
    if problems:
        raise typer.Exit(EXIT_SKIPPED)


def tell_unanswerable(scores: "RetrievalScores") -> None:
    """Say which queries the scores leave out."""
    if scores.unanswerable:
        say(
            f"note: {scores.unanswerable} of {scores.unanswerable + scores.num_queries} queries "
            "have no other picture of their class to find, and are left out of the scores"
        )


def _read_lineages(taxonomy: str, dataset: "Dataset") -> "Taxonomy":
    from hiercli.data.records import class_names
    from hiercli.data.taxonomy import Taxonomy
    from hiercli.evaluation import lineages
    from hiercli.evaluation.taxonomy import known_lineages

    if taxonomy == "own":
        return Taxonomy(dataset.levels, known_lineages(dataset.query, dataset.levels))
    return _told(lineages.read(Path(taxonomy), class_names(dataset.query)))


def _told(taxonomy: "Taxonomy") -> "Taxonomy":
    for note in taxonomy.notes:
        say(f"note: {note}")
    return taxonomy


def _judge(
    points: Any, labels: Sequence[str], known: "Taxonomy | None", c: float | None, proxies: Any
) -> "Judgement":
    from hiercli.evaluation import judgement

    levels, lines = (known.levels, known.lines or {}) if known else ((), {})
    with progress("judging") as bar:
        judged = judgement.judge(points, labels, lines, levels, c=c, proxies=proxies, progress=bar)
    if judged.unknown:
        say(
            f"note: {len(judged.unknown)} classes are not in the taxonomy and were left out: "
            f"{', '.join(judged.unknown[:5])}"
        )
    return judged


def _show_judgement(judged: "Judgement") -> None:
    rows = [
        [name, *(f"{scores[name]:.3f}" if name in scores else ""
                 for scores in judged.columns.values())]
        for name in judged.names
    ]  # fmt: skip
    title = f"The hierarchy, judged on {judged.num_photos} photos of {judged.num_classes} classes"
    table(title, ["", *judged.columns], rows)


def _draw(judged: "Judgement", plot: Path, title: str) -> None:
    from hiercli.reports import judgement

    judgement.draw(judged, plot, title)
    say(f"{plot}: the judgement as a picture")


def _score_points(
    source: Path, model: Path | None, taxonomy: str | None, plot: Path | None, json_output: bool
) -> None:
    from hiercli.cli import trees
    from hiercli.evaluation.lineages import read
    from hiercli.evaluation.retrieval import score

    if taxonomy == "own":
        raise InputError("embeddings have no taxonomy of their own: name a CSV or Newick file")
    photos = trees.photos_of(None, source, model)
    photos.require_apart(plot)
    if photos.labels is None:
        raise InputError(
            f"{source} names no classes: scores need labels (an array or column of that name, or "
            "paths in folders of their class)"
        )
    lineages = None
    if taxonomy is not None:
        lineages = _told(read(Path(taxonomy), sorted(set(photos.labels))))
    with progress("searching") as bar:
        scores = score(photos.points, photos.labels, c=photos.c, progress=bar)
    tell_unanswerable(scores)
    judged = _judge(photos.points, photos.labels, lineages, photos.c, photos.proxies)
    if json_output:
        print(json.dumps({"points": str(source), **scores.to_dict(), "judgement": judged.columns}))
    else:
        rows = [[name, f"{value:g}"] for name, value in scores.to_dict().items()]
        table(str(source), ["", "score"], rows)
        _show_judgement(judged)
    if plot is not None:
        _draw(judged, plot, source.name)


Embed = Callable[[Sequence[Any], Callable[[int, int], None]], tuple[Any, list[int], list[str]]]


@dataclass(frozen=True)
class _Scored:
    """What is scored: how it embeds, its curvature (``None``: cosine), and what it learned from."""

    embed: Embed
    c: float | None
    seed: int = 0
    class_names: Sequence[str] = ()
    proxies: Any = None


def _from_onnx(model: Path) -> _Scored:
    from hiercli.encoder.session import EncoderSession

    session = EncoderSession(model)

    def embed(records: Sequence[Any], bar: Any) -> tuple[Any, list[int], list[str]]:
        done = session.embed([record.path for record in records], progress=bar)
        return done.points, done.kept, [reason for _, reason in done.problems]

    metadata = session.metadata
    return _Scored(embed, metadata.c, metadata.seed, metadata.class_names, metadata.proxies)


def _from_torch(
    checkpoint: Path | None, backbone: str | None, weights: str, image_size: int | None
) -> _Scored:
    from hiercli.memory import keep_freed_memory
    from hiercli.nn import backbone as backbones
    from hiercli.training import checkpoint as checkpoints
    from hiercli.training.device import choose_device
    from hiercli.training.loading import embed_records

    device = choose_device("auto")
    if device.type == "cpu":
        keep_freed_memory()
    network: Any
    if checkpoint is not None:
        encoder = checkpoints.load(checkpoint)
        network, preprocessing = encoder.embedder, encoder.preprocessing
        facts: Any = (
            encoder.recipe.c, encoder.recipe.seed, encoder.class_names, encoder.proxies.numpy()
        )  # fmt: skip
    else:
        assert backbone is not None
        network = backbones.create(backbone, weights=weights, image_size=image_size).eval()
        preprocessing, facts = backbones.preprocessing(network, size=image_size), (None,)
    network.to(device)

    def embed(records: Sequence[Any], bar: Any) -> tuple[Any, list[int], list[str]]:
        return embed_records(
            network, records, preprocessing, device=device, workers=1, progress=bar
        )

    return _Scored(embed, *facts)
