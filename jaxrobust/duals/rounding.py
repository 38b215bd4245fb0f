"""What float rounding can add to a bound: the allowance that makes a float32 certificate a proof.

Every sum of n products in floats is off by at most gamma(n) times the sum of their magnitudes,
gamma(n) = n u / (1 - n u) with u half a machine epsilon, in whatever order it is added up (Higham
2002, "Accuracy and stability of numerical algorithms", section 3.1). So a computed affine step is
off at the clean example by at most gamma |A| |v|, and its transpose, on which rows are pulled back,
by gamma |A|^T |nu|, which meets a deviation of at most D. Both are dot products of |nu| with

  gamma (|A| |v| + |b|) + |A| gamma D,

numbers that the network pushed forward with its magnitudes gives once for all rows. The theorem
and its assumptions are in docs/soundness.md.
"""

from __future__ import annotations

import collections
import functools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer

from jaxrobust.duals.graph import Graph, Node, Ref, Step
from jaxrobust.types import Array

MOVES = frozenset(
    {
        *("broadcast_in_dim", "concatenate", "convert_element_type", "copy", "copy_p", "neg"),
        *("dynamic_slice", "dynamic_update_slice", "expand_dims", "gather", "pad", "pvary"),
        *("optimization_barrier", "reshape", "rev", "select_n", "slice", "split", "squeeze"),
        *("stack", "transpose", "unstack"),
    }
)
"""Primitives that move numbers about and compute nothing."""
ELEMENTWISE = frozenset({"add", "add_any", "div", "mul", "sub"})
"""One operation for each entry."""
SUMS = frozenset(
    {
        *("conv_general_dilated", "cumsum", "dot_general", "reduce_sum", "reduce_window_sum"),
        "scatter-add",
    }
)
"""Sums of products, or of plain numbers."""
KNOWN = MOVES | ELEMENTWISE | SUMS
"""Every affine primitive whose rounding is known."""
PRODUCTS = SUMS - {"scatter-add"}
"""Linear in their sources, without a constant that is added."""

SLACK = 4
"""Roundings allowed beside those of a sum: compilers move factors, and divide by multiplying."""


BLOCK = 8
"""Products that `summed` adds up in one go: fewer mean less rounding, and more memory traffic."""
COARSE = 4 * BLOCK
"""The same where intervals alone are bounded, which costs little more than the sums themselves."""


class Noise(NamedTuple):
    """What rounding can do to one value of the network, all bounds included."""

    size: Array
    """An array of the value's shape: a row nu over the value is off by at most |nu| . size ..."""
    floor: Array
    """... and a scalar: what underflow adds to that, whatever the row."""


def gamma(n: Array | np.ndarray | float, dtype: Any) -> Array:
    """n u / (1 - n u), rounded up: the relative error of n roundings; infinite from n u = 1/2."""
    nu = jnp.asarray(n, dtype) * (jnp.finfo(dtype).eps / 2)
    return jnp.where(nu < 0.5, 1.01 * nu / (1 - jnp.minimum(nu, 0.5)), jnp.inf)


def grown(value: Array, n: float) -> Array:
    """A sum of n non-negative products, as computed, raised to where no exact one lies above.

    By gamma / (1 - gamma) of n + 2 `SLACK` roundings, those of raising it among them.
    """
    nu = (n + 2 * SLACK) * float(jnp.finfo(value.dtype).eps) / 2
    return value * (1 + 1.01 * nu / (1 - 2 * nu) if nu < 0.25 else jnp.inf)


def tiny(dtype: Any) -> float:
    """The smallest normal number: processors may take what is smaller for 0."""
    return float(jnp.finfo(dtype).tiny)


