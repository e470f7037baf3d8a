"""Resuming after a kill gives what an unbroken run gives; the settings do what they say."""

import dataclasses
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forked
import numpy as np
import pytest
import torch
from conftest import TINY, Hier
from PIL import Image
from torch import nn

from hiercli.data import catalogue
from hiercli.data.records import Dataset, Record
from hiercli.errors import InputError, TrainingError
from hiercli.evaluation.comparison import Comparison
from hiercli.geometry import poincare
from hiercli.images import Preprocessing
from hiercli.nn import backbone, pooling
from hiercli.nn.embedder import fingerprint
from hiercli.reports import curves
from hiercli.training import checkpoint, device, recipe, trainer
from hiercli.training.distributed import World
from hiercli.training.loading import TrainingPhotos, embed_records, random_box
from hiercli.training.reporter import Silence
from hiercli.training.run_folder import read_metrics, require_same_settings
from hiercli.training.untrained import Baseline

LONG = [
    *TINY,
    "--epochs",
    "12",
    "--checkpoint-minutes",
    "0.0001",
    "--schedule",
    "cosine",
    "--ema-decay",
    "0.9",
]


EVERYTHING = ["--relation-weight", "1", "--head-init", "pca", "--proxy-init", "tree",
              "--learned-radius", "--initial-radius", "1.5",
              "--no-freeze-batch-norm", "--warmup-epochs", "0", "--cache", "device",
              "--interpolate", "--freeze-share", "0.2", "--layer-decay", "0.8"]  # fmt: skip
"""Whatever keeps a state of its own or is made anew when a run goes on."""


def test_five_kills_change_nothing(photos: Path, hier: Hier, tmp_path: Path) -> None:
    words = ["train", "--data", str(photos), *LONG, *EVERYTHING]
    assert hier(*words, "--out", tmp_path / "whole").returncode == 0
    out = tmp_path / "killed"
    rng = random.Random(0)
    killed = 0
    for _ in range(5):
        process = forked.start([*words, "--out", str(out), "--resume"], tmp_path, dict(os.environ),
                               Path(os.devnull), Path(os.devnull))  # fmt: skip
        before = (out / "last.pt").stat().st_mtime_ns if (out / "last.pt").exists() else 0
        while process.exitcode is None:
            if (out / "last.pt").exists() and (out / "last.pt").stat().st_mtime_ns != before:
                time.sleep(rng.uniform(0, 0.1))
                process.kill()
                process.join()
                killed += process.exitcode == -signal.SIGKILL
            time.sleep(0.01)
    done = hier(*words, "--out", out, "--resume")
    assert done.returncode == 0, done.stderr.decode()
    assert killed == 5
    for name in ("metrics.jsonl", "test.json"):
        assert (out / name).read_text() == (tmp_path / "whole" / name).read_text()
    weights = [
        torch.load(folder / "best.pt", weights_only=True)["fingerprint"]
        for folder in (out, tmp_path / "whole")
    ]
    assert weights[0] == weights[1]
    assert not [entry for entry in out.iterdir() if entry.name.startswith(".")]
    # An encoder with a learned radius leaves as a whole: the export compares the two itself.
    model = tmp_path / "whole.onnx"
    proof = hier("export", "--checkpoint", out / "best.pt", "-o", model, "--data", photos)
    assert proof.returncode == 0, proof.stderr.decode()


def test_the_seed_decides(photos: Path, hier: Hier, trained: Path, tmp_path: Path) -> None:
    rows = []
    for name, seed in (("same", "0"), ("other", "1")):
        assert (
            hier(
                "train", "--data", photos, "--out", tmp_path / name, *TINY, "--seed", seed
            ).returncode
            == 0
        )
        rows.append((tmp_path / name / "metrics.jsonl").read_text())
    assert rows[0] == (trained / "metrics.jsonl").read_text() != rows[1]


