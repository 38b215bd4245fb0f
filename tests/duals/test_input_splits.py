"""Halving boxes of inputs against integer programs, grids and splits of units."""

import dual_cases as cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_branching import (
    bent,
    blind,
    check_decisions,
    example,
    network,
    partial,
    rows_of,
    violated,
)

from jaxrobust import duals
from jaxrobust.duals import branch_and_bound, input_splits
from jaxrobust.duals.specification import Property, margins
from jaxrobust.threats import L1, L2, Linf, Union


def smooth(parameters, x):
    return cases.mlp((jnp.tanh, jax.nn.sigmoid), parameters)(x)


@pytest.mark.parametrize("apply", [network, pytest.param(bent, marks=pytest.mark.slow)])
def test_decisions_are_those_of_integer_programs(apply):
    for seed in (0, 2):
        f = partial(seed, apply=apply)
        x = jnp.stack([example(10 * seed + i) for i in range(2)])
        y, threat = jnp.argmax(jax.vmap(f)(x), axis=1), Linf(0.2)
        exacts = duals.exact_margins(f, x, y, threat, boxed=True)
        for one, label, exact in zip(x, y, exacts, strict=True):
            least = np.delete(exact.lower, int(label))
            check_decisions(
                f,
                one,
                rows_of(int(label)),
                least,
                threat,
                apart=1e-2,
                split="inputs",
                batch_size=64,
            )


@pytest.mark.slow
def test_decisions_of_smooth_networks_are_those_of_a_grid():
    ticks = np.linspace(-1, 1, 401)
    grid = jnp.asarray(np.stack(np.meshgrid(ticks, ticks), -1).reshape(-1, 2), jnp.float32)
    for seed in (0, 1):
        f, x = partial(seed, (2, 6, 6, 3), smooth), example(seed, 2)
        rows = rows_of(int(jnp.argmax(f(x))))
        least = (jax.vmap(f)(x[None] + 0.3 * grid) @ rows.T).min(axis=0)
        check_decisions(
            f,
            x,
            rows,
            least,
            Linf(0.3, -np.inf, np.inf),
            apart=1e-2,
            off=1e-3,
            split="inputs",
            batch_size=64,
        )


def test_clauses_of_several_rows():
    """A property that holds since one row or the other does, on either side of the set."""
    f = jax.tree_util.Partial(lambda w, x: jnp.stack([x[0] + w, -x[0] + w]), jnp.float32(0.1))
    x, threat = jnp.full(2, 0.5), Linf(0.4)
    for offset, status in ((-0.05, "verified"), (-0.15, "falsified")):
        goal = Property(
            np.eye(2, dtype=np.float32), np.array([offset - 0.5, offset + 0.5]), np.zeros(2, int)
        )
        found = duals.verify(f, x, goal, threat, batch_size=16)
        assert found.status == status
        assert found.lower <= 0.1 + offset + 1e-6 <= found.upper + 1e-5


def test_a_lost_half_is_seen(monkeypatch):
    monkeypatch.setattr(branch_and_bound, "attacked", blind)
    # corners and centers find these violations too soon for the fault to show
    bounded = input_splits.bounded

    def unseeing(*args, **options):
        found = bounded(*args, **options)
        return found._replace(witness=jnp.broadcast_to(args[1][:1], found.witness.shape))

    monkeypatch.setattr(input_splits, "bounded", unseeing)
    instances = violated(range(6))

    def decisions():
        return [
            duals.verify(f, x, goal, Linf(0.3), batch_size=64, max_subdomains=5000).status
            for f, x, goal in instances
        ]

    assert "verified" not in decisions()
    halved = input_splits.halved
    for lost in (0, 1):

        def forgetful(*args, lost=lost):
            return tuple(np.repeat(side[1 - lost :: 2], 2, axis=0) for side in halved(*args))

        monkeypatch.setattr(input_splits, "halved", forgetful)
        assert "verified" in decisions()


