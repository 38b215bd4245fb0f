"""Every defense against losses, attacks and gradients written by hand in NumPy.

On a linear softmax classifier all are closed forms: the gradient of the cross-entropy in x is
W (p - onehot), that of KL(p || q) is W (q - p), and a perturbed point is a constant.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training.training_cases import CLASSES, SIZE, linear

from jaxrobust import attacks, defenses
from jaxrobust.attacks import clean
from jaxrobust.attacks.pgd import steepest
from jaxrobust.defenses import Defense
from jaxrobust.threats import L2, Linf, Union
from jaxrobust.types import Batch, Variables

EPS, STEP, STEPS, RHO, NU, BETA = 0.1, 0.04, 4, 0.5, 0.7, 6.0
DRAW = np.random.default_rng(0)
W, B = DRAW.normal(size=(SIZE, CLASSES)), DRAW.normal(size=CLASSES)
X, Y = DRAW.uniform(size=(8, SIZE)), DRAW.integers(0, CLASSES, 8)
ONEHOT = np.eye(CLASSES)[Y]
SHIFT = DRAW.uniform(-0.05, 0.05, SIZE)
THREAT = Linf(EPS)


def shifted(key: Any, threat: Linf, x: Any) -> Any:
    del key
    return threat.project(x, x + jnp.asarray(SHIFT, x.dtype))


def log_softmax(x: np.ndarray, w: np.ndarray = W) -> np.ndarray:
    z = x @ w + B
    z = z - z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def ascend(start: np.ndarray, slope: Callable, steps: int, step: float) -> np.ndarray:
    z = start
    for _ in range(steps):
        z = np.clip(z + step * np.sign(slope(z)), X - EPS, X + EPS).clip(0, 1)
    return z


def ce_slope(z: np.ndarray) -> np.ndarray:
    return (np.exp(log_softmax(z)) - ONEHOT) @ W.T


def kl_slope(z: np.ndarray) -> np.ndarray:
    return (np.exp(log_softmax(z)) - np.exp(log_softmax(X))) @ W.T


START = np.clip(X + SHIFT, np.maximum(X - EPS, 0), np.minimum(X + EPS, 1))
ONE = ascend(X, ce_slope, 1, STEP)
FGSM = ascend(X, ce_slope, 1, EPS)
PGD = ascend(X, ce_slope, STEPS, STEP)
KL = ascend(START, kl_slope, STEPS, STEP)


def cross_entropy(x: np.ndarray, w: np.ndarray = W) -> tuple[float, np.ndarray]:
    """The batch mean and its gradient in W."""
    logp = log_softmax(x, w)
    return -(ONEHOT * logp).sum() / len(x), x.T @ (np.exp(logp) - ONEHOT) / len(x)


SHARE, LEVEL = 0.25, 2.0


def tail(z: np.ndarray) -> tuple[float, np.ndarray]:
    """LEVEL + mean max(0, CE - LEVEL) / SHARE and its gradient in W."""
    logp = log_softmax(z)
    each = -(ONEHOT * logp).sum(-1)
    slope = (np.exp(logp) - ONEHOT) * (each > LEVEL)[:, None] / SHARE
    return LEVEL + np.maximum(each - LEVEL, 0).mean() / SHARE, z.T @ slope / len(z)


GAMMA = 0.05


def worse_weights(z: np.ndarray) -> np.ndarray:
    """W one step of length GAMMA ||W|| up the mean cross-entropy at fixed points."""
    v = cross_entropy(z)[1]
    return W + GAMMA * np.sqrt((W**2).sum() / (v**2).sum()) * v


def divergence(x: np.ndarray, z: np.ndarray) -> tuple[float, np.ndarray]:
    """Mean KL(p(x) || p(z)) and its gradient in W through both arguments, z held fixed."""
    logp, logq = log_softmax(x), log_softmax(z)
    p, q = np.exp(logp), np.exp(logq)
    each = (p * (logp - logq)).sum(-1, keepdims=True)
    return each.mean(), (x.T @ (p * (logp - logq - each)) + z.T @ (q - p)) / len(x)


def distance(x: np.ndarray, z: np.ndarray, power: int) -> tuple[float, np.ndarray]:
    """Mean ||z(x) - z(z)||_2^power and its gradient in W."""
    apart = (z - x) @ W
    norm = np.linalg.norm(apart, axis=-1, keepdims=True)
    slope = power * norm ** (power - 2) * apart
    return (norm**power).mean(), (z - x).T @ slope / len(x)


def boosted(z: np.ndarray) -> tuple[float, np.ndarray]:
    """Mean of MART's -log p_y - log(1 - p_k) and its gradient in W."""
    p = np.exp(log_softmax(z))
    rival = np.eye(CLASSES)[np.where(ONEHOT == 1, -1, p).argmax(-1)]
    top = (p * rival).sum(-1, keepdims=True)
    # d log(1 - p_k) / dz = -p_k (e_k - p) / (1 - p_k)
    slope = (p - ONEHOT) + top * (rival - p) / (1 - top)
    each = -(ONEHOT * np.log(p)).sum(-1) - np.log(1 - top[:, 0])
    return each.mean(), z.T @ slope / len(z)


