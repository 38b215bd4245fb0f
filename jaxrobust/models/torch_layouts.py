"""How PyTorch code names the layers of our networks: one table for each."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Layout:
    """The layers of one network, by our names and by theirs.

    In a name {s} stands for the stage and {b} for the block, counted from 1, {s0} and {b0} for
    those counted from 0.
    """

    names: Mapping[str, str]
    """Ours to theirs."""
    first: str
    """Their first layer, whose weight tells the input's channels."""
    last: str
    """Their last layer, whose weight tells the number of classes."""
    switches: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Options of our network that hold if the file has a layer of theirs."""
    unsaid: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Options that no file tells, with what to choose between."""
    normalizes: bool = False
    """Whether its code always normalizes the input, by buffers that not every file holds."""
    unused: tuple[str, ...] = ()
    """Their layers that no forward pass sees, as patterns."""
    flattened: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """Our dense layers on flattened images, which have so many channels: theirs come first."""
    side: int = 32
    """Pixels along an image's side."""

    def theirs(self, ours: str) -> str:
        """Their name of one of our layers."""
        for pattern, name in self.names.items():
            expression = pattern.replace("{s}", r"(?P<s>\d+)").replace("{b}", r"(?P<b>\d+)")
            found = re.fullmatch(expression, ours)
            if found is not None:
                numbers = {key: int(value) for key, value in found.groupdict().items()}
                return name.format(**numbers, **{f"{k}0": n - 1 for k, n in numbers.items()})
        raise KeyError(ours)


_RESNET = Layout(
    {
        "stem_conv": "conv1",
        "stem_norm": "bn1",
        "stage{s}_block{b}_first_conv": "layer{s}.{b0}.conv1",
        "stage{s}_block{b}_first_norm": "layer{s}.{b0}.bn1",
        "stage{s}_block{b}_second_conv": "layer{s}.{b0}.conv2",
        "stage{s}_block{b}_second_norm": "layer{s}.{b0}.bn2",
        "stage{s}_block{b}_shortcut_conv": "layer{s}.{b0}.shortcut.0",
        "stage{s}_block{b}_shortcut_norm": "layer{s}.{b0}.shortcut.1",
        "dense": "linear",
    },
    first="conv1",
    last="linear",
)

_RESNET50 = Layout(
    {
        "stem_conv": "conv1",
        "stem_norm": "bn1",
        "stage{s}_block{b}_first_conv": "layer{s}.{b0}.conv1",
        "stage{s}_block{b}_first_norm": "layer{s}.{b0}.bn1",
        "stage{s}_block{b}_second_conv": "layer{s}.{b0}.conv2",
        "stage{s}_block{b}_second_norm": "layer{s}.{b0}.bn2",
        "stage{s}_block{b}_third_conv": "layer{s}.{b0}.conv3",
        "stage{s}_block{b}_third_norm": "layer{s}.{b0}.bn3",
        "stage{s}_block{b}_shortcut_conv": "layer{s}.{b0}.downsample.0",
        "stage{s}_block{b}_shortcut_norm": "layer{s}.{b0}.downsample.1",
        "dense": "fc",
    },
    first="conv1",
    last="fc",
    side=224,
)

_PREACT_RESNET = Layout(
    {
        "stem_conv": "conv1",
        "stage{s}_block{b}_norm1": "layer{s}.{b0}.bn1",
        "stage{s}_block{b}_conv1": "layer{s}.{b0}.conv1",
        "stage{s}_block{b}_norm2": "layer{s}.{b0}.bn2",
        "stage{s}_block{b}_conv2": "layer{s}.{b0}.conv2",
        "stage{s}_block{b}_shortcut": "layer{s}.{b0}.shortcut.0",
        "final_norm": "bn",
        "dense": "linear",
    },
    first="conv1",
    last="linear",
    switches={"final_norm": "bn"},
    unsaid={
        "shortcut": '"raw" where the code says shortcut(x) (RobustBench: PreActBlock), '
        '"activated" where it says shortcut(out) (PreActBlockV2)'
    },
)

_WIDE_RESNET = Layout(
    {
        "stem_conv": "conv1",
        "stage{s}_block{b}_norm1": "block{s}.layer.{b0}.bn1",
        "stage{s}_block{b}_conv1": "block{s}.layer.{b0}.conv1",
        "stage{s}_block{b}_norm2": "block{s}.layer.{b0}.bn2",
        "stage{s}_block{b}_conv2": "block{s}.layer.{b0}.conv2",
        "stage{s}_block{b}_shortcut": "block{s}.layer.{b0}.convShortcut",
        "final_norm": "bn1",
        "dense": "fc",
    },
    first="conv1",
    last="fc",
    # TRADES makes its first stage twice and runs it once.
    unused=("sub_block1.*",),
)

_GOWAL_PREACT_RESNET = Layout(
    {
        "stem_conv": "conv_2d",
        "stage{s}_block{b}_norm1": "layer_{s0}.{b0}.batchnorm_0",
        "stage{s}_block{b}_conv1": "layer_{s0}.{b0}.conv_2d_1",
        "stage{s}_block{b}_norm2": "layer_{s0}.{b0}.batchnorm_1",
        "stage{s}_block{b}_conv2": "layer_{s0}.{b0}.conv_2d_2",
        "stage{s}_block{b}_shortcut": "layer_{s0}.{b0}.shortcut",
        "final_norm": "batchnorm",
        "dense": "logits",
    },
    first="conv_2d",
    last="logits",
    normalizes=True,
)

_GOWAL_WIDE_RESNET = Layout(
    {
        "stem_conv": "init_conv",
        "stage{s}_block{b}_norm1": "layer.{s0}.block.{b0}.batchnorm_0",
        "stage{s}_block{b}_conv1": "layer.{s0}.block.{b0}.conv_0",
        "stage{s}_block{b}_norm2": "layer.{s0}.block.{b0}.batchnorm_1",
        "stage{s}_block{b}_conv2": "layer.{s0}.block.{b0}.conv_1",
        "stage{s}_block{b}_shortcut": "layer.{s0}.block.{b0}.shortcut",
        "final_norm": "batchnorm",
        "dense": "logits",
    },
    first="init_conv",
    last="logits",
    normalizes=True,
)

_TRADES_SMALL = Layout(
    {
        **{f"conv{i}": f"feature_extractor.conv{i}" for i in range(1, 5)},
        **{f"dense{i}": f"classifier.fc{i}" for i in range(1, 4)},
    },
    first="feature_extractor.conv1",
    last="classifier.fc3",
    flattened={"dense1": 64},
    side=28,
)

LAYOUTS: Mapping[str, Layout] = {
    "resnet18": _RESNET,
    "resnet50": _RESNET50,
    "preact_resnet18": _PREACT_RESNET,
    "wide_resnet": _WIDE_RESNET,
    "wide_resnet_28_10": _WIDE_RESNET,
    "wide_resnet_34_10": _WIDE_RESNET,
    "gowal_preact_resnet18": _GOWAL_PREACT_RESNET,
    "gowal_wide_resnet": _GOWAL_WIDE_RESNET,
    "trades_small": _TRADES_SMALL,
}
"""By the names of `models.build`."""

NORMALIZATIONS = (
    ("mu", "sigma"),
    ("mean", "std"),
    ("normalize.mean", "normalize.std"),
    ("0.mean", "0.std"),
)
"""Names of the buffers that a network subtracts from its input and divides it by."""

PREFIXES = ("module.", "model.", "net.", "1.")
"""What wrappers put before the names of a network's layers."""
