"""Whatever a user holds as a `Model` and its `Variables`; the usual mistakes are told the way."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
from flax import nnx

from jaxrobust.models.equinox import from_equinox
from jaxrobust.models.functions import from_function
from jaxrobust.models.linen import PARAMS, from_collections, from_linen
from jaxrobust.models.nnx import from_nnx
from jaxrobust.models.remembered import OwnValues
from jaxrobust.types import Array, Attack, Key, Model, PyTree, Variables

ModelLike = Model | nn.Module | nnx.Module | Callable[..., Any]
"""What `as_model` takes."""

TAKEN = (
    "a types.Model, a Flax linen or NNX module, an Equinox module, or a function [B, ...] -> "
    "logits [B, K]"
)


def as_model(model: ModelLike) -> Model:
    """The `Model` of what is given: evaluation and training take all of these in its place.

    Args:
      model: a `Model`, a Flax linen or NNX module, an Equinox module (without state), or a function
        of batches, `[B, ...]` -> logits `[B, K]`, that holds its own numbers.

    Returns:
      A `Model` as it is, and the others as `from_linen`, `from_nnx`, `from_equinox` and
      `from_function` wrap them. The same module or function compiles nothing anew.

    Raises:
      TypeError: anything else; the message names the wrapper or the mend.

    Example:
      >>> from jaxrobust import models
      >>> model = models.as_model(models.build("mlp", 3))
      >>> models.as_model(model) is model
      True
    """
    if isinstance(model, Model):
        return model
    if isinstance(model, nn.Module):
        return from_linen(model)
    if isinstance(model, nnx.Module):
        return from_nnx(model)
    if _is_equinox(model):
        return from_equinox(model)
    mend = _mend(model)
    if mend is None and callable(model):
        return from_function(model)
    kind = f"the class {model.__name__}" if isinstance(model, type) else type(model).__name__
    raise TypeError(f"a model is {TAKEN}; got {kind}" + (f": {mend}" if mend else ""))


def as_variables(model: Model, variables: PyTree = None) -> PyTree:
    """The variables of a model, from the forms in which users hold them.

    Args:
      model: the model, see `as_model`.
      variables: `Variables`; a Flax dict `{"params": ..., "batch_stats": ...}`; or None (`()` and
        `{}` too) for a network that holds its own numbers, as functions, NNX and Equinox modules
        do. A `Model` of one's own may have numbers of another form, which come back as they are.

    Returns:
      What `model.apply` takes.

    Raises:
      TypeError: a train state or a module in the variables' place.
      ValueError: no variables for a network that needs some, parameters without the outer dict,
        other collections, or variables for a function without parameters.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxrobust import models
      >>> module = models.build("mlp", 3)
      >>> collections = module.init(jax.random.key(0), jnp.zeros((1, 4)))
      >>> variables = models.as_variables(models.as_model(module), collections)
      >>> variables.params is collections["params"]
      True
    """
    own = model.init.variables if isinstance(model.init, OwnValues) else None
    nothing = isinstance(variables, tuple | Mapping) and not len(variables)
    if own is not None and (variables is None or nothing):
        return own
    if variables is None:
        raise ValueError(
            "variables=None, but this model does not hold its own numbers: pass Variables(params, "
            'stats), or the dict {"params": ..., "batch_stats": ...} of a linen module'
        )
    if not isinstance(variables, Variables | Mapping):
        _refuse_holder(variables, own=own is not None)
    if own is not None and not jax.tree.leaves(own) and jax.tree.leaves(variables):
        raise ValueError(
            "a plain function has no parameters, so that its variables must be None; a network "
            "whose numbers are arguments is wrapped by models.from_init_apply(init, apply)"
        )
    if isinstance(variables, Variables) or not isinstance(variables, Mapping):
        return variables
    if PARAMS not in variables and variables:
        raise ValueError(
            f"got a dict of {sorted(map(str, variables))} as variables: parameters go into an "
            'outer dict, {"params": ...}, or into Variables(params)'
        )
    return from_collections(variables)


def as_fixed(model: ModelLike, variables: PyTree = None) -> tuple[Model, PyTree]:
    """A network and its numbers where nothing is to be trained; see `as_model`, `as_variables`.

    The model is without its initial values: an NNX or Equinox module's differ from call to call,
    and its program need not.
    """
    made = as_model(model)
    return made._replace(init=_no_init), as_variables(made, variables)


def _no_init(key: Key, x: Array) -> Variables:
    raise NotImplementedError("a network whose numbers are fixed draws none")


def _refuse_holder(variables: PyTree, *, own: bool) -> None:
    """Raises TypeError for train states and modules, which hold variables and are none.

    NNX and Equinox modules are trees of arrays too, and may be the numbers of a `Model` of one's
    own: they are refused where the model holds its `own`.
    """
    kind = type(variables).__name__
    if isinstance(variables, nn.Module) or (
        own and (isinstance(variables, nnx.Module) or _is_equinox(variables))
    ):
        raise TypeError(
            f"got the module {kind} as variables: an NNX or Equinox module is passed as the model, "
            "with variables=None"
        )
    for place, state in (("its .", variables), ("its .state.", getattr(variables, "state", None))):
        if hasattr(state, "opt_state"):
            ours = hasattr(state, "variables")
            mend = f"{place}variables" if ours else f'{{"params": {place}params, ...}}'
            raise TypeError(f"got {kind} as variables: pass {mend}")


def _is_equinox(model: Any) -> bool:
    equinox = sys.modules.get("equinox")
    return equinox is not None and isinstance(model, equinox.Module)


def _mend(model: Any) -> str | None:
    """What to write instead; None where there is nothing special about it."""
    kind = model if isinstance(model, type) else type(model)
    roots = {base.__module__.partition(".")[0] for base in kind.__mro__}
    if "torch" in roots:
        return (
            "PyTorch's functions are not JAX's; load its weights into a network of this library, "
            "models.from_torch_state_dict"
        )
    if roots & {"keras", "tf_keras", "tensorflow"}:
        return (
            "with Keras' JAX backend, wrap `stateless_call` by models.from_function or "
            "models.from_init_apply"
        )
    if isinstance(model, type):
        return f"pass an instance of it, {kind.__name__}(...)"
    if isinstance(model, str):
        return f"write models.build({model!r}, num_classes)"
    if hasattr(model, "apply_fn") and hasattr(model, "params"):
        return 'pass the linen module, and {"params": state.params, ...} as variables'
    if isinstance(model, Variables | Mapping):
        return "these are its numbers; pass the network first, then these as variables"
    if isinstance(model, Attack):
        return "this is an attack; the model and its variables come before"
    if not callable(model) and (hasattr(model, "variables") or hasattr(model, "state")):
        return "pass the network, and this state's `variables` after it"
    if isinstance(model, tuple) and len(model) == 2:
        if all(map(callable, model)):
            return "wrap the pair by models.from_init_apply(init, apply)"
        if _is_equinox(model[0]):
            return "wrap the pair by models.from_equinox(module, state)"
        return "pass the two parts, model and variables, one after the other"
    return None
