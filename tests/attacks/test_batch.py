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
        ({"x": 4 * X}, r"inputs span \[2, 2\] but must lie in \[0, 1\]"),
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


@pytest.mark.slow
@pytest.mark.parametrize(
    "wrap",
    [
        lambda a: attacks.restarts(a, 2),
        attacks.targeted,
        lambda a: attacks.worst_of(a, a),
        lambda a: attacks.restarts(attacks.worst_of(a, attacks.targeted(a)), 2),
        attacks.expectation,
    ],
)
def test_a_wrapped_attack_keeps_its_box(wrap):
    signed = wrap(attacks.pgd(Linf(0.1, lower=-1.0, upper=1.0), step_size=0.05, steps=2))
    assert all(t.lower == -1 for t in signed.threats)

    def f(x, key=None):
        return linear(x)

    found = attacks.batched(signed, jax.random.key(0), f, -2 * X, Y)
    assert found.inside.all()
    assert found.x.min() >= -1
    with pytest.raises(ValueError, match=r"must lie in \[-1, 1\], which they leave by 1"):
        attacks.batched(signed, jax.random.key(0), f, 4 * X, Y)


@pytest.mark.parametrize("off", [2e-7, -3e-8])
def test_what_rounding_put_outside_of_the_box_is_clipped(off):
    x = X.at[0, 0].set(1 + off if off > 0 else off)
    found = run(x=x)
    assert found.inside.all()
    assert 0 <= found.x.min() <= found.x.max() <= 1
    with pytest.raises(ValueError, match=r"inputs span \[0\.5, 1\.00001\d*\] .* leave by 1e-05"):
        run(x=X.at[0, 0].set(1 + 1e-5))


def test_shapes_are_checked_inside_jit_and_values_pass():
    assert jax.jit(lambda x: run(x=x).inside)(X).all()
    with pytest.raises(ValueError, match="integers of shape"):
        jax.jit(lambda y: run(y=y).inside)(jnp.eye(2))
