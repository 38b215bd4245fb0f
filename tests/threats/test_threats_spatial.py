"""Rotations and translations against scipy, numpy's quarter turns and shifted slices."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy import ndimage

from jaxrobust.threats.spatial import Spatial

IMAGE = np.random.default_rng(0).uniform(size=(7, 7)).astype(np.float32)
MOVE = jax.jit(lambda threat, x, move: threat.transform(x, move))


def np_transform(x: np.ndarray, angle: float, down: float, right: float) -> np.ndarray:
    """scipy's inverse warp of one channel: rotate counterclockwise about the center, shift."""
    t = np.deg2rad(angle)
    inverse = np.array([[np.cos(t), np.sin(t)], [-np.sin(t), np.cos(t)]])
    center = (np.array(x.shape) - 1) / 2
    offset = center - inverse @ (center + np.array([down, right]))
    return ndimage.affine_transform(x, inverse, offset, order=1, mode="grid-constant")


def test_quarter_turns_and_whole_shifts_are_exact() -> None:
    threat = Spatial()
    np.testing.assert_array_equal(MOVE(threat, IMAGE, jnp.zeros(3)), IMAGE)
    turned = MOVE(threat, IMAGE, jnp.array([90.0, 0, 0]))
    np.testing.assert_allclose(turned, np.rot90(IMAGE), atol=1e-5)
    shifted = np.zeros_like(IMAGE)
    shifted[2:, :-1] = IMAGE[:-2, 1:]
    np.testing.assert_allclose(MOVE(threat, IMAGE, jnp.array([0, 2.0, -1])), shifted, atol=1e-6)
    filled = MOVE(Spatial(fill=0.7), IMAGE, jnp.array([0, 2.0, -1]))
    np.testing.assert_allclose(filled[:2], 0.7, atol=1e-6)
    np.testing.assert_allclose(filled[2:, :-1], shifted[2:, :-1], atol=1e-6)


@pytest.mark.parametrize("shape", [(6, 9), (8, 5, 3)])
def test_matches_scipy(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(1)
    x = rng.uniform(size=shape)
    with jax.enable_x64():
        for _ in range(4):
            angle, down, right = rng.uniform(-1, 1, 3) * [40, 3, 3]
            found = MOVE(Spatial(), jnp.asarray(x), jnp.array([angle, down, right]))
            channels = x[..., None] if x.ndim == 2 else x
            expected = [np_transform(c, angle, down, right) for c in np.moveaxis(channels, -1, 0)]
            np.testing.assert_allclose(
                found, np.stack(expected, -1).reshape(shape), atol=1e-10, err_msg=str(shape)
            )


def test_samples_fill_the_limits_and_size_is_the_radius_they_need() -> None:
    threat = Spatial(degrees=20.0, pixels=2.0, radius=0.5)
    x = jnp.asarray(IMAGE)
    moves = np.asarray(
        jax.vmap(lambda k: threat.sample(k, x))(jax.random.split(jax.random.key(0), 500))
    )
    np.testing.assert_allclose(np.abs(moves).max(0), [10, 1, 1], rtol=0.03)
    assert (np.abs(moves) <= np.array([10, 1, 1])).all()
    sizes = jax.vmap(threat.size)(jnp.asarray(moves))
    np.testing.assert_allclose(sizes, np.abs(moves / [20, 2, 2]).max(1), rtol=1e-5)
    only_turns = Spatial(pixels=0.0)
    assert only_turns.size(jnp.array([15.0, 0, 0])) == 0.5
    assert np.isinf(only_turns.size(jnp.array([0, 0.1, 0])))


def test_evidence_is_the_move_and_its_image() -> None:
    threat, x = Spatial(), jnp.asarray(IMAGE)
    move = jnp.array([30.0, -3, 1])
    z = MOVE(threat, x, move)
    assert threat.at(move).contains(x, z)
    assert threat.at(move).size(x, z) == 1
    assert not threat.at(move).contains(x, z.at[3, 3].add(1e-3))
    assert not threat.at(move).contains(x, jnp.full_like(z, jnp.nan))
    far = move * 1.01
    assert not threat.at(far).contains(x, MOVE(threat, x, far))


def test_numbers_are_leaves_and_radii_stack() -> None:
    stack = Spatial(radius=jnp.array([0.0, 0.5, 1.0]))
    limits = jax.vmap(lambda t: t.limits(jnp.zeros((2, 2))))(stack)
    np.testing.assert_allclose(limits, [[0, 0, 0], [15, 1.5, 1.5], [30, 3, 3]])
    assert len(jax.tree.leaves(Spatial())) == 4


def test_differentiable_in_image_and_move() -> None:
    with jax.enable_x64():
        x = jnp.asarray(IMAGE, jnp.float64)
        check_grads(Spatial().transform, (x, jnp.array([11.0, 0.3, -0.6])), order=1, modes=["rev"])


def test_refusals() -> None:
    with pytest.raises(ValueError, match="degrees must be finite"):
        Spatial(degrees=-1.0)
    with pytest.raises(ValueError, match="radius"):
        Spatial(radius=np.nan)
    with pytest.raises(ValueError, match=r"needs \[H, W\]"):
        Spatial().transform(jnp.zeros(5), jnp.zeros(3))
