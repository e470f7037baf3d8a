"""Image files whose headers lie: sizes of billions, counts without end, boxes that hold themselves.

Each is small, and claims much. `make fuzz` reads them all, `tests/test_formats.py` some.
"""

import functools
import io
import struct
import zlib
from collections.abc import Callable, Iterator
from random import Random

import numpy as np
import scans
import zoo
from PIL import Image

MANY, MOST = 2**31 - 1, 2**32 - 1
_DEEP = 20_000
"""Boxes in boxes."""
Cases = Iterator[tuple[str, bytes]]


def patched(content: bytes, after: bytes, skip: int, form: str, *values: int) -> bytes:
    """A file that says something else, so many bytes behind a mark."""
    at = content.index(after) + len(after) + skip
    return content[:at] + struct.pack(form, *values) + content[at + struct.calcsize(form) :]


@functools.lru_cache(maxsize=1)
def _bomb() -> bytes:
    """What unpacks to 256 MB."""
    return zlib.compress(bytes(2**28), 1)


def _picture() -> Image.Image:
    return Image.fromarray(zoo.eight(zoo.COLOUR))


def sound() -> dict[str, bytes]:
    """A sound file of each format, by its suffix; those that can be written here."""
    picture, saved = _picture(), zoo.saved
    found = {
        "jpg": saved(picture, "JPEG"), "png": saved(picture, "PNG"), "gif": saved(picture, "GIF"),
        "bmp": saved(picture, "BMP"), "tif": saved(picture, "TIFF"),
        "webp": saved(picture, "WEBP"), "avif": saved(picture, "AVIF"),
        "jp2": saved(picture, "JPEG2000"), "j2k": saved(picture, "JPEG2000", no_jp2=True),
        "ppm": saved(picture, "PPM"), "dng": zoo.dng(),
        "big.tif": scans.scan(np.asarray(picture), 2, big=True),
        "deep.tif": scans.scan(np.asarray(picture).astype(np.uint16), 2, packed="lzw"),
    }  # fmt: skip
    for animal in [*zoo.common(), *zoo.extra()]:
        if animal.name in ("colour.heic", "colour.jxl", "colour-1.0.pfm", "lossy.jxl"):
            stem, _, suffix = animal.name.rpartition(".")
            found["lossy.jxl" if stem == "lossy" else suffix] = animal.content
    return found


# -- whatever the format ---------------------------------------------------------------------------


def cuts(content: bytes) -> Cases:
    """The file cut short, everywhere in its first bytes and at some places behind."""
    places = {*range(0, 40), *np.geomspace(40, len(content) - 1, 24).astype(int).tolist()}
    for at in sorted(place for place in places if place < len(content)):
        yield f"cut at {at}", content[:at]


def extremes(content: bytes) -> Cases:
    """Numbers of two or four bytes in the header, each in turn as large as can be."""
    for at in range(2, min(len(content) - 4, 240), 2):
        for name, value in (("2^32-1", b"\xff" * 4), ("2^31-1", b"\x7f\xff\xff\xff"),
                            ("2^31-1 turned", b"\xff\xff\xff\x7f"), ("0", b"\0" * 4)):  # fmt: skip
            yield f"{name} at {at}", content[:at] + value + content[at + 4 :]


def damage_header(rng: Random, content: bytes) -> tuple[str, bytes]:
    """One of these at random: a mutation for `fuzz`."""
    return rng.choice([*cuts(content), *extremes(content), *extremes(content)])


# -- colour profiles -------------------------------------------------------------------------------


