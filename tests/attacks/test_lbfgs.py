"""The L-BFGS attack against SciPy's L-BFGS-B, which knows boxes."""

from __future__ import annotations

import attack_cases as cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize
from test_fab import np_jacobian

from jaxrobust.attacks.lbfgs import lbfgs

NET = cases.random_net(2)
X = np.random.default_rng(7).uniform(0.1, 0.9, cases.SHAPE)
X[0, 0], X[1, 1] = 0.0, 1.0
LABEL = int(np.argmax(cases.np_logits(NET, X)))
TARGETS = sorted((k for k in range(3) if k != LABEL), key=lambda k: -cases.np_logits(NET, X)[k])


def np_lbfgs(target: int) -> float:
    """The distance of the minimizer at the least constant that still fools the model."""

    def value(z: np.ndarray, c: float) -> tuple[float, np.ndarray]:
        scores = cases.np_logits(NET, z)
        p = np.exp(scores - scores.max())
        p = p / p.sum()
        pull = p - np.eye(3)[target]
        d = z - X.ravel()
        return d @ d - c * np.log(p[target]), 2 * d + c * np_jacobian(NET, z).T @ pull

    low, high, size = 0.0, 100.0, np.inf
    for _ in range(40):
        c = (low + high) / 2
        z = minimize(value, X.ravel(), (c,), "L-BFGS-B", jac=True, bounds=[(0, 1)] * cases.SIZE).x
        fools = cases.np_fooled(NET, z, LABEL)
        low, high = (low, c) if fools else (c, high)
        size = np.linalg.norm(z - X.ravel()) if fools else size
    return size


@pytest.mark.slow
def test_finds_what_scipy_finds() -> None:
    net = cases.to_jax(NET)
    run = cases.compiled(
        lambda a: a(
            jax.random.key(0),
            lambda z: cases.logits(net, z),
            jnp.asarray(X, jnp.float32),
            jnp.int32(LABEL),
        )
    )
    one = run(lbfgs(cases.THREATS["l2"](1.0), steps=25))
    both = run(lbfgs(cases.THREATS["l2"](1.0), steps=25, targets=None))
    sizes = [np_lbfgs(target) for target in TARGETS]
    assert np.isfinite(sizes[0])
    # Iterates before convergence may fool the model from slightly closer.
    assert float(one.norm) == pytest.approx(sizes[0], rel=0.02)
    assert float(both.norm) == pytest.approx(min(sizes), rel=0.02)
    assert one.success
    # At least one pass an iteration, and one more forward pass for the verdict on its point.
    assert int(one.backwards) >= 12 * 25
    assert int(one.forwards) == int(one.backwards) + 12 * 25 + 2
    assert int(both.backwards) > 1.5 * int(one.backwards)


def test_impossible_settings() -> None:
    threat = cases.THREATS["l2"](0.1)
    for name in ("steps", "searches", "targets", "chunk"):
        with pytest.raises(ValueError, match=f"{name} must be a whole number of at least 1"):
            lbfgs(threat, **{name: 0})
    with pytest.raises(ValueError, match="first must be finite and above 0"):
        lbfgs(threat, first=0.0)
    with pytest.raises(TypeError, match="lbfgs needs an L1, L2 or Linf threat"):
        lbfgs(object())  # type: ignore[arg-type]
