"""Both Carlini & Wagner attacks against float64 loops by hand."""

from __future__ import annotations

import attack_cases as cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_fab import np_jacobian

from jaxrobust.attacks.carlini_wagner import carlini_wagner
from jaxrobust.attacks.carlini_wagner_linf import carlini_wagner_linf
from jaxrobust.types import Attack, AttackResult

NET = cases.random_net(2)
X = np.random.default_rng(7).uniform(0.1, 0.9, cases.SIZE)
LABEL = int(np.argmax(cases.np_logits(NET, X)))
KEY = jax.random.key(0)


class Adam:
    """Kingma & Ba's update with the usual constants."""

    def __init__(self, rate: float) -> None:
        self.rate, self.k, self.m, self.v = rate, 0, np.zeros(cases.SIZE), np.zeros(cases.SIZE)

    def step(self, g: np.ndarray) -> np.ndarray:
        self.k += 1
        self.m = 0.9 * self.m + 0.1 * g
        self.v = 0.999 * self.v + 0.001 * g**2
        m, v = self.m / (1 - 0.9**self.k), self.v / (1 - 0.999**self.k)
        return -self.rate * m / (np.sqrt(v) + 1e-8)


def np_point(u: np.ndarray) -> np.ndarray:
    return (np.tanh(u) + 1) / 2


def np_start(z: np.ndarray) -> np.ndarray:
    return np.arctanh(0.999999 * (2 * z - 1))


def np_margin(z: np.ndarray) -> tuple[float, np.ndarray]:
    """Of the most likely wrong class, and its gradient."""
    scores = cases.np_logits(NET, z)
    j = max((k for k in range(3) if k != LABEL), key=lambda k: scores[k])
    jacobian = np_jacobian(NET, z)
    return scores[j] - scores[LABEL], jacobian[j] - jacobian[LABEL]


