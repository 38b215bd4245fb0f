"""APGD against a float64 re-derivation, closed forms, and figures of the released code."""

import attack_cases as cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import losses
from jaxrobust.attacks import batched, clean, restarts, targeted
from jaxrobust.attacks.apgd import (
    _windows,
    apgd,
    sphere,
)
from jaxrobust.losses import dlr_or_margin, targeted_dlr_or_margin
from jaxrobust.threats import L1, L2, Linf

CHECKS = (22, 41, 57, 70, 80, 87, 93, 99)
KEY = jax.random.key(0)
NORMS = ("linf", "l2")


def test_checks_fall_where_the_paper_puts_them():
    windows = _windows(100)
    assert tuple(np.nonzero(windows)[0]) == CHECKS
    assert tuple(windows[windows > 0]) == (22, 19, 16, 13, 10, 7, 6, 6)
    # 10 steps: floor(.22 N) = 2, then never below one step, of which .03 N is less.
    assert tuple(np.nonzero(_windows(10))[0]) == (2, 3, 4, 5, 6, 7, 8, 9, 10)
    assert tuple(_windows(1)) == (0, 1)


class Retraced:
    """APGD of 100 steps written out for cross-entropy on `net`, one step after the other."""

    def __init__(self, norm, net, x, y, start, radius, rho):
        def project(z):
            return np.clip(x + cases.np_project(norm, radius, z - x), 0, 1)

        def look(z):
            return cases.np_cross_entropy(net, z, y), cases.np_gradient(net, z, y)

        self.path = [start]
        self.few = self.stuck = 0
        z, before = start, start
        value, g = look(z)
        f = [value]
        best = (value, z, g)
        adversarial = z if cases.np_fooled(net, z, y) else None
        eta, was_halved, best_then, last = 2 * radius, True, value, 0
        for i in range(100):
            a = 0.75 if i else 1.0
            aim = project(z + eta * cases.np_steepest(norm, g))
            z, before = project(z + a * (aim - z) + (1 - a) * (z - before)), z
            self.path.append(z)
            value, g = look(z)
            f.append(value)
            if cases.np_fooled(net, z, y):
                adversarial = z
            if value > best[0]:
                best = (value, z, g)
            if i + 1 in CHECKS:
                rises = sum(f[j] > f[j - 1] for j in range(last + 1, i + 2))
                few = rises <= rho * (i + 1 - last)
                stuck = not was_halved and best[0] == best_then
                self.few += few
                self.stuck += stuck and not few
                was_halved, best_then, last = few or stuck, best[0], i + 1
                if was_halved:
                    eta /= 2
                    _, z, g = best
        self.fooled = adversarial is not None
        self.result = adversarial if self.fooled else best[1]


@pytest.mark.parametrize("norm", NORMS)
def test_every_iterate_is_that_of_the_definition(norm):
    rng = np.random.default_rng(3)
    radius = 2 * cases.RADII[norm]
    seen, few, stuck, outcomes = [], 0, 0, set()
    with jax.enable_x64(True):

        @cases.compiled
        def run(net, x, y, start, rho):
            def f(z):
                jax.debug.callback(lambda z: seen.append(np.array(z)), z, ordered=True)
                return cases.logits(net, z)

            threat = cases.THREATS[norm](radius)
            attack = apgd(threat, rho=rho, start=lambda key, threat, x: start)
            return attack.bare(KEY, f, x, y)

        for seed in range(12):
            # Steep tanh units make a rugged loss. The second rule decides alone only where the loss
            # rises often without reaching its best, which a smaller rho lets through.
            net = cases.random_net(seed)
            net = net._replace(w1=8 * net.w1)
            x = rng.uniform(size=cases.SHAPE)
            y = int(np.argmax(cases.np_logits(net, x)))
            d = rng.normal(size=cases.SHAPE)
            start = np.clip(x + radius * d / cases.np_size(norm, d), 0, 1)
            rho = 0.75 if seed % 2 else 0.5
            expected = Retraced(norm, net, x, y, start, radius, rho)
            seen.clear()
            result = run(cases.to_jax(net, np.float64), x, y, start, rho)
            jax.effects_barrier()
            assert len(seen) == 102  # a start, 100 steps, and the judge's look
            np.testing.assert_allclose(seen[:-1], expected.path, atol=1e-9, err_msg=str(seed))
            np.testing.assert_allclose(result.x, expected.result, atol=1e-9)
            assert bool(result.success) == expected.fooled
            assert (int(result.forwards), int(result.backwards)) == (102, 101)
            few, stuck = few + expected.few, stuck + expected.stuck
            outcomes.add(expected.fooled)
    # Both rules have halved the step, and both kinds of point have been returned.
    assert min(few, stuck) > 0
    assert outcomes == {True, False}


