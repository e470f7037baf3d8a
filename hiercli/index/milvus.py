"""Pictures in Milvus, a vector database that grows past one machine, or in a folder of milvus-lite.

Milvus knows no hyperbolic distance. It holds ball coordinates and finds candidates by Euclidean
distance; they are put in order by float64 hyperbolic distance, and more are fetched until none that
was left out can belong among the nearest. With

    g(x, y) = |x - y|^2 / ((1 - c|x|^2)(1 - c|y|^2)),

by which the hyperbolic distance grows, a point y beyond the Euclidean distance L of the last
candidate has g(x, y) >= L^2 / (1 - c|x|^2), wherever it lies: nothing has to be known of the index.

Each picture is a row of its own, known by the hash of its path; rows come and go one by one, so a
killed update leaves what it has done, and the next one goes on from there.
"""

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hiercli import extras, neighbours
from hiercli.data.listing import Listing, gather
from hiercli.encoder.encoder import Encoder, pixels_of
from hiercli.encoder.metadata import Metadata
from hiercli.errors import FileFormatError, ImageError, InputError, MismatchError
from hiercli.files import parse_json
from hiercli.images import Places, Skipped, read_bytes, state_of
from hiercli.index.schema import content_hash, facts_of, groups_of, levels_text
from hiercli.index.searchable import Hit
from hiercli.index.sync import Scope
from hiercli.labels import merged_levels

_PREFIX = "hier."
_AT_ONCE = 500
_FIRST_WIDTH = 100
_LARGEST_WIDTH = 16_384
"""What Milvus answers at most."""
_ROUNDING = 1e-3
"""Share by which a float32 L2 distance of Milvus may be off, with much to spare."""
_LONGEST_PATH = 4096
_COLUMNS = ["path", "label", "levels", "content", "size", "modified_ns", "changed_ns"]
_STATE = _COLUMNS[-3:]


