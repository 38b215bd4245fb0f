"""The local transport distance of two images: this library beside POT and OTT-JAX."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
import scipy.sparse

from jaxrobust import sinkhorn
from jaxrobust.types import Array

from . import peers
from .projections import PPM
from .timing import Entrant, Skipped

FAR = 10.0
"""What transport beyond the window costs the peers, who take a cost for each pair of pixels."""
_BLUR = 0.02
"""OTT-JAX's weight of the entropy, in units of cost."""


class Pairs(NamedTuple):
    """Pairs of images of mass 1, flat, and what all sides take of them; float64."""

    x: np.ndarray
    """`[N, H W]`."""
    z: np.ndarray
    cost: np.ndarray
    """The window."""
    costs: np.ndarray
    """Between all pixels, `[H W, H W]`."""
    shape: tuple[int, int]
    distances: np.ndarray
    """The true ones, `[N]`."""


class Bounds(NamedTuple):
    """A side's distances, and certified lower bounds where it has any."""

    distance: np.ndarray
    lower: np.ndarray | None = None


def pairs(x: np.ndarray, z: np.ndarray, cost: np.ndarray) -> Pairs:
    """Images `[N, H, W, 1]`, none of them empty, and their distances by linear programs."""
    shape = x.shape[1:3]
    flat = [a.reshape(len(a), -1).astype(np.float64) for a in (x, z)]
    a, b = (v / v.sum(axis=1, keepdims=True) for v in flat)
    costs = between(cost, shape)
    true = np.asarray([program(*pair, costs) for pair in zip(a, b, strict=True)])
    return Pairs(a, b, cost, costs, shape, true)


def between(cost: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The cost of moving mass between any two pixels, `FAR` beyond the window."""
    place = np.indices(shape).reshape(2, -1)
    move = place[:, None, :] - place[:, :, None]
    reach = np.asarray(cost.shape)[:, None, None] // 2
    near = (np.abs(move) <= reach).all(axis=0)
    costs = np.full(near.shape, FAR)
    costs[near] = cost[tuple((move + reach)[:, near])]
    return costs


def program(a: np.ndarray, b: np.ndarray, costs: np.ndarray) -> float:
    """The least cost of moving `a` to `b` within windows, exactly.

    Raises ValueError where windows do not reach.
    """
    start, end = np.nonzero((costs < FAR) & (a > 0)[:, None])
    column = np.arange(len(start))
    ones = np.ones(len(start))
    rows = [scipy.sparse.csr_array((ones, (i, column)), (len(a), len(start))) for i in (start, end)]
    # In ten-thousandths of the mass: the solver's tolerance is absolute.
    scale = 1e4
    found = scipy.optimize.linprog(
        costs[start, end], A_eq=scipy.sparse.vstack(rows), b_eq=scale * np.concatenate([a, b])
    )
    if not found.success:
        raise ValueError(f"no local plan makes one image of the other: {found.message}")
    return found.fun / scale


def entrants(given: Pairs) -> tuple[list[Entrant], list[Skipped]]:
    """Our distance and those of the peers that are installed, of the same pairs.

    Of the worst pair, relatively: how far the distance (of ours the estimate) is off the true one,
    and how far the certified lower bound, which only ours has, falls short of it.
    """

    def side(name: str, run: Callable[[], Bounds], **how: Any) -> Entrant:
        def figures(found: Bounds) -> dict[str, float | None]:
            off = PPM * np.abs(found.distance / given.distances - 1)
            short = None if found.lower is None else PPM * (1 - found.lower / given.distances)
            return {
                "distance": float(np.mean(found.distance)),
                "error ppm": float(np.max(off)),
                "lower ppm": None if short is None else float(np.max(short)),
            }

        return Entrant(name, run, figures, **how)

    sides, skipped = [side("jaxrobust", _ours(given))], []
    for rival in RIVALS:
        if peers.installed(rival.module):
            name = f"{rival.name} {version(rival.package)}"
            sides.append(side(name, rival.make(given), note=rival.note))
        else:
            reason = f"{rival.package} not installed, see requirements-bench.txt"
            skipped.append(Skipped(rival.name, reason))
    return sides, skipped


def _ours(given: Pairs) -> Callable[[], Bounds]:
    inputs = [jnp.asarray(a.reshape(-1, *given.shape), jnp.float32) for a in (given.x, given.z)]
    solve = jax.jit(jax.vmap(lambda x, z: sinkhorn.distance(x, z, cost=given.cost)))

    def run() -> Bounds:
        found = jax.device_get(solve(*inputs))
        return Bounds(found.estimate, found.lower)

    return run


def _pot(given: Pairs) -> Callable[[], Bounds]:
    import ot

    def run() -> Bounds:
        found = [
            ot.emd2(a, b, given.costs, numItermax=10**7)
            for a, b in zip(given.x, given.z, strict=True)
        ]
        return Bounds(np.asarray(found))

    return run


def _ott(given: Pairs) -> Callable[[], Bounds]:
    from ott.geometry.geometry import Geometry
    from ott.problems.linear.linear_problem import LinearProblem
    from ott.solvers.linear.sinkhorn import Sinkhorn

    solve_one = Sinkhorn(threshold=1e-3, max_iterations=1000)
    inputs = [jnp.asarray(a, jnp.float32) for a in (given.x, given.z, given.costs)]

    @jax.jit
    def solve(x: Array, z: Array, costs: Array) -> Array:
        geometry = Geometry(costs, epsilon=_BLUR)
        run = jax.vmap(lambda a, b: solve_one(LinearProblem(geometry, a=a, b=b)).primal_cost)
        return run(x, z)

    return lambda: Bounds(np.asarray(solve(*inputs)))


class Rival(NamedTuple):
    """Another library's distance."""

    name: str
    package: str
    module: str
    make: Callable[[Pairs], Callable[[], Bounds]]
    note: str


RIVALS: Sequence[Rival] = (
    Rival("POT", "pot", "ot", _pot, "exact, float64, one pair after the other"),
    Rival("OTT-JAX", "ott-jax", "ott", _ott, f"entropic ({_BLUR:g}), marginals within 1e-3"),
)
"""Both take the costs between all pairs of pixels, where ours takes the window."""
