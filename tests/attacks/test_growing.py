"""The growing-radius attack against a float64 loop and closed forms on linear models."""

from __future__ import annotations

import attack_cases as cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.attacks import batched, growing
from jaxrobust.threats import L2, Linf

NET = cases.random_net(2)
X = np.random.default_rng(7).uniform(0.3, 0.7, cases.SHAPE)
LABEL = int(np.argmax(cases.np_logits(NET, X)))
KEY = jax.random.key(0)


def test_follows_the_float64_loop_and_rests_where_the_model_errs() -> None:
    radius, factor, every, step = 0.02, 1.3, 3, 0.03
    z, k = X, 0
    while not cases.np_fooled(NET, z, LABEL):
        reach = radius * factor ** (k // every)
        z = z + step * np.sign(cases.np_gradient(NET, z, LABEL))
        z = X + cases.np_project("l2", reach, z - X)
        k += 1
    assert 6 < k < 40, "this problem must need several radii"
    with jax.enable_x64():
        net = cases.to_jax(NET, np.float64)
        ball = L2(radius, lower=-np.inf, upper=np.inf)
        attack = growing(ball, step=Linf(1.0), step_size=step, steps=50, factor=factor, every=every)
        run = cases.compiled(lambda a: a(KEY, lambda z: cases.logits(net, z), X, jnp.int32(LABEL)))
        result = run(attack)
        np.testing.assert_allclose(result.x, z, atol=1e-12)
        assert result.success
        assert (int(result.forwards), int(result.backwards)) == (k + 3, k + 1)
        held = run(attack.replace(largest=0.5 * np.linalg.norm(z - X)))
        assert not held.success
        assert float(held.norm) <= 0.5 * np.linalg.norm(z - X) * (1 + 1e-9)


def test_norms_are_the_breaking_radii_of_a_linear_model() -> None:
    w = np.random.default_rng(1).normal(size=5).astype(np.float32)
    x = np.random.default_rng(2).uniform(0.4, 0.6, (20, 5)).astype(np.float32)
    scores = x @ w
    bias = -np.median(scores) - 0.3
    f = lambda z: jnp.stack([jnp.zeros((), z.dtype), z @ w + bias])  # noqa: E731
    y = np.zeros(20, int)
    right = scores + bias < 0
    attack = growing(Linf(0.01), step=Linf(1.0), step_size=0.5, steps=60, factor=1.1, every=1)
    result = batched(attack, KEY, f, x, y)
    least = -(scores + bias) / np.abs(w).sum()
    broken = np.asarray(result.norm)[right]
    assert np.asarray(result.success).all()
    assert (broken >= least[right] - 1e-6).all()
    assert (broken <= np.maximum(1.1 * least[right], 0.01) + 1e-6).all()
    np.testing.assert_array_equal(np.asarray(result.norm)[~right], 0)


def test_bad_settings() -> None:
    make = {"step": Linf(1.0), "step_size": 0.1, "steps": 3, "factor": 1.1, "every": 1}
    with pytest.raises(ValueError, match="factor must be at least 1"):
        growing(Linf(0.1), **{**make, "factor": 0.9})
    with pytest.raises(ValueError, match="every"):
        growing(Linf(0.1), **{**make, "every": 0})
    with pytest.raises(ValueError, match="steps"):
        growing(Linf(0.1), **{**make, "steps": 0})
