"""`make fuzz`: damage the files that hier reads, and look at how it ends.

Every run must end within 20 seconds and 2 GB with a documented exit code, without a traceback, and
without running a program, reaching for the network or writing elsewhere than into its folder. What
people are told may hold no control characters and no more than 2,000 characters.

One process imports everything and forks for each run, so that a run costs about 0.1 s; it starts
no thread itself. The same ``--seed`` gives the same runs:

    python tests/fuzz.py --mutations 2000 --keep failures
    python tests/fuzz.py --readers npz --only 17        (one run, with all that it says)
"""

import argparse
import collections
import contextlib
import dataclasses
import functools
import gc
import glob
import hashlib
import importlib
import json
import os
import pkgutil
import random
import re
import resource
import select
import shutil
import signal
import sqlite3
import statistics
import sys
import tempfile
import time
import traceback
import unicodedata
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "COLUMNS": "200"}

import faulthandler

import fuzz_corpus
import hostile_headers
import mutations
import numpy as np
from mutations import Mutation, on_bytes

SECONDS = 20
"""Of computing, or of waiting for what does not come."""
MEMORY = 2 * 2**30
"""Bytes more than the process that forks has."""
LONGEST = 2000
CLEAN = (0, 2, 3, 4)
SPECIAL = ("a pipe", "a folder", "/dev/zero", "nothing", "an empty file")
"""What stands in the place of a reader's file."""


@dataclasses.dataclass(frozen=True)
class Reader:
    """What is read, how it is damaged, by which commands it is read.

    Attributes:
        name: in the table, and for ``--readers``.
        files: pattern of sound files in the corpus; the folder at its top is copied for each run.
        mutations: one of which is chosen for each run.
        commands: likewise; ``{file}`` is the damaged file, ``{shared}`` the folder of the encoder
            ``tiny.onnx`` and of ``photos``.
        torch: whether torch is imported before. It makes every fork slower.
        mend: what makes checksums in other files right again.
        slowness: it gets as many times fewer mutations.
    """

    name: str
    files: str
    mutations: tuple[Mutation, ...]
    commands: tuple[str, ...]
    torch: bool = False
    mend: Callable[[Path], None] | None = None
    slowness: int = 1


def _name_generation(index: Path) -> None:
    """Let the catalogue name a FAISS file as it is now."""
    with contextlib.closing(sqlite3.connect(index.with_name(index.name + ".sqlite"))) as database:
        content = index.read_bytes()
        facts = {"generation": content[-16:].hex(), "faiss_bytes": str(len(content))}
        for name, value in facts.items():
            database.execute("UPDATE facts SET value = ? WHERE name = ?", (value, name))
        _seal_facts(database)
        database.commit()


def _seal_facts(database: sqlite3.Connection) -> None:
    from hiercli.index.schema import delta_checksum, facts_checksum

    added, removed = (
        [number for (number,) in database.execute(f"SELECT id FROM {name} ORDER BY id")]
        for name in ("added", "removed")
    )
    facts = dict(database.execute("SELECT name, value FROM facts"))
    facts["delta"] = delta_checksum(added, removed)
    facts["checksum"] = facts_checksum(facts)
    database.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", facts.items())


def _seal_catalogue(database: sqlite3.Connection) -> None:
    from hiercli.index.schema import COLUMNS, image_checksum, point_checksum, short_hash

    for table, columns, checksum in (
        ("images", COLUMNS.removesuffix(", checksum"), image_checksum),
        ("folders", "id, path", short_hash), ("classes", "id, label, levels", short_hash),
    ):  # fmt: skip
        for row in database.execute(f"SELECT {columns} FROM {table}").fetchall():
            change = f"UPDATE {table} SET checksum = ? WHERE id = ?"
            database.execute(change, (checksum(row), row[0]))
    for number, point in database.execute("SELECT id, point FROM points").fetchall():
        if isinstance(point, bytes):
            change = "UPDATE points SET checksum = ? WHERE id = ?"
            database.execute(change, (point_checksum(number, point), number))
    _seal_facts(database)


def _seal_pending(database: sqlite3.Connection) -> None:
    (fingerprint,) = database.execute(
        "SELECT value FROM facts WHERE name = 'fingerprint'"
    ).fetchone()
    ask = "SELECT content, point FROM pending JOIN points USING (id)"
    for content, point in database.execute(ask).fetchall():
        if isinstance(content, bytes) and isinstance(point, bytes):
            checksum = hashlib.blake2b(fingerprint.encode() + content + point, digest_size=8)
            change = "UPDATE pending SET checksum = ? WHERE content = ?"
            database.execute(change, (checksum.digest(), content))


