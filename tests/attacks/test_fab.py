"""FAB against a float64 loop by hand, and against the released code's verdicts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attack_cases as cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import data, models
from jaxrobust.attacks import batched
from jaxrobust.attacks.fab import _halfway, fab
from jaxrobust.threats import Linf

NET = cases.random_net(2)
X = np.random.default_rng(7).uniform(0.3, 0.7, cases.SHAPE)
X[0, 0], X[1, 1] = 0.0, 1.0
LABEL = int(np.argmax(cases.np_logits(NET, X)))
KEY = jax.random.key(0)
STEPS = 15


def np_jacobian(net: cases.Net, x: np.ndarray) -> np.ndarray:
    h = np.tanh(net.w1 @ x.reshape(-1) + net.b1)
    return net.w2 @ (net.w1 * (1 - h**2)[:, None]) + net.v


def np_move(threat: str, z: np.ndarray, w: np.ndarray, change: float) -> np.ndarray:
    """By plain bisection, or for l1 one coordinate after another."""
    up = np.sign(w) * np.sign(change)
    room, size = np.where(up > 0, 1 - z, z), np.abs(w)
    if threat == "l1":
        rest, lengths = abs(change), np.zeros_like(z)
        for i in np.argsort(-size):
            lengths[i] = min(room[i], rest / size[i])
            rest -= size[i] * lengths[i]
        return up * lengths
    pace = np.ones_like(w) if threat == "linf" else size
    low, high = 0.0, 1e6
    for _ in range(200):
        middle = (low + high) / 2
        enough = size @ np.minimum(middle * pace, room) > abs(change)
        low, high = (low, middle) if enough else (middle, high)
    return up * np.minimum(low * pace, room)


def np_fab(threat: str, target: int | None) -> tuple[np.ndarray, float]:
    x = X.ravel()
    z, best, least = x, x, np.inf
    for _ in range(STEPS):
        scores, jacobian = cases.np_logits(NET, z), np_jacobian(NET, z)
        others = [j for j in range(3) if j != LABEL] if target is None else [target]
        gaps = {j: scores[j] - scores[LABEL] for j in others}
        slopes = {j: jacobian[j] - jacobian[LABEL] for j in others}
        j = min(others, key=lambda j: abs(gaps[j]) / cases.np_dual_norm(threat, slopes[j]))
        ahead = np_move(threat, z, slopes[j], -gaps[j])
        home = np_move(threat, x, slopes[j], -gaps[j] - slopes[j] @ (x - z))
        a, b = (max(cases.np_size(threat, d), 1e-8) for d in (ahead, home))
        alpha = min(a / (a + b), 0.1)
        z = np.clip((1 - alpha) * (z + 1.05 * ahead) + alpha * (x + 1.05 * home), 0, 1)
        if cases.np_fooled(NET, z, LABEL):
            if cases.np_size(threat, z - x) < least:
                best, least = z, cases.np_size(threat, z - x)
            z = x + 0.9 * (z - x)
    return best, least


def attacked(attack: Any) -> Any:
    net = cases.to_jax(NET, np.float64)
    go = cases.compiled(
        lambda a: a(KEY, lambda z: cases.logits(net, z), jnp.asarray(X), jnp.int32(LABEL))
    )
    return go(attack)


@pytest.mark.parametrize("threat", sorted(cases.THREATS))
def test_follows_the_float64_loop(threat: str) -> None:
    targets = [j for j in range(3) if j != LABEL]
    walks = [np_fab(threat, t) for t in targets]
    assert np.isfinite([least for _, least in walks]).any()
    best, least = min(walks, key=lambda w: w[1])
    with jax.enable_x64():
        result = attacked(fab(cases.THREATS[threat](0.1), steps=STEPS))
    np.testing.assert_allclose(result.x.ravel(), best, atol=1e-9)
    assert float(result.norm) == pytest.approx(least, abs=1e-9)
    assert (int(result.forwards), int(result.backwards)) == (2 + 4 * STEPS, 2 * STEPS)


def test_the_untargeted_form_follows_its_loop() -> None:
    best, least = np_fab("l2", None)
    with jax.enable_x64():
        result = attacked(fab(cases.THREATS["l2"](0.1), steps=STEPS, targets=None))
    np.testing.assert_allclose(result.x.ravel(), best, atol=1e-9)
    assert np.isfinite(least)
    assert (int(result.forwards), int(result.backwards)) == (2 + 2 * STEPS, 3 * STEPS)


@pytest.mark.slow
def test_more_targets_never_lose_and_chunks_change_nothing() -> None:
    threat = cases.THREATS["linf"](0.3)
    with jax.enable_x64():
        one = attacked(fab(threat, steps=5, targets=1))
        two = attacked(fab(threat, steps=5, targets=2, restarts=2))
        chunked = attacked(fab(threat, steps=5, targets=2, restarts=2, chunk=3))
    assert float(one.norm) + 1e-12 >= float(two.norm)
    assert int(two.backwards) == 2 * 2 * 5
    np.testing.assert_allclose(chunked.x, two.x, atol=1e-12)


@pytest.mark.slow
def test_restarts_leave_a_flat_clean_point() -> None:
    f = lambda z: jnp.stack([jnp.float32(0.05), jnp.sum((z - 0.5) ** 2)])  # noqa: E731
    threat, x = cases.THREATS["l2"](1.0), jnp.full(4, 0.5)
    run = lambda restarts: fab(threat, steps=20, restarts=restarts)(KEY, f, x, jnp.int32(0))  # noqa: E731
    assert not run(1).success
    assert float(run(3).norm) == pytest.approx(np.sqrt(0.05), rel=0.02)


@pytest.mark.parametrize("name", sorted(cases.THREATS))
def test_later_walks_start_half_the_radius_away(name: str) -> None:
    x = jnp.asarray(X, jnp.float32)
    keys = jax.random.split(KEY, 20)
    free = cases.THREATS[name](0.2, -jnp.inf, jnp.inf)
    for threat, least in ((free, 0.1), (cases.THREATS[name](0.2), 0.0)):
        starts = jax.vmap(lambda k, t=threat: _halfway(k, t, x))(keys)
        sizes = np.array([cases.np_size(name, s - np.float32(X)) for s in np.asarray(starts)])
        assert (sizes <= 0.1 + 1e-6).all()
        assert (sizes >= least - 1e-6).all()
        assert len({s.tobytes() for s in np.asarray(starts)}) == 20
    assert starts.min() >= 0
    assert starts.max() <= 1


def test_impossible_settings() -> None:
    threat = cases.THREATS["linf"](0.1)
    for name in ("steps", "targets", "restarts", "chunk"):
        with pytest.raises(ValueError, match=f"{name} must be a whole number of at least 1"):
            fab(threat, **{name: 0})
    for name in ("alpha_max", "eta", "beta"):
        with pytest.raises(ValueError, match=f"{name} must be finite and at least 0"):
            fab(threat, **{name: -1.0})
    with pytest.raises(TypeError, match="L1, L2 or Linf threat"):
        fab(object())  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["fgsm"])
def test_agrees_with_the_released_code(shared: Path, kind: str) -> None:
    """FAB-T on the first images of the test set, a verdict each (measured there on 1,000)."""
    count, name = 40, f"mnist_small_{kind}_linf_0.3"
    order = np.load(shared / "reference" / "mnist_test_order.npz")["position"][:count]
    correct = np.load(shared / "reference" / "autoattack_mnist.npz")[f"{name}/fab-t"][:count]
    test = data.load("mnist", data_dir=shared / "tensorflow_datasets").test
    x, y = data.to_float(test.x[order]), jnp.asarray(test.y[order])
    model, variables = models.load_pretrained(name, shared / "pretrained")
    f = model.logits_fn(variables)
    attack = fab(Linf(0.3), chunk=3)
    with jax.numpy_dtype_promotion("standard"):
        result = jax.jit(lambda a: batched(a, KEY, f, x, y))(attack)
    assert not correct.all()
    np.testing.assert_array_equal(~np.asarray(result.success), correct)
