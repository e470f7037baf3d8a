"""`train`: what people call to train an encoder from Python."""

from pathlib import Path
from typing import Any

from hiercli.data import catalogue
from hiercli.data.records import Dataset
from hiercli.training import recipe as recipes
from hiercli.training import trainer
from hiercli.training.concluding import Result
from hiercli.training.reporter import Reporter, Silence
from hiercli.training.run_folder import numbered_folder


def train(
    data: Dataset | Path | str = "demo",
    recipe: str = recipes.DEFAULT,
    *,
    out: Path | str | None = None,
    data_root: Path | None = None,
    nested: bool = False,
    test_share: float | None = None,
    resume: bool = False,
    overwrite: bool = False,
    reporter: Reporter | None = None,
    **settings: Any,
) -> Result:
    """Train an encoder and score it on classes that it never saw.

    Examples:
        >>> result = train(
        ...     "photos/", out="runs/tiny", backbone="test_efficientnet", weights="none",
        ...     embedding_dim=16, num_proxies=12, num_neighbours=4, train_size=32, eval_size=32,
        ...     batch_size=8, epochs=1, workers=0, validation_share=0.25, precision="fp32",
        ... )
        >>> sorted(file.name for file in result.out.iterdir() if file.suffix == ".pt")
        ['best.pt', 'last.pt']
        >>> 0 <= result.test["recall@1"] <= 100
        True

    Args:
        data: a benchmark, ``demo``, a folder of class folders, a table of images, or a data set of
            `load_dataset`.
        recipe: a shipped recipe, or the path of a ``.toml`` file.
        out: folder of the run; without it a new numbered one under ``runs/``.
        data_root: where benchmarks live.
        nested: read folders in folders as levels.
        test_share: share of the classes of a folder or table that are kept for the test, half where
            left out; 0: all are
            trained on, and nothing is scored.
        resume: go on with the run in ``out``.
        overwrite: replace the run in ``out``.
        reporter: told of progress.
        settings: settings of the recipe to change.

    Raises:
        DataError: too few classes or images.
        InputError: a setting that there is not, or a value that it cannot have.
        TrainingError: the folder is taken, or the loss is not finite.
    """
    resolved = recipes.load(recipe, settings)
    if isinstance(data, Dataset):
        dataset = data
    else:
        dataset = catalogue.load(
            str(data), data_root, seed=resolved.run.seed, test_share=test_share, nested=nested
        )
    folder = numbered_folder(Path("runs"), dataset.name) if out is None else Path(out)
    return trainer.train(
        resolved, dataset, folder, reporter or Silence(), resume=resume, overwrite=overwrite
    )