@pytest.mark.parametrize("norm", NORMS)
def test_starts_on_the_sphere_and_in_the_box(norm):
    keys = jax.random.split(KEY, 50)
    x = np.random.default_rng(0).uniform(size=(3, 2, 2)).astype(np.float32)
    free = cases.THREATS[norm](0.3, -jnp.inf, jnp.inf)
    z = np.asarray(jax.vmap(lambda k: sphere(k, free, x))(keys))
    sizes = [cases.np_size(norm, a - x) for a in z]
    np.testing.assert_allclose(sizes, 0.3, rtol=1e-5)
    assert np.abs((z - x).mean(0)).max() < 0.15
    assert len(np.unique(z[:, 0, 0, 0])) > 10
    boxed = np.asarray(jax.vmap(lambda k: sphere(k, cases.THREATS[norm](0.3), x))(keys))
    np.testing.assert_allclose(boxed, np.clip(z, 0, 1), atol=1e-6)


@cases.compiled
def run(attack, net, x, y):
    return batched(attack, KEY, lambda z: cases.logits(net, z), x, y)


X = np.random.default_rng(1).uniform(size=(4, *cases.SHAPE)).astype(np.float32)
X[1, 0, 0], X[2, 1, 1] = 0.0, 1.0
NET = cases.random_net(1)
Y = np.array([np.argmax(cases.np_logits(NET, x)) for x in X], np.int32)
ONES = np.ones(4, np.int32)


@pytest.mark.parametrize("norm", NORMS)
def test_linear_model_closed_form(norm):
    w = np.random.default_rng(5).normal(size=cases.SIZE)
    net = cases.to_jax(cases.linear_net(w, -6.0))
    radius = cases.RADII[norm]
    free = run(apgd(cases.THREATS[norm](radius, -jnp.inf, jnp.inf)), net, X, np.zeros(4, np.int32))
    best = X.reshape(4, -1) @ w - 6 + radius * cases.np_dual_norm(norm, w)
    np.testing.assert_allclose(free.margin, best, atol=1e-4)
    boxed = run(apgd(cases.THREATS[norm](radius, 0.0, 1.0)), net, X, np.zeros(4, np.int32))
    assert boxed.inside.all()
    if norm == "linf":
        corner = np.clip(X.reshape(4, -1) + radius * np.sign(w), 0, 1)
        np.testing.assert_allclose(boxed.margin, corner @ w - 6, atol=1e-4)


@pytest.mark.parametrize("norm", NORMS)
def test_degenerate_inputs(norm):
    traces = []

    @cases.compiled
    def run(attack, net, x, y):
        def f(z):
            traces.append(1)
            return cases.logits(net, z)

        return batched(attack, KEY, f, x, y)

    threat, net = cases.THREATS[norm], cases.to_jax(NET)
    usual = run(apgd(threat(0.3)), net, X, Y)
    compilations = len(traces)
    still = run(apgd(threat(0.0)), net, X, Y)
    np.testing.assert_array_equal(still.x, X)
    assert not still.success.any()
    assert run(apgd(threat(0.05), rho=0.5), net, X, Y).norm.max() <= 0.05 + 1e-6

    flat = net._replace(w2=0 * net.w2, v=0 * net.v, b2=jnp.array([2.0, 0.0, 1.0]))
    constant = run(apgd(threat(0.3)), flat, X, np.zeros(4, np.int32))
    assert all(np.isfinite(leaf).all() for leaf in constant)
    assert not constant.success.any()
    broken = run(apgd(threat(0.3)), net._replace(b2=jnp.full(3, jnp.nan, jnp.float32)), X, Y)
    assert broken.success.all()
    assert np.isfinite(broken.x).all()

    ruined = X.copy()
    ruined[2] = np.nan
    beside = run(apgd(threat(0.3)), net, ruined, Y)
    for i in (0, 1, 3):
        np.testing.assert_array_equal(beside.x[i], usual.x[i])
    assert len(traces) == compilations, "another radius, rho or model recompiled"


