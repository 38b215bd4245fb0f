"""What every wrapped network must do: attack, train and evaluate as the library it comes from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrobust import attacks, data, defenses, evaluation, training
from jaxrobust.evaluation import compiled
from jaxrobust.threats import Linf
from jaxrobust.types import Array, Model, PyTree, Variables

KEY = jax.random.key(3)
X = jnp.asarray(np.random.default_rng(0).uniform(size=(6, 4)), jnp.float32)
"""Six examples of four numbers."""
PGD = attacks.pgd(Linf(0.1), step_size=0.03, steps=4, start=attacks.clean)
DIGITS = data.load("digits", limit=256)
TEST = data.to_float(DIGITS.test.x)
IMAGES = TEST[:6]


def assert_close(one: PyTree, other: PyTree, *, rtol: float = 1e-5, atol: float = 1e-6) -> None:
    """Equal leaves, in order, whatever the trees around them are."""
    leaves, others = jax.tree.leaves(one), jax.tree.leaves(other)
    assert len(leaves) == len(others) > 0
    for a, b in zip(leaves, others, strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)


def assert_attacked_alike(
    model: Model, variables: PyTree, own: Callable[[Array], Array], x: Array = X
) -> None:
    """PGD on the model finds the points of PGD on the library's own pass of one example."""
    y = jnp.arange(len(x)) % 3
    run = jax.jit(lambda f, x, y: attacks.batched(PGD, KEY, f, x, y).x, static_argnums=0)
    ours = run(model.logits_fn(variables), x, y)
    np.testing.assert_allclose(ours, run(own, x, y), atol=1e-6)
    assert np.abs(ours - x).max() > 0.05


def assert_batch_statistics_over_axes(model: Model, variables: Variables, x: Array = X) -> None:
    """Over named axes, batches of one and halves have the whole batch's logits and statistics."""
    key = jax.random.key(0)
    whole, stats = jax.jit(lambda x: model.apply(variables, x, train=True, key=key))(x)

    def part(axis: str, x: Array) -> tuple[Array, PyTree]:
        return model.apply(variables, x, train=True, key=key, axes=(axis,))

    halves = x.reshape(2, len(x) // 2, *x.shape[1:])
    nested = jax.vmap(
        lambda half: jax.vmap(
            lambda a: model.apply(
                variables, a[None], train=True, key=key, axes=("examples", "devices")
            ),
            axis_name="examples",
        )(half),
        axis_name="devices",
    )
    for lifted, inputs, lead in (
        (jax.vmap(lambda a: part("examples", a[None]), axis_name="examples"), x, 1),
        (jax.vmap(lambda a: part("devices", a), axis_name="devices"), halves, 1),
        (nested, halves, 2),
    ):
        logits, found = jax.jit(lifted)(inputs)
        assert_close(logits.reshape(whole.shape), whole, rtol=1e-4, atol=1e-5)
        # The same for every part.
        for mine, other in zip(jax.tree.leaves(found), jax.tree.leaves(stats), strict=True):
            expected = np.broadcast_to(other, mine.shape)
            np.testing.assert_allclose(mine, expected, rtol=1e-4, atol=1e-5)
            assert mine.ndim == other.ndim + lead
    before, after = jax.tree.leaves(variables.stats), jax.tree.leaves(stats)
    moved = [np.abs(np.float32(a) - np.float32(b)) for a, b in zip(before, after, strict=True)]
    assert max(change.max() for change in moved) > 1e-3


def assert_dropout_in_training_alone(model: Model, variables: PyTree, x: Array = X) -> None:
    """Masks of the key while training, and none at all in evaluation."""

    def logits(train: bool, seed: int | None) -> np.ndarray:
        key = None if seed is None else jax.random.key(seed)
        return np.asarray(model.apply(variables, x, train=train, key=key, axes=())[0])

    np.testing.assert_array_equal(logits(True, 0), logits(True, 0))
    assert np.abs(logits(True, 0) - logits(True, 1)).max() > 1e-3
    assert np.abs(logits(True, 0) - logits(False, None)).max() > 1e-3
    np.testing.assert_array_equal(logits(False, 0), logits(False, None))


def trained(model: Any, folder: Path) -> training.Run:
    """Two epochs of PGD training on some digits; they learn."""
    run = training.fit(
        0,
        model,
        defenses.pgd(Linf(0.05), step_size=0.05, steps=1),
        DIGITS,
        optax.sgd(0.1, momentum=0.9),
        epochs=2,
        batch_size=32,
        run=folder,
        config={},
        progress=False,
    )
    first, last = (row["train_loss"] for row in run.history)
    assert last < 0.9 * first
    return run


def assert_two_devices_train_as_one(
    model: Model, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    """The same numbers up to rounding, which training magnifies; for a network without dropout."""
    finals = []
    for count in (1, 2):
        devices = jax.devices()[:count]
        with monkeypatch.context() as patch:
            for name, value in (
                ("devices", devices),
                ("local_devices", devices),
                ("device_count", count),
                ("local_device_count", count),
            ):
                patch.setattr(jax, name, lambda *args, value=value, **options: value)
            finals.append(trained(model, folder / str(count)).state.variables)
    assert_close(*finals, rtol=1e-2, atol=1e-3)


def accuracies(model: Any, variables: PyTree, **options: Any) -> tuple[float, float]:
    """Clean and attacked accuracy on the test digits, in %."""
    attack = attacks.pgd(Linf(0.05), step_size=0.05, steps=2)
    report = evaluation.evaluate(
        KEY,
        model,
        variables,
        DIGITS.test,
        {"PGD": attack},
        batch_size=128,
        devices=jax.devices()[:1],
        progress=False,
        **options,
    )
    return report.clean_accuracy, report.attacks["PGD"].accuracy


def programs() -> int:
    """How many programs of evaluation have been made."""
    made = (compiled.clean_program, compiled.attack_program)
    return sum(program.cache_info().misses for program in made)
