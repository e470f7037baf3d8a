"""The data set ``demo``: a made-up flora, grown along a random tree and photographed in code.

Nothing is downloaded. The tree (`hiercli.data.phylogeny`) is therefore known, and it can be seen
in the pictures (`hiercli.data.flora`). Half of the species of each genus are there to train on;
the other half are only ever searched for.

::

    demo/photos/<Genus_species>/<Genus_species>_007.jpg
    demo/taxonomy.csv    class_id,class_name,species,genus,family,order,split
    demo/tree.nwk        the true tree; its leaves are the class names
    demo/flora.json      what was generated; written last, so that its presence means complete
"""

import csv
import json
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np

from hiercli.data.flora import photograph
from hiercli.data.phylogeny import LEVELS, Flora, grow
from hiercli.data.records import Dataset, Record
from hiercli.errors import DataError
from hiercli.files import write_text
from hiercli.images import natural_key

Progress = Callable[[int, int], None]

# Raised whenever the same seed would give other pictures: older folders are then replaced.
VERSION = 1
GENERATOR = "hiercli demo flora"
JPEG_QUALITY = 88


def load(root: Path, progress: Progress | None = None) -> Dataset:
    """Read ``root/demo``, generating it first where it is missing or incomplete.

    Args:
        root: folder that holds the data sets.
        progress: called with (photographs done, photographs in all) while they are drawn.

    Returns:
        the data set under its protocol: unseen species, each photograph searched for among all
        the others. Records are in natural order of their paths.

    Raises:
        DataError: the folder is not ours, or cannot be written.
    """
    folder = Path(root) / "demo"
    if not _is_complete(folder):
        generate(root, progress=progress)
    splits: dict[str, list[Record]] = {"train": [], "test": []}
    for row in _read_taxonomy(folder):
        taxonomy = tuple(row[level] for level in LEVELS)
        for path in (folder / "photos" / row["class_name"]).glob("*.jpg"):
            splits[row["split"]].append(Record(path, row["class_name"], taxonomy))
    train, test = (
        tuple(sorted(records, key=lambda record: natural_key(str(record.path))))
        for records in splits.values()
    )
    tree = (folder / "tree.nwk").read_text(encoding="utf-8").strip()
    return Dataset(name="demo", train=train, query=test, level_names=LEVELS, tree=tree)


