"""The batch entry point refuses what would otherwise count for or against the model."""

import jax
import jax.numpy as jnp
import pytest

from jaxrobust import attacks
from jaxrobust.threats import Linf

WEIGHTS = jnp.arange(12.0).reshape(4, 3) / 12
X = jnp.full((2, 4), 0.5)
Y = jnp.array([0, 2])


def linear(x: jax.Array) -> jax.Array:
    return x @ WEIGHTS


def run(x: jax.Array = X, y: jax.Array = Y, f=linear, threat: Linf | None = None):
    return attacks.batched(attacks.fgsm(threat or Linf(0.1)), jax.random.key(0), f, x, y)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": 4 * X}, r"inputs span \[2, 2\] but must lie in \[0.0, 1.0\]"),
        ({"x": X.at[0, 0].set(jnp.nan)}, "inputs hold 1 NaN or infinite values"),
        ({"x": X.at[0, 0].set(jnp.inf)}, "inputs hold 1 NaN or infinite values"),
        ({"x": jnp.ones((2, 4), jnp.uint8)}, "floating point, got uint8"),
        ({"x": X.astype(jnp.bfloat16)}, "at least float32, got bfloat16"),
        ({"y": jnp.array([0, 3])}, r"labels span \[0, 3\] but the model has 3 classes"),
        ({"y": jnp.array([-1, 2])}, r"labels span \[-1, 2\]"),
        ({"y": jnp.eye(2)}, r"integers of shape \(2,\)"),
        ({"y": jnp.array([1])}, r"integers of shape \(2,\)"),
        ({"f": lambda x: x[:1]}, r"2 or more logits, got shape \(1,\)"),
    ],
)
def test_mistakes_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        run(**changes)


def test_the_box_is_the_threats():
    wide = Linf(0.1, lower=-jnp.inf, upper=jnp.inf)
    assert run(x=4 * X, threat=wide).inside.all()


def test_shapes_are_checked_inside_jit_and_values_pass():
    assert jax.jit(lambda x: run(x=x).inside)(X).all()
    with pytest.raises(ValueError, match="integers of shape"):
        jax.jit(lambda y: run(y=y).inside)(jnp.eye(2))
