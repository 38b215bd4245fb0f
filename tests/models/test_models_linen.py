"""The bridge from linen: modes, batch statistics over mapped axes, modules that lack features."""

import warnings

import bridge_cases as cases
import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from model_cases import filled

from jaxrobust.models import FoscCNN, PreActResNet, from_linen
from jaxrobust.types import Model


def problem():
    random = np.random.default_rng(2)
    x = jnp.asarray(random.uniform(size=(6, 8, 8, 1)), jnp.float32)
    return x, jnp.asarray(random.integers(0, 4, size=6))


@pytest.mark.slow
@pytest.mark.parametrize(
    "module",
    [FoscCNN(((3,), (4, 4)), 8, 4), PreActResNet(4, 3, (3, 5), 1)],
    ids=["fosc", "preact"],
)
def test_per_example_loss_over_a_named_axis_has_the_batch_loss_gradient(module):
    with jax.enable_x64(True):
        x, y = problem()
        x = x.astype(jnp.float64)
        model = from_linen(module.clone(dtype=jnp.float64))
        assert isinstance(model, Model)
        variables = filled(model, x)
        cross_entropy = optax.softmax_cross_entropy_with_integer_labels

        def batch_loss(x):
            logits, stats = model.apply(variables, x, train=True, key=None, axes=())
            return cross_entropy(logits, y).sum(), stats

        def example_loss(x, y):
            logits, stats = model.apply(
                variables, x[None], train=True, key=None, axes=("examples",)
            )
            return cross_entropy(logits[0], y), stats

        gradient = jax.grad(example_loss, has_aux=True)
        lifted, lifted_stats = jax.jit(jax.vmap(gradient, axis_name="examples"))(x, y)
        exact, stats = jax.jit(jax.grad(batch_loss, has_aux=True))(x)
    np.testing.assert_allclose(lifted, exact, rtol=1e-7, atol=1e-10)
    for mine, other in zip(jax.tree.leaves(lifted_stats), jax.tree.leaves(stats), strict=True):
        np.testing.assert_allclose(mine, np.broadcast_to(other, mine.shape), rtol=1e-9, atol=1e-12)


def test_two_halves_over_an_axis_equal_the_whole_batch():
    x, _ = problem()
    model = from_linen(FoscCNN(((3,),), 8, 4))
    variables = filled(model, x)
    whole, stats = jax.jit(lambda x: model.apply(variables, x, train=True))(x)

    def half(x):
        return model.apply(variables, x, train=True, axes=("devices",))

    lifted = jax.jit(jax.vmap(half, axis_name="devices", out_axes=(0, None)))
    halves, half_stats = lifted(x.reshape(2, 3, *x.shape[1:]))
    np.testing.assert_allclose(halves.reshape(whole.shape), whole, rtol=1e-4, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), half_stats, stats)


