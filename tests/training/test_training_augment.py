"""Augmentations against windows cut out by NumPy."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training.training_cases import assert_close, linear, sgd

from jaxrobust import defenses
from jaxrobust.training import DEVICES, crop, crop_flip, cutout, flip, init_state, make_step
from jaxrobust.types import Array, Batch, Key

IMAGE = np.random.default_rng(0).uniform(size=(5, 4, 2)).astype(np.float32)
COUNT = 400


def draw(augment: Any) -> np.ndarray:
    keys = jax.random.split(jax.random.key(0), COUNT)
    return np.asarray(jax.jit(jax.vmap(augment, in_axes=(0, None)))(keys, jnp.asarray(IMAGE)))


def windows(padding: int, mode: str) -> list[np.ndarray]:
    padded = np.pad(IMAGE, ((padding, padding), (padding, padding), (0, 0)), mode=mode)
    span = range(2 * padding + 1)
    return [padded[i : i + 5, j : j + 4] for i in span for j in span]


def shares(found: np.ndarray, options: list[np.ndarray]) -> np.ndarray:
    """How often each option was drawn; every draw must be one of them."""
    counts = np.array([(found == option).all((1, 2, 3)).sum() for option in options])
    assert counts.sum() == COUNT
    return counts / COUNT


@pytest.mark.parametrize("mode", ["constant", "reflect"])
def test_crop_draws_every_window_equally_often(mode: str) -> None:
    share = shares(draw(crop(1, mode=mode)), windows(1, mode))
    np.testing.assert_allclose(share, 1 / 9, atol=0.06)


def test_flip_mirrors_half_left_to_right() -> None:
    share = shares(draw(flip), [IMAGE, IMAGE[:, ::-1]])
    np.testing.assert_allclose(share, 0.5, atol=0.08)


def test_crop_flip_draws_both_independently() -> None:
    options = windows(1, "constant")
    share = shares(draw(crop_flip(1)), options + [w[:, ::-1] for w in options])
    assert (share > 0).all()
    np.testing.assert_allclose(share[:9].sum(), 0.5, atol=0.08)


def test_no_padding_is_no_crop() -> None:
    np.testing.assert_array_equal(draw(crop(0))[:3], np.stack([IMAGE] * 3))


def test_wrong_crops_are_refused() -> None:
    with pytest.raises(ValueError, match="padding"):
        crop(-1)
    with pytest.raises(ValueError, match="mode 'reflekt'; did you mean 'reflect'"):
        crop(1, mode="reflekt")


def test_a_step_draws_by_data_set_index() -> None:
    """Two examples swap places and nothing changes; under one index they get one draw."""

    def noise(key: Key, x: Array) -> Array:
        return x + jax.random.normal(key, x.shape)

    model, optimizer = linear(), sgd()
    step = make_step(model, defenses.erm(), optimizer, augment=noise)
    x = jnp.ones((2, 2, 2, 1), jnp.float32)
    state = init_state(jax.random.key(0), model, defenses.erm(), optimizer, None, x)
    run = jax.pmap(step, axis_name=DEVICES, in_axes=(None, 0))

    def gradient_norm(labels: list[int], index: list[int]) -> float:
        batch = Batch(x, jnp.asarray(labels, jnp.int32), jnp.asarray(index, jnp.int32))
        metrics = run(state, jax.tree.map(lambda a: a[None], batch))[1]
        return float(metrics["gradient_norm"][0])

    base = gradient_norm([0, 1], [3, 5])
    np.testing.assert_allclose(gradient_norm([1, 0], [5, 3]), base, rtol=1e-5)
    assert abs(gradient_norm([0, 1], [5, 3]) - base) > 1e-3
    first, second = (
        run(state, Batch(x[None], jnp.zeros((1, 2), jnp.int32), jnp.asarray([index])))[0]
        for index in ([7, 7], [7, 7])
    )
    assert_close(first, second)


def test_cutout_blackens_one_square_inside() -> None:
    x = jnp.ones((7, 6, 2), jnp.float32)
    found = np.asarray(
        jax.vmap(lambda k: cutout(3)(k, x))(jax.random.split(jax.random.key(0), 200))
    )
    holes = found == 0
    assert (holes.sum(axis=(1, 2, 3)) == 3 * 3 * 2).all()
    corners = {(int(h[..., 0].any(1).argmax()), int(h[..., 0].any(0).argmax())) for h in holes}
    assert corners == {(top, left) for top in range(5) for left in range(4)}
    rows, columns = holes.any(axis=(2, 3)).sum(1), holes.any(axis=(1, 3)).sum(1)
    assert (rows == 3).all()
    assert (columns == 3).all()
    with pytest.raises(ValueError, match=r"cutout of size 8 needs larger images than \(7, 6, 2\)"):
        cutout(8)(jax.random.key(0), x)
