"""Weights of PyTorch networks give the logits that PyTorch gives."""

from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.models import build, from_torch_state_dict
from jaxrobust.models.torch_layouts import LAYOUTS
from jaxrobust.models.weight_files import open_weights

DATA = Path(__file__).parent / "data"
MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
NARROW = {"features": (8, 12, 16), "blocks": 2}
TINY = {"features": (4, 6), "blocks": 1}
PREACT = {**TINY, "stem": 4, "shortcut": "activated"}


@pytest.fixture(scope="module")
def nets() -> ModuleType:
    """PyTorch networks, where PyTorch is installed."""
    pytest.importorskip("torch")
    import torch_networks

    return torch_networks


def images(count=3, side=16, channels=3):
    return np.random.default_rng(3).uniform(size=(count, side, side, channels)).astype("float32")


def logits_there(network, x):
    import torch

    with torch.no_grad():
        return network(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).numpy()


def logits_here(model, variables, x):
    return jax.jit(lambda v, x: model.apply(v, x, train=False)[0])(variables, x)


def assert_same(network, x, source, architecture, **settings):
    expected = logits_there(network, x)
    assert np.ptp(expected) > 0.5, "the logits must differ enough to compare"
    found = logits_here(*from_torch_state_dict(source, architecture, **settings), x)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def stored() -> dict[str, np.ndarray]:
    """Inputs, and the logits of the stored checkpoints in PyTorch."""
    with np.load(DATA / "narrow_logits.npz") as arrays:
        return dict(arrays)


@pytest.mark.parametrize(
    ("file", "architecture", "options"),
    [
        ("resnet_narrow.pt", "resnet18", TINY),
        ("preact_narrow_stream.pt", "preact_resnet18", PREACT),
    ],
)
def test_stored_logits_of_pytorch(stored, file, architecture, options):
    model, variables = from_torch_state_dict(DATA / file, architecture, options=options)
    found = logits_here(model, variables, stored["x"])
    expected = stored[file.split("_")[0]]
    assert np.ptp(expected) > 0.5
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    # The variables are those that the network itself makes.
    like = jax.eval_shape(model.init, jax.random.key(0), stored["x"])
    assert jax.tree.map(lambda a: (a.shape, a.dtype), variables) == jax.tree.map(
        lambda a: (a.shape, a.dtype), like
    )


def preact(nets: Any, *, raw: bool, last: bool) -> Any:
    options = {"block": nets.PreActivated, "raw": raw, "last": last}
    return nets.Residual(NARROW["features"], classes=7, **options)


STEM = {**NARROW, "stem": 8}
CASES = {
    "resnet18": (lambda nets: nets.Residual(NARROW["features"], classes=7), NARROW),
    "preact_resnet18": (
        lambda nets: preact(nets, raw=True, last=False),
        STEM | {"shortcut": "raw"},
    ),
    "preact_resnet18 V2": (
        lambda nets: preact(nets, raw=False, last=True),
        STEM | {"shortcut": "activated"},
    ),
    "wide_resnet": (lambda nets: nets.WideResidual(16, 2, 7), {"depth": 16, "width": 2}),
    "wide_resnet TRADES": (
        lambda nets: nets.WideResidual(10, 1, 7, twice=True),
        {"depth": 10, "width": 1},
    ),
    "wide_resnet without bias": (
        lambda nets: nets.WideResidual(10, 1, 7, bias=False),
        {"depth": 10, "width": 1},
    ),
    "resnet50": (
        lambda nets: nets.ImageNetResidual(8, (1, 2, 1), 7),
        {"width": 8, "blocks": (1, 2, 1)},
    ),
    "gowal_wide_resnet": (
        lambda nets: nets.Gowal((32, 64, 128), 2, 7, wide=True),
        {"depth": 16, "width": 2},
    ),
    "gowal_preact_resnet18": (
        lambda nets: nets.Gowal((8, 12, 16), 2, 7, wide=False, stem=8),
        STEM,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_pytorch(nets, case):
    make, options = CASES[case]
    network = nets.drawn(make(nets))
    state = network.state_dict()
    assert_same(network, images(), state, case.split()[0], options=options, num_classes=7)


def test_the_small_network_of_trades(nets):
    network = nets.drawn(nets.Small())
    assert_same(network, images(side=28, channels=1), network.state_dict(), "trades_small")


@pytest.mark.parametrize("names", [("mu", "sigma"), ("mean", "std")])
def test_normalization_by_buffers_and_by_arguments(nets, names):
    inner = nets.drawn(nets.Residual((4, 6), 1, 5))
    network = nets.Normalized(inner, MEAN, STD, names)
    assert_same(network, images(), network.state_dict(), "resnet18", options=TINY)
    settings = {"mean": MEAN, "std": STD, "options": TINY}
    assert_same(network, images(), inner.state_dict(), "resnet18", **settings)
    with pytest.raises(ValueError, match=f"own {names[0]} and {names[1]}; give no mean or std"):
        from_torch_state_dict(network.state_dict(), "resnet18", mean=MEAN, options=TINY)


@pytest.mark.parametrize("prefixes", [("normalize", "model"), ("0", "1")])
def test_a_normalization_before_the_network(nets, prefixes):
    import torch

    inner = nets.drawn(nets.Residual((4, 6), 1, 5))
    before = nets.Normalized(torch.nn.Identity(), MEAN, STD, ("mean", "std"))
    network = torch.nn.Sequential()
    for name, module in zip(prefixes, (before, inner), strict=True):
        network.add_module(name, module)
    state = torch.nn.DataParallel(network).state_dict()
    assert f"module.{prefixes[1]}.conv1.weight" in state
    assert_same(network, images(), state, "resnet18", options=TINY)


@pytest.mark.slow
def test_a_network_of_full_size_by_every_format(nets, tmp_path):
    import torch

    network = nets.drawn(nets.Residual((64, 128, 256, 512)))
    state, x = network.state_dict(), images(4, 32)
    torch.save({"net": state, "acc": 95.1, "epoch": 7}, tmp_path / "net.pth")
    np.savez(tmp_path / "net.npz", **{name: tensor.numpy() for name, tensor in state.items()})
    files = ["net.pth", "net.npz"]
    try:
        from safetensors.torch import save_file

        save_file(state, tmp_path / "net.safetensors")
        files.append("net.safetensors")
    except ImportError:
        pass
    for file in files:
        assert_same(network, x, tmp_path / file, "resnet18")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "depth"), [("wide_resnet_28_10", 28), ("wide_resnet_34_10", 34)]
)
def test_wide_networks_of_full_size(nets, architecture, depth):
    network = nets.drawn(nets.WideResidual(depth, 10, twice=True))
    assert_same(network, images(1, 32), network.state_dict(), architecture)