def np_l2(
    steps: int, searches: int, rate: float, first: float, confidence: float
) -> tuple[np.ndarray, int, list[bool]]:
    c, low, high, best, least, passes, successes = first, 0.0, np.inf, X, np.inf, 0, []
    for _ in range(searches):
        u, adam, reference, success = np_start(X), Adam(rate), np.inf, False
        for k in range(steps):
            passes += 1
            z = np_point(u)
            margin, w = np_margin(z)
            value = ((z - X) ** 2).sum() + c * max(confidence - margin, 0)
            if margin >= confidence:
                success = True
                if np.linalg.norm(z - X) < least:
                    best, least = z, np.linalg.norm(z - X)
            g = 2 * (z - X) - c * w * (margin < confidence)
            u = u + adam.step(g * (1 - np.tanh(u) ** 2) / 2)
            if k % (steps // 10) == 0:
                crossed = k >= int(np.abs(np_start(X)).max() / rate)
                if crossed and value > 0.9999 * reference:
                    break
                reference = value
        successes.append(success)
        low, high = (low, c) if success else (c, high)
        c = (low + high) / 2 if high < np.inf else 10 * c
    return best, passes, successes


def attacked(attack: Attack, net: cases.Net = NET) -> AttackResult:
    with jax.enable_x64():
        net = cases.to_jax(net, np.float64)
        return cases.compiled(
            lambda a: a(KEY, lambda z: cases.logits(net, z), jnp.asarray(X), jnp.int32(LABEL))
        )(attack)


@pytest.mark.parametrize("confidence", [0.0, 0.3])
def test_l2_follows_the_float64_loop(confidence: float) -> None:
    best, passes, successes = np_l2(60, 5, 0.1, 0.02, confidence)
    assert passes < 5 * 60, "some attempt must be aborted"
    assert any(successes)
    assert not all(successes)
    with jax.enable_x64():
        result = attacked(
            carlini_wagner(
                cases.THREATS["l2"](0.1),
                steps=60,
                searches=5,
                step_size=0.1,
                first=0.02,
                confidence=confidence,
            )
        )
    np.testing.assert_allclose(result.x, best, atol=1e-8)
    assert (int(result.forwards), int(result.backwards)) == (passes + 2, passes)
    assert float(result.margin) >= confidence - 1e-9


def np_linf(steps: int, rounds: int, rate: float, first: float, decay: float):
    tau, c, anchor, best, least, passes = 1.0, first, X, X, np.inf, 0
    outcomes = []
    for _ in range(rounds):
        if tau <= 1 / 256 or c > 20:
            break
        u, adam, works = np_start(anchor), Adam(rate), False
        for _ in range(steps):
            passes += 1
            z = np_point(u)
            margin, w = np_margin(z)
            over = np.abs(z - X) - tau
            value = c * max(-margin, 0) + np.maximum(over, 0).sum()
            size = np.abs(z - X).max()
            if margin >= 0 and size < least:
                best, least = z, size
            if margin >= 0 and value <= 1e-4 * c:
                works, anchor, tau = True, z, decay * min(tau, size)
                break
            g = -c * w * (margin < 0) + np.sign(z - X) * (over > 0)
            u = u + adam.step(g * (1 - np.tanh(u) ** 2) / 2)
        outcomes.append(works)
        c = c if works else 2 * c
    return best, passes, outcomes


def test_linf_follows_the_float64_loop() -> None:
    best, passes, outcomes = np_linf(40, 14, 0.05, 0.01, 0.8)
    assert any(outcomes)
    assert not all(outcomes)
    with jax.enable_x64():
        result = attacked(
            carlini_wagner_linf(
                cases.THREATS["linf"](0.1),
                steps=40,
                rounds=14,
                step_size=0.05,
                first=0.01,
                decay=0.8,
            )
        )
    np.testing.assert_allclose(result.x, best, atol=1e-8)
    assert (int(result.forwards), int(result.backwards)) == (passes + 2, passes)


def test_black_and_white_pixels_move_at_the_default_settings() -> None:
    """An image without gray: the loss stands still until Adam has crossed the flat of tanh."""
    x = jnp.array([0.0, 1.0, 0.0, 1.0])
    signs = 1 - 2 * x
    f = lambda z: jnp.stack([jnp.float32(0.6), signs @ (z - x)])  # noqa: E731
    threat = cases.THREATS["l2"](1.0)
    result = cases.compiled(lambda a: a(KEY, f, x, jnp.int32(0)))(carlini_wagner(threat))
    np.testing.assert_allclose(result.x, x + 0.15 * signs, atol=3e-3)
    assert result.success


def test_impossible_settings() -> None:
    l2, linf = cases.THREATS["l2"], cases.THREATS["linf"]
    with pytest.raises(ValueError, match="needs a finite box"):
        carlini_wagner(l2(0.1, -np.inf, np.inf))
    with pytest.raises(ValueError, match="needs a finite box"):
        carlini_wagner_linf(linf(0.1, 0.0, np.inf))
    with pytest.raises(TypeError, match="carlini_wagner needs an L2 threat, got Linf"):
        carlini_wagner(linf(0.1))
    with pytest.raises(TypeError, match="carlini_wagner_linf needs an Linf threat, got L2"):
        carlini_wagner_linf(l2(0.1))
    for name in ("steps", "searches"):
        with pytest.raises(ValueError, match=name):
            carlini_wagner(l2(0.1), **{name: 0})
    for name in ("step_size", "first"):
        with pytest.raises(ValueError, match=f"{name} must be finite and above 0"):
            carlini_wagner(l2(0.1), **{name: 0.0})
        with pytest.raises(ValueError, match=f"{name} must be finite and above 0"):
            carlini_wagner_linf(linf(0.1), **{name: 0.0})
    with pytest.raises(ValueError, match="confidence must be finite and at least 0"):
        carlini_wagner(l2(0.1), confidence=-1.0)
