"""Bounds against released figures, sampled points, brute force and finite differences."""

import dual_cases as cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxrobust import duals
from jaxrobust.duals import relaxations
from jaxrobust.models import load_cascade
from jaxrobust.threats import L1, L2, Linf, Union, Wasserstein

RELEASED = ("wong_kolter",)
BALLS = {"linf": Linf, "l2": L2, "linf_box": Linf}
ALL = ("interval", "wong_kolter", "crown")


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


def reference_cnn(w, x):
    h = x[None]
    for i in (0, 2):
        h = lax.conv_general_dilated(h, w[f"{i}.weight"], (2, 2), ((1, 1), (1, 1)))
        h = jax.nn.relu(h + w[f"{i}.bias"].reshape(1, -1, 1, 1))
    h = jax.nn.relu(w["5.weight"] @ h.reshape(-1) + w["5.bias"])
    return w["7.weight"] @ h + w["7.bias"]


def reference_residual(w, x):
    def affine(name, h):
        return w[f"{name}.weight"] @ h + w[f"{name}.bias"]

    h1 = jax.nn.relu(affine("0.Ws.0", x))
    h2 = jax.nn.relu(affine("2.Ws.0", h1))
    return affine("6", jax.nn.relu(affine("4.Ws.0", h1) + affine("4.Ws.2", h2)))


NETWORKS = {"cnn": reference_cnn, "residual": reference_residual}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", NETWORKS)
def test_wong_kolter_equals_the_released_code(shared, name, dtype):
    with np.load(shared / "reference" / f"dual_random_{name}.npz") as reference:
        reference = dict(reference)
    weights = {k[2:]: jnp.asarray(v, dtype) for k, v in reference.items() if k.startswith("w/")}
    balls = BALLS if dtype == np.float64 else {"linf": Linf}

    @jax.jit
    def bound(x, y, radii):
        def one(x, y, ball):
            options = {"methods": RELEASED, "boxed": ball == "linf_box"}
            return duals.margin_bounds(
                lambda x: NETWORKS[name](weights, x), x, y, BALLS[ball](radii[ball]), **options
            )

        return {k: jax.vmap(one, (0, 0, None))(x, y, k) for k in balls}

    keys = [k for k in reference if k.startswith("lower/")]
    for rank in (0, 1):
        radii = {b: [k for k in keys if f"/{b}/" in k][rank].split("/")[-1] for b in balls}
        found = bound(
            jnp.asarray(reference["x"], dtype),
            jnp.asarray(reference["y"]),
            {b: jnp.asarray(float(r), dtype) for b, r in radii.items()},
        )
        for ball, radius in radii.items():
            expected = reference[f"lower/{ball}/{radius}"]
            atol = 1e-9 if dtype == np.float64 else 1e-4
            np.testing.assert_allclose(found[ball], expected, atol=atol, rtol=0)
    # two radii, one program
    assert bound._cache_size() == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "weights", "radius", "threat"),
    [
        ("mnist_linf_0.1", "mnist_small_dual_linf_0.1", 0.1, Linf),
        ("cascade_mnist_linf_0.3", "mnist_small_dual_cascade_linf_0.3", 0.3, Linf),
        ("cascade_cifar_linf_8_255", "cifar_small_dual_cascade_linf_8_255", 8 / 255, Linf),
        ("cascade_cifar_l2_36_255", "cifar_small_dual_cascade_l2_36_255", 36 / 255, L2),
    ],
)
def test_released_networks_have_their_released_robust_logits(shared, name, weights, radius, threat):
    tfds = pytest.importorskip("tensorflow_datasets")
    data = "cifar10" if "cifar" in name else "mnist"
    source = tfds.data_source(data, split="test", data_dir=shared / "tensorflow_datasets")
    with np.load(shared / "reference" / f"dual_{name}.npz") as reference:
        reference = dict(reference)
    index = reference["index"][:4]
    if data == "mnist":
        with np.load(shared / "reference" / "mnist_test_order.npz") as order:
            index = order["position"][index]
    records = [source[int(i)] for i in index]
    x = jnp.asarray(np.stack([r["image"] for r in records]), jnp.float32) / 255
    logits = reference["robust_logits"]
    stages = logits[None] if logits.ndim == 2 else logits
    own = np.array([r["label"] for r in records])[None].repeat(len(stages), 0)
    labels = reference.get("predicted", own)
    models = load_cascade(weights, shared / "pretrained")
    for (model, variables), expected, y in zip(models, stages, labels, strict=True):

        def bound(x, y, model=model, variables=variables):
            f = model.logits_fn(variables)
            return duals.margin_bounds(f, x, y, threat(radius), methods=RELEASED)

        found = jax.jit(jax.vmap(bound))(x, jnp.asarray(y[:4]))
        lost = -found - expected[:4]
        # theirs, less what rounding could have taken: below a thousandth of a row's largest
        assert (lost > -2e-5 * np.abs(expected[:4]) - 2e-4).all()
        assert (lost < 1e-3 * np.abs(expected[:4]).max(axis=1, keepdims=True)).all()


