"""Restarts, target classes and unions against the attacks they are made of."""

from __future__ import annotations

import attack_cases as cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import losses
from jaxrobust.attacks import (
    batched,
    clean,
    ddn,
    deepfool,
    example_keys,
    fgsm,
    momentum,
    pgd,
    restarts,
    targeted,
    worst,
    worst_of,
)
from jaxrobust.threats import L2, Linf
from jaxrobust.types import Attack, AttackResult

NET = cases.random_net(2)
KEY = jax.random.key(5)
XS = np.random.default_rng(3).uniform(0, 1, (8, *cases.SHAPE)).astype(np.float32)
YS = np.array([np.argmax(cases.np_logits(NET, x)) for x in XS], np.int32)
ONE = pgd(Linf(0.08), step_size=0.02, steps=3)


def at(attack: Attack, keys: jax.Array) -> AttackResult:
    net = cases.to_jax(NET)
    one = lambda a, k, x, y: a(k, lambda z: cases.logits(net, z), x, y)  # noqa: E731
    return cases.compiled(jax.vmap(one, in_axes=(None, 0, 0, 0)))(attack, keys, XS, YS)


KEYS = example_keys(KEY, jnp.arange(8))


def rank(result: AttackResult, by: str) -> list[tuple[bool, float]]:
    return [(bool(s), float(v)) for s, v in zip(result.success, getattr(result, by), strict=True)]


def test_restarts_are_the_best_of_their_runs() -> None:
    runs = [at(ONE, jax.vmap(lambda k: jax.random.split(k, 4)[i])(KEYS)) for i in range(4)]  # noqa: B023
    together = at(restarts(ONE, 4), KEYS)
    expected = [max(group) for group in zip(*(rank(r, "loss") for r in runs), strict=True)]
    for got, want in zip(rank(together, "loss"), expected, strict=True):
        assert got[0] == want[0]
        assert got[1] == pytest.approx(want[1], abs=1e-5)
    assert any(e > (*f, 1e-4) for e, f in zip(expected, rank(runs[0], "loss"), strict=True))
    assert (together.forwards == 4 * runs[0].forwards).all()
    assert (together.backwards == 4 * runs[0].backwards).all()


def test_chunks_change_memory_and_nothing_else() -> None:
    for make in (
        lambda chunk: restarts(ONE, 3, chunk=chunk),
        lambda chunk: targeted(ONE, chunk=chunk),
    ):
        whole, parts = at(make(None), KEYS), at(make(2), KEYS)
        for a, b in zip(whole, parts, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)


def two_rivals(sensitive: float) -> cases.Net:
    """Label 0; class 1 is close but cannot rise, class 2 is far but climbs with the input."""
    v = np.zeros((3, 6))
    v[2] = sensitive
    return cases.Net(
        np.zeros((5, 6)), np.zeros(5), np.zeros((3, 5)), v, np.array([1.0, 0.9, -3 * sensitive])
    )


def test_targeted_finds_the_class_that_can_be_reached() -> None:
    net = cases.to_jax(two_rivals(2.0))
    f = lambda z: cases.logits(net, z)  # noqa: E731
    x, y = jnp.full(6, 0.5), jnp.int32(0)
    base = pgd(Linf(0.1), step_size=0.05, steps=4, start=clean)
    run = cases.compiled(lambda attack: attack(KEY, f, x, y))
    every = run(targeted(base))
    assert every.success
    # Closed form: class 2 starts at 0 and gains 2 x 0.1 per pixel.
    assert float(every.margin) == pytest.approx(6 * 2.0 * 0.1 - 1.0, abs=1e-5)
    likeliest = run(targeted(base, targets=1))
    assert float(likeliest.margin) == pytest.approx(-0.1, abs=1e-5)
    assert not likeliest.success
    assert run(targeted(base, targets=99)).success
    assert int(every.backwards) == 2 * 4
    assert int(every.forwards) == 2 * (4 + 3) + 1


