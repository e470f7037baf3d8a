"""What an index in Milvus says of itself, read and checked."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from hiercli.encoder.metadata import Metadata
from hiercli.errors import FileFormatError
from hiercli.files import parse_json
from hiercli.index.address import Address
from hiercli.index.milvus import collections
from hiercli.index.pair import named_models
from hiercli.index.searchable import require_encoder


@dataclass(frozen=True)
class Facts:
    """The properties of a collection of images.

    Attributes:
        told: all of them, as they are written.
        address: of the index.
        fingerprint: of the encoder that made the points.
        c: curvature magnitude, > 0.
        dim: of the ball.
        level_names: fine to coarse.
        model: the encoder, where it lay then.
        num_lists: of an index of lists; 0 where every point is compared.
        nprobe: how many of them a search visits.
        recall: of the 10 nearest, as it was measured; 1 where every point is compared.
    """

    told: dict[str, str]
    address: Address
    fingerprint: str
    c: float
    dim: int
    level_names: tuple[str, ...]
    model: Path
    num_lists: int
    nprobe: int
    recall: float

    @classmethod
    def read(cls, client: Any, address: Address) -> Self:
        """Of the collection at an address, which is ready to be asked then.

        Raises:
            FileFormatError: hier did not write it.
        """
        told = collections.require_ours(client, address, address.collection)
        return cls.of(told, address)

    @classmethod
    def of(cls, told: dict[str, str], address: Address) -> Self:
        """Of properties.

        Raises:
            FileFormatError: hier did not write them.
        """
        try:
            c, dim = float(told["c"]), int(told["embedding_dim"])
            num_lists, nprobe = int(told.get("num_lists", 0)), int(told.get("nprobe", 0))
            names = parse_json(told["level_names"])
            if not (0 < c < math.inf and dim > 0 and 0 <= nprobe <= num_lists <= 65_536):
                raise ValueError("a number out of its range")
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise ValueError("level_names")
            return cls(
                told, address, told["fingerprint"], c, dim, tuple(names),
                Path(parse_json(told["model"])), num_lists, nprobe, float(told.get("recall", 1)),
            )  # fmt: skip
        except (KeyError, ValueError, TypeError) as error:
            raise FileFormatError(
                f"{address} was not written by hier, or its encoder metadata has changed "
                f"({error!r}). Choose another name"
            ) from error

    def check(self, metadata: Metadata, model: Path) -> None:
        """Refuse an encoder that did not make this index.

        Raises:
            MismatchError: it names both sides.
        """
        named = named_models(self.told.get("pair", ""), self.model)
        told = self.fingerprint, self.c, self.dim, named
        require_encoder(str(self.address), told, metadata, model)