PIECEWISE = ("steep leaky_relu", "hard_tanh", "abs", "global max")
SMOOTH = ("sigmoid", "tanh", "softplus", "maximum")


@pytest.mark.slow
@pytest.mark.parametrize("names", [PIECEWISE, SMOOTH])
def test_bounds_hold_at_sampled_points(names):
    f = cases.mlp((jax.nn.relu, cases.mixed(*names)), cases.weights(0, (4, 6, 16, 3)))
    x = jnp.asarray(np.random.default_rng(5).uniform(size=4))
    C = jnp.concatenate([jnp.eye(3), -jnp.eye(3)])
    threat = Linf(0.2)

    @jax.jit
    def bound(x):
        where = duals.prepare(f, x, threat)
        inner = []
        for method in ALL:
            boxes = duals.hidden_boxes(where, methods=(method,))
            rows = duals.row_bounds(where, C, boxes, methods=(method,))
            inner.append((boxes, [where.values[n.source.id] for n in where.graph.nodes], rows))
        return inner

    values = jax.jit(jax.vmap(f))(cases.ball_points(threat, x)) @ C.T
    for boxes, sources, rows in bound(x):
        assert np.all(rows <= values.min(axis=0))
        assert np.all(np.isfinite(rows))
        for box, z in zip(boxes, sources, strict=True):
            assert np.all((box.lower <= z) & (z <= box.upper))


@pytest.mark.slow
def test_bounds_hold_on_other_balls_and_a_box_tightens_them():
    f = cases.mlp(jax.nn.relu, cases.weights(1, (4, 6, 3)))
    x = jnp.asarray([0.05, 0.95, 0.5, 0.9])
    C = jnp.concatenate([jnp.eye(3), -jnp.eye(3)])
    threats = (L2(0.4), Union((Linf(0.1), L1(0.6))))

    @jax.jit
    def bound(x):
        return [
            [duals.lower_bounds(f, x, C, t, methods=RELEASED, boxed=b) for b in (False, True)]
            for t in threats
        ]

    for threat, (plain, boxed) in zip(threats, bound(x), strict=True):
        members = threat.members if isinstance(threat, Union) else (threat,)
        points = jnp.concatenate([cases.ball_points(m, x) for m in members])
        values = jax.vmap(f)(points) @ C.T
        assert np.all(plain <= values.min(axis=0))
        assert np.all(plain > values.min(axis=0) - 2)
        inside = np.all((points >= 0) & (points <= 1), axis=1)
        assert np.all(boxed <= values[inside].min(axis=0))
        # on average: Wong-Kolter's slopes follow the boxes, and not every row gains
        assert np.mean(boxed) > np.mean(plain)