@pytest.mark.parametrize("loss", [losses.targeted_margin, losses.targeted_cross_entropy])
def test_targeted_is_the_best_over_its_targets(loss: object) -> None:
    rng = np.random.default_rng(9)
    w, b = rng.normal(size=(4, 6)), rng.normal(size=4)
    x = rng.uniform(0.3, 0.7, 6)
    y = int(np.argmax(w @ x + b))
    reach = [(w[t] - w[y]) @ x + b[t] - b[y] + 0.1 * np.abs(w[t] - w[y]).sum() for t in range(4)]
    reach[y] = -np.inf
    W, B = jnp.asarray(w, jnp.float32), jnp.asarray(b, jnp.float32)
    attack = targeted(pgd(Linf(0.1), step_size=0.1, steps=5, start=clean), loss=loss)
    f = lambda z: W @ z + B  # noqa: E731
    run = cases.compiled(lambda a: a(KEY, f, jnp.asarray(x, jnp.float32), jnp.int32(y)))
    result = run(attack)
    if loss is losses.targeted_margin:
        assert float(result.margin) == pytest.approx(max(reach), abs=1e-4)
    assert float(result.margin) <= max(reach) + 1e-4
    assert bool(result.success) == (max(reach) > 0)


def test_targets_are_never_the_label_even_with_broken_logits() -> None:
    """The one class in reach is NaN at the clean point only: it must still be aimed at."""

    def f(z: jax.Array) -> jax.Array:
        broken = jnp.where(jnp.all(z == 0.5), jnp.nan, 3 * (z[0] - 0.5))
        return jnp.stack([jnp.float32(0.2), jnp.float32(-9.0), broken])

    base = pgd(Linf(0.1), step_size=0.1, steps=3, keep="last")
    run = cases.compiled(lambda a: a(KEY, f, jnp.full(1, 0.5), jnp.int32(0)))
    result = run(targeted(base))
    assert result.success
    assert float(result.margin) == pytest.approx(0.1, abs=1e-5)


def test_worst_of_is_the_maximum_over_its_attacks() -> None:
    attacks = (
        fgsm(Linf(0.08)),
        momentum(L2(0.17), step_size=0.07, steps=3),
        pgd(Linf(0.08), step_size=0.02, steps=3, start=clean),
    )
    union = at(worst_of(*attacks), KEYS)
    apart = [at(a, KEYS) for a in attacks]
    ranks = list(zip(*(rank(r, "margin") for r in apart), strict=True))
    for i, row in enumerate(ranks):
        success, margin = max(row)
        assert bool(union.success[i]) == success
        assert float(union.margin[i]) == pytest.approx(margin, abs=1e-5)
        winner = min(range(3), key=lambda j: abs(row[j][1] - margin))
        np.testing.assert_allclose(union.norm[i], apart[winner].norm[i], atol=1e-5)
    assert len({max(range(3), key=row.__getitem__) for row in ranks}) > 1, "one attack always wins"
    assert (union.backwards == sum(r.backwards for r in apart)).all()


def results(success: list[bool], inside: list[bool], loss: list[float]) -> AttackResult:
    n = len(loss)
    numbers, count = jnp.array(loss, jnp.float32), jnp.ones(n, jnp.int32)
    at = jnp.arange(n, dtype=jnp.float32)[:, None]
    return AttackResult(
        at, jnp.array(success), jnp.array(inside), numbers, numbers, at[:, 0], count, count
    )


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("success", "inside", "loss", "chosen"),
    [
        ([False, False, False], [True] * 3, [1.0, 3.0, 2.0], 1),
        ([False, True, False], [True] * 3, [9.0, 0.0, 2.0], 1),
        ([True, True, False], [True] * 3, [1.0, 2.0, 9.0], 1),
        ([False, True, True], [True] * 3, [INF, NAN, 5.0], 1),
        ([False, True, False], [True] * 3, [1.0, -INF, 2.0], 1),
        ([False, False, False], [True, False, True], [1.0, 9.0, 2.0], 2),
        ([False, False, False], [False] * 3, [1.0, 9.0, 2.0], 0),
    ],
)
def test_worst_prefers_success_then_the_score(
    success: list[bool], inside: list[bool], loss: list[float], chosen: int
) -> None:
    picked = worst(results(success, inside, loss), by="loss")
    assert int(picked.x[0]) == chosen
    assert bool(picked.success) == any(success)
    assert int(picked.forwards) == 3


def test_batched_seeds_by_index_alone() -> None:
    keys = example_keys(KEY, jnp.array([4, 0, 7]))
    for key, i in zip(keys, (4, 0, 7), strict=True):
        expected = jax.random.key_data(jax.random.fold_in(KEY, i))
        np.testing.assert_array_equal(jax.random.key_data(key), expected)


