"""From one example to many."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import checks
from jaxrobust.hoisting import hoisted
from jaxrobust.types import Array, Attack, AttackResult, Key, LogitsFn, PyTree, Scalar

LANES = 144
"""Examples whose activations a CPU's caches hold; 50 to 150 were alike."""

Box = tuple[Scalar, Scalar]
"""Lower and upper end of every input."""


def example_keys(key: Key, index: Array) -> Key:
    """Gives every example a key from its own index alone: batching never changes a result.

    Args:
      key: the random key that all of them come from.
      index: `[B]` integers, each example's own number.

    Returns:
      `[B]` keys, one for each example.
    """
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(index)


def batched(
    attack: Callable[..., AttackResult],
    key: Key,
    f: LogitsFn,
    x: Array,
    y: Array,
    *more: PyTree,
    index: Array | None = None,
    axis_name: str | None = None,
) -> AttackResult:
    """Runs `attack` on every example of a batch, side by side; on a CPU in groups of examples.

    Where the attack's threat sets hold one number for each example, `[B]`, or one for each of its
    coordinates, `[B, ...]`, every example is attacked within its own set; numbers of the shape of
    one example are the same for all.

    Outside `jit`, where the numbers are known, inputs must lie in the sets' pixel boxes, however
    the attack is wrapped, and labels among the classes; what only rounding put outside of a box is
    clipped. Shapes and types are checked always.

    Args:
      attack: called as `attack(key, f, x, y, *more)` on one example.
      key: the random key, from which and from its `index` every example gets its own.
      f: the classifier of ONE example.
      x: `[B, ...]`.
      y: `[B]` integers.
      more: arrays `[B, ...]` of whatever else `attack` takes for each example.
      index: `[B]`, each example's own number (default its position); it alone seeds its randomness.
      axis_name: names the mapped axis, for an `f` that takes training batch statistics over it.

    Returns:
      What `attack` returns, with a leading axis on every array. From an `Attack` it is an
      `AttackResult` whose points `x` are `[B, ...]` and whose other fields are `[B]`.

    Raises:
      ValueError: inputs that are not finite floats inside the box, labels that are not `[B]`
        integers below the number of classes, a model with fewer than two classes.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxrobust import attacks, threats
      >>> f = lambda x: jnp.stack([x[0], x[1]])
      >>> x, y = jnp.array([[0.55, 0.45], [0.9, 0.1]]), jnp.array([0, 0])
      >>> attack = attacks.fgsm(threats.Linf(0.1))
      >>> found = jax.jit(lambda key: attacks.batched(attack, key, f, x, y))(jax.random.key(0))
      >>> found.success.tolist(), found.x.shape
      ([True, False], (2, 2))
    """
    _check(f, x, y, mapped=axis_name is not None)
    if checks.is_concrete(x):
        x = jnp.asarray(in_boxes(x, [attack]))
    index = jnp.arange(x.shape[0]) if index is None else index
    own = per_example(attack, x.shape[1:], len(x))
    rows = (example_keys(key, index), x, y, *more)
    return side_by_side(attack, own, f, rows, axis_name=axis_name)


def side_by_side(
    attack: Callable[..., AttackResult],
    own: Attack | None,
    f: LogitsFn,
    rows: tuple[PyTree, ...],
    *,
    axis_name: str | None = None,
) -> AttackResult:
    """The attack on each of the rows (keys, examples, labels, ...), unchecked.

    What of `f` does not depend on its argument is computed once, see `hoisting.hoisted`.

    Args:
      own: which of the attack's numbers are by row, from `per_example`.
    """
    _, x, *_ = rows
    example = jax.ShapeDtypeStruct(x.shape[1:], x.dtype)
    alone = axis_name is None  # else an example may speak to the others, whom it meets below only
    if alone:
        f = hoisted(f, example)
    if own is not None:
        run = jax.vmap(
            lambda a, k, *example: a(k, f, *example),
            in_axes=(own, *(0,) * len(rows)),
            axis_name=axis_name,
        )
        return run(attack, *rows)
    lanes = 1
    if alone and isinstance(attack, Attack):
        lanes = attack.lanes(jax.eval_shape(f, example).size)
    group = group_size(len(x), lanes) if alone else None
    if group is None:
        return jax.vmap(lambda k, *example: attack(k, f, *example), axis_name=axis_name)(*rows)
    return jax.lax.map(lambda row: attack(row[0], f, *row[1:]), rows, batch_size=group)


