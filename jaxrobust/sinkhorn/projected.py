"""Projected Sinkhorn: the entropic projection onto a local Wasserstein ball."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import checks
from jaxrobust.sinkhorn.budget_multiplier import resting_multiplier
from jaxrobust.sinkhorn.dual import Duals, Problem
from jaxrobust.sinkhorn.feasibility import make_feasible
from jaxrobust.sinkhorn.implicit import implicit
from jaxrobust.sinkhorn.newton import maximize
from jaxrobust.sinkhorn.problem import Projection, pose, require_start
from jaxrobust.types import Array, Scalar

MILD = 10.0
"""The spread of exponents that a cold start takes on at once; sharper problems are approached."""


def projected(
    x: Array,
    w: Array,
    *,
    radius: Scalar,
    lam: Scalar,
    cost: Array,
    upper: Scalar = np.inf,
    start: Duals | None = None,
    tolerance: Scalar = 1e-4,
    steps: int = 50,
) -> Projection:
    """The entropic projection of `w` onto the ball of local transport cost <= `radius` around `x`.

    Solves, with images `[H, W]` or `[H, W, C]` divided by the total mass of the nonnegative `x`,

        min_{z, P}  lam/2 |w - z|^2 + sum P log P
        with P's rows x, its columns z <= upper, and <P, C> <= radius,

    P moving mass only within the window `cost` around each pixel (`window`) and within its
    channel: Wong's thesis, equation 5.4 and section 5.1.5 (Wong, Schmidt and Kolter, 2019,
    "Wasserstein adversarial examples via projected Sinkhorn iterations", arXiv:1902.07906). The
    thesis maximizes the dual by `block_ascent`; here the row multipliers are eliminated
    and a damped Newton method with conjugate gradients maximizes the rest, in a few steps where the
    blocks take hundreds of rounds. Problems with a large `lam` |w - x| are approached from smaller
    `lam`.

    Args:
      x: the clean image `[H, W]` or `[H, W, C]`, nonnegative, of any total.
      w: the target, of `x`'s shape and in its units.
      cost: the window `[rows, columns]` of transport costs, odd sides and 0 at its center.
      radius: transport cost per unit of mass, in the units of `cost`. 0 returns `x`.
      lam: inverse weight of the entropy; the thesis uses 1000 on MNIST and 3000 on CIFAR-10.
      upper: the most a pixel may hold, in `x`'s units; a pixel of `x` above it may not rise. The
        thesis has no bound and clips afterwards, which loses mass.
      start: the multipliers of an earlier projection, of the same or a nearby `w`.
      tolerance: of the column sums, relative to the mass that moves, and of the budget.
      steps: the most Newton steps.

    Returns:
      A `Projection`. Whatever `info.converged` says, its image keeps the mass of `x`, lies in
      [0, upper], and costs at most `radius`, up to rounding. float32 resolves plans up to
      lam |w - x| / mass of about 1000; beyond, `converged` may be False. NaN in gives NaN out.

    Raises:
      ValueError: for integer, batched or differently shaped images, an `x` with negative pixels, a
        `start` that is of another image, an even window or one that charges for staying, a negative
        radius, `lam`, `tolerance` or `steps` of 0 or less, or an `upper` that is NaN.

    `z` is differentiable once, forward and in reverse, in x, w, radius, lam, cost and upper: by the
    implicit function theorem at the optimum, through one linear solve (so at default tolerance to
    about that tolerance). Evidence and multipliers have derivative 0.
    """
    checks.at_least("steps", steps, 1)
    checks.positive("tolerance", tolerance)
    posed = pose(x, w, radius=radius, lam=lam, cost=cost, upper=upper)
    layout, problem = posed.layout, posed.problem
    fixed = jax.lax.stop_gradient(problem)
    if start is None:
        begin, first = cold(fixed), MILD / spread(fixed)
    else:
        require_start(start, x)
        begin, first = Duals(layout.lines(start.beta), start.psi), problem.lam
    end = maximize(
        layout,
        fixed,
        jax.lax.stop_gradient(begin),
        first=jax.lax.stop_gradient(first),
        tolerance=jnp.asarray(tolerance, problem.x.dtype),
        steps=steps,
        skip=posed.trivial,
    )
    return make_feasible(
        posed,
        end.dual.at,
        end.dual.logs,
        iterations=end.iterations,
        products=end.products,
        residual=end.residual,
        converged=end.converged,
        derivative=lambda now: implicit(layout, problem, end.dual.at, now),
    )


def cold(problem: Problem) -> Duals:
    """Multipliers to start from: every pixel free of its bound, and the price of a plan at rest."""
    return Duals(problem.lam * _prices(problem), resting_multiplier(problem.cost, problem.radius))


def spread(problem: Problem) -> Array:
    """How far apart beta / lam may be among pixels, as far as the target tells."""
    prices = _prices(problem) - problem.step
    return jnp.max(prices) - jnp.min(prices)


def _prices(problem: Problem) -> Array:
    # The mean of the steps: multipliers of free pixels sum to it, as no mass is made.
    mean = jnp.sum(problem.step) / problem.step.size
    return jnp.maximum(problem.step - problem.room, mean)
