"""Random projections against exact norms, exact bounds, known tails and repeated draws."""

import math

import dual_cases as cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import duals
from jaxrobust.duals import estimators, relaxations
from jaxrobust.duals.projections import (
    certify_randomly,
    probabilistic_margin_bounds,
    projected_margin_bounds,
)
from jaxrobust.models import load_pretrained
from jaxrobust.threats import L1, L2, Linf

RELEASED = ("wong_kolter",)
KEY = jax.random.key(0)
X = np.asarray([0.2, 0.9, 0.5, 0.4])


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


def branched(seed=0):
    """Two nodes that see the input directly, the second late, and two that do not."""
    rng = np.random.default_rng(seed)
    A, B, C = rng.normal(size=(5, 4)), rng.normal(size=(4, 5)), rng.normal(size=(3, 4))
    D, E = rng.normal(size=(3, 4)), rng.normal(size=(3, 6))

    def f(x):
        h = jnp.tanh(B @ jax.nn.relu(A @ x))
        inner = jax.nn.hard_tanh(2 * (C @ h))
        return E @ jnp.concatenate([inner, jax.nn.relu(D @ x)])

    return f


def reachable(seed=2):
    """Logits 0 and relu(z): with label 0, margins are minus the dual's upper bounds of z.

    They are above the exact ones just where the estimated upper bounds are below.
    """
    (A, B), (a, b) = cases.weights(seed, (4, 8, 5))

    def f(x):
        z = B @ jax.nn.relu(A @ x + a) + b
        return jnp.concatenate([jnp.zeros(1, z.dtype), jax.nn.relu(z)])

    return f


def cauchy_samples(samples, count, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_cauchy((samples, count)))


@pytest.mark.parametrize(("samples", "count", "mean"), [(10, 9e4, 0.967), (50, 4e4, 0.994)])
def test_the_median_is_the_lower_one_of_known_mean(samples, count, mean):
    found = estimators.cauchy_median(cauchy_samples(samples, int(count)))
    np.testing.assert_allclose(np.mean(found), mean, atol=0.006)


def test_estimators_equal_numpy():
    v = np.random.default_rng(0).normal(size=(7, 3, 2))
    size = np.abs(v)
    np.testing.assert_allclose(estimators.cauchy_median(jnp.asarray(v)), np.median(size, axis=0))
    expected = np.sqrt(np.mean(v**2, axis=0))
    np.testing.assert_allclose(estimators.normal_norm(jnp.asarray(v)), expected)
    expected = np.prod(size, axis=0) ** (1 / 7)
    np.testing.assert_allclose(estimators.cauchy_geometric_mean(jnp.asarray(v)), expected)


def test_estimates_of_nothing_are_zero_and_of_one_lost_sample_are_not():
    nothing = jnp.zeros((4, 2))
    for estimate in (estimators.cauchy_median, estimators.normal_norm):
        assert not np.any(estimate(nothing))
        assert np.all(np.isfinite(jax.grad(lambda v, e=estimate: e(v).sum())(nothing)))
    assert not np.any(estimators.cauchy_geometric_mean(nothing))
    assert estimators.cauchy_geometric_mean(jnp.asarray([1.0, 0.0, 1.0]))[()] > 0


def test_cauchy_draws_are_symmetric_heavy_and_never_zero(monkeypatch):
    draws = np.abs(estimators.cauchy(KEY, (200_000,), jnp.float32))
    for quantile in (0.1, 0.5, 0.9, 0.99):
        assert abs(np.mean(draws < math.tan(math.pi * quantile / 2)) - quantile) < 0.004
    step = float(jnp.finfo(jnp.float32).eps)
    grid = jnp.asarray([0.5 - step, 0.5, 0, 1 - step], jnp.float32)
    monkeypatch.setattr(jax.random, "uniform", lambda *_: grid)
    low, high, first, last = estimators.cauchy(KEY, (4,), jnp.float32)
    assert high == -low > 0
    assert last == -first > 1e6


def test_inflation_is_the_least_of_chernoffs_bounds():
    for samples, failure in ((200, 0.26), (50, 1e-4), (3, 1e-9)):
        s = math.log(estimators.cauchy_inflation(samples, failure))
        t = np.linspace(0, 1, 100_001)[1:-1]
        exponents = samples * (-np.log(np.cos(np.pi * t / 2)) - s * t)
        np.testing.assert_allclose(exponents.min(), math.log(failure), rtol=1e-6)
    # the thesis's example, of which 0.22 is conservative
    assert 1 / (1 - 0.16) < estimators.cauchy_inflation(200, 0.26) < 1 / (1 - 0.17)
    # ten means of 200, each at the tenth root, gain nothing over one of 2,000
    ten = estimators.cauchy_inflation(200, 0.01**0.1)
    np.testing.assert_allclose(estimators.cauchy_inflation(2000, 0.01), ten)