def generate(
    root: Path,
    *,
    seed: int = 0,
    num_species: int = 80,
    photos_per_species: int = 24,
    size: int = 160,
    progress: Progress | None = None,
) -> Path:
    """Make the data set, or leave it as it is where the same one already stands there.

    The work is done in a hidden folder beside it, renamed when everything is there: a killed run
    leaves what stood there before, or nothing.

    Args:
        root: folder that holds the data sets; made if missing.
        seed: which flora; the same numbers give the same bytes.
        num_species: classes, at least 8; from 64 on they fall into four orders or more.
        photos_per_species: at least 2, so that each has another to be found by.
        size: side of a photograph in pixels, at least 32.
        progress: called with (photographs done, photographs in all) after each one.

    Returns:
        the folder ``root/demo``, complete.

    Raises:
        DataError: a number is too small, another demo or something foreign lies there, or it
            cannot be written.
    """
    for name, value, least in (
        ("seed", seed, 0),
        ("num_species", num_species, 8),
        ("photos_per_species", photos_per_species, 2),
        ("size", size, 32),
    ):
        if value < least:
            raise DataError(f"expected {name} of at least {least}, got {value}")
    folder = Path(root) / "demo"
    made: dict[str, str | int] = {
        "generator": GENERATOR,
        "version": VERSION,
        "seed": seed,
        "num_species": num_species,
        "photos_per_species": photos_per_species,
        "size": size,
    }
    try:
        if _is_complete(folder, made):
            return folder
        _refuse_foreign(folder, made)
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(folder.parent)
        draft = Path(tempfile.mkdtemp(prefix=".demo-draft-", dir=folder.parent))
        try:
            flora = grow(seed, num_species)
            _write_photographs(draft, flora, seed, photos_per_species, size, progress)
            _write_taxonomy(draft / "taxonomy.csv", flora)
            write_text(draft / "tree.nwk", flora.newick + "\n")
            write_text(draft / "flora.json", json.dumps(made, indent=2) + "\n")
            draft.chmod(0o755)
            _put_in_place(draft, folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    except OSError as error:
        if _is_complete(folder, made):
            return folder  # another run made the same set in the meantime
        raise DataError(
            f"cannot write the demo data set to {folder}: {error.strerror or error}. Free some "
            "space or choose another folder for data sets"
        ) from error
    return folder


# ------------------------------------------------------------------------------------------ files


def _write_photographs(
    draft: Path,
    flora: Flora,
    seed: int,
    photos_per_species: int,
    size: int,
    progress: Progress | None,
) -> None:
    """Each photograph from a generator of its own, so that any of them can be drawn alone."""
    total = len(flora.species) * photos_per_species
    for one in flora.species:
        folder = draft / "photos" / one.class_name
        folder.mkdir(parents=True)
        for number in range(photos_per_species):
            generator = np.random.default_rng((seed, one.index, number))
            picture = photograph(one.traits, generator, size)
            picture.save(folder / f"{one.class_name}_{number:03d}.jpg", quality=JPEG_QUALITY)
            if progress is not None:
                progress(one.index * photos_per_species + number + 1, total)


def _write_taxonomy(path: Path, flora: Flora) -> None:
    """One row per class; ``class_id`` is the place of its name in natural order."""
    columns = ("class_id", "class_name", "species", "genus", "family", "order", "split")
    ordered = sorted(flora.species, key=lambda one: natural_key(one.class_name))
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        for class_id, one in enumerate(ordered):
            species = one.class_name.replace("_", " ")
            row = (class_id, one.class_name, species, one.genus, one.family, one.order, one.split)
            writer.writerow(row)


def _read_taxonomy(folder: Path) -> list[dict[str, str]]:
    with open(folder / "taxonomy.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _read_made(folder: Path) -> dict[str, object] | None:
    """What ``flora.json`` says was generated; nothing where it is missing or not ours."""
    try:
        made = json.loads((folder / "flora.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return made if isinstance(made, dict) and made.get("generator") == GENERATOR else None


def _is_complete(folder: Path, wanted: Mapping[str, object] | None = None) -> bool:
    """Whether the folder holds all that its ``flora.json``, of this version, says.

    Args:
        folder: the data set.
        wanted: what ``flora.json`` must say; anything where left out.
    """
    made = _read_made(folder)
    if made is None or (wanted is not None and made != wanted):
        return False
    if made.get("version") != VERSION or not (folder / "tree.nwk").is_file():
        return False
    try:
        folders = [folder / "photos" / row["class_name"] for row in _read_taxonomy(folder)]
    except (OSError, ValueError, KeyError, csv.Error):
        return False
    expected = made.get("photos_per_species")
    return len(folders) == made.get("num_species") and all(
        sum(1 for _ in photos.glob("*.jpg")) == expected for photos in folders
    )


def _refuse_foreign(folder: Path, wanted: Mapping[str, object]) -> None:
    """Stop before something that is not ours, or another flora, would be replaced."""
    if not folder.exists() and not folder.is_symlink():
        return
    made = _read_made(folder) if folder.is_dir() else None
    if made is not None:
        if made != wanted and _is_complete(folder):
            raise DataError(
                f"{folder} already contains another demo ({made['num_species']} species, "
                f"{made['photos_per_species']} photos of each, seed {made['seed']}). Remove it, or "
                "choose another folder with --data-root"
            )
        ours = re.compile(
            r"photos(/[^/]+(/[^/]+_\d{3,}\.jpg)?)?|taxonomy\.csv|tree\.nwk|flora\.json"
        )
        for path in folder.rglob("*"):
            name = path.relative_to(folder).as_posix()
            if not ours.fullmatch(name):
                raise DataError(
                    f"expected nothing but a generated demo in {folder}, which is to be drawn "
                    f"again, but found {name}. Move it away, or choose another folder with "
                    "--data-root"
                )
        return
    if folder.is_dir() and not any(folder.iterdir()):
        return
    what = "a folder with other contents" if folder.is_dir() else "not a folder"
    raise DataError(
        f"expected {folder} to be missing, empty or a generated demo data set (with its "
        f"flora.json), but it is {what}. Move it away, or choose another folder for data sets"
    )


def _put_in_place(draft: Path, folder: Path) -> None:
    """Rename ``draft`` to ``folder``, setting aside and then removing what stood there."""
    if folder.exists():
        aside = Path(tempfile.mkdtemp(prefix=".demo-draft-", dir=folder.parent))
        folder.rename(aside / "demo")
        draft.rename(folder)
        shutil.rmtree(aside, ignore_errors=True)
    else:
        draft.rename(folder)


def _remove_abandoned(root: Path) -> None:
    """Remove what killed runs left, once it has lain untouched for an hour."""
    for draft in root.glob(".demo-draft-*"):
        with suppress(FileNotFoundError):  # its own run may be renaming it just now
            newest = max(path.stat().st_mtime for path in (draft, *draft.glob("photos")))
            if time.time() - newest > 3600.0:
                shutil.rmtree(draft, ignore_errors=True)
