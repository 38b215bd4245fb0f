"""Linear and mixed-integer programs against brute force over patterns, each other and points."""

import itertools

import dual_cases as cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from scipy.optimize import linprog

from jaxrobust import duals
from jaxrobust.duals import exact, milp
from jaxrobust.duals.exact import exact_margin, exact_margins
from jaxrobust.duals.lp import lp_bounds
from jaxrobust.threats import L1, L2, Linf, Union

SIZES = (2, 3, 3, 3)
X = np.array([0.45, 0.7])


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


def brute_force(c, x, threat, matrices, biases):
    """min c.f over ball and pixel box: a linear program over each pattern of active ReLUs.

    Variables x' = x + up - down, each part at least 0.
    """
    radius, n = float(threat.radius), len(x)
    room = [(0, min(radius, 1 - a)) for a in x] + [(0, min(radius, a)) for a in x]
    hidden = list(zip(matrices[:-1], biases[:-1], strict=True))
    best = np.inf
    for pattern in itertools.product((0, 1), repeat=sum(len(b) for _, b in hidden)):
        bits = iter(pattern)
        A, d, sides, ends = np.eye(n), np.zeros(n), [], []
        for matrix, bias in hidden:
            A, d = matrix @ A, matrix @ d + bias
            on = np.array([next(bits) for _ in bias])
            # on: -z <= 0, off: z <= 0
            sides.append((1 - 2 * on)[:, None] * A)
            ends.append((2 * on - 1) * (d + A @ x))
            A, d = on[:, None] * A, on * d
        row, end = c @ matrices[-1] @ A, c @ (matrices[-1] @ d + biases[-1])
        limit, most = np.concatenate(sides), np.concatenate(ends)
        limit = np.concatenate([limit, -limit], axis=1)
        if isinstance(threat, L1):
            limit, most = np.vstack([limit, np.ones(2 * n)]), np.append(most, radius)
        found = linprog(np.concatenate([row, -row]), limit, most, bounds=room)
        if found.status == 0:
            best = min(best, found.fun + row @ x + end)
    return best


def worst_margins(y, threat, parameters):
    rows = np.eye(3)[y] - np.eye(3)
    return [brute_force(c, X, threat, *parameters) if c.any() else 0 for c in rows]


@pytest.mark.slow
@pytest.mark.parametrize("threat", [Linf(0.3), L1(0.5)])
def test_margins_are_the_least_over_all_relu_patterns(threat):
    parameters = cases.weights(37, SIZES)
    f, x = cases.mlp(jax.nn.relu, parameters), jnp.asarray(X)
    y = int(jnp.argmax(f(x)))
    found = exact_margin(f, x, y, threat)
    expected = worst_margins(y, threat, parameters)
    np.testing.assert_allclose(found.lower, expected, atol=1e-6)
    others = np.delete(expected, y)
    np.testing.assert_allclose(found.upper, others.min(), atol=1e-6)
    assert (found.certified, found.broken) == (others.min() > 0, others.min() <= 0)
    assert threat.contains(x, jnp.asarray(found.witness))
    lp = lp_bounds(f, x, np.eye(3)[y] - np.eye(3), threat, boxed=True)
    assert np.all(lp <= np.array(expected) + 1e-9)
    grid = jnp.asarray(np.stack(np.meshgrid(*[np.linspace(0, 1, 60)] * 2), -1).reshape(-1, 2))
    grid = grid[jax.vmap(lambda z: threat.contains(x, z))(grid)]
    values = np.asarray(jax.vmap(f)(grid))
    assert np.all(found.lower <= (values[:, [y]] - values).min(axis=0) + 1e-6)


def network(x):
    """A convolution, leaky ReLU, max-pooling, and a clip inside a residual block."""
    rng = np.random.default_rng(1)
    kernel = rng.normal(size=(2, 2, 1, 2))
    inner, last = 0.7 * rng.normal(size=(4, 4)), rng.normal(size=(3, 4))
    layout = ("NHWC", "HWIO", "NHWC")
    x = lax.conv_general_dilated(x[None], kernel, (1, 1), "VALID", dimension_numbers=layout)
    x = jax.nn.leaky_relu(x, 0.1)
    x = lax.reduce_window(x, -np.inf, lax.max, (1, 2, 1, 1), (1, 1, 1, 1), "VALID").reshape(-1)
    return last @ (x + jnp.clip(inner @ x, -0.3, 0.6))


