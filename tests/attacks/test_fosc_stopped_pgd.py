"""PGD that each example leaves once it has converged, or after its own number of steps."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.attacks import batched, clean, fosc_at, fosc_stopped_pgd, pgd
from jaxrobust.threats import Linf
from jaxrobust.types import Attack, AttackResult

RNG = np.random.default_rng(0)
MATRIX = RNG.normal(size=(4, 6)).astype(np.float32)
OUT = RNG.normal(size=(3, 4)).astype(np.float32)
X = jnp.asarray(RNG.uniform(0.3, 0.7, (32, 6)), jnp.float32)
Y = jnp.asarray(RNG.integers(0, 3, 32))
THREAT, STEP = Linf(0.2), 0.03


def f(x: jax.Array) -> jax.Array:
    return OUT @ jnp.tanh(MATRIX @ x)


TRACES: list[int] = []


@jax.jit
def run(attack: Attack) -> AttackResult:
    TRACES.append(1)
    return batched(attack, jax.random.key(0), f, X, Y)


def test_without_a_threshold_it_is_pgd() -> None:
    ours = run(fosc_stopped_pgd(THREAT, step_size=STEP, steps=9, start=clean))
    plain = run(pgd(THREAT, step_size=STEP, steps=9, start=clean, keep="last"))
    np.testing.assert_allclose(ours.x, plain.x, atol=1e-6)
    assert (ours.backwards == 9).all()


def test_examples_rest_where_they_have_converged() -> None:
    threshold = 0.05
    result = run(
        fosc_stopped_pgd(THREAT, step_size=STEP, steps=9, threshold=threshold, start=clean)
    )
    at = jax.jit(jax.vmap(lambda x, y, z: fosc_at(THREAT, f, x, y, z)))
    score, moves = np.asarray(at(X, Y, result.x)), np.asarray(result.backwards)
    assert (score[moves < 9] <= threshold + 1e-6).all()
    assert len(set(moves)) > 2
    # One move less, and they had not converged.
    counts = set(moves[(moves > 2) & (moves < 9)].tolist())
    assert counts
    for count in counts:
        before = run(fosc_stopped_pgd(THREAT, step_size=STEP, steps=count - 2, start=clean)).x
        assert (np.asarray(at(X, Y, before))[moves == count] > threshold).all()


def test_the_first_step_is_taken_in_any_case_and_numbers_never_recompile() -> None:
    once = run(fosc_stopped_pgd(THREAT, step_size=STEP, steps=9, threshold=1e6, start=clean))
    one = run(pgd(THREAT, step_size=STEP, steps=1, start=clean, keep="last"))
    np.testing.assert_allclose(once.x, one.x, atol=1e-6)
    count = len(TRACES)
    np.testing.assert_array_equal(
        run(fosc_stopped_pgd(THREAT, step_size=STEP, steps=0, start=clean)).x, X
    )
    assert len(TRACES) == count


def test_mixed_draws_each_examples_number_of_steps() -> None:
    result = run(fosc_stopped_pgd(THREAT, step_size=STEP, steps=3, mixed=True, start=clean))
    drawn = np.bincount(np.asarray(result.backwards), minlength=4)
    assert drawn.size == 4
    assert (drawn > 2).all()
    np.testing.assert_array_equal(result.x[result.backwards == 0], X[result.backwards == 0])


def test_mistakes_name_the_value() -> None:
    with pytest.raises(ValueError, match="steps must be a whole number of at least 0, got -1"):
        fosc_stopped_pgd(THREAT, step_size=STEP, steps=-1)
    with pytest.raises(ValueError, match=r"steps must be a whole number of at least 0, got 2\.7"):
        fosc_stopped_pgd(THREAT, step_size=STEP, steps=2.7)
    with pytest.raises(ValueError, match="threshold must be a number, got nan"):
        fosc_stopped_pgd(THREAT, step_size=STEP, steps=2, threshold=float("nan"))
    with pytest.raises(ValueError, match="step_size"):
        fosc_stopped_pgd(THREAT, step_size=-1.0, steps=3)