@pytest.mark.parametrize("boxed", [False, True])
def test_affine_networks_are_bounded_exactly_with_a_radius_per_coordinate(boxed):
    rng = np.random.default_rng(0)
    A, b, x = rng.normal(size=(2, 5)), rng.normal(size=2), rng.uniform(size=5)
    radius = rng.uniform(size=5)
    low = np.maximum(-radius, -x) if boxed else -radius
    high = np.minimum(radius, 1 - x) if boxed else radius
    expected = A @ x + b + np.where(A > 0, A * low, A * high).sum(axis=1)
    found = duals.lower_bounds(
        lambda x: A @ x + b, jnp.asarray(x), jnp.eye(2), Linf(radius), boxed=boxed
    )
    np.testing.assert_allclose(found, expected, atol=1e-13)


def test_interval_bounds_are_loosest_and_both_slopes_best():
    f, x = cases.mlp(jax.nn.relu, cases.weights(0, (4, 8, 8, 3))), jnp.full(4, 0.5)
    rows, threat = jnp.concatenate([jnp.eye(3), -jnp.eye(3)]), Linf(0.3)
    interval, dual, best = jax.jit(
        lambda x: [
            duals.lower_bounds(f, x, rows, threat, methods=m) for m in (ALL[:1], ALL[:2], ALL)
        ]
    )(x)
    assert np.all(interval <= dual)
    assert np.all(interval <= best)
    # on average: with other boxes Wong-Kolter's slopes change, and a row may lose
    assert np.mean(best) > np.mean(dual)


def test_rows_that_share_a_pass_give_what_rows_alone_give():
    f, x = cases.cnn(), jnp.asarray(np.random.default_rng(1).uniform(size=(8, 8, 1)))
    radius = np.random.default_rng(2).uniform(0.1, 0.4, size=x.shape)
    shared = []

    @jax.jit
    def boxes(x):
        where = duals.prepare(f, x, Linf(radius), boxed=True)
        shared.append(where.coloring)
        return [
            duals.hidden_boxes(w, methods=("interval", "crown"))
            for w in (where, where._replace(coloring={}))
        ]

    together, alone = boxes(x)
    # 3 x 3 windows at stride 2 need four passes per channel in place of nine
    assert [s.colors for s in shared[0].values()] == [4]
    for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)


def test_chunks_and_vmap_change_nothing():
    f = cases.cnn()
    x = jnp.asarray(np.random.default_rng(2).uniform(size=(2, 8, 8, 1)))

    def bound(x, chunk):
        return duals.lower_bounds(f, x, jnp.eye(3), Linf(0.1), methods=RELEASED, chunk=chunk)

    batch = jax.jit(jax.vmap(lambda x: bound(x, None)))(x)
    chunked = jax.jit(lambda x: bound(x, 3))
    np.testing.assert_allclose(batch, jnp.stack([chunked(v) for v in x]), atol=1e-12)


@pytest.mark.slow
def test_gradients_are_finite_differences():
    rng = np.random.default_rng(3)

    def bound(weights, x, radius):
        def f(x):
            return weights[1] @ jax.nn.softplus(jax.nn.relu(weights[0] @ x) - 0.3)

        return jnp.sum(duals.lower_bounds(f, x, jnp.eye(3), Linf(radius), methods=RELEASED))

    weights = (jnp.asarray(rng.normal(size=(6, 4))), jnp.asarray(rng.normal(size=(3, 6))))
    arguments = (weights, jnp.full(4, 0.4), jnp.asarray(0.1))
    direction = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=np.shape(a))), arguments)
    gradient = jax.jit(jax.value_and_grad(bound, argnums=(0, 1, 2)))
    above, below = (
        gradient(*jax.tree.map(lambda a, d, s=s: a + s * d, arguments, direction))[0]
        for s in (1e-6, -1e-6)
    )
    slopes = jax.tree.map(lambda g, d: jnp.sum(g * d), gradient(*arguments)[1], direction)
    np.testing.assert_allclose(sum(jax.tree.leaves(slopes)), (above - below) / 2e-6, rtol=1e-5)


