"""What a server is told when it starts."""

import dataclasses
import ipaddress
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from hiercli.errors import InputError

LEAST_TOKEN = 16
"""Characters of a token that people choose."""


@dataclass(frozen=True)
class Settings:
    """What is served, to whom, and at what cost at most.

    Attributes:
        indexes: FAISS files or addresses in Milvus; a request names one by the stem of its file.
        host: address to listen on.
        port: 1 to 65535.
        token: that each request must carry; empty for none.
        model: encoder for queries that are images; empty for the one that built each index.
        root: where relative image paths start; empty for what each index says.
        device: auto, cpu or cuda.
        threads: CPU cores of the encoder; 0 for all.
        show_paths: whether answers hold paths of files.
        show_originals: whether the image files themselves are served, not just previews.
        max_upload: bytes of a request at most.
        seconds: for a request at most.
        connections: at a time at most.
        decoders: processes that decode images; 0 for one per core.
        workers: processes that answer.
    """

    indexes: tuple[str, ...]
    host: str = "127.0.0.1"
    port: int = 8000
    token: str = ""
    model: str = ""
    root: str = ""
    device: str = "auto"
    threads: int = 0
    show_paths: bool = False
    show_originals: bool = False
    max_upload: int = 32 * 2**20
    seconds: float = 30.0
    connections: int = 500
    decoders: int = 0
    workers: int = 1

    def __post_init__(self) -> None:
        if not self.indexes:
            raise InputError("expected at least one index to serve. Give it with --index")
        if self.token and not re.fullmatch(rf"[\x21-\x7e]{{{LEAST_TOKEN},}}", self.token):
            raise InputError(
                f"expected a token of at least {LEAST_TOKEN} printable ASCII characters without "
                "spaces. Leave --token out, and hier makes one"
            )
        if not self.token and not self.is_local:
            raise InputError(
                f"a server on {self.host} can be reached from other machines, so it needs a token"
            )

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it."""
        return is_loopback(self.host)

    @property
    def num_decoders(self) -> int:
        """Processes that decode images."""
        return self.decoders or os.cpu_count() or 1

    @property
    def root_folder(self) -> Path | None:
        """Where relative image paths start; ``None`` for what each index says."""
        return Path(self.root) if self.root else None

    @property
    def search_threads(self) -> int:
        """Threads of each process that compare points, see `index.reader.Reader`."""
        return max(1, (os.cpu_count() or 1) // self.workers)

    def to_json(self) -> str:
        """As text, for the processes of a server."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The inverse of `to_json`."""
        values = json.loads(text)
        return cls(**values | {"indexes": tuple(values["indexes"])})


def is_loopback(host: str) -> bool:
    """Whether an address or name is this machine's own, out of reach for others.

    Examples:
        >>> [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0")]
        [True, True, True, False]
    """
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"
