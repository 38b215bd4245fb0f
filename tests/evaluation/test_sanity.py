"""The reviewer's checks pass an honest model and fail those whose gradients mislead."""

import functools
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from evaluation_models import data, from_logits, weights
from rich.console import Console

from jaxrobust.attacks import pgd
from jaxrobust.evaluation import Check, Sanity, evaluate, sanity
from jaxrobust.models import load_pretrained
from jaxrobust.threats import L1, L2, Linf, Spatial

KEY = jax.random.key(0)
OPTIONS = {"batch_size": 100, "devices": jax.devices()[:1], "progress": False}


def distorted(p, x):
    """An MLP of scaled logits; its input may pass a steep threshold, or a fast small wave."""
    seen = (0.5 + 0.5 * jnp.tanh(1e5 * (x - 0.5))) * p["steep"] + x * (1 - p["steep"])
    seen = seen + 0.01 * p["wave"] * jnp.sin(2000 * x)
    return p["scale"] * (jnp.tanh(seen @ p["v"]) @ p["w"] + p["b"][None])


MODEL, CALLS = from_logits(distorted)  # one model, so that every test runs the same programs


def setting(count=100, **changes):
    numbers = {"scale": 1.0, "steep": 0.0, "wave": 0.0, **changes}
    variables = weights()
    numbers = {name: jnp.float32(value) for name, value in numbers.items()}
    variables = variables._replace(params={**variables.params, **numbers})
    return variables, labeled(MODEL, variables, data(count)[0])


def labeled(model, variables, x):
    return x, np.asarray(model.apply(variables, x, train=False, key=None, axes=())[0].argmax(1))


def run(threat=None, model=MODEL, **changes):
    variables, examples = setting(**changes)
    return sanity(KEY, model, variables, examples, threat or Linf(0.04), **OPTIONS)


def failed(result):
    return {check.name for check in result.checks if check.passed is False}


@functools.cache
def plain():
    return run()


@pytest.mark.slow
def test_an_honest_model_passes():
    result = plain()
    assert result.passed
    assert failed(result) == set()
    verdicts = {check.name: check.passed for check in result.checks}
    assert [name for name, passed in verdicts.items() if passed is None] == ["few classes"]
    assert sum(verdicts[name] is True for name in verdicts) == 9
    # The radius does separate examples, and the report is of this radius alone.
    assert 0 < result.report.worst_case_accuracy < result.report.attacks["FGSM"].accuracy + 1 < 100
    assert not any(" at " in name for name in result.report.attacks)


@pytest.mark.slow
def test_another_radius_and_other_weights_do_not_compile():
    plain()
    before = len(CALLS)
    assert run(Linf(0.02), scale=2.0).passed
    # Abstract looks at shapes, gradient and trace; the labels of `setting`.
    assert len(CALLS) - before <= 5


def test_a_saturating_softmax_is_survived():
    result = run(scale=40.0)
    assert result.passed
    assert "confident predictions" in {check.name for check in result.checks}
    # So large that cross-entropy underflows: the user's attacks need a warning, these do not.
    result = run(scale=1e4)
    assert failed(result) == {"cross-entropy underflows"}
    left = result.report.attacks["PGD"].accuracy
    assert left <= plain().report.attacks["PGD"].accuracy + 1
    variables, examples = setting(scale=1e4)
    naive = pgd(Linf(0.04), step_size=0.0025, steps=40, loss=naive_cross_entropy)
    report = evaluate(KEY, MODEL, variables, examples, {"naive": naive}, **OPTIONS)
    assert report.attacks["naive"].accuracy > left + 30


def naive_cross_entropy(logits, y):
    return -jax.nn.log_softmax(logits)[y]


def test_thresholded_inputs_fail():
    result = run(steep=1.0)
    assert {
        "zero gradients",
        "gradients find what blind search finds",
        "gradients at least as strong as noise",
        "the margin rises along the attack",
        "an unbounded attack breaks everything",
    } <= failed(result)


def test_shattered_gradients_fail():
    result = run(wave=1.0)
    assert {
        "misleading gradients",
        "gradients find what blind search finds",
        "gradients at least as strong as noise",
        "the margin rises along the attack",
    } <= failed(result)
    square, found = (result.report.attacks[n].accuracy for n in ("Square", "PGD, restarts"))
    assert square < found - 10
    detail = {check.name: check.detail for check in result.checks}
    assert "Square takes" in detail["gradients find what blind search finds"]


@pytest.mark.slow
def test_another_ball_passes():
    assert not failed(run(L1(0.2)))


@pytest.mark.slow
def test_quantized_inputs_fail():
    quantized, _ = from_logits(lambda p, x: distorted(p, jnp.round(16 * x) / 16))
    variables, (x, _) = setting()
    examples = labeled(quantized, variables, x)
    result = sanity(KEY, quantized, variables, examples, Linf(0.04), **OPTIONS)
    assert {
        "flat operations",
        "zero gradients",
        "gradients find what blind search finds",
    } <= failed(result)


def test_a_model_without_gradient_is_not_attacked():
    loop, _ = from_logits(
        lambda p, x: jax.lax.while_loop(lambda c: jnp.sum(c) < 5e3, lambda c: 2 * c, x) @ p["w"]
    )
    result = run(model=loop)
    assert not result.passed
    assert result.report is None
    assert "no gradient" in failed(result)


def test_shows_every_check():
    result = Sanity((Check("a|b", True, "x"), Check("[c]", None, "y"), Check("d", False, "")), None)
    assert not result.passed
    assert result.to_markdown().splitlines()[2:] == [
        "| a\\|b | passed | x |",
        "| [c] | - | y |",
        "| d | FAILED |  |",
    ]
    console = Console(record=True, width=80, file=io.StringIO())
    result.print(console)
    assert "[c]" in console.export_text()


@pytest.mark.parametrize(
    ("threat", "changes", "error", "match"),
    [
        (Spatial(1.0), {}, TypeError, "Linf, L2 or L1"),
        (Linf(0.0), {}, ValueError, "radius"),
        (Linf(jnp.ones(2)), {}, ValueError, "one radius"),
        (L2(0.1, lower=-np.inf, upper=np.inf), {}, ValueError, "box"),
        (Linf(0.1), {"steps": 3}, ValueError, "steps"),
        (Linf(0.1), {"restarts": 1}, ValueError, "restarts"),
        (Linf(0.1), {"batch_size": 0}, ValueError, "batch_size"),
    ],
)
def test_refuses_what_it_cannot_check(threat, changes, error, match):
    variables, examples = setting(4)
    with pytest.raises(error, match=match):
        sanity(KEY, MODEL, variables, examples, threat, **{**OPTIONS, **changes})


@pytest.mark.slow
def test_a_released_adversarially_trained_model_passes(shared):
    tfds = pytest.importorskip("tensorflow_datasets")
    data_dir = shared / "tensorflow_datasets"
    source = tfds.data_source("mnist", split="test", data_dir=data_dir)
    records = [source[i] for i in range(64)]
    x = np.stack([record["image"] for record in records])
    y = np.asarray([record["label"] for record in records])
    model, variables = load_pretrained("mnist_small_pgd_linf_0.3", shared / "pretrained")
    options = {**OPTIONS, "batch_size": 64}
    result = sanity(KEY, model, variables, (x, y), Linf(0.3), steps=20, queries=100, **options)
    assert failed(result) == set()
