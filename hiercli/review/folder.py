"""The folder that a review is written to: a page, a table, and lines of JSON."""

from pathlib import Path
from typing import TYPE_CHECKING

from hiercli.data.corrections import has_decisions
from hiercli.errors import InputError
from hiercli.files import require_apart, require_replaceable, write_text
from hiercli.hierarchy.tree import files_of
from hiercli.index.pictures import pictures_of

if TYPE_CHECKING:
    from hiercli.review.review import Review, Steps

PAGE, TABLE, LINES = FILES = ("review.html", "review.csv", "review.jsonl")


def require(folder: Path, *sources: Path | None) -> None:
    """Refuse a folder that cannot be written to, before any work is done.

    Args:
        folder: to write to; it may be missing.
        sources: files that are read, which must not be written over.

    Raises:
        InputError: it is no folder, is one of the sources, or has a review with decisions.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"expected -o to name a folder, but {folder} is a file")
    if has_decisions(folder / TABLE):
        raise InputError(
            f"{folder / TABLE} has decisions that would be lost. Rename it, or name another folder"
        )
    for name in FILES:
        if folder.is_dir():
            require_replaceable(folder / name)
        require_apart(folder / name, files_of(*sources))


def write(folder: Path, found: "Review", title: str, steps: "Steps") -> list[str]:
    """Write what was found.

    Args:
        folder: see `require`.
        found: the review.
        title: of the page.
        steps: tells of progress.

    Returns:
        paths of images that the page cannot show.

    Raises:
        InputError: the folder cannot be made, or a file cannot be written.
    """
    from hiercli.reports import review as pages

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"the folder {folder} cannot be made ({error.strerror})") from error
    with pictures_of(found.index) as picture, steps("writing the page") as told:
        missing = pages.write(folder / PAGE, found, title, picture=picture, progress=told)
    write_text(folder / TABLE, found.to_csv())
    write_text(folder / LINES, found.to_json())
    return missing