@pytest.mark.slow
def test_every_bound_is_below_the_next():
    threat, methods = Linf(0.3), ("crown",)
    x = jnp.asarray(np.random.default_rng(0).uniform(size=(2, 3, 3, 1)))

    @jax.jit
    @jax.vmap
    def bound(x):
        y = jnp.argmax(network(x))
        C = duals.margin_rows(y, 3, jnp.float64)
        where = duals.prepare(network, x, threat)
        boxes = duals.hidden_boxes(where, methods=methods)
        plain = duals.row_bounds(where, C, boxes, methods=methods)
        found = duals.optimized_bounds(network, x, C, threat, steps=1500, methods=methods).lower
        points = jax.vmap(network)(cases.ball_points(threat, x)) @ C.T
        return y, C, boxes, plain, found, points.min(axis=0)

    y, C, boxes, plain, optimized, sampled = bound(x)
    milp = list(exact_margins(network, x, y, threat, boxed=False, methods=methods))
    for i, found in enumerate(milp):
        own = jax.tree.map(lambda b, i=i: b[i], boxes)
        lp = lp_bounds(network, x[i], C[i], threat, boxes=own)
        order = [plain[i], optimized[i], lp, found.lower + 1e-6, sampled[i] + 2e-6]
        for low, high in itertools.pairwise(order):
            assert np.all(low <= high + 1e-7)
        np.testing.assert_allclose(optimized[i], lp, atol=2e-4)
        # the model itself reaches the bound, inside the ball
        np.testing.assert_allclose(found.upper, np.delete(found.lower, y[i]).min(), atol=1e-5)
        assert jnp.max(jnp.abs(found.witness - x[i])) <= 0.3 + 1e-12
    # none is another in disguise
    assert np.any(plain < optimized - 1e-3)
    assert np.any(optimized < np.stack([m.lower for m in milp]) - 1e-3)


@pytest.mark.slow
def test_lines_around_smooth_activations_are_sound_and_beat_crown():
    f = cases.mlp(cases.mixed("sigmoid", "tanh", "softplus"), cases.weights(2, (3, 6, 3)))
    x, threat, C = jnp.full(3, 0.5), Linf(0.4), jnp.eye(3)
    crown = jax.jit(lambda x: duals.lower_bounds(f, x, C, threat, methods=("crown",)))(x)
    found = lp_bounds(f, x, C, threat, methods=("crown",))
    assert np.all(crown <= found + 1e-9)
    assert np.any(crown < found - 1e-3)
    assert np.all(found <= jax.vmap(f)(cases.ball_points(threat, x)).min(axis=0))
    with pytest.raises(ValueError, match="'tanh' is not piecewise linear"):
        exact_margin(f, x, 0, threat)


@pytest.mark.parametrize(("seed", "verdict"), [(31, "certified"), (37, "broken")])
def test_verdicts_that_the_dual_leaves_open(seed, verdict):
    parameters = cases.weights(seed, SIZES)
    f, x, threat = cases.mlp(jax.nn.relu, parameters), jnp.asarray(X), Linf(0.3)
    y = int(jnp.argmax(f(x)))
    least = np.delete(worst_margins(y, threat, parameters), y).min()
    assert (least > 0) == (verdict == "certified")
    found = exact_margin(f, x, y, threat, sign_only=True)
    assert found.status == verdict
    # only the sign was sought
    assert np.delete(found.lower, y).min() <= least + 1e-6
    if verdict == "broken":
        assert threat.contains(x, jnp.asarray(found.witness))
        assert int(jnp.argmax(f(jnp.asarray(found.witness)))) != y


def test_no_time_leaves_the_dual_bound_and_no_verdict():
    f, x = cases.mlp(jax.nn.relu, cases.weights(31, SIZES)), jnp.asarray(X)
    y = int(jnp.argmax(f(x)))
    late = exact_margin(f, x, y, Linf(0.3), sign_only=True, time_limit=1e-9)
    assert (late.certified, late.broken, late.status) == (False, False, "undecided")
    assert np.delete(late.lower, y).min() <= 0 < late.upper


@pytest.mark.parametrize("fault", ["a kink's slopes swapped", "a row negated", "half of the ball"])
def test_planted_errors_are_caught(monkeypatch, fault):
    parameters = cases.weights(37, SIZES)
    f, x, threat = cases.mlp(jax.nn.relu, parameters), jnp.asarray(X), Linf(0.3)
    good = milp.encode

    def encode(*arguments):
        made = good(*arguments)
        if fault == "half of the ball":
            return made._replace(upper=np.append((made.upper[:2] + X) / 2, made.upper[2:]))
        return made._replace(matrix=-made.matrix) if fault == "a row negated" else made

    if fault == "a kink's slopes swapped":
        monkeypatch.setitem(milp._KINKS, "relu", lambda: ((0.0,), (1.0, 0.0)))
    monkeypatch.setattr(exact, "encode", encode)
    y = int(jnp.argmax(f(x)))
    if fault == "half of the ball":
        found = exact_margin(f, x, y, threat)
        assert np.any(found.lower > np.array(worst_margins(y, threat, parameters)) + 1e-2)
        return
    with pytest.raises(RuntimeError, match="no verdict"):
        exact_margin(f, x, y, threat)


