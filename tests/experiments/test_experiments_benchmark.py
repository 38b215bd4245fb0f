"""The benchmark: its arithmetic, its judge, and the command where no peer is installed."""

import importlib.util
import inspect
import json
import runpy
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmarks import arithmetic, judging, peer_attacks, peers, subject
from experiments.benchmarks.attacks import Config, main, marked, summarize
from experiments.benchmarks.peers import Peer
from experiments.benchmarks.settings import ATTACKS, Settings
from experiments.benchmarks.subject import Subject
from experiments.benchmarks.timing import Entrant, Timing, fastest, measure, notes, table
from experiments.recipes import recipe
from jaxrobust import attacks, training
from jaxrobust.threats import L2, Linf
from jaxrobust.types import Model, Variables

needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="PyTorch is not installed"
)


class Clock:
    """A clock that only the entrants move, and the order in which they ran."""

    def __init__(self):
        self.now, self.order = 0.0, []

    def __call__(self):
        return self.now

    def entrant(self, name, seconds, **options):
        left = list(seconds)

        def run():
            self.order.append(name)
            self.now += left.pop(0)
            return len(left)

        return Entrant(name, run, lambda left: {"left": left}, **options)


def timing(name, *seconds, robust=50.0, first=9.0, **options):
    figures = {"robust %": robust, "forwards": 3.0, "backwards": 2.0}
    return Timing(Entrant(name, lambda: None, dict, **options), first, seconds, figures)


def test_first_calls_are_apart_and_the_order_alternates():
    clock = Clock()
    sides = [clock.entrant("a", (10, 1, 4, 2)), clock.entrant("b", (7, 6, 5, 8))]
    (a, b), failed = measure(sides, 3, clock=clock)
    assert "".join(clock.order) == "ab" + "ba" + "ab" + "ba"
    assert (a.first, a.seconds, a.median, a.compile) == (10, (1, 4, 2), 2, 8)
    assert (b.median, b.compile, b.figures) == (6, 1, {"left": 3})
    assert a.std == pytest.approx(np.std([1, 4, 2], ddof=1))
    assert failed == []
    with pytest.raises(ValueError, match="repeats must be a whole number of at least 1, got 0"):
        measure(sides, 0)


def test_a_peer_that_breaks_is_skipped_and_ours_is_not():
    def broken():
        raise RuntimeError("no such operator")

    clock = Clock()
    bad = Entrant("bad", broken, dict)
    timings, failed = measure([clock.entrant("a", (1, 1)), bad], 1, clock=clock)
    assert [t.entrant.name for t in timings] == ["a"]
    assert notes(timings, failed) == "bad: skipped, failed: RuntimeError: no such operator"
    with pytest.raises(RuntimeError, match="no such operator"):
        measure([bad, clock.entrant("a", (1, 1))], 1, clock=clock)


def test_ratios_are_to_ours_and_count_only_the_same_work():
    sides = [
        timing("ours", 2.0, 2.0),
        timing("cheap", 0.5, same=False, note="fewer steps"),
        timing("slow", 8.0),
        timing("quick", 5.0, 3.0, robust=51.5),
    ]
    assert fastest(sides).entrant.name == "quick"
    assert fastest(sides[:2]) is None
    rows = table(sides, hide=("backwards",))
    assert [row["/ ours"] for row in rows] == [1.0, 0.25, 4.0, 2.0]
    assert list(rows[0]) == [
        "method",
        "seconds",
        "seconds std",
        "compile",
        "/ ours",
        "robust %",
        "forwards",
    ]
    # 3 + 2 passes of 4e9 operations at 20e9 a second are 1 of our 2 seconds.
    row = summarize("PGD", sides, flops=4e9, peak=20e9)
    assert row["peak %"] == pytest.approx(50.0)
    assert (row["ratio"], row["peer"], row["peer %"]) == (2.0, "quick", 51.5)
    assert summarize("PGD", sides[:1], flops=4e9, peak=20e9)["ratio"] is None
    said = notes(marked(sides, images=1000), [])
    assert said == "cheap: fewer steps; quick: weaker by 1.5 points"
    # 3 of 200 images are what another random start may change.
    assert notes(marked(sides, images=200), []) == "cheap: fewer steps"


def test_flops_of_wongs_small_network():
    convs, widths = ((16, 4, 2), (32, 4, 2)), (100,)
    assert arithmetic.sides(convs, 28) == [14, 7]
    layers = (14**2 * 16 * 16 * 1, 7**2 * 32 * 16 * 16, 1568 * 100, 100 * 10)
    assert arithmetic.forward_flops(convs, widths, (28, 28, 1), 10) == 2 * sum(layers)


