"""HIER and its companions: parity with published arrays, naive loops, and edge cases."""

import math

import numpy as np
import pytest
import torch
from conftest import reference
from literal_hier import literal_hier
from pytorch_metric_learning import losses as pml

from hiercli.errors import InputError
from hiercli.geometry import poincare
from hiercli.losses import hier as hier_module
from hiercli.losses import metric
from hiercli.losses.hier import HierLoss, lca_triplet_loss
from hiercli.losses.triplets import mine, reciprocal_neighbours
from hiercli.nn.to_poincare import ToPoincare


def close_to(value: torch.Tensor, published: np.ndarray, share: float) -> None:
    """Within ``share`` of the largest published entry."""
    assert np.abs(published).max() > 0
    assert np.abs(value.detach().numpy() - published).max() <= share * np.abs(published).max()


@pytest.mark.parametrize("name", ["hier_a.npz", "hier_b.npz", "hier_c.npz"])
def test_replays_the_published_loss_and_gradients(name: str) -> None:
    arrays = reference(name)
    c = float(arrays["c"])
    settings = {"temperature": float(arrays["tau"]), "margin": float(arrays["margin"])}
    to_poincare = ToPoincare(c, float(arrays["clip_radius"]))
    tangent = torch.tensor(arrays["tangent"], requires_grad=True)
    proxies_tangent = torch.tensor(arrays["proxies_tangent"], requires_grad=True)
    points, proxies = to_poincare(tangent), to_poincare(proxies_tangent)
    points.retain_grad()
    terms = []
    for kind, against in (("data", points), ("proxy", proxies)):
        triplets = (torch.tensor(row) for row in arrays[f"triplets_{kind}"])
        noise_ij, noise_ijk = (torch.tensor(arrays[f"gumbel_{kind}_{s}"]) for s in ("ij", "ijk"))
        distances = poincare.pairwise_dist(against, proxies, c)
        terms.append(
            lca_triplet_loss(
                distances, *triplets, **settings, noise_ij=noise_ij, noise_ijk=noise_ijk
            )
        )
        assert abs(terms[-1].item() - float(arrays[f"loss_{kind}"])) < 1e-4
    sum(terms).backward()
    assert np.abs(points.detach().numpy() - arrays["ball"]).max() < 1e-5
    close_to(points.grad, arrays["grad_ball"], 1e-3)
    close_to(tangent.grad, arrays["grad_tangent"], 1e-3)
    close_to(proxies_tangent.grad, arrays["grad_proxies_tangent"], 1e-3)
    between = poincare.pairwise_dist(torch.tensor(arrays["ball"]), torch.tensor(arrays["ball"]), c)
    assert np.abs(between.numpy() - arrays["dist_ball_ball"]).max() < 5e-4


def naive(distances: torch.Tensor, triplets: torch.Tensor, tau: float, margin: float,
          noise_ij: torch.Tensor, noise_ijk: torch.Tensor) -> torch.Tensor:  # fmt: skip
    """The formulas, one triplet at a time, with autograd's own straight-through."""
    total = distances.sum() * 0
    for t, (i, j, k) in enumerate(triplets.T.tolist()):
        reach_ij = torch.maximum(distances[i], distances[j])
        logits = (
            -reach_ij / tau + noise_ij[t],
            -torch.maximum(reach_ij, distances[k]) / tau + noise_ijk[t],
        )
        soft = [row.softmax(0) for row in logits]
        hard = [
            torch.nn.functional.one_hot(row.argmax(), len(row)) - row.detach() + row for row in soft
        ]
        if soft[0].argmax() == soft[1].argmax():
            continue
        d = {(p, s): (distances[p] * hard[s]).sum() for p in (i, j, k) for s in (0, 1)}
        total = total + torch.relu(d[i, 0] - d[i, 1] + margin)
        total = total + torch.relu(d[j, 0] - d[j, 1] + margin)
        total = total + torch.relu(d[k, 1] - d[k, 0] + margin)
    return total / triplets.shape[1]