def profiles() -> Cases:
    """ICC profiles that lie."""
    whole = zoo.profile(b"RGB ", 2.2, zoo.ADOBE)
    yield "2^32-1 tags", patched(whole, b"", 128, ">I", MOST)
    yield "a size of 2^32-1", patched(whole, b"", 0, ">I", MOST)
    yield "tags behind the end", patched(whole, b"rXYZ", 0, ">II", MANY, MANY)
    yield "a tag that is the table", patched(whole, b"rTRC", 0, ">II", 128, 132)
    yield (
        "a curve of 2^32-1 numbers",
        whole.replace(b"curv\0\0\0\0\0\0\0\1", b"curv\0\0\0\0" + b"\xff" * 4),
    )
    yield "cut", whole[:140]
    yield "zeros", bytes(500)
    yield "2 MB of nothing", whole + bytes(2**21)
    lut = b"mft2\0\0\0\0\x03\x03\xff\0" + struct.pack(">9i", *[65536] * 9)
    table = b"A2B0" + struct.pack(">II", 144, 60_000)
    head = bytearray(whole[:128])
    head[0:4] = struct.pack(">I", 70_000)
    yield (
        "a table of 255^3",
        (bytes(head) + struct.pack(">I", 1) + table + lut + struct.pack(">HH", 4096, 4096)).ljust(
            70_000, b"\1"
        ),
    )
    yield "inks that are colours", whole.replace(b"RGB ", b"CMYK", 1)
    yield "15 inks", whole.replace(b"RGB ", b"FCLR", 1)


def profiled() -> Cases:
    """Each profile in each format that holds one."""
    picture = _picture()
    for name, icc in profiles():
        for kind in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF"):
            if kind != "JPEG" or len(icc) < 2**20:
                yield f"{kind} with a profile: {name}", zoo.saved(picture, kind, icc_profile=icc)
        samples = np.asarray(picture).astype(np.uint16)
        yield f"deep TIFF with a profile: {name}", scans.scan(samples, 2, icc=icc)


# -- each format -----------------------------------------------------------------------------------


def jpegs() -> Cases:
    whole = sound()["jpg"]
    start = whole[:2]
    yield "65535 x 65535", patched(whole, b"\xff\xc0", 3, ">HH", 65535, 65535)
    yield "no pixels", patched(whole, b"\xff\xc0", 3, ">HH", 0, 0)
    yield "255 components", patched(whole, b"\xff\xc0", 7, ">B", 255)
    yield "sampling 15 x 15", patched(whole, b"\xff\xc0", 9, ">B", 255)
    yield "12 bits", patched(whole, b"\xff\xc0", 2, ">B", 12)
    yield "lossless", whole.replace(b"\xff\xc0", b"\xff\xc3", 1)
    yield "2 MB of fill bytes", start + b"\xff" * 2**21 + whole[2:]
    yield "200,000 comments", start + b"\xff\xfe\0\2" * 200_000 + whole[2:]
    yield "100,000 frames", start + whole[whole.index(b"\xff\xc0") :][:19] * 100_000 + whole[2:]
    profile = b"\xff\xe2\0\x11ICC_PROFILE\0\1\xff"
    yield "255 parts of a profile, one there", start + profile + whole[2:]
    exif = b"Exif\0\0II*\0\x08\0\0\0"
    loop = (
        exif + struct.pack("<H", 1) + struct.pack("<HHII", 0x8769, 4, 1, 8) + struct.pack("<I", 8)
    )
    many = exif + struct.pack("<H", 65535) + struct.pack("<HHII", 0x0112, 3, MOST, MOST) * 5000
    for name, block in (("EXIF that holds itself", loop), ("EXIF of 65535 tags", many)):
        segment = b"\xff\xe1" + struct.pack(">H", len(block[:65000]) + 2) + block[:65000]
        yield name, start + segment + whole[2:]
    mpf = b"MPF\0II*\0\x08\0\0\0" + struct.pack("<H", 3)
    mpf += struct.pack("<HHI4s", 0xB000, 7, 4, b"0100")
    mpf += struct.pack("<HHII", 0xB001, 4, 1, MOST) + struct.pack("<HHII", 0xB002, 7, MOST, 50)
    segment = b"\xff\xe2" + struct.pack(">H", len(mpf) + 6) + mpf + b"\0\0\0\0"
    yield "2^32-1 frames (MPO)", start + segment + whole[2:]


