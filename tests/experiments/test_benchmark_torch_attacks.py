"""The AutoAttack in PyTorch: closed forms, a linear program, ours, torchattacks."""

import functools
import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import scipy.optimize

from experiments.benchmark import (
    judging,
    memory,
    peers,
    subject,
    torch_apgd,
    torch_autoattack,
    torch_fab,
    torch_square,
    torch_survivors,
)
from experiments.benchmark.attacks import Config, main
from experiments.benchmark.options import Run
from experiments.benchmark.peer_attacks import PEERS
from experiments.benchmark.settings import Settings, ours
from experiments.benchmark.twin import Twin, twin
from experiments.common import arithmetic
from jaxrobust.threats import Linf

torch = pytest.importorskip("torch")

SHAPE = (2, 4, 4)
"""Channels, height, width."""


def linear(classes: int, bias: float = 0.0) -> Twin:
    """A linear classifier of images of `SHAPE` with logits that lean on every pixel."""
    random = np.random.default_rng(classes)
    layer = torch.nn.Linear(int(np.prod(SHAPE)), classes)
    weight = random.normal(size=(classes, int(np.prod(SHAPE)))).astype(np.float32)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weight))
        layer.bias.fill_(0.0)
        layer.bias[0] = bias
    network = torch.nn.Sequential(torch.nn.Flatten(), layer).requires_grad_(False)
    seen = [0]

    def count(_, inputs):
        seen[0] += len(inputs[0])

    network[0].register_forward_pre_hook(count)
    return Twin(network, classes, SHAPE, seen)


def gray(count: int, seed: int = 0):
    """Images in the middle of the box, far from its walls."""
    random = np.random.default_rng(seed)
    x = random.uniform(0.4, 0.6, (count, *SHAPE)).astype(np.float32)
    return torch.from_numpy(x)


def labeled(target: Twin, x):
    y = target.network(x).argmax(1)
    target.seen[0] = 0
    return y


def reach(target: Twin, x, y):
    """Least linf distance to each wrong class `[B, K]` in closed form, inf for the label's own."""
    weight = target.network[1].weight
    logits = target.network(x)
    gaps = logits.gather(1, y[:, None]) - logits
    slopes = (weight[None] - weight[y][:, None]).abs().sum(2)
    target.seen[0] = 0
    return torch.where(gaps > 0, gaps / slopes, float("inf"))


def test_apgd_checks_where_the_paper_does():
    ends = {22: 22, 41: 19, 57: 16, 70: 13, 80: 10, 87: 7, 93: 6, 99: 6}
    assert torch_apgd.windows(100) == ends
    assert torch_apgd.windows(3) == {1: 1, 2: 1, 3: 1}


def test_apgd_reaches_the_corner_of_a_linear_model():
    target, x = linear(2), gray(6)
    y = labeled(target, x)
    loss = functools.partial(torch.nn.functional.cross_entropy, reduction="none")
    points, fooled = torch_apgd.ascend(target.network, loss, x, y, epsilon=0.3, steps=10)
    assert target.seen == [6 * 11]
    assert fooled.all()
    weight = target.network[1].weight
    toward = (weight[1 - y] - weight[y]).sign().reshape(x.shape)
    torch.testing.assert_close(points, x + 0.3 * toward)
    # A radius below the least distance breaks none, one between breaks some.
    distance = reach(target, x, y).amin(1)
    middle = float(distance.sort().values[2:4].mean())
    _, fooled = torch_apgd.ascend(target.network, loss, x, y, epsilon=middle, steps=10)
    assert torch.equal(fooled, distance < middle)


def test_the_step_halves_and_the_search_resumes_from_the_best():
    """On -|z - 1/2| a step of 2 radii overshoots: only shorter ones come to the top."""

    class Tent(torch.nn.Module):
        def forward(self, z):
            return -(z.flatten(1) - 0.45).abs().sum(1, keepdim=True)

    def loss(logits, y):
        return logits[:, 0]

    highest = []

    def recorded(logits, y):
        highest.append(float(logits.detach().max()))
        return loss(logits, y)

    x = torch.full((1, 1, 1, 3), 0.5)
    torch.manual_seed(0)
    torch_apgd.ascend(Tent(), recorded, x, torch.zeros(1, dtype=torch.long), epsilon=0.2, steps=100)
    assert len(highest) == 101
    assert max(highest[:10]) < -0.03
    assert max(highest) > -0.01


