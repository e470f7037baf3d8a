"""From a file that people name to a tree, and to the photos that it stands on."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hiercli.cli.render import say
from hiercli.errors import InputError, MismatchError

NEWICK = (".nwk", ".newick", ".tree", ".tre")

if TYPE_CHECKING:
    import numpy as np

    from hiercli.hierarchy.tree import Node


@dataclass(frozen=True)
class Photos:
    """Embedded photos and the proxies of their encoder.

    Attributes:
        points: (N, D) in the ball.
        paths: N files; empty where none are known.
        labels: N class names, where they are known.
        proxies: (P, D).
        c: curvature magnitude.
        sources: files that they come from.
    """

    points: "np.ndarray"
    paths: list[str]
    labels: list[str] | None
    proxies: "np.ndarray"
    c: float
    sources: list[Path]

    def require_apart(self, target: Path | None) -> None:
        """Check that a file to be written is none of the photos, nor what they come from."""
        from hiercli.files import require_apart

        require_apart(target, self.sources)
        if target is not None and target.exists():  # of many photos each must be looked up
            require_apart(target, self.paths)

    def by_proxy(self, wanted: bool) -> bool:
        """Whether they can only be grouped by proxy: with one label only there are no classes."""
        if not wanted and len(set(self.labels or ())) < 2:
            say("the photos have no labels to tell them apart: grouped by the encoder's proxies")
            return True
        return wanted

    def tree(self, by_proxy: bool) -> "Node":
        """Grow the tree over their classes, or over the photos nearest to each proxy."""
        from hiercli.hierarchy import build

        return build.from_photos(
            self.points, self.paths or None, self.labels, self.proxies, self.c, by_proxy=by_proxy
        )

    def by_leaf(self, whole: "Node", shown: "Node", by_proxy: bool) -> dict[str, list[str]]:
        """Files at each leaf of what is shown of their tree, the most typical first."""
        from hiercli.hierarchy import build

        placed = build.leaf_photos(
            whole, shown, self.points, self.labels, self.proxies, self.c, by_proxy=by_proxy
        )
        names = self.paths or [f"photo {number + 1}" for number in range(len(self.points))]
        return {leaf: [names[place] for place in own.tolist()] for leaf, own in placed.items()}


def photos_of(index: Path | None, points: Path | None, model: Path | None) -> Photos:
    """The photos of an index, or of a file of embeddings.

    Args:
        index: written by `hier embed --index`.
        points: see `embeddings.read`.
        model: the encoder; needed where ``points`` does not hold proxies.

    Raises:
        InputError: not one of ``index`` and ``points``, or the encoder is not known.
        MismatchError: the encoder did not embed them.
        FileFormatError: a file is damaged.
    """
    if (index is None) == (points is None):
        raise InputError("expected photos: give one of --index and --points")
    return _of_index(index, model) if index is not None else _of_points(points, model)


def _of_index(index: Path, model: Path | None) -> Photos:
    from hiercli.encoder import onnx_file
    from hiercli.index.catalogue import Catalogue

    catalogue = Catalogue(index)
    source = model or catalogue.model
    if not source.is_file():
        raise InputError(
            f"the encoder that built {index} is no longer at {source}"
            + (": name it with --model" if model is None else "")
        )
    metadata = onnx_file.read(source).metadata
    catalogue.check(metadata, source)
    rows, points = catalogue.with_points()
    if not rows:
        raise InputError(f"expected photos in {index}, but it is empty: `hier embed` adds some")
    paths, labels = [os.fsdecode(row.path) for row in rows], [row.label for row in rows]
    sources = [*files_of(index), source]
    return Photos(points, paths, labels, metadata.proxies, metadata.c, sources)


def _of_points(points: Path | None, model: Path | None) -> Photos:
    from hiercli import embeddings
    from hiercli.encoder import onnx_file

    assert points is not None
    stored = embeddings.read(points)
    proxies, c = stored.proxies, stored.c
    if model is not None:
        metadata = onnx_file.read(model).metadata
        if stored.fingerprint not in (None, metadata.fingerprint):
            raise MismatchError(
                f"{points} was embedded by encoder {stored.fingerprint}, {model} is "
                f"{metadata.fingerprint}: name the one that made it"
            )
        if stored.points.shape[1] != metadata.embedding_dim:
            raise MismatchError(
                f"{points} holds points of {stored.points.shape[1]} dimensions, {model} makes "
                f"{metadata.embedding_dim}: name the encoder that made them"
            )
        proxies, c = metadata.proxies, metadata.c
    if proxies is None or c is None:
        raise InputError(
            f"{points} holds no proxies, which a tree is grown of: name the encoder that embedded "
            "them with --model"
        )
    embeddings.require_in_ball(stored.points, c, points)
    inside = list(points.iterdir()) if points.is_dir() else []
    sources = [points, points.with_name(f"{points.stem}.paths.txt"), *inside]
    return Photos(stored.points, stored.paths or [], stored.labels, proxies, c, sources)


def files_of(*given: Path | None) -> list[Path]:
    """All files that belong to those that were named; the catalogue of an index is one."""
    from hiercli.index import pair

    named = [path for path in given if path is not None]
    return [
        file
        for path in dict.fromkeys([*named, *(Path(os.path.realpath(path)) for path in named)])
        for file in (path, *pair.files(path))
    ]


def require_apart_from_encoder(target: Path, index: Path) -> None:
    """Check that a file to be written is not the encoder of what may be an index."""
    from hiercli.files import require_apart
    from hiercli.index.catalogue import Catalogue, catalogue_path

    if catalogue_path(Path(os.path.realpath(index))).is_file():
        require_apart(target, [Catalogue(index).model])


def of_encoder(checkpoint: Path | None, model: Path | None) -> "Node":
    """The tree of a checkpoint, an exported encoder, or the general one, over training classes."""
    from hiercli.hierarchy import build

    if checkpoint is not None and checkpoint.suffix.lower() != ".onnx":
        from hiercli.training import checkpoint as checkpoints

        held = checkpoints.read(checkpoint)
        source, c = checkpoint, held.recipe.c
        names, points, proxies = held.class_names, held.class_points.numpy(), held.proxies.numpy()
    else:
        from hiercli.encoder import onnx_file
        from hiercli.encoder.general import default_model

        named = checkpoint or model
        source = named or default_model()
        if named is None:
            say(f"the tree of {source}")
        metadata = onnx_file.read(source).metadata
        names, points, proxies = metadata.class_names, metadata.class_points, metadata.proxies
        c = metadata.c
    if len(points) < len(names):
        raise InputError(
            f"{source} does not say where its classes lie: that is worked out for the best.pt of "
            "a run, when it ends. Use that; if the run is not finished, go on with `hier train ... "
            "--resume`"
        )
    return build.from_classes(points, names, proxies, c)


def read(source: Path) -> "Node":
    """A tree over classes from any file that has one.

    Args:
        source: a tree as ``.json`` or Newick, a checkpoint, an exported encoder, an index, or
            embeddings with proxies (``.npz``).

    Raises:
        InputError: it is missing.
        FileFormatError: it is not what its name says.
    """
    if not source.is_file():
        raise InputError(f"expected a tree, an encoder or an index, but {source} is missing")
    kind = source.suffix.lower()
    if kind == ".json" or kind in NEWICK:
        from hiercli.hierarchy import formats, newick

        text = source.read_text("utf-8-sig", "surrogateescape")
        return (formats.from_json if kind == ".json" else newick.read)(text, str(source))
    if kind == ".faiss":
        return _of_index(source, None).tree(by_proxy=False)
    if kind == ".npz":
        return _of_points(source, None).tree(by_proxy=False)
    if kind in (".onnx", ".pt", ".pth"):
        return of_encoder(source, None)
    raise InputError(
        f"expected a tree (.json, {', '.join(NEWICK)}), an encoder (.pt, .onnx), an index (.faiss) "
        f"or embeddings with proxies (.npz), got {source}"
    )
