"""Small generated material that many tests share."""

import errno
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

# Several test processes share the cores; set before anything asks how many there are.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import forked
import numpy as np
import pytest
from PIL import Image, ImageChops, ImageOps

from hiercli import Collection
from hiercli.hierarchy import build
from hiercli.hierarchy.node import Node
from hiercli.index import database
from hiercli.index.reader import Reader
from hiercli.index.searchable import Hit

TINY = ["--backbone", "test_efficientnet", "--weights", "none", "--embedding-dim", "16",
        "--train-size", "32", "--eval-size", "32", "--batch-size", "8", "--num-proxies", "12",
        "--epochs", "2", "--workers", "0", "--precision", "fp32", "--validation-share", "0.25",
        "--num-neighbours", "4", "--no-interpolate", "--no-image-depth"]  # fmt: skip
"""Flags that make a training run of seconds."""


@pytest.fixture(autouse=True)
def every_catalogue_is_closed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One that stays open holds back what SQLite may remove from its log."""
    opened: list[sqlite3.Connection] = []
    connect = database._connect

    def noted(path: Path, options: str) -> sqlite3.Connection:
        opened.append(connect(path, options))
        return opened[-1]

    monkeypatch.setattr(database, "_connect", noted)
    yield
    for connection in opened:
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            connection.total_changes  # noqa: B018


def reference(name: str) -> dict[str, np.ndarray]:
    """Arrays computed with the published implementation, see ``reference/README.md``."""
    with np.load(Path(__file__).parent / "reference" / name) as arrays:
        return dict(arrays)


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight classes of six pictures: blobs of a class colour on noise."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for label in range(8):
        colour = rng.integers(40, 255, 3)
        for number in range(6):
            pixels = rng.integers(0, 120, (48, 48, 3))
            left, top = rng.integers(0, 20, 2)
            pixels[top : top + 26, left : left + 26] = colour + rng.integers(-20, 20, 3)
            file = root / f"kind{label}" / f"photo{number}.jpg"
            file.parent.mkdir(exist_ok=True)
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file)
    return root


def searched(index: Path, points: np.ndarray, k: int | None = None) -> list[list[Hit]]:
    """The images of an index nearest to points (N, D); all of them by default."""
    with closing(Reader(index)) as reader:
        return reader.search(points, k)


def tree_of(
    points: np.ndarray, paths: Any, labels: Any, proxies: np.ndarray, c: float, **options: Any
) -> Node:
    """The tree of images that are given by arrays."""
    images = Collection(points=points, paths=paths, labels=labels, proxies=proxies, c=c)
    return build.from_images(images, **options)


def leaf_images(
    whole: Node, shown: Node, points: np.ndarray, labels: Any, proxies: np.ndarray, c: float,
    **options: Any,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Positions of the images at the leaves of what is shown of a tree of `tree_of`."""
    images = Collection(points=points, labels=labels, proxies=proxies, c=c)
    return build.leaf_images(whole, shown, images, **options)


Hier = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture(scope="session")
def hier() -> Hier:
    """Run the command line in a process of its own; from the start with variables to set."""

    def run(
        *words: object, cwd: Path | None = None, **environment: str
    ) -> subprocess.CompletedProcess[bytes]:
        variables = os.environ | {"COLUMNS": "200", "OMP_NUM_THREADS": "1"} | environment
        texts = [str(word) for word in words]
        if not environment:
            return forked.run(texts, cwd, variables, timeout=300)
        return subprocess.run(
            [sys.executable, "-c", "from hiercli.cli.app import main; main()", *texts],
            capture_output=True,
            cwd=cwd,
            env=variables,
            timeout=300,
            check=False,
        )

    return run


@pytest.fixture
def inside(monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]) -> Hier:
    """Run the command line in this process: for the many cases that need none of their own."""
    from hiercli.cli.app import main

    def run(*words: object) -> subprocess.CompletedProcess[bytes]:
        monkeypatch.setattr(sys, "argv", ["hier", *map(str, words)])
        capsysbinary.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        said = capsysbinary.readouterr()
        code = end.value.code or 0
        return subprocess.CompletedProcess(words, int(code), said.out, said.err)

    return run


def fails(done: subprocess.CompletedProcess[bytes], code: int, *words: str) -> None:
    """One clear message, the documented exit code, and no traceback."""
    said = done.stderr.decode()
    assert done.returncode == code, said
    assert "Traceback" not in said
    for word in words:
        assert word in said


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Make a folder unreadable; file modes would not keep out a superuser."""
    folders: set[str] = set()
    scandir = os.scandir

    def guarded(path: str | int = ".") -> object:
        if not isinstance(path, int) and os.fspath(path) in folders:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    return lambda folder: folders.add(str(folder))


@pytest.fixture(scope="session")
def trained(photos: Path, hier: Hier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished tiny run."""
    out = tmp_path_factory.mktemp("runs") / "tiny"
    done = hier("train", "--data", photos, "--out", out, *TINY)
    assert done.returncode == 0, done.stderr.decode()
    return out


@pytest.fixture(scope="session")
def exported(trained: Path, photos: Path, hier: Hier) -> Path:
    """An encoder exported from that run."""
    model = trained.parent / "tiny.onnx"
    done = hier("export", "--checkpoint", trained / "best.pt", "-o", model, "--data", photos)
    assert done.returncode == 0, done.stderr.decode()
    return model


@pytest.fixture(scope="session")
def index(exported: Path, photos: Path, hier: Hier) -> Path:
    """An index of all pictures, built by that encoder."""
    file = exported.parent / "idx.faiss"
    done = hier("embed", photos, "--model", exported, "--index", file)
    assert done.returncode == 0, done.stderr.decode()
    return file


@pytest.fixture(scope="session")
def index_with_faults(
    photos: Path, exported: Path, hier: Hier, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """An index of the photos with a wrong label, a mirrored copy, a small and a damaged file."""
    album = tmp_path_factory.mktemp("faulty") / "album"
    shutil.copytree(photos, album)
    for kind in range(8):  # enough of each for labels to be compared
        for number in range(6, 16):
            with Image.open(photos / f"kind{kind}" / f"photo{number % 6}.jpg") as picture:
                moved = ImageChops.offset(picture, number, 2 * number)
                moved.save(album / f"kind{kind}" / f"photo{number}.jpg")
    shutil.move(album / "kind1" / "photo3.jpg", album / "kind2" / "wrong.jpg")
    with Image.open(photos / "kind3" / "photo1.jpg") as picture:
        ImageOps.mirror(picture).save(album / "kind3" / "again.png")
        picture.resize((30, 30)).save(album / "kind3" / "speck.png")
    (album / "kind0" / "secret.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    index = album.parent / "faulty.faiss"
    done = hier("embed", album, "--model", exported, "--index", index)
    assert done.returncode == 3, done.stderr.decode()
    return index


def paint(file: Path, seed: int) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 255, (2, 2, 3)).astype(np.uint8))
    small.resize((24, 24), Image.Resampling.NEAREST).save(file)
    return file


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """Forty small pictures in four folders."""
    for number in range(40):
        paint(tmp_path / "album" / f"kind{number % 4}" / f"photo{number}.png", number)
    return tmp_path / "album"
