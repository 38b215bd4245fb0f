"""The entropic projection: reference figures, hard cases, and its derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sinkhorn_oracles import distance

from jaxrobust.sinkhorn import Duals, block_ascent, projected, window

WIDE, NARROW = window(5), window(3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "tolerance", "rtol"), [(np.float64, 1e-9, 1e-6), (np.float32, 1e-5, 1e-4)]
)
def test_reference_projections(shared, dtype, tolerance, rtol):
    file = np.load(shared / "reference" / "sinkhorn_mnist.npz")
    names = ("x", "w", "eps", "lam", "z", "cost", "psi")
    case = {k: np.stack([file[f"{n}/{k}"] for n in range(int(file["count"]))]) for k in names}

    def run(x, w, radius, lam):
        return projected(x, w, radius=radius, lam=lam, cost=WIDE, tolerance=tolerance)

    with jax.enable_x64(dtype == np.float64):
        arguments = (case[k].astype(dtype) for k in names[:4])
        found = jax.jit(jax.vmap(run))(*arguments)
    assert found.info.converged.all()
    np.testing.assert_allclose(found.z, case["z"], rtol=0, atol=rtol * case["z"].max())
    np.testing.assert_allclose(found.info.cost, case["cost"], rtol=rtol)
    np.testing.assert_allclose(found.info.psi, case["psi"], rtol=rtol)
    assert (found.info.iterations <= 8).all()


def hard_cases():
    """(x, w, radius, lam, upper): empty pixels, single pixels, negative targets, sharp problems."""
    rng = np.random.default_rng(0)
    single = np.zeros((6, 7))
    single[1, 3] = 0.8
    sparse = rng.uniform(size=(6, 7)) * (rng.uniform(size=(6, 7)) < 0.3)
    images = [rng.uniform(size=(6, 7)), sparse, single, np.full((6, 7), 0.5), np.ones((6, 7))]
    noise = rng.uniform(-1, 1, size=(6, 7))
    cases = []
    for x in images:
        for w, radius, lam, upper in [
            (x + 0.1 * noise, 0.1, 1000.0, np.inf),
            (x + 0.1 * noise, 1e-4, 1.0, 1.0),
            (x + noise, 0.5, 10.0, 1.0),
            (x + 0.1 * noise, 1e3, 1000.0, 1.0),
            (-5 * np.abs(noise), 0.3, 100.0, np.inf),
            (x + noise, 0.2, 1e5, 1.0),
            (x, 0.1, 300.0, np.inf),
        ]:
            cases.append((x, w, radius, lam, upper))
    return cases


CASES = hard_cases()


@pytest.fixture(scope="module")
def tiny():
    """The compiled projection of a stack of 6x7 images in float32."""

    def run(x, w, radius, lam, upper):
        return projected(x, w, radius=radius, lam=lam, cost=NARROW, upper=upper)

    compiled = jax.jit(jax.vmap(run))

    def call(cases):
        filled = [cases[k % len(cases)] for k in range(len(CASES))]
        stacks = (jnp.asarray(np.stack(v), jnp.float32) for v in zip(*filled, strict=True))
        return jax.tree.map(lambda v: v[: len(cases)], compiled(*stacks))

    call.programs = compiled._cache_size
    return call


@pytest.mark.slow
def test_hard_cases_stay_in_ball_and_box(tiny):
    found = tiny(CASES)
    for k, (x, _, radius, lam, upper) in enumerate(CASES):
        z = np.asarray(found.z[k])
        assert np.isfinite(z).all(), k
        assert z.min() >= 0, k
        assert z.max() <= upper, k
        assert abs(z.sum() - x.sum()) <= 1e-5 * x.sum(), k
        assert found.info.cost[k] <= radius * (1 + 1e-6), k
        assert distance(x, z, NARROW) <= radius * (1 + 1e-4), k
        # an image that its bound pins entirely has no unique multipliers
        if lam < 1e5 and upper != x.min():
            assert found.info.converged[k], k


def test_identity_where_nothing_may_move(tiny):
    x, w, *_ = CASES[0]
    still = [(x, w, 0.0, 1000.0, np.inf), (0 * x, w, 0.1, 1000.0, np.inf)]
    found = tiny(still)
    np.testing.assert_array_equal(found.z, np.stack([x, 0 * x]).astype(np.float32))
    assert found.info.converged.all()
    np.testing.assert_array_equal(found.info.cost, 0)


def test_nan_is_not_convergence(tiny):
    x, w, *rest = CASES[0]
    found = tiny([(x, np.where(w == w[0, 0], np.nan, w), *rest)])
    assert not found.info.converged[0]


def test_company_and_radius_change_nothing_but_themselves(tiny):
    together, alone = tiny(CASES), tiny([CASES[8]])
    np.testing.assert_allclose(together.z[8], alone.z[0], atol=1e-6)
    x, w, _, lam, upper = CASES[0]
    near, far = tiny([(x, w, r, lam, upper) for r in (0.05, 0.2)]).z
    assert np.abs(far - w).sum() < np.abs(near - w).sum()
    assert tiny.programs() == 1


def test_units_of_mass(tiny):
    x, w, radius, lam, _ = CASES[0]
    once, thrice = tiny([(s * x, s * w, radius, lam, np.inf) for s in (1, 3)]).z
    np.testing.assert_allclose(3 * once, thrice, atol=1e-5)


@pytest.mark.slow
def test_newton_and_published_iteration_agree():
    """Two solvers of one problem, with channels, which share a budget and exchange no mass."""
    rng = np.random.default_rng(1)
    x = rng.uniform(size=(3, 4, 2)) * (rng.uniform(size=(3, 4, 2)) < 0.7)
    w = x + 0.3 * rng.normal(size=x.shape)
    radii, lams = np.array([0.05, 0.3, 0.3, 50.0]), np.array([500.0, 100.0, 100.0, 20.0])
    uppers = np.array([np.inf, np.inf, 1.0, 1.0])

    def published(radius, lam, upper):
        setting = {"radius": radius, "lam": lam, "cost": NARROW, "upper": upper}
        return block_ascent(x, w, tolerance=1e-8, steps=20_000, **setting)

    def newton(radius, lam, upper, start):
        setting = {"radius": radius, "lam": lam, "cost": NARROW, "upper": upper}
        return projected(x, w, tolerance=1e-8, start=start, **setting)

    with jax.enable_x64(True):
        x, w = jnp.asarray(x), jnp.asarray(w)
        batch = tuple(jnp.asarray(v) for v in (radii, lams, uppers))
        b = jax.jit(jax.vmap(published))(*batch)
        compiled = jax.jit(jax.vmap(newton))
        rest = Duals(jnp.zeros((4, *x.shape)), jnp.ones(4))
        a = compiled(*batch, rest)
        again = compiled(*batch, a.duals)
        a, b, again, x = jax.tree.map(np.asarray, (a, b, again, x))
    assert a.info.converged.all()
    assert b.info.converged.all()
    np.testing.assert_allclose(a.z, b.z, atol=1e-6)
    np.testing.assert_allclose(a.info.psi, b.info.psi, rtol=1e-5, atol=1e-8)
    np.testing.assert_array_equal(again.info.iterations, 0)
    np.testing.assert_allclose(a.z.sum((1, 2)), np.tile(x.sum((0, 1)), (4, 1)), atol=1e-6)
    assert (b.info.iterations > 2 * a.info.iterations).all()


@pytest.mark.slow
def test_derivatives_are_finite_differences():
    rng = np.random.default_rng(2)
    x = rng.uniform(size=(3, 4)) * (rng.uniform(size=(3, 4)) < 0.8)
    w = x + 0.3 * rng.normal(size=x.shape)
    weights = rng.normal(size=x.shape)
    at = (x, w, np.array(0.15), np.array(0.85))
    # a pixel at 0 may only rise, one above the bound keeps its own
    along = tuple(rng.normal(size=v.shape) * (v != 0) for v in at)

    def score(x, w, radius, upper):
        setting = {"lam": 100.0, "cost": np.array([[1.0, 0.0, 1.0]]), "upper": upper}
        return jnp.sum(weights * projected(x, w, radius=radius, tolerance=1e-12, **setting).z)

    h = 1e-6
    with jax.enable_x64(True):
        run = jax.jit(jax.value_and_grad(score, (0, 1, 2, 3)))
        _, slopes = run(*at)
        up, down = (
            float(run(*(a + s * d for a, d in zip(at, along, strict=True)))[0]) for s in (h, -h)
        )
    slope = sum(np.sum(np.asarray(s) * d) for s, d in zip(slopes, along, strict=True))
    np.testing.assert_allclose(slope, (up - down) / (2 * h), rtol=1e-4)
    assert min(np.abs(slopes[2]), np.abs(slopes[3])) > 1e-3

    # one argument alone: the others have no tangents at all
    with jax.enable_x64(True):
        alone = [jax.jit(jax.grad(score, i))(*at) for i in range(len(at))]
    for own, together in zip(alone, slopes, strict=True):
        np.testing.assert_allclose(own, together, rtol=1e-6, atol=1e-9)


def test_multipliers_have_the_thesis_signs(tiny):
    """z = w - beta / lam, Lemma 3, in units of mass."""
    x, w, radius, lam, _ = CASES[0]
    found = tiny([(x, w, radius, lam, np.inf)])
    np.testing.assert_allclose(found.z[0], w - found.duals.beta[0] / lam * x.sum(), atol=1e-4)
