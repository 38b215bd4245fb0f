"""Multi steepest descent against float64 loops, and as PGD where one set is alone."""

from __future__ import annotations

import attack_cases as cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.attacks import clean, msd, pgd
from jaxrobust.threats import L1, L2, Linf, Union
from jaxrobust.types import Attack, AttackResult

NET = cases.random_net(2)
X = np.random.default_rng(7).uniform(0.3, 0.7, cases.SHAPE)
LABEL = int(np.argmax(cases.np_logits(NET, X)))
UNBOXED = {"lower": -np.inf, "upper": np.inf}
ORDER = ("linf", "l2", "l1")
STEPS = {"linf": 0.03, "l2": 0.08, "l1": 0.075}


def attacked(attack: Attack) -> AttackResult:
    net = cases.to_jax(NET, np.float64)
    return cases.compiled(
        lambda a: a.bare(jax.random.key(0), lambda z: cases.logits(net, z), X, jnp.int32(LABEL))
    )(attack)


def union(radii: dict[str, float] = cases.RADII) -> Union:
    return Union(tuple(cases.THREATS[name](radii[name], **UNBOXED) for name in ORDER))


def test_each_step_is_the_best_of_the_members() -> None:
    radii = {"linf": 0.1, "l2": 0.2, "l1": 0.3}
    z, path, chosen = X, [X], []
    for _ in range(8):
        g = cases.np_gradient(NET, z, LABEL)
        moves = {
            name: X
            + cases.np_project(name, radii[name], z + STEPS[name] * cases.np_steepest(name, g) - X)
            for name in ORDER
        }
        name = max(ORDER, key=lambda n: cases.np_cross_entropy(NET, moves[n], LABEL))
        z = moves[name]
        chosen.append(name)
        path.append(z)
    assert len(set(chosen)) > 1, "this problem must use several norms"
    options = {"step_sizes": [STEPS[n] for n in ORDER], "steps": 8, "coordinates": (1, 1)}
    with jax.enable_x64():
        last = attacked(msd(union(radii), keep="last", **options))
        np.testing.assert_allclose(last.x, z, atol=1e-12)
        best = attacked(msd(union(radii), **options))
        assert float(best.loss) >= max(cases.np_cross_entropy(NET, p, LABEL) for p in path) - 1e-12
        assert best.inside
        assert (int(last.forwards), int(last.backwards)) == (8 * 4 + 1, 8)


@pytest.mark.parametrize("name", ["linf", "l2"])
def test_one_member_is_pgd(name: str) -> None:
    ball = cases.THREATS[name](cases.RADII[name])
    with jax.enable_x64():
        alone = attacked(msd(Union((ball,)), step_sizes=[STEPS[name]], steps=5))
        plain = attacked(pgd(ball, step_size=STEPS[name], steps=5, start=clean))
        np.testing.assert_allclose(alone.x, plain.x, atol=1e-12)
    assert alone.norm == pytest.approx(float(plain.norm) / cases.RADII[name])


def test_l1_steps_spread_over_a_random_number_of_coordinates() -> None:
    """From the clean point of a linear model, one step moves exactly k coordinates by a / k."""
    w = np.random.default_rng(0).normal(size=40)
    f = lambda z: jnp.stack([-jnp.asarray(w, z.dtype) @ z, jnp.zeros((), z.dtype)])  # noqa: E731
    attack = msd(Union((L1(1.0),)), step_sizes=[0.5], steps=1, coordinates=(2, 5), keep="last")
    run = cases.compiled(jax.vmap(lambda key: attack(key, f, jnp.full(40, 0.5), jnp.int32(0)).x))
    moved = np.asarray(run(jax.random.split(jax.random.key(0), 64))) - 0.5
    counts = (moved != 0).sum(axis=1)
    assert set(counts) == {2, 3, 4, 5}
    np.testing.assert_allclose(np.abs(moved).sum(axis=1), 0.5, rtol=1e-5)


def test_bad_settings() -> None:
    sets = union()
    with pytest.raises(ValueError, match="each of the 3 sets, got 2"):
        msd(sets, step_sizes=[0.1, 0.1], steps=1)
    with pytest.raises(ValueError, match=r"coordinates\[1\] must be a whole number of at least 5"):
        msd(sets, step_sizes=[0.1] * 3, steps=1, coordinates=(5, 4))
    with pytest.raises(ValueError, match="steps"):
        msd(sets, step_sizes=[0.1] * 3, steps=0)
    with pytest.raises(TypeError, match="Union, got Linf"):
        msd(Linf(0.1), step_sizes=[0.1], steps=1)
    with pytest.raises(ValueError, match="at least 0"):
        msd(Union((L2(0.1),)), step_sizes=[-1.0], steps=1)
