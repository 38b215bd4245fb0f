"""Certified accuracy against closed forms, and its independence of how it is computed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from evaluation_models import data, exact_robust, linear, weights

from jaxrobust.duals.certificates import Certificate, certify
from jaxrobust.evaluation import certified, resume
from jaxrobust.threats import L2, Linf

MODEL, CALLS = linear()  # one object: its programs are compiled once for the whole file


def run(threat=None, examples=None, **options):
    options = {"batch_size": 8, "progress": False, "devices": jax.devices()[:1], **options}
    variables = options.pop("variables", weights())
    threat = Linf(0.04) if threat is None else threat
    own = {n: options.pop(n) for n in ("methods", "boxed", "chunk", "kind") if n in options}
    return certified(MODEL, variables, examples or data(), threat, options=own, **options)


def noisy(key, f, x, y, threat, *, kind):
    """Bounds with random numbers in them, of any kind."""
    plain = certify(f, x, y, threat, methods=("interval",))
    delta = jnp.where(kind == "estimate", jnp.nan, jnp.float32(0.01))
    noise = 1e-3 * jax.random.uniform(key, plain.lower.shape)
    return Certificate(plain.lower - noise, plain.y, delta, kind)


@pytest.mark.parametrize(("dtype", "batch_size"), [(np.float32, 8), (np.float64, 64)])
def test_matches_the_closed_form_of_a_linear_model(dtype, batch_size):
    with jax.enable_x64(dtype == np.float64):
        x, y = data(dtype=dtype)
        variables = weights(dtype=dtype)
        reports = {
            r: run(Linf(r), (x, y), variables=variables, batch_size=batch_size)
            for r in (0.01, 0.04)
        }
    clean = exact_robust(x, y, variables.params, 0.0)
    for radius, report in reports.items():
        expected = exact_robust(x, y, variables.params, radius)
        np.testing.assert_array_equal(report.clean, clean)
        np.testing.assert_array_equal(report.certified, expected)
        assert report.count == len(y)
        assert report.kind == "deterministic"
        assert report.accuracy == pytest.approx(100 * expected.mean())
        p = expected.mean()
        assert report.standard_error == pytest.approx(100 * (p * (1 - p) / len(y)) ** 0.5)
        assert report.lower.shape == (len(y), 3)
        assert report.lower.dtype == dtype
        others = np.where(np.arange(3) == y[:, None], np.inf, report.lower)
        np.testing.assert_allclose(report.margin, -others.min(axis=1))
        assert np.all(report.lower[np.arange(len(y)), y] == 0)
    assert clean.sum() > reports[0.01].certified.sum() > reports[0.04].certified.sum() > 0


def test_results_do_not_depend_on_batches_and_devices_and_numbers_do_not_compile():
    first = run(metadata={"data": "points"})
    assert first.metadata == {"data": "points"}
    before = len(CALLS)
    other = run(Linf(0.01), variables=weights(seed=3))
    assert len(CALLS) == before + 1  # the abstract look at the number of classes
    assert not np.array_equal(other.lower, first.lower)
    spread = run(batch_size=3, devices=jax.devices()[:2])
    np.testing.assert_array_equal(spread.certified, first.certified)
    np.testing.assert_allclose(spread.lower, first.lower, atol=1e-6)
    x, y = data()
    # options reach the bounds: the box alone tightens a ball larger than the images
    far = [run(Linf(1.0), (x, y), boxed=b, methods=["crown"]).margin for b in (False, True)]
    assert np.all(far[1] < far[0])


def test_nan_certifies_nothing():
    broken = weights()
    broken.params["b"] = jnp.full_like(broken.params["b"], jnp.nan)
    report = run(variables=broken)
    assert report.accuracy == 0
    assert not report.certified.any()
    assert not report.clean.any()


@pytest.mark.parametrize("kind", ["probabilistic", "estimate"])
def test_other_certifiers_keep_their_kind_and_their_randomness(kind):
    options = {"certifier": noisy, "kind": kind, "key": jax.random.key(1)}
    report, again = run(Linf(0.01), **options), run(Linf(0.01), batch_size=5, **options)
    assert report.kind == kind
    assert report.certified.any() == (kind == "probabilistic")
    # an example's random numbers are its own, whatever its batch
    np.testing.assert_allclose(again.lower, report.lower, atol=1e-6)
    other = run(Linf(0.01), **{**options, "key": jax.random.key(2)})
    assert np.abs(other.lower - report.lower).max() > 1e-4


def test_a_killed_run_goes_on_where_it_stopped(tmp_path, monkeypatch):
    count, kill, real = 0, 2, resume.attack_pass

    def counted(job, **options):
        nonlocal count
        if count == kill:
            raise KeyboardInterrupt
        count += 1
        return real(job, **options)

    monkeypatch.setattr(resume, "attack_pass", counted)
    with pytest.raises(KeyboardInterrupt):
        run(folder=tmp_path)
    kill = None
    resumed, whole = run(folder=tmp_path), run()
    assert resumed.timing.batches == 4
    assert count == 4 + 1  # without a folder, all batches are one pass
    for field in ("clean", "certified", "lower", "margin", "delta"):
        np.testing.assert_array_equal(getattr(resumed, field), getattr(whole, field))
    for changes in ({"threat": Linf(0.05)}, {"threat": L2(0.04)}, {"methods": ("crown",)}):
        with pytest.raises(ValueError, match="holds another evaluation"):
            run(folder=tmp_path, **changes)


def test_refusals():
    with pytest.raises(ValueError, match="did you mean 'crown'"):
        run(methods=("crwn",))
    with pytest.raises(TypeError, match="method"):
        run(method="crown")
    with pytest.raises(ValueError, match="labels span"):
        run(examples=(data()[0], data()[1] + 1))
