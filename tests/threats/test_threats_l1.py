"""The l1 ball: exact projection onto ball and box, and sparse steps."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import minimize

from jaxrobust.threats import L1

SIZE = 8
project = jax.jit(lambda threat, x, z: threat.project(x, z))
clean = arrays(np.float32, SIZE, elements=st.floats(0, 1, width=32))
# A coarse grid makes ties, which break thresholds found by comparison, common.
moved = arrays(np.float32, SIZE, elements=st.integers(-12, 12).map(lambda k: k / 4))


def closest(x, z, radius, lower, upper):
    """The projection in float64, by bisection on the multiplier."""
    x, z = np.asarray(x, np.float64), np.asarray(z, np.float64)
    step = z - x

    def moved_by(t):
        return np.clip(np.sign(step) * np.maximum(np.abs(step) - t, 0), lower - x, upper - x)

    low, high = 0.0, np.abs(step).max()
    if np.abs(moved_by(0.0)).sum() <= radius:
        return x + moved_by(0.0)
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if np.abs(moved_by(middle)).sum() > radius else (low, middle)
    return x + moved_by(high)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    x=clean,
    z=moved,
    radius=st.sampled_from([0.0, 0.01, 0.4, 1.0, 3.0]),
    box=st.sampled_from([(0.0, 1.0), (-np.inf, np.inf), (-np.inf, 1.0)]),
)
def test_projection_is_the_closest_point(x, z, radius, box):
    u = project(L1(radius, *box), x, z)
    np.testing.assert_allclose(u, closest(x, z, radius, *box), atol=2e-6)


@pytest.mark.parametrize("seed", range(4))
def test_projection_solves_the_quadratic_program(seed):
    n, radius = 5, 0.8
    rng = np.random.default_rng(seed)
    x, z = rng.uniform(size=n), rng.normal(scale=1.5, size=n)
    # u = x + p - q with p, q >= 0 turns the ball into one linear constraint.
    answer = minimize(
        lambda v: ((x + v[:n] - v[n:] - z) ** 2).sum(),
        np.zeros(2 * n),
        bounds=[(0, 1 - a) for a in x] + [(0, a) for a in x],
        constraints={"type": "ineq", "fun": lambda v: radius - v.sum()},
        method="SLSQP",
        options={"ftol": 1e-12, "maxiter": 500},
    )
    u = project(L1(radius), jnp.asarray(x, jnp.float32), jnp.asarray(z, jnp.float32))
    np.testing.assert_allclose(u, x + answer.x[:n] - answer.x[n:], atol=2e-4)


def test_projection_without_a_box_is_the_known_one():
    rng = np.random.default_rng(5)
    x, z = (jnp.asarray(rng.normal(size=(4, 5)), jnp.float32) for _ in range(2))
    for radius in (0.1, 3.0, 1e3):
        with jax.numpy_dtype_promotion("standard"):
            oracle = x + optax.projections.projection_l1_ball(z - x, radius)
        u = project(L1(radius, -jnp.inf, jnp.inf), x, z)
        np.testing.assert_allclose(u, oracle, atol=2e-6)


def test_rescaling_is_farther_away():
    x, z = jnp.full(4, 0.5), jnp.array([1.0, 0.6, 0.5, 0.4])
    scale = 0.3 / jnp.abs(z - x).sum()
    rescaled = x + scale * (z - x)
    u = L1(0.3).project(x, z)
    np.testing.assert_allclose(u, [0.8, 0.5, 0.5, 0.5], atol=1e-6)
    assert jnp.linalg.norm(u - z) < jnp.linalg.norm(rescaled - z) - 0.05


def test_the_box_gives_its_budget_to_other_coordinates():
    x, z = jnp.array([0.9, 0.5, 0.5]), jnp.array([1.9, 0.9, 0.4])
    np.testing.assert_allclose(L1(0.3).project(x, z), [1.0, 0.7, 0.5], atol=1e-6)


def test_far_points_keep_their_accuracy():
    x = jnp.zeros(4)
    u = L1(1.0, -jnp.inf, jnp.inf).project(x, jnp.array([1e6, 1e6 - 0.5, 1e6 - 0.75, 0.0]))
    np.testing.assert_allclose(u, [0.75, 0.25, 0.0, 0.0], atol=1e-6)
    outlier = L1(1.4).project(x, jnp.array([1e30, 0.5, 0.4, 0.0]))
    np.testing.assert_allclose(outlier, [1.0, 0.25, 0.15, 0.0], atol=1e-6)


def test_float64_matches_the_oracle_to_its_last_digits():
    with jax.enable_x64(True):
        rng = np.random.default_rng(9)
        x, z = rng.uniform(size=300), rng.normal(size=300)
        u = L1(12.0).project(jnp.asarray(x), jnp.asarray(z))
        np.testing.assert_allclose(u, closest(x, z, 12.0, 0, 1), atol=1e-13)


@pytest.mark.parametrize("coordinates", [1, 2, 3, 5, 9])
def test_step_is_shared_by_the_largest_movable_coordinates(coordinates):
    g = np.array([5.0, -4.0, 3.0, -3.0, 0.5, 0.0, 7.0, -8.0, np.nan], np.float32)
    z = np.array([0.5, 0.5, 0.0, 1.0, 0.2, 0.5, 1.0, 0.0, 0.5], np.float32)
    order = [0, 1, 2, 3, 4][:coordinates]  # the last two largest are stopped by the box
    expected = np.zeros(9)
    expected[order] = np.sign(g[order]) / len(order)
    step = L1(1.0, coordinates=coordinates).steepest(jnp.asarray(g), jnp.asarray(z))
    np.testing.assert_allclose(step, expected, atol=1e-7)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(g=moved, z=clean.map(np.round), k=st.integers(1, 10))
def test_steps_keep_mass_one_and_leave_no_steeper_coordinate(g, z, k):
    step = np.asarray(STEP(L1(1.0, coordinates=k), g, z))
    movable = ((g > 0) & (z < 1)) | ((g < 0) & (z > 0))
    count = min(k, movable.sum())
    assert (step != 0).sum() == count
    assert not step[~movable].any()
    assert np.abs(step).sum() == pytest.approx(1.0 if count else 0.0, rel=1e-6)
    chosen = np.sort(np.abs(g[step != 0]))[::-1]
    np.testing.assert_array_equal(chosen, np.sort(np.abs(g[movable]))[::-1][:count])


STEP = jax.jit(lambda threat, g, z: threat.steepest(g, z))


def test_ties_move_exactly_k_coordinates():
    step = L1(1.0, coordinates=2).steepest(jnp.ones((2, 3)), jnp.zeros((2, 3)))
    assert step.tolist() == [[0.5, 0.5, 0.0], [0.0, 0.0, 0.0]]


def test_coordinates_may_be_drawn_inside_a_compiled_program():
    g, z = jnp.arange(1.0, 31.0), jnp.zeros(30)

    @jax.jit
    def step(key):
        k = jax.random.randint(key, (), 5, 21)
        return k, dataclasses.replace(L1(1.0), coordinates=k).steepest(g, z)

    for seed in range(3):
        k, moves = step(jax.random.key(seed))
        assert (moves != 0).sum() == k
    with jax.enable_x64(True):
        moves = L1(1.0, coordinates=3).steepest(jnp.arange(8.0), jnp.zeros(8))
        assert (moves != 0).sum() == 3


@pytest.mark.parametrize("coordinates", [0, -1, 1.5, float("nan"), "two", None])
def test_bad_coordinates_are_refused(coordinates):
    with pytest.raises(ValueError, match="coordinates must be a whole number"):
        L1(1.0, coordinates=coordinates)
