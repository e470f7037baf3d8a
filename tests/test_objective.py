"""The objective beside HIER: relations kept, the start from known features, signs of health."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from hiercli.errors import InputError
from hiercli.geometry import poincare
from hiercli.hierarchy.proxies import grow_proxies
from hiercli.images import Preprocessing
from hiercli.labels import Record
from hiercli.losses.hier import HierLoss
from hiercli.losses.metric import create, place_class_proxies
from hiercli.losses.relations import relational_loss
from hiercli.nn.embedder import Embedder
from hiercli.training import device_photos, loading
from hiercli.training.averaging import averaged
from hiercli.training.device_photos import DevicePhotos
from hiercli.training.objective import Objective, collapse, watch
from hiercli.training.recipe import Recipe
from hiercli.training.starting import start_head


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_relations_by_loops() -> None:
    points, known, labels = random(6, 3), random(6, 5, seed=1), torch.tensor([0, 0, 1, 1, 2, 2])
    total = 0.0
    for i in range(6):
        others = [j for j in range(6) if labels[j] != labels[i]]
        rows = []
        for x in (known, points):
            cosines = [float(torch.cosine_similarity(x[i], x[j], dim=0)) / 0.5 for j in others]
            top = sum(math.exp(value) for value in cosines)
            rows.append([math.exp(value) / top for value in cosines])
        total += sum(p * math.log(p / q) for p, q in zip(*rows, strict=True))
    value = relational_loss(points, labels, known, temperature=0.5)
    assert value.item() == pytest.approx(total / 6, rel=1e-5)


def test_relations_that_did_not_change_cost_nothing() -> None:
    known = random(8, 4)
    value = relational_loss(3 * known, torch.arange(8) // 2, known, temperature=0.1)
    assert value.item() == pytest.approx(0, abs=1e-6)
    one_class = relational_loss(random(8, 4, seed=1).requires_grad_(), torch.zeros(8), known,
                                temperature=0.1)  # fmt: skip
    one_class.backward()
    assert one_class.item() == 0


@pytest.mark.parametrize("halved", [False, True])
def test_the_metric_loss_is_halved_only_on_request(halved: bool) -> None:
    """The published code computes it in the backbone's precision."""
    recipe = Recipe.of(embedding_dim=8, half_precision_loss=halved, hier_weight=0.0)
    objective = Objective(recipe, num_classes=4)
    seen: list[bool] = []
    objective.metric.register_forward_pre_hook(
        lambda *_: seen.append(torch.is_autocast_enabled("cpu"))
    )
    for dtype in (torch.bfloat16, torch.float32):
        points = 0.1 * random(8, 8)
        objective(points, torch.arange(8) // 2, None, torch.Generator(), dtype)
    assert seen == [halved, False]


def test_the_recipe_reaches_the_loss() -> None:
    for setting in ("self_neighbours", "own_ancestors"):
        loss = Objective(Recipe.of(embedding_dim=8, **{setting: True}), num_classes=4).hier
        both = {name: getattr(loss, name) for name in ("self_neighbours", "own_ancestors")}
        assert [name for name, value in both.items() if value] == [setting]


def test_the_average_of_weights_by_hand() -> None:
    """It starts at the first weights, and copies whole numbers, which an average would cut."""
    module = nn.Module()
    module.weight = nn.Parameter(torch.tensor([1.0, 2.0]))
    module.register_buffer("table", torch.arange(4000), persistent=False)
    module.register_buffer("count", torch.tensor(0))
    mean = averaged(module, 0.9)
    expected = module.weight.detach().clone()
    for step in range(1, 6):
        with torch.no_grad():
            module.weight += step
        module.count += 1
        mean.update_parameters(module)
        expected = 0.9 * expected + 0.1 * module.weight.detach()
        assert torch.allclose(mean.module.weight, expected)
        assert torch.equal(mean.module.table, torch.arange(4000))
        assert mean.module.count == step
        assert not mean.module.weight.equal(module.weight)


def embedder(dim: int = 4, learned_radius: bool = False) -> Embedder:
    return Embedder(nn.Identity(), num_features=12, embedding_dim=dim, c=0.1, clip_radius=2.3,
                    learned_radius=learned_radius)  # fmt: skip


def test_the_pca_head_keeps_what_sets_photographs_apart() -> None:
    features = random(200, 3) @ random(3, 12, seed=1) + 0.01 * random(200, 12, seed=2) + 5
    shares = {}
    for init in ("pca", "orthogonal"):
        torch.manual_seed(0)
        network = embedder()
        start_head(network, features, init=init, radius=1.5)
        with torch.no_grad():
            tangent = network.tangent(features)
        normal = network.norm(features)
        kept = (tangent - tangent.mean(0)).square().sum() / (normal - normal.mean(0)).square().sum()
        scale = network.head.weight[0].norm().square()
        shares[init] = float(kept / scale)
        assert tangent.norm(dim=1).mean().item() == pytest.approx(1.5, rel=1e-4)
    assert shares["pca"] > 0.99 > shares["orthogonal"]


@pytest.mark.parametrize("dim", [4, 12, 20])
def test_whitening_evens_out_the_directions(dim: int) -> None:
    """Spread to the power of 1 - whitening along each; the weights keep their size."""
    features = random(500, 12) * torch.linspace(1, 3, 12) + 5
    spreads = {}
    for whitening in (0.0, 0.5, 1.0):
        torch.manual_seed(0)
        network = embedder(dim)
        size = network.head.weight.norm()
        start_head(network, features, init="pca", whitening=whitening, radius=0)
        with torch.no_grad():
            tangent = network.tangent(features)
        assert network.head.weight.norm().item() == pytest.approx(size.item(), rel=1e-4)
        assert tangent.mean(dim=0).abs().max() < 1e-5
        # LayerNorm took one of the 12 directions.
        values = torch.linalg.svdvals(tangent)[: min(dim, 11)]
        spreads[whitening] = values / values[-1]
    assert torch.allclose(spreads[0.5], spreads[0.0].sqrt(), rtol=1e-3)
    assert torch.allclose(spreads[1.0], torch.ones(min(dim, 11)), rtol=1e-3)


def test_a_learned_radius_is_no_business_of_metric_losses() -> None:
    network = embedder(learned_radius=True)
    start_head(network, random(20, 12), init="orthogonal", radius=1.2)
    points = network(random(16, 12))
    lengths = poincare.logmap0(points, 0.1).norm(dim=1)
    assert torch.allclose(lengths, torch.full((16,), 1.2), atol=1e-4)
    create("proxy-anchor", num_classes=4, embedding_dim=4, c=0.1)(
        points, torch.arange(16) % 4
    ).backward()
    assert network.radius.weight.grad.abs().max() < 1e-5 < network.head.weight.grad.abs().max()
    HierLoss(4, 12, num_neighbours=4)(network(random(16, 12)), torch.arange(16) % 4).backward()
    assert network.radius.weight.grad.abs().max() > 1e-5


def test_proxies_grow_from_the_tree_of_the_classes() -> None:
    """Two pairs of sister classes: the root lies nearest the origin, classes farthest out."""
    rng = np.random.default_rng(0)
    centres = np.array([[3, 1, 0], [3, -1, 0], [-3, 0, 1], [-3, 0, -1]], dtype=np.float32)
    labels = np.repeat(np.arange(4), 20)
    tangent = centres[labels] + 0.1 * rng.standard_normal((80, 3)).astype(np.float32)
    proxies = grow_proxies(tangent, labels, 20)
    means = np.stack([tangent[labels == label].mean(0) for label in range(4)])
    assert np.allclose(proxies[0], means.mean(0), atol=1e-5)
    sisters = sorted((proxies[1:3]).tolist())
    assert np.allclose(sisters, sorted([means[2:].mean(0).tolist(), means[:2].mean(0).tolist()]))
    assert np.allclose(proxies[3:7], means)
    radius = np.linalg.norm(proxies, axis=1)
    assert radius[0] < radius[1:3].min() < radius[3:7].min()
    assert proxies.shape == (20, 3)
    assert len(np.unique(proxies, axis=0)) == 20
    assert grow_proxies(tangent, labels, 2).shape == (2, 3)
    assert grow_proxies(tangent[:8], np.arange(8), 40).shape == (40, 3)


def test_the_signs_of_health_tell_depth_from_chance() -> None:
    """Proxies that are the tree of well-parted classes against proxies at random."""
    directions = torch.nn.functional.normalize(random(8, 16), dim=1)
    shared = torch.nn.functional.normalize(random(4, 16, seed=1), dim=1)
    labels = torch.arange(64) % 8
    tangent = 1.5 * (directions + shared.repeat_interleave(2, 0))[labels]
    tangent = tangent + 0.05 * random(64, 16, seed=2)
    signs = {}
    for start in ("tree", "random"):
        hier = HierLoss(16, 15, num_neighbours=12, generator=torch.Generator().manual_seed(0))
        if start == "tree":
            places = grow_proxies(tangent.numpy(), labels.numpy(), 15)
            hier.proxies.data.copy_(torch.from_numpy(places))
        batch = (hier.to_poincare(tangent), labels)
        signs[start] = watch(hier, [batch], torch.Generator().manual_seed(0))
    assert signs["tree"]["lca_deeper"] > 0.9 > signs["random"]["lca_deeper"]
    assert 4 < signs["tree"]["effective_rank"] < 16
    assert signs["tree"]["dead_proxies"] < signs["random"]["dead_proxies"]
    assert collapse(signs["tree"], Recipe()) == ""


def test_collapse_is_noticed() -> None:
    hier = HierLoss(16, 15, num_neighbours=4)
    labels = torch.arange(32) // 2
    line = random(32, 1) * random(1, 16, seed=1)
    told = watch(hier, [(hier.to_poincare(line), labels)], torch.Generator().manual_seed(0))
    assert "--relation-weight" in collapse(told, Recipe())
    well = {"effective_rank": 9.0, "photo_radius": 1.5, "dead_proxies": 0.1}
    assert collapse(well, Recipe()) == ""
    assert "--initial-radius" in collapse(well | {"photo_radius": 0.001}, Recipe())
    assert "--proxy-init tree" in collapse(well | {"dead_proxies": 0.99}, Recipe())


def test_nothing_is_said_of_proxies_that_are_not_used_or_hardly_looked_at() -> None:
    hier = HierLoss(16, 256, num_neighbours=4, triplets_per_anchor=5)
    batch = [(hier.to_poincare(random(16, 16)), torch.arange(16) // 2)]
    assert "dead_proxies" not in watch(hier, batch, torch.Generator())
    assert "proxy_radius" not in watch(hier, batch, torch.Generator(), with_proxies=False)


def test_cached_photographs_give_the_same_crops(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged = tmp_path / "bad.jpg"
    damaged.write_bytes(b"not a picture")
    records = [Record(path, path.parent.name) for path in sorted(photos.rglob("*.jpg"))[:6]]
    records.append(Record(damaged, records[0].label))
    look = Preprocessing(32, 1.0, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    plain, cached = (
        loading.TrainingPhotos(records, look, size=32, crop_scale_min=0.3, seed=1) for _ in range(2)
    )
    seen: list[tuple[int, int]] = []
    cached.cache(lambda done, total: seen.append((done, total)))
    assert seen[-1] == (7, 7)
    for index in range(7):
        one, two = plain[(0, 3, index)], cached[(0, 3, index)]
        assert torch.equal(one[0], two[0])
        assert one[1] == two[1]
        assert bool(one[1]) == (index == 6)
        picture = one[0].numpy()
        ready = loading.to_input(one[0][None], look, torch.device("cpu"))[0]
        assert np.array_equal(ready.numpy(), look.normalise(picture))
    monkeypatch.setattr(loading, "free_memory", lambda: 10)
    with pytest.raises(InputError, match="--cache none"):
        loading.TrainingPhotos(records, look, size=32, crop_scale_min=0.3, seed=1).cache()


def test_photographs_on_the_device_are_cropped_alike(photos: Path, tmp_path: Path) -> None:
    """Boxes, flips and stand-ins of the other ways; only the resampling differs."""
    damaged = tmp_path / "bad.jpg"
    damaged.write_bytes(b"not a picture")
    paths = sorted(photos.rglob("*.jpg"))[:10]
    for number, size in enumerate([(150, 100), (90, 160)]):  # larger than what is kept of them
        paths.append(tmp_path / f"{number}.jpg")
        with Image.open(paths[number]) as picture:
            picture.resize(size).save(paths[-1])
    records = [Record(path, "one class") for path in (*paths, damaged)]
    look = Preprocessing(32, 1.0, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bilinear")
    source = loading.TrainingPhotos(records, look, size=32, crop_scale_min=0.3, seed=1)
    held = DevicePhotos(source, torch.device("cpu"))
    keys = [(epoch, place, place) for epoch in range(3) for place in range(13)]
    ready, reasons = held.batch(keys)
    assert ready.shape == (39, 3, 32, 32)
    assert [bool(reason) for reason in reasons] == 3 * (12 * [False] + [True])
    wanted = torch.stack([source[key][0] for key in keys])
    wanted = loading.to_input(wanted, source.preprocessing, torch.device("cpu"))
    apart = (ready - wanted).abs().mean(dim=(1, 2, 3))
    mirrored = (ready.flip(3) - wanted).abs().mean(dim=(1, 2, 3))
    assert apart.mean() < 0.05
    assert apart.max() < 0.12
    assert (apart < mirrored).all()


def test_photographs_that_the_device_cannot_hold(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [Record(path, path.parent.name) for path in sorted(photos.rglob("*.jpg"))[:4]]
    look = Preprocessing(32, 1.0, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    source = loading.TrainingPhotos(records, look, size=32, crop_scale_min=0.3, seed=1)
    monkeypatch.setattr(device_photos, "free_memory", lambda: 10)
    with pytest.raises(InputError, match="--cache none"):
        DevicePhotos(source, torch.device("cpu"))


def test_only_losses_with_a_proxy_a_class_start_at_the_means() -> None:
    means = random(5, 4)
    loss = create("proxy-anchor", num_classes=5, embedding_dim=4, c=0.1)
    length = loss.proxies.norm(dim=1).mean()
    place_class_proxies(loss, means)
    assert torch.allclose(loss.proxies.norm(dim=1), length)
    assert torch.cosine_similarity(loss.proxies, means).min() > 0.9999
    other = create("soft-triple", num_classes=5, embedding_dim=4, c=0.1)
    before = [weight.clone() for weight in other.parameters()]
    place_class_proxies(other, means)
    assert all(map(torch.equal, before, other.parameters()))
