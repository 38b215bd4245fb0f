"""Half precision computes, float32 stores and answers: every network, read from its program."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.extend import core

from jaxrobust import duals
from jaxrobust.models import build, from_linen
from jaxrobust.models.registry import NETWORKS
from jaxrobust.types import Model, Variables

FLOAT32 = jnp.dtype("float32")
HALVES = ("bfloat16", "float16")
PRODUCTS = ("dot_general", "conv_general_dilated")
X = jax.ShapeDtypeStruct((2, 28, 28, 1), FLOAT32)


def abstract(name: str, half: str) -> tuple[Model, Variables]:
    small = {"depth": 10, "width": 1} if name == "wide_resnet" else {}
    model = from_linen(build(name, 7, {"dtype": jnp.dtype(half), **small}))
    return model, jax.eval_shape(model.init, jax.random.key(0), X)


def equations(jaxpr: core.Jaxpr) -> Iterator[Any]:
    for eqn in jaxpr.eqns:
        yield eqn
        for inner in jax.tree.leaves(list(eqn.params.values()), is_leaf=_is_jaxpr):
            if _is_jaxpr(inner):
                yield from equations(getattr(inner, "jaxpr", inner))


def _is_jaxpr(value: Any) -> bool:
    return isinstance(value, core.Jaxpr | core.ClosedJaxpr)


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_products_are_half_and_all_else_that_is_kept_float32(
    name: str, train: bool, half: str
) -> None:
    model, variables = abstract(name, half)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {FLOAT32}

    def forward(variables: Variables, x: Any) -> Any:
        return model.apply(variables, x, train=train, key=jax.random.key(0))

    (logits, stats) = jax.eval_shape(forward, variables, X)
    assert logits.dtype == FLOAT32
    assert all(leaf.dtype == FLOAT32 for leaf in jax.tree.leaves(stats))

    found = list(equations(jax.make_jaxpr(forward)(variables, X).jaxpr))
    products = [eqn for eqn in found if eqn.primitive.name in PRODUCTS]
    assert products
    for eqn in products:
        assert [v.aval.dtype for v in eqn.invars] == [jnp.dtype(half)] * 2
    # Means of activations: batch statistics, and the pooling before the head.
    sums = [eqn for eqn in found if eqn.primitive.name == "reduce_sum"]
    assert all(v.aval.dtype == FLOAT32 for eqn in sums for v in eqn.invars)


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_gradients_in_parameters_and_pixels_are_float32(name: str, half: str) -> None:
    model, variables = abstract(name, half)

    def slopes(variables: Variables, x: Any) -> Any:
        def total(params: Any, x: Any) -> Any:
            held = variables._replace(params=params)
            return jnp.sum(model.apply(held, x, train=True, key=jax.random.key(0))[0])

        return jax.grad(total, (0, 1))(variables.params, x)

    found = jax.eval_shape(slopes, variables, X)
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {FLOAT32}


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("name", ["mlp", "wong_small"])
def test_no_bounds_for_a_network_that_computes_in_half_precision(name: str, half: str) -> None:
    model, shapes = abstract(name, half)
    variables = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    with pytest.raises(duals.UnsupportedOperation, match=rf"{half}.*dtype=float32 or float64"):
        duals.trace(model.logits_fn(variables), jnp.zeros(X.shape[1:]))
