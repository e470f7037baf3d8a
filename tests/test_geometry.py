"""The laws of hyperbolic space, in NumPy and torch, float32 and float64, and against geoopt."""

from typing import Any

import geoopt
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hiercli.errors import InputError
from hiercli.geometry import lorentz, poincare

TOLERANCE = {np.float32: 2e-3, np.float64: 1e-8}
DTYPES = (np.float32, np.float64)


def points(seed: int, c: float, dtype: Any, count: int = 7, reach: float = 1.6) -> np.ndarray:
    """Points of the ball whose tangent lengths are spread over (0, reach / sqrt(c))."""
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(count, 5))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    tangent = directions * rng.uniform(1e-3, reach, (count, 1)) / c**0.5
    ball = poincare.expmap0(tangent.astype(dtype), c)
    assert ball.dtype == dtype
    return ball


cases = given(seed=st.integers(0, 10_000), c=st.sampled_from([0.05, 0.1, 1.0, 2.5]))


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=25, deadline=None)
@cases
def test_laws(dtype: Any, seed: int, c: float) -> None:
    near = TOLERANCE[dtype]
    x, y, z = (points(seed + shift, c, dtype) for shift in (0, 1, 2))
    assert np.allclose(poincare.expmap0(poincare.logmap0(x, c), c), x, atol=near)
    assert np.allclose(
        poincare.mobius_add(-x, poincare.mobius_add(x, y, c), c), y, atol=near / c**0.5
    )
    assert np.allclose(poincare.dist(x, y, c), poincare.dist(y, x, c), atol=near)
    assert np.all(poincare.dist(x, x, c) == 0)
    detour = poincare.dist(x, z, c) + poincare.dist(z, y, c)
    assert np.all(poincare.dist(x, y, c) <= detour + near / c**0.5)
    # Translation by the inverse of x keeps distances and sends x to the origin.
    moved = poincare.dist(np.zeros_like(y), poincare.mobius_add(-x, y, c), c)
    assert np.allclose(moved, poincare.dist(x, y, c), rtol=5e-3 if dtype == np.float32 else 1e-7)
    assert np.all(poincare.conformal_factor(x, c) >= 2)


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=25, deadline=None)
@cases
def test_the_models_are_isometric(dtype: Any, seed: int, c: float) -> None:
    x, y = points(seed, c, dtype), points(seed + 1, c, dtype)
    x_lorentz, y_lorentz = lorentz.from_poincare(x, c), lorentz.from_poincare(y, c)
    near = {
        "rtol": 5e-3 if dtype == np.float32 else 1e-7,
        "atol": 1e-3 if dtype == np.float32 else 1e-7,
    }
    assert np.allclose(lorentz.to_poincare(x_lorentz, c), x, atol=TOLERANCE[dtype])
    assert np.allclose(
        lorentz.inner(x_lorentz, x_lorentz), -1, atol=5e-2 if dtype == np.float32 else 1e-9
    )
    assert np.allclose(lorentz.dist(x_lorentz, y_lorentz, c), poincare.dist(x, y, c), **near)
    assert np.allclose(
        lorentz.pairwise_dist(x_lorentz, y_lorentz, c), poincare.pairwise_dist(x, y, c), **near
    )
    tangent = poincare.logmap0(x, c)
    assert np.allclose(lorentz.expmap0(tangent, c), x_lorentz, **near)
    assert np.allclose(lorentz.logmap0(x_lorentz, c), tangent, **near)
    product = np.diag(x_lorentz @ lorentz.as_query(y_lorentz).T)
    assert np.allclose(product, lorentz.inner(x_lorentz, y_lorentz), **near)


