"""Mutations for `make fuzz`. Each changes a file in place and says in a few words what it did.

Where a format has a checksum, the mutation writes it again, so that the damage gets past it.
"""

import base64
import contextlib
import gzip
import io
import json
import re
import sqlite3
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

Damage = Callable[[Random, bytes], tuple[str, bytes]]
Mutation = Callable[[Random, Path], str]

NAMES = [
    b"", b" ", b"\x1b[31mred\x1b[2J", b"two\nlines", b"\xe2\x80\xae\xe2\x81\xa6gpj.exe", b"\0",
    b"a\0b", b"\xed\xa0\x80", b"\xff\xfe", b"../../../../etc/passwd", b"/dev/zero", b"nan", b"None",
    b"[/bold] [red]markup", b"'", b'"', b"\\", b"%s%n{0}", b"a" * 1_000_000,
    "\N{LATIN SMALL LETTER E WITH ACUTE}\N{PILE OF POO}".encode(), b"true", b"://", b"C:\\con",
]  # fmt: skip
NUMBERS = [
    b"0", b"-1", b"1", b"nan", b"NaN", b"inf", b"-Infinity", b"1e999", b"-1e999", b"1e-999",
    b"1" + b"0" * 5000, b"-1" + b"0" * 5000, b"9223372036854775807", b"9223372036854775808",
    b"18446744073709551616", b"2147483648", b"1000000000000", b"0.5", b"0x10", b"1_000", b"true",
    b"null", b'"1"', b"[]", b"{}", "\N{ARABIC-INDIC DIGIT THREE}".encode(),
]  # fmt: skip
DEEP = 100_000
"""Brackets inside each other."""
_EXTREMES = [0, 1, -1, 2**15, 2**31 - 1, -(2**31), 2**32 - 1, 2**40, 10**12, 2**63 - 1, -(2**63)]
_FLOATS = [b"\0\0\xc0\x7f", b"\0\0\x80\x7f", b"\0\0\x80\xff", b"\xff\xff\x7f\x7f", b"\1\0\0\0"]
_SNIPPETS = [
    *NAMES[:-5], *NUMBERS[:10], *_FLOATS, b"cposix\nsystem\n(X\x08\0\0\0touch xxtR.",
    b"c__builtin__\nbytearray\n(I6000000000\ntR.", b"\x8a\xff" + b"\xff" * 255, b"PK\3\4", b"%!PS",
]  # fmt: skip


def on_bytes(damage: Damage) -> Mutation:
    """A mutation of a file's content as one of the file."""

    def mutate(rng: Random, path: Path) -> str:
        note, content = damage(rng, path.read_bytes())
        path.write_bytes(content)
        return note

    return mutate


# -- bytes, whatever they mean --------------------------------------------------------------


def damage(rng: Random, data: bytes) -> tuple[str, bytes]:
    """One to four changes of bytes."""
    notes, content = [], bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        kind = rng.choice(
            ("flip", "fill", "delete", "duplicate", "insert", "swap", "cut", "extreme", "extreme")
        )
        at = _place(rng, len(content))
        width = min(rng.choice((1, 1, 2, 4, 8, 64, 1000)), len(content) - at)
        _change(rng, content, kind, at, width)
        notes.append(f"{kind} {width} bytes at {at}")
    return ", ".join(notes), bytes(content)


def _place(rng: Random, length: int) -> int:
    """Anywhere, but half of the time near an end, where headers and directories lie."""
    nearest = min(4096, length)
    start, size = rng.choice(((0, length), (0, length), (0, nearest), (length - nearest, nearest)))
    return start + rng.randrange(max(1, size))


def _change(rng: Random, content: bytearray, kind: str, at: int, width: int) -> None:
    part = content[at : at + width]
    if kind == "flip" and part:
        content[at] ^= 1 << rng.randrange(8)
    elif kind == "fill":
        content[at : at + width] = bytes([rng.choice((0, 0x7F, 0xFF))]) * width
    elif kind == "delete":
        del content[at : at + width]
    elif kind == "duplicate":
        content[at:at] = part * rng.choice((1, 1, 100))
    elif kind == "insert":
        content[at:at] = rng.choice([*_SNIPPETS, rng.randbytes(16)])
    elif kind == "swap":
        other = _place(rng, len(content))
        content[at : at + width], content[other : other + width] = (
            content[other : other + width],
            part,
        )
    elif kind == "cut":
        del content[at:]
    elif kind == "extreme":
        size = rng.choice((2, 4, 8))
        value = (rng.choice(_EXTREMES) % 2 ** (8 * size)).to_bytes(
            size, rng.choice(("little", "big"))
        )  # type: ignore[arg-type]
        content[at : at + size] = rng.choice((value, value, rng.choice(_FLOATS)))


