"""A page of queries and what was found for them, right and wrong answers framed."""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from hiercli.errors import ImageError
from hiercli.files import readable, write_text
from hiercli.images import Picture, read
from hiercli.index.searchable import Hit
from hiercli.labels import Record
from hiercli.neighbours import nearest
from hiercli.wording import counted

_STYLE = """
:root { color-scheme: light dark; font: 15px/1.4 system-ui, sans-serif; }
body { margin: 2rem auto; max-width: 1100px; padding: 0 1rem; }
.row { display: flex; gap: .5rem; margin: .6rem 0; overflow-x: auto; }
figure { margin: 0; width: 116px; flex: none; font-size: .75rem; overflow-wrap: anywhere; }
img { width: 108px; height: 108px; object-fit: cover; border: 4px solid #8888; display: block; }
.right img { border-color: #0072b2; } .wrong img { border: 4px dashed #d55e00; }
.query { margin-right: 1rem; }
"""


def write(
    target: Path,
    points: np.ndarray,
    queries: Sequence[Record],
    gallery_points: np.ndarray | None,
    gallery: Sequence[Record] | None,
    *,
    c: float | None,
    title: str,
    scores: Mapping[str, float],
    num_queries: int = 24,
    k: int = 7,
) -> None:
    """Write one self-contained HTML file with a row a query.

    Args:
        target: the file.
        points: (Q, D) of the queries.
        gallery_points, gallery: what is searched; ``None``: the queries themselves.
        c: curvature magnitude, or ``None`` for cosine.
        num_queries: rows; spread evenly over the queries, so over the classes.
        k: neighbours a row.
    """
    own = gallery is None or gallery_points is None
    stored = queries if gallery is None else gallery
    stored_points = points if gallery_points is None else gallery_points
    chosen = np.unique(np.linspace(0, len(queries) - 1, min(num_queries, len(queries))).astype(int))
    distances, found = nearest(points[chosen], stored_points, k + own, c)
    rows = []
    for place, index in enumerate(chosen):
        query = queries[index]
        cells = [_figure(query, "query", "query")]
        hits = [pair for pair in zip(found[place], distances[place], strict=True)
                if not (own and pair[0] == index)]  # fmt: skip
        for position, distance in hits[:k]:
            hit = stored[position]
            right = hit.label == query.label
            cells.append(
                _figure(hit, "right" if right else "wrong",
                        f"{'✓' if right else '✗'} {distance:.3f}")
            )  # fmt: skip
        rows.append(f'<div class="row">{"".join(cells)}</div>')
    numbers = ", ".join(f"{name} {value:g}" for name, value in scores.items())
    _page(
        target,
        title,
        [numbers, "The query is on the left. A solid blue frame is the same class as the query, a "
                  "dashed orange frame another class. Numbers are hyperbolic distances."],
        rows,
    )  # fmt: skip


def write_hits(
    target: Path,
    found: Sequence[tuple[str, Path | None, bytes | None, Sequence[Hit]]],
    title: str,
    picture: Picture = read,
) -> list[str]:
    """Write one self-contained HTML file with a row a query of a search.

    Args:
        target: the file.
        found: for each query its name, its file or bytes where there is a picture, and its hits.
        title: of the page.
        picture: gives the pictures of hits.

    Returns:
        files of hits that could not be shown: gone since, or damaged.
    """
    rows: list[str] = []
    missing: dict[str, None] = {}
    for name, path, content, hits in found:
        seen = "" if path is None and content is None else thumbnail(path or name, content=content)
        cells = [_cell("query", seen, name, "query")]
        for hit in hits:
            copies = f" (+{counted(len(hit.copies), 'copy', 'copies')})" if hit.copies else ""
            note = f"{hit.rank}. {hit.distance:.3f}{copies}"
            shown = thumbnail(hit.path, picture=picture)
            if not shown:
                missing[hit.path] = None
            cells.append(_cell("hit", shown, hit.label, note, hit.path))
        rows.append(f'<div class="row">{"".join(cells)}</div>')
    _page(
        target, title, ["The query is on the left. Numbers are rank and hyperbolic distance."], rows
    )
    return list(missing)


def _page(target: Path, title: str, words: Sequence[str], rows: Sequence[str]) -> None:
    told = "".join(f"<p>{html.escape(readable(line))}</p>" for line in words if line)
    write_text(
        target,
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{_STYLE}</style><h1>{html.escape(title)}</h1>{told}{''.join(rows)}</html>\n",
    )


def _figure(record: Record, kind: str, note: str) -> str:
    return _cell(kind, thumbnail(record.path), record.label, note)


def _cell(kind: str, picture: str, label: str, note: str, path: str = "") -> str:
    label = html.escape(readable(label))
    return (
        f'<figure class="{kind}" title="{html.escape(readable(path))}">'
        f'<img alt="{label}" src="{picture}">'
        f"<figcaption>{html.escape(note)}<br>{label}</figcaption></figure>"
    )


def thumbnail(
    path: Path | str, side: int = 108, content: bytes | None = None, picture: Picture = read
) -> str:
    """A small JPEG of a picture as a data address; empty where it cannot be read."""
    try:
        small = picture(path, side, content)
    except ImageError:
        return ""
    small.thumbnail((2 * side, 2 * side))
    small.info.clear()  # a comment would be written along
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
