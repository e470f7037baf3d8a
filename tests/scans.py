"""TIFF files as scanners, microscopes and photo programs write them: deep, in tiles, in planes.

Written byte by byte from the specification: no library that is needed anyway writes them.
"""

import itertools
import struct
import zlib
from collections.abc import Iterator

import numpy as np
import zoo
from zoo import ACROSS, COLOUR, GREY, Animal, on_white, rgb

_CODES = {"none": 1, "lzw": 5, "deflate": 8, "packbits": 32773}
_TILE = 16


def lzw(content: bytes) -> bytes:
    """Packed with codes of 9 bits alone: the table is cleared before it needs more."""
    codes = [256]
    for place, value in enumerate(content):
        if place % 200 == 199:
            codes.append(256)
        codes.append(value)
    bits = ((np.array([*codes, 257])[:, None] >> np.arange(9)[::-1]) & 1).astype(np.uint8)
    return np.packbits(bits).tobytes()


def packbits(content: bytes) -> bytes:
    parts = [content[at : at + 128] for at in range(0, len(content), 128)]
    return b"".join(bytes([len(part) - 1]) + part for part in parts)


_PACK = {"none": bytes, "lzw": lzw, "deflate": zlib.compress, "packbits": packbits}


def _part(samples: np.ndarray, bits: int, predictor: int, order: str) -> bytes:
    """Bytes of a strip or tile (H, W, samples)."""
    height = len(samples)
    if predictor == 2:
        whole = samples.view(f"u{samples.itemsize}")
        before = np.concatenate([np.zeros_like(whole[:, :1]), whole[:, :-1]], axis=1)
        samples = whole - before
    if predictor == 3:
        size = samples.itemsize
        rows = samples.astype(f">f{size}").reshape(height, -1).view(np.uint8)
        spread = rows.reshape(height, -1, size).transpose(0, 2, 1).reshape(height, -1)
        wide = spread.reshape(height, -1, samples.shape[2])
        before = np.concatenate([np.zeros_like(wide[:, :1]), wide[:, :-1]], axis=1)
        return (wide - before).tobytes()
    if bits % 8:
        numbers = samples.reshape(height, -1)
        spread = (numbers[:, :, None] >> np.arange(bits)[::-1]) & 1
        return np.packbits(spread.reshape(height, -1).astype(np.uint8), axis=1).tobytes()
    return samples.astype(samples.dtype.newbyteorder(order)).tobytes()


def scan(
    samples: np.ndarray, photometric: int, *, bits: int = 0, packed: str = "none",
    tiled: bool = False, planar: bool = False, predictor: int = 1, rows: int = 7,
    big_endian: bool = False, big: bool = False, extra: int | None = None,
    icc: bytes = b"", orientation: int = 1, pages: int = 1, white: tuple[int, int] = (0, 0),
) -> bytes:  # fmt: skip
    """A TIFF, or BigTIFF where ``big``, of samples (H, W, S) of their own type."""
    order = ">" if big_endian else "<"
    height, width, count = samples.shape
    bits = bits or 8 * samples.itemsize
    planes = [samples[:, :, [one]] for one in range(count)] if planar else [samples]
    parts = []
    for plane in planes:
        if tiled:
            room = [(0, -height % _TILE), (0, -width % _TILE), (0, 0)]
            padded = np.pad(plane, room, mode="edge")
            cells = itertools.product(
                range(0, len(padded), _TILE), range(0, padded.shape[1], _TILE)
            )
            blocks = [padded[top : top + _TILE, left : left + _TILE] for top, left in cells]
        else:
            blocks = [plane[top : top + rows] for top in range(0, height, rows)]
        parts += [_PACK[packed](_part(block, bits, predictor, order)) for block in blocks]
    at = 16 if big else 8
    places = []
    for part in parts:
        places.append(at)
        at += len(part)
    kind = {"u": 1, "i": 2, "f": 3}[samples.dtype.kind]
    tags: dict[int, tuple[str, list[int] | bytes]] = {
        256: ("I", [width]), 257: ("I", [height]), 258: ("H", [bits] * count),
        259: ("H", [_CODES[packed]]), 262: ("H", [photometric]), 274: ("H", [orientation]),
        277: ("H", [count]), 284: ("H", [1 + planar]), 317: ("H", [predictor]),
        339: ("H", [kind] * count),
    }  # fmt: skip
    lengths = [len(part) for part in parts]
    if tiled:
        tags |= {322: ("I", [_TILE]), 323: ("I", [_TILE]), 324: ("I", places), 325: ("I", lengths)}
    else:
        tags |= {273: ("I", places), 278: ("I", [rows]), 279: ("I", lengths)}
    if extra is not None:
        tags[338] = ("H", [extra])
    if icc:
        tags[34675] = ("B", icc)
    if white[0]:
        tags[318] = ("R", [white[0], 10_000, white[1], 10_000])
    body = b"".join(parts) + b"\0" * (at % 2)
    at += at % 2
    head = (b"MM" if big_endian else b"II") + struct.pack(order + "H", 43 if big else 42)
    head += struct.pack(order + ("HHQ" if big else "I"), *((8, 0, at) if big else (at,)))
    for page in range(pages):
        directory = _directory(tags, at, order, big, page + 1 < pages)
        body += directory
        at += len(directory)
    return head + body


