"""The text model of a CLIP-like pair: from words to points that lie among those of images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hiercli.encoder.foreign import (
    ForeignModel,
    Port,
    dim_of,
    output_of,
    ports,
    reason_of,
    require_vectors,
)
from hiercli.encoder.sessions import CPU
from hiercli.encoder.tokenizing import TextTokenizer, Tokens
from hiercli.errors import FileFormatError, InputError, MismatchError
from hiercli.geometry import sphere

OUTPUTS = ("text_embeds", "pooler_output")
"""Names of the output that is taken, the most wanted first."""
PROBE = "a photo"
"""A text with which a model is tried out."""
_TYPES = {
    "tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(bool)": np.bool_,
    "tensor(float)": np.float32,
}  # fmt: skip
_BESIDE = ("attention_mask", "token_type_ids", "position_ids")
"""Inputs that a model may have besides the ids of tokens."""


class TextModel:
    """A text model with its tokenizer. It runs on the CPU.

    Args:
        model: the ONNX file: one input of ids, int64 or int32 (B, L), perhaps an
            ``attention_mask``, and an output (B, D).
        tokenizer: ``tokenizer.json``; ``None``: beside the model, or in the folder above.
        context: tokens that the model takes; ``None``: as its graph or its tokenizer says.
        pad: id of the padding; ``None``: as the tokenizer says.
        threads: cores to use; 0: all.

    Attributes:
        path: of the model.
        digest: of its file and its weights, see `ForeignModel`.
        tokenizer: as it is used.
        embedding_dim: D.

    Raises:
        MissingExtraError: the package tokenizers is not installed.
        InputError: a file is missing or too large.
        FileFormatError: a file is damaged, or no text model or tokenizer.
        MismatchError: the tokenizer does not belong to the model.
    """

    def __init__(
        self,
        model: Path | str | ForeignModel,
        tokenizer: Path | str | None = None,
        *,
        context: int | None = None,
        pad: int | None = None,
        threads: int = 0,
    ) -> None:
        path = model.path if isinstance(model, ForeignModel) else Path(model)
        file = model if isinstance(model, ForeignModel) else ForeignModel.read(path)
        self.path, self.digest = path, file.digest
        self._session = file.session([CPU], threads)
        self._inputs, outputs = ports(self._session, path)
        shape = self._ids().shape
        length = shape[1] if len(shape) == 2 else None
        fixed = length if isinstance(length, int) else None
        where = TextTokenizer.path_beside(path) if tokenizer is None else Path(tokenizer)
        self.tokenizer = TextTokenizer(where, fixed or context, pad)
        output = output_of(outputs, OUTPUTS, path)
        self._output = output.name
        self.embedding_dim = dim_of(output) or 0
        if not self.embedding_dim:
            self.embedding_dim = self._run(self.tokenizer(PROBE)).shape[1]

    def _ids(self) -> Port:
        """The input of ids; the others must be known too."""
        inputs = self._inputs
        whole = [one for one in inputs if one.type in ("tensor(int64)", "tensor(int32)")]
        named = [one for one in whole if one.name == "input_ids"] or [
            one for one in whole if one.name not in _BESIDE
        ]
        others = [one for one in inputs if one.name not in _BESIDE and one not in named]
        if len(named) != 1 or others or any(one.type not in _TYPES for one in inputs):
            shown = ", ".join(map(str, inputs[:6]))
            raise FileFormatError(
                f"expected a text model with one input of token ids (int64 or int32), but "
                f"{self.path} takes {shown}. Use an export of the text model alone"
            )
        return named[0]

    def tokens(self, text: str) -> Tokens:
        """The tokens of a text, see `TextTokenizer`."""
        return self.tokenizer(text)

    def points(self, texts: Sequence[str]) -> np.ndarray:
        """Points (N, D) float32 of the ball of `sphere.C`, one of each text.

        Raises:
            InputError: a text is empty, or far too long.
            FileFormatError, MismatchError: the model cannot take it, or outputs no vector.
        """
        if not len(texts):
            return np.empty((0, self.embedding_dim), np.float32)
        vectors = [self._run(self.tokenizer(text)) for text in texts]
        return sphere.to_ball(np.concatenate(vectors))

    def _run(self, tokens: Tokens) -> np.ndarray:
        """The vector (1, D) of a text, float64."""
        given: dict[str, Any] = {}
        count = 1
        for one in self._inputs:
            values = {
                "attention_mask": tokens.mask,
                "token_type_ids": [0] * len(tokens.ids),
                "position_ids": list(range(len(tokens.ids))),
            }.get(one.name, tokens.ids)
            first = one.shape[0] if one.shape else None
            count = first if isinstance(first, int) else 1
            if not 1 <= count <= 1024:
                raise FileFormatError(f"{self.path} takes {count} texts at once, expected one")
            given[one.name] = np.tile(np.array(values, _TYPES[one.type]), (count, 1))
        try:
            (found,) = self._session.run([self._output], given)
        except MemoryError:
            raise
        except Exception as error:  # ONNX Runtime's own errors share no base but this
            raise MismatchError(
                f"ONNX Runtime cannot run {self.path} on the tokens of {self.tokenizer.path} "
                f"({reason_of(error)}). Name the tokenizer of this model with --tokenizer"
            ) from error
        return require_vectors(found, count, self.embedding_dim or None, self.path)[:1]


def require_same_dim(image: Path, dim: int, text: TextModel) -> None:
    """Check that texts and images have vectors of the same length.

    Raises:
        MismatchError: they do not.
    """
    if text.embedding_dim != dim:
        raise MismatchError(
            f"the text model {text.path} gives vectors of {text.embedding_dim} numbers, the "
            f"images of {image} have {dim}. Use the text model that was trained with the image "
            "model, exported with its projection"
        )


def require_words(texts: str | Sequence[str]) -> list[str]:
    """One text or several, as a list.

    Raises:
        InputError: they are something else, or none.
    """
    given = [texts] if isinstance(texts, str) else list(texts)
    if not given or not all(isinstance(text, str) for text in given):
        raise InputError("expected a text or a list of texts")
    return given
