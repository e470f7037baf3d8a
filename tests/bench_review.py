"""What `hier review` and words as queries find in the CUB subset, and how long copies take to find.

`make bench-review` runs it, with the CUB subset in ``HIER_DATA`` or ``data``; it takes minutes.
Arguments name parts of it: labels, classes, words, copies, flora (copies in the generated flora),
time; an encoder stands in for the general one.
Wrong labels: 100 images get the label of another class, five times. Classes: ten pairs get one
label; ten classes get two. Copies: 1,200 images re-encoded, resized, mirrored, cropped. Words: the
names of all species, and their last words. Time: copies among 100,000 points with small pictures.
"""

import io
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from bench_index import cloud
from PIL import Image, ImageOps

from hiercli import Collection, Encoder, Index
from hiercli.data import catalogue
from hiercli.hierarchy.tree import Tree
from hiercli.index import words
from hiercli.review import duplicates
from hiercli.review.finding import Finding
from hiercli.review.labels import doubts
from hiercli.review.neighbourhood import nearest_of_all

COPIED = 1200
MANY = 100_000
Edit = Callable[[Image.Image, np.random.Generator], Image.Image]


def main() -> None:
    """Print a line a measurement."""
    models = [word for word in sys.argv[1:] if word.endswith(".onnx")]
    parts = [word for word in sys.argv[1:] if word not in models]
    parts = parts or ["labels", "classes", "words", "copies", "flora", "time"]
    encoder = Encoder(*models)
    if {"labels", "classes", "words", "copies"} & set(parts):
        found = embedded("cub", encoder)
    if "labels" in parts:
        plant_labels(found)
    if "classes" in parts:
        plant_classes(found)
    if "words" in parts:
        ask_in_words(found)
    if "copies" in parts:
        plant_copies(found, encoder)
    if "flora" in parts:
        plant_copies(embedded("demo", encoder), encoder)
    if "time" in parts:
        time_copies()


def embedded(data: str, encoder: Encoder) -> Collection:
    """All images of a data set."""
    dataset = catalogue.load(data, root=Path(os.environ.get("HIER_DATA", "data")))
    records = [*dataset.train, *dataset.validation, *dataset.query]
    return encoder.embed_records(records, skipped=print)


def plant_labels(images: Collection) -> None:
    """Wrong labels that are found, and others that are doubted."""
    for seed in range(5):
        rng = np.random.default_rng(seed)
        labels, names = list(images.labels or ()), images.classes
        planted = set(rng.permutation(len(images))[:100].tolist())
        for place in planted:
            labels[place] = str(rng.choice([name for name in names if name != labels[place]]))
        doubted = {int(one.path) for one in looked(images, labels) if one.kind == "relabel"}
        print(f"wrong labels, seed {seed}: {len(doubted & planted)} of 100 found, "
              f"{len(doubted - planted)} others doubted", flush=True)  # fmt: skip


def plant_classes(images: Collection) -> None:
    """Pairs of classes under one label, and classes under two."""
    for seed in range(3):
        rng = np.random.default_rng(seed)
        chosen = rng.permutation(images.classes)[:20].reshape(10, 2).tolist()
        one_label = {second: first for first, second in chosen}
        labels = [one_label.get(label, label) for label in images.labels or ()]
        found = {one.label for one in looked(images, labels) if one.kind == "split"}
        firsts = {first for first, _ in chosen}
        print(f"two classes under one label, seed {seed}: {len(found & firsts)} of 10 found, "
              f"{len(found - firsts)} others", flush=True)  # fmt: skip
        labels = [label + " again" if label in firsts and rng.random() < 0.5 else label
                  for label in images.labels or ()]  # fmt: skip
        merges = {one.label for one in looked(images, labels) if one.kind == "merge"}
        print(f"one class under two labels, seed {seed}: {len(merges & firsts)} of 10 found, "
              f"{len(merges - firsts)} others", flush=True)  # fmt: skip


def looked(images: Collection, labels: list[str]) -> list[Finding]:
    """Doubts of a collection with other labels, at the confidence that is the default."""
    paths = [str(place) for place in range(len(images))]
    other = Collection(images.points, paths, labels, c=images.c, proxies=images.proxies)
    return doubts(other, Tree.of_collection(other).root)


