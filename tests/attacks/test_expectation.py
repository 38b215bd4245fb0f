"""Expectation over transformation on classifiers that are random at prediction time."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.attacks import autoattack, batched, clean, expectation, expected, pgd
from jaxrobust.threats import L1, L2, Linf

KEY = jax.random.key(3)
W = jnp.asarray(np.random.default_rng(0).normal(size=(6, 3)), jnp.float32)
X = np.random.default_rng(1).uniform(0.2, 0.8, (12, 6)).astype(np.float32)
Y = np.asarray(X @ W).argmax(axis=1)


def noisy(x: jax.Array, key: Any = None, scale: float = 0.5) -> jax.Array:
    logits = x @ W
    return logits if key is None else logits + scale * jax.random.normal(key, (3,))


def test_a_deterministic_model_is_attacked_as_before() -> None:
    attack = pgd(Linf(0.1), step_size=0.03, steps=4, start=clean)
    f = lambda x, key=None: x @ W  # noqa: E731
    plain = batched(attack, KEY, f, X, Y)
    again = batched(expectation(attack, 3), KEY, f, X, Y)
    np.testing.assert_allclose(again.x, plain.x, atol=1e-6)
    np.testing.assert_array_equal(again.success, plain.success)
    assert 0 < plain.success.sum() < len(X)
    assert (again.forwards == 3 * plain.forwards + 1).all()
    assert (again.backwards == 3 * plain.backwards).all()


def test_expected_averages_fresh_draws_at_every_point() -> None:
    mean = expected(noisy, KEY, draws=400)
    values = np.stack([np.asarray(jax.jit(mean)(x)) for x in X])
    errors = values - X @ np.asarray(W)
    assert np.abs(errors).max() < 5 * 0.5 / np.sqrt(400)
    assert errors.std() == pytest.approx(0.5 / np.sqrt(400), rel=0.3)
    assert len({float(e) for e in errors[:, 0]}) == len(X), "points share no random numbers"
    np.testing.assert_array_equal(jax.jit(mean)(X[0]), values[0])
    nudged = X[0].copy()
    nudged[3] = np.nextafter(nudged[3], 1)
    assert abs(float(jax.jit(mean)(nudged)[0]) - float(values[0][0])) > 1e-5


def test_gradient_ignores_where_the_random_numbers_come_from() -> None:
    slope = jax.grad(lambda x: expected(noisy, KEY, draws=4)(x)[1])(jnp.asarray(X[0]))
    np.testing.assert_allclose(slope, W[:, 1], rtol=1e-5)


def test_verdicts_use_random_numbers_the_attack_has_not_seen() -> None:
    """Pure noise: half of fresh predictions are wrong, however long the attack picks its draws."""

    def coin(x: jax.Array, key: Any = None) -> jax.Array:
        return jax.random.normal(jax.random.key(0) if key is None else key, (2,)) + 0 * x[:2]

    x = np.random.default_rng(2).uniform(0.2, 0.8, (400, 6)).astype(np.float32)
    result = batched(
        expectation(pgd(Linf(0.1), step_size=0.03, steps=20), 1), KEY, coin, x, np.zeros(400, int)
    )
    assert 0.4 < np.mean(result.success) < 0.6


@pytest.mark.parametrize("threat", [Linf(0.1), L2(0.2), L1(0.5)])
def test_rand_suite_beats_the_noise(threat: Any) -> None:
    suite = autoattack(threat, version="rand", steps=5, draws=4)
    assert list(suite) == ["APGD-CE", "APGD-DLR"]
    f = lambda x, key=None: noisy(x, key, 0.01)  # noqa: E731
    exact = np.sort(X @ np.asarray(W), axis=1)
    far = exact[:, -1] - exact[:, -2] > 3.0
    result = batched(suite["APGD-DLR"], KEY, f, X, Y)
    assert result.inside.all()
    assert result.success.any()
    assert not result.success[far].any()


def test_bad_settings() -> None:
    with pytest.raises(ValueError, match="draws must be a whole number of at least 1"):
        expectation(pgd(Linf(0.1), step_size=0.1, steps=1), 0)
    with pytest.raises(ValueError, match="unknown version"):
        autoattack(Linf(0.1), version="random")
