"""EAD against a float64 FISTA loop by hand."""

from __future__ import annotations

import attack_cases as cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_carlini_wagner import X, attacked, np_margin

from jaxrobust.attacks.elastic_net import elastic_net


def np_ead(
    steps: int, searches: int, rate: float, first: float, beta: float
) -> tuple[np.ndarray, int, list[bool]]:
    c, low, high, best, least, passes, successes = first, 0.0, np.inf, X, np.inf, 0, []
    for _ in range(searches):
        z, ahead, reference, success = X, X, np.inf, False
        for k in range(steps):
            passes += 1
            margin, w = np_margin(ahead)
            g = 2 * (ahead - X) - c * w * (margin < 0)
            v = ahead - rate * np.sqrt(1 - k / steps) * g
            shrunk = np.where(v - X > beta, v - beta, np.where(v - X < -beta, v + beta, X))
            after = np.clip(shrunk, 0, 1)
            margin, _ = np_margin(after)
            size = np.abs(after - X).sum()
            if margin >= 0:
                success = True
                if size < least:
                    best, least = after, size
            ahead = after + k / (k + 3) * (after - z)
            z = after
            value = ((z - X) ** 2).sum() + c * max(-margin, 0) + beta * size
            if k % (steps // 10) == 0:
                if value > 0.9999 * reference:
                    break
                reference = value
        successes.append(success)
        low, high = (low, c) if success else (c, high)
        c = (low + high) / 2 if high < np.inf else 10 * c
    return best, passes, successes


def test_follows_the_float64_loop() -> None:
    best, passes, successes = np_ead(60, 6, 0.05, 0.01, 0.01)
    assert passes < 6 * 60, "some attempt must be aborted"
    assert any(successes)
    assert not all(successes)
    assert (best == X).any(), "the l1 term must leave some coordinate alone"
    with jax.enable_x64():
        result = attacked(
            elastic_net(
                cases.THREATS["l1"](0.1),
                steps=60,
                searches=6,
                step_size=0.05,
                first=0.01,
                beta=0.01,
            )
        )
    np.testing.assert_allclose(result.x, best, atol=1e-9)
    assert (int(result.forwards), int(result.backwards)) == (2 * passes + 2, passes)


def test_a_larger_beta_is_sparser() -> None:
    threat = cases.THREATS["l1"](0.1)
    run = cases.compiled(
        lambda a: a(
            jax.random.key(0),
            lambda z: jnp.stack([jnp.float32(0.5), jnp.arange(1.0, 7.0) @ (z - 0.5) / 3]),
            jnp.full(6, 0.5),
            jnp.int32(0),
        )
    )
    spread, sparse = (run(elastic_net(threat, steps=200, beta=b)) for b in (1e-4, 1e-2))
    assert (np.asarray(sparse.x) != 0.5).sum() < (np.asarray(spread.x) != 0.5).sum()
    assert sparse.norm < spread.norm - 0.01


def test_impossible_settings() -> None:
    l1 = cases.THREATS["l1"]
    for name in ("steps", "searches"):
        with pytest.raises(ValueError, match=name):
            elastic_net(l1(0.1), **{name: 0})
    for name in ("step_size", "first"):
        with pytest.raises(ValueError, match=f"{name} must be finite and above 0"):
            elastic_net(l1(0.1), **{name: 0.0})
    with pytest.raises(ValueError, match="beta must be finite and at least 0"):
        elastic_net(l1(0.1), beta=-1.0)
    with pytest.raises(TypeError, match="elastic_net needs an L1 threat, got L2"):
        elastic_net(cases.THREATS["l2"](0.1))
