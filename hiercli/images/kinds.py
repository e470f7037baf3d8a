"""Kinds of image files: told by their first bytes, searched for by their names.

What Pillow does not decode by itself needs a package of the extra ``formats``.
"""

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass

from hiercli.images import jpeg_xl

_HEIF_BRANDS = rb"hei[cfmsx]|hev[cmsx]"
_AVIF_BRANDS = rb"avi[fs]"


_FEWER = 0.625


class UnsupportedError(Exception):
    """An image that cannot be decoded although it is whole; the text says why and what to do."""


@dataclass(frozen=True)
class Kind:
    """A kind of image that can be decoded.

    Attributes:
        name: in words, with its article.
        start: what its first bytes match.
        suffixes: of its files, in lower case.
        formats: as Pillow names them; empty where another package decodes it.
        module: to be imported first, where Pillow has no decoder of its own.
        package: that holds the module, as pip names it.
        share: of `Limits.pixels` that the largest may have: some decoders hold several copies.
        bytes_per_pixel: that decoding takes at its most, about.
        size_of: gives (width, height) of a file, where Pillow would decode it to find out.
    """

    name: str
    start: re.Pattern[bytes]
    suffixes: tuple[str, ...]
    formats: tuple[str, ...] = ()
    module: str = ""
    package: str = ""
    share: float = 1.0
    bytes_per_pixel: int = 8
    size_of: Callable[[bytes], tuple[int, int]] | None = None

    def is_readable(self) -> bool:
        """Whether its decoder is there; it is loaded then."""
        if not self.module:
            return True
        try:
            plugin = importlib.import_module(self.module)
        except ImportError:
            return False
        if self.module == "pillow_heif":
            plugin.register_heif_opener(thumbnails=False)
        return True


def _kind(name: str, start: bytes, suffixes: str, *formats: str, **more: object) -> Kind:
    pattern = re.compile(start, re.DOTALL)
    return Kind(name, pattern, tuple(suffixes.split()), formats, **more)  # type: ignore[arg-type]


RAW = _kind(
    "a camera RAW image",
    rb"II\x2a\x00\x10\x00\x00\x00CR|II.{4}HEAPCCDR|.{4}ftypcrx |FUJIFILMCCD-RAW|IIR[OS]|MMOR"
    rb"|IIU\x00|FOVb|\x00MRM",
    ".cr2 .cr3 .nef .nrw .arw .srf .sr2 .dng .raf .orf .rw2 .pef .srw .x3f .3fr .erf .kdc .dcr "
    ".mrw .iiq .rwl .crw .mef .mos .fff .gpr .k25 .dcs",
    module="rawpy", package="rawpy", bytes_per_pixel=24,
)  # fmt: skip
TIFF = _kind("a TIFF image", rb"II[\x2a\x2b]\x00|MM\x00[\x2a\x2b]", ".tif .tiff", "TIFF")
PNG = _kind("a PNG image", rb"\x89PNG\r\n\x1a\n", ".png .apng", "PNG")
JPEG = _kind("a JPEG image", rb"\xff\xd8\xff", ".jpg .jpeg .jpe .jfif .jif .mpo", "JPEG")
PPM = _kind("a PPM image", rb"P[1-6fF]\s+[#\d]", ".ppm .pgm .pbm .pnm .pfm", "PPM")
GIF = _kind("a GIF image", rb"GIF8[79]a", ".gif", "GIF")
JPEG_2000 = _kind("a JPEG 2000 image", rb"\xff\x4f\xff\x51|\x00\x00\x00\x0cjP  ",
                  ".jp2 .j2k .j2c .jpc .jpf .jpx", "JPEG2000", share=_FEWER,
                  bytes_per_pixel=28)  # fmt: skip
JPEG_XL = _kind("a JPEG XL image", rb"\xff\x0a|\x00\x00\x00\x0cJXL ", ".jxl", "JXL",
          module="pillow_jxl", package="pillow-jxl-plugin", share=_FEWER,
          bytes_per_pixel=28, size_of=jpeg_xl.size_of)  # fmt: skip
KINDS = (
    JPEG,
    PNG,
    _kind("a WebP image", rb"RIFF.{4}WEBP", ".webp", "WEBP", share=_FEWER,
          bytes_per_pixel=28),
    GIF,
    RAW,
    TIFF,
    _kind("a BMP image", rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\x00\x00\x00"
          rb"|\x28\x00\x00\x00.{8}\x01\x00[\x01\x04\x08\x10\x18\x20]\x00",
          ".bmp .dib", "BMP", "DIB"),
    PPM,
    _kind("an AVIF image",
          rb".{4}ftyp(?:" + _AVIF_BRANDS + rb"|(?:mif1|msf1).{4}(?:.{4}){0,6}?(?:" + _AVIF_BRANDS
          + rb"))", ".avif .avifs", "AVIF", share=_FEWER, bytes_per_pixel=16),
    _kind("a HEIC image", rb".{4}ftyp(?:" + _HEIF_BRANDS + rb"|mif1|msf1)", ".heic .heif .hif",
          "HEIF", module="pillow_heif", package="pillow-heif", share=_FEWER,
          bytes_per_pixel=16),
    JPEG_XL,
    JPEG_2000,
)  # fmt: skip
"""What is decoded. Left to choose by itself, Pillow runs Ghostscript on a PostScript file of any
name, and takes gigabytes for some of a kilobyte."""

