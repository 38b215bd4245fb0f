"""Weights of PyTorch networks give the logits that PyTorch gives."""

import jax
import numpy as np
import pytest

from jaxrobust.models import from_torch_state_dict

torch = pytest.importorskip("torch")
import torch_networks as nets  # noqa: E402

MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
NARROW = {"features": (8, 12, 16), "blocks": 2}


def images(count=4, side=16, channels=3):
    return np.random.default_rng(3).uniform(size=(count, side, side, channels)).astype("float32")


def logits_there(network, x):
    with torch.no_grad():
        return network(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).numpy()


def logits_here(model, variables, x):
    return jax.jit(lambda v, x: model.apply(v, x, train=False)[0])(variables, x)


def assert_same(network, x, source, architecture, **settings):
    expected = logits_there(network, x)
    assert np.ptp(expected) > 0.5, "the logits must differ enough to compare"
    found = logits_here(*from_torch_state_dict(source, architecture, **settings), x)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def preact(raw, last):
    options = {"block": nets.PreActivated, "raw": raw, "last": last}
    return nets.Residual(NARROW["features"], classes=7, **options)


CASES = {
    "resnet18": (lambda: nets.Residual(NARROW["features"], classes=7), NARROW),
    "preact_resnet18": (
        lambda: preact(raw=True, last=False),
        {**NARROW, "stem": 8, "shortcut": "raw"},
    ),
    "preact_resnet18 V2": (
        lambda: preact(raw=False, last=True),
        {**NARROW, "stem": 8, "shortcut": "activated"},
    ),
    "wide_resnet": (lambda: nets.WideResidual(16, 2, 7), {"depth": 16, "width": 2}),
    "wide_resnet TRADES": (
        lambda: nets.WideResidual(10, 1, 7, twice=True),
        {"depth": 10, "width": 1},
    ),
    "wide_resnet without bias": (
        lambda: nets.WideResidual(10, 1, 7, bias=False),
        {"depth": 10, "width": 1},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_pytorch(case):
    make, options = CASES[case]
    network = nets.drawn(make())
    state = network.state_dict()
    assert_same(network, images(), state, case.split()[0], options=options, num_classes=7)
