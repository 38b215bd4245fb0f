"""Certificates against closed forms, sampled points and the released verdicts."""

import dataclasses

import dual_cases as cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import losses
from jaxrobust.duals.certificates import (
    Certificate,
    certify,
    detect,
    robust_error,
    robust_logits,
    robust_loss,
)
from jaxrobust.models import load_pretrained
from jaxrobust.threats import L2, Linf

RELEASED = ("wong_kolter",)
NETWORK = cases.mlp(jax.nn.relu, cases.weights(3, (4, 10, 3)))


@pytest.fixture
def _double():
    with jax.enable_x64(True):
        yield


def made(lower, y=0, kind="deterministic"):
    return Certificate(jnp.asarray(lower, jnp.float32), jnp.asarray(y), jnp.float32(0), kind)


@pytest.mark.parametrize(
    ("lower", "y", "expected"),
    [
        ([0, 1, 2], 0, True),
        ([0.5, 0, 1e-9], 1, True),
        ([0, 1, 0], 0, False),
        ([0, 1, -1], 0, False),
        ([0, 1, np.nan], 0, False),
        ([0, 1, np.inf], 0, False),
        ([0, 1, 2], 3, False),
        ([0, 1, 2], -1, False),
    ],
)
def test_only_positive_finite_bounds_over_all_other_classes_certify(lower, y, expected):
    assert bool(made(lower, y).certified) == expected
    assert bool(made(lower, y, "probabilistic").certified) == expected
    assert not made(lower, y, "estimate").certified


def test_a_stack_of_certificates_has_a_verdict_each():
    stack = Certificate(
        jnp.asarray([[0.0, 1, 2], [1, 0, -1]]), jnp.asarray([0, 1]), jnp.zeros(2), "deterministic"
    )
    assert stack.certified.tolist() == [True, False]
    guess = dataclasses.replace(stack, kind="estimate")
    assert guess.certified.tolist() == [False, False]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_linear_classifiers_are_certified_exactly_and_radii_do_not_compile(dtype):
    rng = np.random.default_rng(0)
    W, b, x = rng.normal(size=(3, 5)), rng.normal(size=3), rng.uniform(size=5)
    y = int(np.argmax(W @ x + b))
    gaps = (W @ x + b)[y] - W @ x - b
    slopes = np.abs(W[y] - W).sum(axis=1)
    radius = np.delete(gaps / np.where(slopes > 0, slopes, 1), y).min()
    with jax.enable_x64(dtype == np.float64):
        parts = [jnp.asarray(a, dtype) for a in (W, b, x)]

        @jax.jit
        def found(W, b, x, y, threat):
            f = lambda x: W @ x + b  # noqa: E731
            return certify(f, x, y, threat), robust_loss(f, x, y, threat)

        for share, expected in ((0.0, True), (0.99, True), (1.01, False)):
            threat = Linf(jnp.asarray(share * radius, dtype))
            certificate, loss = found(*parts, jnp.asarray(y), threat)
            worst = gaps - share * radius * slopes
            tolerance = 1e-13 if dtype == np.float64 else 1e-5
            np.testing.assert_allclose(certificate.lower, worst, atol=tolerance)
            assert certificate.kind == "deterministic"
            assert certificate.delta == 0
            assert certificate.lower[y] == 0
            assert certificate.lower.dtype == dtype
            assert bool(certificate.certified) == expected
            np.testing.assert_allclose(loss, np.log(np.exp(-worst).sum()), rtol=1e-5)
        assert found._cache_size() == 1


@pytest.mark.usefixtures("_double")
def test_no_point_of_a_certified_ball_is_predicted_otherwise_and_no_loss_is_larger():
    f = NETWORK
    examples = jnp.asarray(np.random.default_rng(1).uniform(size=(40, 4)))
    threat = L2(0.15)

    @jax.jit
    @jax.vmap
    def check(x):
        y = jnp.argmax(f(x))
        logits = jax.vmap(f)(cases.ball_points(threat, x, count=100))
        held = jnp.all(jnp.argmax(logits, axis=1) == y)
        worst = jnp.max(jax.vmap(losses.cross_entropy, (0, None))(logits, y))
        found = certify(f, x, y, threat, methods=RELEASED)
        return held, worst, losses.cross_entropy(found.robust_logits, y), found

    held, worst, bound, found = check(examples)
    certified = np.asarray(found.certified)
    assert 0 < certified.sum() < 40
    assert np.all(held | ~certified)
    assert np.all(worst <= bound)
    alone = jax.jit(lambda x: robust_logits(f, x, jnp.argmax(f(x)), threat, methods=RELEASED))
    for i in (0, 7):
        np.testing.assert_allclose(-alone(examples[i]), found.lower[i], atol=1e-12)


