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
from collections.abc import Callable, Mapping, Sequence
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

SLACK = 4
"""Roundings allowed beside those of a sum: compilers move factors, and divide by multiplying."""


BLOCK = 8
"""Products that `summed` adds up in one go."""


class Noise(NamedTuple):
    """What rounding can do to one value of the network, all bounds included."""

    size: Array
    """Of the value's shape: a row nu over the value is off by at most |nu| . size ..."""
    floor: Array
    """... and a scalar: what underflow adds to that, whatever the row."""


def gamma(n: Array | np.ndarray | float, dtype: Any) -> Array:
    """n u / (1 - n u), rounded up: the relative error of n roundings; infinite from n u = 1/2."""
    nu = jnp.asarray(n, dtype) * (jnp.finfo(dtype).eps / 2)
    return jnp.where(nu < 0.5, 1.01 * nu / (1 - jnp.minimum(nu, 0.5)), jnp.inf)


def grown(value: Array, n: int) -> Array:
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
) -> Noise:
    """What rounding can do between the nearest nodes (or the input) and `seed`.

    Args:
      values: the network's values at the clean example, by `Ref.id`, as computed.
      spread: for the input and the nodes' targets, how far each entry can be from its clean value.
      live: bool of the seed's shape: the entries that rows over it can have other than 0.
    """
    far = dict(spread)
    size = {i: jnp.zeros_like(d) for i, d in spread.items()}
    floor = jnp.zeros((), seed.dtype)
    readers = collections.Counter(s.id for o in graph.operations for s in o.sources)
    steps = _between(graph, seed, spread)
    used = [_uses(step).back for step in steps] if live is None else _used_by(steps, seed, live)
    for step, back in zip(steps, used, strict=True):
        ids = [s.id for s in step.sources]
        sources = [values[i] for i in ids]
        longest = _uses(step).longest
        # cotangents of several readers are added up
        back = [n + (SLACK + readers[i]) * (readers[i] > 1) for n, i in zip(back, ids, strict=True)]
        for n, i in zip(back, ids, strict=True):
            floor += (2 * tiny(far[i].dtype) * jnp.sum(n * far[i])).astype(floor.dtype)
        met = [gamma(n, far[i].dtype) * far[i] + size[i] for n, i in zip(back, ids, strict=True)]
        parts = (
            step.targets,
            _terms(step, sources),
            _magnitude(step).apply(*(jnp.abs(v) + _reach(v.dtype) for v in sources)),
            _push(step, met),
            _push(step, [far[i] for i in ids]),
        )
        for target, n, height, carried, moved in zip(*parts, strict=True):
            # these numbers are rounded themselves, and so is the row that meets them
            raised = 1 + 4 * gamma(longest + 2 * SLACK, target.dtype)
            own = gamma(n, target.dtype) * jnp.abs(height) + 2 * tiny(target.dtype) * n
            size[target.id] = raised * (own + carried)
            far[target.id] = raised * (own + moved)
            if step.primitive.name not in MOVES:
                floor += (_reach(target.dtype) * jnp.sum(size[target.id])).astype(floor.dtype)
    return jax.lax.stop_gradient(Noise(size[seed.id], floor))


def _reach(dtype: Any) -> float:
    """Of underflow, in units of what rounding does: 4 tiny / u."""
    return 8 * tiny(dtype) / float(jnp.finfo(dtype).eps)


def _between(graph: Graph, seed: Ref, ends: Mapping[int, Any]) -> list[Step]:
    """The affine steps on the ways from `ends` to `seed`, in order."""
    needed, steps = {seed.id}, []
    for operation in reversed(graph.operations):
        if isinstance(operation, Node) or not any(t.id in needed for t in operation.targets):
            continue
        steps.append(operation)
        needed.update(s.id for s in operation.sources if s.id not in ends)
    return steps[::-1]


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
    """|A| v for v >= 0, one for each source."""
    zeros = tuple(jnp.zeros_like(v) for v in vectors)
    moved = jax.jvp(_magnitude(step).apply, zeros, tuple(vectors))[1]
    return tuple(map(jnp.abs, moved))


