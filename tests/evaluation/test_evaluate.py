"""Robust accuracy against closed forms, and its independence of how it is computed."""

import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from evaluation_models import data, exact_robust, from_logits, linear, mlp, weights

from jaxrobust.attacks import fgsm, pgd, targeted
from jaxrobust.evaluation import evaluate
from jaxrobust.threats import Linf
from jaxrobust.types import AttackResult

KEY = jax.random.key(0)


def exact(radius):
    """A single signed step at every target is the strongest attack on a linear model."""
    return targeted(fgsm(Linf(radius)))


def run(attacks, examples=None, model=None, variables=None, **options):
    # One device compiles faster; where their number matters, a test names them.
    options = {"batch_size": 16, "progress": False, "devices": jax.devices()[:1], **options}
    model = linear()[0] if model is None else model
    variables = weights() if variables is None else variables
    return evaluate(KEY, model, variables, examples or data(), attacks, **options)


@pytest.mark.parametrize(("dtype", "batch_size"), [(np.float32, 5), (np.float64, 64)])
def test_matches_the_closed_form_of_a_linear_model(dtype, batch_size):
    with jax.enable_x64(dtype == np.float64):
        x, y = data(dtype=dtype)
        variables = weights(dtype=dtype)
        attacks = {"small": exact(0.01), "medium": exact(0.04), "large": exact(0.3)}
        report = run(attacks, (x, y), variables=variables, batch_size=batch_size)
    np.testing.assert_array_equal(report.clean, exact_robust(x, y, variables.params, 0.0))
    for name, radius in {"small": 0.01, "medium": 0.04, "large": 0.3}.items():
        expected = exact_robust(x, y, variables.params, radius)
        np.testing.assert_array_equal(report.attacks[name].robust, expected)
        assert report.attacks[name].accuracy == pytest.approx(100 * expected.mean())
        assert report.attacks[name].inside.all()
    robust = [report.clean_accuracy, *(a.accuracy for a in report.attacks.values())]
    assert robust == sorted(robust, reverse=True)
    assert robust[0] > robust[2] > robust[3]  # the radii do tell the examples apart
    assert report.mean_norm("medium") == pytest.approx(0.04, rel=1e-5)


@pytest.mark.slow
def test_results_do_not_depend_on_batches_devices_or_other_attacks():
    model, _ = mlp()
    x, _ = data()
    y = np.asarray(model.apply(weights(), x, train=False, key=None, axes=())[0].argmax(1))
    attack = pgd(Linf(0.03), step_size=0.01, steps=4)

    def robustness(devices, batch_size, **others):
        attacks = {**others, "pgd": attack}
        options = {"devices": devices, "batch_size": batch_size, "keep_examples": True}
        return run(attacks, (x, y), model=model, **options).attacks["pgd"]

    first = robustness(jax.devices()[:1], 7)
    assert 0 < first.robust.sum() < len(first.robust)
    for other in (
        robustness(jax.devices(), 7),
        robustness(jax.devices()[:1], 64, fgsm=fgsm(Linf(0.1))),
    ):
        np.testing.assert_array_equal(other.robust, first.robust)
        np.testing.assert_allclose(other.norm, first.norm, rtol=1e-5)
        np.testing.assert_allclose(other.examples, first.examples, atol=1e-6)
        np.testing.assert_allclose(other.margin, first.margin, atol=1e-5)


def test_an_example_is_attacked_as_it_would_be_alone():
    model, _ = mlp()
    x, y = data()
    attack = pgd(Linf(0.1), step_size=0.03, steps=4)
    report = run({"pgd": attack}, model=model, keep_examples=True)
    i = len(x) - 1
    key = jax.random.fold_in(jax.random.fold_in(KEY, np.uint32(zlib.crc32(b"pgd"))), i)
    f = model.logits_fn(weights())
    alone = jax.jit(lambda a, b: attack(key, f, a, b))(x[i], np.int32(y[i]))
    np.testing.assert_allclose(report.attacks["pgd"].examples[i], alone.x, atol=1e-6)
    assert report.attacks["pgd"].forwards == int(alone.forwards)
    assert report.attacks["pgd"].backwards == int(alone.backwards)


def test_weights_and_keys_may_live_on_another_device():
    away = jax.device_put((weights(), jax.random.PRNGKey(0)), jax.devices()[3])
    attack = pgd(Linf(jnp.asarray(0.04)), step_size=0.03, steps=2)
    model, _ = linear()
    options = {"batch_size": 16, "progress": False, "devices": jax.devices()[:2]}
    report = evaluate(away[1], model, away[0], data(), {"pgd": attack}, **options)
    near = run({"pgd": attack}, model=model)
    # The old-style key 0 draws what the new-style key 0 draws.
    np.testing.assert_array_equal(report.attacks["pgd"].robust, near.attacks["pgd"].robust)
    np.testing.assert_allclose(report.attacks["pgd"].margin, near.attacks["pgd"].margin, atol=1e-5)


def test_bytes_give_the_results_of_scaled_floats():
    x = np.rint(255 * data()[0]).astype(np.uint8)
    y = data()[1]
    as_bytes = run({"pgd": exact(0.05)}, (x, y))
    as_floats = run({"pgd": exact(0.05)}, (x.astype(np.float32) / 255, y))
    np.testing.assert_array_equal(as_bytes.attacks["pgd"].robust, as_floats.attacks["pgd"].robust)
    np.testing.assert_array_equal(as_bytes.clean, as_floats.clean)


