"""The MNIST network of TRADES."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxrobust.models.convolution import Conv
from jaxrobust.models.layers import as_logits, dense, flatten, max_pool, prepare, relu
from jaxrobust.types import Array


class TradesSmall(nn.Module):
    """SmallCNN: two blocks of two valid 3 x 3 convs and a pooling, then 200, 200 units.

    Zhang et al. 2019 (TRADES, arXiv:1901.08573, section 5.3.1, after Carlini and Wagner 2017) and
    its released code: dropout .5 between the hidden layers, the last layer starts at zero;
    312,202 parameters on 28 x 28 x 1 images. Input `[B, H, W, C]` in raw units, output logits
    `[B, num_classes]`, at least float32. `dtype` is the compute type; `mean` and `std` normalize
    channels inside the model. Training mode draws dropout from the "dropout" stream.
    Differentiable; note that at its start the gradient in `x` is zero, as in the source.
    Raises ValueError where `x` is no batch of large enough images.
    """

    num_classes: int = 10
    dtype: Any = jnp.float32
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Logits; `train` switches dropout on."""
        x = prepare(x, self.mean, self.std, self.dtype)
        for index, features in enumerate((32, 32, 64, 64), 1):
            conv = Conv(
                features,
                padding="VALID",
                dtype=self.dtype,
                kernel_init=nn.initializers.he_normal(),
                name=f"conv{index}",
            )
            x = relu(conv(x))
            if index % 2 == 0:
                x = max_pool(x)
        x = relu(dense(200, self.dtype, "dense1")(flatten(x)))
        x = nn.Dropout(0.5, deterministic=not train)(x)
        x = relu(dense(200, self.dtype, "dense2")(x))
        last = dense(self.num_classes, self.dtype, "dense3", nn.initializers.zeros)
        return as_logits(last(x))
