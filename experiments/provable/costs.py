"""Time and memory of exact and projected bounds against the number of hidden units: figure 3.20."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.duals.bounds import margin_bounds
from jaxrobust.duals.projections import projected_margin_bounds
from jaxrobust.models import from_linen
from jaxrobust.models.convnet import ConvNet
from jaxrobust.threats import Linf
from jaxrobust.types import Array, Key, ThreatModel, Variables

REPEATS = 3


def cost_rows(filters: Sequence[int], samples: int, shape: tuple[int, ...]) -> list[dict[str, Any]]:
    """Milliseconds per example and megabytes of the bounds of random networks, a row per width.

    Two 3 x 3 convolutions with as many filters, then 10 logits: units that see the input have
    bounds in closed form, so a second layer is needed to tell the methods apart. One image at a
    time; memory is what the compiled program asks for beside its arguments and results.
    """
    rows = []
    for count in filters:
        module = ConvNet(((count, 3, 1), (count, 3, 1)), ())
        model = from_linen(module)
        x = jax.random.uniform(jax.random.key(0), shape)
        variables = _drawn(jax.eval_shape(model.init, jax.random.key(1), x[None]))

        def exact(key: Key, variables: Variables, x: Array, threat: ThreatModel) -> Array:
            del key
            f = model.logits_fn(variables)  # noqa: B023
            return margin_bounds(f, x, jnp.int32(0), threat, methods=("wong_kolter",))

        def projected(key: Key, variables: Variables, x: Array, threat: ThreatModel) -> Array:
            f = model.logits_fn(variables)  # noqa: B023
            return projected_margin_bounds(key, f, x, jnp.int32(0), threat, samples=samples)

        row: dict[str, Any] = {"method": f"{count} filters"}
        row["hidden units"] = 2 * count * int(np.prod(shape[:2]))
        arguments = (jax.random.key(2), variables, x, Linf(0.1))
        for name, bound in (("exact", exact), ("projected", projected)):
            row[f"{name} ms"], row[f"{name} MB"] = _cost(bound, arguments)
        rows.append(row)
    return rows


def _drawn(shapes: Variables) -> Variables:
    """Normal numbers; drawn on the host, as a network's own start takes seconds to compile."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: jnp.asarray(0.1 * rng.normal(size=s.shape), s.dtype), shapes)


def _cost(bound: Callable[..., Array], arguments: tuple) -> tuple[float, float]:
    """Milliseconds (the least of several calls) and megabytes of temporaries."""
    program = jax.jit(bound).lower(*arguments).compile()
    program(*arguments).block_until_ready()
    seconds = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        program(*arguments).block_until_ready()
        seconds.append(time.perf_counter() - began)
    return 1e3 * min(seconds), program.memory_analysis().temp_size_in_bytes / 2**20
