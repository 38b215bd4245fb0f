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
import scipy.optimize
import scipy.special

from experiments.benchmark import (
    distances,
    judging,
    peer_attacks,
    peers,
    projections,
    sinkhorn,
    subject,
    torch_sinkhorn,
    wasserstein,
)
from experiments.benchmark.attacks import Config, main, marked, summarize
from experiments.benchmark.options import Run
from experiments.benchmark.peers import Peer
from experiments.benchmark.settings import ATTACKS, Settings
from experiments.benchmark.subject import Subject
from experiments.benchmark.timing import Entrant, Timing, fastest, measure, notes, table
from experiments.common import arithmetic
from experiments.common.recipes import recipe
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
    # 3 steps, the last point, the verdict, and the clean example
    for suite, passes in (({"pgd": pgd}, 6), ({"pgd": pgd, "again": pgd}, None)):
        side = judging.ours("ours", target, suite, verdict, batch=4, seed=0)
        figures = side.figures(side.run())
        assert figures["robust %"] == exact
        if passes is not None:
            assert (figures["forwards"], figures["backwards"]) == (passes, 3)


@pytest.mark.slow
def test_without_peers_the_command_still_times_ours(tmp_path, weights, monkeypatch, capsys):
    monkeypatch.setattr(peers, "installed", lambda package: False)
    monkeypatch.setattr(arithmetic, "SIZE", 64)
    config = Config(
        attacks=("ddn",),
        images=6,
        batch_size=3,
        run=Run(repeats=2, pretrained=weights, out=tmp_path),
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
        ({"run": {"dataset": "cifar10"}}, "cifar10"),
        ({"run": {"repeats": 0}}, "repeats must be"),
    ],
)
def test_mistakes_name_the_value(tmp_path, changes, message):
    run = Run(**{"out": tmp_path, "data_dir": tmp_path} | changes.get("run", {}))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        main(Config(**changes | {"run": run}))


def test_the_subcommand_ends_a_mistake_in_one_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmark", "attacks", "--attacks", "pdg"])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_module("experiments.benchmark", run_name="__main__")
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith("error: unknown attack 'pdg'; did you mean 'pgd'?")


@needs_torch
def test_the_twin_and_a_plain_pgd_agree_with_ours(tmp_path, weights):
    from experiments.benchmark.twin import runner, twin

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


def moved(seed, shape):
    """Images of mass 1 with blank pixels, and targets."""
    random = np.random.default_rng(seed)
    x = random.uniform(size=shape) * (random.uniform(size=shape) < 0.7)
    x /= x.sum(axis=(1, 2), keepdims=True)
    return x, x + 0.05 * random.choice([-1.0, 1.0], size=shape)


def dense_projection(x, w, radius, lam, costs):
    """The projection by maximizing equation 5.6 of Wong's thesis over all pairs of pixels."""
    x, w, n = x.ravel(), w.ravel(), x.size

    def terms(v):
        alpha, beta, psi = v[:n], v[n : 2 * n], v[-1]
        plan = np.exp(alpha[:, None] - psi * costs - 1 + beta)
        value = -beta @ beta / (2 * lam) - psi * radius + alpha @ x + beta @ w - plan.sum()
        slope = (x - plan.sum(1), w - beta / lam - plan.sum(0), [(plan * costs).sum() - radius])
        return -value, -np.concatenate(slope)

    bounds = [(-40, None)] * n + [(None, None)] * n + [(0, None)]
    start = np.concatenate([np.full(2 * n, -np.log(n)), [1.0]])
    options = {"maxiter": 5000, "maxfun": 20000, "ftol": 1e-16, "gtol": 1e-10}
    found = scipy.optimize.minimize(
        terms, start, jac=True, bounds=bounds, method="L-BFGS-B", options=options
    )
    return w - found.x[n : 2 * n] / lam


