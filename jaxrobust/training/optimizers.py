"""The optimizers of the papers, as one Optax chain."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from jaxrobust import checks
from jaxrobust.types import PyTree

OPTIMIZERS = ("sgd", "adam")


def weights_only(params: PyTree) -> PyTree:
    """Tells weight matrices and kernels from biases and normalization parameters.

    Args:
      params: a tree of arrays or numbers, the parameters of a model.

    Returns:
      A tree of the same structure of Python bools: True for arrays of two dimensions or more, as
      weight matrices and kernels have them, False for vectors and numbers, as biases and
      normalization parameters are in this package's networks. Nothing but the number of dimensions
      tells them apart: of a network that keeps a bias for each position, that is True too.
    """
    return jax.tree.map(lambda p: jnp.ndim(p) > 1, params)


def optimizer(
    name: str,
    learning_rate: optax.ScalarOrSchedule,
    *,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    decay_all: bool = True,
    l1: float = 0.0,
    clip: float | None = None,
) -> optax.GradientTransformation:
    """SGD with momentum, or Adam, with coupled (l2) weight decay and gradient clipping.

    Args:
      name: "sgd" or "adam".
      learning_rate: a number or a schedule.
      momentum: of SGD.
      weight_decay: added to the gradient, as the papers' PyTorch code does.
      decay_all: False leaves biases and normalization parameters undecayed, see `weights_only`.
      l1: weight of the penalty sum |w| on matrices and kernels, see `weights_only`, whose
        subgradient is added to the gradient (Wong's thesis, section 4.4.1).
      clip: largest global norm of the gradient, before decay.

    Raises:
      ValueError: an unknown name, a negative number, a momentum above 1.
    """
    checks.choice("optimizer", name, OPTIMIZERS)
    if not callable(learning_rate):
        checks.nonnegative("learning_rate", learning_rate)
    checks.fraction("momentum", momentum)
    checks.nonnegative("weight_decay", weight_decay)
    checks.nonnegative("l1", l1)
    parts = []
    if clip is not None:
        checks.positive("clip", clip)
        parts.append(optax.clip_by_global_norm(clip))
    if weight_decay:
        mask = None if decay_all else weights_only
        parts.append(optax.add_decayed_weights(weight_decay, mask))
    if l1:
        parts.append(optax.masked(_add_signs(l1), weights_only))
    parts.append(
        optax.sgd(learning_rate, momentum=momentum) if name == "sgd" else optax.adam(learning_rate)
    )
    return optax.chain(*parts)


def _add_signs(weight: float) -> optax.GradientTransformation:
    def add(updates: PyTree, params: PyTree) -> PyTree:
        return jax.tree.map(lambda g, w: g + weight * jnp.sign(w), updates, params)

    return optax.stateless(add)
