"""What an update asks of an index, whether it lies in files or in Milvus."""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from hiercli.collection import Collection
from hiercli.encoder.metadata import Metadata
from hiercli.errors import FileFormatError, InputError
from hiercli.index import kinds, locations
from hiercli.index.address import Address, Target
from hiercli.index.schema import Row
from hiercli.index.sync import Plan, Scope

if TYPE_CHECKING:
    from hiercli.encoder.encoder import Encoder
    from hiercli.index.searchable import Searchable


class Store(Protocol):
    """An index open for writing.

    Attributes:
        embedded: points that were made and kept in this run.
        keeps_thumbnails: whether small pictures have a place in it.
    """

    embedded: int
    keeps_thumbnails: bool

    @property
    def facts(self) -> dict[str, str]:
        """What it says of itself; empty where there is none yet."""

    def __len__(self) -> int:
        """Images in it."""

    def check(self, metadata: Metadata, model: Path) -> None:
        """Refuse an encoder that did not make its points.

        Raises:
            MismatchError: it names both sides.
        """

    def objection(self, path: bytes, label: str, levels: str) -> str:
        """Why an image cannot be stored; empty where it can."""

    def known(self, listed: Iterable[bytes], scope: Scope) -> dict[bytes, Row]:
        """Rows, without points, of all paths that an update speaks of."""

    def quarantine(self) -> dict[bytes, str]:
        """Files that could not be read, and why."""

    def expect(self, fingerprint: str) -> None:
        """Say whose points will be kept; those of another encoder that still wait are dropped."""

    def has(self, content: bytes) -> bool:
        """Whether a point of some content is kept, so that it need not be made."""

    def keep(self, content: bytes, point: np.ndarray, thumbnail: bytes) -> None:
        """Keep a point (D,) that was made, until its image has its place.

        Args:
            content: hash of the file.
            point: of it.
            thumbnail: a small picture of it; empty for none.
        """

    def is_behind(self) -> bool:
        """Whether something has to be written although nothing changes."""

    def apply(
        self,
        plan: Plan,
        facts: dict[str, str],
        proxies: np.ndarray,
        freed: Iterable[bytes],
        passed_over: Iterable[tuple[bytes, str]],
        progress: kinds.Progress | None = None,
    ) -> None:
        """Carry out a plan.

        Args:
            plan: what `sync.plan_sync` decided.
            facts: of the encoder, and ``index_type``.
            proxies: (P, D) of the encoder.
            freed: paths that leave quarantine.
            passed_over: paths and reasons that enter it.
            progress: called with (done, total) points.

        Raises:
            InputError: it cannot be written.
        """


def exists(index: Target) -> bool:
    """Whether there is an index, whole or not.

    Raises:
        InputError: Milvus does not answer.
    """
    if isinstance(index, Path):
        return locations.exists(Path(os.path.realpath(index)))
    if index.is_file and not os.path.exists(index.uri):
        return False
    from hiercli.index.milvus import collections
    from hiercli.index.milvus.connection import connected

    with connected(index) as client:
        return collections.is_there(client, index)


def encoder_of(index: Target) -> Path | None:
    """The file of the encoder that built an index, see `searchable.find_encoder`.

    ``None`` where there is no index, or none that can be read.

    Raises:
        InputError: the encoder is not known, or no longer there; or Milvus does not answer.
        FileFormatError: the collection in Milvus is somebody else's.
    """
    if not exists(index):
        return None
    from hiercli.index.searchable import encoder_file, find_encoder

    if not isinstance(index, Path):
        with closing(searching(index)) as images:
            return encoder_file(images, str(index))
    from hiercli.index.catalogue import encoder_of

    real = Path(os.path.realpath(index))
    told = encoder_of(real)
    return None if told is None else find_encoder(*told, (index, real), index)


