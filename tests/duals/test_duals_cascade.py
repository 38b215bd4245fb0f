"""Cascades: their rules against brute force, planted adversaries and the released evaluation."""

import dual_cases as cases
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.data import Split
from jaxrobust.duals.cascade import (
    RULES,
    _program,
    cascade_predict,
    cascade_verdict,
    decide,
    uncertified,
)
from jaxrobust.models import load_cascade
from jaxrobust.models.coercion import as_fixed
from jaxrobust.threats import Linf
from jaxrobust.types import Model, Variables

RELEASED = ("wong_kolter",)


def decided(labels, certified, rule):
    """`decide` for stages `[S, ...]`, with NumPy results."""
    shape = labels.shape[1:]
    flat = [jnp.asarray(a.reshape(len(a), -1).T) for a in (labels, certified)]
    found = jax.jit(jax.vmap(lambda a, b: decide(a, b, rule=rule)))(*flat)
    return jax.tree.map(lambda a: np.asarray(a).reshape(shape), found)


def by_hand(labels, certified, rule):
    """(label, stage, holds) of one example, as algorithm 4 reads with its slips mended."""
    last = len(labels) - 1
    stage, agree = last, False
    for i, sure in enumerate(certified):
        if sure:
            stage, agree = i, all(other == labels[0] for other in labels[: i + 1])
            break
    label = labels[stage]
    if rule == "published":
        return label, stage, any(certified)
    if rule == "strict":
        return label, stage, any(certified) and agree
    return label, stage, certified[last] and len(set(labels)) == 1


@pytest.mark.parametrize("rule", RULES)
def test_decisions_are_those_of_a_loop_over_stages(rule):
    draw = np.random.default_rng(0)
    labels, certified = draw.integers(0, 2, (3, 300)), draw.uniform(size=(3, 300)) < 0.4
    found = decided(labels, certified, rule)
    for i in range(300):
        expected = by_hand(labels[:, i].tolist(), certified[:, i].tolist(), rule)
        assert tuple(v[i] for v in found) == expected
    assert 20 < found.certified.sum() < 280


RADIUS = 2


def on_a_circle(seed, size=40, stages=3, count=200):
    """Random cascades of 2 classes on a circle of points, labels and certificates [S, count, size].

    Certificates hold only where the label is constant within RADIUS, and some of those are missing.
    """
    draw = np.random.default_rng(seed)
    cuts = draw.uniform(size=(stages, count, size)) < 0.15
    labels = (np.cumsum(cuts, axis=-1) + draw.integers(0, 2, (stages, count, 1))) % 2
    near = np.stack([np.roll(labels, s, axis=-1) for s in range(-RADIUS, RADIUS + 1)])
    return labels, (near == labels).all(axis=0) & (draw.uniform(size=labels.shape) < 0.7)


def broken(decision, *, refusing):
    """How many points hold with a label that some point of their ball contradicts.

    With `refusing`, only by a label that holds as well.
    """
    total = 0
    for shift in range(-RADIUS, RADIUS + 1):
        there = jax.tree.map(lambda a, s=shift: np.roll(a, s, axis=-1), decision)
        differs = decision.certified & (there.label != decision.label)
        total += np.sum(differs & there.certified if refusing else differs)
    return total


def test_rules_hold_for_all_sound_certificates():
    labels, certified = on_a_circle(1)
    found = {rule: decided(labels, certified, rule) for rule in RULES}
    assert all(d.certified.mean() > 0.02 for d in found.values())
    assert broken(found["strict"], refusing=True) == 0
    assert broken(found["unanimous"], refusing=False) == 0
    # each promise fails under the next weaker rule
    assert broken(found["published"], refusing=True) > 0
    assert broken(found["strict"], refusing=False) > 0


def line(weight, bias):
    """Two classes on the line: class 1 where weight * x + bias > 0."""
    return lambda x: jnp.stack([0 * x[0], weight * x[0] + bias])