def _seal_points(file: Path) -> None:
    """Let the note beside ``v.npy`` describe points and paths as they are now."""
    note = file.with_name("v.hier.json")
    points, paths = file.with_name("v.npy"), file.with_name("v.paths.txt")
    facts = json.loads(note.read_text()) | {"paths": hashlib.sha256(paths.read_bytes()).hexdigest()}
    with contextlib.suppress(Exception):
        content = np.load(points, allow_pickle=False).astype("<f4").tobytes()
        facts["points"] = hashlib.sha256(content).hexdigest()
    note.write_text(json.dumps(facts))


_BYTES = (on_bytes(mutations.damage),)
_HEADER = (*_BYTES, *[on_bytes(hostile_headers.damage_header)] * 4)
_PNG = (*_BYTES, *[on_bytes(mutations.damage_png)] * 3)
_TEXT = (on_bytes(mutations.damage_text),)
_ARRAY = (on_bytes(mutations.damage_npy),)
_ZIP = on_bytes(mutations.damage_zip)
_TORCH = (*_BYTES, _ZIP, mutations.damage_tensors, mutations.damage_tensors)
_MODEL = "--model {shared}/tiny.onnx"
_PHOTO = "{shared}/photos/kind0/photo0.jpg"
_EMBED = f"embed {{file}} {_MODEL} -o out.npy --threads 1"
_EVAL = f"eval {_MODEL} --data"
_RESUME = " ".join(fuzz_corpus.RESUMED)
_SEARCH = f"search {_PHOTO} --index idx.faiss --threads 1"
_INDEX = ("index stats idx.faiss", "index verify idx.faiss", "index repair idx.faiss",
          f"embed {{shared}}/photos {_MODEL} --index idx.faiss --threads 1")  # fmt: skip
_CATALOGUE = (_SEARCH, f"{_SEARCH} --where label=kind1 --unique", f"{_SEARCH} --branches --json",
              f"{_SEARCH} --html page.html", f"{_SEARCH} --level 1", *_INDEX,
              "index compact idx.faiss", "index verify idx.faiss --files",
              "hierarchy --index idx.faiss", "review --index idx.faiss -o review")  # fmt: skip
_POINTS = (f"hierarchy --points {{file}} {_MODEL}", f"eval --points {{file}} {_MODEL}",
           f"review --points {{file}} {_MODEL}")  # fmt: skip

