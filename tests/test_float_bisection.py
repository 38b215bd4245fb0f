"""The bisection over floats finds the very last one."""

import jax.numpy as jnp
import pytest

from jaxrobust.float_bisection import largest_where


@pytest.mark.parametrize("edge", [0.0, 1e-30, 0.3, 1.0, 1e30])
def test_search_finds_the_last_float(edge):
    edge = jnp.float32(edge)
    assert largest_where(lambda t: t <= edge, jnp.float32(1e30)) == edge
    assert largest_where(lambda t: t < 0, jnp.float32(1.0)) == 0
    assert largest_where(lambda t: t >= 0, jnp.float32(0.7)) == jnp.float32(0.7)
