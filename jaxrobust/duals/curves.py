"""Smooth and piecewise functions that bounds know: where each is convex and where concave."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxrobust.duals.envelopes import Curve, Piece, pieces
from jaxrobust.duals.sigmoidal import log1p
from jaxrobust.types import Array

_CONVEX, _CONCAVE = pieces((), (1,)), pieces((), (-1,))
_S_SHAPED = pieces((0.0,), (1, -1))
_FARTHEST = 100.0
"""Beyond, where sine and cosine bend is no longer known to rounding."""


def _slope(h: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """h' for elementwise h."""
    return lambda z: jax.jvp(h, (z,), (jnp.ones_like(z),))[1]


def _below(least: float) -> Callable[[Array, Array], Array]:
    """Whether a box reaches below `least`, or to within underflow of it."""
    return lambda l, u: l < least + jnp.finfo(l.dtype).tiny  # noqa: E741


def _negative(l: Array, u: Array) -> Array:  # noqa: E741
    del u
    return l < 0


def _around_zero(l: Array, u: Array) -> Array:  # noqa: E741
    tiny = jnp.finfo(l.dtype).tiny
    return (l < tiny) & (u > -tiny)


def _sqrt_slope(z: Array) -> Array:
    return 0.5 / jnp.sqrt(jnp.maximum(z, jnp.finfo(z.dtype).tiny))


def _gelu(z: Array) -> Array:
    return jax.nn.gelu(z, approximate=False)


def _gelu_tanh(z: Array) -> Array:
    """As `jax.nn.gelu`; (1 + tanh u) / 2 cancels where sigmoid(2 u) does not."""
    steep = np.sqrt(2 / np.pi).astype(z.dtype)
    return _silu_of(z, 2 * steep * (z + 0.044715 * lax.integer_pow(z, 3)))


def _silu_of(z: Array, t: Array) -> Array:
    """z sigmoid(t)."""
    small = jnp.exp(-jnp.abs(t))
    return z * jnp.where(t > 0, 1, small) / (1 + small)


def _silu(z: Array) -> Array:
    return _silu_of(z, z)


def _mish(z: Array) -> Array:
    """z tanh(log(1 + e^z)), in powers of e^-|z|."""
    e = jnp.exp(-jnp.abs(z))
    return z * jnp.where(
        z > 0, (1 + 2 * e) / (1 + 2 * e * (1 + e)), e * (e + 2) / (e * (e + 2) + 2)
    )


def _hard_silu_slope(z: Array) -> Array:
    return jnp.where(jnp.abs(z) <= 3, z / 3 + 0.5, (z > 0).astype(z.dtype))


def _soft_sign(z: Array) -> Array:
    return z / (1 + jnp.abs(z))


def _squareplus(z: Array) -> Array:
    """(z + sqrt(z^2 + 4)) / 2, which cancels below 0."""
    root = jnp.abs(z) / 2 + jnp.sqrt(z * z / 4 + 1)
    return jnp.where(z > 0, root, 1 / root)


def _periodic(start: float) -> Callable[[Array, Array], list[Piece]]:
    """Pieces of length pi, the one from `start` on concave, for boxes that are not `_far`."""

    def between(l: Array, u: Array) -> list[Piece]:  # noqa: E741
        turn = jnp.floor((l - start) / np.pi)
        sign = jnp.where(turn % 2 == 0, -1, 1)
        first, second = (jnp.clip(start + (turn + k) * np.pi, l, u) for k in (1, 2))
        return [(l, first, sign), (first, second, -sign), (second, u, sign)]

    return between


def _far(l: Array, u: Array) -> Array:  # noqa: E741
    return (u - l > 6) | (jnp.maximum(-l, u) > _FARTHEST)


