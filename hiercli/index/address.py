"""Where an index lies: in files, or in Milvus."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from hiercli.errors import InputError

_HOST = r"([\w.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?"


@dataclass(frozen=True)
class Address:
    """An index in Milvus: ``milvus://host:19530/birds``, or ``milvus:./birds.db``.

    Attributes:
        uri: of the server, or the file of milvus-lite.
        collection: its name there.
    """

    uri: str
    collection: str

    @classmethod
    def parse(cls, text: str) -> "Address":
        """The address that a text which begins with ``milvus:`` stands for.

        Raises:
            InputError: it is malformed.
        """
        rest = text.removeprefix("milvus:")
        if rest.startswith("//"):
            host, _, collection = rest[2:].partition("/")
            found = cls(f"http://{host}", collection)
        else:
            host = rest
            found = cls(os.path.abspath(rest), re.sub(r"\W", "_", Path(rest).stem, flags=re.ASCII))
        if (
            not re.fullmatch(_HOST if rest.startswith("//") else ".+", host, flags=re.DOTALL)
            or not re.fullmatch(r"[A-Za-z_]\w*", found.collection, flags=re.ASCII)
            or (not rest.startswith("//") and not rest.endswith(".db"))
        ):
            raise InputError(
                "expected an index in Milvus like milvus://host:19530/birds (letters, digits and _ "
                f"in its name) or milvus:./birds.db, got {text!r}"
            )
        return found

    def __str__(self) -> str:
        return f"{self.uri}/{self.collection}"

    @property
    def is_file(self) -> bool:
        """Whether milvus-lite keeps it in a file, instead of a server."""
        return not self.uri.startswith("http://")


Target = Path | Address


def target_of(text: Path | str) -> Target:
    """The FAISS file or the address in Milvus that people gave.

    Examples:
        >>> target_of("milvus://localhost:19530/birds").collection
        'birds'
        >>> target_of("birds.faiss").name
        'birds.faiss'

    Raises:
        InputError: the address is malformed.
    """
    given = str(text)
    return Address.parse(given) if given.startswith("milvus:") else Path(text)


def require_file(text: Path | str, purpose: str) -> Path:
    """The FAISS file that people gave, where Milvus will not do.

    Raises:
        InputError: it is an address in Milvus.
    """
    found = target_of(text)
    if isinstance(found, Address):
        raise InputError(f"{purpose} needs an index file, got the Milvus index {text}")
    return found
