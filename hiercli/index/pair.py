"""What an index says of the CLIP-like models that made it, and where their files are now.

A file is known by the digest of its content. It is looked for where it lay, at the same place
relative to the index, and beside the index.
"""

import contextlib
import dataclasses
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hiercli.errors import FileFormatError, HierError, InputError, MismatchError
from hiercli.files import open_regular, parse_json, printable, readable

if TYPE_CHECKING:
    from hiercli.encoder.encoder import Encoder
    from hiercli.encoder.foreign import ForeignModel
    from hiercli.encoder.pair import PairEncoder
    from hiercli.encoder.text_model import TextModel
    from hiercli.images import Preprocessing
    from hiercli.index.searchable import Searchable

_MOST_BESIDE = 20
"""Files beside an index that are looked at for a model."""


@dataclass(frozen=True)
class KnownFile:
    """A file that an index names.

    Attributes:
        path: where it lay.
        relative: the same, seen from the folder of the index; empty where it has none.
        digest: of its content, 64 hexadecimal digits.
    """

    path: str
    relative: str
    digest: str

    @classmethod
    def of(cls, path: Path, digest: str, home: Path | None) -> "KnownFile":
        """A file as it lies now, for an index in a folder."""
        whole = os.path.abspath(path)
        try:
            relative = "" if home is None else os.path.relpath(whole, os.path.realpath(home))
        except ValueError:  # on another drive
            relative = ""
        return cls(whole, relative, digest)

    @classmethod
    def from_dict(cls, told: Any) -> "KnownFile":
        """The inverse of `dataclasses.asdict`.

        Raises:
            ValueError: it is something else.
        """
        known = cls(told["path"], told["relative"], told["digest"])
        texts = (known.path, known.relative, known.digest)
        if not all(isinstance(text, str) and "\0" not in text for text in texts):
            raise ValueError("a path is no text")
        if not re.fullmatch("[0-9a-f]{64}", known.digest):
            raise ValueError("a digest is none")
        return known

    def places(self, homes: Sequence[Path]) -> Iterator[Path]:
        """Where it may lie, each place once; those that are no files are left out.

        Args:
            homes: folders of the index.
        """
        name, suffix = os.path.basename(self.path), os.path.splitext(self.path)[1]
        places = [Path(self.path)]
        places += [home / self.relative for home in homes if self.relative]
        places += [home / name for home in homes]
        if re.fullmatch(r"\.\w+", suffix):
            for home in homes:
                places += sorted(home.glob(f"*{suffix}"))[:_MOST_BESIDE]
        seen = set()
        for place in places:
            real = os.path.realpath(place)
            if real not in seen and os.path.isfile(real):
                seen.add(real)
                yield place


@dataclass(frozen=True)
class Pair:
    """The models of an index.

    Attributes:
        image: the image model.
        preprocessing: of images.
        text: the text model; ``None`` if the index knows images alone.
        tokenizer: of the text model.
        context: tokens that it takes.
        pad: id of the padding.
    """

    image: KnownFile
    preprocessing: "Preprocessing"
    text: KnownFile | None = None
    tokenizer: KnownFile | None = None
    context: int = 0
    pad: int = 0

    def to_text(self) -> str:
        """For the facts of an index."""
        facts = dataclasses.asdict(self) | {"preprocessing": self.preprocessing.to_dict()}
        return json.dumps(facts)

    @classmethod
    def from_text(cls, text: str, index: object) -> "Pair":
        """The inverse of `to_text`.

        Raises:
            FileFormatError: it is something else.
        """
        from hiercli.encoder.tokenizing import MAX_CONTEXT
        from hiercli.images import Preprocessing

        try:
            told = parse_json(text)
            has_text = told["text"] is not None
            pair = cls(
                KnownFile.from_dict(told["image"]),
                Preprocessing.from_dict(told["preprocessing"]),
                KnownFile.from_dict(told["text"]) if has_text else None,
                KnownFile.from_dict(told["tokenizer"]) if has_text else None,
                int(told["context"]), int(told["pad"]),
            )  # fmt: skip
            if has_text and not (0 < pair.context <= MAX_CONTEXT and 0 <= pair.pad < 2**31):
                raise ValueError(f"{pair.context} tokens, padding {pair.pad}")
        except (KeyError, TypeError, ValueError, OverflowError, InputError) as error:
            raise FileFormatError(
                f"what {index} says of its image and text model is damaged ({str(error)[:200]}). "
                "Build the index again with `hier embed ... --rebuild`"
            ) from error
        return pair


