"""PGD, MI-FGSM and Langevin against hand-rolled float64 loops, and their order of strength."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import attack_cases as cases
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrobust import losses
from jaxrobust.attacks import (
    add_noise,
    clean,
    fgsm,
    first_order,
    langevin,
    momentum,
    normalize_by_l1,
    pgd,
)
from jaxrobust.types import Attack, AttackResult

NET = cases.random_net(2)
X = np.random.default_rng(7).uniform(0.3, 0.7, cases.SHAPE)
LABEL = int(np.argmax(cases.np_logits(NET, X)))
KEY = jax.random.key(0)


def np_pgd(threat: str, radius: float, step: float, steps: int) -> list[np.ndarray]:
    """All iterates, from the clean point, without a pixel box."""
    points = [X]
    for _ in range(steps):
        g = cases.np_gradient(NET, points[-1], LABEL)
        moved = points[-1] + step * cases.np_steepest(threat, g)
        points.append(X + cases.np_project(threat, radius, moved - X))
    return points


def unboxed(threat: str, radius: float) -> Any:
    return cases.THREATS[threat](radius, lower=-np.inf, upper=np.inf)


def attacked(attack: Attack, dtype: Any = np.float64, net: cases.Net = NET) -> AttackResult:
    net = cases.to_jax(net, dtype)
    return cases.compiled(
        lambda a: a.bare(
            KEY, lambda z: cases.logits(net, z), jnp.asarray(X, dtype), jnp.int32(LABEL)
        )
    )(attack)


@pytest.mark.parametrize("threat", sorted(cases.THREATS))
def test_pgd_follows_the_float64_loop(threat: str) -> None:
    radius, step, steps = cases.RADII[threat], 0.4 * cases.RADII[threat], 7
    points = np_pgd(threat, radius, step, steps)
    score = [
        (cases.np_fooled(NET, p, LABEL), cases.np_cross_entropy(NET, p, LABEL)) for p in points
    ]
    best = max(range(steps + 1), key=score.__getitem__)
    with jax.enable_x64():
        make = {"step_size": step, "steps": steps, "start": clean}
        last = attacked(pgd(unboxed(threat, radius), keep="last", **make))
        assert last.x.dtype == jnp.float64
        np.testing.assert_allclose(last.x, points[-1], atol=1e-12)
        kept = attacked(pgd(unboxed(threat, radius), keep="best", **make))
        np.testing.assert_allclose(kept.x, points[best], atol=1e-12)
        assert float(kept.loss) == pytest.approx(score[best][1], abs=1e-12)
        assert (int(kept.forwards), int(kept.backwards)) == (steps + 2, steps)
        assert (int(last.forwards), int(last.backwards)) == (steps + 1, steps)


def test_best_differs_from_last_where_steps_overshoot() -> None:
    """A far too long step oscillates; only `keep="best"` still has the top of the hill."""

    def f(z: jax.Array) -> jax.Array:
        return jnp.stack([jnp.sum((z - 0.55) ** 2) * 10, jnp.zeros((), z.dtype)])

    threat = cases.THREATS["linf"](0.3)
    x, y = jnp.full(2, 0.5), jnp.int32(0)
    runs = {
        keep: pgd(threat, step_size=0.2, steps=5, start=clean, keep=keep)(KEY, f, x, y)
        for keep in ("best", "last")
    }
    assert runs["best"].loss > runs["last"].loss + 1e-3


@pytest.mark.parametrize("threat", ["linf", "l2"])
def test_momentum_accumulates_normalized_gradients_not_signs(threat: str) -> None:
    radius, steps, decay = 3 * cases.RADII[threat], 8, 0.9
    step = radius / 5
    net = NET._replace(w1=3 * NET.w1)  # curved enough for gradients to change in size

    def loop(normalize: Any) -> np.ndarray:
        z, velocity = X, np.zeros_like(X)
        for _ in range(steps):
            velocity = decay * velocity + normalize(cases.np_gradient(net, z, LABEL))
            z = z + step * cases.np_steepest(threat, velocity)
            z = X + cases.np_project(threat, radius, z - X)
        return z

    paper, signs = loop(lambda g: g / np.abs(g).sum()), loop(np.sign)
    assert np.abs(paper - signs).max() > 0.01, "this problem must tell the two apart"
    with jax.enable_x64():
        attack = momentum(
            unboxed(threat, radius), step_size=step, steps=steps, decay=decay, keep="last"
        )
        np.testing.assert_allclose(attacked(attack, net=net).x, paper, atol=1e-12)


def test_momentum_of_zero_decay_is_pgd() -> None:
    threat = cases.THREATS["linf"](0.2)
    make = {"step_size": 0.07, "steps": 4, "keep": "last", "start": clean}
    np.testing.assert_allclose(
        attacked(momentum(threat, decay=0.0, **make), np.float32).x,
        attacked(pgd(threat, **make), np.float32).x,
        atol=1e-6,
    )


def test_normalize_by_l1() -> None:
    g = jnp.array([[3.0, -1.0], [0.0, 4.0]])
    transform = normalize_by_l1()
    unit, _ = transform.update(g, transform.init(g), g)
    np.testing.assert_allclose(unit, np.asarray(g) / 8)
    zero, _ = transform.update(0 * g, transform.init(g), g)
    np.testing.assert_array_equal(zero, 0)


@pytest.mark.parametrize("place", ["inside", "outside"])
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_cold_langevin_is_pgd(place: str, steps: int) -> None:
    """At temperature 0 every iterate is PGD's, though it climbs log(1 - p) and not CE."""
    threat = cases.THREATS["linf"](0.2)
    make = {"step_size": 0.07, "steps": steps}
    drift = attacked(langevin(threat, temperature=0.0, place=place, **make), np.float32)
    plain = attacked(pgd(threat, keep="last", **make), np.float32)
    np.testing.assert_allclose(drift.x, plain.x, atol=1e-6)
    assert np.abs(np.asarray(drift.x) - X).max() > 0.05