def test_peak_is_the_best_call(monkeypatch):
    clock = Clock()
    job = clock.entrant("product", (100, 5, 2, 4)).run
    monkeypatch.setattr(arithmetic.time, "perf_counter", clock)
    square = np.zeros((10, 10))
    assert arithmetic.peak(lambda a, b: job(), square, square, repeats=3) == 2 * 10**3 / 2


WEIGHT = np.array([[[0.5], [-0.25]], [[0.75], [0.0]]], np.float32)


def linear(x, y):
    """A classifier of two classes, logits (-w.x + .4, w.x - .4), on 2 x 2 images."""

    def apply(variables, x, **_):
        score = jnp.sum(x * variables.params[None], axis=(1, 2, 3)) - jnp.float32(0.4)
        return jnp.stack([-score, score], axis=1), ()

    model = Model(lambda key, x: Variables(jnp.asarray(WEIGHT)), apply)
    return Subject(model, Variables(jnp.asarray(WEIGHT)), (), (), x, y, 2, "linear")


@pytest.fixture(scope="module")
def images():
    x = np.random.default_rng(0).uniform(0.3, 0.7, (8, 2, 2, 1)).astype(np.float32)
    score = np.sum(x * WEIGHT, axis=(1, 2, 3)) - 0.4
    y = (score > 0).astype(np.int32)
    y[0] = 1 - y[0]  # wrong on the clean image
    return x, y, score


def test_the_judge_believes_no_side(images):
    x, y, score = images
    toward = -np.sign(score).reshape(-1, 1, 1, 1) * np.sign(WEIGHT)
    target, clean = linear(x, y), np.arange(8) > 0
    verdict = judging.judge(target, Linf(0.1), minimum=False)
    assert verdict(x) == {"robust %": 100 * clean.mean()}
    moved = (x + 0.1 * toward).astype(np.float32)
    robust = clean & (np.abs(score) > 0.1 * np.abs(WEIGHT).sum())
    assert 0 < robust.sum() < clean.sum()
    assert verdict(moved) == {"robust %": 100 * robust.mean()}
    # Every image is fooled here, outside the set.
    assert verdict((x + 0.3 * toward).astype(np.float32)) == {"robust %": 100 * clean.mean()}

    distance = np.abs(score) / np.linalg.norm(WEIGHT)
    step = -score / np.linalg.norm(WEIGHT) ** 2
    nearest = (x + 1.01 * step.reshape(-1, 1, 1, 1) * WEIGHT).astype(np.float32)
    judged = judging.judge(target, L2(0.1), minimum=True)(nearest)
    assert judged["median norm"] == pytest.approx(1.01 * np.median(distance[1:]), rel=1e-4)
    assert judged["robust %"] == 100 * (clean & (1.01 * distance > 0.1)).mean()
    assert judging.judge(target, L2(0.1), minimum=True)(x)["median norm"] is None


def test_our_side_attacks_in_batches_and_as_a_suite(images):
    x, y, score = images
    target = linear(x, y)
    pgd = attacks.pgd(Linf(0.1), step_size=0.1, steps=3)
    clean = np.arange(8) > 0
    exact = 100 * (clean & (np.abs(score) > 0.1 * np.abs(WEIGHT).sum())).mean()
    verdict = judging.judge(target, Linf(0.1), minimum=False)
    for suite, passes in (({"pgd": pgd}, 5), ({"pgd": pgd, "again": pgd}, None)):
        side = judging.ours("ours", target, suite, verdict, batch=4, seed=0)
        figures = side.figures(side.run())
        assert figures["robust %"] == exact
        if passes is not None:
            assert (figures["forwards"], figures["backwards"]) == (passes, 3)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Random weights of Wong's small network for 8 x 8 digits, in the released layout."""
    random = np.random.default_rng(0)
    shapes = {"conv1": (16, 1, 4, 4), "conv2": (32, 16, 4, 4), "dense1": (100, 128)}
    arrays = {}
    for name, shape in (shapes | {"dense2": (10, 100)}).items():
        scale = np.sqrt(2 / np.prod(shape[1:]))
        arrays[f"{name}/weight"] = (scale * random.normal(size=shape)).astype(np.float32)
        arrays[f"{name}/bias"] = (0.1 * random.normal(size=shape[0])).astype(np.float32)
    path = tmp_path_factory.mktemp("weights") / "net.npz"
    np.savez(path, **arrays)
    return path