@pytest.mark.parametrize("fault", ["upper line too low", "lines swapped", "slope negated", None])
def test_planted_sign_errors_are_caught(monkeypatch, fault):
    """The comparison with sampled points can fail: each fault lets some beat their bound."""
    good = relaxations.relaxation("relu")

    def lines(l, u, alpha):  # noqa: E741
        made = good.lines(l, u, alpha)
        if fault == "upper line too low":
            return made._replace(upper_intercept=-made.upper_intercept)
        if fault == "lines swapped":
            return duals.Lines(*made[2:], *made[:2])
        if fault == "slope negated":
            return made._replace(lower_slope=-made.lower_slope)
        return made

    monkeypatch.setitem(relaxations._REGISTRY, "relu", good._replace(lines=lines))
    x, threat = jnp.full(4, 0.4), Linf(0.3)
    points = cases.ball_points(threat, x)
    stacked = jax.tree.map(lambda *w: np.stack(w), *(cases.weights(s, (4, 6, 3)) for s in range(8)))

    @jax.jit
    def beaten(parameters):
        f = cases.mlp(jax.nn.relu, parameters)
        found = duals.lower_bounds(f, x, jnp.eye(3), threat, methods=RELEASED)
        return found > jax.vmap(f)(points).min(axis=0)

    assert np.any(jax.vmap(beaten)(stacked)) == (fault is not None)


def test_float32_bounds_stay_below_float64_ones():
    stacked = jax.tree.map(lambda *w: np.stack(w), *map(cases.weights, range(50)))
    x = np.random.default_rng(0).uniform(size=(50, 4)).astype(np.float32)

    def bound(parameters, x):
        f = cases.mlp(jax.nn.relu, parameters)
        return duals.lower_bounds(f, x, jnp.eye(3, dtype=x.dtype), Linf(0.05), methods=RELEASED)

    single = jax.tree.map(lambda w: w.astype(np.float32), stacked)
    double = jax.tree.map(lambda w: w.astype(np.float64), single)
    low = jax.jit(jax.vmap(bound))(single, x)
    high = jax.jit(jax.vmap(bound))(double, x.astype(np.float64))
    assert low.dtype == jnp.float32
    assert np.all(np.asarray(low, np.float64) <= high)
    np.testing.assert_allclose(low, high, atol=5e-5)


def test_nan_never_certifies_and_huge_radii_stay_sound():
    f, x = cases.mlp(jax.nn.relu, cases.weights()), jnp.full(4, 0.4)
    bound = jax.jit(lambda x, r: duals.lower_bounds(f, x, jnp.eye(3), Linf(r), methods=ALL))
    assert not np.any(bound(x.at[0].set(jnp.nan), 0.1) > -np.inf)
    where = duals.prepare(f, x, Linf(0.1))
    (node, _), nan = where.graph.nodes, jnp.full(6, jnp.nan)
    for box in (duals.Box(nan, nan + 1), duals.Box(jnp.ones(6), nan), duals.Box(nan, -jnp.ones(6))):
        for method in ALL:
            gaps = duals.relax(where, node, box, method)[2:4]
            assert np.all(np.isnan(gaps))
    far = bound(x, 1e300)
    assert np.all(far < -1e200)
    assert not np.any(bound(x, jnp.inf) > -1e200)