def plateau(logits, y):
    """Zero everywhere, with the gradient of the label's negative logit."""
    return jax.lax.stop_gradient(logits[y]) - logits[y]


def test_only_a_strictly_higher_loss_replaces_the_best_point():
    # The label's logit falls with every step, yet the loss says nothing: the start stays the best.
    attack = apgd(Linf(0.2), steps=5, start=clean, loss=plateau)
    safe = run(attack, cases.to_jax(cases.linear_net(np.ones(cases.SIZE), 100.0)), X, ONES)
    assert not safe.success.any()
    np.testing.assert_array_equal(safe.x, X)
    # The steps were taken: where they fool, the latest is returned.
    broken = run(attack, cases.to_jax(cases.linear_net(np.ones(cases.SIZE), -100.0)), X, ONES)
    assert broken.success.all()
    assert (broken.x <= X).all()
    assert (broken.norm > 0).all()


def test_radii_can_bestacked():
    stack = apgd(Linf(jnp.array([0.0, 0.1, 0.3])), steps=10)
    f = lambda z: cases.logits(cases.to_jax(NET), z)  # noqa: E731
    curve = cases.compiled(jax.vmap(lambda a: a(KEY, f, X[0], Y[0])))(stack)
    assert curve.norm[0] == 0
    np.testing.assert_allclose(curve.norm[1:], [0.1, 0.3], rtol=1e-4)
    assert curve.loss[0] < curve.loss[1] < curve.loss[2]


def test_input_shape_is_only_a_view():
    attack, net = apgd(L2(0.2), steps=20), cases.to_jax(NET)
    go = cases.compiled(lambda x: attack(KEY, lambda z: cases.logits(net, z), x, Y[0]))
    flat = go(X[0].reshape(6))
    for shape in ((3, 2), (1, 2, 3)):
        shaped = go(X[0].reshape(shape))
        assert shaped.x.shape == shape
        np.testing.assert_allclose(shaped.x.reshape(6), flat.x, atol=1e-5)


def test_losses_by_number_of_classes():
    z = jnp.array([0.5, 2.0, -1.0, 0.1, 0.3])
    y, t = jnp.int32(1), jnp.int32(2)
    assert dlr_or_margin(z[:2], y) == losses.margin(z[:2], y)
    assert dlr_or_margin(z[:3], y) == losses.dlr(z[:3], y)
    assert targeted_dlr_or_margin(z[:3], y, t) == losses.targeted_margin(z[:3], y, t)
    assert targeted_dlr_or_margin(z[:4], y, t) == losses.targeted_dlr(z[:4], y, t)
    assert targeted_dlr_or_margin(z, y, t) == pytest.approx(-3.0 / (2.0 - 0.2))


def test_two_classes():
    net = cases.random_net(4, classes=2)
    y = int(np.argmax(cases.np_logits(net, X[2])))
    f = lambda z: cases.logits(cases.to_jax(net), z)  # noqa: E731
    plain = apgd(Linf(1.0), steps=20, loss=dlr_or_margin)
    aimed = targeted(apgd(Linf(1.0), steps=20), loss=targeted_dlr_or_margin, targets=9)
    for attack in (plain, aimed):
        result = cases.compiled(lambda a: a(KEY, f, X[2], jnp.int32(y)))(attack)
        assert result.inside
        assert bool(result.success) == cases.np_fooled(net, np.asarray(result.x, np.float64), y)
        assert result.margin > losses.margin(f(X[2]), jnp.int32(y)) + 0.1


def rivals(slopes, offsets):
    """Class 0 has logit 0; rival k has slopes[k] times the pixel of its own, plus offsets[k]."""
    v = np.zeros((len(slopes) + 1, cases.SIZE))
    for k, slope in enumerate(slopes):
        v[k + 1, k] = slope
    net = cases.linear_net(np.zeros(cases.SIZE), 0.0)
    return net._replace(v=v, b2=np.concatenate([[0.0], offsets]), w2=np.zeros((len(v), 5)))