def test_without_peers_the_command_still_times_ours(tmp_path, weights, monkeypatch, capsys):
    monkeypatch.setattr(peers, "installed", lambda package: False)
    monkeypatch.setattr(arithmetic, "SIZE", 64)
    config = Config(
        attacks=("ddn",),
        images=6,
        batch_size=3,
        repeats=2,
        pretrained=weights,
        out=tmp_path,
        settings=Settings(steps=2),
    )
    rows = main(config)
    assert [row["method"] for row in rows] == ["DDN (2)"]
    assert all(row["ours s"] > 0 and row["ratio"] is None for row in rows)
    folder = tmp_path / "digits-6"
    assert json.loads((folder / "summary.json").read_text())["rows"] == rows
    saved = json.loads((folder / "ddn.json").read_text())
    assert [row["method"] for row in saved["rows"]] == ["jaxrobust"]
    assert saved["rows"][0]["forwards"] == 4.0
    missing = "skipped, torch and foolbox not installed, see requirements-bench.txt"
    assert f"foolbox: {missing}" in saved["title"]
    assert "linf 0.2" in saved["title"]
    assert "DDN (2)" in capsys.readouterr().out


def test_a_network_is_trained_where_no_weights_are_given(tmp_path, monkeypatch):
    asked = []

    def fit(*args, **kwargs):
        given = inspect.signature(training.fit).bind(*args, **kwargs).arguments
        asked.append((given["dataset"].train.size, given["epochs"], given["run"]))
        variables = given["model"].init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
        return SimpleNamespace(state=SimpleNamespace(variables=variables))

    monkeypatch.setattr(subject, "training", SimpleNamespace(fit=fit))
    target = subject.load("digits", None, None, 4, tmp_path)
    assert asked == [(1097, recipe("digits", "quick").epochs, tmp_path)]
    assert target.x.shape == (4, 8, 8, 1)
    assert "digits_cnn trained against PGD" in target.label
    logits, _ = target.model.apply(target.variables, jnp.asarray(target.x), train=False)
    assert logits.shape == (4, 10)
    assert target.flops == 2 * (8**2 * 16 * 9 + 4**2 * 32 * 16 * 16 + 512 * 64 + 64 * 10)


def test_every_attack_has_peers_and_an_unsuitable_one_says_why():
    assert set(peer_attacks.PEERS) == set(ATTACKS)
    for attack in ATTACKS:
        assert any(peer.make for peer in peer_attacks.PEERS[attack])
    assert peers.missing(Peer("x", "numpy", None, note="has none")) == "has none"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attacks": ("pdg",)}, "unknown attack 'pdg'; did you mean 'pgd'"),
        ({"attacks": ("pgd", "pgd")}, "once each"),
        ({"images": 10, "batch_size": 4}, "10 does not fill whole batches of 4"),
        ({"images": 501}, "501 does not fill whole batches of 500"),
        ({"images": 1000}, "digits has 500 test images; --images asks 1000"),
        ({"dataset": "cifar10"}, "cifar10"),
        ({"repeats": 0}, "repeats must be"),
    ],
)
def test_mistakes_name_the_value(tmp_path, changes, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        main(Config(**({"out": tmp_path, "data_dir": tmp_path} | changes)))


def test_the_subcommand_ends_a_mistake_in_one_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmark", "attacks", "--attacks", "pdg"])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_module("experiments.benchmark", run_name="__main__")
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith("error: unknown attack 'pdg'; did you mean 'pgd'?")


@needs_torch
def test_the_twin_and_a_plain_pgd_agree_with_ours(tmp_path, weights):
    from experiments.benchmarks.twin import runner, twin

    target = subject.load("digits", weights, None, 4, tmp_path)
    other = twin(target, "cpu")  # compares logits
    settings = Settings(epsilon=0.2, pgd_steps=3, step_size=0.1)
    perturb = peer_attacks.PEERS["pgd"][0].make(other, settings)
    points = runner(perturb, other, target, batch=2, seed=0)()
    assert points.shape == target.x.shape
    assert np.abs(points - target.x).max() <= 0.2 + 1e-6
    assert other.seen == [3 * 4]
    wrong = jax.tree.map(lambda leaf: leaf * 1.01, target.variables)
    kept = target.model
    shifted = Model(kept.init, lambda _, x, **k: kept.apply(wrong, x, **k))
    with pytest.raises(ValueError, match="twin's logits differ"):
        twin(target._replace(model=shifted), "cpu")