def test_tails_hold_in_simulation():
    samples, failure, count = 20, 0.05, 200_000
    norm = estimators.cauchy_geometric_mean(cauchy_samples(samples, count))
    short = np.mean(estimators.cauchy_inflation(samples, failure) * norm < 1)
    assert 0.005 < short < failure
    rng = np.random.default_rng(0)
    norm = estimators.normal_norm(jnp.asarray(rng.normal(size=(samples, count))))
    short = np.mean(estimators.normal_inflation(samples, failure) * norm < 1)
    np.testing.assert_allclose(short, failure, atol=0.003)


@pytest.mark.slow
@pytest.mark.parametrize("threat", [Linf(np.asarray([0.1, 0.2, 0.05, 0.1])), L2(0.2)])
def test_estimates_converge_to_the_exact_bounds(threat):
    f, y = branched(), jnp.asarray(1)

    @jax.jit
    def bounds(key):
        x = jnp.asarray(X)
        return (
            duals.margin_bounds(f, x, y, threat, methods=RELEASED),
            projected_margin_bounds(key, f, x, y, threat, samples=20_001),
            probabilistic_margin_bounds(
                key, f, x, y, threat, samples=20_001, delta=0.5, chunk=4000
            ),
        )

    exact, estimate, sure = bounds(KEY)
    others = jnp.asarray([0, 2])
    lost = (f(X)[1] - f(X) - exact)[others]
    np.testing.assert_allclose(estimate, exact, atol=0.01 * np.min(lost))
    assert np.all(np.abs(sure - exact)[others] < 0.1 * lost)
    assert np.all((sure < exact)[others])
    assert estimate[1] == sure[1] == 0


