"""`hier data`: which data sets are known, which are present, and how to get the others."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from hiercli.cli import options
from hiercli.cli.render import errors, progress, say, table, watched
from hiercli.errors import DataError, InputError

app = typer.Typer(invoke_without_command=True)


@app.callback()
def data(
    context: typer.Context,
    data_root: options.DataRoot = None,
    json_output: options.Json = False,
) -> None:
    """List the data sets that hier supports, and show which of them are present.

    Examples:

    - `hier data`

    - `hier data get cub`
    """
    if context.invoked_subcommand:
        context.obj = data_root
        return
    from hiercli.data import catalogue

    root = data_root or catalogue.default_root()
    rows: list[dict[str, Any]] = []
    for name in catalogue.NAMES:
        if name == "demo" and not (root / "demo" / "flora.json").exists():
            rows.append({"name": name, "present": False, "note": "generated on first use"})
            continue
        try:
            dataset = catalogue.load(name, root)
        except DataError:
            rows.append({"name": name, "present": False, "note": f"hier data get {name}"})
            continue
        test = (*dataset.query, *(dataset.gallery or ()))
        rows.append(
            {
                "name": name,
                "present": True,
                "train_photos": len(dataset.train),
                "train_classes": len(dataset.train_classes),
                "test_photos": len(test),
                "test_classes": len({record.label for record in test}),
            }
        )
    if json_output:
        print(json.dumps({"root": str(root), "datasets": rows}))
        return
    cells = [
        [
            row["name"],
            "yes" if row["present"] else f"no ({row['note']})",
            *(
                f"{row[f'{side}_photos']} of {row[f'{side}_classes']} classes"
                if row["present"]
                else ""
                for side in ("train", "test")
            ),
        ]
        for row in rows
    ]
    table(f"in {root}", ["data set", "present", "train photos", "test photos"], cells)


@app.command()
def get(
    context: typer.Context,
    name: Annotated[
        str, typer.Argument(help="Fetch this data set: cub, cars, sop, inshop or demo.")
    ],
    species: Annotated[
        int, typer.Option(min=8, help="With demo: generate flowers of this many species.")
    ] = 80,
    photos: Annotated[
        int, typer.Option(min=2, help="With demo: generate this many photos of each species.")
    ] = 24,
    data_root: options.DataRoot = None,
) -> None:
    """Download a benchmark, or generate the demo data.

    A benchmark comes from its published address. Its licence terms are shown first.

    Examples:

    - `hier data get cub --data-root data`

    - `hier data get demo --species 12 --photos 12`
    """
    from hiercli.data import catalogue, demo

    root = data_root or context.obj or catalogue.default_root()
    if name != "demo":
        if species != 80 or photos != 24:
            raise InputError("--species and --photos can be used only with demo")
        fetch(name, root)
        return
    with progress("generating") as bar:
        folder = demo.generate(root, num_species=species, photos_per_species=photos, progress=bar)
    say(f"{species * photos} photos of {species} species are in {folder / 'photos'}")


def fetch(name: str, root: Path) -> None:
    """Download, verify and unpack a benchmark, with its terms and a bar on stderr."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    from hiercli.data import download
    from hiercli.data.sources import SOURCES

    if name not in SOURCES:
        raise DataError(f"expected one of {', '.join(SOURCES)} and demo, got {name!r}")
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=errors(), disable=not watched()) as bars:
        tasks: dict[str, Any] = {}

        def moved(file: str, done: int, total: int | None) -> None:
            if file not in tasks:
                tasks[file] = bars.add_task(file)
            bars.update(tasks[file], completed=done, total=total)

        folder = download.fetch(name, root, progress=moved, notice=say)
    say(f"{name} is in {folder}")