READERS = [
    *(Reader(name, f"images/*.{suffix}", _PNG if name == "png" else _BYTES, (_EMBED,))
      for name, suffix in (("jpeg", "jpg"), ("png", "png"), ("webp", "webp"), ("gif", "gif"),
                           ("tiff", "tiff"), ("bmp", "bmp"), ("ppm", "ppm"), ("mpo", "mpo"))),
    *(Reader(f"header-{name}", f"header-{name}/*", _HEADER, (_EMBED,))
      for name in hostile_headers.FORMATS),
    Reader("onnx", "onnx/tiny.onnx", (*_BYTES, mutations.damage_graph, mutations.damage_graph),
           (f"embed {_PHOTO} --model {{file}} -o out.npy --threads 1",
            f"embed {_PHOTO} --model {{file}} -o out.npy --threads 1",
            "hierarchy --model {file}", "verify {file}")),
    Reader("onnx-metadata", "onnx/tiny.onnx", (mutations.damage_metadata,),
           ("hierarchy --model {file}", f"embed {_PHOTO} --model {{file}} -o out.npy --threads 1",
            "verify {file}", "hierarchy diff {file} {shared}/tiny.onnx",
            "eval --model {file} --data {shared}/photos")),
    Reader("golden", "onnx/tiny.golden.npz", (*_BYTES, _ZIP, _ZIP, _ZIP), ("verify tiny.onnx",)),
    Reader("faiss", "index-*/idx.faiss", _BYTES, (_SEARCH, *_INDEX)),
    Reader("faiss-sealed", "index-*/idx.faiss", _BYTES,
           (_SEARCH, f"{_SEARCH} --exact", "search {shared}/v.npy --index idx.faiss", *_INDEX,
            "index compact idx.faiss"), mend=_name_generation),
    Reader("catalogue", "index-*/idx.faiss.sqlite",
           (*_BYTES, *[mutations.damage_rows(_seal_catalogue)] * 2),
           _CATALOGUE),
    Reader("draft", "draft/.idx.faiss.hier-part",
           (*_BYTES, mutations.damage_rows(_seal_pending)),
           (f"embed {{shared}}/photos/kind0 {_MODEL} --index idx.faiss --threads 1",)),
    Reader("npy", "points/v.npy", _ARRAY, (*_POINTS, "search {file} --index {shared}/idx.faiss"),
           mend=_seal_points),
    Reader("paths", "points/v.paths.txt", _TEXT,
           tuple(command.replace("{file}", "v.npy") for command in _POINTS), mend=_seal_points),
    Reader("npy-note", "points/v.hier.json", (on_bytes(mutations.damage_json),),
           tuple(command.replace("{file}", "v.npy") for command in _POINTS)),
    Reader("npz", "points/v.npz", (*_BYTES, _ZIP, _ZIP),
           (*_POINTS, "hierarchy --points {file}", "hierarchy diff {file} {shared}/tiny.onnx",
            "eval --points {file}")),
    Reader("parquet", "points/v.parquet", _BYTES, _POINTS),
    Reader("parquet-folder", "parts/parts/*.parquet", _BYTES,
           tuple(command.replace("{file}", "parts") for command in _POINTS)),
    Reader("manifest-csv", "tables/m.csv", _TEXT, (f"{_EVAL} {{file}}",)),
    Reader("manifest-parquet", "tables/m.parquet", _BYTES, (f"{_EVAL} {{file}}",)),
    Reader("taxonomy-csv", "tables/t.csv", _TEXT,
           (f"{_EVAL} {{shared}}/photos --taxonomy {{file}}",)),
    Reader("taxonomy-newick", "tables/t.nwk", _TEXT,
           (f"{_EVAL} {{shared}}/photos --taxonomy {{file}}",)),
    Reader("tree-json", "trees/tree.json", (on_bytes(mutations.damage_json),),
           ("hierarchy diff {file} {shared}/tiny.onnx", "hierarchy diff {shared}/tiny.onnx {file}",
            "hierarchy diff {file} {shared}/tiny.onnx --html page.html")),
    Reader("tree-newick", "trees/tree.nwk", _TEXT,
           ("hierarchy diff {file} {shared}/tiny.onnx",
            "hierarchy diff {file} {shared}/tiny.onnx --html page.html")),
    Reader("recipe", "recipes/x.toml", _TEXT, ("train --recipe {file} --data /nonexistent",)),
    Reader("tar", "archives/*.tar*", (*_BYTES, on_bytes(mutations.damage_tar)),
           ("extract {file}",)),
    Reader("zip", "archives/*.zip", (*_BYTES, _ZIP), ("extract {file}",)),
    Reader("cars", "cars/cars196/cars_annos.mat", _BYTES,
           (f"{_EVAL} cars --data-root .", "data --data-root .")),
    Reader("cub", "cub/CUB_200_2011/*.[tc]*", _TEXT,
           (f"{_EVAL} cub --data-root .", "data --data-root .")),
    Reader("sop", "sop/*/*.txt", _TEXT,
           (f"{_EVAL} sop --data-root .", "data --data-root .")),
    Reader("inshop", "inshop/*/Eval/*.txt", _TEXT,
           (f"{_EVAL} inshop --data-root .", "data --data-root .")),
    Reader("checkpoint", "checkpoint/best.pt", _TORCH,
           ("hierarchy --checkpoint {file}", "hierarchy --checkpoint {file}",
            "hierarchy diff {file} {shared}/tiny.onnx",
            "eval --checkpoint {file} --data {shared}/photos"), torch=True),
    Reader("resume", "run/run/last.pt", _TORCH, (_RESUME,), torch=True),
    Reader("resume-config", "run/run/config.toml", _TEXT, (_RESUME,), torch=True),
    Reader("resume-metrics", "run/run/metrics.jsonl",
           (*_TEXT, on_bytes(mutations.damage_json)), (_RESUME,), torch=True, slowness=10),
    Reader("weights", "weights/w.pt", _TORCH,
           ("eval --backbone test_efficientnet --image-size 32 --weights {file} "
            "--data {shared}/photos",), torch=True),
]  # fmt: skip


# -- one run --------------------------------------------------------------------------------


