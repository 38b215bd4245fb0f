"""Certified radii against closed forms, sampled points and certificates that are not monotone."""

import dual_cases as cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.duals import radius as module
from jaxrobust.duals.certificates import Certificate, certify
from jaxrobust.duals.radius import certified_radius
from jaxrobust.threats import L1, L2, Linf, Union, Wasserstein

PER_COORDINATE = np.asarray([0.1, 0.0, 0.3, 0.2, 0.1])
BALLS = (Linf(0.1), L2(1.0), L1(3.0), Linf(PER_COORDINATE), Union((Linf(0.1), L1(0.5)), 2.0))


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


def dual_norms(rows):
    """Of each ball of `BALLS` at radius 1, for every row."""
    l1, linf = np.abs(rows).sum(1), np.abs(rows).max(1)
    scaled = np.abs(PER_COORDINATE * rows).sum(1)
    return [l1, np.linalg.norm(rows, axis=1), linf, scaled, np.maximum(0.1 * l1, 0.5 * linf)]


def test_radii_of_linear_classifiers_are_margin_over_dual_norm():
    rng = np.random.default_rng(0)
    W, b, x = rng.normal(size=(3, 5)), rng.normal(size=3), rng.uniform(size=5)
    y = int(np.argmax(W @ x + b))
    others = np.delete(np.arange(3), y)
    gaps, rows = (W @ x + b)[y] - (W @ x + b)[others], W[y] - W[others]
    expected = [np.min(gaps / norm) for norm in dual_norms(rows)]
    upper = 2 * max(expected)

    @jax.jit
    def found(x, upper):
        f = lambda x: W @ x + b  # noqa: E731
        return [certified_radius(f, x, y, t, upper=upper, steps=12) for t in BALLS]

    for result, radius in zip(found(jnp.asarray(x), upper), expected, strict=True):
        assert result.radius <= radius
        assert result.radius > radius - upper / 2**12 - 1e-9
        assert result.certificate.certified
    for result in found(jnp.asarray(x), 0.9 * min(expected)):
        assert result.radius == 0.9 * min(expected)
    assert found._cache_size() == 1


@pytest.mark.slow
def test_radii_of_networks_hold_and_are_those_of_their_certificates():
    f = cases.mlp(jax.nn.relu, cases.weights(3, (4, 10, 3)))
    options = {"methods": ("wong_kolter",)}
    examples = jnp.asarray(np.random.default_rng(1).uniform(size=(12, 4)))
    right = jax.vmap(lambda x: jnp.argmax(f(x)))(examples)
    labels = right.at[0].set((right[0] + 1) % 3)

    def radius(x, y):
        return certified_radius(f, x, y, Linf(0.3), upper=1.0, steps=8, **options)

    @jax.jit
    @jax.vmap
    def check(x, y):
        found = radius(x, y)
        points = cases.ball_points(Linf(found.radius), x, count=50)
        predicted = jax.vmap(lambda z: jnp.argmax(f(z)))(points)
        again = certify(f, x, y, Linf(found.radius), **options)
        further = certify(f, x, y, Linf(found.radius + 1 / 2**8), **options)
        return found, jnp.all(predicted == y), again.lower, further.certified

    found, held, again, further = check(examples, labels)
    np.testing.assert_array_equal(found.certificate.certified, np.arange(12) > 0)
    assert np.all(found.radius[1:] > 0)
    assert np.all(held[1:])
    assert not np.any(further)
    np.testing.assert_allclose(found.certificate.lower, again, atol=1e-12)
    assert found.radius[0] == 0
    assert found.certificate.lower[0].min() < 0
    alone = jax.jit(radius)(examples[5], labels[5])
    np.testing.assert_allclose(alone.radius, found.radius[5], atol=1e-9)


def test_a_certificate_that_is_not_monotone_still_holds_at_the_answer(monkeypatch):
    def holes(f, x, y, threat, **options):
        good = (threat.radius < 0.5) & ~((threat.radius > 0.2) & (threat.radius < 0.3))
        lower = jnp.stack([jnp.zeros_like(x), jnp.where(good, 1 - threat.radius, -1.0)])
        return Certificate(lower, jnp.asarray(y), jnp.zeros_like(x), "deterministic")

    monkeypatch.setattr(module, "certify", holes)
    found = certified_radius(None, jnp.asarray(0.0), 0, Linf(0.1), upper=1.0, steps=10)
    assert found.certificate.certified
    assert 0.2 - 2**-9 < found.radius <= 0.2
    np.testing.assert_allclose(found.certificate.lower[1], 1 - found.radius)


def test_nan_has_radius_zero_and_no_certificate():
    x = jnp.full(4, 0.4).at[2].set(jnp.nan)
    f = lambda x: x[:2] - x[2:]  # noqa: E731
    found = jax.jit(lambda x: certified_radius(f, x, 0, Linf(0.1), upper=1.0, steps=2))(x)
    assert found.radius == 0
    assert not found.certificate.certified


def test_refusals():
    x = jnp.full(4, 0.4)
    with pytest.raises(ValueError, match="upper must be finite and above 0, got 0"):
        certified_radius(jnp.sin, x, 0, Linf(0.1), upper=0)
    with pytest.raises(ValueError, match="steps must be a whole number of at least 1"):
        certified_radius(jnp.sin, x, 0, Linf(0.1), upper=1.0, steps=0)
    with pytest.raises(ValueError, match="Linf, L2 and L1 balls"):
        certified_radius(lambda x: x, x, 0, Wasserstein(0.1), upper=1.0)
    with pytest.raises(ValueError, match="Linf, L2 and L1 balls"):
        certified_radius(lambda x: x, x, 0, 0.1, upper=1.0)
    with pytest.raises(ValueError, match=r"upper must be one number, got shape \(2,\)"):
        certified_radius(lambda x: x, x, 0, Linf(0.1), upper=np.ones(2))
    with pytest.raises(ValueError, match="y=4 is none of 4 classes"):
        certified_radius(lambda x: x, x, 4, Linf(0.1), upper=1.0)