def test_targeted_apgd_takes_the_targets_in_turn_on_survivors():
    target, x = linear(5), gray(40)
    y = labeled(target, x)
    distance = reach(target, x, y)
    radius = float(distance.amin(1).median())
    settings = Settings(epsilon=radius, steps=5)
    points = torch_apgd.apgd_t(target, settings)(x, y)
    passes = target.seen[0]
    broken = target.network(points).argmax(1) != y
    assert torch.equal(broken, distance.amin(1) < radius)
    assert (points - x).abs().max() <= radius + 1e-6
    # A clean pass, then a pass for the target and 6 of the attack for each that still stands.
    standing = int((~broken).sum())
    assert 40 + 4 * 7 * standing < passes < 40 + 4 * 7 * 40
    torch.testing.assert_close(points[~broken], x[~broken])


def test_the_targeted_ratio_is_the_papers():
    logits = torch.tensor([[3.0, 1.0, 0.5, -2.0, -4.0]])
    loss = torch_apgd.targeted_dlr(torch.tensor([2]))
    assert float(loss(logits, torch.tensor([0]))) == pytest.approx(-2.5 / (3 - (0.5 - 2) / 2))


def test_fab_finds_the_least_distance_to_a_linear_boundary():
    target, x = linear(5), gray(12)
    y = labeled(target, x)
    true = reach(target, x, y)
    for rank in (1, 2, 4):
        toward = torch_survivors.rival(target.network, x, rank)
        assert (toward != y).all()
        points, distance = torch_fab.walk(target.network, x, y, toward, steps=30)
        nearest = true.amin(1)
        assert (target.network(points).argmax(1) != y).all()
        torch.testing.assert_close((points - x).abs().flatten(1).amax(1), distance)
        assert (distance >= nearest * (1 - 1e-4)).all()
        assert (distance <= 1.01 * true.gather(1, toward[:, None]).squeeze(1)).all()


def test_fab_counts_only_points_within_the_radius():
    target, x = linear(5), gray(40)
    y = labeled(target, x)
    distance = reach(target, x, y).amin(1)
    radius = float(distance.median())
    points = torch_fab.fab_t(target, Settings(epsilon=radius, steps=20))(x, y)
    broken = target.network(points).argmax(1) != y
    assert not broken[distance > radius].any()
    assert broken[1.02 * distance < radius].all()
    assert (points - x).abs().max() <= radius


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 2.0])
def test_the_shortest_move_solves_a_linear_program(share):
    random = np.random.default_rng(int(10 * share))
    points = random.uniform(size=(8, 30)).astype(np.float32)
    points[:, :4] = np.round(points[:, :4])  # at a wall
    weights = random.normal(size=(8, 30)).astype(np.float32)
    weights[:, 5:9] = 0
    weights[6] = 0
    up = np.where(np.arange(8) % 2, 1, -1)
    room = np.where(weights * up[:, None] > 0, 1 - points, points)
    most = (np.abs(weights) * room).sum(1)
    change = (share * most * up).astype(np.float32)
    moves = torch_fab.shortest(*map(torch.from_numpy, (points, weights, change))).numpy()
    assert (moves[weights == 0] == 0).all()
    assert (points + moves).min() >= -1e-6
    assert (points + moves).max() <= 1 + 1e-6
    spent = (weights * moves).sum(1)
    np.testing.assert_allclose(spent, up * np.minimum(np.abs(change), most), atol=2e-5)
    if share >= 1:  # no point of the box is on the plane: the nearest vertex
        np.testing.assert_allclose(np.abs(moves), np.where(weights != 0, room, 0), atol=1e-6)
        return
    for z, w, c, d in zip(points, weights, change, moves, strict=True):
        n = len(z)
        eye = np.eye(n)
        level = -np.ones((n, 1))
        solved = scipy.optimize.linprog(
            np.eye(n + 1)[n],
            A_ub=np.block([[eye, level], [-eye, level]]),
            b_ub=np.zeros(2 * n),
            A_eq=np.append(w, 0)[None],
            b_eq=[c],
            bounds=[*zip(-z, 1 - z, strict=True), (0, None)],
        )
        assert np.abs(d).max() == pytest.approx(solved.fun, rel=1e-4, abs=1e-6)


