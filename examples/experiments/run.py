"""Train every variant on every data set with every seed, judge it on unseen classes, keep a table.

Each finished run is a row of results.csv and is not done again; one that was killed goes on where
it stopped. The summary in table.md is kept up to date.

    python examples/experiments/run.py --data-root ~/data
    python examples/experiments/run.py --data cub --variant d --seed 0
"""

import argparse
import csv
import json
import time
import tomllib
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from hiercli.cli.render import TrainingProgress
from hiercli.data import catalogue
from hiercli.data.records import Dataset
from hiercli.evaluation.retrieval import score
from hiercli.evaluation.taxonomy import judge_points
from hiercli.nn import backbone
from hiercli.training.device import choose_device
from hiercli.training.loading import embed_records
from hiercli.training.recipe import Recipe, from_dict
from hiercli.training.trainer import train

HERE = Path(__file__).parent
COLUMNS = ("data", "variant", "seed", "recall@1", "map@r", "linkage_purity@genus",
           "linkage_purity@family", "linkage_purity@order", "linkage_correlation",
           "triplet_accuracy", "lca_deeper", "photo_radius", "proxy_radius", "effective_rank",
           "validation_recall@1", "validation_map@r", "validation_linkage_correlation",
           "seconds")  # fmt: skip
SHOWN = COLUMNS[3:11]


def main() -> None:
    """Do what is missing, then write the table."""
    settings = tomllib.loads((HERE / "variants.toml").read_text())
    variants = {"a": {"title": "raw features, cosine"}, **settings["variant"]}
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("--data", nargs="+", default=["cub", "cars"])
    words.add_argument("--variant", nargs="+", default=list(variants), choices=list(variants))
    words.add_argument("--seed", nargs="+", type=int, default=[0, 1, 2])
    words.add_argument("--data-root", type=Path, default=None)
    words.add_argument("--runs", type=Path, default=Path("runs/experiments"))
    words.add_argument("--results", type=Path, default=HERE / "results.csv")
    asked = words.parse_args()
    done = read(asked.results)
    titles = {key: value["title"] for key, value in variants.items()}
    for seed in asked.seed:
        for name in asked.data:
            for variant in asked.variant:
                if (variant == "a" and seed) or (name, variant, str(seed)) in done:
                    continue
                started = time.monotonic()
                dataset = catalogue.load(name, asked.data_root or catalogue.default_root())
                if variant == "a":
                    row = raw(dataset, settings["common"])
                else:
                    own = {k: v for k, v in variants[variant].items() if k != "title"}
                    recipe = from_dict(settings["common"] | own | {"seed": seed})
                    row = learned(dataset, recipe, asked.runs / f"{name}-{variant}-{seed}")
                row |= {"data": name, "variant": variant, "seed": seed}
                row["seconds"] = round(time.monotonic() - started)
                append(asked.results, row)
                asked.results.with_name("table.md").write_text(table(read(asked.results), titles))
                (asked.runs / f"{name}-{variant}-{seed}" / "last.pt").unlink(missing_ok=True)
                print({key: row.get(key) for key in COLUMNS}, flush=True)
    print(table(read(asked.results), titles))


def raw(dataset: Dataset, common: dict[str, Any]) -> dict[str, Any]:
    """The backbone before any training, by cosine."""
    network = backbone.create(common["backbone"]).eval()
    preprocessing = backbone.preprocessing(network, size=common["eval_size"], crop_share=0.875)
    device = choose_device("auto")
    points, kept, _ = embed_records(
        network.to(device), dataset.query, preprocessing, device=device, workers=2
    )
    records = [dataset.query[place] for place in kept]
    scores = score(points, [record.label for record in records], c=None, recall_at=(1,)).to_dict()
    if dataset.level_names:
        scores |= judge_points(points, records, dataset.level_names, None).to_dict()
    return scores


def learned(dataset: Dataset, recipe: Recipe, out: Path) -> dict[str, Any]:
    """One training run, gone on with where an earlier one was killed."""
    reporter = TrainingProgress()
    result = train(recipe, dataset, out, reporter, resume=(out / "metrics.jsonl").exists())
    reporter.close()
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    best = rows[result.best_epoch - 1]
    return {**best, **result.test}


def read(file: Path) -> dict[tuple[str, str, str], dict[str, str]]:
    """Finished runs by (data, variant, seed)."""
    if not file.exists():
        return {}
    with open(file, newline="") as text:
        return {(row["data"], row["variant"], row["seed"]): row for row in csv.DictReader(text)}


def append(file: Path, row: dict[str, Any]) -> None:
    """Add one finished run."""
    new = not file.exists()
    with open(file, "a", newline="") as text:
        writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
        if new:
            writer.writeheader()
        short = {k: f"{v:.4f}" if isinstance(v, float) else v for k, v in row.items()}
        writer.writerow(short)


def table(rows: dict[tuple[str, str, str], dict[str, str]], titles: dict[str, str]) -> str:
    """Mean and spread over seeds, one table a data set."""
    groups: dict[tuple[str, str], list[dict[str, str]]] = defaultdict(list)
    for (name, variant, _), row in rows.items():
        groups[name, variant].append(row)
    lines = []
    for name in sorted({name for name, _ in groups}):
        columns = [key for key in SHOWN if any(row[key] for n, v in groups if n == name
                                               for row in groups[n, v])]  # fmt: skip
        lines += [f"## {name}", "", "| | seeds | " + " | ".join(columns) + " |",
                  "|---|---|" + "---|" * len(columns)]  # fmt: skip
        for variant, title in titles.items():
            if found := groups.get((name, variant)):
                cells = [spread([row[key] for row in found]) for key in columns]
                lines.append(f"| {variant}: {title} | {len(found)} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def spread(values: list[str]) -> str:
    """``mean +- standard deviation`` of the numbers there are."""
    numbers = [float(value) for value in values if value]
    if not numbers:
        return ""
    digits = 1 if max(numbers) > 1 else 3
    mean = f"{np.mean(numbers):.{digits}f}"
    return mean if len(numbers) < 2 else f"{mean} ± {np.std(numbers, ddof=1):.{digits}f}"


if __name__ == "__main__":
    main()