@settings(max_examples=25, deadline=None)
@cases
def test_agrees_with_geoopt(seed: int, c: float) -> None:
    ball = geoopt.PoincareBall(c=torch.tensor(c, dtype=torch.float64))
    x, y = (torch.from_numpy(points(seed + shift, c, np.float64)) for shift in (0, 1))
    assert torch.allclose(poincare.dist(x, y, c), ball.dist(x, y), rtol=1e-8)
    assert torch.allclose(poincare.mobius_add(x, y, c), ball.mobius_add(x, y), atol=1e-9)
    assert torch.allclose(poincare.logmap0(x, c), ball.logmap0(x), atol=1e-9)
    assert torch.allclose(poincare.expmap0(x / 2, c), ball.expmap0(x / 2), atol=1e-9)
    assert torch.allclose(
        poincare.conformal_factor(x, c), ball.lambda_x(x, keepdim=True), rtol=1e-9
    )
    pair = torch.stack([x, y], dim=1)
    assert torch.allclose(
        poincare.midpoint(pair, c), ball.weighted_midpoint(pair, reducedim=[1]), atol=1e-8
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_numpy_and_torch_share_one_source(dtype: Any) -> None:
    x, y = points(3, 0.1, dtype), points(4, 0.1, dtype, count=3)
    both = (
        poincare.pairwise_dist(x, y, 0.1),
        poincare.pairwise_dist(torch.tensor(x), torch.tensor(y), 0.1),
    )
    assert isinstance(both[0], np.ndarray)
    assert isinstance(both[1], torch.Tensor)
    assert both[0].shape == (7, 3)
    assert np.allclose(both[0], both[1].numpy(), atol=1e-6)
    assert np.allclose(both[0][:, 0], poincare.dist(x, y[0], 0.1), atol=TOLERANCE[dtype])


def test_midpoint_is_midway_and_follows_its_weights() -> None:
    x = points(5, 1.0, np.float64, count=2)
    middle = poincare.midpoint(x, 1.0)
    assert np.allclose(*(poincare.dist(middle, end, 1.0) for end in x))
    assert np.allclose(poincare.midpoint(x, 1.0, np.array([1.0, 0.0])), x[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("power", range(-15, 2))
def test_gradients_are_finite_at_every_scale(dtype: torch.dtype, power: int) -> None:
    u = torch.full((3, 4), 10.0**power, dtype=dtype, requires_grad=True)
    x = poincare.expmap0(poincare.clip(u, 2.3), 0.1)
    total = poincare.dist(x[:1], x[1:], 0.1).sum() + poincare.pairwise_dist(x, x, 0.1).sum()
    total = total + poincare.logmap0(x, 0.1).sum() + lorentz.from_poincare(x, 0.1).sum()
    total.backward()
    assert x.dtype == dtype
    assert torch.isfinite(u.grad).all()


def test_zero_has_a_gradient() -> None:
    u = torch.zeros(2, 3, requires_grad=True)
    poincare.expmap0(u, 1.0).sum().backward()
    assert torch.allclose(u.grad, torch.ones(2, 3))


def test_half_precision_is_raised_even_under_autocast() -> None:
    x = torch.randn(4, 8) / 10
    with torch.autocast("cpu", torch.bfloat16):
        assert poincare.pairwise_dist(x, x, 0.1).dtype == torch.float32
        assert poincare.expmap0(x.bfloat16(), 0.1).dtype == torch.float32
        assert torch.equal(poincare.pairwise_dist(x, x, 0.1), poincare.pairwise_dist(x, x, 0.1))


def test_projection_and_clip_hold_their_bounds() -> None:
    far = np.full((1, 4), 100.0, np.float32)
    assert np.linalg.norm(poincare.project(far, 0.1)) * 0.1**0.5 == pytest.approx(0.999, rel=1e-5)
    assert np.linalg.norm(poincare.clip(far, 2.3)) == pytest.approx(2.3, rel=1e-5)


@pytest.mark.parametrize("c", [0.0, -1.0, float("nan")])
def test_curvature_must_be_positive(c: float) -> None:
    with pytest.raises(InputError, match="positive curvature"):
        poincare.dist(np.zeros((1, 2)), np.ones((1, 2)), c)