def pair_text(encoder: "Encoder", home: Path | None, before: str = "") -> str:
    """What an index says of a pair of models; empty for other encoders.

    Args:
        encoder: that made the points.
        home: folder of the index; ``None`` if it has none.
        before: what it said until now: a text model stays known if the encoder has none.
    """
    from hiercli.encoder.pair import PairEncoder

    if not isinstance(encoder, PairEncoder):
        return ""
    image = KnownFile.of(encoder.path, encoder.digest, home)
    text = encoder.text_model
    if text is not None:
        words = text.tokenizer
        pair = Pair(
            image, encoder.metadata.preprocessing, KnownFile.of(text.path, text.digest, home),
            KnownFile.of(words.path, words.digest, home), words.context, words.pad,
        )  # fmt: skip
    else:
        known = Pair(image, encoder.metadata.preprocessing)
        old = Pair.from_text(before, "the index") if before else known
        pair = dataclasses.replace(
            old, image=image, preprocessing=known.preprocessing
        )  # fmt: skip
    return pair.to_text()


def open_images(images: "Searchable", index: Path | str, **options: Any) -> "PairEncoder":
    """The image model of an index, without the text model.

    Args:
        images: the index, which was made by a pair.
        index: as people named it.
        options: ``model``, a file to use instead, ``device`` and ``threads``.

    Raises:
        InputError: the file is not found.
        MismatchError: it has changed.
    """
    from hiercli.encoder.pair import PairEncoder

    pair = Pair.from_text(images.pair, index)
    model = options.pop("model", None)
    found = model or _model(pair.image, images, index, "image model", "--model")
    return PairEncoder(found, preprocessing=pair.preprocessing, **options)


def open_text(
    images: "Searchable",
    index: Path | str,
    model: Path | None = None,
    tokenizer: Path | None = None,
) -> "TextModel":
    """The text model of an index, checked to give points that fit it.

    Args:
        images: the index, which was made by a pair.
        index: as people named it.
        model: text model to use instead of the one that the index names.
        tokenizer: likewise.

    Raises:
        MissingExtraError: the package tokenizers is not installed.
        InputError: a file is not found.
        MismatchError: it has changed, or its vectors have another length.
    """
    from hiercli import extras
    from hiercli.encoder.text_model import TextModel, require_same_dim

    extras.require("tokenizers")
    pair = Pair.from_text(images.pair, index)
    known = model is None and tokenizer is None
    if pair.text is None and model is None:
        raise InputError(f"{index} was built without a text model. Name it with --text-model")
    file = model or _model(pair.text, images, index, "text model", "--text-model")
    if known:
        tokenizer = _tokenizer(pair.tokenizer, images, index)
    context, pad = (pair.context, pair.pad) if known else (None, None)
    text = TextModel(file, tokenizer, context=context, pad=pad)
    require_same_dim(Path(str(index)), images.dim, text)
    return text


def named_models(pair: str, model: Path) -> Path | str:
    """The encoder of an index as people are told to name it.

    Args:
        pair: what the index says of a pair.
        model: the encoder, where it lay then.
    """
    text = text_model_of(pair).get("text_model")
    return f"{model} with --text-model {text}" if text else model


def text_model_of(pair: str) -> dict[str, str]:
    """The text model that an index names, for what is shown of it; empty without one."""
    try:
        text = Pair.from_text(pair, "the index").text if pair else None
    except FileFormatError:  # whoever needs it says so
        return {}
    return {} if text is None else {"text_model": readable(text.path)}


def models_of(images: "Searchable") -> list[Path]:
    """The models and the tokenizer that made an index, where they lay then."""
    found = [images.model]
    if images.pair:
        with contextlib.suppress(FileFormatError):  # whoever needs them says so
            pair = Pair.from_text(images.pair, "the index")
            found += [Path(file.path) for file in (pair.text, pair.tokenizer) if file]
    return found


def _homes(images: "Searchable") -> list[Path]:
    return list(dict.fromkeys(file.parent for file in images.files))


def _model(
    known: KnownFile | None, images: "Searchable", index: object, what: str, option: str
) -> "ForeignModel":
    """A model that an index names, read and checked by its digest."""
    from hiercli.encoder.foreign import ForeignModel

    assert known is not None
    first: HierError | None = None
    for place in known.places(_homes(images)):
        try:
            found = ForeignModel.read(place)
        except (HierError, OSError) as error:
            first = first or (error if isinstance(error, HierError) else None)
            continue
        if found.digest == known.digest:
            return found
    raise _lost(known, index, what, option, first)


def _tokenizer(known: KnownFile | None, images: "Searchable", index: object) -> Path:
    import hashlib

    assert known is not None
    for place in known.places(_homes(images)):
        try:
            with open_regular(place) as file:
                if hashlib.file_digest(file, "sha256").hexdigest() == known.digest:
                    return place
        except (InputError, OSError):
            continue
    raise _lost(known, index, "tokenizer", "--tokenizer", None)


def _lost(
    known: KnownFile, index: object, what: str, option: str, first: HierError | None
) -> HierError:
    """What people are told of a file that is not found, or is not what it was."""
    path = printable(known.path)
    if not os.path.isfile(known.path):
        return InputError(
            f"the {what} that built {index} is no longer at {path}, nor beside the index. Name it "
            f"with {option}"
        )
    if first is not None:
        return first
    return MismatchError(
        f"the {what} {path} has changed since {index} was built. Name the unchanged file with "
        f"{option}, or build the index again with `hier embed ... --rebuild`"
    )