@dataclass(frozen=True)
class Address:
    """Where an index lies: ``milvus://host:19530/birds``, or ``milvus:./birds.db``.

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
            not host
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


class MilvusIndex:
    """Pictures in Milvus, opened for searching.

    Args:
        address: of the index.

    Raises:
        InputError: pymilvus is not installed, the server does not answer, or there is no such
            index.
        FileFormatError: the collection was not written by hier.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        self._client = _connect(address)
        with _milvus_errors(address):
            there = self._client.has_collection(address.collection)
        if not there:
            raise InputError(
                f"expected an index in Milvus, but there is no collection {address.collection} at "
                f"{address.uri}. Build one with `hier embed FOLDER --index milvus:...`"
            )
        with _milvus_errors(address):
            properties = self._client.describe_collection(address.collection)["properties"]
        try:
            facts = {name: properties[_PREFIX + name] for name in _FACTS}
            self.fingerprint, self.c = facts["fingerprint"], float(facts["c"])
            self.dim = int(facts["embedding_dim"])
            self.level_names = tuple(map(str, parse_json(facts["level_names"])))
            self.model = Path(parse_json(facts["model"]))
        except (KeyError, ValueError, TypeError) as error:
            raise FileFormatError(
                f"{address} was not written by hier, or its encoder metadata has changed "
                f"({error!r}). Choose another name"
            ) from error

    def __len__(self) -> int:
        with _milvus_errors(self.address):
            found = self._client.query(self.address.collection, output_fields=["count(*)"])
        return int(found[0]["count(*)"])

    @property
    def files(self) -> Sequence[Path]:
        """None of ours: Milvus keeps them."""
        return ()

    def close(self) -> None:
        """Let go of the connection."""
        self._client.close()

    def check(self, metadata: Metadata, model: Path) -> None:
        """Refuse an encoder that did not make this index.

        Raises:
            MismatchError: it names both sides.
        """
        if metadata.fingerprint != self.fingerprint:
            raise MismatchError(
                f"the index {self.address} was built with encoder {self.fingerprint} "
                f"(c={self.c:g}, {self.dim} dimensions), {model} is {metadata.fingerprint} "
                f"(c={metadata.c:g}, {metadata.embedding_dim} dimensions). Use {self.model}, or "
                "build another index"
            )

    def points_by_content(self, contents: Sequence[bytes]) -> dict[bytes, np.ndarray]:
        """Points (D,) of files that it has, by the hash of their content."""
        found: dict[bytes, np.ndarray] = {}
        for first in range(0, len(contents), _AT_ONCE):
            names = ", ".join(f'"{content.hex()}"' for content in contents[first:][:_AT_ONCE])
            with _milvus_errors(self.address):
                rows = self._client.query(
                    self.address.collection, filter=f"content in [{names}]",
                    output_fields=["content", "point"],
                )  # fmt: skip
            found |= {bytes.fromhex(row["content"]): np.array(row["point"], np.float32)
                      for row in rows}  # fmt: skip
        return found

    def add_levels(self, level_names: Sequence[str]) -> None:
        """Note the names of levels that its images have from now on."""
        every = merged_levels([self.level_names, level_names])
        if every != self.level_names:
            self.level_names = every
            with _milvus_errors(self.address):
                self._client.alter_collection_properties(
                    self.address.collection, {f"{_PREFIX}level_names": json.dumps(every)}
                )

    def search(
        self,
        queries: np.ndarray,
        k: int | None,
        *,
        max_distance: float = math.inf,
        unique: bool = False,
        where: Sequence[tuple[str, str]] = (),
        exact: bool = False,
    ) -> list[list[Hit]]:
        """The nearest pictures of each query point, (Q, D), nearest first: see `Reader.search`.

        Raises:
            InputError: a condition that Milvus cannot check, or more is asked for than it answers.
        """
        del exact  # it always is
        total = len(self)
        wanted = total if k is None else min(k, total)
        expression = " and ".join(
            _condition(name, pattern, self.level_names) for name, pattern in where
        )
        answers = []
        for query in queries:
            width = min(max(_FIRST_WIDTH, 2 * wanted) if k is not None else 1024, _LARGEST_WIDTH)
            while True:
                hits, far, got = self._nearest(query, width, expression)
                if unique:
                    hits = _folded(hits)
                enough = [hit for hit in hits if hit.distance <= max_distance][:wanted]
                # All that can matter is known: what was left out lies beyond.
                last = enough[-1].distance if len(enough) == wanted and enough else max_distance
                if got < width or far > last:
                    break
                if width == _LARGEST_WIDTH:
                    raise InputError(
                        f"Milvus returns at most {_LARGEST_WIDTH} candidates, too few to be sure "
                        "of "
                        f"{'all hits within max_distance' if k is None else f'{k} neighbours'}. "
                        "Ask for fewer, or restrict the search with --where"
                    )
                width = min(4 * width, _LARGEST_WIDTH)
            answers.append(
                [dataclasses.replace(hit, rank=rank) for rank, hit in enumerate(enough, 1)]
            )
        return answers

    @staticmethod
    def _hits(
        entities: Sequence[dict[str, Any]],
        points: np.ndarray,
        distances: np.ndarray,
        best: np.ndarray,
    ) -> list[Hit]:
        """Rows as hits, in the order of ``best``."""
        found = []
        for rank, (place, distance) in enumerate(zip(best, distances, strict=True), 1):
            row = entities[place]
            levels, content = groups_of(row["levels"]), bytes.fromhex(row["content"])
            found.append(
                Hit(rank, row["path"], row["label"], levels, float(distance), content,
                    points[place])
            )  # fmt: skip
        return found

    def _nearest(
        self, query: np.ndarray, width: int, expression: str
    ) -> tuple[list[Hit], float, int]:
        """Candidates in order, the distance below which none is missing, and how many came."""
        with _milvus_errors(self.address):
            (rows,) = self._client.search(
                self.address.collection,
                data=[query.astype(np.float32).tolist()],
                limit=width,
                filter=expression,
                output_fields=["path", "label", "levels", "content", "point"],
                anns_field="point",
            )
        if not rows:
            return [], math.inf, 0
        entities = [row["entity"] for row in rows]
        points = np.array([entity["point"] for entity in entities], np.float32)
        distances, best = neighbours.order(query, points, np.arange(len(rows)), self.c, len(rows))
        try:
            hits = self._hits(entities, points, distances, best)
        except (ValueError, TypeError) as error:
            raise FileFormatError(
                f"{self.address} contains a row that hier did not write ({error}). Embed its "
                "images again with --rebuild"
            ) from error
        square = float(np.square(query.astype(np.float64)).sum())
        # Milvus gives the squared distance.
        beyond = (1 - _ROUNDING) * max(float(row["distance"]) for row in rows)
        g = beyond / (1 - self.c * square)
        far = 2 / math.sqrt(self.c) * math.asinh(math.sqrt(self.c * g))
        return hits, far, len(rows)


