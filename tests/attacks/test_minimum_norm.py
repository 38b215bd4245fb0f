"""What every minimum-norm attack owes: the closest point, honestly judged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import attack_cases as cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_linearized_boundary import least

from jaxrobust.attacks import batched, example_keys
from jaxrobust.attacks.carlini_wagner import carlini_wagner
from jaxrobust.attacks.carlini_wagner_linf import carlini_wagner_linf
from jaxrobust.attacks.ddn import ddn
from jaxrobust.attacks.deepfool import deepfool
from jaxrobust.attacks.elastic_net import elastic_net
from jaxrobust.attacks.fab import fab
from jaxrobust.attacks.lbfgs import lbfgs
from jaxrobust.attacks.minimum_norm import Constant, refine, until_stalled
from jaxrobust.attacks.wrappers import rivals
from jaxrobust.types import Attack, AttackResult

BATCH = 4
NET = cases.random_net(1)
KEY = jax.random.key(3)
TRACES = {"count": 0}


class Method(NamedTuple):
    threat: str
    build: Callable[[Any], Attack]
    slack: float
    """How far above the least norm its result on a linear model may be, as a factor."""


METHODS = {
    "fab_linf": Method("linf", lambda t: fab(t, steps=60), 1.01),
    "fab_l2": Method("l2", lambda t: fab(t, steps=60), 1.01),
    "fab_l1": Method("l1", lambda t: fab(t, steps=60), 1.01),
    "fab_untargeted": Method("linf", lambda t: fab(t, steps=40, targets=None, restarts=2), 1.01),
    "deepfool_linf": Method("linf", lambda t: deepfool(t, overshoot=0.005), 1.01),
    "deepfool_l2": Method("l2", lambda t: deepfool(t, overshoot=0.005), 1.01),
    "ddn": Method("l2", lambda t: ddn(t, steps=200), 1.01),
    "cw_l2": Method("l2", lambda t: carlini_wagner(t, steps=400, step_size=0.03), 1.01),
    "cw_linf": Method("linf", lambda t: carlini_wagner_linf(t, steps=400, step_size=0.02), 1.12),
    "ead": Method("l1", lambda t: elastic_net(t, steps=300, beta=5e-3), 1.15),
    "lbfgs": Method("l2", lambda t: lbfgs(t, steps=15), 1.01),
}
RADIUS = {"linf": 0.15, "l2": 0.3, "l1": 0.6}


def examples(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A batch with pixels on both faces of the box; the first example is broken already."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(0, 1, (BATCH, *cases.SHAPE)).astype(np.float32)
    x[:, 0, 0], x[:, 1, 2] = 0.0, 1.0
    y = np.array([np.argmax(cases.np_logits(NET, a)) for a in x], np.int32)
    y[0] = (y[0] + 1) % 3
    return x, y


X, Y = examples()
INDEX = np.arange(BATCH, dtype=np.int32) + 10


@cases.compiled
def run(
    attack: Attack, net: cases.Net, key: jax.Array, x: jax.Array, y: jax.Array, index: jax.Array
) -> AttackResult:
    def f(z: jax.Array) -> jax.Array:
        TRACES["count"] += 1
        return cases.logits(net, z)

    return batched(attack, key, f, x, y, index=index)


class Case(NamedTuple):
    name: str
    threat: str
    build: Callable[..., Attack]
    slack: float
    run: Callable[..., AttackResult]
    result: AttackResult


@pytest.fixture(scope="module", params=sorted(METHODS))
def case(request: pytest.FixtureRequest) -> Case:
    """One compilation serves all tests of a case: model and radius are traced."""
    name = request.param
    threat, make, slack = METHODS[name]

    def build(radius: float = RADIUS[threat]) -> Attack:
        return make(cases.THREATS[threat](radius))

    attack, plain = build(), cases.to_jax(NET)

    def go(
        attack: Attack = attack,
        net: cases.Net = plain,
        x: np.ndarray = X,
        y: np.ndarray = Y,
        index: np.ndarray = INDEX,
    ) -> AttackResult:
        return run(attack, net, KEY, x, y, index)

    return Case(name, threat, build, slack, go, go())


def test_returns_adversarial_points_of_the_stated_norm(case: Case) -> None:
    z = np.asarray(case.result.x, np.float64)
    assert z.min() >= 0
    assert z.max() <= 1
    assert (np.asarray(case.result.norm)[1:] > 0).all(), "every example of this net can be broken"
    for i in range(BATCH):
        scores = cases.np_logits(NET, z[i])
        margin = np.delete(scores, Y[i]).max() - scores[Y[i]]
        size = cases.np_size(case.threat, z[i] - X[i])
        assert margin > -1e-5
        assert float(case.result.margin[i]) == pytest.approx(margin, abs=1e-4)
        assert float(case.result.norm[i]) == pytest.approx(size, abs=1e-6)
        assert bool(case.result.success[i]) == (size <= RADIUS[case.threat])
        assert bool(case.result.inside[i]) == (size <= RADIUS[case.threat])


def test_an_example_broken_already_returns_itself(case: Case) -> None:
    np.testing.assert_array_equal(case.result.x[0], X[0])
    assert case.result.norm[0] == 0
    assert case.result.success[0]


def test_the_radius_only_decides_success(case: Case) -> None:
    before = TRACES["count"]
    tight = case.run(case.build(1e-3))
    assert TRACES["count"] == before, "a second radius compiled anew"
    wide = case.run(case.build(1.0 if case.threat == "linf" else 10.0))
    if case.name != "fab_untargeted":  # its random starts scale with the radius
        np.testing.assert_array_equal(tight.x, case.result.x)
        np.testing.assert_array_equal(wide.x, case.result.x)
    np.testing.assert_array_equal(tight.success, [True, False, False, False])
    assert wide.success.all()


def test_zero_radius_is_the_identity(case: Case) -> None:
    result = case.run(case.build(0.0))
    np.testing.assert_array_equal(result.x, X)
    np.testing.assert_array_equal(result.norm, 0)
    np.testing.assert_array_equal(result.success, [True, False, False, False])


def test_finds_the_least_perturbation_of_a_linear_model(case: Case) -> None:
    w = np.array([1.0, -0.8, 0.5, 1.3, -0.4, 0.9])
    flat = X.reshape(BATCH, -1).astype(np.float64)
    b = -(0.85 * w[w > 0].sum() + 0.15 * w[w < 0].sum())
    y = np.zeros(BATCH, np.int32)
    assert (flat @ w + b < -0.3).all()
    result = case.run(net=cases.to_jax(cases.linear_net(w, b)), y=y)
    for i in range(BATCH):
        best = least(case.threat, flat[i], w, -(flat[i] @ w + b))
        assert best * (1 - 1e-4) <= float(result.norm[i]) <= best * case.slack, case.name
    moved = np.asarray(result.x) != X
    assert moved[:, 0, 0].all() or case.threat == "l1", "a black pixel must be able to move"


def test_a_model_out_of_reach_returns_the_clean_image(case: Case) -> None:
    net = cases.to_jax(cases.linear_net(np.ones(cases.SIZE), -1e3))
    result = case.run(net=net, y=np.zeros(BATCH, np.int32))
    np.testing.assert_array_equal(result.x, X)
    np.testing.assert_array_equal(result.norm, 0)
    assert not result.success.any()
    assert all(np.isfinite(leaf).all() for leaf in result)


def test_constant_logits_give_no_nan(case: Case) -> None:
    flat = cases.to_jax(NET._replace(w2=0 * NET.w2, v=0 * NET.v, b2=np.array([2.0, 0.0, 1.0])))
    result = case.run(net=flat, y=np.zeros(BATCH, np.int32))
    np.testing.assert_array_equal(result.x, X)
    assert all(np.isfinite(leaf).all() for leaf in result)
    assert not result.success.any()
    tied = case.run(net=flat._replace(b2=jnp.zeros(3, jnp.float32)), y=np.zeros(BATCH, np.int32))
    np.testing.assert_array_equal(tied.x, X)
    assert tied.success.all(), "a tied prediction is no evidence for the model"


def test_nan_logits_count_against_the_model(case: Case) -> None:
    result = case.run(net=cases.to_jax(NET)._replace(b2=jnp.full(3, jnp.nan, jnp.float32)))
    np.testing.assert_array_equal(result.x, X)
    assert result.success.all()


def test_batch_position_and_neighbors_change_nothing(case: Case) -> None:
    order = np.array([2, 0, 3, 1])
    x = X[order].copy()
    x[3] = np.nan  # the example at position 1 of the original batch is ruined
    shuffled = case.run(x=x, y=Y[order], index=INDEX[order])
    for position in range(3):
        for name in ("x", "norm", "success", "forwards", "backwards"):
            np.testing.assert_allclose(
                getattr(shuffled, name)[position],
                getattr(case.result, name)[order[position]],
                atol=1e-5,
                err_msg=name,
            )


SHAPES = [pytest.param(name, marks=pytest.mark.slow) for name in sorted(METHODS)]


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
def test_input_shape_and_precision(name: str) -> None:
    """1-D and 3-D, float32 and float64: the same point."""
    threat, make, _ = METHODS[name]
    attack = make(cases.THREATS[threat](0.5))
    with jax.enable_x64():
        results, key = [], example_keys(KEY, jnp.asarray(INDEX))[1]
        for shape, dtype in (((6,), np.float64), ((1, 2, 3), np.float32)):
            net = cases.to_jax(NET, dtype)
            x = jnp.asarray(X[1].reshape(shape), dtype)
            go = cases.compiled(
                lambda a, x, net=net: a(key, lambda z: cases.logits(net, z), x, jnp.asarray(Y[1]))
            )
            result = go(attack, x)
            assert result.x.shape == shape
            assert result.x.dtype == dtype
            assert result.norm.dtype == dtype
            results.append(result)
    # Random starts depend on the precision, and chaotic loops on its rounding.
    assert float(results[0].norm) == pytest.approx(float(results[1].norm), rel=0.03)


@pytest.mark.parametrize("name", SHAPES)
def test_two_classes(name: str) -> None:
    threat, make, _ = METHODS[name]
    net = cases.random_net(4, classes=2)
    y = int(np.argmax(cases.np_logits(net, X[2])))
    fast = cases.to_jax(net)
    go = cases.compiled(lambda a: a(KEY, lambda z: cases.logits(fast, z), X[2], jnp.int32(y)))
    result = go(make(cases.THREATS[threat](10.0)))
    grid = np.random.default_rng(0).uniform(size=(4000, cases.SIZE))
    broken = [cases.np_fooled(net, z, y) for z in grid]
    assert bool(result.success) == any(broken)


def test_a_stack_of_radii_is_a_curve() -> None:
    threats = cases.THREATS["linf"](jnp.array([0.0, 0.01, 1.0]))
    net = cases.to_jax(NET)
    attack = fab(threats, steps=20)
    go = jax.vmap(lambda a: a(KEY, lambda z: cases.logits(net, z), X[1], jnp.asarray(Y[1])))
    np.testing.assert_array_equal(cases.compiled(go)(attack).success, [False, False, True])


def test_rivals_are_the_largest_wrong_logits_in_order() -> None:
    logits = jnp.array([0.3, 2.0, -1.0, 5.0, 1.0])
    np.testing.assert_array_equal(rivals(logits, jnp.int32(3), 3), [1, 4, 0])
    np.testing.assert_array_equal(rivals(logits, jnp.int32(1), None), [3, 4, 0, 2])
    np.testing.assert_array_equal(rivals(logits, jnp.int32(1), 9), [3, 4, 0, 2])
    nan = logits.at[0].set(jnp.nan)
    assert 1 not in rivals(nan, jnp.int32(1), None)


def test_the_constant_grows_until_it_works_and_is_bisected_then() -> None:
    c = Constant(*(jnp.float32(a) for a in (0.1, 0.0, np.inf)))
    values = []
    for _ in range(9):
        values.append(float(c.value))
        c = refine(c, c.value >= 3.0)
    np.testing.assert_allclose(values[:6], [0.1, 1, 10, 5.5, 3.25, 2.125], rtol=1e-6)
    assert values[-1] == pytest.approx(3.0, abs=0.2)
    c = refine(Constant(*(jnp.float32(a) for a in (0.1, 0.0, np.inf))), jnp.bool_(True))
    assert float(c.value) == pytest.approx(0.05)


def test_stalls_after_a_tenth_of_the_steps_without_progress() -> None:
    def falling_until(k_stop: int) -> Callable:
        return lambda s, k: (s, jnp.maximum(10.0 - k.astype(jnp.float32), 10.0 - k_stop))

    zero = jnp.float32(0)
    assert int(until_stalled(falling_until(1000), zero, steps=50)[1]) == 50
    # Flat from step 7 on: the check at 10 still sees progress since 5, the one at 15 none.
    assert int(until_stalled(falling_until(7), zero, steps=50)[1]) == 16
    assert int(until_stalled(falling_until(7), zero, steps=50, earliest=22)[1]) == 26
    nan = lambda s, k: (s, jnp.float32(np.nan))  # noqa: E731
    assert int(until_stalled(nan, zero, steps=20)[1]) == 20
