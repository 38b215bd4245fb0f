"""Optimized slopes reach the linear program over the ReLUs' triangles."""

import dual_cases as cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog

from jaxrobust import duals
from jaxrobust.threats import Linf

METHODS = ("interval", "wong_kolter", "crown")
SIZES = (4, 8, 8, 3)


def triangle_lp(c, x, radius, matrices, biases, boxes):
    """min c.f over the ball and the hidden triangles, by HiGHS; variables x, z1, h1, z2, h2."""
    sizes = [len(x)] + [len(b) for b in biases[:-1] for _ in (0, 1)]
    starts = np.cumsum([0, *sizes])
    limits = [(a - radius, a + radius) for a in x] + [(None, None)] * int(sum(sizes[1:]))
    equal, below = [], []

    def row(entries, value):
        out = np.zeros(starts[-1] + 1)
        for place, weight in entries:
            out[place] = weight
        out[-1] = value
        return out

    before = np.arange(len(x))
    for k, (matrix, bias) in enumerate(zip(matrices[:-1], biases[:-1], strict=True)):
        z, h = (np.arange(len(bias)) + starts[i] for i in (2 * k + 1, 2 * k + 2))
        for j, (l, u) in enumerate(zip(*map(np.asarray, boxes[k][:2]), strict=True)):  # noqa: E741
            equal.append(row([(z[j], 1), *zip(before, -matrix[j], strict=True)], bias[j]))
            if l >= 0 or u <= 0:
                equal.append(row([(h[j], 1), (z[j], -float(l >= 0))], 0))
                continue
            limits[h[j]] = (0, None)
            below.append(row([(z[j], 1), (h[j], -1)], 0))
            below.append(row([(h[j], 1), (z[j], -u / (u - l))], -u * l / (u - l)))
        before = h
    goal = row(zip(before, c @ matrices[-1], strict=True), 0)[:-1]
    equal, below = np.array(equal), np.array(below)
    found = linprog(goal, below[:, :-1], below[:, -1], equal[:, :-1], equal[:, -1], limits)
    return found.fun + c @ biases[-1]


def test_optimized_bounds_are_the_linear_programs_values():
    with jax.enable_x64(True):
        matrices, biases = cases.weights(0, SIZES)
        f, x, threat = cases.mlp(jax.nn.relu, (matrices, biases)), jnp.full(4, 0.4), Linf(0.3)
        C = duals.margin_rows(jnp.asarray(0), 3, jnp.float64)

        @jax.jit
        def solve(x):
            where = duals.prepare(f, x, threat)
            plain = duals.lower_bounds(f, x, C, threat, methods=METHODS)
            boxes = duals.hidden_boxes(where, methods=METHODS)
            return plain, boxes, duals.optimized_bounds(f, x, C, threat, steps=400)

        plain, boxes, found = solve(x)
        program = [
            triangle_lp(np.asarray(c), np.asarray(x), 0.3, matrices, biases, boxes) for c in C
        ]
        np.testing.assert_allclose(found.lower, program, atol=2e-5)
        assert np.all(found.lower <= np.array(program) + 1e-9)
        assert np.all(plain <= found.lower)
        assert np.any(plain < found.lower - 1e-2)
        assert all(np.all((a >= 0) & (a <= 1)) for a in found.alphas)


@pytest.mark.slow
def test_joint_slopes_are_sound_and_no_looser_than_the_start():
    with jax.enable_x64(True):
        f = cases.mlp(jax.nn.relu, cases.weights(1, (4, 6, 6, 3)))
        x, threat, C = jnp.full(4, 0.4), Linf(0.3), jnp.eye(3)

        @jax.jit
        def solve(x):
            plain = duals.lower_bounds(f, x, C, threat, methods=METHODS)
            return plain, duals.optimized_bounds(f, x, C, threat, steps=10, joint=True).lower

        plain, found = solve(x)
        assert np.all(plain <= found)
        assert np.all(found <= jax.vmap(f)(cases.ball_points(threat, x)).min(axis=0))


def test_refusals():
    with pytest.raises(ValueError, match="steps must be a whole number"):
        duals.optimized_bounds(lambda x: x, jnp.ones(2), jnp.eye(2), Linf(0.1), steps=0)
