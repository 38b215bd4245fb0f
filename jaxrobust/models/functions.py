"""Models of plain functions: a closed one, and a pair (init, apply)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from jaxrobust.models.modes import in_training
from jaxrobust.models.remembered import OwnValues, remembered
from jaxrobust.types import Array, Key, Model, PyTree, Variables


def from_function(f: Callable[[Array], Array], *, batched: bool = True) -> Model:
    """Wraps a function that holds its own numbers, for evaluation and certificates.

    It has no parameters, so `training.fit` refuses it; from `models.from_init_apply` it takes
    networks whose numbers are arguments. In every pass it is the same function.

    Args:
      f: a pure JAX function; each object that is given compiles its own programs, so that a lambda
        made anew for each call compiles anew.
      batched: whether `f` takes batches, `[B, ...]` -> logits `[B, K]`. Otherwise one example,
        `[...]` -> logits `[K]`.

    Returns:
      The `Model`; its variables are empty, and `init` returns them.

    Raises:
      TypeError: `f` is no function. `apply` raises ValueError where `f` takes one example and
        `batched` says otherwise.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxrobust import models
      >>> w = jnp.ones((4, 3))
      >>> model = models.from_function(lambda x: x @ w)
      >>> variables = model.init(None, None)
      >>> model.logits_fn(variables)(jnp.zeros(4)).shape
      (3,)
    """
    if not callable(f):
        raise TypeError(f"from_function takes a function, got {type(f).__name__}")
    return Model(OwnValues(Variables(())), _closed(f, batched))


@remembered
def _closed(f: Callable[[Array], Array], batched: bool) -> Callable[..., tuple[Array, PyTree]]:
    def apply(
        variables: Variables,
        x: Array,
        *,
        train: bool = False,
        key: Key | None = None,
        axes: tuple[str, ...] = (),
    ) -> tuple[Array, PyTree]:
        del train, key, axes
        logits = f(x) if batched else jax.vmap(f)(x)
        if logits.shape[:1] != x.shape[:1]:
            raise ValueError(
                f"the function must give logits [{len(x)}, K] for a batch {x.shape}, got shape "
                f"{logits.shape}; where it takes one example, say models.from_function(f, "
                "batched=False)"
            )
        return logits, variables.stats

    return apply


def from_init_apply(
    init: Callable[..., PyTree],
    apply: Callable[..., Any],
    *,
    rng: bool = False,
    stateful: bool = False,
    mode: str | None = None,
    axes: str | None = None,
) -> Model:
    """Wraps a pair of functions, as those of Haiku, Stax or code of one's own.

    `init(key, x)` returns the parameters, and `apply(params, x)` the logits `[B, K]` of a batch
    `[B, ...]`. The settings add arguments in the order of Haiku:
    `apply(params, [state], [key], x, [mode=...], [axes=...])`.

    Of Haiku, `from_init_apply(*hk.without_apply_rng(hk.transform(f)))`, with `rng=True` without
    the first function and with `stateful=True` for `hk.transform_with_state`. Of Stax, whose `init`
    takes a shape: `from_init_apply(lambda key, x: init(key, x.shape)[1], apply)`.

    Args:
      init: draws the parameters, or (parameters, state) where `stateful`; called with the keywords
        `mode`, in training mode as Haiku's batch normalization wants, and `axes`, `()`, too, where
        those are given.
      apply: the forward pass; it returns logits, or (logits, state) where `stateful`.
      rng: whether `apply` takes a random key, None where there is none.
      stateful: whether there is a state, such as batch statistics.
      mode: the keyword that tells whether the network trains: False while training for
        `deterministic`, `use_running_average` and `inference`, True for any other, such as
        `is_training`.
      axes: the keyword for the mapped axes, a tuple of names, that batch statistics are averaged
        over; a stateful network needs it for training.

    Returns:
      The `Model`.

    Raises:
      TypeError: `init` or `apply` is no function. `apply` raises ValueError for a stateful network
        that trains over axes and takes none; the message shows what to add.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxrobust import models
      >>> def init(key, x):
      ...     return {"w": jax.random.normal(key, (x.shape[-1], 3))}
      >>> model = models.from_init_apply(init, lambda params, x: x @ params["w"])
      >>> variables = model.init(jax.random.key(0), jnp.zeros((1, 4)))
      >>> model.logits_fn(variables)(jnp.zeros(4)).shape
      (3,)
    """
    for name, function in (("init", init), ("apply", apply)):
        if not callable(function):
            raise TypeError(
                f"from_init_apply takes two functions, got {type(function).__name__} as `{name}`"
            )
    return _pair(init, apply, rng, stateful, (mode, axes))


@remembered
def _pair(
    init: Callable[..., PyTree],
    apply: Callable[..., Any],
    rng: bool,
    stateful: bool,
    named: tuple[str | None, str | None],
) -> Model:
    mode, over = named

    def options(train: bool, axes: tuple[str, ...]) -> dict[str, Any]:
        told = {} if mode is None else {mode: train == in_training(mode)}
        return told if over is None else {**told, over: axes}

    def initialize(key: Key, x: Array) -> Variables:
        made = init(key, x, **options(True, ()))
        return Variables(*made) if stateful else Variables(made)

    def run(
        variables: Variables,
        x: Array,
        *,
        train: bool = False,
        key: Key | None = None,
        axes: tuple[str, ...] = (),
    ) -> tuple[Array, PyTree]:
        if train and axes and stateful and over is None:
            raise ValueError(
                f"this network cannot average its state over the mapped axes {tuple(axes)}. "
                "Let `init` and `apply` take them, and say models.from_init_apply(..., "
                'axes="axes"); for Haiku:\n'
                "    def network(x, is_training, axes):\n"
                "        norm = hk.BatchNorm(True, True, 0.9, cross_replica_axis=axes or None)"
            )
        state = (variables.stats,) if stateful else ()
        drawn = (key,) if rng else ()
        found = apply(variables.params, *state, *drawn, x, **options(train, tuple(axes)))
        logits, renewed = found if stateful else (found, variables.stats)
        return logits, renewed if train else variables.stats

    return Model(initialize, run)