FIRST_BYTES = 256
"""Of a file, by which its kind is known."""
_ALWAYS = ("JPEG", "PNG", "WebP", "GIF", "TIFF", "BMP", "PPM", "AVIF", "JPEG 2000")
"""What is decoded without the extra ``formats``."""
NAMES = "JPEG, PNG, WebP, GIF, TIFF, BMP, PPM, AVIF, JPEG 2000, HEIC, JPEG XL or camera RAW"
"""Of `KINDS`, in words."""

_OTHERS = (
    (rb"%!PS|\xc5\xd0\xd3\xc6|%PDF-", "a PostScript or PDF document"),
    (rb"\x00\x00\x00.ftypqt  |.{4}ftyp|.{4}(?:moov|mdat|wide)", "a video"),
    (rb"\x1a\x45\xdf\xa3|RIFF.{4}AVI ", "a video"),
    (rb"\x93NUMPY", "a NumPy array"),
    (rb"PK\x03\x04", "a zip archive (an .npz of arrays, a document)"),
    (rb"\x1f\x8b|BZh|\xfd7zXZ|7z\xbc\xaf", "a compressed file"),
    (rb"8BPS", "a Photoshop image"),
    (rb"gimp xcf", "a GIMP image"),
    (rb"\x00\x00[\x01\x02]\x00(?!\x00\x00)", "an icon"),
    (rb"icns", "an icon"),
    (rb".[\x00\x01][\x01-\x03\x09-\x0b].{13}[\x08\x0f\x10\x18\x20]", "a TGA image"),
    (rb"II\xbc", "a JPEG XR image"),
    (rb"P7\s", "a PAM image"),
    (rb"\x8bJNG", "a JNG image"),
    (rb"DDS ", "a DDS texture"),
    (rb"\x76\x2f\x31\x01|#\?RADIANCE|#\?RGBE", "an HDR image of floats (OpenEXR, Radiance)"),
    (rb"SIMPLE  =", "a FITS image"),
    (rb".{128}DICM", "a DICOM image"),
    (rb"qoif", "a QOI image"),
    (rb"\s*<(?i:\?xml|svg|!doctype|html)", "an SVG, XML or HTML text"),
    (rb"PAR1", "a Parquet table"),
    (rb"SQLite format 3", "a SQLite database"),
)
_OTHER_KINDS = tuple((re.compile(start, re.DOTALL), kind) for start, kind in _OTHERS)
"""What people give by mistake, by its first bytes."""
_DIGITS = re.compile(rb"P[1-3]\s+(?:#[^\n]*\n\s*)*[\d\s]+")
"""Of a PPM image that is written in digits: nothing else stands in it."""
_TEXT = re.compile(rb"[\t\n\f\r\x20-\x7e\x80-\xff]+")

SUFFIXES = frozenset(suffix for kind in KINDS for suffix in kind.suffixes)
"""Of images that are decoded."""
IMAGE_LIKE = SUFFIXES | {
    ".psd", ".psb", ".xcf", ".svg", ".svgz", ".eps", ".ai", ".ico", ".icns", ".tga", ".exr", ".hdr",
    ".dds", ".pcx", ".sgi", ".wmf", ".emf", ".fits", ".dcm", ".jxr", ".qoi", ".bpg", ".pam", ".jng",
    ".mng", ".jls", ".cur", ".xbm", ".xpm", ".dpx", ".pict", ".wdp", ".hdp", ".jpm",
}  # fmt: skip
"""Of what people see as an image, whether it can be decoded or not: a folder is searched for
these."""


def of(content: bytes, suffix: str = "") -> Kind | None:
    """The kind of an image by its first bytes, or ``None`` where none is known.

    Args:
        content: at least the first `FIRST_BYTES`, if there are so many.
        suffix: of the file's name, in lower case. It parts RAW from TIFF, which start alike.

    Examples:
        >>> of(b"GIF89a").name
        'a GIF image'
        >>> of(b"hello") is None
        True
    """
    found = next((kind for kind in KINDS if kind.start.match(content)), None)
    if found is TIFF and suffix in RAW.suffixes:
        return RAW
    return found


def is_text(content: bytes) -> bool:
    """Whether bytes are a text, and not an image that is written in digits.

    A table may begin as a PPM image does, with ``P2 23``.
    """
    return bool(_TEXT.fullmatch(content)) and not _DIGITS.fullmatch(content)


def readable() -> str:
    """What can be decoded here, in words."""
    more = [kind.name.partition(" ")[2] for kind in KINDS if kind.module and kind.is_readable()]
    names = [*_ALWAYS, *(name.removesuffix(" image") for name in more)]
    return f"a {', '.join(names[:-1])} or {names[-1]} image"


def what_else(content: bytes) -> str:
    """Why bytes are no image that can be read, in words."""
    if not content:
        return "expected an image, found an empty file"
    for start, kind in _OTHER_KINDS:
        if start.match(content):
            return f"expected {readable()}, found {kind}. Convert it to PNG or JPEG"
    if content[:2] in (b"\xff\xfe", b"\xfe\xff") or _TEXT.fullmatch(content[:4096]):
        return f"expected {readable()}, found text or a table"
    return f"expected {readable()}, found {len(content)} bytes of an unknown format"
