"""`hier train`: its flags are the fields of `Recipe`, so the two cannot drift apart."""

import dataclasses
import inspect
import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from hiercli import extras
from hiercli.cli import options
from hiercli.cli.render import TrainingProgress, progress, say, table, warn
from hiercli.errors import EXIT_SKIPPED, InterruptError, TrainingError
from hiercli.training import recipe as recipes


def _train(
    data: options.Data = "demo",
    recipe: Annotated[
        str,
        typer.Option(help="A shipped recipe (see --list-recipes) or the path of a .toml file."),
    ] = recipes.DEFAULT,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the run; without it a new numbered one under runs/."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --out after an interruption.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the run in --out.")
    ] = False,
    download: Annotated[
        bool, typer.Option("--download", help="Fetch the benchmark first where it is missing.")
    ] = False,
    baseline: Annotated[
        bool,
        typer.Option(
            "--baseline",
            help="Train the metric loss alone too, with all else equal, into OUT/baseline, and say "
            "whether hierarchy helped.",
        ),
    ] = False,
    untrained: Annotated[
        bool,
        typer.Option(
            "--untrained/--no-untrained",
            help="Score the untrained backbone on the test classes too, and say whether training "
            "helped.",
        ),
    ] = True,
    test_share: Annotated[
        float,
        typer.Option(
            min=0,
            max=0.95,
            help="Keep this share of the classes of a folder or table for the test; 0: train on "
            "all.",
        ),
    ] = 0.5,
    nested: options.Nested = False,
    list_recipes: Annotated[
        bool, typer.Option("--list-recipes", help="Print the names of the shipped recipes.")
    ] = False,
    data_root: options.DataRoot = None,
    json_output: options.Json = False,
    **settings: Any,
) -> None:
    """Train an encoder and judge it once on classes that it never saw.

    Every setting of the recipe is also an option, which overrides it. The run's folder holds the
    configuration, metrics.jsonl, TensorBoard curves, last.pt and best.pt, curves.png and a page of
    neighbours.

    Examples:

    - `hier train --data cub`

    - `hier train --data photos/ --epochs 20 --out runs/mine`

    - `hier train --data photos/ --out runs/mine --epochs 20 --resume`

    - `hier train --data photos/ --baseline`

    - `hier train --data cub --processes 2`, or from torchrun itself:
      `torchrun --nproc-per-node 2 -m hiercli train --data cub`
    """
    if list_recipes:
        print("\n".join(recipes.names()))
        return
    extras.require("torch")
    chosen = {name: value for name, value in settings.items() if value is not None}
    resolved = recipes.load(recipe, chosen)
    if resume and out is None:
        raise TrainingError(
            "expected --out with --resume: name the folder of the run to go on with"
        )

    from hiercli.data import catalogue
    from hiercli.data.records import Dataset
    from hiercli.labels import summary

    root = data_root or catalogue.default_root()

    def fetched() -> Dataset:
        if download:
            _fetch(data, root)
        with progress("drawing the demo flora") as drawing:
            return catalogue.load(
                data, root, seed=resolved.seed, test_share=test_share, nested=nested,
                progress=drawing,
            )  # fmt: skip

    # A mistake is told before the seconds that torch takes to import.
    dataset = None if "LOCAL_RANK" in os.environ else fetched()
    for note in dataset.notes if dataset else ():
        say(f"note: {note}")
    if dataset is not None:
        say(summary((*dataset.train, *dataset.query), dataset.level_names, data))

    from hiercli.training import distributed, trainer
    from hiercli.training.baseline import metric_loss_alone, train_baseline
    from hiercli.training.run_folder import numbered_folder

    if baseline:
        metric_loss_alone(resolved)  # refused now rather than after the first run
    if resolved.processes > 1 and not distributed.is_launched():
        same_folder = () if out else ("--out", str(numbered_folder(Path("runs"), data)))
        distributed.launch(resolved.processes, [*sys.argv[1:], *same_folder])
        return
    world, device = distributed.join(resolved.device)
    if world.is_main:
        dataset = dataset or fetched()
    world.same(True)  # the others find it complete
    dataset = dataset or fetched()
    resolved = dataclasses.replace(resolved, device=device)
    target = world.same(out or numbered_folder(Path("runs"), data))
    reporter = TrainingProgress()
    try:
        result = trainer.train(
            resolved, dataset, target, reporter, resume=resume, overwrite=overwrite, world=world
        )
        plain, found = None, None
        if baseline:
            if world.is_main:
                say("baseline: the metric loss alone")
            plain, found = train_baseline(result, resolved, dataset, reporter, world)
        before = None
        if untrained and resolved.epochs and world.is_main and result.test:
            from hiercli.training.untrained import score_untrained

            before = score_untrained(
                resolved, dataset, target, lambda _, done, total: reporter.judged(done, total)
            )
    except KeyboardInterrupt as error:
        raise InterruptError(
            f"interrupted. Go on with the same command and --out {target} --resume"
        ) from error
    finally:
        reporter.close()
    distributed.leave()
    if not world.is_main:
        return
    for problem in result.problems:
        warn(problem)
    if result.familiar and result.test:
        some = ", ".join(result.familiar[:3]) + (", ..." if len(result.familiar) > 3 else "")
        say(f"note: {len(result.familiar)} of the test classes were trained on, they are not "
            f"unseen: {some}")  # fmt: skip
    if result.retrieval is not None:
        for note in result.retrieval.notes:
            say(f"note: {note}")
    if json_output:
        printed = {"out": str(target), "best_epoch": result.best_epoch, **result.test}
        printed |= {"classes_trained_on": result.familiar}
        if plain and found:
            printed |= {"baseline": plain.test, "comparison": dataclasses.asdict(found)}
            printed |= {"verdict": found.verdict}
        if before:
            printed |= {"untrained": dataclasses.asdict(before)}
            printed |= {"training": before.verdict(result.test)}
        print(json.dumps(printed))
    else:
        columns = {"trained": result.test}
        if plain:
            columns = {"with hierarchy": result.test, "metric loss alone": plain.test}
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
        if found:
            print(f"with hierarchy: {found.verdict}")
        made = ("best.pt", "curves.png", "neighbours.html")
        say(f"in {target}: " + ", ".join(name for name in made if (target / name).exists()))
    if result.problems:
        raise typer.Exit(EXIT_SKIPPED)


def _fetch(name: str, root: Path) -> None:
    from hiercli.cli.data import fetch

    fetch(name, root)


def _with_recipe_options(function: Any) -> Any:
    """``function`` with one optional parameter a recipe field in place of ``**settings``."""
    signature = inspect.signature(function)
    own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    added = []
    for setting in dataclasses.fields(recipes.Recipe):
        choices = setting.metadata["choices"]
        text = setting.metadata["doc"] + (f" ({', '.join(choices)})" if choices else "")
        kind = type(setting.default)
        flag = "--" + setting.name.replace("_", "-")
        names = (f"{flag}/--no-{flag[2:]}",) if kind is bool else (flag,)
        option = typer.Option(*names, help=text + ".", rich_help_panel="Recipe settings")
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


train = _with_recipe_options(_train)
