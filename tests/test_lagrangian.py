"""Dual ascent on problems whose solution and multipliers are known."""

from __future__ import annotations

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.optimize import minimize

from jaxrobust.lagrangian import Multiplier, dual_ascent, for_run, growing, pi


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
    @jax.jit
    @chex.assert_max_traces(n=1)
    def run(step_size: jax.Array, violations: jax.Array) -> jax.Array:
        multiplier = dual_ascent(step_size, period=2)
        step = lambda s, v: (multiplier.update(s, v), s.value)  # noqa: E731
        return jax.lax.scan(step, multiplier.init(), violations)[0].value

    assert float(run(jnp.float32(0.1), jnp.ones(4))) == pytest.approx(0.2)
    assert float(run(jnp.float32(0.2), jnp.ones(4))) == pytest.approx(0.4)


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


# nuPI, Sohrabi et al. 2024.


def moves(multiplier: Multiplier, violations: np.ndarray) -> np.ndarray:
    """The multiplier after each violation."""
    step = lambda s, v: (lambda m: (m, m.value))(multiplier.update(s, v))  # noqa: E731
    return np.asarray(jax.lax.scan(step, multiplier.init(), jnp.float32(violations))[1])


@pytest.mark.parametrize("period", [1, 3])
@pytest.mark.parametrize("initial", [0.4, np.array([0.4, 1.2])])
def test_pi_without_its_proportional_part_is_dual_ascent_bit_for_bit(period: int, initial) -> None:
    violations = np.random.default_rng(3).normal(size=(50, *np.shape(initial)))
    own = {"initial": initial, "period": period, "maximum": 1.5}
    plain = moves(dual_ascent(0.7, **own), violations)
    np.testing.assert_array_equal(moves(pi(0.7, proportional=0.0, **own), violations), plain)
    assert plain.min() == 0
    assert plain.max() == 1.5


def test_pi_against_its_recursion_in_float64() -> None:
    """With gains, average, period, projection and cap written out."""
    violations = np.random.default_rng(4).normal(0.1, 1, 60)
    eta, ki, kp, ema, nu, average, seen = 0.2, 0.5, 3.0, 0.8, 0.3, None, []
    for mean in violations.reshape(-1, 2).mean(1):
        before = mean if average is None else average
        average = ema * before + (1 - ema) * mean
        nu = min(0.9, max(0.0, nu + eta * (ki * mean + kp * (average - before))))
        seen += [nu]
    controller = pi(eta, integral=ki, proportional=kp, ema=ema, initial=0.3, period=2, maximum=0.9)
    np.testing.assert_allclose(moves(controller, violations)[1::2], seen, atol=1e-5)


def test_pi_first_move_is_dual_ascent() -> None:
    assert moves(pi(0.1, proportional=50.0), np.array([2.0])) == pytest.approx([0.2])


@pytest.mark.parametrize("initial", [0.0, 7.0])
@pytest.mark.parametrize("period", [1, 5])
def test_pi_finds_the_smallest_square_above_one(period: int, initial: float) -> None:
    """min x^2 subject to 1 - x <= 0: x* = 1, nu* = 2."""
    controller = pi(0.1 * period, proportional=5.0 / period, initial=initial, period=period)
    x, _, dual = solve(controller, lambda t: t**2, lambda t: 1 - t, jnp.float32(-3.0), 0.1, 1500)
    assert float(x) == pytest.approx(1, abs=1e-3)
    assert float(dual.value) == pytest.approx(2, abs=1e-3)


def test_pi_damps_what_dual_ascent_alone_keeps_oscillating() -> None:
    """On the bilinear min_x max_nu nu x, whose gradient flow circles, nu and x spiral in."""
    ends = {}
    for name, controller in (
        ("plain", dual_ascent(0.1, initial=1.0)),
        ("pi", pi(0.1, proportional=10.0, ema=0.0, initial=1.0)),
    ):
        # nu around 1, away from the projection: the objective pulls against it.
        x, _, dual = solve(controller, lambda t: -t, lambda t: t, jnp.float32(0.3), 0.1, 400)
        ends[name] = abs(float(x)) + abs(float(dual.value) - 1)
    assert ends["pi"] < 1e-3
    assert ends["plain"] > 0.1


