"""Rows for crossing units alone: the same bounds where the bucket holds them, sound where not."""

import dual_cases as cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import duals
from jaxrobust.threats import Linf

SIZES = (4, 12, 12, 3)
F = cases.mlp(jax.nn.relu, cases.weights(1, SIZES))
X = np.full(4, 0.5)
C = np.concatenate([np.eye(3), -np.eye(3)])


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


def crossing(radius):
    """How many units of the second layer intervals leave open."""
    where = duals.prepare(F, jnp.asarray(X), Linf(radius))
    box = duals.hidden_boxes(where, methods=("interval",))[1]
    return int(jnp.sum((box.lower < 0) & (box.upper > 0)))


@pytest.mark.slow
@pytest.mark.parametrize("methods", [("wong_kolter",), ("interval", "wong_kolter", "crown")])
def test_a_bucket_that_holds_the_crossing_units_changes_nothing(methods):
    radius = 0.1
    count = crossing(radius)
    assert 2 < count < 11

    @jax.jit
    def bounds(x):
        return [
            duals.lower_bounds(F, x, jnp.asarray(C), Linf(radius), methods=methods, bucket=bucket)
            for bucket in (None, count, count + 1, 1)
        ]

    plain, exact, larger, small = (np.asarray(b) for b in bounds(jnp.asarray(X)))
    np.testing.assert_allclose(exact, plain, atol=1e-12)
    np.testing.assert_allclose(larger, plain, atol=1e-12)
    # Too small a bucket is looser, on average by much, and below all that points reach.
    assert small.mean() < plain.mean() - 1e-3
    values = jax.vmap(F)(cases.ball_points(Linf(radius), jnp.asarray(X))) @ C.T
    assert (small <= values.min(axis=0)).all()


@pytest.mark.slow
def test_certificates_take_a_bucket_and_mistakes_name_the_value():
    y = int(jnp.argmax(F(jnp.asarray(X))))
    found, chunked, plain = jax.jit(
        lambda x: [
            duals.certify(F, x, y, Linf(0.05), bucket=bucket, chunk=chunk).lower
            for bucket, chunk in ((11, None), (11, 2), (None, None))
        ]
    )(jnp.asarray(X))
    np.testing.assert_allclose(found, plain, atol=1e-12)
    np.testing.assert_allclose(chunked, plain, atol=1e-12)
    with pytest.raises(ValueError, match="bucket must be a whole number of at least 1, got 0"):
        duals.certify(F, jnp.asarray(X), y, Linf(0.05), bucket=0)
