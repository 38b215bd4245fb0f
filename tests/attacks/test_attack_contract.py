"""What every attack owes on every threat set, whatever its method."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import attack_cases as cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.attacks import batched, example_keys, pgd
from jaxrobust.types import Attack, AttackResult

BATCH = 4
NET = cases.random_net(1)
KEY = jax.random.key(3)
TRACES = {"count": 0}


def examples(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A batch with pixels on both faces of the box."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(0, 1, (BATCH, *cases.SHAPE)).astype(np.float32)
    x[:, 0, 0], x[:, 1, 2] = 0.0, 1.0
    y = np.array([np.argmax(cases.np_logits(NET, a)) for a in x], np.int32)
    y[0] = (y[0] + 1) % 3  # one example is misclassified before any attack
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
    attack: Attack
    run: Callable[..., AttackResult]
    result: AttackResult

    def build(self, **changes: object) -> Attack:
        return cases.build(self.name, self.threat, **changes)


QUICK = {
    ("pgd_best", "l1"),
    ("pgd_best", "l2"),
    ("momentum", "l1"),
    ("langevin_laplace_inside", "l2"),
}
"""Beside every attack on linf, the pairs of the quick suite; the others are in the slow one."""

PAIRS = [
    pytest.param(
        (attack, threat),
        id=f"{attack}-{threat}",
        marks=() if threat == "linf" or (attack, threat) in QUICK else pytest.mark.slow,
    )
    for threat in cases.THREATS
    for attack in cases.ATTACKS
]


@pytest.fixture(scope="module", params=PAIRS)
def case(request: pytest.FixtureRequest) -> Case:
    """One compilation serves all tests of a case: model, radius and box are traced."""
    name, threat = request.param
    attack, net = cases.build(name, threat), cases.to_jax(NET)

    def go(
        attack: Attack = attack,
        net: cases.Net = net,
        key: jax.Array = KEY,
        x: np.ndarray = X,
        y: np.ndarray = Y,
        index: np.ndarray = INDEX,
    ) -> AttackResult:
        return run(attack, net, key, x, y, index)

    return Case(name, threat, attack, go, go())


def same(a: AttackResult, b: AttackResult, tolerance: float = 1e-5) -> None:
    for name in AttackResult._fields:
        np.testing.assert_allclose(
            getattr(a, name), getattr(b, name), atol=tolerance, rtol=tolerance, err_msg=name
        )


@pytest.mark.slow
def test_stays_in_ball_and_box(case: Case) -> None:
    z = np.asarray(case.result.x)
    assert case.result.inside.all()
    assert z.min() >= 0
    assert z.max() <= 1
    for clean, moved, norm in zip(X, z, case.result.norm, strict=True):
        size = cases.np_size(case.threat, moved.astype(np.float64) - clean)
        assert size <= cases.RADII[case.threat] + 1e-5
        assert size == pytest.approx(float(norm), abs=1e-6)


def test_reports_a_fresh_prediction(case: Case) -> None:
    for z, y, margin, success in zip(
        np.asarray(case.result.x), Y, case.result.margin, case.result.success, strict=True
    ):
        scores = cases.np_logits(NET, z)
        expected = np.delete(scores, y).max() - scores[y]
        assert float(margin) == pytest.approx(expected, abs=1e-4)
        assert bool(success) == (expected >= 0)


def test_raises_the_loss_and_keeps_what_was_broken(case: Case) -> None:
    before = [cases.np_cross_entropy(NET, x, y) for x, y in zip(X, Y, strict=True)]
    after = [cases.np_cross_entropy(NET, z, y) for z, y in zip(case.result.x, Y, strict=True)]
    assert np.mean(after) > np.mean(before) + 0.05
    assert case.result.success[0]


def test_same_key_same_answer_and_another_key_another(case: Case) -> None:
    again = case.run()
    assert all(np.array_equal(a, b) for a, b in zip(case.result, again, strict=True))
    other = case.run(key=jax.random.key(99))
    moved = not np.array_equal(other.x, again.x)
    if case.name in cases.DETERMINISTIC:
        assert not moved
    elif case.name.endswith("outside"):
        assert moved


def test_batch_position_and_neighbors_change_nothing(case: Case) -> None:
    order = np.array([2, 0, 3, 1])
    x, y = X[order].copy(), Y[order]
    x[3] = np.nan  # the example at position 1 of the original batch is ruined
    shuffled = case.run(x=x, y=y, index=INDEX[order])
    for position in range(3):
        same(
            jax.tree.map(lambda a: a[position], shuffled),  # noqa: B023
            jax.tree.map(lambda a: a[order[position]], case.result),  # noqa: B023
        )


def test_other_numbers_do_not_recompile(case: Case) -> None:
    before = TRACES["count"]
    other = case.run(case.build(radius=0.5 * cases.RADII[case.threat], step=0.2, temperature=1e-3))
    assert TRACES["count"] == before
    assert not np.allclose(other.x, case.result.x)
    assert float(other.norm.max()) <= 0.5 * cases.RADII[case.threat] + 1e-5


def test_zero_radius_is_the_identity(case: Case) -> None:
    result = case.run(case.build(radius=0.0))
    np.testing.assert_array_equal(result.x, X)
    np.testing.assert_array_equal(result.norm, 0)
    np.testing.assert_array_equal(result.success, [True, False, False, False])


def test_constant_logits_give_no_nan(case: Case) -> None:
    flat = cases.to_jax(NET._replace(w2=0 * NET.w2, v=0 * NET.v, b2=np.array([2.0, 0.0, 1.0])))
    result = case.run(net=flat, y=np.zeros(BATCH, np.int32))
    assert all(np.isfinite(leaf).all() for leaf in result)
    assert result.inside.all()
    assert not result.success.any()
    tied = case.run(net=flat._replace(b2=jnp.zeros(3, jnp.float32)), y=np.zeros(BATCH, np.int32))
    assert np.isfinite(tied.x).all()
    assert tied.success.all(), "a tied prediction is no evidence for the model"


def test_nan_logits_count_against_the_model(case: Case) -> None:
    result = case.run(net=cases.to_jax(NET)._replace(b2=jnp.full(3, jnp.nan, jnp.float32)))
    assert result.success.all()
    assert result.inside.all()
    assert np.isfinite(result.x).all()
    assert not np.isnan(result.norm).any()


def test_reaches_the_closed_form_on_a_linear_model(case: Case) -> None:
    # The steps overshoot an L2 or L1 optimum by projection only, so every method converges to it.
    rng = np.random.default_rng(5)
    w, b = rng.normal(size=cases.SIZE), -6.0
    net = cases.linear_net(w, b)
    attack = case.build(step=1.0, temperature=0.0, box=False)
    result = case.run(attack, net=cases.to_jax(net), y=np.zeros(BATCH, np.int32))
    radius = cases.RADII[case.threat]
    best = X.reshape(BATCH, -1) @ w + b + radius * cases.np_dual_norm(case.threat, w)
    np.testing.assert_allclose(result.margin, best, atol=2e-3 if case.threat == "l2" else 1e-4)
    assert (np.asarray(result.margin) <= best + 1e-4).all()


def threat_of(name: str) -> str:
    """A threat the attack has been compiled for already, in the quick suite as well."""
    return {"pgd_best": "l1", "langevin_laplace_inside": "l2", "momentum": "l1"}.get(name, "linf")


@pytest.mark.parametrize("name", sorted(cases.ATTACKS))
def test_vmap_equals_a_loop_of_single_runs(name: str) -> None:
    net, attack = cases.to_jax(NET), cases.build(name, threat_of(name))
    together = run(attack, net, KEY, X, Y, INDEX)
    single = cases.compiled(lambda a, k, x, y: a(k, lambda z: cases.logits(net, z), x, y))
    keys = example_keys(KEY, jnp.asarray(INDEX))
    for i in (0, 2):
        one = single(attack, keys[i], X[i], Y[i])
        same(one, jax.tree.map(lambda a: a[i], together))  # noqa: B023


@pytest.mark.parametrize("name", ["momentum", "langevin_laplace_inside"])
def test_eager_equals_compiled(name: str) -> None:
    net, attack = cases.to_jax(NET), cases.build(name, threat_of(name))
    together = run(attack, net, KEY, X, Y, INDEX)
    key = example_keys(KEY, jnp.asarray(INDEX))[1]
    eager = attack(key, lambda z: cases.logits(net, z), jnp.asarray(X[1]), jnp.asarray(Y[1]))
    same(eager, jax.tree.map(lambda a: a[1], together))


@pytest.mark.parametrize("name", sorted(cases.ATTACKS))
def test_vmap_over_radii_draws_a_monotone_curve(name: str) -> None:
    threat = "l2" if name in ("fgsm", "pgd_best", "restarts") else "linf"
    w = np.random.default_rng(5).normal(size=cases.SIZE)
    clean = X[1].ravel() @ w
    # Without a box every attack attains the closed form, so success must be monotone in it.
    net = cases.to_jax(cases.linear_net(w, -clean - 0.35))
    radii = jnp.array([0.0, 0.02, 0.05, 0.1, 0.2, 0.4])
    stack = cases.build(name, threat, radius=radii, step=1.0, temperature=0.0, box=False)
    label = jnp.int32(0)
    curve = cases.compiled(
        jax.vmap(lambda a: a(KEY, lambda z: cases.logits(net, z), jnp.asarray(X[1]), label))
    )(stack)
    expected = -0.35 + np.asarray(radii) * cases.np_dual_norm(threat, w)
    np.testing.assert_allclose(curve.margin, expected, atol=2e-3)
    np.testing.assert_array_equal(curve.success, expected > 0)
    assert curve.success[-1]
    assert not curve.success[0]


def test_scalar_settings_join_a_stack_of_radii() -> None:
    stack = pgd(cases.THREATS["linf"](jnp.array([0.0, 0.1])), step_size=0.05, steps=2)
    net = cases.to_jax(NET)
    result = jax.vmap(lambda a: a(KEY, lambda z: cases.logits(net, z), X[1], Y[1]))(stack)
    assert result.norm[0] == 0
    assert result.norm[1] > 0.04


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "threat"),
    [
        ("pgd_best", "linf"),
        ("pgd_best", "l2"),
        ("pgd_best", "l1"),
        ("langevin_gaussian_outside", "l2"),
    ],
)
def test_input_shape_is_only_a_view(name: str, threat: str) -> None:
    net, attack = cases.to_jax(NET), cases.build(name, threat)
    go = cases.compiled(lambda x: attack(KEY, lambda z: cases.logits(net, z), x, Y[1]))
    flat = go(X[1].reshape(6))
    for shape in ((3, 2), (1, 2, 3)):
        shaped = go(X[1].reshape(shape))
        assert shaped.x.shape == shape
        np.testing.assert_allclose(shaped.x.reshape(6), flat.x, atol=1e-5)


@pytest.mark.parametrize("name", ["pgd_best", "langevin_laplace_inside", "targeted", "restarts"])
def test_two_classes(name: str) -> None:
    net = cases.random_net(4, classes=2)
    y = int(np.argmax(cases.np_logits(net, X[2])))
    wide = cases.build(name, "linf", radius=1.0)
    fast = cases.to_jax(net)
    result = cases.compiled(lambda a: a(KEY, lambda z: cases.logits(fast, z), X[2], jnp.int32(y)))(
        wide
    )
    assert result.inside
    assert bool(result.success) == cases.np_fooled(net, np.asarray(result.x, np.float64), y)
    assert cases.np_cross_entropy(net, np.asarray(result.x), y) > cases.np_cross_entropy(
        net, X[2], y
    )
