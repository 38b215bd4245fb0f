"""`where` on a comparison with a constant: leaky ReLUs and hard clips as ReLUs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import checks
from jaxrobust.duals.graph import Node, Ref, Step
from jaxrobust.types import Array

_ABOVE = {"gt": True, "ge": True, "lt": False, "le": False}

Producers = Mapping[int, Step | Node]
Decomposition = tuple[Callable[..., Array], tuple[Any, ...]]


def decompose_select(
    producers: Producers, maxima: Mapping[int, tuple[Ref, Array]], operands: Sequence[Any]
) -> Decomposition | None:
    """A continuous two-piece `select_n` as a function without one, and that function's operands.

    Knows, for a threshold t known on the host: slopes on either side of t = 0 (leaky ReLU, PReLU),
    `where(z > t, z, t)`, `where(z > t, t, z)`, and the latter after the former (hard tanh). None
    for anything else, jumps at t among it.
    """
    predicate, *cases = operands
    found = _comparison(producers, predicate)
    if found is None or len(cases) != 2:
        return None
    z, threshold, above = found
    # select_n takes the case of False first
    below, beyond = cases if above else reversed(cases)
    slopes = [_slope(producers, case, z) for case in (below, beyond)]
    if _equal(threshold, 0) and None not in slopes:
        return _two_slopes, (z, *(jnp.asarray(s, z.dtype) for s in slopes))
    if isinstance(below, Ref) and below == z and _equal(beyond, threshold):
        return jnp.minimum, (z, beyond)
    if isinstance(beyond, Ref) and beyond == z and _equal(below, threshold):
        return jnp.maximum, (z, below)
    if isinstance(below, Ref) and below.id in maxima and _equal(beyond, threshold):
        base, floor = maxima[below.id]
        if base == z and checks.is_concrete(floor) and np.all(np.asarray(floor) <= threshold):
            return jnp.minimum, (below, beyond)
    return None


def _two_slopes(z: Array, below: Array, above: Array) -> Array:
    return below * z + (above - below) * jax.nn.relu(z)


def _comparison(producers: Producers, predicate: Any) -> tuple[Ref, Any, bool] | None:
    """(z, threshold, whether True means above) of a predicate that compares z to a constant."""
    step = producers.get(predicate.id) if isinstance(predicate, Ref) else None
    if not isinstance(step, Step) or step.primitive.name not in _ABOVE:
        return None
    above = _ABOVE[step.primitive.name]
    left, right = step.operands
    if isinstance(left, Ref) and checks.is_concrete(right):
        return left, np.asarray(right), above
    if isinstance(right, Ref) and checks.is_concrete(left):
        return right, np.asarray(left), not above
    return None


def _slope(producers: Producers, value: Any, z: Ref) -> Any:
    """s where `value` is s * z; None where it is not seen to be."""
    if isinstance(value, Ref) and value == z:
        return 1.0
    if not isinstance(value, Ref):
        return 0.0 if _equal(value, 0) else None
    step = producers.get(value.id)
    if isinstance(step, Step) and step.primitive.name == "mul" and step.sources == (z,):
        (factor,) = (o for o in step.operands if not isinstance(o, Ref))
        return factor
    return None


def _equal(value: Any, number: Any) -> bool:
    """Whether `value` is a constant known on the host and everywhere equal to `number`."""
    return checks.is_concrete(value) and bool(np.all(np.asarray(value) == np.asarray(number)))
