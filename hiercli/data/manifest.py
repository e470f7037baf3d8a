"""A table of photographs: CSV or Parquet with path, label, and optionally split and taxonomy."""

from pathlib import Path
from typing import Any

from hiercli.data.folder import split_classes
from hiercli.data.records import Dataset, Record
from hiercli.errors import DataError

SUFFIXES = (".csv", ".parquet")
_SPLITS = ("train", "test", "query", "gallery")


def load(file: Path, *, test_share: float = 0.5, seed: int = 0) -> Dataset:
    """Read a manifest; relative paths count from its folder.

    Columns: ``path`` and ``label``; ``split`` with train, test, query or gallery; every further
    column is a taxonomy level, fine to coarse.

    Raises:
        DataError: columns are missing, a cell is empty, or a split has another name.
    """
    rows = _read(file)
    if not rows:
        raise DataError(f"{file}: expected rows of path and label, found none")
    columns = list(rows[0])
    missing = [name for name in ("path", "label") if name not in columns]
    if missing:
        raise DataError(f"{file}: expected the columns path and label, found {', '.join(columns)}")
    levels = tuple(name for name in columns if name not in ("path", "label", "split"))
    sides: dict[str, list[Record]] = {name: [] for name in _SPLITS}
    for number, row in enumerate(rows, start=1):
        values = {name: "" if value is None else str(value) for name, value in row.items()}
        split = values.get("split", "train")
        if not values["path"] or not values["label"] or split not in sides:
            raise DataError(
                f"{file}: row {number} needs a path, a label and, if any, a split of "
                f"{', '.join(_SPLITS)}; found {values}"
            )
        taxonomy = tuple(values[level] for level in levels)
        sides[split].append(Record(file.parent / values["path"], values["label"], taxonomy))
    train = tuple(sides["train"])
    if "split" not in columns:
        train, test = split_classes(train, test_share, seed, file)
        return Dataset(str(file), train, test, levels=levels)
    if bool(sides["query"]) != bool(sides["gallery"]):
        raise DataError(
            f"{file}: expected both query and gallery rows, or test rows, not one alone"
        )
    query = tuple(sides["query"] or sides["test"])
    gallery = tuple(sides["gallery"]) or None
    return Dataset(str(file), train, query, gallery, levels=levels)


def _read(file: Path) -> list[dict[str, Any]]:
    import pyarrow as pa
    from pyarrow import csv, parquet

    try:
        if file.suffix == ".parquet":
            table = parquet.read_table(file)
        else:
            # Labels such as 001 are names: nothing is guessed to be a number.
            names = csv.open_csv(file).schema.names
            text = csv.ConvertOptions(
                column_types={name: pa.string() for name in names}, strings_can_be_null=False
            )
            table = csv.read_csv(file, convert_options=text)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{file} cannot be read as {file.suffix[1:]}: {error}") from error
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows
