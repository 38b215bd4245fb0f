"""Bounds whose hidden boxes come from random projections: forward passes in place of rows.

With parallel lines of gaps a below and b above, a row loses

  ||eps nu_x||_q + sum_j relu(nu_j) a_j + relu(-nu_j) b_j = ||eps nu_x||_q + ||nu w||_1 + nu.d

with w = (a + b) / 2 and d = (a - b) / 2: a norm and a linear form of the dual network. nu.v is what
the relaxed network makes of v pushed forward, for all units of a layer at once, and norms follow
from their products with random vectors (`estimators`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jaxrobust import checks
from jaxrobust.duals import estimators
from jaxrobust.duals.backward_bounds import over
from jaxrobust.duals.bounds import hidden_boxes, margin_rows, row_bounds
from jaxrobust.duals.certificates import Certificate
from jaxrobust.duals.graph import Graph, Node, Ref, ancestors, run
from jaxrobust.duals.relaxed_network import Box, Region, Relaxed, prepare, relax, rounded, widened
from jaxrobust.duals.rounding import grown
from jaxrobust.threats import L2, Linf
from jaxrobust.types import Array, Key, LogitsFn, ThreatModel

_METHODS = ("wong_kolter",)


class _Norms(NamedTuple):
    """How norms are made of projections `[samples, ...]`: the l1 norm's Cauchy, the l2's normal."""

    l1: Callable[[Array], Array] = estimators.cauchy_median
    l2: Callable[[Array], Array] = estimators.normal_norm


def projected_margin_bounds(
    key: Key, f: LogitsFn, x: Array, y: Array, threat: ThreatModel, *, samples: int
) -> Array:
    """Estimates of the Wong-Kolter lower bounds on f_y(x') - f_j(x') over the ball around `x`.

    For training: hidden boxes are estimated from `samples` random projections, by the median of
    Cauchy ones for l1 and the norm of normal ones for l2, so the results are **no certificate**:
    about half of the estimates fall short. Nodes that see the input directly and the K final rows
    are exact, as in the released code. A hidden node costs samples + 1 forward passes through what
    lies before it (for L2 balls 2 samples + 1) in place of one backward pass per unit: of the order
    of samples times depth squared layer evaluations, however wide the layers are.

    Differentiable as `margin_bounds` is, at a fixed `key`; `vmap` it over keys and examples (one
    key may serve a whole batch). Each node draws anew.

    Wong's thesis, section 3.4.5 (theorem 4, its cases of d swapped back) and section 3.5.4.
    Known deviation: the ball's norm and all gaps of a linf bound are one l1 norm of the stacked
    dual variables and estimated as one, in place of one estimate for each layer before.

    Args:
      key: the random key of the projections.
      f, x: as in `lower_bounds`, one example.
      y: the label, an integer scalar.
      threat: a Linf or L2 ball. Its pixel box does not count.
      samples: the number of random projections for each norm, at least 1.

    Returns:
      The estimates, `[K]`, in the dtype and units of the logits; 0 at j = y.

    Raises:
      ValueError: `samples` is below 1, the set is no Linf or L2 ball, a registered relaxation has
        no parallel lines, or as `margin_bounds`.
    """
    where = _prepare(f, x, threat, samples)
    return _margins(where, y, _boxes(key, where, samples, _Norms(), None))


def probabilistic_margin_bounds(
    key: Key,
    f: LogitsFn,
    x: Array,
    y: Array,
    threat: ThreatModel,
    *,
    samples: int,
    delta: float,
    chunk: int | None = None,
) -> Array:
    """Lower bounds on f_y(x') - f_j(x') over the ball around `x` that fail with chance `delta`.

    Over the draws of `key`, all K bounds and all hidden boxes behind them hold together with
    probability at least 1 - delta (and but for rounding): every estimated norm is multiplied by
    what makes it an upper bound except with probability delta over the number of norms, one (for
    L2 balls two) for each hidden unit that does not see the input directly. Each node draws
    independently of the boxes before it. l1 norms are geometric means of Cauchy projections under
    Chernoff's bound (`estimators.cauchy_inflation`), l2 norms root mean squares of normal ones at
    the exact chi-square quantile.

    Never tighter than exact Wong-Kolter bounds but for luck; worth it where those are too dear.
    The inflation falls like 1 + sqrt(pi^2 log(1 / failure) / (2 samples)): use hundreds to
    thousands of samples. Not meant to be differentiated. The cost is that of
    `projected_margin_bounds`.

    Wong's thesis, section 3.4.6. Known deviations: joint estimates as in
    `projected_margin_bounds`, which leaves fewer of them; one mean in place of the largest of
    several.

    Args:
      key: the random key of the projections.
      f, x: as in `lower_bounds`, one example.
      y: the label, an integer scalar.
      threat: a Linf or L2 ball. Its pixel box does not count.
      samples: the number of random projections for each norm, at least 1; a number on the host (a
        new one recompiles).
      delta: the most probability that some bound fails; a number on the host (a new one
        recompiles).
      chunk: samples that are pushed at a time, to save memory.

    Returns:
      The bounds, `[K]`, in the dtype and units of the logits; 0 at j = y.

    Raises:
      ValueError: unless 0 < delta < 1, or as `projected_margin_bounds`.
    """
    if not checks.is_concrete(delta) or np.ndim(delta) or not 0 < delta < 1:
        raise ValueError(f"delta must be a number between 0 and 1, known on the host, got {delta}")
    where = _prepare(f, x, threat, samples)
    kinds = 2 if isinstance(threat, L2) else 1
    estimated = (n for n in where.graph.nodes if _before(where.graph, n.source).nodes)
    count = kinds * sum(int(np.prod(n.source.shape)) for n in estimated)
    failure = float(delta) / max(count, 1)
    cauchy = estimators.cauchy_inflation(samples, failure)
    normal = estimators.normal_inflation(samples, failure)
    norms = _Norms(
        lambda v: cauchy * estimators.cauchy_geometric_mean(v),
        lambda v: normal * estimators.normal_norm(v),
    )
    return _margins(where, y, _boxes(key, where, samples, norms, chunk))


def certify_randomly(
    key: Key,
    f: LogitsFn,
    x: Array,
    y: Array,
    threat: ThreatModel,
    *,
    samples: int,
    delta: float,
    chunk: int | None = None,
) -> Certificate:
    """A certificate from `probabilistic_margin_bounds`, which holds but for a chance.

    The chance `delta` is of one example and one key that was chosen beforehand: trying keys until
    one certifies, or reading several certificates together, adds their chances up.

    Args:
      key, f, x, y, threat, samples, delta, chunk: as in `probabilistic_margin_bounds`.

    Returns:
      A `Certificate` of kind "probabilistic": `lower`, `[K]`, the bounds in the dtype and units of
      the logits, 0 at the label; `y`; and `delta`, a scalar. Its `certified`, a bool scalar, tells
      whether they prove the label.

    Raises:
      ValueError: fewer than two classes, or as `probabilistic_margin_bounds`.
    """
    lower = probabilistic_margin_bounds(
        key, f, x, y, threat, samples=samples, delta=delta, chunk=chunk
    )
    if lower.shape[0] < 2:
        raise ValueError(f"a certificate needs at least 2 logits, got {lower.shape[0]}")
    return Certificate(lower, jnp.asarray(y), jnp.asarray(delta, lower.dtype), "probabilistic")


def _prepare(f: LogitsFn, x: Array, threat: ThreatModel, samples: int) -> Region:
    checks.at_least("samples", samples, 1)
    if not isinstance(threat, Linf | L2):
        raise ValueError(
            f"random projections estimate l1 and l2 norms, for Linf and L2 balls, got "
            f"{type(threat).__name__}; use the exact margin_bounds"
        )
    return prepare(f, x, threat)


def _margins(where: Region, y: Array, boxes: tuple[Box, ...]) -> Array:
    (num_classes,), dtype = where.graph.output.shape, where.graph.output.dtype
    return row_bounds(where, margin_rows(y, num_classes, dtype), boxes, methods=_METHODS)


def _boxes(
    key: Key, where: Region, samples: int, norms: _Norms, chunk: int | None
) -> tuple[Box, ...]:
    """`hidden_boxes` by Wong-Kolter with all norms estimated but those of the first nodes."""
    nodes = where.graph.nodes
    first = [n for n in nodes if not _before(where.graph, n.source).nodes]
    exact = hidden_boxes(
        where._replace(graph=_before(where.graph, *(n.target for n in first))), methods=_METHODS
    )
    boxes = dict(zip((n.target.id for n in first), exact, strict=True))
    lines: dict[int, Relaxed] = {}
    for index, node in enumerate(nodes):
        i = node.target.id
        if i not in boxes:
            keys = jax.random.split(jax.random.fold_in(key, index), (2, samples))
            with jax.default_matmul_precision("highest"):
                box = _box(keys, where, lines, node.source, norms, chunk)
                known = [boxes[n.target.id] for n in nodes[:index]]
                boxes[i] = widened(box, rounded(where, known, node.source))
        lines[i] = relax(where, node, boxes[i], *_METHODS)
        if not lines[i].parallel:
            raise ValueError(
                f"projections need parallel lines, and the relaxation of {node.kind!r} has none; "
                "return one array as both slopes where alpha is None"
            )
    return tuple(boxes[n.target.id] for n in nodes)


def _box(
    keys: Key,
    where: Region,
    lines: Mapping[int, Relaxed],
    seed: Ref,
    norms: _Norms,
    chunk: int | None,
) -> Box:
    part = _before(where.graph, seed)
    own = {n.target.id: lines[n.target.id] for n in part.nodes}
    slopes = {i: r.lower_slope for i, r in own.items() if r.lower_slope is not None}
    push = functools.partial(_push, part, where.x, slopes, seed)

    def project(keys: Key, draw: Callable[..., Array], weights: Mapping[int, Array]) -> Array:
        flat, unravel = ravel_pytree(weights)

        def one(key: Key) -> Array:
            return push(unravel(flat * draw(key, flat.shape, flat.dtype)))

        return over(one, keys, chunk)

    radius = jnp.asarray(where.threat.radius, where.x.dtype)
    ball = {part.input.id: jnp.broadcast_to(radius, where.x.shape)}
    gaps = {i: (r.lower_gap + r.upper_gap) / 2 for i, r in own.items()}
    if isinstance(where.threat, Linf):
        norm = norms.l1(project(keys[0], estimators.cauchy, ball | gaps))
    else:
        far = norms.l2(project(keys[1], jax.random.normal, ball))
        norm = far + norms.l1(project(keys[0], estimators.cauchy, gaps))
    tilt = push({i: (r.lower_gap - r.upper_gap) / 2 for i, r in own.items()})
    size = sum(gap.size for gap in gaps.values()) + where.x.size
    norm = grown(norm + jnp.abs(tilt), size) - jnp.abs(tilt)
    z = where.values[seed.id]
    # the clean value lies in the box, whatever the estimate
    return Box(z - jax.nn.relu(norm + tilt), z + jax.nn.relu(norm - tilt))


def _push(
    part: Graph, x: Array, slopes: Mapping[int, Array], seed: Ref, directions: dict[int, Array]
) -> Array:
    """What the relaxed network makes at `seed` of directions at its input and nodes, by id."""

    def relaxed(shifts: dict[int, Array]) -> Array:
        def activate(node: Node, z: Array) -> Array:
            i = node.target.id
            moved = node.gathered(slopes[i] * z)
            return moved + shifts[i] if i in shifts else moved

        return run(part, shifts.get(part.input.id, x), activate)[seed.id]

    # affine: where the derivative is taken makes no difference
    zeros = jax.tree.map(jnp.zeros_like, directions)
    return jax.jvp(relaxed, (zeros,), (directions,))[1]


def _before(graph: Graph, *targets: Ref) -> Graph:
    """The part of `graph` that computes `targets`."""
    needed = set().union(*(ancestors(graph, t) for t in targets))
    operations = (o for o in graph.operations if any(t.id in needed for t in o.targets))
    return graph._replace(operations=tuple(operations))
