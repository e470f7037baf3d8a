"""Nothing that a file says is believed: what it runs, whom it asks, how large it claims to be."""

import json
import os
import pickle
import resource
import signal
import socket
import stat
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pytest
import torch
from conftest import Hier
from PIL import Image
from pyarrow import parquet

from hiercli import collection_files, numpy_files
from hiercli.collection import Collection
from hiercli.data import catalogue
from hiercli.data.extract import extract
from hiercli.data.taxonomy import read_taxonomy
from hiercli.encoder import onnx_file
from hiercli.encoder.encoder import Encoder
from hiercli.encoder.golden import golden_path
from hiercli.errors import (
    DataError,
    DownloadError,
    FileFormatError,
    ImageError,
    InputError,
    MismatchError,
)
from hiercli.files import parse_json
from hiercli.hierarchy import formats, newick
from hiercli.images import colour, probe, read
from hiercli.nn import tensor_file
from hiercli.training import checkpoint, recipe

POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"


# ------------------------------------------------------------------------------------- programs


@pytest.mark.parametrize("name", ["holiday.jpg", "holiday.png", "holiday.eps"])
def test_postscript_runs_no_program(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Any] = []
    monkeypatch.setattr(subprocess, "Popen", lambda *words, **_: started.append(words))
    monkeypatch.setattr(subprocess, "check_call", lambda *words, **_: started.append(words))
    (tmp_path / name).write_bytes(POSTSCRIPT)
    for function in (read, probe):
        with pytest.raises(ImageError, match="PostScript"):
            function(tmp_path / name)
    assert not started


def test_kinds_that_are_not_read_are_called_by_their_name(tmp_path: Path) -> None:
    starts = {
        "phone.heic": b"\0\0\0\x18ftypheic" + b"\0" * 16, "page.jpg": b"%PDF-1.7\n",
        "table.csv": b"path,label\na.jpg,wren\n", "wide.csv": "path,label\n".encode("utf-16"),
        "points.npz": b"PK\x03\x04" + b"\0" * 30, "points.npy": b"\x93NUMPY\x01\0",
    }  # fmt: skip
    for name, content in starts.items():
        (tmp_path / name).write_bytes(content)
    said = {"phone.heic": "HEIC", "page.jpg": "PDF", "table.csv": "table",
            "wide.csv": "table", "points.npz": "npz", "points.npy": "NumPy"}  # fmt: skip
    for name, word in said.items():
        with pytest.raises(ImageError, match=word):
            read(tmp_path / name)


