"""One preprocessing path, and pictures of every kind that people have."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hiercli.errors import ImageError, InputError
from hiercli.images import Preprocessing, find, natural_key, probe, read

HALF = (0.5, 0.5, 0.5)
EVAL = Preprocessing(8, 0.875, HALF, HALF)


def gradient(mode: str = "RGB") -> Image.Image:
    ramp = np.linspace(0, 255, 60 * 40).reshape(40, 60).astype(np.uint8)
    return Image.fromarray(np.stack([ramp, ramp[::-1], ramp], axis=2)).convert(mode)


def test_every_kind_of_picture_becomes_rgb(tmp_path: Path) -> None:
    made = {
        "plain.jpg": gradient(), "grey.png": gradient("L"), "cmyk.jpg": gradient("CMYK"),
        "palette.png": gradient("P"), "alpha.png": gradient("RGBA"), "bit.png": gradient("1"),
        "dot.png": Image.new("RGB", (1, 1), "red"),
    }  # fmt: skip
    for name, picture in made.items():
        picture.save(tmp_path / name)
    deep = (np.linspace(0, 65535, 2400).reshape(40, 60)).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    gradient().save(
        tmp_path / "moving.gif", save_all=True, append_images=[Image.new("RGB", (60, 40))]
    )
    for file in sorted(tmp_path.iterdir()):
        picture = read(file)
        assert picture.mode == "RGB", file
        assert EVAL(picture).shape == (3, 8, 8)
    brightness = np.asarray(read(tmp_path / "deep.png"), float)
    assert brightness.max() > 250
    assert 100 < brightness.mean() < 150


def test_transparency_is_white(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert np.asarray(read(tmp_path / "clear.png")).min() == 255


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    gradient().save(tmp_path / "turned.jpg", exif=exif, quality=95)
    gradient().rotate(-90, expand=True).save(tmp_path / "upright.jpg", quality=95)
    turned, upright = (
        np.asarray(read(tmp_path / f"{name}.jpg"), float) for name in ("turned", "upright")
    )
    assert turned.shape == (60, 40, 3)
    assert np.abs(turned - upright).mean() < 4


def test_damage_is_one_clear_message(tmp_path: Path) -> None:
    whole = tmp_path / "whole.jpg"
    gradient().save(whole)
    (tmp_path / "cut.jpg").write_bytes(whole.read_bytes()[:400])
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("this is a letter")
    for name, words in (
        ("cut", "damaged"),
        ("empty", "an empty file"),
        ("text", "16 bytes of something"),
    ):
        with pytest.raises(ImageError, match=words) as caught:
            read(tmp_path / f"{name}.jpg")
        assert str(tmp_path / name) in str(caught.value)
    with pytest.raises(ImageError, match="no such file"):
        probe(tmp_path / "gone.jpg")


def test_a_bomb_is_refused(tmp_path: Path) -> None:
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    for function in (read, probe):
        with pytest.raises(ImageError, match="limit"):
            function(tmp_path / "bomb.png")


def test_reduced_decoding_changes_little(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 255, (12, 16, 3), np.uint8)).resize((1600, 1200))
    smooth.save(tmp_path / "large.jpg", quality=95)
    sharp = Preprocessing(64, 0.875, HALF, HALF)
    full, reduced = read(tmp_path / "large.jpg"), read(tmp_path / "large.jpg", sharp.shortest_side)
    assert reduced.width < full.width
    assert np.abs(sharp(full) - sharp(reduced)).mean() < 0.02


def test_golden_pixels() -> None:
    """The values that training, export and serving all see; a change here breaks saved encoders."""
    pixels = EVAL(gradient())
    assert pixels.dtype == np.float32
    assert pixels[:, 0, 0] == pytest.approx([-0.7961, 0.7647, -0.7961], abs=0.01)
    assert pixels[:, 7, 7] == pytest.approx([0.7882, -0.7725, 0.7882], abs=0.02)


def test_natural_order() -> None:
    assert sorted(["b10", "b2", "a", "b1"], key=natural_key) == ["a", "b1", "b2", "b10"]
    assert natural_key("b01") != natural_key("b1")


def test_folders_are_walked_in_natural_order_and_circles_end(tmp_path: Path) -> None:
    for name in ("x10.jpg", "x2.jpg", "sub/x1.png", ".hidden.jpg", "note.txt"):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        gradient().save(file, format="PNG")
    (tmp_path / "sub" / "back").symlink_to(tmp_path)
    assert [str(path.relative_to(tmp_path)) for path in find([tmp_path])] == [
        "sub/x1.png",
        "x2.jpg",
        "x10.jpg",
    ]
    with pytest.raises(InputError, match="missing"):
        find([tmp_path / "gone"])
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="no pictures"):
        find([tmp_path / "none"])


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.jpg"
    os.mkfifo(pipe)
    for function in (read, probe):
        with pytest.raises(ImageError, match="not a file"):
            function(pipe)
