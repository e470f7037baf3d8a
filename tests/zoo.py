"""Image files of many kinds, each with the pixels that it shows, worked out without a decoder.

What no library writes (12-bit TIFF, 16-bit transparency, wide-gamut profiles, DNG) is written here
byte by byte, from the specifications.
"""

import io
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 40, 56
DOWN, ACROSS = np.mgrid[0:HEIGHT, 0:WIDTH] / np.array([HEIGHT - 1, WIDTH - 1])[:, None, None]
GREY = (0.15 + 0.7 * (DOWN + ACROSS) / 2).astype(np.float64)
"""(H, W), shares of white."""
COLOUR = np.stack([ACROSS, DOWN, 0.5 + 0.4 * np.sin(4 * ACROSS)], axis=2)
"""(H, W, 3), shares of white."""


@dataclass(frozen=True)
class Animal:
    """A file and what it shows.

    Attributes:
        name: with its suffix.
        content: of the file.
        shown: (H, W, 3), shares of white.
        needs: module that decodes it; empty where Pillow does.
        within: mean grey levels that it may differ by.
    """

    name: str
    content: bytes
    shown: np.ndarray
    needs: str = ""
    within: float = 2


def rgb(shown: np.ndarray) -> np.ndarray:
    return np.repeat(shown[:, :, None], 3, axis=2) if shown.ndim == 2 else shown