# -- text -----------------------------------------------------------------------------------


def damage_text(rng: Random, text: bytes) -> tuple[str, bytes]:
    """One to three changes of numbers, words, signs or lines; at times of bytes."""
    if rng.random() < 0.15:
        return damage(rng, text)
    notes = []
    for _ in range(rng.choice((1, 1, 2, 3))):
        note, text = rng.choice(_TEXT_CHANGES)(rng, text)
        notes.append(note)
    return ", ".join(notes), text


def _replace(pattern: bytes, values: list[bytes]) -> Damage:
    def change(rng: Random, text: bytes) -> tuple[str, bytes]:
        found = list(re.finditer(pattern, text)) or list(re.finditer(b"", text))
        token, value = rng.choice(found), rng.choice(values)
        note = f"{token[0][:20]!r} at {token.start()} -> {value[:20]!r} ({len(value)} bytes)"
        return note, text[: token.start()] + value + text[token.end() :]

    return change


def _lines(rng: Random, text: bytes) -> tuple[str, bytes]:
    lines = text.splitlines(keepends=True) or [b""]
    kind, at, other = (
        rng.choice(["drop", "double", "swap", "blank", "all"]),
        *(rng.randrange(len(lines)) for _ in range(2)),
    )
    if kind == "drop":
        del lines[at]
    elif kind == "swap":
        lines[at], lines[other] = lines[other], lines[at]
    elif kind == "all":
        lines *= 2
    else:
        lines.insert(at, lines[other] if kind == "double" else b"\n")
    return f"{kind} line {at}", b"".join(lines)


def _nest(rng: Random, text: bytes) -> tuple[str, bytes]:
    opening, middle, closing = rng.choice(
        ((b"[", b"", b"]"), (b"(", b"a", b")"), (b'{"a":', b"1", b"}"), (b"{a=", b"1", b"}"),
         (b"a.", b"b=1", b""), (b"(", b"", b""), (b"(", b"a", b",b)"))
    )  # fmt: skip
    tokens = list(re.finditer(rb"[\w.]+", text))
    token = rng.choice(tokens) if tokens else re.match(b"", text)
    assert token is not None
    deep = opening * DEEP + middle + closing * DEEP
    note = f"{DEEP} of {opening!r} for {token[0][:20]!r}"
    return note, text[: token.start()] + deep + text[token.end() :]


def _recode(rng: Random, text: bytes) -> tuple[str, bytes]:
    kind = rng.choice(("utf-16", "utf-8-sig", "cp1252", "\r", "\N{LINE SEPARATOR}", "utf-32"))
    whole = text.decode("utf-8", "replace")
    if kind.startswith(("utf", "cp")):
        return f"as {kind}", whole.encode(kind, "replace")
    return f"lines end with {kind!r}", whole.replace("\n", kind).encode()


_SIGNS = [bytes([sign]) for sign in b"[](){},:;='\"\n\t#"] + [b""]
_TEXT_CHANGES: list[Damage] = [
    *[_replace(rb"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?", NUMBERS)] * 4,
    *[_replace(rb"[A-Za-z_][\w./-]*", NAMES)] * 4,
    *[_replace(rb"[\[\](){},:;='\"\n]", _SIGNS)] * 2,
    *[_lines] * 2, _nest, _recode,
]  # fmt: skip


def damage_json(rng: Random, text: bytes) -> tuple[str, bytes]:
    """Change one value of a JSON text: its type, its size, whether it is there."""
    if rng.random() < 0.15:
        return damage_text(rng, text)
    value = json.loads(text)
    every = list(_values([value]))
    holder, key = rng.choice(every)
    kind = rng.choice(("drop", "name", "literal", "literal", "other"))
    note = f"{kind} {key!r}"
    if kind == "drop" and len(every) > 1 and holder is not every[0][0]:
        del holder[key]
    elif kind == "name":
        holder[key] = rng.choice(NAMES).decode("utf-8", "surrogateescape")
    elif kind == "other":
        container, other = rng.choice(every)
        holder[key] = json.loads(json.dumps(container[other]))
    else:
        literal = rng.choice(
            [*NUMBERS, b"[]", b"{}", b"false", b'"\\ud800"', b'"\\u001b[31m\\u202e"',
             b"[" * DEEP + b"]" * DEEP, b'{"a":' * DEEP + b"1" + b"}" * DEEP]
        )  # fmt: skip
        holder[key] = "@literal@"
        note += f" -> {literal[:20]!r} ({len(literal)} bytes)"
        return note, json.dumps(every[0][0][0]).encode().replace(b'"@literal@"', literal)
    return note, json.dumps(every[0][0][0]).encode("utf-8", "surrogatepass")


