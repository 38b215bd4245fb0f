"""Projected Sinkhorn iteration: the published block ascent on the dual."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import checks
from jaxrobust.sinkhorn.dual import Duals, moves, partition, shares
from jaxrobust.sinkhorn.feasibility import make_feasible
from jaxrobust.sinkhorn.problem import Projection, pose, require_start
from jaxrobust.sinkhorn.residuals import residuals
from jaxrobust.sinkhorn.window import total
from jaxrobust.sinkhorn.wright_omega import wright_omega
from jaxrobust.types import Array, Scalar


class _State(NamedTuple):
    duals: Duals
    logs: Array
    residual: Array
    converged: Array
    rounds: Array


def block_ascent(
    x: Array,
    w: Array,
    *,
    radius: Scalar,
    lam: Scalar,
    cost: Array,
    upper: Scalar = np.inf,
    start: Duals | None = None,
    tolerance: Scalar = 1e-4,
    steps: int = 2000,
) -> Projection:
    """The problem of `projected`, solved as published: a slower and independent second solver.

    Wong's thesis, algorithm 8 (Wong, Schmidt and Kolter, 2019, arXiv:1902.07906). A round sets,
    in the signs of the thesis,

        alpha = log x - log(K exp(beta)),  K = exp(-psi C - 1)
        beta = lam w - omega(lam w + log(lam K^T exp(alpha)))
        psi <- psi + t (<P, C> - eps) / <P, C^2>,  t = 1 halved until psi >= 0,

    from beta = log(1/n) and psi = 1. Deviations: omega is formed in the log domain
    (`wright_omega`), where the released float32 code overflows near lam w = 88; plans are
    evaluated with the row multiplier alpha eliminated, so that pixels without mass need no
    log 0; the stopping test is `projected`'s, on the residuals of columns and budget, where the
    released one compares values of an objective called with two arguments exchanged; where z would
    exceed `upper` the beta step puts it there. The image is made feasible as `projected`'s is.

    Not differentiable.

    Args:
      x: the clean image, `[H, W]` or `[H, W, C]`, nonnegative, as in `projected`.
      w: the target, of `x`'s shape and in its units.
      cost: the window `[rows, columns]` of transport costs, as in `projected`.
      radius, lam, upper, start, tolerance: as in `projected`.
      steps: the most rounds.

    Returns:
      A `Projection`, as `projected` returns it: `z`, the image, of `x`'s shape and units; `info`,
      scalars, of which `iterations` counts rounds and `products` is 0; and `duals`, the
      multipliers, of which `beta` has the image's shape and `psi` is a scalar.

    Raises:
      ValueError: as `projected`.
    """
    checks.at_least("steps", steps, 1)
    checks.positive("tolerance", tolerance)
    if start is not None:
        require_start(start, x)
    x, w = jax.lax.stop_gradient((x, w))
    posed = pose(x, w, radius=radius, lam=lam, cost=cost, upper=upper)
    layout, problem = posed.layout, posed.problem
    target = problem.x + problem.step
    tolerance = jnp.asarray(tolerance, target.dtype)

    def unfinished(s: _State) -> Array:
        return ~s.converged & (s.rounds < steps)

    def advance(s: _State) -> _State:
        beta, psi = s.duals
        share = shares(layout, problem.cost, s.duals, s.logs)
        now = moves(layout, problem, share)
        r = residuals(layout, problem, s.duals, share, now, held=False)
        converged = r.within(tolerance)

        # K^T exp(alpha) is column sums over exp(beta), the rows of these plans being exact.
        columns = problem.x + now.moved
        tiny = jnp.finfo(columns.dtype).tiny
        columns = jnp.maximum(columns, tiny)
        reach = jnp.log(columns) - beta
        lam, most = problem.lam, problem.x + problem.room
        z = wright_omega(lam * target + jnp.log(lam) + reach) / lam
        bound = z > most
        free = lam * (target - z)
        beta = jnp.where(bound, jnp.log(jnp.maximum(most, tiny)) - reach, free)

        # With the new beta the mass that arrives at a pixel is z (the row sums wait for alpha).
        arrivals = layout.arrivals(share, problem.x)
        growth = jnp.minimum(z, most) / columns
        paid = total(c * a for c, a in zip(problem.cost, arrivals, strict=True))
        squares = total(c * c * a for c, a in zip(problem.cost, arrivals, strict=True))
        rise = (jnp.sum(growth * paid) - problem.radius) / jnp.sum(growth * squares)
        t = jax.lax.while_loop(lambda t: psi + t * rise < 0, lambda t: t / 2, jnp.ones_like(psi))
        end = Duals(
            jnp.where(converged, s.duals.beta, beta), jnp.where(converged, psi, psi + t * rise)
        )
        return _State(
            end,
            partition(layout, problem.cost, end),
            r.columns,
            converged,
            s.rounds + jnp.where(converged, 0, 1),
        )

    pixels = jnp.full_like(problem.x, -np.log(x.size))
    one = jnp.ones((), pixels.dtype)
    begin = Duals(pixels, one) if start is None else Duals(layout.lines(start.beta), start.psi)
    none = jnp.asarray(0, jnp.int32)
    logs = partition(layout, problem.cost, begin)
    state = _State(begin, logs, 0 * one, posed.trivial, none)
    end = jax.lax.while_loop(unfinished, advance, state)
    return make_feasible(
        posed,
        end.duals,
        end.logs,
        iterations=end.rounds,
        products=none,
        residual=end.residual,
        converged=end.converged,
    )