def test_an_adversary_beats_the_published_rule_and_the_strict_one_refuses():
    # the first stage has its boundary at .5, the second always says 0
    fs, threat = [line(1.0, -0.5), line(0.01, -1.0)], Linf(0.1)

    @jax.jit
    def decision(x):
        return {r: cascade_predict(fs, x, threat, rule=r, methods=RELEASED) for r in RULES}

    clean, moved = (decision(jnp.asarray([v])) for v in (0.55, 0.64))
    assert clean["published"].certified
    assert (clean["published"].label, clean["published"].stage) == (0, 1)
    # within the radius the first stage certifies the other label
    assert moved["published"].certified
    assert moved["published"].label == 1
    assert moved["strict"].certified
    assert not clean["strict"].certified
    assert not clean["unanimous"].certified

    @jax.jit
    def verdicts(x):
        return [cascade_verdict(fs, x, y, threat, methods=RELEASED) for y in (0, 1)]

    # where the stages agree the strict rule holds, for the right label alone
    assert [bool(v) for v in verdicts(jnp.asarray([0.45]))] == [True, False]
    assert [bool(v) for v in verdicts(jnp.asarray([0.55]))] == [False, False]


@pytest.mark.slow
def test_strict_labels_of_networks_are_contradicted_nowhere_on_a_grid():
    draws = [[cases.weights(10 * s + i, (1, 8, 2)) for i in range(16)] for s in range(3)]
    stacked = [jax.tree.map(lambda *w: np.stack(w), *own) for own in draws]
    grid, steps = np.linspace(0, 1, 101)[:, None], 4

    @jax.jit
    def run(parameters, x):
        def one(parameters, x):
            fs = [cases.mlp(jax.nn.relu, p) for p in parameters]
            return cascade_predict(fs, x, Linf(steps * 0.01 + 1e-9), methods=RELEASED)

        return jax.vmap(jax.vmap(one, (None, 0)), (0, None))(parameters, x)

    with jax.enable_x64(True):
        found = jax.tree.map(np.asarray, run(stacked, grid))
    assert set(found.stage[found.certified]) == {0, 1, 2}
    for shift in range(1, steps + 1):
        here = jax.tree.map(lambda v, s=shift: v[:, :-s], found)
        there = jax.tree.map(lambda v, s=shift: v[:, s:], found)
        assert not np.any(here.certified & there.certified & (here.label != there.label))


def points():
    """A classifier of 1 x 1 images at the boundary .5, and images of every tenth pixel value."""

    def apply(variables, x, *, train, key, axes):
        del train, key, axes
        w, b = variables.params
        z = w * x.reshape(len(x), 1) + b
        return jnp.concatenate([0 * z, z], axis=1), variables.stats

    model = Model(lambda key, x: Variables((jnp.float32(1), jnp.float32(-0.5))), apply)
    x = np.arange(0, 256, 10, dtype=np.uint8).reshape(-1, 1, 1, 1)
    return model, model.init(None, None), Split(x, np.zeros(len(x), np.int32))


def test_the_next_stage_trains_on_what_is_not_certified():
    model, variables, split = points()
    for radius, batch_size in ((0.1, 9), (0.3, 11), (0.1, 1000)):
        mask = uncertified(
            model, variables, split, Linf(radius), batch_size=batch_size, methods=list(RELEASED)
        )
        # labels play no part: certified ones of the wrong class are left out too
        expected = np.abs(split.x.reshape(-1) / 255 - 0.5) < radius
        np.testing.assert_array_equal(mask, expected)
    moved = variables._replace(params=(jnp.float32(1), jnp.float32(-0.2)))
    mask = uncertified(model, moved, split, Linf(0.1), batch_size=16, methods=RELEASED)
    np.testing.assert_array_equal(mask, np.abs(split.x.reshape(-1) / 255 - 0.2) < 0.1)
    fixed, _ = as_fixed(model, variables)
    program = _program(fixed, tuple(jax.local_devices()), RELEASED, False, None)
    # 9, 11 and 16 are rounded up to 16, and 1,000 down to the 26 images: two shapes
    assert program._cache_size() == 2


