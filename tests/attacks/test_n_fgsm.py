"""N-FGSM against steps written by hand: noise of k radii, one step, the pixel box and no ball."""

from __future__ import annotations

import attack_cases as cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training.training_cases import linear

from jaxrobust import defenses
from jaxrobust.attacks import batched, n_fgsm
from jaxrobust.defenses import TrainContext
from jaxrobust.defenses.ramp import grown
from jaxrobust.threats import Linf
from jaxrobust.types import Attack, AttackResult, Batch, Variables

BATCH = 6
NET = cases.random_net(2)
DRAW = np.random.default_rng(0)
X = DRAW.uniform(size=(BATCH, *cases.SHAPE))
X[:, 0, 0], X[:, 1, 2] = 0.0, 1.0
Y = np.array([0, 1, 2, 0, 1, 2])
KEY = jax.random.key(5)
TRACES: list[str] = []


@cases.compiled
def run(attack: Attack, net: cases.Net, x: jax.Array, y: jax.Array) -> AttackResult:
    TRACES.append("trace")
    return batched(attack.bare, KEY, lambda z: cases.logits(net, z), x, y)


def on_net(attack: Attack, x: np.ndarray = X) -> AttackResult:
    return run(attack, cases.to_jax(NET, np.float64), jnp.asarray(x), jnp.asarray(Y))


# The last is so small, around so gray an image, that no pixel stops its step, which knows the box.
@pytest.mark.parametrize(
    ("threat", "radius", "x"),
    [("linf", 0.2, X), ("l2", 0.5, X), ("l1", 0.1, 0.3 + 0.4 * X)],
    ids=["linf", "l2", "l1"],
)
def test_one_step_from_strong_noise_clipped_to_the_box_alone(
    threat: str, radius: float, x: np.ndarray
) -> None:
    ball, step = cases.THREATS[threat](radius), 0.7 * radius
    with jax.enable_x64(True):
        # Without a step it returns its start.
        noisy = np.asarray(on_net(n_fgsm(ball, k=3.0, step_size=0.0), x).x)
        result = on_net(n_fgsm(ball, k=3.0, step_size=step), x)
    expected = []
    for start, clean, y in zip(noisy, x, Y, strict=True):
        assert cases.np_size(threat, start - clean) <= 3 * radius
        slope = cases.np_gradient(NET, start, y)
        expected.append(np.clip(start + step * cases.np_steepest(threat, slope), 0, 1))
    np.testing.assert_allclose(result.x, expected, rtol=0, atol=1e-12)
    norms = [cases.np_size(threat, z - clean) for z, clean in zip(expected, x, strict=True)]
    assert max(norms) > 2 * radius
    np.testing.assert_allclose(result.norm, norms, atol=1e-12)
    np.testing.assert_array_equal(result.inside, np.asarray(norms) <= radius)


def test_the_noise_is_uniform_in_k_radii() -> None:
    x = jnp.full((500, 2), 0.5)
    attack = n_fgsm(Linf(0.1), k=2.0, step_size=0.0)
    f = lambda z: jnp.zeros(2) * z  # noqa: E731
    moved = np.sort(np.ravel(batched(attack.bare, KEY, f, x, jnp.zeros(500, int)).x - x))
    quantiles = np.linspace(-0.2, 0.2, moved.size)
    # Kolmogorov's distance, of which 1.63 / sqrt(n) is the 99th percentile.
    assert np.abs(moved - quantiles).max() / 0.4 < 1.63 / moved.size**0.5
    assert np.abs(moved).max() <= 0.2 + 1e-7