def test_hier_weight_zero_switches_it_off(photos: Path, hier: Hier, tmp_path: Path) -> None:
    words = ["--hier-weight", "0", "--loss", "triplet", "--epochs", "1"]
    done = hier("train", "--data", photos, "--out", tmp_path / "run", *TINY, *words)
    assert done.returncode == 0, done.stderr.decode()
    row = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    assert "triplet" in row
    assert "hier" not in row


def test_a_diverged_loss_stops_the_run(photos: Path, hier: Hier, tmp_path: Path) -> None:
    words = ["--lr", "1e30", "--warmup-epochs", "0", "--schedule", "constant"]
    done = hier("train", "--data", photos, "--out", tmp_path / "run", *TINY, *words)
    assert done.returncode == 2
    assert "Lower --lr" in done.stderr.decode()


def test_crops_stay_inside_and_vary() -> None:
    rng = np.random.default_rng(0)
    boxes = np.array([random_box((100, 60), 0.2, rng) for _ in range(200)])
    assert boxes.min() >= 0
    assert boxes[:, 2].max() <= 100
    assert boxes[:, 3].max() <= 60
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) / 6000
    assert areas.min() > 0.19
    assert areas.std() > 0.1


def test_the_offline_weights_recognise_something() -> None:
    """Random weights would give features that are all alike; trained ones tell pictures apart."""
    network = backbone.create(backbone.DEFAULT).eval()
    state = torch.load(backbone._packaged_weights(), weights_only=True)
    assert torch.equal(next(iter(network.state_dict().values())), next(iter(state.values())))
    with pytest.raises(Exception, match="does not fit"):
        backbone.create("test_efficientnet", weights=backbone._packaged_weights())


def a_run(photos: Path, out: Path, **changes: object) -> trainer.Run:
    records = tuple(Record(path, path.parent.name) for path in sorted(photos.rglob("*.jpg")))
    settings = recipe.load("fast", {
        "backbone": "test_efficientnet", "weights": "none", "train_size": 32, "eval_size": 32,
        "batch_size": 8, "workers": 0, "epochs": 1, "warmup_epochs": 0, **changes,
    })  # fmt: skip
    return trainer.Run(settings, Dataset("x", records, ()), out, Silence(), World())


@pytest.mark.parametrize("frozen", [True, False])
def test_batch_norm_statistics_can_be_frozen(photos: Path, tmp_path: Path, frozen: bool) -> None:
    run = a_run(photos, tmp_path, freeze_batch_norm=frozen)
    run._set_training_mode()
    before = {k: v.clone() for k, v in run.embedder.state_dict().items() if "running_mean" in k}
    run._one_step(torch.randn(8, 3, 32, 32), list(range(8)))
    after = run.embedder.state_dict()
    assert before
    assert all(torch.equal(before[k], after[k]) for k in before) == frozen


def test_only_an_unseeded_sampler_ignores_the_seed(photos: Path, tmp_path: Path) -> None:
    for seeded in (True, False):
        orders = [
            list(a_run(photos, tmp_path, seed=seed, seeded_sampler=seeded,
                       validation_share=0.0).sampler.batches(0))
            for seed in (0, 1)
        ]  # fmt: skip
        assert (orders[0] != orders[1]) == seeded


