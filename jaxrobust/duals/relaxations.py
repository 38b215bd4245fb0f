"""Relaxations: two lines around an elementwise nonlinearity on [l, u], one free in its slope."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust import checks
from jaxrobust.duals import products, sigmoidal
from jaxrobust.duals.curves import curve
from jaxrobust.duals.envelopes import curve_lines, curve_range
from jaxrobust.duals.jaxpr_calls import function_fingerprint
from jaxrobust.duals.lines import Lines, chord, thin
from jaxrobust.types import Array


class Relaxation(NamedTuple):
    """What bounds need to know of an elementwise nonlinearity. All arrays have the node's shape.

    (A product takes pairs, along a first axis that its values and the lines' intercepts lack.)

    Values must hold for every l <= u, also for l = u and for |l|, |u| up to an eighth of the
    largest float. NaN bounds are the caller's matter (`relaxed_network.relax`).
    """

    function: Callable[..., Array]
    """h(z, *args); differentiable almost everywhere."""
    lines: Callable[..., Lines]
    """(l, u, alpha, *args) -> lines below and above h on [l, u]. Any alpha in [0, 1] is sound.
    alpha None asks for parallel lines (Wong-Kolter); return the very same array as both slopes
    and one backward pass serves lower and upper bounds."""
    adaptive: Callable[..., Array]
    """(l, u, *args) -> the alpha of CROWN."""
    range: Callable[..., tuple[Array, Array]] | None = None
    """(l, u, *args) -> least and largest value of h on [l, u]; None where h never falls."""
    polygonal: bool = False
    """Whether the lines' slopes are 0, 1, alpha or those of chords, not rounded derivatives, which
    are allowed to be off by a few machine epsilons of max(1, |slope|)."""
    limited: bool = False
    """Whether there are boxes on which h is not defined, and its lines infinite."""

    def interval(self, lower: Array, upper: Array, *args: Array) -> tuple[Array, Array]:
        """The interval that h maps [lower, upper] onto (or into)."""
        if self.range is None:
            return self.function(lower, *args), self.function(upper, *args)
        return self.range(lower, upper, *args)


def _relu_lines(l: Array, u: Array, alpha: Array | None) -> Lines:  # noqa: E741
    crossing = (l < 0) & (u > 0)
    narrow = thin(l, u)
    upper = jnp.where(u <= 0, 0, jnp.where(l >= 0, 1, u / jnp.where(crossing & ~narrow, u - l, 1)))
    upper = jnp.where(crossing & narrow, 0, upper)
    intercept = jnp.where(crossing, jnp.where(narrow, u, -l * upper), 0)
    lower = upper if alpha is None else jnp.where(crossing, alpha, upper)
    return Lines(lower, jnp.zeros_like(l), upper, intercept)


def _relu_adaptive(l: Array, u: Array) -> Array:  # noqa: E741
    return (u >= -l).astype(l.dtype)


def _clip(z: Array, floor: Array, ceiling: Array) -> Array:
    return jnp.minimum(jnp.maximum(z, floor), ceiling)


def _clip_lines(
    l: Array,  # noqa: E741
    u: Array,
    alpha: Array | None,
    floor: Array,
    ceiling: Array,
) -> Lines:
    floor = jnp.minimum(floor, ceiling)
    low, high = _clip(l, floor, ceiling), _clip(u, floor, ceiling)
    slope, chord_below, chord_above = chord(l, u, low, high)
    # a kink inside [l, u] frees the line through it, up to where it meets the function again
    bends_up, bends_down = (l < floor) & (u > floor), (l < ceiling) & (u > ceiling)
    steepest_lower = (high - floor) / jnp.where(bends_up, u - floor, 1)
    steepest_upper = (ceiling - low) / jnp.where(bends_down, ceiling - l, 1)
    if alpha is None:
        both = jnp.minimum(steepest_lower, steepest_upper)
        lower = upper = jnp.where(bends_up & bends_down, both, slope)
    else:
        lower = jnp.where(bends_up, alpha * steepest_lower, slope)
        upper = jnp.where(bends_down, alpha * steepest_upper, slope)
    below = jnp.where(bends_up, floor * (1 - lower), chord_below)
    above = jnp.where(bends_down, ceiling * (1 - upper), chord_above)
    return Lines(lower, below, upper, above)


def _clip_adaptive(l: Array, u: Array, floor: Array, ceiling: Array) -> Array:  # noqa: E741
    return (u - floor >= floor - l).astype(l.dtype)


_BUILT_IN = {
    "relu": Relaxation(jax.nn.relu, _relu_lines, _relu_adaptive, polygonal=True),
    "clip": Relaxation(_clip, _clip_lines, _clip_adaptive, polygonal=True),
    "tanh": Relaxation(jnp.tanh, sigmoidal.tanh_lines, sigmoidal.middle),
    "softplus": Relaxation(
        jax.nn.softplus, sigmoidal.softplus_lines, sigmoidal.middle, sigmoidal.softplus_range
    ),
    "product": Relaxation(
        products.product, products.product_lines, sigmoidal.middle, products.product_range
    ),
}
_REGISTRY: dict[str, Relaxation] = dict(_BUILT_IN)


def register(kind: str, relaxation: Relaxation) -> None:
    """Teaches tracing an activation: calls whose program is `relaxation.function`'s become nodes.

    The function takes one array, and the model must call it as a unit: decorate it with `jax.jit`
    (most of `jax.nn` is). Registering a kind again replaces it.

    Raises:
      ValueError: `kind` is one of the library's own or no name, or `relaxation` no `Relaxation`.
    """
    if not isinstance(kind, str) or not kind:
        raise ValueError(f"a kind of node is a name, got {kind!r}")
    if not isinstance(relaxation, Relaxation):
        raise ValueError(f"an activation is taught by a duals.Relaxation, got {relaxation!r}")
    if kind in _BUILT_IN or curve(kind) is not None:
        known = ", ".join(sorted(_BUILT_IN))
        raise ValueError(f"{kind!r} is one of the library's own ({known}); choose another name")
    _REGISTRY[kind] = relaxation


def relaxation(kind: str) -> Relaxation:
    """The registered relaxation of a node's kind.

    Args:
      kind: the name of one of the library's own kinds, or of one that was registered.

    Returns:
      The `Relaxation`: the function, its lines, CROWN's slopes and its range.

    Raises:
      ValueError: no relaxation of this kind is registered.
    """
    if kind not in _REGISTRY:
        curved = _curved(kind)
        if curved is not None:
            return curved
    checks.choice("kind of node", kind, _REGISTRY)
    return _REGISTRY[kind]


@functools.cache
def _curved(kind: str) -> Relaxation | None:
    """The relaxation of a kind that has a curve."""
    found = curve(kind)
    if found is None:
        return None
    return Relaxation(
        found.value,
        functools.partial(curve_lines, found),
        sigmoidal.middle,
        functools.partial(curve_range, found),
        limited=found.beyond is not None and found.limits == (-jnp.inf, jnp.inf),
    )


def recognize(program: Any, shape: tuple[int, ...], dtype: Any) -> str | None:
    """The kind whose function, at this shape, is the program of this fingerprint."""
    for kind, known in _REGISTRY.items():
        # relu, clip and tanh are found by their operations, however they are spelled
        unit = kind == "softplus" or kind not in _BUILT_IN
        if unit and function_fingerprint(known.function, shape, dtype) == program:
            return kind
    return None
