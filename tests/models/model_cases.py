"""Variables without compiling initializers, and applications compiled as one program."""

import jax
import jax.numpy as jnp
import numpy as np


def filled(model, x):
    """Random variables of the shapes `init` promises, statistics away from their start."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)
    random = np.random.default_rng(5)

    def leaf(path, shape):
        name = path[-1].key
        normal = random.normal(size=shape.shape)
        value = {
            "kernel": normal * (2 / max(1, np.prod(shape.shape[:-1]))) ** 0.5,
            "scale": 1 + 0.2 * normal,
            "var": np.exp(0.3 * normal),
        }.get(name, 0.1 * normal)
        return jnp.asarray(value, shape.dtype)

    return jax.tree_util.tree_map_with_path(leaf, shapes)


def run(model, variables, x, **options):
    """`model.apply`, compiled."""
    return jax.jit(lambda v, x: model.apply(v, x, **options))(variables, x)
