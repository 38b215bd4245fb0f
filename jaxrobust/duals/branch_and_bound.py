"""Complete verification: branch and bound over units or inputs, in batches."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import checks
from jaxrobust.duals.concretize import check_ball
from jaxrobust.duals.counterexamples import Problem, Worst, attacked
from jaxrobust.duals.input_splits import InputSearch
from jaxrobust.duals.matrices import require_host, unboxed
from jaxrobust.duals.relaxed_network import METHODS, check_methods
from jaxrobust.duals.search import Search
from jaxrobust.duals.specification import Property, margins
from jaxrobust.duals.trace import logits_of
from jaxrobust.threats import Linf, Union
from jaxrobust.types import Array, LogitsFn, ThreatModel

Status = Literal["verified", "falsified", "unknown"]
Split = Literal["units", "inputs"]

FEW = 8
"""Inputs up to which boxes of them are halved by default."""


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
    split: Split | None = None,
    batch_size: int | None = None,
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
    are split too, without that promise. Where inputs are few, their boxes are halved instead.

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
      split: "units" halves the boxes of units; "inputs", for Linf, those of the input, with all
        lines drawn anew. By default inputs where there are 8 or fewer.
      batch_size: the number of subdomains that are split at a time, by default 64, and of boxes of
        inputs that are bounded, by default 1,024.
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
    if split is not None:
        checks.choice("split", split, ("units", "inputs"))
    checks.positive("time_limit", time_limit)
    for name, value in (
        ("batch_size", 1 if batch_size is None else batch_size),
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
    worst, searches = Worst(), []
    for member in members:
        problem = Problem(f, x, member, goal)
        if _split_inputs(split, x, member):
            searches.append(InputSearch(problem, worst, batch_size or 1024))
        else:
            searches.append(Search(problem, worst, batch_size or 64, steps, root_steps, candidates))
        if not worst.falsified:
            key = jax.random.key(seed)
            worst.see(attacked(key, *problem, steps=attack_steps, restarts=restarts))
    for search in searches:
        if worst.falsified:
            break
        search.begin(tuple(methods), chunk)
        while search.frontier.queue and not worst.falsified:
            late = time.monotonic() - began > time_limit
            if late or sum(s.frontier.visited for s in searches) >= max_subdomains:
                break
            search.advance()
    frontiers = [s.frontier for s in searches]
    status = "verified" if all(f.done for f in frontiers) else "unknown"
    return Verdict(
        "falsified" if worst.falsified else status,
        min(f.lower for f in frontiers),
        worst.upper,
        worst.witness,
        sum(f.visited for f in frontiers),
        sum(len(f.queue) + len(f.stuck) for f in frontiers),
        time.monotonic() - began,
    )


def _split_inputs(split: Split | None, x: Array, threat: ThreatModel) -> bool:
    """Whether to halve boxes of inputs, which a set that is no box has none of."""
    if split == "inputs" and not isinstance(threat, Linf):
        raise ValueError(
            f'split="inputs" halves boxes, and {type(threat).__name__} is none; use split="units"'
        )
    return isinstance(threat, Linf) and (split == "inputs" or (split is None and x.size <= FEW))


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