def _values(value: Any) -> Iterator[tuple[Any, Any]]:
    """(holder, key) of each value inside lists and dictionaries."""
    keys = value.keys() if isinstance(value, dict) else range(len(value))
    for key in list(keys):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from _values(value[key])


# -- arrays and archives --------------------------------------------------------------------


def damage_npy(rng: Random, data: bytes) -> tuple[str, bytes]:
    """Change bytes, or the header, whose length is then made right again."""
    if rng.random() < 0.4:
        return damage(rng, data)
    length = int.from_bytes(data[8:10], "little")
    header, body = data[10 : 10 + length], data[10 + length :]
    if rng.random() < 0.3:
        note, header = damage_text(rng, header)
    else:
        field, values = rng.choice((
            (rb"'shape': \([^)]*\)",
             [b"1000000000000,", b"-1,", b"0, 16", b"9223372036854775807, 3", b"", b"1, 1, 1",
              b"1" + b"0" * 5000 + b",", b"True,", b"2.5,", b"1,", b"'a',", b"1000000, 0"]),
            (rb"'descr': '[^']*'",
             [b"'|O'", b"'<f8'", b"'<f2'", b"'>f4'", b"'<i4'", b"'<c16'", b"'<U1000000'", b"'|V4'",
              b"'<M8[ns]'", b"[('a', '<f4')]", b"'|S4'", b"'|b1'", b"3", b"'<f4, <f4'", b"''"]),
            (rb"'fortran_order': \w+", [b"True", b"2", b"None"]),
        ))  # fmt: skip
        name, value = field.split(b":")[0], rng.choice(values)
        value = b"(" + value + b")" if name == b"'shape'" else value
        header = re.sub(field, lambda _: name + b": " + value, header)
        note = f"header {name.decode()} {value[:20]!r}"
    start = b"\x93NUMPY\3\0" + len(header).to_bytes(4, "little")
    return note, start + header + body


def damage_zip(rng: Random, data: bytes) -> tuple[str, bytes]:
    """Change a member and pack all of them again, with checksums that are right."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(info.filename, info.compress_type, archive.read(info)) for info in
                   archive.infolist()]  # fmt: skip
    # The largest say least: weights.
    at = min((rng.randrange(len(members)) for _ in range(2)), key=lambda n: len(members[n][2]))
    name, method, content = members[at]
    kind = rng.choice(("content", "content", "content", "content", "drop", "rename", "double"))
    note = f"{kind} of {name}"
    if kind == "content":
        more, content = _damage_member(rng, name, content)
        members[at], note = (name, method, content), f"{note}: {more}"
    elif kind == "drop":
        del members[at]
    elif kind == "rename":
        other = rng.choice(NAMES[1:]).decode("utf-8", "replace")[:60_000]
        members[at] = (other, method, content)
    else:
        members.append(members[at])
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, method, content in members:
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return note, target.getvalue()


def _damage_member(rng: Random, name: str, content: bytes) -> tuple[str, bytes]:
    if name == "about.npy":  # JSON as an array of its bytes
        note, text = damage_json(rng, content[128:])
        header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (%d,)}\n" % len(text)
        return note, b"\x93NUMPY\3\0" + len(header).to_bytes(4, "little") + header + text
    return (damage_npy if name.endswith(".npy") else damage)(rng, content)


def damage_png(rng: Random, data: bytes) -> tuple[str, bytes]:
    """Change a chunk, whose checksum is then made right again."""
    chunks, at = [], 8
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    number = rng.randrange(len(chunks))
    kind, content = chunks[number]
    note, content = damage(rng, content)
    if rng.random() < 0.1:
        kind = rng.choice(chunks)[0]
    chunks[number] = (kind, content)
    return f"{kind.decode('latin-1')}: {note}", data[:8] + b"".join(
        len(content).to_bytes(4, "big") + kind + content
        + zlib.crc32(kind + content).to_bytes(4, "big")
        for kind, content in chunks
    )  # fmt: skip


_TAR_FIELDS = {"name": (0, 100), "mode": (100, 8), "size": (124, 12), "kind": (156, 1),
               "link": (157, 100), "magic": (257, 8), "prefix": (345, 155)}  # fmt: skip


def damage_tar(rng: Random, data: bytes) -> tuple[str, bytes]:
    """Change a field of a member's header, whose checksum is then made right again."""
    if data[:2] == b"\xfd7":  # xz
        return damage(rng, data)
    packed = data[:2] == b"\x1f\x8b"
    content = bytearray(gzip.decompress(data) if packed else data)
    blocks = range(0, len(content), 512)
    at = rng.choice([block for block in blocks if content[block + 257 :].startswith(b"ustar")])
    field, (start, width) = rng.choice(list(_TAR_FIELDS.items()))
    numbers = [
        b"77777777777",
        b"-0000000001",
        b"\x80" + b"\0" * 5 + b"\xff" * 6,
        b"\xff" * 12,
        b"x",
    ]
    value = rng.choice(
        [bytes([rng.choice(b"0123456789xgLKSVD\0")])] if width == 1 else
        [*numbers, *NAMES[1:], b"/etc/x", b"..", b"a/" * 60]
    )[:width].ljust(width, b"\0")  # fmt: skip
    content[at + start : at + start + width] = value
    content[at + 148 : at + 156] = b" " * 8
    content[at + 148 : at + 156] = b"%06o\0 " % sum(content[at : at + 512])
    return f"{field} of the header at {at} -> {value[:20]!r}", (
        gzip.compress(content, 1) if packed else bytes(content)
    )


