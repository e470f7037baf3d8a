"""`hier search` on terminals of several widths: tables, cards with pictures, links, cut names."""

import csv
import fcntl
import io
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path
from urllib.parse import unquote_to_bytes

import pytest
from conftest import Hier, paint
from hypothesis import example, given
from hypothesis import strategies as st
from rich.cells import cell_len

from hiercli.cli.cells import cropped, cropped_path, folded, shared

LONG = "Thamnophilus_" * 16
CHINESE = "白腹姬鶲的照片與很長的名字" * 2
_LINK = re.compile(rb"\x1b\]8;[^;]*;([^\x1b]*)\x1b\\(.*?)\x1b\]8;;\x1b\\", re.DOTALL)
_CONTROLS = re.compile(rb"\x1b\]8;.*?\x1b\\|\x1b\[[0-9;?]*[a-zA-Z]|\x1b[78]|\x1b[P_].*?\x1b\\",
                       re.DOTALL)  # fmt: skip


def terminal(*words: object, columns: int, cwd: Path, **environment: str) -> bytes:
    """What `hier search` prints to a terminal of so many columns of 10 times 20 pixels."""
    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 10 * columns, 1000))
    variables = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR")}
    start = [sys.executable, "-c", "from hiercli.cli.app import main; main()", "search"]
    with subprocess.Popen(
        [*start, *map(str, words)], stdin=child, stdout=child, stderr=subprocess.PIPE, cwd=cwd,
        env=variables | {"TERM": "xterm-256color", "COLORTERM": "truecolor"} | environment,
    ) as running:  # fmt: skip
        os.close(child)
        said = b""
        while True:
            try:
                some = os.read(parent, 65536)
            except OSError:  # the other end is closed
                break
            if not some:
                break
            said += some
        os.close(parent)
        assert running.stderr is not None
        problems = running.stderr.read()
    assert running.returncode == 0, problems
    return said.replace(b"\r\n", b"\n")


def lines_of(said: bytes) -> list[str]:
    """Lines without what a terminal obeys."""
    return _CONTROLS.sub(b"", said).decode().split("\n")


def links_of(said: bytes) -> list[str]:
    """The files that links lead to, in order; a link on two lines is counted once."""
    targets = [target for target, _ in _LINK.findall(said)]
    assert all(target.startswith(b"file:///") for target in targets)
    assert all(target.isascii() and b"\x07" not in target for target in targets)
    return [os.fsdecode(unquote_to_bytes(target[len("file://") :])) for target in targets]