def test_agrees_with_naive_loops_in_value_and_gradient() -> None:
    generator = torch.Generator().manual_seed(1)
    distances = torch.rand(9, 6, generator=generator, dtype=torch.float64) * 3
    triplets = torch.stack([torch.randperm(9, generator=generator)[:3] for _ in range(60)], dim=1)
    noise = [-torch.rand(60, 6, generator=generator).double().log().neg().log() for _ in range(2)]
    ours, theirs = (distances.clone().requires_grad_() for _ in range(2))
    loss = lca_triplet_loss(
        ours, *triplets, temperature=0.3, margin=0.1, noise_ij=noise[0], noise_ijk=noise[1]
    )
    oracle = naive(theirs, triplets, 0.3, 0.1, *noise)
    (2 * loss).backward()
    (2 * oracle).backward()
    assert loss.item() > 0.01
    assert loss.item() == pytest.approx(oracle.item(), rel=1e-9)
    assert torch.allclose(ours.grad, theirs.grad, atol=1e-10)


def test_no_triplets_is_a_zero_with_a_gradient() -> None:
    distances = torch.rand(4, 3, requires_grad=True)
    empty = torch.empty(0, dtype=torch.int64)
    some = torch.tensor([0, 1])
    nothing = torch.zeros(2, dtype=torch.bool)
    for indices, counted in ((empty, None), (some, nothing)):
        distances.grad = None
        loss = lca_triplet_loss(
            distances, indices, indices, indices, temperature=0.1, margin=0.1, counted=counted
        )
        loss.backward()
        assert loss.item() == 0
        assert torch.equal(distances.grad, torch.zeros(4, 3))


def test_reciprocal_neighbours_by_loops() -> None:
    similarity = torch.rand(12, 12, generator=torch.Generator().manual_seed(0))
    similarity = similarity + similarity.T
    expected = torch.zeros(12, 12, dtype=torch.bool)
    nearest = [
        sorted((j for j in range(12) if j != i), key=lambda j, i=i: -similarity[i, j])[:4]
        for i in range(12)
    ]
    for i in range(12):
        for j in nearest[i]:
            expected[i, j] = i in nearest[j]
    assert expected.any()
    assert torch.equal(reciprocal_neighbours(similarity, 4), expected)


def test_mined_triplets_are_legal_and_seeded() -> None:
    similarity = torch.rand(20, 20, generator=torch.Generator().manual_seed(0))
    draws = [
        mine(
            similarity,
            num_neighbours=5,
            triplets_per_anchor=9,
            generator=torch.Generator().manual_seed(s),
        )
        for s in (7, 7, 8)
    ]
    anchor, positive, negative, counted = draws[0]
    assert torch.equal(anchor, torch.arange(20).repeat_interleave(9))
    anchor, positive, negative = anchor[counted], positive[counted], negative[counted]
    related = reciprocal_neighbours(similarity, 5)
    assert anchor.numel() > 0
    assert related[anchor, positive].all()
    assert not related[anchor, negative].any()
    assert (anchor != positive).all()
    assert (anchor != negative).all()
    assert torch.equal(draws[0].negative, draws[1].negative)
    assert not torch.equal(draws[0].negative, draws[2].negative)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_batch_without_relatives_yields_a_zero_loss(count: int) -> None:
    """With every other point a neighbour there is no stranger left to draw."""
    loss = HierLoss(4, 3, num_neighbours=20, triplets_per_anchor=5)
    points = loss.to_poincare(torch.randn(count, 4, requires_grad=True))
    value = loss(points, torch.arange(count))
    value.backward()
    assert value.item() == 0
    assert loss.proxies.grad is not None


def test_a_proxy_is_never_its_own_ancestor() -> None:
    """Whatever the columns of i, j and k say, neither loss nor gradient looks at them."""
    generator = torch.Generator().manual_seed(0)
    distances = torch.rand(8, 8, generator=generator, dtype=torch.float64) * 3
    triplets = torch.tensor([[0, 5], [1, 6], [2, 7]])
    settings = {"temperature": 0.5, "margin": 5.0, "own_ancestors": False}
    results = []
    for own in (0.0, 1e4):
        table = distances.clone()
        for t in range(2):
            table[triplets[:, t][:, None], triplets[:, t]] = own
        table.requires_grad_()
        loss = lca_triplet_loss(
            table, *triplets, **settings, generator=torch.Generator().manual_seed(1)
        )
        loss.backward()
        results.append((loss.item(), table.grad))
    assert results[0][0] == results[1][0] > 0
    assert torch.equal(results[0][1], results[1][1])
    assert results[0][1].abs().sum() > 0


