"""Spatial searches against a loop over scipy's warps."""

from __future__ import annotations

import itertools

import attack_cases as cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from jaxrobust.attacks.spatial import spatial_grid, spatial_random
from jaxrobust.threats import Linf
from jaxrobust.threats.spatial import Spatial
from jaxrobust.types import Attack, AttackResult

KEY = jax.random.key(2)
SHAPE = (6, 5)
NET = cases.random_net(8, size=30)
X = np.random.default_rng(3).uniform(0, 1, SHAPE)
LABEL = int(np.argmax(cases.np_logits(NET, X)))


@cases.compiled
def run(attack: Attack, key: jax.Array, net: cases.Net) -> AttackResult:
    x = jnp.asarray(X, jnp.float32)
    return attack(key, lambda z: cases.logits(net, z), x, jnp.int32(LABEL))


def np_margin(move: tuple[float, float, float]) -> float:
    t = np.deg2rad(move[0])
    inverse = np.array([[np.cos(t), np.sin(t)], [-np.sin(t), np.cos(t)]])
    center = (np.array(SHAPE) - 1) / 2
    offset = center - inverse @ (center + np.array(move[1:]))
    z = ndimage.affine_transform(X, inverse, offset, order=1, mode="grid-constant")
    scores = cases.np_logits(NET, z)
    return np.delete(scores, LABEL).max() - scores[LABEL]


def test_grid_finds_the_worst_of_all_moves() -> None:
    threat = Spatial(degrees=25.0, pixels=1.5)
    result = run(spatial_grid(threat, angles=5, shifts=3), KEY, cases.to_jax(NET))
    angles, shifts = np.linspace(-25, 25, 5), np.linspace(-1.5, 1.5, 3)
    margins = [np_margin(move) for move in itertools.product(angles, shifts, shifts)]
    assert max(margins) > np_margin((0, 0, 0)) + 0.5
    assert float(result.margin) == pytest.approx(max(margins), abs=1e-4)
    assert result.inside
    assert bool(result.success) == (max(margins) >= 0)
    assert float(result.norm) <= 1
    assert (int(result.forwards), int(result.backwards)) == (45 + 2, 0)


def test_random_moves_obey_the_radius_and_the_key() -> None:
    net = cases.to_jax(NET)
    attack = spatial_random(Spatial(pixels=1.0), draws=30)
    result = run(attack, KEY, net)
    assert 0 < float(result.norm) <= 1
    assert result.inside
    assert float(result.margin) > np_margin((0, 0, 0))
    assert int(result.forwards) == 30 + 2
    assert np.array_equal(run(attack, KEY, net).x, result.x)
    assert not np.array_equal(run(attack, jax.random.key(7), net).x, result.x)
    still = run(spatial_random(Spatial(pixels=1.0, radius=0.0), draws=30), KEY, net)
    np.testing.assert_array_equal(still.x, np.asarray(X, np.float32))
    assert still.norm == 0
    flat = run(attack, KEY, net._replace(b2=jnp.full(3, jnp.nan, jnp.float32)))
    assert flat.success
    assert flat.norm == 0, "a NaN fools at the clean image already"


def test_impossible_settings() -> None:
    with pytest.raises(TypeError, match="got Linf"):
        spatial_grid(Linf(0.1))
    with pytest.raises(ValueError, match="angles"):
        spatial_grid(Spatial(), angles=0)
    with pytest.raises(ValueError, match="draws"):
        spatial_random(Spatial(), draws=0)
