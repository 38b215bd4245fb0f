"""What every defense promises, and how attacks use batch statistics."""

from __future__ import annotations

from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from training.training_cases import (
    CLASSES,
    SHAPE,
    assert_close,
    normalized,
)

from jaxrobust import attacks, defenses, losses
from jaxrobust.defenses import Defense, TrainContext
from jaxrobust.defenses.ramp import grown
from jaxrobust.threats import L2, Linf, Union
from jaxrobust.types import Array, Attack, Batch, Key, Model, Variables

THREAT = Linf(0.1)
OPTIONS = {"step_size": 0.05, "steps": 2}
RHO = 0.5
MAKE = {
    "fgsm": lambda mode: defenses.fgsm(THREAT, attack_mode=mode),
    "pgd": lambda mode: defenses.pgd(THREAT, attack_mode=mode, **OPTIONS),
    "trades": lambda mode: defenses.trades(
        defenses.trades_attack(THREAT, **OPTIONS), beta=6.0, attack_mode=mode
    ),
    "dale": lambda mode: defenses.dale(
        attacks.langevin(THREAT, temperature=1e-3, **OPTIONS), rho=RHO, attack_mode=mode
    ),
    "kl_dale": lambda mode: defenses.kl_dale(
        defenses.trades_attack(THREAT, **OPTIONS), rho=RHO, attack_mode=mode
    ),
    "n_fgsm": lambda mode: defenses.n_fgsm(THREAT, attack_mode=mode),
    "grad_align": lambda mode: defenses.grad_align(
        defenses.dale(attacks.langevin(THREAT, temperature=1e-3, **OPTIONS), rho=RHO),
        THREAT,
        weight=0.5,
        attack_mode=mode,
    ),
}
CASES: dict[str, Defense] = {
    "erm": defenses.erm(),
    "noisy_clp": defenses.noisy_clp(weight=0.5, sigma=0.1),
    "mart": defenses.mart(defenses.trades_attack(THREAT, **OPTIONS), beta=5.0),
    "sbeta_train": defenses.sbeta(
        attacks.optimizer_steps(THREAT, **OPTIONS), mu=2.0, attack_mode="train"
    ),
    "dynamic": defenses.dynamic(THREAT, **OPTIONS),
    "augmented": defenses.augmented([attacks.fgsm(THREAT), attacks.fgsm(L2(0.5))]),
    **{f"{name}_{mode}": make(mode) for name, make in MAKE.items() for mode in ("eval", "train")},
}
ADVERSARIAL = {"adversarial_loss", "adversarial_accuracy"}
CLEAN = {"clean_loss", "clean_accuracy"}
METRICS = {"erm": CLEAN, "noisy_clp": CLEAN} | dict.fromkeys(
    ("fgsm", "n_fgsm", "pgd", "sbeta", "dynamic", "augmented"), ADVERSARIAL
)
METRICS["grad_align"] = CLEAN | ADVERSARIAL | {"alignment"}


def batch_of(size: int = 8) -> Batch:
    draw = np.random.default_rng(1)
    x = jnp.asarray(draw.uniform(size=(size, *SHAPE)), jnp.float32)
    return Batch(x, jnp.asarray(draw.integers(0, CLASSES, size), jnp.int32), jnp.arange(size))


def start(model: Model) -> Variables:
    """Initial parameters, and running statistics far from those of any batch."""
    params, stats = model.init(jax.random.key(0), batch_of().x)
    return Variables(params, jax.tree.map(lambda s: s * 3 + 0.5, stats))


