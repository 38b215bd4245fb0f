"""From an Equinox module, a function of one example, to the two pure functions asked for."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp

from jaxrobust.models.remembered import OwnValues, remembered
from jaxrobust.types import Array, Key, Model, PyTree, Variables

EXAMPLES = "equinox_examples"
"""The mapped axis over the examples of a batch."""


def from_equinox(module: Any, state: Any = None) -> Model:
    """Wraps an Equinox classifier, one example -> logits `[K]`, as a `Model` of batches.

    The module is called as `module(x)`, `module(x, key=key)`, `module(x, state)` or
    `module(x, state, key=key)`: with a key where its `__call__` takes one, with the state where it
    has one. Every pass sets the mode itself by `eqx.nn.inference_mode`, and `eqx.nn.BatchNorm`
    averages over the batch and the mapped axes whatever `axis_name` it was given.

    Equinox' convolutions take channels first, `[C, H, W]`, and images here have them last:
    `models.channels_first` goes around. `params` is the module's floating-point part;
    `eqx.combine(variables.params, module)` is the trained module, `variables.stats["state"]` its
    state.

    Args:
      module: the classifier, an `eqx.Module`.
      state: the `eqx.nn.State` that came with it from `eqx.nn.make_with_state`, for BatchNorm. Of
        a module made otherwise, its initial state by default.

    Returns:
      The `Model`; `init(key, x)` returns the numbers that the module holds, whatever the key.

    Raises:
      ImportError: Equinox is not installed.
      TypeError: no Equinox module.
      ValueError: a module made by `make_with_state` without its state.

    Example (Equinox is an optional package):
      module, state = eqx.nn.make_with_state(Net)(jax.random.key(0))
      model = models.channels_first(models.from_equinox(module, state))
    """
    eqx = _equinox()
    if not isinstance(module, eqx.Module):
        raise TypeError(f"from_equinox takes an Equinox module, got {type(module).__name__}")
    if state is None:
        state = _initial_state(eqx, module)
    params, rest = eqx.partition(module, eqx.is_inexact_array)
    constants, static = eqx.partition(rest, eqx.is_array)
    # Weakly typed counters would turn into others in a checkpoint.
    state = jax.tree.map(lambda a: jnp.asarray(a, a.dtype), state)
    held = {"state": state, "constants": constants}
    stats = {name: part for name, part in held.items() if jax.tree.leaves(part)}
    return Model(OwnValues(Variables(params, stats)), _apply(static, state is not None))


def _equinox() -> ModuleType:
    try:
        return importlib.import_module("equinox")
    except ImportError as error:
        raise ImportError("from_equinox needs Equinox: pip install equinox") from error


def _initial_state(eqx: ModuleType, module: Any) -> Any:
    """The state of a module that holds its indices' initial values; None where it has none."""

    def is_index(node: Any) -> bool:
        return isinstance(node, eqx.nn.StateIndex)

    if not any(map(is_index, jax.tree.leaves(module, is_leaf=is_index))):
        return None
    try:
        return eqx.nn.State(module)
    except ValueError as error:
        raise ValueError(
            f"{type(module).__name__} was made by eqx.nn.make_with_state: pass the state that came "
            "with it, models.from_equinox(module, state)"
        ) from error


@remembered
def _apply(static: Any, stateful: bool) -> Callable[..., tuple[Array, PyTree]]:
    eqx = _equinox()
    parameters = inspect.signature(type(static).__call__).parameters.values()
    takes_key = any(p.name == "key" or p.kind is p.VAR_KEYWORD for p in parameters)

    def apply(
        variables: Variables,
        x: Array,
        *,
        train: bool = False,
        key: Key | None = None,
        axes: tuple[str, ...] = (),
    ) -> tuple[Array, PyTree]:
        held = dict(variables.stats or {})
        constants = [held["constants"]] if "constants" in held else []
        network = eqx.combine(variables.params, *constants, static)
        network = eqx.nn.inference_mode(network, value=not train)
        network = _averaging(eqx, network, (EXAMPLES, *axes))
        keys = None if key is None or not takes_key else jax.random.split(key, len(x))

        def one(x: Array, key: Key | None, state: Any) -> tuple[Array, Any]:
            own: dict[str, Any] = {"key": key} if takes_key else {}
            return network(x, state, **own) if stateful else (network(x, **own), None)

        # A pass in evaluation mode renews nothing; what it returns may depend on the example.
        lifted = jax.vmap(
            one if train else lambda *given: (one(*given)[0], None),
            in_axes=(0, None if keys is None else 0, None),
            out_axes=(0, None),
            axis_name=EXAMPLES,
        )
        logits, renewed = lifted(x, keys, held.get("state"))
        if not train or not stateful:
            return logits, variables.stats
        return logits, {**held, "state": renewed}

    return apply


def _averaging(eqx: ModuleType, network: Any, axes: tuple[str, ...]) -> Any:
    """The network, whose BatchNorms average over these mapped axes."""

    def is_norm(node: Any) -> bool:
        return isinstance(node, eqx.nn.BatchNorm)

    def averaged(node: Any) -> Any:
        return eqx.tree_at(lambda n: n.axis_name, node, axes) if is_norm(node) else node

    return jax.tree.map(averaged, network, is_leaf=is_norm)