def test_a_stage_is_any_model():
    _, _, split = points()
    expected = np.abs(split.x.reshape(-1) / 255 - 0.5) < 0.1

    def f(x):
        z = x.reshape(len(x), 1) - 0.5
        return jnp.concatenate([0 * z, z], axis=1)

    mask = uncertified(f, None, split, Linf(0.1), methods=RELEASED)
    np.testing.assert_array_equal(mask, expected)

    class Stage(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(2)(x.reshape(len(x), 1))

    held = {"params": {"Dense_0": {"kernel": np.float32([[0, 1]]), "bias": np.float32([0, -0.5])}}}
    mask = uncertified(Stage(), held, split, Linf(0.1), methods=RELEASED)
    np.testing.assert_array_equal(mask, expected)
    with pytest.raises(ValueError, match="does not hold its own numbers"):
        uncertified(Stage(), None, split, Linf(0.1))
    with pytest.raises(TypeError, match=r"got str: write models\.build"):
        uncertified("mlp", held, split, Linf(0.1))


def test_bad_requests_are_refused():
    model, variables, split = points()
    f = model.logits_fn(variables)
    x, threat = jnp.full((1, 1, 1), 0.2), Linf(0.1)
    with pytest.raises(ValueError, match="at least one stage, got none"):
        cascade_predict([], x, threat)
    with pytest.raises(ValueError, match="rule 'strikt'; did you mean 'strict'"):
        cascade_predict([f], x, threat, rule="strikt")
    with pytest.raises(ValueError, match=r"need the same classes, got logits of \[2, 3\]"):
        cascade_predict([f, lambda x: jnp.append(f(x), 0.0)], x, threat)
    for y in (0.5, True, jnp.zeros(2, int)):
        with pytest.raises(ValueError, match="y must be one integer, got"):
            cascade_verdict([f], x, y, threat)
    with pytest.raises(ValueError, match="y=7 is none of 2 classes"):
        cascade_verdict([f], x, 7, threat)
    labels, certified = jnp.zeros(3, jnp.int32), jnp.ones(3, bool)
    with pytest.raises(ValueError, match=r"at least one stage, got \(0,\)"):
        decide(labels[:0], certified[:0])
    with pytest.raises(ValueError, match=r"got \(2, 3\); map over examples with jax\.vmap"):
        decide(jnp.zeros((2, 3), jnp.int32), jnp.ones((2, 3), bool))
    with pytest.raises(ValueError, match=r"one bool for each of 3 stages, got bool of"):
        decide(labels, certified[:2])
    with pytest.raises(ValueError, match="one bool for each of 3 stages, got float32"):
        decide(labels, jnp.array([-1.0, -2.0, -3.0]))  # bounds, all of which would count as true
    with pytest.raises(ValueError, match="labels must be integers, got float32"):
        decide(jnp.zeros(3), certified)
    with pytest.raises(ValueError, match="size must be a whole number of at least 1, got 0"):
        uncertified(model, variables, Split(split.x[:0], split.y[:0]), threat)
    with pytest.raises(ValueError, match="batch_size"):
        uncertified(model, variables, split, threat, batch_size=0)


CASCADES = {"mnist_linf_0.3": 34.0, "cifar_linf_8_255": 70.0, "cifar_l2_36_255": 45.0}


@pytest.mark.parametrize("name", CASCADES)
def test_the_published_rule_gives_the_released_error(shared, name):
    with np.load(shared / "reference" / f"dual_cascade_{name}.npz") as held:
        labels, y = held["predicted"], held["label"]
        own = np.arange(10) == labels[..., None]
        certified = np.all((held["robust_logits"] < 0) | own, axis=-1)
    found = {rule: decided(labels, certified, rule) for rule in RULES}
    error = {r: 100 * np.mean(~(d.certified & (d.label == y))) for r, d in found.items()}
    assert error["published"] == pytest.approx(CASCADES[name], abs=1e-4)
    assert error["published"] < error["strict"] < error["unanimous"]


@pytest.mark.slow
def test_released_stages_certify_what_the_released_code_does(shared):
    tfds = pytest.importorskip("tensorflow_datasets")
    source = tfds.data_source("mnist", split="test", data_dir=shared / "tensorflow_datasets")
    with np.load(shared / "reference" / "mnist_test_order.npz") as order:
        position = order["position"]
    with np.load(shared / "reference" / "dual_cascade_mnist_linf_0.3.npz") as held:
        labels, logits = held["predicted"], held["robust_logits"]
    own = np.arange(10) == labels[..., None]
    certified = np.all((logits < 0) | own, axis=-1)
    # images of each kind: by stage, and by whether the rule holds
    expected = decided(labels, certified, "strict")
    kinds = expected.stage * 2 + expected.certified
    index = np.unique(kinds, return_index=True)[1]
    records = [source[int(position[i])] for i in index]
    split = Split(np.stack([r["image"] for r in records]), np.array([r["label"] for r in records]))
    stages = load_cascade("mnist_small_dual_cascade_linf_0.3", shared / "pretrained")
    # the stages have one architecture and so share a program
    model = stages[0][0]
    sure = [~uncertified(model, v, split, Linf(0.3), methods=RELEASED) for _, v in stages]
    np.testing.assert_array_equal(sure, certified[:, index])