@dataclasses.dataclass
class Run:
    """How a run ended.

    Attributes:
        reader, key: which; the key is a number, or the name of a hostile file made by hand.
        note: what was damaged.
        command: that read it.
        code: exit code, negative for a signal.
        killed: ``hang`` or ``memory`` where it had to be ended.
        seconds, peak: of a processor, and bytes beyond those of the process that forks.
        acts: programs started, addresses asked for, files written elsewhere.
        output: of stderr.
    """

    reader: str
    key: str
    note: str
    command: str
    code: int
    killed: str
    seconds: float
    peak: int
    acts: list[str]
    output: str

    def faults(self) -> list[tuple[str, str]]:
        """(kind, what to group by) of each thing that is wrong."""
        found = []
        if self.killed == "hang" or self.seconds > SECONDS:
            found.append(("hang", f"over {SECONDS} s in {_place(self.output)}"))
        elif self.killed == "" and (self.code not in CLEAN or "Traceback (most" in self.output):
            name = signal.Signals(-self.code).name if self.code < 0 else _exception(self.output)
            found.append(
                ("traceback", f"{name or f'exit code {self.code}'} in {_place(self.output)}")
            )
        if self.peak > MEMORY:
            where = _place(self.output) if self.killed else self.command.split(" /")[0]
            found.append(("memory", f"over 2 GB in {where}"))
        if self.acts:
            found.append(("act", re.sub(r"/[\w./-]*/", "", self.acts[0])[:80]))
        if not found and (unclear := _unclear(self.output)):
            found.append(
                ("unclear", f"{unclear} from {self.command.split(' --')[0].split(' /')[0]}")
            )
        return found


def _exception(output: str) -> str:
    names = re.findall(r"^([A-Za-z_][\w.]*)(?::|$)", output.split("Traceback (most")[-1], re.M)
    return names[0] if names else ""


def _place(output: str) -> str:
    """Innermost line of hiercli in a traceback, or in the dump of a process that was ended."""
    frame = r'File "[^"]*/hiercli/([^"]*)", line (\d+),? in (\w+)'
    if "Traceback (most" in output:
        found = re.findall(frame, output.split("Traceback (most")[-1])[::-1]
    else:  # a dump begins at the innermost call
        found = re.findall(frame, output.split("Current thread")[-1]) or re.findall(frame, output)
    return "{}:{} {}".format(*found[0]) if found else "?"


def _unclear(output: str) -> str:
    for sign in output:
        bidirectional = "\u202a" <= sign <= "\u202e" or "\u2066" <= sign <= "\u2069"
        if bidirectional or (unicodedata.category(sign) == "Cc" and sign != "\n"):
            return f"control character {sign!r}"
    message = output[output.rfind("error:") :] if "error:" in output else ""
    longest = max([len(message), *map(len, output.splitlines())])
    return "a message of more than 2,000 characters" if longest > LONGEST else ""


