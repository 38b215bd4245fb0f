"""The Wright omega function W(exp(y)), by which the block iteration's beta step is solved."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrobust.types import Array

_ITERATIONS = 3


@jax.custom_jvp
def wright_omega(y: Array) -> Array:
    """omega(y) = W(exp(y)), W the principal Lambert function: the root of omega + log omega = y.

    Real `y` of any shape and floating dtype, nothing of which overflows: the released code of
    Wong, Schmidt and Kolter (2019, "Wasserstein adversarial examples via projected Sinkhorn
    iterations", arXiv:1902.07906) forms exp(y) and does from y = 88 on in float32. Three of the
    quartic iterations of Fritsch, Shafer and Crowley (1973, "Algorithm 443"), on omega itself for
    y > 0 and on omega / exp(y) otherwise, which is accurate to rounding in both tails. 0 at
    -inf, inf at inf, NaN at NaN. Differentiable: omega' = omega / (1 + omega).
    """
    large = y > 0
    scale = jnp.where(large, 1, jnp.exp(jnp.minimum(y, 0)))
    rest = jnp.where(large, y, 0)
    high = jnp.where(y > 1, y - jnp.log(jnp.maximum(y, 1)), (1 + rest) / 2)
    ratio = jnp.where(large, high, 1 / (1 + scale))

    for _ in range(_ITERATIONS):
        omega = scale * ratio
        r = rest - omega - jnp.log(ratio)
        above = 1 + omega
        near = 2 * above * (above + 2 * r / 3)
        ratio = ratio * (1 + r / above * (1 + r / (near - 2 * r)))
    return jnp.where(jnp.isposinf(y) | jnp.isnan(y), y, scale * ratio)


@wright_omega.defjvp
def _wright_omega_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    omega = wright_omega(primals[0])
    # omega / (1 + omega) in a form that is 1, not NaN, at infinity
    slope = jnp.where(
        omega > 1, 1 / (1 + 1 / jnp.maximum(omega, 1)), omega / (1 + jnp.minimum(omega, 1))
    )
    return omega, slope * tangents[0]
