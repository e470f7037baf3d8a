"""Train every variant on every data set with every seed, judge it on unseen classes, keep a table.

Each finished run is a row of results.csv and is not done again; one that was killed goes on where
it stopped. The summary in table.md is kept up to date.

    python examples/experiments/run.py --data-root ~/data
    python examples/experiments/run.py --data cub --variant d --seed 0

Settings are chosen on a part of the training classes, with the test classes out of sight. The same
script does it: variants of choices.toml, rows in choices.csv.

    python examples/experiments/run.py --held-out 0.4 --variants choices.toml --results choices.csv

Data sets: cub and cars; cub-family, the birds with families for classes, half of which are unseen;
flora, the generated demo; flora-small, another of 120 species in images of 96 pixels.
"""

import argparse
import csv
import dataclasses
import json
import time
import tomllib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t

from hiercli.cli.render import TrainingProgress
from hiercli.data import catalogue, demo
from hiercli.data.records import Dataset, Record, split_validation
from hiercli.evaluation.relevance import score_levels
from hiercli.evaluation.retrieval import score
from hiercli.evaluation.taxonomy import judge_points
from hiercli.training.embedding import TorchEncoder
from hiercli.training.recipe import Recipe, from_dict
from hiercli.training.trainer import train

HERE = Path(__file__).parent
COLUMNS = ("data", "variant", "seed", "recall@1", "map@r", "linkage_purity@genus",
           "linkage_purity@family", "linkage_purity@order", "linkage_correlation",
           "triplet_accuracy", "h-ap", "severity", "lca_deeper", "photo_radius", "proxy_radius",
           "effective_rank",
           "validation_recall@1", "validation_map@r", "validation_linkage_correlation",
           "validation_h-ap", "validation_severity", "interpolation", "seconds")  # fmt: skip
SHOWN = COLUMNS[3:13]
HELD_OUT = ("validation_recall@1", "validation_map@r", "validation_linkage_correlation",
            "validation_h-ap", "validation_severity", "interpolation")  # fmt: skip
PAIRS = (("d", "a"), ("d", "e"), ("d", "h"), ("d", "f"), ("g", "d"))
"""Variants whose difference is told."""
PERCENT = ("recall@1", "map@r", "validation_recall@1", "validation_map@r")
PAIRED = (*PERCENT, "linkage_correlation", "triplet_accuracy", "h-ap", "severity")
"""Columns whose difference is told; the first ones are in percent."""
DATA = ("cub", "cars", "cub-family", "flora", "flora-small")


def main() -> None:
    """Do what is missing, then write the table."""
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("--data", nargs="+", default=DATA, choices=DATA)
    words.add_argument("--variants", type=Path, default=HERE / "variants.toml")
    words.add_argument("--variant", nargs="+")
    words.add_argument("--held-out", type=float, help="share of the training classes to judge on")
    words.add_argument("--seed", nargs="+", type=int, default=[0, 1, 2])
    words.add_argument("--data-root", type=Path, default=None)
    words.add_argument("--runs", type=Path, default=Path("runs/experiments"))
    words.add_argument("--results", type=Path, default=HERE / "results.csv")
    asked = words.parse_args()
    settings = tomllib.loads(asked.variants.read_text())
    variants = {"a": {"title": "raw features, cosine"}, **settings["variant"]}
    done = read(asked.results)
    titles = {key: value["title"] for key, value in variants.items()}
    for seed in asked.seed:
        for name in asked.data:
            for variant in asked.variant or variants:
                once = variant == "a" and not asked.held_out  # no seed changes it
                if (once and seed) or (name, variant, str(seed)) in done:
                    continue
                started = time.monotonic()
                dataset = load(name, asked.data_root or catalogue.default_root())
                if variant == "a":
                    row = raw(dataset, settings["common"], asked.held_out, seed)
                else:
                    own = {k: v for k, v in variants[variant].items() if k != "title"}
                    if asked.held_out:
                        own |= {"validation_share": asked.held_out}
                        dataset = dataclasses.replace(dataset, query=(), gallery=None)
                    recipe = from_dict(settings["common"] | own | {"seed": seed})
                    row = learned(dataset, recipe, asked.runs / f"{name}-{variant}-{seed}")
                row |= {"data": name, "variant": variant, "seed": seed}
                row["seconds"] = round(time.monotonic() - started)
                append(asked.results, row)
                shown = HELD_OUT if asked.held_out else SHOWN
                text = table(read(asked.results), titles, shown)
                target = "choices_table.md" if asked.held_out else "table.md"
                asked.results.with_name(target).write_text(text)
                (asked.runs / f"{name}-{variant}-{seed}" / "last.pt").unlink(missing_ok=True)
                print({key: row.get(key) for key in COLUMNS}, flush=True)
    print(table(read(asked.results), titles, HELD_OUT if asked.held_out else SHOWN))