def test_windows_of_square_shrink_as_released():
    assert [torch_square.side(q, 784) for q in (0, 10, 11, 50, 51)] == [25, 25, 18, 18, 13]
    assert torch_square.side(4999, 784) == 2  # .8 / 128 of the image, not .8 / 512
    assert torch_square.side(9999, 16) == 1


def test_square_stays_inside_and_stops_at_the_first_wrong_point():
    target = linear(3)
    x = torch.from_numpy(np.random.default_rng(1).uniform(size=(20, *SHAPE)).astype(np.float32))
    y = labeled(target, x)
    torch.manual_seed(0)
    points, fooled = torch_square.search(target.network, x, y, epsilon=0.6, queries=300)
    passes = target.seen[0]
    assert points.min() >= 0
    assert points.max() <= 1
    assert (points - x).abs().max() <= 0.6 + 1e-6
    assert torch.equal(target.network(points).argmax(1) != y, fooled)
    assert fooled.sum() > 15
    assert passes < 20 * 301 / 2
    # Every pixel is at an end of its range.
    ends = torch.stack([(x - 0.6).clamp(min=0), (x + 0.6).clamp(max=1)])
    assert ((points - ends).abs().amin(0) == 0).all()
    # Where no point fools, every query is of every image.
    target.seen[0] = 0
    points, fooled = torch_square.search(target.network, x, y, epsilon=1e-4, queries=30)
    assert not fooled.any()
    assert target.seen == [20 * 31]


def test_square_climbs():
    target, x = linear(2), gray(5)
    y = labeled(target, x)

    def margins(points):
        logits = target.network(points)
        return logits.gather(1, y[:, None]).squeeze(1) - logits.gather(1, 1 - y[:, None]).squeeze(1)

    radius = 0.99 * float(reach(target, x, y).amin())
    torch.manual_seed(0)
    few, many = (
        torch_square.search(target.network, x, y, epsilon=radius, queries=queries)[0]
        for queries in (1, 400)
    )
    assert (margins(many) < margins(few)).all()
    assert (margins(many) > 0).all()


def test_attempts_see_survivors_packed_anew():
    target = linear(2)
    x = gray(11)
    y = labeled(target, x)
    y[3] = 1 - y[3]  # wrong on the clean image
    index = {tuple(image.flatten().tolist()): i for i, image in enumerate(x)}
    calls = []

    def attempt(breaks):
        def run(images, labels):
            rows = [index[tuple(image.flatten().tolist())] for image in images]
            assert torch.equal(labels, y[rows])
            calls.append(rows)
            return images + 1, torch.tensor([row in breaks for row in rows])

        return run

    attempts = [attempt({0, 3, 9}), attempt({5}), attempt(set(range(11))), attempt({1})]
    found = torch_survivors.in_turn(target.network, attempts, x, y, batch=4)
    assert calls == [
        *([0, 1, 2, 4], [5, 6, 7, 8], [9, 10]),
        *([1, 2, 4, 5], [6, 7, 8, 10]),
        *([1, 2, 4, 6], [7, 8, 10]),
    ]
    moved = torch.arange(11) != 3
    torch.testing.assert_close(found, x + torch_survivors.rows(moved))


def test_the_suite_leaves_the_intersection_of_what_its_parts_leave():
    target, x = linear(5), gray(30)
    y = labeled(target, x)
    radius = float(reach(target, x, y).amin(1).median())
    settings = Settings(epsilon=radius, steps=3, queries=20)
    parts = [part(target, settings)(x, y) for part in torch_autoattack.PARTS]
    robust = [target.network(points).argmax(1) == y for points in parts]
    whole = torch_autoattack.suite(target, settings)(x, y, 8)
    assert torch.equal(target.network(whole).argmax(1) == y, torch.stack(robust).all(0))
    assert (whole - x).abs().max() <= radius + 1e-6
    assert 0 < int(robust[0].sum()) < 30


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("network")
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam mixes types
        target = subject.load("digits", None, None, 50, folder)
    return target, twin(target, "cpu")


def robust(name, target, other, settings, peer):
    verdict = judging.judge(target, Linf(settings.epsilon), minimum=False)
    (side,), skipped = peers.entrants([peer], other, target, settings, verdict, batch=25, seed=0)
    assert not skipped
    return side.figures(side.run())["robust %"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["apgd", "apgdt", "fab", "square", "autoattack"])
