"""BETA and multi-targeted PGD against hand-written float64 loops over the classes."""

from __future__ import annotations

import attack_cases as cases
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrobust.attacks import beta, clean, multi_targeted, rmsprop_in_sqrt
from jaxrobust.threats import L2, Linf
from jaxrobust.types import Attack, AttackResult

NET = cases.random_net(2)
X = np.random.default_rng(7).uniform(0.3, 0.7, cases.SHAPE)
LABEL = int(np.argmax(cases.np_logits(NET, X)))
RIVALS = [j for j in range(3) if j != LABEL]


def attacked(attack: Attack, net: cases.Net = NET) -> AttackResult:
    net = cases.to_jax(net, np.float64)
    key = jax.random.key(0)
    run = cases.compiled(lambda a: a.bare(key, lambda z: cases.logits(net, z), X, jnp.int32(LABEL)))
    return run(attack)


def margin_gradient(z: np.ndarray, j: int) -> np.ndarray:
    h = np.tanh(NET.w1 @ z.reshape(-1) + NET.b1)
    d = NET.w2[j] - NET.w2[LABEL]
    return (NET.w1.T @ (d * (1 - h**2)) + NET.v[j] - NET.v[LABEL]).reshape(z.shape)


def np_margin(z: np.ndarray, j: int) -> float:
    logits = cases.np_logits(NET, z)
    return float(logits[j] - logits[LABEL])


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("threat", ["linf", "l2"])
def test_beta_follows_the_float64_loop(threat: str, inside: bool) -> None:
    radius, step, steps = cases.RADII[threat], 0.02, 6
    ends = {}
    for j in RIVALS:
        z, square = X, np.zeros_like(X)
        for _ in range(steps):
            g = margin_gradient(z, j)
            square = 0.99 * square + 0.01 * g**2
            # The scale makes the two placements differ: gradients here are far above 1e-4.
            scale = np.sqrt(square + 1e-8) if inside else np.sqrt(square) + 1e-8
            z = X + cases.np_project(threat, radius, z + step * g / scale - X)
        ends[j] = z
    best = max(RIVALS, key=lambda j: np_margin(ends[j], j))
    with jax.enable_x64():
        ball = cases.THREATS[threat](radius, lower=-np.inf, upper=np.inf)
        options = {"optimizer": rmsprop_in_sqrt} if inside else {}
        result = attacked(beta(ball, step_size=step, steps=steps, start=clean, **options))
        np.testing.assert_allclose(result.x, ends[best], atol=1e-10)
        assert float(result.margin) == pytest.approx(np_margin(ends[best], best), abs=1e-10)
        assert (int(result.forwards), int(result.backwards)) == (2 * (steps + 1) + 1, 2 * steps)


def test_first_step_is_ten_learning_rates_long() -> None:
    with jax.enable_x64():
        ball = Linf(1.0, lower=-np.inf, upper=np.inf)
        result = attacked(beta(ball, step_size=0.003, steps=1, start=clean))
    np.testing.assert_allclose(np.abs(np.asarray(result.x) - X), 0.03, rtol=1e-6)


def test_multi_targeted_takes_the_worst_class() -> None:
    radius, step, steps = 0.1, 0.03, 5
    points = []
    for j in RIVALS:
        z = X
        path = [z]
        for _ in range(steps):
            z = X + np.clip(z + step * np.sign(margin_gradient(z, j)) - X, -radius, radius)
            path.append(z)
        points.append(max(np_margin(z, j) for z in path))
    with jax.enable_x64():
        ball = Linf(radius, lower=-np.inf, upper=np.inf)
        result = attacked(multi_targeted(ball, step_size=step, steps=steps, start=clean))
        assert float(result.loss) == pytest.approx(max(points), abs=1e-10)


@pytest.mark.parametrize("chunk", [None, 1])
def test_other_optimizers_and_chunks(chunk: int | None) -> None:
    with jax.enable_x64():
        make = {"step_size": 0.01, "steps": 40, "keep": "best", "chunk": chunk}
        linear = cases.linear_net(np.random.default_rng(1).normal(size=6), 0.0)
        reach = 0.25 * float(np.linalg.norm(linear.v[1]))
        score = float(linear.v[1] @ X.ravel())
        label = LABEL if score > 0 else 1 - LABEL
        assert label in (0, 1)
        ball = L2(0.25, lower=-np.inf, upper=np.inf)
        net = cases.to_jax(linear, np.float64)
        y = jnp.int32(1 if score > 0 else 0)
        attack = beta(ball, optimizer=_momentum, **make)
        result = cases.compiled(
            lambda a: a(jax.random.key(1), lambda z: cases.logits(net, z), jnp.asarray(X), y)
        )(attack)
        assert float(result.margin) == pytest.approx(-abs(score) + reach, abs=1e-3)


def _momentum(key: jax.Array, threat: L2, *, step_size: jax.Array) -> optax.GradientTransformation:
    return optax.sgd(step_size, momentum=0.9)


def test_two_classes_zero_radius_and_flat_models() -> None:
    flat = beta(Linf(0.1), steps=2)(
        jax.random.key(0), lambda z: jnp.zeros(2) * jnp.sum(z), jnp.full(4, 0.5), jnp.int32(1)
    )
    assert flat.success  # a tie counts against the model
    assert np.isfinite(np.asarray(flat.x)).all()
    still = beta(Linf(0.0), steps=2)(
        jax.random.key(0), lambda z: z[:3], jnp.array([0.9, 0.5, 0.1]), jnp.int32(0)
    )
    np.testing.assert_array_equal(still.x, np.float32([0.9, 0.5, 0.1]))
    assert not still.success
