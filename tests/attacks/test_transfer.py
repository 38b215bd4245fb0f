"""Transfer: the source's point, the target's verdict."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxrobust.attacks import batched, deepfool, pgd, transfer
from jaxrobust.threats import L2, Linf
from jaxrobust.types import FunctionAttack, Model, Variables

KEY = jax.random.key(0)
X = np.random.default_rng(0).uniform(0.2, 0.8, (16, 5)).astype(np.float32)


def _apply(variables: Variables, x: jax.Array, **_: object) -> tuple[jax.Array, object]:
    return x @ variables.params, variables.stats


LINEAR = Model(lambda key, x: Variables(jnp.zeros((5, 3))), _apply)
W = np.random.default_rng(1).normal(size=(2, 5, 3)).astype(np.float32)
SOURCE, TARGET = Variables(jnp.asarray(W[0])), Variables(jnp.asarray(W[0] + 4 * W[1]))
Y = np.asarray(X @ TARGET.params).argmax(axis=1)


def test_points_come_from_the_source_and_verdicts_from_the_target() -> None:
    attack = pgd(Linf(0.06), step_size=0.02, steps=6, keep="last")
    f = LINEAR.logits_fn(TARGET)
    moved = batched(transfer(attack, LINEAR, SOURCE), KEY, f, X, Y)
    crafted = batched(attack, KEY, LINEAR.logits_fn(SOURCE), X, Y)
    np.testing.assert_array_equal(moved.x, crafted.x)
    wrong = np.asarray(moved.x @ TARGET.params).argmax(axis=1) != Y
    np.testing.assert_array_equal(moved.success, wrong)
    # The verdict costs two passes, one of them at the clean example; the source needs no clean one.
    assert (moved.forwards == crafted.forwards + 1).all()
    white = batched(attack, KEY, f, X, Y)
    assert white.success.sum() > moved.success.sum() > 0
    itself = batched(transfer(attack, LINEAR, TARGET), KEY, f, X, Y)
    np.testing.assert_array_equal(itself.success, white.success)


def test_minimum_norm_points_outside_the_set_do_not_count() -> None:
    near = batched(
        transfer(deepfool(L2(1e-3)), LINEAR, SOURCE), KEY, LINEAR.logits_fn(TARGET), X, Y
    )
    assert not near.success.any()


def test_the_verdict_at_the_clean_example_is_the_targets() -> None:
    f = LINEAR.logits_fn(TARGET)
    wrong = (Y + 1) % 3
    attack = pgd(Linf(0.02), step_size=0.02, steps=2, keep="last")
    moved = batched(transfer(attack, LINEAR, SOURCE), KEY, f, X, wrong)
    assert moved.success.all()
    # An example that the source alone errs on is crafted on, not handed over as it is.
    errs = np.asarray(X @ SOURCE.params).argmax(axis=1) != Y
    moved = batched(transfer(attack, LINEAR, SOURCE), KEY, f, X, Y)
    assert errs.any()
    assert (np.abs(moved.x - X).max(axis=1) > 0)[errs].all()


class Linen(nn.Module):
    """The source as a module."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dense(3, use_bias=False)(x)


def own_numbers() -> nnx.Module:
    """The source as a module that holds its numbers."""
    module = nnx.Linear(5, 3, use_bias=False, rngs=nnx.Rngs(0))
    module.kernel[...] = SOURCE.params
    return module


SOURCES = {
    "a function": lambda: (lambda x: x @ SOURCE.params, None),
    "linen": lambda: (Linen(), {"params": {"Dense_0": {"kernel": W[0]}}}),
    "NNX": lambda: (own_numbers(), None),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_the_source_is_any_model(kind: str) -> None:
    attack = pgd(Linf(0.06), step_size=0.02, steps=6, keep="last")
    f = LINEAR.logits_fn(TARGET)
    found = batched(transfer(attack, *SOURCES[kind]()), KEY, f, X, Y)
    expected = batched(transfer(attack, LINEAR, SOURCE), KEY, f, X, Y)
    np.testing.assert_allclose(found.x, expected.x, atol=1e-6)
    np.testing.assert_array_equal(found.success, expected.success)


@pytest.mark.parametrize("kind", ["linen", "NNX"])
def test_the_same_source_wrapped_anew_does_not_recompile(kind: str) -> None:
    attack = pgd(Linf(0.06), step_size=0.02, steps=2)
    run = jax.jit(lambda attack: batched(attack, KEY, LINEAR.logits_fn(TARGET), X, Y).success)
    module, variables = SOURCES[kind]()
    for _ in range(2):
        run(transfer(attack, module, variables))
    assert run._cache_size() == 1


def test_what_is_no_source_is_told_the_way() -> None:
    attack = pgd(Linf(0.06), step_size=0.02, steps=2)
    with pytest.raises(ValueError, match="does not hold its own numbers"):
        transfer(attack, Linen(), None)
    with pytest.raises(TypeError, match=r"got str: write models\.build"):
        transfer(attack, "mlp", None)  # pyright: ignore[reportArgumentType]


def test_needs_a_threat() -> None:
    with pytest.raises(ValueError, match="`threat` setting"):
        transfer(FunctionAttack(run=lambda key, f, x, y: None), LINEAR, SOURCE)
