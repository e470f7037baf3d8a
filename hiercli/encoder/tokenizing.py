"""Words as the numbers that a text model takes, by a ``tokenizer.json``."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hiercli import extras
from hiercli.encoder.companions import companion, settings
from hiercli.errors import FileFormatError, InputError
from hiercli.files import open_regular, readable

NAME = "tokenizer.json"
CONFIG = "tokenizer_config.json"
LONGEST = 100_000
"""Most characters of a text."""
MAX_CONTEXT = 4096
"""Most tokens that a text model takes."""
_MOST_BYTES = 2**27


@dataclass(frozen=True)
class Tokens:
    """A text as a model takes it.

    Attributes:
        ids: of the tokens, as many as the context is long; padding comes last.
        mask: 1 for a token, 0 for padding.
        count: tokens that stand for the text; those that mark its start and end do not count.
        dropped: tokens that did not fit into the context.
    """

    ids: list[int]
    mask: list[int]
    count: int
    dropped: int


class TextTokenizer:
    """The tokenizer of a text model.

    Args:
        path: ``tokenizer.json``.
        context: tokens that the model takes. ``None``: as this file says it, or
            ``tokenizer_config.json`` beside it.
        pad: id of the padding; ``None``: likewise.

    Attributes:
        path, context, pad: as given or found.
        digest: SHA-256 of the file, hexadecimal.

    Raises:
        MissingExtraError: the package tokenizers is not installed.
        InputError: the file is missing or too large, or nothing says how long the context is.
        FileFormatError: it is no tokenizer.
    """

    def __init__(self, path: Path | str, context: int | None = None, pad: int | None = None):
        extras.require("tokenizers")
        from tokenizers import Tokenizer

        self.path = path = Path(path)
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > _MOST_BYTES:
                raise InputError(
                    f"expected a tokenizer of at most {_MOST_BYTES:,} bytes, but {path} has "
                    f"{size:,}"
                )
            content = file.read(size)
        self.digest = hashlib.sha256(content).hexdigest()
        try:
            self._tokenizer = Tokenizer.from_str(content.decode())
            self._marks = int(self._tokenizer.num_special_tokens_to_add(False))
        except BaseException as error:  # what stops in Rust is no Exception
            _pass_on(error)
            raise FileFormatError(
                f"{path} is not a tokenizer, or is damaged ({str(error)[:200]}). Copy it again"
            ) from error
        beside = path.with_name(CONFIG)
        told = settings(beside) if beside.is_file() else {}
        padding, truncation = self._tokenizer.padding, self._tokenizer.truncation
        self.context = context or self._context(padding, truncation, told)
        if not self._marks < self.context <= MAX_CONTEXT:
            raise FileFormatError(
                f"expected texts of {self._marks + 1} to {MAX_CONTEXT} tokens, got "
                f"{self.context} for {path}"
            )
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(self.context)
        self.pad = self._padding(padding, told) if pad is None else pad

    @classmethod
    def path_beside(cls, model: Path) -> Path:
        """The tokenizer of a text model: beside it, or in the folder above.

        Raises:
            InputError: there is none.
        """
        if (found := companion(model, (NAME,))) is None:
            raise InputError(
                f"expected {NAME} beside {model} or in the folder above, found none. Copy it from "
                "where the model came, or name it with --tokenizer"
            )
        return found

    def __call__(self, text: str) -> Tokens:
        """The tokens of a text.

        Raises:
            InputError: it is empty, too long, or nothing is left of it.
        """
        if not text.strip():
            raise InputError("expected words to search for, got an empty text")
        if len(text) > LONGEST:
            raise InputError(f"expected words of at most {LONGEST:,} characters, got {len(text):,}")
        try:
            found = self._tokenizer.encode(readable(text))
        except BaseException as error:  # what stops in Rust is no Exception
            _pass_on(error)
            raise FileFormatError(
                f"{self.path} cannot read these words ({str(error)[:200]}). Copy it again"
            ) from error
        count = len(found.ids) - sum(found.special_tokens_mask)
        if not count:
            raise InputError(f"{self.path} leaves nothing of these words. Use other words")
        dropped = sum(len(rest.ids) - sum(rest.special_tokens_mask) for rest in found.overflowing)
        missing = self.context - len(found.ids)
        return Tokens(
            [*found.ids, *[self.pad] * missing],
            [1] * len(found.ids) + [0] * missing,
            count, dropped,
        )  # fmt: skip

    def _context(self, padding: Any, truncation: Any, told: dict[str, Any]) -> int:
        """The shortest context that the files say."""
        said = [
            (truncation or {}).get("max_length"), (padding or {}).get("length"),
            told.get("model_max_length"),
        ]  # fmt: skip
        sane = [one for one in said if isinstance(one, int) and 1 < one <= MAX_CONTEXT]
        if not sane:
            raise InputError(
                f"expected {self.path} or {CONFIG} beside it to say how many tokens the text "
                f"model takes, found nothing. Copy {CONFIG} from where the model came, or write "
                'one with that number: {"model_max_length": 64}'
            )
        return min(sane)

    def _padding(self, padding: Any, told: dict[str, Any]) -> int:
        """The id that fills up short texts: as the files say, or else the last mark of a text."""
        if padding is not None:
            return int(padding["pad_id"])
        token = told.get("pad_token")
        token = token.get("content") if isinstance(token, dict) else token
        if isinstance(token, str):
            if (number := self._tokenizer.token_to_id(token)) is None:
                raise FileFormatError(
                    f"{self.path} does not have the token {token[:40]!r}, which {CONFIG} beside "
                    "it names as padding. Copy both again"
                )
            return int(number)
        marks = self._tokenizer.encode("").ids
        return int(marks[-1]) if marks else 0


def _pass_on(error: BaseException) -> None:
    """Let through what ends a program."""
    if isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit | MemoryError):
        raise error
