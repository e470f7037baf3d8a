"""What a wheel holds, and that hier works from one."""

import json
import os
import re
import socket
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from hiercli import extras

ROOT = Path(__file__).parents[1]


pytestmark = pytest.mark.xdist_group("wheel")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("hiercli", "models", "pyproject.toml", "README.md", "LICENSE"):
        (source / name).symlink_to(ROOT / name)
    words = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*words, "-w", folder, source], check=True)
    (file,) = folder.glob("*.whl")
    return file


def test_a_wheel_holds_everything(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    files = [file for file in (ROOT / "hiercli").rglob("*.*") if file.suffix != ".pyc"]
    sources = {str(file.relative_to(ROOT)) for file in files if file.is_file()}
    assert len(sources) > 80
    assert {"hiercli/reports/disk.js", "hiercli/training/recipes/hier.toml"} < sources
    assert sources <= names
    models = {f"hiercli/models/{file.name}" for file in (ROOT / "models").iterdir()}
    assert "hiercli/models/general.onnx" in models
    assert models <= names
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {file.parent for file in (ROOT / "hiercli").rglob("__init__.py")}
    here = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    assert set(packages["packages"]) == here | {"hiercli.models"}


@pytest.fixture(scope="module")
def light(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """An environment with the wheel and what it needs without extras, and its size in bytes."""
    return environment(wheel, tmp_path_factory.mktemp("light") / "venv", "")


def environment(wheel: Path, place: Path, extra: str) -> tuple[Path, int]:
    """An environment with the wheel and what it needs, and its size in bytes.

    What Python compiles of it (another tenth) is not counted. Nothing is fetched: the packages are
    those of this environment, linked one by one.
    """
    subprocess.run([sys.executable, "-m", "venv", place], check=True)
    pip = [place / "bin" / "python", "-m", "pip", "install", "-q", "--no-index", "--no-deps"]
    subprocess.run([*pip, wheel], check=True)
    (site,) = place.glob("lib/python*/site-packages")
    size, seen = 0, {"hiercli"}
    own = metadata.distribution("hiercli").requires
    waiting = [Requirement(text) for text in own or ()]
    while waiting:
        wanted = waiting.pop()
        name = wanted.name.lower().replace("_", "-")
        if name in seen or (wanted.marker and not wanted.marker.evaluate({"extra": extra})):
            continue
        seen.add(name)
        package = metadata.distribution(wanted.name)
        waiting += [Requirement(text) for text in package.requires or ()]
        for file in package.files or ():
            source = Path(str(package.locate_file(file)))
            if file.parts[0] == ".." or file.suffix == ".pyc" or not source.is_file():
                continue
            size += source.stat().st_size
            link = site / file.parts[0]
            if not link.exists():
                link.symlink_to(package.locate_file(file.parts[0]))
    size += sum(file.stat().st_size for file in site.glob("hiercli*/**/*")
                if file.is_file() and file.suffix != ".pyc")  # fmt: skip
    return place, size


def test_a_server_runs_from_the_wheel_as_in_its_container(
    wheel: Path, photos: Path, tmp_path: Path
) -> None:
    """The steps of the Dockerfile: no PyTorch, files that cannot be written, a token, its check."""
    place, _ = environment(wheel, tmp_path / "venv", "serve")
    python, home = place / "bin" / "python", tmp_path / "home"
    home.mkdir()
    variables = {"PATH": os.environ["PATH"], "HOME": str(home), "HIER_TOKEN": "x" * 20}
    built = subprocess.run(
        [place / "bin" / "hier", "embed", photos, "--index", tmp_path / "idx.faiss"],
        capture_output=True, text=True, env=variables, check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    lines = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    (check,) = re.findall(r"HEALTHCHECK .*CMD (\[.*\])", lines)
    (start,) = re.findall(r"^CMD (\[.*\])", lines, re.MULTILINE)
    words = json.loads(start)
    assert words[:2] == ["sh", "-c"]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    variables |= {
        "HIER_INDEX": str(tmp_path / "idx.faiss"),
        "PATH": f"{place / 'bin'}{os.pathsep}{os.environ['PATH']}",
    }
    server = subprocess.Popen(
        [*words[:2], words[2].replace("8000", str(port))], env=variables, cwd="/",
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert server.stderr is not None
        assert "serving at" in server.stderr.readline()
        healthy = [python, "-c", json.loads(check)[2].replace("8000", str(port))]
        assert subprocess.run(healthy, check=False).returncode == 0
        loaded = [python, "-c", "import importlib.util as u; print(u.find_spec('torch'))"]
        assert subprocess.run(loaded, capture_output=True, text=True).stdout.strip() == "None"
    finally:
        server.terminate()
        assert server.wait(30) == 0
        server.stderr.close()
    assert list(home.iterdir()) == []  # nothing was written there


def test_every_package_of_an_extra_is_known() -> None:
    """Where one is missing, the message names the extra."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for extra in ("train", "formats", "milvus", "ray", "text", "serve"):
        for line in project["optional-dependencies"][extra]:
            package = re.split(r"[\[>=;]", line)[0].replace("-", "_").removesuffix("_plugin")
            if package not in ("milvus_lite", "s3fs", "uvloop"):  # asked for by others
                told = extras.missing(ModuleNotFoundError(name=package))
                assert f"hiercli[{extra}]" in str(told), package


def test_serving_needs_no_torch(light: tuple[Path, int], photos: Path, tmp_path: Path) -> None:
    place, size = light
    print(f"installed without extras: {size / 1e6:.0f} MB")
    assert 100e6 < size < 900e6

    def hier(*words: object) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "COLUMNS": "200"}
        return subprocess.run(
            [place / "bin" / "hier", *map(str, words)], capture_output=True, text=True,
            cwd=tmp_path, env=environment, check=False,
        )  # fmt: skip

    python = place / "bin" / "python"
    ask = [python, "-c", "import importlib.util as u; print(u.find_spec('torch'))"]
    assert subprocess.run(ask, capture_output=True, text=True).stdout.strip() == "None"
    some = [photos / f"kind{number}" for number in range(3)]
    for words in (
        ["embed", *some, "-o", "v.npy"],
        ["embed", *some, "--index", "i.faiss"],
        ["search", some[0] / "photo0.jpg", "--index", "i.faiss", "--branches"],
        ["hierarchy", "--index", "i.faiss"],
        ["hierarchy", "--index", "i.faiss", "--format", "html", "-o", "tree.html"],
        ["hierarchy", "suggest", "--index", "i.faiss"],
        ["review", "--index", "i.faiss", "-o", "review"],
        ["eval", "--points", "v.npy"],
        ["index", "verify", "i.faiss"],
        ["data"],
        ["verify", "--help"],
    ):
        done = hier(*words)
        assert done.returncode == 0, (words, done.stderr)
    for words in (
        ["train", "--data", photos], ["eval", "--backbone", "resnet18", "--data", photos],
        ["export", "--checkpoint", "best.pt", "-o", "x.onnx"],
        ["hierarchy", "--checkpoint", "best.pt"],
    ):  # fmt: skip
        (tmp_path / "best.pt").write_bytes(b"")
        done = hier(*words)
        assert done.returncode == 2, (words, done.stderr)
        assert "pip install 'hiercli[train]'" in done.stderr, (words, done.stderr)
        assert len(done.stderr.strip().splitlines()) <= 3
    words = "import hiercli as h\ntry: h.HierLoss\nexcept h.MissingExtraError as e: print(e)"
    done = subprocess.run([python, "-c", words], capture_output=True, text=True, cwd=tmp_path)
    assert "pip install 'hiercli[train]'" in done.stdout, done.stderr
