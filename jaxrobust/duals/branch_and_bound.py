"""Complete verification: branch and bound over the units of a network, in batches."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import checks
from jaxrobust.duals.concretize import check_ball
from jaxrobust.duals.counterexamples import attacked
from jaxrobust.duals.matrices import require_host, unboxed
from jaxrobust.duals.relaxed_network import METHODS, check_methods
from jaxrobust.duals.search import Problem, Search
from jaxrobust.duals.specification import Property, margins
from jaxrobust.duals.trace import logits_of
from jaxrobust.threats import Union
from jaxrobust.types import Array, LogitsFn, ThreatModel

Status = Literal["verified", "falsified", "unknown"]


class Verdict(NamedTuple):
    """What branch and bound found, on the host."""

    status: Status
    """ "verified": the property holds on the whole set. "falsified": the network itself violates it
    at `witness`. "unknown": neither, when time or subdomains ran out or rounding decides."""
    lower: float
    """A bound of `Property.value` over the set, rounding included. At least 0 where verified, and
    just 0 where it was used that only violations matter."""
    upper: float
    """`Property.value` at `witness`, by the network's own prediction."""
    witness: np.ndarray
    """The worst point seen, inside the set."""
    visited: int
    """Subdomains that were bounded."""
    open: int
    """Subdomains that are left."""
    seconds: float
    """Compilation included."""


def verify(
    f: LogitsFn,
    x: Array,
    y: int | Array | Property,
    threat: ThreatModel,
    *,
    boxed: bool = True,
    batch_size: int = 64,
    steps: int = 10,
    root_steps: int = 20,
    candidates: int = 3,
    time_limit: float = 60.0,
    max_subdomains: int = 1_000_000,
    attack_steps: int = 40,
    restarts: int = 4,
    seed: int = 0,
    methods: Sequence[str] = METHODS,
    chunk: int | None = None,
) -> Verdict:
    """Whether a property of the outputs holds on the whole set: proved, refuted, or neither.

    Branch and bound (Bunel et al. 2018; Wang et al. 2021, beta-CROWN): PGD looks for a violation;
    the region is bounded by slopes that ascend; while a bound is not above 0, the subdomains with
    the lowest ones are split at a kink of one unit, and their halves bounded by slopes and
    multipliers of the splits, which start from the parent's. Where all units are split, a linear
    program finds the multipliers. For networks of ReLUs and clips, and what reduces to them, the
    search ends with an answer, but for margins that are within rounding of 0. Smooth activations
    are split too, without that promise.

    "verified" is as sound as every bound here: it contains float rounding, under the assumptions of
    docs/soundness.md. "falsified" is judged by the network itself at a point of the set.

    Runs on the host around compiled programs, one for each function `f`, shape and setting: another
    `x`, radius or property of as many rows does not recompile. Give `f` as a
    `jax.tree_util.Partial(apply, variables)`, and other weights do not either.

    Args:
      f: any pure function of one example, as in `lower_bounds`.
      x: one example of any shape, float32 or float64.
      y: the label, an integer, which is to have strictly the largest logit; or a `Property`.
      threat: a Linf, L2 or L1 ball or a union of them.
      boxed: whether the threat's pixel box counts.
      batch_size: the number of subdomains that are split at a time.
      steps: the most steps of the ascent for each batch of halves.
      root_steps: the most steps of the ascent for the whole region.
      candidates: how many units are tried for each split.
      time_limit: the most seconds, above 0, looked at between batches.
      max_subdomains: the most subdomains that are bounded.
      attack_steps, restarts: those of PGD at the start.
      seed: of PGD's starts.
      methods, chunk: settings of the boxes of hidden units, as in `lower_bounds`.

    Returns:
      A `Verdict` on the host: `status`, "verified", "falsified" or "unknown"; `lower` and `upper`,
      floats that enclose the least of `Property.value` over the set, in units of the outputs;
      `witness`, the worst point seen, of the example's shape and dtype; `visited` and `open`, the
      subdomains bounded and left; and the `seconds`.

    Raises:
      ValueError: traced or non-finite input, settings out of range, a property of another number of
        outputs, or as `lower_bounds` and `margins`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxrobust import duals, threats
      >>> w = jnp.array([[1.0, -1.0], [-1.0, 1.0]])
      >>> f = lambda x: w @ jax.nn.relu(x)
      >>> x = jnp.array([0.7, 0.3])
      >>> [duals.verify(f, x, 0, threats.Linf(r)).status for r in (0.1, 0.3)]
      ['verified', 'falsified']
    """
    began = time.monotonic()
    require_host(x)
    check_methods(methods)
    checks.positive("time_limit", time_limit)
    for name, value in (
        ("batch_size", batch_size),
        ("steps", steps),
        ("root_steps", root_steps),
        ("candidates", candidates),
        ("max_subdomains", max_subdomains),
        ("attack_steps", attack_steps),
        ("restarts", restarts),
    ):
        checks.at_least(name, value, 1)
    x = jnp.asarray(x)
    checks.images(x, lower=-np.inf, upper=np.inf)
    check_ball(threat, x)
    goal = _goal(y, logits_of(f, x))
    f = f if isinstance(f, jax.tree_util.Partial) else jax.tree_util.Partial(f)
    whole = threat if boxed else unboxed(threat)
    members = whole.scaled if isinstance(whole, Union) else (whole,)
    searches = []
    for member in members:
        search = Search(Problem(f, x, member, goal), batch_size, steps, candidates)
        searches.append(search)
        if not any(s.falsified for s in searches):
            found = attacked(
                jax.random.key(seed), *search.problem, steps=attack_steps, restarts=restarts
            )
            search.see(found)
    for search in searches:
        if any(s.falsified for s in searches):
            break
        search.begin(tuple(methods), chunk, root_steps)
        while search.queue and not search.falsified:
            late = time.monotonic() - began > time_limit
            if late or sum(s.visited for s in searches) >= max_subdomains:
                break
            search.advance()
    lower, worst = min(s.lower for s in searches), min(searches, key=lambda s: s.upper)
    status = "verified" if all(s.done for s in searches) else "unknown"
    return Verdict(
        "falsified" if worst.falsified else status,
        lower,
        worst.upper,
        worst.witness,
        sum(s.visited for s in searches),
        sum(len(s.queue) + len(s.stuck) for s in searches),
        time.monotonic() - began,
    )


def _goal(y: int | Array | Property, outputs: jax.ShapeDtypeStruct) -> Property:
    """The property that is asked, in the outputs' dtype."""
    count = outputs.shape[0]
    goal = y if isinstance(y, Property) else margins(y, count)
    if goal.A.shape[1] != count:
        raise ValueError(
            f"the property is about {goal.A.shape[1]} outputs, but the network has {count}"
        )
    A, b = (jnp.asarray(v, outputs.dtype) for v in (goal.A, goal.b))
    return Property(A, b, jnp.asarray(goal.clauses, jnp.int32))
