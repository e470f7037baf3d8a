"""A review as a FiftyOne dataset, written to a stand-in with the calls that FiftyOne documents."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import Hier, fails

from hiercli import Collection, Review
from hiercli.errors import InputError
from hiercli.reports import fiftyone as datasets
from hiercli.review.finding import Finding

RESERVED = ("id", "filepath", "tags", "metadata", "created_at", "last_modified_at", "merge", "save")


class Classification:
    """Takes attributes of any name, as those of FiftyOne do."""

    def __init__(
        self, label: str, confidence: float | None = None, logits: Any = None, **attributes: Any
    ) -> None:
        self.label, self.confidence, self.attributes = label, confidence, attributes
        assert isinstance(label, str) and label
        assert confidence is None or type(confidence) is float
        assert logits is None


class Classifications:
    def __init__(self, classifications: list[Classification]) -> None:
        assert all(isinstance(one, Classification) for one in classifications)
        self.classifications = classifications


class Sample:
    def __init__(
        self, filepath: str, tags: list[str] | None = None, metadata: Any = None, **fields: Any
    ) -> None:
        assert isinstance(filepath, str) and isinstance(tags, list) and metadata is None
        assert not set(fields) & set(RESERVED)
        self.filepath, self.tags, self.fields = filepath, tags, fields


class Dataset:
    stored: dict[str, "Dataset"] = {}  # noqa: RUF012

    def __init__(
        self, name: str | None = None, persistent: bool = False, overwrite: bool = False
    ) -> None:
        assert name is not None
        if name in self.stored and not overwrite:
            raise ValueError(f"Dataset name '{name}' is not available")
        self.samples: list[Sample] = []
        self.persistent = persistent
        self.stored[name] = self

    def add_samples(self, samples: list[Sample]) -> None:
        print("100% |####| this goes to stdout")
        assert len(samples) <= 1000
        self.samples += samples


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> dict[str, Dataset]:
    module = ModuleType("fiftyone")
    Dataset.stored = {}
    module.__spec__ = SimpleNamespace(name="fiftyone")  # type: ignore[assignment]
    for name, value in {
        "Dataset": Dataset, "Sample": Sample, "Classification": Classification,
        "Classifications": Classifications, "dataset_exists": Dataset.stored.__contains__,
        "config": SimpleNamespace(show_progress_bars=True),
    }.items():  # fmt: skip
        setattr(module, name, value)
    monkeypatch.setitem(sys.modules, "fiftyone", module)
    return Dataset.stored


def test_a_review_becomes_a_dataset(
    index: Path,
    inside: Hier,
    stand_in: dict[str, Dataset],
    tmp_path: Path,
) -> None:
    words = ("review", "--index", index, "--fiftyone", "birds")
    done = inside(*words, "--kind", "tiny", "--kind", "unreadable")
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout == b"" and b"fiftyone app launch birds" in done.stderr
    dataset = stand_in["birds"]
    assert dataset.persistent and len(dataset.samples) == 48
    sample = dataset.samples[0]
    assert sample.filepath.endswith("/kind0/photo0.jpg") and sample.tags == ["tiny"]
    assert sample.fields["ground_truth"].label == "kind0"
    assert sample.fields["embedding"].shape == (16,)
    (told,) = sample.fields["findings"].classifications
    assert (told.label, told.confidence) == ("tiny", None)
    assert told.attributes == {"reason": "its short side has 48 pixels"}
    # The name is taken now; and other outputs go on beside it.
    fails(inside(*words), 2, "'birds' already", "--overwrite")
    done = inside(*words, "--overwrite", "--kind", "unreadable", "--json", "-o", tmp_path / "r")
    assert done.returncode == 0 and (tmp_path / "r" / "review.csv").is_file()
    assert {tag for sample in stand_in["birds"].samples for tag in sample.tags} == set()
    assert "findings" not in stand_in["birds"].samples[0].fields
    fails(inside("review", "--index", index, "--overwrite"), 2, "needs --fiftyone")


def test_what_fiftyone_cannot_store_is_left_out(stand_in: dict[str, Dataset]) -> None:
    images = Collection(
        points=np.zeros((3, 4), np.float32), c=0.1, labels=["a", "", "b"],
        paths=["/p/1.jpg", "/p/\udcff.jpg", "/p/3.jpg"],
    )  # fmt: skip
    found = Review(
        [Finding("relabel", "/p/1.jpg", "a", "b", confidence=0.8),
         Finding("merge", "/p/1.jpg", "a", "b", confidence=0.6),
         Finding("duplicate", "/p/3.jpg", "b", of="/p/\udcff.jpg", confidence=1.0),
         Finding("duplicate", "/p/3.jpg", "b", of="/p/1.jpg", confidence=0.97),
         Finding("unreadable", "/p/4.jpg")],
        images,
    )  # fmt: skip
    told: list[tuple[int, int]] = []
    assert datasets.write(found, "d", progress=lambda *step: told.append(step)) == 1
    assert told == [(2, 2)]
    first, second = stand_in["d"].samples
    assert first.tags == ["relabel", "merge"]
    assert [one.attributes for one in first.fields["findings"].classifications] == [
        {"proposal": "b"}, {"proposal": "b"},
    ]  # fmt: skip
    assert second.tags == ["duplicate"]
    told_of = second.fields["findings"].classifications
    assert [one.attributes for one in told_of] == [{}, {"copy_of": "/p/1.jpg"}]
    assert [one.confidence for one in told_of] == [1.0, 0.97]
    with pytest.raises(InputError, match="points alone"):
        datasets.write(Review([], Collection(points=images.points, c=0.1)), "e")


def test_without_fiftyone_one_message_before_any_work(
    index: Path,
    inside: Hier,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = ("review", "--index", index, "--fiftyone", "birds")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(Review, "of_images", None)
    done = inside(*words)
    fails(done, 2, "expected the package fiftyone", "Run `pip install fiftyone`")
    assert done.stdout == b""


def test_a_database_that_does_not_start_is_told_of(
    index: Path,
    inside: Hier,
    stand_in: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails_to_start(name: str) -> bool:
        raise RuntimeError("could not find mongod\nmore lines")

    monkeypatch.setattr(sys.modules["fiftyone"], "dataset_exists", fails_to_start)
    words = ("review", "--index", index, "--fiftyone", "birds")
    fails(inside(*words), 2, "FiftyOne cannot write", "could not find mongod")
