"""The optimizer chain against PyTorch's update rules, written out in NumPy."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrobust.training import optimizer, schedule, weights_only

START = {
    "kernel": np.array([[1.0, -2.0], [0.5, 3.0]]),
    "bias": np.array([0.3, -0.7]),
    "scale": np.array([1.5]),
}
GRADIENTS = [
    {n: np.cos(np.arange(v.size) + k).reshape(v.shape) for n, v in START.items()} for k in range(3)
]


def walk(transformation: optax.GradientTransformation) -> dict[str, Any]:
    params = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), START)
    state = transformation.init(params)
    for gradient in GRADIENTS:
        gradient = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), gradient)
        updates, state = transformation.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return params


def torch_sgd(rates: list[float], momentum: float, decay: float, *, all_: bool) -> dict[str, Any]:
    """torch.optim.SGD: g <- g + decay p; buffer <- momentum buffer + g; p <- p - rate buffer."""
    params, buffers = dict(START), {n: np.zeros_like(v) for n, v in START.items()}
    for rate, gradient in zip(rates, GRADIENTS, strict=True):
        for n, p in params.items():
            g = gradient[n] + (decay * p if all_ or n == "kernel" else 0.0)
            buffers[n] = momentum * buffers[n] + g
            params[n] = p - rate * buffers[n]
    return params


def assert_equal(found: dict[str, Any], expected: dict[str, Any]) -> None:
    for name in START:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("decay_all", [True, False])
def test_sgd_is_torch_sgd(decay_all: bool) -> None:
    found = walk(optimizer("sgd", 0.1, momentum=0.9, weight_decay=0.05, decay_all=decay_all))
    assert_equal(found, torch_sgd([0.1] * 3, 0.9, 0.05, all_=decay_all))


def test_a_schedule_scales_the_step_and_not_the_buffer() -> None:
    found = walk(optimizer("sgd", schedule("piecewise", 0.1, 4), momentum=0.9))
    assert_equal(found, torch_sgd([0.1, 0.1, 0.01], 0.9, 0.0, all_=True))


def test_adam_with_coupled_decay_is_torch_adam() -> None:
    rate, decay, b1, b2, eps = 0.01, 0.1, 0.9, 0.999, 1e-8
    expected = dict(START)
    m = {n: np.zeros_like(v) for n, v in START.items()}
    v = {n: np.zeros_like(a) for n, a in START.items()}
    for t, gradient in enumerate(GRADIENTS, start=1):
        for n, p in expected.items():
            g = gradient[n] + decay * p
            m[n], v[n] = b1 * m[n] + (1 - b1) * g, b2 * v[n] + (1 - b2) * g**2
            hat, root = m[n] / (1 - b1**t), np.sqrt(v[n] / (1 - b2**t))
            expected[n] = p - rate * hat / (root + eps)
    with jax.numpy_dtype_promotion("standard"):  # Optax's Adam mixes int32 and float32.
        assert_equal(walk(optimizer("adam", rate, weight_decay=decay)), expected)


def test_clipping_bounds_the_gradient_before_decay() -> None:
    total = np.sqrt(sum((GRADIENTS[0][n] ** 2).sum() for n in START))
    assert total > 0.5
    params = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), START)
    gradient = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), GRADIENTS[0])
    chain = optimizer("sgd", 1.0, momentum=0.0, weight_decay=0.1, clip=0.5)
    updates, _ = chain.update(gradient, chain.init(params), params)
    for n, p in START.items():
        expected = -(GRADIENTS[0][n] * 0.5 / total + 0.1 * p)
        np.testing.assert_allclose(updates[n], expected, rtol=1e-5)


def test_weights_only_marks_matrices() -> None:
    assert weights_only(START) == {"kernel": True, "bias": False, "scale": False}
    # dimensions are all that it sees
    others = {"temperature": 1.5, "bias of each position": np.zeros((4, 4))}
    assert weights_only(others) == {"temperature": False, "bias of each position": True}


def test_wrong_optimizers_are_refused() -> None:
    with pytest.raises(ValueError, match="optimizer 'sdg'; did you mean 'sgd'"):
        optimizer("sdg", 0.1)
    with pytest.raises(ValueError, match="weight_decay"):
        optimizer("sgd", 0.1, weight_decay=-1.0)
    with pytest.raises(ValueError, match="momentum"):
        optimizer("sgd", 0.1, momentum=-1.0)
    with pytest.raises(ValueError, match="learning_rate must be finite and at least 0, got nan"):
        optimizer("sgd", float("nan"))
    with pytest.raises(ValueError, match="momentum is a share"):
        optimizer("sgd", 0.1, momentum=1.5)
    with pytest.raises(ValueError, match="clip"):
        optimizer("sgd", 0.1, clip=0.0)


def test_the_l1_penalty_pulls_weights_alone() -> None:
    params = {"kernel": jnp.asarray([[1.0, -2.0], [0.0, 0.5]]), "bias": jnp.asarray([1.0, -1.0])}
    plain, penalized = (optimizer("sgd", 0.1, momentum=0.0, l1=l1) for l1 in (0.0, 0.3))
    gradient = {name: jnp.ones_like(value) for name, value in params.items()}
    a, b = (o.update(gradient, o.init(params), params)[0] for o in (plain, penalized))
    np.testing.assert_allclose(b["kernel"] - a["kernel"], [[-0.03, 0.03], [0, -0.03]], atol=1e-7)
    np.testing.assert_array_equal(a["bias"], b["bias"])
    with pytest.raises(ValueError, match="l1"):
        optimizer("sgd", 0.1, l1=-1.0)
