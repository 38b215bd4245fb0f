"""The Euclidean projection onto a local Wasserstein ball, without entropy, and its certificate."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import checks
from jaxrobust.sinkhorn.dual import Problem, shortfall
from jaxrobust.sinkhorn.feasibility import make_feasible
from jaxrobust.sinkhorn.linear import vertices
from jaxrobust.sinkhorn.newton import maximize
from jaxrobust.sinkhorn.problem import ProjectionInfo, pose, require_precision
from jaxrobust.sinkhorn.projected import MILD, cold, spread
from jaxrobust.sinkhorn.window import Layout
from jaxrobust.types import Array, Scalar

_SHARPNESS = {4: 4e3, 8: 1e5}
"""The spread of exponents to end with, by bytes per number: what their rounding allows."""


class ExactProjection(NamedTuple):
    """An image of ball and box, and how much nearer to the target any other can be."""

    z: Array
    gap: Array
    """|w - z|^2 / 2 is at most this above its least value, so |z - z*|_2 <= sqrt(2 gap)."""
    info: ProjectionInfo


def exact_projection(
    x: Array,
    w: Array,
    *,
    radius: Scalar,
    cost: Array,
    upper: Scalar = np.inf,
    tolerance: Scalar = 1e-3,
    steps: int = 200,
) -> ExactProjection:
    """The point nearest to `w` in the ball of local transport cost <= `radius` around `x`.

    Minimizes |w - z|^2 / 2 over the ball of `projected` without its entropy (the projection that
    Wu, Wang and Yu, 2020, "Stronger and faster Wasserstein adversarial attacks", arXiv:2008.02883,
    solve for by nested bisection). Here `projected`'s dual is followed to a sharpness at which the
    entropy hardly counts, and the result is certified: `gap` bounds what it leaves on the table by
    the dual without entropy. Measured on MNIST in float32: gap / objective 1e-4 to 1e-3.

    Not differentiable.

    Args:
      x: the clean image, `[H, W]` or `[H, W, C]`, nonnegative, as in `projected`.
      w: the target, of `x`'s shape and in its units.
      cost: the window `[rows, columns]` of transport costs, as in `projected`.
      radius, upper, tolerance, steps: as in `projected`.

    Returns:
      An `ExactProjection`: `z`, the point, of `x`'s shape and units, in ball and box whatever
      `info.converged` says; `gap`, a scalar in `x`'s units squared, by which |w - z|^2 / 2 may be
      above its least value; and `info`, the evidence for the entropic problem, scalars.

    Raises:
      ValueError: images of half precision, and as `projected`, for the arguments that they share.
    """
    checks.at_least("steps", steps, 1)
    checks.positive("tolerance", tolerance)
    x, w = jax.lax.stop_gradient((jnp.asarray(x), jnp.asarray(w)))
    require_precision(x)
    posed = pose(x, w, radius=radius, lam=1.0, cost=cost, upper=upper)
    layout, problem = posed.layout, posed.problem
    dtype = problem.x.dtype
    width = jnp.maximum(spread(problem), jnp.finfo(dtype).tiny)
    entropic = problem._replace(lam=jnp.asarray(_SHARPNESS[dtype.itemsize], dtype) / width)
    end = maximize(
        layout,
        entropic,
        cold(entropic),
        first=MILD / width,
        tolerance=jnp.asarray(tolerance, dtype),
        steps=steps,
        skip=posed.trivial,
    )
    found = make_feasible(
        posed._replace(problem=entropic),
        end.dual.at,
        end.dual.logs,
        iterations=end.iterations,
        products=end.products,
        residual=end.residual,
        converged=end.converged,
    )
    moved = layout.lines(found.z - x) / posed.mass
    gap = certify(layout, problem, end.dual.at.beta / end.lam, moved)
    return ExactProjection(found.z, jnp.where(posed.trivial, 0, posed.mass**2 * gap), found.info)


def certify(layout: Layout, problem: Problem, prices: Array, moved: Array) -> Array:
    """The duality gap of the displacement `moved` with `prices`, one per pixel.

    |step - moved|^2 / 2 less the dual value

        min_{d <= room} (|step - d|^2 / 2 + <prices, d>) - max_{d in the ball} <prices, d>,

    in displacements from x; the second part is `linear_maximizer`'s, so that the price of
    transport is the best for these `prices`. Summed term by term: each is a small difference.
    """
    _, best = vertices(layout, problem, prices)
    to = problem.step - shortfall(problem._replace(lam=jnp.ones_like(best)), prices)
    terms = (to - moved) * (problem.step - (to + moved) / 2) - prices * to
    return jnp.sum(terms) + best