@partial(jax.jit, static_argnames=("defense", "model"))
def run(defense: Defense, key: Any, params: Any, stats: Any, batch: Batch, model: Model) -> Any:
    nu = jnp.float32(0.7) if defense.constrained else None

    def loss(params: Any) -> Any:
        context = TrainContext(nu, defense.init(), progress=0.5)
        return defense.loss(key, model, Variables(params, stats), batch, context)

    return jax.value_and_grad(loss, has_aux=True)(params)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_contract(name: str) -> None:
    defense, model, batch = CASES[name], normalized(rate=0.3), batch_of()
    variables = start(model)

    @jax.jit
    @chex.assert_max_traces(n=1)
    def compiled(key: Any, params: Any, stats: Any, batch: Batch) -> Any:
        return run(defense, key, params, stats, batch, model)

    key = jax.random.key(3)
    first = compiled(key, *variables, batch)
    (value, aux), gradient = first
    assert np.isfinite(value)
    assert value.shape == ()
    chex.assert_tree_all_finite(gradient)
    assert any(np.abs(g).max() > 0 for g in jax.tree.leaves(gradient))

    assert set(aux.metrics) == METRICS.get(
        name.removesuffix("_train").removesuffix("_eval"), CLEAN | ADVERSARIAL
    )
    assert all(np.isfinite(m) and m.shape == () for m in aux.metrics.values())
    assert (aux.violation is not None) == defense.constrained
    if defense.constrained:
        np.testing.assert_allclose(aux.violation, aux.metrics["clean_loss"] - RHO, rtol=1e-6)

    chex.assert_trees_all_equal_shapes_and_dtypes(aux.stats, variables.stats)
    assert not any(
        np.array_equal(new, old)
        for new, old in zip(
            jax.tree.leaves(aux.stats), jax.tree.leaves(variables.stats), strict=True
        )
    )

    assert_close(compiled(key, *variables, batch), first)
    other = compiled(jax.random.key(4), *variables, batch._replace(x=1 - batch.x))
    assert float(other[0][0]) != float(value)


def test_dropout_and_attack_depend_on_the_key() -> None:
    model, batch = normalized(rate=0.5), batch_of()
    variables = start(model)
    a, b = (run(CASES["erm"], jax.random.key(k), *variables, batch, model)[0][0] for k in (0, 1))
    assert float(a) != float(b)
    a, b = (
        adversarial_examples(
            jax.random.key(k),
            attacks.pgd(THREAT, **OPTIONS),
            model,
            variables,
            batch,
            attack_mode="eval",
        )
        for k in (0, 1)
    )
    assert np.abs(a - b).max() > 1e-3


@partial(jax.jit, static_argnames=("model", "attack_mode"))
def adversarial_examples(
    key: Key, attack: Attack, model: Model, variables: Variables, batch: Batch, *, attack_mode: str
) -> Array:
    return defenses.adversarial_examples(
        key, attack, model, variables, batch, TrainContext(), attack_mode=attack_mode
    )


@partial(jax.jit, static_argnames=("model", "train"))
def batch_pgd(model: Model, variables: Variables, batch: Batch, *, train: bool) -> Array:
    """PGD on the whole batch at once, from the clean points."""

    def total(x: Array) -> Array:
        logits, _ = model.apply(variables, x, train=train, key=None, axes=())
        return jax.vmap(losses.cross_entropy)(logits, batch.y).sum()

    x = batch.x
    for _ in range(OPTIONS["steps"]):
        x = x + OPTIONS["step_size"] * jnp.sign(jax.grad(total)(x))
        x = jnp.clip(jnp.clip(x, batch.x - THREAT.radius, batch.x + THREAT.radius), 0, 1)
    return x


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_attacks_use_running_statistics_or_those_of_the_batch(mode: str) -> None:
    model, batch = normalized(), batch_of()
    variables = start(model)
    attack = attacks.pgd(THREAT, start=attacks.clean, keep="last", **OPTIONS)
    found = adversarial_examples(
        jax.random.key(0), attack, model, variables, batch, attack_mode=mode
    )
    expected = batch_pgd(model, variables, batch, train=mode == "train")
    other = batch_pgd(model, variables, batch, train=mode == "eval")
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert np.abs(found - other).max() > 0.01


def test_running_statistics_see_the_clean_batch_then_the_adversarial_one() -> None:
    model, batch = normalized(), batch_of()
    variables = start(model)
    (_, aux), _ = run(
        defenses.dale(
            attacks.langevin(THREAT, temperature=0.0, start=attacks.clean, **OPTIONS), rho=RHO
        ),
        jax.random.key(0),
        *variables,
        batch,
        model,
    )
    stats = variables
    for x in (batch.x, batch_pgd(model, variables, batch, train=False)):
        stats = stats._replace(stats=model.apply(stats, x, train=True, key=None, axes=())[1])
    assert_close(aux.stats, stats.stats, rtol=1e-5, atol=1e-6)


