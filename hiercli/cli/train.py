"""`hier train`: its flags are the fields of `Recipe`, so the two cannot drift apart."""

import dataclasses
import inspect
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from hiercli import extras
from hiercli.cli import options
from hiercli.cli.render import TrainingProgress, progress, say, table, warn
from hiercli.errors import EXIT_SKIPPED, HierError, InterruptError, TrainingError
from hiercli.training import recipe as recipes

if TYPE_CHECKING:
    from hiercli.data.records import Dataset
    from hiercli.evaluation.comparison import Comparison
    from hiercli.training.concluding import Result
    from hiercli.training.distributed import World
    from hiercli.training.untrained import Baseline


def _train(
    data: options.Data = "demo",
    recipe: Annotated[
        str,
        typer.Option(help="Use this shipped recipe (see --list-recipes) or .toml file."),
    ] = recipes.DEFAULT,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Write the run to this folder.", show_default="a new numbered folder in runs/"
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume the interrupted run in --out.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the run in --out.")
    ] = False,
    download: Annotated[
        bool, typer.Option("--download", help="Download the benchmark first if it is missing.")
    ] = False,
    baseline: Annotated[
        bool,
        typer.Option(
            "--baseline",
            help="Also train with the metric loss alone, into OUT/baseline, and report whether the "
            "hierarchy helps.",
        ),
    ] = False,
    untrained: Annotated[
        bool,
        typer.Option(
            "--untrained/--no-untrained",
            help="Also score the untrained backbone on the test classes, and report whether "
            "training helps.",
        ),
    ] = True,
    test_share: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=0.95,
            show_default="0.5",
            help="Keep this share of the classes of a folder or table for the test (0: train on "
            "all).",
        ),
    ] = None,
    nested: options.Nested = False,
    list_recipes: Annotated[
        bool, typer.Option("--list-recipes", help="Print the names of the shipped recipes.")
    ] = False,
    data_root: options.DataRoot = None,
    json_output: options.Json = False,
    **settings: Any,
) -> None:
    """Train an encoder and score it on classes that it has not seen.

    Every setting of the recipe is also an option that overrides it. The folder of the run contains
    best.pt, last.pt, config.toml, metrics.jsonl, curves.png, TensorBoard curves and a page of
    neighbours. At the end, the scores are compared with those of the untrained backbone.

    Examples:

    - `hier train --data cub`

    - `hier train --data photos/ --epochs 20 --out runs/mine`

    - `hier train --data photos/ --out runs/mine --epochs 20 --resume`

    - `hier train --data photos/ --baseline`

    - `hier train --data cub --processes 2`

    - `torchrun --nproc-per-node 2 -m hiercli train --data cub`
    """
    if list_recipes:
        print("\n".join(recipes.names()))
        return
    extras.require("torch")
    chosen = {name: value for name, value in settings.items() if value is not None}
    resolved = recipes.load(recipe, chosen)
    if resume and out is None:
        raise TrainingError("--resume needs --out. Name the folder of the run to resume")

    def loaded() -> "Dataset":
        return _load(data, data_root, download, resolved.run.seed, test_share, nested)

    # A mistake is reported before the seconds that torch takes to import.
    dataset = None if "LOCAL_RANK" in os.environ else loaded()
    if dataset is not None:
        _describe(dataset, data)

    from hiercli.training import distributed
    from hiercli.training.baseline import metric_loss_alone
    from hiercli.training.run_folder import numbered_folder

    if baseline:
        metric_loss_alone(resolved)  # refused now rather than after the first run
    if resolved.machine.processes > 1 and not distributed.is_launched():
        same_folder = () if out else ("--out", str(numbered_folder(Path("runs"), data)))
        distributed.launch(resolved.machine.processes, [*sys.argv[1:], *same_folder])
        return
    world, device = distributed.join(resolved.machine.device)
    if world.is_main:
        dataset = dataset or loaded()
    world.same(True)  # the others find it complete
    dataset = dataset or loaded()
    resolved = resolved.replace(device=device)
    target = world.same(out or numbered_folder(Path("runs"), data))
    runs = _run(
        resolved, dataset, target, world, resume=resume, overwrite=overwrite, baseline=baseline,
        untrained=untrained,
    )  # fmt: skip
    distributed.leave()
    if world.is_main:
        _report(runs, target, data, json_output)


@dataclasses.dataclass
class _Runs:
    """What was trained and what stands beside it."""

    result: "Result"
    plain: "Result | None" = None
    comparison: "Comparison | None" = None
    before: "Baseline | None" = None


def _load(
    data: str,
    data_root: Path | None,
    download: bool,
    seed: int,
    test_share: float | None,
    nested: bool,
) -> "Dataset":
    from hiercli.data import catalogue

    root = data_root or catalogue.default_root()
    if download:
        from hiercli.cli.data import fetch

        fetch(data, root)
    with progress("generating the demo data") as drawing:
        return catalogue.load(
            data, root, seed=seed, test_share=test_share, nested=nested, progress=drawing
        )


def _describe(dataset: "Dataset", data: str) -> None:
    from hiercli.labels import summary

    for note in dataset.notes:
        say(f"note: {note}")
    say(summary((*dataset.train, *dataset.query), dataset.level_names, data))


