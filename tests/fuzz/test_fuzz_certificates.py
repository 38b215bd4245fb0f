"""Nothing false is certified: a small run of the fuzz, and the kinds it was made of."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import duals
from jaxrobust.threats import Linf
from tests.fuzz import certificates as fuzz

ALL = fuzz.METHODS[-1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [
        fuzz.Case("shallow", "relu", "linf", ALL, "plain"),
        fuzz.Case("linear", "relu", "l2", ("wong_kolter",), "plain"),
        fuzz.Case("deep", "max", "l1", ALL, "chunked"),
        fuzz.Case("deep", "residual", "union", ALL, "radius"),
        fuzz.Case("wide", "tanh", "linf", ("crown",), "boxed"),
        fuzz.Case("shallow", "clip", "linf", ALL, "optimized"),
        fuzz.Case("shallow", "softplus", "l2", ("interval",), "cascade"),
    ],
    ids=lambda case: f"{case.shape}-{case.activation}-{case.how}",
)
def test_float32_certificates_hold_under_cancellation(case):
    assert not fuzz.faults(case, seed=0, count=50, dtype=np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["plain", "radius"])
def test_float64_certificates_hold_in_exact_rationals(how):
    case = fuzz.Case("wide", "relu", "linf", ALL, how)
    with jax.enable_x64(True):
        assert not fuzz.faults(case, seed=0, count=5, dtype=np.float64)


def test_underflow_is_counted():
    # 1e-30 and 1e-30 of 1e30: a row that is flushed on its way would lose the whole movement
    tiny = jnp.full((3, 3), 1e-25, jnp.float32) * jnp.eye(3)

    def f(x):
        return jnp.stack([jnp.sum(tiny @ (tiny @ (1e30 * x))), 1e-21 * jnp.sum(x)])

    x = jnp.ones(3, jnp.float32)
    lower = duals.lower_bounds(f, x, jnp.asarray([[1.0, 0.0]]), Linf(1.0, -jnp.inf, jnp.inf))
    assert lower[0] <= 0


def test_the_rounding_of_an_unknown_operation_is_no_guess():
    def f(x):
        return jax.scipy.linalg.solve_triangular(jnp.eye(3), x)

    with pytest.raises(
        duals.UnsupportedOperation, match="no bound of the rounding of 'triangular_solve'"
    ):
        duals.lower_bounds(f, jnp.ones(3, jnp.float32), jnp.eye(3), Linf(0.1))


@pytest.mark.slow
def test_programs_of_huge_weights_prove_no_tiny_margin():
    rng = np.random.default_rng(0)
    for _ in range(5):
        parameters, x = fuzz.deceptive(rng, "wide", "relu", np.float32)
        least = fuzz.exact_margin("relu", parameters, fuzz.double(x), fuzz.double)
        # a program that does not reproduce the network has no verdict
        with contextlib.suppress(RuntimeError):
            found = duals.exact_margin(
                fuzz.network("relu", parameters), jnp.asarray(x), jnp.int32(0), Linf(0.0)
            )
            assert least > 0 or not found.certified