def test_gem_pooling_lies_between_mean_and_maximum() -> None:
    x = torch.rand(2, 5, 7, 7, generator=torch.Generator().manual_seed(0))
    flat = x.flatten(2)
    assert torch.allclose(pooling.GeM(1.0)(x).flatten(1), flat.mean(2))
    assert torch.allclose(pooling.GeM()(x).flatten(1), flat.square().mean(2).sqrt())
    assert torch.allclose(pooling.GeM(400.0)(x).flatten(1), flat.amax(2), rtol=0.02)
    small = {"backbone": "test_efficientnet", "weights": "none", "train_size": 32, "eval_size": 32}
    torch.manual_seed(0)
    plain, preprocessing = checkpoint.new_embedder(recipe.load("hier", small | {"pooling": ""}))
    torch.manual_seed(0)
    pooled, _ = checkpoint.new_embedder(recipe.load("hier", small | {"pooling": "gem"}))
    pixels = torch.randn(2, 3, 32, 32)
    places = plain.eval().backbone.forward_features(pixels).flatten(2).clamp(min=0)
    assert torch.allclose(pooled.eval().features(pixels), places.square().mean(2).sqrt(), atol=1e-4)
    # The weights of an average and of average and maximum are the same: the pooling tells.
    marks = {fingerprint(plain, preprocessing, name) for name in ("", "avg", "avgmax")}
    assert len({*marks, fingerprint(pooled, preprocessing, "gem")}) == 4
    torch.manual_seed(0)
    chosen, _ = checkpoint.new_embedder(recipe.load("hier", small | {"pooling": "auto"}))
    assert torch.equal(chosen.eval().features(pixels), pooled.features(pixels))
    own = backbone.create("test_vit", weights="none", pooling="auto")
    assert backbone.num_features(own, 160) == 64
    for other in ("test_vit", "swin_tiny_patch4_window7_224"):
        with pytest.raises(InputError, match="pooling gem"):
            backbone.create(other, weights="none", pooling="gem")
    assert torch.isfinite(pooling.GeM().half()(torch.full((1, 1, 2, 2), 3e4).half())).all()


def test_a_run_starts_from_what_the_backbone_knows(photos: Path, tmp_path: Path) -> None:
    run = a_run(photos, tmp_path, head_init="pca", initial_radius=1.2, proxy_init="tree",
                relation_weight=1.0, num_proxies=30, freeze_proxies=True,
                class_proxy_init="mean")  # fmt: skip
    points, _ = run.judge.embed(run.embedder, run.training)
    lengths = np.linalg.norm(
        poincare.logmap0(points.astype(np.float64), run.recipe.model.c), axis=1
    )
    assert lengths.mean() == pytest.approx(1.2, rel=0.05)
    tangent = torch.from_numpy(
        poincare.logmap0(points.astype(np.float64), run.recipe.model.c)
    ).float()
    means = torch.stack([tangent[run.labels == label].mean(0) for label in range(len(run.names))])
    assert isinstance(run.objective.metric.proxies, torch.Tensor)
    assert torch.cosine_similarity(run.objective.metric.proxies, means).min() > 0.99
    assert run.known is not None
    assert run.known.mean(dim=0).abs().max() < 1e-4
    before = run.objective.hier.proxies.clone()
    assert before[0].norm() < before[-1].norm()
    run._set_training_mode()
    values = run._one_step(torch.randn(8, 3, 32, 32), list(range(8)))
    assert set(values) == {"proxy-anchor", "hier", "relations"}
    assert torch.equal(before, run.objective.hier.proxies)
    head = run.embedder.head.weight.clone()
    run._one_step(torch.randn(8, 3, 32, 32), list(range(8)))
    assert not torch.equal(head, run.embedder.head.weight)


def test_a_device_that_is_not_there() -> None:
    if not torch.cuda.is_available():
        with pytest.raises(TrainingError, match="--device cpu"):
            device.choose_device("cuda")
    with pytest.raises(TrainingError, match="auto, cpu"):
        device.choose_device("toaster")


