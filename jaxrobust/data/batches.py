"""Which examples make up which batch, and on which device: index arithmetic without state.

Images stay where they are and batches are gathered from them by index.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import checks
from jaxrobust.data.types import Dataset
from jaxrobust.types import Array, Key

QUOTIENTS = np.arange(256, dtype=np.float32) / np.float32(255)
"""Every byte as a float."""


def to_float(x: Array | np.ndarray) -> Array:
    """8-bit images as floats: x / 255, correctly rounded.

    Meant to run inside a compiled step, so that only bytes cross to the device.

    Args:
      x: uint8 images of any shape.

    Returns:
      float32 in [0, 1], of the shape of `x`.

    Raises:
      ValueError: `x` is not uint8, for then it may be scaled already.
    """
    if x.dtype != np.uint8:
        raise ValueError(f"expected uint8 images in [0, 255], got {x.dtype}; scale them only once")
    # Looked up: XLA would multiply by 1 / 255, which differs from the quotient in the last bit.
    return jnp.asarray(QUOTIENTS).at[x].get(mode="promise_in_bounds")


def to_inputs(x: Array | np.ndarray) -> Array:
    """What a model is shown of the examples of a data set: floats as they are, bytes as x / 255.

    Floats that are bytes / 255 give the very same results as those bytes.

    Args:
      x: uint8 or floating-point examples of any shape.

    Returns:
      Floats of the shape of `x`: float32 in [0, 1] for bytes, of the type of `x` otherwise.

    Raises:
      ValueError: `x` holds other numbers.
    """
    return jnp.asarray(x) if jnp.issubdtype(x.dtype, jnp.floating) else to_float(x)


def permutation(seed: int, epoch: int | Array, size: int, batch_size: int) -> Array:
    """Draws the batches of one epoch, with each index at most once.

    A function of (seed, epoch) alone: a run resumed at any epoch, and every process of a
    multi-host run, sees the same batches. The `size % batch_size` examples that fill no batch
    are left out, others in each epoch. Can be jitted over `epoch`.

    Args:
      seed: the seed of the whole run.
      epoch: the number of the epoch, an integer scalar.
      size: the number of examples.
      batch_size: the number of examples in a batch.

    Returns:
      Indices of examples, int32 `[size // batch_size, batch_size]`, one batch a row.

    Raises:
      ValueError: `size` or `batch_size` below 1, or `size` below `batch_size`.
    """
    checks.at_least("size", size, 1)
    checks.at_least("batch_size", batch_size, 1)
    if size < batch_size:
        raise ValueError(
            f"{size} examples fill no batch of {batch_size}; use batch_size={size} or smaller"
        )
    return _shuffled(_epoch_key(seed, epoch), size, batch_size)


def _epoch_key(seed: int, epoch: int | Array) -> Key:
    # The generator is named because the session's default may differ, and with it the order.
    return jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), epoch)


def _shuffled(key: Key, size: int, batch_size: int) -> Array:
    order = jax.random.permutation(key, jnp.arange(size, dtype=jnp.int32))
    steps = size // batch_size
    return order[: steps * batch_size].reshape(steps, batch_size)


def semi_supervised_batches(
    seed: int, epoch: int | Array, *, labeled: int, size: int, batch_size: int
) -> Array:
    """Draws the batches of one epoch, of equal parts labeled and pseudo-labeled examples.

    The labeled examples are the indices below `labeled`, the others those up to `size`. One epoch
    is one pass over the labeled ones, `labeled // (batch_size / 2)` batches, as in Wong's thesis,
    section 4.4.3, after Carmon et al. 2019. The other part is passed over in an order of its own,
    and again in a new one where the first is used up; a pass leaves out what fills no half of a
    batch, so that no batch holds an example twice. The two alternate along the batch: a run of an
    even number of neighbors, such as a device's share, is half labeled.

    A function of (seed, epoch) alone, as `permutation`.

    Args:
      seed: the seed of the whole run.
      epoch: the number of the epoch, an integer scalar.
      labeled: the number of labeled examples.
      size: the number of all examples.
      batch_size: the number of examples in a batch, even.

    Returns:
      Indices of examples, int32 `[labeled // (batch_size / 2), batch_size]`, one batch a row: those
      of labeled examples in the even columns, of pseudo-labeled ones in the odd columns.

    Raises:
      ValueError: an odd batch size, or a part that does not fill half a batch.
    """
    steps = _semi_supervised_steps(labeled, size, batch_size)
    half, rest, key = batch_size // 2, size - labeled, _epoch_key(seed, epoch)
    passes = -(-steps // (rest // half))
    keys = jax.vmap(lambda part: jax.random.fold_in(key, part))(jnp.arange(passes + 1))
    known = _shuffled(keys[0], labeled, half)
    others = jax.vmap(lambda k: _shuffled(k, rest, half))(keys[1:]).reshape(-1, half)[:steps]
    return jnp.stack([known, others + jnp.int32(labeled)], axis=-1).reshape(steps, batch_size)


def _semi_supervised_steps(labeled: int, size: int, batch_size: int) -> int:
    checks.at_least("batch_size", batch_size, 1)
    if batch_size % 2:
        raise ValueError(
            f"batch_size={batch_size} has no half for the labeled examples; "
            f"use an even one, such as {batch_size + 1}"
        )
    for count, part in ((labeled, "labeled"), (size - labeled, "pseudo-labeled")):
        if count < batch_size // 2:
            raise ValueError(
                f"{count} {part} examples do not fill half a batch of {batch_size}; "
                f"use a smaller batch_size or add {part} examples"
            )
    return labeled // (batch_size // 2)


def batches_per_epoch(dataset: Dataset, batch_size: int) -> int:
    """Counts the batches in one pass over the training images, or the labeled ones if not all are.

    Args:
      dataset: the data set whose training images make the batches.
      batch_size: the number of examples in a batch.

    Returns:
      The number of whole batches, which is that of the rows of `epoch_batches`.

    Raises:
      ValueError: as `epoch_batches`.
    """
    size = dataset.train.size
    if dataset.labeled is not None:
        return _semi_supervised_steps(dataset.labeled, size, batch_size)
    checks.at_least("batch_size", batch_size, 1)
    if size < batch_size:
        raise ValueError(
            f"{size} training images fill no batch of {batch_size}; use a smaller batch_size"
        )
    return size // batch_size


def epoch_batches(seed: int, epoch: int | Array, dataset: Dataset, batch_size: int) -> Array:
    """Draws the batches of one epoch of a data set.

    They are those of `permutation`, or of `semi_supervised_batches` where images are
    pseudo-labeled.

    Args:
      seed: the seed of the whole run.
      epoch: the number of the epoch, an integer scalar.
      dataset: the data set whose training images make the batches.
      batch_size: the number of examples in a batch.

    Returns:
      Indices into `dataset.train`, int32 `[steps, batch_size]`, one batch a row, where `steps` is
      `batches_per_epoch(dataset, batch_size)`.

    Raises:
      ValueError: a batch larger than the data, or impossible in halves.
    """
    size = dataset.train.size
    if dataset.labeled is None:
        return permutation(seed, epoch, size, batch_size)
    return semi_supervised_batches(
        seed, epoch, labeled=dataset.labeled, size=size, batch_size=batch_size
    )


def padded_batches(size: int, batch_size: int) -> tuple[Array, Array]:
    """Every example once, in order, in batches of one shape, for evaluation that counts exactly.

    Args:
      size: the number of examples.
      batch_size: the number of rows of a batch.

    Returns:
      (indices, mask), int32 and bool, both `[steps, batch_size]` with
      `steps = ceil(size / batch_size)`. The mask is False on the padding of the last batch, whose
      index is 0, a row that can be gathered and must not be counted.

    Raises:
      ValueError: `size` or `batch_size` below 1.
    """
    checks.at_least("size", size, 1)
    checks.at_least("batch_size", batch_size, 1)
    steps = -(-size // batch_size)
    indices = jnp.arange(steps * batch_size, dtype=jnp.int32).reshape(steps, batch_size)
    mask = indices < size
    return jnp.where(mask, indices, 0), mask


def shard(indices: Array | np.ndarray, devices: int) -> Array:
    """Deals the last axis out to devices.

    Device d gets the d-th run of B / devices neighbors, so that the shards put side by side are
    the batch again.

    Args:
      indices: `[..., B]`, of at least one dimension.
      devices: the number of devices.

    Returns:
      The shards, `[devices, ..., B / devices]`.

    Raises:
      ValueError: B is not a multiple of `devices`, `devices` is no whole number of at least 1, or
        `indices` has no dimensions.
    """
    checks.at_least("devices", devices, 1)
    return _deal(indices, devices, "devices")


def process_slice(indices: Array | np.ndarray, *, process_index: int, process_count: int) -> Array:
    """The part of a global batch that one process reads.

    For multi-host runs: make the global batches with `epoch_batches` on every process, slice with
    `jax.process_index()` and `jax.process_count()`, then `shard` over `jax.local_device_count()`.

    Args:
      indices: `[..., B]`, the global batch or batches.
      process_index: the number of the process, from 0.
      process_count: the number of processes.

    Returns:
      The `process_index`-th run of B / process_count neighbors, `[..., B / process_count]`.

    Raises:
      ValueError: B is not a multiple of `process_count`, no such process, or `indices` has no
        dimensions.
    """
    checks.at_least("process_count", process_count, 1)
    checks.at_least("process_index", process_index, 0)
    if process_index >= process_count:
        raise ValueError(
            f"process_index must lie in [0, {process_count}) for process_count={process_count}, "
            f"got {process_index}"
        )
    return _deal(indices, process_count, "processes")[process_index]


def _deal(indices: Array | np.ndarray, parts: int, unit: str) -> Array:
    indices = jnp.asarray(indices)
    if not indices.ndim:
        raise ValueError(f"indices must have shape [..., B], got the number {indices}")
    *leading, batch = indices.shape
    if batch % parts:
        nearest = max(1, (batch + parts // 2) // parts) * parts
        raise ValueError(
            f"a batch of {batch} does not divide over {parts} {unit}; "
            f"the nearest batch size that does is {nearest}"
        )
    return jnp.moveaxis(indices.reshape(*leading, parts, batch // parts), -2, 0)
