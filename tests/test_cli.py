"""The whole way by the command line, each command in a process of its own."""

import ast
import io
import json
import os
import pickle
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from conftest import TINY, Hier, fails
from PIL import Image

from hiercli.data import catalogue
from hiercli.encoder import onnx_file
from hiercli.geometry import poincare
from hiercli.images import find
from hiercli.training import recipe

COMMANDS = ("train", "eval", "export", "embed", "adapt", "search", "hierarchy", "review", "index",
            "serve", "verify", "data")  # fmt: skip
README = Path(__file__).parents[1] / "README.md"


def test_a_run_holds_what_it_promises(trained: Path) -> None:
    names = {entry.name for entry in trained.iterdir()}
    assert names == {
        "config.toml", "metrics.jsonl", "tensorboard", "last.pt", "best.pt",
        "curves.png", "test.json", "neighbours.html", "untrained.json",
    }  # fmt: skip
    rows = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2]
    assert {"proxy-anchor", "hier", "validation_recall@1"} <= set(rows[0])
    assert Image.open(trained / "curves.png").size[0] > 600
    page = (trained / "neighbours.html").read_text()
    assert page.count('class="query"') == 24
    assert "http" not in page


def test_checkpoint_and_export_score_the_same(
    trained: Path, exported: Path, photos: Path, hier: Hier
) -> None:
    scores = []
    for source in (("--checkpoint", trained / "best.pt"), ("--model", exported)):
        done = hier("eval", *source, "--data", photos, "--json", "--per-class")
        assert done.returncode == 0, done.stderr.decode()
        scores.append(json.loads(done.stdout))
    test = json.loads((trained / "test.json").read_text())
    assert scores[0]["num_queries"] == 24
    assert set(scores[0]["per_class"]) == {r.label for r in catalogue.load(str(photos)).query}
    for name in ("recall@1", "recall@2", "recall@4", "recall@8", "map@r", "r_precision"):
        assert scores[0][name] == pytest.approx(scores[1][name], abs=0.1)
        assert scores[0][name] == pytest.approx(test[name], abs=0.1)


def test_a_folder_is_split_by_the_seed_of_the_run(photos: Path, hier: Hier, tmp_path: Path) -> None:
    out, model = tmp_path / "run", tmp_path / "m.onnx"
    words = ["train", "--data", photos, "--out", out, *TINY, "--seed", "3", "--epochs", "1"]
    assert hier(*words).returncode == 0
    hier("export", "--checkpoint", out / "best.pt", "-o", model)
    test = json.loads((out / "test.json").read_text())
    for source in (("--checkpoint", out / "best.pt"), ("--model", model)):
        done = hier("eval", *source, "--data", photos, "--json")
        assert b"not unseen" not in done.stderr
        assert json.loads(done.stdout)["map@r"] == pytest.approx(test["map@r"], abs=0.1)
    fails(hier(*words, "--resume", "--overwrite"), 2, "got both")
    fails(hier(*words, "--overwrite", "--weights", tmp_path / "gone.pt"), 2, "gone.pt")
    assert (out / "best.pt").exists()


def test_raw_features_can_be_scored(photos: Path, hier: Hier) -> None:
    done = hier(
        "eval", "--backbone", "test_efficientnet", "--weights", "none", "--data", photos, "--json"
    )
    assert done.returncode == 0, done.stderr.decode()
    assert 0 <= json.loads(done.stdout)["recall@1"] <= 100


def test_export_says_what_it_proved(exported: Path) -> None:
    facts = {entry.key: entry.value for entry in onnx.load(str(exported)).metadata_props}
    proof = json.loads(facts["hier"])["proof"]
    assert proof["largest_difference"] < 1e-4
    assert abs(proof["recall@1_checkpoint"] - proof["recall@1_onnx"]) <= 0.1


def test_points_on_stdout_are_an_npy_in_natural_order(
    exported: Path, photos: Path, hier: Hier, tmp_path: Path
) -> None:
    done = hier("embed", photos, "--model", exported)
    points = np.load(io.BytesIO(done.stdout))
    assert (points.dtype, points.shape) == (np.float32, (48, 16))
    assert np.all(0.1 * (points**2).sum(1) < 1)
    saved = hier("embed", photos, "--model", exported, "-o", tmp_path / "vecs.npy")
    assert saved.stdout == b""
    assert np.array_equal(np.load(tmp_path / "vecs.npy"), points)
    assert (tmp_path / "vecs.paths.txt").read_text().splitlines() == [
        str(p) for p in find([photos])
    ]
    alone = np.load(io.BytesIO(hier("embed", find([photos])[5], "--model", exported).stdout))
    assert np.allclose(alone[0], points[5], atol=1e-5)