def run(reader: Reader, key: str, seed: int, corpus: Path) -> Run:
    """Damage a file and read it, in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="run-") as name:
        scratch = Path(name)
        own = _resident(os.getpid())
        process = os.fork()
        if not process:
            try:
                _read(reader, key, seed, corpus, scratch)
            finally:
                traceback.print_exc()
                os._exit(99)
        killed = _watch(process, scratch, own)
        _, status, used = os.wait4(process, 0)
        facts = (scratch / "facts").read_text("utf-8", "replace").splitlines()
        begun, note, command, *acts = [json.loads(line) for line in facts]
        stderr = (scratch / "stderr").read_text("utf-8", "replace")[-200_000:]
        for details in scratch.rglob("hier-fault-*.txt"):  # what hier did not expect
            stderr += details.read_text("utf-8", "replace")[-20_000:]
        if key.startswith("sound") and (scratch / "modules").exists():
            for module in (scratch / "modules").read_text().split():
                with contextlib.suppress(Exception):
                    importlib.import_module(module)
    code, peak = os.waitstatus_to_exitcode(status), max(0, 1024 * used.ru_maxrss - own)
    seconds = used.ru_utime + used.ru_stime - begun
    return Run(reader.name, key, note, command, code, killed, seconds, peak, acts, stderr)


def _resident(process: int) -> int:
    with open(f"/proc/{process}/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def _state(process: int) -> tuple[bool, float]:
    """Whether a thread of it wants a processor, and the seconds of one that all have used."""
    ready, ticks = False, 0
    for file in Path(f"/proc/{process}/task").glob("*/stat"):
        with contextlib.suppress(OSError):  # a thread that has ended meanwhile
            fields = file.read_text().rpartition(")")[2].split()
            ready |= fields[0] == "R"
            ticks += int(fields[11]) + int(fields[12])
    return ready, ticks / os.sysconf("SC_CLK_TCK")


def _watch(process: int, scratch: Path, own: int) -> str:
    """Wait for the end; end it where it takes too long, or twice the memory that it may have.

    Time in which it could run and others had the processors does not count: on a busy machine
    the clock says nothing.
    """
    waiting = select.poll()
    handle = os.pidfd_open(process)
    waiting.register(handle, select.POLLIN)
    looked, used, idle, killed = time.monotonic(), 0.0, 0.0, ""
    while not waiting.poll(50) and not killed:
        with open(f"/proc/{process}/statm") as file:
            pages = int(file.read().split()[1])
        now, (ready, computed) = time.monotonic(), _state(process)
        if not ready and computed == used:
            idle += min(now - looked, 1)
        looked, used = now, computed
        if computed > SECONDS + 2 or idle > SECONDS + 2:
            killed = "hang"
        elif pages * resource.getpagesize() > own + 2 * MEMORY:
            killed = "memory"
    if killed:
        os.kill(process, signal.SIGABRT)  # faulthandler says where it was
        if not waiting.poll(2000):
            os.killpg(process, signal.SIGKILL)
    os.close(handle)
    return killed


def prepare(
    reader: Reader, key: str, seed: int, corpus: Path, target: Path
) -> tuple[Path, str, str]:
    """Copy the reader's folder and damage the file: its path, what was done, the command."""
    rng = random.Random(f"{seed} {reader.name} {key}")
    sound = Path(rng.choice(sorted(glob.glob(reader.files, root_dir=corpus, include_hidden=True))))
    shutil.copytree(corpus / sound.parts[0], target, symlinks=True, dirs_exist_ok=True)
    file, note = target / Path(*sound.parts[1:]), key
    command = rng.choice(reader.commands)
    if key.startswith("sound"):
        command = reader.commands[int(key.split()[1])]
    elif key.isdigit():
        with warnings.catch_warnings(action="ignore"):
            note = rng.choice(reader.mutations)(rng, file)
    else:
        file.unlink()
        if key == "a pipe":
            os.mkfifo(file)
        elif key == "a folder":
            file.mkdir()
        elif key == "/dev/zero":
            file.symlink_to(key)
        elif key == "an empty file":
            file.touch()
        elif key != "nothing":
            shutil.copy(corpus / "cases" / reader.name / key, file)
    if reader.mend is not None and file.is_file():
        reader.mend(file)
    words = command.format(file=file.relative_to(target), shared=corpus / "shared")
    return file, f"{sound.name}: {note}", words


def _read(reader: Reader, key: str, seed: int, corpus: Path, scratch: Path) -> None:
    """The forked process: damage, then run the command to its end."""
    os.setpgid(0, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * MEMORY, 2 * MEMORY))
    facts = os.open(scratch / "facts", os.O_WRONLY | os.O_CREAT)
    folder = scratch / "folder"

    def say(fact: object) -> None:
        os.write(facts, json.dumps(fact).encode() + b"\n")

    _redirect(scratch)
    _, note, command = prepare(reader, key, seed, corpus, folder)
    for fact in (time.process_time(), note, command):
        say(fact)
    os.chdir(folder)
    os.environ |= {"HOME": str(folder), "TMPDIR": str(scratch), "HF_HUB_OFFLINE": "1"}
    tempfile.tempdir = None
    sys.addaudithook(_hook(scratch, say))
    known = set(sys.modules)

    def ended() -> None:
        if key.startswith("sound"):
            (scratch / "modules").write_text("\n".join(set(sys.modules) - known))

    _command(command.split(" "), ended)