def noise(
    graph: Graph,
    values: Mapping[int, Array],
    spread: Mapping[int, Array],
    seed: Ref,
    live: Array | None = None,
    *,
    block: int = BLOCK,
) -> Noise:
    """What rounding can do between the nearest nodes (or the input) and `seed`.

    Args:
      values: the network's values at the clean example, by `Ref.id`, as computed.
      spread: for the input and the nodes' targets, how far each entry can be from its clean value.
      live: bool of the seed's shape: the entries that rows over it can have other than 0.
      block: that of `summed`, by which `values` were computed.
    """
    path = path_to(graph, seed, spread, block=block)
    rows = None if live is None else jnp.sum(live).astype(seed.dtype)
    back = _roundings(path, rows)
    # those roundings included that a row will have met when it gets here
    starts = {i: gamma(back[i], d.dtype) * d for i, d in spread.items() if i in back}
    size, floor = pushed(path, values, starts)
    # the row that meets them on the way is rounded as well
    raised = 1 + 2 * gamma(functools.reduce(jnp.maximum, back.values()) + SLACK, size.dtype)
    return jax.lax.stop_gradient(Noise(raised * size, floor))


class Path(NamedTuple):
    """The affine steps between some values and `seed`, in order."""

    steps: Sequence[Step]
    counts: Sequence[_Shared]
    """Of each step."""
    readers: Mapping[int, int]
    """How many operands a value is in the network, by `Ref.id`."""
    seed: Ref

    @property
    def straight(self) -> set[int]:
        """The targets of products that reach `seed` by one way, on which nothing is summed.

        A row over the seed is there other than 0 in no more entries than at the seed.
        """
        ends, found = {self.seed.id}, set()
        for step in reversed(self.steps):
            if not all(t.id in ends for t in step.targets):
                continue
            if step.primitive.name in PRODUCTS:
                found.update(t.id for t in step.targets)
            else:
                ends.update(s.id for s in step.sources if self.readers[s.id] == 1)
        return found


def path_to(graph: Graph, seed: Ref, ends: Collection[int], *, block: int) -> Path:
    """The steps on the ways from `ends`, by `Ref.id`, to `seed`; see `noise` for `block`."""
    needed, steps = {seed.id}, []
    for operation in reversed(graph.operations):
        if isinstance(operation, Node) or not any(t.id in needed for t in operation.targets):
            continue
        steps.append(operation)
        needed.update(s.id for s in operation.sources if s.id not in ends)
    readers = collections.Counter(s.id for o in graph.operations for s in o.sources)
    return Path(steps[::-1], [_shared(step, block) for step in steps[::-1]], readers, seed)


def pushed(path: Path, values: Mapping[int, Array], starts: Mapping[int, Array]) -> Noise:
    """How far numbers off by at most `starts` put the seed off, forward rounding included.

    Args:
      values: the network's values at the clean example, by `Ref.id`, as computed.
      starts: arrays >= 0 of the shapes of the values that the path leads from.
    """
    known = dict(starts)
    floor = jnp.zeros((), path.seed.dtype)
    for step, counts in zip(path.steps, path.counts, strict=True):
        met = [known[s.id] for s in step.sources]
        summed_here = [
            m
            for s, m, n in zip(step.sources, met, counts.back, strict=True)
            if n > 0 or path.readers[s.id] > 1
        ]
        if step.primitive.name in MOVES:
            reached = _push(step, met)
        else:
            reached = _reached(step, counts, [values[s.id] for s in step.sources], met)
            summed_here += reached
        known.update((t.id, r) for t, r in zip(step.targets, reached, strict=True))
        floor += sum(_reach(r.dtype) * jnp.sum(r) for r in summed_here)
    return Noise(known[path.seed.id], floor)


def _roundings(path: Path, rows: Array | None) -> dict[int, Array | float]:
    """The most roundings that a row's entry takes from the seed back to each value, by `Ref.id`.

    Args:
      rows: how many entries of a row over the seed can be other than 0; None: all.
    """
    straight = path.straight
    most: dict[int, Array | float] = {path.seed.id: 0.0}
    for step, counts in zip(reversed(path.steps), reversed(path.counts), strict=True):
        later = functools.reduce(jnp.maximum, [most.get(t.id, 0.0) for t in step.targets])
        for source, n in zip(step.sources, counts.back, strict=True):
            if rows is not None and step.targets[0].id in straight:
                n = jnp.minimum(n, rows + 1)
            if path.readers[source.id] > 1:
                # cotangents of several readers are added up
                n = n + SLACK + path.readers[source.id]
            most[source.id] = jnp.maximum(most.get(source.id, 0.0), n + later)
    return most