def test_examples_influence_one_another_in_train_mode_only() -> None:
    model, batch = normalized(), batch_of()
    variables = start(model)
    attack = attacks.pgd(THREAT, keep="last", step_size=1e-3, steps=2)
    changed = batch._replace(x=batch.x.at[1:].set(1 - batch.x[1:]))

    def first(mode: str, batch: Batch) -> Array:
        points = adversarial_examples(
            jax.random.key(0), attack, model, variables, batch, attack_mode=mode
        )
        return points[0]

    np.testing.assert_array_equal(first("eval", batch), first("eval", changed))
    assert not np.array_equal(first("train", batch), first("train", changed))


def test_dropout_in_the_attack_follows_the_example_not_its_place() -> None:
    model, batch = normalized(rate=0.5), batch_of()
    variables = start(model)
    order = jnp.asarray([3, 1, 0, 2, 7, 5, 6, 4])
    moved = Batch(batch.x[order], batch.y[order], batch.index[order])
    attack = attacks.pgd(THREAT, keep="last", **OPTIONS)
    here, there = (
        adversarial_examples(jax.random.key(0), attack, model, variables, b, attack_mode="train")
        for b in (batch, moved)
    )
    np.testing.assert_allclose(here[order], there, atol=1e-6)


def test_the_ramp_grows_radius_and_step_together() -> None:
    model, batch = normalized(), batch_of()
    variables = model.init(jax.random.key(0), batch.x)
    # Away from the box, so that a signed step shows its whole length.
    batch = batch._replace(x=0.25 + 0.5 * batch.x)
    attack = attacks.fgsm(Linf(0.2))

    @jax.jit
    def moved(progress: Array) -> Array:
        points = defenses.adversarial_examples(
            jax.random.key(0), attack, model, variables, batch, TrainContext(progress=progress),
            attack_mode="eval", ramp=0.5,
        )  # fmt: skip
        return jnp.max(jnp.abs(points - batch.x))

    for progress, radius in ((0.0, 0.0), (0.1, 0.04), (0.5, 0.2), (0.9, 0.2)):
        assert moved(jnp.float32(progress)) == pytest.approx(radius, abs=1e-6)
    with pytest.raises(ValueError, match=r"ramp is a share, at most 1, got 1\.5"):
        defenses.pgd(Linf(0.2), step_size=0.1, steps=1, ramp=1.5)


@pytest.mark.parametrize(
    "attack",
    [
        attacks.restarts(attacks.pgd(Linf(0.2), step_size=0.2, steps=1), 2),
        attacks.worst_of(*[attacks.pgd(Linf(0.2), step_size=0.2, steps=1)] * 2),
        attacks.beta(Linf(0.2), step_size=0.2, steps=1),
    ],
    ids=["restarts", "worst_of", "beta"],
)
def test_the_ramp_grows_the_attacks_that_an_attack_is_made_of(attack) -> None:
    half = grown(attack, 0.25, 0.5)
    assert jax.tree.structure(half) == jax.tree.structure(attack)
    for before, after in zip(jax.tree.leaves(attack), jax.tree.leaves(half), strict=True):
        # Radius and step size, both .2, are halved; the ends of the pixel box stay.
        np.testing.assert_allclose(after, 0.1 if before == 0.2 else before, rtol=1e-6)


def _plain(key, threat, *, lr, step_size):
    return optax.chain(attacks.scale_by_steepest(threat), optax.scale(-lr - 0 * step_size))


