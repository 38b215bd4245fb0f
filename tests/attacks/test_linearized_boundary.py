"""The shortest move onto a hyperplane inside a box, against linear programs and by hand."""

from __future__ import annotations

from typing import Any

import attack_cases as cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog, minimize

from jaxrobust.attacks.linearized_boundary import nearest, shortest_move, toward

N = 5
COUNT = 40


def problems(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points (some on faces of the box), weights (some zero or tied) and reachable changes."""
    rng = np.random.default_rng(seed)
    z = rng.uniform(0, 1, (COUNT, N))
    z[::3, 0], z[1::3, 1] = 0, 1
    w = rng.normal(size=(COUNT, N))
    w[::4, 2] = 0
    w[::5, 3] = -w[::5, 4]
    high, low = np.maximum(w * (1 - z), -w * z), np.minimum(w * (1 - z), -w * z)
    share = rng.uniform(0.02, 0.98, COUNT)
    change = np.where(rng.random(COUNT) < 0.5, share * high.sum(1), share * low.sum(1))
    return z, w, change


def least(threat: str, z: np.ndarray, w: np.ndarray, change: float) -> float:
    """The least norm, by a linear program, or for l2 a quadratic one."""
    n = z.size
    bounds = [(0, 1 - a) for a in z] + [(0, a) for a in z]
    if threat == "l1":
        sides = np.concatenate([w, -w])[None]
        return float(linprog(np.ones(2 * n), A_eq=sides, b_eq=[change], bounds=bounds).fun)
    if threat == "linf":
        rows = np.hstack([np.vstack([np.eye(n), -np.eye(n)]), -np.ones((2 * n, 1))])
        answer = linprog(
            np.append(np.zeros(n), 1),
            A_ub=rows,
            b_ub=np.zeros(2 * n),
            A_eq=np.append(w, 0)[None],
            b_eq=[change],
            bounds=[(-a, 1 - a) for a in z] + [(0, None)],
        )
        return float(answer.fun)
    answer = minimize(
        lambda d: d @ d,
        np.zeros(n),
        jac=lambda d: 2 * d,
        bounds=[(-a, 1 - a) for a in z],
        constraints={"type": "eq", "fun": lambda d: w @ d - change, "jac": lambda d: w},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 300},
    )
    assert answer.success
    return float(np.linalg.norm(answer.x))


def moves(threat: Any, z: Any, w: Any, change: Any, dtype: Any = np.float32) -> np.ndarray:
    args = [jnp.asarray(a, dtype) for a in (z, w, change)]
    return np.asarray(cases.compiled(jax.vmap(lambda *a: shortest_move(threat, *a)))(*args))


@pytest.mark.parametrize("name", sorted(cases.THREATS))
def test_reaches_the_plane_inside_the_box_at_least_norm(name: str) -> None:
    z, w, change = problems()
    d = moves(cases.THREATS[name](0.1), z, w, change)
    np.testing.assert_allclose((w * d).sum(1), change, atol=2e-6)
    assert (z + d).min() >= -1e-6
    assert (z + d).max() <= 1 + 1e-6
    assert (d[w == 0] == 0).all()
    for i in range(COUNT):
        best = least(name, z[i], w[i], change[i])
        assert cases.np_size(name, d[i]) == pytest.approx(best, abs=1e-5)


@pytest.mark.parametrize("name", sorted(cases.THREATS))
def test_out_of_reach_leads_to_the_nearest_vertex(name: str) -> None:
    z, w, _ = problems(1)
    for sign in (1, -1):
        d = moves(cases.THREATS[name](0.1), z, w, np.full(COUNT, sign * 100.0))
        vertex = np.where(sign * w > 0, 1 - z, np.where(sign * w < 0, -z, 0))
        np.testing.assert_allclose(d, vertex, atol=1e-6)


@pytest.mark.parametrize("name", sorted(cases.THREATS))
def test_without_a_box_it_is_the_dual_formula(name: str) -> None:
    z, w, change = problems(2)
    w[w == 0] = 0.1
    with jax.enable_x64():
        threat = cases.THREATS[name](0.1, -np.inf, np.inf)
        d = moves(threat, z, w, change, np.float64)
    for i in range(COUNT):
        assert w[i] @ d[i] == pytest.approx(change[i], abs=1e-12)
        shortest = abs(change[i]) / cases.np_dual_norm(name, w[i])
        assert cases.np_size(name, d[i]) == pytest.approx(shortest, rel=1e-12)


@pytest.mark.parametrize("name", sorted(cases.THREATS))
def test_degenerate_problems_give_no_nan(name: str) -> None:
    z = np.tile([0.0, 1.0, 0.5, 0.2, 0.9], (7, 1))
    w = np.ones((7, N))
    w[0] = 0
    w[1, 2] = np.nan
    w[2] *= 1e-30
    w[3] *= 1e30
    w[6, 0] = -np.inf
    change = np.array([1.0, 0.5, 0.5e-30, 0.5e30, 0.0, np.nan, 0.1])
    d = moves(cases.THREATS[name](0.1), z, w, change)
    assert np.isfinite(d).all()
    np.testing.assert_array_equal(d[[0, 4, 5]], 0)
    for i in (2, 3):
        np.testing.assert_allclose(d[i].sum(), 0.5, rtol=1e-5)


def test_tied_l1_weights_share_and_order_does_not_matter() -> None:
    z = np.array([[0.5, 0.5, 0.75, 0.5, 0.5]])
    w = np.array([[2.0, 2.0, 2.0, -1.0, 0.0]])
    d = moves(cases.THREATS["l1"](0.1), z, w, [1.25])
    np.testing.assert_allclose(d, [[0.25, 0.25, 0.125, 0, 0]], atol=1e-6)
    order = [2, 0, 4, 1, 3]
    np.testing.assert_allclose(
        moves(cases.THREATS["l1"](0.1), z[:, order], w[:, order], [1.25]), d[:, order], atol=1e-6
    )


def test_shape_is_only_a_view() -> None:
    z, w, change = problems(3)
    flat = moves(cases.THREATS["l2"](0.1), z, w, change)
    shape = (COUNT, 1, N, 1)
    shaped = moves(cases.THREATS["l2"](0.1), z.reshape(shape), w.reshape(shape), change)
    np.testing.assert_allclose(shaped.reshape(COUNT, N), flat, atol=1e-6)


def test_other_threats_are_refused() -> None:
    with pytest.raises(TypeError, match="L1, L2 or Linf threat, got str"):
        shortest_move("linf", jnp.zeros(2), jnp.ones(2), jnp.float32(1))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", sorted(cases.THREATS))
def test_the_nearest_boundary_is_measured_in_the_dual_norm(name: str) -> None:
    rng = np.random.default_rng(4)
    w, b = rng.normal(size=(6, 4)), rng.normal(size=6)
    points, y = rng.uniform(size=(20, 4)), 2
    f = lambda z: jnp.asarray(w, jnp.float32) @ z + jnp.asarray(b, jnp.float32)  # noqa: E731
    threat = cases.THREATS[name](0.1)
    run = cases.compiled(jax.vmap(nearest(f, threat, jnp.int32(y))))
    found = run(jnp.asarray(points, jnp.float32))
    chosen = set()
    for i, z in enumerate(points):
        values = w @ z + b - (w @ z + b)[y]
        distance = np.array(
            [
                abs(v) / cases.np_dual_norm(name, a - w[y]) if (a != w[y]).any() else np.inf
                for v, a in zip(values, w, strict=True)
            ]
        )
        j = int(np.argmin(distance))
        chosen.add(j)
        assert float(found.value[i]) == pytest.approx(values[j], abs=1e-5)
        np.testing.assert_allclose(found.gradient[i], w[j] - w[y], atol=1e-6)
    assert len(chosen) > 1
    aimed = toward(f, jnp.int32(y), jnp.int32(4))(jnp.asarray(points[0], jnp.float32))
    np.testing.assert_allclose(aimed.gradient, w[4] - w[y], atol=1e-6)


def test_flat_logits_are_infinitely_far() -> None:
    threat = cases.THREATS["l2"](0.1)
    steep = lambda z: jnp.stack([jnp.sum(z), jnp.float32(0.4), 3 * jnp.sum(z) - 9])  # noqa: E731
    found = nearest(steep, threat, jnp.int32(1))(jnp.full(2, 0.1))
    np.testing.assert_allclose(found.gradient, [1, 1], atol=1e-6)
    flat = nearest(lambda z: jnp.arange(3.0) + 0 * z[0], threat, jnp.int32(2))(jnp.zeros(2))
    np.testing.assert_array_equal(flat.gradient, 0)