def on_white(shown: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    return rgb(shown) * alpha[:, :, None] + 1 - alpha[:, :, None]


def eight(shown: np.ndarray) -> np.ndarray:
    return np.rint(255 * shown).astype(np.uint8)


def saved(picture: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


# -- PNG -------------------------------------------------------------------------------------------


def png(samples: np.ndarray, bits: int, colour_type: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of whole numbers (H, W) or (H, W, channels), with chunks before its pixels."""
    height, width = samples.shape[:2]
    rows = samples.reshape(height, -1)
    if bits == 16:
        lines = [row.astype(">u2").tobytes() for row in rows]
    elif bits == 8:
        lines = [row.astype(np.uint8).tobytes() for row in rows]
    else:
        spread = (rows[:, :, None] >> np.arange(bits)[::-1]) & 1
        lines = [np.packbits(row.ravel().astype(np.uint8)).tobytes() for row in spread]
    head = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + line for line in lines))
    parts = [(b"IHDR", head), *chunks, (b"IDAT", pixels), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content
        + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in parts
    )  # fmt: skip


def pngs() -> Iterator[Animal]:
    for bits in (1, 2, 4, 8, 16):
        most = 2**bits - 1
        grey = np.rint(GREY * most).astype(int)
        shown = grey / most
        yield Animal(f"grey{bits}.png", png(grey, bits, 0), rgb(shown))
        key = int(grey[20, 30])
        clear = (grey != key).astype(float)
        chunk = (b"tRNS", struct.pack(">H", key))
        yield Animal(f"grey{bits}-key.png", png(grey, bits, 0, chunk), on_white(shown, clear))
    for bits in (8, 16):
        most = 2**bits - 1
        pixels = np.rint(COLOUR * most).astype(int)
        alpha = np.rint(ACROSS * most).astype(int)
        yield Animal(f"colour{bits}.png", png(pixels, bits, 2), pixels / most)
        flat = pixels.copy()
        flat[10:30, 10:30] = (most // 3, most // 2, most // 5)
        clear = np.ones((HEIGHT, WIDTH))
        clear[10:30, 10:30] = 0
        chunk = (b"tRNS", struct.pack(">HHH", *flat[15, 15]))
        shown = on_white(flat / most, clear)
        yield Animal(f"colour{bits}-key.png", png(flat, bits, 2, chunk), shown)
        both = np.dstack([pixels, alpha])
        shown = on_white(pixels / most, alpha / most)
        yield Animal(f"colour{bits}-alpha.png", png(both, bits, 6), shown)
        grey = np.rint(GREY * most).astype(int)
        shown = on_white(grey / most, alpha / most)
        yield Animal(f"grey{bits}-alpha.png", png(np.dstack([grey, alpha]), bits, 4), shown)
    for gamma in (1.0, 0.7, 0.45455, 0.3):
        chunk = (b"gAMA", struct.pack(">I", round(gamma * 100_000)))
        pixels = eight(COLOUR)
        shown = (pixels / 255) ** (1 / gamma / 2.2)
        yield Animal(f"gamma{gamma}.png", png(pixels, 8, 2, chunk), shown)
        told = (b"sRGB", b"\0")
        yield Animal(f"gamma{gamma}-srgb.png", png(pixels, 8, 2, told, chunk), pixels / 255)
    dark = np.rint(GREY * 255).astype(int)  # of 65,535: nearly black, and not to be stretched
    yield Animal("dark16.png", png(dark, 16, 0), rgb(dark / 65535))


# -- TIFF ------------------------------------------------------------------------------------------

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 7: 1, 10: 8}
_CODES = {1: "B", 3: "H", 4: "I"}


def tiff(pixels: bytes, tags: dict[int, tuple[int, Sequence[int]]], big_endian: bool) -> bytes:
    """A TIFF of one strip, with tags by number: type and values (5, 10: numerator, denominator)."""
    order = ">" if big_endian else "<"
    tags = {
        **tags, 256: (4, [WIDTH]), 257: (4, [HEIGHT]), 259: (3, [1]), 273: (4, [8]),
        278: (4, [HEIGHT]), 279: (4, [len(pixels)]),
    }  # fmt: skip
    at = 8 + len(pixels) + len(pixels) % 2
    directory, more = [], b""
    behind = at + 2 + 12 * len(tags) + 4
    for tag, (kind, values) in sorted(tags.items()):
        code = {5: "I", 10: "i"}.get(kind) or _CODES.get(kind, "B")
        content = struct.pack(f"{order}{len(values)}{code}", *values)
        count = len(content) // _SIZES[kind]
        if len(content) > 4:
            place = struct.pack(f"{order}I", behind + len(more))
            more += content + b"\0" * (len(content) % 2)
        else:
            place = content.ljust(4, b"\0")
        directory.append(struct.pack(f"{order}HHI", tag, kind, count) + place)
    head = (b"MM\0*" if big_endian else b"II*\0") + struct.pack(f"{order}I", at)
    count_ = struct.pack(f"{order}H", len(directory))
    body = pixels + b"\0" * (len(pixels) % 2)
    return head + body + count_ + b"".join(directory) + b"\0\0\0\0" + more


def grey_tiff(
    numbers: np.ndarray, bits: int, sample_format: int, white_is_zero: bool, big_endian: bool
) -> bytes:
    order = ">" if big_endian else "<"
    if bits == 12:
        spread = (numbers[:, :, None] >> np.arange(12)[::-1]) & 1
        pixels = np.packbits(spread.reshape(HEIGHT, -1).astype(np.uint8), axis=1).tobytes()
    else:
        code = {1: "u", 2: "i", 3: "f"}[sample_format]
        pixels = numbers.astype(f"{order}{code}{bits // 8}").tobytes()
    tags = {
        258: (3, [bits]), 262: (3, [0 if white_is_zero else 1]), 277: (3, [1]),
        339: (3, [sample_format]),
    }  # fmt: skip
    return tiff(pixels, tags, big_endian)


def tiffs() -> Iterator[Animal]:
    kinds = [(8, 1), (12, 1), (16, 1), (32, 1), (16, 2), (32, 2), (32, 3), (64, 3)]
    for bits, sample_format in kinds:
        for white_is_zero in (False, True):
            for big_endian in (False, True):
                full = 1.0 if sample_format == 3 else 2.0 ** (bits - (sample_format == 2)) - 1
                share = 1 - GREY if white_is_zero else GREY
                numbers = share * full
                if sample_format != 3:
                    numbers = np.rint(numbers).astype(np.int64)
                content = grey_tiff(numbers, bits, sample_format, white_is_zero, big_endian)
                name = (
                    f"{['uint', 'int', 'float'][sample_format - 1]}{bits}"
                    + ("-white0" if white_is_zero else "") + ("-big" if big_endian else "")
                )  # fmt: skip
                yield Animal(f"{name}.tif", content, rgb(GREY))
    sun = GREY.copy()
    sun[3, 3], sun[3, 4], sun[5, 5] = 1.02, np.inf, np.nan
    shown = sun.clip(0, 1)
    shown[5, 5] = 0
    yield Animal("float32-sun.tif", grey_tiff(sun, 32, 3, False, False), rgb(shown))
    dark = np.rint(GREY * 255)
    yield Animal("uint16-dark.tif", grey_tiff(dark, 16, 1, False, False), rgb(dark / 65535))
    colour = Image.fromarray(eight(COLOUR))
    for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"):
        content = saved(colour, "TIFF", compression=compression)
        yield Animal(f"{compression}.tif", content, COLOUR)
    for big_endian in (False, True):
        pixels = np.rint(COLOUR * 65535).astype(">u2" if big_endian else "<u2").tobytes()
        tags = {258: (3, [16] * 3), 262: (3, [2]), 277: (3, [3])}
        yield Animal(f"colour16-{big_endian}.tif", tiff(pixels, tags, big_endian), COLOUR)
    pages = [Image.fromarray(eight(rgb(GREY)))]
    content = saved(colour, "TIFF", save_all=True, append_images=pages)
    yield Animal("pages.tiff", content, COLOUR)
    yield Animal("palette.tif", saved(_palette(), "TIFF"), _palette_shown())
    yield Animal("bit.tif", saved(_bit(), "TIFF"), rgb((GREY > 0.5).astype(float)))


def _bit() -> Image.Image:
    return Image.fromarray(GREY > 0.5)


def _palette() -> Image.Image:
    codes = np.rint(ACROSS * 15).astype(np.uint8)
    picture = Image.fromarray(codes, "P")
    picture.putpalette([value for code in range(16) for value in (code * 17, 255 - code * 17, 90)])
    return picture


def _palette_shown() -> np.ndarray:
    code = np.rint(ACROSS * 15) * 17
    return np.dstack([code, 255 - code, np.full_like(code, 90)]) / 255


# -- colour profiles -------------------------------------------------------------------------------

_D50 = np.array([0.9642, 1.0, 0.8249])
SRGB = np.array([[0.4361, 0.3851, 0.1431], [0.2225, 0.7169, 0.0606], [0.0139, 0.0971, 0.7141]])
"""XYZ of the primaries under D50, as columns."""
ADOBE = np.array([[0.6097, 0.2053, 0.1492], [0.3111, 0.6257, 0.0632], [0.0195, 0.0609, 0.7446]])
P3 = np.array([[0.5151, 0.2920, 0.1571], [0.2412, 0.6922, 0.0666], [-0.0011, 0.0419, 0.7841]])


def profile(space: bytes, gamma: float, primaries: np.ndarray | None = None) -> bytes:
    """An ICC profile (version 2) of ``RGB `` or ``GRAY`` with a plain exponent."""

    def xyz(values: np.ndarray) -> bytes:
        return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(v * 65536) for v in values))

    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    text = b"a test\0"
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", len(text)) + text + b"\0" * 78,
        b"cprt": b"text\0\0\0\0none\0", b"wtpt": xyz(_D50),
    }  # fmt: skip
    if primaries is None:
        tags[b"kTRC"] = curve
    else:
        for place, name in enumerate((b"r", b"g", b"b")):
            tags[name + b"XYZ"], tags[name + b"TRC"] = xyz(primaries[:, place]), curve
    at = 128 + 4 + 12 * len(tags)
    table, body = struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        table += struct.pack(">4sII", name, at + len(body), len(content))
        body += content + b"\0" * (-len(content) % 4)
    head = struct.pack(
        ">I4sI4s4s4s12s4s4sIIIQI3i48s", 128 + len(table) + len(body), b"\0" * 4, 0x02400000,
        b"mntr", space, b"XYZ ", b"\0" * 12, b"acsp", b"\0" * 4, 0, 0, 0, 0, 0,
        *(round(v * 65536) for v in _D50), b"\0" * 48,
    )  # fmt: skip
    return head[:128].ljust(128, b"\0") + table + body


def in_srgb(pixels: np.ndarray, gamma: float, primaries: np.ndarray) -> np.ndarray:
    """Shares of white in sRGB of pixels of a profile."""
    linear = (pixels**gamma @ primaries.T) @ np.linalg.inv(SRGB).T
    linear = linear.clip(0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def profiles() -> Iterator[Animal]:
    soft = 0.2 + 0.6 * COLOUR  # inside sRGB, so that nothing is clipped
    pixels = eight(soft)
    picture = Image.fromarray(pixels)
    for name, gamma, primaries in (("adobe", 2.2, ADOBE), ("p3", 2.2, P3)):
        icc = profile(b"RGB ", gamma, primaries)
        shown = in_srgb(pixels / 255, gamma, primaries)
        for kind, suffix, options in (
            ("PNG", "png", {}), ("TIFF", "tif", {}), ("WEBP", "webp", {"lossless": True}),
            ("JPEG", "jpg", {"quality": 100, "subsampling": 0}),
        ):  # fmt: skip
            content = saved(picture, kind, icc_profile=icc, **options)
            yield Animal(f"{name}.{suffix}", content, shown)
        alpha = eight(ACROSS)
        both = Image.fromarray(np.dstack([pixels, alpha]))
        content = saved(both, "PNG", icc_profile=icc)
        yield Animal(f"{name}-alpha.png", content, on_white(shown, alpha / 255))
    icc = profile(b"GRAY", 1.0)
    grey = eight(GREY)
    linear = grey / 255
    shown = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    content = saved(Image.fromarray(grey), "PNG", icc_profile=icc)
    yield Animal("linear-grey.png", content, rgb(shown))
    for name, broken in (
        ("cut", profile(b"RGB ", 2.2, ADOBE)[:150]), ("nonsense", b"x" * 500),
        ("wrong-space", profile(b"GRAY", 1.0)),
    ):  # fmt: skip
        content = saved(picture, "JPEG", icc_profile=broken, quality=100, subsampling=0)
        yield Animal(f"profile-{name}.jpg", content, pixels / 255)


# -- the others ------------------------------------------------------------------------------------


def common() -> Iterator[Animal]:
    colour, grey = Image.fromarray(eight(COLOUR)), Image.fromarray(eight(GREY))
    fine = {"quality": 98, "subsampling": 0}
    for suffix in ("jpg", "jpeg", "jpe", "jfif"):
        yield Animal(f"plain.{suffix}", saved(colour, "JPEG", **fine), COLOUR)
    yield Animal("progressive.jpg", saved(colour, "JPEG", progressive=True, **fine), COLOUR)
    yield Animal("halved.jpg", saved(colour, "JPEG", quality=95, subsampling=2), COLOUR)
    yield Animal("grey.jpg", saved(grey, "JPEG", quality=98), rgb(GREY))
    cmyk = Image.fromarray(np.dstack([255 - eight(COLOUR), np.zeros_like(eight(GREY))]), "CMYK")
    yield Animal("cmyk.jpg", saved(cmyk, "JPEG", **fine), COLOUR)
    yield Animal("cmyk.tif", saved(cmyk, "TIFF"), COLOUR)
    turns: list[Callable[[np.ndarray], np.ndarray]] = [
        lambda x: x, lambda x: x[:, ::-1], lambda x: x[::-1, ::-1], lambda x: x[::-1],
        lambda x: x.swapaxes(0, 1), lambda x: np.rot90(x, -1),
        lambda x: x[::-1, ::-1].swapaxes(0, 1), lambda x: np.rot90(x),
    ]  # fmt: skip
    for place, turn in enumerate(turns, 1):
        exif = Image.Exif()
        exif[0x0112] = place
        content = saved(colour, "JPEG", exif=exif, **fine)
        yield Animal(f"turned{place}.jpg", content, turn(COLOUR))
    yield Animal("palette.png", saved(_palette(), "PNG"), _palette_shown())
    yield Animal("palette-key.png", saved(_palette(), "PNG", transparency=7), on_white(
        _palette_shown(), (np.rint(ACROSS * 15) != 7).astype(float)))  # fmt: skip
    yield Animal("palette.gif", saved(_palette(), "GIF"), _palette_shown())
    small = bytearray(saved(_palette(), "GIF"))
    at = small.index(b"\x2c", 13 + 3 * 2 ** ((small[10] & 7) + 1))
    small[6:10] = struct.pack("<HH", WIDTH + 20, HEIGHT + 9)
    small[at + 1 : at + 5] = struct.pack("<HH", 15, 4)
    border = np.ones((HEIGHT + 9, WIDTH + 20, 3))
    border[4 : 4 + HEIGHT, 15 : 15 + WIDTH] = _palette_shown()
    yield Animal("border.gif", bytes(small), border)
    moving = saved(_palette(), "GIF", save_all=True, append_images=[Image.new("P", (56, 40))])
    yield Animal("moving.gif", moving, _palette_shown())
    yield Animal("colour.bmp", saved(colour, "BMP"), COLOUR)
    yield Animal("grey.bmp", saved(grey, "BMP"), rgb(GREY))
    yield Animal("bit.bmp", saved(_bit(), "BMP"), rgb((GREY > 0.5).astype(float)))
    yield Animal("palette.bmp", saved(_palette(), "BMP"), _palette_shown())
    yield Animal("colour.ppm", saved(colour, "PPM"), COLOUR)
    yield Animal("grey.pgm", saved(grey, "PPM"), rgb(GREY))
    for most in (15, 255, 1023, 4095, 65535):
        numbers = np.rint(GREY * most).astype(int)
        head = f"P5 {WIDTH} {HEIGHT} {most}\n".encode()
        pixels = numbers.astype(">u2" if most > 255 else np.uint8).tobytes()
        yield Animal(f"grey{most}.pgm", head + pixels, rgb(numbers / most))
        text = f"P2 {WIDTH} {HEIGHT} {most}\n" + "\n".join(
            " ".join(map(str, row)) for row in numbers
        ) + "\n"  # fmt: skip
        yield Animal(f"text{most}.pgm", text.encode(), rgb(numbers / most))
    floats = f"Pf {WIDTH} {HEIGHT} -1.0\n".encode() + GREY[::-1].astype("<f4").tobytes()
    yield Animal("grey.pfm", floats, rgb(GREY))
    yield Animal("colour.webp", saved(colour, "WEBP", lossless=True), COLOUR)
    yield Animal("lossy.webp", saved(colour, "WEBP", quality=98), COLOUR)
    both = Image.fromarray(np.dstack([eight(COLOUR), eight(ACROSS)]))
    clear = on_white(COLOUR, ACROSS)
    yield Animal("alpha.webp", saved(both, "WEBP", lossless=True, exact=True), clear)
    yield Animal("colour.avif", saved(colour, "AVIF", quality=98, subsampling="4:4:4"), COLOUR)
    yield Animal("alpha.avif", saved(both, "AVIF", quality=98, subsampling="4:4:4"), clear)
    for suffix in ("jp2", "j2k", "jpx"):
        yield Animal(f"colour.{suffix}", saved(colour, "JPEG2000"), COLOUR)
    yield Animal("grey.jp2", saved(grey, "JPEG2000"), rgb(GREY))
    icc = profile(b"RGB ", 2.2, ADOBE)
    soft = eight(0.2 + 0.6 * COLOUR)
    plain = saved(Image.fromarray(soft), "JPEG2000")
    box = plain.index(b"colr") - 4  # of 15 bytes; the one around it is longer by the difference
    whole = plain.index(b"jp2h") - 4
    grown = bytearray(plain)
    grown[box : box + 15] = struct.pack(">I4sBBB", 11 + len(icc), b"colr", 2, 0, 0) + icc
    length = int.from_bytes(plain[whole : whole + 4], "big") + len(icc) - 4
    grown[whole : whole + 4] = struct.pack(">I", length)
    yield Animal("adobe.jp2", bytes(grown), in_srgb(soft / 255, 2.2, ADOBE))
    for order, scale in ((">", "1.0"), ("<", "-1.0")):
        head = f"PF\n{WIDTH} {HEIGHT}\n{scale}\n".encode()
        floats = head + COLOUR[::-1].astype(f"{order}f4").tobytes()
        yield Animal(f"colour{scale}.pfm", floats, COLOUR)
    deep = Image.fromarray(np.rint(GREY * 65535).astype(np.uint16))
    yield Animal("grey16.jp2", saved(deep, "JPEG2000"), rgb(GREY))


def extra() -> Iterator[Animal]:
    """What packages of the extra ``formats`` decode; only where they are there."""
    colour = Image.fromarray(eight(COLOUR))
    try:
        import pillow_heif
    except ImportError:
        pass
    else:
        pillow_heif.register_heif_opener(thumbnails=False)
        for suffix in ("heic", "heif"):
            content = saved(colour, "HEIF", quality=98, chroma=444)
            yield Animal(f"colour.{suffix}", content, COLOUR, "pillow_heif")
        clear = Image.fromarray(np.dstack([eight(COLOUR), eight(ACROSS)]))
        content = saved(clear, "HEIF", quality=98, chroma=444)
        yield Animal("clear.heic", content, on_white(COLOUR, ACROSS), "pillow_heif")
        grey = Image.fromarray(eight(GREY))
        yield Animal("grey.heic", saved(grey, "HEIF", quality=98), rgb(GREY), "pillow_heif")
        deep, buffer = np.rint(COLOUR * 65535).astype(np.uint16), io.BytesIO()
        pillow_heif.encode(
            "RGB;16", (WIDTH, HEIGHT), deep.tobytes(), buffer, quality=98, chroma=444
        )
        yield Animal("deep.heic", buffer.getvalue(), COLOUR, "pillow_heif")
        exif = Image.Exif()
        exif[0x0112] = 6
        content = saved(colour, "HEIF", quality=98, chroma=444, exif=exif)
        # HEIF has a turn of its own (irot), and that of EXIF says nothing.
        yield Animal("turned-by-exif-alone.heic", content, COLOUR, "pillow_heif")
        first = pillow_heif.from_pillow(colour)
        first.add_from_pillow(colour.transpose(Image.Transpose.FLIP_TOP_BOTTOM))
        buffer = io.BytesIO()
        first.save(buffer, quality=98, chroma=444, primary_index=1)
        yield Animal("second-of-two.heic", buffer.getvalue(), COLOUR[::-1], "pillow_heif")
    try:
        import pillow_jxl  # noqa: F401
    except ImportError:
        pass
    else:
        content = saved(colour, "JXL", lossless=True)
        yield Animal("colour.jxl", content, COLOUR, "pillow_jxl")
        yield Animal("lossy.jxl", saved(colour, "JXL", quality=98), COLOUR, "pillow_jxl")
    shown = np.full((HEIGHT, WIDTH, 3), np.nan)
    yield Animal("without-colours.dng", dng_without_colours(), shown, "rawpy")
    yield Animal("mosaic.dng", dng(), np.full((HEIGHT, WIDTH, 3), np.nan), "rawpy")


def dng() -> bytes:
    """A DNG without a preview: a 16-bit mosaic of red, green and blue."""
    mosaic = np.empty((HEIGHT, WIDTH))
    for down, across, channel in ((0, 0, 0), (0, 1, 1), (1, 0, 1), (1, 1, 2)):
        mosaic[down::2, across::2] = COLOUR[down::2, across::2, channel] ** 2.2
    pixels = np.rint(mosaic * 65535).astype("<u2").tobytes()
    one = [1, 1]
    matrix = [round(10000 * v) for v in np.linalg.inv(SRGB).ravel()]
    tags: dict[int, tuple[int, Sequence[int]]] = {
        254: (4, [0]), 258: (3, [16]), 262: (3, [32803]), 277: (3, [1]), 274: (3, [1]),
        33421: (3, [2, 2]), 33422: (1, [0, 1, 1, 2]), 50706: (1, [1, 4, 0, 0]),
        50708: (2, list(b"hier test\0")), 50717: (4, [65535]), 50778: (3, [21]),
        50721: (10, [v for value in matrix for v in (value, 10000)]),
        50728: (5, one * 3),
    }  # fmt: skip
    return tiff(pixels, tags, False)


def dng_without_colours() -> bytes:
    """A DNG of a camera that sees greys alone."""
    pixels = np.rint(GREY**2.2 * 65535).astype("<u2").tobytes()
    tags: dict[int, tuple[int, Sequence[int]]] = {
        254: (4, [0]), 258: (3, [16]), 262: (3, [34892]), 277: (3, [1]), 274: (3, [1]),
        50706: (1, [1, 4, 0, 0]), 50708: (2, list(b"hier test\0")), 50717: (4, [65535]),
    }  # fmt: skip
    return tiff(pixels, tags, False)