def test_small_batches_keep_their_strangers() -> None:
    similarity = torch.rand(8, 8, generator=torch.Generator().manual_seed(0))
    drawn = mine(similarity + similarity.T, num_neighbours=20, triplets_per_anchor=3)
    assert drawn.counted.any()


def test_hier_loss_is_seeded_and_moves_both_sides() -> None:
    loss = HierLoss(8, 16, num_neighbours=5, generator=torch.Generator().manual_seed(0))
    tangent = torch.randn(24, 8, generator=torch.Generator().manual_seed(1), requires_grad=True)
    labels = torch.arange(24) // 2
    values = [
        loss(loss.to_poincare(tangent), labels, torch.Generator().manual_seed(s)) for s in (5, 5, 6)
    ]
    values[0].backward()
    assert values[0].item() == values[1].item() != values[2].item()
    assert tangent.grad.abs().sum() > 0
    assert loss.proxies.grad.abs().sum() > 0


def test_two_curvatures_do_not_disturb_each_other() -> None:
    """The published code keeps c on the class: the last layer built rescales every gradient."""
    u = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))

    def gradient() -> torch.Tensor:
        leaf = u.clone().requires_grad_()
        flat(leaf).sum().backward()
        return leaf.grad

    flat = ToPoincare(0.01, 2.3)
    before = gradient()
    ToPoincare(1.0, 2.3)(u.clone().requires_grad_()).sum().backward()
    assert torch.equal(before, gradient())


def test_riemannian_gradient_is_the_euclidean_one_over_the_metric() -> None:
    u = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)) / 3
    gradients = []
    for riemannian in (True, False):
        points = ToPoincare(0.7, None, riemannian)(u.requires_grad_())
        gradients.append(torch.autograd.grad(points[0].sum(), u)[0][0])
    scale = (1 - 0.7 * points[0].square().sum()) ** 2 / 4
    assert torch.allclose(gradients[0], gradients[1] * scale, atol=1e-6)


def test_proxy_anchor_and_multi_similarity_match_the_published_arrays() -> None:
    arrays = reference("baselines.npz")
    num_classes, dim = arrays["pa_proxies"].shape
    anchor = metric.create("proxy-anchor", num_classes=num_classes, embedding_dim=dim, c=0.1)
    with torch.no_grad():
        anchor.proxies.copy_(torch.tensor(arrays["pa_proxies"]))
    similarity = metric.create(
        "multi-similarity", num_classes=num_classes, embedding_dim=dim, c=0.1
    )
    for name, loss in (("pa", anchor), ("ms", similarity.loss)):
        x = torch.tensor(arrays["x"], requires_grad=True)
        value = loss(x, torch.tensor(arrays["labels"]).long())
        value.backward()
        assert abs(value.item() - float(arrays[f"{name}_loss"])) < 1e-4
        close_to(x.grad, arrays[f"{name}_grad_x"], 1e-3)
    close_to(anchor.proxies.grad, arrays["pa_grad_proxies"], 1e-3)


def test_supcon_matches_the_published_arrays() -> None:
    arrays = reference("baselines.npz")
    c, clip_radius = float(arrays["supcon_c"]), float(arrays["supcon_clip_radius"])
    tangent = torch.tensor(arrays["supcon_tangent"], requires_grad=True)
    samples, views, dim = tangent.shape
    points = ToPoincare(c, clip_radius)(tangent.reshape(-1, dim))
    labels = torch.arange(samples).repeat_interleave(views)
    value = metric.ViewPairs(c, float(arrays["supcon_tau"]))(points, labels)
    value.backward()
    assert abs(value.item() - float(arrays["supcon_loss"])) < 1e-4
    close_to(tangent.grad, arrays["supcon_grad_tangent"], 1e-3)


