"""The loop: where it stops, what it keeps, what it survives."""

from __future__ import annotations

from typing import Any

import attack_cases as cases
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrobust import losses
from jaxrobust.attacks import Ascent, ascend, fooled, fosc, judge, objective, pgd, scale_by_steepest
from jaxrobust.threats import Linf

NET = cases.random_net(2)
RADIUS, STEP, STEPS = 0.15, 0.04, 8
XS = np.random.default_rng(11).uniform(0.3, 0.7, (6, *cases.SHAPE))
YS = np.array([np.argmax(cases.np_logits(NET, x)) for x in XS], np.int32)


def test_a_batch_is_told_how_to_be_attacked() -> None:
    with pytest.raises(
        ValueError, match=r"labels \(3,\): lift it over a batch with attacks.batched"
    ):
        objective(lambda z: z, losses.cross_entropy, jnp.zeros(3, jnp.int32))


def test_a_number_is_no_set() -> None:
    threat: Any = 0.1
    with pytest.raises(TypeError, match=r"takes a set, such as threats.Linf\(0.1\), got 0.1"):
        pgd(threat, step_size=0.1, steps=1)


def run(stop_at: float | None, x: Any, y: Any, steps: int = STEPS) -> Ascent:
    threat = Linf(RADIUS)
    net = cases.to_jax(NET, x.dtype)
    optimizer = optax.chain(scale_by_steepest(threat), optax.scale_by_learning_rate(STEP))
    stop = None if stop_at is None else (lambda z, g: fosc(threat, x, z, g) <= stop_at)
    aim = objective(lambda z: cases.logits(net, z), losses.cross_entropy, y)
    return ascend(aim, threat, x, x, optimizer, steps=steps, stop=stop)


def np_path(x: np.ndarray, y: int) -> list[np.ndarray]:
    points = [x]
    for _ in range(STEPS):
        moved = points[-1] + STEP * np.sign(cases.np_gradient(NET, points[-1], y))
        points.append(np.clip(moved, x - RADIUS, x + RADIUS))
    return points


def np_fosc(x: np.ndarray, z: np.ndarray, y: int) -> float:
    g = cases.np_gradient(NET, z, y)
    return float(RADIUS * np.abs(g).sum() - ((z - x) * g).sum())


def test_each_example_rests_at_its_first_converged_point() -> None:
    paths = [np_path(x, y) for x, y in zip(XS, YS, strict=True)]
    scores = np.array(
        [[np_fosc(x, z, y) for z in path[:-1]] for x, path, y in zip(XS, paths, YS, strict=True)]
    )
    # Halfway between two scores, so that rounding cannot decide.
    ordered = np.sort(scores[:, 2])
    level = float((ordered[2] + ordered[3]) / 2)
    first = [int(np.argmax(row <= level)) if (row <= level).any() else STEPS for row in scores]
    assert len(set(first)) > 1, "the examples must stop at different steps"
    with jax.enable_x64():
        result = jax.jit(jax.vmap(lambda x, y: run(level, x, y)))(jnp.asarray(XS), YS)
        for i, count in enumerate(first):
            np.testing.assert_allclose(result.last[i], paths[i][count], atol=1e-12)
            assert int(result.gradients[i]) == min(count + 1, STEPS)
            seen = paths[i][: count + 1]
            rank = [
                (cases.np_fooled(NET, z, YS[i]), cases.np_cross_entropy(NET, z, YS[i]))
                for z in seen
            ]
            best = max(range(len(seen)), key=rank.__getitem__)
            np.testing.assert_allclose(result.best.z[i], seen[best], atol=1e-12)
            assert float(result.best.value[i]) == pytest.approx(rank[best][1], abs=1e-12)