def unsure_divergence(x: np.ndarray, z: np.ndarray) -> tuple[float, np.ndarray]:
    """Mean KL(p(x) || p(z)) (1 - p_y(x)) and its gradient in W through everything but z."""
    logp, logq = log_softmax(x), log_softmax(z)
    p, q = np.exp(logp), np.exp(logq)
    each = (p * (logp - logq)).sum(-1, keepdims=True)
    right = (p * ONEHOT).sum(-1, keepdims=True)
    slope = (1 - right) * p * (logp - logq - each) - each * right * (ONEHOT - p)
    value = (each * (1 - right)).mean()
    return value, (x.T @ slope + z.T @ ((1 - right) * (q - p))) / len(x)


MU = 3.0


def worse(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of each example's two points that of higher cross-entropy."""
    loss = [-(ONEHOT * log_softmax(z)).sum(-1, keepdims=True) for z in (a, b)]
    return np.where(loss[0] >= loss[1], a, b)


def targeted(offset: int) -> tuple[np.ndarray, np.ndarray]:
    """The point of largest margin of class y + offset over label y, and those classes."""
    classes = (Y + offset) % CLASSES
    return ascend(X, lambda z: (W[:, classes] - W[:, Y]).T, STEPS, STEP), classes


def margins(offset: int) -> np.ndarray:
    z, classes = targeted(offset)
    rows = np.arange(len(Y))
    logits = z @ W + B
    return logits[rows, classes] - logits[rows, Y]


OFFSETS = range(1, CLASSES)
WINNER = np.argmax([margins(j) for j in OFFSETS], axis=0)
TARGETED = np.asarray([targeted(j)[0] for j in OFFSETS])[WINNER, np.arange(len(Y))]


def smoothed(gradient_of_weights: bool) -> tuple[float, np.ndarray]:
    """Mean over examples of sum_j softmax_j(mu M_j) CE(x_j), and its gradient in W."""
    value, slope = 0.0, np.zeros_like(W)
    for i in range(len(Y)):
        z = np.asarray([targeted(j)[0][i] for j in OFFSETS])
        classes = np.asarray([targeted(j)[1][i] for j in OFFSETS])
        exponent = MU * np.asarray([margins(j)[i] for j in OFFSETS])
        w = np.exp(exponent - exponent.max())
        w = w / w.sum()
        logp = log_softmax(z)
        loss = -logp[:, Y[i]]
        value += w @ loss
        # d w_j = mu w_j (d M_j - sum_k w_k d M_k), and M_j is linear in W
        along = MU * w * (loss - w @ loss) if gradient_of_weights else 0 * w
        for j in range(len(w)):
            slope += w[j] * np.outer(z[j], np.exp(logp[j]) - ONEHOT[i])
            slope += along[j] * np.outer(z[j], np.eye(CLASSES)[classes[j]] - ONEHOT[i])
    return value / len(Y), slope / len(Y)


def combine(*terms: tuple[float, tuple[float, np.ndarray]]) -> tuple[float, np.ndarray]:
    return sum(c * v for c, (v, _) in terms), sum(c * g for c, (_, g) in terms)


OPTIONS = {"step_size": STEP, "steps": STEPS}
CLIMB = {**OPTIONS, "start": clean, "optimizer": steepest}
CLEAN_LAST = {**OPTIONS, "start": clean, "keep": "last"}
CASES = {
    "erm": (defenses.erm(), cross_entropy(X), None),
    "fgsm": (defenses.fgsm(THREAT), cross_entropy(FGSM), None),
    "pgd": (defenses.pgd(THREAT, start=clean, **OPTIONS), cross_entropy(PGD), None),
    "trades": (
        defenses.trades(defenses.trades_attack(THREAT, start=shifted, **OPTIONS), beta=BETA),
        combine((1, cross_entropy(X)), (BETA, divergence(X, KL))),
        None,
    ),
    "trades_0": (
        defenses.trades(defenses.trades_attack(THREAT, start=shifted, **OPTIONS), beta=0.0),
        cross_entropy(X),
        None,
    ),
    "alp": (
        defenses.alp(defenses.trades_attack(THREAT, start=clean, **OPTIONS), weight=BETA),
        combine((1, cross_entropy(PGD)), (BETA, distance(X, PGD, 1))),
        None,
    ),
    "original alp": (
        defenses.alp(
            defenses.trades_attack(THREAT, start=clean, **OPTIONS), weight=BETA, original=True
        ),
        combine((0.5, cross_entropy(X)), (0.5, cross_entropy(PGD)), (BETA, distance(X, PGD, 2))),
        None,
    ),
    "clp": (
        defenses.clp(defenses.trades_attack(THREAT, start=clean, **OPTIONS), weight=BETA),
        combine((1, cross_entropy(X)), (BETA, distance(X, PGD, 1))),
        None,
    ),
    "noisy_clp": (
        defenses.noisy_clp(weight=BETA, sigma=0.0),
        combine((1, cross_entropy(X)), (BETA, distance(X, np.roll(X, 4, axis=0), 2))),
        None,
    ),
    "mart": (
        defenses.mart(defenses.trades_attack(THREAT, start=clean, **OPTIONS), beta=BETA),
        combine((1, boosted(PGD)), (BETA, unsure_divergence(X, PGD))),
        None,
    ),
    "beta": (defenses.beta(attacks.beta(THREAT, **CLIMB)), cross_entropy(TARGETED), None),
    "sbeta": (
        defenses.sbeta(attacks.optimizer_steps(THREAT, **CLIMB), mu=MU),
        smoothed(True),
        None,
    ),
    "sbeta_constant": (
        defenses.sbeta(attacks.optimizer_steps(THREAT, **CLIMB), mu=MU, stop_weights=True),
        smoothed(False),
        None,
    ),
    # At such a mu rounding drowns the gradient through the weights, which is 0 here.
    "sbeta_sharp": (
        defenses.sbeta(attacks.optimizer_steps(THREAT, **CLIMB), mu=1e6, stop_weights=True),
        cross_entropy(TARGETED),
        None,
    ),
    # Nothing converges at 0 before PGD comes to rest; everything does at once at 1e6.
    "dynamic_0": (
        defenses.dynamic(THREAT, largest=0.0, start=clean, **OPTIONS),
        cross_entropy(PGD),
        None,
    ),
    "dynamic_loose": (
        defenses.dynamic(THREAT, largest=1e6, start=clean, **OPTIONS),
        cross_entropy(ONE),
        None,
    ),
    "msd": (
        defenses.msd(attacks.msd(Union((THREAT,)), step_sizes=(STEP,), steps=STEPS, keep="last")),
        cross_entropy(PGD),
        None,
    ),
    "worst": (
        defenses.worst(attacks.fgsm(THREAT), attacks.fgsm(THREAT, start=shifted, step_size=0.01)),
        cross_entropy(worse(FGSM, ascend(START, ce_slope, 1, 0.01))),
        None,
    ),
    "augmented": (
        defenses.augmented([attacks.fgsm(THREAT), attacks.pgd(THREAT, **CLEAN_LAST)]),
        combine((0.5, cross_entropy(FGSM)), (0.5, cross_entropy(PGD))),
        None,
    ),
    # A threshold in the midst of the losses, as if it had moved there.
    "cvar": (
        defenses.cvar(
            attacks.pgd(THREAT, start=clean, **OPTIONS, keep="last"), share=SHARE, learning_rate=0.1
        )._replace(init=lambda: jnp.float32(LEVEL)),
        tail(PGD),
        None,
    ),
    "cvar_all": (
        defenses.cvar(
            attacks.pgd(THREAT, start=clean, **OPTIONS, keep="last"), share=1.0, learning_rate=0.1
        ),
        cross_entropy(PGD),
        None,
    ),
    "awp": (
        defenses.awp(attacks.pgd(THREAT, **CLEAN_LAST), gamma=GAMMA),
        cross_entropy(PGD, worse_weights(PGD)),
        None,
    ),
    "awp_0": (
        defenses.awp(attacks.pgd(THREAT, **CLEAN_LAST), gamma=0.0),
        cross_entropy(PGD),
        None,
    ),
    # Without noise DALE climbs log(1 - p_y), whose gradient has the sign of the cross-entropy's.
    "dale": (
        defenses.dale(attacks.langevin(THREAT, temperature=0.0, start=clean, **OPTIONS), rho=RHO),
        combine((1, cross_entropy(PGD)), (NU, cross_entropy(X))),
        cross_entropy(X)[0] - RHO,
    ),
    "reverse_dale": (
        defenses.dale(
            attacks.langevin(THREAT, temperature=0.0, start=clean, **OPTIONS), rho=RHO, reverse=True
        ),
        combine((1, cross_entropy(X)), (NU, cross_entropy(PGD))),
        cross_entropy(PGD)[0] - RHO,
    ),
    "kl_dale": (
        defenses.kl_dale(defenses.trades_attack(THREAT, start=shifted, **OPTIONS), rho=RHO),
        combine((1, divergence(X, KL)), (NU, cross_entropy(X))),
        cross_entropy(X)[0] - RHO,
    ),
}


def value_gradient_aux(defense: Defense, dtype: Any, **changes: Any) -> tuple[Any, Any, Any]:
    batch = Batch(jnp.asarray(X, dtype), jnp.asarray(Y, int), jnp.arange(len(Y)))
    nu = jnp.asarray(NU, dtype) if defense.constrained else None

    def loss(params: Any) -> Any:
        context = defenses.TrainContext(nu, defense.init())._replace(**changes)
        return defense.loss(jax.random.key(0), linear(), Variables(params), batch, context)

    params = {"w": jnp.asarray(W, dtype), "b": jnp.asarray(B, dtype)}
    (value, aux), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    return value, gradient["w"], aux


@pytest.mark.parametrize("name", CASES)
def test_loss_gradient_and_violation_match_the_closed_form(name: str) -> None:
    defense, (expected, slope), violation = CASES[name]
    with jax.enable_x64(True):
        value, gradient, aux = value_gradient_aux(defense, jnp.float64)
        np.testing.assert_allclose(value, expected, rtol=1e-10)
        np.testing.assert_allclose(gradient, slope, rtol=1e-10, atol=1e-11)
        assert defense.constrained == (violation is not None)
        if violation is None:
            assert aux.violation is None
        else:
            np.testing.assert_allclose(aux.violation, violation, rtol=1e-10)


def test_the_attacks_of_the_closed_forms_hurt() -> None:
    plain = cross_entropy(X)[0]
    assert cross_entropy(PGD)[0] > plain + 0.2
    assert cross_entropy(FGSM)[0] > plain + 0.2
    assert divergence(X, KL)[0] > 10 * divergence(X, START)[0]
    assert cross_entropy(PGD, worse_weights(PGD))[0] > 1.02 * cross_entropy(PGD)[0]
    above = -(ONEHOT * log_softmax(PGD)).sum(-1) > LEVEL
    assert 1 < above.sum() < len(above) - 1


def test_metrics_report_both_batches() -> None:
    _, _, aux = value_gradient_aux(CASES["dale"][0], jnp.float32)
    expected = {
        "clean_loss": cross_entropy(X)[0],
        "clean_accuracy": 100 * (log_softmax(X).argmax(-1) == Y).mean(),
        "adversarial_loss": cross_entropy(PGD)[0],
        "adversarial_accuracy": 100 * (log_softmax(PGD).argmax(-1) == Y).mean(),
    }
    assert set(aux.metrics) == set(expected)
    for metric, value in expected.items():
        np.testing.assert_allclose(aux.metrics[metric], value, rtol=2e-4, err_msg=metric)


def test_multiplier_and_losses_of_different_types_mix() -> None:
    with jax.enable_x64(True):
        value, _, _ = value_gradient_aux(
            CASES["dale"][0], jnp.float32, nu=jnp.asarray(NU, jnp.float64)
        )
        assert value.dtype == jnp.float32
        np.testing.assert_allclose(value, CASES["dale"][1][0], rtol=2e-4)


def test_no_gradient_flows_through_the_attack() -> None:
    """With l2 steps, unlike signs, the perturbed point moves smoothly with the parameters."""
    defense = defenses.pgd(L2(EPS), start=clean, step_size=STEP, steps=2)

    def points(w: np.ndarray) -> np.ndarray:
        z = X
        for _ in range(2):
            slope = (np.exp(log_softmax(z, w)) - ONEHOT) @ w.T
            z = np.clip(z + STEP * slope / np.linalg.norm(slope, axis=-1, keepdims=True), 0, 1)
        return z

    def value(w: np.ndarray, z: np.ndarray) -> float:
        return -(ONEHOT * log_softmax(z, w)).sum() / len(z)

    # Only one entry: with the points moving along, the derivative is another.
    nudge = np.zeros_like(W)
    nudge[2, 1] = 1e-6
    held = (value(W + nudge, points(W)) - value(W - nudge, points(W))) / 2e-6
    moving = (value(W + nudge, points(W + nudge)) - value(W - nudge, points(W - nudge))) / 2e-6
    assert abs(moving - held) > 1e-4
    with jax.enable_x64(True):
        _, gradient, _ = value_gradient_aux(defense, jnp.float64)
        np.testing.assert_allclose(gradient[2, 1], held, atol=1e-7)