_TABLE = {
    "exp": Curve(jnp.exp, jnp.exp, _CONVEX, least=0),
    "expm1": Curve(jnp.expm1, jnp.exp, _CONVEX),
    "exp2": Curve(jnp.exp2, _slope(jnp.exp2), _CONVEX, least=0),
    "log": Curve(jnp.log, lambda z: 1 / z, _CONCAVE, _below(0)),
    "log1p": Curve(log1p, lambda z: 1 / (1 + z), _CONCAVE, lambda l, u: l <= -1),  # noqa: E741
    "sqrt": Curve(jnp.sqrt, _sqrt_slope, _CONCAVE, _negative, least=0),
    "rsqrt": Curve(lax.rsqrt, lambda z: -0.5 * lax.rsqrt(z) / z, _CONVEX, _below(0), least=0),
    "square": Curve(jnp.square, lambda z: 2 * z, _CONVEX, least=0),
    "sin": Curve(jnp.sin, jnp.cos, _periodic(0.0), _far, (-1.0, 1.0)),
    "cos": Curve(jnp.cos, lambda z: -jnp.sin(z), _periodic(-np.pi / 2), _far, (-1.0, 1.0)),
    "erf": Curve(lax.erf, _slope(lax.erf), _S_SHAPED),
    "erfc": Curve(lax.erfc, _slope(lax.erfc), pieces((0.0,), (-1, 1)), least=0),
    "atan": Curve(jnp.arctan, lambda z: 1 / (1 + z * z), _S_SHAPED),
    "gelu": Curve(_gelu, _slope(_gelu), pieces((-np.sqrt(2), np.sqrt(2)), (-1, 1, -1))),
    "gelu_tanh": Curve(
        _gelu_tanh, _slope(_gelu_tanh), pieces((-1.4185040, 1.4185040), (-1, 1, -1))
    ),
    "silu": Curve(
        _silu, _slope(_silu), pieces((-2.3993572805154677, 2.3993572805154677), (-1, 1, -1))
    ),
    "mish": Curve(
        _mish, _slope(_mish), pieces((-2.2563763963607931, 1.4905711794854285), (-1, 1, -1))
    ),
    "hard_silu": Curve(
        lambda z: z * jnp.clip(z + 3, 0, 6) / 6, _hard_silu_slope, pieces((-3.0, 3.0), (0, 1, 0))
    ),
    "soft_sign": Curve(_soft_sign, lambda z: 1 / (1 + jnp.abs(z)) ** 2, _S_SHAPED),
    "squareplus": Curve(
        _squareplus, lambda z: _squareplus(z) / jnp.sqrt(z * z + 4), _CONVEX, least=0
    ),
}


@functools.cache
def curve(kind: str) -> Curve | None:
    """The curve of a kind of node, such as "sin", "power 3" or "elu 0.5"; None if it has none."""
    if kind in _TABLE:
        return _TABLE[kind]
    name, _, number = kind.partition(" ")
    return _FAMILIES[name](float(number)) if name in _FAMILIES and number else None


def _power(p: float) -> Curve:
    """z^p, for whole p on both sides of 0, else above 0."""
    whole = float(p).is_integer()

    def value(z: Array) -> Array:
        return lax.integer_pow(z, int(p)) if whole else jnp.power(z, p)

    def slope(z: Array) -> Array:
        if whole:
            return p * lax.integer_pow(z, int(p) - 1)
        # at 0 itself a slope may be infinite
        return p * jnp.power(jnp.maximum(z, jnp.finfo(z.dtype).tiny), p - 1)

    if not whole:
        shape = _CONCAVE if 0 < p < 1 else _CONVEX
        return Curve(value, slope, shape, _negative if p > 0 else _below(0), least=0)
    if p < 0:
        odd = pieces((0.0,), (-1, 1)) if p % 2 else pieces((0.0,), (1, 1))
        return Curve(value, slope, odd, _around_zero, least=-jnp.inf if p % 2 else 0)
    if p % 2:
        return Curve(value, slope, pieces((0.0,), (-1, 1)))
    return Curve(value, slope, _CONVEX, least=0)


def _elu(a: float) -> Curve:
    def value(z: Array) -> Array:
        return jnp.where(z > 0, z, a * jnp.expm1(jnp.minimum(z, 0)))

    def slope(z: Array) -> Array:
        return jnp.where(z > 0, 1, a * jnp.exp(jnp.minimum(z, 0)))

    return Curve(value, slope, pieces((0.0,), (1 if a >= 0 else -1, 0)))


def _celu(a: float) -> Curve:
    def value(z: Array) -> Array:
        return jnp.maximum(z, 0) + a * jnp.expm1(jnp.minimum(z, 0) / a)

    def slope(z: Array) -> Array:
        return jnp.where(z > 0, 1, jnp.exp(jnp.minimum(z, 0) / a))

    return Curve(value, slope, pieces((0.0,), (1 if a > 0 else -1, 0)))


_FAMILIES = {"power": _power, "elu": _elu, "celu": _celu}
