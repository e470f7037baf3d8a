"""`hier export`."""

import json
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from hiercli.cli import options
from hiercli.cli.render import progress, say, table, warn
from hiercli.errors import EXIT_SKIPPED, InputError


def export(
    context: typer.Context,
    output: Annotated[Path, typer.Option("--output", "-o", help="Write this ONNX file.")],
    checkpoint: Annotated[
        Path | None, typer.Option(help="Export this checkpoint of `hier train`.")
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(
            help="Write a smaller variant of this exported encoder, with --int8 or --fp16."
        ),
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(
            help="Export this timm model without training. Its head is computed from the images of "
            "--data."
        ),
    ] = None,
    weights: options.Weights = "auto",
    pooling: options.Pooling = "",
    embedding_dim: Annotated[
        int | None,
        typer.Option(min=2, help="With --backbone: embed in this many dimensions (384 or fewer)."),
    ] = None,
    image_size: options.ImageSize = None,
    crop_share: options.CropShare = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Check the export on these images, and show how Recall@1 changes. With "
            "--backbone, labels are not needed."
        ),
    ] = None,
    int8: Annotated[
        bool,
        typer.Option("--int8", help="Quantise the backbone to 8 bits, for CPUs. Needs --data."),
    ] = False,
    fp16: Annotated[
        bool,
        typer.Option("--fp16", help="Use half precision in the backbone, for GPUs. Needs --data."),
    ] = False,
    largest_loss: Annotated[
        float,
        typer.Option(help="With --int8 and --fp16: accept a loss of this many points of Recall@1."),
    ] = 1.0,
    tolerance: Annotated[
        float, typer.Option(help="Accept differences up to this in a coordinate.")
    ] = 1e-3,
    data_root: options.DataRoot = None,
    json_output: options.Json = False,
) -> None:
    """Export an encoder to one ONNX file and check that the outputs match.

    --int8 and --fp16 write a smaller variant and report Recall@1, the overlap of the 10 nearest
    hits with those of the float32 encoder, size and speed. A variant needs its own index.

    Examples:

    - `hier export --checkpoint runs/cub-001/best.pt -o birds.onnx`

    - `hier export --checkpoint runs/cub-001/best.pt -o birds.onnx --data cub`

    - `hier export --backbone vit_small_patch14_dinov2 --data photos/ -o dino.onnx`

    - `hier export --model birds.onnx -o birds.int8.onnx --int8 --data cub`
    """
    sources = [source for source in (checkpoint, model, backbone) if source is not None]
    if len(sources) != 1:
        raise InputError(
            "expected one of --checkpoint, --model and --backbone. It names what to export"
        )
    if int8 and fp16:
        raise InputError(
            "expected one of --int8 and --fp16, got both. Export twice, once with each"
        )
    if model is not None and not (int8 or fp16):
        raise InputError(
            "the encoder of --model is already exported. Add --int8 or --fp16 to write a smaller "
            "variant"
        )
    if (int8 or fp16) and (data is None or backbone is not None):
        raise InputError(
            "--int8 and --fp16 need --data, and --checkpoint or --model. A variant is scored on "
            "labelled images (a benchmark, a folder of class folders, or a table)"
        )
    if backbone is None:
        options.refuse(context, options.OF_BACKBONE, "--backbone")
    if backbone is not None:
        proof = _of_backbone(
            backbone, output, data, data_root, tolerance, weights=weights, pooling=pooling,
            embedding_dim=embedding_dim, image_size=image_size, crop_share=crop_share,
        )  # fmt: skip
    else:
        precision = "int8" if int8 else "fp16" if fp16 else ""
        proof = _of_file(
            checkpoint, model, output, data, data_root, precision, largest_loss, tolerance
        )
    for problem in proof.get("skipped", ()):
        warn(problem)
    if json_output:
        print(json.dumps({"model": str(output), **proof}))
    else:
        rows = [
            [name, f"{value:.4g}" if isinstance(value, float) else str(value)]
            for name, value in proof.items()
            if name != "skipped"
        ]
        table(str(output), ["", "proof"], rows)
    if proof.get("skipped"):
        raise typer.Exit(EXIT_SKIPPED)


def _of_file(
    checkpoint: Path | None,
    model: Path | None,
    output: Path,
    data: str | None,
    data_root: Path | None,
    precision: str,
    largest_loss: float,
    tolerance: float,
) -> dict[str, Any]:
    """Export a checkpoint, or make a smaller variant of it or of an exported encoder."""
    from hiercli.data import catalogue
    from hiercli.data.records import Dataset

    def images(seed: int) -> Dataset:
        return catalogue.load(str(data), data_root, seed=seed, to_train=False)

    if data is None:
        say("the export is checked on random pixels. Use --data to check it on images")
    proof: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, progress("checking") as bar:
        whole = model
        if checkpoint is not None:
            from hiercli.onnx_export import export as write

            whole = Path(folder) / "whole.onnx" if precision else output
            proof = write(
                checkpoint, whole, data=images if data else None, tolerance=tolerance, progress=bar
            )
        if whole is not None and precision:
            from hiercli import precision as reduced
            from hiercli.encoder import onnx_file

            seed = onnx_file.read(whole).metadata.seed
            proof = reduced.reduce(
                whole, output, precision, images(seed), largest_loss=largest_loss, progress=bar
            )
    return proof


def _of_backbone(
    name: str,
    output: Path,
    data: str | None,
    data_root: Path | None,
    tolerance: float,
    **settings: Any,
) -> dict[str, Any]:
    """Export a timm model that nobody trained."""
    from hiercli.data import catalogue
    from hiercli.data.listing import gather
    from hiercli.files import require_replaceable
    from hiercli.onnx_export import write
    from hiercli.training.untrained import untrained_encoder

    require_replaceable(output)
    problems: list[str] = []
    records: Any = ()
    if data in catalogue.NAMES:
        dataset = catalogue.load(str(data), data_root)
        records = dataset.train
    elif data is not None:
        listing = gather([Path(data)], skipped=lambda _, reason: problems.append(reason))
        records = listing.records
    else:
        say(
            "without --data the head is random. Name some of your images with --data for better "
            "embeddings"
        )
    with progress("embedding") as bar:
        encoder = untrained_encoder(
            name, records=records, skipped=problems.append, progress=bar, **settings
        )
    proof = write(encoder, output, name, tolerance=tolerance)
    return {"backbone": name, "dimensions": encoder.recipe.model.embedding_dim, **proof,
            "skipped": problems}  # fmt: skip
