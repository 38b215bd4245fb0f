"""Lines around curves: never through them, and close to the best there are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from jaxrobust.duals import curves, envelopes
from jaxrobust.duals.relaxations import relaxation

STEEP, BEND = (float(np.float32(v)) for v in (np.sqrt(2 / np.pi), 0.044715))
HALF = float(np.float32(np.sqrt(0.5)))


def mish(z):
    e = np.exp(-np.abs(z))
    below = e * (e + 2) / (e * (e + 2) + 2)
    return z * np.where(z > 0, (1 + 2 * e) / (1 + 2 * e * (1 + e)), below)


EXACT = {
    "exp": np.exp,
    "expm1": np.expm1,
    "exp2": np.exp2,
    "log": np.log,
    "log1p": np.log1p,
    "sqrt": np.sqrt,
    "rsqrt": lambda z: 1 / np.sqrt(z),
    "square": np.square,
    "sin": np.sin,
    "cos": np.cos,
    "erf": special.erf,
    "erfc": special.erfc,
    "atan": np.arctan,
    "softplus": lambda z: np.logaddexp(z, 0),
    "gelu": lambda z: 0.5 * z * special.erfc(-z * HALF),
    "gelu_tanh": lambda z: z * special.expit(2 * STEEP * (z + BEND * z**3)),
    "silu": lambda z: z * special.expit(z),
    "mish": mish,
    "hard_silu": lambda z: z * np.clip(z + 3, 0, 6) / 6,
    "soft_sign": lambda z: z / (1 + np.abs(z)),
    "squareplus": lambda z: (
        np.where(z > 0, z + np.hypot(z, 2), 4 / (np.hypot(z, 2) + np.abs(z))) / 2
    ),
    "elu 1.7": lambda z: np.where(z > 0, z, 1.7 * np.expm1(np.minimum(z, 0))),
    "elu 0.5": lambda z: np.where(z > 0, z, 0.5 * np.expm1(np.minimum(z, 0))),
    "celu 0.5": lambda z: np.where(z > 0, z, 0.5 * np.expm1(np.minimum(z, 0) / 0.5)),
    **{f"power {p}": lambda z, p=p: z ** float(p) for p in (3, 4, -1, -2, -3, 2.5, 0.3, -0.5)},
}
"""In float64, computed by others."""
ABOVE_ZERO = {"log", "sqrt", "rsqrt", "power 2.5", "power 0.3", "power -0.5"}
ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)


def intervals(kind, dtype, count=200):
    """[n] lower and upper ends inside the kind's domain: from hair-thin to wide, on both sides."""
    rng = np.random.default_rng(0)
    center, width = rng.normal(scale=4, size=count), 10 ** rng.uniform(-6, 1.5, size=count)
    edges = [(-1e4, 1e4), (-50, 1), (-1, 50), (0, 0), (0, 2), (-0.5, 1), (1, 1), (1e-3, 1e4)]
    lower = np.r_[center - width, center, [low for low, _ in edges]]
    upper = np.r_[center + width, center, [high for _, high in edges]]
    thin = np.nextafter(center.astype(dtype), np.inf, dtype=dtype)
    lower, upper = np.r_[lower, center].astype(dtype), np.r_[upper.astype(dtype), thin]
    if kind in ABOVE_ZERO:
        lower, upper = np.abs(lower) + dtype(1e-3), np.abs(lower) + (upper - lower) + dtype(1e-3)
    if kind == "log1p":
        lower, upper = np.abs(lower) - dtype(0.9), np.abs(lower) + (upper - lower) - dtype(0.9)
    # no exponential beyond the largest float
    return np.minimum(lower, 60), np.minimum(np.maximum(lower, upper), 60)


def made(known, lower, upper):
    """Lines at no alpha and at several, and the range, as float64."""

    @jax.jit
    def every(lower, upper):
        several = [None, *(jnp.full_like(lower, a) for a in ALPHAS)]
        return [known.lines(lower, upper, a) for a in several], known.interval(lower, upper)

    return jax.tree.map(lambda v: np.asarray(v, np.float64), every(lower, upper))


def points(lower, upper, count=301):
    """[n, intervals]: evenly spread, and dense at both ends."""
    near = 10.0 ** -np.arange(1, 9)
    share = np.r_[np.linspace(0, 1, count), near, 1 - near][:, None]
    low, high = lower.astype(np.float64), upper.astype(np.float64)
    return np.clip(low * (1 - share) + high * share, low, high)


def slacks(kind, known, dtype):
    """The least distance of lines and ranges from the function, on the wrong side if negative.

    In machine epsilons of the numbers that the lines are made of: `relaxed_network.LINES` are
    allowed for.
    """
    lower, upper = intervals(kind, dtype)
    lines, (low, high) = made(known, jnp.asarray(lower), jnp.asarray(upper))
    z = points(lower, upper)
    # adversarial: a finer grid around the worst point of the first
    found = []
    with np.errstate(all="ignore"):
        for s, i, t, j in lines:
            for sign, slope, start in ((1, s, i), (-1, t, j)):
                for _ in range(2):
                    gap = sign * (EXACT[kind](z) - slope * z - start)
                    known_gap = np.where(np.isnan(gap), np.inf, gap)
                    worst = np.take_along_axis(z, known_gap.argmin(0)[None], 0)[0]
                    step = (upper.astype(np.float64) - lower) / 300
                    fine = worst + step * np.linspace(-1, 1, 201)[:, None]
                    z = np.clip(fine, lower.astype(np.float64), upper.astype(np.float64))
                z = points(lower, upper)
                reach = np.maximum(np.abs(lower), np.abs(upper)).astype(np.float64)
                values = np.maximum(np.abs(low), np.abs(high))
                size = np.abs(slope) * reach + np.abs(start) + values
                size += (upper.astype(np.float64) - lower) * np.maximum(np.abs(slope), 1)
                found.append(np.min(gap, 0) / (np.finfo(dtype).eps * size + 1e-37))
        h = EXACT[kind](z)
        values = np.finfo(dtype).eps * np.maximum(np.abs(low), np.abs(high)) + 1e-37
        found += [np.min(h - low, 0) / values, np.min(high - h, 0) / values]
    # an infinite end is no bound, and says so
    where = np.isfinite(low) & np.isfinite(high) & np.isfinite(h).all(0)
    assert np.mean(where) > 0.5
    return min(float(np.min(f[where])) for f in found)


