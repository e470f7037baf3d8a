"""`hier eval`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hiercli.cli import options
from hiercli.cli.render import say, stages, table, warn
from hiercli.errors import EXIT_SKIPPED, InputError
from hiercli.wording import counted

if TYPE_CHECKING:
    from hiercli.evaluation.evaluate import Evaluation, Scorable
    from hiercli.evaluation.judgement import Judgement


def evaluate(
    context: typer.Context,
    data: options.Data = "demo",
    checkpoint: Annotated[
        Path | None, typer.Option(help="Score this checkpoint of `hier train`.")
    ] = None,
    model: Annotated[Path | None, typer.Option(help="Score this encoder of `hier export`.")] = None,
    backbone: Annotated[
        str | None,
        typer.Option(help="Score the raw features of this timm model by cosine, as a baseline."),
    ] = None,
    image_size: options.ImageSize = None,
    pooling: options.Pooling = "",
    crop_share: options.CropShare = None,
    weights: options.Weights = "auto",
    points: Annotated[
        Path | None,
        typer.Option(
            help="Score embeddings with labels instead: .npy, .parquet, or .npz with points, "
            "labels and, optionally, c and proxies. Name their encoder with --model."
        ),
    ] = None,
    taxonomy: Annotated[
        str | None,
        typer.Option(
            help="Score the hierarchy and its controls against this taxonomy: a CSV (classes, then "
            "levels from fine to coarse), a Newick tree, or `own` (the levels of the data)."
        ),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw the scores of the hierarchy to this PNG file.")
    ] = None,
    abstain: Annotated[
        bool,
        typer.Option(
            "--abstain",
            help="Also score the verdicts of `hier search`: how often a class or group is named, "
            "how often it is right, and whether the probabilities come true.",
        ),
    ] = False,
    specificity: Annotated[
        bool,
        typer.Option(
            "--specificity",
            help="Also score the depth of images: whether it predicts wrong first hits, and falls "
            "when images are blurred, darkened, occluded, cropped or noisy.",
        ),
    ] = False,
    foreign: Annotated[
        str | None,
        typer.Option(
            help="With --specificity: also score whether depth separates the test images from "
            "these images of other kinds (a benchmark, a folder or a table)."
        ),
    ] = None,
    rerank: options.Rerank = False,
    per_class: Annotated[
        bool, typer.Option("--per-class", help="Add a row for each class.")
    ] = False,
    nested: options.Nested = False,
    data_root: options.DataRoot = None,
    strict: options.Strict = False,
    json_output: options.Json = False,
) -> None:
    """Score an encoder on the test classes of a data set: Recall@K, MAP@R, R-precision, in percent.

    If the data set has levels, also score how well the encoder agrees with them (1 is perfect):
    dendrogram purity at each level, correlation of merge heights, and accuracy on triplets of
    classes. The tree is average linkage of the classes.

    With --taxonomy, also score the tree of the proxies and the ranking of related classes. Each
    score has three controls: random proxies, average linkage of the same points, and a permuted
    taxonomy. `hp@k`, `h-ap`, `asi` and `ndcg` are at most 1. `severity` is the distance in levels
    of wrong first hits.

    Give one of --checkpoint, --model, --backbone and --points.

    Examples:

    - `hier eval --checkpoint runs/cub-001/best.pt --data cub`

    - `hier eval --model birds.onnx --data cub --json`

    - `hier eval --backbone resnet50 --data photos/`

    - `hier eval --model birds.onnx --data cub --taxonomy own --plot judgement.png`

    - `hier eval --points vectors.npz --taxonomy birds.nwk`

    - `hier eval --model birds.onnx --data cub --abstain`

    - `hier eval --model birds.onnx --data cub --rerank`

    - `hier eval --model birds.onnx --data cub --specificity --foreign cars`
    """
    given = [option for option in (checkpoint, model, backbone) if option is not None]
    if points is None and len(given) != 1:
        raise InputError(f"expected one of --checkpoint, --model and --backbone, got {len(given)}")
    if foreign is not None and not specificity:
        raise InputError("--foreign belongs to --specificity. Add --specificity")
    if backbone is None:
        options.refuse(context, options.OF_BACKBONE, "--backbone")
    _require_usable(plot, taxonomy, [points, checkpoint, model], points is not None)
    if points is not None:
        _only(context, _WITH_POINTS)
        found = _of_points(points, model, taxonomy, plot, abstain, rerank)
    else:
        from hiercli.evaluation.evaluate import evaluate as score

        scored: Scorable | Path = (
            checkpoint
            or model
            or _baseline(str(backbone), weights, image_size, pooling, crop_share)
        )
        with stages() as told:
            found = score(
                scored, data, data_root=data_root, nested=nested, taxonomy=taxonomy, strict=strict,
                abstain=abstain, reranked=rerank, specificity=specificity, foreign=foreign,
                progress=told,
            )  # fmt: skip
    _report(found, data if points is None else str(points), per_class, points is None, json_output)
    if found.judgement is not None and plot is not None:
        from hiercli.reports import judgement

        name = points.name if points else f"{Path(given[0]).name} on {Path(data).name}"
        judgement.draw(found.judgement, plot, name)
        say(f"{plot}: a plot of the scores of the hierarchy")
    if found.problems:
        raise typer.Exit(EXIT_SKIPPED)


def _report(
    found: "Evaluation", name: str, per_class: bool, is_test: bool, json_output: bool
) -> None:
    for note in found.notes:
        say(f"note: {note}")
    for problem in found.problems:
        warn(problem)
    if json_output:
        key = "dataset" if is_test else "points"
        print(json.dumps(_as_json(found, key, per_class and is_test)))
    else:
        _show(found, name, per_class, is_test)


def _require_usable(
    plot: Path | None, taxonomy: str | None, named: list[Path | None], of_points: bool
) -> None:
    """Refuse files that cannot be read or written, before any work is done."""
    if plot is not None:
        from hiercli.files import require_apart, require_replaceable

        require_replaceable(plot)
        if plot.suffix.lower() != ".png":
            raise InputError(f"expected --plot to name a .png file, got {plot}")
        files = [*named, Path(taxonomy) if taxonomy else None]
        require_apart(plot, [file for file in files if file is not None])
        if taxonomy is None and not of_points:
            raise InputError("--plot draws the scores of the hierarchy. Add --taxonomy")
    if taxonomy not in (None, "own") and not Path(str(taxonomy)).is_file():
        raise InputError(
            f"expected a taxonomy as CSV or Newick, or `own`, but {taxonomy} is missing"
        )


_WITH_POINTS = ("--model", "--taxonomy", "--plot", "--abstain", "--rerank", "--json")


def _only(context: typer.Context, goes_with: Sequence[str]) -> None:
    if other := set(options.given(context)) - {"--points", *goes_with}:
        raise InputError(
            f"--points can be combined only with {', '.join(goes_with)}, got {min(other)}"
        )


def _of_points(
    points: Path,
    model: Path | None,
    taxonomy: str | None,
    plot: Path | None,
    abstain: bool,
    rerank: bool,
) -> "Evaluation":
    from hiercli.evaluation.evaluate import evaluate_points
    from hiercli.files import require_apart
    from hiercli.hierarchy.tree import images_of

    collection, files = images_of(points, model)
    require_apart(plot, files)
    if plot is not None and plot.exists():
        require_apart(plot, collection.paths or ())
    with stages() as told:
        return evaluate_points(
            collection,
            taxonomy,
            name=str(points),
            abstain=abstain,
            reranked=rerank,
            progress=told,
        )


def _baseline(
    name: str, weights: str, image_size: int | None, pooling: str, crop_share: float | None
) -> "Scorable":
    from hiercli.training.embedding import TorchEncoder

    return TorchEncoder.from_backbone(
        name, weights=weights, image_size=image_size, pooling=pooling, crop_share=crop_share
    )


def _as_json(found: "Evaluation", key: str, per_class: bool) -> dict[str, object]:
    result: dict[str, object] = {key: found.name, **found.to_dict()}
    if key == "dataset":
        result["skipped"] = len(found.problems)
    if per_class:
        result["per_class"] = {
            name: {"queries": count, "recall@1": recall, "r_precision": precision}
            for name, (count, recall, precision) in found.retrieval.per_class.items()
        }
    return result


def _show(found: "Evaluation", name: str, per_class: bool, is_test: bool) -> None:
    values = {**found.retrieval.to_dict(), **found.agreement}
    rows = [[key, f"{value:g}"] for key, value in values.items()]
    title = f"{name}: {found.num_classes} test classes" if is_test else name
    title += ", hits re-ranked" if found.reranked else ""
    table(title, ["", "test" if is_test else "score"], rows)
    if (verdicts := found.abstention) is not None:
        unknown = f", {verdicts.num_unknown} of classes that the index does not have"
        told = counted(verdicts.num_queries, "query", "queries")
        title = f"verdicts on {told}{unknown if verdicts.num_unknown else ''}"
        table(title, ["", "share"], [[key, f"{x:g}"] for key, x in verdicts.to_dict().items()])
    if (deep := found.specificity) is not None:
        rows = [[key, f"{x:g}"] for key, x in deep.to_dict().items()]
        table("depth of images (specificity)", ["", "score"], rows)
    if per_class:
        first = min(found.retrieval.recall_at)
        detail = [
            [label, str(count), f"{recall:.1f}", f"{precision:.1f}"]
            for label, (count, recall, precision) in found.retrieval.per_class.items()
        ]
        table("", ["class", "queries", f"recall@{first}", "r_precision"], detail)
    if found.judgement is not None:
        _show_judgement(found.judgement)


def _show_judgement(judged: "Judgement") -> None:
    rows = [
        [name, *(f"{scores[name]:.3f}" if name in scores else ""
                 for scores in judged.columns.values())]
        for name in judged.names
    ]  # fmt: skip
    title = f"Scores of the hierarchy: {judged.num_photos} images of {judged.num_classes} classes"
    table(title, ["", *judged.columns], rows)
