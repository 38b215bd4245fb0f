"""The CPU convolution against XLA's and against SciPy."""

import functools
import re

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal

from jaxrobust.models import Conv, convolve, max_pool
from jaxrobust.models.convolution import native_convolution, patch_convolution

CASES = [
    # image, kernel, strides, padding, features
    ((7, 7), (3, 3), (1, 1), "SAME", 4),
    ((7, 6), (3, 3), (1, 1), "VALID", 4),
    ((8, 8), (4, 4), (2, 2), 1, 4),
    ((9, 7), (4, 4), (2, 2), 1, 4),
    ((9, 8), (4, 4), (2, 2), "SAME", 4),
    ((7, 9), (3, 3), (2, 2), 1, 4),
    ((8, 7), (1, 1), (2, 2), 0, 4),
    ((9, 6), (2, 5), (1, 1), 2, 4),
    ((9, 11), (6, 4), (3, 2), "VALID", 4),
    ((10, 9), (2, 2), (2, 2), "VALID", 4),
    # more features than numbers in a block of rows: patches of whole windows
    ((7, 6), (3, 3), (1, 1), "SAME", 40),
    ((9, 7), (4, 4), (2, 2), 1, 40),
]


def problem(image, kernel, dtype, channels=3, features=4):
    random = np.random.default_rng(0)
    x = jnp.asarray(random.normal(size=(2, *image, channels)), dtype)
    w = jnp.asarray(random.normal(size=(*kernel, channels, features)), dtype)
    return x, w


def xla(x, w, strides, padding):
    pads = padding if isinstance(padding, str) else [(padding, padding)] * 2
    return jax.lax.conv_general_dilated(
        x, w, strides, pads, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def xla_shape(x, w, strides, padding):
    return jax.eval_shape(functools.partial(xla, strides=strides, padding=padding), x, w).shape


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("image", "kernel", "strides", "padding", "features"), CASES)
def test_value_and_both_gradients_are_xlas(image, kernel, strides, padding, features, dtype):
    with jax.enable_x64(dtype == "float64"):
        x, w = problem(image, kernel, dtype, features=features)
        size = xla_shape(x, w, strides, padding)
        cotangent = jnp.cos(jnp.arange(np.prod(size), dtype=dtype)).reshape(size)

        @jax.jit
        def both(x, w):
            def ours(x, w):
                return convolve(x, w, strides=strides, padding=padding)

            def theirs(x, w):
                return xla(x, w, strides, padding)

            pairs = [jax.vjp(f, x, w) for f in (ours, theirs)]
            return [(value, *pull(cotangent)) for value, pull in pairs]

        tolerance = 1e-12 if dtype == "float64" else 2e-5
        for mine, other in zip(*both(x, w), strict=True):
            assert mine.dtype == dtype
            np.testing.assert_allclose(mine, other, rtol=tolerance, atol=10 * tolerance)


