"""An adapted encoder as a file: its backbone, and behind it a head that was learnt."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from hiercli.adapting.head import EPSILON, Head
from hiercli.encoder import golden, onnx_file
from hiercli.encoder.encoder import Encoder
from hiercli.encoder.metadata import Metadata
from hiercli.encoder.parts import Parts
from hiercli.errors import ExportError, InputError
from hiercli.files import replacing
from hiercli.geometry import poincare
from hiercli.hierarchy.proxies import grow_proxies

TOLERANCE = 1e-3
"""Largest difference of a coordinate between the graph and what the head computes."""
_LEAVES = 4096
_NUM_PROXIES = 256


def graph_of(parts: Parts, head: Head) -> onnx.ModelProto:
    """The graph of a backbone with a head that was learnt."""
    model = onnx.ModelProto()
    model.CopyFrom(parts.backbone)
    count = head.weight.shape[1]
    norm = float(np.tanh(np.sqrt(head.c) * head.radius) / np.sqrt(head.c))
    constants = {
        "weight": head.weight, "bias": head.bias, "axes": np.array([1], np.int64),
        "ones": np.ones(count, np.float32), "zeros": np.zeros(count, np.float32),
        "norm": np.array([norm], np.float32), "tiny": np.array([1e-12], np.float32),
    }  # fmt: skip
    graph = model.graph
    graph.initializer.extend(
        numpy_helper.from_array(value, f"adapted/{name}") for name, value in constants.items()
    )
    opset = next(one.version for one in model.opset_import if one.domain in ("", "ai.onnx"))
    axes: dict[str, Any] = {}
    inputs = ["adapted/linear", "adapted/axes"]
    if opset < 18:
        inputs, axes = ["adapted/linear"], {"axes": [1]}
    graph.node.extend([
        helper.make_node(
            "LayerNormalization", [parts.features, "adapted/ones", "adapted/zeros"],
            ["adapted/normal"], axis=-1, epsilon=EPSILON,
        ),
        helper.make_node("Gemm", ["adapted/normal", "adapted/weight", "adapted/bias"],
                         ["adapted/linear"], transB=1),
        helper.make_node("ReduceL2", inputs, ["adapted/length"], keepdims=1, **axes),
        helper.make_node("Max", ["adapted/length", "adapted/tiny"], ["adapted/divisor"]),
        helper.make_node("Div", ["adapted/linear", "adapted/divisor"], ["adapted/direction"]),
        helper.make_node("Mul", ["adapted/direction", "adapted/norm"], ["points"]),
    ])  # fmt: skip
    del graph.output[:]
    shape: list[str | int | None] = ["batch", len(head.weight)]
    graph.output.append(helper.make_tensor_value_info("points", TensorProto.FLOAT, shape))
    return model


def write(
    source: Path,
    target: Path,
    head: Head,
    features: np.ndarray,
    old_points: np.ndarray,
    sample: np.ndarray,
    facts: dict[str, object],
) -> Encoder:
    """Write an encoder with another head, with golden vectors of its own, and check it.

    Args:
        source: encoder that it is made of.
        target: ``.onnx`` file.
        head: the new one.
        features: (N, F) of the images.
        old_points: (N, D) of the same by the old encoder; from both the points of the encoder's
            classes are mapped.
        sample: (B, 3, S, S) pixels of the first B images, which are run through the new graph.
        facts: what the file says of how it was made.

    Returns:
        the encoder.

    Raises:
        ExportError: the graph gives other points than the head; nothing is written.
    """
    if target.suffix.lower() != ".onnx":
        raise InputError(f"expected a file name that ends in .onnx, got {target}")
    old = onnx_file.read(source).metadata
    graph = graph_of(Parts.of(source), head)
    some = np.linspace(0, len(features) - 1, min(len(features), _LEAVES)).astype(int)
    tangent = head.tangent(features[some]).astype(np.float32)
    places = grow_proxies(tangent, np.arange(len(tangent)), len(old.proxies) or _NUM_PROXIES)
    digest = hashlib.sha256(old.fingerprint.encode() + head.weight.tobytes() + head.bias.tobytes())
    metadata = dataclasses.replace(
        old,
        fingerprint=digest.hexdigest()[:16],
        embedding_dim=len(head.weight),
        proxies=np.asarray(poincare.expmap0(places.astype(np.float64), old.c), np.float32),
        class_points=_mapped_classes(old, tangent, old_points[some], head),
        image_depth=False,
        proof={"adapted": facts},
    )
    with replacing(golden.golden_path(target)) as vectors, replacing(target) as draft:
        digest_of_file = onnx_file.write(graph, metadata, draft)
        made = Encoder(draft, device="cpu")
        far = np.abs(made.run(sample) - head.points(features[: len(sample)])).max()
        if not far <= TOLERANCE:
            raise ExportError(
                f"the adapted encoder gives points that differ by {far:.2e} from those computed, "
                f"more than {TOLERANCE:g}. Nothing was written. Please report the encoder"
            )
        golden.write(vectors, metadata, digest_of_file, made.run, metadata.proof)
    return Encoder(target, device="cpu")


def _mapped_classes(
    old: Metadata, tangent: np.ndarray, old_points: np.ndarray, head: Head
) -> np.ndarray:
    """Points of the old encoder's classes under the new head, by linear regression on the images.

    The features of the classes are not in the file, so a map from old tangent vectors to new ones
    stands in.
    """
    if not len(old.class_points):
        return np.empty((0, len(head.weight)), np.float32)
    before = poincare.logmap0(old_points.astype(np.float64), old.c)
    wide = np.column_stack([before, np.ones(len(before))])
    gram = wide.T @ wide
    gram += 1e-2 * np.trace(gram) / len(gram) * np.eye(len(gram))
    mapped = np.linalg.solve(gram, wide.T @ tangent.astype(np.float64))
    classes = poincare.logmap0(old.class_points.astype(np.float64), old.c)
    new = np.column_stack([classes, np.ones(len(classes))]) @ mapped
    lengths = np.maximum(np.linalg.norm(new, axis=1, keepdims=True), 1e-12)
    return np.asarray(poincare.expmap0(new * np.minimum(1, head.radius / lengths), old.c), "f4")
