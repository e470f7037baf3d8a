"""The tree as one page: a Poincare disk to walk in, with photos, that works without a network.

Where everything lies is worked out by `hierarchy.layout`; ``disk.js`` moves and draws it.
"""

import base64
import io
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from PIL import Image

from hiercli.errors import ImageError
from hiercli.files import readable, write_text
from hiercli.hierarchy import layout
from hiercli.hierarchy.node import Node
from hiercli.images import Picture, centre_box, read
from hiercli.reports.page import filled

MOST_POINTS = 10_000
"""Photos that are placed in the disk; of more, the most typical of each leaf."""
_COLOURS = (
    "#8d9096", "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442",
)  # fmt: skip
"""Grey, and the colours of Okabe and Ito, "Color Universal Design" (2008), but for black."""
_CELL = 72
_ROW = 30
_SHEET = _ROW * _ROW
_NODE, _JOINT, _PHOTO = range(3)

Progress = Callable[[int, int], None]


def write(
    target: Path,
    root: Node,
    photos: Mapping[str, Sequence[str]],
    title: str,
    *,
    pictures: int = 1500,
    picture: Picture = read,
    progress: Progress | None = None,
) -> list[str]:
    """Write the page.

    Args:
        target: the file.
        root: the tree.
        photos: paths at each leaf, by its id, the most typical first.
        title: what the page is called.
        pictures: photos that are shown as pictures, evenly spread over the leaves; others are
            dots. 0 shows none, else there is one more for each inner node.
        picture: gives them.
        progress: called with (done, total) pictures.

    Returns:
        why some photos are not shown as pictures.
    """
    found, problems = facts(root, photos, pictures=pictures, picture=picture, progress=progress)
    total, points = sum(len(paths) for paths in photos.values()), found["photos"]
    note = f" {points:,} of {total:,} photos are shown." if points < total else ""
    write_text(target, filled("disk", title, note, found))
    return problems


def facts(
    root: Node,
    photos: Mapping[str, Sequence[str]],
    *,
    pictures: int = 1500,
    picture: Picture = read,
    progress: Progress | None = None,
    ids: Mapping[str, str] | None = None,
) -> tuple[dict[str, Any], list[str]]:
    """What ``disk.js`` draws: places, names and small pictures.

    Args:
        root, photos, pictures, picture, progress: see `write`.
        ids: names by which a server knows photos, by path.

    Returns:
        plain values for JSON, and why some photos are not shown as pictures.
    """
    placed = _most(photos, MOST_POINTS)
    shown = _most(placed, pictures)
    places = layout.place(root, {leaf: len(paths) for leaf, paths in placed.items()})
    files = [path for paths in shown.values() for path in paths]
    if pictures:  # inner nodes show the photo in their middle
        known = set(files)
        middles = (node.photo for node in root.walk() if node.photo and not shown.get(node.id))
        files += [path for path in dict.fromkeys(middles) if path not in known]
    sheets, problems = _sheets(files, picture, progress)
    missing = {path for path, _ in problems}
    numbers = {path: number for number, path in enumerate(files)}
    base = _common_folder([path for paths in placed.values() for path in paths])
    colours, groups = _branches(root)
    columns: dict[str, list[Any]] = {name: [] for name in (
        "parent", "distance", "angle", "kind", "name", "id", "size", "purity", "radius", "colour",
        "picture",
    )}  # fmt: skip
    for spot in places:
        node = spot.node
        kind = _NODE if node is not None else _JOINT if spot.photo is None else _PHOTO
        name, cell = "" if node is None else node.name, -1
        if node is not None and not shown.get(node.id) and node.photo not in missing:
            cell = numbers.get(node.photo or "", -1)
        if spot.photo is not None:
            leaf = places[spot.parent].node
            assert leaf is not None
            path = placed[leaf.id][spot.photo]
            name = os.path.relpath(path, base) if base else path
            if spot.photo < len(shown[leaf.id]) and path not in missing:
                cell = numbers[path]
        row = (
            spot.parent, round(spot.distance, 5), round(spot.angle, 5), kind, readable(name),
            "" if node is None else readable(node.id), 1 if node is None else node.size,
            None if node is None or node.purity is None else round(node.purity, 4),
            None if node is None or node.radius is None else round(node.radius, 4),
            0 if node is None else colours[id(node)], cell,
        )  # fmt: skip
        for column, value in zip(columns.values(), row, strict=True):
            column.append(value)
    found = {
        "places": columns,
        "photos": sum(len(paths) for paths in placed.values()),
        "counted": root.counted,
        "colours": _COLOURS,
        "groups": groups,
        "sheets": sheets,
        "perRow": _ROW,
        "perSheet": _SHEET,
        "cell": _CELL,
    }
    if ids is not None:
        columns["image"] = [
            ids.get(placed[places[spot.parent].node.id][spot.photo], "")  # type: ignore[union-attr]
            if spot.photo is not None
            else ids.get((spot.node and spot.node.photo) or "", "")
            for spot in places
        ]
    return found, [reason for _, reason in problems]


