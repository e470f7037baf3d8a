"""Adapt an exported encoder to images without labels: a new head, learnt from their features.

Images that are among each other's nearest mostly show one thing. What differs between such two is
what the search should not look at, so features are scaled down along the directions in which they
differ (within-class covariance normalisation, Hatch et al., "Within-class covariance normalization
for SVM-based speaker recognition", 2006, with pairs of neighbours in place of classes). Principal
directions of the result make the new head. All images get one depth.
"""

import dataclasses
import hashlib
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from hiercli.encoder import golden, onnx_file
from hiercli.encoder.encoder import Encoder
from hiercli.encoder.features import FeatureEncoder
from hiercli.encoder.metadata import Metadata
from hiercli.encoder.parts import Parts
from hiercli.encoder.pipeline import pixels_of
from hiercli.errors import ExportError, ImageError, InputError
from hiercli.evaluation.retrieval import score
from hiercli.files import replacing, require_apart
from hiercli.geometry import poincare
from hiercli.hierarchy.proxies import grow_proxies
from hiercli.images import read_bytes
from hiercli.index.health import rebase as rebased_index
from hiercli.index.reader import Reader
from hiercli.index.schema import Row, content_hash
from hiercli.index.searchable import encoder_file
from hiercli.neighbours import nearest

FEWEST = 60
"""Images from which a head is learnt; with as few it was tried on training classes."""
MOST = 20_000
"""Images that a head is learnt from; of more, so many evenly spread."""
TOLERANCE = 1e-3
"""Largest difference of a coordinate between the graph and what was computed here."""
# Chosen on the training classes of the CUB and Cars subsets and of two generated floras, where
# Recall@1 of their own images is 89.8, 43.5, 65.9 and 58.0. With power 0.5: 90.2, 42.4, 64.8, 55.8
# (floor 0.01); with floor 0.01: 90.3, 41.8, 64.6, 56.8; with 8 neighbours 90.4, 41.8, 62.3, 56.9.
_NEIGHBOURS = 5
_POWER = 0.75
"""Exponent of the covariance of differences: 1 would make all directions differ alike."""
_FLOOR = 0.03
_FLOOR_OF_FEW = 0.1
_FEW = 1000
"""Variances are at least this share of the largest; with fewer images, noise is larger."""
_EPSILON = 1e-5
_LEAVES = 4096
_NUM_PROXIES = 256
_CHECKED = 16
"""Images on which the new graph is compared with what was computed here."""
_AT_ONCE = 4096
_RADIUS = 2.0
"""Tangent length of all points."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Head:
    """From features to points: LayerNorm, a linear map, one length, and the map into the ball.

    Attributes:
        weight: (D, F) float32.
        bias: (D,) float32.
        c: curvature magnitude.
        radius: tangent length of all points.
    """

    weight: np.ndarray
    bias: np.ndarray
    c: float
    radius: float

    @classmethod
    def learn(cls, features: np.ndarray, dim: int, c: float, radius: float = _RADIUS) -> "Head":
        """Learn a head from features of images.

        Args:
            features: (N, F) of N images; of more than 20,000 so many are used.
            dim: D, at most F.
            c, radius: of the ball.

        Raises:
            InputError: there are fewer than 60 images, or all are the same.
        """
        if len(features) < FEWEST:
            raise InputError(
                f"expected at least {FEWEST} readable images to adapt an encoder, got "
                f"{len(features)}. Add images to the index"
            )
        some = features[np.linspace(0, len(features) - 1, min(len(features), MOST)).astype(int)]
        normal = _normalised(some)
        middle = normal.mean(axis=0)
        pairs = _neighbours(normal.astype(np.float32))
        differences = normal[pairs[:, 0]] - normal[pairs[:, 1]]
        within = differences.T @ differences
        if not len(pairs) or not np.trace(within) > 0:
            raise InputError(
                "the images do not differ from each other, so there is nothing to adapt to. Add "
                "other images to the index"
            )
        variances, directions = np.linalg.eigh(within)
        floor = (_FLOOR if len(some) >= _FEW else _FLOOR_OF_FEW) * variances[-1]
        scales = np.maximum(variances, floor) ** (-_POWER / 2)
        scaled = (directions * (scales / scales.max())) @ directions.T
        spread = (normal - middle) @ scaled
        _, principal = np.linalg.eigh(spread.T @ spread)
        weight = scaled @ principal[:, ::-1][:, :dim]
        length = np.linalg.norm((normal - middle) @ weight, axis=1).mean()
        weight *= radius / max(float(length), 1e-12)
        return cls(
            np.ascontiguousarray(weight.T, np.float32),
            np.asarray(-middle @ weight, np.float32),
            c, radius,
        )  # fmt: skip

    def tangent(self, features: np.ndarray) -> np.ndarray:
        """Tangent vectors (N, D) of features (N, F), all of one length."""
        mapped = _normalised(features) @ self.weight.T.astype(np.float64) + self.bias
        lengths = np.linalg.norm(mapped, axis=1, keepdims=True)
        return np.asarray(mapped * (self.radius / np.maximum(lengths, 1e-12)))

    def points(self, features: np.ndarray) -> np.ndarray:
        """Points (N, D) float32 of the ball, of features (N, F)."""
        return np.asarray(poincare.expmap0(self.tangent(features), self.c), np.float32)

    def graph(self, parts: Parts) -> onnx.ModelProto:
        """The graph of the backbone with this head."""
        model = onnx.ModelProto()
        model.CopyFrom(parts.backbone)
        count = self.weight.shape[1]
        norm = float(np.tanh(np.sqrt(self.c) * self.radius) / np.sqrt(self.c))
        constants = {
            "weight": self.weight, "bias": self.bias, "axes": np.array([1], np.int64),
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
                ["adapted/normal"], axis=-1, epsilon=_EPSILON,
            ),
            helper.make_node("Gemm", ["adapted/normal", "adapted/weight", "adapted/bias"],
                             ["adapted/linear"], transB=1),
            helper.make_node("ReduceL2", inputs, ["adapted/length"], keepdims=1, **axes),
            helper.make_node("Max", ["adapted/length", "adapted/tiny"], ["adapted/divisor"]),
            helper.make_node("Div", ["adapted/linear", "adapted/divisor"], ["adapted/direction"]),
            helper.make_node("Mul", ["adapted/direction", "adapted/norm"], ["points"]),
        ])  # fmt: skip
        del graph.output[:]
        shape: list[str | int | None] = ["batch", len(self.weight)]
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
    graph = head.graph(Parts.of(source))
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


def _normalised(features: np.ndarray) -> np.ndarray:
    """LayerNorm without parameters, float64."""
    wide = features.astype(np.float64)
    centred = wide - wide.mean(axis=1, keepdims=True)
    return np.asarray(centred / np.sqrt(centred.var(axis=1, keepdims=True) + _EPSILON))


def _neighbours(normal: np.ndarray) -> np.ndarray:
    """Pairs (P, 2) of images that are among each other's nearest by cosine."""
    count = len(normal)
    _, found = nearest(normal, normal, min(_NEIGHBOURS + 1, count), None)
    near = [set(row.tolist()) - {place} for place, row in enumerate(found)]
    pairs = [(a, b) for a, own in enumerate(near) for b in own if a < b and a in near[b]]
    return np.array(pairs, np.int64).reshape(-1, 2)