@needs_torch
def test_the_torch_iteration_solves_the_published_dual():
    import torch

    y = np.concatenate([np.linspace(-70, 60, 99), [1e4]])
    omega = torch_sinkhorn.wright_omega(torch.from_numpy(y)).numpy()
    np.testing.assert_allclose(omega, scipy.special.wrightomega(y), rtol=1e-12)

    x, w = moved(0, (2, 3, 4))
    cost, lam, radius = projections.sinkhorn.window(3), 50.0, 0.2
    solve = lambda tolerance, *rows: torch_sinkhorn.projected(  # noqa: E731
        *map(torch.from_numpy, rows), radius=radius, lam=lam, cost=cost, tolerance=tolerance
    )
    found = solve(1e-8, x, w)
    costs = distances.between(cost, (3, 4))
    beyond = np.where(costs < distances.FAR, costs, 1e3)
    for row in range(2):
        true = dense_projection(x[row], w[row], radius, lam, beyond).reshape(3, 4)
        np.testing.assert_allclose(found.z[row].numpy(), true, atol=1e-6)
    alone = solve(1e-8, x[1:], w[1:])
    np.testing.assert_allclose(alone.z[0], found.z[1], atol=1e-12)
    assert int(alone.rounds[0]) == int(found.rounds[1])

    # Stopped early it is inside all the same: mass, budget, sign.
    early = solve(0.3, x, w)
    assert (early.rounds < found.rounds).all()
    np.testing.assert_allclose(early.z.sum((1, 2)), 1, atol=1e-12)
    assert (early.z >= 0).all()
    for row in range(2):
        spent = distances.program(x[row].ravel(), early.z[row].numpy().ravel(), costs)
        assert spent <= float(early.cost[row]) + 1e-9 <= radius + 2e-9


@needs_torch
def test_the_torch_attack_rests_at_the_first_wrong_point(tmp_path, weights):
    from experiments.benchmark.twin import runner, twin

    target = subject.load("digits", weights, None, 4, tmp_path)
    target = target._replace(y=np.where(np.arange(4) < 2, 1, target.y))  # all are taken for ones
    other = twin(target, "cpu")
    perturb = torch_sinkhorn.growing(
        other,
        radius=0.2,
        factor=1.5,
        every=1,
        steps=3,
        step_size=0.1,
        lam=1000.0,
        cost=projections.sinkhorn.window(3),
        tolerance=1e-3,
    )
    points = runner(perturb, other, target, batch=4, seed=0)()
    logits, _ = target.model.apply(target.variables, target.x, train=False)
    right = np.argmax(logits, axis=1) == target.y
    assert 0 < right.sum() < 4
    np.testing.assert_array_equal(points[~right], target.x[~right])
    assert (np.abs(points - target.x).max(axis=(1, 2, 3))[right] > 1e-3).all()
    assert points.min() >= 0
    assert points.max() <= 1
    assert 4 + right.sum() <= other.seen[0] <= 4 + 2 * right.sum()


def test_errors_of_a_projection_are_relative_to_the_way_and_of_the_worst_image():
    x = np.zeros((2, 1, 2, 1), np.float32)
    x[:, 0, 0] = 2.0
    truth = np.array([[1.0, 1.0], [1.5, 0.5]]).reshape(x.shape)
    z = truth + np.array([[1e-3, -1e-3], [2e-3, -1e-3]]).reshape(x.shape)
    ball = projections.Ball(0.5, 1000.0, np.zeros((1, 1)))
    answer = projections.Answer(z, np.array([1e-6, 3e-6]), np.array([0.5, 0.25]), np.array([2, 4]))
    figures = projections.evidence(projections.Case(x, x, truth), ball, answer)
    assert figures["error ppm"] == pytest.approx(1e6 * np.hypot(2e-3, 1e-3) / np.hypot(0.5, 0.5))
    assert figures["residual ppm"] == pytest.approx(3.0)
    assert figures["mass ppm"] == pytest.approx(500.0)
    assert (figures["cost"], figures["rounds"]) == (0.5, 3.0)