def _most(photos: Mapping[str, Sequence[str]], most: int) -> dict[str, Sequence[str]]:
    """At most so many, the first of each leaf, as evenly as the leaves allow."""
    total = sum(len(paths) for paths in photos.values())
    if total <= most:
        return dict(photos)
    low, high = 0, max(len(paths) for paths in photos.values())
    while low < high:  # the largest share a leaf that fits
        middle = (low + high + 1) // 2
        fits = sum(min(middle, len(paths)) for paths in photos.values()) <= most
        low, high = (middle, high) if fits else (low, middle - 1)
    share = {leaf: min(low, len(paths)) for leaf, paths in photos.items()}
    # What is left goes to those with the most photos.
    left = most - sum(share.values())
    for leaf in sorted(photos, key=lambda leaf: -len(photos[leaf]))[:left]:
        share[leaf] += len(photos[leaf]) > low
    return {leaf: paths[: share[leaf]] for leaf, paths in photos.items()}


def _sheets(
    files: Sequence[str], picture: Picture, progress: Progress | None
) -> tuple[list[str], list[tuple[str, str]]]:
    """Small pictures, many to a JPEG, as data addresses; and (path, reason) of the unreadable."""

    def load(path: str) -> Image.Image | ImageError:
        try:
            found = picture(path, _CELL)
        except ImageError as error:
            return error
        return found.resize((_CELL, _CELL), box=centre_box(found, 1.0))

    sheets: list[str] = []
    problems: list[tuple[str, str]] = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for first in range(0, len(files), _SHEET):
            some = files[first : first + _SHEET]
            rows = -(-len(some) // _ROW)
            sheet = Image.new("RGB", (_ROW * _CELL, rows * _CELL), "#8d9096")
            for number, small in enumerate(pool.map(load, some)):
                if isinstance(small, ImageError):
                    problems.append((some[number], str(small)))
                else:
                    sheet.paste(small, (number % _ROW * _CELL, number // _ROW * _CELL))
                if progress:
                    progress(first + number + 1, len(files))
            buffer = io.BytesIO()
            sheet.save(buffer, "JPEG", quality=80)
            data = base64.b64encode(buffer.getvalue()).decode()
            sheets.append(f"data:image/jpeg;base64,{data}")
    return sheets, problems


def _common_folder(paths: Sequence[str]) -> str:
    """Left out of what the page says of photos: where they lie is nobody's business."""
    try:
        folder = os.path.commonpath(paths)
    except ValueError:  # none, or absolute and relative ones
        return ""
    return os.path.dirname(folder) if folder in paths else folder


def _branches(root: Node) -> tuple[dict[int, int], list[tuple[int, str]]]:
    """A colour for each node, and the named groups: the largest branches, split as far as it goes.

    Returns:
        (position in `_COLOURS` by ``id(node)``, (position, name) of each group).
    """
    most = len(_COLOURS) - 1
    groups, whole = [root], set[int]()
    while splits := [node for node in groups if node.children and id(node) not in whole]:
        largest = max(splits, key=_size)
        branches = [child for child in largest.children if 50 * child.size >= root.size]
        branches = sorted(branches, key=_size, reverse=True)[: most + 1 - len(groups)]
        if len(branches) < 2:
            whole.add(id(largest))
            continue
        groups = [node for node in groups if node is not largest] + branches
    groups.sort(key=_size, reverse=True)
    colours = {id(node): 0 for node in root.walk()}
    for number, group in enumerate(groups, 1):
        colours |= {id(node): number for node in group.walk()}
    return colours, [(number, readable(group.name)) for number, group in enumerate(groups, 1)]


def _size(node: Node) -> int:
    return node.size