def _reached(
    step: Step, counts: _Shared, sources: list[Array], met: list[Array]
) -> tuple[Array, ...]:
    """|A| met, and what this step's own roundings add; raised, as it is rounded itself."""
    sizes = [jnp.abs(v) + _reach(v.dtype) for v in sources]
    if step.primitive.name in PRODUCTS:
        # one pass over the weights for both
        off = [gamma(counts.forth, m.dtype) * v + m for v, m in zip(sizes, met, strict=True)]
        reached = _push(step, off)
    else:
        own = map(jnp.abs, _magnitude(step).apply(*sizes))
        moved = _push(step, met)
        reached = tuple(
            gamma(counts.forth, m.dtype) * v + m for v, m in zip(own, moved, strict=True)
        )
    return tuple(grown(r + 2 * tiny(r.dtype) * counts.forth, counts.terms) for r in reached)


def _reach(dtype: Any) -> float:
    """What underflow does, in units of what rounding does: 4 tiny / u."""
    return 8 * tiny(dtype) / float(jnp.finfo(dtype).eps)


def _filled(step: Step, constant: Callable[[Array], Array | np.ndarray]) -> Step:
    """The step with its floating-point constants replaced, and sums for differences."""
    if step.primitive is lax.sub_p:
        step = step._replace(primitive=lax.add_p)

    def fill(operand: Any) -> Any:
        if isinstance(operand, Ref) or not jnp.issubdtype(operand.dtype, jnp.floating):
            return operand
        return constant(operand)

    return step._replace(operands=tuple(map(fill, step.operands)))


def _magnitude(step: Step) -> Step:
    """The step of magnitudes: |A| and |b|."""
    if step.primitive.name == "div":
        return _filled(step, jnp.abs)
    # weights so small that they count as 0 still weigh something
    return _filled(step, lambda c: jnp.abs(c) + _reach(c.dtype))


def _push(step: Step, vectors: list[Array]) -> tuple[Array, ...]:
    """|A| v for v >= 0, one vector for each source."""
    magnitude = _magnitude(step).apply
    _, pushed = jax.jvp(magnitude, tuple(map(jnp.zeros_like, vectors)), tuple(vectors))
    return tuple(map(jnp.abs, pushed))


def summed(step: Step, *variables: Array, block: int = BLOCK) -> tuple[Array, ...]:
    """`step.apply`, with long sums of matrix products in blocks that are added up as a tree.

    Each number then takes about block + log2(n / block) roundings instead of n.
    """
    blocks = _blocks(step, block)
    if blocks == 1:
        return step.apply(*variables)
    values = iter(variables)
    filled = [next(values) if isinstance(o, Ref) else o for o in step.operands]
    parts = [
        _split(operand, stays, contracted, blocks)
        for operand, stays, contracted in zip(filled, *_axes(step), strict=True)
    ]
    _, (batch, _) = step.params["dimension_numbers"]
    batch = tuple(range(len(batch) + 1))
    left, right = parts
    product = lax.dot_general(
        left,
        right,
        (((left.ndim - 1,), (right.ndim - 1,)), (batch, batch)),
        precision=step.params["precision"],
        preferred_element_type=step.targets[0].dtype,
    )
    while len(product) > 1:
        half = len(product) // 2
        product = product[:half] + product[half:]
    return (product[0],)


def _blocks(step: Step, block: int) -> int:
    """How many blocks `summed` makes of a step: a power of 2."""
    if step.primitive is not lax.dot_general_p:
        return 1
    (left, _), _ = step.params["dimension_numbers"]
    terms = math.prod(np.shape(step.operands[0])[axis] for axis in left)
    return 1 << max(0, math.ceil(math.log2(max(terms, 1) / block)))


def _axes(step: Step) -> tuple[list[tuple[int, ...]], tuple[tuple[int, ...], ...]]:
    """For each operand: the axes that stay, batch axes first, and those that are summed over."""
    contracted, batch = step.params["dimension_numbers"]
    stays = []
    for operand, summed_over, first in zip(step.operands, contracted, batch, strict=True):
        free = [i for i in range(len(operand.shape)) if i not in (*summed_over, *first)]
        stays.append((*first, *free))
    return stays, contracted