class Bare(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(x)


class Parameterless(nn.Module):
    def __call__(self, x):
        return x


def test_a_module_without_modes_works():
    x = jnp.ones((2, 4))
    model = from_linen(Bare())
    variables = model.init(jax.random.key(0), x)
    assert not variables.stats
    by_hand = x @ variables.params["Dense_0"]["kernel"]
    for train in (False, True):
        logits, stats = model.apply(variables, x, train=train, key=None, axes=("unused",))
        np.testing.assert_allclose(logits, by_hand, rtol=1e-6)
        assert stats is variables.stats


def test_a_module_without_parameters_works():
    model = from_linen(Parameterless())
    variables = model.init(jax.random.key(0), jnp.ones((2, 4)))
    assert not variables.params
    np.testing.assert_array_equal(model.logits_fn(variables)(jnp.arange(4.0)), jnp.arange(4.0))


def body(x, deterministic, norm):
    x = nn.relu(norm(nn.Dense(8)(x.reshape(len(x), -1))))
    return nn.Dense(10)(nn.Dropout(0.2, deterministic=deterministic)(x))


class Train(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool):
        return body(x, not train, nn.BatchNorm(use_running_average=not train, momentum=0.9))


class Training(nn.Module):
    @nn.compact
    def __call__(self, x, *, training=False):
        return body(x, not training, nn.BatchNorm(use_running_average=not training, momentum=0.9))


class Deterministic(nn.Module):
    @nn.compact
    def __call__(self, x, deterministic=True):
        norm = nn.BatchNorm(use_running_average=deterministic, momentum=0.9)
        return body(x, deterministic, norm)


class Both(nn.Module):
    @nn.compact
    def __call__(self, x, deterministic=True, use_running_average=True):
        norm = nn.BatchNorm(use_running_average=use_running_average, momentum=0.9)
        return body(x, deterministic, norm)


class Field(nn.Module):
    deterministic: bool = True

    @nn.compact
    def __call__(self, x):
        norm = nn.BatchNorm(use_running_average=self.deterministic, momentum=0.9)
        return body(x, self.deterministic, norm)


class Unusual(nn.Module):
    @nn.compact
    def __call__(self, x, learn=False):
        return body(x, not learn, nn.BatchNorm(use_running_average=not learn, momentum=0.9))


MODULES = {
    "train": (Train(), None, {"train": True}),
    "training": (Training(), None, {"training": True}),
    "deterministic": (Deterministic(), None, {"deterministic": False}),
    "by name": (Deterministic(), "deterministic", {"deterministic": False}),
    "two": (Both(), None, {"deterministic": False, "use_running_average": False}),
    "field": (Field(), None, {}),
    "unusual": (Unusual(), "learn", {"learn": True}),
}


@pytest.mark.parametrize("name", MODULES)
def test_the_mode_is_found_or_given(name):
    module, mode, training = MODULES[name]
    model = from_linen(module, mode=mode)
    variables = filled(model, cases.X)
    cases.assert_dropout_in_training_alone(model, variables)
    # The library's own passes, in evaluation and in training mode.
    held = {"params": variables.params, "batch_stats": variables.stats}
    evaluating = {keyword: not value for keyword, value in training.items()}
    logits, stats = model.apply(variables, cases.X)
    cases.assert_close(logits, module.apply(held, cases.X, **evaluating))
    assert stats is variables.stats
    own = Field(deterministic=False) if name == "field" else module
    key = jax.random.key(1)
    expected, renewed = own.apply(
        held, cases.X, **training, rngs={"dropout": key}, mutable=["batch_stats"]
    )
    logits, stats = model.apply(variables, cases.X, train=True, key=key)
    cases.assert_close((logits, stats), (expected, renewed["batch_stats"]))


@pytest.mark.parametrize("name", ["train", "deterministic", "field"])
def test_batch_normalization_averages_over_axes_as_it_is(name):
    model = from_linen(MODULES[name][0].clone())
    bare = jax.tree.map(lambda a: a, filled(model, cases.X))
    cases.assert_batch_statistics_over_axes(without_dropout(model), bare)


def without_dropout(model):
    """Dropout of a mask for each part would make the parts differ."""

    def apply(variables, x, **options):
        with nn.intercept_methods(
            lambda call, args, kwargs, context: (
                args[0] if isinstance(context.module, nn.Dropout) else call(*args, **kwargs)
            )
        ):
            return model.apply(variables, x, **options)

    return Model(model.init, apply)


class Aware(nn.Module):
    """The same network with the axes handed on by hand, as the library asked for before."""

    axes: tuple[str, ...] = ()

    @nn.compact
    def __call__(self, x, train: bool):
        norm = nn.BatchNorm(
            use_running_average=not train, momentum=0.9, axis_name=self.axes or None
        )
        return body(x, not train, norm)


def test_it_equals_the_module_that_takes_the_axes():
    aware, plain = from_linen(Aware()), from_linen(Train())
    variables = filled(aware, cases.X)

    def run(model):
        def one(x):
            options = {"train": True, "key": jax.random.key(0), "axes": ("examples",)}
            return model.apply(variables, x[None], **options)

        return jax.jit(jax.vmap(one, axis_name="examples"))(cases.X)

    chex.assert_trees_all_equal(run(plain), run(aware))


class Named(nn.Module):
    """Set up for a mapped axis of its own, with layers that the backward pass computes again."""

    def setup(self):
        self.norm = nn.BatchNorm(axis_name="batch", momentum=0.9)
        self.blocks = [nn.remat(Train, static_argnums=(2,))() for _ in range(2)]

    def __call__(self, x, train=False):
        x = self.norm(x, use_running_average=not train)
        for block in self.blocks:
            x = block(x, train)
        return x


def test_an_axis_of_the_layers_own_gives_way_and_comes_back():
    module = Named()
    model = from_linen(module)
    variables = filled(model, cases.X)
    cases.assert_batch_statistics_over_axes(without_dropout(model), variables)
    held = {"params": variables.params, "batch_stats": variables.stats}
    with pytest.raises(NameError, match="batch"):
        module.apply(held, cases.X, train=True, mutable=["batch_stats"])


class OwnNorm(nn.Module):
    axes: tuple[str, ...] = ()

    @nn.compact
    def __call__(self, x):
        mean = x.mean(0)
        if self.axes:
            mean = jax.lax.pmean(mean, self.axes)
        self.variable("batch_stats", "center", jnp.zeros, x.shape[-1:]).value = mean
        return x - mean[None]


class Forgetful(nn.Module):
    """A norm of its own without the axes."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(OwnNorm()(x))


class Mindful(nn.Module):
    axes: tuple[str, ...] = ()

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(OwnNorm(self.axes)(x))


def test_statistics_that_cannot_be_averaged_are_refused_with_the_lines_to_add():
    model = from_linen(Forgetful())
    variables = model.init(jax.random.key(0), cases.X)
    model.apply(variables, cases.X, train=True)  # one device, no axes: nothing to average
    with pytest.raises(ValueError, match="'OwnNorm_0/center'") as caught:
        jax.vmap(
            lambda x: model.apply(variables, x[None], train=True, axes=("examples",)),
            axis_name="examples",
        )(cases.X)
    lines = [line.strip() for line in str(caught.value).splitlines()]
    assert lines[1] == "axes: tuple[str, ...] = ()"
    assert lines[3:] == ["if self.axes:", "mean = jax.lax.pmean(mean, self.axes)"]
    # With them it trains.
    mindful = from_linen(Mindful())
    cases.assert_batch_statistics_over_axes(mindful, mindful.init(jax.random.key(0), cases.X[:1]))


class Scaled(nn.Module):
    """Spectral normalization: statistics of the weights, which no batch has a part in."""

    @nn.compact
    def __call__(self, x, train: bool = False):
        return nn.SpectralNorm(nn.Dense(3))(x, update_stats=train)


def test_statistics_of_weights_need_no_average():
    model = from_linen(Scaled())
    cases.assert_batch_statistics_over_axes(model, model.init(jax.random.key(0), cases.X))


class Noisy(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool = False):
        return x + jax.random.normal(self.make_rng("noise"), x.shape) if train else x


def test_any_stream_is_fed():
    model = from_linen(Noisy())
    cases.assert_dropout_in_training_alone(model, model.init(jax.random.key(0), cases.X))


class Cached(nn.Module):
    @nn.compact
    def __call__(self, x):
        self.variable("cache", "seen", jnp.zeros, ())
        return nn.Dense(3)(x)


class Listed(nn.Module):
    """Without a hash, by its field."""

    widths: list[int]

    @nn.compact
    def __call__(self, x):
        return nn.Dense(sum(self.widths))(x)


class Frozen(nn.Module):
    """Batch normalization at rest on purpose, and a dropout that trains."""

    @nn.compact
    def __call__(self, x, deterministic=True):
        return body(x, deterministic, nn.BatchNorm(use_running_average=True))


def test_a_network_that_nothing_tells_that_it_trains_is_warned_of():
    model = from_linen(Unusual())
    variables = filled(model, cases.X)
    key = jax.random.key(0)
    with pytest.warns(UserWarning, match=r"Unusual trains .* takes \(x, learn\).*mode=\.\.\."):
        logits, _ = model.apply(variables, cases.X, train=True, key=key)
    cases.assert_close(logits, model.apply(variables, cases.X)[0])
    # What is told, what means it, and what has no modes, is not.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        from_linen(Unusual(), mode="learn").apply(variables, cases.X, train=True, key=key)
        from_linen(Frozen()).apply(variables, cases.X, train=True, key=key)
        bare = from_linen(Bare())
        bare.apply(bare.init(key, cases.X), cases.X, train=True)


def test_equal_modules_make_one_model():
    assert from_linen(Train()) == from_linen(Train())
    assert from_linen(Train()) != from_linen(Training())
    assert from_linen(Both()) != from_linen(Both(), mode="deterministic")
    listed = Listed(widths=[1, 2])
    with pytest.raises(TypeError, match="unhashable"):
        hash(listed)
    assert from_linen(listed) == from_linen(listed)
    assert from_linen(listed) != from_linen(Listed(widths=[1, 2]))


def test_mistakes_are_told():
    with pytest.raises(
        TypeError, match=r"an instance of a linen module, such as Net\(\), got Train"
    ):
        from_linen(Train)
    with pytest.raises(TypeError, match="got function"):
        from_linen(lambda x: x)
    with pytest.raises(ValueError, match=r"takes no keyword mode='test'; it takes: x, train"):
        from_linen(Train(), mode="test")
    with pytest.raises(ValueError, match=r"collections \['cache'\]"):
        from_linen(Cached()).init(jax.random.key(0), cases.X)


@pytest.mark.slow
def test_a_linen_network_trains_and_is_attacked_as_it_is(one_device, tmp_path):
    run = cases.trained(Train(), tmp_path / "run")
    variables = run.state.variables
    held = {"params": variables.params, "batch_stats": variables.stats}
    cases.assert_attacked_alike(
        from_linen(Train()),
        variables,
        lambda x: Train().apply(held, x[None], train=False)[0],
        cases.IMAGES,
    )
    assert float(np.abs(variables.stats["BatchNorm_0"]["mean"]).max()) > 0.01
    clean, attacked = cases.accuracies(Train(), variables)
    assert clean > attacked > 10
    made = cases.programs()
    assert cases.accuracies(Train(), held) == (clean, attacked)
    assert cases.accuracies(from_linen(Train()), variables) == (clean, attacked)
    assert cases.programs() == made


@pytest.mark.slow
def test_two_devices_train_as_one(monkeypatch, tmp_path):
    cases.assert_two_devices_train_as_one(
        without_dropout(from_linen(Train())), monkeypatch, tmp_path
    )