def summed(step: Step, *variables: Array) -> tuple[Array, ...]:
    """`step.apply`, with long sums of matrix products in blocks that are added up as a tree.

    Each number then takes about `BLOCK` + log2(n / BLOCK) roundings instead of n.
    """
    blocks = _blocks(step)
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


def _blocks(step: Step) -> int:
    """How many blocks `summed` makes of a step: a power of 2."""
    if step.primitive is not lax.dot_general_p:
        return 1
    (left, _), _ = step.params["dimension_numbers"]
    terms = math.prod(np.shape(step.operands[0])[axis] for axis in left)
    return 1 << max(0, math.ceil(math.log2(max(terms, 1) / BLOCK)))


def _axes(step: Step) -> tuple[list[tuple[int, ...]], tuple[tuple[int, ...], ...]]:
    """By operand: the axes that stay, batch axes first, and those that are summed over."""
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


def _terms(step: Step, sources: list[Array]) -> tuple[Array | float, ...]:
    """How many roundings each entry of the targets takes in `summed`."""
    name, blocks = step.primitive.name, _blocks(step)
    if name not in SUMS:
        return (float(SLACK * (name in ELEMENTWISE)),) * len(step.targets)
    # products with an exact 0 and sums with it are exact
    given = [(v != 0).astype(v.dtype) for v in sources]
    if blocks == 1:
        ones = _filled(step, lambda c: (c != 0).astype(c.dtype))
        return tuple(n + 1 for n in ones.apply(*given))
    # not by `_products`: in JAX 0.10 on CPUs the maximum of batched products can hold garbage
    values = iter(given)
    parts = [
        _split(next(values), stays, contracted, blocks)
        for operand, stays, contracted in zip(step.operands, *_axes(step), strict=True)
        if isinstance(operand, Ref)
    ]
    longest = functools.reduce(jnp.minimum, [jnp.max(jnp.sum(p, axis=-1)) for p in parts])
    return (longest + math.log2(blocks) + 1,)


def _used_by(steps: Sequence[Step], seed: Ref, live: Array) -> list[list[Array | float]]:
    """As `_Uses.back`, by step, where rows over the seed are 0 but where `live`."""
    masks = {seed.id: live.astype(seed.dtype)}
    found = []
    for step in reversed(steps):
        name = step.primitive.name
        arriving = [masks.get(t.id, jnp.zeros(t.shape, t.dtype)) for t in step.targets]
        ones = _filled(step, lambda c: np.ones(np.shape(c), c.dtype))
        counts = [jnp.abs(n) for n in ones.transpose(*arriving)]
        for source, n in zip(step.sources, counts, strict=True):
            reached = (n > 0).astype(n.dtype)
            masks[source.id] = jnp.maximum(masks.get(source.id, 0), reached)
        if name in ELEMENTWISE:
            found.append([float(SLACK)] * len(counts))
        else:
            found.append([jnp.where((n > 1) | (name in SUMS), n + 1, 0) for n in counts])
    return found[::-1]


class _Uses(NamedTuple):
    """How the numbers of a step are shared, whatever they are."""

    back: Sequence[np.ndarray | float]
    """By source: the roundings that each entry's cotangent takes."""
    longest: float
    """The most roundings of anything here."""


def _uses(step: Step) -> _Uses:
    name = step.primitive.name
    if name in ELEMENTWISE:
        return _Uses([float(SLACK)] * len(step.sources), SLACK)
    ones = _filled(step, lambda c: np.ones(np.shape(c), c.dtype))
    if any(isinstance(o, Tracer) for o in ones.operands):
        # indices that are not known yet: as if every entry met every other
        most = float(max(math.prod(r.shape) for r in (*step.sources, *step.targets)) + SLACK)
        return _Uses([most] * len(step.sources), most)
    with jax.ensure_compile_time_eval():
        back = ones.transpose(*(jnp.ones(t.shape, t.dtype) for t in step.targets))
        forth = ones.apply(*(jnp.ones(s.shape, s.dtype) for s in step.sources))
    counts = [np.asarray(n) for n in back]
    # a number that is only moved is rounded where it is used several times
    rounded = [np.where((n > 1) | (name in SUMS), n + 1, 0) for n in counts]
    return _Uses(
        rounded, max(float(np.max(n, initial=SLACK)) for n in (*counts, *map(np.asarray, forth)))
    )
