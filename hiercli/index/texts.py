"""Words as queries, embedded by the text model of an index."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hiercli.errors import InputError
from hiercli.files import printable
from hiercli.index.pair import open_text, text_model_of
from hiercli.wording import counted

if TYPE_CHECKING:
    from hiercli.encoder.text_model import TextModel
    from hiercli.index.searchable import Searchable


@dataclass(frozen=True)
class TextQuery:
    """Words as a text model took them.

    Examples:
        >>> str(TextQuery("text_model.onnx", np.zeros((1, 3)), tokens=75, dropped=20))
        'text model text_model.onnx; the last 20 of 95 tokens do not fit and are left out'

    Attributes:
        model: file name of the text model.
        points: (1, D) in the ball.
        tokens: that were read.
        dropped: tokens that did not fit into the context.
    """

    model: str
    points: np.ndarray
    tokens: int
    dropped: int

    def __str__(self) -> str:
        told = f"text model {printable(self.model)}"
        if not self.dropped:
            return f"{told}, {counted(self.tokens, 'token')}"
        whole = self.tokens + self.dropped
        return f"{told}; the last {self.dropped:,} of {whole:,} tokens do not fit and are left out"

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            "names": [], "kind": "text model", "unmatched": [], "model": self.model,
            "tokens": self.tokens, "truncated": self.dropped > 0,
        }  # fmt: skip


TextReader = Callable[[str], TextQuery]
"""From words to a point, by a text model."""


def read_by(model: "TextModel", text: str) -> TextQuery:
    """Words embedded by a text model.

    Raises:
        HierError: as `TextModel.points`.
    """
    tokens, points = model.tokens(text), model.points([text])
    return TextQuery(model.path.name, points, tokens.count, tokens.dropped)


def reader_of(
    images: "Searchable",
    index: Path | str,
    model: Path | None = None,
    tokenizer: Path | None = None,
) -> TextReader | None:
    """What embeds words for an index; the model is opened when the first words come.

    Args:
        images: the index.
        index: as people named it.
        model: text model to use instead of the one that the index names.
        tokenizer: likewise.

    Returns:
        ``None`` if the index names no text model: there words are looked for in labels.

    Raises:
        InputError: a model or tokenizer is given, and the index was not made by a pair.
    """
    if not images.pair:
        if model is not None or tokenizer is not None:
            option = "--tokenizer" if model is None else "--text-model"
            raise InputError(
                f"{index} was not built with a text model, so {option} has no use. Omit it, or "
                "build the index with `hier embed ... --model IMAGE_MODEL --text-model TEXT_MODEL`"
            )
        return None
    if model is None and not text_model_of(images.pair):
        return None
    opened: list[TextModel] = []

    def read(text: str) -> TextQuery:
        if not opened:
            opened.append(open_text(images, index, model, tokenizer))
        return read_by(opened[0], text)

    return read
