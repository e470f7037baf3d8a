"""Stanford Cars (Cars-196) in its official layout; class ids 1-98 train, 99-196 test."""

import struct
import subprocess
import sys
import zlib
from pathlib import Path

from hiercli.data.records import Dataset, Record, require
from hiercli.errors import DataError
from hiercli.files import open_regular, parse_json

FOLDER = "cars196"
FILES = ("cars_annos.mat", "car_ims")
LAST_TRAIN_CLASS = 98
_LARGEST_FILE = 2**26
"""Bytes of the annotations; the official ones take 4 million."""
_LARGEST_PART = 2**28
"""Bytes of one of its variables, unpacked."""
_HEADER, _PACKED = 128, 15
_READER = """
import io, json, sys
from scipy.io import loadmat
read = loadmat(io.BytesIO(sys.stdin.buffer.read()), squeeze_me=True)
rows = [(str(row["relative_im_path"]), int(row["class"])) for row in read["annotations"]]
print(json.dumps({"names": [str(name) for name in read["class_names"]], "listed": rows}))
"""


def load(root: Path) -> Dataset:
    """Read ``root/cars196``; annotated photographs that are not there are left out.

    Raises:
        DataError: files are missing or the annotations are not the official ones.
    """
    folder = root / FOLDER
    require(folder, FILES, "cars")
    with open_regular(folder / "cars_annos.mat") as file:
        content = file.read(_LARGEST_FILE)  # cut short, a larger one is damaged
    try:
        _require_size(content)
        # SciPy's reader ends the whole process on some damaged files, so it gets one of its own.
        done = subprocess.run(
            [sys.executable, "-c", _READER], input=content, capture_output=True, check=False
        )
        if done.returncode:
            raise ValueError("SciPy cannot read it")
        facts = parse_json(done.stdout)
        names, listed = facts["names"], facts["listed"]
        if not all(1 <= number <= len(names) for _, number in listed):
            raise ValueError("classes without a name")
    except (ValueError, KeyError, TypeError, zlib.error) as error:
        raise DataError(
            f"{folder / 'cars_annos.mat'} is not the annotation file of Stanford Cars ("
            f"{str(error)[:200]}): fetch it again with `hier data get cars`"
        ) from error
    present = {entry.name for entry in (folder / "car_ims").iterdir()}
    train: list[Record] = []
    test: list[Record] = []
    for relative, class_id in listed:
        if Path(relative).name in present:
            side = train if class_id <= LAST_TRAIN_CLASS else test
            side.append(Record(folder / relative, names[class_id - 1]))
    return Dataset("cars", tuple(train), tuple(test))


def _require_size(content: bytes) -> None:
    """Raise ValueError where a packed variable would unpack to more than annotations take.

    A MATLAB file of level 5 is a header and elements of kind, size and content; SciPy unpacks an
    element whole, whatever comes out of it.
    """
    if content[_HEADER - 2 : _HEADER] != b"IM":
        raise ValueError("not a MATLAB file of level 5")
    at = _HEADER
    while at + 8 <= len(content):
        kind, size = struct.unpack_from("<II", content, at)
        if kind == _PACKED:
            unpacker, rest, total = zlib.decompressobj(), content[at + 8 : at + 8 + size], 0
            while rest:
                total += len(unpacker.decompress(rest, 2**20))
                if total > _LARGEST_PART:
                    raise ValueError(f"a variable of more than {_LARGEST_PART:,} bytes")
                rest = unpacker.unconsumed_tail
        at += 8 + size
