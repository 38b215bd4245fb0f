"""Attacks on sets whose numbers differ between coordinates and between examples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import attacks, evaluation
from jaxrobust.threats import L1, L2, Linf
from jaxrobust.types import Model

KEY = jax.random.key(0)
SHAPE = (2, 2, 3)
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.uniform(0.4, 0.6, size=(4, *SHAPE)), jnp.float32)
Y = jnp.zeros(4, jnp.int32)
W = jnp.asarray(RNG.normal(size=SHAPE), jnp.float32)
RADII = jnp.asarray(RNG.choice([0.0, 0.05, 0.1], SHAPE), jnp.float32)


def linear(x):
    """Class 1 gains what class 0 loses, by <W, x>: the worst point is known."""
    score = jnp.sum(W * (x - 0.5))
    return jnp.stack([1 - score, score])


def most(norm, radii):
    """How far <W, x> can rise."""
    order = {"linf": 1, "l2": 2, "l1": np.inf}[norm]
    return np.linalg.norm(np.asarray(radii * W).ravel(), order)


BALLS = {"linf": Linf, "l2": L2, "l1": L1}
MADE = {
    "fgsm": lambda t: attacks.fgsm(t),
    "pgd": lambda t: attacks.pgd(t, step_size=0.05, steps=40),
    "momentum": lambda t: attacks.momentum(t, step_size=0.05, steps=40),
    "langevin": lambda t: attacks.langevin(t, step_size=0.05, steps=40, temperature=1e-9),
    "restarts": lambda t: attacks.restarts(attacks.pgd(t, step_size=0.05, steps=40), 2),
    "targeted": lambda t: attacks.targeted(attacks.pgd(t, step_size=0.05, steps=40)),
    "worst_of": lambda t: attacks.worst_of(
        attacks.fgsm(t), attacks.pgd(t, step_size=0.05, steps=40)
    ),
    "apgd": lambda t: attacks.apgd(t, steps=40),
}


def rise(x, found):
    return np.asarray(jax.vmap(lambda a, b: jnp.sum(W * (b - a)))(x, found.x))


# One step is no optimum in the other norms, and these attacks know no radii there.
OTHERS = {"apgd": ("linf", "l2"), "fgsm": ("linf",)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "norm"), [(n, b) for n in MADE for b in OTHERS.get(n, tuple(BALLS))]
)
def test_a_linear_classifiers_worst_point_is_found(name, norm):
    found = attacks.batched(MADE[name](BALLS[norm](RADII)), KEY, linear, X, Y)
    assert found.inside.all()
    np.testing.assert_allclose(rise(X, found), most(norm, RADII), rtol=0.02)
    still = np.broadcast_to(RADII == 0, X.shape)
    np.testing.assert_array_equal(np.asarray(found.x)[still], np.asarray(X)[still])


WITHIN = {
    **{f"{n} linf": (Linf, MADE[n]) for n in ("momentum", "langevin")},
    "square": (Linf, lambda t: attacks.square(t, queries=50)),
    "gated": (L2, lambda t: attacks.fosc_stopped_pgd(t, step_size=0.05, steps=5, threshold=0.1)),
    "n_fgsm": (Linf, lambda t: attacks.n_fgsm(t)),
    "beta": (Linf, lambda t: attacks.beta(t, steps=5)),
    "multi_targeted": (Linf, lambda t: attacks.multi_targeted(t, step_size=0.05, steps=5)),
    "gaussian_noise": (L2, lambda t: attacks.gaussian_noise(t)),
    "uniform_noise": (Linf, lambda t: attacks.uniform_noise(t)),
    "salt_and_pepper": (L1, lambda t: attacks.salt_and_pepper(t)),
    "growing": (
        Linf,
        lambda t: attacks.growing(t, step=t, step_size=0.05, steps=8, factor=1.2, every=2),
    ),
}
"""Attacks that take radii for each coordinate, by name, with a ball that they know."""


@pytest.mark.parametrize("name", WITHIN)
def test_held_coordinates_stay(name):
    ball, make = WITHIN[name]
    found = attacks.batched(make(ball(RADII)), KEY, linear, X, Y)
    assert np.isfinite(found.x).all()
    still = np.broadcast_to(RADII == 0, X.shape)
    np.testing.assert_array_equal(np.asarray(found.x)[still], np.asarray(X)[still])


MASKED = {
    **WITHIN,
    "fab": (Linf, lambda t: attacks.fab(t, steps=10)),
    "ddn": (L2, lambda t: attacks.ddn(t, steps=10)),
    "deepfool": (L2, lambda t: attacks.deepfool(t)),
    "apgd_l1": (L1, lambda t: attacks.apgd_l1(t, steps=10)),
    "square l2": (L2, lambda t: attacks.square(t, queries=50)),
    "square l1": (L1, lambda t: attacks.square(t, queries=50)),
    "carlini_wagner": (L2, lambda t: attacks.carlini_wagner(t, steps=10)),
    "carlini_wagner_linf": (Linf, lambda t: attacks.carlini_wagner_linf(t, steps=5, rounds=3)),
    "boundary": (L2, lambda t: attacks.boundary(t, steps=20)),
    "pointwise": (L1, lambda t: attacks.pointwise(t)),
    "elastic_net": (L1, lambda t: attacks.elastic_net(t, steps=10)),
    "lbfgs": (L2, lambda t: attacks.lbfgs(t, steps=5)),
}
"""Those that take one radius know a mask as a box that is closed where nothing may move."""


@pytest.mark.slow
@pytest.mark.parametrize("name", MASKED)
def test_a_box_of_arrays_is_a_mask(name):
    ball, make = MASKED[name]
    free = RADII > 0
    lower, upper = jnp.where(free, 0.0, X[0]), jnp.where(free, 1.0, X[0])
    found = attacks.batched(make(ball(0.2, lower, upper)), KEY, linear, X[:1], Y[:1])
    assert np.isfinite(found.x).all()
    np.testing.assert_allclose(found.x[0][~free], X[0][~free], atol=1e-6)


ONE_RADIUS = {
    "fab": lambda: attacks.fab(Linf(RADII)),
    "ddn": lambda: attacks.ddn(L2(RADII)),
    "deepfool": lambda: attacks.deepfool(L2(RADII)),
    "apgd_l1": lambda: attacks.apgd_l1(L1(RADII)),
    "square": lambda: attacks.square(L2(RADII)),
    "carlini_wagner": lambda: attacks.carlini_wagner(L2(RADII)),
    "boundary": lambda: attacks.boundary(L2(RADII)),
    "pointwise": lambda: attacks.pointwise(L1(RADII)),
}


@pytest.mark.parametrize("name", ONE_RADIUS)
def test_attacks_that_measure_one_distance_say_so(name):
    with pytest.raises(ValueError, match="takes one radius for all coordinates"):
        attacks.batched(ONE_RADIUS[name](), KEY, linear, X, Y)


@pytest.mark.parametrize("kind", ["numbers", "arrays"])
@pytest.mark.parametrize("wrap", [lambda a: a, lambda a: attacks.restarts(a, 2)])
def test_every_example_has_its_own_set(kind, wrap):
    radii = jnp.asarray([0.0, 0.02, 0.05, 0.1])
    if kind == "arrays":
        radii = jnp.broadcast_to(radii[:, None, None, None], (4, *SHAPE))
    attack = wrap(attacks.pgd(Linf(radii), step_size=0.02, steps=20))
    found = attacks.batched(attack, KEY, linear, X, Y)
    expected = [most("linf", r * jnp.ones(SHAPE)) for r in (0.0, 0.02, 0.05, 0.1)]
    np.testing.assert_allclose(rise(X, found), expected, rtol=1e-3, atol=1e-6)
    jitted = jax.jit(lambda a, x: attacks.batched(a, KEY, linear, x, Y))(attack, X)
    np.testing.assert_allclose(jitted.x, found.x, atol=1e-6)


def test_evaluation_takes_a_set_for_every_example():
    model = linear_model()
    radii = jnp.asarray([0.0, 0.02, 0.05, 0.1])
    attack = attacks.pgd(Linf(radii, -1.0, 1.0), step_size=0.02, steps=20)
    options = {"batch_size": 3, "keep_examples": True, "progress": False}
    report = evaluation.evaluate(KEY, model, W, (X - 0.5, Y), {"pgd": attack}, **options)
    moved = np.abs(report.attacks["pgd"].examples - np.asarray(X - 0.5)).max(axis=(1, 2, 3))
    np.testing.assert_allclose(moved, radii, atol=1e-6)


def linear_model():
    """`linear` as a Model whose variables are the weights."""

    def apply(variables, x, *, train, key, axes):
        score = jnp.sum(variables[None] * x, axis=(1, 2, 3))
        return jnp.stack([1 - score, score], axis=1), ()

    return Model(lambda key, x: W, apply)
