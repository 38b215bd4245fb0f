"""From a Flax linen module to the two pure functions the library asks for."""

from __future__ import annotations

import inspect
from typing import Any

import flax.linen as nn

from jaxrobust.types import Array, Key, Model, PyTree, Variables


def from_linen(module: nn.Module) -> Model:
    """Wraps a linen classifier, `[B, ...]` -> logits `[B, K]`, as a `Model`.

    The module may take a keyword `train`, hold the collections "params" and "batch_stats", draw
    from the stream "dropout", and have a field `axes`, which training mode sets to the mapped
    axes that batch statistics are averaged over. None of these is required.

    Under `vmap(..., axis_name="examples")` over batches of one with `axes=("examples",)`, batch
    statistics equal those of the whole batch, so the gradient of the summed per-example losses is
    that of the batch loss. `apply` is as differentiable as the module. In training mode it raises
    ValueError where `axes` are named but a module with batch statistics has no field `axes`, and
    Flax's own error where the module draws dropout and `key` is None.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxrobust import models
      >>> model = models.from_linen(models.build("mlp", 3, {"widths": (4,)}))
      >>> variables = model.init(jax.random.key(0), jnp.zeros((1, 2, 2, 1)))
      >>> model.logits_fn(variables)(jnp.zeros((2, 2, 1))).shape
      (3,)
    """
    takes_train = "train" in inspect.signature(type(module).__call__).parameters
    has_axes = hasattr(module, "axes")

    def init(key: Key, x: Array) -> Variables:
        mode: dict[str, Any] = {"train": False} if takes_train else {}
        collections = module.init(key, x, **mode)
        return Variables(collections.get("params", {}), collections.get("batch_stats", {}))

    def apply(
        variables: Variables,
        x: Array,
        *,
        train: bool = False,
        key: Key | None = None,
        axes: tuple[str, ...] = (),
    ) -> tuple[Array, PyTree]:
        collections: dict[str, Any] = {"params": variables.params}
        if variables.stats:
            collections["batch_stats"] = variables.stats
        mode: dict[str, Any] = {"train": train} if takes_train else {}
        rngs = {} if key is None else {"dropout": key}
        if not train:
            logits: Any = module.apply(collections, x, **mode, rngs=rngs)
            return logits, variables.stats
        if axes and variables.stats and not has_axes:
            raise ValueError(
                f"{type(module).__name__} has batch statistics but no field `axes`, so they cannot "
                f"be averaged over the mapped axes {tuple(axes)}; add `axes: tuple[str, ...] = ()` "
                "and pass it to nn.BatchNorm as axis_name"
            )
        network = module.clone(axes=tuple(axes)) if has_axes else module
        logits, renewed = network.apply(collections, x, **mode, mutable=["batch_stats"], rngs=rngs)
        return logits, renewed.get("batch_stats", variables.stats)

    return Model(init, apply)
