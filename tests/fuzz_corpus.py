"""Sound files for `make fuzz` to damage, made by hier itself, and hostile ones made by hand.

Each reader has a folder of the corpus; ``cases/READER/NAME`` are whole files that are tried as they
are, in the place of the sound one.
"""

import gzip
import io
import json
import pickle
import shutil
import sqlite3
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import hostile_headers
import numpy as np
from archives import CONTENT, packed_tar, packed_zip
from conftest import TINY
from mutations import DEEP, NAMES
from PIL import Image, ImageDraw

Hier = Callable[..., None]
BIG = 3 * 2**30
"""Bytes that a small file unpacks to; over the limit of memory."""
RESUMED = ["train", "--data", "{shared}/photos", "--out", "run", "--resume", *TINY]
"""What goes on with the run of the corpus: 2 epochs, of which it has seen 1."""


class _Touch:
    """A pickle that would run a program."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        import os

        return os.system, ("touch hacked",)


def make(root: Path, hier: Hier) -> None:
    """All folders of the corpus; ``hier`` runs a command in the folder ``root``."""
    shared = root / "shared"
    _photos(shared / "photos")
    hier("train", "--data", shared / "photos", "--out", "run/run", *TINY, "--epochs", "1")
    _two_epochs(root / "run" / "run")
    hier("export", "--checkpoint", "run/run/best.pt", "-o", shared / "tiny.onnx",
         "--data", shared / "photos")  # fmt: skip
    for name in ("tiny.onnx", "tiny.golden.npz"):
        (root / "onnx").mkdir(exist_ok=True)
        shutil.copy(shared / name, root / "onnx")
    (root / "checkpoint").mkdir()
    shutil.copy(root / "run" / "run" / "best.pt", root / "checkpoint")
    for kind in ("flat", "sq8", "ivf", "hnsw"):
        hier("embed", shared / "photos", "--model", shared / "tiny.onnx",
             "--index", f"index-{kind}/idx.faiss", "--index-type", kind)  # fmt: skip
    for name in ("points/v.npy", "points/v.parquet", "parts/parts/a.parquet",
                 "parts/parts/b.parquet"):  # fmt: skip
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        hier("embed", shared / "photos", "--model", shared / "tiny.onnx", "-o", name)
    for kind, name in (("json", "tree.json"), ("newick", "tree.nwk")):
        (root / "trees").mkdir(exist_ok=True)
        hier("hierarchy", "--model", shared / "tiny.onnx", "--format", kind, "-o", f"trees/{name}")
    _draft(root)
    _images(root / "images")
    _headers(root)
    _tables(root, shared / "photos")
    _benchmarks(root, shared / "photos")
    (root / "archives").mkdir()
    (root / "archives" / "a.tar").write_bytes(packed_tar(CONTENT, "w"))
    (root / "archives" / "a.tar.gz").write_bytes(packed_tar(CONTENT))
    (root / "archives" / "a.tar.xz").write_bytes(packed_tar(CONTENT, "w:xz"))
    (root / "archives" / "a.zip").write_bytes(packed_zip(CONTENT))
    (root / "archives" / "b.zip").write_bytes(packed_zip(CONTENT, zipfile.ZIP_DEFLATED))


def _photos(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for label in range(16):
        (folder / f"kind{label}").mkdir(parents=True)
        colour = rng.integers(40, 255, 3)
        for number in range(4):
            pixels = (rng.integers(-60, 60, (48, 48, 3)) + colour).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"kind{label}" / f"photo{number}.jpg")


def _two_epochs(run: Path) -> None:
    """A run that was to take one epoch, as one that was killed after the first of two."""
    config = run / "config.toml"
    config.write_text(config.read_text().replace("\nepochs = 1\n", "\nepochs = 2\n"))
    shutil.rmtree(run / "tensorboard")
    for page in ("neighbours.html", "curves.png"):
        (run / page).unlink(missing_ok=True)


def _draft(root: Path) -> None:
    """A catalogue with points of four of six pictures, as a killed `hier embed` leaves it."""
    from hiercli.index.catalogue import Catalogue
    from hiercli.index.local import LocalStore
    from hiercli.index.schema import content_hash

    (root / "draft").mkdir()
    with closing(Catalogue(root / "index-flat" / "idx.faiss")) as catalogue:
        dim, fingerprint = catalogue.dim, catalogue.fingerprint
    with closing(LocalStore(root / "draft" / "idx.faiss", dim, anew=True)) as store:
        store.expect(fingerprint)
        for number in range(4):
            content = (root / "shared/photos/kind0" / f"photo{number}.jpg").read_bytes()
            store.keep(content_hash(content), np.zeros(dim, np.float32), b"")
        # For `fuzz._seal_pending`; a draft that was never finished has no facts.
        store.database.execute("INSERT INTO facts VALUES ('fingerprint', ?)", (fingerprint,))


def _images(folder: Path) -> None:
    folder.mkdir()
    rng = np.random.default_rng(1)
    picture = Image.fromarray(rng.integers(0, 255, (40, 60, 3), dtype=np.uint8)).resize((90, 70))
    drawn = Image.new("RGBA", (64, 50), (200, 30, 30, 90))
    ImageDraw.Draw(drawn).ellipse((5, 5, 40, 40), fill=(0, 90, 200, 255))
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a text"
    frames = [picture.rotate(angle) for angle in (10, 20)]
    deep = Image.fromarray(rng.integers(0, 65535, (30, 40), dtype=np.uint16))
    for name, image, options in (
        ("a.jpg", picture, {"exif": exif}), ("b.jpg", picture, {"progressive": True}),
        ("c.jpg", picture.convert("CMYK"), {"quality": 60}), ("a.png", drawn, {}),
        ("b.png", deep, {}), ("c.png", picture.quantize(16), {"transparency": 3}),
        ("d.png", picture, {"exif": exif, "icc_profile": b"x" * 400}), ("a.webp", picture, {}),
        ("b.webp", drawn, {"lossless": True, "exif": exif}),
        ("c.webp", picture, {"save_all": True, "append_images": frames}), ("a.gif", picture, {}),
        ("b.gif", picture, {"save_all": True, "append_images": frames}),
        ("a.tiff", picture, {"compression": "tiff_lzw", "exif": exif}),
        ("b.tiff", picture, {"compression": "jpeg"}), ("c.tiff", deep, {}),
        ("d.tiff", drawn, {"compression": "tiff_adobe_deflate"}),
        ("e.tiff", picture.convert("1"), {"compression": "group4"}), ("a.bmp", picture, {}),
        ("b.bmp", picture.quantize(16), {}), ("a.ppm", picture, {}), ("b.ppm", deep, {}),
        ("a.mpo", picture, {"save_all": True, "append_images": frames}),
    ):  # fmt: skip
        image.save(folder / name, **options)


def _headers(root: Path) -> None:
    files = hostile_headers.sound()
    for name in hostile_headers.FORMATS:
        (root / f"header-{name}").mkdir()
        for suffix in hostile_headers.BASES.get(name, (name,)):
            (root / f"header-{name}" / f"a.{suffix}").write_bytes(files[suffix])


def _tables(root: Path, photos: Path) -> None:
    import pyarrow as pa
    import timm
    import torch
    from pyarrow import parquet

    (root / "tables").mkdir()
    rows = [(str(file), file.parent.name, f"genus{int(file.parent.name[4:]) // 2}", "life")
            for file in sorted(photos.rglob("*.jpg"))]  # fmt: skip
    lines = ["path,label,genus,domain", *(",".join(row) for row in rows)]
    (root / "tables" / "m.csv").write_text("\n".join(lines) + "\n")
    columns = dict(zip(("path", "label", "genus", "domain"), zip(*rows, strict=True), strict=True))
    parquet.write_table(pa.table(columns), root / "tables" / "m.parquet")
    names = sorted({row[1:] for row in rows})
    lines = ["class_name,genus,domain", *(",".join(name) for name in names)]
    (root / "tables" / "t.csv").write_text("\n".join(lines) + "\n")
    (root / "tables" / "t.nwk").write_text(
        "((kind0:1,'kind1':2.5)g0:1e-3,(kind2,kind3)[a note]g1,((kind4,kind5),kind6)'g ''2'' b',"
        "kind7,(kind8,kind9),(kind10,kind11),kind12);\n"
    )
    (root / "recipes").mkdir()
    shutil.copy(root / "run" / "run" / "config.toml", root / "recipes" / "x.toml")
    points = np.load(root / "points" / "v.npy")
    labels = np.array([row[1] for row in rows])
    paths = np.array([row[0] for row in rows])
    np.savez_compressed(root / "points" / "v.npz", points=points, c=0.1, labels=labels, paths=paths,
                        proxies=points[:9] * 0.5)  # fmt: skip
    model = timm.create_model("test_efficientnet")
    (root / "weights").mkdir()
    torch.save(model.state_dict(), root / "weights" / "w.pt")


def _benchmarks(root: Path, photos: Path) -> None:
    from scipy.io import savemat

    files = sorted(photos.rglob("*.jpg"))
    labels = [int(file.parent.name[4:]) for file in files]
    kinds = [label + (1 if label < 8 else 99) for label in labels]
    cub = root / "cub" / "CUB_200_2011"
    sop, inshop, cars = (root / "sop" / "Stanford_Online_Products",
                         root / "inshop" / "In-shop_Clothes_Retrieval_Benchmark",
                         root / "cars" / "cars196")  # fmt: skip
    for folder in (cub / "images", sop, inshop / "Eval", inshop / "Img/img/W/D", cars / "car_ims"):
        folder.mkdir(parents=True)
    for number, file in enumerate(files):
        for folder in (cub / "images", sop, inshop / "Img/img/W/D", cars / "car_ims"):
            (folder / f"chair_final_{number}.jpg").symlink_to(file)
    spelled = [f"chair_final_{number}.jpg" for number in range(len(files))]
    names = [f"Kind {number}" for number in range(1, 200)]
    (cub / "images.txt").write_text("".join(f"{n} {s}\n" for n, s in enumerate(spelled, 1)))
    (cub / "image_class_labels.txt").write_text(
        "".join(f"{n} {k}\n" for n, k in enumerate(kinds, 1))
    )
    (cub / "classes.txt").write_text("".join(f"{n} {s}\n" for n, s in enumerate(names, 1)))
    (cub / "taxonomy.csv").write_text(
        "class_name,genus\n" + "".join(f"{name},g{n // 2}\n" for n, name in enumerate(names))
    )
    for side, wanted in (("train", range(8)), ("test", range(8, 16))):
        rows = [
            f"{n} {kinds[n]} 1 {spelled[n]}" for n, label in enumerate(labels) if label in wanted
        ]
        (sop / f"Ebay_{side}.txt").write_text("\n".join(["id class super path", *rows, ""]))
    status = [
        "train" if label < 8 else ("query", "gallery")[n % 2] for n, label in enumerate(labels)
    ]
    (inshop / "Eval" / "list_eval_partition.txt").write_text(
        f"{len(files)}\nname id status\n"
        + "".join(f"img/W/D/{spelled[n]} id_{kinds[n]} {status[n]}\n" for n in range(len(files)))
    )
    entries = np.array([(f"car_ims/{spelled[n]}", kinds[n]) for n in range(len(files))],
                       dtype=[("relative_im_path", "O"), ("class", "O")])  # fmt: skip
    content = {"annotations": entries, "class_names": np.array(names, dtype="O")}
    savemat(cars / "cars_annos.mat", content)


# -- made by hand ---------------------------------------------------------------------------


def cases(root: Path, wanted: set[str]) -> None:
    """Hostile files for some readers."""
    for readers, draw in _CASES:
        chosen = [name for name in readers if name in wanted]
        if chosen:
            first = root / "cases" / chosen[0]
            first.mkdir(parents=True, exist_ok=True)
            before = set(first.iterdir())
            draw(first, root)
            for other in chosen[1:]:
                (root / "cases" / other).mkdir(parents=True, exist_ok=True)
                for file in set(first.iterdir()) - before:
                    (root / "cases" / other / file.name).hardlink_to(file)


def _npy(shape: str, descr: str = "'<f4'") -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}\n".encode()
    return b"\x93NUMPY\3\0" + len(header).to_bytes(4, "little") + header


def _with_zeros(file: Path, member: str, start: bytes, sound: Path | None = None) -> None:
    """A zip in which a member unpacks to `BIG` bytes more."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as target:
        with target.open(member, "w", force_zip64=True) as stream:
            stream.write(start)
            for _ in range(BIG // 2**26):
                stream.write(bytes(2**26))
        if sound is not None:
            with zipfile.ZipFile(sound) as source:
                for name in source.namelist():
                    if name != member:
                        target.writestr(name, source.read(name))


def _npy_cases(folder: Path, root: Path) -> None:
    for name, content in {
        "1e12 rows": _npy("(1000000000000, 16)") + bytes(64),
        "3 GB of rows": _npy(f"({BIG // 64}, 16)") + bytes(64),
        "no rows of 2^62": _npy("(4611686018427387904, 0)"),
        "header of 4 GB": b"\x93NUMPY\2\0\xff\xff\xff\xff{",
        "header 100,000 deep": _npy("(" * DEEP + ")" * DEEP),
        "pickle": b"\x93NUMPY\1\0\x46\0{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"
        .ljust(80) + pickle.dumps(_Touch()),
        "pickle alone": pickle.dumps(_Touch()),
    }.items():  # fmt: skip
        (folder / name).write_bytes(content)


def _npz_cases(folder: Path, root: Path) -> None:
    sound = root / ("onnx/tiny.golden.npz" if folder.name == "golden" else "points/v.npz")
    name = "tensors.npy" if folder.name == "golden" else "points.npy"
    _with_zeros(folder / "3 GB of zeros", name, _npy(f"({BIG // 64}, 16)"), sound)
    with zipfile.ZipFile(sound) as source:
        rest = {own: source.read(own) for own in source.namelist()}
    huge, code = _npy("(1000000000000, 16)"), _npy("(1,)", "'|O'") + pickle.dumps(_Touch())
    for case, content in {"1e12 rows": huge, "pickle": code}.items():
        with zipfile.ZipFile(folder / case, "w") as target:
            for own, value in (rest | {name: content}).items():
                target.writestr(own, value)


def _pickle_of(folder: Path, name: str, code: bytes, sound: Path) -> None:
    """A checkpoint with another pickle in it."""
    with zipfile.ZipFile(sound) as source, zipfile.ZipFile(folder / name, "w") as target:
        for member in source.namelist():
            content = code if member.endswith("data.pkl") else source.read(member)
            target.writestr(member, content)


def _torch_cases(folder: Path, root: Path) -> None:
    import torch

    sound = root / "checkpoint" / "best.pt"
    content = torch.load(sound, weights_only=True)
    count = len(content["class_names"])
    array = b"\x80\2c__builtin__\nbytearray\n\x8a\5%s\x85R."
    for name, code in {
        "bytearray of 6 GB": array % (2 * BIG).to_bytes(5, "little"),
        "bytearray of 3 GB": array % BIG.to_bytes(5, "little"),
        "runs a program": pickle.dumps(_Touch(), 2),
        "lists 100,000 deep": b"\x80\2" + b"]" * DEEP + b"a" * (DEEP - 1) + b".",
        "memo of 2^31": b"\x80\2]r\xff\xff\xff\x7f.",
    }.items():
        _pickle_of(folder, name, code, sound)
    (folder / "pickle alone").write_bytes(pickle.dumps(_Touch()))
    (folder / "a text").write_bytes(b"hello\n")
    wide = torch.zeros(1).expand(10**6, 10**6)
    for name, key in (("wide proxies", "proxies"), ("wide class_points", "class_points")):
        torch.save(content | {key: wide}, folder / name)
    first = next(iter(content["model"]))
    torch.save(content | {"model": content["model"] | {first: wide}}, folder / "wide weights")
    torch.save(dict.fromkeys(content["model"], wide), folder / "all weights wide")
    torch.save(
        content | {"class_names": ["\x1b[2J\u202e"] * count}, folder / "names that a terminal obeys"
    )
    torch.save(content | {"class_names": ["a" * 10**6] * count}, folder / "names of 1 MB")
    torch.save(
        content | {"recipe": content["recipe"] | {"embedding_dim": 10**9}},
        folder / "1e9 dimensions",
    )
    with zipfile.ZipFile(sound) as source:
        member = next(name for name in source.namelist() if name.endswith("/data/0"))
        members = {name: source.read(name) for name in source.namelist()}
    with zipfile.ZipFile(folder / "deflated", "w", zipfile.ZIP_DEFLATED) as target:
        for name, value in members.items():
            target.writestr(name, value)
    _with_zeros(folder / "member of 3 GB", member, b"", sound)
    torch.jit.save(torch.jit.script(torch.nn.ReLU()), folder / "TorchScript")


def _tar_cases(folder: Path, root: Path) -> None:
    def header(kind: bytes, size: int, name: str = "x") -> bytes:
        info = tarfile.TarInfo(name)
        info.type, info.size = kind, size
        return info.tobuf()

    for name, content in {
        "pax header of 3 GB": header(tarfile.XHDTYPE, BIG) + bytes(2048),
        "long name of 3 GB": header(tarfile.GNUTYPE_LONGNAME, BIG) + bytes(2048),
        "pax size": header(tarfile.XHDTYPE, 22) + b"22 size=9999999999999\n".ljust(512, b"\0")
        + header(b"0", 5) + bytes(2048),
        "pax 5,000 digits": header(tarfile.XHDTYPE, 5012) + (b"5012 size=" + b"9" * 5001 + b"\n")
        .ljust(5120, b"\0") + header(b"0", 5) + bytes(2048),
        "device": header(tarfile.CHRTYPE, 0) + bytes(1024),
        "link": header(tarfile.SYMTYPE, 0, "a/b") + bytes(1024),
        "up": header(b"0", 0, "../../x") + bytes(1024),
        "folder of a file": header(b"0", 0, "a") + header(b"0", 0, "a/b") + bytes(1024),
    }.items():  # fmt: skip
        (folder / name).write_bytes(content)
        (folder / f"{name}, packed").write_bytes(gzip.compress(content))
    packer = zlib.compressobj(1, wbits=31)
    parts = [packer.compress(header(tarfile.XHDTYPE, BIG))]
    parts += [packer.compress(bytes(2**26)) for _ in range(BIG // 2**26)]
    (folder / "pax header of 3 GB, whole, packed").write_bytes(b"".join(parts) + packer.flush())


def _zip_cases(folder: Path, root: Path) -> None:
    _with_zeros(folder / "3 GB of zeros", "toy/a.txt", b"")
    for name, member in {"up": "../x", "absolute": "/x", "drive": "C:\\x", "long": "a/" * 30_000,
                         "both": "a"}.items():  # fmt: skip
        content = packed_zip({member: b"x"} | ({"a/b": b"y"} if name == "both" else {}))
        (folder / name).write_bytes(content)


def _newick_cases(folder: Path, root: Path) -> None:
    comb = "".join("(" for _ in range(20_000)) + "kind0" + "".join(f",x{n})" for n in range(20_000))
    for name, content in {
        "comb of 20,000": comb + ";",
        "100,000 deep": "(" * DEEP + "kind0" + ")" * DEEP + ";",
        "100,000 open": "(" * DEEP,
        "star of 100,000": "(kind0,kind1," + ",".join(f"x{n}" for n in range(DEEP)) + ");",
        "length of 5,000 digits": f"(kind0:{'9' * 5000},kind1:1e999,kind2:-1,kind3:nan);",
        "names that a terminal obeys": "('kind0\x1b[2J','\u202ekind1',kind2,[x](a,b)'\x07');",
        "name of 1 MB": f"(({'a' * 10**6},kind0),kind1);",
        "quotes": "(" + "'" * 10**6 + ",a);",
        "notes": "(" + "[" * 10**6 + ",a);",
        "one leaf": "(kind0);", "alone": "kind0;", "nothing": ";", "empty names": "(,,);",
    }.items():  # fmt: skip
        (folder / name).write_text(content)


def _json_cases(folder: Path, root: Path) -> None:
    node = json.loads((root / "trees" / "tree.json").read_text())
    leaf = {name: value for name, value in node.items() if name != "children"}
    deep = json.dumps(leaf)
    for number in range(400):
        deep = json.dumps(leaf | {"id": f"n{number}"})[:-1] + f', "children": [{deep}]}}'
    for name, content in {
        "100,000 deep": "[" * DEEP + "]" * DEEP, "children 400 deep": deep,
        "objects 100,000 deep": '{"children":[' * DEEP + "]}" * DEEP,
        "5,000 digits": json.dumps(node).replace('"size": ', '"size": ' + "9" * 5000, 1),
        "of itself": "null", "a list": "[]", "a number": "1", "two roots": json.dumps([node, node]),
        "names that a terminal obeys": json.dumps(
            node | {"name": "\x1b[2J\u202e", "id": "\x1b]0;x\x07"}, ensure_ascii=False),
        "all alike": json.dumps(leaf | {"children": [leaf] * 1000}),
        "halves of characters": json.dumps(node | {"name": "\ud800", "id": "\udc80"}),
    }.items():  # fmt: skip
        (folder / name).write_text(content)


def _toml_cases(folder: Path, root: Path) -> None:
    for name, content in {
        "100,000 deep": "seed = " + "[" * DEEP + "]" * DEEP,
        "tables 100,000 deep": "seed = " + "{a=" * DEEP + "1" + "}" * DEEP,
        "name 100,000 deep": "a." * DEEP + "b = 1",
        "header 100,000 deep": "[" + "a." * DEEP + "b]\nc = 1",
        "5,000 digits": "seed = " + "9" * 5000, "name of 1 MB": "a" * 10**6 + " = 1",
        "1e999": "c = 1e999", "nan": "c = nan", "2^70": f"epochs = {2**70}",
        "names that a terminal obeys": '"\\u001b[2J\\u202e" = 1',
        "a date": "seed = 1979-05-27T07:32:00Z", "100,000 names": "\n".join(
            f"x{n} = 1" for n in range(DEEP)),
        "a value of 1 MB": f'backbone = "{"a" * 10**6}"', "backbone": 'backbone = "\\u001b[2J"',
    }.items():  # fmt: skip
        (folder / name).write_text(content)


def _image_cases(folder: Path, root: Path) -> None:
    picture = Image.open(root / "images" / "a.png").convert("RGB")
    for kind in ("EPS", "ICO", "TGA", "PCX", "IM", "SGI", "DDS", "JPEG2000", "ICNS", "PDF", "XBM",
                 "MSP", "SPIDER", "AVIF", "PALM"):  # fmt: skip
        try:
            mode = {"XBM": "1", "MSP": "1", "SPIDER": "F", "PALM": "P"}.get(kind, "RGB")
            picture.convert(mode).save(folder / kind, kind)
        except (OSError, KeyError, ValueError):
            (folder / kind).unlink(missing_ok=True)
    side = (13_000, 13_000)
    Image.new("RGBA", side).save(folder / "PNG of 169 megapixels, clear", "PNG", compress_level=1)
    Image.new("L", side).save(folder / "GIF of 169 megapixels", "GIF")
    Image.new("I;16", side).save(folder / "TIFF of 169 megapixels, 16 bits", "TIFF",
                                 compression="tiff_adobe_deflate")  # fmt: skip
    Image.new("F", side).save(folder / "TIFF of 169 megapixels, floats", "TIFF",
                              compression="tiff_adobe_deflate")  # fmt: skip
    Image.new("RGB", side).save(folder / "WebP of 169 megapixels", "WEBP", quality=1, method=0)
    Image.new("CMYK", side).save(folder / "JPEG of 169 megapixels", "JPEG", quality=1)
    stream = io.BytesIO()
    Image.new("L", (8000, 8000)).save(stream, "JPEG", progressive=True)
    scans = stream.getvalue().split(b"\xff\xda")
    (folder / "JPEG of 1,000 scans").write_bytes(b"\xff\xda".join(scans[:2] + scans[2:3] * 1000))
    png = (root / "images" / "a.png").read_bytes()
    head = struct.pack(">II", 2**31 - 1, 2**31 - 1) + png[24:29]
    checked = struct.pack(">I", zlib.crc32(b"IHDR" + head))
    (folder / "PNG of 2^62 pixels").write_bytes(png[:16] + head + checked + png[33:])
    gif = bytearray((root / "images" / "a.gif").read_bytes())
    gif[6:10] = b"\xff" * 4
    (folder / "GIF of 4 gigapixels").write_bytes(gif)
    (folder / "PPM of 1e18 pixels").write_bytes(b"P6 1000000000 1000000000 255\n" + b"x" * 99)
    (folder / "PPM, 5,000 digits").write_bytes(b"P6 " + b"9" * 5000 + b" 1 255\n" + b"x" * 99)
    text = b"a\0\0" + zlib.compress(bytes(2**28), 1)
    chunk = (
        struct.pack(">I", len(text))
        + b"zTXt"
        + text
        + struct.pack(">I", zlib.crc32(b"zTXt" + text))
    )
    (folder / "PNG with a text of 256 MB").write_bytes(png[:33] + chunk * 16 + png[33:])


def _header_cases(folder: Path, root: Path) -> None:
    for name, content in hostile_headers.FORMATS[folder.name.removeprefix("header-")]():
        (folder / name).write_bytes(content)


def _csv_cases(folder: Path, root: Path) -> None:
    for name, content in {
        "100,000 columns": "path,label," + ",".join(f"x{n}" for n in range(DEEP)) + "\na,b"
        + ",c" * DEEP, "quote that stays open": 'path,label\n"' + "a,b\n" * 100_000,
        "same columns": "path,label,label,path\na,b,c,d\n", "header alone": "path,label\n",
        "cell of 10 MB": "class_name,label,path\na,b," + "x" * 10**7,
        "NUL": "path,label\n\0,\0\n", "wide row": "path,label\na,b,c\n", "blank": "\n" * 1000,
        "names that a terminal obeys": "path,label\n\x1b[2J,\u202e\n",
        "column that a terminal obeys": "path,\x1b[2J\u202e\na,b\n",
        "many rows": "path,label\n" + "".join(f"a{n}.jpg,kind{n % 9}\n" for n in range(DEEP)),
    }.items():  # fmt: skip
        (folder / name).write_text(content)


def _parquet_cases(folder: Path, root: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    points = [[0.1] * 16] * 48
    paths = [f"k{n // 6}/{n}.jpg" for n in range(48)]
    for name, columns in {
        "points as text": {"path": paths, "point": ["x"] * 48},
        "points as numbers": {"path": paths, "point": [0.1] * 48},
        "points of points": {"path": paths, "point": [[[0.1]]] * 48},
        "ragged": {"path": paths, "point": [[0.1] * (n + 1) for n in range(48)]},
        "no points": {"path": paths, "point": [None] * 48}, "one missing": {
            "path": paths, "point": [*points[:47], None]},
        "paths missing": {"path": [None] * 48, "point": points, "label": [None] * 48},
        "paths as bytes": {"path": [b"\xff\0"] * 48, "point": points, "label": [b"\xff"] * 48},
        "lists as paths": {"path": [[1]] * 48, "point": points, "label": [{"a": 1}] * 48},
        "whole numbers": {"path": paths, "point": [[1] * 16] * 48}, "no rows": {
            "path": pa.array([], pa.string()), "point": pa.array([], pa.list_(pa.float32()))},
        "other columns": {"a": [1]}, "nothing": {},
        "nan": {"path": paths, "point": [[float("nan")] * 16] * 48},
        "NUL paths": {"path": ["a\0b"] * 48, "label": ["\x1b[2J\u202e"] * 48, "point": points},
        "years": {"path": [pa.scalar(2**40, pa.timestamp("s")).cast(pa.timestamp("s"))] * 48,
                  "label": paths, "point": points},
    }.items():  # fmt: skip
        table = pa.table(columns)
        parquet.write_table(table, folder / name)
    for facts in (b"{", b"[]", b'{"c": "x"}', b'{"c": NaN, "fingerprint": 3}', b"[" * DEEP,
                  b'{"c": [], "fingerprint": []}', b'{"c": -1}', b"\xff"):  # fmt: skip
        table = pa.table({"path": paths, "point": points})
        table = table.replace_schema_metadata({b"hier": facts})
        parquet.write_table(table, folder / f"facts {facts[:20].hex()}")
    flat = pa.array(np.zeros(5_000_000, np.float32))
    columns = {"path": pa.array(["a/b.jpg"] * len(flat)), "label": pa.array(["k"] * len(flat)),
               "point": pa.FixedSizeListArray.from_arrays(flat, 1)}  # fmt: skip
    same = pa.table(columns)
    with parquet.ParquetWriter(folder / "60 million rows", same.schema) as writer:
        for _ in range(12):
            writer.write_table(same)


def _database_cases(folder: Path, root: Path) -> None:
    from hiercli.index.schema import COLUMNS

    columns = {"facts": "name, value", "images": COLUMNS, "folders": "id, path, checksum",
               "classes": "id, label, levels, checksum", "quarantine": "folder, name, reason",
               "points": "id, point, checksum", "pending": "content, id, checksum"}  # fmt: skip
    sound = root / ("draft/.idx.faiss.hier-part" if folder.name == "draft" else
                    "index-flat/idx.faiss.sqlite")  # fmt: skip
    for name, query in {
        "without end": "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t) SELECT {}",
        "of 900 MB": "SELECT {}",
    }.items():
        for table, names in columns.items():
            shutil.copy(sound, folder / f"{table} {name}")
            with closing(sqlite3.connect(folder / f"{table} {name}")) as database:
                cells = [f"{'n' if 'end' in name else 'zeroblob(900000000)'} AS {own}"
                         for own in names.split(", ")]  # fmt: skip
                try:
                    database.execute(f"DROP TABLE {table}")
                except sqlite3.Error:
                    continue
                source = " FROM t" if "end" in name else ""
                database.execute(f"CREATE VIEW {table} AS {query.format(', '.join(cells))}{source}")
                database.commit()
    with closing(sqlite3.connect(folder / "another program's")) as database:
        database.execute("CREATE TABLE cookies (a)")
        database.commit()


def _faiss_cases(folder: Path, root: Path) -> None:
    import faiss

    hnsw = faiss.IndexHNSWFlat(17, 8, faiss.METRIC_INNER_PRODUCT)
    for name, index in {
        "without ids": faiss.IndexFlatIP(17), "LSH": faiss.IndexLSH(17, 32), "graph": hnsw,
        "other dimensions": faiss.IndexIDMap(faiss.IndexFlatIP(3)),
        "L2": faiss.IndexIDMap(faiss.IndexFlatL2(17)), "PQ": faiss.index_factory(17, "PQ17x4"),
        "turned": faiss.index_factory(17, "PCA8,Flat"), "empty": faiss.IndexIDMap(
            faiss.IndexFlatIP(17)),
        "maps in maps": faiss.IndexIDMap(faiss.IndexIDMap(faiss.IndexFlatIP(17))),
        "ids both ways": faiss.IndexIDMap2(faiss.IndexFlatIP(17)),
    }.items():  # fmt: skip
        faiss.write_index(index, str(folder / name))
    faiss.write_index_binary(faiss.IndexBinaryFlat(64), str(folder / "binary"))
    lists = faiss.IndexIVFFlat(faiss.IndexFlatIP(17), 17, 2, faiss.METRIC_INNER_PRODUCT)
    points = np.random.default_rng(0).random((100, 17), np.float32)
    lists.train(points)
    on_disk = faiss.OnDiskInvertedLists(2, lists.code_size, str(folder / "lists"))
    lists.replace_invlists(on_disk, False)
    lists.add(points)
    faiss.write_index(lists, str(folder / "lists in another file"))
    (folder / "lists").unlink()
    head = struct.pack("<4siqqq?i", b"IxMp", 17, 48, 2**20, 2**20, True, 0)
    for name, dim, count in (("1e12 rows", 17, 10**12), ("2^31 dimensions", 2**31 - 1, 48),
                             ("-1 rows", 17, -1), ("no dimensions", 0, 48)):  # fmt: skip
        inner = struct.pack("<4siqqq?i", b"IxFI", dim, count, 0, 0, True, 0)
        size = struct.pack("<Q", dim * count % 2**64)
        (folder / name).write_bytes(head + inner + size + bytes(48 * 17 * 4 + 8 + 48 * 8))


def _mat_cases(folder: Path, root: Path) -> None:
    sound = (root / "cars/cars196/cars_annos.mat").read_bytes()
    packer = zlib.compressobj(1)
    tag = struct.pack("<II", 14, BIG + 56) + struct.pack("<IIII", 6, 8, 9, 0)
    tag += struct.pack("<IIii", 5, 8, 2**16, BIG >> 16) + struct.pack("<II4s4x", 1, 4, b"abcd")
    parts = [packer.compress(tag + struct.pack("<II", 2, BIG))]
    parts += [packer.compress(bytes(2**26)) for _ in range(BIG // 2**26)]
    packed = b"".join(parts) + packer.flush()
    (folder / "3 GB of zeros").write_bytes(
        sound[:128] + struct.pack("<II", 15, len(packed)) + packed
    )
    (folder / "HDF5").write_bytes(sound[:124] + b"\0\2IM" + b"\x89HDF\r\n\x1a\n" + bytes(400))
    (folder / "old").write_bytes(struct.pack("<iiiii", 0, 10**5, 10**5, 0, 2) + b"a\0" + bytes(99))


def _onnx_cases(folder: Path, root: Path) -> None:
    import onnx
    from mutations import _load, _save
    from onnx import TensorProto, helper

    def added(name: str, nodes: list[onnx.NodeProto], value: str) -> None:
        """The sound graph, with ``value`` (a scalar) added to its output."""
        model = _load(root / "onnx" / "tiny.onnx")
        output = model.graph.output[0].name
        for node in model.graph.node:
            node.output[:] = ["old" if own == output else own for own in node.output]
        model.graph.node.extend([*nodes, helper.make_node("Add", ["old", value], [output])])
        _save(model, folder / name)

    def constant(name: str, kind: int, *values: int) -> onnx.NodeProto:
        shape = [len(values)] if kind == TensorProto.INT64 and name == "shape" else []
        tensor = helper.make_tensor(name, kind, shape, values)
        return helper.make_node("Constant", [], [name], value=tensor)

    for size in (BIG // 4, 10**12):
        added(f"constant of {size} numbers", [
            constant("shape", TensorProto.INT64, size),
            helper.make_node("ConstantOfShape", ["shape"], ["wide"]),
            helper.make_node("ReduceSum", ["wide"], ["sum"], keepdims=0)], "sum")  # fmt: skip
    body = helper.make_graph(
        [helper.make_node("Identity", ["going"], ["again"]),
         helper.make_node("Identity", ["before"], ["after"])], "body",
        [helper.make_tensor_value_info("turn", TensorProto.INT64, []),
         helper.make_tensor_value_info("going", TensorProto.BOOL, []),
         helper.make_tensor_value_info("before", TensorProto.FLOAT, [])],
        [helper.make_tensor_value_info("again", TensorProto.BOOL, []),
         helper.make_tensor_value_info("after", TensorProto.FLOAT, [])])  # fmt: skip
    added("loop without end", [
        constant("many", TensorProto.INT64, 2**63 - 1), constant("yes", TensorProto.BOOL, 1),
        constant("nil", TensorProto.FLOAT, 0),
        helper.make_node("Loop", ["many", "yes", "nil"], ["last"], body=body)], "last")  # fmt: skip
    model = _load(root / "onnx" / "tiny.onnx")
    (folder / "without metadata").write_bytes(
        helper.make_model(model.graph, opset_imports=model.opset_import).SerializeToString()
    )
    for name in NAMES:
        model.metadata_props[0].value = name.decode("utf-8", "replace")
        _save(model, folder / f"metadata {name[:9].hex()}")
    _npy_cases(folder, root)


_CASES: list[tuple[tuple[str, ...], Callable[[Path, Path], None]]] = [
    (("npy",), _npy_cases), (("npz",), _npz_cases), (("golden",), _npz_cases),
    (("checkpoint", "resume", "weights"), _torch_cases), (("tar",), _tar_cases),
    (("zip",), _zip_cases), (("tree-newick", "taxonomy-newick"), _newick_cases),
    (("tree-json",), _json_cases), (("recipe", "resume-config"), _toml_cases),
    (("jpeg",), _image_cases), *(((f"header-{name}",), _header_cases)
                                 for name in hostile_headers.FORMATS),
    (("manifest-csv", "taxonomy-csv", "paths"), _csv_cases),
    (("parquet", "parquet-folder", "manifest-parquet"), _parquet_cases),
    (("catalogue",), _database_cases), (("draft",), _database_cases),
    (("faiss-sealed",), _faiss_cases), (("cars",), _mat_cases), (("onnx",), _onnx_cases),
]  # fmt: skip
