"""Langevin's noise and starts: laws, shares of the gradient, and what they leave of an attack."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.attacks import clean, fgsm, langevin, unclipped, uniform
from jaxrobust.threats import Linf

KEY = jax.random.key(0)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Everywhere:
    """The whole space with the raw gradient as its steepest step: it lets noise show."""

    radius: float = 1.0

    def project(self, x: jax.Array, z: jax.Array) -> jax.Array:
        return z

    def steepest(self, gradient: jax.Array, z: jax.Array) -> jax.Array:
        return gradient

    def contains(self, x: jax.Array, z: jax.Array) -> jax.Array:
        return jnp.ones((), bool)

    def size(self, x: jax.Array, z: jax.Array) -> jax.Array:
        return jnp.max(jnp.abs(z - x))


@pytest.mark.parametrize(("noise", "variance"), [("gaussian", 1), ("laplace", 2)])
@pytest.mark.parametrize("place", ["inside", "outside"])
def test_langevin_noise_has_scale_sqrt_2at(noise: str, variance: float, place: str) -> None:
    step, temperature, n = 0.2, 0.05, 50_000
    attack = langevin(
        Everywhere(),
        step_size=step,
        steps=3,
        temperature=temperature,
        noise=noise,
        place=place,
        start=clean,
    )
    walked = attack.bare(KEY, lambda z: jnp.zeros(3), jnp.zeros(n), jnp.int32(0)).x
    scale = np.sqrt(2 * step * temperature) * (step if place == "inside" else 1)
    assert np.var(walked) == pytest.approx(3 * scale**2 * variance, rel=0.03)


@pytest.mark.parametrize(("noise", "variance"), [("gaussian", 1), ("laplace", 2)])
@pytest.mark.parametrize("slope", [1e-6, 1.0, 1e4])
def test_relative_noise_is_a_share_of_the_gradient(
    noise: str, variance: float, slope: float
) -> None:
    """On a linear loss every step is slope (1 + share xi), whatever the slope."""
    step, temperature, n = 0.2, 0.05, 50_000
    attack = langevin(
        Everywhere(),
        step_size=step,
        steps=2,
        temperature=temperature,
        noise=noise,
        relative=True,
        start=clean,
        loss=lambda logits, y: logits[0],
    )
    f = lambda z: jnp.stack([slope * jnp.sum(z), jnp.float32(0)])  # noqa: E731
    walked = np.asarray(attack.bare(KEY, f, jnp.zeros(n), jnp.int32(0)).x, np.float64)
    assert walked.mean() == pytest.approx(2 * step * slope, rel=0.01)
    share = np.sqrt(2 * step * temperature)
    assert np.var(walked) == pytest.approx(2 * (step * slope * share) ** 2 * variance, rel=0.03)


def kept(temperature: float, relative: bool, scale: float) -> float:
    """Share of the first-order gain that a step keeps on a random gradient of that scale."""
    g = np.random.default_rng(0).normal(size=20_000).astype(np.float32) * scale
    attack = langevin(
        Linf(1.0, lower=-jnp.inf, upper=jnp.inf),
        step_size=0.1,
        steps=1,
        temperature=temperature,
        relative=relative,
        start=clean,
        loss=lambda logits, y: logits[0],
    )
    f = lambda z: jnp.stack([jnp.vdot(g, z), jnp.float32(0)])  # noqa: E731
    moved = np.asarray(attack.bare(KEY, f, jnp.zeros(g.shape), jnp.int32(0)).x, np.float64)
    return float(g @ moved / (0.1 * np.abs(g).sum()))


def test_absolute_noise_drowns_a_small_gradient_and_relative_noise_does_not() -> None:
    """Trained networks have mean |g| of about 3e-2, untrained ones 1e-4: noise of scale 1e-2."""
    temperature = 0.01**2 / (2 * 0.1)
    assert kept(temperature, False, 3e-2) > 0.9
    assert kept(temperature, False, 1e-4) < 0.1
    shares = [kept(temperature, True, scale) for scale in (3e-2, 1e-4, 1e-7)]
    np.testing.assert_allclose(shares, shares[0], rtol=1e-6)
    assert shares[0] > 0.99


def test_unclipped_start_keeps_its_noise_outside_the_box() -> None:
    """Algorithm 7 of Wong's thesis: on black pixels a clipped start loses half of its noise."""
    threat, x = Linf(0.3), jnp.zeros(20_000)
    start = np.asarray(unclipped(KEY, threat, x), np.float64)
    assert start.min() < -0.29
    assert start.std() == pytest.approx(0.3 / np.sqrt(3), rel=0.02)
    assert np.asarray(uniform(KEY, threat, x)).min() == 0
    # The gradient is taken there, and the point stepped to lies in the set.
    f = lambda z: jnp.stack([jnp.sum(z**2), jnp.float32(0)])  # noqa: E731
    attack = fgsm(threat, start=unclipped, loss=lambda logits, y: logits[0])
    found = attack.bare(KEY, f, x, jnp.int32(1))
    assert found.inside
    start_key = jax.random.split(KEY)[0]
    start = np.asarray(unclipped(start_key, threat, x))
    expected = np.clip(start + np.float32(0.3) * np.sign(start), 0, 0.3)
    np.testing.assert_allclose(found.x, expected, atol=1e-6)