@pytest.mark.parametrize("kind", ["silu"])
def test_lines_bound_the_function(kind):
    assert slacks(kind, relaxation(kind), np.float32) > -2


@pytest.mark.slow
@pytest.mark.parametrize("kind", EXACT)
def test_lines_bound_every_function(kind):
    assert slacks(kind, relaxation(kind), np.float32) > -2
    with jax.enable_x64(True):
        # the functions of SciPy are off by some epsilons themselves
        if kind not in ("gelu", "gelu_tanh"):
            assert slacks(kind, relaxation(kind), np.float64) > -8


@pytest.mark.slow
def test_wrong_pieces_are_caught():
    """The comparison sees a function taken for convex a little too far, and one shifted bend."""
    silu = curves.curve("silu")
    wrong = silu._replace(pieces=envelopes.pieces((-2.0, 2.0), (-1, 1, -1)))
    known = relaxation("silu")._replace(
        lines=lambda l, u, a: envelopes.curve_lines(wrong, l, u, a)  # noqa: E741
    )
    assert slacks("silu", known, np.float32) < -100


def best_height(kind, lower, upper, sign):
    """[n]: how high above the middle (sign 1: below) a line on the right side can be at most."""
    z = points(lower, upper, 1001)
    h = sign * EXACT[kind](z)
    middle = (lower + upper) / 2
    left, right = z <= middle, z >= middle
    best = np.full(len(lower), np.inf)
    for n in range(len(lower)):
        a, b = (np.stack([z[s[:, n], n], h[s[:, n], n]]) for s in (left, right))
        a, b = a[:, ::20], b[:, ::20]
        share = (middle[n] - a[0][:, None]) / np.maximum(b[0] - a[0][:, None], 1e-300)
        best[n] = np.min(a[1][:, None] * (1 - share) + b[1] * share)
    return best


@pytest.mark.slow
@pytest.mark.parametrize("kind", EXACT)
def test_lines_are_close_to_the_best(kind):
    """The convex envelope at the middle, found by brute force, is what the best line reaches."""
    rng = np.random.default_rng(1)
    center, width = rng.normal(scale=3, size=60), 10 ** rng.uniform(-1, 0.7, size=60)
    if kind in ABOVE_ZERO or kind in ("log1p", "power -1", "power -2", "power -3"):
        center = np.abs(center) + width + 0.05
    lower, upper = (center - width).astype(np.float32), (center + width).astype(np.float32)
    lines, (low, high) = made(relaxation(kind), jnp.asarray(lower), jnp.asarray(upper))
    middle = (lower.astype(np.float64) + upper) / 2
    scale = high - low + 1e-4
    for sign in (1, -1):
        heights = [
            sign * ((s if sign > 0 else t) * middle + (i if sign > 0 else j))
            for s, i, t, j in lines[1:]
        ]
        short = (best_height(kind, lower.astype(np.float64), upper, sign) - heights[2]) / scale
        assert np.quantile(short, 0.9) < 0.02, sign
        assert np.max(short) < 0.25, sign
    # ranges are what the function takes, but where sine has too many bends
    z = points(lower, upper)
    h = EXACT[kind](z)
    few = upper - lower < 6
    assert np.max(((h.min(0) - low) / scale)[few]) < 0.02
    assert np.max(((high - h.max(0)) / scale)[few]) < 0.02


def test_outside_of_the_domain_there_is_no_bound():
    for kind, low, high in (("log", -1.0, 1.0), ("power -1", -1.0, 2.0), ("sqrt", -0.1, 1.0)):
        least, most = relaxation(kind).range(jnp.float32(low), jnp.float32(high))
        assert np.isneginf(least) or kind == "sqrt"
        assert np.isposinf(most)
    least, most = relaxation("power -1").range(jnp.float32(-4.0), jnp.float32(-2.0))
    np.testing.assert_allclose([least, most], [-0.5, -0.25], rtol=1e-5)


@pytest.mark.slow
def test_lines_differentiate():
    """The bound's slope in the ends of the box is that of finite differences."""
    known = relaxation("silu")
    with jax.enable_x64(True):

        def height(l, u):  # noqa: E741
            lines = known.lines(l, u, jnp.float64(0.4))
            return lines.lower_slope * 0.3 + lines.lower_intercept - lines.upper_intercept

        both = jax.jit(jax.value_and_grad(height, argnums=(0, 1)))
        found = both(-1.5, 2.5)[1]
        for k in (0, 1):
            step = np.eye(2)[k] * 1e-5
            far = [float(both(-1.5 + s * step[0], 2.5 + s * step[1])[0]) for s in (1, -1)]
            np.testing.assert_allclose(found[k], (far[0] - far[1]) / 2e-5, rtol=1e-3, atol=1e-4)
