"""Embedding on many machines with Ray: shards of a listing in, Parquet files out.

The listing is cut into shards, and each shard becomes one file that takes its place as a whole,
under a name that says which it is. Whatever is done twice, because a machine or the whole run
died, is written over itself: nothing can be lost or doubled, and a run that is started again does
what is missing.
"""

import dataclasses
import hashlib
import io
import json
import logging
import os
import tempfile
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from hiercli import extras
from hiercli.collection import Collection
from hiercli.collection_files import to_table
from hiercli.encoder import onnx_file
from hiercli.encoder.encoder import Encoder
from hiercli.encoder.pipeline import pixels_of
from hiercli.errors import InputError, MismatchError
from hiercli.files import parse_json, readable
from hiercli.images import NAMES, SUFFIXES, natural_key
from hiercli.labels import own_folder, under

SHARD = 1024
"""Pictures of one Parquet file."""

_ABOUT = "hier.json"


@dataclasses.dataclass(frozen=True)
class Done:
    """What a run left behind.

    Attributes:
        embedded: pictures in the Parquet files.
        shards: files.
        before: how many of them were there already.
        problems: path and reason of each picture that was passed over.
    """

    embedded: int
    shards: int
    before: int
    problems: list[tuple[str, str]]


def embed(
    sources: Sequence[str],
    target: str,
    model: Path,
    *,
    address: str | None = None,
    shard: int = SHARD,
    progress: Callable[[int, int], None] | None = None,
) -> Done:
    """Embed pictures on a Ray cluster into Parquet files ``part-000000.parquet`` and so on.

    Each file has the columns ``path``, ``label`` (see `labels`) and ``point`` (float32, D),
    and in its schema's metadata, under ``hier``, what was passed over and why.

    Args:
        sources: folders or pictures by any name that fsspec understands (``s3://bucket/photos``).
        target: folder for the files, likewise.
        model: exported encoder.
        address: of the cluster, ``auto`` for the one this machine belongs to; without it Ray is
            started on this machine alone.
        shard: pictures of one file.
        progress: called with (done, total) pictures.

    Raises:
        InputError: Ray or what a name needs is not installed, the cluster does not answer, or there
            are no pictures.
        MismatchError: the folder holds the files of another encoder or listing.
    """
    try:
        import ray
    except ImportError as error:
        raise extras.missing(error) or error from error
    encoder = onnx_file.read(model)
    metadata = encoder.metadata
    listing = _listing(sources)
    told = "\0".join(part for pair in listing for part in pair)
    digest = hashlib.sha256(told.encode("utf-8", "surrogateescape")).hexdigest()
    about = {
        "fingerprint": metadata.fingerprint,
        "c": metadata.c,
        "embedding_dim": metadata.embedding_dim,
        "pictures": len(listing),
        "listing": digest,
        "shard": shard,
    }
    files, folder = _filesystem(target)
    _claim(files, folder, about)
    shards: list[dict[str, Any]] = [
        {
            "number": number,
            "paths": [path for path, _ in listing[first : first + shard]],
            "labels": [label for _, label in listing[first : first + shard]],
        }
        for number, first in enumerate(range(0, len(listing), shard))
    ]
    there = set(_names(files, folder))
    missing = [item for item in shards if _name(item["number"]) not in there]
    done = len(listing) - sum(len(item["paths"]) for item in missing)
    if missing:
        started = not ray.is_initialized()
        if started:
            try:
                ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise InputError(
                    f"no Ray cluster is running at {address or 'this machine'} "
                    f"({str(error).splitlines()[0]}). Start one with `ray start --head`"
                ) from error
        try:
            data: Any = ray.data  # its types know functions only, not classes that hold a state
            data.DataContext.get_current().enable_progress_bars = False
            rows = data.from_items(missing, override_num_blocks=len(missing)).map(
                _Worker,
                fn_constructor_args=(ray.put(encoder.content), target),
                compute=data.ActorPoolStrategy(min_size=1, max_size=_cores(ray)),
                num_cpus=1,
            )
            for row in rows.iter_rows():
                done += row["pictures"]
                if progress:
                    progress(done, len(listing))
        finally:
            if started:
                ray.shutdown()
    return _summary(files, folder, len(shards), len(shards) - len(missing))