def pngs() -> Cases:
    pixels = zoo.eight(zoo.COLOUR)
    bomb = _bomb()

    def chunked(*chunks: tuple[bytes, bytes]) -> bytes:
        return zoo.png(pixels, 8, 2, *chunks)

    whole = chunked()
    for name, sides in {
        "2^31-1 x 2^31-1": (MANY, MANY), "no pixels": (0, 0), "2^31-1 x 1": (MANY, 1),
        "100000 x 100000": (100_000, 100_000),
    }.items():  # fmt: skip
        head = struct.pack(">II", *sides) + whole[24:29]
        checked = struct.pack(">I", zlib.crc32(b"IHDR" + head))
        yield name, whole[:16] + head + checked + whole[33:]
    yield "a profile of 256 MB", chunked((b"iCCP", b"a\0\0" + bomb))
    yield "a text of 256 MB", chunked(*[(b"zTXt", b"a\0\0" + bomb)] * 8)
    yield "an iTXt of 256 MB", chunked((b"iTXt", b"a\0\1\0\0\0" + bomb))
    yield "2^31-1 frames", chunked((b"acTL", struct.pack(">II", MANY, MANY)))
    frame = struct.pack(">IIIIIHHBB", 0, 56, 40, 0, 0, 1, 1, 0, 0)
    yield (
        "20,000 frames",
        chunked((b"acTL", struct.pack(">II", 20_000, 0)), *[(b"fcTL", frame)] * 20_000),
    )
    yield "50,000 chunks", chunked(*[(b"tEXt", b"a\0b")] * 50_000)
    yield "a chunk of 2^31-1", whole[:33] + struct.pack(">I", MANY) + b"tEXt" + whole[33:]
    yield "a chunk of 2^32-1", whole[:33] + struct.pack(">I", MOST) + b"tEXt" + whole[33:]
    yield "EXIF of nonsense", chunked((b"eXIf", b"II*\0" + b"\xff" * 200))
    yield "pixels of 256 MB", whole[:33] + _chunk(b"IDAT", bomb) + whole[33:]
    yield "a gamma of 0", chunked((b"gAMA", struct.pack(">I", 0)))
    yield "a gamma of 2^32-1", chunked((b"gAMA", struct.pack(">I", MOST)))
    for bits, colour in ((16, 3), (3, 2), (255, 255), (1, 6)):
        head = whole[16:24] + bytes([bits, colour]) + whole[26:29]
        checked = struct.pack(">I", zlib.crc32(b"IHDR" + head))
        yield f"{bits} bits of kind {colour}", whole[:16] + head + checked + whole[33:]


def _chunk(kind: bytes, content: bytes) -> bytes:
    checked = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + checked


def gifs() -> Cases:
    whole = sound()["gif"]
    at = 13 + 3 * 2 ** ((whole[10] & 7) + 1)
    head, frame = whole[:at], whole[at:-1]
    yield "65535 x 65535", whole[:6] + b"\xff" * 4 + whole[10:]
    yield "a frame of 65535 x 65535", head + b"," + b"\0" * 4 + b"\xff" * 4 + frame[9:] + b";"
    yield "a frame at 65535", head + b"," + b"\xff" * 4 + frame[5:] + b";"
    yield "a canvas of 12000 x 12000", whole[:6] + struct.pack("<HH", 12_000, 12_000) + whole[10:]
    yield "10,000 frames", head + frame[: len(frame)] * 10_000 + b";"
    yield "100,000 extensions", head + b"!\xfe\1a\0" * 100_000 + frame + b";"
    yield "an extension without end", head + b"!\xfe" + b"\xff" * 2**21
    place = frame.index(b",") + 10 + (3 * 2 ** ((frame[9] & 7) + 1) if frame[9] & 128 else 0)
    for size in (0, 12, 13, 255):
        yield (
            f"codes of {size} bits",
            head + frame[:place] + bytes([size]) + frame[place + 1 :] + b";",
        )
    yield "no pixels", whole[:6] + b"\0" * 4 + whole[10:]


def bmps() -> Cases:
    whole = sound()["bmp"]
    for name, width, height in (
        ("2^31-1 x 2^31-1", MANY, MANY), ("-1 x -1", -1, -1), ("0 x 0", 0, 0),
        ("56 x -2^31", 56, -(2**31)), ("12000 x 12000", 12_000, 12_000),
    ):  # fmt: skip
        yield name, whole[:18] + struct.pack("<ii", width, height) + whole[26:]
    for bits in (0, 1, 3, 64, 65535):
        yield f"{bits} bits", whole[:28] + struct.pack("<H", bits) + whole[30:]
    yield "2^32-1 colours", whole[:46] + struct.pack("<I", MOST) + whole[50:]
    yield "pixels at 2^32-1", whole[:10] + struct.pack("<I", MOST) + whole[14:]
    yield "a header of 2^32-1", whole[:14] + struct.pack("<I", MOST) + whole[18:]
    palette = zoo.saved(_picture().quantize(16), "BMP")
    for kind in (1, 2, 3, 4, 5, 99):
        yield f"packed in way {kind}", palette[:30] + struct.pack("<I", kind) + palette[34:]
    start = palette[:18] + struct.pack("<ii", 10_000, 10_000) + palette[26:28]
    start += struct.pack("<HI", 8, 1) + palette[34:1078]
    yield "runs that jump", start + b"\0\2\xff\xff" * 100_000
    yield "runs without end", start + b"\xff\1" * 500_000