def test_parquet(exported: Path, photos: Path, hier: Hier, tmp_path: Path) -> None:
    from pyarrow import parquet

    assert hier("embed", photos, "--model", exported, "-o", tmp_path / "v.parquet").returncode == 0
    table = parquet.read_table(tmp_path / "v.parquet")
    assert table.num_rows == 48
    assert len(table["point"][0]) == 16
    assert json.loads(table.schema.metadata[b"hier"])["c"] == 0.1


def test_search_is_the_brute_force_order(
    exported: Path, index: Path, photos: Path, hier: Hier
) -> None:
    points = np.load(io.BytesIO(hier("embed", photos, "--model", exported).stdout)).astype(
        np.float64
    )
    done = hier("search", photos, "--index", index, "-k", "7", "--json")
    answers = [json.loads(line) for line in done.stdout.decode().splitlines()]
    paths = [str(path) for path in find([photos])]
    assert [answer["query"] for answer in answers] == paths
    for row, answer in enumerate(answers):
        exact = poincare.dist(points[row][None], points, 0.1)
        order = np.lexsort((np.arange(48), exact))[:7]
        assert [result["path"] for result in answer["results"]] == [paths[i] for i in order]
        assert [result["rank"] for result in answer["results"]] == list(range(1, 8))
        assert answer["results"][0]["label"] == Path(paths[order[0]]).parent.name
        assert [r["distance"] for r in answer["results"]] == pytest.approx(
            list(exact[order]), abs=1e-4
        )


def test_search_shows_a_table_that_a_pipe_gets_unfolded(
    index: Path, photos: Path, hier: Hier
) -> None:
    query = find([photos])[0]
    done = hier("search", query, "--index", index, "-k", "3", COLUMNS="40", FORCE_COLOR="1")
    assert done.returncode == 0
    lines = done.stdout.decode().splitlines()
    assert str(query) in lines[0]
    assert "distance" in lines[2]
    assert len(lines) == 8
    assert [line.count(str(photos)) for line in lines] == [1, 0, 0, 0, 1, 1, 1, 0]


def test_names_with_brackets_and_odd_bytes_are_shown_as_they_are(
    exported: Path, photos: Path, hier: Hier, tmp_path: Path
) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    for name in (b"[bold]q[x].jpg", b"n\xffon.jpg", b"-dash.jpg", b"new\nline.jpg"):
        shutil.copy(find([photos])[0], os.path.join(os.fsencode(folder), name))
    index = tmp_path / "odd.faiss"
    assert hier("embed", folder, "--model", exported, "--index", index).returncode == 0
    done = hier("search", folder, "--index", index, PYTHONIOENCODING="utf-8:strict")
    assert done.returncode == 0, done.stderr.decode()
    assert "[bold]q[x].jpg" in done.stdout.decode()
    answers = hier("search", folder, "--index", index, "--json").stdout.decode().splitlines()
    assert len(answers) == 4
    assert {len(json.loads(answer)["results"]) for answer in answers} == {4}


def test_hierarchy_in_every_format_from_both_files(
    trained: Path, exported: Path, hier: Hier
) -> None:
    written = {}
    for source in (
        ("--checkpoint", trained / "best.pt"),
        ("--checkpoint", exported),
        ("--model", exported),
    ):
        for format in ("text", "json", "newick"):
            done = hier("hierarchy", *source, "--format", format)
            assert done.returncode == 0, done.stderr.decode()
            written.setdefault(format, set()).add(done.stdout.decode())
    assert all(len(versions) == 1 for versions in written.values())
    tree = json.loads(written["json"].pop())

    def leaves(node: dict) -> list[str]:
        return (
            [leaf for child in node["children"] for leaf in leaves(child)]
            if "children" in node
            else [node["name"]]
        )

    content = torch.load(trained / "best.pt", weights_only=True)
    assert sorted(leaves(tree)) == sorted(content["class_names"])
    newick = written["newick"].pop()
    assert newick.strip().endswith(";")
    assert newick.count("(") == newick.count(")") == len(content["class_names"]) - 1
    assert all(name in written["text"].copy().pop() for name in content["class_names"])