def test_never_stopping_equals_the_scan() -> None:
    x, y = jnp.asarray(XS[0], jnp.float32), jnp.asarray(YS[0])
    scan, loop = jax.jit(lambda: (run(None, x, y), run(-1.0, x, y)))()
    for a, b in zip(jax.tree.leaves(scan), jax.tree.leaves(loop), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    assert int(scan.gradients) == STEPS


def test_stopping_at_once_returns_the_start() -> None:
    x, y = jnp.asarray(XS[0], jnp.float32), jnp.asarray(YS[0])
    result = run(1e9, x, y)
    np.testing.assert_array_equal(result.last, x)
    np.testing.assert_array_equal(result.best.z, x)
    assert int(result.gradients) == 1


def test_a_point_that_fools_beats_one_of_higher_value() -> None:
    """The value falls where the model is fooled: the fooled point must still be kept."""

    def aim(z: jax.Array) -> tuple[jax.Array, jax.Array]:
        return z[0], (z[0] > 0.55) & (z[0] < 0.65)

    x = jnp.array([0.5])
    result = ascend(aim, Linf(0.4), x, x, optax.sgd(0.1), steps=4)
    assert float(result.last[0]) == pytest.approx(0.9)
    assert float(result.best.z[0]) == pytest.approx(0.6)
    assert result.best.fooled


def test_broken_gradients_give_no_direction() -> None:
    def aim(z: jax.Array) -> tuple[jax.Array, jax.Array]:
        # The slope of sqrt at 0 is infinite, of 0 * sqrt NaN; the third coordinate is sound.
        return jnp.sqrt(z[0]) + 0 * jnp.sqrt(z[1]) + z[2], jnp.zeros((), bool)

    x = jnp.array([0.0, 0.0, 0.5])
    result = ascend(aim, Linf(0.2), x, x, optax.sgd(0.1), steps=1)
    np.testing.assert_allclose(result.last, [0, 0, 0.6], atol=1e-6)


def test_a_nan_value_is_kept_as_the_strongest() -> None:
    def aim(z: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jnp.where(z[0] > 0.55, jnp.nan, z[0]), z[0] > 0.55

    x = jnp.array([0.5])
    result = ascend(aim, Linf(0.2), x, x, optax.sgd(0.1), steps=1)
    assert result.best.fooled
    assert float(result.best.z[0]) == pytest.approx(0.6)


def test_reverse_mode_through_the_scan() -> None:
    """With a smooth optimizer: z2 = z0 + two steps on sum(c z^2) has slope (1 + 2 a c)^2 in z0."""

    def last(start: jax.Array) -> jax.Array:
        aim = lambda z: (jnp.sum(3.0 * z**2), jnp.zeros((), bool))  # noqa: E731
        return ascend(aim, Linf(9.0, -9.0, 9.0), start, start, optax.sgd(0.1), steps=2).last[0]

    assert float(jax.grad(last)(jnp.array([0.1]))[0]) == pytest.approx(1.6**2, rel=1e-5)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([2.0, 1.0, 0.0], False),
        ([1.0, 2.0, 0.0], True),
        ([2.0, 2.0, 0.0], True),
        ([2.0, np.nan, 0.0], True),
        ([np.nan, 1.0, 0.0], True),
        ([1.0, np.inf, 0.0], True),
        ([-np.inf, -np.inf, -np.inf], True),
    ],
)
def test_fooled(scores: list[float], expected: bool) -> None:
    assert bool(fooled(jnp.array(scores, jnp.float32), jnp.int32(0))) == expected


def test_a_point_outside_the_set_is_no_success() -> None:
    f = lambda z: jnp.stack([jnp.zeros((), z.dtype), z[0]])  # noqa: E731
    x, y = jnp.array([0.5]), jnp.int32(0)
    for z, inside in ((0.59, True), (0.7, False)):
        result = judge(
            f, Linf(0.1), x, y, jnp.array([z]), losses.cross_entropy, forwards=3, backwards=2
        )
        assert bool(result.inside) == inside
        assert bool(result.success) == inside
        assert float(result.margin) == pytest.approx(z)
        assert float(result.norm) == pytest.approx(z - 0.5, abs=1e-6)
        assert (int(result.forwards), int(result.backwards)) == (4, 2)
