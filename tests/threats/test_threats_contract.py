"""What every norm-ball threat promises."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from jax.test_util import check_grads
from scipy import stats

from jaxrobust.threats import L1, L2, Linf
from jaxrobust.types import ThreatModel

SHAPE = (3, 4)
THREATS = [Linf, L2, L1]
ORDERS = {Linf: np.inf, L2: 2, L1: 1}

every_threat = pytest.mark.parametrize("make", THREATS)
quick = settings(max_examples=30, deadline=None, derandomize=True)
clean = arrays(np.float32, SHAPE, elements=st.floats(0, 1, width=32))
moved = arrays(np.float32, SHAPE, elements=st.floats(-3, 3, width=32))
radii = st.sampled_from([0.0, 1e-3, 0.3, 1.0, 4.0])


@jax.jit
def projected(threat, x, z):
    u = threat.project(x, z)
    return u, threat.project(x, u), threat.contains(x, u), threat.size(x, u)


STEP = jax.jit(lambda threat, g, z: threat.steepest(g, z))
PROJECT = jax.jit(lambda threat, x, z: threat.project(x, z))


def points(seed=0, spread=1.0, shape=SHAPE):
    rng = np.random.default_rng(seed)
    x = rng.uniform(size=shape).astype(np.float32)
    return jnp.asarray(x), jnp.asarray(x + spread * rng.normal(size=shape).astype(np.float32))


@every_threat
def test_is_a_threat_model_whose_numbers_are_leaves(make):
    assert isinstance(make(0.5), ThreatModel)
    assert jax.tree.leaves(make(0.5))[:3] == [0.5, 0.0, 1.0]
    jax.tree.unflatten(jax.tree.structure(make(0.5)), [object()] * len(jax.tree.leaves(make(0.5))))


@every_threat
@quick
@given(x=clean, z=moved, radius=radii)
def test_projection_lands_inside_and_stays(make, x, z, radius):
    u, again, inside, size = projected(make(radius), x, z)
    distance = np.linalg.norm((np.asarray(u, np.float64) - x).ravel(), ORDERS[make])
    assert inside
    assert distance <= radius + 2e-5
    assert size == pytest.approx(distance, rel=1e-5, abs=1e-6)
    assert u.min() >= 0
    assert u.max() <= 1
    np.testing.assert_allclose(again, u, atol=2e-6)


@every_threat
@quick
@given(x=clean, z=moved)
def test_points_inside_are_untouched_and_radius_zero_is_the_identity(make, x, z):
    assert jnp.array_equal(projected(make(1e3), x, z)[0], np.clip(z, 0, 1))
    assert jnp.array_equal(projected(make(0.0), x, z)[0], x)
    assert jnp.array_equal(make(0.0).sample(jax.random.key(0), jnp.asarray(x)), x)


@pytest.mark.parametrize("make", [Linf, L1])
@quick
@given(x=clean, z=moved, w=moved, radius=radii)
def test_euclidean_projections_are_non_expansive(make, x, z, w, radius):
    u, v = projected(make(radius), x, z)[0], projected(make(radius), x, w)[0]
    assert jnp.linalg.norm((u - v).ravel()) <= np.linalg.norm(z - w) + 1e-5


@every_threat
def test_the_radius_matters(make):
    x, z = points()
    sizes = [float(projected(make(r, -jnp.inf, jnp.inf), x, 10 * z)[3]) for r in (0.1, 0.5)]
    assert sizes == pytest.approx([0.1, 0.5], rel=1e-5)


@every_threat
def test_samples_are_uniform_without_a_box(make):
    n, count, radius = 5, 4000, 0.7
    threat = make(radius, -jnp.inf, jnp.inf)
    x = jnp.arange(n, dtype=jnp.float32) / n
    keys = jax.random.split(jax.random.key(3), count)
    samples = jax.jit(jax.vmap(lambda k: threat.sample(k, x) - x))(keys)
    steps = np.asarray(samples, np.float64)
    sizes = np.linalg.norm(steps, ORDERS[make], axis=1)
    # In a uniform p-ball of dimension n, (size / radius)^n is uniform, whatever p.
    assert stats.kstest((sizes / radius) ** n, "uniform").pvalue > 1e-2
    variance = {Linf: 1 / 3, L2: 1 / (n + 2), L1: 2 / ((n + 1) * (n + 2))}[make] * radius**2
    np.testing.assert_allclose(steps.mean(0), 0, atol=4 * np.sqrt(variance / count))
    np.testing.assert_allclose(steps.var(0), variance, rtol=0.12)
    assert np.abs(np.corrcoef(steps.T) - np.eye(n)).max() < 0.06


@every_threat
def test_samples_are_inside_ball_and_box(make):
    x, _ = points()
    keys = jax.random.split(jax.random.key(0), 200)
    threat = make(1.5)
    samples = jax.jit(jax.vmap(lambda k: threat.sample(k, x)))(keys)
    assert jax.jit(jax.vmap(lambda z: threat.contains(x, z)))(samples).all()
    assert samples.min() >= 0
    assert samples.max() <= 1
    assert samples.std(0).min() > 1e-3


@every_threat
@quick
@given(g=moved)
def test_steepest_attains_the_dual_norm(make, g):
    threat = make(0.5, -jnp.inf, jnp.inf)
    step = STEP(threat, g, jnp.zeros(SHAPE))
    dual = {Linf: 1, L2: 2, L1: np.inf}[make]
    expected = np.linalg.norm(g.astype(np.float64).ravel(), dual)
    assert threat.dual_norm(g) == pytest.approx(expected, rel=1e-5, abs=1e-30)
    assert jnp.vdot(g, step) == pytest.approx(expected, rel=1e-5, abs=1e-30)
    assert np.linalg.norm(np.ravel(step), ORDERS[make]) <= 1 + 1e-6


@every_threat
@pytest.mark.parametrize("scale", [1e-36, 1e-20, 1.0, 1e20, 3e37])
def test_steps_survive_huge_and_tiny_gradients(make, scale):
    threat = make(0.5, -jnp.inf, jnp.inf)
    g = jnp.array([[0.5, -1.0], [0.25, 0.0]])
    step = STEP(threat, scale * g, jnp.zeros((2, 2)))
    np.testing.assert_allclose(step, STEP(threat, g, jnp.zeros((2, 2))), rtol=1e-5)
    np.testing.assert_allclose(threat.dual_norm(scale * g), scale * threat.dual_norm(g), rtol=1e-5)
    assert np.linalg.norm(np.ravel(step), ORDERS[make]) == pytest.approx(1)


@every_threat
def test_zero_nan_and_infinite_gradients(make):
    threat, z = make(0.5), jnp.full((4,), 0.5)
    assert jnp.array_equal(threat.steepest(jnp.zeros(4), z), jnp.zeros(4))
    step = threat.steepest(jnp.array([jnp.nan, 0.0, jnp.inf, -1.0]), z)
    assert jnp.isfinite(step).all()
    assert step[0] == 0
    assert step[2] > 0


@every_threat
def test_derivatives_at_zero_are_zero(make):
    threat, x = make(0.5), jnp.full((4,), 0.5)
    for value in (
        jax.grad(lambda z: threat.size(x, z))(x),
        jax.grad(threat.dual_norm)(jnp.zeros(4)),
        jax.grad(lambda g: threat.steepest(g, x).sum())(jnp.zeros(4)),
    ):
        assert jnp.array_equal(value, jnp.zeros(4))
    assert jnp.isfinite(jax.jacobian(lambda z: PROJECT(threat, x, z))(x)).all()


@every_threat
def test_derivatives_of_the_projection_match_finite_differences(make):
    with jax.enable_x64(True):
        rng = np.random.default_rng(2)
        x = jnp.asarray(rng.uniform(0.2, 0.8, size=8))
        z = jnp.asarray(x + 0.4 * rng.normal(size=8))

        @jax.jit
        def project(radius, x, z):
            return make(radius).project(x, z)

        check_grads(project, (jnp.asarray(0.15), x, z), order=1, modes=("fwd", "rev"))
        check_grads(project, (jnp.asarray(0.9), x, z), order=1, modes=("fwd", "rev"))


@every_threat
def test_contains_rejects_what_is_outside(make):
    x = jnp.array([0.0, 0.5, 1.0])
    threat = make(0.1)
    assert threat.contains(x, x)
    assert threat.contains(x, x + jnp.array([0.0, 0.1, 0.0]))
    assert threat.contains(x, jnp.array([-1e-7, 0.5, 1.0]))
    assert not threat.contains(x, x + jnp.array([0.0, 0.10001, 0.0]))
    assert not threat.contains(x, jnp.array([-1e-5, 0.5, 1.0]))
    assert not threat.contains(x, jnp.array([0.0, 0.5, 1.00001]))
    for bad in (jnp.nan, jnp.inf, -jnp.inf):
        assert not threat.contains(x, x.at[1].set(bad))
        assert not make(0.1, -jnp.inf, jnp.inf).contains(x, x.at[1].set(bad))


@every_threat
def test_contains_allows_for_rounding_of_large_vectors(make):
    x, z = points(spread=300.0, shape=(2000,))
    x, z = 1e3 * x, 1e3 * z
    threat = make(50.0, -jnp.inf, jnp.inf)
    assert threat.contains(x, threat.project(x, z))
    assert not threat.contains(x, make(51.0, -jnp.inf, jnp.inf).project(x, z))


@every_threat
def test_nan_and_infinity_never_become_valid(make):
    x, z = points()
    u = PROJECT(make(0.5), x, z.at[0, 0].set(jnp.nan))
    assert jnp.isnan(u[0, 0])
    assert not make(0.5).contains(x, u)
    u = PROJECT(make(0.5), x, z.at[0, 0].set(jnp.inf))
    assert make(0.5).contains(x, u) or jnp.isnan(u).any()


@every_threat
def test_huge_points_project_to_finite_ones(make):
    x, _ = points()
    signs = jnp.where(jnp.arange(12).reshape(SHAPE) % 2 == 0, 1.0, -1.0)
    for box in ((0.0, 1.0), (-jnp.inf, jnp.inf)):
        threat = make(0.5, *box)
        u = PROJECT(threat, x, 1e37 * signs)
        assert threat.contains(x, u)
        assert threat.size(x, u) > 0.1


@every_threat
@pytest.mark.parametrize("shape", [(), (5,), (2, 3, 4)])
def test_any_shape_and_dtype_is_kept(make, shape):
    @jax.jit
    def everything(threat, x):
        points = (
            threat.sample(jax.random.key(0), x),
            threat.project(x, x + 1),
            threat.steepest(x, x),
        )
        return points, (threat.size(x, x + 1), threat.contains(x, points[1]))

    points, scalars = everything(make(0.3), jnp.full(shape, 0.5))
    for out in points:
        assert out.shape == shape
        assert out.dtype == jnp.float32
    assert [s.shape for s in scalars] == [(), ()]
    assert scalars[1]


@every_threat
def test_float64_is_kept_and_exact(make):
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        x = jnp.asarray(rng.uniform(size=12))
        z = jnp.asarray(x + rng.normal(size=12))
        threat = make(0.3)
        u = threat.project(x, z)
        assert u.dtype == threat.sample(jax.random.key(0), x).dtype == jnp.float64
        assert threat.steepest(z, x).dtype == threat.size(x, z).dtype == jnp.float64
        assert np.linalg.norm(u - x, ORDERS[make]) <= 0.3 + 1e-14
        assert threat.contains(x, u)
        assert not threat.contains(x, x + (u - x) * (1 + 1e-9))


@every_threat
def test_bfloat16_stays_inside(make):
    x, z = (a.astype(jnp.bfloat16) for a in points())
    u = make(0.5).project(x, z)
    assert u.dtype == jnp.bfloat16
    assert make(0.5).contains(x, u)


@every_threat
def test_a_new_radius_does_not_recompile_and_jit_changes_nothing(make):
    x, z = points()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def run(threat, x, z):
        return threat.project(x, z), threat.steepest(z, x), threat.sample(jax.random.key(0), x)

    for radius in (0.1, 0.5, 2.0):
        threat = make(radius)
        eager = (threat.project(x, z), threat.steepest(z, x), threat.sample(jax.random.key(0), x))
        for compiled, value in zip(run(threat, x, z), eager, strict=True):
            np.testing.assert_allclose(compiled, value, atol=1e-6)


@every_threat
def test_vmap_over_radii_and_examples_is_the_loop(make):
    x, z = points()
    values = jnp.array([0.0, 0.1, 0.7])
    curve = jax.jit(jax.vmap(lambda t: t.project(x, z)))(make(values))
    for radius, u in zip(values, curve, strict=True):
        np.testing.assert_allclose(u, PROJECT(make(radius), x, z), atol=1e-6)
    assert not jnp.allclose(curve[1], curve[2])

    batch = [points(seed) for seed in range(3)]
    xs, zs = (jnp.stack(side) for side in zip(*batch, strict=True))
    threat = make(0.7)
    both = jax.jit(jax.vmap(lambda x, z: (threat.project(x, z), threat.steepest(z, x))))(xs, zs)
    for i, (x, z) in enumerate(batch):
        np.testing.assert_allclose(both[0][i], PROJECT(threat, x, z), atol=1e-6)
        np.testing.assert_allclose(both[1][i], STEP(threat, z, x), atol=1e-6)


@every_threat
@pytest.mark.parametrize("radius", [-0.1, float("nan"), float("inf"), np.array([0.1, -0.1])])
def test_bad_radii_are_refused(make, radius):
    with pytest.raises(ValueError, match="radius must be finite and at least 0"):
        make(radius)


@every_threat
@pytest.mark.parametrize("box", [(1.0, 0.0), (float("nan"), 1.0)])
def test_bad_boxes_are_refused(make, box):
    with pytest.raises(ValueError, match="lower must be at most upper"):
        make(0.1, *box)


@every_threat
@pytest.mark.parametrize("end", ["lower", "upper"])
@pytest.mark.parametrize("value", ["0", None, [0.0, 1.0]])
def test_a_box_is_made_of_numbers(make, end, value):
    with pytest.raises(ValueError, match=f"{end} must be a number or an array of numbers"):
        make(0.1, **{end: value})


@every_threat
@pytest.mark.parametrize("radius", [0.1, np.array([0.1, 0.2, 0.3])])
def test_a_batch_does_not_spread_over_one_example(make, radius):
    threat, x = make(radius), jnp.full(3, 0.5)
    batch = jnp.stack([x, x])
    for other in (batch, x[:1], x[0]):
        for call in (threat.project, threat.size, threat.contains):
            with pytest.raises(ValueError, match=r"x and z must have one shape, got \(3,\) and"):
                call(x, other)
            with pytest.raises(ValueError, match="x and z must have one shape"):
                call(other, x)
        with pytest.raises(ValueError, match=r"gradient and z must have one shape.*jax\.vmap"):
            threat.steepest(other, x)


@every_threat
def test_misuse_is_explained(make):
    stack = make(jnp.array([0.1, 0.2, 0.3]))
    with pytest.raises(ValueError, match="vmap"):
        stack.project(jnp.zeros(4), jnp.ones(4))
    with pytest.raises(ValueError, match="x / 255"):
        make(0.1).project(jnp.zeros(3, jnp.int32), jnp.ones(3, jnp.int32))
    with pytest.raises(ValueError, match="one common shape"):
        make(np.array([0.1, 0.2]), np.zeros(3))


def test_a_gradient_with_respect_to_a_set_is_a_set() -> None:
    x, z = jnp.full(3, 0.5), jnp.ones(3)
    gradient = jax.grad(lambda threat: -jnp.sum(threat.project(x, z)))(Linf(0.1))
    # -sum(x + radius) falls by 3 per unit of radius: a "radius" no constructor would accept.
    assert gradient.radius == -3.0


@pytest.mark.parametrize("radius", ["0.3", [0.1, 0.2], None])
def test_what_is_no_number_is_refused(radius: object) -> None:
    with pytest.raises(ValueError, match="radius must be a number or an array of numbers"):
        Linf(radius)


def test_sets_of_different_norms_are_different_to_jit() -> None:
    # Fields of the same names: `jax.tree_util.register_dataclass` would make these equal
    # (JAX 0.10), and `jit` would now and then run one norm's program for the other.
    structures = [jax.tree.structure(make(0.5)) for make in (Linf, L2)]
    assert structures[0] != structures[1]
