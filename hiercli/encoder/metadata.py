"""What an exported encoder says of itself, kept in the metadata of its ONNX file."""

import base64
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hiercli.errors import FileFormatError
from hiercli.images import Preprocessing

KEY = "hier"
VERSION = 1


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
        class_points: (C, D) their midpoints in the ball.
        proxies: (P, D) hierarchical proxies in the ball.
        proof: what the export measured against the checkpoint, or a variant against float32.
        precision: of the backbone: fp32, fp16 or int8.
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
                "without its metadata (preprocessing, c, fingerprint). Export it from a checkpoint"
            )
        try:
            facts = json.loads(properties[KEY])
            if facts["version"] > VERSION:
                raise FileFormatError(f"{source} was written by a newer hier: upgrade hiercli")
            return cls(
                fingerprint=facts["fingerprint"],
                preprocessing=Preprocessing.from_dict(facts["preprocessing"]),
                c=float(facts["c"]),
                clip_radius=float(facts["clip_radius"]),
                embedding_dim=int(facts["embedding_dim"]),
                backbone=facts["backbone"],
                seed=int(facts["seed"]),
                class_names=list(facts["class_names"]),
                class_points=_unpack(properties[f"{KEY}.class_points"]),
                proxies=_unpack(properties[f"{KEY}.proxies"]),
                proof=facts["proof"],
                precision=str(facts.get("precision", "fp32")),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise FileFormatError(
                f"{source}: its metadata is damaged ({error!r}): export it again"
            ) from error


def _pack(array: np.ndarray) -> str:
    buffer = io.BytesIO()
    np.save(buffer, array.astype(np.float32), allow_pickle=False)
    return base64.b64encode(buffer.getvalue()).decode()


def _unpack(text: str) -> np.ndarray:
    array: np.ndarray = np.load(io.BytesIO(base64.b64decode(text)), allow_pickle=False)
    return array