@pytest.mark.parametrize("name", metric.NAMES)
def test_every_metric_loss_learns_from_points(name: str) -> None:
    loss = metric.create(name, num_classes=4, embedding_dim=6, c=0.1)
    tangent = torch.randn(16, 6, generator=torch.Generator().manual_seed(0), requires_grad=True)
    value = loss(ToPoincare(0.1, 2.3)(tangent), torch.arange(16) % 4)
    value.backward()
    assert math.isfinite(value.item())
    assert value.item() > 0
    assert tangent.grad.abs().sum() > 0


def test_supcon_by_loops() -> None:
    generator = torch.Generator().manual_seed(3)
    points = ToPoincare(0.1, 2.3)(torch.randn(15, 4, generator=generator))
    views = points.reshape(5, 3, 4)
    total = 0.0
    for a in range(3):
        for b in set(range(3)) - {a}:
            across = -poincare.pairwise_dist(views[:, a], views[:, b], 0.1) / 0.2
            within = -poincare.pairwise_dist(views[:, a], views[:, a], 0.1) / 0.2
            within.fill_diagonal_(float("-inf"))
            total += torch.nn.functional.cross_entropy(
                torch.cat([across, within], 1), torch.arange(5)
            ).item()
    value = metric.ViewPairs(0.1, 0.2)(points, torch.arange(5).repeat_interleave(3))
    assert value.item() == pytest.approx(total / 9, rel=1e-5)


def test_an_unknown_loss_is_refused() -> None:
    with pytest.raises(InputError, match="proxy-anchor"):
        metric.create("nope", num_classes=2, embedding_dim=2, c=0.1)


def test_proxy_anchor_settings_are_the_published_ones() -> None:
    loss = metric.create("proxy-anchor", num_classes=3, embedding_dim=2, c=0.1)
    assert isinstance(loss, pml.ProxyAnchorLoss)
    assert (loss.margin, loss.alpha) == (0.1, 32)