def pair_encoder(index: Target, device: str, threads: int) -> "Encoder | None":
    """The image model of an index that a CLIP-like pair built; ``None`` for other indexes.

    Raises:
        HierError: its file is not known, gone, or another one.
    """
    if not exists(index):
        return None
    from hiercli.index.pair import open_images

    try:
        images = searching(index)
    except FileFormatError:  # of an earlier version, which knew no pairs, or damaged
        return None
    with closing(images):
        if not images.pair:
            return None
        return open_images(images, str(index), device=device, threads=threads)


def require_index_type(index: Target, index_type: str) -> None:
    """Check that an index can be of a type.

    Raises:
        InputError: it cannot.
    """
    if isinstance(index, Path):
        kinds.require_index_type(index_type)
        return
    from hiercli.index.milvus import tuning

    tuning.require_index_type(index_type)


def require_root(index: Target, root: Path | None) -> None:
    """Check that a root that was given is there, and that the index can have one.

    Raises:
        InputError: it is no folder, or the index is in Milvus.
    """
    locations.require_root(root)
    if root is not None and isinstance(index, Address):
        raise InputError("an index in Milvus stores absolute paths. --root needs an index file")


@contextmanager
def writing(
    index: Target, dim: int, *, anew: bool = False, root: Path | None = None
) -> Iterator[Store]:
    """Open an index for writing; in files, as its only writer.

    Args:
        index: new or there.
        dim: of the ball.
        anew: start from nothing, whatever is there.
        root: paths are relative to it from now on.

    Raises:
        InputError: it cannot be written to.
        FileFormatError: what is there is damaged or somebody else's.
    """
    if isinstance(index, Path):
        from hiercli.index import writer

        with writer.writing(index, dim, anew=anew, root=root) as files:
            yield files
        return
    from hiercli.index.milvus import MilvusStore

    with closing(MilvusStore(index, dim, anew=anew)) as rows:
        yield rows


def fill(
    index: Target,
    facts: dict[str, str],
    rows: Callable[[], Iterable[Row]],
    collection: Collection,
    progress: kinds.Progress | None = None,
) -> None:
    """Replace an index by one that holds the images of a collection.

    Args:
        index: FAISS file or address.
        facts: of the encoder, and ``index_type``.
        rows: the images with their points, each time it is called.
        collection: what they are made of.
        progress: called with (done, total) points.

    Raises:
        InputError: it cannot be written, or Milvus cannot store one of them.
    """
    if isinstance(index, Path):
        from hiercli.index import writer

        proxies = collection.proxies
        none = np.empty((0, 1), np.float32)
        target = Path(os.path.realpath(index))
        with writer.locked(target):
            writer.make_anew(
                target, facts | {"next_id": str(len(collection))}, rows(), (),
                none if proxies is None else proxies, progress,
            )  # fmt: skip
        return
    from hiercli.index.milvus import MilvusStore

    facts |= {"level_names": json.dumps(list(collection.level_names), ensure_ascii=False)}
    with closing(MilvusStore(index, int(facts["embedding_dim"]), anew=True)) as store:
        store.put(rows, len(collection), facts, progress)


def stats(index: Target) -> dict[str, Any]:
    """Facts of an index by name, in the order in which people want them.

    Raises:
        HierError: it is missing or damaged.
    """
    if isinstance(index, Path):
        from hiercli.index import health

        return health.stats(index)
    from hiercli.index.milvus import MilvusReader

    with closing(MilvusReader(index)) as reader:
        return reader.stats()


def searching(
    index: Target, device: str = "cpu", root: Path | None = None, threads: int = 0
) -> "Searchable":
    """Open an index for searching.

    Args:
        index: FAISS file or address.
        device: see `reader.Reader`.
        root: likewise.
        threads: likewise.

    Raises:
        HierError: it is missing, damaged or somebody else's.
    """
    require_root(index, root)
    if isinstance(index, Path):
        from hiercli.index.reader import Reader

        return Reader(index, device, root, threads)
    from hiercli.index.milvus import MilvusReader

    return MilvusReader(index, device)
