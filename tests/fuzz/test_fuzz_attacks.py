"""What every attack owes on random networks: a small run of the fuzz, and that it can fail."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import attacks
from jaxrobust.threats import Linf
from tests.fuzz import attacks as fuzz

DEFAULTS = {
    "steps": 2,
    "share": 1.5,
    "start": "uniform",
    "keep": "last",
    "loss": "margin",
    "noise": "gaussian",
    "place": "outside",
}


def kind(attack: str, ball: str, box: str = "pixels", **settings: object) -> fuzz.Kind:
    options = tuple((DEFAULTS | settings).items())
    return fuzz.Kind(attack, ball, box, (3, 4), 3, options)


KINDS = [
    kind("pgd", "linf"),
    kind("pgd", "l1", keep="best"),
    kind("pgd", "l2", keep="best", start="clean"),
    kind("momentum", "l2", box="free"),
    kind("langevin", "l2"),
    kind("beta", "linf", box="centered"),
    kind("multi-targeted", "linf", keep="best"),
    kind("apgd", "l2", steps=4),
    kind("apgd", "l1", steps=4),
    kind("gated", "linf"),
    kind("growing", "l2"),
    kind("n-fgsm", "linf"),
    kind("msd", "linf"),
    kind("worst-of", "linf"),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    "case", KINDS, ids=lambda k: f"{k.attack}-{k.ball}-{dict(k.settings)['keep']}"
)
def test_attacks_owe_it_on_random_networks(case: fuzz.Kind) -> None:
    assert not fuzz.faults(case, seed=0, count=24)


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [
        kind("square", "l2", steps=1),
        kind("square", "l1", box="free", steps=1),
        kind("pgd", "l2", keep="best"),
        kind("fgsm", "linf", box="free"),
    ],
    ids=lambda k: f"{k.attack}-{k.ball}-{k.box}",
)
def test_radii_from_the_smallest_to_the_largest_float(case: fuzz.Kind) -> None:
    assert not fuzz.faults(case, seed=3, count=60, extreme=True)


@pytest.mark.slow
def test_a_random_run() -> None:
    found = itertools.islice(fuzz.kinds(np.random.default_rng(5)), 25)
    assert not [fault for k in found for fault in fuzz.faults(k, seed=5, count=8)]


def test_the_fuzz_sees_each_kind_of_fault() -> None:
    case = kind("pgd", "linf")
    made = fuzz.in_float32(fuzz.calls(case, np.random.default_rng(0), 1, extreme=False))
    call = jax.tree.map(lambda a: a[0], made)._replace(radius=np.float32(0.05))
    found = jax.tree.map(np.asarray, fuzz.run(case, jax.random.key(0), call))
    assert not list(fuzz.faults_of(case, call, found))
    # without the clean example as a candidate, some example that is wrong from the start is lost
    bare = dataclasses.replace(case, attack="n-fgsm")
    label = int(np.argmin(fuzz.logits(call, call.x, np.tanh)))
    wrong = call._replace(y=np.int32(label))
    lost = attacks.n_fgsm(Linf(call.radius)).bare(
        jax.random.key(0), lambda z: fuzz.logits(wrong, z, jnp.tanh), wrong.x, wrong.y
    )
    for broken, told in (
        (found._replace(x=found.x * np.float32(np.nan)), "not finite"),
        (found._replace(x=found.x + 2), "leaves the box"),
        (found._replace(x=np.clip(call.x + 0.5, 0, 1)), "leaves the ball"),
        (found._replace(margin=found.margin + 500), "margin"),
        (found._replace(success=~found.success), "verdict"),
    ):
        assert any(told in fault for fault in fuzz.faults_of(case, call, broken))
    assert any("misclassified" in fault for fault in fuzz.faults_of(bare, wrong, lost))
