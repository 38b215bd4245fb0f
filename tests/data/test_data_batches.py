"""Batch indices: counted by brute force, over sizes that do and do not divide."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrobust.data import (
    assemble,
    batches_per_epoch,
    epoch_batches,
    padded_batches,
    permutation,
    process_slice,
    pseudo_labeled,
    semi_supervised_batches,
    shard,
    synthetic,
    to_float,
)

# Each new shape compiles, so sizes come from a few.
SIZES = st.sampled_from([7, 12, 25])
few = settings(max_examples=15, deadline=None)


@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.parametrize("transform", [lambda f: f, jax.jit])
def test_to_float_is_exact_division(x64, transform):
    x = np.arange(256, dtype=np.uint8).reshape(4, 8, 8, 1)
    with jax.enable_x64(x64):
        got = transform(to_float)(x)
    assert got.dtype == jnp.float32
    np.testing.assert_array_equal(got, np.float32(x.astype(np.float64) / 255))
    assert got.min() == 0
    assert got.max() == 1


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_to_float_refuses_what_may_be_scaled_already(dtype):
    with pytest.raises(ValueError, match=r"expected uint8 images.*scale them only once"):
        to_float(np.zeros((2, 3), dtype))


@few
@given(SIZES, st.integers(1, 7), st.integers(0, 2**31 - 1), st.integers(0, 50))
def test_epoch_holds_every_example_at_most_once(size, batch_size, seed, epoch):
    batches = np.asarray(permutation(seed, epoch, size, batch_size))
    assert batches.shape == (size // batch_size, batch_size)
    assert batches.dtype == np.int32
    counts = np.bincount(batches.ravel(), minlength=size)
    assert len(counts) == size
    assert counts.max() == 1
    assert (counts == 0).sum() == size % batch_size


@few
@given(st.integers(0, 2**31 - 1), st.integers(0, 50))
def test_full_epoch_is_a_permutation(seed, epoch):
    np.testing.assert_array_equal(np.sort(np.ravel(permutation(seed, epoch, 12, 4))), np.arange(12))


def test_permutation_depends_on_seed_and_epoch_alone():
    first = permutation(3, 5, 100, 10)
    np.testing.assert_array_equal(first, permutation(3, 5, 100, 10))
    np.testing.assert_array_equal(
        first, jax.jit(lambda epoch: permutation(3, epoch, 100, 10))(jnp.int32(5))
    )
    with jax.enable_x64(True):
        wide = permutation(3, 5, 100, 10)
    assert wide.dtype == jnp.int32
    np.testing.assert_array_equal(first, wide)
    with jax.default_prng_impl("rbg"):
        np.testing.assert_array_equal(first, permutation(3, 5, 100, 10))
    # The batch size cuts the same order into other pieces.
    np.testing.assert_array_equal(first.ravel(), permutation(3, 5, 100, 20).ravel())
    for other in (permutation(3, 6, 100, 10), permutation(4, 5, 100, 10)):
        assert (np.asarray(first) != np.asarray(other)).mean() > 0.8


def test_permutation_is_uniform_over_positions():
    seen = np.stack([permutation(0, epoch, 4, 4)[0] for epoch in range(400)])
    counts = np.stack([np.bincount(seen[:, place], minlength=4) for place in range(4)])
    # Each count is binomial(400, 1/4): mean 100, deviation 8.7; five deviations.
    assert np.abs(counts - 100).max() < 44


@few
@given(
    st.sampled_from([(12, 30), (25, 50), (25, 30), (7, 100)]),
    st.sampled_from([2, 4, 10]),
    st.integers(0, 2**31 - 1),
    st.integers(0, 50),
)
def test_semi_supervised_batches_are_half_labeled(sizes, batch_size, seed, epoch):
    (labeled, size), half = sizes, batch_size // 2
    batches = np.asarray(
        semi_supervised_batches(seed, epoch, labeled=labeled, size=size, batch_size=batch_size)
    )
    steps = labeled // half
    assert batches.shape == (steps, batch_size)
    assert batches.dtype == np.int32
    assert ((batches < labeled).sum(-1) == half).all()
    assert all(len(set(row)) == batch_size for row in batches.tolist())
    counts = np.bincount(batches.ravel(), minlength=size)
    assert len(counts) == size
    # One pass over the labeled ones; as many passes over the others as the steps need.
    assert counts[:labeled].max() == 1
    whole, begun = divmod(steps, (size - labeled) // half)
    assert counts[labeled:].max() <= whole + (begun > 0)
    # Where every pass leaves some out, each example may be among them once.
    if (size - labeled) % half == 0:
        assert counts[labeled:].max() == whole + (begun > 0)
        assert counts[labeled:].min() == whole


def test_semi_supervised_passes_differ_and_depend_on_seed_and_epoch_alone():
    sizes = {"labeled": 40, "size": 50, "batch_size": 20}
    first = np.asarray(semi_supervised_batches(3, 5, **sizes))
    np.testing.assert_array_equal(first, semi_supervised_batches(3, 5, **sizes))
    with jax.enable_x64(True), jax.default_prng_impl("rbg"):
        wide = semi_supervised_batches(3, 5, **sizes)
    assert wide.dtype == jnp.int32
    np.testing.assert_array_equal(first, wide)
    # Four passes over ten pseudo-labeled examples, each in its own order.
    passes = {tuple(row[row >= 40].tolist()) for row in first}
    assert len(passes) == 4
    for other in ((3, 6), (4, 5)):
        assert (first != np.asarray(semi_supervised_batches(*other, **sizes))).mean() > 0.5


@pytest.mark.parametrize("devices", [1, 2, 4, 8])
def test_every_share_of_a_semi_supervised_batch_is_half_labeled(devices):
    batches = semi_supervised_batches(0, 1, labeled=30, size=64, batch_size=16)
    parts = np.asarray(shard(batches, devices))
    assert ((parts < 30).sum(-1) == 8 // devices).all()
    np.testing.assert_array_equal(np.concatenate(list(parts), -1), batches)
    if devices > 1:
        mine = process_slice(batches, process_index=1, process_count=2)
        assert (np.asarray(mine < 30).sum(-1) == 4).all()


def test_a_data_set_decides_how_its_batches_are_made():
    data = assemble("synthetic", synthetic(train_size=30, test_size=8, classes=3))
    np.testing.assert_array_equal(epoch_batches(1, 2, data, 4), permutation(1, 2, 30, 4))
    assert batches_per_epoch(data, 4) == 7
    more = pseudo_labeled(data, data.train.x[:20], data.train.y[:20])
    want = semi_supervised_batches(1, 2, labeled=30, size=50, batch_size=4)
    np.testing.assert_array_equal(epoch_batches(1, 2, more, 4), want)
    assert batches_per_epoch(more, 4) == len(want) == 15


@few
@given(SIZES, st.integers(1, 30))
def test_padded_batches_count_every_example_exactly_once(size, batch_size):
    indices, mask = (np.asarray(a) for a in padded_batches(size, batch_size))
    assert indices.shape == mask.shape == (-(-size // batch_size), batch_size)
    assert indices.dtype == np.int32
    assert mask.dtype == bool
    np.testing.assert_array_equal(indices[mask], np.arange(size))
    assert ((indices >= 0) & (indices < size)).all()


def test_padded_batches_average_is_exact():
    values = np.arange(1.0, 11.0)
    indices, mask = (np.asarray(a) for a in padded_batches(10, 4))
    total = sum((values[i] * m).sum() for i, m in zip(indices, mask, strict=True))
    assert total / np.sum(mask) == values.mean()


def test_shard_deals_the_last_axis():
    indices = np.arange(24, dtype=np.int32).reshape(2, 12)
    got = np.asarray(shard(indices, 3))
    want = [[row[d * 4 : d * 4 + 4] for row in indices.tolist()] for d in range(3)]
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(np.concatenate(list(got), -1), indices)
    assert shard(indices[0], 4).shape == (4, 3)


def test_shards_gather_on_simulated_devices():
    values = jnp.arange(100.0)
    batch = permutation(0, 0, 100, 16)[0]
    devices = jax.local_device_count()
    assert devices == 8
    got = jax.pmap(lambda i, v: v[i], in_axes=(0, None))(shard(batch, devices), values)
    np.testing.assert_array_equal(np.ravel(got), np.asarray(batch, np.float32))


def test_process_slices_partition_the_batch():
    indices = permutation(1, 0, 48, 12)
    parts = [process_slice(indices, process_index=p, process_count=4) for p in range(4)]
    assert all(part.shape == (4, 3) for part in parts)
    np.testing.assert_array_equal(np.concatenate(parts, -1), indices)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: permutation(0, 0, 5, 8), r"5 examples fill no batch of 8; use batch_size=5"),
        (lambda: permutation(0, 0, 0, 8), r"size must be a whole number of at least 1, got 0"),
        (lambda: permutation(0, 0, 5, 2.5), r"batch_size must be a whole number.*got 2\.5"),
        (
            lambda: semi_supervised_batches(0, 0, labeled=9, size=20, batch_size=5),
            r"batch_size=5 has no half for the labeled examples; use an even one, such as 6",
        ),
        (
            lambda: semi_supervised_batches(0, 0, labeled=3, size=20, batch_size=8),
            r"3 labeled examples do not fill half a batch of 8; use a smaller batch_size or add",
        ),
        (
            lambda: semi_supervised_batches(0, 0, labeled=18, size=20, batch_size=8),
            r"2 pseudo-labeled examples do not fill half a batch of 8",
        ),
        (
            lambda: semi_supervised_batches(0, 0, labeled=9, size=20, batch_size=0),
            r"batch_size must be a whole number of at least 1, got 0",
        ),
        (lambda: padded_batches(0, 8), r"size must be a whole number of at least 1, got 0"),
        (lambda: padded_batches(5, 0), r"batch_size must be a whole number of at least 1, got 0"),
        (lambda: shard(np.zeros((3, 100)), 8), r"batch of 100 .* 8 devices; .* does is 104"),
        (lambda: shard(np.zeros(97), 8), r"batch of 97 .* 8 devices; .* does is 96"),
        (lambda: shard(np.zeros(3), 8), r"batch of 3 .* 8 devices; .* does is 8"),
        (lambda: shard(np.zeros(8), 0), r"devices must be a whole number of at least 1, got 0"),
        (
            lambda: process_slice(np.zeros(9), process_index=0, process_count=2),
            r"batch of 9 .* 2 processes; .* does is 10",
        ),
        (
            lambda: process_slice(np.zeros(8), process_index=2, process_count=2),
            r"process_index must lie in \[0, 2\) for process_count=2, got 2",
        ),
        *(
            (
                functools.partial(process_slice, np.zeros(8), process_index=i, process_count=2),
                rf"process_index must be a whole number of at least 0, got {i!r}",
            )
            for i in (-1, 1.0, "0", True)
        ),
        (
            lambda: process_slice(np.zeros(8), process_index=0, process_count=0),
            r"process_count must be a whole number of at least 1, got 0",
        ),
        (
            lambda: shard(np.asarray(3), 1),
            r"must have shape \[\.\.\., B\], got the number 3",
        ),
    ],
)
def test_errors_name_the_numbers_and_the_mend(call, message):
    with pytest.raises(ValueError, match=message):
        call()
