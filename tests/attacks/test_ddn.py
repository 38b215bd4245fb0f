"""DDN against a float64 loop by hand."""

from __future__ import annotations

import attack_cases as cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.attacks.ddn import ddn

NET = cases.random_net(2)
X = np.random.default_rng(7).uniform(0.1, 0.9, cases.SHAPE)
X[0, 0], X[1, 1] = 0.0, 1.0
LABEL = int(np.argmax(cases.np_logits(NET, X)))


def np_ddn(steps: int, first_norm: float, gamma: float) -> tuple[np.ndarray, list[bool]]:
    delta, norm, best, least, verdicts = np.zeros_like(X), first_norm, X, np.inf, []
    farthest = np.linalg.norm(np.maximum(X, 1 - X))
    for k in range(steps + 1):
        z = X + delta
        verdicts.append(cases.np_fooled(NET, z, LABEL))
        if verdicts[-1] and np.linalg.norm(delta) < least:
            best, least = z, np.linalg.norm(delta)
        g = cases.np_gradient(NET, z, LABEL)
        pace = 0.01 + 0.99 * (1 + np.cos(np.pi * k / steps)) / 2
        delta = delta + pace * g / np.linalg.norm(g)
        norm = min(norm * (1 - gamma if verdicts[-1] else 1 + gamma), farthest)
        delta = np.clip(X + norm * delta / np.linalg.norm(delta), 0, 1) - X
    return best, verdicts


@pytest.mark.parametrize(("steps", "first_norm"), [(20, 1.0), (9, 0.1), (2, 3.0)])
def test_follows_the_float64_loop(steps: int, first_norm: float) -> None:
    best, verdicts = np_ddn(steps, first_norm, 0.1)
    if steps == 20:
        assert any(verdicts)
        assert not all(verdicts[1:])
    with jax.enable_x64():
        net = cases.to_jax(NET, np.float64)
        attack = ddn(cases.THREATS["l2"](0.1), steps=steps, first_norm=first_norm, gamma=0.1)
        result = cases.compiled(
            lambda a: a(
                jax.random.key(0), lambda z: cases.logits(net, z), jnp.asarray(X), jnp.int32(LABEL)
            )
        )(attack)
    np.testing.assert_allclose(result.x, best, atol=1e-10)
    assert (int(result.forwards), int(result.backwards)) == (steps + 2, steps)


def test_the_last_iterate_counts() -> None:
    """A single step that fools the model: only the evaluation after the loop can see it."""
    f = lambda z: jnp.stack([jnp.float32(0.2), jnp.sum(z) - 2.0])  # noqa: E731
    result = ddn(cases.THREATS["l2"](1.0), steps=1)(
        jax.random.key(0), f, jnp.full(4, 0.5), jnp.int32(0)
    )
    assert result.success
    assert float(result.norm) == pytest.approx(1.0, abs=1e-5)


def test_a_zero_gradient_starts_in_a_random_direction() -> None:
    f = lambda z: jnp.stack([jnp.float32(0.05), jnp.sum((z - 0.5) ** 2)])  # noqa: E731
    attack = ddn(cases.THREATS["l2"](1.0), steps=30)
    x = jnp.full(4, 0.5)
    results = [attack(jax.random.key(k), f, x, jnp.int32(0)) for k in (0, 1)]
    for result in results:
        assert float(result.norm) == pytest.approx(np.sqrt(0.05), rel=0.02)
    assert np.abs(np.asarray(results[0].x - results[1].x)).max() > 0.01


def test_impossible_settings() -> None:
    threat = cases.THREATS["l2"](0.1)
    with pytest.raises(ValueError, match="steps must be a whole number of at least 1"):
        ddn(threat, steps=0)
    with pytest.raises(ValueError, match="gamma must be finite and at least 0"):
        ddn(threat, gamma=-0.1)
    with pytest.raises(TypeError, match="ddn needs an L2 threat, got Linf"):
        ddn(cases.THREATS["linf"](0.1))  # type: ignore[arg-type]
