"""`make bench-zoo`: every file of the zoo by hier and by decoders that share no code with it.

Writes ``tests/zoo.md``. Each decoder that is installed is asked; the table names the one that is
nearest to what the others say. Install them with:

    pip install av imagecodecs opencv-python-headless pyvips pyvips-binary tifffile
    apt-get install imagemagick

They run in processes of their own, since a damaged file may end a decoder.
"""

import argparse
import collections
import importlib.util
import io
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import foreign
import numpy as np
import scans
import zoo
from PIL import Image, ImageCms

from hiercli.images import kinds

FAR = 2
"""Mean grey levels of a difference that is looked at."""
_SECONDS = 60
_MODULES = {"libvips": "pyvips", "imagecodecs": "imagecodecs", "OpenCV": "cv2",
            "tifffile": "tifffile", "FFmpeg": "av"}  # fmt: skip
_CODECS = {"jp2": "jpeg2k", "j2k": "jpeg2k", "jpx": "jpeg2k", "jxl": "jpegxl", "avif": "avif",
           "png": "png", "jpg": "jpeg8", "webp": "webp"}  # fmt: skip
_MAGICK = ("magick", "convert-im6.q16", "convert")
NOTES = (
    "`gamma*.png`: a PNG may name the exponent that its pixels are encoded with (gAMA, section "
    "11.3.2 of the specification). ImageMagick follows that for 1.0, the others never do.",
    "`float*`: libvips takes floats for linear light. TIFF does not say so. The others take them "
    "as they stand.",
    "`*white0*`: of deep numbers, libvips, ImageMagick and OpenCV do not see that 0 is white. "
    "tifffile says so, and leaves it to its user.",
    "`int16*`, `int32*`: libvips and ImageMagick take 0 for grey. OpenCV and tifffile take it for "
    "black.",
    "`uint32*`, `*u4*`: libvips does not scale whole numbers of 32 bits.",
    "`cmyk.*`, `*ink*`: a file of inks without a profile is shown with a press profile by libvips, "
    "and as plain inks by the others. imagecodecs gives the inks themselves.",
    "`scan-adobe-f4.tif`, `scan-linear-f4.tif`: OpenCV and tifffile leave the colour profile to "
    "their user. libvips takes floats for linear light.",
    "`scan-infrared16.tif`: its fourth sample is of no kind that TIFF names (0). libvips, "
    "ImageMagick and OpenCV take it for transparency.",
    "`scan-colour16-planes-tiles*`: OpenCV mixes up planes of tiles.",
    "`scan-lab.tif`: it names no white point, for which libtiff takes that of D50. ImageMagick "
    "takes D65. `scan-lab-d65.tif` names D65, and there they agree. OpenCV is wrong for both.",
    "`grey*.pgm`: OpenCV does not scale numbers to their largest.",
    "`by-imagemagick-os2.bmp`: OpenCV mixes up the palette. ImageMagick wrote the file.",
    "`border.gif`: the frame is smaller than its canvas. The rest is transparent, so white. "
    "libvips and OpenCV show black or another colour.",
    "`*.dng`: developing is a matter of taste. libvips gives the numbers of the sensor as they "
    "stand.",
    "`second-of-two.heic`: the file names its second image as the one to show. FFmpeg is told so.",
    "`frames.jxl`: of an animation hier shows the last frame, since its decoder gives no other. "
    "imagecodecs is asked for that one.",
    "`*-linear.jxl`: imagecodecs gives the linear numbers, which are encoded for the comparison.",
)


# -- the files -------------------------------------------------------------------------------------


Specimen = tuple[str, str, bytes, np.ndarray | None]
"""Name, what it is, content, and pixels worked out (shares of white; ``None`` where not known)."""