def test_value_is_scipys_correlation():
    x, w = problem((9, 8), (4, 3), "float32", channels=1, features=1)
    for strides in ((1, 1), (2, 3)):
        correlate = jax.jit(functools.partial(convolve, strides=strides, padding="VALID"))
        ours = correlate(x, w)[0, :, :, 0]
        full = scipy.signal.correlate2d(x[0, :, :, 0], w[:, :, 0, 0], mode="valid")
        np.testing.assert_allclose(ours, full[:: strides[0], :: strides[1]], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("features", [4, 40])
@pytest.mark.parametrize("strides", [(1, 1), (2, 2)])
def test_linear_transpose_is_the_adjoint(strides, features):
    x, w = problem((8, 7), (4, 4), "float32", features=features)
    f = jax.jit(functools.partial(convolve, kernel=w, strides=strides, padding=1))
    z = jnp.sin(jnp.arange(f(x).size, dtype=x.dtype)).reshape(f(x).shape)
    (back,) = jax.jit(jax.linear_transpose(f, x))(z)
    np.testing.assert_allclose(jnp.vdot(back, x), jnp.vdot(z, f(x)), rtol=1e-4)


def test_vmapped_single_images_equal_the_batch_and_a_loop():
    x, w = problem((8, 8), (4, 4), "float32")
    f = functools.partial(convolve, kernel=w, strides=(2, 2), padding=1)
    lifted = jax.jit(jax.vmap(lambda x: f(x[None])[0]))(x)
    np.testing.assert_allclose(lifted, f(x), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(lifted[1], f(x[1:])[0], rtol=1e-5, atol=1e-5)


def test_second_derivative_is_finite_differences_of_the_first():
    with jax.enable_x64(True):
        x, w = problem((6, 5), (4, 4), "float64")

        @jax.jit
        def gradient(x):
            def total(x):
                return jnp.sum(jnp.sin(convolve(x, w, strides=(2, 2), padding=1)))

            return jax.grad(total)(x)

        d = jnp.cos(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape)
        exact = jax.jvp(gradient, (x,), (d,))[1]
        h = 1e-5
        np.testing.assert_allclose(
            exact, (gradient(x + h * d) - gradient(x - h * d)) / (2 * h), rtol=1e-6, atol=1e-6
        )


def test_both_lowerings_agree_on_a_large_training_shape():
    x, w = problem((12, 12), (3, 3), "float32", channels=32, features=16)
    pads = ((1, 1), (1, 1))
    np.testing.assert_allclose(
        patch_convolution(x, w, (1, 1), pads),
        native_convolution(x, w, (1, 1), pads),
        rtol=1e-4,
        atol=1e-4,
    )


@pytest.mark.parametrize(
    ("image", "channels", "kernel", "strides", "features", "gathered"),
    [
        # Wong's small network on MNIST: windows of its first layer, half windows of the second's
        (28, 1, 4, 2, 16, 4 * 4 * 1),
        (14, 16, 4, 2, 32, 2 * 4 * 16),
        # residual networks: one row of three, except where the edge's extra products weigh more
        (32, 3, 3, 1, 16, 3 * 3 * 3),
        (32, 16, 3, 1, 16, 1 * 3 * 16),
        (4, 512, 3, 1, 512, 3 * 3 * 512),
        (32, 16, 3, 2, 32, 3 * 3 * 16),
        (32, 16, 1, 2, 32, 16),
    ],
)
def test_numbers_gathered_for_a_product(image, channels, kernel, strides, features, gathered):
    f = functools.partial(
        patch_convolution, strides=(strides, strides), pads=((kernel // 2,) * 2,) * 2
    )
    equations = jax.make_jaxpr(f)(
        np.zeros((2, image, image, channels)), np.zeros((kernel, kernel, channels, features))
    ).eqns
    (product,) = (e for e in equations if e.primitive.name == "dot_general")
    assert product.invars[0].aval.shape[-1] == gathered


def test_an_empty_batch_stays_empty():
    x, w = problem((8, 8), (4, 4), "float32")
    assert convolve(x[:0], w, strides=(2, 2), padding=1).shape == (0, 4, 4, 4)


@pytest.mark.parametrize("bias", [True, False])
def test_module_has_flax_convs_parameters_and_values(bias):
    x, _ = problem((9, 7), (4, 4), "float32")
    key = jax.random.key(3)
    ours = Conv(5, (4, 3), strides=2, padding=1, use_bias=bias)
    theirs = nn.Conv(5, (4, 3), strides=2, padding=1, use_bias=bias)
    params = jax.jit(ours.init)(key, x)
    chex.assert_trees_all_equal(params, jax.jit(theirs.init)(key, x))
    mine, other = jax.jit(ours.apply)(params, x), jax.jit(theirs.apply)(params, x)
    np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-5)


def test_wrong_shapes_are_refused_by_name():
    x, w = problem((3, 3), (4, 4), "float32")
    with pytest.raises(ValueError, match="smaller than the kernel"):
        convolve(x, w, padding="VALID")
    with pytest.raises(ValueError, match=r"\[B, H, W, 3\]"):
        convolve(x[0], w)
    for wrong in (w[0], w[..., None], w[:0]):
        with pytest.raises(ValueError, match=r"expected a kernel \[kh, kw, C, F\]"):
            convolve(x, wrong)
    for strides in (2, (1,), (1, 1, 1)):
        with pytest.raises(ValueError, match="strides must be two numbers"):
            convolve(x, w, strides=strides)
    for strides in ((0, 1), (1, -1), (1.5, 1)):
        with pytest.raises(ValueError, match="a stride must be a whole number of at least 1"):
            convolve(x, w, strides=strides)
    with pytest.raises(ValueError, match="unknown padding 'SAMME'; did you mean 'SAME'"):
        convolve(x, w, padding="SAMME")
    for padding in (-1, 0.5, None, ((1, 1), (1, 1))):
        with pytest.raises(ValueError, match="a padding that is no name must be a whole number"):
            convolve(x, w, padding=padding)


@pytest.mark.parametrize("shape", [(1, 1, 4, 2), (1, 4, 1, 2), (4, 4, 2)])
def test_max_pool_needs_a_block(shape):
    with pytest.raises(ValueError, match=rf"at least 2, got shape {re.escape(str(shape))}"):
        max_pool(jnp.zeros(shape))


@pytest.mark.parametrize("size", [(6, 8), (7, 5)])
def test_max_pool_is_flaxs_in_value_and_gradient(size):
    x, _ = problem(size, (1, 1), "float32")

    def value_and_pullback(f):
        value, pull = jax.vjp(f, x)
        return value, pull(value)[0]

    ours, theirs = jax.jit(
        lambda: [
            value_and_pullback(f) for f in (max_pool, lambda x: nn.max_pool(x, (2, 2), (2, 2)))
        ]
    )()
    chex.assert_trees_all_equal(ours, theirs)


def test_max_pool_shares_the_gradient_of_ties():
    gradient = jax.grad(lambda x: max_pool(x).sum())(jnp.ones((1, 2, 2, 1)))
    np.testing.assert_allclose(gradient, 0.25)
