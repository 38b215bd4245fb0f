"""The shapes everything agrees on: attacks as pytrees, models as pure functions."""

from __future__ import annotations

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.attacks import fgsm, langevin, momentum, pgd, restarts, targeted, worst_of
from jaxrobust.threats import L1, L2, Linf
from jaxrobust.types import (
    Attack,
    AttackResult,
    Model,
    Scalar,
    ThreatModel,
    Variables,
    static,
)


class Shift(Attack):
    amount: Scalar = 0.25
    sign: int = static(default=-1)
    name: str = static(default="abc")

    def __call__(self, key: Any, f: Any, x: Any, y: Any) -> AttackResult:
        moved = x + self.sign * self.amount
        zero = jnp.zeros(())
        return AttackResult(
            moved, zero > 1, zero < 1, zero, zero, zero, jnp.int32(0), jnp.int32(len(self.name))
        )


SHIFT = Shift()


def call(attack: Attack) -> AttackResult:
    return attack(jax.random.key(0), lambda x: x, jnp.ones(2), jnp.int32(0))


def test_calling_an_attack_reads_its_fields() -> None:
    result = call(SHIFT)
    np.testing.assert_allclose(result.x, 0.75)
    assert int(result.backwards) == 3
    assert dict(SHIFT.settings) == {"amount": 0.25, "sign": -1, "name": "abc"}


def test_settings_are_read_only() -> None:
    with pytest.raises(TypeError):
        SHIFT.settings["amount"] = 1.0  # type: ignore[index]
    with pytest.raises(AttributeError):
        SHIFT.amount = 1.0  # type: ignore[misc]


def test_replace_keeps_the_rest_and_the_original() -> None:
    changed = SHIFT.replace(amount=0.5, sign=1)
    np.testing.assert_allclose(call(changed).x, 1.5)
    assert changed.settings["name"] == "abc"
    np.testing.assert_allclose(call(SHIFT).x, 0.75)
    with pytest.raises(ValueError, match="no setting 'amout'; it has: amount, name, sign"):
        SHIFT.replace(amout=1.0)


def test_numbers_are_leaves_and_options_are_static() -> None:
    assert jax.tree.leaves(SHIFT) == [0.25]
    doubled = jax.tree.map(lambda a: 2 * a, SHIFT)
    np.testing.assert_allclose(call(doubled).x, 0.5)
    same, other = SHIFT.replace(amount=9.0), SHIFT.replace(sign=1)
    assert jax.tree.structure(same) == jax.tree.structure(SHIFT)
    assert jax.tree.structure(other) != jax.tree.structure(SHIFT)


@pytest.mark.parametrize(
    "make",
    [
        lambda t, a: fgsm(t, step_size=a),
        lambda t, a: pgd(t, step_size=a, steps=3),
        lambda t, a: momentum(t, step_size=a, steps=3),
        lambda t, a: langevin(t, step_size=a, steps=3, temperature=a),
        lambda t, a: restarts(pgd(t, step_size=a, steps=3), 2),
        lambda t, a: targeted(pgd(t, step_size=a, steps=3)),
        lambda t, a: worst_of(fgsm(t), pgd(t, step_size=a, steps=3)),
    ],
)
def test_attacks_built_twice_share_one_compilation(make: Any) -> None:
    """Structure (all that is static) must not depend on the numbers or on the call."""
    first, second = make(Linf(0.1), 0.01), make(Linf(0.2), 0.02)
    assert jax.tree.structure(first) == jax.tree.structure(second)
    assert jax.tree.leaves(first) != jax.tree.leaves(second)


def test_first_order_numbers_can_be_replaced_by_name() -> None:
    attack = langevin(Linf(0.1), step_size=0.01, steps=3, temperature=0.5).replace(
        step_size=0.02, temperature=0.0, steps=4
    )
    picked = {name: attack.settings[name] for name in ("step_size", "temperature", "steps")}
    assert picked == {"step_size": 0.02, "temperature": 0.0, "steps": 4}


def test_threats_meet_the_protocol() -> None:
    for threat in (Linf(0.1), L2(0.1), L1(0.1)):
        assert isinstance(threat, ThreatModel)
    assert not isinstance(object(), ThreatModel)


def test_model_as_one_example_classifier() -> None:
    """`logits_fn` runs in evaluation mode and hides the batch axis."""
    modes = []

    def apply(variables: Variables, x: Any, *, train: bool, key: Any, axes: tuple) -> Any:
        modes.append((train, key, axes))
        return x @ variables.params + variables.stats, variables.stats

    model = Model(lambda key, x: Variables(jnp.eye(3)), apply)
    w, shift = np.random.default_rng(0).normal(size=(2, 3)), np.array([1.0, 2.0, 3.0])
    f = model.logits_fn(
        Variables(jnp.asarray(w, jnp.float32), jnp.asarray(shift[None], jnp.float32))
    )
    x = np.array([0.3, -0.2])
    np.testing.assert_allclose(f(jnp.asarray(x, jnp.float32)), x @ w + shift, rtol=1e-5)
    assert modes == [(False, None, ())]


def test_a_model_of_one_example_is_an_argument_that_other_variables_do_not_recompile() -> None:
    def apply(variables: Variables, x: Any, **_: Any) -> Any:
        return x * variables.params, variables.stats

    run = jax.jit(chex.assert_max_traces(lambda f, x: f(x), n=1))
    for factor in (2.0, 3.0):
        f = Model(lambda key, x: Variables(1.0), apply).logits_fn(Variables(jnp.float32(factor)))
        np.testing.assert_array_equal(run(f, jnp.ones(2)), np.full(2, factor))


def test_bare_attacks_never_return_the_clean_example_for_what_they_found() -> None:
    def f(z: Any) -> Any:
        # class 1 at the clean example and nowhere else the attack looks
        return jnp.stack([jnp.sum(z), jnp.where(jnp.sum(z) < 1e-6, 1.0, -1.0)])

    x, y, key = jnp.zeros(3, jnp.float32), jnp.int32(0), jax.random.key(0)
    climb = pgd(Linf(0.5), step_size=0.1, steps=2, loss=lambda logits, y: logits[y], keep="last")
    for attack in (climb, restarts(climb, 2), worst_of(climb, climb, by="loss alone")):
        whole, bare = attack(key, f, x, y), attack.bare(key, f, x, y)
        np.testing.assert_array_equal(whole.x, x)
        assert whole.success
        assert whole.norm == 0
        assert whole.loss == 0
        assert not bare.success
        assert bare.loss > 0
        assert attack.bare.settings.keys() == attack.settings.keys()