@pytest.mark.parametrize(("noise", "variance", "kurtosis"), [("gaussian", 1, 3), ("laplace", 2, 6)])
def test_noise_has_the_stated_law_and_is_fresh_each_step(
    noise: str, variance: float, kurtosis: float
) -> None:
    transform = add_noise(KEY, noise=noise, scale=0.3)
    zeros = jnp.zeros(100_000)
    first, state = transform.update(zeros, transform.init(zeros))
    second, _ = transform.update(zeros, state)
    for draw in (np.asarray(first, np.float64), np.asarray(second, np.float64)):
        assert draw.mean() == pytest.approx(0, abs=0.01)
        assert draw.var() == pytest.approx(0.09 * variance, rel=0.03)
        assert (draw**4).mean() / draw.var() ** 2 == pytest.approx(kurtosis, rel=0.08)
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.02


@pytest.mark.slow
@pytest.mark.parametrize("threat", ["linf", "l2", pytest.param("l1", marks=pytest.mark.slow)])
def test_iterating_is_never_weaker_than_the_single_step_it_starts_with(threat: str) -> None:
    ball = cases.THREATS[threat](cases.RADII[threat])
    net = cases.to_jax(NET)
    xs = np.random.default_rng(3).uniform(0, 1, (16, *cases.SHAPE)).astype(np.float32)
    ys = np.array([np.argmax(cases.np_logits(NET, x)) for x in xs], np.int32)

    @cases.compiled
    def run(attack: Attack) -> AttackResult:
        one = lambda x, y: attack(KEY, lambda z: cases.logits(net, z), x, y)  # noqa: E731
        return jax.vmap(one)(xs, ys)

    results = [run(fgsm(ball))]
    for steps in (1, 3, 6):
        results.append(run(pgd(ball, step_size=ball.radius, steps=steps, start=clean)))
    for weak, strong in pairwise(results):
        assert (np.asarray(strong.success) >= np.asarray(weak.success)).all()
        level = np.asarray(strong.success) == np.asarray(weak.success)
        assert (np.asarray(strong.loss) >= np.asarray(weak.loss) - 1e-6)[level].all()
    assert (np.asarray(results[-1].loss) > np.asarray(results[0].loss) + 1e-4).any()


