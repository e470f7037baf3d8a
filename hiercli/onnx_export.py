"""From a checkpoint to an ONNX file that emits points of the ball, with proof that they agree."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from hiercli.data import catalogue
from hiercli.data.records import Dataset, Record
from hiercli.encoder import golden, onnx_file
from hiercli.encoder.encoder import Encoder
from hiercli.encoder.metadata import Metadata
from hiercli.errors import DataError, ExportError, InputError
from hiercli.evaluation.retrieval import score
from hiercli.files import replacing
from hiercli.nn import onnx_graph
from hiercli.nn.embedder import Embedder
from hiercli.training.checkpoint import Trained, load
from hiercli.training.loading import embed_records

TOLERANCE = 1e-3
"""Largest difference of a coordinate that an export may show on real pictures."""

_PROOF_PICTURES = 64


class _Serving(nn.Module):
    """The embedder without what only training needs."""

    def __init__(self, embedder: Embedder) -> None:
        super().__init__()
        self.embedder = embedder

    def forward(self, pixels: Tensor) -> Tensor:
        points: Tensor = self.embedder(pixels)
        return points


def export(
    source: Path | str,
    target: Path | str,
    *,
    data: Callable[[int], Dataset] | Dataset | Path | str | None = None,
    tolerance: float = TOLERANCE,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Write the encoder of a checkpoint as ONNX with its golden vectors, and check that they agree.

    Examples:
        >>> proof = export("best.pt", "copy.onnx")
        >>> proof["largest_difference"] < 1e-3
        True

    Args:
        source: checkpoint.
        target: ``.onnx`` file.
        data: the images to check it on, with the change of Recall@1 on their queries: a data set,
            what `load_dataset` takes, or a function that gives one from the seed of the training
            run. Without it random pixels stand in for images.
        tolerance: largest accepted difference of a coordinate.
        progress: called with (done, total) pictures.

    Returns:
        the proof, as stored in the file.

    Raises:
        ExportError: the two differ by more than ``tolerance``; nothing is written.
    """
    source, target = Path(source), Path(target)
    if target.suffix.lower() != ".onnx":
        raise InputError(f"expected a file name that ends in .onnx, got {target}")
    encoder = load(source)
    if isinstance(data, Path | str):
        dataset: Dataset | None = catalogue.load(
            str(data), seed=encoder.recipe.run.seed, to_train=False
        )
    else:
        dataset = data(encoder.recipe.run.seed) if callable(data) else data
    return write(encoder, target, str(source), dataset, tolerance=tolerance, progress=progress)


def write(
    encoder: Trained,
    target: Path,
    name: str,
    dataset: Dataset | None = None,
    *,
    tolerance: float = TOLERANCE,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """`export` for an encoder that is in memory.

    Args:
        name: of the encoder in messages.
        dataset: the images to check it on.
    """
    if target.suffix.lower() != ".onnx":
        raise InputError(f"expected a file name that ends in .onnx, got {target}")
    encoder.embedder.to_poincare.riemannian = False
    # Both are whole before either takes its place.
    with replacing(golden.golden_path(target)) as vectors, replacing(target) as draft:
        _write_graph(encoder, draft)
        _describe(draft, encoder, {})
        session = Encoder(draft, device="cpu")
        proof = _prove(encoder, session, dataset, progress)
        if not proof["largest_difference"] <= tolerance:
            raise ExportError(
                f"the exported encoder differs from {name} by {proof['largest_difference']:.2e} "
                f"in a coordinate, more than the tolerance {tolerance:g}. Nothing was written. "
                "Please report the backbone, or accept more with --tolerance"
            )
        digest = _describe(draft, encoder, proof)
        golden.write(vectors, session.metadata, digest, _torch_points(encoder), proof)
    return proof


def _torch_points(encoder: Trained) -> Callable[[np.ndarray], np.ndarray]:
    def run(pixels: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            points: np.ndarray = encoder.embedder(torch.from_numpy(pixels)).numpy()
        return points

    return run


def _write_graph(encoder: Trained, file: Path) -> None:
    size = encoder.preprocessing.size
    network = _Serving(encoder.embedder.to(memory_format=torch.contiguous_format)).eval()
    try:
        graph = onnx_graph.trace(network, size, output="points")
    except Exception as error:  # the exporter's errors are of nearly every kind
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        lines = str(cause).strip().splitlines() or [type(cause).__name__]
        raise ExportError(
            f"torch cannot export {encoder.recipe.model.backbone} to ONNX ({lines[0][:200]}). "
            "Nothing was written. Train another backbone"
        ) from error
    onnx.save(graph, str(file))


def _describe(file: Path, encoder: Trained, proof: dict[str, Any]) -> str:
    metadata = Metadata(
        fingerprint=encoder.fingerprint,
        preprocessing=encoder.preprocessing,
        c=encoder.recipe.model.c,
        clip_radius=encoder.recipe.model.clip_radius,
        embedding_dim=encoder.recipe.model.embedding_dim,
        backbone=encoder.recipe.model.backbone,
        seed=encoder.recipe.run.seed,
        class_names=encoder.class_names,
        class_points=encoder.class_points.numpy(),
        proxies=encoder.proxies.numpy(),
        proof=proof,
        image_depth=encoder.recipe.model.image_depth,
    )
    model = onnx.load(str(file))
    # The exporter notes for each node where in the source it came from, paths of this machine too.
    for part in (model.graph, *model.graph.node, *model.graph.value_info, *model.graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
    return onnx_file.write(model, metadata, file)


def _prove(
    encoder: Trained,
    session: Encoder,
    dataset: Dataset | None,
    progress: Callable[[int, int], None] | None,
) -> dict[str, Any]:
    if dataset is None or not dataset.query:
        size = encoder.preprocessing.size
        pixels = np.random.default_rng(0).standard_normal((8, 3, size, size)).astype(np.float32)
        expected = _torch_points(encoder)(pixels)
        difference = float(np.abs(session.run(pixels) - expected).max())
        return {"pictures": "8 random images", "largest_difference": difference}
    records: Sequence[Record] = dataset.query
    alone = dataset.gallery is None
    if not alone:  # Recall@1 would need the gallery too: a sample shows the difference
        records = records[:_PROOF_PICTURES]
    expected, kept, problems = embed_records(
        encoder.embedder, records, encoder.preprocessing,
        device=torch.device("cpu"), progress=progress,
    )  # fmt: skip
    if not kept:
        raise DataError(f"no image of {dataset.name} can be read to check the export")
    got = session.embed_records([records[index] for index in kept], progress=progress).points
    proof: dict[str, Any] = {
        "pictures": f"{len(kept)} of {dataset.name}",
        "largest_difference": float(np.abs(got - expected).max()),
        "skipped": [*dataset.problems, *problems],
    }
    if alone:
        labels = [records[index].label for index in kept]
        before, after = (
            score(points, labels, c=encoder.recipe.model.c, recall_at=(1,)).recall_at[1]
            for points in (expected, got)
        )
        proof |= {"recall@1_checkpoint": before, "recall@1_onnx": after}
    return proof
