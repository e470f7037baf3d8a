"""Work that is done once, or not at all."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hiercli import neighbours
from hiercli.evaluation import retrieval


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