def group_size(count: int, lanes: int) -> int | None:
    """How many of `count` examples to attack at a time; None for all of them.

    On a CPU as many as have about `LANES` copies side by side: for more, a network's activations
    leave the caches, and all passes together take nearly twice as long
    (docs/decisions/006-convolution.md). A divisor of `count`, so that one program serves all
    groups; where none is near, all at once. On accelerators all, which they need to be busy.
    """
    if jax.default_backend() != "cpu":
        return None
    sizes = [n for n in range(1, count) if count % n == 0 and n * lanes <= LANES]
    return sizes[-1] if sizes and 4 * sizes[-1] * lanes >= LANES and count * lanes > LANES else None


def per_example(attack: Any, shape: tuple[int, ...], count: int) -> Attack | None:
    """Which of an attack's numbers belong to single examples: an Attack of 0 and None, for `vmap`.

    None where there are none. They are those of threat sets, of shape `(count,)` or `(count,
    *shape)` but not the `shape` of an example itself, and what is stacked along with them.
    """
    sets = getattr(attack, "threats", ())
    found = {np.shape(leaf) for leaf in jax.tree.leaves(sets)}
    own = (found & {(count,), (count, *shape)}) - {shape}
    if not own:
        return None
    return jax.tree.map(lambda leaf: 0 if np.shape(leaf) in own else None, attack)


def in_boxes(x: Array, attacks: Iterable[Any], box: Box | None = None) -> Array:
    """`x` `[B, ...]`, checked against the pixel boxes of the attacks' threat sets.

    [0, 1] where no set tells; `box`, if given, is looked at beside them. Boxes that are not known
    now are not looked at. Raises ValueError as `checks.images`.
    """
    sets = [t for attack in attacks for t in getattr(attack, "threats", ())]
    boxes = [] if box is None else [box]
    for ends in [*map(box_of, sets), *boxes] or [(0.0, 1.0)]:
        x = in_box(x, ends)
    return x


def box_of(threat: Any) -> Box:
    """The pixel box of a threat set; [0, 1] where it names none."""
    return getattr(threat, "lower", 0.0), getattr(threat, "upper", 1.0)


def in_box(x: Array, ends: Box) -> Array:
    """`x` `[B, ...]`, checked against one box if that is known now; errors of `checks.images`."""
    if all(map(checks.is_concrete, ends)):
        lower, upper = (_beside(np.asarray(end), x) for end in ends)
        # a stack to be mapped over is refused by the attack itself
        if lower is not None and upper is not None:
            return checks.images(x, lower=lower, upper=upper)
    return x


def _beside(number: np.ndarray, x: Array) -> np.ndarray | None:
    """A set's number in a shape that broadcasts with `x` `[B, ...]`; None where it has none."""
    if number.shape in ((), x.shape[1:], x.shape):
        return number
    if number.shape == x.shape[:1]:
        return number.reshape(-1, *(1,) * (x.ndim - 1))
    return None


def _check(f: LogitsFn, x: Array, y: Array, *, mapped: bool) -> None:
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"inputs must be floating point, got {x.dtype}; see data.to_float")
    if jnp.finfo(x.dtype).bits < 32:
        raise ValueError(
            f"inputs must be at least float32, got {x.dtype}, whose rounding is as large as usual "
            "radii; give the model dtype=bfloat16 instead, which computes so inside"
        )
    if y.shape != x.shape[:1] or not jnp.issubdtype(y.dtype, jnp.integer):
        raise ValueError(
            f"labels must be integers of shape {x.shape[:1]}, one per example, "
            f"got {y.dtype} of shape {y.shape}"
        )
    # A model of training batch statistics cannot be evaluated outside its mapped axis.
    shape = None if mapped else jax.eval_shape(f, x[0]).shape
    if shape is not None and (len(shape) != 1 or shape[0] < 2):
        raise ValueError(f"a classifier maps an example to 2 or more logits, got shape {shape}")
    if checks.is_concrete(y) and shape is not None:
        checks.labels(y, count=len(x), num_classes=shape[0])