def test_halves_are_the_box_and_cut_where_the_row_is_steep():
    rng = np.random.default_rng(0)
    low = rng.uniform(-1, 0, (50, 4)).astype(np.float32)
    high = (low + rng.uniform(0, 1, low.shape)).astype(np.float32)
    steep = rng.uniform(0, 1, low.shape).astype(np.float32)
    lows, highs = (side.reshape(50, 2, 4) for side in input_splits.halved(low, high, steep))
    at = np.argmax(steep * (high - low), axis=1)
    for i in range(50):
        cut = np.arange(4) == at[i]
        np.testing.assert_array_equal(lows[i, 0], low[i])
        np.testing.assert_array_equal(highs[i, 1], high[i])
        np.testing.assert_array_equal(highs[i, 0][~cut], high[i][~cut])
        np.testing.assert_array_equal(lows[i, 1][~cut], low[i][~cut])
        assert low[i, at[i]] < highs[i, 0, at[i]] == lows[i, 1, at[i]] < high[i, at[i]]
    # without a row the widest coordinate is halved, and one of neighboring floats never
    lows, _ = input_splits.halved(low[:1], high[:1], 0 * steep[:1])
    assert np.flatnonzero(lows[1] != low[0]) == [np.argmax(high[0] - low[0])]
    high[0, 2] = np.nextafter(low[0, 2], np.float32(1))
    lows, _ = input_splits.halved(low[:1], high[:1], np.array([[0, 0, 1e9, 1e-3]], np.float32))
    assert np.flatnonzero(lows[1] != low[0]) == [3]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_corners_hold_the_set(dtype):
    rng = np.random.default_rng(1)
    x = rng.uniform(0, 1, 1000).astype(dtype)
    radius = np.where(rng.uniform(size=1000) < 0.1, 0, rng.uniform(0, 0.3, 1000)).astype(dtype)
    with jax.enable_x64(dtype == np.float64):
        low, high = input_splits.ends(x, Linf(radius))
    exact = np.longdouble
    least = np.maximum(x.astype(exact) - radius.astype(exact), 0)
    most = np.minimum(x.astype(exact) + radius.astype(exact), 1)
    assert low.dtype == high.dtype == dtype
    assert np.all(low.astype(exact) <= least)
    assert np.all(high.astype(exact) >= most)
    assert np.all((high - low)[radius == 0] == 0)
    assert np.all(most - least >= (high - low) - 8 * np.finfo(dtype).eps)


@pytest.mark.slow
def test_sizes_of_batches_and_other_numbers():
    """The same verdicts, and one program for each size."""
    seen = {}
    for size in (1, 7, 256):
        for seed in range(3):
            f, x = partial(seed), example(seed)
            goal = margins(int(jnp.argmax(f(x))), 3)
            verdicts = [duals.verify(f, x, goal, Linf(r), batch_size=size) for r in (0.05, 0.15)]
            seen.setdefault((seed,), []).append([v.status for v in verdicts])
            if seed == 0:
                programs = input_splits.bounded._cache_size()
        assert input_splits.bounded._cache_size() == programs
    assert all(found[0] == found[1] == found[2] for found in seen.values())
    assert all("unknown" not in found[0] for found in seen.values())


@pytest.mark.slow
def test_inputs_are_halved_where_they_are_few():
    f, x = partial(0), example(0)
    y = int(jnp.argmax(f(x)))
    assert duals.verify(f, x, y, Linf(0.0)).status == "verified"
    before = input_splits.bounded._cache_size()
    wide, z = partial(0, (9, 8, 3)), example(0, 9)
    duals.verify(wide, z, int(jnp.argmax(wide(z))), Linf(0.01))
    duals.verify(f, x, y, L2(0.01))
    assert input_splits.bounded._cache_size() == before
    # a member that is a box is halved, the other split by units
    assert duals.verify(f, x, y, Union((Linf(0.01), L1(0.01))), batch_size=8).status == "verified"


def test_refusals():
    f, x = partial(0), example(0)
    with pytest.raises(ValueError, match="halves boxes, and L2 is none"):
        duals.verify(f, x, 0, L2(0.1), split="inputs")
    with pytest.raises(ValueError, match="unknown split 'input'"):
        duals.verify(f, x, 0, Linf(0.1), split="input")