def test_the_algorithm_is_as_strong_as_ours_on_digits(digits, name):
    target, other = digits
    settings = Settings(epsilon=0.2)
    verdict = judging.judge(target, Linf(0.2), minimum=False)
    mine = judging.ours("ours", target, ours(name, settings), verdict, batch=25, seed=0)
    here = mine.figures(mine.run())["robust %"]
    assert 0 < here < 90
    there = robust(name, target, other, settings, PEERS[name][0])
    # 2 of 50 images; Square may leave more: as released it never redraws the last row and column,
    # which are 15 of these 64 pixels.
    assert -4 <= there - here <= (10 if name == "square" else 4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["apgd", "apgdt", "fab", "square"])
def test_the_algorithm_is_as_strong_as_torchattacks(digits, name):
    pytest.importorskip("torchattacks")
    target, other = digits
    settings = Settings(epsilon=0.2, steps=50)
    chosen = [PEERS[name][0], next(p for p in PEERS[name] if p.name == "torchattacks")]
    written, packaged = (robust(name, target, other, settings, peer) for peer in chosen)
    assert abs(written - packaged) <= 4


def test_the_compiled_network_is_for_a_gpu_and_counts_images(monkeypatch):
    target, x = linear(4), gray(3)
    for name in ("apgd", "apgdt", "fab", "square", "autoattack"):
        compiled = PEERS[name][1]
        asked = SimpleNamespace(x=x)
        ready, skipped = peers.entrants(
            [compiled], target, asked, Settings(), lambda points: {}, batch=3, seed=0
        )
        assert not ready
        assert [s.reason for s in skipped] == ["for cuda alone, and this is the cpu"]

    modes, compile_ = [], torch.compile

    def eager(network, *, mode):
        modes.append(mode)
        return compile_(network, backend="eager")

    monkeypatch.setattr(torch, "compile", eager)
    plain = target.network(x)
    fast = torch_autoattack.compiled(target)
    target.seen[0] = 0
    for size in (3, 2, 3):
        torch.testing.assert_close(fast.network(x[:size]), plain[:size])
    assert target.seen == fast.seen == [8]
    assert modes == ["reduce-overhead"]


def test_the_command_times_the_algorithm_beside_ours(tmp_path, weights, monkeypatch):
    monkeypatch.setattr(peers, "installed", lambda package: package == "torch")
    monkeypatch.setattr(arithmetic, "SIZE", 64)
    config = Config(
        attacks=("apgdt",),
        images=6,
        batch_size=3,
        run=Run(repeats=1, pretrained=weights, out=tmp_path),
        settings=Settings(steps=2),
    )
    (row,) = main(config)
    assert row["method"] == "APGD-T (2)"
    assert row["peer"].startswith("authors' algorithm in PyTorch")
    saved = json.loads((tmp_path / "digits-6" / "apgdt.json").read_text())
    for side in saved["rows"]:
        assert (side["peak MB"] is None) == (not memory.STATM.exists())
        assert "compile" in side
    assert "compiled network, PyTorch: skipped, for cuda alone" in saved["title"]


def test_a_suite_gets_all_images_and_the_batch_size():
    target, x = linear(4), gray(6)
    calls = []

    def make(other, settings):
        def perturb(x, y, batch):
            calls.append((len(x), batch))
            return x

        return perturb

    images = SimpleNamespace(x=x.numpy().transpose(0, 2, 3, 1), y=np.zeros(6, np.int32))
    (side,), _ = peers.entrants(
        [peers.Peer("suite", "torch", make, whole=True)],
        target,
        images,
        Settings(),
        lambda points: {},
        batch=2,
        seed=0,
    )
    side.run()
    assert calls == [(6, 2)]


def test_memory_is_what_a_call_adds_at_its_peak():
    levels = iter([100, 130, 170, 120])
    level = [100]

    def used():
        level[0] = next(levels, 120)
        return level[0]

    def run():
        while level[0] != 120:
            pass

    assert memory.sampled(run, used) == 70

    def hold():
        import time

        block = np.ones(2**23)  # 64 MiB, touched
        time.sleep(10 * memory.EVERY)
        return block[0]

    if memory.STATM.exists():
        assert memory.host(hold) == pytest.approx(2**26, rel=0.1)