@pytest.mark.parametrize("threat", ["linf", pytest.param("l1", marks=pytest.mark.slow)])
def test_more_langevin_steps_never_lose_the_best_point(threat: str) -> None:
    """The first steps of a longer run are the shorter run, noise included."""
    ball = cases.THREATS[threat](cases.RADII[threat])
    value = (-1, -np.inf)
    for steps in (1, 3, 6):
        result = attacked(
            langevin(ball, step_size=0.1, steps=steps, temperature=0.05, keep="best"), np.float32
        )
        now = (int(result.success), float(result.loss) + 1e-6)
        assert now >= value
        value = (now[0], now[1] - 2e-6)


def test_fgsm_with_its_own_step_and_start() -> None:
    ball = unboxed("linf", 0.1)
    with jax.enable_x64():
        direction = np.sign(cases.np_gradient(NET, X, LABEL))
        np.testing.assert_allclose(attacked(fgsm(ball)).x, X + 0.1 * direction, atol=1e-12)
        short = attacked(fgsm(ball, step_size=0.04))
        np.testing.assert_allclose(short.x, X + 0.04 * direction, atol=1e-12)
        far = attacked(fgsm(ball, step_size=0.4))
        np.testing.assert_allclose(far.x, X + 0.1 * direction, atol=1e-12)


def _plain(key: jax.Array, threat: Any, *, rate: Any) -> Any:
    del key, threat
    return optax.sgd(rate)


def test_any_optax_optimizer_ascends() -> None:
    radius, rate = 0.3, 0.05
    z = X
    for _ in range(5):
        z = z + rate * cases.np_gradient(NET, z, LABEL)
        z = X + cases.np_project("l2", radius, z - X)
    with jax.enable_x64():
        attack = first_order(
            unboxed("l2", radius), _plain, {"rate": rate}, steps=5, start=clean, keep="last"
        )
        np.testing.assert_allclose(attacked(attack).x, z, atol=1e-12)
        assert float(attack.replace(rate=0.1).settings["rate"]) == 0.1


def test_an_unknown_option_is_refused_at_construction() -> None:
    ball = cases.THREATS["linf"](0.1)
    with pytest.raises(TypeError, match="stepz"):
        pgd(ball, step_size=0.05, steps=2, stepz=3)


def test_step_sizes_of_another_precision_than_the_image() -> None:
    ball = cases.THREATS["linf"](0.1)
    with jax.enable_x64():
        wide = attacked(pgd(ball, step_size=jnp.float64(0.05), steps=2), np.float32)
        assert wide.x.dtype == jnp.float32
    half = pgd(ball, step_size=jnp.float32(0.05), steps=2)
    f = lambda z: jnp.sum(z) * jnp.arange(3.0, dtype=z.dtype)  # noqa: E731
    x = jnp.zeros(4, jnp.bfloat16)
    result = cases.compiled(lambda a: a(KEY, f, x, jnp.int32(2)))(half)
    assert result.x.dtype == jnp.bfloat16


def test_impossible_settings() -> None:
    ball = cases.THREATS["linf"](0.1)
    with pytest.raises(ValueError, match="steps must be a whole number of at least 1"):
        pgd(ball, step_size=0.1, steps=0)
    with pytest.raises(ValueError, match="step_size must be finite and at least 0"):
        pgd(ball, step_size=-0.1, steps=1)
    with pytest.raises(ValueError, match="did you mean 'best'"):
        pgd(ball, step_size=0.1, steps=1, keep="bets")
    with pytest.raises(ValueError, match="did you mean 'laplace'"):
        langevin(ball, step_size=0.1, steps=1, temperature=0.1, noise="laplac")
    with pytest.raises(ValueError, match="unknown place"):
        langevin(ball, step_size=0.1, steps=1, temperature=0.1, place="between")
    with pytest.raises(ValueError, match="use place='inside'"):
        langevin(ball, step_size=0.1, steps=1, temperature=0.1, place="outside", relative=True)
    with pytest.raises(ValueError, match="temperature"):
        langevin(ball, step_size=0.1, steps=1, temperature=-1.0)
    dlr = pgd(ball, step_size=0.1, steps=1, loss=losses.dlr)
    with pytest.raises(ValueError, match="at least 3 classes"):
        dlr(KEY, lambda z: z[:2], jnp.full(4, 0.5), jnp.int32(0))
