"""The verdict of `hier train --baseline`."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY, Hier

from hiercli.errors import DataError
from hiercli.evaluation.comparison import compare


def answers(share: float, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random(2000) < share


LABELS = [str(number % 40) for number in range(2000)]


def test_a_real_difference_is_found_and_chance_is_not() -> None:
    for first, second, word in (
        (0.6, 0.75, "better"),
        (0.75, 0.6, "worse"),
        (0.7, 0.7, "no significant diff"),
    ):
        found = compare(answers(first, 1), answers(second, 2), LABELS)
        assert found.verdict.startswith(word)
        assert found.low < found.difference < found.high
        assert found.difference == pytest.approx(100 * (second - first), abs=4)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    inside = [
        found.low <= 5 <= found.high
        for found in (
            compare(answers(0.60, 2 * seed), answers(0.65, 2 * seed + 1), LABELS)
            for seed in range(100)
        )
    ]
    assert 0.85 < np.mean(inside) < 1


def test_classes_that_fail_together_widen_the_interval() -> None:
    labels = [str(number // 50) for number in range(2000)]
    whole = np.repeat(np.random.default_rng(0).random(40) < 0.7, 50)
    wide = compare(np.zeros(2000, bool), whole, labels)
    narrow = compare(np.zeros(2000, bool), answers(0.7, 0), labels)
    assert wide.high - wide.low > 3 * (narrow.high - narrow.low)


def test_other_queries_are_refused() -> None:
    with pytest.raises(DataError, match="same queries"):
        compare(np.ones(3, bool), np.ones(2, bool), ["a", "b", "c"])


def test_train_with_a_baseline(photos: Path, hier: Hier, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ("train", "--data", photos, *TINY, "--epochs", "1", "--baseline", "--out", out)
    done = hier(*words, "--json")
    assert done.returncode == 0, done.stderr.decode()
    printed = json.loads(done.stdout)
    assert printed["comparison"]["difference"] == pytest.approx(
        printed["recall@1"] - printed["baseline"]["recall@1"], abs=1e-3
    )
    assert "points of Recall@1" in printed["verdict"]
    row = json.loads((out / "baseline" / "metrics.jsonl").read_text().splitlines()[0])
    assert "hier" not in row
    again = hier(*words, "--resume")
    assert again.returncode == 0, again.stderr.decode()
    assert printed["verdict"] in again.stdout.decode()


def test_nothing_to_compare_is_said_before_training(
    photos: Path, hier: Hier, tmp_path: Path
) -> None:
    done = hier("train", "--data", photos, *TINY, "--hier-weight", "0", "--relation-weight", "0",
                "--baseline", "--out", tmp_path / "run")  # fmt: skip
    assert done.returncode == 2
    assert "Remove --baseline" in done.stderr.decode()
    assert not (tmp_path / "run").exists()
