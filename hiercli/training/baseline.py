"""Did hierarchy help? The same run once more with the metric loss alone, and a verdict."""

from pathlib import Path

from hiercli.data.records import Dataset
from hiercli.errors import InputError
from hiercli.evaluation.comparison import Comparison, compare
from hiercli.training.concluding import Result
from hiercli.training.distributed import World
from hiercli.training.recipe import Recipe
from hiercli.training.reporter import Reporter
from hiercli.training.trainer import train


def metric_loss_alone(recipe: Recipe) -> Recipe:
    """The recipe with HIER, levels and the relational term switched off, all else equal.

    Raises:
        InputError: both are off already.
    """
    off = {"hier_weight": 0.0, "relation_weight": 0.0, "level_weight": 0.0}
    if recipe.replace(**off) == recipe:
        raise InputError(
            "expected a recipe with HIER, relations or levels to compare with a baseline, but "
            "hier_weight, relation_weight and level_weight are all 0. Remove --baseline, or raise "
            "one of them"
        )
    return recipe.replace(**off)


def train_baseline(
    result: Result, recipe: Recipe, dataset: Dataset, reporter: Reporter, world: World
) -> tuple[Result, Comparison | None]:
    """Train the metric loss alone into ``baseline`` below the run's folder, and compare.

    Args:
        result: of the run with ``recipe``, finished.
        recipe, dataset, reporter, world: as for `trainer.train`; a baseline that was broken off
            is gone on with.

    Returns:
        the baseline's result, and how much better the run is; ``None`` without test classes, and
        in processes other than the main one.
    """
    out: Path = result.out / "baseline"
    again = world.same(out.exists())
    plain = train(metric_loss_alone(recipe), dataset, out, reporter, resume=again, world=world)
    if plain.retrieval is None or result.retrieval is None:
        return plain, None
    found = compare(plain.retrieval.right, result.retrieval.right, result.retrieval.labels)
    return plain, found