def test_float32_where_half_the_digits_would_be_slower(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    cpu, plain = torch.device("cpu"), nn.Sequential(nn.Conv2d(8, 8, 3))
    depthwise = nn.Sequential(nn.Conv2d(8, 8, 3, groups=8))
    for has_it, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(device, "_has_bf16", lambda found=has_it: found)
        assert device.choose_precision("auto", cpu, plain) == dtype
        assert device.choose_precision("auto", cpu, depthwise) == torch.float32
    assert device.choose_precision("bf16", cpu, depthwise) == torch.bfloat16


@pytest.mark.parametrize(("cache", "workers"), [("none", 2), ("ram", 0), ("device", 0)])
def test_a_resumed_run_sees_what_it_has_not_seen(
    photos: Path, tmp_path: Path, cache: str, workers: int
) -> None:
    """From the middle of an epoch on, and into the next, whatever is decoded ahead."""
    runs = [a_run(photos, tmp_path, cache=cache, workers=workers, epochs=2) for _ in range(2)]
    steps = len(runs[0].sampler)
    everything = [pixels for _, pixels, _ in runs[0].feed.batches(0, 0)]
    assert steps > 2
    assert len(everything) == 2 * steps
    rest = [pixels for _, pixels, _ in runs[1].feed.batches(0, 2)]
    assert len(rest) == 2 * steps - 2
    assert all(map(torch.equal, rest, everything[2:]))
    assert not torch.equal(everything[0], everything[steps])


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc that gives memory back")
@pytest.mark.parametrize(("kept", "least", "most"), [(True, 200, 400), (False, -50, 50)])
def test_freed_memory_is_kept_for_the_next_step(kept: bool, least: int, most: int) -> None:
    """32 blocks of 8 MB are taken and freed; what remains is read from the process."""
    code = f"""
import os, pathlib, torch
from hiercli.memory import keep_freed_memory
def held():
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 2**20
if {kept}: keep_freed_memory()
before = held()
blocks = [torch.ones(2 * 2**20) for _ in range(32)]
del blocks
print(held() - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert least <= int(done.stdout) <= most


def test_only_crops_on_the_device_bind_a_run_to_its_cache(tmp_path: Path) -> None:
    plain = recipe.load("hier")
    (tmp_path / "config.toml").write_text(recipe.dump(plain))
    require_same_settings(tmp_path, plain.replace(cache="ram", workers=0))
    with pytest.raises(TrainingError, match="cache none -> device"):
        require_same_settings(tmp_path, plain.replace(cache="device"))


# -- what a checkpoint says of its classes ----------------------------------------------------


@pytest.mark.parametrize("decay", ["0", "0.9"])
def test_classes_lie_where_the_saved_weights_put_their_images(
    decay: str, photos: Path, hier: Hier, tmp_path: Path
) -> None:
    """Each image once, as it is evaluated: no sums over crops and weights that are gone."""
    out = tmp_path / "run"
    words = ["train", "--data", photos, "--out", out, *TINY, "--ema-decay", decay]
    assert hier(*words, "--batch-size", "4", "--warmup-epochs", "0").returncode == 0
    held = checkpoint.load(out / "best.pt")
    training = [r for r in catalogue.load(str(photos)).train if r.label in held.class_names]
    points, kept, _ = embed_records(
        held.embedder, training, held.preprocessing, device=torch.device("cpu")
    )
    assert len(kept) == len(training) == 12
    for name, point in zip(held.class_names, held.class_points, strict=True):
        own = points[[record.label == name for record in training]].astype(np.float64)
        assert np.allclose(point, poincare.midpoint(own, held.recipe.model.c), atol=1e-5)
    state = checkpoint.read(out / "last.pt").progress
    assert state is not None
    live = torch.as_tensor(state["objective"]["hier.proxies"])
    if decay == "0":
        assert state["averaged"] == []
    else:  # the proxies of an averaged encoder are averaged too, at the same rate
        averaged = state["averaged"][1]["module.proxies"]
        assert 0 < float((averaged - live).norm()) < float(live.norm())


def test_a_run_that_is_not_finished_says_so(
    trained: Path, photos: Path, inside: Hier, tmp_path: Path
) -> None:
    done = inside("hierarchy", "--checkpoint", trained / "last.pt")
    assert (done.returncode, b"best.pt" in done.stderr) == (2, True)
    # Its weights serve all the same.
    done = inside("export", "--checkpoint", trained / "last.pt", "-o", tmp_path / "m.onnx")
    assert done.returncode == 0
    done = inside("embed", photos, "--model", tmp_path / "m.onnx", "-o", tmp_path / "v.npy")
    assert done.returncode == 0
    done = inside("hierarchy", "--model", tmp_path / "m.onnx")
    assert (done.returncode, b"has no class points" in done.stderr) == (2, True)


def test_other_images_under_the_same_names_are_not_gone_on_with(
    photos: Path, inside: Hier, tmp_path: Path
) -> None:
    data, out = tmp_path / "photos", tmp_path / "run"
    shutil.copytree(photos, data)
    words = ["train", "--data", data, "--out", out, *TINY]
    assert inside(*words).returncode == 0
    (tmp_path / "elsewhere").mkdir()
    shutil.move(data, tmp_path / "elsewhere" / "photos")  # the same images in another place
    words[2] = tmp_path / "elsewhere" / "photos"
    assert inside(*words, "--resume").returncode == 0
    for folder in sorted((tmp_path / "elsewhere" / "photos").iterdir()):
        Image.new("RGB", (48, 48), "red").save(folder / "photo0.jpg")
    done = inside(*words, "--resume")
    assert (done.returncode, b"other images of these classes" in done.stderr) == (2, True)


@pytest.mark.parametrize("key", ["optimizer", "objective", "epoch", "generator", "totals"])
def test_a_damaged_state_is_one_message(
    key: str, trained: Path, photos: Path, inside: Hier, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(trained, out)
    content = torch.load(out / "last.pt", weights_only=True)
    content["progress"][key] = {"param_groups": [3]}
    torch.save(content, out / "last.pt")
    done = inside("train", "--data", photos, "--out", out, *TINY, "--resume")
    assert done.returncode == 2, done.stderr
    assert b"damaged" in done.stderr


def test_validation_images_that_were_set_aside_choose(
    photos: Path, inside: Hier, tmp_path: Path
) -> None:
    parts = {0: "train", 1: "train", 2: "val", 3: "val", 4: "test", 5: "test"}
    rows = [f"{photo},kind{label},{part}" for label, part in parts.items()
            for photo in sorted((photos / f"kind{label}").iterdir())]  # fmt: skip
    (tmp_path / "m.csv").write_text("path,label,split\n" + "\n".join(rows) + "\n")
    done = inside("train", "--data", tmp_path / "m.csv", "--out", tmp_path / "run", *TINY)
    assert done.returncode == 0, done.stderr
    assert b"train: 2 classes, 12 images" in done.stderr
    assert b"validate: 2 classes, 12 images" in done.stderr
    assert b"highest validation MAP@R" in done.stdout


def test_classes_that_were_trained_on_are_not_called_unseen(
    photos: Path, inside: Hier, tmp_path: Path
) -> None:
    rows = [f"{photo},kind{label},{part}" for label in range(4) for part in ("train", "test")
            for photo in sorted((photos / f"kind{label}").iterdir())]  # fmt: skip
    (tmp_path / "m.csv").write_text("path,label,split\n" + "\n".join(rows) + "\n")
    done = inside("train", "--data", tmp_path / "m.csv", "--out", tmp_path / "run", *TINY)
    assert b"unseen classes" not in done.stdout
    assert b"4 of the test classes are also training classes" in done.stderr
    assert b"24 of the 24 test images are also training images" in done.stderr


def test_a_full_disk_is_called_that(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0")

    held = checkpoint.load(trained / "best.pt")
    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(InputError, match="the disk is full") as told:
        checkpoint.save(
            tmp_path / "c.pt", embedder=held.embedder, preprocessing=held.preprocessing,
            recipe=held.recipe, proxies=held.proxies, class_names=held.class_names,
            class_points=held.class_points,
        )  # fmt: skip
    assert "enforce" not in str(told.value)
    assert list(tmp_path.iterdir()) == []


def test_curves_show_what_begins_later(tmp_path: Path) -> None:
    rows = [{"epoch": 1, "hier": 1.0}, {"epoch": 2, "hier": 0.5, "lca_deeper": 0.6}]
    drawn: list[str] = []
    from matplotlib.axes import Axes

    plot = Axes.plot

    def noted(axes: Axes, *words: object, **options: object) -> object:
        drawn.append(str(options.get("label")))
        return plot(axes, *words, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Axes, "plot", noted)
        curves.draw(rows, tmp_path / "c.png")
    assert set(drawn) == {"hier", "lca deeper"}


def test_pictures_of_a_class_are_found_without_looking_at_all(tmp_path: Path) -> None:
    """Half a million pictures: to find those that stand in for one cost a look at each."""
    count = 500_000
    records = [Record(Path("x"), str(number // 5)) for number in range(count)]
    half = Preprocessing(8, 1.0, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    photos = TrainingPhotos(records, half, size=8, crop_scale_min=0.5, seed=0)
    assert list(photos.successors(count - 4)) == [count - 4, count - 3, count - 2, count - 1,
                                                  count - 5]  # fmt: skip
    looked = 0

    class Counted(list[Record]):
        def __getitem__(self, place: Any) -> Any:
            nonlocal looked
            looked += 1
            return super().__getitem__(place)

    photos.records = Counted(records)
    list(photos.successors(count // 2))
    assert looked <= 5


def test_lines_of_metrics_that_are_none_are_left_out(tmp_path: Path) -> None:
    long = json.dumps({"epoch": 1, "hier": 0.5, "a name without end" * 9999: 1})
    lines = [
        '{"epoch": 1, "hier": 0.5, "odd": {}}',
        long,
        "[1]",
        '{"epoch": "x"}',
        '{"epo',
        "[" * 99999,
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"epoch": 1, "hier": 0.5}] * 2


def _without_an_end(content: dict[str, Any]) -> None:
    content["progress"]["epoch"] = 2**70


def _steps_of_truth(content: dict[str, Any]) -> None:
    for known in content["progress"]["optimizer"]["state"].values():
        known["step"] = torch.tensor(True)


def _a_tensor_for_a_table(content: dict[str, Any]) -> None:
    content["preprocessing"] = torch.zeros(3)


@pytest.mark.parametrize("change", [_without_an_end, _steps_of_truth, _a_tensor_for_a_table])
def test_what_a_checkpoint_cannot_hold_is_one_message(
    change: Callable[[dict[str, Any]], None], trained: Path, photos: Path, inside: Hier,
    tmp_path: Path,
) -> None:  # fmt: skip
    out = tmp_path / "run"
    shutil.copytree(trained, out)
    content = torch.load(out / "last.pt", weights_only=True)
    content["progress"]["epoch"] = 1
    change(content)
    torch.save(content, out / "last.pt")
    done = inside("train", "--data", photos, "--out", out, *TINY, "--resume")
    assert (done.returncode, b"damaged" in done.stderr) == (2, True), done.stderr.decode()


def test_settings_of_the_optimizer_are_the_recipes(
    trained: Path, photos: Path, inside: Hier, tmp_path: Path
) -> None:
    """What a checkpoint says of them is not taken up, so it can do no harm."""
    out = tmp_path / "run"
    shutil.copytree(trained, out)
    content = torch.load(out / "last.pt", weights_only=True)
    content["progress"]["epoch"] = 1
    for group in content["progress"]["optimizer"]["param_groups"]:
        group |= {"betas": {}, "base_lr": "x", "eps": b"x", "lr": 1e9}
    torch.save(content, out / "last.pt")
    done = inside("train", "--data", photos, "--out", out, *TINY, "--resume")
    assert done.returncode == 0, done.stderr
    assert b"resumed at epoch: 1" in done.stderr


def test_no_epochs_is_an_untrained_encoder(photos: Path, hier: Hier, tmp_path: Path) -> None:
    done = hier("train", "--data", photos, "--out", tmp_path / "r", *TINY, "--epochs", "0")
    assert done.returncode == 0, done.stderr.decode()
    assert b"weights of epoch 0 (untrained)" in done.stdout
    assert not (tmp_path / "r" / "curves.png").exists()
    assert len(checkpoint.read(tmp_path / "r" / "best.pt").class_points) == 2
    again = hier(
        "train", "--data", photos, "--out", tmp_path / "r", *TINY, "--epochs", "0", "--resume"
    )
    assert again.stdout == done.stdout


def test_all_classes_may_train(photos: Path, hier: Hier, tmp_path: Path) -> None:
    shares = ["--test-share", "0", "--validation-share", "0"]
    done = hier("train", "--data", photos, "--out", tmp_path / "r", *TINY, *shares)
    assert done.returncode == 0, done.stderr.decode()
    for line in (
        "8 classes, no levels above them", "train: 8 classes, 48 images", "validate: none",
        "test: nothing", "batch: 8 images, 2 of each class",
    ):  # fmt: skip
        assert line in done.stderr.decode(), line
    assert len(checkpoint.read(tmp_path / "r" / "best.pt").class_names) == 8
    assert not done.stdout


def test_the_batch_that_is_made_is_said(photos: Path, hier: Hier, tmp_path: Path) -> None:
    done = hier("train", "--data", photos, "--out", tmp_path / "r", *TINY, "--batch-size", "40")
    assert b"batch: 4 images, 2 of each class (40 were asked for, of 2 classes)" in done.stderr


def test_the_untrained_backbone_stands_beside_the_trained(trained: Path) -> None:
    before = json.loads((trained / "untrained.json").read_text())
    assert {"recall@1", "map@r"} < set(before["scores"])
    baseline = Baseline("", 1.0, {"recall@1": 50.0, "recall@2": 70.0, "map@r": 30.0})
    for recall, precision, words in (
        (51.0, 30.0, "training helped"), (50.0, 30.0, "training did not help"),
        (49.0, 29.0, "training did not help"), (52.0, 29.0, "worsened the other"),
    ):  # fmt: skip
        assert words in baseline.verdict({"recall@1": recall, "map@r": precision})
    trained_scores = {"recall@1": 52.0, "map@r": 33.0}
    for low, words in (
        (0.5, "training helped, better"),
        (-0.5, "no evidence that training helped, no significant"),
    ):
        sure = dataclasses.replace(baseline, comparison=Comparison(2.0, low, 4.0, 9))
        assert words in sure.verdict(trained_scores)
    unsure = Comparison(0.9, -0.2, 2.2, 42)
    for recall, low, words in (
        (unsure, 6.0, "training helped, better: +7.4 points of MAP@R"),
        (unsure, -0.1, "no evidence that training helped, no significant difference: +0.9"),
        (Comparison(-2.0, -3.0, -1.0, 42), 6.0, "training did not help, worse"),
    ):
        further = Comparison(7.4, low, 8.8, 42, "MAP@R")
        both = dataclasses.replace(baseline, comparison=recall, of_precision=further)
        assert both.verdict(trained_scores).startswith(words)


def test_a_backbone_is_exported_without_training(
    photos: Path, inside: Hier, tmp_path: Path
) -> None:
    model = tmp_path / "plain.onnx"
    words = ["--backbone", "test_efficientnet", "--weights", "none", "--image-size", "32"]
    done = inside("export", *words, "--data", photos, "-o", model, "--embedding-dim", "24")
    assert done.returncode == 0, done.stderr
    index = tmp_path / "i.faiss"
    assert inside("embed", photos, "--model", model, "--index", index).returncode == 0
    done = inside("search", next(photos.glob("*/*.jpg")), "--index", index, "--json")
    assert json.loads(done.stdout)["results"][0]["distance"] == 0
    assert inside("hierarchy", "--index", index).returncode == 0
    loose = tmp_path / "loose"  # no labels are needed
    loose.mkdir()
    for number, file in enumerate(photos.glob("*/*.jpg")):
        (loose / f"{number}.jpg").write_bytes(file.read_bytes())
    assert inside("export", *words, "--data", loose, "-o", model).returncode == 0
    assert inside("export", *words, "-o", model).returncode == 0
    done = inside("export", "--backbone", "resnet18x", "-o", model)
    assert done.returncode == 2 and b"close to resnet18" in done.stderr


def test_a_transformer_takes_weights_of_another_size(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = backbone.create("test_vit", weights="none", image_size=160)
    torch.save(model.state_dict(), tmp_path / "w.pt")
    other = backbone.create("test_vit", weights=str(tmp_path / "w.pt"), image_size=96)
    own, resized = model.state_dict(), other.state_dict()
    assert own["pos_embed"].shape != resized["pos_embed"].shape
    assert all(torch.equal(own[name], resized[name]) for name in own if name != "pos_embed")