def load(name: str, root: Path) -> Dataset:
    """A data set of `DATA`."""
    if name == "flora":
        return catalogue.load("demo", root)
    if name == "flora-small":
        own = root / name
        demo.generate(own, seed=1, num_species=120, photos_per_species=20, size=96)
        return dataclasses.replace(demo.load(own), name=name)
    dataset = catalogue.load(name.split("-")[0], root)
    if name != "cub-family":
        return dataset
    photos: dict[str, list[Record]] = defaultdict(list)
    for record in (*dataset.train, *dataset.query):
        family, order = record.levels[1:]
        photos[family].append(Record(record.path, f"family {family}", (order,)))
    largest = sorted(photos, key=lambda family: (-len(photos[family]), family))
    parts = [tuple(one for name in largest[start::2] for one in photos[name]) for start in (0, 1)]
    return Dataset(name, parts[0], parts[1], level_names=("order",))


def raw(dataset: Dataset, common: dict[str, Any], held_out: float | None, seed: int) -> Any:
    """The backbone before any training, by cosine, with the same pooling, crop and size."""
    encoder = TorchEncoder.from_backbone(
        common["backbone"], pooling=common.get("pooling", ""), image_size=common["eval_size"],
        crop_share=common.get("eval_crop_share", 0.875),
    )  # fmt: skip
    records = dataset.query
    if held_out:
        records = split_validation(dataset.train, held_out, seed)[1]
    images = encoder.embed_records(records, dataset.level_names)
    found = score(images.points, images.labels or (), c=None, recall_at=(1,)).to_dict()
    if dataset.level_names:
        ranked = score_levels(images)
        found |= judge_points(images).to_dict()
        found |= {"h-ap": ranked.average_precision, "severity": ranked.severity}
    return {f"validation_{name}": value for name, value in found.items()} if held_out else found


def learned(dataset: Dataset, recipe: Recipe, out: Path) -> dict[str, Any]:
    """One training run, gone on with where an earlier one was killed."""
    reporter = TrainingProgress()
    result = train(recipe, dataset, out, reporter, resume=(out / "metrics.jsonl").exists())
    reporter.close()
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    best = rows[result.best_epoch - 1]
    mixed = out / "interpolation.json"
    if mixed.exists():
        shares = json.loads(mixed.read_text())
        best |= next(row for row in shares if row["share"] == result.interpolation)
    return {**best, **result.test, "interpolation": result.interpolation}


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


def table(
    rows: dict[tuple[str, str, str], dict[str, str]], titles: dict[str, str], shown: Sequence[str]
) -> str:
    """Mean and spread over seeds, one table a data set."""
    groups: dict[tuple[str, str], list[dict[str, str]]] = defaultdict(list)
    for (name, variant, _), row in rows.items():
        groups[name, variant].append(row)
    lines = []
    for name in sorted({name for name, _ in groups}):
        columns = [key for key in shown if any(row[key] for n, v in groups if n == name
                                               for row in groups[n, v])]  # fmt: skip
        lines += [f"## {name}", "", "| | seeds | " + " | ".join(columns) + " |",
                  "|---|---|" + "---|" * len(columns)]  # fmt: skip
        for variant, title in titles.items():
            if found := groups.get((name, variant)):
                cells = [spread([row[key] for row in found]) for key in columns]
                lines.append(f"| {variant}: {title} | {len(found)} | " + " | ".join(cells) + " |")
        lines.append("")
        for first, second in PAIRS:
            lines += paired(rows, name, first, second, shown)
    return "\n".join(lines)


def paired(
    rows: dict[tuple[str, str, str], dict[str, str]],
    name: str,
    first: str,
    second: str,
    shown: Sequence[str],
) -> list[str]:
    """A line on the difference of two variants by seed, with its 95 % interval (Student's t)."""
    parts = []
    for key in [key for key in PAIRED if key in shown]:
        values = []
        for (data, variant, seed), row in rows.items():
            other = rows.get((data, second, seed)) or {}
            if second == "a" and not other:  # no seed changes raw features: they have one row
                other = rows.get((data, second, "0"), {})
            if (data, variant) == (name, first) and row[key] and other.get(key):
                values.append(float(row[key]) - float(other[key]))
        if len(values) > 1:
            half = t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5
            mean = np.mean(values)
            told = ".1f" if key in PERCENT else ".3f"
            low, high = format(mean - half, f"+{told}"), format(mean + half, f"+{told}")
            parts.append(f"{key} {format(mean, f'+{told}')} ({low} to {high})")
    return [f"{first} - {second}: {', '.join(parts)}", ""] if parts else []


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