@pytest.mark.usefixtures("_double")
def test_no_adversarial_example_escapes_detection():
    f, threat = NETWORK, Linf(0.1)
    examples = jnp.asarray(np.random.default_rng(2).uniform(size=(30, 4)))

    @jax.jit
    @jax.vmap
    def check(x):
        points = cases.ball_points(threat, x, count=30)
        changed = jax.vmap(lambda z: jnp.argmax(f(z)) != jnp.argmax(f(x)))(points)
        points = jnp.concatenate([points, x[None], x[None] + jnp.nan])
        return changed, jax.vmap(lambda z: detect(f, z, threat, methods=RELEASED))(points)

    changed, flagged = check(examples)
    assert changed.sum() > 20
    assert np.all(flagged[:, :-2] | ~changed)
    assert 0 < flagged[:, -2].sum() < 30
    assert np.all(flagged[:, -1])


@pytest.mark.usefixtures("_double")
def test_nan_and_wrong_predictions_are_robust_errors_and_losses_train():
    f, x, options = NETWORK, jnp.full(4, 0.4), {"methods": RELEASED}
    wrong = jnp.argmin(f(x))

    @jax.jit
    def found(x, y, radius):
        gradient = jax.grad(lambda x: robust_loss(f, x, y, Linf(radius), **options))(x)
        return robust_error(f, x, y, Linf(radius), **options), gradient

    assert not found(x, jnp.argmax(f(x)), 1e-3)[0]
    error, gradient = found(x, wrong, 0.0)
    assert error
    assert np.all(np.isfinite(gradient))
    assert np.any(gradient != 0)
    assert found(x.at[0].set(jnp.nan), wrong, 1e-3)[0]
    assert found(x, wrong, jnp.nan)[0]


def test_refusals():
    x = jnp.full(4, 0.4)
    with pytest.raises(ValueError, match="did you mean 'estimate'"):
        made([0, 1], kind="estimat")
    with pytest.raises(ValueError, match="at least 2 logits, got 1"):
        jax.eval_shape(lambda x: certify(lambda x: jnp.sum(x)[None], x, 0, Linf(0.1)), x)
    with pytest.raises(ValueError, match="did you mean 'crown'"):
        certify(lambda x: x, x, 0, Linf(0.1), methods=("crow",))


@pytest.mark.slow
def test_verdicts_on_a_released_network_are_the_released_ones(shared):
    tfds = pytest.importorskip("tensorflow_datasets")
    with np.load(shared / "reference" / "dual_mnist_linf_0.1.npz") as reference:
        index, expected = reference["index"], reference["robust_logits"]
    source = tfds.data_source("mnist", split="test", data_dir=shared / "tensorflow_datasets")
    with np.load(shared / "reference" / "mnist_test_order.npz") as order:
        position = order["position"][index]
    # The images that the released code cannot certify are few: take them all the same.
    label = np.abs(expected).argmin(axis=1)
    verdict = np.all((expected < 0) | (np.arange(10) == label[:, None]), axis=1)
    chosen = np.concatenate([np.flatnonzero(~verdict)[:10], np.flatnonzero(verdict)[:10]])
    records = [source[int(i)] for i in position[chosen]]
    x = jnp.asarray(np.stack([r["image"] for r in records]), jnp.float32) / 255
    y = jnp.asarray([r["label"] for r in records])
    np.testing.assert_array_equal(y, label[chosen])
    model, variables = load_pretrained("mnist_small_dual_linf_0.1", shared / "pretrained")

    @jax.jit
    @jax.vmap
    def found(x, y):
        return certify(model.logits_fn(variables), x, y, Linf(0.1), methods=RELEASED).certified

    np.testing.assert_array_equal(found(x, y), verdict[chosen])
