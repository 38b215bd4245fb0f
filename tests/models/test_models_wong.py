"""Wong's wide, deep and residual networks: sizes of the thesis, and the residual block itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from model_cases import filled, run

from jaxrobust.models import WongResNet, build, from_linen, wong_deep, wong_wide

# Summed by hand from section 3.5.3; those of the residual network are table 3.4's.
COUNTS = [
    ("wong_wide", {"width": 1}, (28, 28, 1), 68 + 520 + 392 * 128 + 128 + 1290),
    ("wong_wide", {"width": 4}, (28, 28, 1), 272 + 8224 + 1568 * 512 + 512 + 5130),
    ("wong_deep", {"depth": 1}, (28, 28, 1), 136 + 2064 + 784 * 100 + 100 + 1010),
    ("wong_deep", {"depth": 3}, (28, 28, 1),
     80 + 584 + 1032 + 1168 + 2320 + 4112 + 784 * 100 + 100 + 1010),
    ("wong_resnet", {}, (28, 28, 1), 3_254_562),
    ("wong_resnet", {}, (32, 32, 3), 4_214_850),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options", "shape", "count"), COUNTS)
def test_parameter_counts_of_the_thesis(name, options, shape, count):
    model = from_linen(build(name, options=options))
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *shape)))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes.params)) == count


def test_groups_end_in_a_stride():
    assert wong_deep(depth=2).convs == ((8, 3, 1), (8, 4, 2), (16, 3, 1), (16, 4, 2))
    assert wong_wide(width=2).convs == ((8, 4, 2), (16, 4, 2))
    assert wong_wide(width=2).widths == (256,)


def test_blocks_add_their_skips():
    x = jnp.asarray(np.random.default_rng(0).uniform(size=(2, 6, 5, 3)), jnp.float32)
    model = from_linen(WongResNet(4, features=(3, 5), width=7))
    variables = filled(model, x)
    p = variables.params

    def conv(z, name, stride, pad):
        pads = ((pad, pad), (pad, pad))
        y = lax.conv_general_dilated(
            z, p[name]["kernel"], (stride, stride), pads, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return y + p[name]["bias"].reshape(1, 1, 1, -1)

    def layer(z, name):
        return z @ p[name]["kernel"] + p[name]["bias"][None]

    relu = lambda z: jnp.maximum(z, 0)  # noqa: E731
    h = relu(conv(x, "stem", 1, 1))
    for name, stride in (("block1", 1), ("block2", 2)):
        inner = conv(relu(conv(h, f"{name}_conv1", stride, 1)), f"{name}_conv2", 1, 1)
        h = relu(inner + conv(h, f"{name}_skip", stride, 0))
    assert h.shape == (2, 3, 2, 5)
    expected = layer(relu(layer(h.reshape(2, -1), "dense1")), "dense2")
    np.testing.assert_allclose(run(model, variables, x)[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "option"), [("wong_wide", "width"), ("wong_deep", "depth")])
def test_no_network_of_size_zero(name, option):
    with pytest.raises(ValueError, match=f"{option} must be a whole number of at least 1, got 0"):
        build(name, options={option: 0})
