"""Conjugate Sinkhorn: an entropic maximizer of a linear function over a local Wasserstein ball."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from jaxrobust.sinkhorn.budget_multiplier import budget_multiplier
from jaxrobust.sinkhorn.dual import Duals, partition, spending
from jaxrobust.sinkhorn.feasibility import make_feasible
from jaxrobust.sinkhorn.problem import Projection, pose, require_shape
from jaxrobust.types import Array, Scalar


def conjugate(x: Array, y: Array, *, radius: Scalar, lam: Scalar, cost: Array) -> Projection:
    """Maximizes lam `<y, z>` plus the plan's entropy over z with local transport cost <= radius.

    Here x and z are in units of `x`'s mass. The optimal plan is P_{i, delta} =
    x_i softmax_delta(lam y_{i+delta} - psi C_delta), and only the price psi >= 0 of transport is
    searched for. Wong's thesis, equations 5.24 to 5.27 (beta fixed at lam y), whose objective has
    the sign opposite to equation 5.23: pass -y for the minimizer. There psi takes Newton steps on
    the cost; here on its logarithm, in a bracket.

    Not differentiable. `linear_maximizer` is the version without entropy.

    Args:
      x: the clean image, `[H, W]` or `[H, W, C]`, nonnegative, of any total.
      y: the coefficients of the linear function, of `x`'s shape.
      radius, lam: as in `projected`.
      cost: the window `[rows, columns]` of transport costs, as in `projected`.

    Returns:
      A `Projection`: `z`, the image, of `x`'s shape and in its units, with its mass and without an
      upper bound on pixels; `info`, scalars, of which `iterations` counts evaluations, `products`
      and `residual` are 0, and `converged`, bool, tells whether the budget is spent, or psi is 0
      and the budget kept, or the image is `x` itself; and `duals`, of which `beta` is lam y, of
      `x`'s shape, and `psi` is a scalar. Where `y` is 0 within reach of all of `x`'s mass the image
      is `x` itself, as it is for a radius of 0.

    Raises:
      ValueError: a `y` that has not `x`'s shape, and as `projected`, for the arguments that they
        share.
    """
    require_shape("y", y, x)
    x, y = jax.lax.stop_gradient((x, jnp.asarray(y)))
    posed = pose(x, jnp.asarray(x), radius=radius, lam=lam, cost=cost)
    layout, problem = posed.layout, posed.problem
    beta = problem.lam * layout.lines(jnp.asarray(y, problem.x.dtype))

    def spent(psi: Array) -> tuple[Array, Array]:
        return spending(layout, problem, Duals(beta, psi))

    found = budget_multiplier(
        spent, problem.radius, jnp.ones_like(problem.radius), skip=posed.trivial
    )
    cost_then, _ = spent(found.psi)
    near = jnp.abs(cost_then - problem.radius) <= 1e-3 * problem.radius
    nearby = functools.reduce(jnp.maximum, layout.shifts(jnp.abs(beta)))
    blind = ~jnp.any((problem.x > 0) & ~(nearby == 0))
    none = jnp.asarray(0, jnp.int32)
    end = Duals(beta, found.psi)
    return make_feasible(
        posed._replace(trivial=posed.trivial | blind),
        end,
        partition(layout, problem.cost, end),
        iterations=found.iterations,
        products=none,
        residual=jnp.zeros_like(problem.radius),
        converged=posed.trivial | blind | near | ((found.psi == 0) & (cost_then <= problem.radius)),
    )
