"""Files of every kind show what they hold, or say in a sentence why not."""

import os
import re
import resource
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import foreign
import hostile_headers
import numpy as np
import pytest
import scans
import zoo
from conftest import Hier, fails
from hostile_headers import patched
from PIL import Image

from hiercli.data.listing import gather
from hiercli.encoder.encoder import Encoder
from hiercli.errors import ImageError, InputError
from hiercli.images import LIMITS, jpeg_xl, kinds, probe, read
from hiercli.images.limits import Budget
from hiercli.images.listing import Passed, find

ANIMALS = [
    *zoo.pngs(), *zoo.tiffs(), *zoo.profiles(), *zoo.common(), *zoo.extra(),
    *scans.scans(), *foreign.foreign(),
]  # fmt: skip


def test_the_zoo_is_large() -> None:
    assert len(ANIMALS) >= 120
    assert len({animal.name for animal in ANIMALS}) == len(ANIMALS)


@pytest.mark.parametrize("animal", ANIMALS, ids=[animal.name for animal in ANIMALS])
def test_an_image_shows_what_its_file_holds(animal: zoo.Animal, tmp_path: Path) -> None:
    if animal.needs:
        pytest.importorskip(animal.needs)
    file = tmp_path / animal.name
    file.write_bytes(animal.content)
    picture = read(file)
    assert picture.mode == "RGB"
    pixels = np.asarray(picture, float)
    if np.isnan(animal.shown).all():  # developed to taste
        assert pixels.std() > 20
        return
    assert pixels.shape == animal.shown.shape
    assert np.abs(pixels - 255 * animal.shown).mean() <= animal.within


@pytest.mark.parametrize("animal", ANIMALS, ids=[animal.name for animal in ANIMALS])
def test_a_file_is_what_it_holds_and_not_what_it_is_called(
    animal: zoo.Animal, tmp_path: Path
) -> None:
    if animal.needs:
        pytest.importorskip(animal.needs)
    for name in ("wrong.jpg", "nothing"):
        (tmp_path / name).write_bytes(animal.content)
    assert [file.name for file in find([tmp_path])] == ["nothing", "wrong.jpg"]
    first, second = (np.asarray(read(tmp_path / name)) for name in ("wrong.jpg", "nothing"))
    assert np.array_equal(first, second)


@pytest.mark.parametrize("animal", ANIMALS, ids=[animal.name for animal in ANIMALS])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_a_file_cut_short_is_one_message_or_a_picture(
    animal: zoo.Animal, share: float, tmp_path: Path
) -> None:
    file = tmp_path / animal.name
    file.write_bytes(animal.content[: int(share * len(animal.content))])
    try:
        assert read(file).mode == "RGB"
    except ImageError as error:
        assert str(file) in str(error) and "\n" not in str(error)


def test_floats_of_another_range_are_refused(tmp_path: Path) -> None:
    numbers = 255 * zoo.GREY
    (tmp_path / "f.tif").write_bytes(zoo.grey_tiff(numbers, 32, 3, False, False))
    with pytest.raises(
        ImageError, match=r"f\.tif: expected float pixels of 0 to 1, found a median"
    ):
        read(tmp_path / "f.tif")


def test_an_image_in_memory_is_what_its_mode_says() -> None:
    encoder = Encoder()
    deep = np.rint(65535 * zoo.GREY).astype(np.uint16)
    grey = encoder.embed(Image.fromarray(zoo.eight(zoo.GREY))).points
    assert np.abs(encoder.embed(Image.fromarray(deep)).points - grey).max() < 0.01
    share = Image.fromarray(zoo.GREY.astype(np.float32))
    assert np.abs(encoder.embed(share).points - grey).max() < 0.01
    with pytest.raises(ImageError, match="mode I, which says nothing of its scale"):
        encoder.embed(Image.fromarray(deep.astype(np.int32)))


