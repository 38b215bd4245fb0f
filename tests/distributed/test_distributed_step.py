"""One step function on one device, pmapped over eight, and under shard_map: the same state."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from training.training_cases import assert_close, images, normalized, sgd

from jaxrobust import attacks, defenses
from jaxrobust.data import permutation, shard, to_float
from jaxrobust.lagrangian import pi
from jaxrobust.threats import Linf
from jaxrobust.training import (
    DEVICES,
    TrainState,
    crop_flip,
    init_state,
    make_step,
    pmapped_steps,
    replicate,
    unreplicate,
)
from jaxrobust.types import Batch

DATA = images()
THREAT = Linf(0.1)
OPTIONS = {"step_size": 0.05, "steps": 2}
STEPS, BATCH = 3, 16
CASES = {
    "erm": defenses.erm(),
    "pgd_eval": defenses.pgd(THREAT, **OPTIONS),
    "pgd_train": defenses.pgd(THREAT, attack_mode="train", **OPTIONS),
    "trades_eval": defenses.trades(defenses.trades_attack(THREAT, **OPTIONS), beta=6.0),
    "trades_train": defenses.trades(
        defenses.trades_attack(THREAT, **OPTIONS), beta=6.0, attack_mode="train"
    ),
    "dale_eval": defenses.dale(attacks.langevin(THREAT, temperature=1e-3, **OPTIONS), rho=0.2),
    "dale_train": defenses.dale(
        attacks.langevin(THREAT, temperature=1e-3, **OPTIONS), rho=0.2, attack_mode="train"
    ),
    "curriculum": defenses.curriculum(THREAT, threshold=1.0, mixed=True, **OPTIONS),
    "dual": defenses.dual(THREAT, clean_weight=0.3),
    "cvar": defenses.cvar(
        attacks.pgd(THREAT, **OPTIONS, keep="last"), share=0.3, learning_rate=0.2
    ),
    "awp_eval": defenses.awp(attacks.pgd(THREAT, keep="last", **OPTIONS), gamma=0.05),
    "awp_train": defenses.awp(
        attacks.pgd(THREAT, keep="last", **OPTIONS), gamma=0.05, attack_mode="train"
    ),
}


def pieces(name: str) -> tuple[Any, TrainState]:
    defense, model, optimizer = CASES[name], normalized(), sgd()
    multiplier = pi(0.1, proportional=2.0, initial=0.5) if defense.constrained else None
    step = make_step(
        model, defense, optimizer, multiplier=multiplier, augment=crop_flip(1), total_steps=STEPS
    )
    sample = jnp.zeros((1, *DATA.shape), jnp.float32)
    return step, init_state(jax.random.key(0), model, defense, optimizer, multiplier, sample)


def order() -> np.ndarray:
    return np.asarray(permutation(0, 0, DATA.train.size, BATCH))[:STEPS]


def pmapped(step: Any, state: TrainState, count: int) -> tuple[Any, Any]:
    devices = jax.devices()[:count]
    run = pmapped_steps(step, devices=devices)
    data = replicate(DATA.train, devices)
    return run(replicate(state, devices), data, shard(order(), count))


def sharded(step: Any, state: TrainState) -> tuple[Any, Any]:
    mesh = Mesh(np.asarray(jax.devices()), (DEVICES,))

    def steps(state: TrainState, x: Any, y: Any, indices: Any) -> Any:
        def body(state: TrainState, index: Any) -> Any:
            return step(state, Batch(to_float(x[index]), y[index], index))

        return jax.lax.scan(body, state, indices)

    run = jax.shard_map(
        steps,
        mesh=mesh,
        in_specs=(P(), P(), P(), P(None, DEVICES)),
        out_specs=P(),
        check_vma=False,
    )
    return jax.jit(run)(state, jnp.asarray(DATA.train.x), jnp.asarray(DATA.train.y), order())


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_any_number_of_devices_gives_the_same_state(name: str) -> None:
    step, state = pieces(name)
    one, metrics = pmapped(step, state, 1)
    eight, parallel = pmapped(step, state, 8)
    alone, together = unreplicate(one), unreplicate(eight)

    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), alone.variables, state.variables)
    assert min(jax.tree.leaves(moved)) > 1e-4
    tolerance = {"rtol": 2e-4, "atol": 2e-5}
    assert_close(together, alone, **tolerance)
    assert int(together.step) == STEPS
    assert_close(
        {n: v[0] for n, v in parallel.items()}, {n: v[0] for n, v in metrics.items()}, **tolerance
    )
    for device in range(1, 8):
        assert_close(jax.tree.map(lambda a, d=device: a[d], eight), together)
    if state.multiplier is not None:
        nu, average = float(state.multiplier.value), float(metrics["violation"][0][0])
        for violation, value in zip(metrics["violation"][0], metrics["multiplier"][0], strict=True):
            before, average = average, 0.9 * average + 0.1 * float(violation)
            nu = max(0.0, nu + 0.1 * (float(violation) + 2.0 * (average - before)))
            np.testing.assert_allclose(value, nu, rtol=1e-5)

    if name == "curriculum":
        # It passes the threshold at the first batch and again: its state is the same everywhere.
        assert int(together.defense_state.steps) >= 1

    if name == "cvar":
        # It rises by at most (1 / share - 1) times the rate a step; did the devices' sums count
        # eightfold, it would not agree with one device.
        assert 0 < float(alone.defense_state) <= STEPS * 0.2 * (1 / 0.3 - 1)

    if name == "dale_train":
        shards, _ = sharded(step, state)
        assert_close(shards, together, rtol=1e-5, atol=1e-6)


def test_dropout_differs_between_devices() -> None:
    from jaxrobust.defenses import forward

    model = normalized(rate=0.5)
    variables = model.init(jax.random.key(0), jnp.zeros((1, *DATA.shape)))
    x = (
        jnp.ones((8, 2, *DATA.shape), jnp.float32)
        * jnp.linspace(0, 1, 2)[None, :, None, None, None]
    )

    def logits(x: Any) -> Any:
        return forward(jax.random.key(1), model, variables, x, axes=(DEVICES,))[0]

    found = jax.pmap(logits, axis_name=DEVICES)(x)
    assert len({np.asarray(found[i]).tobytes() for i in range(8)}) == 8