_FACTS = ("fingerprint", "c", "embedding_dim", "model", "level_names")


@dataclass(frozen=True)
class _Asked:
    """An image to have in the index: its path as text, its file, its label and levels."""

    path: str
    file: Path
    own: tuple[str, str]


@dataclass(frozen=True)
class Change:
    """What an update did to an index in Milvus.

    Attributes:
        added, changed, removed, unchanged: pictures.
        embedded: pictures that the encoder looked at.
        total: pictures in the index now.
        listing: what was asked for, with its labels.
        problems: files and folders that were passed over, with the reason.
    """

    added: int
    changed: int
    removed: int
    unchanged: int
    embedded: int
    total: int
    listing: Listing
    problems: list[tuple[Path, str]]


def update(
    address: Address,
    paths: Sequence[Path],
    encoder: Encoder,
    *,
    nested: bool = False,
    rebuild: bool = False,
    prune: bool = False,
    skipped: Skipped | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Change:
    """Embed what is new or changed in some folders, and take out what is gone from them.

    Args:
        address: of the index; it is made where it is not there.
        paths: pictures, folders of pictures, and manifests.
        encoder: makes the points.
        nested: read folders in folders as levels, see `labels`.
        rebuild: forget what is there and start anew.
        prune: take a folder or file that is missing, and a folder without images, for gone.
        skipped: told of each file or folder that is passed over, and why.
        progress: called with (done, total) pictures.

    Raises:
        InputError: pymilvus is not installed, the server does not answer, or there are no images,
            in a folder of which the index has some either.
        FileFormatError: the collection of that name was not written by hier.
        MismatchError: the index was built with another encoder.
    """
    problems: list[tuple[Path, str]] = []

    def pass_over(path: Path, reason: str) -> None:
        problems.append((path, reason))
        if skipped:
            skipped(path, reason)

    client, name = _connect(address), address.collection
    with _milvus_errors(address):
        there = client.has_collection(name)
    listing = gather(paths, nested=nested, skipped=pass_over, absent=prune and there)
    with _milvus_errors(address):
        if rebuild and there:
            _require_ours(client, address)
            client.drop_collection(name)
        if rebuild or not there:
            _create(client, name, encoder)
    index = MilvusIndex(address)
    index.check(encoder.metadata, encoder.path)
    place = Places()
    scope = Scope.of(paths, listing.linked, [path for path, _ in problems], place)
    listed: dict[bytes, _Asked] = {}
    for record in listing.records:
        picture = record.path
        where = place(picture)
        try:
            text = where.decode()
        except UnicodeDecodeError:
            pass_over(picture, f"{picture}: Milvus stores only names in UTF-8. Rename the file")
            continue
        if len(where) > _LONGEST_PATH:
            pass_over(picture, f"{picture}: Milvus stores paths of at most {_LONGEST_PATH} bytes")
        else:
            own = record.label, levels_text(listing.level_names, record.levels)
            listed[where] = _Asked(text, picture, own)
    known = {row["path"].encode(): row for row in _rows(client, address)}
    if not prune:
        scope.require_images(listed, known)
    else:
        scope.require_known(paths, known, place)
    for where in list(scope.kept_outright(known, listed)):
        row = known[where]
        listed[where] = _Asked(row["path"], Path(row["path"]), (row["label"], row["levels"]))
    gone = [row["id"] for where, row in known.items()
            if where not in listed and scope.covers(where)]  # fmt: skip
    counts = dict.fromkeys(("added", "changed", "unchanged"), 0)
    index.add_levels(listing.level_names)
    removed = _embed(client, index, listed, known, encoder, counts, pass_over, progress)
    with _milvus_errors(address):
        for first in range(0, len(gone), _AT_ONCE):
            client.delete(name, ids=gone[first : first + _AT_ONCE])
    return Change(
        **counts,
        removed=removed + len(gone),
        embedded=counts["added"] + counts["changed"],
        total=len(index),
        listing=dataclasses.replace(
            listing,
            records=[record for record in listing.records if record.path not in dict(problems)],
        ),
        problems=problems,
    )


def _embed(
    client: Any,
    index: MilvusIndex,
    listed: dict[bytes, _Asked],
    known: dict[bytes, dict[str, Any]],
    encoder: Encoder,
    counts: dict[str, int],
    pass_over: Callable[[Path, str], None],
    progress: Callable[[int, int], None] | None,
) -> int:
    """Write the rows of what is new or changed; how many were removed as no pictures any more."""
    preprocessing, address = encoder.metadata.preprocessing, index.address
    waiting: list[dict[str, Any]] = []
    removed = 0

    def load(item: tuple[bytes, _Asked]) -> tuple[np.ndarray | None, dict[str, Any]]:
        where, asked = item
        path, own, old = asked.file, asked.own, known.get(where)
        number = _number(asked.path)
        row: dict[str, Any] = {"id": number, "path": asked.path, "problem": "", "file": path}
        try:
            with contextlib.suppress(OSError):  # reading it says why
                same = old is not None and (old["label"], old["levels"]) == own
                if old is not None and same and _state(old) == state_of(os.stat(path)):
                    return None, row
            content, state = read_bytes(path)
        except ImageError as error:
            return None, row | {"problem": str(error)}
        row["content"] = content_hash(content).hex()
        row |= zip(_STATE, state, strict=True)
        row["label"], row["levels"] = own
        pixels, problem = pixels_of(preprocessing, path, content)
        return pixels, row | {"problem": problem}

    def write() -> None:
        with _milvus_errors(address):
            client.upsert(address.collection, waiting)
        waiting.clear()

    for done, (row, point) in enumerate(encoder.stream(listed.items(), load), 1):
        problem, path = row.pop("problem"), row.pop("file")
        if problem:
            pass_over(path, problem)
            if row["path"].encode() in known and "content" in row:  # read, and no image any more
                with _milvus_errors(address):
                    client.delete(address.collection, ids=[row["id"]])
                removed += 1
        elif point is None:
            counts["unchanged"] += 1
        else:
            counts["changed" if row["path"].encode() in known else "added"] += 1
            waiting.append(row | {"point": point.astype(np.float32)})
        if len(waiting) == _AT_ONCE:
            write()
        if progress and (done % 32 == 0 or done == len(listed)):
            progress(done, len(listed))
    if waiting:
        write()
    return removed


def _require_ours(client: Any, address: Address) -> None:
    """Check that a collection is an index of hier, whole or not, before it is dropped."""
    properties = client.describe_collection(address.collection)["properties"]
    if not any(name.startswith(_PREFIX) for name in properties):
        raise FileFormatError(
            f"{address} was not written by hier, so --rebuild does not drop it. Choose another name"
        )


def _create(client: Any, name: str, encoder: Encoder) -> None:
    from pymilvus import DataType

    schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("path", DataType.VARCHAR, max_length=_LONGEST_PATH)
    schema.add_field("label", DataType.VARCHAR, max_length=1024)
    schema.add_field("levels", DataType.VARCHAR, max_length=_LONGEST_PATH)
    schema.add_field("content", DataType.VARCHAR, max_length=32)
    for column in _STATE:
        schema.add_field(column, DataType.INT64)
    schema.add_field("point", DataType.FLOAT_VECTOR, dim=encoder.embedding_dim)
    index = client.prepare_index_params()
    index.add_index("point", index_type="FLAT", metric_type="L2")
    facts = facts_of(encoder.fingerprint, encoder.c, encoder.embedding_dim, encoder.path)
    facts["level_names"] = "[]"
    properties = {_PREFIX + fact: facts[fact] for fact in _FACTS}
    client.create_collection(
        name, schema=schema, index_params=index, properties=properties, consistency_level="Strong"
    )


def _rows(client: Any, address: Address) -> Iterator[dict[str, Any]]:
    with _milvus_errors(address):
        found = client.query_iterator(
            address.collection, batch_size=_AT_ONCE, output_fields=["id", *_COLUMNS]
        )
        try:
            while block := found.next():
                yield from block
        finally:
            found.close()


def _number(path: str) -> int:
    digest = hashlib.blake2b(path.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def _state(row: dict[str, Any]) -> tuple[int, int, int]:
    return row["size"], row["modified_ns"], row["changed_ns"]


def _folded(hits: list[Hit]) -> list[Hit]:
    """Pictures with the same content as copies of the nearest."""
    found: dict[bytes, Hit] = {}
    for hit in hits:
        if hit.content in found:
            found[hit.content].copies.append(hit.path)
        else:
            found[hit.content] = hit
    return list(found.values())


def _condition(name: str, pattern: str, level_names: Sequence[str]) -> str:
    """A pattern of a shell as an expression of Milvus.

    Raises:
        InputError: there is no such level, or Milvus cannot search for the pattern.
    """
    if name not in ("label", "path", *level_names):
        raise InputError(
            f"the index has no level {name!r}. Conditions can be on "
            f"{', '.join(('label', 'path', *level_names))}"
        )
    if name not in ("label", "path"):  # a part of the JSON that holds the groups
        own = f"{json.dumps(name, ensure_ascii=False)}: {json.dumps(pattern, ensure_ascii=False)}"
        if re.search(r"[%_\\[\]?]|\*.", pattern) or re.search(r"[%_\\]", name):
            raise InputError(
                f"Milvus cannot search for {name}={pattern}: in Milvus, the name of a group "
                "cannot contain % _ [ ] or ?, and * only at its end"
            )
        text = own.replace('*"', "") if pattern.endswith("*") else own
        return f"levels like {json.dumps(f'%{text}%', ensure_ascii=False)}"
    if re.search(r"[%_\[\]\\]", pattern) and re.search(r"[*?\[]", pattern):
        raise InputError(
            f"Milvus cannot search for {name}={pattern}: in Milvus, a pattern cannot contain % _ "
            "[ ] or \\"
        )
    if re.search(r"[*?]", pattern):
        return f"{name} like {json.dumps(pattern.replace('*', '%').replace('?', '_'))}"
    return f"{name} == {json.dumps(pattern)}"


def _connect(address: Address) -> Any:
    try:
        from pymilvus import MilvusClient
    except ImportError as error:
        raise extras.missing(error) or error from error
    with _milvus_errors(address):
        return MilvusClient(uri=address.uri, token=os.environ.get("MILVUS_TOKEN", ""), timeout=10)


@contextlib.contextmanager
def _milvus_errors(address: Address) -> Iterator[None]:
    """Say what Milvus objects to in one message."""
    from pymilvus.exceptions import MilvusException

    try:
        yield
    except MilvusException as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"Milvus at {address} cannot do this ({reason}). Check that Milvus runs there and "
            "that MILVUS_TOKEN holds its token"
        ) from error