# -- SQLite ---------------------------------------------------------------------------------

_CELLS = [
    None, "", "x", -1, 0, 2**63 - 1, -(2**63), 1e999, "nan", "-1", "1e999", "1" + "0" * 5000,
    b"", b"\0" * 64, b"\xff" * 64, b"\0\0\xc0\x7f" * 16, b"x" * 63, b"x" * 1_000_000, "\0",
    "\x1b[31m\u202e", "[1]", '"/dev/zero"', '"' + "a" * 100_000 + '"', "[" * DEEP, "/",
    b"/\xff/a\n",
    "1e308", "99999", "3", "null", "Infinity", b"../../etc/passwd", "flat", "1.0000000001", 7,
]  # fmt: skip


def damage_rows(seal: Callable[[sqlite3.Connection], None]) -> Mutation:
    """Change a database in SQL; then ``seal`` writes its own checksums again."""

    def mutate(rng: Random, path: Path) -> str:
        with contextlib.closing(sqlite3.connect(path)) as database:
            while True:
                with contextlib.suppress(sqlite3.Error):
                    note = _change_rows(rng, database)
                    break
            with contextlib.suppress(sqlite3.Error, TypeError, ValueError, AttributeError):
                seal(database)
                note += ", sealed"
            database.commit()
        return note

    return mutate


def _change_rows(rng: Random, database: sqlite3.Connection) -> str:
    tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master "
                                                   "WHERE type = 'table'")]  # fmt: skip
    table = rng.choice(tables)
    columns = [row[1] for row in database.execute(f"PRAGMA table_info({table})")]
    column, value = rng.choice(columns), rng.choice(_CELLS)
    keys = [row[0] for row in database.execute(f"SELECT {columns[0]} FROM {table}")]
    row = f" WHERE {columns[0]} = ?"
    shown = repr(value)[:24]
    for statement, values, weight in (
        (f"UPDATE {table} SET {column} = ?{row}", (value, rng.choice(keys or [0])), 0.75),
        (f"UPDATE {table} SET {column} = ?", (value,), 0.4),
        (f"DELETE FROM {table}{row}", (rng.choice(keys or [0]),), 0.4),
        (f"DELETE FROM {table}", (), 0.15),
        (f"DROP TABLE {table}", (), 0.15),
        (f"ALTER TABLE {table} RENAME COLUMN {column} TO other", (), 0.4),
        (f"ALTER TABLE {table} DROP COLUMN {column}", (), 0.4),
        ("PRAGMA user_version = 99", (), 1),
    ):
        if rng.random() < weight:
            database.execute(statement, values)
            return f"{statement} ({shown})"
    return ""


# -- tensors and graphs ---------------------------------------------------------------------