BLOCKER = """
import sys
class Torchless:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "timm", "torchvision"):
            raise ImportError(name + " is not to be imported here")
sys.meta_path.insert(0, Torchless())
from hiercli.cli.app import main
main()
"""


def test_serving_runs_without_torch(
    exported: Path, index: Path, photos: Path, tmp_path: Path
) -> None:
    picture = str(find([photos])[0])
    for words in (
        [
            "embed",
            picture,
            "--model",
            str(exported),
            "-o",
            str(tmp_path / "v.npy"),
            "--index",
            str(tmp_path / "i.faiss"),
        ],
        ["search", picture, "--index", str(index)],
        ["hierarchy", "--model", str(exported)],
        ["eval", "--model", str(exported), "--data", str(photos)],
        ["data"],
        ["--help"],
    ):
        done = subprocess.run(
            [sys.executable, "-c", BLOCKER, *words], capture_output=True, check=False
        )
        assert done.returncode == 0, (words, done.stderr.decode())


def test_every_command_and_option_is_explained(hier: Hier) -> None:
    from typer.main import get_command

    from hiercli.cli.app import app

    root = get_command(app)
    assert set(COMMANDS) == set(root.commands)
    pages = [README, *(README.parent / "docs").rglob("*.md")]
    words = " ".join(" ".join(page.read_text() for page in pages).split())
    below = {
        f"{name} {word}": own
        for name, group in root.commands.items()
        for word, own in getattr(group, "commands", {}).items()
    }
    for name, command in (dict(root.commands) | below).items():
        assert f"hier {name}" in words or name.startswith("index "), name
        assert "hier " in (command.help or "") or name in below, f"{name} has no example"
        for parameter in command.params:
            assert getattr(parameter, "help", None), (name, parameter.name)


def test_options_of_train_have_headings_and_defaults(hier: Hier) -> None:
    text = hier("train", "--help").stdout.decode()
    headings = re.findall(r"^(\w+):$", text, re.MULTILINE)
    assert headings == ["Data", "Run", "Model", "Loss", "Hierarchy", "Optimiser", "Machine"]
    entries = re.findall(r"^  (-.*(?:\n {6}.*)*)", text[text.index("\nData:") :], re.MULTILINE)
    shown = [re.match(r"(?:-h, )?(--[\w-]+)", entry) for entry in entries]
    flags = [match[1] for match in shown if match]
    assert len(flags) == len(set(flags)) == len(entries), "each option has one heading"
    settings = {f"--{one.name.replace('_', '-')}" for _, one in recipe.settings()}
    assert settings < set(flags)
    for flag, entry in zip(flags, entries, strict=True):
        default = "[recipe hier: " if flag in settings else "default: "
        assert default in " ".join(entry.split()) or flag == "--help", flag


def test_commands_translate_and_no_more() -> None:
    for file in (README.parent / "hiercli" / "cli").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef):
                body = node.body[1:] if ast.get_docstring(node) and node.body[1:] else node.body
                assert (body[-1].end_lineno or 0) - body[0].lineno < 60, (file.name, node.name)


