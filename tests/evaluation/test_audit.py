"""The audit sees what is wrong with a model, and nothing where nothing is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from evaluation_models import data, from_logits, mlp, weights

from jaxrobust.evaluation import AttackReport, Report, Timing, attack_flags, audit
from jaxrobust.types import Model

NAN = float("nan")


def run(model, variables=None, examples=None, **options):
    options = {"key": jax.random.key(0), "batch_size": 16, "devices": jax.devices()[:1], **options}
    flags = audit(model, variables or weights(), examples or data(), **options)
    assert len({flag.name for flag in flags}) == len(flags)
    # Three classes everywhere: one note that is not in question.
    return {flag.name: flag for flag in flags if flag.name != "few classes"}


def through(change):
    """A linear classifier behind a change of its input."""
    return from_logits(lambda p, x: change(x) @ p["w"] + p["b"][None])[0]


def harmless(x):
    # Rounding of what does not depend on the input, and random numbers that nothing uses.
    jax.random.normal(jax.random.key(0), x.shape)
    shift = jnp.round(jnp.arange(6, dtype=x.dtype))[None]
    units = jax.nn.relu(x) + jax.nn.elu(x) + jax.nn.softplus(x) + jnp.abs(x)
    return units + shift + jax.nn.softmax(x) + jax.nn.logsumexp(x, -1, keepdims=True)


def test_a_plain_model_raises_no_flag():
    assert run(through(harmless)) == {}
    with jax.enable_x64(True):
        assert run(through(jnp.tanh), weights(dtype=np.float64), data(dtype=np.float64)) == {}


@jax.custom_jvp
def straight_through(x):
    return jnp.round(3 * x) / 3


straight_through.defjvp(lambda primals, tangents: (straight_through(primals[0]), tangents[0]))


@pytest.mark.parametrize(
    ("change", "expected", "seen"),
    [
        (lambda x: jnp.round(8 * x) / 8, {"zero gradients", "flat operations"}, "round"),
        (lambda x: x * jax.lax.stop_gradient(2 * jnp.sum(x)), {"stopped gradient"}, "stop"),
        (
            straight_through,
            {"misleading gradients", "flat operations", "custom derivative"},
            "straight_through",
        ),
        (lambda x: x + 0.01 * jnp.sin(4000 * x), {"misleading gradients"}, "29 of 29"),
        (
            lambda x: jax.lax.while_loop(lambda c: jnp.sum(c) < 5000, lambda c: 2 * c, x),
            {"no gradient", "while loop"},
            "Reverse-mode",
        ),
        (lambda x: jnp.where(x > 0.5, jnp.nan, x), {"logits not finite", "zero gradients"}, "29"),
    ],
)
def test_names_what_hides_the_gradient(change, expected, seen):
    flags = run(through(change))
    # A cut derivative may also be seen by its values; that is no error.
    assert expected <= set(flags) <= expected | {"misleading gradients", "gradients not finite"}
    assert all(flag.severity == "warning" for flag in flags.values())
    assert any(seen in flag.message for flag in flags.values())


def test_finds_what_is_nested():
    def deep(x):
        body = jax.jit(lambda c: jax.lax.cond(jnp.sum(c) > 0, jnp.floor, jnp.ceil, c))
        x = x + (x > 0.5).astype(x.dtype) + jnp.where(x > 0.5, 1.0, 0.0)
        return jax.lax.scan(lambda c, _: (c + jax.checkpoint(body)(c), None), x, length=2)[0]

    message = run(through(deep))["flat operations"].message
    assert "(a choice between constants, bool to float32, ceil, floor)" in message


def test_tells_probabilities_from_logits():
    def outputs(p, x):
        logits = x @ p["w"] + p["b"][None]
        return jnp.where(p["log"], jax.nn.log_softmax(logits), jax.nn.softmax(logits))

    model, _ = from_logits(outputs)
    for log, name, severity in ((False, "probabilities", "warning"), (True, "log-prob", "note")):
        variables = weights()
        flags = run(model, variables._replace(params={**variables.params, "log": jnp.asarray(log)}))
        (flag,) = flags.values()
        assert flag.name.startswith(name)
        assert flag.severity == severity


def test_counts_confident_predictions():
    scaled = from_logits(lambda p, x: p["scale"] * (x @ p["w"] + p["b"][None]))[0]

    def at(scale):
        variables = weights()
        x, _ = data()
        w, b = (np.asarray(variables.params[name], np.float64) for name in ("w", "b"))
        logits = scale * (x @ w + b)
        y = logits.argmax(1)
        gap = np.diff(np.sort(logits, axis=1))[:, -1]
        params = {**variables.params, "scale": jnp.float32(scale)}
        return run(scaled, variables._replace(params=params), (x, y)), gap

    flags, gap = at(200.0)
    assert set(flags) == {"confident predictions"}
    # 1 + 2^-24 rounds to 1: a gap of 16.6, which no example is near.
    assert f"on {(gap > 16.6).sum()} of 29" in flags["confident predictions"].message
    assert 0 < (gap > 16.6).sum() < 29
    flags, gap = at(1900.0)
    assert set(flags) == {"confident predictions", "cross-entropy underflows"}
    assert f"on {(gap > 104).sum()} of 29" in flags["cross-entropy underflows"].message


def test_sees_random_and_impure_models():
    def apply(variables, x, *, train, key, axes):
        logits = x @ variables.params["w"] + variables.params["b"][None]
        noise = 0 if key is None else jax.random.normal(key, logits.shape, logits.dtype)
        return logits + noise, variables.stats

    flags = run(Model(None, apply))
    assert set(flags) == {"randomized model", "random numbers"}
    assert "29 of 29" in flags["randomized model"].message

    calls = []

    def drift(x):
        calls.append(None)
        return np.float32(len(calls)) * np.ones_like(x)

    def impure(p, x):
        shape = jax.ShapeDtypeStruct((3,), x.dtype)
        noise = jax.pure_callback(drift, shape, jnp.zeros(3, x.dtype), vmap_method="sequential")
        return x @ p["w"] + noise[None] * p["b"][None]

    assert {"impure model", "callback"} <= set(run(from_logits(impure)[0]))


@pytest.mark.parametrize(("classes", "expected"), [(2, "no DLR"), (3, "no targeted DLR"), (4, "")])
def test_notes_few_classes(classes, expected):
    examples, variables = data(classes=classes), weights(classes=classes)
    model = through(lambda x: x)
    options = {"key": jax.random.key(0), "batch_size": 16, "devices": jax.devices()[:1]}
    messages = [flag.message for flag in audit(model, variables, examples, **options)]
    assert len(messages) == (1 if expected else 0)
    assert all(expected in message for message in messages)


def test_looks_at_the_first_examples_only():
    x, y = data()
    late = np.where(np.arange(29) == 28, 7, y)
    assert run(mlp()[0], examples=(x, late), limit=28) == {}
    with pytest.raises(ValueError, match="labels span"):
        run(mlp()[0], examples=(x, late))
    with pytest.raises(ValueError, match="limit"):
        run(mlp()[0], limit=0)


def attack(robust, *, backwards=10.0, **changes):
    robust = np.asarray(robust, bool)
    fields = {
        "robust": robust,
        "inside": np.ones(len(robust), bool),
        "norm": np.full(len(robust), 0.1),
        "margin": np.full(len(robust), -1.0),
        "forwards": 11.0,
        "backwards": backwards,
        "timing": Timing(first=1.0, rest=0.0, batches=1),
    }
    return AttackReport(**{**fields, **changes})


def report(clean, **attacks):
    return Report(np.asarray(clean, bool), Timing(1.0, 0.0, 1), attacks, {})


def names(*args, **attacks):
    return [flag.name for flag in attack_flags(report(*args, **attacks))]


def test_blames_gradients_for_what_blind_search_finds():
    clean = np.ones(1000, bool)
    pgd, other = np.arange(1000) >= 10, np.arange(1000) >= 8
    assert names(clean, pgd=attack(pgd), Square=attack(np.arange(1000) >= 12, backwards=0.0)) == []
    square = attack(np.arange(1000) >= 13, backwards=0.0)
    (flag,) = attack_flags(report(clean, pgd=attack(pgd), apgd=attack(other), Square=square))
    assert (flag.name, flag.severity) == ("masked gradients", "warning")
    assert "Square takes 0.30 points" in flag.message
    # Nothing to compare with, and examples that were wrong from the start.
    assert names(clean, Square=square) == []
    assert names(np.arange(1000) >= 13, pgd=attack(pgd), Square=square) == []


def test_an_attack_is_not_blamed_for_what_it_never_saw():
    # As `survivors=True` reports: robust counts all attacks so far, unseen examples have no norm.
    first = attack([0, 1, 1, 1])
    square = attack([0, 0, 1, 1], backwards=0.0, norm=np.asarray([NAN, 0.1, 0.1, 0.1]))
    last = attack([0, 0, 0, 1], norm=np.asarray([NAN, NAN, 0.1, 0.1]))
    (flag,) = attack_flags(report(np.ones(4), apgd=first, Square=square, fab=last))
    assert "Square takes 25.00 points" in flag.message


def test_reads_margins_and_counts():
    one = np.asarray([0, 0, 1, 0], bool)
    broken = attack(one, margin=np.where(one, NAN, 1.0))
    assert names(np.ones(4), a=broken) == ["NaN margins"]
    unseen = attack(one, margin=np.where(one, 1.0, NAN), norm=np.where(one, 0.1, NAN))
    assert names(np.ones(4), a=unseen) == []
    assert names(np.zeros(4), a=attack(np.zeros(4))) == ["no clean accuracy"]
    assert names(np.ones(4), a=attack(np.zeros(4))) == ["everything broken"]
    assert names(np.ones(4)) == []
