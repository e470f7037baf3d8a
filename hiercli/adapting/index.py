"""Adapt the encoder of an index to its images, and bring the index along."""

import os
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hiercli.adapting import graph
from hiercli.adapting.head import MOST, Head
from hiercli.encoder import golden
from hiercli.encoder.encoder import Encoder
from hiercli.encoder.features import FeatureEncoder
from hiercli.encoder.pipeline import pixels_of
from hiercli.errors import ImageError, InputError
from hiercli.evaluation.retrieval import score
from hiercli.files import require_apart
from hiercli.images import read_bytes
from hiercli.index.health import rebase as rebased_index
from hiercli.index.reader import Reader
from hiercli.index.schema import Row, content_hash
from hiercli.index.searchable import encoder_file

_CHECKED = 16
"""Images on which the new graph is compared with what the head computes."""
_AT_ONCE = 4096

Progress = Callable[[int, int], None]


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
        if reader.pair:
            raise InputError(
                f"{index} was built with an image model and a text model, which cannot be adapted: "
                "words would no longer fit the images. Use an index built with an encoder of hier"
            )
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
            old_points = np.stack([np.frombuffer(rows[at].point, "<f4") for at in kept])
            # Copies would be each other's neighbours, and differ in nothing.
            contents = {rows[at].content: place for place, at in enumerate(kept)}
            once = np.array(sorted(contents.values()))
            once = once[np.linspace(0, len(once) - 1, min(len(once), MOST)).astype(int)]
            head = Head.learn(features[once], count, old.c, points=old_points[once])
            facts = {"images": len(kept), "source": old.metadata.fingerprint}
            made = graph.write(source, target, head, features, old_points, sample, facts)
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
