"""What a wheel holds, and that hier works from one."""

import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import numpy as np
import pytest

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


def test_embedding_from_a_wheel_needs_no_model_and_no_source(
    wheel: Path, photos: Path, tmp_path: Path
) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    words = ["-c", "import hiercli; print(hiercli.__file__)"]
    run = [sys.executable, "-P"]  # not from the current folder
    where = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run(
        [*run, *words], env=where, cwd=tmp_path, check=True, capture_output=True, text=True
    )
    assert done.stdout.startswith(str(tmp_path / "site"))
    embed = ["-m", "hiercli", "embed", str(sorted(photos.iterdir())[0])]
    points = subprocess.run(
        [*run, *embed], env=where, cwd=tmp_path, check=True, stdout=subprocess.PIPE
    )
    (tmp_path / "vecs.npy").write_bytes(points.stdout)
    assert np.load(tmp_path / "vecs.npy").shape[1] == 384
