"""What an exported encoder says of itself, kept in the metadata of its ONNX file."""

import base64
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hiercli import numpy_files
from hiercli.bounds import MAX_CLIP_RADIUS, MAX_DIM, is_curvature
from hiercli.errors import FileFormatError, InputError
from hiercli.files import parse_json
from hiercli.images import Preprocessing

KEY = "hier"
VERSION = 2
PRECISIONS = ("fp32", "fp16", "int8")


@dataclass(frozen=True)
class Metadata:
    """Everything that serving needs beside the graph.

    Attributes:
        fingerprint: of weights, preprocessing, c and dimension; see `nn.embedder.fingerprint`.
        preprocessing: of the input.
        c, clip_radius: of the ball.
        embedding_dim: D.
        backbone: timm name.
        seed: of the training run; it parted the classes of a folder into trained and unseen.
        class_names: training classes.
        class_points: (C, D) their midpoints in the ball; (0, D) of a run that was not finished.
        proxies: (P, D) hierarchical proxies in the ball.
        proof: what the export measured against the checkpoint, or a variant against float32.
        precision: of the backbone: fp32, fp16 or int8.
        image_depth: whether unclear images lie nearer the origin, see `training.image_depth`.
    """

    fingerprint: str
    preprocessing: Preprocessing
    c: float
    clip_radius: float
    embedding_dim: int
    backbone: str
    seed: int
    class_names: list[str]
    class_points: np.ndarray
    proxies: np.ndarray
    proof: dict[str, Any] = field(default_factory=dict)
    precision: str = "fp32"
    image_depth: bool = False

    def to_properties(self) -> dict[str, str]:
        """Text by key, as ONNX metadata holds it."""
        facts = {
            "version": VERSION,
            "fingerprint": self.fingerprint,
            "preprocessing": self.preprocessing.to_dict(),
            "c": self.c,
            "clip_radius": self.clip_radius,
            "embedding_dim": self.embedding_dim,
            "backbone": self.backbone,
            "seed": self.seed,
            "class_names": self.class_names,
            "proof": self.proof,
            "precision": self.precision,
        }
        if self.image_depth:
            facts["image_depth"] = True  # files of earlier versions lack it
        return {
            KEY: json.dumps(facts),
            f"{KEY}.class_points": _pack(self.class_points),
            f"{KEY}.proxies": _pack(self.proxies),
        }

    @classmethod
    def from_properties(cls, properties: Mapping[str, str], source: str) -> "Metadata":
        """The inverse of `to_properties`.

        Raises:
            FileFormatError: the ONNX file ``source`` was not written by `hier export`.
        """
        if KEY not in properties:
            raise FileFormatError(
                f"{source}: expected an encoder written by `hier export`, found an ONNX file "
                "without its metadata (preprocessing, c, fingerprint). Export it from a "
                "checkpoint. If it is the image model of a pair such as CLIP, name the text model "
                "too, with --text-model"
            )
        try:
            facts = parse_json(properties[KEY])
            if facts["version"] > VERSION:
                raise FileFormatError(
                    f"{source} was written by a newer version of hier. Upgrade hiercli"
                )
            metadata = cls(
                fingerprint=facts["fingerprint"],
                preprocessing=Preprocessing.from_dict(facts["preprocessing"]),
                c=float(facts["c"]),
                clip_radius=float(facts["clip_radius"]),
                embedding_dim=int(facts["embedding_dim"]),
                backbone=facts["backbone"],
                seed=int(facts["seed"]),
                class_names=list(facts["class_names"]),
                class_points=_unpack(properties[f"{KEY}.class_points"], source),
                proxies=_unpack(properties[f"{KEY}.proxies"], source),
                proof=dict(facts["proof"]),
                precision=facts["precision"],
                image_depth=facts.get("image_depth", False),
            )
            metadata._check()
        except (
            KeyError,
            TypeError,
            ValueError,
            OverflowError,
            AttributeError,
            InputError,
        ) as error:
            raise FileFormatError(
                f"{source}: its metadata is damaged ({str(error)[:200]}). Export it again"
            ) from error
        return metadata

    def _check(self) -> None:
        """Raise ValueError where a fact is not what it can be."""
        texts = (self.fingerprint, self.backbone, self.precision, *self.class_names)
        if not all(isinstance(text, str) for text in texts):
            raise ValueError("names must be text")
        if not isinstance(self.image_depth, bool):
            raise ValueError("'image_depth' must be true or false")
        if not is_curvature(self.c) or not 0 < self.clip_radius <= MAX_CLIP_RADIUS:
            raise ValueError(f"c is {self.c}, clip_radius {self.clip_radius}")
        if not 1 <= self.embedding_dim <= MAX_DIM or self.precision not in PRECISIONS:
            raise ValueError(f"{self.embedding_dim} dimensions in {self.precision}")
        if len(set(self.class_names)) < len(self.class_names):
            raise ValueError("two classes have the same name")
        if len(self.class_points) not in (0, len(self.class_names)):
            raise ValueError(f"{len(self.class_points)} points of {len(self.class_names)} classes")
        for points in (self.class_points, self.proxies):
            if points.ndim != 2 or points.shape[1] != self.embedding_dim:
                raise ValueError(f"points of shape {points.shape}")
            # Not so where a number is none, or infinite.
            if not (self.c * np.square(points.astype(np.float64)).sum(axis=1) < 1).all():
                raise ValueError("points outside the ball")


def _pack(array: np.ndarray) -> str:
    buffer = io.BytesIO()
    np.save(buffer, array.astype(np.float32), allow_pickle=False)
    return base64.b64encode(buffer.getvalue()).decode()


def _unpack(text: str, source: str) -> np.ndarray:
    array = numpy_files.from_bytes(base64.b64decode(text), source)
    if array.dtype.kind != "f":
        raise ValueError(f"points as {array.dtype}")
    return array.astype(np.float32)
