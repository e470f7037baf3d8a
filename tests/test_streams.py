"""Whatever stdout and stderr are, and whatever names hold: one answer, nothing obeyed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Hier

from hiercli.encoder import gpu
from hiercli.files import escaped, printable

HIER = [sys.executable, "-c", "from hiercli.cli.app import main; main()"]


def shell(command: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run a shell command in which ``$HIER`` is `hier`."""
    words = f"hier() {{ {sys.executable} -c '{HIER[2]}' \"$@\"; }}; {command}"
    return subprocess.run(
        ["bash", "-c", words], capture_output=True, timeout=120, check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
    )  # fmt: skip


@pytest.mark.parametrize(
    "environment",
    [{"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
     {"PYTHONIOENCODING": "latin-1"}, {"PYTHONIOENCODING": "cp1252"}],
)  # fmt: skip
def test_an_encoding_that_lacks_a_letter(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "t.nwk").write_text("((鳥,Böbolink),wren);", encoding="utf-8")
    file = tmp_path / "t.nwk"
    for command in (
        f"hier hierarchy diff {file} {file}",
        f"hier hierarchy diff {file} {file} --json",
    ):
        done = shell(command, **environment)
        assert (done.returncode, b"Traceback" in done.stderr) == (0, False), done.stderr
        assert done.stdout


def test_a_closed_stdout_is_no_success(tmp_path: Path, exported: Path) -> None:
    (tmp_path / "t.nwk").write_text("((a,b),(c,d));")
    file = tmp_path / "t.nwk"
    for command in (
        f"hier hierarchy diff {file} {file} >&-",
        f"hier hierarchy diff {file} {file} --json >&-",
        f"hier hierarchy --model {exported} >&-",
        f"hier embed {tmp_path} --model {exported} >&-",
        "hier data --json >&-",
    ):
        done = shell(command)
        assert done.returncode == 2, (command, done.stderr)
        assert b"Traceback" not in done.stderr
    # What needs none goes on; and no file that is opened gets the number of stdout or stderr.
    out = tmp_path / "tree.json"
    done = shell(f"hier hierarchy --model {exported} --format json -o {out} >&- 2>&- <&-")
    assert done.returncode == 0
    assert out.read_text().startswith("{")


def test_names_are_shown_and_not_obeyed(
    inside: Hier, exported: Path, photos: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "\x1b[31mred"
    folder.mkdir()
    for name in ("new\nline.jpg", "turned\u202egpj.exe.jpg", "bell\x07.jpg", "isolate\u2066.jpg"):
        (folder / name).write_bytes(b"no picture")
    good = photos / "kind0" / "photo0.jpg"
    (folder / "good\x1b]0;title\x07.jpg").write_bytes(good.read_bytes())
    done = inside("embed", folder, "--model", exported, "--index", tmp_path / "i.faiss")
    assert done.returncode == 3
    lines = done.stderr.decode().splitlines()
    assert sum(line.startswith("skipped: ") for line in lines) == 4
    answers = [done]
    for form in ("--csv", "--json", "--exact"):
        answers.append(inside("search", good, "--index", tmp_path / "i.faiss", form))
    for form in ("text", "csv", "newick", "graphml"):
        words = ("hierarchy", "--index", tmp_path / "i.faiss", "--model", exported)
        answers.append(inside(*words, "--format", form, "--leaves", "proxies"))
    for answer in answers:
        said = (answer.stdout + answer.stderr).decode("utf-8", "replace")
        assert not {"\x1b", "\x07", "\u202e", "\u2066"} & set(said), answer.args


def test_only_what_is_obeyed_is_escaped() -> None:
    """Joiners, soft hyphens and blanks of every kind belong to names."""
    kept = "na\u00efve \u200d\u200c\u00ad\u00a0\u3000\u2009 鳥 \U0001f426\u200d\u2b1b ق\u0640"
    assert printable(kept) == kept
    assert printable("a\tb\x00c\x85d\u2028e\u202ef") == r"a\tb\x00c\x85d\u2028e\u202ef"
    assert escaped("caf\udce9\n") == "caf\udce9\\n"
    assert printable("caf\udce9") == "caf\ufffd"


@pytest.mark.parametrize(
    "words",
    [("search", "", "--index", "i.faiss"), ("embed", ""), ("embed", "x", "--index", ""),
     ("eval", "--data", ""), ("hierarchy", "--model", ""), ("",)],
)  # fmt: skip
def test_an_empty_argument_is_not_the_current_folder(words: tuple[str, ...], inside: Hier) -> None:
    done = inside(*words)
    assert (done.returncode, b"no empty argument" in done.stderr) == (2, True)


def test_a_folder_of_other_files_says_what_it_holds(
    inside: Hier, exported: Path, tmp_path: Path
) -> None:
    for number in range(3):
        (tmp_path / f"{number}.mov").touch()
    (tmp_path / "notes.txt").touch()
    done = inside("embed", tmp_path, "--model", exported, "-o", tmp_path / "v.npy")
    assert (done.returncode, b"3 .mov, 1 .txt" in done.stderr) == (2, True)


def test_the_driver_is_asked_for_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    class Driver:
        def __init__(self, count: int, fault: int = 0) -> None:
            self.count, self.fault = count, fault

        def cuInit(self, _: int) -> int:  # noqa: N802
            return self.fault

        def cuDeviceGetCount(self, pointer: object) -> int:  # noqa: N802
            pointer._obj.value = self.count  # type: ignore[attr-defined]
            return 0

    for driver, right in ((Driver(2), 2), (Driver(0), 0), (Driver(3, fault=100), 0)):
        gpu.num_gpus.cache_clear()
        monkeypatch.setattr(gpu.ctypes, "CDLL", lambda _, driver=driver: driver)
        assert gpu.num_gpus() == right

    def missing(_: str) -> None:
        raise OSError("no such library")

    gpu.num_gpus.cache_clear()
    monkeypatch.setattr(gpu.ctypes, "CDLL", missing)
    assert gpu.num_gpus() == 0
    gpu.num_gpus.cache_clear()


def test_a_cpu_build_over_the_gpu_build_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    class Package:
        def __init__(self, name: str) -> None:
            self.name = name

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    both = [Package("onnxruntime"), Package("onnxruntime-gpu")]
    monkeypatch.setattr("importlib.metadata.distributions", lambda: both)
    assert "pip uninstall onnxruntime" in gpu.missing_gpu_build()
    monkeypatch.setattr("importlib.metadata.distributions", lambda: both[:1])
    assert "without CUDA" in gpu.missing_gpu_build()
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    assert gpu.missing_gpu_build() == ""