def test_nothing_is_left_in_a_home_and_nothing_is_sent(
    exported: Path, photos: Path, hier: Hier, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    unset = {name: value for name, value in os.environ.items() if name != "CI"}
    switches = ("ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY", "RAY_USAGE_STATS_ENABLED")
    told = subprocess.run(
        [sys.executable, "-c", f"import os, hiercli; print([os.environ[n] for n in {switches}])"],
        env={name: value for name, value in unset.items() if name not in switches},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert told.stdout.strip() == "['1', '1', '0']"
    done = hier("embed", photos, "--model", exported, "-o", tmp_path / "v.npy", HOME=str(home))
    assert done.returncode == 0
    assert [file for file in home.rglob("*") if file.is_file()] == []
    done = hier("embed", photos, "--model", exported, "-o", tmp_path / "v.npy", HOME="/proc")
    assert b"elemetry" not in done.stderr


# ------------------------------------------------------------------------------------- encoders


def altered(source: Path, target: Path, change: Callable[[onnx.ModelProto], None]) -> Path:
    """An encoder with something changed and everything else, the digest too, left as it was."""
    model = onnx.load(str(source))
    change(model)
    target.write_bytes(model.SerializeToString())
    return target


def _halve(model: onnx.ModelProto) -> None:
    largest = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    values = np.frombuffer(largest.raw_data, np.float32) / 2
    largest.raw_data = values.tobytes()


def _fact(name: str, value: Any) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        for entry in model.metadata_props:
            if entry.key == "hier":
                facts = json.loads(entry.value)
                if name == "crop_share":
                    facts["preprocessing"]["crop_share"] = value
                else:
                    facts[name] = value
                entry.value = json.dumps(facts)

    return change


CHANGES = {
    "weights": _halve, "crop": _fact("crop_share", 0.5), "c": _fact("c", 0.2),
    "names": _fact("class_names", ["a", "b"]),
}  # fmt: skip


@pytest.mark.parametrize("what", CHANGES)
def test_a_changed_encoder_is_refused(
    what: str, exported: Path, photos: Path, inside: Hier, tmp_path: Path
) -> None:
    model = altered(exported, tmp_path / "m.onnx", CHANGES[what])
    for command in (("embed", photos, "-o", tmp_path / "v.npy", "--model"), ("verify",)):
        done = inside(*command, model)
        assert (done.returncode, b"checksum of" in done.stderr) == (2, True)
    assert not (tmp_path / "v.npy").exists()


@pytest.mark.parametrize("what", CHANGES)
def test_one_stamped_again_is_not_the_one_of_the_golden_vectors(
    what: str, exported: Path, inside: Hier, tmp_path: Path
) -> None:
    if what == "names":
        pytest.skip("it would have more class points than names, which is refused before")
    model = altered(exported, tmp_path / "m.onnx", CHANGES[what])
    model.write_bytes(onnx_file.stamped(onnx_file.without_digest(model.read_bytes())))
    golden_path(model).write_bytes(golden_path(exported).read_bytes())
    done = inside("verify", model)
    assert (done.returncode, b"does not belong to" in done.stderr) == (4, True)


def test_without_a_digest_an_encoder_is_refused(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(onnx_file.without_digest(exported.read_bytes()))
    with pytest.raises(FileFormatError, match="found none"):
        Encoder(tmp_path / "m.onnx")
    plain = onnx.load(str(exported))
    del plain.metadata_props[:]
    onnx.save(plain, str(tmp_path / "plain.onnx"))
    with pytest.raises(FileFormatError, match="without its metadata"):
        Encoder(tmp_path / "plain.onnx")


@pytest.mark.parametrize(
    ("name", "value"),
    [("c", 0), ("c", float("nan")), ("c", 1e300), ("embedding_dim", 10**12), ("embedding_dim", 17),
     ("clip_radius", -1), ("fingerprint", 7), ("class_names", ["a", "a"]), ("seed", "x" * 9),
     ("precision", "int3"), ("proof", 3), ("crop_share", 1e-9), ("version", None)],
)  # fmt: skip
def test_facts_that_cannot_be_are_refused(
    name: str, value: Any, exported: Path, tmp_path: Path
) -> None:
    model = altered(exported, tmp_path / "m.onnx", _fact(name, value))
    model.write_bytes(onnx_file.stamped(onnx_file.without_digest(model.read_bytes())))
    with pytest.raises(FileFormatError, match=r"metadata is damaged|cannot load|not a valid ONNX"):
        Encoder(model)


def test_what_an_encoder_gives_is_checked(exported: Path, tmp_path: Path) -> None:
    """A last product by ten puts points outside the ball."""
    model = onnx.load(str(exported))
    (output,) = model.graph.output
    for node in model.graph.node:
        node.output[:] = ["inner" if name == output.name else name for name in node.output]
        node.input[:] = ["inner" if name == output.name else name for name in node.input]
    ten = onnx.helper.make_tensor("ten", onnx.TensorProto.FLOAT, [1], [10.0])
    model.graph.initializer.append(ten)
    model.graph.node.append(onnx.helper.make_node("Mul", ["inner", "ten"], [output.name]))
    content = onnx_file.without_digest(model.SerializeToString())
    (tmp_path / "m.onnx").write_bytes(onnx_file.stamped(content))
    session = Encoder(tmp_path / "m.onnx", device="cpu")
    side = session.metadata.preprocessing.size
    with pytest.raises(FileFormatError, match="not inside the ball"):
        session.run(np.ones((2, 3, side, side), np.float32))
    with pytest.raises(InputError, match="cannot run"):
        session.run(np.ones((2, 3, side + 1, side), np.float32))


def test_a_backbone_that_cannot_be_exported_is_one_sentence(
    trained: Path, inside: Hier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise TypeError("step 2 failed\n\n(Refer to the full stack trace above)")

    monkeypatch.setattr(torch.onnx, "export", refused)
    done = inside("export", "--checkpoint", trained / "best.pt", "-o", tmp_path / "m.onnx")
    assert (done.returncode, b"cannot export test_efficientnet" in done.stderr) == (2, True)
    assert list(tmp_path.iterdir()) == []


# -------------------------------------------------------------------------------------- outputs


def test_files_of_two_runs_are_not_taken_for_one(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    kept: dict[str, bytes] = {}
    for run in ("first", "second"):
        points = rng.normal(size=(3, 4)).astype(np.float32) / 10
        paths = [f"{run}/{number}.jpg" for number in range(3)]
        Collection(points, paths, c=0.1, fingerprint="f" * 16).write(tmp_path / "v.npy")
        for name in ("v.npy", "v.paths.txt", "v.hier.json"):
            kept[f"{run} {name}"] = (tmp_path / name).read_bytes()
    stored = collection_files.read(tmp_path / "v.npy")
    assert (stored.c, stored.fingerprint) == (0.1, "f" * 16)
    for name in ("v.npy", "v.paths.txt", "v.hier.json"):  # as a kill between two renames leaves it
        (tmp_path / name).write_bytes(kept[f"first {name}"])
        with pytest.raises(MismatchError, match="written by different runs"):
            collection_files.read(tmp_path / "v.npy")
        (tmp_path / name).write_bytes(kept[f"second {name}"])


@pytest.mark.parametrize("name", ["a\n", "\n", "a\r", "a\x1cb", "a\u2028b", '"a', "a\x85"])
def test_every_path_is_read_back(name: str, tmp_path: Path) -> None:
    points = np.zeros((2, 3), np.float32)
    paths = [f"/photos/{name}", "/photos/plain.jpg"]
    Collection(points, paths, c=0.1, fingerprint="f" * 16).write(tmp_path / "v.npy")
    assert collection_files.read(tmp_path / "v.npy").paths == paths


# ---------------------------------------------------------------------------------------- bombs


@pytest.fixture(autouse=True)
def _little_memory() -> Any:
    """A gigabyte beyond what the process has taken already: a bomb would fail with MemoryError."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    try:
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except OSError:
        taken = 2**40
    resource.setrlimit(resource.RLIMIT_AS, (taken + 2**30, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def _npy(shape: tuple[int, ...], content: bytes, descr: str = "<f4") -> bytes:
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\0" + struct.pack("<H", len(header)) + header + content


@pytest.mark.parametrize(
    "content",
    [_npy((10**12,), b"1234"), _npy((10**12, 0, 10**12), b"")[:60], _npy((-1,), b"1234"),
     _npy((10**12,), b"", "<U0"), _npy((1,), b"12345678", "|O"), b"\x93NUMPY\x09\0", b"",
     _npy((5,), b"1" * 12), b"\x93NUMPY\x01\0\xff\xff" + b"(" * 65535],
)  # fmt: skip
def test_an_array_is_no_larger_than_its_file(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "v.npy").write_bytes(content)
    with pytest.raises(FileFormatError, match="NumPy array"):
        numpy_files.read_npy(tmp_path / "v.npy")
    with zipfile.ZipFile(tmp_path / "v.npz", "w") as archive:
        archive.writestr("points.npy", content)
    with pytest.raises(FileFormatError, match="NumPy archive"):
        numpy_files.read_npz(tmp_path / "v.npz", ["points"])


def test_of_an_archive_only_what_is_wanted_is_unpacked(tmp_path: Path) -> None:
    packed = zipfile.ZipInfo("points.npy")
    with zipfile.ZipFile(tmp_path / "v.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("huge.npy", "w") as huge:
            huge.write(_npy((2**28,), b""))
            for _ in range(64):
                huge.write(bytes(2**24))
        archive.writestr(packed, _npy((2, 2), bytes(16)))
    assert (tmp_path / "v.npz").stat().st_size < 2 * 2**20
    assert numpy_files.read_npz(tmp_path / "v.npz", ["points"])["points"].shape == (2, 2)
    with pytest.raises(FileFormatError, match="has an unpacked size of"):
        numpy_files.read_npz(tmp_path / "v.npz", ["huge"])


class _Bytes:
    def __reduce__(self) -> Any:
        return bytearray, (6 * 10**9,)


def test_tensors_are_no_larger_than_their_file(tmp_path: Path) -> None:
    file = tmp_path / "w.pt"
    for content in (
        {"w": torch.zeros(1).expand(10**6, 10**6)},
        {"w": torch.zeros(4).as_strided((1000, 4), (0, 1))},
    ):
        torch.save(content, file)
        with pytest.raises(FileFormatError, match="not a valid checkpoint"):
            tensor_file.read(file)
    torch.save({"w": torch.zeros(2, 3)}, file)
    assert tensor_file.read(file)["w"].shape == (2, 3)
    with zipfile.ZipFile(file) as archive:
        parts = {member.filename: archive.read(member) for member in archive.infolist()}
    data = next(name for name in parts if name.endswith("data.pkl"))
    tensor = next(name for name in parts if name.endswith("data/0"))
    bombs = {
        "packed": (zipfile.ZIP_DEFLATED, parts | {tensor: bytes(2**20)}),
        "bytes": (zipfile.ZIP_STORED, parts | {data: pickle.dumps(_Bytes(), 2)}),
        "short": (zipfile.ZIP_STORED, parts | {tensor: bytes(4)}),
    }
    for method, content in bombs.values():
        with zipfile.ZipFile(file, "w", method) as archive:
            for name, part in content.items():
                archive.writestr(name, part)
        with pytest.raises(FileFormatError, match="not a valid checkpoint"):
            tensor_file.read(file)


def test_a_checkpoint_names_no_host_and_no_monster(
    trained: Path, inside: Hier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def refused(*words: Any, **_: Any) -> None:
        asked.append(words)
        raise OSError("no network")

    monkeypatch.setattr(socket, "getaddrinfo", refused)
    monkeypatch.setattr(socket.socket, "connect", refused)
    content = torch.load(trained / "best.pt", weights_only=True)
    file = tmp_path / "best.pt"
    for backbone in ("hf-hub:stranger/net", "local-dir:/etc", "vit_giant_patch14_dinov2"):
        content["recipe"]["model"]["backbone"] = backbone
        torch.save(content, file)
        with pytest.raises(FileFormatError, match="incomplete or damaged"):
            checkpoint.load(file)
        done = inside("hierarchy", "--checkpoint", file)
        assert done.returncode in (0, 2)
    assert not asked


@pytest.mark.parametrize(
    ("part", "value"),
    [("version", torch.zeros(3)), ("version", float("inf")),
     ("recipe", 3), ("recipe", {}), ("model", {"w": 1}), ("proxies", torch.full((3, 16), 9.0)),
     ("proxies", torch.zeros(3)), ("class_points", torch.zeros(9, 16)), ("class_names", [1, 2]),
     ("class_names", None), ("version", "x"), ("fingerprint", None), ("preprocessing", [1]),
     ("proxies", torch.full((3, 16), float("nan"))), ("progress", 5)],
)  # fmt: skip
def test_parts_of_a_checkpoint_that_cannot_be(
    part: str, value: Any, trained: Path, inside: Hier, tmp_path: Path
) -> None:
    content = torch.load(trained / "best.pt", weights_only=True)
    torch.save(content | {part: value}, tmp_path / "best.pt")
    done = inside("hierarchy", "--checkpoint", tmp_path / "best.pt")
    assert (done.returncode, b"damaged" in done.stderr) == (2, True)


def test_headers_of_a_tar_are_short(tmp_path: Path) -> None:
    for kind in (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XGLTYPE):
        member = tarfile.TarInfo("comment")
        member.type, member.size = kind, 3 * 2**30
        header = member.tobuf(tarfile.USTAR_FORMAT)
        packer = zlib.compressobj(9, zlib.DEFLATED, 31)
        packed = packer.compress(header) + packer.compress(bytes(2**24)) + packer.flush()
        (tmp_path / "a.tar.gz").write_bytes(packed)
        with pytest.raises(DownloadError, match="claims"):
            extract(tmp_path / "a.tar.gz", tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_texts_of_any_depth_and_length_have_an_answer(tmp_path: Path, inside: Hier) -> None:
    deep = "[" * 100_000
    with pytest.raises(ValueError, match="deeply"):
        parse_json(deep)
    with pytest.raises(FileFormatError):
        formats.from_json('{"children":' + deep, "t.json")
    long = "9" * 5000
    for text in (f"a = {deep}", f"seed = {long}", "[" * 50_000, f'c = "{long}"'):
        (tmp_path / "r.toml").write_text(text)
        with pytest.raises(InputError):
            recipe.load(str(tmp_path / "r.toml"))
    comb = "a0"
    parts = ["(" * 20_000, comb, *(f",a{number})" for number in range(1, 20_001)), ";"]
    (tmp_path / "comb.nwk").write_text("".join(parts))
    root = newick.read((tmp_path / "comb.nwk").read_text(), "comb.nwk")
    assert len(root.leaves) == 20_001
    done = inside("hierarchy", "diff", tmp_path / "comb.nwk", tmp_path / "comb.nwk")
    assert (done.returncode, b"at most 4,000 leaves" in done.stderr) == (2, True)


def test_tables_are_no_larger_than_their_bytes(tmp_path: Path) -> None:
    rows = 5_000_000
    same = pa.array(["a.jpg"]).dictionary_encode()
    column = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), same.dictionary)
    table = pa.table({"path": column, "label": column})
    for name in ("m.parquet", "e.parquet"):
        parquet.write_table(table, tmp_path / name)
    assert (tmp_path / "m.parquet").stat().st_size < 100_000
    with pytest.raises(DataError, match="states 5,000,000 rows"):
        catalogue.load(str(tmp_path / "m.parquet"))
    with pytest.raises(DataError, match="states 5,000,000 rows"):
        collection_files.read(tmp_path / "e.parquet")
    days = pa.array([2**31 - 1] * 3, pa.int32()).cast(pa.date32())
    parquet.write_table(pa.table({"path": ["a"] * 3, "label": days}), tmp_path / "m.parquet")
    with pytest.raises(DataError, match="found date32"):
        catalogue.load(str(tmp_path / "m.parquet"))
    wide = ",".join(f"c{number}" for number in range(100_000))
    (tmp_path / "m.csv").write_text(f"path,label,{wide}\n")
    (tmp_path / "t.csv").write_text(f"class_name,{wide}\n")
    with pytest.raises(DataError, match="at most 200 columns"):
        catalogue.load(str(tmp_path / "m.csv"))
    with pytest.raises(DataError, match="at most 200 columns"):
        read_taxonomy(tmp_path / "t.csv")
    (tmp_path / "m.csv").write_bytes(b"path,label\na\0.jpg,x\n")
    with pytest.raises(DataError, match="zero byte"):
        catalogue.load(str(tmp_path / "m.csv"))


def test_texts_of_an_archive_are_unicode(tmp_path: Path) -> None:
    for code in (0x110000, 0xD800, 2**32 - 1):
        labels = np.array([code, 0x61], np.uint32).view("<U1")
        np.savez(tmp_path / "v.npz", points=np.zeros((2, 2), np.float32), labels=labels)
        with pytest.raises(DataError, match="invalid Unicode"):
            collection_files.read(tmp_path / "v.npz")


def test_a_table_that_contradicts_itself_about_a_column(hier: Hier, tmp_path: Path) -> None:
    """pyarrow ends the process where it is asked for what such a file says of its columns."""
    table = pa.table({"path": ["a.jpg", "b.jpg"], "label": ["a", "b"], "point": [[0.1], [0.2]]})
    parquet.write_table(table, tmp_path / "t.parquet")
    content = bytearray((tmp_path / "t.parquet").read_bytes())
    content[content.index(b"\x15\x0c") + 1] = 8  # FLOAT, not BYTE_ARRAY
    (tmp_path / "t.parquet").write_bytes(content)
    for words in (["hierarchy", "--points"], ["embed", "-o", tmp_path / "v.npy"]):
        done = hier(*words, tmp_path / "t.parquet")
        assert (done.returncode, b"t.parquet" in done.stderr) == (2, True), done


@pytest.mark.parametrize("codes", [[float("inf"), 0, 1], [0.5, float("nan"), 1], ["x", 0, 1]])
def test_a_note_with_codes_that_are_none(codes: list[Any], tmp_path: Path) -> None:
    points = np.zeros((3, 2), np.float32)
    Collection(points, ["a", "b", "c"], labels=["x", "y", "x"], c=0.1).write(tmp_path / "v.npy")
    note = tmp_path / "v.hier.json"
    note.write_text(json.dumps(json.loads(note.read_text()) | {"codes": codes}))
    with pytest.raises(FileFormatError, match=r"v\.hier\.json is damaged"):
        collection_files.read(tmp_path / "v.npy")


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_large_pictures_are_converted_in_strips(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bit as whole: transparency, palettes with a clear colour, deep greys."""
    rng = np.random.default_rng(0)
    deep = Image.fromarray(rng.integers(0, 65536, (31, 17), dtype=np.uint16))
    clear = Image.fromarray(rng.integers(0, 256, (31, 17, 4), dtype=np.uint8))
    real = Image.fromarray(rng.random((31, 17), dtype=np.float32))
    for number, picture in enumerate((deep, clear, real)):
        if form == "PNG" and picture is real:
            continue
        file = tmp_path / f"{number}.{form.lower()}"
        picture.save(file, form)
        monkeypatch.setattr(colour, "_STRIP_PIXELS", 2**22)
        whole = np.asarray(read(file))
        monkeypatch.setattr(colour, "_STRIP_PIXELS", 40)
        assert np.array_equal(np.asarray(read(file)), whole)
    palette = clear.convert("RGB").quantize(16)
    palette.save(tmp_path / "p.png", transparency=3)
    monkeypatch.setattr(colour, "_STRIP_PIXELS", 2**22)
    whole = np.asarray(read(tmp_path / "p.png"))
    monkeypatch.setattr(colour, "_STRIP_PIXELS", 40)
    assert np.array_equal(np.asarray(read(tmp_path / "p.png")), whole)


# ----------------------------------------------------------------------- what is no regular file


def test_a_pipe_is_never_waited_for(
    exported: Path, index: Path, photos: Path, inside: Hier, tmp_path: Path
) -> None:
    signal.alarm(120)  # ends this process of pytest where one waits
    pipes = {}
    for suffix in (".jpg", ".onnx", ".npy", ".npz", ".parquet", ".csv", ".pt", ".faiss", ".toml",
                   ".nwk", ".json"):  # fmt: skip
        pipes[suffix] = tmp_path / f"pipe{suffix}"
        os.mkfifo(pipes[suffix])
    other = tmp_path / "i.faiss"
    for name in ("", ".sqlite"):
        Path(f"{other}{name}").write_bytes(Path(f"{index}{name}").read_bytes())
    other.unlink()
    os.mkfifo(other)
    photo = photos / "kind0" / "photo0.jpg"
    for words in (
        ("embed", pipes[".jpg"], "--model", exported, "-o", tmp_path / "v.npy"),
        ("embed", photo, "--model", pipes[".onnx"], "-o", tmp_path / "v.npy"),
        ("search", pipes[".npy"], "--index", index),
        ("search", photo, "--index", pipes[".faiss"]),
        ("search", photo, "--index", other),
        ("index", "verify", other),
        ("hierarchy", "--points", pipes[".npy"], "--model", exported),
        ("hierarchy", "--points", pipes[".npz"], "--model", exported),
        ("hierarchy", "--points", pipes[".parquet"], "--model", exported),
        ("hierarchy", "--checkpoint", pipes[".pt"]),
        ("hierarchy", "diff", pipes[".nwk"], pipes[".json"]),
        ("eval", "--model", exported, "--data", pipes[".csv"]),
        ("eval", "--model", exported, "--data", photos, "--taxonomy", pipes[".csv"]),
        ("train", "--recipe", pipes[".toml"]),
        ("eval", "--backbone", "test_resnet", "--weights", pipes[".pt"], "--data", photos),
    ):
        done = inside(*words)
        assert done.returncode == 2, (words, done.stderr)
    signal.alarm(0)
    assert stat.S_ISFIFO(other.stat().st_mode)


def test_a_fault_of_our_own_is_one_sentence_and_a_file(
    inside: Hier, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import tempfile

    from hiercli.hierarchy import newick as parser

    def broken(*_: object) -> None:
        raise ZeroDivisionError("a \x1b[31m name")

    monkeypatch.setattr(parser, "read", broken)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "t.nwk").write_text("(a,b);")
    done = inside("hierarchy", "diff", tmp_path / "t.nwk", tmp_path / "t.nwk")
    assert done.returncode == 1
    assert b"Traceback" not in done.stderr
    assert b"\x1b[31m name" not in done.stderr
    (details,) = tmp_path.glob("hier-fault-*.txt")
    assert str(details).encode() in done.stderr
    assert "ZeroDivisionError" in details.read_text()