def damage_tensors(rng: Random, path: Path) -> str:
    """Change one value of a dictionary saved by torch."""
    import torch

    content = torch.load(path, weights_only=True)
    every = list(_values([content]))
    # The tensors of a model all go the same way: any other value is chosen as often.
    others = [place for place in every if not isinstance(place[1], str) or "." not in place[1]]
    holder, key = rng.choice(rng.choice((every, others)))
    old = holder[key]
    odd: list[Any] = [
        None, "text", "", "\x1b[31m\u202e", -1, 0, 2**70, float("nan"), float("inf"), True, [], {},
        [None], b"x", (1, 2), torch.zeros(0), torch.tensor(3), torch.zeros(2, 3).double(),
        torch.zeros(1).expand(10**6, 10**6), torch.zeros(3, dtype=torch.complex64), 1e308, 10**12,
        torch.sparse_coo_tensor(size=(10**6, 10**6)), torch.zeros(4, device="meta"),
    ]  # fmt: skip
    if isinstance(old, torch.Tensor):
        odd += [old.double(), old[:0] if old.ndim else old, old.flatten(), old.to(torch.int64),
                old[None], torch.full_like(old, -1), old.bool(), old.to_sparse(), old.half(),
                torch.full(old.shape, float("nan"))]  # fmt: skip
    value = rng.choice(odd)
    note = f"{key!r} of {type(old).__name__} -> {type(value).__name__} {repr(value)[:30]}"
    if rng.random() < 0.2 and isinstance(holder, dict):
        del holder[key]
        note = f"drop {key!r}"
    else:
        holder[key] = value
    torch.save(content, path, _use_new_zipfile_serialization=rng.random() < 0.9)
    return note.replace("\n", " ")


def damage_graph(rng: Random, path: Path) -> str:
    """Change one thing of an ONNX graph."""
    import onnx

    model = _load(path)
    graph, node = model.graph, rng.choice(model.graph.node)
    tensor = rng.choice(graph.initializer)
    kind = rng.choice(
        [
            "type",
            "dims",
            "raw",
            "external",
            "node",
            "drop",
            "attribute",
            "input",
            "opset",
            "ir",
            "output",
            "size",
        ]
    )
    number = rng.choice([*_EXTREMES, 2, 3])
    note = f"{kind} {number}"
    if kind == "type":
        tensor.data_type = rng.randrange(0, 25)
    elif kind == "dims":
        tensor.dims[:] = [rng.choice((number, 0, -1, 10**6)) for _ in range(rng.randrange(4))]
    elif kind == "raw":
        note, tensor.raw_data = damage(rng, tensor.raw_data)
    elif kind == "external":
        where = rng.choice(["/etc/passwd", "../../etc/passwd", "/dev/zero", "", "."])
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", where), ("offset", str(number)), ("length", "-1")):
            tensor.external_data.add(key=key, value=value)
    elif kind == "node":
        node.op_type = rng.choice(["Loop", "If", "Resize", "Conv", "ConstantOfShape", "Expand", ""])
        note = f"node -> {node.op_type}"
    elif kind == "drop":
        graph.node.remove(node)
    elif kind == "attribute" and node.attribute:
        attribute = rng.choice(node.attribute)
        attribute.i, attribute.ints[:] = number, [number] * rng.randrange(5)
    elif kind == "input" and node.input:
        node.input[rng.randrange(len(node.input))] = rng.choice(["", "other", tensor.name])
    elif kind == "opset":
        model.opset_import[0].version = number
    elif kind == "ir":
        model.ir_version = number
    elif kind == "output":
        graph.output[0].name = tensor.name
    else:
        for axis in graph.input[0].type.tensor_type.shape.dim:
            axis.dim_value = rng.choice((1, 3, 32, number))
    _save(model, path)
    return note


def damage_metadata(rng: Random, path: Path) -> str:
    """Change what an exported encoder says of itself."""
    model = _load(path)
    entry = rng.choice([model.metadata_props[0], *model.metadata_props])
    if rng.random() < 0.1:
        note = f"{entry.key} is missing"
        model.metadata_props.remove(entry)
    elif entry.key == "hier":
        note, text = damage_json(rng, entry.value.encode())
        entry.value = text.decode("utf-8", "replace")
    elif rng.random() < 0.2:
        note, text = damage_text(rng, entry.value.encode())
        entry.value = text.decode("utf-8", "replace")
    else:
        with contextlib.suppress(ValueError):
            note, array = damage_npy(rng, base64.b64decode(entry.value))
            entry.value = base64.b64encode(array).decode()
    _save(model, path)
    return f"{entry.key or 'metadata'}: {note}"


def _save(model: Any, path: Path) -> None:
    """Write an encoder with its digest, where it carries one, made right again."""
    content = model.SerializeToString()
    with contextlib.suppress(ImportError):
        from hiercli.encoder import onnx_file

        content = onnx_file.stamped(content)
    path.write_bytes(content)


def _load(path: Path) -> Any:
    """An encoder without the digest of its content."""
    import onnx

    model = onnx.load(str(path))
    kept = [(entry.key, entry.value) for entry in model.metadata_props]
    del model.metadata_props[:]
    for key, value in kept:
        if key != "hier.digest":
            model.metadata_props.add(key=key, value=value)
    return model
