"""Image files by other programs than those that hier uses: each with the pixels that it shows.

The files lie in ``foreign_images``, a few kilobytes each. This script wrote them, and writes them
anew where its tools are installed (ImageMagick; ``pip install imagecodecs pyvips pyvips-binary``):

    python tests/foreign.py
"""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zoo
from zoo import ACROSS, COLOUR, GREY, Animal, eight, on_white, rgb

FOLDER = Path(__file__).parent / "foreign_images"
CLEAR = on_white(COLOUR, ACROSS)
_LINEAR = np.where(COLOUR <= 0.0031308, 12.92 * COLOUR, 1.055 * COLOUR ** (1 / 2.4) - 0.055)
"""What linear numbers show."""


@dataclass(frozen=True)
class Foreign:
    """A file by another program.

    Attributes:
        name: of the file.
        shown: as in `Animal`; ``None`` where its writer changes colours: not compared.
        magick: what ImageMagick is told, behind the name of its source.
        source: its source: ``colour``, ``clear``, ``grey`` or ``deep``.
        codec: function of imagecodecs, and what it is given; instead of ``magick``.
        vips: options of libvips; instead of both.
        needs, within: as in `Animal`.
    """

    name: str
    shown: np.ndarray | None
    magick: str = ""
    source: str = "colour"
    codec: str = ""
    options: tuple[tuple[str, Any], ...] = ()
    vips: bool = False
    needs: str = ""
    within: float = 2

    @property
    def path(self) -> Path:
        return FOLDER / self.name


def _codec(name: str, shown: np.ndarray | None, codec: str, source: str, **options: Any) -> Foreign:
    needs = "pillow_jxl" if name.endswith(".jxl") else ""
    return Foreign(name, shown, "", source, codec, tuple(options.items()), needs=needs)


def _magick(
    name: str, shown: np.ndarray | None, arguments: str = "", source: str = "colour",
    within: float = 2,
) -> Foreign:  # fmt: skip
    needs = "pillow_heif" if name.endswith(".heic") else ""
    return Foreign(name, shown, arguments or "-strip", source, needs=needs, within=within)


FILES = (
    _codec("deep.jp2", COLOUR, "jpeg2k", "deep", codecformat="jp2", reversible=True),
    _codec("deep-lossy.j2k", COLOUR, "jpeg2k", "deep", codecformat="j2k", reversible=False,
           level=60),
    _codec("deep-clear.jp2", CLEAR, "jpeg2k", "deep clear", codecformat="jp2", reversible=True),
    _codec("12-bits.jp2", COLOUR, "jpeg2k", "12", codecformat="jp2", bitspersample=12),
    _codec("high-throughput.j2k", COLOUR, "htj2k", "deep"),
    _codec("grey-clear.jp2", on_white(GREY, ACROSS), "jpeg2k", "grey clear", codecformat="jp2"),
    _codec("linear.jxl", _LINEAR, "jpegxl", "deep", lossless=True),
    _codec("grey-linear.jxl", None, "jpegxl", "deep grey", lossless=True),
    _codec("float-linear.jxl", _LINEAR, "jpegxl", "float"),
    _codec("clear.jxl", CLEAR, "jpegxl", "clear", lossless=True),
    _codec("boxes.jxl", COLOUR, "jpegxl", "colour", lossless=True, usecontainer=True),
    _codec("frames.jxl", COLOUR[::-1], "jpegxl", "frames", lossless=True),
    _codec("8-bits.avif", COLOUR, "avif", "colour", level=98),
    _codec("10-bits.avif", COLOUR, "avif", "10", level=98, bitspersample=10),
    _codec("12-bits.avif", COLOUR, "avif", "12", level=98, bitspersample=12),
    _codec("10-bits-clear.avif", CLEAR, "avif", "10 clear", level=98, bitspersample=10),
    _codec("grey.avif", rgb(GREY), "avif", "grey", level=98),
    _codec("rgb.jpg", COLOUR, "jpeg8", "colour", level=98, colorspace="rgb",
           outcolorspace="rgb"),
    _codec("frames.png", COLOUR, "apng", "frames"),
    _codec("frames16.png", COLOUR, "apng", "deep frames"),
    _magick("arithmetic.jpg", COLOUR, "-define jpeg:arithmetic-coding=true -quality 95"),
    _magick("quartered.jpg", COLOUR, "-sampling-factor 4x1 -quality 95", within=4),
    _magick("eighths.jpg", COLOUR, "-sampling-factor 4x2 -quality 95", within=4),
    _magick("upright-halved.jpg", COLOUR, "-sampling-factor 1x2 -quality 95"),
    _magick("ink.jpg", COLOUR, "-colorspace CMYK -quality 98"),
    _magick("interlaced.png", COLOUR, "-interlace PNG"),
    _magick("palette2.png", None, "-colors 4 -define png:bit-depth=2 -define png:color-type=3"),
    _magick("565.bmp", COLOUR, "-define bmp:subtype=RGB565", within=4),
    _magick("555.bmp", COLOUR, "-define bmp:subtype=RGB555", within=5),
    _magick("rle.bmp", None, "-colors 16 -compress RLE -type palette"),
    _magick("os2.bmp", COLOUR, "-define bmp:format=bmp2"),
    _magick("clear.bmp", CLEAR, "", "clear"),
    _magick("interlaced.gif", None, "-colors 200 -interlace GIF"),
    _magick("clear.gif", None, "", "clear"),
    _magick("deep.ppm", COLOUR, "-depth 16", "deep"),
    _magick("text.ppm", COLOUR, "-compress none"),
    _magick("bits.pbm", None, "-threshold 50%"),
    _magick("text.pbm", None, "-threshold 50% -compress none"),
    _magick("colours.pfm", COLOUR),
    _magick("ordinary.heic", COLOUR, "-quality 98", within=3),
    _magick("halved.webp", COLOUR, "-quality 95", within=3),
    _magick("clear-lossy.webp", CLEAR, "-quality 95", "clear", within=3),
    _magick("ycc-jpeg.tif", COLOUR, "-colorspace YCbCr -compress jpeg -quality 95", within=3),
    _magick("fax3.tif", None, "-threshold 50% -compress Fax"),
    _magick("fax4.tif", None, "-threshold 50% -compress Group4"),
    _magick("turned-bits.tif", None, "-threshold 50% -define tiff:fill-order=lsb"),
    _magick("grey4.tif", None, "-depth 4", "grey"),
    _magick("palette4.tif", None, "-colors 16 -type palette -depth 4"),
    _magick("half-floats.tif", COLOUR, "-depth 16 -define quantum:format=floating-point"),
    Foreign("pyramid.tif", COLOUR, vips=True, options=(
        ("tile", True), ("tile_width", 16), ("tile_height", 16), ("pyramid", True))),
    Foreign("scanned.tif", COLOUR, vips=True, source="deep", options=(
        ("tile", True), ("tile_width", 16), ("tile_height", 16), ("compression", "lzw"),
        ("predictor", "horizontal"))),
    Foreign("palette.png", None, vips=True, options=(("palette", True), ("bitdepth", 4))),
)  # fmt: skip


