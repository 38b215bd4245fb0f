"""Every reference network: parameter counts, shapes, precision, modes."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from model_cases import filled, run
from sklearn.datasets import load_digits

from jaxrobust.models import build, from_linen, wide_resnet
from jaxrobust.models.registry import NETWORKS

TINY = {
    "resnet18": {"features": (4, 6), "blocks": 1},
    "preact_resnet18": {"stem": 4, "features": (4, 6), "blocks": 1},
    "resnet50": {"width": 4, "blocks": (1, 1)},
}
NORMALIZED = ["fosc_mnist", "preact_resnet18", "resnet18", "resnet50"]
# the others are the same classes with other sizes
SMALL = ["dale_mnist", "mlp", "trades_small", "union_mnist", "wong_small", *NORMALIZED]


def small(name, **options):
    return build(name, 5, {**TINY.get(name, {}), **options})


def images(batch=3, side=17, channels=2, dtype=jnp.float32):
    random = np.random.default_rng(1)
    return jnp.asarray(random.uniform(size=(batch, side, side + 1, channels)), dtype)


COUNTS = [
    # published, or summed by hand from the layers of the source
    ("resnet18", {}, (32, 32, 3), 11_173_962),
    ("preact_resnet18", {}, (32, 32, 3), 11_172_170),
    ("preact_resnet18", {"shortcut": "raw", "initialization": "torch"}, (32, 32, 3), 11_172_170),
    ("wide_resnet", {"depth": 34, "width": 10}, (32, 32, 3), 46_160_474),
    ("wide_resnet", {"depth": 28, "width": 10}, (32, 32, 3), 36_479_194),
    ("wide_resnet_34_10", {}, (32, 32, 3), 46_160_474),
    ("wide_resnet_28_10", {}, (32, 32, 3), 36_479_194),
    ("gowal_wide_resnet", {"depth": 28, "width": 10}, (32, 32, 3), 36_479_194),
    # shortcuts of 3 x 3 instead of 1 x 1
    (
        "gowal_preact_resnet18",
        {},
        (32, 32, 3),
        11_172_170 + 8 * (64 * 128 + 128 * 256 + 256 * 512),
    ),
    ("wong_small", {}, (28, 28, 1), 166_406),
    ("wong_large", {}, (28, 28, 1), 1_974_762),
    ("single_conv", {"filters": 8}, (32, 32, 3), (27 * 8 + 8) + (32 * 32 * 8 * 10 + 10)),
    ("trades_small", {}, (28, 28, 1), 312_202),
    ("dale_mnist", {}, (28, 28, 1), 1_199_882),
    (
        "union_mnist",
        {},
        (28, 28, 1),
        (25 * 32 + 32) + (800 * 64 + 64) + (3136 * 1024 + 1024) + 10_250,
    ),
    ("fosc_mnist", {}, (28, 28, 1), 320 + 64 + 18_496 + 128 + 3136 * 128 + 128 + 1290),
    (
        "fosc_cifar",
        {},
        (32, 32, 3),
        (27 * 64 + 64)
        + (576 * 64 + 64)
        + (576 * 128 + 128)
        + (1152 * 128 + 128)
        + (1152 * 196 + 196)
        + (1764 * 196 + 196)
        + 4 * (64 + 128 + 196)
        + (16 * 196 * 256 + 256)
        + 2570,
    ),
    ("mlp", {}, (28, 28, 1), 784 * 256 + 256 + 256 * 256 + 256 + 2570),
    ("digits_cnn", {}, (8, 8, 1), 160 + 8224 + 512 * 64 + 64 + 650),
]


@pytest.mark.parametrize(("name", "options", "shape", "count"), COUNTS)
def test_parameter_count(name, options, shape, count):
    model = from_linen(build(name, 10, options))
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *shape)))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes.params)) == count


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_any_size_channels_and_classes(name):
    model = from_linen(build(name, 7))
    x = jax.ShapeDtypeStruct((3, 33, 30, 2), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
    logits = jax.eval_shape(lambda v, x: model.apply(v, x, train=False)[0], variables, x)
    assert logits.shape == (3, 7)
    assert logits.dtype == jnp.float32


@pytest.mark.parametrize(
    ("name", "dtype", "tolerance"),
    [(name, "bfloat16", 0.1) for name in SMALL]
    # three more significant bits; one network with batch normalization and one without
    + [(name, "float16", 0.1 / 8) for name in ("preact_resnet18", "wong_small")],
)
def test_half_precision_keeps_parameters_and_logits_float32(name, dtype, tolerance):
    x = images()
    reference, half = from_linen(small(name)), from_linen(small(name, dtype=jnp.dtype(dtype)))
    key = jax.random.key(0)
    variables = filled(half, x)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    logits, stats = run(half, variables, x, train=True, key=key)
    assert logits.dtype == jnp.float32
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(stats))
    exact = run(reference, variables, x, train=True, key=key)[0]
    scale = float(jnp.abs(exact).max())
    error = float(jnp.abs(logits - exact).max())
    assert error <= tolerance * scale
    if scale > 0:
        assert error > 0, "the compute type must reach the layers"


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_float64_is_the_oracle_of_float32(name):
    def evidence(dtype, variables):
        model, x = from_linen(small(name, dtype=dtype)), images(dtype=dtype)

        @jax.jit
        def both_modes(variables, x):
            logits, pull = jax.vjp(lambda x: model.apply(variables, x)[0], x)
            trained = model.apply(variables, x, train=True, key=jax.random.key(0))
            return logits, pull(jnp.ones_like(logits))[0], trained

        results = both_modes(variables, x)
        assert {leaf.dtype for leaf in jax.tree.leaves(results)} == {jnp.dtype(dtype)}
        return results

    variables = filled(from_linen(small(name)), images())
    logits, gradient, _ = evidence("float32", variables)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), "float64"), variables)
        exact, slope, _ = evidence("float64", wide)
    np.testing.assert_allclose(logits, exact, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(gradient, slope, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", SMALL)
def test_evaluation_ignores_the_rest_of_the_batch(name):
    x = images(batch=4)
    model = from_linen(small(name))
    variables = filled(model, x)
    apply = jax.jit(lambda x: model.apply(variables, x, train=False, key=None, axes=()))
    logits, stats = apply(x)
    chex.assert_trees_all_equal(stats, variables.stats)
    changed = apply(x.at[1:].set(0.3))[0]
    np.testing.assert_allclose(logits[0], changed[0], rtol=1e-5, atol=1e-6)
    one = jax.jit(model.logits_fn(variables))(x[0])
    np.testing.assert_allclose(logits[0], one, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NORMALIZED)
def test_training_normalizes_by_the_batch_and_renews_statistics(name):
    x = images()
    model = from_linen(small(name))
    variables = filled(model, x)
    apply = jax.jit(lambda x: model.apply(variables, x, train=True, key=None))
    logits, stats = apply(x)
    assert jax.tree.structure(stats) == jax.tree.structure(variables.stats)
    moved = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), stats, variables.stats)
    assert all(jax.tree.leaves(moved))
    other = apply(x.at[1:].set(0.3))[0]
    assert float(jnp.abs(logits[0] - other[0]).max()) > 1e-4


def test_running_statistics_are_the_torch_average():
    x = images(batch=8)
    module = small("preact_resnet18")
    model = from_linen(module)
    variables = filled(model, x)
    _, stats = run(model, variables, x, train=True)
    kernel = variables.params["stem_conv"]["kernel"]
    stem = jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    for kind, batch in (("mean", stem.mean((0, 1, 2))), ("var", stem.var((0, 1, 2)))):
        before = variables.stats["stage1_block1_norm1"][kind]
        after = stats["stage1_block1_norm1"][kind]
        np.testing.assert_allclose(after, 0.9 * before + 0.1 * batch, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["dale_mnist", "trades_small"])
def test_dropout_follows_its_key_in_training_only(name):
    x = images(side=28)
    model = from_linen(small(name))
    variables = filled(model, x)

    apply = jax.jit(lambda key: model.apply(variables, x, train=True, key=key)[0])

    def draw(seed):
        return apply(jax.random.key(seed))

    np.testing.assert_array_equal(draw(1), draw(1))
    assert float(jnp.abs(draw(1) - draw(2)).max()) > 0
    evaluated = run(model, variables, x, train=False)[0]
    assert float(jnp.abs(draw(1) - evaluated).max()) > 0


def test_initial_weights_are_the_sources():
    def initial(name, layers):
        # what is not asked for is not compiled
        module, x = build(name), images()
        params = jax.jit(lambda key: [module.init(key, x)["params"][layer] for layer in layers])
        return params(jax.random.key(0))

    for layer, features in zip(initial("wong_small", ["conv1", "conv2"]), (16, 32), strict=True):
        spread = float(layer["kernel"].std())
        # 512 draws or more: the sample deviation strays by about 3 %
        assert abs(spread / (2 / (16 * features)) ** 0.5 - 1) < 0.15
        assert not layer["bias"].any()
    hidden, last = initial("trades_small", ["dense2", "dense3"])
    assert hidden["kernel"].any()
    assert not last["kernel"].any()


@pytest.mark.parametrize("name", ["mlp", "wong_small", "resnet18"])
def test_normalization_inside_equals_normalized_inputs(name):
    x = images()
    mean, std = (0.4, 0.5), (0.2, 0.3)
    inside = from_linen(small(name, mean=mean, std=std))
    plain = from_linen(small(name))
    variables = filled(inside, x)
    z = jnp.asarray((np.asarray(x) - np.array(mean)) / np.array(std), jnp.float32)
    np.testing.assert_allclose(
        run(inside, variables, x)[0], run(plain, variables, z)[0], rtol=1e-4, atol=1e-5
    )


def test_wrong_normalization_length_is_refused():
    with pytest.raises(ValueError, match="mean has 3 entries for 2 channels"):
        from_linen(build("wong_small", options={"mean": (0.1, 0.2, 0.3)})).init(
            jax.random.key(0), images()
        )


def test_registry_refuses_unknown_names_and_one_class():
    with pytest.raises(ValueError, match="did you mean 'wong_small'"):
        build("wong_smal", 10)
    with pytest.raises(ValueError, match="num_classes"):
        build("mlp", 1)
    with pytest.raises(TypeError):
        build("mlp", 10, {"depth": 3})
    with pytest.raises(TypeError, match="'wide_resnet_28_10' has no option 'depth'; it has: act"):
        build("wide_resnet_28_10", 10, {"depth": 34})


@pytest.mark.parametrize("depth", [8, 27, 4])
def test_impossible_depths_are_refused(depth):
    with pytest.raises(ValueError, match="6 n"):
        wide_resnet(depth=depth)


@pytest.mark.slow
def test_digits_cnn_learns_the_digits():
    digits = load_digits()
    x = jnp.asarray(digits.images[..., None] / 16.0, jnp.float32)
    y = jnp.asarray(digits.target)
    train, test = slice(0, 1297), slice(1297, None)
    model = from_linen(build("digits_cnn"))
    variables = model.init(jax.random.key(0), x[:1])
    optimizer = optax.sgd(0.1, momentum=0.9)

    def loss(params, x, y):
        logits = model.apply(variables._replace(params=params), x, train=True)[0]
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    def step(carry, index):
        params, state = carry
        gradient = jax.grad(loss)(params, x[train][index], y[train][index])
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(params, updates), state), None

    @jax.jit
    def fit(params):
        index = jax.random.randint(jax.random.key(1), (600, 64), 0, 1297)
        return jax.lax.scan(step, (params, optimizer.init(params)), index)[0][0]

    fitted = variables._replace(params=fit(variables.params))
    predicted = model.apply(fitted, x[test])[0].argmax(-1)
    # this split's test digits come from other writers
    assert float((predicted == y[test]).mean()) > 0.94


def _relu_norm(x: np.ndarray) -> np.ndarray:
    """relu(batch norm) at its first values: running mean 0, variance 1, scale 1, offset 0."""
    return np.maximum(x / np.sqrt(1 + 1e-5), 0)


@pytest.mark.parametrize("shortcut", ["activated", "raw"])
def test_the_projection_shortcut_sees_what_it_is_said_to(shortcut: str) -> None:
    """With the blocks' convolutions at 0 only shortcuts are left; those are by hand."""
    options = {"stem": 4, "features": (4, 6), "blocks": 1, "shortcut": shortcut}
    module = build("preact_resnet18", 3, options)
    x = np.random.default_rng(0).uniform(size=(2, 8, 8, 3)).astype(np.float32)
    variables = jax.tree.map(np.asarray, module.init(jax.random.key(0), x))
    params = dict(variables["params"])
    for name in ("stage1_block1_conv2", "stage2_block1_conv2"):
        params[name] = {"kernel": np.zeros_like(params[name]["kernel"])}
    # Only the middle of the stem's kernel, so that it too is a product by hand.
    stem = np.zeros_like(params["stem_conv"]["kernel"])
    stem[1, 1] = params["stem_conv"]["kernel"][1, 1] - 0.1
    params["stem_conv"] = {"kernel": stem}
    h = x.astype(np.float64) @ stem[1, 1]
    assert (h < 0).mean() > 0.2
    seen = _relu_norm(h) if shortcut == "activated" else h
    seen = seen[:, ::2, ::2] @ params["stage2_block1_shortcut"]["kernel"][0, 0]
    pooled = _relu_norm(seen).mean((1, 2))
    expected = pooled @ params["dense"]["kernel"] + params["dense"]["bias"]
    found = module.apply({**variables, "params": params}, x)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_torch_initialization_is_uniform_by_fan_in() -> None:
    """Variance 1 / (3 fan in), within 1 / sqrt(fan in); He's weighs 4.8 times as much."""
    x = jnp.zeros((1, 32, 32, 3))
    kernels = {}
    for name in ("torch", "he"):
        module = build("preact_resnet18", 1000, {"initialization": name, "shortcut": "raw"})
        params = jax.jit(module.init)(jax.random.key(1), x)["params"]
        kernels[name] = {
            key: np.asarray(layer["kernel"]) for key, layer in params.items() if "kernel" in layer
        }
        if name == "torch":
            bias = np.asarray(params["dense"]["bias"])
    for kernel in kernels["torch"].values():
        fan_in = np.prod(kernel.shape[:-1])
        assert np.abs(kernel).max() <= fan_in**-0.5
        assert kernel.var() == pytest.approx(1 / (3 * fan_in), rel=0.1)
    assert np.abs(bias).max() <= 512**-0.5
    assert bias.var() == pytest.approx(1 / (3 * 512), rel=0.1)
    total = {
        name: sum((k.astype(np.float64) ** 2).sum() for key, k in found.items() if key != "dense")
        for name, found in kernels.items()
    }
    assert total["he"] / total["torch"] == pytest.approx(4.8, rel=0.05)


@pytest.mark.parametrize(
    "options",
    [{"shortcut": "rwa"}, {"initialization": "torhc"}, {"activation": "slu"}, {"padding": "sme"}],
)
def test_unknown_options_of_the_residual_network(options: dict) -> None:
    ((name, _),) = options.items()
    with pytest.raises(ValueError, match=f"unknown {name} .*did you mean"):
        build("preact_resnet18", 10, options)