def test_the_distance_is_judged_by_a_linear_program():
    cost = projections.sinkhorn.window(3)
    x, z = np.zeros((2, 3, 3))
    x[0, 0], x[2, 2] = 3.0, 1.0
    z[0, 1], z[1, 1], z[2, 2] = 2.0, 1.0, 1.0
    given = distances.pairs(x[None, ..., None], z[None, ..., None], cost)
    # Of four quarters two go straight and one goes diagonally.
    assert given.distances[0] == pytest.approx((2 + np.sqrt(2)) / 4)
    z[2, 2], z[0, 2] = 0.0, 1.0
    with pytest.raises(ValueError, match="no local plan"):
        distances.pairs(x[None, ..., None], z[None, ..., None], cost)


def test_only_peers_as_accurate_as_ours_count():
    def side(name, seconds, error):
        return Timing(Entrant(name, lambda: None, dict), 9.0, (seconds,), {"error ppm": error})

    sides = [
        side("ours", 1.0, 5.0),
        side("loose", 2.0, 5.1),
        side("nan", 2.0, float("nan")),
        side("exact", 4.0, 0.0),
        side("slow", 9.0, 5.0),
    ]
    row = sinkhorn.summarize("projection", sinkhorn.accurate(sides))
    assert (row["peer"], row["ratio"], row["peer ppm"]) == ("exact", 4.0, 0.0)
    assert sinkhorn.rated({"images": 4, "seconds": 0.5})["images / s"] == 8.0


@pytest.mark.slow
def test_transport_is_timed_without_peers(tmp_path, weights, monkeypatch):
    # Stands in for what takes long to compile and is tested elsewhere; projections are real.
    def distance(x, z, *, cost):
        total = jnp.sum(z)
        return projections.sinkhorn.Distance(0.1 * total, 0.2 * total, 0 * total, total > 0)

    monkeypatch.setattr(projections.sinkhorn, "distance", distance)
    monkeypatch.setattr(wasserstein, "Wasserstein", lambda radius, **_: L2(radius))
    monkeypatch.setattr(peers, "installed", lambda package: False)
    config = sinkhorn.Config(
        images=2,
        pairs=1,
        attacked=1,
        steps=2,
        window=3,
        run=Run(repeats=1, pretrained=weights, out=tmp_path),
    )
    rows = sinkhorn.main(config)
    folder = tmp_path / "sinkhorn-digits-2"
    assert json.loads((folder / "summary.json").read_text())["rows"] == rows
    assert [row["method"] for row in rows] == list(sinkhorn.JOBS)
    assert all(row["ours s"] > 0 and row["ratio"] is None for row in rows)
    saved = [json.loads((folder / f"{job}.json").read_text()) for job in sinkhorn.JOBS]
    projection, compared, attack = saved

    first, published = projection["rows"]
    assert first["error ppm"] < 1000 > published["error ppm"]
    assert max(first["cost"], published["cost"]) <= 0.5 + 1e-5
    assert max(first["mass ppm"], published["mass ppm"]) < 10
    assert "PyTorch: skipped, torch not installed" in projection["title"]

    (only,) = compared["rows"]
    true = 0.1 / (1 - only["lower ppm"] / 1e6)
    assert only["distance"] == pytest.approx(0.2)
    assert only["error ppm"] == pytest.approx(1e6 * abs(0.2 / true - 1), rel=1e-4)
    assert 0.05 < true < 0.5
    assert "POT: skipped, pot not installed" in compared["title"]

    few, whole = attack["rows"]
    assert (few["images"], whole["images"]) == (1, 2)
    assert whole["images / s"] == 2 / whole["seconds"]
    assert whole["fooled %"] + whole["robust %"] >= 100
    assert "PyTorch: skipped, torch not installed" in attack["title"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"jobs": ("atack",)}, "unknown job 'atack'; did you mean 'attack'"),
        ({"jobs": ("attack", "attack")}, "once each"),
        ({"images": 5, "pairs": 6}, "--pairs 6 is more than --images 5"),
        ({"tolerances": (1e-3, 0.0)}, "tolerances must be"),
        ({"window": 4}, "odd"),
    ],
)
def test_mistakes_in_transport_name_the_value(tmp_path, weights, changes, message):
    options = {"run": Run(pretrained=weights, out=tmp_path), "images": 10} | changes
    with pytest.raises(ValueError, match=message):
        sinkhorn.main(sinkhorn.Config(**options))
