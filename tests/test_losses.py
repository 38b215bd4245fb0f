"""Losses against float64 formulas, at ordinary and at extreme logits."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, logsumexp, softmax

from jaxrobust import losses

RNG = np.random.default_rng(0)
ORDINARY = [(RNG.normal(size=k) * 3, int(RNG.integers(k))) for k in (2, 3, 4, 10, 10)]
EXTREME = [
    (np.array([1e3, 0.0, 1.0, 2.0]), 0),
    (np.array([1e3, 0.0, 1.0, 2.0]), 1),
    (np.array([0.0, -1e3, -5e2, 1.0]), 1),
    (np.array([25.0, 0.0, 0.5, -1.0]), 0),
    (np.array([25.0, 0.0, 0.5, -1.0]), 2),
    (np.array([60.0, 0.0, 0.5, -1.0]), 0),
]


def np_log_odds(z: np.ndarray, y: int) -> float:
    return float(logsumexp(np.delete(z, y)) - z[y])


def np_cross_entropy(z: np.ndarray, y: int) -> float:
    return float(np.logaddexp(0, np_log_odds(z, y)))


def np_log_error(z: np.ndarray, y: int) -> float:
    return float(-np.logaddexp(0, -np_log_odds(z, y)))


def np_log_cross_entropy(z: np.ndarray, y: int) -> float:
    u = np_log_odds(z, y)
    return u if u < -30 else float(np.log(np.logaddexp(0, u)))


def np_margin(z: np.ndarray, y: int) -> float:
    return float(np.delete(z, y).max() - z[y])


def np_boosted(z: np.ndarray, y: int) -> float:
    rival = int(np.argmax(np.where(np.arange(z.size) == y, -np.inf, z)))
    return np_cross_entropy(z, y) - np_log_error(z, rival)


FORMULAS: dict[str, tuple[Callable, Callable]] = {
    "cross_entropy": (losses.cross_entropy, np_cross_entropy),
    "margin": (losses.margin, np_margin),
    "error_log_odds": (losses.error_log_odds, np_log_odds),
    "log_error_probability": (losses.log_error_probability, np_log_error),
    "log_cross_entropy": (losses.log_cross_entropy, np_log_cross_entropy),
    "boosted_cross_entropy": (losses.boosted_cross_entropy, np_boosted),
}


@pytest.mark.parametrize("name", sorted(FORMULAS))
@pytest.mark.parametrize(("z", "y"), ORDINARY + EXTREME)
def test_value_and_gradient_against_float64(name: str, z: np.ndarray, y: int) -> None:
    loss, formula = FORMULAS[name]
    value, gradient = jax.value_and_grad(loss)(jnp.asarray(z, jnp.float32), jnp.int32(y))
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, formula(z, y), rtol=2e-5, atol=2e-5)
    steps = 1e-4 * np.eye(z.size)
    slopes = [(formula(z + s, y) - formula(z - s, y)) / 2e-4 for s in steps]
    np.testing.assert_allclose(gradient, slopes, atol=2e-4)


@pytest.mark.parametrize("name", sorted(FORMULAS))
def test_float64_to_machine_precision(name: str) -> None:
    loss, formula = FORMULAS[name]
    with jax.enable_x64():
        for z, y in ORDINARY:
            value = loss(jnp.asarray(z), jnp.asarray(y))
            assert value.dtype == jnp.float64
            assert float(value) == pytest.approx(formula(z, y), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("gap", [-60.0, -20.0, -5.0, 0.0, 5.0, 20.0, 60.0])
def test_log_error_probability_climbs_exactly_where_cross_entropy_does(gap: float) -> None:
    # In float64 the cross-entropy gradient is -(1 - p_y)(e_y - softmax of the wrong logits);
    # DALE's is the same direction times p_y, and must keep it in float32 at any gap.
    z, y = np.array([0.3, gap, -0.4]), 1
    exact = softmax(np.delete(z, y))
    direction = np.insert(exact, y, -1.0)
    gradient = np.asarray(
        jax.grad(losses.log_error_probability)(jnp.asarray(z, jnp.float32), jnp.int32(y)),
        np.float64,
    )
    scale = softmax(z)[y]
    np.testing.assert_allclose(gradient / scale, direction, rtol=1e-4)


def test_log_cross_entropy_keeps_its_gradient_where_cross_entropy_is_zero() -> None:
    z, y = jnp.array([200.0, 1.0, 0.0]), jnp.int32(0)
    assert losses.cross_entropy(z, y) == 0
    gradient = jax.grad(losses.log_cross_entropy)(z, y)
    wrong = softmax([1.0, 0.0])
    np.testing.assert_allclose(gradient, [-1, *wrong], rtol=1e-5)


def test_targeted_losses() -> None:
    z, y, target = np.array([0.5, -1.0, 2.0, 0.1, 0.7]), 2, 3
    fast, label, aim = jnp.asarray(z, jnp.float32), jnp.int32(y), jnp.int32(target)
    assert float(losses.targeted_margin(fast, label, aim)) == pytest.approx(z[3] - z[2])
    assert float(losses.targeted_cross_entropy(fast, label, aim)) == pytest.approx(
        log_softmax(z)[3], rel=1e-5
    )
    top = np.sort(z)[::-1]
    expected = -(z[y] - z[target]) / (top[0] - (top[2] + top[3]) / 2 + 1e-12)
    assert float(losses.targeted_dlr(fast, label, aim)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("y", [0, 1, 2, 3])
def test_dlr_is_the_ratio_and_ignores_shift_and_scale(y: int) -> None:
    z = np.array([0.5, -1.0, 2.0, 0.1])
    top = np.sort(z)[::-1]
    expected = np_margin(z, y) / (top[0] - top[2])
    for shift, scale in ((0, 1), (7, 1), (0, 13), (-3, 0.01)):
        moved = jnp.asarray(scale * z + shift, jnp.float32)
        assert float(losses.dlr(moved, jnp.int32(y))) == pytest.approx(expected, rel=1e-4)
        aimed = losses.targeted_dlr(moved, jnp.int32(y), jnp.int32(1))
        base = losses.targeted_dlr(jnp.asarray(z, jnp.float32), jnp.int32(y), jnp.int32(1))
        assert float(aimed) == pytest.approx(float(base), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("loss", [losses.dlr, losses.margin, losses.cross_entropy])
def test_constant_logits_give_finite_gradients(loss: Callable) -> None:
    value, gradient = jax.value_and_grad(loss)(jnp.zeros(4), jnp.int32(1))
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def test_too_few_classes() -> None:
    with pytest.raises(ValueError, match="at least 3 classes, got 2; use margin"):
        losses.dlr(jnp.zeros(2), jnp.int32(0))
    with pytest.raises(ValueError, match="at least 4 classes, got 3"):
        losses.targeted_dlr(jnp.zeros(3), jnp.int32(0), jnp.int32(1))


def test_a_tie_is_the_edge_of_an_error() -> None:
    z = jnp.array([2.0, 2.0, 1.0])
    assert [float(losses.margin(z, y)) for y in range(3)] == [0.0, 0.0, 1.0]
    assert losses.margin(z + jnp.array([1e-3, 0, 0]), 0) < 0


def of_a_class() -> dict[str, Callable]:
    """Every loss as a function of logits and of each of its classes."""
    labeled = [*FORMULAS, "dlr", "dlr_or_margin"]
    aimed = ["targeted_margin", "targeted_dlr", "targeted_dlr_or_margin"]
    found: dict[str, Callable] = {name: getattr(losses, name) for name in labeled}
    for name in aimed:
        loss = getattr(losses, name)
        found[f"{name}, label"] = functools.partial(loss, target=jnp.int32(1))
        found[f"{name}, target"] = lambda z, t, loss=loss: loss(z, jnp.int32(0), t)
    found["targeted_cross_entropy"] = lambda z, t: losses.targeted_cross_entropy(z, None, t)
    return found


@pytest.mark.parametrize("name", of_a_class())
def test_what_indexing_would_take_for_something_else(name: str) -> None:
    loss, z = of_a_class()[name], jnp.arange(5.0)
    for batch in (jnp.zeros((5, 5)), jnp.zeros(1)):
        with pytest.raises(ValueError, match=r"must have shape \[K\]|at least [34] classes, got 1"):
            loss(batch, jnp.int32(0))
    for y in (jnp.zeros(5, jnp.int32), 1.0, True, jnp.float32(1)):
        with pytest.raises(ValueError, match="must be one integer, got"):
            loss(z, y)
    for y in (-1, 5, jnp.int32(5)):
        with pytest.raises(ValueError, match="is none of 5 classes, counted from 0"):
            loss(z, y)
    # a traced label passes unchecked, and its program serves them all
    assert np.isfinite(jax.jit(loss)(z, 4))


def test_kl_needs_two_distributions_of_one_shape() -> None:
    z = jnp.arange(5.0)
    with pytest.raises(ValueError, match=r"one shape, got \(5,\) and \(4,\)"):
        losses.kl(z, z[:4])
    with pytest.raises(ValueError, match=r"shape \[K\] with at least 2 classes, got \(2, 5\)"):
        losses.kl(jnp.stack([z, z]), jnp.stack([z, z]))


def test_kl_is_the_divergence_of_the_clean_prediction() -> None:
    for seed in range(5):
        rng = np.random.default_rng(seed)
        z, r = rng.normal(size=(2, 6)) * 4
        p, q = softmax(r), softmax(z)
        expected = np.sum(p * np.log(p / q))
        a, b = jnp.asarray(z, jnp.float32), jnp.asarray(r, jnp.float32)
        assert float(losses.kl(a, b)) == pytest.approx(expected, rel=1e-4)
        assert losses.kl(a, b) > 0
        assert float(losses.kl(a, a + 3)) == pytest.approx(0, abs=1e-6)
    assert np.isfinite(losses.kl(jnp.array([1e3, 0.0, -1e3]), jnp.array([-1e3, 0.0, 1e3])))


def test_kl_gradients_in_both_arguments() -> None:
    rng = np.random.default_rng(1)
    z, r = rng.normal(size=(2, 4))

    def divergence(z: np.ndarray, r: np.ndarray) -> float:
        return float(np.sum(softmax(r) * (log_softmax(r) - log_softmax(z))))

    eye = 1e-5 * np.eye(4)
    by_z = [(divergence(z + s, r) - divergence(z - s, r)) / 2e-5 for s in eye]
    by_r = [(divergence(z, r + s) - divergence(z, r - s)) / 2e-5 for s in eye]
    got = jax.grad(losses.kl, argnums=(0, 1))(jnp.asarray(z, jnp.float32), jnp.float32(r))
    np.testing.assert_allclose(got[0], by_z, atol=1e-5)
    np.testing.assert_allclose(got[1], by_r, atol=1e-5)


def test_boosted_cross_entropy_agrees_with_the_released_formula() -> None:
    for z, y in ORDINARY:
        p = softmax(z)
        top = np.argsort(z)[::-1]
        rival = top[1] if top[0] == y else top[0]
        released = -np.log(p[y]) - np.log(1.0001 - p[rival] + 1e-12)
        got = float(losses.boosted_cross_entropy(jnp.asarray(z, jnp.float32), jnp.int32(y)))
        assert got == pytest.approx(released, abs=1.1e-4 / (1 - p[rival]) + 1e-5)


@pytest.mark.parametrize(("score", "y", "expected"), [(0.5, 1, 0.5), (0.5, -1, 1.5), (2.0, 1, 0.0)])
def test_hinge(score: float, y: int, expected: float) -> None:
    assert float(losses.hinge(jnp.float32(score), jnp.int32(y))) == pytest.approx(expected)
    assert float(losses.hinge(jnp.float32(score), y)) == pytest.approx(expected)


@pytest.mark.parametrize("name", sorted(FORMULAS))
def test_nan_logits_stay_nan(name: str) -> None:
    """A NaN may not turn into a number that could count for the model."""
    assert np.isnan(FORMULAS[name][0](jnp.array([jnp.nan, 0.0, 1.0]), jnp.int32(1)))