def test_violation_that_begins_large_and_settles_winds_up_dual_ascent_alone() -> None:
    """As of a network that learns: 2 at first, 0 in the end, whatever the multiplier does."""
    violations = 2 * np.exp(-np.arange(300) / 30)
    plain = moves(dual_ascent(0.01), violations)
    controlled = moves(pi(0.01, proportional=100.0), violations)
    assert plain[-1] == pytest.approx(0.01 * violations.sum(), rel=1e-4)
    assert plain[-1] > 0.6
    assert controlled.max() < 0.05, "taken back as it comes"
    # A level that cannot be kept for nothing: the integral still raises the multiplier.
    tight = moves(pi(0.01, proportional=100.0), violations + 0.1)
    assert tight[-1] == pytest.approx(0.01 * 0.1 * 200, rel=0.5)


def test_robust_training_under_a_constraint_of_a_convex_problem() -> None:
    """P-CON of DALE for least squares with a linear model and an l2 ball, by both rules.

    The inner maximum is in closed form, (|y - w.x| + eps |w|)^2; scipy gives the solution, the
    stationarity of the Lagrangian its multiplier. It keeps the bound of eq. 9 (Proposition 4.4)
    with an interpolating model.
    """
    draw = np.random.default_rng(0)
    x, y, eps, rho = draw.normal(size=(3, 4)), np.array([1.0, -1.0, 1.0]), 0.6, 0.5

    def losses(w, gap, norm):
        return (gap(w) ** 2).mean(), ((gap(w) + eps * norm(w)) ** 2).mean()

    def numpy_losses(w):
        return losses(w, lambda w: np.abs(y - x @ w), np.linalg.norm)

    interpolating = np.linalg.pinv(x) @ y
    found = minimize(
        lambda w: numpy_losses(w)[1],
        0.8 * interpolating,
        constraints=[{"type": "ineq", "fun": lambda w: rho - numpy_losses(w)[0]}],
        method="SLSQP",
        options={"ftol": 1e-13, "maxiter": 500},
    ).x

    def slope(index: int) -> np.ndarray:
        h = 1e-6 * np.eye(4)
        return np.array(
            [(numpy_losses(found + d)[index] - numpy_losses(found - d)[index]) / 2e-6 for d in h]
        )

    clean_slope, robust_slope = slope(0), slope(1)
    nu = -(robust_slope @ clean_slope) / (clean_slope @ clean_slope)
    np.testing.assert_allclose(robust_slope + nu * clean_slope, 0, atol=1e-4)
    assert nu > 0.1, "the constraint binds"

    assert numpy_losses(interpolating)[0] == pytest.approx(0, abs=1e-12)
    assert nu <= numpy_losses(interpolating)[1] / rho

    xf, yf = jnp.float32(x), jnp.float32(y)

    def jax_losses(w):
        return losses(w, lambda w: jnp.abs(yf - xf @ w), jnp.linalg.norm)

    for multiplier in (dual_ascent(0.5), pi(0.5, proportional=5.0)):
        w, _, dual = solve(
            multiplier,
            lambda w: jax_losses(w)[1],
            lambda w: jax_losses(w)[0] - rho,
            jnp.full(4, 0.1),
            0.02,
            20000,
        )
        np.testing.assert_allclose(w, found, atol=2e-3)
        assert float(dual.value) == pytest.approx(nu, rel=0.01)


def test_pi_of_several_constraints_against_dual_ascent() -> None:
    """A vector of multipliers moves as each would alone."""
    violations = np.random.default_rng(5).normal(size=(30, 2))
    both = moves(pi(0.1, proportional=2.0, initial=np.zeros(2)), violations)
    for i in range(2):
        np.testing.assert_array_equal(
            both[:, i], moves(pi(0.1, proportional=2.0), violations[:, i])
        )


