"""Embedding with Ray: a real cluster of three node processes, of which one is killed."""

import json
import logging
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import Hier
from moto.server import ThreadedMotoServer
from PIL import Image
from pyarrow import parquet

from hiercli.data.listing import gather
from hiercli.encoder import cluster
from hiercli.encoder.encoder import Encoder
from hiercli.errors import InputError, MismatchError, MissingExtraError

ray = pytest.importorskip("ray", reason="the extra ray is not installed")
s3fs = pytest.importorskip("s3fs", reason="the extra ray is not installed")

pytestmark = pytest.mark.xdist_group("ray")


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """An S3 server on this machine; Ray's nodes find it by their environment."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        s3fs.S3FileSystem().mkdir("birds")
        yield "s3://birds"
    server.stop()


@pytest.fixture(scope="module")
def three(bucket: str) -> Iterator[object]:
    from ray.cluster_utils import Cluster

    small = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
    nodes = Cluster(initialize_head=True, head_node_args=small)
    for _ in range(2):
        nodes.add_node(**small)
    nodes.wait_for_nodes()
    yield nodes
    ray.shutdown()
    nodes.shutdown()


@pytest.fixture
def album(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for number in range(240):
        small = Image.fromarray(rng.integers(0, 255, (8, 8, 3)).astype(np.uint8))
        file = tmp_path / "album" / f"kind{number % 3}" / f"photo {number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        small.resize((700, 700)).save(file, compress_level=1)
    (tmp_path / "album" / "kind0" / "broken.jpg").write_bytes(b"no picture")
    return tmp_path / "album"


def rows(folder: Path) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    for file in sorted(folder.glob("part-*.parquet")):
        for row in parquet.read_table(file).to_pylist():
            path = row["path"].removeprefix("file://")
            assert path not in found
            assert row["label"] == Path(path).parent.name
            found[path] = np.array(row["point"], np.float32)
    return found


def test_a_node_dies_and_nothing_is_lost_or_doubled(
    three: object, album: Path, exported: Path, tmp_path: Path
) -> None:
    target = tmp_path / "out"
    victim = sorted(three.worker_nodes, key=str)[0]  # type: ignore[attr-defined]
    assert victim.any_processes_alive()
    killed: list[int] = []

    def kill() -> None:
        while not (there := len(list(target.glob("part-*.parquet")))):
            time.sleep(0.01)
        killed.append(there)
        three.remove_node(victim, allow_graceful=False)  # type: ignore[attr-defined]

    murderer = threading.Thread(target=kill)
    murderer.start()
    address = three.address  # type: ignore[attr-defined]
    done = cluster.embed([str(album)], str(target), exported, address=address, shard=4)
    murderer.join()
    assert 0 < killed[0] < 50  # in the middle
    assert (done.embedded, done.shards, done.before) == (240, 61, 0)
    assert [Path(path).name for path, _ in done.problems] == ["broken.jpg"]
    assert not victim.any_processes_alive()
    found = rows(target)
    pictures = sorted(album.rglob("*.png"))
    assert sorted(found) == [str(picture) for picture in pictures]
    points = Encoder(exported).embed(pictures).points
    assert np.abs(np.stack([found[str(p)] for p in pictures]) - points).max() < 1e-4
    # Again: what is missing, and no more.
    (target / "part-000007.parquet").unlink()
    done = cluster.embed([str(album)], str(target), exported, address=address, shard=4)
    assert (done.embedded, done.shards, done.before) == (240, 61, 60)
    assert rows(target).keys() == found.keys()
    assert not list(target.glob(".*"))
    with pytest.raises(MismatchError, match="shard"):
        cluster.embed([str(album)], str(target), exported, address=address, shard=5)


def test_on_the_command_line(
    three: object, photos: Path, exported: Path, inside: Hier, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = ("embed", f"file://{photos}", "--engine", "ray", "--model", exported)
    address = three.address  # type: ignore[attr-defined]
    done = inside(*words, "-o", out, "--address", address, "--json")
    assert done.returncode == 0, done.stderr.decode()
    # Other processes of a cluster that this one has joined may write to its stdout as well.
    (answer,) = (line for line in done.stdout.splitlines() if line.startswith(b"{"))
    assert json.loads(answer)["embedded"] == len(rows(out)) == len(list(photos.rglob("*.jpg")))
    for wrong in (("--index", tmp_path / "x.faiss"), ("-o", tmp_path / "x.npy"), ()):
        assert inside(*words, *wrong).returncode == 2
    assert inside("embed", photos, "--engine", "spark", "-o", out).returncode == 2


def test_in_s3(
    three: object, bucket: str, photos: Path, exported: Path, inside: Hier, tmp_path: Path
) -> None:
    store = s3fs.S3FileSystem()
    store.put(str(photos), f"{bucket}/photos", recursive=True)
    store.pipe(f"{bucket}/photos/kind0/broken.jpg", b"no picture")
    address = three.address  # type: ignore[attr-defined]
    words = ("embed", f"{bucket}/photos", "--engine", "ray", "--model", exported)
    done = inside(*words, "-o", f"{bucket}/points", "--address", address)
    assert done.returncode == 3, done.stderr.decode()
    assert b"broken.jpg" in done.stderr
    store.get(f"{bucket}/points", str(tmp_path), recursive=True)
    pictures = sorted(photos.rglob("*.jpg"))
    points = Encoder(exported).embed(pictures).points
    (part,) = (tmp_path / "points").glob("part-*.parquet")
    found = {row["path"]: row["point"] for row in parquet.read_table(part).to_pylist()}
    names = [f"{bucket}/photos/{picture.relative_to(photos)}" for picture in pictures]
    assert np.abs(np.stack([found.pop(name) for name in names]) - points).max() < 1e-4
    assert not found
    again = inside(*words, "-o", f"{bucket}/points", "--address", address)
    assert b"1 of them by an earlier run" in again.stderr


def test_what_cannot_work(
    photos: Path, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="expected images in"):
        cluster.embed([str(tmp_path)], str(tmp_path / "out"), exported)
    with pytest.raises(InputError, match="cannot be opened"):
        cluster.embed(["nosuch://bucket/x"], str(tmp_path / "out"), exported)
    shutil.copy(exported, tmp_path / "there.onnx")
    with pytest.raises(InputError, match="other files"):
        cluster.embed([str(photos)], str(tmp_path), exported)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"hiercli\[ray\]"):
        cluster.embed([str(photos)], str(tmp_path / "out"), exported)


def test_labels_are_those_of_the_one_rule(tmp_path: Path) -> None:
    for name in ("wren/2024/a.jpg", "jay/b.jpg", "c.jpg"):
        file = tmp_path / "birds" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    listed = cluster._listing([str(tmp_path / "birds"), str(tmp_path / "birds" / "jay" / "b.jpg")])
    assert [label for _, label in listed] == ["birds", "jay", "wren"]
    assert dict(listed) == {
        f"file://{record.path}": record.label for record in gather([tmp_path / "birds"]).records
    }
