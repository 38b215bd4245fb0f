"""What does not depend on the argument is computed once; values and derivatives stay."""

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import attacks, models
from jaxrobust.hoisting import hoisted
from jaxrobust.threats import Linf

SMALL = {"stem": 4, "features": (4, 8), "blocks": 1, "dtype": jnp.bfloat16}
X = jnp.asarray(np.random.default_rng(0).uniform(size=(6, 6, 3)), jnp.float32)
MODEL = models.from_linen(models.build("preact_resnet18", 3, SMALL))


@pytest.fixture(scope="module")
def variables():
    return MODEL.init(jax.random.key(0), X[None])


def loop_of(f, x):
    """The loop body of a short attack on `f`, and the arrays that it is handed."""
    attack = attacks.pgd(Linf(0.1), step_size=0.05, steps=3)

    def run(x):
        return attacks.batched(attack, jax.random.key(0), f, x[None], jnp.zeros(1, jnp.int32)).x

    (scan,) = [e for e in jax.make_jaxpr(run)(x).eqns if e.primitive.name == "scan"]
    return scan.params["jaxpr"].jaxpr, scan.invars


def test_values_and_gradients_are_the_functions(variables):
    def loss(variables, x, lift):
        f = MODEL.logits_fn(variables)
        return jnp.sum(jnp.sin((hoisted(f, x) if lift else f)(x)))

    ours, plain = (
        jax.jit(jax.value_and_grad(loss, (0, 1)), static_argnums=2)(variables, X, lift)
        for lift in (True, False)
    )
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(plain), strict=True):
        # bfloat16, whose roundings XLA may leave out
        np.testing.assert_allclose(a, b, atol=0.02 * float(jnp.max(jnp.abs(b))) + 1e-6)


def test_attacks_loops_hold_no_work_on_the_weights(variables):
    body, given = loop_of(MODEL.logits_fn(variables), X)
    counts = Counter(e.primitive.name for e in body.eqns)
    assert counts["dot_general"] > 5
    assert not counts["rsqrt"]
    weights = sum(leaf.size for leaf in jax.tree.leaves(variables))
    assert sum(a.aval.size for a in given if hasattr(a, "aval")) < 1.2 * weights + 10 * X.size
    kinds = Counter(str(a.aval.dtype) for a in given if a.aval.ndim == 2)
    assert set(kinds) == {"bfloat16"}


def test_what_is_only_larger_is_made_at_each_call():
    bias = jnp.arange(3.0)

    def f(x):
        return jnp.sum(x + jnp.broadcast_to(bias, x.shape) * 2, axis=(0, 1))

    _, given = loop_of(f, X)
    assert all(a.aval.size <= X.size for a in given)
    assert sum(a.aval.shape == (6, 6, 3) for a in given) <= 3
    np.testing.assert_allclose(hoisted(f, X)(X), f(X))


def test_compiled_functions_are_entered():
    w = jnp.asarray(np.random.default_rng(1).normal(size=(3, 4)), jnp.float32)
    f = jax.jit(lambda x: x.mean((0, 1)) @ jnp.sinh(w))
    body, _ = loop_of(f, X)
    assert "sinh" not in str(body)
    assert "dot_general" in str(body)
    np.testing.assert_allclose(hoisted(f, X)(X), f(X), rtol=1e-6)


def test_derivatives_of_ones_own_loops_and_branches_stay():
    @jax.custom_vjp
    def rounded(x):
        return jnp.round(x)

    rounded.defvjp(lambda x: (jnp.round(x), None), lambda _, g: (3.0 * g,))
    scale = jnp.asarray(2.0)

    def f(x):
        x = jax.lax.fori_loop(0, 3, lambda _, z: jnp.sin(z) * scale, rounded(4 * x) + x)
        x = jax.lax.cond(scale > 1, lambda z: z * scale, lambda z: z, x)
        return x.mean((0, 1))

    np.testing.assert_allclose(hoisted(f, X)(X), f(X), rtol=1e-6)
    ours, plain = (jax.jacrev(h)(X) for h in (hoisted(f, X), f))
    assert jnp.abs(plain).max() > 0
    np.testing.assert_allclose(ours, plain, rtol=1e-5, atol=1e-7)


def test_other_arguments_and_keys_reach_the_function():
    def f(x, key=None):
        logits = x.mean((0, 1))
        return logits if key is None else logits + jax.random.normal(key, logits.shape)

    lifted = hoisted(f, X)
    np.testing.assert_allclose(lifted(X[:3]), f(X[:3]))
    key = jax.random.key(3)
    np.testing.assert_allclose(lifted(X, key=key), f(X, key=key))
    assert jnp.any(lifted(X, key=key) != lifted(X))


def test_a_constant_function_stays_one():
    np.testing.assert_allclose(hoisted(lambda x: jnp.arange(3.0), X)(X), jnp.arange(3.0))
