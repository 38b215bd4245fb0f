"""Descriptions of functions and objects: they see every number, and nothing of the session."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrobust import attacks, defenses, lagrangian, losses, models, training
from jaxrobust.contents import contents
from jaxrobust.fingerprint import differences
from jaxrobust.threats import Linf
from jaxrobust.types import Attack

SCALE = 2.0
RADII = (1, 2)
SEEN: list[int] = []
LOSS = losses.margin


def scaled(key: Any, x: Any) -> Any:
    SEEN.append(1)
    return SCALE * RADII[0] * x


def times(factor: Any) -> Callable:
    return lambda key, x: factor * x


class Own(nn.Module):
    width: int = 3

    @nn.compact
    def __call__(self, x: Any) -> Any:
        return nn.Dense(self.width)(x)


class Wider(nn.Module):
    width: int = 3

    @nn.compact
    def __call__(self, x: Any) -> Any:
        return nn.Dense(2 * self.width)(x)


class Shifted(Attack):
    threat: Linf
    by: float = 0.1

    def __call__(self, key: Any, f: Any, x: Any, y: Any) -> Any:
        return attacks.judge(f, self.threat, x, y, x + self.by, LOSS, forwards=0, backwards=0)


class Mirrored(Attack):
    threat: Linf
    by: float = 0.1

    def __call__(self, key: Any, f: Any, x: Any, y: Any) -> Any:
        return attacks.judge(f, self.threat, x, y, x - self.by, LOSS, forwards=0, backwards=0)


class Plain:
    def __init__(self, factor: float) -> None:
        self.factor, self.count = factor, itertools.count()

    def apply(self, key: Any, x: Any) -> Any:
        return self.factor * x


def dale(**changes: Any) -> defenses.Defense:
    options = {"step_size": 0.05, "steps": 7, "temperature": 1e-3, **changes}
    radius = options.pop("radius", 0.1)
    own = {name: options.pop(name) for name in ("rho", "ramp", "attack_mode") if name in options}
    return defenses.dale(attacks.langevin(Linf(radius), **options), **{"rho": 0.2, **own})


def adam(peak: float = 0.1, **options: Any) -> optax.GradientTransformation:
    return training.optimizer("adam", training.schedule("cyclic", peak, 40), **options)


def everything() -> dict[str, Any]:
    """One of each kind of thing that a training run is given, made anew."""
    return {
        "defense": dale(),
        "dual": defenses.dual(Linf(0.1), clean_weight=0.3),
        "optimizer": adam(weight_decay=1e-4, clip=1.0),
        "multiplier": lagrangian.for_run(40, level=0.2),
        "augment": training.compose(training.crop_flip(), training.cutout(2)),
        "model": models.from_linen(models.build("digits_cnn", 10)),
        "own": models.from_linen(Own()),
        "stop": training.stalled("score", epochs=3),
        "lambda": lambda key, x: x * 2 in {"a", "b", "c"},
        "array": times(jnp.arange(3.0)),
        "key": times(jax.random.key(1)),
        "compiled": jax.jit(scaled),
        "method": Plain(0.5).apply,
        "partial": functools.partial(scaled, x=np.float32(0.1)),
        "nan": times(float("nan")),
        "iterator": times(iter([1])),
        "devices": times((jax.devices()[0], jax.sharding.Mesh(np.asarray(jax.devices()), "d"))),
    }


PAIRS = {
    "learning rate": (adam(), adam(0.2)),
    "fixed rate": (optax.sgd(0.1), optax.sgd(0.2)),
    "decay": (adam(), adam(weight_decay=1e-4)),
    "steps": (dale(), dale(steps=10)),
    "radius": (dale(), dale(radius=0.2)),
    "level": (dale(), dale(rho=0.3)),
    "method": (defenses.erm(), dale()),
    "gain": (lagrangian.pi(0.1, proportional=2.0), lagrangian.pi(0.1, proportional=3.0)),
    "rule": (lagrangian.dual_ascent(0.1), lagrangian.pi(0.1, proportional=0.0)),
    "padding": (training.crop_flip(4), training.crop_flip(2)),
    "width": (models.from_linen(Own()), models.from_linen(Own(4))),
    "network": (models.from_linen(Own()), models.from_linen(Wider())),
    "code": (lambda key, x: x + 1, lambda key, x: x + 2),
    "inner code": (lambda x: (lambda y: y + 1)(x), lambda x: (lambda y: y - 1)(x)),
    "closure": (times(2), times(3)),
    "array": (times(np.arange(3)), times(np.arange(1, 4))),
    "type": (times(np.arange(3, dtype=np.int16)), times(np.arange(3, dtype=np.int32))),
    "random key": (times(jax.random.key(0)), times(jax.random.key(1))),
    "default": (lambda x, a=1: x, lambda x, a=2: x),
    "object": (Plain(1.0).apply, Plain(2.0).apply),
    "infinity": (times(float("inf")), times(float("-inf"))),
}


@pytest.mark.parametrize("name", PAIRS)
def test_every_number_counts(name: str) -> None:
    one, other = (json.loads(json.dumps(contents(part), allow_nan=False)) for part in PAIRS[name])
    assert differences({"given": one}, {"given": other})


def test_the_setting_is_named() -> None:
    told = differences({"defense": contents(dale())}, {"defense": contents(dale(steps=10))})
    assert told == "defense.loss.attack.steps: 7 there, 10 here"
    told = differences(
        {"optimizer": contents(optax.sgd(0.1))}, {"optimizer": contents(optax.sgd(0.2))}
    )
    assert told.endswith("step_size: -0.1 there, -0.2 here")
    other = dale(
        rho=0.3, step_size=0.06, steps=8, temperature=0.0, radius=0.2, ramp=0.1, attack_mode="train"
    )
    told = differences({"defense": contents(dale())}, {"defense": contents(other)})
    assert told.endswith("; and 1 more")
    assert told.count(" there, ") == 6
    # Where the kind differs, nothing inside is compared.
    told = differences({"defense": contents(defenses.erm())}, {"defense": contents(dale())})
    assert told == (
        "defense.loss.(kind): 'jaxrobust.defenses.erm.erm.<locals>.loss' there, "
        "'jaxrobust.defenses.base.paired.<locals>.loss' here; "
        "defense.constrained: False there, True here"
    )


def test_module_level_constants_count_and_what_changes_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = contents(scaled)
    scaled(None, 1.0)
    assert contents(scaled) == before
    monkeypatch.setitem(globals(), "SCALE", 3.0)
    told = differences({"augment": before}, {"augment": contents(scaled)})
    assert told == "augment.(reads).SCALE: 2.0 there, 3.0 here"


def test_things_that_hold_themselves_end() -> None:
    held: list[Any] = [1]
    held.append(held)
    assert contents(held) == {"0": 1, "1": "(itself)"}

    def again(x: int) -> int:
        return x and again(x - 1)

    assert contents(again)["again"] == "(itself)"


@dataclasses.dataclass
class Record:
    at: Path
    value: Any


def test_places_on_a_machine_do_not_count() -> None:
    one, other = (contents(Record(Path(place), 1)) for place in ("/a", "/b"))
    assert one == other
    assert "0x" not in json.dumps(contents(everything()))


PROGRAM = """
import json
from test_contents import contents, everything
print(json.dumps(contents(everything()), sort_keys=True))
"""


@pytest.mark.slow
def test_other_sessions_and_other_devices_say_the_same() -> None:
    here = Path(__file__).resolve().parent
    found = set()
    for seed, devices in ((1, 1), (2, 3)):
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(here), str(here.parent)]),
            "PYTHONHASHSEED": str(seed),
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        }
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-3000:]
        found.add(done.stdout.strip())
    assert found == {json.dumps(contents(everything()), sort_keys=True)}


def test_the_code_of_ones_own_attack_counts() -> None:
    shifted, other = Shifted(threat=Linf(0.2)), Mirrored(threat=Linf(0.2))
    assert contents(shifted) == contents(Shifted(threat=Linf(0.2)))
    ours, theirs = (dict(contents(attack)["(kind)"]) for attack in (shifted, other))
    # Beside the class's name: what it computes.
    assert ours.pop("(kind)") != theirs.pop("(kind)")
    assert ours["__call__"]["(code)"] != theirs["__call__"]["(code)"]
    assert contents(shifted)["by"] == 0.1
    assert contents(shifted.replace(by=0.3)) != contents(shifted)
