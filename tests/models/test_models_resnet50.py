"""ResNet-50: its published size, where its strides are, and its pooling."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.models import build, from_linen
from jaxrobust.models.resnet50 import overlapping_max_pool


def shapes(num_classes=1000, **options):
    model = from_linen(build("resnet50", num_classes, options))
    return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))


def test_parameter_count():
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes().params)) == 25_557_032


def test_layers_and_widths():
    params = shapes().params
    kernels = {name: part["kernel"].shape for name, part in params.items() if "kernel" in part}
    assert len(kernels) == 53 + 1  # 1 + 3 * 16 convolutions, 4 shortcuts, and the head
    assert kernels["stem_conv"] == (7, 7, 3, 64)
    assert kernels["stage2_block1_second_conv"] == (3, 3, 128, 128)
    assert kernels["stage4_block1_shortcut_conv"] == (1, 1, 1024, 2048)
    narrow = shapes(10, width=8, blocks=(1, 2)).params
    assert narrow["stage2_block2_third_conv"]["kernel"].shape == (1, 1, 16, 64)
    assert narrow["dense"]["kernel"].shape == (64, 10)


def test_the_middle_convolution_has_the_stride():
    module = build("resnet50", 10, {"width": 4, "blocks": (1, 1)})
    x = jax.ShapeDtypeStruct((1, 64, 48, 3), jnp.float32)

    def intermediates(x):
        variables = module.init(jax.random.key(0), x)
        return module.apply(variables, x, capture_intermediates=True, mutable=["intermediates"])[1]

    found = jax.eval_shape(intermediates, x)["intermediates"]
    sizes = {
        name: part["__call__"][0].shape[1:3] for name, part in found.items() if "_conv" in name
    }
    assert sizes["stem_conv"] == (32, 24)
    assert sizes["stage1_block1_first_conv"] == (16, 12)
    assert sizes["stage1_block1_second_conv"] == (16, 12)
    assert sizes["stage2_block1_first_conv"] == (16, 12)
    assert sizes["stage2_block1_second_conv"] == sizes["stage2_block1_shortcut_conv"] == (8, 6)


@pytest.mark.parametrize("shape", [(2, 7, 8, 3), (1, 2, 1, 1), (1, 1, 12, 2)])
def test_pooling_is_flaxs(shape):
    x = jax.random.normal(jax.random.key(1), shape)

    def reference(x):
        return nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))

    np.testing.assert_array_equal(overlapping_max_pool(x), reference(x))
    ours, theirs = (
        jax.grad(lambda x, pool=pool: (pool(x) ** 2).sum())(x)
        for pool in (overlapping_max_pool, reference)
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)