class _Worker:
    """An encoder on one core of some machine."""

    def __init__(self, model: Any, target: str) -> None:
        import ray

        if isinstance(model, ray.ObjectRef):
            model = ray.get(model)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "encoder.onnx"
            file.write_bytes(model)
            self._encoder = Encoder(file, device="cpu", threads=1)
        self._target = target

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        """Embed a shard and write its file."""
        paths = [str(path) for path in item["paths"]]
        opened: dict[str, tuple[Any, str]] = {}

        def load(path: str) -> tuple[np.ndarray | None, tuple[str, str]]:
            try:
                files, name = opened.setdefault(path, _filesystem(path))
                content = files.cat_file(name)
            except Exception as error:  # each file system has errors of its own
                return None, (path, f"{path}: the file cannot be read ({error})")
            pixels, problem = pixels_of(self._encoder.metadata.preprocessing, path, content)
            return pixels, (path, problem)

        points, records, problems = [], [], []
        stream = self._encoder.stream(paths, load, workers=1)
        for ((path, problem), point), label in zip(stream, item["labels"], strict=True):
            if point is None:
                problems.append((path, problem))
            else:
                records.append((path, str(label)))
                points.append(point)
        self._write(int(item["number"]), records, points, problems)
        return {"number": item["number"], "pictures": len(paths)}

    def _write(
        self,
        number: int,
        records: list[tuple[str, str]],
        points: list[np.ndarray],
        problems: list[tuple[str, str]],
    ) -> None:
        from pyarrow import parquet

        metadata = self._encoder.metadata
        empty = np.empty((0, metadata.embedding_dim), np.float32)
        collection = Collection(
            points=np.concatenate([empty, *(point[None] for point in points)]),
            paths=[path for path, _ in records],
            labels=[readable(label) for _, label in records],
            c=metadata.c,
            fingerprint=metadata.fingerprint,
        )
        named = [[readable(path), readable(reason)] for path, reason in problems]
        buffer = io.BytesIO()
        parquet.write_table(to_table(collection, problems=named), buffer)
        files, folder = _filesystem(self._target)
        _put(files, f"{folder}/{_name(number)}", buffer.getvalue())


def _name(number: int) -> str:
    return f"part-{number:06d}.parquet"


def _cores(ray: Any) -> int:
    return max(1, int(ray.cluster_resources().get("CPU", 1)))


def _filesystem(name: str) -> tuple[Any, str]:
    """The file system of a name, and the name there."""
    import fsspec.core

    try:
        files, path = fsspec.core.url_to_fs(name)
    except (ImportError, ValueError) as error:
        raise InputError(f"{name} cannot be opened: {error}") from error
    return files, path.rstrip("/")


def _listing(sources: Sequence[str]) -> list[tuple[str, str]]:
    """Names of all images with their labels, by the rule of `labels`."""
    found: dict[str, str] = {}
    for source in sources:
        files, path = _filesystem(source)
        try:
            names = [path] if files.isfile(path) else files.find(path)
        except Exception as error:  # each file system has errors of its own
            raise InputError(f"{source} cannot be listed ({error})") from error
        pictures = [
            name
            for name in names
            if PurePosixPath(name).suffix.lower() in SUFFIXES
            and not any(part.startswith(".") for part in PurePosixPath(name[len(path) :]).parts)
        ]
        if not pictures:
            raise InputError(f"expected images in {source} or its subfolders ({NAMES}), found none")
        pictures.sort(key=lambda name: [natural_key(part) for part in PurePosixPath(name).parts])
        for name in pictures:
            label = own_folder(name) if name == path else under(Path(name), Path(path))
            found.setdefault(str(files.unstrip_protocol(name)), label)
    return list(found.items())


def _names(files: Any, folder: str) -> list[str]:
    files.invalidate_cache()
    try:
        return [PurePosixPath(name).name for name in files.ls(folder, detail=False)]
    except FileNotFoundError:  # where folders are but parts of names
        return []


def _claim(files: Any, folder: str, about: dict[str, Any]) -> None:
    """Note what the folder is for, or see that it is for this."""
    try:
        files.makedirs(folder, exist_ok=True)
    except Exception as error:  # each file system has errors of its own
        raise InputError(f"cannot write to {folder} ({error})") from error
    note = f"{folder}/{_ABOUT}"
    if files.exists(note):
        try:
            there = dict(parse_json(files.cat_file(note)))
        except (ValueError, TypeError) as error:
            raise InputError(f"{note} is damaged. Choose another folder") from error
        differs = [name for name in about if there.get(name) != about[name]]
        if differs:
            raise MismatchError(
                f"{folder} contains the files of another run ({', '.join(differs)} differ). "
                "Choose another folder"
            )
    elif _names(files, folder):
        raise InputError(
            f"expected an empty folder, but {folder} contains other files. Choose another folder"
        )
    else:
        _put(files, note, json.dumps(about).encode())


def _put(files: Any, name: str, content: bytes) -> None:
    """Write a file that is there as a whole or not at all."""
    if "file" not in (files.protocol if isinstance(files.protocol, tuple) else (files.protocol,)):
        files.pipe_file(name, content)  # an object store shows an object when it is complete
        return
    parent, last = os.path.split(name)
    draft = os.path.join(parent, f".{last}.{uuid.uuid4().hex}")
    try:
        with open(draft, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, name)
    except OSError as error:
        raise InputError(f"cannot write {name}: {error.strerror or error}") from error
    finally:
        Path(draft).unlink(missing_ok=True)


def _summary(files: Any, folder: str, shards: int, before: int) -> Done:
    from pyarrow import parquet

    embedded, problems = 0, []
    files.invalidate_cache()  # others wrote meanwhile
    for number in range(shards):
        with files.open(f"{folder}/{_name(number)}", "rb") as file:
            schema = parquet.read_schema(file)
        try:
            facts = parse_json(schema.metadata[b"hier"])
            embedded += int(facts["count"])
            problems += [(str(path), str(reason)) for path, reason in facts["problems"]]
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(
                f"{folder}/{_name(number)} was not written by hier, or is damaged. Remove it and "
                "run the same command again"
            ) from error
    return Done(embedded, shards, before, problems)