def _redirect(scratch: Path) -> None:
    """Stdout and stderr into files, as strict as those of a process with a UTF-8 locale."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        handle = os.open(scratch / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdin, sys.stdout, sys.stderr = (
        open(number, mode, 1, "utf-8", how, closefd=False)  # noqa: SIM115
        for number, mode, how in ((0, "r", None), (1, "w", None), (2, "w", "backslashreplace"))
    )
    faulthandler.enable(file=2)


_PROGRAMS = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty",
             "socket.connect", "socket.getaddrinfo", "pickle.find_class"}  # fmt: skip
_WRITING = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink",
            "os.truncate", "os.chmod"}  # fmt: skip
_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


_OWN = ("uname", "from scipy.io import loadmat")
"""In programs that hier itself starts: to describe the machine, to read MATLAB files apart."""


def _hook(scratch: Path, say: Callable[[object], None]) -> Callable[[str, tuple[Any, ...]], None]:
    inside = (str(scratch) + "/", "/dev/", "/proc/")

    def hook(event: str, values: tuple[Any, ...]) -> None:
        if event in _PROGRAMS and not any(own in str(values) for own in _OWN):
            say(f"{event} {values!r}"[:500])
        elif event in _WRITING or (event == "open" and (values[2] or 0) & _FLAGS):
            path = values[0]
            beside = event != "open" and isinstance(values[-1], int) and values[-1] >= 0
            if isinstance(path, str | bytes) and len(path) < 4096 and not beside:
                real = os.path.realpath(os.fsdecode(path).replace("\0", ""))
                if not (real + "/").startswith(inside):
                    say(f"{event} {real!r}"[:500])

    return hook


def _command(words: list[str], ended: Callable[[], None] = lambda: None) -> None:
    """Run `hier` with some words, and end the process as it would end, after ``ended``."""
    import threading

    from hiercli.cli import app

    sys.argv = ["hier", *words]
    if words[0] == "extract":  # no command of its own: `hier data get` does it to what it fetched
        from hiercli.data.extract import extract

        app.app = lambda: extract(Path(words[1]), Path("out"))  # type: ignore[assignment]
    code: object = 0
    try:
        app.main()
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
        code = 1
    try:
        threading._shutdown()  # type: ignore[attr-defined]
        sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
        code = 1
    ended()
    os._exit(code if isinstance(code, int) else 1)


# -- all runs -------------------------------------------------------------------------------

_LIGHT = ("cli", "data", "encoder", "evaluation", "geometry", "hierarchy", "images", "index",
          "reports", "review")  # fmt: skip
_TORCH_ROOMS = ("nn", "losses", "training")
_LATER = {"hiercli.encoder.cluster", "hiercli.index.milvus", "hiercli.__main__",
          "hiercli.onnx_export", "hiercli.precision"}  # fmt: skip
_OTHERS = (
    "onnx", "onnxruntime", "faiss", "pyarrow.parquet", "pyarrow.csv", "pyarrow.dataset", "scipy.io",
    "scipy.cluster.hierarchy", "scipy.spatial.distance", "networkx", "rich.console", "rich.table",
    "rich.progress", "rich.tree", "filelock", "tarfile",
)  # fmt: skip


def _modules(folders: Iterable[str], prefix: str, rooms: Iterable[str]) -> Iterator[str]:
    """Names of the modules of hiercli, and of those in some of its packages."""
    for module in pkgutil.iter_modules(folders, prefix):
        if not module.ispkg and module.name not in _LATER:
            yield module.name
        elif module.ispkg and module.name.removeprefix(prefix) in rooms:
            inside = [str(Path(folder) / module.name.rpartition(".")[2]) for folder in folders]
            yield from _modules(inside, module.name + ".", ())


def _import(torch: bool) -> None:
    """Import what a run would, so that it need not; what is edited meanwhile changes nothing."""
    import hiercli

    for module in _modules(
        hiercli.__path__, "hiercli.", (*_LIGHT, *(_TORCH_ROOMS if torch else ()))
    ):
        importlib.import_module(module)
    for name in (*_OTHERS, *(("torch.utils.tensorboard", "matplotlib.pyplot") if torch else ())):
        importlib.import_module(name)
    import typer.main
    from PIL import Image

    from hiercli.cli import app

    Image.init()
    typer.main.get_command = functools.cache(typer.main.get_command)  # half of a run's time
    list(typer.main.get_command(app.app).commands.values())
    assert torch or "torch" not in sys.modules
    gc.collect()
    gc.freeze()


def _forked(work: Callable[[], None]) -> None:
    """Do something in a process of its own."""
    faulthandler.enable()
    process = os.fork()
    if not process:
        try:
            work()
            os._exit(0)
        finally:
            traceback.print_exc()
            os._exit(1)
    _, status = os.waitpid(process, 0)
    if status:
        raise SystemExit("the corpus could not be made; see above")


def _corpus(root: Path, readers: Iterable[Reader]) -> None:
    def hier(*words: object) -> None:
        os.environ["HOME"] = str(root)

        def work() -> None:
            handle = os.open(root / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(handle, 1)
            os.dup2(handle, 2)
            os.chdir(root)
            _command([str(word) for word in words])

        process = os.fork()
        if not process:
            work()
        if os.waitpid(process, 0)[1]:
            raise SystemExit(f"{words}: {(root / 'log').read_text()}")

    for folder in ("shared", "run"):
        (root / folder).mkdir(parents=True)
    os.dup2(os.open(root / "made", os.O_WRONLY | os.O_CREAT), 1)  # FAISS talks
    fuzz_corpus.make(root, hier)
    for name in ("idx.faiss", "idx.faiss.sqlite"):
        shutil.copy(root / "index-flat" / name, root / "shared")
    shutil.copy(root / "points" / "v.npy", root / "shared")
    fuzz_corpus.cases(root, {reader.name for reader in readers})
    (root / "ready").touch()


def _keys(reader: Reader, corpus: Path, count: int, cases: bool) -> Iterator[str]:
    """Names of hostile files, then numbers."""
    folder = corpus / "cases" / reader.name
    if cases and folder.is_dir():
        yield from sorted(file.name for file in folder.iterdir())
    yield from SPECIAL if cases else ()
    yield from map(str, range(-(-count // reader.slowness)))


def _row(reader: str, runs: list[Run]) -> list[str]:
    faults = collections.Counter(kind for one in runs for kind, _ in one.faults())
    clean = [one.code for one in runs if not {"traceback", "hang"} & {k for k, _ in one.faults()}]
    numbers = [len(runs), sum(code > 0 for code in clean), clean.count(0)]
    numbers += [faults[kind] for kind in ("traceback", "hang", "memory", "act", "unclear")]
    times = [1000 * one.seconds for one in runs] or [0]
    return [reader, *map(str, numbers), f"{statistics.median(times):.0f}", f"{max(times):.0f}"]


_HEAD = ["reader", "runs", "refused", "accepted", "tracebacks", "hangs", "over 2 GB", "acts",
         "unclear", "median ms", "longest ms"]  # fmt: skip


def _table(rows: list[list[str]]) -> str:
    lines = [_HEAD, ["---"] + ["--:"] * (len(_HEAD) - 1), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _each(runs: list[Run]) -> str:
    """A row for each run: how it ended, what it took."""
    lines = [["reader", "file", "ends with", "processor s", "peak MB"]]
    lines += [["---", "---", "---", "--:", "--:"]]
    for one in runs:
        kinds = ", ".join(sorted({kind for kind, _ in one.faults()}))
        end = kinds or (f"a message, exit code {one.code}" if one.code else "done")
        cells = [one.reader, one.key, end, f"{one.seconds:.1f}", f"{one.peak / 2**20:.0f}"]
        lines.append(cells)
    return "".join(f"| {' | '.join(x)} |\n" for x in lines)


def _headers(runs: list[Run]) -> str:
    """A row for each format of image headers that lie, below what they are."""
    lines = [["format", "files", "refused", "decoded", "tracebacks", "signals", "hangs",
              "over 2 GB", "longest s", "peak MB"], ["---"] + ["--:"] * 9]  # fmt: skip
    groups: dict[str, list[Run]] = collections.defaultdict(list)
    for one in runs:
        groups[one.reader.removeprefix("header-")].append(one)
    for name, those in groups.items():
        kinds = [{kind for kind, _ in one.faults()} for one in those]
        clean = [one.code for one, found in zip(those, kinds, strict=True) if not found]
        numbers = [
            len(those), sum(code > 0 for code in clean), clean.count(0),
            sum("traceback" in found for found in kinds), sum(one.code < 0 for one in those),
            sum("hang" in found for found in kinds), sum("memory" in found for found in kinds),
        ]  # fmt: skip
        longest, peak = max(one.seconds for one in those), max(one.peak for one in those)
        lines.append([name, *map(str, numbers), f"{longest:.1f}", f"{peak / 2**20:.0f}"])
    return _HEADERS + "".join(f"| {' | '.join(x)} |\n" for x in lines)


_HEADERS = """
## Image headers that lie