def test_the_ramp_grows_what_an_attack_declares_by_whatever_name() -> None:
    make = partial(attacks.first_order, Linf(0.4), _plain, {"lr": 0.2, "step_size": 0.2}, steps=1)
    declared, silent = grown(make(scales=("lr",)), 0.25, 0.5), grown(make(), 0.25, 0.5)
    told = {name: float(declared.settings[name]) for name in ("lr", "step_size")}
    assert told == pytest.approx({"lr": 0.1, "step_size": 0.2})
    told = {name: float(silent.settings[name]) for name in ("lr", "step_size")}
    assert told == pytest.approx({"lr": 0.2, "step_size": 0.2})
    for attack in (declared, silent):
        assert float(attack.settings["threat"].radius) == pytest.approx(0.2)
    # The declaration survives what else is done to an attack.
    changed = make(scales=("lr",)).replace(lr=0.4).bare
    assert float(grown(changed, 0.25, 0.5).settings["lr"]) == pytest.approx(0.2)
    with pytest.raises(
        ValueError, match="scales names 'rate', which is no number of this attack: lr"
    ):
        make(scales=("rate",))


@pytest.mark.parametrize(
    "attack",
    [
        attacks.momentum(Linf(0.2), step_size=0.2, steps=1),
        attacks.langevin(Linf(0.2), step_size=0.2, steps=1, temperature=0.3),
        attacks.fosc_stopped_pgd(Linf(0.2), step_size=0.2, steps=1),
        attacks.growing(Linf(0.2), step=Linf(1.0), step_size=0.2, steps=1, factor=1.5, every=1),
        attacks.n_fgsm(Linf(0.2), step_size=0.2),
        attacks.msd(Union((Linf(0.3),), 0.2), step_sizes=(0.2,), steps=1),
    ],
    ids=["momentum", "langevin", "gated", "growing", "n_fgsm", "msd"],
)
def test_our_attacks_declare_their_steps(attack) -> None:
    half = grown(attack, 0.25, 0.5)
    assert jax.tree.structure(half) == jax.tree.structure(attack)
    for before, after in zip(jax.tree.leaves(attack), jax.tree.leaves(half), strict=True):
        np.testing.assert_allclose(after, 0.1 if before == 0.2 else before, rtol=1e-6)


def test_plain_functions_are_attacks_too() -> None:
    model, batch = normalized(), batch_of()
    variables = model.init(jax.random.key(0), batch.x)

    def attack(key, f, x, y):
        return attacks.pgd(THREAT, **OPTIONS)(key, f, x, y)

    points = defenses.adversarial_examples(
        jax.random.key(0), attack, model, variables, batch, TrainContext(), attack_mode="eval"
    )
    assert points.shape == batch.x.shape


def test_a_ramp_needs_a_radius() -> None:
    def attack(key, f, x, y):
        return attacks.pgd(THREAT, **OPTIONS)(key, f, x, y)

    defenses.adversarial(attack)
    with pytest.raises(ValueError, match=r"ramp=0\.2 needs an attack with a `threat` setting"):
        defenses.adversarial(attack, ramp=0.2)


def test_impossible_settings_are_refused() -> None:
    options = {**OPTIONS, "temperature": 0.0}
    with pytest.raises(ValueError, match="rho must be finite and at least 0, got -1"):
        defenses.dale(attacks.langevin(THREAT, **options), rho=-1.0)
    with pytest.raises(ValueError, match="rho"):
        defenses.kl_dale(defenses.trades_attack(THREAT, **OPTIONS), rho=-1.0)
    with pytest.raises(ValueError, match="beta must be finite and at least 0, got nan"):
        defenses.trades(defenses.trades_attack(THREAT, **OPTIONS), beta=float("nan"))
    with pytest.raises(ValueError, match="steps"):
        defenses.pgd(THREAT, step_size=0.1, steps=0)
    for make in MAKE.values():
        with pytest.raises(ValueError, match=r"attack_mode 'tain'; did you mean 'train'"):
            make("tain")
    with pytest.raises(ValueError, match="noise 'laplac'"):
        defenses.dale(attacks.langevin(THREAT, noise="laplac", **options), rho=0.5)


def test_an_unknown_option_is_named() -> None:
    model, batch = normalized(), batch_of()
    with pytest.raises(TypeError, match="iterations"):
        run(
            defenses.pgd(THREAT, iterations=3, **OPTIONS),
            jax.random.key(0),
            *start(model),
            batch,
            model,
        )