def _tags(*entries: tuple[int, int, int, int], following: int = 0) -> bytes:
    """A directory of (tag, type, count, value), and the place of the next one."""
    rows = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return struct.pack("<H", len(entries)) + rows + struct.pack("<I", following)


def _plain(**changes: int) -> list[tuple[int, int, int, int]]:
    names = {"width": 256, "height": 257, "bits": 258, "compression": 259, "photometric": 262,
             "offset": 273, "samples": 277, "rows": 278, "count": 279, "planar": 284,
             "predictor": 317, "tile_width": 322, "tile_height": 323, "tile_offset": 324,
             "tile_count": 325, "format": 339}  # fmt: skip
    values = {"width": 56, "height": 40, "bits": 16, "compression": 1, "photometric": 1,
              "offset": 8, "samples": 1, "rows": 40, "count": 4480} | changes  # fmt: skip
    return sorted((names[name], 4, 1, value) for name, value in values.items())


def tiffs() -> Cases:
    """Tags at 8, and pixels behind them."""
    head, room = b"II*\0\x08\0\0\0", bytes(9000)

    def with_tags(*more: tuple[int, int, int, int], following: int = 0, **changes: int) -> bytes:
        entries = [entry for entry in _plain(**changes) if entry[0] not in {one[0] for one in more}]
        return head + _tags(*sorted([*entries, *more]), following=following) + room

    for bits in (8, 16):
        for name, changes in {
            "2^31-1 x 2^31-1": {"width": MANY, "height": MANY},
            "2^32-1 x 1": {"width": MOST, "height": 1}, "no pixels": {"width": 0, "height": 0},
            "no rows in a strip": {"rows": 0}, "2^32-1 rows in a strip": {"rows": MOST},
            "pixels at 2^32-1": {"offset": MOST}, "2^32-1 bytes of pixels": {"count": MOST},
            "65535 samples": {"samples": 65535}, "60 samples": {"samples": 60},
            "no samples": {"samples": 0},
            "65535 planes": {"samples": 65535, "planar": 2, "photometric": 2},
            "3 planes of one strip": {"samples": 3, "planar": 2, "photometric": 2},
            "packed in way 65535": {"compression": 65535}, "LZW of zeros": {"compression": 5},
            "deflate of zeros": {"compression": 8}, "faxes of zeros": {"compression": 4},
            "JPEG of zeros": {"compression": 7}, "old JPEG": {"compression": 6},
            "LZMA of zeros": {"compression": 34925}, "Zstandard of zeros": {"compression": 50000},
            "differences of kind 65535": {"compression": 5, "predictor": 65535},
            "tiles of 0": {"tile_width": 0, "tile_height": 0, "tile_offset": 8, "tile_count": 9},
            "tiles of 2^32-1": {
                "tile_width": MOST, "tile_height": MOST, "tile_offset": 8, "tile_count": 9},
            "tiles of 65536": {
                "tile_width": 65536, "tile_height": 65536, "tile_offset": 8, "tile_count": 9},
            "colours of kind 65535": {"photometric": 65535}, "floats": {"format": 3},
            "numbers of kind 99": {"format": 99}, "12000 x 12000": {"width": 12000,
            "height": 12000, "rows": 12000},
        }.items():  # fmt: skip
            yield f"{bits} bits, {name}", with_tags(**{"bits": bits} | changes)
    for bits in (0, 7, 24, 33, 255, 65535):
        yield f"{bits} bits", with_tags(bits=bits)
    yield "tags that follow themselves", with_tags(following=8)
    yield "2^32-1 strips", with_tags((273, 4, MOST, 8), (279, 4, MOST, 8))
    yield "2^32-1 numbers of bits", with_tags((258, 3, MOST, 8))
    yield "a profile of 2^32-1", with_tags((34675, 7, MOST, 8))
    yield "a description of 2^32-1", with_tags((270, 2, MOST, 8))
    yield "tags in tags that are themselves", with_tags((330, 4, 1, 8), (34665, 4, 1, 8))
    yield "an orientation of 2^32-1", with_tags((274, 4, 1, MOST))
    yield "65535 tags", head + b"\xff\xff" + struct.pack("<HHII", 256, 4, 1, 9) * 700 + room
    yield "no tags", head + b"\0\0\0\0\0\0" + room
    bomb = _bomb()
    place = 8 + 2 + 12 * 9 + 4
    for name, changes in {
        "a bomb in a small image": {}, "a bomb of 160 megapixels": {"width": 16000, "height": 9999,
        "rows": 9999}, "a bomb of 64-bit floats": {"width": 12000, "height": 12000, "rows": 12000,
        "bits": 64},
    }.items():  # fmt: skip
        entries = _plain(compression=8, offset=place, count=len(bomb), **changes)
        yield name, head + _tags(*entries) + bomb
    strips = 100_000
    at = 8 + 2 + 12 * 9 + 4
    entries = _plain(width=1, height=strips, rows=1)
    entries = [(tag, kind, strips, at) if tag in (273, 279) else (tag, kind, count, value)
               for tag, kind, count, value in entries]  # fmt: skip
    for compression in (1, 5, 8):
        chosen = [(259, 4, 1, compression) if entry[0] == 259 else entry for entry in entries]
        yield (
            f"100,000 strips, way {compression}",
            (head + _tags(*chosen) + struct.pack("<I", 9) * strips),
        )


