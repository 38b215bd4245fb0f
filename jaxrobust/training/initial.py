"""Weights that a run starts from, in place of fresh ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.types import PyTree, Variables

Weights = Variables | Mapping[str, Any]
"""A model's variables; or a dict of `params` and, where there are any, `batch_stats` or `stats`, as
Flax and `saved_variables` give them."""


def fitted(like: Variables, given: Weights) -> Variables:
    """The given weights as the variables of a model.

    Args:
      like: variables of the model, or their shapes, such as `jax.eval_shape(model.init, key, x)`
        gives.
      given: the weights, with leaves of the same names and shapes; floats are cast to the model's
        type.

    Returns:
      Variables of the structure, shapes and types of `like`, in NumPy arrays.

    Raises:
      ValueError: a leaf that is missing, unknown, or of another shape or kind; the message names
        the first.
      TypeError: no weights at all.
    """
    here = _leaves(like)
    there = {name: np.asarray(leaf) for name, leaf in _leaves(_variables(given)).items()}
    for name in [*here, *(name for name in there if name not in here)]:
        told = [_told(side.get(name)) for side in (here, there)]
        if name not in here or name not in there or not _alike(here[name], there[name]):
            raise ValueError(
                f"the variables do not fit the model: {name} is {told[0]} in the model and "
                f"{told[1]} in what is given; build the network they were made with, or put a leaf "
                "of a fresh one in its place"
            )
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: there[_name(path)].astype(leaf.dtype), like
    )


def _variables(given: Weights) -> Variables:
    if isinstance(given, Variables):
        return given
    if isinstance(given, Mapping) and "params" in given:
        stats = [given[name] for name in ("stats", "batch_stats") if name in given]
        return Variables(given["params"], stats[0] if stats else ())
    held = f" of {', '.join(map(str, given))}" if isinstance(given, Mapping) else ""
    raise TypeError(
        "variables must be a model's Variables, such as run.state.variables, or a dict with the "
        f"entry 'params', got {type(given).__name__}{held}"
    )


def _leaves(tree: PyTree) -> dict[str, Any]:
    return {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path).lstrip(".")


def _alike(ours: Any, theirs: Any) -> bool:
    kinds = (jnp.floating, jnp.integer, jnp.bool_)
    one, other = (
        [jnp.issubdtype(jnp.result_type(leaf), kind) for kind in kinds] for leaf in (ours, theirs)
    )
    return np.shape(ours) == np.shape(theirs) and one == other


def _told(leaf: Any) -> str:
    return "missing" if leaf is None else f"{jnp.result_type(leaf)}{list(np.shape(leaf))}"