# -- what is needed and not there ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("a.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 60, "a HEIC image"),
        ("a.jxl", b"\xff\x0a\x7f\0" + b"\0" * 60, "a JPEG XL image"),
        ("a.cr2", b"II*\0\x10\0\0\0CR\x02\0" + b"\0" * 60, "a camera RAW image"),
        ("a.nef", zoo.dng(), "a camera RAW image"),
    ],
)
def test_without_the_extra_a_file_is_named_with_what_to_install(
    name: str, content: bytes, kind: str, photos: Path, inside: Hier, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(kinds.Kind, "is_readable", lambda kind: not kind.module)
    with_it = tmp_path / "folder"
    with_it.mkdir()
    (with_it / name).write_bytes(content)
    Image.new("RGB", (40, 40)).save(with_it / "good.jpg")
    with pytest.raises(ImageError, match=f"found {kind}.*pip install 'hiercli\\[formats\\]'"):
        read(with_it / name)
    done = inside("embed", with_it, "-o", tmp_path / "v.npy")
    assert done.returncode == 3
    assert f"{name}: expected".encode() in done.stderr and b"1 skipped" in done.stderr
    assert np.load(tmp_path / "v.npy").shape[0] == 1


def test_a_raw_file_that_is_none_is_one_sentence(tmp_path: Path) -> None:
    pytest.importorskip("rawpy")
    (tmp_path / "old.nef").write_bytes(b"II*\0" + bytes(60))
    for function in (read, probe):
        with pytest.raises(
            ImageError, match=r"old\.nef: a camera RAW image that is damaged, or of"
        ):
            function(tmp_path / "old.nef")


@pytest.mark.parametrize("suffix", [".psd", ".svg", ".ico", ".exr", ".tga", ".pdf.jpg"])
def test_what_looks_like_an_image_is_never_passed_over_in_silence(
    suffix: str, tmp_path: Path
) -> None:
    content = {".psd": b"8BPS", ".svg": b"<svg>", ".ico": b"\0\0\1\0", ".exr": b"\x76\x2f\x31\x01",
               ".tga": b"\0\0\2", ".pdf.jpg": b"%PDF-1"}[suffix]  # fmt: skip
    (tmp_path / f"a{suffix}").write_bytes(content + bytes(300))
    assert [file.suffix for file in find([tmp_path])] == [Path(f"a{suffix}").suffix]
    with pytest.raises(ImageError, match="expected a JPEG, PNG"):
        read(tmp_path / f"a{suffix}")


def _unusual() -> dict[str, tuple[bytes, str]]:
    jpeg = zoo.saved(Image.fromarray(zoo.eight(zoo.COLOUR)), "JPEG")
    deep = np.rint(zoo.COLOUR * 65535).astype(np.uint16)
    tga = zoo.saved(Image.fromarray(zoo.eight(zoo.COLOUR)), "TGA")
    return {
        "12.jpg": (patched(jpeg, b"\xff\xc0", 2, ">B", 12), "a JPEG image of 12 bits, which"),
        "ls.jpg": (jpeg.replace(b"\xff\xc0", b"\xff\xf7", 1), "a JPEG-LS image, which is not supp"),
        "jxl.tif": (
            scans.scan(deep, 2).replace(struct.pack("<HHIH", 259, 3, 1, 1),
                                        struct.pack("<HHIH", 259, 3, 1, 52546)),
            r"this kind of TIFF is not supported \(its pixels are JPEG XL\)\. Save it as"),
        "cut.tif": (scans.scan(deep, 2)[:3000], "a TIFF image, but damaged"),
        "a.tga": (tga, "found a TGA image. Convert it to PNG or JPEG"),
        "a.ico": (b"\0\0\1\0\1\0" + bytes(99), "found an icon"),
        "a.bmp": (
            patched(zoo.saved(Image.fromarray(zoo.eight(zoo.COLOUR)), "BMP"), b"BM", 28, "<I", 99),
            r"this kind of image is not supported \(Unsupported BMP"),
        "token.ppm": (b"P5 " + b"9" * 50 + b" 1 255\n", r"damaged \(Token too long in file header"),
    }  # fmt: skip


@pytest.mark.parametrize("name", _unusual())
def test_what_is_whole_and_cannot_be_decoded_is_not_called_damaged(
    name: str, tmp_path: Path
) -> None:
    content, words = _unusual()[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ImageError, match=f"{re.escape(name)}: .*{words}"):
        read(tmp_path / name)


def test_a_cut_jpeg_xl_does_not_speak_of_how_its_decoder_was_built(tmp_path: Path) -> None:
    pytest.importorskip("pillow_jxl")
    content = zoo.saved(Image.fromarray(zoo.eight(zoo.COLOUR)), "JXL")
    (tmp_path / "a.jxl").write_bytes(content[: len(content) // 2])
    with pytest.raises(ImageError, match=r"a\.jxl: a JPEG XL image, but damaged$"):
        read(tmp_path / "a.jxl")


def test_a_nonsensical_orientation_costs_no_deep_image(tmp_path: Path) -> None:
    deep = np.rint(zoo.COLOUR * 65535).astype(np.uint16)
    for orientation in (0, 9, 65535):
        (tmp_path / "a.tif").write_bytes(scans.scan(deep, 2, orientation=orientation))
        assert read(tmp_path / "a.tif").size == (zoo.WIDTH, zoo.HEIGHT)


# -- folders as people have them -------------------------------------------------------------------


def folder_of(root: Path, *names: str) -> None:
    for name in names:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix in (".jpg", ".png"):
            Image.new("RGB", (8, 8)).save(file)
        else:
            file.write_bytes(b"text")


def names_of(root: Path, **options: object) -> list[str]:
    return [str(r.path.relative_to(root)) for r in gather([root], **options).records]  # type: ignore[arg-type]


def test_what_is_passed_over_on_purpose_is_counted_in_one_line(tmp_path: Path) -> None:
    folder_of(
        tmp_path, "a/1.jpg", "a/._1.jpg", "a/.DS_Store", "a/Thumbs.db", "a/notes.txt", "a/1.mov",
        "__MACOSX/a/1.jpg", "a/@eaDir/1.jpg/SYNOPHOTO_THUMB_M.jpg", ".git/x.jpg", "b/2.mov",
        "b/ehthumbs.db", "a/ZbThumbnail.info", "#snapshot/old/1.jpg", "a/@SynoResource",
    )  # fmt: skip
    listing = gather([tmp_path])
    assert [record.path.name for record in listing.records] == ["1.jpg"]
    assert listing.notes == (
        "passed over 10 hidden or system files and folders, 3 files of other kinds "
        "(2 .mov, 1 .txt)",
    )


@pytest.mark.parametrize(
    "text",
    [
        "P1\t23\tmale\n",
        "P1 2024: first walk",
        "P2\t23\t180\t70\nP3\t31\t170\t60",
        "P5 10 10 255 and more",
        "P1\n1. clean",
        "BM",
    ],
)
def test_a_text_that_begins_as_an_image_is_none(text: str, tmp_path: Path) -> None:
    folder_of(tmp_path, "a/1.jpg")
    for name in ("participants.tsv", "notes.txt", "plan.md", "none"):
        (tmp_path / "a" / name).write_text(text)
    listing = gather([tmp_path])
    assert [record.path.name for record in listing.records] == ["1.jpg"]


@pytest.mark.parametrize(("extra", "expected"), [(False, "AVIF or JPEG 2000 image"),
                                                 (True, "HEIC or JPEG XL image")])  # fmt: skip
def test_messages_list_what_can_be_decoded_here(
    extra: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kinds.Kind, "is_readable", lambda _: extra)
    assert f"{expected}, found a video" in kinds.what_else(b"\x1a\x45\xdf\xa3")


@pytest.mark.parametrize("big", [False, True])
def test_pages_beyond_the_first_are_not_dropped_in_silence(big: bool, tmp_path: Path) -> None:
    page = Image.new("L", (8, 8))
    page.save(tmp_path / "one.tif", big_tiff=big)
    more = [Image.new("L", (8, 8), 99), page]
    page.save(tmp_path / "scan.tif", save_all=True, append_images=more, big_tiff=big)
    small = Image.new("L", (4, 4))
    small.encoderinfo = {"tiffinfo": {254: 1}}  # a smaller picture of the same page
    mask = Image.new("1", (8, 8))
    mask.encoderinfo = {"tiffinfo": {254: 4}}
    more = [small, mask]
    page.save(tmp_path / "small.tif", save_all=True, append_images=more, big_tiff=big)
    (tmp_path / "damaged.tiff").write_bytes((tmp_path / "scan.tif").read_bytes()[:100])
    (tmp_path / "scan").write_bytes((tmp_path / "scan.tif").read_bytes())
    circle = bytearray((tmp_path / "one.tif").read_bytes())
    start = int.from_bytes(circle[8:16] if big else circle[4:8], "little")
    count = int.from_bytes(circle[start : start + (8 if big else 2)], "little")
    end = start + (8 + 20 * count if big else 2 + 12 * count)
    circle[end : end + (8 if big else 4)] = circle[8:16] if big else circle[4:8]
    (tmp_path / "circle.tif").write_bytes(circle)
    listing = gather([tmp_path])
    assert listing.notes == (
        "2 TIFF files have several pages, of which only the first is used (scan, scan.tif). To "
        "search all pages, save each as a file of its own",
    )


@pytest.mark.parametrize("suffix", [".txt", ".bin", ".json", ".mp4", ".zip", ""])
def test_an_image_is_found_whatever_its_name(suffix: str, tmp_path: Path) -> None:
    folder_of(tmp_path, "a/1.jpg", "a/notes.txt", "a/1.xmp")
    (tmp_path / "a" / "1.jpg").rename(tmp_path / "a" / f"1{suffix}")
    listing = gather([tmp_path])
    assert [record.path.name for record in listing.records] == [f"1{suffix}"]
    assert listing.notes == ("passed over 2 files of other kinds (1 .txt, 1 .xmp)",)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.bmp", "a.ppm", "a.pfm"])
def test_a_file_that_is_cut_short_is_said_to_be(name: str, tmp_path: Path) -> None:
    kind = {"jpg": "JPEG", "pfm": ""}.get(name[2:], name[2:].upper())
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 255, (40, 56, 3), np.uint8))
    content = zoo.saved(picture, kind) if kind else b"PF 56 40 1.0\n" + bytes(12 * 56 * 40)
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(ImageError, match=r"the image is damaged \(the file is cut short\)"):
        read(tmp_path / name)


def test_images_of_the_same_content_are_counted(photos: Path, inside: Hier, tmp_path: Path) -> None:
    first = sorted(photos.rglob("*.jpg"))[0]
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        (tmp_path / "same" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "same" / name).write_bytes(first.read_bytes())
    done = inside("embed", tmp_path / "same", "--index", tmp_path / "i.faiss")
    assert b"1 image embedded" in done.stderr and b"3 added, 3 total" in done.stderr
    assert b"2 images were not embedded again: the points of the same content" in done.stderr


def test_patterns_leave_out_files_and_folders(tmp_path: Path) -> None:
    folder_of(tmp_path, "a/1.jpg", "a/1_small.jpg", "drafts/2.jpg", "b/drafts/3.jpg", "b/4.png")
    assert names_of(tmp_path, exclude=["drafts/", "*_small.*"]) == ["a/1.jpg", "b/4.png"]
    assert names_of(tmp_path, exclude=["/drafts"]) == [
        "a/1.jpg", "a/1_small.jpg", "b/4.png", "b/drafts/3.jpg",
    ]  # fmt: skip
    assert names_of(tmp_path, exclude=["/*", "!/a", "*_small.*"]) == ["a/1.jpg"]
    (tmp_path / "b" / ".hierignore").write_text("# not these\n*.png\n")
    (tmp_path / ".hierignore").write_text("*_small.*\n")
    assert names_of(tmp_path) == ["a/1.jpg", "b/drafts/3.jpg", "drafts/2.jpg"]
    passed = Passed()
    find([tmp_path], passed=passed)
    assert (len(passed.excluded), passed.hidden) == (2, 0)
    with pytest.raises(InputError, match="excluded files and folders left out"):
        gather([tmp_path], exclude=["*"])


def test_a_malformed_pattern_is_named(tmp_path: Path) -> None:
    folder_of(tmp_path, "1.jpg")
    with pytest.raises(InputError, match="--exclude: a pattern is malformed"):
        gather([tmp_path], exclude=["!"])
    (tmp_path / ".hierignore").write_bytes(b"\xff\xfe*\0")
    with pytest.raises(InputError, match=r"\.hierignore is UTF-16"):
        gather([tmp_path])


def test_an_update_takes_out_what_is_excluded(photos: Path, inside: Hier, tmp_path: Path) -> None:
    index = tmp_path / "i.faiss"
    assert inside("embed", photos, "--index", index).returncode == 0
    done = inside("embed", photos, "--index", index, "--exclude", "kind3/")
    assert done.returncode == 0 and b"6 removed" in done.stderr
    fails(inside("embed", photos, "--exclude", "*", "--index", index), 2, "excluded")


# -- bounded cost ----------------------------------------------------------------------------------


def test_a_budget_is_never_overdrawn() -> None:
    budget, held, most = Budget(100), [0], [0]
    lock = threading.Lock()

    def work(count: int) -> None:
        for _ in range(20):
            with budget.taking(count):
                with lock:
                    held[0] += min(count, 100)
                    most[0] = max(most[0], held[0])
                time.sleep(0.0005)
                with lock:
                    held[0] -= min(count, 100)

    threads = [threading.Thread(target=work, args=(count,)) for count in (10, 60, 60, 100, 500)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive(), "nobody waits for ever"
    assert most[0] <= 100
    assert budget.left == 100
    with pytest.raises(ZeroDivisionError), budget.taking(70):
        _ = 1 / 0
    assert budget.left == 100


def test_a_jpeg_xl_header_is_believed_before_anything_is_decoded() -> None:
    pytest.importorskip("pillow_jxl")
    for size in ((56, 40), (8, 8), (256, 256), (300, 200), (1920, 1080), (5000, 3)):
        content = zoo.saved(Image.new("RGB", size), "JXL")
        assert jpeg_xl.size_of(content) == size


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs /proc")
@pytest.mark.parametrize("kind", hostile_headers.FORMATS)
def test_headers_that_lie_end_in_a_sentence(kind: str, tmp_path: Path) -> None:
    """A fourth of what `make fuzz` tries: with 2 GB more, in 20 seconds for all of a kind."""
    if kind in ("jxl", "heic"):
        pytest.importorskip("pillow_jxl" if kind == "jxl" else "pillow_heif")
    own = list(hostile_headers.FORMATS[kind]())[::4]
    files = []
    for number, (_, content) in enumerate(own):
        files.append(tmp_path / f"{number}.{'dng' if kind == 'dng' else 'x'}")
        files[-1].write_bytes(content)
    done = subprocess.run(
        [sys.executable, "-c", _READ_ALL, *map(str, files)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    ends = done.stdout.splitlines()
    assert len(ends) == len(own)
    for (name, _), end in zip(own, ends, strict=True):
        assert end == "read" or end.startswith("refused"), (name, end)
        assert len(end) < 500, name


_READ_ALL = """
import resource, sys
from pathlib import Path
from hiercli.errors import ImageError
from hiercli.images import kinds, read
for kind in kinds.KINDS:
    kind.is_readable()
used = 4096 * int(Path("/proc/self/statm").read_text().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (used + 2 * 2**30,) * 2)
resource.setrlimit(resource.RLIMIT_CPU, (20, 21))
for name in sys.argv[1:]:
    try:
        read(name)
        print("read")
    except ImageError as error:
        print("refused", repr(str(error).partition(": ")[2]))
"""


def hostile() -> dict[str, bytes]:
    """Files of a few bytes that claim billions of pixels."""
    small = Image.fromarray(zoo.eight(zoo.COLOUR))
    many = 2**31 - 1
    strip = {256: (4, [many]), 257: (4, [many]), 258: (3, [8]), 262: (3, [1]), 277: (3, [1])}
    found = {
        "a.png": patched(zoo.saved(small, "PNG"), b"IHDR", 0, ">II", many, many),
        "a.jpg": patched(zoo.saved(small, "JPEG"), b"\xff\xc0", 3, ">HH", 65535, 65535),
        "a.gif": patched(zoo.saved(small, "GIF"), b"GIF87a", 0, "<HH", 65535, 65535),
        "a.bmp": patched(zoo.saved(small, "BMP"), b"\x28\0\0\0", 0, "<ii", many, many),
        "a.tif": zoo.tiff(b"\0", strip, False),
        "a.ppm": b"P5 999999999 999999999 255\n\0",
        "a.webp": b"RIFF\x16\0\0\0WEBPVP8L\x0a\0\0\0\x2f\xff\xff\xff\x0f" + bytes(8),
        "a.j2k": patched(zoo.saved(small, "JPEG2000", no_jp2=True), b"\xff\x51", 4, ">II", many,
                          many),
        "a.avif": patched(zoo.saved(small, "AVIF"), b"ispe", 4, ">II", many, many),
        "a.jxl": b"\xff\x0a" + ((1 << 65) - 2 & ~(7 << 33) | 1 << 33).to_bytes(16, "little"),
    }  # fmt: skip
    for animal in zoo.extra():
        if animal.name == "colour.heic":
            found["a.heic"] = patched(animal.content, b"ispe", 4, ">II", many, many)
    return found


@pytest.mark.parametrize("name", hostile())
def test_a_header_that_claims_billions_of_pixels_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(hostile()[name])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ImageError) as caught:
        read(tmp_path / name)
    assert name in str(caught.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000, "kB"


def test_the_limit_of_pixels_is_an_option(
    photos: Path, inside: Hier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LIMITS, "pixels", LIMITS.pixels)  # put back at the end
    done = inside("embed", photos, "-o", tmp_path / "v.npy", "--max-pixels", "2000")
    fails(done, 2, "48 inputs cannot be read")
    assert b"more pixels than the limit of 2,000" in done.stderr and b"--max-pixels" in done.stderr


@pytest.mark.skipif(not hasattr(os, "truncate"), reason="needs sparse files")
def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "huge.jpg"
    file.write_bytes(b"\xff\xd8\xff")
    os.truncate(file, 4 * 2**30)
    with pytest.raises(ImageError, match="more than the 1,073,741,824"):
        read(file)