def big_tiffs() -> Cases:
    whole = sound()["big.tif"]
    yield "offsets of 255 bytes", whole[:4] + struct.pack("<HH", 255, 0) + whole[8:]
    yield "tags at 2^64-1", whole[:8] + b"\xff" * 8
    yield "tags at themselves", whole[:8] + struct.pack("<Q", 8) + whole[16:]
    at = int.from_bytes(whole[8:16], "little")
    yield "2^64-1 tags", whole[:at] + b"\xff" * 8 + whole[at + 8 :]
    for place in range(at + 8, len(whole) - 20, 20):
        if int.from_bytes(whole[place : place + 2], "little") in (256, 258, 273, 278, 279, 339):
            tag = int.from_bytes(whole[place : place + 2], "little")
            yield f"2^64-1 of tag {tag}", whole[: place + 4] + b"\xff" * 8 + whole[place + 12 :]
            yield f"tag {tag} of 2^64-1", whole[: place + 12] + b"\xff" * 8 + whole[place + 20 :]
    yield "highest byte first, cut", b"MM\0+\0\x08\0\0" + bytes(8)


def webps() -> Cases:
    picture = _picture()
    whole, extended = sound()["webp"], zoo.saved(picture, "WEBP", icc_profile=b"x" * 99)
    frames = [picture.rotate(9 * turn) for turn in range(1, 30)]
    moving = zoo.saved(picture, "WEBP", save_all=True, append_images=frames)
    yield "a size of 2^32-1", whole[:4] + b"\xff" * 4 + whole[8:]
    yield "a chunk of 2^32-1", whole[:16] + b"\xff" * 4 + whole[20:]
    yield "a canvas of 2^24 x 2^24", patched(extended, b"VP8X", 8, "<6s", b"\xff" * 6)  # type: ignore[arg-type]
    yield "an animation of 2^24 x 2^24", patched(moving, b"VP8X", 8, "<6s", b"\xff" * 6)  # type: ignore[arg-type]
    yield "16383 x 16383", b"RIFF\x16\0\0\0WEBPVP8L\x0a\0\0\0\x2f\xff\xff\xff\x0f" + bytes(8)
    yield "a profile of 2^32-1", patched(extended, b"ICCP", 0, "<I", MOST)
    at = moving.index(b"ANMF")
    size = int.from_bytes(moving[at + 4 : at + 8], "little") + 8
    more = moving[at : at + size] * 5000
    grown = moving[:at] + more + moving[at:]
    yield "5,000 frames", grown[:4] + struct.pack("<I", len(grown) - 8) + grown[8:]
    yield "a frame at 2^24", patched(moving, b"ANMF", 4, "<6s", b"\xff" * 6)  # type: ignore[arg-type]