def tiny(file="resnet_narrow.pt") -> dict[str, np.ndarray]:
    held = open_weights(DATA / file, None).held
    plain = {name: name.removeprefix("module.").removeprefix("model.") for name in held}
    return {plain[name]: array.read() for name, array in held.items()}


def test_half_precision_weights_become_float32(stored):
    state = {name: array.astype(jnp.bfloat16) for name, array in tiny().items()}
    model, variables = from_torch_state_dict(state, "resnet18", options=TINY)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    found = logits_here(model, variables, stored["x"])
    assert 0 < np.abs(found - stored["resnet"]).max() < 0.05 * np.ptp(stored["resnet"])


def without(name):
    return lambda state: state.pop(name)


def with_(**arrays):
    return lambda state: state.update({n.replace("__", "."): a for n, a in arrays.items()})


WRONG = {
    "missing": (without("bn1.bias"), "does not hold a resnet18: missing: bn1.bias$"),
    "missing statistics": (without("bn1.running_var"), "missing: bn1.running_var$"),
    "no first layer": (without("conv1.weight"), "holds no 'conv1.weight'; it holds: bn1.weight, "),
    "no last layer": (without("linear.weight"), "holds no 'linear.weight'"),
    "unexpected": (
        with_(fc__weight=np.ones(3), fc__bias=np.ones(3)),
        r"not of this network \(leave arrays out by ignore=\): fc.weight, fc.bias$",
    ),
    "shape": (
        with_(bn1__weight=np.ones(9, np.float32)),
        r"of another shape: bn1.weight is \(9,\) and must be \(4,\)$",
    ),
    "whole numbers": (
        with_(bn1__weight=np.ones(4, int)),
        r"not floating point: bn1.weight \(int64\)$",
    ),
    "NaN": (
        with_(bn1__weight=np.full(4, np.nan, np.float32)),
        "'bn1.weight' holds NaN, infinite or too large numbers",
    ),
    "too large": (
        with_(bn1__weight=np.full(4, 1e300)),
        "'bn1.weight' holds NaN, infinite or too large numbers",
    ),
    "negative variance": (
        with_(bn1__running_var=-np.ones(4)),
        "'bn1.running_var' holds negative variances",
    ),
    "one half of a normalization": (without("sigma"), r"not of this network .*: mu$"),
    "zero deviation": (with_(sigma=np.zeros(3)), "'sigma' must be above 0, got"),
    "NaN mean": (with_(mu=np.full(3, np.nan)), "'mu' holds NaN, infinite or too large numbers"),
    "a huge mean": (
        with_(mu=np.broadcast_to(np.float32(0), (2**40,))),
        r"'mu' is of shape \(1099511627776,\)$",
    ),
    "a mean of other images": (with_(mu=np.zeros(2)), "mean has 2 entries for 3 channels"),
    "two prefixes": (
        lambda state: state.update({"module.bn1.bias": np.zeros(4)}),
        "holds 'bn1.bias' with two prefixes",
    ),
    "no axes": (with_(linear__weight=np.float32(1)), r"'linear.weight' is of shape \(\)"),
    "huge": (
        with_(linear__weight=np.broadcast_to(np.float32(0), (10**9, 6))),
        r"of another shape: linear.bias is \(5,\) and must be .*; more than \d+ numbers: 7\d+$",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_arrays_that_do_not_fit_the_network(case):
    change, told = WRONG[case]
    state = tiny()
    change(state)
    with pytest.raises(ValueError, match=told) as caught:
        from_torch_state_dict(state, "resnet18", options=TINY)
    assert "\n" not in str(caught.value)


def test_the_error_names_the_file_and_the_arrays():
    with pytest.raises(ValueError, match=r"resnet_narrow\.pt does not hold a resnet18: missing: "):
        from_torch_state_dict(DATA / "resnet_narrow.pt", "resnet18")
    # All of what is wrong at once, and not more names than one can read.
    with pytest.raises(
        ValueError, match=r"of this network .*: bn1\.weight, .* and 4 more; of another"
    ):
        from_torch_state_dict(DATA / "resnet_narrow.pt", "preact_resnet18", options=PREACT)


def test_what_is_left_out_on_purpose(stored):
    state = tiny() | {"head.0.weight": np.ones(3), "head.2.weight": np.ones(3)}
    model, variables = from_torch_state_dict(state, "resnet18", options=TINY, ignore=("head.*",))
    found = logits_here(model, variables, stored["x"])
    np.testing.assert_allclose(found, stored["resnet"], rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match=r"not of this network .*: head\.2\.weight$"):
        from_torch_state_dict(state, "resnet18", options=TINY, ignore=("head.0*",))


def test_what_no_file_tells():
    with pytest.raises(ValueError, match=r"shortcut of a preact_resnet18; .*\"raw\" where .*"):
        from_torch_state_dict(DATA / "preact_narrow_stream.pt", "preact_resnet18", options=TINY)


def test_a_network_that_always_normalizes_is_told_by_what(nets):
    network = nets.drawn(nets.Gowal((16, 32, 64), 1, 7, wide=True))
    state = dict(network.state_dict())
    settings = {"options": {"depth": 10, "width": 1}}
    mean, std = (state.pop(name).flatten().tolist() for name in ("mean", "std"))
    for given in ({}, {"mean": mean}):
        with pytest.raises(ValueError, match=r"no mean and std, by which a gowal_wide_resnet"):
            from_torch_state_dict(state, "gowal_wide_resnet", **settings, **given)
    assert_same(network, images(), state, "gowal_wide_resnet", mean=mean, std=std, **settings)


def test_the_choice_of_the_shortcut_is_heard(stored):
    found = {}
    for shortcut in ("raw", "activated"):
        options = PREACT | {"shortcut": shortcut}
        path = DATA / "preact_narrow_stream.pt"
        loaded = from_torch_state_dict(path, "preact_resnet18", options=options)
        found[shortcut] = np.abs(logits_here(*loaded, stored["x"]) - stored["preact"]).max()
    assert found["activated"] < 1e-4 < 0.01 < found["raw"]


def test_settings_that_contradict_the_file():
    path = DATA / "resnet_narrow.pt"
    with pytest.raises(ValueError, match="is of 5 classes, not of num_classes=10"):
        from_torch_state_dict(path, "resnet18", num_classes=10, options=TINY)
    with pytest.raises(TypeError, match="has no option 'depth'"):
        from_torch_state_dict(path, "resnet18", options={"depth": 18})
    state = tiny()
    del state["mu"], state["sigma"]
    with pytest.raises(ValueError, match="mean has 2 entries for 3 channels"):
        from_torch_state_dict(state, "resnet18", mean=(0.5, 0.5), options=TINY)
    with pytest.raises(ValueError, match=r"std must be finite and above 0, got \[0\.1 0\. "):
        from_torch_state_dict(state, "resnet18", std=(0.1, 0.0, 0.1), options=TINY)


def test_every_layout_names_every_layer_of_its_network():
    """Each of our layers has one name of theirs, and no two have the same."""
    for name, layout in LAYOUTS.items():
        x = jax.ShapeDtypeStruct((1, layout.side, layout.side, 3), jnp.float32)
        params = jax.eval_shape(build(name).init, jax.random.key(0), x)["params"]
        names = [layout.theirs(layer) for layer in params]
        assert len(set(names)) == len(names) > 5
        assert {layout.first, layout.last} <= set(names)
