"""Groups of examples on a CPU: how large they are, and that they change time and memory alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import attacks
from jaxrobust.attacks import batch
from jaxrobust.threats import Linf

BALL = Linf(0.1)


@pytest.mark.parametrize(
    ("count", "lanes", "size"),
    [
        (100, 1, None),  # few enough
        (500, 1, 125),
        (100, 9, 10),
        (125, 9, 5),
        (16, 9, None),
        (1000, 200, None),  # each more than a group by itself
        (127, 9, None),  # no divisor
        (9, 100, 1),
    ],
)
def test_groups_divide_the_batch_and_fill_the_caches(count, lanes, size):
    assert batch.group_size(count, lanes) == size


def test_accelerators_take_all_at_once(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert batch.group_size(500, 9) is None


def test_attacks_count_what_they_run_side_by_side():
    pgd = attacks.pgd(BALL, step_size=0.01, steps=2)
    suite = attacks.autoattack(BALL)
    assert {name: attack.lanes(10) for name, attack in suite.items()} == {
        "APGD-CE": 1, "APGD-T": 9, "FAB-T": 9, "Square": 1,
    }  # fmt: skip
    assert suite["APGD-T"].lanes(4) == suite["FAB-T"].lanes(4) == 3
    assert attacks.autoattack(BALL, chunk=2)["APGD-T"].lanes(10) == 2
    assert attacks.restarts(attacks.targeted(pgd), 5).lanes(10) == 45
    assert attacks.restarts(pgd, 5, chunk=2).lanes(10) == 2
    assert attacks.fab(BALL, targets=None, restarts=3).lanes(10) == 3
    assert attacks.expectation(attacks.restarts(pgd, 2), 7).lanes(10) == 14
    assert attacks.worst_of(pgd, attacks.restarts(pgd, 4)).lanes(10) == 4


def test_groups_change_no_result(monkeypatch):
    draw = np.random.default_rng(0)
    w = jnp.asarray(draw.normal(size=(6, 3)), jnp.float32)
    x = jnp.asarray(draw.uniform(size=(12, 6)), jnp.float32)
    y = jnp.argmax(x @ w, 1)
    attack = attacks.restarts(attacks.pgd(BALL, step_size=0.03, steps=4), 3)

    def run(lanes):
        monkeypatch.setattr(batch, "LANES", lanes)
        program = jax.jit(
            lambda x: attacks.batched(attack, jax.random.key(0), lambda z: z @ w, x, y)
        )
        return program(x), str(jax.make_jaxpr(program)(x)).count("scan[")

    whole, loops = run(1000)
    grouped, more = run(12)
    assert more == loops + 1
    for a, b in zip(whole, grouped, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
