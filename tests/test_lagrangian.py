"""Dual ascent on problems whose solution and multipliers are known."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.optimize import minimize

from jaxrobust.lagrangian import Multiplier, dual_ascent


def solve(
    multiplier: Multiplier, objective, constraints, start: jax.Array, rate: float, steps: int
):
    """Alternates a gradient step on the Lagrangian with a step of the multiplier."""
    optimizer = optax.sgd(rate)

    def lagrangian(theta: jax.Array, nu: jax.Array) -> jax.Array:
        return objective(theta) + jnp.sum(nu * constraints(theta))

    def step(carry, _):
        theta, opt_state, dual = carry
        updates, opt_state = optimizer.update(jax.grad(lagrangian)(theta, dual.value), opt_state)
        theta = optax.apply_updates(theta, updates)
        return (theta, opt_state, multiplier.update(dual, constraints(theta))), None

    first = (start, optimizer.init(start), multiplier.init())
    return jax.lax.scan(step, first, length=steps)[0]


@pytest.mark.parametrize("period", [1, 5])
@pytest.mark.parametrize("initial", [0.0, 7.0])
def test_smallest_square_above_one(period: int, initial: float) -> None:
    """min x^2 subject to 1 - x <= 0: stationarity 2 x = nu gives x* = 1, nu* = 2."""
    multiplier = dual_ascent(0.1 * period, initial=initial, period=period)
    x, _, dual = solve(multiplier, lambda t: t**2, lambda t: 1 - t, jnp.float32(-3.0), 0.1, 1500)
    assert float(x) == pytest.approx(1, abs=1e-3)
    assert float(dual.value) == pytest.approx(2, abs=1e-3)


def test_inactive_constraint_frees_its_multiplier() -> None:
    multiplier = dual_ascent(0.1, initial=3.0)
    x, _, dual = solve(
        multiplier, lambda t: (t - 2) ** 2, lambda t: 1 - t, jnp.float32(0.0), 0.1, 500
    )
    assert float(x) == pytest.approx(2, abs=1e-4)
    assert dual.value == 0


def test_two_constraints_against_scipy() -> None:
    """A quadratic program with one multiplier per constraint; KKT checked at scipy's solution."""
    Q = np.array([[2.0, 0.4], [0.4, 1.0]])
    c, A, b = np.array([-2.0, -3.0]), np.array([[1.0, 1.0], [-0.5, 1.0]]), np.array([1.0, 0.2])
    reference = minimize(
        lambda t: 0.5 * t @ Q @ t + c @ t,
        np.zeros(2),
        jac=lambda t: Q @ t + c,
        constraints=[{"type": "ineq", "fun": lambda t: b - A @ t, "jac": lambda t: -A}],
        method="SLSQP",
        options={"ftol": 1e-14},
    ).x
    nu = np.linalg.solve(A.T, -(Q @ reference + c))
    assert (nu > 0.01).all(), "both constraints bind in this problem"

    Qf, cf, Af, bf = (jnp.asarray(a, jnp.float32) for a in (Q, c, A, b))
    theta, _, dual = solve(
        dual_ascent(0.1, initial=jnp.zeros(2)),
        lambda t: 0.5 * t @ Qf @ t + cf @ t,
        lambda t: Af @ t - bf,
        jnp.zeros(2),
        0.1,
        3000,
    )
    np.testing.assert_allclose(theta, reference, atol=1e-3)
    np.testing.assert_allclose(dual.value, nu, atol=5e-3)


def test_period_moves_once_by_the_mean_violation() -> None:
    multiplier = dual_ascent(0.5, initial=1.0, period=4)
    state, seen = multiplier.init(), []
    violations = [1.0, 2.0, -1.0, 4.0, -2.0, -2.0, -2.0, -2.0]
    for violation in violations:
        state = multiplier.update(state, jnp.float32(violation))
        seen.append(float(state.value))
    assert seen[:3] == [1.0] * 3
    assert seen[3:7] == pytest.approx([1 + 0.5 * 1.5] * 4)
    assert seen[7] == pytest.approx(1.75 - 0.5 * 2)


def test_every_batch_is_the_projected_update() -> None:
    multiplier, nu = dual_ascent(0.3, initial=0.2, maximum=1.0), 0.2
    state = multiplier.init()
    for violation in np.random.default_rng(0).normal(size=40) * 2:
        state = multiplier.update(state, jnp.float32(violation))
        nu = min(1.0, max(0.0, nu + 0.3 * violation))
        assert float(state.value) == pytest.approx(nu, abs=1e-5)


def test_zero_step_keeps_the_multiplier() -> None:
    multiplier = dual_ascent(0.0, initial=0.7)
    state = multiplier.update(multiplier.init(), jnp.float32(100.0))
    assert state.value == jnp.float32(0.7)


def test_violation_of_any_precision() -> None:
    multiplier = dual_ascent(0.1, initial=1.0)
    for dtype in (jnp.bfloat16, jnp.float32):
        state = multiplier.update(multiplier.init(), jnp.asarray(0.5, dtype))
        assert state.value.dtype == jnp.float32
        assert float(state.value) == pytest.approx(1.05)
    with jax.enable_x64():
        state = multiplier.update(multiplier.init(), jnp.asarray(1e-9, jnp.float64))
        assert float(state.value) == pytest.approx(1 + 1e-10, abs=1e-15)


def test_state_survives_jit_scan_and_changing_step_sizes() -> None:
    traces = []

    @jax.jit
    def run(step_size: jax.Array, violations: jax.Array) -> jax.Array:
        traces.append(1)
        multiplier = dual_ascent(step_size, period=2)
        step = lambda s, v: (multiplier.update(s, v), s.value)  # noqa: E731
        return jax.lax.scan(step, multiplier.init(), violations)[0].value

    assert float(run(jnp.float32(0.1), jnp.ones(4))) == pytest.approx(0.2)
    assert float(run(jnp.float32(0.2), jnp.ones(4))) == pytest.approx(0.4)
    assert len(traces) == 1


def test_nan_violation_is_not_forgotten() -> None:
    multiplier = dual_ascent(0.1)
    assert np.isnan(multiplier.update(multiplier.init(), jnp.float32(jnp.nan)).value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"step_size": -1.0}, "step_size"),
        ({"step_size": np.nan}, "step_size"),
        ({"step_size": 0.1, "initial": -1.0}, "initial"),
        ({"step_size": 0.1, "initial": np.inf}, "initial"),
        ({"step_size": 0.1, "period": 0}, "period"),
        ({"step_size": 0.1, "initial": 2.0, "maximum": 1.0}, "above the cap"),
        ({"step_size": 0.1, "initial": np.array([0.5, 2.0]), "maximum": 1.0}, "above the cap"),
    ],
)
def test_impossible_settings(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dual_ascent(**arguments)


def test_violation_of_another_shape() -> None:
    multiplier = dual_ascent(0.1)
    with pytest.raises(ValueError, match=r"pass initial=jnp.zeros\(\(3,\)\)"):
        multiplier.update(multiplier.init(), jnp.zeros(3))