def test_targets_are_the_likeliest_wrong_classes_in_order():
    # At the clean point (all pixels .5) the rivals' logits are -1, -2, -3, -4. Only the third can
    # rise above zero within radius .3, so that it takes three targets to fool the model.
    net = cases.to_jax(rivals([1.0, 1.0, 14.0, 1.0], [-1.5, -2.5, -10.0, -4.5]))
    x, y = jnp.full(cases.SHAPE, 0.5, jnp.float32), jnp.int32(0)

    def attack(targets):
        aimed = targeted(apgd(Linf(0.3), steps=10), loss=targeted_dlr_or_margin, targets=targets)
        return cases.compiled(lambda: aimed(KEY, lambda z: cases.logits(net, z), x, y))()

    two, three = attack(2), attack(3)
    assert not two.success
    assert two.margin == pytest.approx(-0.7, abs=1e-5)
    assert three.success
    assert three.margin == pytest.approx(1.2, abs=1e-5)
    assert (int(three.forwards), int(three.backwards)) == (3 * 13 + 1, 3 * 11)


def test_any_misclassification_counts_and_the_latest_one_is_returned():
    # The first target, rival 1, never gets past -.1, but its pixel is rival 2's as well.
    net = rivals([1.0, 4.0, 0.0, 0.0], [-0.9, -2.9, -5.0, -5.0])
    net.v[2] = [4.0, *[0.0] * 5]
    x = jnp.full(cases.SHAPE, 0.5, jnp.float32)
    aimed = targeted(apgd(Linf(0.3), steps=10), loss=targeted_dlr_or_margin, targets=1)
    f = lambda z: cases.logits(cases.to_jax(net), z)  # noqa: E731
    result = cases.compiled(lambda: aimed.bare(KEY, f, x, jnp.int32(0)))()
    assert f(result.x)[1] < 0 < f(result.x)[2]
    assert result.success


def test_restarts_are_never_weaker_and_cost_their_sum():
    net, attack = cases.to_jax(NET), apgd(L2(0.4), steps=10)
    f = lambda z: cases.logits(net, z)  # noqa: E731
    single = cases.compiled(lambda k: attack.bare(k, f, X[0], Y[0]))
    many = cases.compiled(lambda a: a.bare(KEY, f, X[0], Y[0]))(restarts(attack, 3))
    runs = [single(k) for k in jax.random.split(KEY, 3)]
    strongest = max(runs, key=lambda r: (bool(r.success), float(r.loss)))
    np.testing.assert_allclose(many.x, strongest.x, atol=1e-5)
    assert len({float(r.loss) for r in runs}) > 1
    assert (int(many.forwards), int(many.backwards)) == (36, 33)


def test_refusals():
    with pytest.raises(TypeError, match="L1; use apgd_l1"):
        apgd(L1(1.0))
    with pytest.raises(TypeError, match="needs a Linf or L2"):
        sphere(KEY, L1(1.0), jnp.zeros(3))
    with pytest.raises(ValueError, match="steps must be"):
        apgd(Linf(0.1), steps=0)
    with pytest.raises(ValueError, match="rho must be"):
        apgd(Linf(0.1), rho=-0.1)


def first_test_images(shared, count):
    from jaxrobust.data.tfds import tfds

    position = np.load(shared / "reference" / "mnist_test_order.npz")["position"]
    test = tfds("mnist", data_dir=shared / "tensorflow_datasets").read("test", position[:count])
    return jnp.asarray(test.x, jnp.float32) / 255, jnp.asarray(test.y)


@pytest.mark.slow
def test_agrees_with_the_released_code_on_a_released_model(shared):
    from jaxrobust.models import load_pretrained

    count, name = 60, "mnist_small_fgsm_linf_0.3"
    x, y = first_test_images(shared, count)
    model, variables = load_pretrained(name, shared / "pretrained")
    f = model.logits_fn(variables)
    reference = np.load(shared / "reference" / "autoattack_mnist.npz")
    attacks = {
        "apgd-ce": apgd(Linf(0.3)),
        "apgd-t": targeted(apgd(Linf(0.3)), loss=targeted_dlr_or_margin, targets=9),
    }
    for kind, attack in attacks.items():
        result = jax.jit(lambda x, y, attack=attack: batched(attack, KEY, f, x, y))(x, y)
        assert result.inside.all()
        robust = reference[f"{name}/{kind}"][:count]
        assert 5 < (~robust).sum() < count
        assert (robust == ~np.asarray(result.success)).mean() > 0.95
