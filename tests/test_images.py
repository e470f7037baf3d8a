"""One preprocessing path, and pictures of every kind that people have."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

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


def block(*entries: tuple[int, int, int, bytes]) -> bytes:
    """An EXIF block of (tag, type, count, value) entries, little-endian, each value in place."""
    rows = b"".join(
        tag.to_bytes(2, "little") + kind.to_bytes(2, "little") + count.to_bytes(4, "little") + value
        for tag, kind, count, value in entries
    )
    return b"Exif\0\0II*\0\x08\0\0\0" + len(entries).to_bytes(2, "little") + rows + bytes(4)


TURN = (0x0112, 3, 1, b"\6\0\0\0")
MALFORMED = {
    "no header": b"Exif\0\0this is a letter",
    "empty": b"Exif\0\0",
    "cut behind the header": b"Exif\0\0II*\0",
    "points outside": b"Exif\0\0II*\0\xff\xff\xff\x7f",
    "turned, and counts too many": block(TURN)[:-4].replace(b"\x01\0\x12", b"\xff\xff\x12", 1),
    "orientation as text": block((0x0112, 2, 4, b"abc\0")),
    "orientation not a number": block((0x0112, 11, 1, b"\0\0\xc0\x7f")),
    "orientation of 99": block((0x0112, 3, 1, b"\x63\0\0\0")),
    "turned, and a block that lies outside": block(TURN, (0x8769, 4, 1, b"\xff\xff\xff\x7f")),
    "turned, and a resolution as text": block(TURN, (0x011A, 2, 1, b"x\0\0\0")),
    "turned, and a resolution not a number": block(TURN, (0x011A, 11, 1, b"\0\0\xc0\x7f")),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_exif_costs_no_picture(tmp_path: Path, case: str) -> None:
    gradient().save(tmp_path / "odd.jpg", exif=MALFORMED[case])
    gradient().save(tmp_path / "odd.png", exif=MALFORMED[case])
    for name in ("odd.jpg", "odd.png"):
        probe(tmp_path / name)
        assert read(tmp_path / name).size == ((40, 60) if "turned" in case else (60, 40))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_every_orientation_is_applied(tmp_path: Path, orientation: int, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    quality = {"lossless": True} if suffix == "webp" else {"quality": 95}
    gradient().save(tmp_path / f"turned.{suffix}", exif=exif, **quality)
    with Image.open(tmp_path / f"turned.{suffix}") as picture:
        expected = np.asarray(ImageOps.exif_transpose(picture))
    assert np.array_equal(np.asarray(read(tmp_path / f"turned.{suffix}")), expected)


def test_damage_is_one_clear_message(tmp_path: Path) -> None:
    whole = tmp_path / "whole.jpg"
    gradient().save(whole)
    (tmp_path / "cut.jpg").write_bytes(whole.read_bytes()[:400])
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("this is a letter")
    for name, words in (
        ("cut", "damaged"),
        ("empty", "an empty file"),
        ("text", "found text or a table"),
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
        "note.txt",  # an image by its first bytes
        "sub/x1.png",
        "x2.jpg",
        "x10.jpg",
    ]
    (tmp_path / "unplugged").symlink_to(tmp_path / "disk")
    assert tmp_path / "unplugged" in find([tmp_path])  # named where it is read
    with pytest.raises(InputError, match="missing"):
        find([tmp_path / "gone"])
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="expected images in"):
        find([tmp_path / "none"])


def test_a_folder_that_cannot_be_read_is_named(
    tmp_path: Path, closed: Callable[[Path], None]
) -> None:
    for name in ("open", "shut"):
        (tmp_path / name).mkdir()
        gradient().save(tmp_path / name / "a.png")
    closed(tmp_path / "shut")
    skipped: list[tuple[Path, str]] = []
    found = find([tmp_path], lambda path, reason: skipped.append((path, reason)))
    assert found == [tmp_path / "open" / "a.png"]
    reason = f"{tmp_path / 'shut'}: the folder cannot be read (Permission denied)"
    assert skipped == [(tmp_path / "shut", reason)]
    with pytest.raises(InputError, match="shut: the folder cannot be read"):
        find([tmp_path])
    with pytest.raises(InputError, match=r"expected images in.*shut: the folder cannot be read"):
        find([tmp_path / "shut"], lambda path, reason: None)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.jpg"
    os.mkfifo(pipe)
    for function in (read, probe):
        with pytest.raises(ImageError, match="found a device"):
            function(pipe)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EACCES, "permission denied"),
        (errno.ENOENT, "no such file"),
        (errno.EIO, "cannot be read"),
    ],
)
def test_a_file_that_cannot_be_opened_costs_itself_alone(
    number: int, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """File modes would not keep out a superuser, so the system's answer is put in its mouth."""
    gradient().save(tmp_path / "a.png")

    def refused(path: object, *_: object) -> int:
        raise OSError(number, os.strerror(number), path)

    monkeypatch.setattr(os, "open", refused)
    with pytest.raises(ImageError, match=words):
        read(tmp_path / "a.png")
