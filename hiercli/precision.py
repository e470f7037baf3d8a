"""Smaller variants of an exported encoder, each with a report of what it costs.

int8: weights and activations of the backbone in 8 bits, its ranges measured on real pictures.
fp16: the backbone in half precision.

The head and the map into the ball stay in float32: near the rim a coordinate needs its digits.
"""

import contextlib
import hashlib
import io
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from hiercli.data.records import Dataset, Record
from hiercli.encoder import golden, onnx_file
from hiercli.encoder.encoder import Encoder
from hiercli.encoder.metadata import Metadata
from hiercli.encoder.parts import Parts
from hiercli.encoder.pipeline import pixels_of
from hiercli.errors import DataError, ExportError, InputError
from hiercli.evaluation.retrieval import score
from hiercli.files import replacing, require_apart
from hiercli.neighbours import nearest

PRECISIONS = ("int8", "fp16")
LARGEST_LOSS = 1.0
"""Points of Recall@1 that a variant may lose."""

_CALIBRATION_PICTURES = 128
_PERCENTILE = 99.999
"""Share of activations that the 8-bit range holds; the few beyond are cut off."""
_ROUNDS = 5


def reduce(
    source: Path,
    target: Path,
    precision: str,
    dataset: Dataset,
    *,
    largest_loss: float = LARGEST_LOSS,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Write a variant of an exported encoder with golden vectors of its own, and judge it.

    Args:
        source: float32 ``.onnx`` file of `export.export`.
        target: ``.onnx`` file to write, another than the source.
        precision: one of `PRECISIONS`.
        dataset: training pictures give the ranges of int8; queries judge the result.
        largest_loss: of Recall@1 in points, beyond which the variant is refused.
        progress: called with (done, total) pictures.

    Returns:
        the report, as stored in the file: Recall@1 of both, overlap of their 10 nearest, sizes and
        images a second, one batch of 32 at a time, both in turn.

    Raises:
        InputError: the source is a variant itself.
        DataError: there are no pictures to measure on.
        ExportError: the variant loses too much; nothing is written.
    """
    if target.suffix.lower() != ".onnx":
        raise InputError(f"expected a file name that ends in .onnx, got {target}")
    require_apart(target, (source,))
    whole = Encoder(source, device="cpu")
    if whole.metadata.precision != "fp32":
        raise InputError(
            f"expected a float32 encoder, but {source} is {whole.metadata.precision}. Use the "
            "float32 file that it was made from"
        )
    with replacing(golden.golden_path(target)) as vectors, replacing(target) as draft:
        if precision == "int8":
            if not dataset.train:
                raise DataError(
                    f"expected training images in {dataset.name} to measure the ranges of int8, "
                    "found none. Add rows with the split train, or use --fp16"
                )
            _to_int8(source, draft, whole, dataset.train)
        else:
            _to_fp16(source, draft)
        metadata = replace(
            whole.metadata, precision=precision, fingerprint=_fingerprint(whole.metadata, draft)
        )
        _describe(draft, metadata)
        part = Encoder(draft, device="cpu")
        report = _judge(whole, part, dataset, progress)
        report |= {"bytes_fp32": source.stat().st_size, f"bytes_{precision}": draft.stat().st_size}
        loss = report["recall@1_fp32"] - report[f"recall@1_{precision}"]
        if not loss <= largest_loss:
            raise ExportError(
                f"in {precision} the encoder loses {loss:.2f} points of Recall@1 on "
                f"{dataset.name}, more than {largest_loss:g}. Nothing was written. Use --fp16 "
                "instead of --int8, or accept more with --largest-loss"
            )
        digest = _describe(draft, replace(metadata, proof=report))
        golden.write(vectors, metadata, digest, Encoder(draft, device="cpu").run, report)
    return report


def _fingerprint(metadata: Metadata, draft: Path) -> str:
    graph = onnx.load(str(draft)).graph.SerializeToString(deterministic=True)
    return hashlib.sha256(metadata.fingerprint.encode() + graph).hexdigest()[:16]


def _describe(file: Path, metadata: Metadata) -> str:
    return onnx_file.write(onnx.load(str(file)), metadata, file)


def _to_fp16(source: Path, target: Path) -> None:
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    parts = Parts.of(source)
    half = convert_float_to_float16(parts.backbone, keep_io_types=True)
    OnnxModel(half).topological_sort()  # the cast of the input was put at the end
    onnx.save(parts.joined(half), str(target))


def _to_int8(source: Path, target: Path, session: Encoder, records: Sequence[Record]) -> None:
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Pictures(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches = _calibration(session, records)

        def get_next(self) -> dict[str, np.ndarray] | None:
            pixels = next(self.batches, None)
            return None if pixels is None else {session.input_name: pixels}

    parts = Parts.of(source)
    with tempfile.TemporaryDirectory() as folder, _quiet():
        whole, plain, small = (Path(folder) / f"{name}.onnx" for name in ("whole", "plain", "int8"))
        onnx.save(parts.backbone, str(whole))
        quant_pre_process(str(whole), str(plain), skip_symbolic_shape=True)
        quantize_static(
            str(plain),
            str(small),
            Pictures(),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.Percentile,
            extra_options={"CalibPercentile": _PERCENTILE},
        )
        onnx.save(parts.joined(onnx.load(str(small))), str(target))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep to itself what the calibrator tells: progress on stdout, doubts of every kind on stderr.

    What comes of it is judged afterwards, on pictures.
    """
    import onnxruntime

    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    onnxruntime.set_default_logger_severity(4)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        onnxruntime.set_default_logger_severity(2)
        logging.disable(level)


def _calibration(session: Encoder, records: Sequence[Record]) -> Iterator[np.ndarray]:
    chosen = np.random.default_rng(0).permutation(len(records))[:_CALIBRATION_PICTURES]
    preprocessing = session.metadata.preprocessing
    for place in chosen:
        pixels, _ = pixels_of(preprocessing, records[place].path)
        if pixels is not None:  # one of many that only say how far values go
            yield pixels[None]  # one by one: it takes no batches of unequal size


def _judge(
    whole: Encoder,
    part: Encoder,
    dataset: Dataset,
    progress: Callable[[int, int], None] | None,
) -> dict[str, Any]:
    total, problems = 2 * len(dataset.query), list[str]()
    before = whole.embed_records(
        dataset.query, skipped=problems.append,
        progress=lambda n, _: progress(n, total) if progress else None,
    )  # fmt: skip
    if len(before) < 2:
        raise DataError(
            f"expected readable queries to score the encoder, but {dataset.name} has {len(before)}"
        )
    assert before.paths is not None and before.labels is not None
    after = part.embed_records(
        [
            Record(Path(path), label)
            for path, label in zip(before.paths, before.labels, strict=True)
        ],
        progress=lambda n, _: progress(n + len(dataset.query), total) if progress else None,
    )
    labels = before.labels
    c, name = whole.metadata.c, part.metadata.precision
    near, also_near = (
        [set(row[row != place].tolist()[:10]) for place, row in enumerate(found)]
        for _, found in (nearest(e.points, e.points, 11, c) for e in (before, after))
    )
    shared = [len(a & b) / len(a) for a, b in zip(near, also_near, strict=True)]
    report: dict[str, Any] = {"pictures": f"{len(before)} of {dataset.name}"}
    for which, embedded in (("fp32", before), (name, after)):
        recall = score(embedded.points, labels, c=c, recall_at=(1,)).recall_at[1]
        report[f"recall@1_{which}"] = recall
    report["overlap@10"] = float(np.mean(shared))
    size = whole.metadata.preprocessing.size
    pixels = np.random.default_rng(0).standard_normal((32, 3, size, size)).astype(np.float32)
    speeds: dict[str, list[float]] = {"fp32": [], name: []}
    for turn in range(1 + _ROUNDS):
        for which, session in (("fp32", whole), (name, part)):
            started = time.perf_counter()
            session.run(pixels)
            if turn:  # the first gets ready
                speeds[which].append(len(pixels) / (time.perf_counter() - started))
    report |= {f"images/s_{which}": statistics.median(each) for which, each in speeds.items()}
    report["skipped"] = [*dataset.problems, *problems]
    return report