# -- an index --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Adapted:
    """What was made of an index.

    Attributes:
        encoder: the new one.
        images: that it was adapted to.
        rebased: whether the index holds its points now.
        problems: why some images could not be used.
        before, after: Recall@1 and MAP@R in percent among the images by their labels, which were
            not used; ``None`` where they have none.
    """

    encoder: Encoder
    images: int
    rebased: bool
    problems: tuple[str, ...]
    before: tuple[float, float] | None
    after: tuple[float, float] | None


def adapt(
    index: Path | str,
    target: Path | str,
    model: Path | str | None = None,
    *,
    dim: int | None = None,
    rebase: bool = True,
    root: Path | None = None,
    device: str = "auto",
    threads: int = 0,
    progress: Progress | None = None,
    building: Progress | None = None,
) -> Adapted:
    """Adapt the encoder of an index to its images, without labels, and bring the index along.

    Each image is decoded once. Where all of them can be read, the index gets the points of the new
    encoder in one transaction.

    Examples:
        >>> import hiercli as hier
        >>> from PIL import Image
        >>> files = [f"noise{number}.png" for number in range(64)]
        >>> for seed, file in enumerate(files):
        ...     noise = np.random.default_rng(seed).integers(0, 255, (32, 32, 3), np.uint8)
        ...     Image.fromarray(noise).save(file)
        >>> with hier.Index("noise.faiss") as index:
        ...     done = index.update(files, hier.Encoder("birds.onnx"))
        >>> hier.adapt("noise.faiss", "mine.onnx").images
        64

    Args:
        index: FAISS file.
        target: ``.onnx`` file to write.
        model: the encoder, where it does not lie where the index says.
        dim: dimensions of the new points; as many as before where left out.
        rebase: give the index the new points.
        root: where relative image paths start.
        device, threads: see `Encoder`.
        progress: called with (done, total) images.
        building: called with (done, total) points while the FAISS file is made.

    Raises:
        InputError: the index or the encoder is missing; the encoder was adapted already; or there
            are too few images.
        MismatchError: the encoder did not make the index.
        ExportError: the new encoder does not compute what it should; nothing is written.
    """
    index, target = Path(os.path.realpath(index)), Path(target)
    if target.suffix.lower() != ".onnx":
        raise InputError(f"expected a file name that ends in .onnx, got {target}")
    with closing(Reader(index, root=root)) as reader:
        source = encoder_file(reader, str(index)) if model is None else Path(model)
        old = FeatureEncoder(source, device, threads=threads)
        reader.check(old.metadata, source)
        require_apart(target, (source, golden.golden_path(source), *reader.files))
        if "adapted" in old.metadata.proof:
            raise InputError(
                f"{source} was adapted already. Build the index with the encoder that it was made "
                "from, and adapt that"
            )
        rows = reader.rows()
        problems: list[str] = []
        with tempfile.TemporaryDirectory() as folder:
            features, kept, sample = _features(old, rows, Path(folder), problems, progress)
            count = dim or min(old.metadata.embedding_dim, features.shape[1])
            if count > features.shape[1]:
                raise InputError(
                    f"expected at most {features.shape[1]} dimensions, as many as the encoder has "
                    f"features, got {count}"
                )
            head = Head.learn(features, count, old.c)
            old_points = np.stack([np.frombuffer(rows[at].point, "<f4") for at in kept])
            facts = {"images": len(kept), "source": old.metadata.fingerprint}
            made = write(source, target, head, features, old_points, sample, facts)
            points = _points(head, features)
        labels = [rows[at].label for at in kept]
        before, after = (_scores(some, labels, old.c) for some in (old_points, points))
        rebased = rebase and len(kept) == len(rows)
        if rebased:
            new = {row.id: point for row, point in zip(rows, points, strict=True)}
            rebased_index(index, made.metadata, target, new, building)
    return Adapted(made, len(kept), rebased, tuple(problems), before, after)