def test_refusals():
    f, x = cases.mlp(jax.nn.relu, cases.weights()), jnp.full(4, 0.4)
    with pytest.raises(ValueError, match="did you mean 'crown'"):
        duals.lower_bounds(f, x, jnp.eye(3), Linf(0.1), methods=("crwn",))
    with pytest.raises(ValueError, match=r"C must have shape \[rows, 3\]"):
        duals.lower_bounds(f, x, jnp.eye(4), Linf(0.1))
    with pytest.raises(ValueError, match="map over a stack"):
        duals.lower_bounds(f, x, jnp.eye(3), Linf(np.array([0.1, 0.2])))
    with pytest.raises(ValueError, match="methods must be a sequence"):
        duals.lower_bounds(f, x, jnp.eye(3), Linf(0.1), methods=())
    where = duals.prepare(f, x, Linf(0.1))
    boxes, node = duals.hidden_boxes(where, methods=ALL), where.graph.nodes[0]
    with pytest.raises(ValueError, match="unknown method 'crwn'; did you mean 'crown'"):
        duals.relax(where, node, boxes[0], "crwn")
    with pytest.raises(ValueError, match=r"box\.lower must have the node's shape \(6,\), got"):
        duals.relax(where, node, duals.Box(jnp.zeros(2), jnp.ones(2)), "crown")
    with pytest.raises(ValueError, match=r"alpha must have the node's shape \(6,\), got \(\)"):
        duals.relax(where, node, boxes[0], "crown", jnp.float32(0.5))
    for methods in ("crown", ("crwn",), ()):
        with pytest.raises(ValueError, match="method"):
            duals.hidden_boxes(where, methods=methods)
        with pytest.raises(ValueError, match="method"):
            duals.row_bounds(where, jnp.eye(3), boxes, methods=methods)
    with pytest.raises(ValueError, match=r"C must have shape \[rows, 3\]"):
        duals.row_bounds(where, jnp.eye(4), boxes, methods=ALL)
    with pytest.raises(ValueError, match="boxes must have one entry for each of 2 nodes, got 1"):
        duals.row_bounds(where, jnp.eye(3), boxes[:1], methods=ALL)
    with pytest.raises(ValueError, match="alphas must have one entry for each of 2 nodes, got 0"):
        duals.hidden_boxes(where, methods=ALL, alphas=())
    for chunk in (0, -1, 1.5):
        with pytest.raises(ValueError, match="chunk must be a whole number of at least 1"):
            duals.lower_bounds(f, x, jnp.eye(3), Linf(0.1), chunk=chunk)
        with pytest.raises(ValueError, match="chunk must be a whole number of at least 1"):
            duals.row_bounds(where, jnp.eye(3), boxes, methods=ALL, chunk=chunk)
    assert duals.METHODS == ALL


def test_margins_are_those_of_one_vector_and_one_of_its_classes():
    f, x = cases.mlp(jax.nn.relu, cases.weights()), jnp.full(4, 0.4)
    others = (lambda x: f(x)[0], lambda x: f(x)[:0], lambda x: f(x)[None], lambda x: [f(x)])
    for other in others:
        with pytest.raises(ValueError, match=r"f must map one example \(4,\) to logits \[K\], got"):
            duals.margin_bounds(other, x, jnp.int32(0), Linf(0.1))
    for y in (-1, 3, jnp.int32(-1)):
        with pytest.raises(ValueError, match="is none of 3 classes, counted from 0"):
            duals.margin_bounds(f, x, y, Linf(0.1))
    for y in (0.0, True, jnp.zeros(2, int)):
        with pytest.raises(ValueError, match="y must be one integer"):
            duals.margin_rows(y, 3, jnp.float32)
    with pytest.raises(ValueError, match="num_classes must be a whole number of at least 1, got 0"):
        duals.margin_rows(0, 0, jnp.float32)


def test_support_knows_its_sets_and_its_direction():
    x = jnp.full(4, 0.4)
    for threat in (Wasserstein(0.1), None, 0.1):
        with pytest.raises(ValueError, match="duals bound Linf, L2 and L1 balls and their unions"):
            duals.support(threat, x, x)
    for direction in (jnp.ones(3), jnp.ones((2, 4)), 1.0):
        with pytest.raises(ValueError, match=r"direction must have x's shape \(4,\), got"):
            duals.support(Linf(0.1), x, direction)
