"""The warning for balls that hold the whole pixel box, where training and evaluation meet them."""

import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import attacks, defenses
from jaxrobust.defenses import TrainContext
from jaxrobust.evaluation import curve, evaluate
from jaxrobust.threats import L1, L2, Linf, Union, covering
from jaxrobust.types import Batch, Model, Variables

SHAPE = (2, 3)
FREE = {"lower": -np.inf, "upper": np.inf}
WARNS = partial(pytest.warns, UserWarning, match="covers the whole pixel box")


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch):
    monkeypatch.setattr(covering, "_TOLD", [])


def warned(*threats):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        covering.warn_of_covering(threats, SHAPE)
    return [str(one.message) for one in caught]


@pytest.mark.parametrize(
    "threat",
    [
        Linf(8),
        Linf(1.0),
        Linf(np.float32(2), -1.0, 1.0),
        L2(6**0.5),
        L1(6.0),
        Union((Linf(0.1), L1(8.0))),
        Union((Linf(0.1), L2(0.5)), 20.0),
        Linf(jnp.float32(8)),
    ],
)
def test_a_ball_that_covers_the_box_is_told_once(threat):
    (message,) = warned(Linf(0.1), threat)
    assert "8/255" in message
    assert not warned(threat), "once in a process"


@pytest.mark.parametrize(
    "threat",
    [
        Linf(8 / 255),
        Linf(0.99),
        Linf(1.0, -1.0, 1.0),
        L2(2.4),
        L1(5.9),
        Linf(8, **FREE),
        L2(1e9, **FREE),
        Linf(8, 0.0, np.inf),
        Linf(jnp.array([0.1, 8.0])),
        Union((Linf(0.1), L2(0.5))),
        "no ball",
    ],
    ids=str,
)
def test_others_are_not(threat):
    assert not warned(threat)
    jax.jit(lambda radius: covering.warn_of_covering([Linf(radius)], SHAPE))(8.0)
    assert not covering._TOLD, "nothing is known of traced radii"


def model():
    w = jnp.tile(jnp.arange(3, dtype=jnp.float32), (6, 1))

    def apply(variables, x, **_):
        return x.reshape(len(x), -1) @ variables.params, variables.stats

    return Model(lambda key, x: Variables(w), apply), Variables(w)


def test_evaluation_warns():
    net, variables = model()
    x, y = np.full((4, *SHAPE), 0.5, np.float32), np.zeros(4, np.int64)
    run = partial(evaluate, jax.random.key(0), net, variables, (x, y), batch_size=4, progress=False)
    step = {"step_size": 0.1, "steps": 1}
    with WARNS() as caught:
        run({"PGD": attacks.restarts(attacks.pgd(Linf(8), **step), 2)})
        run({"PGD": attacks.pgd(Linf(8), **step)})
    assert len([one for one in caught if "pixel box" in str(one.message)]) == 1


def test_a_curve_warns_where_it_starts_beyond_the_box():
    net, variables = model()
    x, y = np.full((4, *SHAPE), 0.5, np.float32), np.zeros(4, np.int64)
    attack = attacks.pgd(Linf(0.1), step_size=0.1, steps=1)
    options = {"batch_size": 4, "progress": False}
    curve(jax.random.key(0), net, variables, (x, y), attack, [0.0, 0.1, 2.0], **options)
    assert not covering._TOLD
    with WARNS():
        curve(jax.random.key(0), net, variables, (x, y), attack, [0.0, 1.0, 2.0], **options)


@pytest.mark.parametrize(
    "make",
    [
        lambda: defenses.pgd(Linf(8), step_size=2, steps=1),
        lambda: defenses.pgd(Linf(8), step_size=2, steps=1, ramp=0.5),
        lambda: defenses.dual(Linf(8), ramp=0.0),
        lambda: defenses.free(Linf(8), shape=(4, *SHAPE), replays=2),
    ],
    ids=["pgd", "ramp", "dual", "free"],
)
def test_training_warns(make):
    net, variables = model()
    x = jnp.full((4, *SHAPE), 0.5, jnp.float32)
    batch = Batch(x, jnp.zeros(4, jnp.int32), jnp.arange(4))
    defense = make()
    context = TrainContext(state=defense.init(), progress=jnp.float32(0.1))
    step = jax.jit(lambda v, m: defense.loss(jax.random.key(0), net, v, batch, m)[0])
    with WARNS():
        step(variables, context)


def test_checks_that_search_the_whole_box_say_nothing():
    with covering.covering_is_meant():
        assert not warned(Linf(8))
    assert warned(Linf(8))
