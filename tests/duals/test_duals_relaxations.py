"""Lines lie on the right side of their functions, on huge, thin and empty intervals too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.duals.relaxations import relaxation

ARGS = {"clip": (-0.5, 1.0)}


def intervals(dtype):
    """[n] lower and upper ends: random, straddling, empty, hair-thin and huge."""
    rng = np.random.default_rng(0)
    center, width = rng.normal(scale=2, size=300), rng.exponential(size=300)
    huge = np.finfo(dtype).max / 8
    lower = np.r_[center - width, center, [-huge, -huge, -1, 0, 0, -0.5, 1, -3, 2, -1e-30]]
    upper = np.r_[center + width, center, [huge, 1, huge, 0, 2, 1, 1, -2, 3, 1e-30]]
    thin = np.nextafter(center.astype(dtype), np.inf, dtype=dtype)
    lower, upper = np.r_[lower, center].astype(dtype), np.r_[upper.astype(dtype), thin]
    return jnp.asarray(lower), jnp.asarray(upper)


@pytest.mark.parametrize("kind", ["relu", "clip", "tanh", "softplus"])
def test_lines_bound_the_function(kind):
    for x64 in (False, True):
        with jax.enable_x64(x64):
            dtype = np.float64 if x64 else np.float32
            lower, upper = intervals(dtype)
            known = relaxation(kind)
            args = tuple(jnp.full_like(lower, a) for a in ARGS.get(kind, ()))
            share = jnp.linspace(0, 1, 101, dtype=dtype)[:, None]

            @jax.jit
            def slacks(lower, upper, known=known, args=args, share=share):
                z = jnp.clip(
                    lower[None] * (1 - share) + upper[None] * share, lower[None], upper[None]
                )
                h = known.function(z, *(a[None] for a in args))
                low, high = known.interval(lower, upper, *args)
                adaptive = known.adaptive(lower, upper, *args)
                alphas = [None, adaptive, *(jnp.full_like(lower, a) for a in (0.0, 0.3, 1.0))]
                scale = 1 + jnp.abs(z) + jnp.abs(lower[None]) + jnp.abs(upper[None])
                sides = [h - low[None], high[None] - h]
                for alpha in alphas:
                    s, i, t, j = known.lines(lower, upper, alpha, *args)
                    sides += [h - s[None] * z - i[None], t[None] * z + j[None] - h]
                return [jnp.min(side / scale) for side in sides], jnp.max(sides[3] / scale)

            found, looseness = slacks(lower, upper)
            assert min(map(float, found)) > -8 * np.finfo(dtype).eps
            assert looseness < 1.01


def test_an_unknown_kind_is_named():
    with pytest.raises(ValueError, match="unknown kind of node 'rellu'; did you mean 'relu'"):
        relaxation("rellu")


def test_parallel_lines_share_their_slope():
    """The same array, by which one backward pass serves both bounds."""
    lower, upper = jnp.array([-1.0]), jnp.array([2.0])
    for kind in ("relu", "clip", "tanh", "softplus"):
        args = tuple(jnp.full_like(lower, a) for a in ARGS.get(kind, ()))
        lines = relaxation(kind).lines(lower, upper, None, *args)
        assert lines.lower_slope is lines.upper_slope