def animals() -> Iterator[Specimen]:
    """Each file."""
    whole = [*zoo.pngs(), *zoo.tiffs(), *zoo.profiles(), *zoo.common(), *zoo.extra(),
             *scans.scans()]  # fmt: skip
    for animal in whole:
        known = None if np.isnan(animal.shown).any() else animal.shown
        yield animal.name, _what(animal.name, animal.content), animal.content, known
    for file in foreign.FILES:
        writer = "libvips" if file.vips else "imagecodecs" if file.codec else "ImageMagick"
        content = file.path.read_bytes()
        what = f"{_what(file.name, content)}, by {writer}"
        yield f"by-{writer.lower()}-{file.name}", what, content, file.shown
    yield from damaged({animal.name: animal.content for animal in whole})


def _what(name: str, content: bytes) -> str:
    kind = kinds.of(content, Path(name).suffix)
    return kind.name.partition(" ")[2].removesuffix(" image") if kind else "unknown"


_DAMAGED = (
    "plain.jpg", "progressive.jpg", "colour8.png", "colour16-alpha.png", "palette.gif",
    "colour.bmp", "tiff_lzw.tif", "scan-colour16-lzw.tif", "bigtiff-colour16.tif", "colour.webp",
    "colour.avif", "colour.heic", "colour.jxl", "colour.jp2", "colour.ppm", "mosaic.dng",
)  # fmt: skip


