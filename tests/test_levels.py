"""Known levels in training: what the losses ask for, and that training uses them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from test_interpolating import SMALL
from torch.nn import functional

from hiercli.data import manifest
from hiercli.data.records import Dataset, Record, group_ids
from hiercli.errors import DataError
from hiercli.evaluation import relevance, taxonomy
from hiercli.losses.levels import GroupProxies, ranking_loss, shared_levels
from hiercli.training import recipe, trainer
from hiercli.training.distributed import World
from hiercli.training.reporter import Silence
from hiercli.training.starting import grow_proxies

LABELS = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
GROUPS = torch.tensor([[0, 0], [0, 0], [0, 0], [0, 0], [1, 0], [1, 0], [2, 1], [2, 1]])


def literal(points: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> float:
    """H-AP as it is reported, of classes with complete levels."""
    classes = np.unique(labels)
    lines = [tuple(groups[labels == one][0]) for one in classes]
    return relevance.score(
        points, labels, taxonomy.lca_heights([tuple(map(str, line)) for line in lines]), c=None
    ).average_precision


@pytest.mark.parametrize("seed", range(5))
def test_the_ranking_loss_bounds_the_reported_score(seed: int) -> None:
    points = torch.randn(8, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    reached = literal(points.numpy(), LABELS.numpy(), GROUPS.numpy())
    loss = ranking_loss(points, LABELS, GROUPS)
    assert 1 - loss.item() <= reached + 1e-5
    assert 0 < loss.item() < 1


def test_the_ranking_loss_leads_to_the_perfect_ranking() -> None:
    points = torch.randn(8, 6, generator=torch.Generator().manual_seed(0)).requires_grad_()
    before = literal(points.detach().numpy(), LABELS.numpy(), GROUPS.numpy())
    optimizer = torch.optim.Adam([points], 0.02)
    for _ in range(300):
        optimizer.zero_grad()
        ranking_loss(points, LABELS, GROUPS).backward()
        optimizer.step()
    assert before < 0.8
    assert literal(points.detach().numpy(), LABELS.numpy(), GROUPS.numpy()) > 0.999


def test_what_is_not_known_is_not_shared() -> None:
    groups = torch.tensor([[-1, 0], [-1, 0], [-1, -1], [-1, -1]])
    assert shared_levels(torch.arange(4), groups).tolist() == [
        [3, 1, 0, 0], [1, 3, 0, 0], [0, 0, 3, 0], [0, 0, 0, 3],
    ]  # fmt: skip


def test_group_proxies_draw_each_group_together() -> None:
    points = torch.randn(8, 6, generator=torch.Generator().manual_seed(0)).requires_grad_()

    def within_and_between() -> tuple[float, float]:
        unit = functional.normalize(points.detach(), dim=1)
        same = GROUPS[:, None, 1] == GROUPS[None, :, 1]
        return (unit @ unit.T)[same].mean().item(), (unit @ unit.T)[~same].mean().item()

    before = within_and_between()
    torch.manual_seed(0)
    loss = GroupProxies([2], 6)
    optimizer = torch.optim.Adam([points, *loss.parameters()], 0.05)
    for _ in range(200):
        optimizer.zero_grad()
        loss(points, GROUPS[:, 1:]).backward()
        optimizer.step()
    after = within_and_between()
    assert before[0] < 0.4
    assert after[0] > 0.6
    assert after[1] < min(before[1], -0.3)


def test_group_proxies_leave_out_what_is_not_known() -> None:
    loss = GroupProxies([3, 2], 6)
    points = torch.randn(8, 6).requires_grad_()
    unknown = GROUPS.clone()
    unknown[3] = -1
    loss(points, unknown).backward()
    assert points.grad is not None
    assert points.grad[3].abs().max() == 0
    assert points.grad[2].abs().max() > 0
    assert loss(points, torch.full_like(GROUPS, -1)).item() == 0


def test_groups_of_one_name_under_two_parents_are_two() -> None:
    rows = [("denim", "men"), ("denim", "women"), ("", "women"), ()]
    ids, counts = group_ids([Record(Path("x.jpg"), "x", row) for row in rows], 2)
    assert ids.tolist() == [[0, 0], [1, 1], [-1, 1], [-1, -1]]
    assert counts == [2, 2]


def test_known_groups_are_the_first_proxies() -> None:
    rng = np.random.default_rng(0)
    tangent = rng.normal(size=(16, 5)).astype(np.float32)
    labels = np.arange(16) // 4
    groups = np.array([[0, 0], [0, 0], [1, 0], [2, 1]])[labels]
    places = grow_proxies(tangent, labels, 12, groups)
    assert places.shape == (12, 5)
    np.testing.assert_allclose(places[0], tangent[:12].mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(places[2], tangent[:8].mean(axis=0), rtol=1e-5)


@pytest.mark.parametrize("way", ["proxies", "ranking"])
def test_training_uses_levels(photos: Path, tmp_path: Path, way: str) -> None:
    records = tuple(
        Record(path, path.parent.name, (str(int(path.parent.name[-1]) % 2),))
        for path in sorted(photos.rglob("*.jpg"))
    )
    settings = recipe.load("fast", {**SMALL, "level_weight": 1.0, "level_loss": way})
    dataset = Dataset("x", records, (), level_names=("parity",))
    run = trainer.Run(settings, dataset, tmp_path, Silence(), World())
    parts = run._one_step(torch.randn(8, 3, 32, 32), list(range(8)))
    assert parts["levels"] > 0
    if way == "proxies":  # they start at the means of the groups
        fresh = trainer.Run(settings, dataset, tmp_path, Silence(), World())
        points, kept = fresh.judge.embed(fresh.embedder, fresh.training)
        (loss,) = fresh.objective.levels.levels
        for number in range(2):
            own = points[fresh.groups[kept, 0] == number].mean(axis=0)
            start = loss.proxies[number].detach().numpy()
            cosine = own @ start / np.linalg.norm(own) / np.linalg.norm(start)
            assert cosine > 0.95
    told: list[str] = []
    ear = Silence()
    ear.warned = told.append  # type: ignore[method-assign]
    plain = trainer.Run(settings, Dataset("x", records, ()), tmp_path, ear, World())
    assert "no effect" in told[0]
    assert "levels" not in plain._one_step(torch.randn(8, 3, 32, 32), list(range(8)))


def test_images_that_are_known_only_to_a_group_take_part_in_it(
    photos: Path, tmp_path: Path
) -> None:
    """A table in which the last class has lost its labels, but not its groups."""
    rows = ["path,label,parity,all,split"]
    for path in sorted(photos.rglob("*.jpg")):
        name = path.parent.name
        label = "" if name == "kind3" else name
        rows.append(f"{path},{label},{int(name[-1]) % 2},everything,train")
    table = tmp_path / "some.csv"
    table.write_text("\n".join(rows) + "\n")
    dataset = manifest.load(table)
    unlabelled = len([row for row in rows if ",," in row])
    assert unlabelled
    assert len(dataset.coarse) == unlabelled
    assert "kind3" not in dataset.train_classes
    settings = recipe.load("fast", {**SMALL, "level_weight": 1.0, "validation_share": 0.0})
    run = trainer.Run(settings, dataset, tmp_path, Silence(), World())
    assert run.names == dataset.train_classes
    assert (run.labels < 0).sum() == unlabelled
    assert len(np.unique(run.labels[run.labels < 0])) == unlabelled, "no two are of one class"
    drawn = {index for batch in run.sampler.batches(0) for index in batch}
    coarse = np.flatnonzero(run.labels < 0)
    assert drawn & set(coarse.tolist())
    some = [*np.flatnonzero(run.labels == 0)[:2], *np.flatnonzero(run.labels == 1)[:2], *coarse[:2]]
    points = torch.randn(6, settings.model.embedding_dim).requires_grad_()
    parts = {}
    for name, weight in (("levels", 1.0), ("none", 0.0)):
        run.objective.recipe = settings.replace(level_weight=weight, hier_weight=0.0)
        loss, _ = run.objective(
            points, torch.from_numpy(run.labels[some]), None, run.generator,
            groups=torch.from_numpy(run.groups[some]),
        )  # fmt: skip
        (parts[name],) = torch.autograd.grad(loss, points)
    assert parts["levels"][4:].abs().max() > 0
    assert parts["none"][4:].abs().max() == 0, "the losses on classes pass them over"
    told: list[str] = []
    ear = Silence()
    ear.warned = told.append  # type: ignore[method-assign]
    without = trainer.Run(settings.replace(level_weight=0.0), dataset, tmp_path, ear, World())
    assert (without.labels >= 0).all()
    assert f"{unlabelled} images without a label ignored" in told[0]


def test_a_row_without_label_and_group_is_refused(tmp_path: Path) -> None:
    table = tmp_path / "some.csv"
    table.write_text("path,label,genus\na.jpg,x,g\nb.jpg,,\n")
    with pytest.raises(DataError, match="row 2 has neither a label nor a group"):
        manifest.load(table)


def test_images_without_a_label_cannot_be_tested_on(tmp_path: Path) -> None:
    lines = [f"{name}{n}.jpg,{name},g,train" for name in "abcd" for n in range(2)]
    table = tmp_path / "some.csv"
    table.write_text("\n".join(["path,label,genus,split", *lines, "z.jpg,,g,test"]) + "\n")
    dataset = manifest.load(table)
    assert not dataset.query
    assert any("1 image without a label ignored" in note for note in dataset.notes)


def test_levels_that_are_not_known_do_no_harm(photos: Path, tmp_path: Path) -> None:
    records = tuple(
        Record(path, path.parent.name, ("", "all" if path.parent.name == "kind0" else ""))
        for path in sorted(photos.rglob("*.jpg"))
    )
    settings = recipe.load("fast", {**SMALL, "level_weight": 1.0})
    dataset = Dataset("x", records, (), level_names=("genus", "family"))
    run = trainer.Run(settings, dataset, tmp_path, Silence(), World())
    run._one_step(torch.randn(8, 3, 32, 32), list(range(8)))
