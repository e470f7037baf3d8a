"""Options that several commands share, so that each has one name, one help text, one default."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from hiercli.errors import InputError

Data = Annotated[
    str,
    typer.Option(
        "--data",
        help="Use this data: cub, cars, sop, inshop, demo, a folder of class folders, or a table "
        "of images.",
    ),
]
DataRoot = Annotated[
    Path | None,
    typer.Option(
        "--data-root",
        envvar="HIER_DATA",
        help="Read and download benchmarks in this folder.",
        show_default="data",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Device = Annotated[
    str,
    typer.Option(
        help="Run on auto, cpu or cuda. If no GPU can be used, hier prints a note and runs on the "
        "CPU."
    ),
]
Threads = Annotated[int, typer.Option(min=0, help="Use this many CPU cores (0: all).")]
Model = Annotated[
    Path | None,
    typer.Option(
        "--model",
        envvar="HIER_MODEL",
        help="Use this encoder written by `hier export`.",
        show_default="the encoder of --index if that exists, or the general encoder of hier",
    ),
]
TextModel = Annotated[
    Path | None,
    typer.Option(
        "--text-model",
        help="Embed words with this ONNX text model, which was trained with the image model "
        "(CLIP, SigLIP, MobileCLIP, OpenCLIP). Needs `pip install 'hiercli[text]'`.",
    ),
]
Tokenizer = Annotated[
    Path | None,
    typer.Option(
        "--tokenizer",
        help="With a text model: use this tokenizer.json.",
        show_default="the one beside the text model, or in the folder above",
    ),
]
Root = Annotated[
    Path | None,
    typer.Option(
        "--root",
        help="Start relative image paths at this folder, not at the folder of the index.",
    ),
]
Nested = Annotated[
    bool,
    typer.Option(
        "--nested",
        help="Use the innermost folder as the label, and the folders above it as levels.",
    ),
]
Weights = Annotated[
    str,
    typer.Option(
        help="With --backbone: load these weights: auto, hub, none (random), or a state dict."
    ),
]
Pooling = Annotated[
    str,
    typer.Option(
        help="With --backbone: pool features by avg, avgmax, token or gem (empty: as the model "
        "does)."
    ),
]
ImageSize = Annotated[
    int | None,
    typer.Option(min=16, help="With --backbone: use images of this side, in pixels."),
]
CropShare = Annotated[
    float | None,
    typer.Option(min=0.01, max=1, help="With --backbone: crop this share of the short side."),
]
OF_BACKBONE = ("--weights", "--pooling", "--image-size", "--crop-share", "--embedding-dim")
"""Options that need --backbone."""
TreeIndex = Annotated[
    Path | None,
    typer.Option(help="Use the photos of this index."),
]
TreePoints = Annotated[
    Path | None,
    typer.Option(
        help="Use these embeddings: .npy, .parquet, or .npz with points, c, proxies and labels."
    ),
]
TreeModel = Annotated[
    Path | None,
    typer.Option(
        help="Use this encoder written by `hier export`.",
        show_default="the encoder of --index, or the general encoder of hier",
    ),
]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="Write to this file instead of stdout.")
]
Rerank = Annotated[
    bool,
    typer.Option(
        "--rerank",
        help="Re-rank the nearest 200 images: first come those whose own nearest images are also "
        "near the query. Distances do not change.",
    ),
]
Strict = Annotated[
    bool, typer.Option("--strict", help="Stop if an image or a folder cannot be read.")
]


def given(context: typer.Context) -> list[str]:
    """The options that stand on the command line, as they are spelled: ``--json``."""
    sources = ((option, context.get_parameter_source(str(option.name)))
               for option in context.command.params)  # fmt: skip
    return [option.opts[0] for option, source in sources if source and source.name == "COMMANDLINE"]


def refuse(context: typer.Context, names: Sequence[str], needed: str) -> None:
    """Refuse options that would have no effect.

    Raises:
        InputError: one of ``names`` was given, and ``needed`` was not.
    """
    without_effect = [name for name in given(context) if name in names]
    if without_effect:
        raise InputError(f"{without_effect[0]} needs {needed}. Add it, or omit {without_effect[0]}")
