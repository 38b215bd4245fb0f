"""What training costs: arithmetic, and the share of the machine's best."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrobust.data import Dataset

from ..common.arithmetic import jax_peak
from ..common.recipes import Recipe
from ..common.runner import network

LARGE = 8192
"""Side of the matrices that show an accelerator's peak."""


def forward_flops(recipe: Recipe, dataset: Dataset) -> float:
    """Operations of one image's forward pass as it is compiled here, as XLA counts them.

    On a CPU convolutions may multiply some rows at the image's edge more than there are windows.
    """
    model = network(recipe.model, recipe.dtype, dataset, recipe.model_options)
    image = jax.ShapeDtypeStruct(dataset.shape, jnp.float32)
    batch = jax.ShapeDtypeStruct((1, *dataset.shape), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), batch)
    lowered = jax.jit(lambda v, x: model.logits_fn(v)(x)).lower(variables, image)
    return float(lowered.cost_analysis()["flops"])


def peak(dtype: str) -> float:
    """Operations a second of a square matrix product in `dtype` on one device, measured now."""
    if jax.default_backend() == "cpu":
        return jax_peak(dtype)
    return jax_peak(dtype, size=LARGE)
