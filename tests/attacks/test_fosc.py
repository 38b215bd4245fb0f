"""The stationarity gap against brute force and linear programs."""

from __future__ import annotations

import itertools

import attack_cases as cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog

from jaxrobust.attacks import clean, fgsm, fosc, fosc_at, fosc_box
from jaxrobust.threats import L2, Linf

RNG = np.random.default_rng(0)
X = RNG.uniform(0, 1, 5)
G = RNG.normal(size=5)


def inside_point(threat: str) -> np.ndarray:
    return X + cases.np_project(threat, 0.9 * cases.RADII[threat], RNG.normal(size=5))


def f32(a: np.ndarray) -> jax.Array:
    return jnp.asarray(a, jnp.float32)


def test_linf_against_every_vertex() -> None:
    radius = cases.RADII["linf"]
    z = inside_point("linf")
    vertices = X + radius * np.array(list(itertools.product((-1, 1), repeat=5)))
    expected = ((vertices - z) @ G).max()
    assert float(fosc(Linf(radius), f32(X), f32(z), f32(G))) == pytest.approx(expected, rel=1e-5)


def test_l1_against_every_vertex() -> None:
    radius = cases.RADII["l1"]
    z = inside_point("l1")
    vertices = X + radius * np.concatenate([np.eye(5), -np.eye(5)])
    expected = ((vertices - z) @ G).max()
    ball = cases.THREATS["l1"](radius)
    assert float(fosc(ball, f32(X), f32(z), f32(G))) == pytest.approx(expected, rel=1e-5)


def test_l2_bounds_every_sample_and_is_attained() -> None:
    radius = cases.RADII["l2"]
    z = inside_point("l2")
    value = float(fosc(L2(radius), f32(X), f32(z), f32(G)))
    directions = np.random.default_rng(1).normal(size=(100_000, 5))
    sphere = X + radius * directions / np.linalg.norm(directions, axis=1, keepdims=True)
    gains = (sphere - z) @ G
    assert gains.max() <= value + 1e-5
    assert gains.max() >= value - 0.01 * radius * np.linalg.norm(G)


@pytest.mark.parametrize("threat", sorted(cases.THREATS))
def test_never_negative_inside_the_ball_and_zero_at_its_maximizer(threat: str) -> None:
    radius, rng = cases.RADII[threat], np.random.default_rng(2)
    ball = cases.THREATS[threat](radius)
    measure = jax.jit(fosc)
    for _ in range(50):
        z = X + cases.np_project(threat, radius, rng.normal(size=5) * rng.choice([0.05, 1.0]))
        assert float(measure(ball, f32(X), f32(z), f32(rng.normal(size=5)))) >= -1e-6
    top = X + radius * cases.np_steepest(threat, G)
    assert float(measure(ball, f32(X), f32(top), f32(G))) == pytest.approx(0, abs=1e-6)
    # At the clean point the gap is the whole first-order gain of the ball.
    whole = radius * cases.np_dual_norm(threat, G)
    assert float(measure(ball, f32(X), f32(X), f32(G))) == pytest.approx(whole, rel=1e-5)


def test_linear_model_is_converged_after_one_step() -> None:
    net = cases.to_jax(cases.linear_net(RNG.normal(size=6), 0.1))
    f = lambda z: cases.logits(net, z)  # noqa: E731
    ball, x, y = Linf(0.1, -jnp.inf, jnp.inf), jnp.full(6, 0.5), jnp.int32(0)
    z = fgsm(ball)(jax.random.key(0), f, x, y).x
    assert float(fosc_at(ball, f, x, y, z)) == pytest.approx(0, abs=1e-6)
    assert float(fosc_at(ball, f, x, y, clean(jax.random.key(0), ball, x))) > 0.05


def test_at_a_point_uses_the_gradient_of_the_example_loss() -> None:
    net = cases.random_net(3)
    x = np.random.default_rng(4).uniform(0.2, 0.8, cases.SHAPE)
    z = x + 0.05 * np.sign(np.random.default_rng(5).normal(size=cases.SHAPE))
    g = cases.np_gradient(net, z, 1)
    expected = 0.1 * np.abs(g).sum() - ((z - x) * g).sum()
    fast = cases.to_jax(net)
    got = fosc_at(Linf(0.1), lambda a: cases.logits(fast, a), f32(x), jnp.int32(1), f32(z))
    assert float(got) == pytest.approx(expected, rel=1e-4)


def test_box_form_against_a_linear_program() -> None:
    rng, radius = np.random.default_rng(6), 0.3
    for _ in range(5):
        x, g = rng.uniform(0, 1, 5), rng.normal(size=5)
        bounds = [(max(v - radius, 0), min(v + radius, 1)) for v in x]
        z = np.array([rng.uniform(a, b) for a, b in bounds])
        expected = -linprog(-g, bounds=bounds).fun - z @ g
        got = float(fosc_box(Linf(radius), f32(x), f32(z), f32(g)))
        assert got == pytest.approx(expected, abs=1e-5)
        assert got <= float(fosc(Linf(radius), f32(x), f32(z), f32(g))) + 1e-6
        top = np.where(g > 0, [b for _, b in bounds], [a for a, _ in bounds])
        assert float(fosc_box(Linf(radius), f32(x), f32(top), f32(g))) == pytest.approx(0, abs=1e-6)


def test_box_form_knows_only_linf_and_takes_any_precision() -> None:
    with pytest.raises(TypeError, match="needs a Linf threat, got L2"):
        fosc_box(L2(0.1), f32(X), f32(X), f32(G))
    with jax.enable_x64():
        wide = Linf(jnp.float64(0.1), jnp.float64(0.0), jnp.float64(1.0))
        assert fosc_box(wide, f32(X), f32(X), f32(G)).dtype == jnp.float32
