"""The compiled programs of an evaluation: one for clean accuracy, one per kind of attack.

A program depends on the model's functions and the device mesh alone. Parameters and the attack's
numbers are its arguments, so that neither other weights nor another radius compiles anew. The
factories remember their last programs (`lru_cache`), because JAX finds a compiled program again
only through the same function object; nothing else is remembered.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxrobust.attacks import batched, fooled
from jaxrobust.attacks.batch import example_keys, per_example, side_by_side
from jaxrobust.data import to_inputs
from jaxrobust.devices import Device
from jaxrobust.types import Array, Attack, AttackResult, Key, Model, PyTree

AXIS = "examples"
PROGRAMS = 32

Program = Callable[..., PyTree]


def make_mesh(devices: Sequence[Device] | None) -> Mesh:
    """A 1-D mesh over `devices` (default: all of them, of every process)."""
    devices = jax.devices() if devices is None else list(devices)
    if not devices:
        raise ValueError("evaluation needs at least one device, got an empty sequence")
    return Mesh(np.asarray(devices), (AXIS,))


def replicated(mesh: Mesh) -> NamedSharding:
    """A copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split_rows(mesh: Mesh) -> NamedSharding:
    """The leading axis dealt out over the devices."""
    return NamedSharding(mesh, PartitionSpec(AXIS))


@functools.lru_cache(maxsize=PROGRAMS)
def clean_program(model: Model, mesh: Mesh) -> Program:
    """`run(variables, index, x, y) -> correct [B]`, bool: the label's logit is strictly largest."""

    def run(variables: PyTree, index: Array, x: Array, y: Array) -> Array:
        del index
        f = model.logits_fn(variables)
        return ~jax.vmap(lambda a, b: fooled(f(a), b))(to_inputs(x), y)

    return _compiled(run, mesh, whole=1, dealt=3)


@functools.lru_cache(maxsize=PROGRAMS)
def attack_program(model: Model, mesh: Mesh, keep_examples: bool, count: int | None) -> Program:
    """`run(variables, attack, key, index, x, y) -> AttackResult` with fields `[B, ...]`.

    Without `keep_examples` the field `x` is None: the points found never leave the devices. With
    `count`, that of all examples, the attack holds numbers for each of them.
    """

    def run(
        variables: PyTree, attack: Attack, key: Key, index: Array, x: Array, y: Array
    ) -> AttackResult:
        f, x = model.logits_fn(variables), to_inputs(x)
        if count is None:
            result = batched(attack, key, f, x, y, index=index)
        else:
            own = per_example(attack, x.shape[1:], count)
            # `own` has None where a number is shared
            attack = jax.tree.map(
                lambda axis, leaf: leaf if axis is None else leaf[index],
                own,
                attack,
                is_leaf=lambda axis: axis is None,
            )
            result = side_by_side(attack, own, f, (example_keys(key, index), x, y))
        return result if keep_examples else result._replace(x=None)

    return _compiled(run, mesh, whole=3, dealt=3)


def logits_shape(model: Model, variables: PyTree, x: np.ndarray) -> tuple[int, ...]:
    """Shape of the logits of one example of `x [N, ...]`, without computing them."""
    example = jax.eval_shape(to_inputs, jax.ShapeDtypeStruct(x.shape[1:], x.dtype))
    return jax.eval_shape(lambda v, a: model.logits_fn(v)(a), variables, example).shape


def _compiled(run: Callable[..., PyTree], mesh: Mesh, *, whole: int, dealt: int) -> Program:
    """Compiles `run` over the mesh: `whole` arguments on every device, then `dealt` ones by rows.

    The rows come back on every device, so that every process can read all of them.
    """
    rows = PartitionSpec(AXIS)
    specs = (PartitionSpec(),) * whole + (rows,) * dealt
    # The attacks' loops mix per-device and constant carries, which the check would refuse.
    mapped = jax.shard_map(run, mesh=mesh, in_specs=specs, out_specs=rows, check_vma=False)
    return jax.jit(mapped, out_shardings=replicated(mesh))


def place_rows(mesh: Mesh, rows: np.ndarray) -> Array:
    """A host array `[B, ...]`, equal in every process, dealt out over the mesh."""
    return jax.make_array_from_callback(rows.shape, split_rows(mesh), lambda part: rows[part])


def place_whole(mesh: Mesh, tree: PyTree) -> PyTree:
    """The arrays and keys of `tree`, equal in every process, on every device of the mesh.

    Python numbers stay what they are: programs take them as weakly typed scalars.
    """
    whole = replicated(mesh)

    def place(leaf: PyTree) -> PyTree:
        if isinstance(leaf, int | float):
            return leaf
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            return jax.device_put(leaf, whole)
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            data = place(jax.random.key_data(leaf))
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
        # Not `device_put`, which over several processes refuses keys and scalars (JAX 0.10).
        held = np.asarray(leaf, jax.dtypes.canonicalize_dtype(leaf.dtype))
        return jax.make_array_from_callback(held.shape, whole, lambda part: held[part])

    return jax.tree.map(place, tree)


def host(tree: PyTree, mask: np.ndarray) -> PyTree:
    """The rows of `tree` where `mask` holds, as NumPy arrays; waits for the devices."""
    return jax.tree.map(lambda a: np.asarray(a)[mask], jax.block_until_ready(tree))