def _split(
    operand: Array, stays: tuple[int, ...], contracted: tuple[int, ...], blocks: int
) -> Array:
    """`[blocks, *stays, width]`, filled up with zeros."""
    moved = jnp.transpose(operand, (*stays, *contracted))
    flat = moved.reshape(*(operand.shape[i] for i in stays), -1)
    width = -(-flat.shape[-1] // blocks)
    short = blocks * width - flat.shape[-1]
    flat = jnp.pad(flat, [(0, 0)] * len(stays) + [(0, short)])
    return jnp.moveaxis(flat.reshape(*flat.shape[:-1], blocks, width), -2, 0)


class _Shared(NamedTuple):
    """How the numbers of a step are shared, whatever they are; no count is too small."""

    back: Sequence[float]
    """The most roundings that the cotangent of an entry of each source takes."""
    forth: float
    """The most roundings that an entry of the targets takes in `summed`."""
    terms: float
    """As `forth`, in any order of adding up."""


def _shared(step: Step, block: int) -> _Shared:
    name = step.primitive.name
    if name in ELEMENTWISE:
        return _Shared([float(SLACK)] * len(step.sources), float(SLACK), 0.0)
    if name in ("dot_general", "conv_general_dilated"):
        terms, uses = _matrix(step) if name == "dot_general" else _convolution(step)
        blocks = _blocks(step, block)
        forth = terms if blocks == 1 else -(-terms // blocks) + math.log2(blocks)
        return _Shared([uses + 1.0], forth + 1.0, terms + 1.0)
    if name == "broadcast_in_dim":
        (source,), (target,) = step.sources, step.targets
        uses = math.prod(target.shape) / max(math.prod(source.shape), 1)
        return _Shared([uses + 1 if uses > 1 else 0.0], 0.0, 0.0)
    if name in MOVES - {"gather"}:
        return _Shared([0.0] * len(step.sources), 0.0, 0.0)
    return _counted(step)


def _matrix(step: Step) -> tuple[int, int]:
    """The products in each sum of a `dot_general`, and the sums that each number is in."""
    constant = next(i for i, o in enumerate(step.operands) if not isinstance(o, Ref))
    contracted, batch = step.params["dimension_numbers"]
    shape = np.shape(step.operands[constant])
    terms = math.prod(shape[axis] for axis in contracted[constant])
    shared = math.prod(shape[axis] for axis in batch[constant])
    return terms, math.prod(shape) // max(terms * shared, 1)


def _convolution(step: Step) -> tuple[int, int]:
    """As `_matrix`, of a convolution of the network's values with a constant kernel."""
    if not isinstance(step.operands[0], Ref):
        most = max(math.prod(r.shape) for r in (*step.sources, *step.targets))
        return most, most
    params = step.params
    kernel = step.operands[1].shape
    out, into, *window = (kernel[axis] for axis in params["dimension_numbers"].rhs_spec)
    dense = all(d == 1 for d in (*params["lhs_dilation"], *params["rhs_dilation"]))
    stride = params["window_strides"] if dense else (1,) * len(window)
    met = math.prod(-(-k // s) for k, s in zip(window, stride, strict=True))
    return math.prod(window) * into, met * out // params["feature_group_count"]


def _counted(step: Step) -> _Shared:
    """The counts, found by running the step on ones."""
    ones = _filled(step, lambda c: np.ones(np.shape(c), c.dtype))
    if any(isinstance(o, Tracer) for o in ones.operands):
        # indices that are not known yet: as if every entry met every other
        most = float(max(math.prod(r.shape) for r in (*step.sources, *step.targets)) + SLACK)
        return _Shared([most] * len(step.sources), most, most)
    with jax.ensure_compile_time_eval():
        back = ones.transpose(*(jnp.ones(t.shape, t.dtype) for t in step.targets))
        forth = ones.apply(*(jnp.ones(s.shape, s.dtype) for s in step.sources))
    sums = step.primitive.name in SUMS
    counts = [float(np.max(n, initial=0)) for n in map(np.asarray, back)]
    # a number that is only moved is rounded where it is used several times
    rounded = [n + 1 if sums or n > 1 else 0.0 for n in counts]
    terms = max(float(np.max(n, initial=0)) for n in map(np.asarray, forth)) + 1
    return _Shared(rounded, terms if sums else 0.0, terms)
