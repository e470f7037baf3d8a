"""An image model and a text model that were trained together, as those of CLIP and SigLIP."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hiercli.collection import Collection
from hiercli.encoder.encoder import Encoder
from hiercli.encoder.foreign import (
    ForeignModel,
    dim_of,
    output_of,
    ports,
    reason_of,
    require_vectors,
)
from hiercli.encoder.image_settings import preprocessing_of
from hiercli.encoder.metadata import Metadata
from hiercli.encoder.sessions import CPU
from hiercli.encoder.text_model import PROBE, TextModel, require_same_dim, require_words
from hiercli.errors import FileFormatError, InputError, MismatchError
from hiercli.geometry import sphere
from hiercli.images import Preprocessing

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

OUTPUTS = ("image_embeds", "pooler_output")
"""Names of the output that is taken, the most wanted first."""
_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
_VERSION = 1
"""Of the way from an image to a point: points of different ways do not compare."""


class PairEncoder(Encoder):
    """An image model and a text model of one space: images are found by words.

    Vectors of both become points of the ball at one depth. There the hyperbolic order is that of
    cosines: two points at the distance d have vectors of cosine 2 - cosh(d), see
    `hiercli.geometry.sphere`.

    Examples:
        >>> import hiercli as hier
        >>> pair = hier.PairEncoder("clip/vision_model.onnx", "clip/text_model.onnx")
        >>> images = pair.embed("photos/kind0")
        >>> words = pair.embed_text(["a red bird on water", "a flower"])
        >>> words.points.shape == (2, pair.embedding_dim)
        True
        >>> with hier.Index("clip.faiss") as index:
        ...     done = index.update(["photos/"], pair)
        ...     hits = index.search_words("a red bird on water", k=3)
        >>> len(hits)
        3

    Args:
        image_model: an ONNX file of another program with one input of pixels, float (B, 3, S, S),
            and an output (B, D): ``image_embeds``, ``pooler_output``, or the only one of two
            dimensions.
        text_model: likewise, from ids of tokens (B, L); ``None`` to embed images alone.
        device: of the image model, see `Encoder`. The text model runs on the CPU.
        tokenizer: ``tokenizer.json`` of the text model; ``None``: beside it, or in the folder
            above.
        preprocessing: of images; ``None``: as ``preprocessor_config.json`` beside the image model
            says, or in the folder above.
        threads: cores to use; 0: all.
        batch: images that go through the network together; 0: 4 on a CPU, 128 on a GPU.

    Attributes:
        text_model: a `TextModel`, or ``None``.
        metadata, digest, input_name, fallback: see `Encoder`.

    Raises:
        MissingExtraError: there is a text model, and the package tokenizers is not installed.
        InputError: a file is missing or too large.
        FileFormatError: a file is damaged, or no such model.
        MismatchError: files do not belong together: image and text have vectors of different
            lengths, or the preprocessing is of another size.
    """

    def __init__(
        self,
        image_model: Path | str | ForeignModel,
        text_model: Path | str | TextModel | None = None,
        device: str = "auto",
        *,
        tokenizer: Path | str | None = None,
        preprocessing: Preprocessing | None = None,
        threads: int = 0,
        batch: int = 0,
    ) -> None:
        model = (
            image_model if isinstance(image_model, ForeignModel) else ForeignModel.read(image_model)
        )
        self.path, self.digest = model.path, model.digest
        self._preprocessing = preprocessing
        self._start(lambda providers: model.session(providers, threads), device, threads, batch)
        if text_model is not None and not isinstance(text_model, TextModel):
            text_model = TextModel(text_model, tokenizer, threads=threads)
        self.text_model = text_model
        if text_model is not None:
            require_same_dim(self.path, self.embedding_dim, text_model)
            text_model.points([PROBE])  # now, and not when all images are embedded

    def _check_graph(self) -> str:
        """The name of the only input. What there is to say of the model becomes its metadata."""
        inputs, outputs = ports(self._session, self.path)
        shape = inputs[0].shape if inputs else ()
        is_right = len(inputs) == 1 and inputs[0].type in _TYPES and len(shape) == 4
        if not is_right or (isinstance(shape[1], int) and shape[1] != 3):
            shown = ", ".join(map(str, inputs[:6]))
            raise FileFormatError(
                f"expected an image model with one input of pixels, float (B, 3, S, S), but "
                f"{self.path} takes {shown}. Use an export of the image model alone"
            )
        sides = {side for side in shape[2:] if isinstance(side, int)}
        if len(sides) > 1:
            raise FileFormatError(f"{self.path} takes images of {inputs[0]}, expected a square")
        size = sides.pop() if sides else None
        looks = self._preprocessing or preprocessing_of(self.path, size)
        if size not in (None, looks.size):
            raise MismatchError(
                f"{self.path} takes images of {size} pixels, the preprocessing makes {looks.size}"
            )
        first = shape[0]
        self._fixed_batch = first if isinstance(first, int) else None
        if self._fixed_batch is not None and not 1 <= self._fixed_batch <= 1024:
            raise FileFormatError(f"{self.path} takes {first} images at once")
        self._dtype = _TYPES[inputs[0].type]
        output = output_of(outputs, OUTPUTS, self.path)
        self._output = output.name
        name = inputs[0].name
        dim = dim_of(output)
        if dim is None:
            blank = np.zeros((self._fixed_batch or 1, 3, looks.size, looks.size), self._dtype)
            found = self._session.run([self._output], {name: blank})[0]
            dim = int(found.shape[1]) if found.ndim == 2 else 0
        self.metadata = self._metadata(looks, dim)
        return name

    def _metadata(self, preprocessing: Preprocessing, dim: int) -> Metadata:
        facts = {
            "version": _VERSION, "digest": self.digest, "output": self._output,
            "preprocessing": preprocessing.to_dict(), "c": sphere.C, "norm": sphere.NORM,
        }  # fmt: skip
        none = np.empty((0, dim), np.float32)
        return Metadata(
            fingerprint=hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16],
            preprocessing=preprocessing, c=sphere.C, clip_radius=1.0, embedding_dim=dim,
            backbone=self.path.stem, seed=0, class_names=[], class_points=none, proxies=none,
        )  # fmt: skip

    @property
    def files(self) -> tuple[Path, ...]:
        """Files that it was read from, but for weights in further files."""
        text = self.text_model
        return (self.path,) if text is None else (self.path, text.path, text.tokenizer.path)

    def run(self, pixels: np.ndarray) -> np.ndarray:
        """Float32 pixels (B, 3, size, size) to points of the ball (B, D), all at one depth.

        Raises:
            InputError: the runtime fails, for instance for want of memory.
            FileFormatError: what it gives are no vectors.
        """
        size = self._fixed_batch or len(pixels)
        parts = [self._vectors(pixels[at : at + size], size) for at in range(0, len(pixels), size)]
        return sphere.to_ball(np.concatenate(parts))

    def _vectors(self, pixels: np.ndarray, size: int) -> np.ndarray:
        """Vectors (B, D) of at most as many images as the graph takes at once."""
        given = pixels.astype(self._dtype, copy=False)
        if len(pixels) < size:
            given = np.concatenate([given, np.repeat(given[-1:], size - len(pixels), axis=0)])
        try:
            (found,) = self._session.run([self._output], {self.input_name: given})
        except Exception as error:  # ONNX Runtime's own errors share no base but this
            raise InputError(
                f"ONNX Runtime cannot run {self.path} on {len(pixels)} images "
                f"({reason_of(error)}). Use a smaller --batch, or --device cpu"
            ) from error
        return require_vectors(found, size, self.embedding_dim, self.path)[: len(pixels)]

    def embed_text(self, texts: str | Sequence[str]) -> Collection:
        """Embed words among the images.

        Args:
            texts: one text or several. What does not fit into the context of the text model is
                cut off.

        Returns:
            a collection of (N, D) points with c and fingerprint, fit for `Index.search`.

        Raises:
            InputError: a text is empty, or there is no text model.
            FileFormatError, MismatchError: the text model cannot take it, or outputs no vector.
        """
        if self.text_model is None:
            raise InputError("expected an encoder with a text model, got one for images alone")
        given = require_words(texts)
        facts: dict[str, Any] = {"c": self.c, "fingerprint": self.fingerprint}
        return Collection(points=self.text_model.points(given), **facts)

    def _narrow_session(self) -> "InferenceSession | None":
        model = ForeignModel.read(self.path)
        return model.session([CPU], 1) if model.digest == self.digest else None
