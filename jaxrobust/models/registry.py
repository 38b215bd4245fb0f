"""Networks by name, for command lines and saved configurations."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn

from jaxrobust import checks
from jaxrobust.models.convnet import digits_cnn, single_conv, wong_large, wong_small
from jaxrobust.models.dale import DaleMnist
from jaxrobust.models.fosc import fosc_cifar, fosc_mnist
from jaxrobust.models.mlp import MLP
from jaxrobust.models.preact_resnet import PreActResNet, wide_resnet
from jaxrobust.models.resnet import ResNet
from jaxrobust.models.resnet50 import ResNet50
from jaxrobust.models.trades import TradesSmall
from jaxrobust.models.union import UnionMnist
from jaxrobust.models.wong import WongResNet, wong_deep, wong_wide

NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "mlp": MLP,
    "digits_cnn": digits_cnn,
    "single_conv": single_conv,
    "dale_mnist": DaleMnist,
    "wong_small": wong_small,
    "wong_large": wong_large,
    "wong_wide": wong_wide,
    "wong_deep": wong_deep,
    "wong_resnet": WongResNet,
    "trades_small": TradesSmall,
    "union_mnist": UnionMnist,
    "fosc_mnist": fosc_mnist,
    "fosc_cifar": fosc_cifar,
    "resnet18": ResNet,
    "resnet50": ResNet50,
    "preact_resnet18": PreActResNet,
    "wide_resnet": wide_resnet,
    "wide_resnet_28_10": functools.partial(wide_resnet, depth=28, width=10),
    "wide_resnet_34_10": functools.partial(wide_resnet, depth=34, width=10),
    "gowal_preact_resnet18": functools.partial(
        PreActResNet, shortcut="raw", shortcut_side=3, activation="silu", padding="same"
    ),
    "gowal_wide_resnet": functools.partial(wide_resnet, activation="silu", padding="same"),
}
"""Every network `build` knows: name -> factory taking `num_classes` and its own options."""


def build(name: str, num_classes: int = 10, options: Mapping[str, Any] | None = None) -> nn.Module:
    """The network called `name` with `num_classes` logits.

    Args:
      options: arguments of its factory (`NETWORKS[name]`) by name, such as
        `{"depth": 28, "dtype": jnp.bfloat16}`.

    Raises:
      ValueError: an unknown name; the message names the nearest. Fewer than 2 classes.
      TypeError: an option that the network does not have.
    """
    checks.choice("network", name, NETWORKS)
    checks.at_least("num_classes", num_classes, 2)
    options = dict(options or {})
    # What a name such as wide_resnet_28_10 says is no option.
    said = getattr(NETWORKS[name], "keywords", {})
    given = ("num_classes", "name", "parent", *said)
    checks.options("network", name, options, NETWORKS[name], given=given)
    return NETWORKS[name](num_classes=num_classes, **options)