def test_batched_can_name_its_axis() -> None:
    """A model normalized over the batch sees the mean of the points under attack."""
    seen = lambda z: jnp.stack([jax.lax.pmean(z[0], "batch"), z[0]])  # noqa: E731
    attack = fgsm(Linf(0.0))
    run = cases.compiled(lambda: batched(attack, KEY, seen, XS[:, 0], YS * 0, axis_name="batch"))
    result = run()
    np.testing.assert_allclose(result.margin, XS[:, 0, 0] - XS[:, 0, 0].mean(), atol=1e-6)


def test_impossible_settings() -> None:
    with pytest.raises(ValueError, match="count must be a whole number of at least 1"):
        restarts(ONE, 0)
    with pytest.raises(ValueError, match="chunk"):
        restarts(ONE, 2, chunk=0)
    with pytest.raises(ValueError, match="targets"):
        targeted(ONE, targets=0)
    with pytest.raises(ValueError, match="`loss` setting"):
        targeted(restarts(ONE, 2))
    with pytest.raises(ValueError, match="at least one attack"):
        worst_of()


def stacked(success: list[bool], inside: list[bool], margin: list[float], norm: list[float]):
    count = len(success)
    return AttackResult(
        x=jnp.arange(float(count)),
        success=jnp.array(success),
        inside=jnp.array(inside),
        loss=jnp.array(margin),
        margin=jnp.array(margin),
        norm=jnp.array(norm),
        forwards=jnp.ones(count, jnp.int32),
        backwards=jnp.ones(count, jnp.int32),
    )


@pytest.mark.parametrize(
    ("success", "inside", "margin", "norm", "chosen"),
    [
        # the closest of the successful ones
        ([True, True, False], [True] * 3, [5.0, 0.1, -1.0], [0.3, 0.2, 0.0], 1),
        # none within the radius: the closest misclassified point, for the robustness curve
        ([False] * 3, [False, False, True], [1.0, 2.0, -1.0], [0.7, 0.6, 0.1], 1),
        # none misclassified at all: the largest margin
        ([False] * 3, [True] * 3, [-2.0, -1.0, -3.0], [0.1, 0.2, 0.0], 1),
        # success outranks a closer point outside the set
        ([False, True], [False, True], [1.0, 1.0], [0.1, 0.2], 1),
    ],
)
def test_worst_by_norm(success, inside, margin, norm, chosen) -> None:
    result = worst(stacked(success, inside, margin, norm), by="norm")
    assert int(result.x) == chosen
    assert result.forwards == len(success)


@pytest.mark.parametrize(("by", "chosen"), [("loss", 0), ("loss alone", 1)])
def test_in_training_a_larger_loss_outranks_success(by: str, chosen: int) -> None:
    # Cross-entropies of a tie of two classes, and of a label that barely leads nine others.
    results = stacked([True, False, True], [True, True, False], [0.0, -0.05, 1.0], [0.1] * 3)
    results = results._replace(loss=jnp.asarray([0.74, 2.25, 3.0]))
    assert int(worst(results, by=by).x) == chosen
    outside = results._replace(success=jnp.zeros(3, bool), inside=jnp.zeros(3, bool))
    assert int(worst(outside, by=by).x) == 0


def test_closest_of_several_minimum_norm_attacks() -> None:
    suite = (ddn(L2(10.0), steps=20), deepfool(L2(10.0)))
    together = at(worst_of(*suite, by="norm"), KEYS)
    alone = [at(worst_of(a, by="norm"), KEYS) for a in suite]
    assert together.success.all()
    np.testing.assert_array_less(
        np.asarray(together.norm), np.minimum(alone[1].norm, np.inf) + 1e-5
    )
    with pytest.raises(ValueError, match="did you mean 'margin'"):
        worst(stacked([True], [True], [1.0], [0.1]), by="margins")
    with pytest.raises(ValueError, match="unknown by 'x'"):  # a field, but no rank
        worst(stacked([True], [True], [1.0], [0.1]), by="x")
    with pytest.raises(ValueError, match="did you mean 'norm'"):
        worst_of(*suite, by="norms")