@pytest.fixture(scope="module")
def aviary(exported: Path, hier: Hier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photos of unusual names, and their index."""
    folder = tmp_path_factory.mktemp("aviary")
    names = ("wren/plain.png", f"{LONG}/a.png", f"{CHINESE}/{CHINESE}.png", "🐦‍⬛🐦‍⬛/🐦‍⬛.png",
             "wren/caf\udce9.png", "red\x1b[31m/turn\x07.png")  # fmt: skip
    for seed, name in enumerate(names):
        paint(folder / "photos" / name, seed)
    (folder / "photos" / "wren" / "copy.png").write_bytes(
        (folder / "photos" / "wren" / "plain.png").read_bytes()
    )
    index = folder / "birds.faiss"
    done = hier("embed", folder / "photos", "--model", exported, "--index", index)
    assert done.returncode == 0, done.stderr.decode()
    return folder


@pytest.mark.parametrize("columns", [30, 80, 160])
@pytest.mark.parametrize("style", ["none", "blocks", "sixel", "kitty"])
def test_no_line_is_wider_than_the_terminal(aviary: Path, columns: int, style: str) -> None:
    words = ("photos/wren/plain.png", "--index", "birds.faiss", "--unique", "--thumbnails", style)
    said = terminal(*words, columns=columns, cwd=aviary)
    lines = lines_of(said)
    assert max(map(cell_len, lines[1:])) <= columns
    if columns > 30:
        assert cell_len(lines[0]) <= columns
        assert "…" in said.decode()
        assert "Thamnophilus_Tham" in said.decode()
    assert b"\x1b[31m/" not in said and b"\x07" not in said
    folder = aviary / "photos"
    twins = {str(folder / "wren" / "plain.png"), str(folder / "wren" / "copy.png")}
    every = [folder / LONG / "a.png", folder / CHINESE / f"{CHINESE}.png",
             folder / "🐦‍⬛🐦‍⬛" / "🐦‍⬛.png", folder / "wren" / "caf\udce9.png",
             folder / "red\x1b[31m" / "turn\x07.png"]  # fmt: skip
    assert set(links_of(said)) - twins == set(map(str, every))


def test_a_table_has_one_line_for_each_hit(aviary: Path) -> None:
    words = ("photos/wren/plain.png", "--index", "birds.faiss", "--thumbnails", "none", "-k", "7")
    title, names, rule, *rows = lines_of(terminal(*words, columns=80, cwd=aviary))
    assert title.startswith("photos/wren/plain.png")
    assert names.split() == ["rank", "distance", "similarity", "label", "path"]
    assert set(rule) == {"─"}
    assert [row.split()[0] for row in rows if row] == list("1234567")
    assert rows[0].split()[1:] == ["0.0000", "100", "%", "wren", "photos/wren/plain.png"] or (
        rows[0].split()[1:] == ["0.0000", "100", "%", "wren", "photos/wren/copy.png"]
    )
    wide = lines_of(terminal(*words, columns=160, cwd=aviary))
    assert max(map(cell_len, wide)) > 100


def test_pictures_are_larger_on_wide_terminals(aviary: Path) -> None:
    words = ("photos/wren/plain.png", "--index", "birds.faiss", "--thumbnails", "blocks")
    for columns, cards, width in ((80, 2, 20), (160, 3, 28), (30, 1, 16)):
        lines = lines_of(terminal(*words, columns=columns, cwd=aviary))
        blocks = [line.count("▀") for line in lines]
        assert max(blocks) == cards * width
        assert blocks.count(cards * width) >= width // 2
        text = "\n".join(lines)
        assert "the query" in text
        for word in ("distance 0.0000", "similarity 100 %", "the same image"):
            assert word in text or columns == 30


def test_each_image_is_sent_once_to_a_terminal_with_pixels(aviary: Path) -> None:
    words = ("photos/wren/plain.png", "--index", "birds.faiss", "-k", "3", "--thumbnails")
    sixels = terminal(*words, "sixel", columns=80, cwd=aviary)
    assert sixels.count(b"\x1bP") == 4
    # 20 columns of 10 pixels, 10 lines of 20.
    assert sixels.count(b'"1;1;200;200') == 4
    assert terminal(*words, "kitty", columns=80, cwd=aviary).count(b"\x1b_G") >= 4


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_a_terminal_without_colours_gets_a_table(aviary: Path, environment: dict[str, str]) -> None:
    words = ("photos/wren/plain.png", "--index", "birds.faiss", "--thumbnails", "blocks")
    said = terminal(*words, columns=80, cwd=aviary, **environment)
    assert "▀" not in said.decode() and b"similarity" in said


def test_branches_and_verdicts_stand_in_tables_and_above_cards(index: Path, photos: Path) -> None:
    words = (photos / "kind2" / "photo3.jpg", "--index", index, "--branches", "--verdict")
    for style in ("none", "blocks"):
        said = terminal(*words, "--thumbnails", style, columns=120, cwd=photos)
        title, *lines = lines_of(said)
        assert re.match(r"kind2/photo3\.jpg: .*(%|index)", title)
        assert sum("under " in line for line in lines) >= 1
        assert len(links_of(said)) >= 11


def test_a_pipe_gets_whole_names_and_no_links(
    aviary: Path, inside: Hier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(aviary)
    monkeypatch.setenv("FORCE_COLOR", "1")
    words = ("search", "photos/wren/plain.png", "--index", "birds.faiss")
    said = inside(*words).stdout
    assert b"\x1b]8" not in said and "…" not in said.decode()
    assert str(aviary / "photos" / LONG / "a.png") in said.decode()
    assert str(aviary / "photos" / CHINESE / f"{CHINESE}.png") in said.decode()
    assert "similarity" in said.decode() and "100 %" in said.decode()


def test_json_and_csv_have_the_similarity(
    aviary: Path, inside: Hier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(aviary)
    words = ("search", "photos/wren/plain.png", "--index", "birds.faiss")
    hits = json.loads(inside(*words, "--json").stdout)["results"]
    text = inside(*words, "--csv").stdout.decode("utf-8", "surrogateescape")
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [float(row["similarity"]) for row in rows] == [hit["similarity"] for hit in hits]
    assert hits[0]["similarity"] == 1 and hits[0]["similar"] == "the same image"
    similarities = [hit["similarity"] for hit in hits]
    assert similarities == sorted(similarities, reverse=True) and similarities[-1] < 1


_SIGNS = ["a", "b", "_", "/", " ", "鳥", "e\u0301", "🐦\u200d⬛"]
_NAMES = st.lists(st.sampled_from(_SIGNS), max_size=50).map("".join)


@given(_NAMES, st.integers(4, 40))
@example("鳥" * 20 + "/" + "鳥" * 20, 5)
def test_cut_text_fits(text: str, most: int) -> None:
    for cut in (cropped(text, most), cropped_path(text, most)):
        assert cell_len(cut) <= most
        assert (cut == text) == (cell_len(text) <= most)
    lines = folded(text, most)
    assert "".join(lines) == text and all(cell_len(line) <= most for line in lines)


def test_a_cut_path_keeps_its_beginning_and_the_file_name() -> None:
    path = "/mnt/data/birds/034.Gray_crowned_Rosy_Finch/Finch_0042.jpg"
    assert cropped_path(path, 40) == "/mnt/…/034.Gray_crowned_…/Finch_0042.jpg"
    for most in range(20, len(path)):
        cut = cropped_path(path, most)
        assert cut.endswith("/Finch_0042.jpg") and cut.startswith(("/mnt/", "…/"))
    folder = "photos/034.Gray_crowned_Rosy_Finch"
    assert cropped_path(f"{folder}/x.jpg", 30) == "photos/034.Gray_crown…/x.jpg"
    assert cropped_path("白腹姬鶲/白腹姬鶲的照片.jpg", 13) == "白腹姬…片.jpg"


def test_columns_share_what_is_there() -> None:
    assert shared([5, 50, 50], 65) == [5, 30, 30]
    assert shared([50, 50], 0) == [0, 0]
    assert sum(shared([7, 90, 33], 41)) <= 41