def _box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content) + 8) + kind + content


def heifs() -> Cases:
    """Of AVIF, and of HEIC where it can be written here."""
    for suffix in ("avif", "heic"):
        whole = sound().get(suffix)
        if whole is None:
            continue
        start = whole[: int.from_bytes(whole[:4], "big")]
        for name, sides in (("2^31-1", (MANY, MANY)), ("0", (0, 0)), ("65535", (65535, 65535))):
            yield f"{suffix}: sides of {name}", patched(whole, b"ispe", 4, ">II", *sides)
        yield f"{suffix}: a box of 2^32-1", patched(whole, b"meta", -8, ">I", MOST)
        yield f"{suffix}: a box of 0", patched(whole, b"meta", -8, ">I", 0)
        yield f"{suffix}: a box of 2^63", start + b"\0\0\0\1meta" + b"\x7f" + b"\xff" * 7 + whole
        yield f"{suffix}: 65535 items", patched(whole, b"iinf", 4, ">H", 65535)
        yield f"{suffix}: items behind the end", patched(whole, b"iloc", 6, ">8s", b"\xff" * 8)  # type: ignore[arg-type]
        yield f"{suffix}: a primary item that is none", patched(whole, b"pitm", 4, ">H", 999)
        for kind in (b"meta", b"ipco", b"moov", b"dinf"):
            nested = b""
            for _ in range(_DEEP):
                nested = _box(kind, (b"\0\0\0\0" if kind == b"meta" else b"") + nested[: 2**20])
                if len(nested) > 2**18:
                    break
            yield f"{suffix}: {kind.decode()} in itself", start + nested
        yield f"{suffix}: 200,000 boxes", start + b"\0\0\0\x08free" * 200_000 + whole[len(start) :]
        reference = _box(b"iref", b"\0\0\0\0" + _box(b"dimg", struct.pack(">HHH", 1, 1, 1)))
        at = whole.index(b"meta") + 8
        size = int.from_bytes(whole[at - 12 : at - 8], "big")
        grown = whole[: at - 12] + struct.pack(">I", size + len(reference)) + whole[at - 8 : at]
        grown += whole[at : at + 33] + reference + whole[at + 33 :]
        yield (
            f"{suffix}: an item made of itself",
            grown.replace(b"av01" if suffix == "avif" else b"hvc1", b"grid", 1),
        )
        yield f"{suffix}: types alone", start
        yield f"{suffix}: no types", _box(b"ftyp", b"")
        yield (
            f"{suffix}: 60,000 types",
            _box(b"ftyp", start[8:] + b"mif1" * 60_000) + whole[len(start) :],
        )


def jxls() -> Cases:
    boxes = b"\0\0\0\x0cJXL \r\n\x87\n" + _box(b"ftyp", b"jxl \0\0\0\0jxl ")
    huge = b"\xff\x0a" + ((1 << 65) - 2 & ~(7 << 33) | 1 << 33).to_bytes(16, "little")
    yield "2^30 x 2^30", huge
    yield "2^30 x 2^30 in boxes", boxes + _box(b"jxlc", huge)
    yield "a box of 0 before it", boxes + b"\0\0\0\0free" + huge
    yield "a box of 7", boxes + b"\0\0\0\x07free" + huge
    yield "a box of 2^63", boxes + b"\0\0\0\1free\x7f" + b"\xff" * 7 + huge
    yield "200,000 boxes", boxes + b"\0\0\0\x08free" * 200_000 + _box(b"jxlc", huge)
    yield (
        "100,000 parts",
        boxes + b"".join(_box(b"jxlp", struct.pack(">I", part)) for part in range(100_000)),
    )
    yield "a packed box", boxes + _box(b"brob", b"Exif" + b"\xff" * 1000)
    yield "nothing behind its sign", b"\xff\x0a"
    for whole in (sound()["jxl"],) if "jxl" in sound() else ():
        yield "twice", whole + whole
        yield "in a box with nothing", boxes + _box(b"jxlc", b"")
        yield "with EXIF of nonsense", boxes + _box(b"Exif", b"\xff" * 500) + _box(b"jxlc", whole)


