"""The Wasserstein ball on tiny images, against linear programs."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog

from jaxrobust.attacks import batched, frank_wolfe, growing
from jaxrobust.sinkhorn import window
from jaxrobust.threats import Linf, Wasserstein
from jaxrobust.threats.warm import opening, resume

SHAPE = (4, 5)
COST = window(3)
SETS = Wasserstein(0.2, lam=200.0, cost=COST)
X = np.random.default_rng(0).uniform(0, 0.8, (6, *SHAPE)).astype(np.float32)
X[0, :2] = 0
TARGETS = (X + np.random.default_rng(1).normal(size=X.shape) * 0.3).astype(np.float32)


def moves() -> list[tuple[int, int, float]]:
    """(from, to, cost) of every local move."""
    height, width = SHAPE
    return [
        (r * width + c, (r + a) * width + c + b, float(np.hypot(a, b)))
        for r in range(height)
        for c in range(width)
        for a in (-1, 0, 1)
        for b in (-1, 0, 1)
        if 0 <= r + a < height and 0 <= c + b < width
    ]


def lp_distance(x: np.ndarray, z: np.ndarray) -> float:
    """Least cost per mass of moving x to z, in float64; z is scaled to x's mass."""
    x, z = (np.float64(a).ravel() / np.float64(a).sum() for a in (x, z))
    arcs = moves()
    rows = np.zeros((2 * x.size, len(arcs)))
    for k, (i, j, _) in enumerate(arcs):
        rows[i, k] = rows[x.size + j, k] = 1
    found = linprog([c for *_, c in arcs], A_eq=rows, b_eq=np.concatenate([x, z]))
    return found.fun if found.success else np.inf


def lp_gain(x: np.ndarray, y: np.ndarray, radius: float, upper: float | None = None) -> float:
    """The most <y, z - x> per mass over the ball around x, pixels of at most `upper`."""
    mass = np.float64(x).ravel() / np.float64(x).sum()
    flat, arcs = np.float64(y).ravel(), moves()
    rows = np.zeros((mass.size, len(arcs)))
    for k, (i, _, _) in enumerate(arcs):
        rows[i, k] = 1
    gain = [-(flat[j] - flat[i]) for i, j, _ in arcs]
    limits, most = [[c for *_, c in arcs]], [radius]
    if upper is not None:
        limits += [[float(j == k) for _, j, _ in arcs] for k in range(mass.size)]
        most += [upper / np.float64(x).sum()] * mass.size
    return -linprog(gain, A_ub=limits, b_ub=most, A_eq=rows, b_eq=mass).fun


PROJECT = jax.jit(jax.vmap(lambda s, x, z: s.project(x, z), in_axes=(None, 0, 0)))


@pytest.mark.slow
def test_projections_lie_in_the_ball_by_linear_programs() -> None:
    z = np.asarray(PROJECT(SETS, X, TARGETS))
    np.testing.assert_allclose(z.sum(axis=(1, 2)), X.sum(axis=(1, 2)), rtol=1e-5)
    assert z.min() >= 0
    assert z.max() <= 1
    distances = [lp_distance(a, b) for a, b in zip(X, z, strict=True)]
    assert max(distances) <= 0.2 * (1 + 1e-4)
    assert max(distances) > 0.1, "the ball must bind"
    inside = jax.jit(jax.vmap(lambda x, z: (SETS.contains(x, z), SETS.size(x, z))))
    contained, sizes = inside(X, z)
    assert contained.all()
    np.testing.assert_allclose(sizes, distances, rtol=3e-3)
    doubled = X + 2 * (z - X)
    outside = np.asarray([lp_distance(a, b) for a, b in zip(X, doubled, strict=True)]) > 0.21
    assert outside.any()
    assert not np.asarray(inside(X, doubled)[0])[outside].any()
    brighter = np.clip(z * 1.01, 0, 1)
    assert not np.asarray(inside(X, brighter)[0]).any()


