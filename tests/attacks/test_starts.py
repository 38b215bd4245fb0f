"""Starts on the sets that are no single ball, and what refuses them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.attacks import unclipped, uniform
from jaxrobust.threats import L1, L2, Linf, Union, Wasserstein

KEY = jax.random.key(3)


def test_uniform_draws_a_member_of_a_union_whatever_its_size() -> None:
    """On a line the small member has a hundredth of the union, and half of the draws."""
    union = Union((Linf(0.004), L2(0.4)))
    x, keys = jnp.array([0.5]), jax.random.split(KEY, 4000)
    far = np.abs(np.asarray(jax.vmap(lambda key: uniform(key, union, x))(keys)) - 0.5)
    assert np.mean(far <= 0.0041) == pytest.approx(0.5 + 0.5 * 0.01, abs=0.03)
    assert far.max() == pytest.approx(0.4, abs=0.01)


@pytest.mark.slow
def test_uniform_keeps_the_mass_and_the_cost_of_a_wasserstein_set() -> None:
    x = jax.random.uniform(jax.random.key(0), (4, 5))
    threat = Wasserstein(0.1)
    z = uniform(KEY, threat, x)
    assert float(jnp.sum(z)) == pytest.approx(float(jnp.sum(x)), rel=1e-5)
    assert threat.contains(x, z)
    noise = jax.random.uniform(KEY, x.shape, x.dtype, -1, 1)
    np.testing.assert_allclose(z, threat.project(x, x + 0.1 * noise), atol=1e-7)
    assert float(jnp.max(jnp.abs(z - x))) > 0.01


@pytest.mark.parametrize("threat", [Union((Linf(0.1), L1(1.0))), Wasserstein(0.1)])
def test_only_a_ball_can_leave_its_box_aside(threat: Union | Wasserstein) -> None:
    with pytest.raises(ValueError, match=f"{type(threat).__name__} has none of its own to leave"):
        unclipped(KEY, threat, jnp.full((4, 4), 0.5))