@pytest.mark.parametrize(
    "words",
    [
        ("train", "--data", "demo", "--test-share", "0"),
        ("train", "--data", "demo", "--nested"),
        ("train", "--data", "PARTED", "--test-share", "0.3"),
        ("train", "--data", "TABLE", "--test-share", "0.3"),
        ("train", "--data", "TABLE", "--nested"),
        ("embed", "TABLE", "--nested", "-o", "v.npy"),
        ("eval", "--model", "x.onnx", "--crop-share", "1"),
        ("eval", "--checkpoint", "x.pt", "--weights", "none"),
        ("export", "--checkpoint", "x.pt", "-o", "x.onnx", "--crop-share", "0.9"),
        ("data", "get", "cub", "--species", "9"),
    ],
)
def test_an_option_without_effect_is_refused(
    words: tuple[str, ...], inside: Hier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for side in ("train", "test"):
        for label in ("a", "b"):
            (tmp_path / "PARTED" / side / label).mkdir(parents=True)
            for number in range(2):
                file = tmp_path / "PARTED" / side / label / f"{number}.png"
                Image.new("RGB", (8, 8)).save(file)
    rows = [f"{file},{file.parent.name},train" for file in tmp_path.glob("PARTED/train/*/*.png")]
    (tmp_path / "t.csv").write_text("\n".join(["path,label,split", *rows]))
    done = inside(*("t.csv" if word == "TABLE" else word for word in words))
    assert done.returncode == 2
    assert (
        done.stderr.startswith(b"error: expected ")
        or b" needs --backbone" in done.stderr
        or (b"can be used only with demo" in done.stderr)
    )
    assert not (tmp_path / "data").exists() and not (tmp_path / "runs").exists()


def test_version_and_usage_errors(hier: Hier) -> None:
    assert re.fullmatch(rb"hier \d+\.\d+\.\d+\n", hier("--version").stdout)
    fails(hier("train", "--no-such-option"), 2, "No such option")
    fails(hier("eval", "--data", "demo"), 2, "one of --checkpoint, --model and --backbone")
    fails(hier("train", "--data", "nowhere"), 2, "got 'nowhere'")
    fails(
        hier("train", "--data", "cub", "--data-root", "/nowhere"),
        2,
        "images.txt",
        "hier data get cub",
    )
    fails(hier("train", "--resume"), 2, "--out")


# -- bad input -------------------------------------------------------------------------------


def test_metadata_that_lacks_something_is_refused(
    exported: Path, photos: Path, inside: Hier, tmp_path: Path
) -> None:
    model = onnx.load(str(exported))
    (facts,) = (entry for entry in model.metadata_props if entry.key == "hier")
    whole = json.loads(facts.value)
    for name in whole:
        facts.value = json.dumps({key: value for key, value in whole.items() if key != name})
        content = model.SerializeToString()
        (tmp_path / "m.onnx").write_bytes(onnx_file.stamped(onnx_file.without_digest(content)))
        done = inside("embed", photos, "--model", tmp_path / "m.onnx", "-o", tmp_path / "v.npy")
        fails(done, 2, "m.onnx: its metadata is damaged", repr(name), "Export it again")
    facts.value = json.dumps(whole | {"image_depth": "yes"})
    content = model.SerializeToString()
    (tmp_path / "m.onnx").write_bytes(onnx_file.stamped(onnx_file.without_digest(content)))
    done = inside("embed", photos, "--model", tmp_path / "m.onnx", "-o", tmp_path / "v.npy")
    fails(done, 2, "m.onnx: its metadata is damaged", "'image_depth'", "Export it again")


def test_the_general_encoder_is_read_like_any_other(
    photos: Path, inside: Hier, tmp_path: Path
) -> None:
    words = ["embed", photos / "kind0", "--model", README.with_name("models") / "general.onnx"]
    done = inside(*words, "-o", tmp_path / "v.npy")
    assert done.returncode == 0, done.stderr.decode()
    assert np.load(tmp_path / "v.npy").shape == (6, 384)


def test_a_jpeg_with_malformed_exif_is_embedded_without_a_word(
    exported: Path, hier: Hier, tmp_path: Path
) -> None:
    odd = (b"Exif\0\0this is a letter", b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01\x03\0")
    for number, exif in enumerate(odd):
        Image.new("RGB", (40, 40), "red").save(tmp_path / f"{number}.jpg", exif=exif)
    done = hier("embed", tmp_path, "--model", exported, "-o", tmp_path / "v.npy")
    assert done.returncode == 0, done.stderr.decode()
    assert done.stderr.decode().startswith("1 class, no levels")
    assert np.load(tmp_path / "v.npy").shape == (2, 16)


def test_what_a_folder_leaves_out_is_named_and_counted(
    trained: Path, exported: Path, photos: Path, inside: Hier, tmp_path: Path,
    closed: Callable[[Path], None],
) -> None:  # fmt: skip
    folder, index = tmp_path / "photos", tmp_path / "idx.faiss"
    shutil.copytree(photos, folder)
    shutil.copy(folder / "kind0" / "photo0.jpg", folder / "loose.jpg")
    (folder / "kind0" / "inner").mkdir()
    closed(folder / "kind0" / "inner")
    words = (
        "kind0/inner: the folder cannot be read",
        "loose.jpg: it lies beside the class folders",
    )
    done = inside("train", "--data", folder, "--out", tmp_path / "run", *TINY, "--epochs", "1")
    fails(done, 3, *words)
    done = inside("eval", "--model", exported, "--data", folder, "--json")
    fails(done, 3, *words)
    assert json.loads(done.stdout)["skipped"] == 2
    done = inside("eval", "--model", exported, "--data", folder, "--strict")
    fails(done, 2, words[0])
    export = ("export", "--checkpoint", trained / "best.pt", "-o", tmp_path / "m.onnx")
    fails(inside(*export, "--data", folder), 3, *words)
    embed = ("embed", folder, "--model", exported, "--index", index)
    fails(inside(*embed, "--strict"), 2, words[0], "Nothing was written")
    assert not index.exists()
    done = inside(*embed, "--json")
    fails(done, 3, words[0], "0 images embedded", "49 added", "1 skipped")  # the journal had all
    assert json.loads(done.stdout)["skipped"] == 1
    with sqlite3.connect(f"{index}.sqlite") as database:
        assert database.execute("SELECT count(*) FROM quarantine").fetchone() == (1,)
    search = ("search", folder / "kind0", "--index", index, "-k", "1")
    fails(inside(*search), 3, words[0])
    fails(inside(*search, "--strict"), 2, words[0])


def test_unreadable_pictures_are_named_counted_and_quarantined(
    exported: Path, photos: Path, hier: Hier, tmp_path: Path
) -> None:
    folder = tmp_path / "mixed"
    shutil.copytree(photos / "kind0", folder / "kind0")
    whole = (folder / "kind0" / "photo0.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.jpg").touch()
    (folder / "letter.jpg").write_text("no picture")
    index = tmp_path / "idx.faiss"
    done = hier("embed", folder, "--model", exported, "--index", index)
    fails(done, 3, "cut.jpg", "empty.jpg", "letter.jpg", "6 images embedded", "3 skipped")
    with sqlite3.connect(f"{index}.sqlite") as database:
        assert database.execute("SELECT count(*) FROM quarantine").fetchone() == (3,)
        assert database.execute("SELECT count(*) FROM images").fetchone() == (6,)
    strict = tmp_path / "strict.npy"
    fails(hier("embed", folder, "--model", exported, "-o", strict, "--strict"), 2, "cut.jpg")
    assert not strict.exists()


def test_nothing_readable_is_one_message(
    exported: Path, photos: Path, inside: Hier, tmp_path: Path
) -> None:
    for path in find([photos]):
        damaged = tmp_path / path.relative_to(photos)
        damaged.parent.mkdir(exist_ok=True)
        damaged.write_bytes(path.read_bytes()[:200])
    rows = [f"{path},{path.parent.name},train" for path in find([photos])]
    rows += [f"{photos}/kind0/photo0.jpg,kind0,query", f"{tmp_path}/kind0/photo1.jpg,kind0,gallery"]
    manifest = tmp_path / "split.csv"
    manifest.write_text("path,label,split\n" + "\n".join(rows) + "\n")
    for data in (tmp_path, manifest):
        done = inside("eval", "--model", exported, "--data", data)
        fails(done, 2, "expected a test class", "unreadable", "damaged")
        assert done.stderr.decode().count("error:") == 1
    done = inside("embed", tmp_path, "--model", exported, "-o", tmp_path / "v.npy")
    fails(done, 2, "kind7/photo5.jpg", "48 inputs cannot be read", "Nothing was written")
    assert done.stderr.decode().count("error:") == 1
    assert not (tmp_path / "v.npy").exists()


@pytest.mark.parametrize("workers", ["0", "1"])
def test_training_goes_on_past_damaged_pictures(
    photos: Path, hier: Hier, tmp_path: Path, workers: str
) -> None:
    shutil.copytree(photos, tmp_path / "photos")
    for folder in (tmp_path / "photos").iterdir():
        whole = (folder / "photo0.jpg").read_bytes()
        (folder / "photo0.jpg").write_bytes(whole[: len(whole) // 2])
    done = hier(
        "train", "--data", tmp_path / "photos", "--out", tmp_path / "run", *TINY,
        "--workers", workers,
    )  # fmt: skip
    fails(done, 3, "kind0/photo0.jpg", "kind7/photo0.jpg", "damaged")
    assert json.loads((tmp_path / "run" / "test.json").read_text())["num_gallery"] == 20


def test_folders_without_pictures(exported: Path, hier: Hier, tmp_path: Path) -> None:
    fails(
        hier("embed", tmp_path, "--model", exported, "-o", tmp_path / "v.npy"),
        2,
        "expected images in",
    )
    fails(
        hier("embed", tmp_path / "gone", "--model", exported, "-o", tmp_path / "v.npy"),
        2,
        "missing",
    )
    fails(hier("embed", tmp_path, "--model", exported, "-o", tmp_path / "v.txt"), 2, ".parquet")
    assert list(tmp_path.iterdir()) == []


def test_foreign_encoders(photos: Path, hier: Hier, tmp_path: Path) -> None:
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy"]
    nodes = [onnx.helper.make_node("Identity", ["x"], ["y"])]
    graph = onnx.helper.make_graph(nodes, "g", ends[:1], ends[1:])
    opset = [onnx.helper.make_opsetid("", 18)]
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=opset, ir_version=9),
        str(tmp_path / "other.onnx"),
    )
    (tmp_path / "text.onnx").write_text("hello")
    for name, words in (
        ("other", "without its metadata"),
        ("text", "not a valid ONNX file"),
        ("gone", "missing"),
    ):
        fails(
            hier("embed", photos, "--model", tmp_path / f"{name}.onnx", "-o", tmp_path / "v.npy"),
            2,
            words,
        )
    assert not (tmp_path / "v.npy").exists()


class Bomb:
    """A pickle that leaves a mark when it is run."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.mark,))


def test_hostile_and_foreign_checkpoints(trained: Path, inside: Hier, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    (tmp_path / "bomb.pt").write_bytes(pickle.dumps({"format": "hier-checkpoint", "x": Bomb(mark)}))
    torch.save({"format": "hier-checkpoint", "x": Bomb(mark)}, tmp_path / "zipped.pt")
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pt")
    (tmp_path / "text.pt").write_text("hello")
    whole = (trained / "best.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    for name in ("bomb", "zipped", "other", "text", "cut", "gone"):
        for command in (
            ("hierarchy",),
            ("export", "-o", tmp_path / "o.onnx"),
            ("eval", "--data", tmp_path),
        ):
            fails(inside(*command, "--checkpoint", tmp_path / f"{name}.pt"), 2, f"{name}.pt")
    assert not mark.exists()
    assert not (tmp_path / "o.onnx").exists()


def test_files_that_do_not_belong_together(
    exported: Path, index: Path, photos: Path, hier: Hier, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    done = hier("train", "--data", photos, "--out", other, *TINY, "--seed", "3", "--epochs", "1")
    assert done.returncode == 0, done.stderr.decode()
    hier("export", "--checkpoint", other / "best.pt", "-o", tmp_path / "other.onnx")
    picture = find([photos])[0]
    done = hier("search", picture, "--index", index, "--model", tmp_path / "other.onnx")
    fails(done, 4, "was built with encoder", "rebuild")
    mixed = tmp_path / "idx.faiss"
    hier("embed", photos / "kind0", "--model", exported, "--index", mixed)
    shutil.copy(index, mixed)
    fails(hier("search", picture, "--index", mixed), 4, "does not match its catalogue")
    fails(hier("search", picture, "--index", tmp_path / "gone.faiss"), 2, "missing")
    Path(f"{mixed}.sqlite").write_text("hello")
    fails(hier("search", picture, "--index", mixed), 2, "not the catalogue")


def test_small_data_sets(hier: Hier, photos: Path, tmp_path: Path) -> None:
    one = tmp_path / "one"
    shutil.copytree(photos / "kind0", one / "kind0")
    fails(hier("train", "--data", one, "--out", tmp_path / "run", *TINY), 2, "at least 4 classes")
    lonely = tmp_path / "lonely"
    shutil.copytree(photos, lonely)
    for extra in sorted((lonely / "kind3").iterdir())[1:]:
        extra.unlink()
    done = hier("train", "--data", lonely, "--out", tmp_path / "run", *TINY, "--epochs", "1")
    assert done.returncode == 0, done.stderr.decode()


def test_a_test_part_that_cannot_be_scored_is_refused_before_training(
    photos: Path, inside: Hier, tmp_path: Path
) -> None:
    rows = [f"{path},{path.parent.name},train" for path in find([photos])]
    run = ("train", "--out", tmp_path / "run", *TINY, "--data")
    for name, test in {
        "one": [f"{photos}/kind0/photo0.jpg,kind0,test"],
        "single": [f"{photos}/kind{number}/photo0.jpg,kind{number},test" for number in range(8)],
        "missing": [f"{tmp_path}/gone{number}.jpg,a,test" for number in range(8)],
    }.items():
        manifest = tmp_path / f"{name}.csv"
        manifest.write_text("path,label,split\n" + "\n".join(rows + test) + "\n")
        fails(inside(*run, manifest), 2, "expected a test class", "Add images")
    split = tmp_path / "split"
    shutil.copytree(photos, split / "train")
    for number in range(8):
        (split / "test" / f"new{number}").mkdir(parents=True)
        shutil.copy(photos / f"kind{number}" / "photo0.jpg", split / "test" / f"new{number}")
    fails(inside(*run, split), 2, "none in 8 images of 8 classes", "Add images")
    assert not (tmp_path / "run").exists()


def test_a_run_folder_is_never_taken_silently(
    trained: Path, photos: Path, hier: Hier, tmp_path: Path
) -> None:
    before = (trained / "best.pt").read_bytes()
    fails(hier("train", "--data", photos, "--out", trained, *TINY), 2, "--overwrite")
    (tmp_path / "mine.txt").write_text("precious")
    fails(
        hier("train", "--data", photos, "--out", tmp_path, "--overwrite", *TINY),
        2,
        "not the folder of a run",
    )
    assert (tmp_path / "mine.txt").read_text() == "precious"
    changed = hier("train", "--data", photos, "--out", trained, "--resume", *TINY, "--lr", "0.5")
    fails(changed, 2, "lr 0.0001 -> 0.5".replace("0.0001", "0.0004"))
    assert (trained / "best.pt").read_bytes() == before


LIMITED = """
import resource, sys
limit = int(sys.argv.pop(1))
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
from hiercli.cli.app import main
main()
"""
"""The command line where no file can grow beyond some bytes, as on a disk that fills up."""


@pytest.mark.skipif(os.name != "posix", reason="needs a limit on the size of files")
@pytest.mark.parametrize(
    ("limit", "target"),
    [(1024, "idx.faiss"), (8192, "idx.faiss"), (24576, "idx.faiss"),
     (1024, "vecs.npy"), (1024, "vecs.parquet")],
)  # fmt: skip
def test_a_disk_that_fills_up_leaves_what_was_there(
    exported: Path, photos: Path, inside: Hier, tmp_path: Path, limit: int, target: str
) -> None:
    option = "--index" if target == "idx.faiss" else "-o"
    words = ["embed", "--model", exported, option, tmp_path / target]
    assert inside(*words, photos / "kind1").returncode == 0
    before = {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()}
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(limit), *map(str, words), str(photos)],
        capture_output=True, check=False,
    )  # fmt: skip
    fails(done, 2, f"writing {tmp_path / target}", "failed", "Free some space")
    assert done.stderr.decode().count("error:") == 1
    if target == "idx.faiss":
        # Points that are finished may wait in the catalogue; what it says of images is as it was.
        assert inside("index", "verify", tmp_path / target).returncode == 0
        found = json.loads(inside("index", "stats", tmp_path / target, "--json").stdout)
        assert found["pictures"] == 6
        before[f"{target}.sqlite"] = (tmp_path / f"{target}.sqlite").read_bytes()
    assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == before
    if target == "idx.faiss":
        assert inside(*words, photos).returncode == 0


def test_points_and_paths_are_replaced_together(
    exported: Path, photos: Path, inside: Hier, tmp_path: Path
) -> None:
    words = ["embed", photos, "--model", exported, "-o", tmp_path / "vecs.npy"]
    (tmp_path / "vecs.paths.txt").mkdir()
    fails(inside(*words), 2, "vecs.paths.txt is a folder")
    assert [entry.name for entry in tmp_path.iterdir()] == ["vecs.paths.txt"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with a name")
def test_a_pipe_is_refused_before_work_begins(
    trained: Path, exported: Path, photos: Path, hier: Hier, tmp_path: Path
) -> None:
    for name in ("p.npy", "p.onnx", "p.nwk"):
        os.mkfifo(tmp_path / name)
    os.mkfifo(tmp_path / "p.pt")
    (tmp_path / "shut.jpg").write_text("would be named if it were read")
    words = ["embed", tmp_path / "shut.jpg", "--model", exported]
    for done in (
        hier(*words, "-o", tmp_path / "p.npy"),
        hier(*words, "--index", tmp_path / "p.npy"),
        hier("export", "--checkpoint", trained / "best.pt", "-o", tmp_path / "p.onnx"),
        hier("hierarchy", "--model", exported, "-o", tmp_path / "p.nwk"),
        hier("hierarchy", "--checkpoint", tmp_path / "p.pt"),
    ):
        fails(done, 2, "a device or a pipe")
        assert "shut.jpg" not in done.stderr.decode()
    assert len(list(tmp_path.iterdir())) == 5


def interrupted(words: list[object], awaited: str) -> tuple[int, str]:
    """Run `hier`, press Ctrl-C once a line with ``awaited`` is on stderr; exit code and stderr."""
    run = subprocess.Popen(
        [sys.executable, "-c", "from hiercli.cli.app import main; main()", *map(str, words)],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        # A suite that runs in the background has it ignored, and its children would inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert run.stderr is not None
    said = ""
    for line in run.stderr:
        said += line
        if awaited in line:
            os.killpg(run.pid, signal.SIGINT)  # a terminal tells all processes of a command
            break
    said += run.stderr.read()
    return run.wait(60), said


@pytest.mark.skipif(os.name != "posix", reason="needs signals to a group of processes")
@pytest.mark.parametrize("way", [("--workers", "0"), ("--workers", "1"), ("--processes", "2")])
def test_ctrl_c_while_training(photos: Path, tmp_path: Path, way: tuple[str, str]) -> None:
    out = tmp_path / "run"
    words = ["train", "--data", photos, "--out", out, *TINY, "--epochs", "2000"]
    code, said = interrupted([*words, *way], "epoch 2 step")
    assert code == 130, said
    assert "Traceback" not in said
    assert said.count("interrupted") == 1
    assert f"--out {out} --resume" in said.splitlines()[-1]
    assert not [entry.name for entry in out.iterdir() if entry.name.startswith(".")]
    assert torch.load(out / "last.pt", weights_only=True)["progress"]["epoch"] >= 1


@pytest.mark.skipif(os.name != "posix", reason="needs signals to a group of processes")
@pytest.mark.parametrize("target", ["vecs.npy", "idx.faiss"])
def test_ctrl_c_while_embedding(
    exported: Path, photos: Path, inside: Hier, tmp_path: Path, target: str
) -> None:
    folder, results = tmp_path / "many", tmp_path / "results"
    for entry in (folder, results):
        entry.mkdir()
    for number in range(5000):
        os.link(photos / "kind0" / "photo0.jpg", folder / f"{number}.jpg")
    option = "--index" if target == "idx.faiss" else "-o"
    words = ["embed", "--model", exported, option, results / target]
    assert inside(*words, photos / "kind1").returncode == 0
    before = {entry.name: entry.read_bytes() for entry in results.iterdir()}
    code, said = interrupted([*words, folder], "embedding: ")
    assert code == 130, said
    assert "Traceback" not in said
    assert said.count("interrupted") == 1
    assert "interrupted" in said.splitlines()[-1]
    if target == "idx.faiss":  # what was embedded waits in the catalogue for the next run
        assert inside("index", "verify", results / target).returncode == 0
        found = json.loads(inside("index", "stats", results / target, "--json").stdout)
        assert found["pictures"] == 6
        before[f"{target}.sqlite"] = (results / f"{target}.sqlite").read_bytes()
    assert {entry.name: entry.read_bytes() for entry in results.iterdir()} == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_one_message(exported: Path, photos: Path) -> None:
    words = ["embed", str(photos), "--model", str(exported)]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-c", "from hiercli.cli.app import main; main()", *words],
            stdout=full, stderr=subprocess.PIPE, check=False,
        )  # fmt: skip
    fails(done, 2, "No space left")


def test_an_exported_encoder_names_no_path_of_its_maker(exported: Path) -> None:
    content = exported.read_bytes()
    assert b"hiercli/" not in content
    assert b"site-packages" not in content
    general = (Path(__file__).parents[1] / "models" / "general.onnx").read_bytes()
    assert b"site-packages" not in general