def _directory(
    tags: dict[int, tuple[str, list[int] | bytes]], at: int, order: str, big: bool, more: bool
) -> bytes:
    room, entry = (8, 20) if big else (4, 12)
    behind = at + (8 if big else 2) + entry * len(tags) + room
    rows, data = b"", b""
    for tag, (code, values) in sorted(tags.items()):
        content = struct.pack(f"{order}{len(values)}{code.replace('R', 'I')}", *values)
        number, size = {"B": (7, 1), "H": (3, 2), "I": (4, 4), "R": (5, 8)}[code]
        rows += struct.pack(order + ("HHQ" if big else "HHI"), tag, number, len(content) // size)
        if len(content) > room:
            rows += struct.pack(order + ("Q" if big else "I"), behind + len(data))
            data += content + b"\0" * (len(content) % 2)
        else:
            rows += content.ljust(room, b"\0")
    following = behind + len(data) if more else 0
    head = struct.pack(order + ("Q" if big else "H"), len(tags))
    return head + rows + struct.pack(order + ("Q" if big else "I"), following) + data


def _deep(shown: np.ndarray, kind: str) -> np.ndarray:
    """Shares of white as numbers of a type, (H, W, S)."""
    numbers = shown if shown.ndim == 3 else shown[:, :, None]
    dtype = np.dtype(kind)
    if dtype.kind == "f":
        return numbers.astype(dtype)
    return np.rint(numbers * float(np.iinfo(dtype).max)).astype(dtype)


def _lab(shown: np.ndarray, is_d65: bool) -> np.ndarray:
    """8-bit L*a*b*, relative to D65 or D50, of shares of white in sRGB."""
    linear = np.where(shown <= 0.04045, shown / 12.92, ((shown + 0.055) / 1.055) ** 2.4)
    d65 = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    matrix = d65 if is_d65 else zoo.SRGB
    ratio = linear @ matrix.T / matrix.sum(axis=1)
    root = np.where(ratio > 216 / 24389, np.cbrt(ratio), (24389 / 27 * ratio + 16) / 116)
    lightness = (116 * root[:, :, 1] - 16) * 255 / 100
    a, b = 500 * (root[:, :, 0] - root[:, :, 1]), 200 * (root[:, :, 1] - root[:, :, 2])
    numbers = np.rint(np.dstack([lightness, a, b])).astype(int)
    return (numbers % 256).astype(np.uint8)


def scans() -> Iterator[Animal]:
    grey, colour = _deep(GREY, "u2"), _deep(COLOUR, "u2")
    for packed in ("none", "lzw", "deflate", "packbits"):
        yield Animal(f"scan-grey16-{packed}.tif", scan(grey, 1, packed=packed), rgb(GREY))
        yield Animal(f"scan-colour16-{packed}.tif", scan(colour, 2, packed=packed), COLOUR)
    for big_endian in (False, True):
        end = "-big" if big_endian else ""
        for planar, tiled in ((True, False), (False, True), (True, True)):
            name = f"colour16{'-planes' * planar}{'-tiles' * tiled}{end}"
            for packed in ("none", "lzw"):
                content = scan(colour, 2, packed=packed, planar=planar, tiled=tiled,
                               big_endian=big_endian)  # fmt: skip
                yield Animal(f"scan-{name}-{packed}.tif", content, COLOUR)
        for kind in ("u2", "u4"):
            content = scan(_deep(COLOUR, kind), 2, packed="lzw", predictor=2, tiled=True,
                           big_endian=big_endian)  # fmt: skip
            yield Animal(f"scan-colour-{kind}-differences{end}.tif", content, COLOUR)
        for kind in ("f2", "f4", "f8"):
            numbers = _deep(COLOUR, kind)
            content = scan(numbers, 2, big_endian=big_endian)
            yield Animal(f"float-colour-{kind}{end}.tif", content, COLOUR)
            content = scan(numbers, 2, packed="deflate", predictor=3, big_endian=big_endian)
            yield Animal(f"float-colour-{kind}-differences{end}.tif", content, COLOUR)
            content = scan(_deep(GREY, kind), 1, packed="lzw", big_endian=big_endian)
            yield Animal(f"float-grey-{kind}-lzw{end}.tif", content, rgb(GREY))
        yield Animal(
            f"scan-colour-u4{end}.tif", scan(_deep(COLOUR, "u4"), 2, big_endian=big_endian), COLOUR
        )
        content = scan(colour, 2, big=True, big_endian=big_endian, packed="lzw")
        yield Animal(f"bigtiff-colour16{end}.tif", content, COLOUR)
        plain = zoo.eight(COLOUR)
        for packed in ("none", "lzw"):
            content = scan(plain, 2, big=True, big_endian=big_endian, packed=packed, tiled=True)
            yield Animal(f"bigtiff-colour8{end}-{packed}.tif", content, COLOUR)
    tiles = scan(_deep(COLOUR, "f4"), 2, packed="deflate", predictor=3, tiled=True)
    yield Animal("float-colour-tiles-differences.tif", tiles, COLOUR)
    for bits in (10, 12, 14):
        numbers = np.rint(COLOUR * (2**bits - 1)).astype(np.uint16)
        yield Animal(f"scan-colour{bits}.tif", scan(numbers, 2, bits=bits), COLOUR)
        yield Animal(
            f"scan-colour{bits}-lzw.tif", scan(numbers, 2, bits=bits, packed="lzw"), COLOUR
        )
    clear = np.dstack([colour, _deep(ACROSS, "u2")])
    shown = on_white(COLOUR, ACROSS)
    yield Animal("scan-clear16.tif", scan(clear, 2, extra=2), shown)
    yield Animal("scan-clear16-planes.tif", scan(clear, 2, extra=2, planar=True), shown)
    weighed = np.dstack([_deep(COLOUR * ACROSS[:, :, None], "u2"), _deep(ACROSS, "u2")])
    yield Animal("scan-weighed16.tif", scan(weighed, 2, extra=1, packed="lzw"), shown)
    eight = np.dstack([zoo.eight(COLOUR * ACROSS[:, :, None]), zoo.eight(ACROSS)])
    yield Animal("scan-weighed8.tif", scan(eight, 2, extra=1), shown)
    both = np.dstack([grey, _deep(ACROSS, "u2")])
    yield Animal("scan-grey-clear16.tif", scan(both, 1, extra=2), on_white(GREY, ACROSS))
    infrared = np.dstack([colour, _deep(1 - ACROSS, "u2")])
    yield Animal("scan-infrared16.tif", scan(infrared, 2, extra=0), COLOUR)
    ink = np.dstack([65535 - colour, np.zeros_like(grey)])
    yield Animal("scan-ink16.tif", scan(ink, 5, packed="lzw"), COLOUR)
    yield Animal("scan-pages16.tif", scan(colour, 2, pages=3), COLOUR)
    yield Animal("scan-one-strip.tif", scan(colour, 2, rows=1000, packed="lzw"), COLOUR)
    yield Animal("scan-turned16.tif", scan(colour, 2, orientation=6), np.rot90(COLOUR, -1))
    soft = 0.2 + 0.6 * COLOUR
    for white in ((0, 0), (3127, 3290)):
        content = scan(_lab(soft, white[0] > 0), 8, white=white)
        yield Animal(f"scan-lab{'-d65' if white[0] else ''}.tif", content, soft)
    for name, gamma, primaries in (("adobe", 2.2, zoo.ADOBE), ("linear", 1.0, zoo.SRGB)):
        icc = zoo.profile(b"RGB ", gamma, primaries)
        for kind in ("u2", "f4"):
            content = scan(_deep(soft, kind), 2, icc=icc, packed="deflate")
            yield Animal(f"scan-{name}-{kind}.tif", content, zoo.in_srgb(soft, gamma, primaries))