def jp2s() -> Cases:
    boxed, bare = sound()["jp2"], sound()["j2k"]
    for name, sides in (("2^31-1", (MANY, MANY)), ("2^32-1", (MOST, MOST)), ("0", (0, 0)),
                        ("9000", (9000, 9000))):  # fmt: skip
        yield f"sides of {name}", patched(bare, b"\xff\x51", 4, ">II", *sides)
        both = patched(boxed, b"ihdr", 0, ">II", *sides)
        yield f"sides of {name} in boxes", patched(both, b"\xff\x51", 4, ">II", *sides)
    yield "two sizes", patched(boxed, b"ihdr", 0, ">II", 5, 5)
    yield "tiles of 1 x 1", patched(bare, b"\xff\x51", 20, ">II", 1, 1)
    many = patched(bare, b"\xff\x51", 4, ">II", 9000, 9000)
    yield "81,000,000 tiles", patched(many, b"\xff\x51", 20, ">II", 1, 1)
    yield "an origin of 2^32-1", patched(bare, b"\xff\x51", 12, ">II", MOST, MOST)
    yield "16384 components", patched(bare, b"\xff\x51", 36, ">H", 16384)
    yield "38 bits", patched(bare, b"\xff\x51", 38, ">BBBBBBBBB", *[37, 1, 1] * 3)
    yield "16 bits that are 8", patched(bare, b"\xff\x51", 38, ">BBBBBBBBB", *[15, 1, 1] * 3)
    yield "thinned by 255", patched(bare, b"\xff\x51", 38, ">BBBBBBBBB", *[7, 255, 255] * 3)
    yield "33 levels", patched(bare, b"\xff\x52", 7, ">B", 33)
    yield "65535 layers", patched(bare, b"\xff\x52", 4, ">H", 65535)
    yield "a box of 0", patched(boxed, b"jp2h", -8, ">I", 0)
    yield "a box of 2^32-1", patched(boxed, b"jp2h", -8, ">I", MOST)
    yield "boxes that are alike", boxed[:32] + b"\0\0\0\x08free" * 200_000 + boxed[32:]
    nested = b""
    for _ in range(3000):
        nested = _box(b"jp2h", nested)
    yield "3,000 boxes in boxes", boxed[:32] + nested + boxed[32:]
    yield "200,000 comments", bare[:2] + bare[2:51] + b"\xff\x64\0\2" * 200_000 + bare[51:]
    for kind in (2, 3, 4, 255):
        yield f"colours of way {kind}", patched(boxed, b"colr", 0, ">B", kind)


def netpbms() -> Cases:
    for name, text in {
        "1e18 pixels": b"P6 1000000000 1000000000 255\n", "no pixels": b"P6 0 0 255\n",
        "a white of 0": b"P5 9 9 0\n", "a white of 65536": b"P5 9 9 65536\n",
        "-1 x -1": b"P5 -1 -1 255\n", "5,000 digits": b"P5 " + b"9" * 5000 + b" 1 255\n",
        "a comment of 2 MB": b"P5 #" + b"a" * 2**21 + b"\n9 9 255\n",
        "bits of 12000 x 12000": b"P4 12000 12000\n",
        "text of 12000 x 12000": b"P2 12000 12000 9\n",
        "numbers of 5,000 digits": b"P2 3 3 255\n" + b"9" * 5000,
        "floats of 1e18": b"PF 999999999 999999999 -1\n", "no floats": b"PF 0 0 1.0\n",
        "floats of one row": b"Pf 999999999 1 -1\n", "floats of 12000 x 12000":
        b"PF 12000 12000 -1.0\n", "a scale of no number": b"PF 3 3 nan\n",
        "a scale of 5,000 digits": b"PF 3 3 " + b"1" * 5000 + b"\n", "cut floats": b"PF 99 99 1.0 ",
        "floats beyond all": b"PF 3 3 1.0\n" + b"\x7f\x7f\xff\xff" * 27,
        "floats that are no numbers": b"PF 3 3 1.0\n" + b"\x7f\xc0\0\0" * 27,
        "P7": b"P7\nWIDTH 99999\nHEIGHT 99999\nDEPTH 4\nMAXVAL 255\nENDHDR\n",
    }.items():  # fmt: skip
        yield name, text + (b"" if "floats" in name and "of" not in name else b"x" * 99)