Files of `tests/hostile_headers.py`: sizes of billions, counts without end, boxes and tags that
hold themselves, strips and profiles that unpack to 256 MB. Each is read by `hier embed` in a
process of its own. A count is of files; "decoded" are those whose image can be shown in spite of
the lie. The peak is of memory beyond that of an idle `hier`.

"""


def _failures(runs: list[Run]) -> str:
    """Distinct failures, the most frequent first, each with an example."""
    found: dict[tuple[str, str], list[Run]] = collections.defaultdict(list)
    for one in runs:
        for fault in one.faults():
            found[fault].append(one)
    texts = []
    for (kind, what), those in sorted(found.items(), key=lambda item: -len(item[1])):
        readers = collections.Counter(one.reader for one in those)
        first = min(those, key=lambda one: len(one.note))
        said = [line for line in first.output.splitlines() if line.strip()]
        said = [line for line in said if line.startswith("error:")][-1:] or said[-1:]
        said = [] if first.code < 0 else said
        texts.append(f"""{len(those)} x {kind}: {what}
    in {", ".join(f"{name} ({count})" for name, count in readers.items())}
    e.g. --readers {first.reader} --only {first.key!r}: {first.note[:160]!r}
    hier {re.sub("/[^ ]*/shared", "SHARED", first.command)[:150]}
    exit code {first.code}, {first.seconds:.1f} s, {first.peak / 2**30:.1f} GB, said
    {"".join(said)[:300]!r}{" and did " + first.acts[0][:200] if first.acts else ""}