def test_another_radius_or_other_weights_do_not_compile():
    model, calls = linear()
    run({"a": exact(0.1)}, model=model)
    before = len(calls)
    run({"a": exact(0.2)}, model=model, variables=weights(seed=3))
    assert len(calls) == before + 1  # the abstract look at the number of classes
    run({"a": targeted(fgsm(Linf(0.1)), targets=1)}, model=model)
    assert len(calls) > before + 2  # a new structure does


def test_a_model_that_gives_nan_has_no_accuracy():
    # NaN at every perturbed point and, for half of the examples, at the clean one too.
    def logits(params, x):
        z = x @ params["w"] + params["b"][None]
        return jnp.where((x[:, :1] > 0.5) | (x[:, 1:2] > 0.66), jnp.nan, z)

    model, _ = from_logits(logits)
    x, _ = data()
    report = run({"move": fgsm(Linf(0.3))}, model=model)
    assert not report.clean[x[:, 0] > 0.5].any()
    assert report.clean[x[:, 0] < 0.5].any()
    blank, _ = from_logits(lambda p, x: jnp.full((x.shape[0], 3), jnp.nan))
    report = run({"move": fgsm(Linf(0.3))}, model=blank)
    assert report.clean_accuracy == report.worst_case_accuracy == 0.0


def test_a_tied_prediction_is_wrong():
    constant, _ = from_logits(lambda p, x: jnp.zeros((x.shape[0], 3)))
    assert run({}, model=constant).clean_accuracy == 0.0


def test_a_plain_function_is_an_attack():
    def shift(key, f, x, y):
        del key, y
        zero = jnp.zeros(())
        success = x[0] > 0.5
        count = jnp.where(success, jnp.int32(3), jnp.int32(1))
        return AttackResult(x, success, jnp.asarray(True), zero, zero, zero, count, count - 1)

    x, y = data()
    report = run({"shift": shift})
    expected = exact_robust(x, y, weights().params, 0.0) & ~(x[:, 0] > 0.5)
    np.testing.assert_array_equal(report.attacks["shift"].robust, expected)
    mean = np.where(x[:, 0] > 0.5, 3, 1).mean()
    assert report.attacks["shift"].forwards == pytest.approx(mean)
    assert report.attacks["shift"].backwards == pytest.approx(mean - 1)
    assert report.attacks["shift"].examples is None


def test_refuses_what_cannot_be_evaluated():
    x, y = data()
    bad = x.copy()
    bad[3, 2] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        run({}, (bad, y))
    with pytest.raises(ValueError, match="must lie in"):
        run({}, (255 * x, y))
    with pytest.raises(ValueError, match="labels span"):
        run({}, (x, np.where(np.arange(len(y)) == 2, 3, y)))
    with pytest.raises(ValueError, match="shape"):
        run({}, (x, y[:-1]))
    with pytest.raises(ValueError, match="integers"):
        run({}, (x, y.astype(np.float32)))
    with pytest.raises(ValueError, match="no examples"):
        run({}, (x[:0], y[:0]))
    with pytest.raises(ValueError, match="batch_size"):
        run({}, batch_size=0)
    with pytest.raises(ValueError, match="device"):
        run({}, devices=[])
    with pytest.raises(ValueError, match="3 classes, the data 10"):
        run({}, num_classes=10)
    single, _ = from_logits(lambda p, x: x[:, :1])
    with pytest.raises(ValueError, match="2 classes"):
        run({}, (x, 0 * y), model=single)
    scalar, _ = from_logits(lambda p, x: x[:, 0])
    with pytest.raises(ValueError, match="logits"):
        run({}, model=scalar)
    with pytest.raises(TypeError, match=r"given by name.*got FirstOrder"):
        run(fgsm(Linf(0.1)))
    with pytest.raises(TypeError, match=r"got the seed 3: write jax.random.key\(3\)"):
        evaluate(3, linear()[0], weights(), data(), {"mine": exact(0.1)}, batch_size=16)


def test_names_channels_that_come_first():
    x, y = np.full((2, 3, 8, 4), 0.5, np.float32), np.zeros(2, np.int32)
    # A convolution, which takes no other number of channels than its own.
    model, _ = from_logits(lambda p, z: jnp.einsum("bhwc,ck->bk", z, jnp.ones((3, 2), z.dtype)))
    with pytest.raises(ValueError, match=r"\(3, 8, 4\), which look as if channels came first"):
        run({}, (x, y), model=model)
    report = run({}, (x.transpose(0, 2, 3, 1), y), model=model)
    assert report.count == 2
    # Any other error of a model stays its own.
    with pytest.raises(Exception, match="channels") as error:
        run({}, (x[..., :1], y), model=from_logits(_no_channels)[0])
    assert "came first" not in str(error.value)


def _no_channels(params, x):
    raise RuntimeError("no channels at all")


def test_shows_progress_only_when_asked(capsys):
    run({"mine": exact(0.1)}, progress=True)
    assert "mine" in capsys.readouterr().out
    run({"mine": exact(0.1)}, progress=False)
    assert capsys.readouterr().out == ""