def raws() -> Cases:
    whole = zoo.dng()
    at = int.from_bytes(whole[4:8], "little")
    count = int.from_bytes(whole[at : at + 2], "little")
    for number in range(count):
        place = at + 2 + 12 * number
        tag = int.from_bytes(whole[place : place + 2], "little")
        yield f"2^32-1 of tag {tag}", whole[: place + 4] + b"\xff" * 4 + whole[place + 8 :]
        yield f"tag {tag} of 2^32-1", whole[: place + 8] + b"\xff" * 4 + whole[place + 12 :]
        yield f"tag {tag} of 65535", whole[: place + 8] + b"\xff\xff\0\0" + whole[place + 12 :]
    yield (
        "tags that follow themselves",
        (whole[: at + 2 + 12 * count] + struct.pack("<I", at) + whole[at + 6 + 12 * count :]),
    )
    room = bytes(3000)
    for name, start in {
        "CR2": b"II*\0\x10\0\0\0CR\2\0", "CR3": b"\0\0\0\x18ftypcrx \0\0\0\1crx isom",
        "RAF": b"FUJIFILMCCD-RAW 0201FF", "ORF": b"IIRO\x08\0\0\0", "RW2": b"IIU\0\x18\0\0\0",
        "X3F": b"FOVb\1\0\4\0", "MRW": b"\0MRM\xff\xff\xff\xff", "CRW": b"II\x1a\0\0\0HEAPCCDR",
        "NEF": b"MM\0*\0\0\0\x08", "ARW": b"II*\0\x08\0\0\0",
    }.items():  # fmt: skip
        yield f"{name} of zeros", start + room
        yield f"{name} of ones", start + b"\xff" * 3000
        yield f"{name} cut", start
        noise = Random(name).randbytes(3000)
        yield f"{name} of noise", start + noise
    box = b""
    for _ in range(3000):
        box = _box(b"moov", box)
    yield "CR3, 3,000 boxes in boxes", b"\0\0\0\x18ftypcrx \0\0\0\1crx isom" + box


def others() -> Cases:
    """Kinds that are not decoded: they are named, and not opened."""
    picture = _picture()
    for kind in ("ICO", "TGA", "PCX", "SGI", "DDS", "ICNS", "IM"):
        content = zoo.saved(picture, kind)
        yield kind, content
        yield f"{kind} of noise", content[:16] + Random(kind).randbytes(400)
        yield f"{kind} of ones", content[:4] + b"\xff" * 400
    yield (
        "PSD of 30000 x 30000",
        b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 30000, 30000, 8, 3),
    )
    yield "PSB of 300000 x 300000", b"8BPS\0\2" + bytes(6) + struct.pack(">HII", 56, 300000, 300000)
    yield "ICO of 65535 images", b"\0\0\1\0\xff\xff" + bytes(500)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    png = buffer.getvalue()
    entry = struct.pack("<BBBBHHII", 0, 0, 0, 0, 1, 32, len(png), 22)
    yield "ICO of a PNG", b"\0\0\1\0\1\0" + entry + png


def of_brand(suffix: str) -> Callable[[], Cases]:
    """Of AVIF, or of HEIC."""

    def chosen() -> Cases:
        for name, content in heifs():
            if name.startswith(suffix):
                yield name.partition(": ")[2], content

    return chosen


FORMATS: dict[str, Callable[[], Cases]] = {
    "jpeg": jpegs, "png": pngs, "gif": gifs, "bmp": bmps, "tiff": tiffs, "bigtiff": big_tiffs,
    "webp": webps, "avif": of_brand("avif"), "heic": of_brand("heic"), "jxl": jxls, "jp2": jp2s,
    "ppm": netpbms, "dng": raws, "profile": profiled, "icon": others,
}  # fmt: skip
"""What makes the hostile files of each format."""
BASES = {
    "jpeg": ("jpg",), "bigtiff": ("big.tif",), "tiff": ("tif", "deep.tif"),
    "jxl": ("jxl", "lossy.jxl"), "jp2": ("jp2", "j2k"), "ppm": ("ppm", "pfm"),
    "profile": ("jpg", "png", "webp", "tif", "avif"), "icon": ("jpg", "png", "gif", "bmp"),
}  # fmt: skip
"""Suffixes of the sound files that are damaged, where they are not the format's name."""