def foreign() -> Iterator[Animal]:
    """Those of which it is known what they show."""
    for file in FILES:
        if file.shown is not None:
            content = (FOLDER / file.name).read_bytes()
            yield Animal(file.name, content, file.shown, file.needs, within=file.within)


def main() -> None:
    """Write them all."""
    import imagecodecs
    import pyvips

    program = next(filter(None, map(shutil.which, ("magick", "convert-im6.q16", "convert"))), None)
    if program is None:
        raise SystemExit("ImageMagick is missing: apt-get install imagemagick")
    deep, clear = np.rint(65535 * COLOUR).astype(np.uint16), eight(ACROSS)
    deep_clear = np.rint(65535 * ACROSS).astype(np.uint16)
    sources = {
        "colour": eight(COLOUR), "grey": eight(GREY), "deep": deep, "12": deep >> 4,
        "10": deep >> 6, "clear": np.dstack([eight(COLOUR), clear]),
        "grey clear": np.dstack([eight(GREY), clear]), "float": COLOUR.astype(np.float32),
        "deep clear": np.dstack([deep, deep_clear]),
        "10 clear": np.dstack([deep, deep_clear]) >> 6,
        "deep grey": np.rint(65535 * GREY).astype(np.uint16),
        "frames": np.stack([eight(COLOUR), eight(COLOUR)[::-1]]),
        "deep frames": np.stack([deep, deep[::-1]]),
    }  # fmt: skip
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for name in ("colour", "clear", "grey", "deep"):
            numbers = sources[name].astype(int)
            kind = {"grey": 0, "clear": 6}.get(name, 2)
            content = zoo.png(numbers, 16 if name == "deep" else 8, kind)
            (Path(folder) / f"{name}.png").write_bytes(content)
        for file in FILES:
            target = FOLDER / file.name
            if file.vips:
                picture = pyvips.Image.new_from_array(sources[file.source])
                space = "rgb16" if file.source == "deep" else "srgb"
                picture.copy(interpretation=space).write_to_file(target, **dict(file.options))
            elif file.codec:
                encode = getattr(imagecodecs, f"{file.codec}_encode")
                content = encode(sources[file.source], **dict(file.options))
                target.write_bytes(bytes(content))
            else:
                source = Path(folder) / f"{file.source}.png"
                words = [program, source, *file.magick.split(), target]
                subprocess.run(words, check=True)


if __name__ == "__main__":
    main()
