"""The linear oracle of ball and box against linear and quadratic programs of SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog, minimize

from jaxrobust.duals.intersections import support_in_box
from jaxrobust.threats import L1, L2, Linf, extreme
from jaxrobust.types import Array, ThreatModel

SIZE = 8
BALLS = {"linf": Linf, "l2": L2, "l1": L1}
RADII = {"linf": (0.0, 0.1, 0.7), "l2": (0.0, 0.2, 0.8, 5.0), "l1": (0.0, 0.15, 1.2, 20.0)}
KINDS = [(norm, radius) for norm, radii in RADII.items() for radius in radii]


def case(seed: int, shape: tuple[int, ...] = (SIZE,)) -> tuple[np.ndarray, np.ndarray]:
    """A point of the box, some coordinates on its edges, and a gradient with a 0 in it."""
    draw = np.random.default_rng(seed)
    x = np.clip(draw.uniform(-0.3, 1.3, shape), 0, 1).astype(np.float32)
    gradient = draw.normal(size=shape).astype(np.float32)
    gradient.flat[3] = 0
    return x, gradient


def best_rise(norm: str, radius: float | np.ndarray, x: np.ndarray, g: np.ndarray) -> float:
    """max <g, z - x> over ball and box, in float64 by SciPy. Coordinates move in radii."""
    radii = np.broadcast_to(np.asarray(radius, np.float64), x.shape)
    x, g = np.float64(x), np.float64(g)
    if norm == "linf":
        ends = [(max(-r, -v), min(r, 1 - v)) for r, v in zip(radii, x, strict=True)]
        return -linprog(-g, bounds=ends).fun
    scaled = radii * g
    unit = [((-v) / r, (1 - v) / r) if r > 0 else (0, 0) for r, v in zip(radii, x, strict=True)]
    if norm == "l1":  # t = up - down, sum(up + down) <= 1
        both = np.concatenate([-scaled, scaled])
        ends = [(0, max(hi, 0)) for _, hi in unit] + [(0, max(-lo, 0)) for lo, _ in unit]
        return -linprog(both, A_ub=np.ones((1, 2 * SIZE)), b_ub=[1], bounds=ends).fun
    found = minimize(
        lambda t: -scaled @ t,
        np.zeros(SIZE),
        jac=lambda t: -scaled,
        bounds=unit,
        constraints=[{"type": "ineq", "fun": lambda t: 1 - t @ t, "jac": lambda t: -2 * t}],
        method="SLSQP",
        options={"ftol": 1e-13, "maxiter": 500},
    )
    # its flag is lost on the last digits; what counts is that the point lies in the ball
    assert found.x @ found.x <= 1 + 1e-6
    return -float(found.fun)


@jax.jit
def point(threat: ThreatModel, x: Array, gradient: Array) -> Array:
    return extreme(threat, x, gradient)


@pytest.mark.parametrize(("norm", "radius"), KINDS)
def test_the_point_lies_in_the_set_and_rises_as_far_as_the_program_says(
    norm: str, radius: float
) -> None:
    threat = BALLS[norm](radius)
    for seed in range(8):
        x, g = case(seed)
        z = point(threat, x, g)
        assert bool(threat.contains(jnp.asarray(x), z))
        assert float(g @ (z - x)) == pytest.approx(best_rise(norm, radius, x, g), abs=1e-5)
        assert z[3] == x[3], "nothing to gain there"


@pytest.mark.parametrize("norm", BALLS)
def test_radii_of_their_own(norm: str) -> None:
    radius = np.linspace(0, 0.8, SIZE).astype(np.float32)
    threat = BALLS[norm](radius)
    for seed in range(4):
        x, g = case(seed)
        z = point(threat, x, g)
        assert bool(threat.contains(jnp.asarray(x), z))
        assert z[0] == x[0], "held by its radius of 0"
        assert float(g @ (z - x)) == pytest.approx(best_rise(norm, radius, x, g), abs=1e-5)


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_no_bound_of_the_duals_lies_below_the_point_and_both_meet(norm: str) -> None:
    """`support_in_box` prices the radius by the same search, from the dual side."""
    for radius in RADII[norm][1:]:
        threat = BALLS[norm](radius)
        for seed in range(8):
            x, g = case(seed)
            reached = float(g @ (point(threat, x, g) - x))
            bound = float(support_in_box(threat, jnp.asarray(x), jnp.asarray(g)))
            assert reached <= bound <= reached + 2e-5


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
@pytest.mark.parametrize("norm", BALLS)
def test_the_gradients_scale_changes_nothing(norm: str, scale: float) -> None:
    x, g = case(0)
    plain, scaled = (point(BALLS[norm](0.4), x, s * g) for s in (np.float32(1), np.float32(scale)))
    np.testing.assert_allclose(plain, scaled, atol=1e-6)


@pytest.mark.parametrize("norm", BALLS)
def test_edge_cases(norm: str) -> None:
    x, _ = case(1)
    np.testing.assert_array_equal(point(BALLS[norm](0.3), x, np.zeros_like(x)), x)
    np.testing.assert_array_equal(point(BALLS[norm](0.3), x, np.full_like(x, np.nan)), x)
    # without a box the classical answers
    free = BALLS[norm](0.5, -np.inf, np.inf)
    g = np.array([3.0, -4.0], np.float32)
    expected = {"linf": [0.5, -0.5], "l2": [0.3, -0.4], "l1": [0.0, -0.5]}[norm]
    np.testing.assert_allclose(point(free, np.zeros(2, np.float32), g), expected, atol=1e-6)
    # equal gains move alike
    even = point(BALLS[norm](0.4), np.full(4, 0.5, np.float32), np.ones(4, np.float32))
    each = {"linf": 0.4, "l2": 0.2, "l1": 0.1}[norm]
    np.testing.assert_allclose(even, 0.5 + each, atol=1e-6)


def test_images() -> None:
    x, g = case(2, (4, 2, 1))
    for norm in BALLS:
        flat = point(BALLS[norm](0.4), x.ravel(), g.ravel())
        np.testing.assert_array_equal(point(BALLS[norm](0.4), x, g).ravel(), flat)
    with pytest.raises(ValueError, match="x and gradient must have one shape"):
        extreme(Linf(0.1), jnp.zeros(3), jnp.zeros(4))
