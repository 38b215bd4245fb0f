"""Frank-Wolfe on norm balls (on transport: tests/threats/test_threats_wasserstein.py)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

from jaxrobust.attacks import frank_wolfe, pgd
from jaxrobust.threats import L1, L2, Linf, Union
from jaxrobust.types import Array

SIZE = 6
BALLS = {"linf": Linf(0.2), "l2": L2(0.5), "l1": L1(0.9)}


def setting(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An image in the box and a concave loss, w.z - |z - c|^2 / 2, as the margin of two logits."""
    draw = np.random.default_rng(seed)
    x = np.clip(draw.uniform(-0.2, 1.2, SIZE), 0, 1).astype(np.float32)
    return x, draw.normal(size=SIZE).astype(np.float32), draw.uniform(size=SIZE).astype(np.float32)


def logits(z: Array, w: Array, c: Array) -> Array:
    return jnp.stack([jnp.zeros((), z.dtype), w @ z - 0.5 * jnp.sum((z - c) ** 2)])


@pytest.mark.parametrize("norm", BALLS)
def test_it_climbs_a_concave_loss_to_the_maximum_that_scipy_finds(norm: str) -> None:
    threat = BALLS[norm]
    attack = jax.jit(
        lambda x, w, c: frank_wolfe(threat, steps=400)(
            jax.random.key(0), lambda z: logits(z, w, c), x, jnp.int32(0)
        )
    )
    radius = float(threat.radius)
    # the slopes of |z - x| in l1 jump: up - down instead
    split = np.concatenate([np.eye(SIZE), -np.eye(SIZE)], axis=1)
    for seed in range(3):
        x, w, c = setting(seed)

        def loss(d: np.ndarray, x: np.ndarray = x, w: np.ndarray = w, c: np.ndarray = c) -> float:
            z = np.float64(x) + split @ d
            return -(w @ z - 0.5 * np.sum((z - c) ** 2))

        far = radius if norm == "linf" else np.inf
        ends = [(0, min(far, 1 - v)) for v in x] + [(0, min(far, v)) for v in x]
        within = {
            "linf": [],
            "l2": [{"type": "ineq", "fun": lambda d: radius**2 - np.sum((split @ d) ** 2)}],
            "l1": [{"type": "ineq", "fun": lambda d: radius - d.sum()}],
        }[norm]
        best = minimize(
            loss,
            np.full(2 * SIZE, 1e-3),
            bounds=ends,
            constraints=within,
            method="SLSQP",
            options={"ftol": 1e-12, "maxiter": 500},
        )
        found = attack(x, w, c)
        assert bool(found.inside)
        assert float(found.loss) <= -best.fun + 1e-5
        assert float(found.loss) == pytest.approx(-best.fun, abs=2e-3), "2 C / (k + 2) from it"


@pytest.mark.parametrize("norm", BALLS)
def test_one_step_is_the_linear_maximum_and_it_keeps_up_with_pgd(norm: str) -> None:
    threat = BALLS[norm]
    for seed in range(3):
        x, w, _ = setting(seed)
        f = lambda z, w=w: jnp.stack([jnp.zeros((), z.dtype), jnp.asarray(w) @ z])  # noqa: E731
        arguments = (jax.random.key(0), f, jnp.asarray(x), jnp.int32(0))
        once = frank_wolfe(threat, steps=1)(*arguments)
        climbed = pgd(threat, step_size=threat.radius / 20, steps=300)(*arguments)
        assert float(once.margin) >= float(climbed.margin) - 1e-4
        assert int(once.backwards) == 1


def test_other_sets_are_refused() -> None:
    with pytest.raises(TypeError, match="needs a Linf, L2, L1 or Wasserstein threat, got Union"):
        frank_wolfe(Union((Linf(0.1),)))  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="steps must be a whole number of at least 1, got 0"):
        frank_wolfe(Linf(0.1), steps=0)