def test_affine_networks_in_float32():
    A, x = np.array([[1, 2], [3, -1], [0, 0.5]], np.float32), np.array([0.5, 0.25], np.float32)
    threat, weights = Linf(0.25), A[1] - A

    def f(x):
        return A @ x + jnp.asarray([0, 1, 0], jnp.float32)

    rows = np.eye(3, dtype=np.float32)[[1]] - np.eye(3, dtype=np.float32)
    found = exact_margin(f, x, 1, threat)
    expected = weights @ x - np.abs(weights).sum(axis=1) * 0.25 + 1 - np.array([0, 1, 0])
    np.testing.assert_allclose(found.lower, expected, atol=1e-6)
    np.testing.assert_allclose(lp_bounds(f, x, rows, threat), expected, atol=1e-6)


def test_refusals():
    f, x = cases.mlp(jax.nn.relu, cases.weights(0, SIZES)), jnp.asarray(X)
    for threat, name in ((L2(0.1), "L2"), (Union((Linf(0.1), L1(0.1))), "Union")):
        with pytest.raises(ValueError, match=f"hold Linf and L1 balls, got {name}"):
            lp_bounds(f, x, jnp.eye(3), threat)
        with pytest.raises(ValueError, match=f"hold Linf and L1 balls, got {name}"):
            exact_margin(f, x, 0, threat)
    with pytest.raises(ValueError, match="outside of jit"):
        jax.jit(lambda x: lp_bounds(f, x, jnp.eye(3), Linf(0.1)))(x)
    # a list is no tracer, and told what it lacks
    with pytest.raises(ValueError, match="labels must have shape"):
        duals.exact_margins(f, [X, X], jnp.zeros(1, int), Linf(0.1))
    with pytest.raises(ValueError, match="time_limit must be finite and above 0"):
        exact_margin(f, x, 0, Linf(0.1), time_limit=0)
    with pytest.raises(ValueError, match="inputs hold 1 NaN"):
        exact_margin(f, x.at[0].set(jnp.nan), 0, Linf(0.1))
    with pytest.raises(ValueError, match="did you mean 'crown'"):
        duals.exact_margins(f, x[None], jnp.zeros(1, int), Linf(0.1), methods=("crwn",))
    with pytest.raises(ValueError, match=r"one or more examples \[N, ...\], got shape \(0, 2\)"):
        duals.exact_margins(f, x[None][:0], jnp.zeros(0, int), Linf(0.1))
    with pytest.raises(ValueError, match=r"labels must have shape \(1,\)"):
        duals.exact_margins(f, x[None], jnp.zeros(2, int), Linf(0.1))
    with pytest.raises(ValueError, match=r"labels span \[3, 3\] but the model has 3 classes"):
        exact_margin(f, x, 3, Linf(0.1))
    with pytest.raises(ValueError, match="labels must be integers"):
        exact_margin(f, x, 0.0, Linf(0.1))
    with pytest.raises(ValueError, match="at least 2 classes, got 1"):
        exact_margin(lambda x: f(x)[:1], x, 0, Linf(0.1))
    nan, thin = jnp.full(3, jnp.nan), jnp.full(3, 1e-3)
    with pytest.raises(ValueError, match="of a 'relu' of shape"):
        lp_bounds(f, x, jnp.eye(3), Linf(0.1), boxes=[duals.Box(nan, nan)] * 2)
    with pytest.raises(RuntimeError, match="`boxes` do not hold the network"):
        lp_bounds(f, x, jnp.eye(3), Linf(0.1), boxes=[duals.Box(-thin, thin)] * 2)


@pytest.mark.slow
@pytest.mark.parametrize("ball", [Linf, L1])
def test_exact_margins_take_radii_and_boxes_of_arrays(ball):
    """Held by a radius of 0 or by a closed box: the minimum over the free coordinates."""
    with jax.enable_x64(True):
        f, x = cases.mlp(jax.nn.relu, cases.weights(1, (4, 6, 3))), jnp.full(4, 0.4)
        free, y = jnp.asarray([1.0, 0.0, 1.0, 0.0]), jnp.argmax(f(jnp.full(4, 0.4)))
        lower, upper = jnp.where(free > 0, 0.0, x), jnp.where(free > 0, 1.0, x)
        by_radius = duals.exact_margin(f, x, y, ball(0.2 * free))
        by_box = duals.exact_margin(f, x, y, ball(0.2, lower, upper))

        def rest(z):
            return f(jnp.stack([z[0], x[1], z[1], x[3]]))

        alone = duals.exact_margin(rest, x[jnp.asarray([0, 2])], y, ball(0.2))
        for found in (by_radius, by_box):
            np.testing.assert_allclose(found.lower, alone.lower, atol=1e-6)
            assert found.certified == alone.certified
            np.testing.assert_allclose(found.witness[1::2], x[1::2], atol=1e-12)
        bound = duals.certify(f, x, y, ball(0.2, lower, upper), boxed=True).lower
        assert (np.asarray(bound) <= by_box.lower + 1e-9).all()