def damaged(sound: dict[str, bytes]) -> Iterator[Specimen]:
    """Files cut short, with bytes that flipped, and with bytes behind their end."""
    for name in filter(sound.__contains__, _DAMAGED):
        content = sound[name]
        stem, _, suffix = name.rpartition(".")
        what = _what(name, content)
        for share in (0.5, 0.95):
            cut = content[: int(share * len(content))]
            yield (
                f"{stem}-cut{share:.0%}.{suffix}".replace("%", ""),
                f"{what}, cut short",
                cut,
                None,
            )
        spoilt = bytearray(content)
        rng = Random(name)
        for _ in range(3):
            spoilt[rng.randrange(len(content) // 2, len(content))] ^= 1 << rng.randrange(8)
        yield f"{stem}-flipped.{suffix}", f"{what}, three bits flipped", bytes(spoilt), None
        more = content + b"\0" * 100
        yield f"{stem}-longer.{suffix}", f"{what}, 100 bytes behind its end", more, None


# -- decoders --------------------------------------------------------------------------------------

Pixels = np.ndarray
"""uint8 (H, W, 3), sRGB, upright, on white."""


def _laid(numbers: np.ndarray, most: float) -> Pixels:
    """Pixels of numbers of 1 to 4 channels."""
    shares = np.atleast_3d(np.asarray(numbers, np.float64)) / most
    shares = np.nan_to_num(shares, posinf=1, neginf=0).clip(0, 1)
    alpha = shares[:, :, -1:] if shares.shape[2] in (2, 4) else np.ones_like(shares[:, :, :1])
    colours = shares[:, :, :3] if shares.shape[2] >= 3 else np.repeat(shares[:, :, :1], 3, axis=2)
    return np.rint(255 * (colours * alpha + 1 - alpha)).astype(np.uint8)


def _most(numbers: np.ndarray, bits: int = 0) -> float:
    if numbers.dtype.kind == "f":
        return 1
    return float(2**bits - 1 if bits else np.iinfo(numbers.dtype).max)


def with_vips(path: Path) -> Pixels:
    import pyvips

    picture = pyvips.Image.new_from_file(str(path), access="sequential").copy_memory()
    picture = picture.autorot()
    if picture.get_typeof("icc-profile-data"):
        picture = picture.icc_transform(
            "srgb", embedded=True, intent="relative", black_point_compensation=True
        )
    picture = picture.colourspace("srgb")
    if picture.hasalpha():
        picture = picture.flatten(background=255)
    pixels = np.atleast_3d(picture.cast("uchar").numpy())
    return pixels[:, :, :3] if pixels.shape[2] >= 3 else np.repeat(pixels[:, :, :1], 3, axis=2)


def with_imagecodecs(path: Path) -> Pixels:
    import imagecodecs

    content, suffix = path.read_bytes(), path.suffix[1:]
    numbers = getattr(imagecodecs, f"{_CODECS[suffix]}_decode")(content)
    if numbers.ndim == 4 or (numbers.ndim == 3 and numbers.shape[2] > 4):  # frames
        numbers = numbers[-1 if suffix == "jxl" else 0]
    bits = next((bits for bits in (10, 12) if f"{bits}-bits" in path.name), 0)
    pixels = _laid(numbers, _most(numbers, bits if suffix in ("avif", "jp2") else 0))
    if "linear" in path.name:  # imagecodecs writes JPEG XL of deep numbers so, and gives them back
        shares = np.atleast_3d(numbers).astype(float) / _most(numbers)
        curved = np.where(
            shares <= 0.0031308, 12.92 * shares, 1.055 * shares.clip(0) ** (1 / 2.4) - 0.055
        )
        return _laid(curved, 1)
    return pixels


def with_opencv(path: Path) -> Pixels:
    import cv2

    numbers = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if numbers is None:
        raise ValueError("not read")
    if numbers.ndim == 3:
        order = [2, 1, 0, 3][: numbers.shape[2]]
        numbers = numbers[:, :, order]
    return _laid(numbers, _most(numbers))


def with_tifffile(path: Path) -> Pixels:
    import tifffile

    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        numbers = page.asarray()
        if page.planarconfig == 2 and numbers.ndim == 3:
            numbers = numbers.transpose(1, 2, 0)
        most = _most(numbers, page.bitspersample if page.bitspersample % 8 else 0)
        if page.dtype.kind == "b":
            numbers, most = numbers.astype(np.uint8), 1
        kind = page.photometric.name
        if kind == "MINISWHITE":
            numbers = most - numbers
        elif kind == "SEPARATED":
            ink = numbers / most
            numbers, most = (1 - ink[:, :, :3]) * (1 - ink[:, :, 3:]), 1
        elif kind not in ("RGB", "MINISBLACK"):
            raise ValueError(f"{kind} is not turned into colours")
        if page.extrasamples and page.extrasamples[0] == 0:
            numbers = numbers[:, :, :3]
        elif page.extrasamples and page.extrasamples[0] == 1:  # premultiplied
            alpha = numbers[:, :, -1:] / most
            shown = numbers[:, :, :-1] / most + 1 - alpha
            return _laid(shown, 1)
    return _laid(numbers, most)


def with_magick(path: Path) -> Pixels:
    with tempfile.TemporaryDirectory() as folder:
        srgb = Path(folder) / "srgb.icc"
        srgb.write_bytes(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
        words = [magick(), f"{path}[0]", "-auto-orient"]
        profiled = subprocess.run(
            [*words[:2], "-format", "%[profile:icc]", "info:"], capture_output=True
        )
        if profiled.stdout.strip():
            words += ["-black-point-compensation", "-intent", "relative", "-profile", str(srgb)]
        words += ["-background", "white", "-flatten", "-colorspace", "sRGB",
                  "-type", "TrueColor", "-depth", "8", "ppm:-"]  # fmt: skip
        done = subprocess.run(words, capture_output=True, check=True)
    with Image.open(io.BytesIO(done.stdout), formats=("PPM",)) as picture:
        return np.asarray(picture.convert("RGB"))


def with_ffmpeg(path: Path) -> Pixels:
    import av

    planes = []
    with av.open(str(path)) as container:
        streams = container.streams.video
        chosen = [one for one in streams if one.disposition.default] or list(streams)
        if "clear" in path.name:  # the second holds transparency
            chosen = list(streams)
        if "second" in path.name:  # the file says which comes first; FFmpeg does not
            chosen = list(streams)[1:]
        for number, stream in enumerate(chosen[:2]):
            container.seek(0)
            frame = next(container.decode(stream))
            planes.append(frame.to_ndarray(format="gray" if number else "rgb24"))
    colours = planes[0][: zoo.HEIGHT, : zoo.WIDTH]  # it gives whole blocks
    if "clear" not in path.name:
        return colours
    return _laid(np.dstack([colours, planes[1][: zoo.HEIGHT, : zoo.WIDTH]]), 255)


def with_hier(path: Path) -> Pixels:
    from hiercli.images import read

    return np.asarray(read(path))


def magick() -> str | None:
    """ImageMagick, and no other program of the name `convert`."""
    for name in _MAGICK:
        program = shutil.which(name)
        if program is not None:
            said = subprocess.run([program, "-version"], capture_output=True, text=True).stdout
            if "ImageMagick" in said:
                return program
    return None


DECODERS: dict[str, Callable[[Path], Pixels]] = {
    "hier": with_hier, "libvips": with_vips, "tifffile": with_tifffile,
    "imagecodecs": with_imagecodecs, "FFmpeg": with_ffmpeg, "ImageMagick": with_magick,
    "OpenCV": with_opencv,
}  # fmt: skip


def present() -> list[str]:
    """Names of the decoders that are installed."""
    found = {name for name, module in _MODULES.items() if importlib.util.find_spec(module)}
    found |= {"hier", *(["ImageMagick"] if magick() else [])}
    return [name for name in DECODERS if name in found]


def suits(decoder: str, suffix: str) -> bool:
    """Whether a decoder may be asked about files of a suffix."""
    if decoder == "tifffile":
        return suffix == "tif"
    if decoder == "FFmpeg":
        return suffix in ("heic", "heif")
    return decoder != "imagecodecs" or suffix in _CODECS


# -- one decoder, in a process of its own ----------------------------------------------------------


def work(decoder: str, folder: Path, target: Path) -> None:
    """Decode files whose names come on stdin; write pixels to ``target``, and say how it went."""
    for line in sys.stdin:
        path = folder / line.strip()
        try:
            pixels = DECODERS[decoder](path)
            np.save(target / f"{path.name}.npy", pixels)
            answer: dict[str, Any] = {"shape": pixels.shape}
        except Exception as error:
            said = str(error) or type(error).__name__
            answer = {"error": said, "kind": type(error).__name__}
        print(json.dumps(answer), flush=True)


def ask(
    decoder: str, names: Sequence[str], folder: Path, target: Path
) -> dict[str, dict[str, Any]]:
    """What a decoder answers for each file; a new process is begun where one ends."""
    answers: dict[str, dict[str, Any]] = {}
    left = list(names)
    while left:
        words = [sys.executable, __file__, "--worker", decoder, str(folder), str(target)]
        done = subprocess.run(
            words, input="\n".join(left), capture_output=True, text=True,
            timeout=_SECONDS * len(left),
        )  # fmt: skip
        lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
        for name, line in zip(left, lines, strict=False):
            answers[name] = json.loads(line)
        if len(lines) < len(left):
            answers[left[len(lines)]] = {"error": f"ended by {done.returncode}", "kind": "crash"}
        left = left[len(lines) + 1 :]
    return answers


# -- the table -------------------------------------------------------------------------------------


def main() -> None:
    """Ask every decoder, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--table", type=Path, default=Path(__file__).parent / "zoo.md")
    given = parser.parse_args()
    if given.worker:
        decoder, folder, target = given.worker
        work(decoder, Path(folder), Path(target))
        return
    decoders = present()
    if len(decoders) < 2:
        raise SystemExit(
            "no independent decoder is installed. Run: pip install av imagecodecs "
            "opencv-python-headless pyvips pyvips-binary tifffile"
        )
    files = {name: specimen for name, *specimen in animals()}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "files").mkdir()
        for file, (_, content, _) in files.items():
            (root / "files" / file).write_bytes(content)
        answers = {}
        for decoder in decoders:
            (root / decoder).mkdir()
            asked = [file for file in files if suits(decoder, Path(file).suffix[1:])]
            answers[decoder] = ask(decoder, asked, root / "files", root / decoder)
            print(f"{decoder}: {len(asked)} files", file=sys.stderr)
        rows = [
            _row(file, what, {d: answers[d].get(file) for d in decoders}, root, known)
            for file, (what, _, known) in files.items()
        ]
    given.table.write_text(_page(rows, decoders))
    print(given.table.read_text().partition("| file |")[0])


def _row(
    file: str,
    what: str,
    answers: dict[str, dict[str, Any] | None],
    root: Path,
    known: np.ndarray | None,
) -> dict[str, Any]:
    """How a file went: hier's answer, and the difference to each other decoder."""
    own = answers["hier"] or {}
    row: dict[str, Any] = {"file": file, "what": what, "hier": own, "differences": {}, "failed": []}
    row["worked_out"] = None
    if known is not None and "shape" in own:
        pixels = np.load(root / "hier" / f"{file}.npy").astype(float)
        row["worked_out"] = float(np.abs(pixels - 255 * known).mean())
    for decoder, answer in answers.items():
        if decoder == "hier" or answer is None:
            continue
        if "error" in answer:
            row["failed"].append(decoder)
        elif "error" in own:
            row["differences"][decoder] = None
        elif answer["shape"] != own["shape"]:
            row["differences"][decoder] = float("inf")
        else:
            one, other = (
                np.load(root / who / f"{file}.npy").astype(float) for who in ("hier", decoder)
            )
            row["differences"][decoder] = float(np.abs(one - other).mean())
    return row


def _kind_of(row: dict[str, Any]) -> str:
    """How a row counts: ``near``, ``second``, ``far``, ``alone``, ``refused`` or ``fault``."""
    own = row["hier"]
    if own.get("kind", "ImageError") != "ImageError":
        return "fault"
    if "error" in own:
        return "refused"
    values = list(row["differences"].values())
    if not values:
        return "alone"
    return "near" if values[0] <= FAR else "second" if min(values) <= FAR else "far"


def _page(rows: list[dict[str, Any]], decoders: list[str]) -> str:
    """The table, with what it comes to."""
    ends = [_kind_of(row) for row in rows]
    count = collections.Counter(ends)
    decoded = len(rows) - count["refused"] - count["fault"]
    unsure = [row["file"] for row, kind in zip(rows, ends, strict=True) if kind == "far"]
    words = f"""# The zoo

`make bench-zoo` decodes {len(rows)} files by hier and by other programs: {", ".join(decoders[1:])}.
Each runs in a process of its own. A difference is the mean over all pixels and channels, in grey
levels of 0 to 255, in sRGB on white ground.

- {decoded} files are decoded. {count["refused"]} are refused with a sentence. {count["fault"]} end
  in another way (traceback, crash). None is passed over: each has a row.
- {count["near"]} are within {FAR} grey levels of the first reference that decodes them.
- {count["second"]} are further from the first reference, and within {FAR} of a second one. The
  notes say why the first is wrong.
- {len(unsure)} are further from all of them: {", ".join(unsure)}. The notes say why.

"Worked out" is the difference from pixels that `tests/zoo.py` and its companions work out without
any decoder. 0.5 is usual, from rounding. Lossy files, colours of 5 bits, and colours that are
stored at half size differ by more.

"""
    table = [["file", "what it is", "hier", "difference", "reference", "other references",
              "worked out"], ["---", "---", "---", "--:", "---", "---", "--:"]]  # fmt: skip
    table += [_cells(row) for row in rows]
    lines = "".join(f"| {' | '.join(cells)} |\n" for cells in table)
    notes = "".join(f"- {note}\n" for note in NOTES)
    return f"{words}{lines}\n## Where references differ\n\n{notes}"


def _cells(row: dict[str, Any]) -> list[str]:
    own, found = row["hier"], dict(row["differences"])
    said = f"{own['shape'][1]} x {own['shape'][0]}" if "shape" in own else _sentence(row)
    first = next(iter(found), "")
    others = [f"{name} {_number(value)}".strip() for name, value in list(found.items())[1:]]
    others += [f"{name} refuses" for name in row["failed"]]
    worked_out = f"{row['worked_out']:.1f}" if row["worked_out"] is not None else ""
    cells = [row["file"], row["what"], said, _number(found[first]) if first else "", first]
    return [*cells, ", ".join(others), worked_out]


def _sentence(row: dict[str, Any]) -> str:
    return str(row["hier"]["error"]).partition(f"{row['file']}: ")[2].replace("|", "/")


def _number(value: float | None) -> str:
    if value is None:
        return "decodes"
    return "another size" if value == float("inf") else f"{value:.1f}"


if __name__ == "__main__":
    main()
