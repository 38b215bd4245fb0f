"""The Wright omega function against scipy's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from jaxrobust.sinkhorn import wright_omega


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_value_and_derivative_are_scipys_over_the_whole_range(dtype):
    y = np.r_[
        np.linspace(-80, 120, 2001), np.geomspace(1, 1e30, 40), -np.geomspace(1e-9, 80, 40), 0
    ]
    y = y.astype(dtype)
    with jax.enable_x64(dtype == np.float64):
        value, slope = jax.jvp(wright_omega, (jnp.asarray(y),), (jnp.ones_like(y),))
    expected = scipy.special.wrightomega(y.astype(np.float64))
    rtol = 32 * np.finfo(dtype).eps  # scipy's own error in float64 is 16
    assert value.dtype == dtype
    np.testing.assert_allclose(value, expected, rtol=rtol)
    np.testing.assert_allclose(slope, expected / (1 + expected), rtol=rtol)


def test_ends_and_nan():
    y = jnp.asarray([-jnp.inf, -1e30, -200.0, jnp.inf, jnp.nan])
    np.testing.assert_array_equal(wright_omega(y), [0, 0, 0, np.inf, np.nan])
    _, slopes = jax.jvp(wright_omega, (y[:4],), (jnp.ones(4),))
    np.testing.assert_array_equal(slopes, [0, 0, 0, 1])