def test_pooled_noise_draws_ancestors_as_often_as_the_softmax_says() -> None:
    """A hinge that tells which proxy was drawn, over many triplets, against the exact odds."""
    distances = torch.tensor([[0.0, 0.3, 0.5, 1.2], [0.2, 0.1, 0.9, 1.0], [2.0, 1.0, 0.6, 0.1]])
    count, tau = 200_000, 0.4
    i, j, k = (torch.full((count,), place) for place in range(3))
    reach_ij = torch.maximum(distances[0], distances[1])
    odds = [
        torch.softmax(-reach / tau, 0)
        for reach in (reach_ij, torch.maximum(reach_ij, distances[2]))
    ]
    margin = 0.1
    expected = sum(
        odds[0][a] * odds[1][b] * (
            (distances[0, a] - distances[0, b] + margin).clamp(min=0)
            + (distances[1, a] - distances[1, b] + margin).clamp(min=0)
            + (distances[2, b] - distances[2, a] + margin).clamp(min=0)
        )
        for a in range(4) for b in range(4) if a != b
    )  # fmt: skip
    value = lca_triplet_loss(
        distances, i, j, k, temperature=tau, margin=margin,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    assert value.item() == pytest.approx(float(expected), rel=0.01)


def test_expected_loss_and_gradient_are_those_of_the_literal_formulation() -> None:
    settings = {"c": 0.1, "temperature": 0.1, "margin": 0.1, "num_neighbours": 6,
                "triplets_per_anchor": 400}  # fmt: skip
    torch.manual_seed(0)
    loss = HierLoss(6, 20, c=0.1, num_neighbours=6, triplets_per_anchor=400)
    tangent, labels = torch.randn(30, 6), torch.arange(30) // 2
    values, slopes = [], []
    for kind in ("ours", "literal"):
        several = [tangent.clone().requires_grad_() for _ in range(6)]
        found = []
        for leaf in several:
            points = loss.to_poincare(leaf)
            found.append(
                loss(points, labels) if kind == "ours"
                else literal_hier(points, labels, loss.proxy_points(), **settings)
            )  # fmt: skip
            found[-1].backward()
        values.append(torch.stack(found).detach())
        slopes.append(torch.stack([leaf.grad for leaf in several]).mean(0))
    assert values[0].mean() == pytest.approx(values[1].mean().item(), rel=0.02)
    assert torch.cosine_similarity(*(slope.flatten() for slope in slopes), dim=0) > 0.98
    assert slopes[0].norm() == pytest.approx(slopes[1].norm().item(), rel=0.1)


@pytest.mark.parametrize("name", ["hier_a.npz", "hier_b.npz", "hier_c.npz"])
def test_published_triplets_are_among_those_that_could_be_mined(name: str) -> None:
    """With the faults, every recorded triplet is possible and every anchor is used."""
    arrays = reference(name)
    c, neighbours = float(arrays["c"]), int(arrays["topk"])
    to_poincare = ToPoincare(c, float(arrays["clip_radius"]))
    labels = torch.tensor(arrays["labels"])
    for kind, points in (
        ("data", torch.tensor(arrays["ball"])),
        ("proxy", to_poincare(torch.tensor(arrays["proxies_tangent"]))),
    ):
        similarity = torch.exp(-poincare.pairwise_dist(points, points, c))
        if kind == "data":
            similarity = similarity + (labels[:, None] == labels[None, :])
        drawn = mine(similarity, num_neighbours=neighbours, triplets_per_anchor=400,
                     generator=torch.Generator().manual_seed(0), self_neighbours=True)  # fmt: skip
        legal = torch.zeros(2, len(points), len(points), dtype=torch.bool)
        anchor = drawn.anchor[drawn.counted]
        legal[0, anchor, drawn.positive[drawn.counted]] = True
        legal[1, anchor, drawn.negative[drawn.counted]] = True
        i, j, k = (torch.tensor(row).long() for row in arrays[f"triplets_{kind}"])
        assert set(i.tolist()) == set(anchor.tolist())
        assert legal[0, i, j].all()
        assert legal[1, i, k].float().mean() > 0.99  # of many, 400 draws can miss one


def test_published_mining_faults_come_only_on_request() -> None:
    similarity = torch.rand(12, 12, generator=torch.Generator().manual_seed(0))
    similarity = similarity + similarity.T
    for faults in (False, True):
        generator = torch.Generator().manual_seed(1)
        drawn = mine(
            similarity,
            num_neighbours=3,
            triplets_per_anchor=300,
            generator=generator,
            self_neighbours=faults,
        )
        own = drawn.anchor == drawn.negative
        assert own.any() == faults
        friends = reciprocal_neighbours(similarity, 2 if faults else 3).sum(dim=1)
        assert (friends == 1).any()
        used = torch.unique(drawn.anchor[drawn.counted])
        assert torch.equal(used, (friends >= (2 if faults else 1)).nonzero().squeeze(1))


@pytest.mark.parametrize("faults", [False, True])
def test_a_proxy_is_its_own_ancestor_only_on_request(
    faults: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed = []
    real = hier_module.lca_triplet_loss

    def spy(*values: object, own_ancestors: bool, **options: object) -> torch.Tensor:
        allowed.append(own_ancestors)
        return real(*values, own_ancestors=own_ancestors, **options)

    monkeypatch.setattr(hier_module, "lca_triplet_loss", spy)
    hier = HierLoss(4, 8, num_neighbours=3, own_ancestors=faults)
    hier(hier.to_poincare(torch.randn(8, 4)), torch.arange(8) // 2)
    assert allowed == [True, faults]  # the photographs' term, then the proxies'


def test_the_loss_works_inside_a_compiled_step() -> None:
    loss = HierLoss(8, 16, num_neighbours=5, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(24) // 2

    def step(tangent: torch.Tensor) -> torch.Tensor:
        generator = torch.Generator().manual_seed(3)
        return 2 * loss(loss.to_poincare(tangent * 1.0), labels, generator)

    results = []
    for run in (step, torch.compile(step, backend="aot_eager")):
        tangent = torch.randn(24, 8, generator=torch.Generator().manual_seed(1), requires_grad=True)
        value = run(tangent)
        value.backward()
        results.append((value.item(), tangent.grad))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-5)
    assert results[0][1].abs().max() > 0
    assert torch.allclose(results[0][1], results[1][1], atol=1e-6)