def ask_in_words(images: Collection) -> None:
    """Names of species and their last words, by the label of the first hit."""
    labels = {name: name.partition(".")[2].replace("_", " ") for name in images.classes}
    last: dict[str, set[str]] = {}
    for name, text in labels.items():
        last.setdefault(text.split()[-1].lower(), set()).add(name)
    where = Path("words.faiss")
    with Index.build(where, images, "flat", rebuild=True) as index:
        for what, asked in (("species", {text: {name} for name, text in labels.items()}),
                            ("last words", last)):  # fmt: skip
            right = 0
            for text, names in asked.items():
                meant = words.understand(text, index.reader)
                right += words.around(index.reader, meant.points, 1)[0].label in names
            print(f"words, {what}: {right} of {len(asked)} first hits right", flush=True)
    for file in Path().glob("words.faiss*"):
        file.unlink()


def jpeg(picture: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return Image.open(io.BytesIO(buffer.getvalue())).convert("RGB")


def crop(share: float) -> Edit:
    def cut(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
        width, height = (int(side * share) for side in picture.size)
        left = int(rng.integers(0, picture.width - width + 1))
        top = int(rng.integers(0, picture.height - height + 1))
        return jpeg(picture.crop((left, top, left + width, top + height)), 90)

    return cut


EDITS: dict[str, Edit] = {
    "re-encoded at quality 30": lambda picture, _: jpeg(picture, 30),
    "at half size": lambda picture, _: jpeg(picture.reduce(2), 85),
    "mirrored": lambda picture, _: jpeg(ImageOps.mirror(picture), 90),
    "crop of 85 % a side": crop(0.85),
    "crop of 70 % of the area": crop(0.7**0.5),
    "crop of 70 % a side": crop(0.7),
}


def plant_copies(images: Collection, encoder: Encoder) -> None:
    """Copies that are found, and other pairs."""
    paths = images.paths or []
    chosen = np.random.default_rng(0).permutation(len(paths))[:COPIED]
    own = [small(Image.open(path).convert("RGB")) for path in paths]
    before = pairs_of(images.points, own, images.c or 1.0)
    print(f"copies in the collection itself: {len(before)} pairs", flush=True)
    for name, edit in EDITS.items():
        rng = np.random.default_rng(1)
        edited = [edit(Image.open(paths[place]).convert("RGB"), rng) for place in chosen]
        points = np.concatenate([images.points, encoder.embed(edited).points])
        found = pairs_of(points, own + [small(one) for one in edited], images.c or 1.0)
        right = {(int(place), len(paths) + row) for row, place in enumerate(chosen)}
        others = len(found - right - before)
        print(f"{name}: {len(found & right) / COPIED:.1%} found, {others} other pairs "
              f"(precision {len(found & right) / max(1, len(found & right) + others):.1%})",
              flush=True)  # fmt: skip


def small(picture: Image.Image) -> tuple[np.ndarray, float]:
    picture.thumbnail((128, 128))
    return duplicates.small_grey(picture)


def pairs_of(
    points: np.ndarray, pictures: list[tuple[np.ndarray, float]], c: float
) -> set[tuple[int, int]]:
    _, near = nearest_of_all(points, duplicates.NEIGHBOURS, c)
    found = duplicates.near_duplicates(near, *duplicates.gathered(pictures))
    return {(int(a), int(b)) for a, b in zip(found.first, found.second, strict=True)}


def time_copies() -> None:
    """Seconds for 100,000 points in groups, with small pictures at hand as an index keeps them."""
    points = cloud(MANY, 0.1, 2.3, 1, 384, grouped=True)
    noise = np.random.default_rng(0).integers(0, 255, (256, 12, 12, 3), np.uint8)
    stored = []
    for one in noise:
        buffer = io.BytesIO()
        Image.fromarray(one).resize((128, 96), Image.Resampling.BICUBIC).save(buffer, "JPEG")
        stored.append(buffer.getvalue())
    started = time.perf_counter()
    _, near = nearest_of_all(points, duplicates.NEIGHBOURS, 0.1)
    neighbours = time.perf_counter()
    pictures = [duplicates.stored_grey(stored[place % 256]) for place in range(MANY)]
    read = time.perf_counter()
    shuffled = np.random.default_rng(1).permutation(MANY)
    greys, aspects = duplicates.gathered([pictures[place][:2] for place in shuffled])
    duplicates.near_duplicates(near, greys, aspects)
    done = time.perf_counter()
    print(f"copies among {MANY:,} images: {done - started:.0f} s (neighbours "
          f"{neighbours - started:.0f}, decoding {read - neighbours:.0f}, comparing "
          f"{done - read:.0f})")  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