@pytest.mark.slow
def test_membership_is_that_of_linear_programs_down_to_small_radii() -> None:
    """Next to all mass stays where it is, which must not drown what little moves."""
    rng = np.random.default_rng(6)
    radii = np.repeat(np.float32([3e-5, 1e-4, 3e-4, 1e-3, 1e-2]), 6)
    x = rng.uniform(0, 0.8, (len(radii), *SHAPE)).astype(np.float32)
    x[::3, :2] = 0
    x[1::3] = (x[1::3] > 0.4) * np.float32(0.9)
    far = np.resize([0.05, 3.0, 30.0], len(radii))[:, None, None]
    targets = (x + far * rng.normal(size=x.shape)).astype(np.float32)

    def both(radius: jax.Array, x: jax.Array, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        ball = Wasserstein(radius, lam=1000.0, cost=COST)
        point = ball.project(x, z)
        return point, ball.contains(x, point)

    points, inside = jax.jit(jax.vmap(both))(radii, x, targets)
    distances = np.asarray([lp_distance(a, b) for a, b in zip(x, points, strict=True)])
    assert (distances <= radii * (1 + 1e-4) + 1e-8).all()
    assert (distances > 0.5 * radii).all(), "these balls must bind"
    assert inside.all()
    # What a smaller ball does not hold up to the documented tolerance, it does not accept.
    contains = jax.jit(
        jax.vmap(lambda r, x, z: Wasserstein(r, lam=1000.0, cost=COST).contains(x, z))
    )
    for share in (0.5, 0.9, 0.99):
        smaller = np.float32(share) * radii
        outside = distances > smaller * (1 + 5e-3) + 2e-5
        assert outside.any() or share == 0.99
        assert not np.asarray(contains(smaller, x, points))[outside].any()


def test_steepest_step_gains_what_the_linear_program_gains() -> None:
    gradients = np.random.default_rng(2).normal(size=X.shape).astype(np.float32)
    step = jax.jit(jax.vmap(lambda g, x: (SETS.steepest(g, x), SETS.dual_norm(g))))
    steps, duals = step(gradients, X)
    for x, g, d, dual in zip(X, gradients, np.asarray(steps), duals, strict=True):
        gain = float((np.float64(d) * g).sum() / x.sum())
        assert gain == pytest.approx(lp_gain(x, g, 1.0), rel=1e-4)
        arcs = [(g.ravel()[j] - g.ravel()[i]) / c for i, j, c in moves() if c > 0]
        assert float(dual) == pytest.approx(max(arcs), rel=1e-5)
        assert gain <= float(dual) * (1 + 1e-5)


@pytest.mark.slow
def test_resuming_is_projecting() -> None:
    def both(x: jax.Array, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        first, state = resume(SETS, x, 0.9 * z + 0.1 * x, opening(SETS, x))
        return resume(SETS, x, z, state)[0], first

    warm, first = jax.jit(jax.vmap(both))(X, TARGETS)
    cold = PROJECT(SETS, X, TARGETS)
    np.testing.assert_allclose(warm, cold, atol=2e-4)
    assert np.abs(np.asarray(first) - cold).max() > 1e-2
    ball = Linf(0.1)
    point, state = resume(ball, X[0], TARGETS[0], opening(ball, X[0]))
    np.testing.assert_array_equal(point, ball.project(X[0], TARGETS[0]))
    assert state == ()


@pytest.mark.slow
def test_radii_map_and_zero_is_the_identity() -> None:
    stack = Wasserstein(jnp.array([0.0, 0.1, 0.3]), lam=200.0, cost=COST)
    points = jax.jit(jax.vmap(lambda s: s.project(X[1], TARGETS[1])))(stack)
    np.testing.assert_array_equal(points[0], X[1])
    np.testing.assert_allclose(
        points[1], PROJECT(Wasserstein(0.1, lam=200.0, cost=COST), X, TARGETS)[1], atol=1e-5
    )
    empty = np.zeros(SHAPE, np.float32)
    np.testing.assert_array_equal(SETS.project(empty, TARGETS[1]), empty)


@pytest.mark.slow
def test_growing_attack_on_a_linear_model() -> None:
    w = np.random.default_rng(3).normal(size=SHAPE).astype(np.float32)
    scores = (X * w).sum(axis=(1, 2))
    bias = np.float32(-scores.max() - 0.2)
    f = lambda z: jnp.stack([jnp.zeros((), z.dtype), jnp.sum(z * w) + bias])  # noqa: E731
    attack = growing(
        Wasserstein(0.02, lam=2000.0, cost=COST),
        step=Linf(1.0), step_size=0.1, steps=60, factor=1.15, every=3,
    )  # fmt: skip
    result = jax.jit(lambda x: batched(attack, jax.random.key(0), f, x, np.zeros(6, int)))(X)
    assert result.inside.all()
    assert result.success.any()
    for x, score, norm, ok in zip(X, scores, result.norm, result.success, strict=True):
        # The least radius at which some image of the ball errs, by bisection over programs.
        if ok:
            assert lp_gain(x, w, float(norm) * 1.01) * x.sum() >= -(score + bias)


@pytest.mark.slow
@pytest.mark.parametrize("boxed", [pytest.param(True, marks=pytest.mark.slow), False])
def test_frank_wolfe_attains_the_linear_maximum(boxed: bool) -> None:
    """On a linear model one oracle call is optimal: success exactly where the program says so."""
    w = np.random.default_rng(4).normal(size=SHAPE).astype(np.float32)
    roomy = Wasserstein(0.2, upper=10.0, lam=1e4, cost=COST)
    reach = np.array([lp_gain(x, w, 0.2) * x.sum() for x in X])
    scores = (X * w).sum(axis=(1, 2))

    @jax.jit
    def succeeds(x: jax.Array, bias: jax.Array) -> jax.Array:
        f = lambda z: jnp.stack([jnp.zeros((), z.dtype), jnp.sum(z * w) + bias])  # noqa: E731
        attack = frank_wolfe(roomy, steps=1, boxed=boxed)
        return attack(jax.random.key(0), f, x, jnp.int32(0)).success

    for share, expected in ((0.95, True), (1.05, False)):
        for x, score, most in zip(X, scores, reach, strict=True):
            assert bool(succeeds(x, np.float32(-score - share * most))) == expected


@pytest.mark.slow
def test_the_oracle_that_knows_the_box_comes_close_to_the_program() -> None:
    """On images that are black and white in part, where an oracle without a box is far off."""
    threat = Wasserstein(0.3, cost=COST)
    best = jax.jit(
        lambda x, g: (threat.extreme_in_box(x, g), threat.project(x, threat.extreme(x, g)))
    )
    for seed in range(4):
        draw = np.random.default_rng(seed)
        x = np.clip(draw.uniform(-0.5, 1.5, SHAPE), 0, 1).astype(np.float32)
        g = draw.normal(size=SHAPE).astype(np.float32)
        most = lp_gain(x, g, 0.3, 1.0) * x.sum()
        z, projected = best(x, g)
        assert bool(threat.contains(jnp.asarray(x), z))
        gained = float(np.sum(g * (z - x)))
        assert 0.98 * most <= gained <= most * (1 + 1e-4)
        assert gained > 1.1 * float(np.sum(g * (projected - x)))
    x, g = X[1], np.zeros(SHAPE, np.float32)
    np.testing.assert_allclose(best(x, g)[0], x, atol=1e-5)


def test_bad_sets() -> None:
    with pytest.raises(ValueError, match="radius must be finite"):
        Wasserstein(-0.1)
    with pytest.raises(ValueError, match="lam must be finite and above 0"):
        Wasserstein(0.1, lam=0.0)
    for upper in (-0.5, np.nan, "1", None):
        with pytest.raises(ValueError, match="upper must be a number of at least 0, or inf, got"):
            Wasserstein(0.1, upper=upper)
    assert Wasserstein(0.1, upper=np.inf).upper == np.inf
    for cost in (None, "five", COST[0], np.stack([COST, COST])):
        with pytest.raises(ValueError, match="cost must be a window"):
            Wasserstein(0.1, cost=cost)
        with pytest.raises(ValueError, match="cost must be a window"):
            Wasserstein(np.array([0.1, 0.2, 0.3]), cost=cost)
    assert Wasserstein(np.array([0.1, 0.2]), cost=np.stack([COST, COST])).cost.shape == (2, 3, 3)
    with pytest.raises(ValueError, match="odd sides"):
        Wasserstein(0.1, cost=np.zeros((2, 2)))
    with pytest.raises(ValueError, match=r"one image \[H, W\]"):
        SETS.project(np.zeros(4, np.float32), np.zeros(4, np.float32))
