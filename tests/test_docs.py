"""README, the documentation and the notebook do what they say: their blocks are run in order."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "docs" / name
    for name in re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
]
"""In reading order."""
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path) -> list[tuple[str, str]]:
    return [(kind, text) for kind, text in BLOCK.findall(page.read_text()) if kind != "text"]


def run(words: list[str], folder: Path, text: str) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "100"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    environment.pop("HIER_DATA", None)
    done = subprocess.run(
        words, input=text, text=True, cwd=folder, env=environment, capture_output=True, check=False
    )
    assert done.returncode == 0, f"{text}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


def run_blocks(page: Path, folder: Path) -> int:
    for kind, text in blocks(page):
        run({"bash": ["bash", "-e"], "python": [sys.executable, "-"]}[kind], folder, text)
    return len(blocks(page))


def test_the_blocks_of_readme_run_in_an_empty_folder(tmp_path: Path) -> None:
    assert run_blocks(ROOT / "README.md", tmp_path) == 6


def test_the_blocks_of_the_documentation_run_in_reading_order(tmp_path: Path) -> None:
    assert {page.name for page in (ROOT / "docs").rglob("*.md")} == {page.name for page in PAGES}
    assert sum(run_blocks(page, tmp_path) for page in PAGES) > 25


def test_readme_is_short_and_its_links_lead_somewhere() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.split()) <= 700
    assert len(re.findall(r"!\[", text)) == 3
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert target.startswith("https://") or (ROOT / target).exists(), target


def test_the_documentation_is_built(tmp_path: Path) -> None:
    words = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--quiet",
        "-d",
        tmp_path / "site",
    ]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    commands = (tmp_path / "site" / "reference" / "commands" / "index.html").read_text()
    assert "hier review" in commands and "--where" in commands
    python = (tmp_path / "site" / "reference" / "python" / "index.html").read_text()
    assert "hiercli.Encoder.embed" in python


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = json.loads((ROOT / "examples" / "library.ipynb").read_text())
    code = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(code) > 5
    run([sys.executable, "-"], tmp_path, "\n".join(code))
