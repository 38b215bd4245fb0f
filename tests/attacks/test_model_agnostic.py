"""Any closure is a model: three libraries, equal weights, equal attacks."""

from __future__ import annotations

import attack_cases as cases
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxrobust.attacks import batched, pgd, targeted
from jaxrobust.threats import L2, Linf
from jaxrobust.types import Attack, LogitsFn

NET = cases.random_net(6)._replace(v=np.zeros((3, 6)))
XS = np.random.default_rng(2).uniform(0, 1, (4, *cases.SHAPE)).astype(np.float32)
YS = np.array([np.argmax(cases.np_logits(NET, x)) for x in XS], np.int32)


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        hidden = jnp.tanh(nn.Dense(5, name="hidden")(x))
        return nn.Dense(3, name="out")(hidden)


class Nnx(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.hidden, self.out = nnx.Linear(6, 5, rngs=rngs), nnx.Linear(5, 3, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.out(jnp.tanh(self.hidden(x)))


def plain() -> LogitsFn:
    net = cases.to_jax(NET)
    return lambda x: cases.logits(net, x)


def linen() -> LogitsFn:
    net = cases.to_jax(NET)
    params = {
        "hidden": {"kernel": net.w1.T, "bias": net.b1},
        "out": {"kernel": net.w2.T, "bias": net.b2},
    }
    return lambda x: Linen().apply({"params": params}, x.reshape(-1))


def flax_nnx() -> LogitsFn:
    net, model = cases.to_jax(NET), Nnx(nnx.Rngs(0))
    model.hidden.kernel[...], model.hidden.bias[...] = net.w1.T, net.b1
    model.out.kernel[...], model.out.bias[...] = net.w2.T, net.b2
    graph, state = nnx.split(model)
    return lambda x: nnx.merge(graph, state)(x.reshape(-1))


@pytest.mark.slow
@pytest.mark.parametrize(
    "attack",
    [
        pgd(Linf(0.1), step_size=0.03, steps=5),
        targeted(pgd(L2(0.3), step_size=0.1, steps=5)),
    ],
    ids=["pgd", "targeted"],
)
def test_plain_linen_and_nnx_agree(attack: Attack) -> None:
    key = jax.random.key(0)
    expected, *others = (
        cases.compiled(lambda f=f: batched(attack, key, f, XS, YS))()
        for f in (plain(), linen(), flax_nnx())
    )
    assert np.abs(expected.x - XS).max() > 0.05
    for other in others:
        for a, b in zip(expected, other, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)
