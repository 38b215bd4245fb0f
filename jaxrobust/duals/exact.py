"""Exact verdicts on the host: mixed-integer programs over the traced network (HiGHS)."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from scipy import optimize, sparse

from jaxrobust import checks, losses
from jaxrobust.attacks.ascend import judge
from jaxrobust.duals.bounds import check_request, hidden_boxes, margin_rows, row_bounds
from jaxrobust.duals.matrices import affine_maps, flat, polyhedral, require_host
from jaxrobust.duals.milp import Program, encode, goal, refuse_smooth
from jaxrobust.duals.relaxed_network import METHODS, Box, check_methods, prepare
from jaxrobust.duals.trace import trace
from jaxrobust.threats.box import numbers
from jaxrobust.types import Array, AttackResult, LogitsFn, ThreatModel

TOLERANCE = 1e-4
"""Margins below it count as unproved: HiGHS keeps constraints and integers to 1e-6. Where the
program has a coefficient above 1, so many times more."""


class Exact(NamedTuple):
    """What is known of one example's margins f_y(x') - f_j(x') over the set, on the host."""

    lower: np.ndarray
    """[K]: no margin falls below, up to `TOLERANCE`; 0 at j = y."""
    upper: float
    """min_j of the margins at `witness`, on a fresh prediction; NaN where the model gives NaN."""
    witness: np.ndarray
    """The worst point seen, inside the set; the clean example if none was worse."""
    certified: bool
    """The label holds everywhere: every margin is positive."""
    broken: bool
    """`witness` lies in the set and fools the model (ties and NaN count as fooled)."""
    nodes: int
    """Branches that the solver explored."""
    seconds: float
    """Time of programs and solver; the dual bounds, compiled for the first example, aside."""

    @property
    def status(self) -> str:
        """ "certified", "broken" or, where time ran out or rounding decides, "undecided"."""
        if self.broken:
            return "broken"
        return "certified" if self.certified else "undecided"


def exact_margin(
    f: LogitsFn,
    x: Array,
    y: Array,
    threat: ThreatModel,
    *,
    boxed: bool = True,
    sign_only: bool = False,
    time_limit: float = 60.0,
    methods: Sequence[str] = METHODS,
    chunk: int | None = None,
) -> Exact:
    """The least margins of one example: `exact_margins` without the axis of examples.

    Args:
      x: one example of any shape.
      y: its label, an integer scalar.
      f, threat, boxed, sign_only, time_limit, methods, chunk: as in `exact_margins`.

    Returns:
      An `Exact`, as `exact_margins` gives for each example.

    Raises:
      ValueError: as `exact_margins`.
      RuntimeError: as `exact_margins`.
    """
    found = exact_margins(
        f,
        jnp.asarray(x)[None],
        jnp.asarray(y)[None],
        threat,
        boxed=boxed,
        sign_only=sign_only,
        time_limit=time_limit,
        methods=methods,
        chunk=chunk,
    )
    return next(found)


def exact_margins(
    f: LogitsFn,
    x: Array,
    y: Array,
    threat: ThreatModel,
    *,
    boxed: bool = True,
    sign_only: bool = False,
    time_limit: float = 60.0,
    methods: Sequence[str] = METHODS,
    chunk: int | None = None,
) -> Iterator[Exact]:
    """The least margins of N labeled examples, one after the other.

    Minimizes f_y(x') - f_j(x') over the set for each class j by a mixed-integer program with one
    binary for each kink that the dual boxes (the best of `methods`) do not rule out (Tjeng, Xiao
    and Tedrake 2019, "Evaluating robustness of neural networks with mixed integer programming";
    MIPVerify). With `sign_only`, only the verdict is sought: classes whose dual bound is positive
    are skipped, margins above `TOLERANCE` are cut off, the first point found ends a search, and
    the first that fools the model ends the example; `lower` is then what the verdict needed.

    A verdict is a claim of two kinds. "broken" needs no trust: the point found is moved into
    the set and judged by the model itself. "certified" trusts HiGHS, whose float64 constraints
    hold to 1e-6, and so asks for margins above `TOLERANCE` (times the largest coefficient, if
    that is above 1); before, the program must reproduce the network at the clean example. After
    `time_limit` seconds of `Exact.seconds`, what is known so far is returned, "undecided" if
    that decides nothing.

    float64 on the host with the network's own matrices; not to be traced.

    Args:
      f: a function of one example, whose nonlinearities are ReLUs, what reduces to them, and clips.
      x: the examples, `[N, ...]`.
      y: their labels, integers `[N]`.
      threat: a Linf or L1 ball.
      boxed: whether the threat's pixel box counts.
      sign_only: whether the verdict is enough.
      time_limit: the most seconds for each example, above 0.
      methods, chunk: settings of the dual bounds, as in `lower_bounds`.

    Returns:
      An iterator of N results, in the order of `x`, which are computed lazily, so that a caller may
      save each one. A result is an `Exact` on the host: `lower`, float64 `[K]`, below every margin,
      in units of the logits, up to `TOLERANCE`, and 0 at the label; `upper`, a float, the least
      margin at `witness`; `witness`, the worst point seen, of the example's shape and dtype;
      `certified` and `broken`, the verdict as two bools; `nodes`, an int, the branches explored;
      and the `seconds`.

    Raises:
      ValueError: another threat, a smooth activation, traced or non-finite input or no example at
        all, labels that are no integers of the network's two or more classes, one for each example,
        a time limit that is not positive, and as `lower_bounds`. While the iterator is read, dual
        bounds of NaN, of which no program can be made.
      RuntimeError: while the iterator is read, the program does not reproduce the network at the
        clean example.
    """
    require_host(x)
    check_methods(methods)
    checks.positive("time_limit", time_limit)
    ball = polyhedral(threat, boxed=boxed)
    x, y = jnp.asarray(x), jnp.asarray(y)
    if not x.ndim or not len(x):
        raise ValueError(f"x must hold one or more examples [N, ...], got shape {x.shape}")
    checks.images(x, lower=-np.inf, upper=np.inf)
    numbers(ball, x[0])
    graph = trace(f, x[0])
    refuse_smooth(graph)
    K = graph.output.shape[0]
    checks.labels(y, count=len(x), num_classes=K)
    maps = affine_maps(graph)

    @jax.jit
    def start(x: Array, y: Array) -> tuple[Array, tuple[Box, ...], Array, Array]:
        where = prepare(f, x, ball, boxed=boxed)
        rows = check_request(where, margin_rows(y, K, graph.output.dtype), methods)
        boxes = hidden_boxes(where, methods=methods, chunk=chunk)
        bounds = row_bounds(where, rows, boxes, methods=methods, chunk=chunk)
        return where.values[graph.output.id], boxes, rows, bounds

    @jax.jit
    def look(x: Array, y: Array, z: Array) -> AttackResult:
        inside = ball.project(x, z)
        return judge(f, ball, x, y, inside, losses.margin, forwards=0, backwards=0)

    def one(x: Array, y: Array) -> Exact:
        logits, boxes, rows, bounds = start(x, y)
        lower, worst = np.array(bounds, np.float64), look(x, y, x)
        began = time.monotonic()
        proved, nodes = lower > 0, 0
        others = [j for j in np.argsort(lower) if j != y and not (sign_only and proved[j])]
        if sign_only and worst.success:
            others = []
        program, tolerance = None, TOLERANCE
        if others:
            program = encode(graph, maps, x, ball, boxes)
            _require_reproduction(program, flat(logits))
            tolerance = TOLERANCE * max(1, _largest(program))
        # a point that is not worst of all may still fool; one that almost does asks for the worst
        for j, gap in itertools.product(others, (np.inf, 0.0) if sign_only else (0.0,)):
            left = time_limit - (time.monotonic() - began)
            if left <= 0 or (sign_only and (proved[j] or worst.success)):
                continue
            assert program is not None  # made above: `others` holds j
            cutoff = tolerance if sign_only else None
            found = _minimize(program, flat(rows[j]), cutoff=cutoff, gap=gap, limit=left)
            nodes += found.nodes
            lower[j] = np.fmax(lower[j], found.lower)
            proved[j] |= lower[j] >= tolerance
            if found.point is not None:
                z = jnp.asarray(found.point.reshape(x.shape), x.dtype)
                worst = _worse(worst, look(x, y, z))
        broken = bool(worst.success)
        return Exact(
            lower,
            -float(worst.margin),
            np.asarray(worst.x),
            bool(np.delete(proved, y).all()) and not broken,
            broken,
            nodes,
            time.monotonic() - began,
        )

    return map(one, x, y)


def _worse(a: AttackResult, b: AttackResult) -> AttackResult:
    """The point that fools the model, or else comes nearer to it."""
    if a.success != b.success:
        return a if a.success else b
    return b if b.margin > a.margin else a


class _Minimum(NamedTuple):
    """A lower bound, the best input found if any, and the branches explored."""

    lower: float
    point: np.ndarray | None
    nodes: int


def _minimize(
    program: Program, row: np.ndarray, *, cutoff: float | None, gap: float, limit: float
) -> _Minimum:
    """The minimum of row . logits, or that of `cutoff` and it: nothing above is searched."""
    cost, offset = goal(program, row)
    if cutoff is not None:
        rows = sparse.vstack([program.matrix, sparse.csr_array(cost[None])], format="csr")
        program = program._replace(
            matrix=cast(sparse.csr_array, rows),
            low=np.append(program.low, -np.inf),
            high=np.append(program.high, cutoff - offset),
        )
    found = _solved(program, cost, {"time_limit": limit, "mip_rel_gap": gap})
    nodes = int(found.mip_node_count or 0)
    if found.status == 2 and cutoff is not None:
        return _Minimum(cutoff, None, nodes)
    # without branches left the minimum is its own bound
    bound = found.mip_dual_bound
    if bound is None:
        bound = found.fun if found.status == 0 else -np.inf
    lower = bound + offset if cutoff is None else min(bound + offset, cutoff)
    if found.x is None:
        return _Minimum(lower, None, nodes)
    return _Minimum(lower, program.input.matrix @ found.x + program.input.constant, nodes)


def _solved(program: Program, cost: np.ndarray, options: dict[str, float]) -> Any:
    """HiGHS's answer to: minimize cost . v over the program's columns v."""
    # SciPy's types take single numbers for bounds
    box = optimize.Bounds(cast(Any, program.lower), cast(Any, program.upper))
    rows = optimize.LinearConstraint(
        program.matrix, cast(Any, program.low), cast(Any, program.high)
    )
    integral = program.integral.astype(int)
    return optimize.milp(cost, integrality=integral, bounds=box, constraints=rows, options=options)


def _largest(program: Program) -> float:
    """The largest coefficient: how much a solver's error of 1 can make of itself in one row."""
    matrices = (program.matrix, program.output.matrix)
    return max(float(abs(m.data).max(initial=0)) for m in matrices)


def _require_reproduction(program: Program, logits: np.ndarray) -> None:
    """Raises RuntimeError unless the program, at the clean example, has the network's logits.

    A program that is wrong may be infeasible, which would read as a certificate.
    """
    lower, upper = program.lower.copy(), program.upper.copy()
    inputs = len(program.clean)
    lower[:inputs] = upper[:inputs] = program.clean
    found = _solved(program._replace(lower=lower, upper=upper), np.zeros(len(lower)), {})
    own = None if found.x is None else program.output.matrix @ found.x + program.output.constant
    if own is None or not np.allclose(own, logits, rtol=0, atol=1e-4 * (1 + abs(logits).max())):
        raise RuntimeError(
            f"the program gives {own} at the clean example and the network {logits}: no verdict; "
            "if the network computes in float32 with large weights, use float64"
        )