def _run(
    recipe: recipes.Recipe,
    dataset: "Dataset",
    target: Path,
    world: "World",
    *,
    resume: bool,
    overwrite: bool,
    baseline: bool,
    untrained: bool,
) -> _Runs:
    """Train, and score what the result is compared with."""
    from hiercli.training import trainer
    from hiercli.training.baseline import train_baseline

    reporter = TrainingProgress()
    try:
        runs = _Runs(
            trainer.train(
                recipe, dataset, target, reporter, resume=resume, overwrite=overwrite, world=world
            )
        )
        if baseline:
            if world.is_main:
                say("training the baseline: the metric loss alone")
            runs.plain, runs.comparison = train_baseline(
                runs.result, recipe, dataset, reporter, world
            )
        if untrained and recipe.run.epochs and world.is_main and runs.result.test:
            from hiercli.training.untrained import score_untrained

            try:
                runs.before = score_untrained(
                    recipe, dataset, target,
                    lambda _, done, total: reporter.judged(done, total), runs.result.retrieval,
                )  # fmt: skip
            except HierError as error:  # what was trained is not lost for that
                say(f"note: the untrained backbone cannot be scored: {error}")
        return runs
    except KeyboardInterrupt as error:
        raise InterruptError(
            f"interrupted. To resume, run the same command with --out {target} --resume"
        ) from error
    finally:
        reporter.close()


def _report(runs: _Runs, target: Path, data: str, json_output: bool) -> None:
    result = runs.result
    for problem in result.problems:
        warn(problem)
    if result.familiar and result.test:
        some = ", ".join(result.familiar[:3]) + (", ..." if len(result.familiar) > 3 else "")
        say(f"note: {len(result.familiar)} of the test classes are also training classes, so they "
            f"are not unseen: {some}")  # fmt: skip
    for note in result.retrieval.notes if result.retrieval else ():
        say(f"note: {note}")
    if json_output:
        print(json.dumps(_as_json(runs, target)))
    else:
        _show(runs, target, data)
    if result.problems:
        raise typer.Exit(EXIT_SKIPPED)


def _as_json(runs: _Runs, target: Path) -> dict[str, Any]:
    result = runs.result
    printed = {"out": str(target), "best_epoch": result.best_epoch}
    printed |= {"interpolation": result.interpolation, **result.test}
    printed |= {"classes_trained_on": result.familiar}
    if runs.plain and runs.comparison:
        printed |= {"baseline": runs.plain.test, "verdict": runs.comparison.verdict}
        printed |= {"comparison": dataclasses.asdict(runs.comparison)}
    if runs.before:
        printed |= {"untrained": dataclasses.asdict(runs.before)}
        printed |= {"training": runs.before.verdict(result.test)}
    return printed


def _show(runs: _Runs, target: Path, data: str) -> None:
    result, before = runs.result, runs.before
    columns = {"trained": result.test}
    if runs.plain:
        columns = {"with hierarchy": result.test, "metric loss alone": runs.plain.test}
    if before:
        pooling = before.pooling or "own"
        columns[f"untrained ({pooling} pooling, crop {before.crop_share:g})"] = before.scores
    scores = [
        [name, *(f"{one[name]:g}" if name in one else "" for one in columns.values())]
        for name in result.test
    ]
    title = f"{data}: {'test' if result.familiar else 'unseen'} classes, weights of epoch "
    if scores:
        table(f"{title}{result.best_epoch} ({result.chosen_by})", ["", *columns], scores)
    if before:
        moved = ", ".join(
            f"{name} {before.scores[name]:.1f} -> {result.test[name]:.1f}"
            for name in ("recall@1", "map@r")
            if name in before.scores
        )
        say(f"{before.verdict(result.test)} ({moved})")
    if runs.comparison:
        print(f"hierarchy: {runs.comparison.verdict}")
    made = ("best.pt", "curves.png", "neighbours.html")
    say(f"in {target}: " + ", ".join(name for name in made if (target / name).exists()))


def _with_recipe_options(function: Any) -> Any:
    """``function`` with one optional parameter a setting in place of ``**settings``."""
    signature = inspect.signature(function)
    own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    added = []
    for group, setting in recipes.settings():
        choices = setting.metadata["choices"]
        text = setting.metadata["doc"] + (f" ({', '.join(choices)})" if choices else "")
        kind = type(setting.default)
        flag = "--" + setting.name.replace("_", "-")
        names = (f"{flag}/--no-{flag[2:]}",) if kind is bool else (flag,)
        option = typer.Option(*names, help=text + ".", rich_help_panel=group.capitalize())
        added.append(
            inspect.Parameter(
                setting.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=None,
                annotation=Annotated[kind | None, option],
            )
        )
    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own] + added
    function.__signature__ = signature.replace(parameters=parameters)
    function.__annotations__ = {p.name: p.annotation for p in parameters}
    return function


_OWN_GROUPS = {
    **dict.fromkeys(("data", "data_root", "download", "nested", "test_share"), "Data"),
    **dict.fromkeys(
        ("recipe", "out", "resume", "overwrite", "baseline", "untrained", "list_recipes",
         "json_output", "help"), "Run"
    ),
}  # fmt: skip
"""Options that are no settings of a recipe, by heading."""


class GroupedCommand(TyperCommand):
    """A command whose help has a heading for each group of options, and shows every default."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the options under the name of their group."""
        by_group = recipes.load(recipes.DEFAULT).to_dict()
        usual = {name: value for group in by_group.values() for name, value in group.items()}
        groups: dict[str, list[tuple[str, str]]] = {name.capitalize(): [] for name in by_group}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is None:
                continue
            name, text = str(parameter.name), record[1]
            if name in usual:
                value = usual[name]
                told = str(value).lower() if isinstance(value, bool) else str(value)
                text += f"  [recipe {recipes.DEFAULT}: {told or 'empty'}]"
            elif "default: " not in text and name != "help":
                text += "  [default: off]"
            group = _OWN_GROUPS.get(name) or parameter.rich_help_panel  # type: ignore[attr-defined]
            groups[group].append((record[0], text))
        for name, records in groups.items():
            with formatter.section(name):
                formatter.write_dl(records)


COMMAND_CLASS = GroupedCommand
train = _with_recipe_options(_train)
