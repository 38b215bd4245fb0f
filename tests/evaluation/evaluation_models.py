"""Tiny classifiers in plain JAX, and a linear one whose robustness is known exactly."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.types import Model, Variables

CLASSES, DIMENSION = 3, 6


def from_logits(logits):
    """A `Model` of a batched function `logits(params, x)`; `calls` lists its traces."""
    calls = []

    def apply(variables, x, *, train, key, axes):
        del key, axes
        assert not train
        calls.append(x.shape)
        return logits(variables.params, x), variables.stats

    return Model(init=lambda key, x: None, apply=apply), calls


def linear():
    return from_logits(lambda p, x: x @ p["w"] + p["b"][None])


def mlp():
    return from_logits(lambda p, x: jnp.tanh(x @ p["v"]) @ p["w"] + p["b"][None])


def weights(seed=0, classes=CLASSES, dtype=np.float32):
    rng = np.random.default_rng(seed)
    w = rng.normal(size=(DIMENSION, classes))
    # Classes balanced at the center of the data, so that all of them occur.
    params = {"w": w, "b": -0.5 * w.sum(0), "v": rng.normal(size=(DIMENSION, DIMENSION))}
    return Variables(jax.tree.map(lambda a: jnp.asarray(a, dtype), params))


def data(count=29, seed=1, classes=CLASSES, dtype=np.float32):
    """Points far enough inside the box that a l-infinity ball of radius .3 fits, mostly right."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(0.35, 0.65, size=(count, DIMENSION)).astype(dtype)
    w = np.asarray(weights(classes=classes).params["w"], np.float64)
    y = ((x.astype(np.float64) - 0.5) @ w).argmax(1)
    y[::7] = (y[::7] + 1) % classes
    return x, y


def exact_robust(x, y, params, radius):
    """Whether min_j (margin over j - radius ||w_y - w_j||_1) > 0, in float64."""
    w, b = (np.asarray(params[k], np.float64) for k in ("w", "b"))
    robust = []
    for a, label in zip(np.asarray(x, np.float64), y, strict=True):
        gaps = [
            a @ (w[:, label] - w[:, j])
            + b[label]
            - b[j]
            - radius * np.abs(w[:, label] - w[:, j]).sum()
            for j in range(w.shape[1])
            if j != label
        ]
        robust.append(min(gaps) > 0)
    return np.asarray(robust)