def test_a_point_outside_the_ball_is_no_success() -> None:
    """Judged on the real set: fooled, yet not by an allowed point."""
    x, y = jnp.full((1, 2), 0.5), jnp.zeros(1, int)

    def f(z: jax.Array) -> jax.Array:
        return jnp.stack([0.1 * jnp.ones_like(z[0]), z[0] - 0.5])

    far = batched(n_fgsm(Linf(0.1), k=0.0, step_size=0.3), KEY, f, x, y)
    np.testing.assert_allclose(far.margin, 0.2, atol=1e-6)
    assert not far.inside[0]
    assert not far.success[0]
    near = batched(n_fgsm(Linf(0.3), k=0.0), KEY, f, x, y)
    np.testing.assert_allclose(near.x, far.x, atol=1e-6)
    assert near.success[0]
    assert (int(near.forwards[0]), int(near.backwards[0])) == (3, 1)


def test_other_numbers_do_not_recompile_and_stack_into_a_curve() -> None:
    net, radii = cases.to_jax(NET), (0.1, 0.2)
    x, y = jnp.asarray(X, jnp.float32), jnp.asarray(Y, jnp.int32)
    run(n_fgsm(Linf(0.05)), net, x, y)
    before = len(TRACES)
    singles = [run(n_fgsm(Linf(r), k=1.5), net, x, y) for r in radii]
    assert len(TRACES) == before
    assert np.abs(singles[0].x - singles[1].x).max() > 0.1
    stack = jax.vmap(lambda a: run(a, net, x, y))(n_fgsm(Linf(jnp.asarray(radii)), k=1.5))
    for i, single in enumerate(singles):
        np.testing.assert_allclose(stack.x[i], single.x, atol=1e-6)


def test_constant_logits_leave_the_noise() -> None:
    flat = cases.to_jax(NET._replace(w2=0 * NET.w2, v=0 * NET.v))
    x, y = jnp.asarray(X, jnp.float32), jnp.asarray(Y, jnp.int32)
    still = run(n_fgsm(Linf(0.1), step_size=0.0), flat, x, y)
    result = run(n_fgsm(Linf(0.1)), flat, x, y)
    assert all(np.isfinite(leaf).all() for leaf in result)
    np.testing.assert_array_equal(result.x, still.x)


@pytest.mark.slow
def test_training_steps_beyond_the_radius() -> None:
    """The loss of the defense at x + step sign(gradient) on a linear model, without noise."""
    draw = np.random.default_rng(3)
    w, b = draw.normal(size=(cases.SIZE, 3)), draw.normal(size=3)
    flat = X.reshape(BATCH, -1)

    def log_softmax(x: np.ndarray) -> np.ndarray:
        z = x @ w + b
        return z - np.log(np.exp(z).sum(-1, keepdims=True))

    slope = (np.exp(log_softmax(flat)) - np.eye(3)[Y]) @ w.T
    points = np.clip(flat + 0.3 * np.sign(slope), 0, 1)
    expected = -log_softmax(points)[np.arange(BATCH), Y].mean()
    defense = defenses.n_fgsm(Linf(0.1), k=0.0, step_size=0.3)
    with jax.enable_x64(True):
        batch = Batch(jnp.asarray(flat), jnp.asarray(Y), jnp.arange(BATCH))
        held = Variables({"w": jnp.asarray(w), "b": jnp.asarray(b)})
        value, _ = defense.loss(KEY, linear(3), held, batch, TrainContext())
    np.testing.assert_allclose(value, expected, rtol=1e-12)


def test_a_ramp_scales_radius_and_step_but_not_k() -> None:
    half = grown(n_fgsm(Linf(0.2), k=3.0, step_size=0.4), 0.25, 0.5)
    settings = half.settings
    np.testing.assert_allclose(settings["threat"].radius, 0.1, rtol=1e-6)
    np.testing.assert_allclose(settings["step_size"], 0.2, rtol=1e-6)
    assert settings["k"] == 3.0


def test_mistakes_name_the_value() -> None:
    with pytest.raises(ValueError, match=r"k must be finite and at least 0, got -1"):
        n_fgsm(Linf(0.1), k=-1.0)
    with pytest.raises(ValueError, match=r"step_size must be finite and at least 0, got nan"):
        defenses.n_fgsm(Linf(0.1), step_size=float("nan"))