def test_pi_remembers_a_nan() -> None:
    state = pi(0.1, proportional=1.0).init()
    state = pi(0.1, proportional=1.0).update(state, jnp.float32(jnp.nan))
    assert np.isnan(pi(0.1, proportional=1.0).update(state, jnp.float32(0.0)).value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"step_size": -1.0}, "step_size"),
        ({"proportional": -1.0}, "proportional"),
        ({"integral": np.inf}, "integral"),
        ({"ema": 1.0}, "ema=1"),
        ({"ema": 1.5}, "ema"),
        ({"initial": 2.0, "maximum": 1.0}, "above the cap"),
        ({"period": 0}, "period"),
    ],
)
def test_impossible_gains(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pi(**{"step_size": 0.1, "proportional": 1.0, **arguments})


def test_a_step_size_may_follow_a_schedule_of_moves() -> None:
    """Every second update moves; the n-th move has size .3 (n / 4)^2, at most .3."""
    schedule = growing(0.3, moves=4)
    for make in (dual_ascent, partial(pi, proportional=0.0)):
        seen = moves(make(schedule, period=2), np.ones(14))
        sizes = 0.3 * np.minimum(1, np.arange(7) / 4) ** 2
        np.testing.assert_allclose(seen[1::2], np.cumsum(sizes), rtol=1e-6)
        np.testing.assert_allclose(seen[::2][1:], seen[1::2][:-1])
    constant = moves(dual_ascent(growing(0.3, moves=4, power=0.0)), np.ones(5))
    np.testing.assert_array_equal(constant, moves(dual_ascent(0.3), np.ones(5)))


@pytest.mark.usefixtures("default_promotion")
def test_a_step_size_may_follow_a_schedule_of_optax() -> None:
    schedule = optax.piecewise_constant_schedule(1.0, {2: 0.1})
    assert moves(dual_ascent(schedule), np.ones(4)) == pytest.approx([1, 2, 2.1, 2.2])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"step_size": -0.1, "moves": 3}, "step_size"),
        ({"step_size": 0.1, "moves": 0}, "moves"),
        ({"step_size": 0.1, "moves": 3, "power": -1.0}, "power"),
    ],
)
def test_impossible_schedules(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        growing(**arguments)


def test_gains_of_a_run_do_not_depend_on_its_length() -> None:
    """The same course of the violation in progress gives the same course of the multiplier."""

    def course(steps: int, **own: int) -> np.ndarray:
        progress = np.arange(steps) / steps
        violation = 2 * np.exp(-6 * progress) - 0.05 + 0.1 * (progress > 0.6)
        return moves(for_run(steps, level=0.4, **own), violation)[:: steps // 20]

    short, long = course(400), course(4000)
    assert short.max() > 0.3
    np.testing.assert_allclose(short, long, atol=0.03)
    np.testing.assert_allclose(course(4000, period=10), long, atol=0.03)


def test_defaults_of_a_run_end_with_complementary_slackness() -> None:
    """As training under a falling rate: the loss moves ever less, and falls by itself at the end.

    Its rest is 1 / (5 + 5 nu): rho = .13 needs nu = .54, rho = .3 none.
    """
    steps = 400

    def train(rho: float, multiplier: Multiplier) -> tuple[float, float]:
        def step(carry: tuple, t: jax.Array) -> tuple:
            loss, dual = carry
            rate = 0.3 * (1 - t / steps)
            target = 1 / (5 + 5 * dual.value) + 0.4 * rate / 0.3
            loss = loss + rate * (target - loss)
            return (loss, multiplier.update(dual, loss - rho)), None

        times = jnp.arange(steps, dtype=jnp.float32)
        (loss, dual), _ = jax.lax.scan(step, (jnp.float32(2.3), multiplier.init()), times)
        return float(loss), float(dual.value)

    loss, nu = train(0.13, for_run(steps, level=0.13))
    assert loss == pytest.approx(0.13, rel=0.15)
    assert 0 < nu < 3
    loss, nu = train(0.3, for_run(steps, level=0.3))
    assert loss < 0.3
    assert nu == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, "steps"),
        ({"steps": 5, "period": 6}, "steps must be a whole number of at least 6"),
        ({"level": 0.0}, "level"),
        ({"integral": 0.0}, "integral"),
        ({"window": 1.5}, "window is a share"),
        ({"proportional": -1.0}, "proportional"),
    ],
)
def test_impossible_runs(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        for_run(**{"steps": 10, "level": 0.2, **arguments})


def test_a_run_measures_the_violation_by_its_level() -> None:
    """Twice the violation at twice the level is the same course, whatever the level."""
    violation = 2 * np.exp(-6 * np.arange(400) / 400) + 0.05
    low, high = (moves(for_run(400, level=v), v * violation) for v in (0.1, 0.2))
    assert low.max() > 0.3
    np.testing.assert_allclose(low, high, rtol=1e-4, atol=1e-6)