def _features(
    encoder: FeatureEncoder,
    rows: Sequence[Row],
    folder: Path,
    problems: list[str],
    progress: Progress | None,
) -> tuple[np.ndarray, list[int], np.ndarray]:
    """Features of all images that can be read and are those of the index, on disk.

    Returns:
        (features (N, F), positions of their rows, pixels of the first few).
    """
    preprocessing = encoder.metadata.preprocessing

    def load(at: int) -> tuple[np.ndarray | None, tuple[int, str]]:
        path = os.fsdecode(rows[at].path)
        try:
            content = read_bytes(path)[0]
        except ImageError as error:
            return None, (at, str(error))
        if content_hash(content) != rows[at].content:
            return None, (at, f"{path}: has changed since it was embedded. Run `hier embed` first")
        pixels, problem = pixels_of(preprocessing, path, content)
        return pixels, (at, problem)

    stored: np.memmap | None = None
    kept: list[int] = []
    with closing(encoder.stream(range(len(rows)), load)) as stream:
        for done, ((at, problem), own) in enumerate(stream, 1):
            if own is None:
                problems.append(problem)
            else:
                if stored is None:
                    shape = (len(rows), len(own))
                    stored = np.memmap(folder / "features", np.float32, "w+", shape=shape)
                stored[len(kept)] = own
                kept.append(at)
            if progress and (done % 16 == 0 or done == len(rows)):
                progress(done, len(rows))
    if stored is None:
        raise InputError(f"none of the {len(rows)} images of the index can be read: {problems[0]}")
    first = [load(at)[0] for at in kept[:_CHECKED]]
    sample = [pixels for pixels in first if pixels is not None]
    if len(sample) < len(first):
        raise InputError("an image was changed meanwhile, by another process. Run it again")
    return stored[: len(kept)], kept, np.stack(sample)


def _points(head: Head, features: np.ndarray) -> np.ndarray:
    parts = [head.points(features[at : at + _AT_ONCE]) for at in range(0, len(features), _AT_ONCE)]
    return np.concatenate(parts)


def _scores(points: np.ndarray, labels: Sequence[str], c: float) -> tuple[float, float] | None:
    """Recall@1 and MAP@R in percent; of many images those of evenly chosen ones."""
    known = np.flatnonzero([bool(label) for label in labels])
    some = known[np.linspace(0, len(known) - 1, min(len(known), MOST)).astype(int)]
    own = [labels[at] for at in some]
    counts = Counter(own)
    if len(counts) < 2 or max(counts.values()) < 2:
        return None
    found = score(points[some], own, c=c, recall_at=(1,))
    return float(found.recall_at[1]), float(found.map_at_r)
