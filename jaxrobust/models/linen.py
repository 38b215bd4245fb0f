"""From a Flax linen module to the two pure functions the library asks for."""

from __future__ import annotations

import dataclasses
import inspect
import warnings
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax

from jaxrobust.models.interception import Seen, training_pass
from jaxrobust.models.modes import IN_TRAINING, Modes, find_modes, keywords
from jaxrobust.models.remembered import remembered
from jaxrobust.types import Array, Key, Model, PyTree, Variables

PARAMS, STATS = "params", "batch_stats"
"""The collections of a linen module that the library knows."""


def from_linen(module: nn.Module, *, mode: str | None = None) -> Model:
    """Wraps a linen classifier, `[B, ...]` -> logits `[B, K]`, as a `Model`.

    The module may hold the collections "params" and "batch_stats", and draw from the stream
    "dropout" or any other. `nn.BatchNorm` averages its statistics over the mapped axes of training
    as it is: its `axis_name` is set for the pass. A module with statistics of another kind needs a
    field `axes`, which training mode sets to those axes; where there is the field, it alone counts.

    Under `vmap(..., axis_name="examples")` over batches of one with `axes=("examples",)`, batch
    statistics equal those of the whole batch, so the gradient of the summed per-example losses is
    that of the batch loss. `apply` is as differentiable as the module. In training mode it raises
    Flax's own error where the module draws dropout and `key` is None. Equal modules make one
    model: wrapping again compiles nothing anew.

    Args:
      module: the classifier.
      mode: the keyword of `__call__` that tells the module whether it trains. By default those
        among `train`, `training`, `is_training` (True while training), `deterministic`,
        `use_running_average` and `inference` (False) that it takes or, where it takes none, that
        are fields of the module. Any other name given here is True while training. A module that
        trains with all of its dropout and batch normalization in evaluation mode, because nothing
        tells it, is warned of.

    Returns:
      The `Model`; `init` draws the module's parameters.

    Raises:
      TypeError: no linen module, or a class of them.
      ValueError: `__call__` takes no keyword `mode`. `init` raises it for other collections, and
        `apply` for statistics that it cannot average over the axes; the message shows what to add.

    Example:
      >>> import flax.linen as nn, jax, jax.numpy as jnp
      >>> from jaxrobust import models
      >>> class Net(nn.Module):
      ...     @nn.compact
      ...     def __call__(self, x, deterministic=True):
      ...         x = nn.relu(nn.Dense(8)(x.reshape(len(x), -1)))
      ...         return nn.Dense(3)(nn.Dropout(0.5, deterministic=deterministic)(x))
      >>> model = models.from_linen(Net())
      >>> variables = model.init(jax.random.key(0), jnp.zeros((1, 2, 2, 1)))
      >>> model.logits_fn(variables)(jnp.zeros((2, 2, 1))).shape
      (3,)
    """
    if not isinstance(module, nn.Module):
        kind = module.__name__ if isinstance(module, type) else type(module).__name__
        raise TypeError(
            f"from_linen takes an instance of a linen module, such as Net(), got {kind}"
        )
    modes = find_modes(type(module).__call__, mode, owner=f"{type(module).__name__}.__call__")
    return _model(module, modes)


@remembered
def _model(module: nn.Module, modes: Modes) -> Model:
    fields = () if modes else _mode_fields(module)
    has_axes = hasattr(module, "axes")

    def init(key: Key, x: Array) -> Variables:
        network = module.clone(**keywords(fields, False)) if fields else module
        return from_collections(network.init(key, x, **keywords(modes, False)))

    def apply(
        variables: Variables,
        x: Array,
        *,
        train: bool = False,
        key: Key | None = None,
        axes: tuple[str, ...] = (),
    ) -> tuple[Array, PyTree]:
        collections: dict[str, Any] = {PARAMS: variables.params}
        if variables.stats:
            collections[STATS] = variables.stats
        # Streams of any other name draw from "params".
        rngs = {} if key is None else {"dropout": key, PARAMS: jax.random.fold_in(key, 1)}
        changes: dict[str, Any] = keywords(fields, train)
        if train and has_axes:
            changes["axes"] = tuple(axes)
        network = module.clone(**changes) if changes else module
        mode = keywords(modes, train)
        if not train:
            logits: Any = network.apply(collections, x, **mode, rngs=rngs)
            return logits, variables.stats

        with training_pass(None if has_axes else tuple(axes)) as seen:
            logits, renewed = network.apply(collections, x, **mode, mutable=[STATS], rngs=rngs)
        stats = renewed.get(STATS, variables.stats)
        if axes and not has_axes:
            _require_averaged(stats, seen, module, tuple(axes))
        if not (modes or fields) and seen.training and not any(seen.training):
            warnings.warn(_at_rest(type(module)), stacklevel=2)
        return logits, stats

    return Model(init, apply)


def from_collections(collections: Mapping[str, Any]) -> Variables:
    """A Flax variables dict as `Variables`; ValueError for collections beside the two known."""
    others = sorted(set(collections) - {PARAMS, STATS})
    if others:
        raise ValueError(
            f"the collections {others} of a linen module have no place here, only {PARAMS!r} and "
            f"{STATS!r} have; wrap such a module with models.from_init_apply(..., stateful=True)"
        )
    return Variables(collections.get(PARAMS, {}), collections.get(STATS, {}))


def _mode_fields(module: nn.Module) -> Modes:
    names = {field.name for field in dataclasses.fields(module)}
    return tuple(item for item in IN_TRAINING.items() if item[0] in names)


def _require_averaged(stats: PyTree, seen: Seen, module: nn.Module, axes: tuple[str, ...]) -> None:
    """Raises ValueError for statistics that no averaging layer holds."""
    for path, _ in jax.tree_util.tree_leaves_with_path(stats):
        names = tuple(str(part.key) for part in path)
        if not any(names[: len(layer)] == layer for layer in seen.averaged):
            raise ValueError(_lines_to_add(type(module).__name__, "/".join(names), axes))


def _at_rest(kind: type) -> str:
    takes = ", ".join(
        name for name in inspect.signature(kind.__call__).parameters if name != "self"
    )
    return (
        f"{kind.__name__} trains with every nn.Dropout and nn.BatchNorm in evaluation mode: none "
        f"of what its __call__ takes ({takes}) is a keyword known for the mode; name it, "
        "models.from_linen(module, mode=...), unless this is meant"
    )


def _lines_to_add(module: str, statistic: str, axes: tuple[str, ...]) -> str:
    return (
        f"{module} keeps the statistic {statistic!r}, which is not nn.BatchNorm's, so it cannot be "
        f"averaged over the mapped axes {axes}. Add to {module}, and hand `axes` on to the layer:\n"
        "    axes: tuple[str, ...] = ()\n"
        "and where the layer has the mean of its batch:\n"
        "    if self.axes:\n"
        "        mean = jax.lax.pmean(mean, self.axes)"
    )
