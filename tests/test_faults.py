"""What a disk, a folder of photos or a foreign file can do to `hier embed` and its index."""

import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import Hier, searched

from hiercli.encoder import onnx_file
from hiercli.index import health


def test_a_folder_that_takes_no_files(exported: Path, photos: Path, inside: Hier) -> None:
    if not Path("/proc").is_dir():
        pytest.skip("needs /proc, where even a superuser cannot write")
    done = inside("embed", photos, "--model", exported, "--index", "/proc/idx.faiss")
    assert done.returncode == 2
    assert b"cannot write /proc/idx.faiss" in done.stderr


@pytest.mark.parametrize("place", ["outside", "absolute", "link", "beside"])
def test_an_encoder_with_weights_outside_its_folder(
    place: str, exported: Path, photos: Path, inside: Hier, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Such a file could read any other: ONNX Runtime refuses it, and we say so."""
    model = onnx.load(str(exported))
    largest = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    secret, folder = tmp_path / "secret.bin", tmp_path / "folder"
    secret.write_bytes(largest.raw_data)
    folder.mkdir()
    (folder / "link.bin").symlink_to(secret)
    (folder / "beside.bin").write_bytes(largest.raw_data)
    where = {"outside": "../secret.bin", "absolute": str(secret), "link": "link.bin",
             "beside": "beside.bin"}[place]  # fmt: skip
    facts = {"location": where, "offset": "0", "length": str(secret.stat().st_size)}
    largest.ClearField("raw_data")
    largest.data_location = onnx.TensorProto.EXTERNAL
    for key, value in facts.items():
        largest.external_data.add(key=key, value=value)
    content = onnx_file.without_digest(model.SerializeToString())
    (folder / "m.onnx").write_bytes(onnx_file.stamped(content))
    monkeypatch.chdir(folder)  # against which a relative name might count
    done = inside("embed", photos, "--model", folder / "m.onnx", "-o", tmp_path / "v.npy")
    assert done.returncode == 2
    assert b"ONNX Runtime cannot load" in done.stderr
    assert not (tmp_path / "v.npy").exists()


def test_a_folder_full_of_what_is_no_picture(
    exported: Path, photos: Path, inside: Hier, tmp_path: Path
) -> None:
    """20,000 empty files, a bomb, a circle of links, odd names: all named, the rest goes on."""
    album, index = tmp_path / "album", tmp_path / "idx.faiss"
    album.mkdir()
    for number in range(20_000):
        os.mknod(album / f"empty{number}.jpg")
    rows = b"\0" + b"\xff" * 8
    bomb = b"P5 60000 60000 255\n" + rows
    (album / "bomb.jpg").write_bytes(bomb)
    (album / "circle").symlink_to(album, target_is_directory=True)
    good = [album / "with space.jpg", album / "line\nbreak.jpg",
            Path(os.fsdecode(os.fsencode(album) + b"/n\xffon.jpg"))]  # fmt: skip
    for number, file in enumerate(good):
        shutil.copy(photos / "kind0" / f"photo{number}.jpg", file)
    done = inside("embed", album, "--model", exported, "--index", index)
    assert done.returncode == 3
    lines = done.stderr.splitlines()
    assert sum(b"/empty" in line for line in lines) == 20_000
    assert any(b"bomb.jpg" in line for line in lines)
    assert health.stats(index)["quarantined"] == 20_001
    (hits,) = searched(index, np.zeros((1, 16), np.float32))
    assert sorted(hit.path for hit in hits) == sorted(map(str, good))
