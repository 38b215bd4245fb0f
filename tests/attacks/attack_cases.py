"""A small network with its hand-written float64 gradient, and every attack on every threat."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.attacks import fgsm, langevin, momentum, pgd, restarts, targeted, worst_of
from jaxrobust.threats import L1, L2, Linf
from jaxrobust.types import Attack

SHAPE = (2, 3)
SIZE = 6
STEPS = 12

THREATS = {"linf": Linf, "l2": L2, "l1": L1}
RADII = {"linf": 0.1, "l2": 0.25, "l1": 0.5}


# Compiling is nearly all of these tests' time, and each program runs only a few times.
compiled = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


class Net(NamedTuple):
    """logits = w2 tanh(w1 x + b1) + v x + b2; linear in x where w2 is zero."""

    w1: Any
    b1: Any
    w2: Any
    v: Any
    b2: Any


def random_net(seed: int = 0, *, classes: int = 3, size: int = SIZE, hidden: int = 5) -> Net:
    draw = np.random.default_rng(seed).normal
    return Net(
        draw(size=(hidden, size)),
        draw(size=hidden),
        draw(size=(classes, hidden)),
        0.3 * draw(size=(classes, size)),
        0.3 * draw(size=classes),
    )


def linear_net(w: np.ndarray, b: float) -> Net:
    """Class 1 against class 0 by the score w x + b; class 2 is out of reach."""
    v = np.stack([np.zeros_like(w), w, np.zeros_like(w)])
    hidden = 5
    return Net(
        np.zeros((hidden, w.size)),
        np.zeros(hidden),
        np.zeros((3, hidden)),
        v,
        np.array([0.0, b, -100.0]),
    )


def to_jax(net: Net, dtype: Any = np.float32) -> Net:
    return Net(*(jnp.asarray(leaf, dtype) for leaf in net))


def logits(net: Net, x: Any) -> Any:
    flat = x.reshape(-1)
    return net.w2 @ jnp.tanh(net.w1 @ flat + net.b1) + net.v @ flat + net.b2


def np_logits(net: Net, x: np.ndarray) -> np.ndarray:
    flat = x.reshape(-1)
    return net.w2 @ np.tanh(net.w1 @ flat + net.b1) + net.v @ flat + net.b2


def np_cross_entropy(net: Net, x: np.ndarray, y: int) -> float:
    z = np_logits(net, x)
    return float(np.log(np.exp(z - z.max()).sum()) + z.max() - z[y])


def np_gradient(net: Net, x: np.ndarray, y: int) -> np.ndarray:
    """Of the cross-entropy in x, by hand."""
    h = np.tanh(net.w1 @ x.reshape(-1) + net.b1)
    z = net.w2 @ h + net.v @ x.reshape(-1) + net.b2
    p = np.exp(z - z.max())
    p = p / p.sum()
    p[y] -= 1
    return (net.w1.T @ ((net.w2.T @ p) * (1 - h**2)) + net.v.T @ p).reshape(x.shape)


def np_fooled(net: Net, x: np.ndarray, y: int) -> bool:
    z = np_logits(net, x)
    return bool(np.delete(z, y).max() >= z[y])


def np_size(threat: str, d: np.ndarray) -> float:
    d = np.asarray(d, np.float64).ravel()
    return float(np.linalg.norm(d, {"linf": np.inf, "l2": 2, "l1": 1}[threat]))


def np_dual_norm(threat: str, g: np.ndarray) -> float:
    return np_size({"linf": "l1", "l2": "l2", "l1": "linf"}[threat], g)


def np_steepest(threat: str, g: np.ndarray) -> np.ndarray:
    if threat == "linf":
        return np.sign(g)
    if threat == "l2":
        return g / max(np.linalg.norm(g), 1e-300)
    step = np.zeros(g.size)
    i = np.argmax(np.abs(g))
    step[i] = np.sign(g.ravel()[i])
    return step.reshape(g.shape)


def np_project(threat: str, radius: float, d: np.ndarray) -> np.ndarray:
    """Onto the ball around zero, without a pixel box."""
    if np_size(threat, d) <= radius:
        return d
    if threat == "linf":
        return np.clip(d, -radius, radius)
    if threat == "l2":
        return d * radius / np.linalg.norm(d)
    low, high = 0.0, np.abs(d).max()
    for _ in range(200):
        middle = (low + high) / 2
        spent = np.maximum(np.abs(d) - middle, 0).sum()
        low, high = (middle, high) if spent > radius else (low, middle)
    return np.sign(d) * np.maximum(np.abs(d) - high, 0)


Builder = Callable[[Any, Any, float], Attack]
"""(threat, step size, temperature) -> attack."""


def _langevin(noise: str, place: str) -> Builder:
    return lambda t, a, temperature: langevin(
        t, step_size=a, steps=STEPS, temperature=temperature, noise=noise, place=place
    )


def _momentum(t: Any, a: Any, temperature: float = 0.0) -> Attack:
    return momentum(t, step_size=a, steps=STEPS)


def _pgd(**options: Any) -> Builder:
    return lambda t, a, temperature=0.0: pgd(t, step_size=a, steps=STEPS, **options)


ATTACKS: dict[str, Builder] = {
    "fgsm": lambda t, a, temperature: fgsm(t),
    "pgd_best": _pgd(keep="best"),
    "pgd_last": _pgd(keep="last"),
    "momentum": _momentum,
    "langevin_laplace_inside": _langevin("laplace", "inside"),
    "langevin_laplace_outside": _langevin("laplace", "outside"),
    "langevin_gaussian_inside": _langevin("gaussian", "inside"),
    "langevin_gaussian_outside": _langevin("gaussian", "outside"),
    "restarts": lambda t, a, temperature: restarts(_pgd()(t, a), 3),
    "targeted": lambda t, a, temperature: targeted(_pgd()(t, a)),
    "worst_of": lambda t, a, temperature: worst_of(fgsm(t), _momentum(t, a)),
}
DETERMINISTIC = {"fgsm", "momentum", "worst_of"}


def build(
    name: str,
    threat: str,
    *,
    radius: Any = None,
    step: float = 0.3,
    temperature: float = 1e-2,
    box: bool = True,
) -> Attack:
    """The attack with steps of `step` radii."""
    radius = RADII[threat] if radius is None else radius
    bounds = {} if box else {"lower": -jnp.inf, "upper": jnp.inf}
    return ATTACKS[name](THREATS[threat](radius, **bounds), step * radius, temperature)