""")
    return "\n".join(texts)


def main() -> int:
    """Run all that was asked for, and print the table and the failures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--mutations", type=int, default=60, help="of each reader")
    parser.add_argument("--readers", help="names with commas between them; all where left out")
    parser.add_argument("--no-cases", dest="cases", action="store_false",
                        help="leave out the hostile files made by hand")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for the inputs that fail")
    parser.add_argument("--only", help="one run by its number or name, with all that it says")
    parser.add_argument(
        "--corpus", type=Path, help="folder to keep the sound files in, or to take from"
    )
    parser.add_argument("--table", type=Path, help="file to write the table to")
    parser.add_argument(
        "--each", type=Path, help="file to write a table of the hostile files made by hand to"
    )
    given = parser.parse_args()
    names = given.readers.split(",") if given.readers else [reader.name for reader in READERS]
    if unknown := set(names) - {reader.name for reader in READERS}:
        parser.error(f"no reader is called {', '.join(unknown)}")
    readers = sorted((one for one in READERS if one.name in names), key=lambda one: one.torch)
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="hier-fuzz-", dir=memory) as folder:
        tempfile.tempdir = folder
        corpus = (given.corpus or Path(folder) / "corpus").absolute()
        _import(torch=False)
        if not (corpus / "ready").exists():
            shutil.rmtree(corpus, ignore_errors=True)
            _forked(lambda: _corpus(corpus, readers))
        print(f"the corpus is ready after {time.monotonic() - started:.0f} s", file=sys.stderr)
        every: list[Run] = []
        seen: set[tuple[str, str]] = set()
        rows = []
        for reader in readers:
            if reader.torch and "torch" not in sys.modules:
                _import(torch=True)
            for number in range(len(reader.commands)):
                sound = run(reader, f"sound {number}", given.seed, corpus)
                if (sound.code and "nonexistent" not in sound.command) or sound.faults():
                    print(f"{reader.name}: the sound file is refused\n{sound}", file=sys.stderr)
            keys = (
                [given.only] if given.only else _keys(reader, corpus, given.mutations, given.cases)
            )
            runs = []
            for key in keys:
                done = run(reader, key, given.seed, corpus)
                runs.append(done)
                for fault in set(done.faults()) - seen:
                    print(f"  new in {reader.name} {key!r}: {fault}", file=sys.stderr, flush=True)
                seen.update(done.faults())
                if given.only:
                    print(done.note, done.command, done.output, done.acts, done, sep="\n")
                if given.keep and done.faults():
                    _keep(given.keep, reader, done, given.seed, corpus)
            rows.append(_row(reader.name, runs))
            print(" | ".join(rows[-1]), file=sys.stderr, flush=True)
            every += runs
        minutes = (time.monotonic() - started) / 60
    print(_failures(every))
    text = _table(rows)
    print(text)
    if given.table:
        options = re.sub(r" ?--(table|keep|corpus|each) [^ ]+", "", " ".join(sys.argv[1:]))
        words = f"`{options or 'make fuzz'}`: {len(every)} runs in {minutes:.0f} minutes."
        given.table.write_text(f"# Fuzzing\n\n{words}\n\n{text}")
    if given.each:
        made = [one for one in every if not one.key.isdigit() and one.key not in SPECIAL]
        headers = [one for one in made if one.reader.startswith("header-")]
        others = [one for one in made if not one.reader.startswith("header-")]
        text = f"# Hostile files made by hand\n\n{_each(others)}" if others else ""
        if headers:
            text += _headers(headers)
        given.each.write_text(text)
    return int(any(one.faults() for one in every))


def _keep(folder: Path, reader: Reader, done: Run, seed: int, corpus: Path) -> None:
    """Make the input of a run once more, beside what was said of it."""
    target = folder / f"{reader.name}-{re.sub(r'[^A-Za-z0-9]+', '-', done.key)}"

    def work() -> None:
        prepare(reader, done.key, seed, corpus, target)

    shutil.rmtree(target, ignore_errors=True)
    _forked(work)
    facts = (done.note, done.command, str(done.faults()), *done.acts, done.output)
    (target / "failure.txt").write_text("\n".join(facts))


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # torch would report leaks