@pytest.mark.slow
def test_gradients_equal_finite_differences():
    matrices, biases = cases.weights(2, (4, 6, 5, 3))
    rng = np.random.default_rng(0)
    direction = [rng.normal(size=m.shape) for m in matrices]

    def loss(move, radius):
        moved = [m + move * d for m, d in zip(matrices, direction, strict=True)]
        f = cases.mlp(jax.nn.relu, (moved, biases))
        bounds = [
            projected_margin_bounds(KEY, f, jnp.asarray(X), jnp.asarray(0), ball, samples=8)
            for ball in (Linf(radius), L2(2 * radius))
        ]
        return jnp.sum(jnp.sin(jnp.stack(bounds)))

    h = 1e-6
    moves, radii = np.asarray([[0, 0], [h, 0], [-h, 0], [0, h], [0, -h]]).T
    both = jax.jit(jax.vmap(jax.value_and_grad(loss, (0, 1))))
    values, found = both(jnp.asarray(moves), jnp.asarray(0.1 + radii))
    expected = [(values[1] - values[2]) / (2 * h), (values[3] - values[4]) / (2 * h)]
    np.testing.assert_allclose([g[0] for g in found], expected, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("threat", [Linf(0.3), L2(0.3)])
def test_coverage_over_draws_and_none_without_inflation(threat, monkeypatch):
    f, x, y, delta = reachable(), jnp.asarray(X), jnp.asarray(0), 0.2
    exact = duals.margin_bounds(f, x, y, threat, methods=RELEASED)
    assert np.sum(exact < -0.1) >= 2
    keys = jax.random.split(KEY, 2000)

    def failed():
        def bounds(key):
            return probabilistic_margin_bounds(key, f, x, y, threat, samples=15, delta=delta)

        found = jax.jit(jax.vmap(bounds))(keys)
        return np.mean(np.any(np.asarray(found) > np.asarray(exact) + 1e-12, axis=1))

    # Chernoff's bound and the union leave room, but not for everything
    assert 0 < failed() < delta
    monkeypatch.setattr(estimators, "cauchy_inflation", lambda *_: 1.0)
    monkeypatch.setattr(estimators, "normal_inflation", lambda *_: 1.0)
    assert failed() > 1.5 * delta


def test_the_chance_is_divided_among_all_estimated_norms(monkeypatch):
    failures = []
    for name in ("cauchy_inflation", "normal_inflation"):
        own = getattr(estimators, name)
        monkeypatch.setattr(estimators, name, lambda k, p, own=own: failures.append(p) or own(k, p))
    for ball in (Linf(0.1), L2(0.1)):

        def bounds(x, ball=ball):
            return probabilistic_margin_bounds(
                KEY, branched(), x, jnp.asarray(0), ball, samples=5, delta=0.1
            )

        jax.eval_shape(bounds, X)
    # tanh has four units and hard_tanh three; both ReLUs see the input
    np.testing.assert_allclose(failures, [0.1 / 7, 0.1 / 7, 0.1 / 14, 0.1 / 14])


@pytest.mark.slow
def test_random_certificates_hold_at_sampled_points_and_shrink_with_the_radius():
    f = cases.mlp(jax.nn.relu, cases.weights(0, (4, 6, 6, 3), np.float32))
    x = jnp.asarray(X, jnp.float32)
    y = jnp.argmax(f(x))
    keys = jax.random.split(KEY, 50)

    @jax.jit
    def certify(radius):
        def one(key):
            return certify_randomly(key, f, x, y, Linf(radius), samples=300, delta=0.01, chunk=100)

        return jax.vmap(one)(keys)

    verdicts = []
    for radius in (0.01, 0.3):
        found = certify(radius)
        assert found.lower.dtype == np.float32
        assert found.kind == "probabilistic"
        np.testing.assert_allclose(found.delta, 0.01)
        values = jax.vmap(f)(cases.ball_points(Linf(radius), x))
        least = (values[:, y][:, None] - values).min(axis=0)
        assert np.all(found.lower <= least[None] + 1e-6)
        verdicts.append(np.mean(found.certified))
    assert verdicts[0] == 1 > verdicts[1]
    assert certify._cache_size() == 1


def test_nan_parameters_certify_nothing():
    matrices, biases = cases.weights(0, (4, 6, 6, 3))
    matrices[1][0, 0] = np.nan
    f, x, y = cases.mlp(jax.nn.relu, (matrices, biases)), jnp.asarray(X), jnp.asarray(0)
    options = {"samples": 9, "delta": 0.1}
    found = jax.jit(lambda key: certify_randomly(key, f, x, y, Linf(1e-6), **options))(KEY)
    assert not found.certified


def test_refusals(monkeypatch):
    f, x, y, ball = reachable(), jnp.asarray(X), jnp.asarray(0), Linf(0.1)

    def refuse(match, f=f, ball=ball, samples=5, delta=0.1):
        options = {"samples": samples, "delta": delta}
        with pytest.raises(ValueError, match=match):
            jax.eval_shape(lambda key: certify_randomly(key, f, x, y, ball, **options), KEY)

    refuse("Linf and L2 balls, got L1", ball=L1(0.1))
    refuse("samples must be a whole number of at least 1, got 0", samples=0)
    for delta in (0.0, 1.0, math.nan, "0.1", np.full(2, 0.1)):
        refuse("delta must be a number between 0 and 1", delta=delta)
    refuse("at least 2 logits", f=lambda x: jnp.sum(jax.nn.relu(x))[None])
    with pytest.raises(ValueError, match="known on the host"):
        jax.jit(lambda d: certify_randomly(KEY, f, x, y, ball, samples=5, delta=d))(0.1)

    def crooked(l, u, alpha):  # noqa: E741
        lines = relaxations.relaxation("relu").lines(l, u, alpha)
        return lines._replace(upper_slope=lines.upper_slope + 0)

    # a relaxation of the user's own, whose two slopes are two arrays
    bent = jax.jit(lambda z: jax.nn.relu(z) + 0 * z)
    bent = relaxations.Relaxation(bent, crooked, lambda l, u: l)  # noqa: E741
    monkeypatch.setitem(relaxations._REGISTRY, "bent", bent)
    refuse("the relaxation of 'bent' has none", f=cases.mlp(bent.function, cases.weights()))


@pytest.mark.slow
def test_estimates_are_near_the_released_bounds_of_the_small_mnist_network(shared):
    tfds = pytest.importorskip("tensorflow_datasets")
    source = tfds.data_source("mnist", split="test", data_dir=shared / "tensorflow_datasets")
    with np.load(shared / "reference" / "dual_mnist_linf_0.1.npz") as reference:
        index, expected = reference["index"][:4], reference["robust_logits"][:4]
    with np.load(shared / "reference" / "mnist_test_order.npz") as order:
        records = [source[int(i)] for i in order["position"][index]]
    model, variables = load_pretrained("mnist_small_dual_linf_0.1", shared / "pretrained")
    f = model.logits_fn(variables)

    def estimate(x, y):
        return projected_margin_bounds(KEY, f, x, y, Linf(0.1), samples=50)

    x = jnp.asarray(np.stack([r["image"] for r in records]), jnp.float32) / 255
    found = -jax.jit(jax.vmap(estimate))(x, jnp.asarray([r["label"] for r in records]))
    # 10.6 is a typical logit, and the radius moves it by about 5
    np.testing.assert_allclose(found, expected, atol=0.6)
    assert np.any(np.abs(found - expected) > 1e-3)
