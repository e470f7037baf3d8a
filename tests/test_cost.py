"""Work that is done once, or not at all."""

import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from conftest import paint
from test_index import Colours

from hiercli import neighbours
from hiercli.collection import Collection
from hiercli.evaluation import retrieval
from hiercli.index import database
from hiercli.index.index import Index
from hiercli.index.update import update


def test_a_gallery_is_lifted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    points = (rng.normal(size=(300, 6)) / 6).astype(np.float32)
    labels = [str(number % 30) for number in range(300)]
    expected = retrieval.score(points, labels, c=0.1)
    lifted: list[int] = []
    lift = neighbours.lift

    def counted(some: np.ndarray, c: float) -> np.ndarray:
        lifted.append(len(some))
        return lift(some, c)

    monkeypatch.setattr(neighbours, "lift", counted)
    monkeypatch.setattr(retrieval, "_QUERIES_AT_A_TIME", 20)
    assert retrieval.score(points, labels, c=0.1).to_dict() == expected.to_dict()
    assert lifted.count(300) == 1
    assert sum(lifted) == 600  # the gallery, and each query


def test_a_tree_of_an_encoder_opens_no_inference(exported: Path) -> None:
    code = (
        "import sys; sys.argv[0] = 'hier'\n"
        "from hiercli.cli.app import main\n"
        "try: main()\n"
        "finally: print(sorted(name for name in ('onnxruntime', 'onnx', 'torch', 'faiss')"
        " if name in sys.modules), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "hierarchy", "--model", str(exported)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stderr.splitlines()[-1] == "[]"


def test_an_update_costs_the_change_and_not_the_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite's own steps, of the second update: the first one makes the classes known."""
    execute = database._Limited.execute
    total = 0

    def counting(self: database._Limited, *words: object) -> object:
        nonlocal total
        total += self.steps
        return execute(self, *words)

    monkeypatch.setattr(database, "_STEPS_AT_ONCE", 1)
    monkeypatch.setattr(database, "_LEAST_STEPS", 10**9)
    monkeypatch.setattr(database._Limited, "execute", counting)
    steps = {}
    for count in (300, 6000):
        rng = np.random.default_rng(0)
        points = 0.1 * rng.normal(size=(count, 12))
        labels = [f"kind{number % 10}" for number in range(count)]
        index, album = tmp_path / f"{count}.faiss", tmp_path / f"album{count}"
        encoder = Colours()
        Index.build(
            index, Collection(points=points, labels=labels, c=0.1, fingerprint="colours"), "flat"
        ).close()
        for number in range(2):
            paint(album / "kind0" / f"{number}.png", number)
            total = 0
            update(index, [album], encoder)
        steps[count] = total
    assert steps[300] > 300
    assert steps[6000] < 1.5 * steps[300]


def test_a_collection_is_checked_without_a_copy_of_all() -> None:
    points = np.full((1_000_000, 32), 0.01, np.float32)
    tracemalloc.start()
    try:
        Collection(points=points, c=0.1)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 0.6 * points.nbytes, "copies in float64 are four times as large"
