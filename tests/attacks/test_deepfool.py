"""DeepFool against the paper's closed-form steps in float64."""

from __future__ import annotations

import attack_cases as cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_fab import np_jacobian

from jaxrobust.attacks.deepfool import deepfool

NET = cases.random_net(16)
NET = NET._replace(w1=2 * NET.w1)  # curved enough for several steps
X = np.random.default_rng(7).uniform(0.3, 0.7, cases.SIZE)
LABEL = int(np.argmax(cases.np_logits(NET, X)))
OVERSHOOT = 1e-4


def np_deepfool(threat: str) -> tuple[np.ndarray, int]:
    """r += |f| / ||w||_dual times the steepest direction, until x + (1 + o) r is wrong."""
    total, z = np.zeros_like(X), X
    for count in range(1, 51):
        scores, jacobian = cases.np_logits(NET, z), np_jacobian(NET, z)
        steps = []
        for j in range(3):
            if j != LABEL:
                w, gap = jacobian[j] - jacobian[LABEL], scores[j] - scores[LABEL]
                length = abs(gap) / cases.np_dual_norm(threat, w)
                steps.append((length, length * np.sign(-gap) * cases.np_steepest(threat, w)))
        total = total + min(steps, key=lambda s: s[0])[1]
        z = X + (1 + OVERSHOOT) * total
        if cases.np_fooled(NET, z, LABEL):
            return z, count
    raise AssertionError("the problem must be solvable")


@pytest.mark.parametrize("threat", sorted(cases.THREATS))
def test_follows_the_papers_steps(threat: str) -> None:
    expected, count = np_deepfool(threat)
    assert count > 1, "one step says nothing about the next"
    with jax.enable_x64():
        net = cases.to_jax(NET, np.float64)
        attack = deepfool(cases.THREATS[threat](1.0, -np.inf, np.inf), overshoot=OVERSHOOT)
        result = cases.compiled(
            lambda a: a(
                jax.random.key(0), lambda z: cases.logits(net, z), jnp.asarray(X), jnp.int32(LABEL)
            )
        )(attack)
    np.testing.assert_allclose(result.x, expected, atol=1e-10)
    assert (int(result.forwards), int(result.backwards)) == (2 + 2 * count, 3 * count)


def test_the_box_does_not_stop_it_short_of_the_boundary() -> None:
    """Where a clipped step would fall short, the other coordinates make up for it at once."""
    x = jnp.array([0.95, 0.5, 0.5])
    f = lambda z: jnp.stack([jnp.float32(0), 3 * z[0] + z[1] + z[2] - 4.6])  # noqa: E731
    result = deepfool(cases.THREATS["linf"](1.0), overshoot=1e-3)(
        jax.random.key(0), f, x, jnp.int32(0)
    )
    # 3 * .05 from the first pixel, and .3 from each of the others.
    np.testing.assert_allclose(result.x, [1.0, 0.8, 0.8], atol=2e-3)
    assert int(result.backwards) == 2


def test_impossible_settings() -> None:
    threat = cases.THREATS["l2"](0.1)
    with pytest.raises(ValueError, match="steps must be a whole number of at least 1"):
        deepfool(threat, steps=0)
    with pytest.raises(ValueError, match="overshoot must be finite and at least 0"):
        deepfool(threat, overshoot=-0.1)
    with pytest.raises(TypeError, match="deepfool needs"):
        deepfool(object())  # type: ignore[arg-type]
